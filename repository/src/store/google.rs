//! Objects in Google Cloud Storage, by its XML API.
//!
//! Versions are generations. Google takes no condition on the completion of an upload
//! (<https://cloud.google.com/storage/docs/request-preconditions>), so it is looked first; and an object is not overwritten by
//! whoever may not delete (`storage.objects.delete`). Checksums: Google compares the MD5 of every body and part that is put. What
//! is read is not compared here, since of a range and of an object made of parts it tells none that a client could compute
//! anew: manifests hold SHA-256 of everything.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::Request;
use hyper::header::AUTHORIZATION;
use jiff::Timestamp;
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::list::PaginatedListStore;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    UpdateVersion,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::cloud::errors::generic;
use super::cloud::transport::{NO_RETRIES, Transport};
use super::cloud::upload::Begun;
use super::cloud::{Asked, CloudStore, MARK, Pending, Service, granted};
use super::conditions::Conditions;
use super::part_plan::PartLimits;
use super::{PutCondition, SharedStore, StoreError};

const STORE: &str = "Google Cloud Storage";
const ENDPOINT: &str = "https://storage.googleapis.com";
/// No object has it: generations are microseconds since 1970.
const NO_GENERATION: &str = "1";

/// Where the bucket is. Credentials come from the environment, the file that `gcloud` keeps, or the machine's metadata service.
#[derive(Debug, Clone)]
pub struct GoogleSettings {
    pub bucket: String,
    /// Without slashes at either end; may be empty.
    pub prefix: String,
    /// Of a private endpoint, or of a test's server.
    pub endpoint: Option<String>,
}

/// Finds credentials and opens the bucket; asks nothing of it yet.
pub async fn connect(settings: GoogleSettings) -> Result<SharedStore, StoreError> {
    connect_as(settings, GoogleCloudStorageBuilder::from_env()).await
}

/// The same with an access token given by the caller.
pub async fn connect_with_token(
    settings: GoogleSettings,
    token: &SecretString,
) -> Result<SharedStore, StoreError> {
    let builder = GoogleCloudStorageBuilder::new().with_bearer_token(token.expose_secret());
    connect_as(settings, builder).await
}

async fn connect_as(
    settings: GoogleSettings,
    builder: GoogleCloudStorageBuilder,
) -> Result<SharedStore, StoreError> {
    let root = format!("gs://{}", settings.bucket);
    let none = |source| StoreError::NoCredentials { location: root.clone(), source };
    let endpoint = settings.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
    let transport = Transport::with_md5(endpoint).map_err(|e| none(Box::new(e)))?;
    let builder = builder
        .with_bucket_name(&settings.bucket)
        .with_base_url(endpoint)
        .with_retry(NO_RETRIES)
        .with_http_connector(transport.clone());
    let store = builder.build().map_err(|e| none(Box::new(e)))?;
    granted(store.credentials().get_credential()).await.map_err(none)?;
    let mut url: Url = endpoint.parse().map_err(|e: url::ParseError| none(Box::new(e)))?;
    url.set_path(&settings.bucket);
    let service = Google { url, store, client: transport.client() };
    Ok(Arc::new(CloudStore::new(service, transport, root, &settings.prefix)))
}

struct Google {
    /// The bucket's.
    url: Url,
    store: GoogleCloudStorage,
    client: HttpClient,
}

/// The library's own would print credentials.
impl fmt::Debug for Google {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Google").field("bucket", &self.url.as_str()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Service for Google {
    const LIMITS: PartLimits = PartLimits::GOOGLE;
    const CONDITIONS: Conditions = Conditions { complete_if_absent: false, ..Conditions::HONOURED };

    fn objects(&self) -> &dyn ObjectStore {
        &self.store
    }

    fn lists(&self) -> &dyn PaginatedListStore {
        &self.store
    }

    fn version(&self, meta: &object_store::ObjectMeta) -> Option<String> {
        meta.version.clone()
    }

    async fn put(&self, path: &Path, body: Bytes, condition: &PutCondition) -> Asked<Option<String>> {
        let mode = match condition {
            PutCondition::IfAbsent => PutMode::Create,
            PutCondition::IfVersion(version) => {
                // Anything but a number is refused as malformed, and is no object's version.
                let is_number = version.0.bytes().all(|byte| byte.is_ascii_digit()) && !version.0.is_empty();
                let generation = if is_number { version.0.clone() } else { NO_GENERATION.to_owned() };
                PutMode::Update(UpdateVersion { e_tag: None, version: Some(generation) })
            }
        };
        let put = self.store.put_opts(path, PutPayload::from(body), PutOptions::from(mode)).await?;
        Ok(put.version)
    }

    async fn delete(&self, path: &Path) -> Asked<()> {
        self.store.delete(path).await
    }

    async fn start_upload(&self, path: &Path, mark: &str) -> Asked<String> {
        let attributes = Attributes::from_iter([(Attribute::Metadata(MARK.into()), mark.to_owned())]);
        self.store.create_multipart_opts(path, PutMultipartOptions::from(attributes)).await
    }

    async fn put_part(&self, upload: &Begun, number: u32, body: Bytes) -> Asked<String> {
        let index = usize::try_from(number.saturating_sub(1)).map_err(|e| generic(STORE, e))?;
        let part = self.store.put_part(&upload.path, &upload.id, index, PutPayload::from(body)).await?;
        Ok(part.content_id)
    }

    async fn complete(&self, upload: &Begun, parts: Vec<String>) -> Asked<()> {
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        self.store.complete_multipart(&upload.path, &upload.id, parts).await.map(drop)
    }

    async fn abort(&self, path: &Path, upload_id: &str) -> Asked<()> {
        self.store.abort_multipart(path, &upload_id.to_owned()).await
    }

    /// The library has no call for it.
    async fn uploads(&self, prefix: &str) -> Asked<Option<Vec<Pending>>> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.uploads_page(prefix, after.as_ref()).await?;
            found.extend(page.uploads.into_iter().map(|it| (it.key, it.upload_id, it.initiated)));
            match page.next_key_marker.filter(|_| page.is_truncated) {
                Some(key) => after = Some((key, page.next_upload_id_marker.unwrap_or_default())),
                None => return Ok(Some(found)),
            }
        }
    }
}

impl Google {
    /// <https://cloud.google.com/storage/docs/xml-api/get-bucket-uploads>
    async fn uploads_page(&self, prefix: &str, after: Option<&(String, String)>) -> Asked<UploadsPage> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("uploads", "").append_pair("prefix", prefix);
        if let Some((key, id)) = after {
            url.query_pairs_mut().append_pair("key-marker", key).append_pair("upload-id-marker", id);
        }
        let credential = self.store.credentials().get_credential().await?;
        let request =
            Request::get(url.as_str()).header(AUTHORIZATION, format!("Bearer {}", credential.bearer));
        let request = request.body(HttpRequestBody::empty()).map_err(|e| generic(STORE, e))?;
        let answer = self.client.execute(request).await.map_err(|e| generic(STORE, e))?;
        let body = answer.into_body().bytes().await.map_err(|e| generic(STORE, e))?;
        quick_xml::de::from_reader(&*body).map_err(|e| generic(STORE, e))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsPage {
    #[serde(default, rename = "Upload")]
    uploads: Vec<PendingUpload>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PendingUpload {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer on Google's page, with the names of this house.
    #[test]
    fn a_page_of_uploads_is_read() {
        let page = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
            <ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>backups</Bucket>\
            <KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker><NextKeyMarker>team/a</NextKeyMarker>\
            <NextUploadIdMarker>YW55IGlkZWEgd2h5</NextUploadIdMarker><Delimiter></Delimiter><Prefix>team/</Prefix>\
            <MaxUploads>1000</MaxUploads><IsTruncated>true</IsTruncated><Upload><Key>team/a</Key>\
            <UploadId>VXBsb2FkIElE</UploadId><StorageClass>STANDARD</StorageClass>\
            <Initiated>2026-11-10T20:48:33.000Z</Initiated></Upload></ListMultipartUploadsResult>";
        let page: UploadsPage = quick_xml::de::from_str(page).unwrap();
        assert!(page.is_truncated && page.next_key_marker.as_deref() == Some("team/a"));
        assert_eq!((page.uploads.len(), page.uploads[0].upload_id.as_str()), (1, "VXBsb2FkIElE"));
        let none: UploadsPage = quick_xml::de::from_str("<ListMultipartUploadsResult/>").unwrap();
        assert!(!none.is_truncated && none.uploads.is_empty());
    }
}
