//! Block blobs in Azure Blob Storage.
//!
//! Versions are ETags. What is written is sent from here, since signatures cover the checksum and the condition that every
//! write is to have: Azure compares the MD5 of every body and block. What is read is not compared, since of a blob made of
//! blocks there is no checksum: manifests hold SHA-256 of everything.
//!
//! Azure has no uploads: blocks are put under a blob's name, and a list of them makes it. Blocks that no list names are dropped
//! after a week, and nobody can drop them sooner without writing the blob.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request};
use object_store::ObjectStore;
use object_store::azure::{AzureAuthorizer, AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpResponse};
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::cloud::errors::generic;
use super::cloud::transport::{NO_RETRIES, Transport, md5_of};
use super::cloud::upload::Begun;
use super::cloud::{Asked, CloudStore, MARK, Pending, Service, granted};
use super::conditions::Conditions;
use super::part_plan::PartLimits;
use super::{PutCondition, SharedStore, StoreError};

const STORE: &str = "Azure Blob Storage";
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Where the container is. Credentials come from the environment, or the machine's managed identity.
#[derive(Debug, Clone)]
pub struct AzureSettings {
    pub container: String,
    /// Without slashes at either end; may be empty.
    pub prefix: String,
    /// Otherwise from the environment.
    pub account: Option<String>,
    /// Of another cloud, a private endpoint, or a test's server.
    pub endpoint: Option<String>,
    /// The account in the path instead of the host name.
    pub path_style: bool,
}

/// Finds credentials and opens the container; asks nothing of it yet.
pub async fn connect(settings: AzureSettings) -> Result<SharedStore, StoreError> {
    connect_as(settings, MicrosoftAzureBuilder::from_env()).await
}

/// The same with the account's key given by the caller.
pub async fn connect_with_key(
    settings: AzureSettings,
    key: &SecretString,
) -> Result<SharedStore, StoreError> {
    connect_as(settings, MicrosoftAzureBuilder::new().with_access_key(key.expose_secret())).await
}

async fn connect_as(
    settings: AzureSettings,
    builder: MicrosoftAzureBuilder,
) -> Result<SharedStore, StoreError> {
    let root = format!("az://{}", settings.container);
    let none = |source| StoreError::NoCredentials { location: root.clone(), source };
    let account = settings.account.clone().or_else(|| builder.get_config_value(&AzureConfigKey::AccountName));
    let account = account.ok_or_else(|| none("no storage account is named".into()))?;
    let service = service_url(&settings, &account, &builder);
    let url: Url = service.parse().map_err(|e: url::ParseError| none(Box::new(e)))?;
    let transport = Transport::new(&service).map_err(|e| none(Box::new(e)))?;
    let builder = builder
        .with_container_name(&settings.container)
        .with_account(&account)
        .with_endpoint(service)
        .with_use_emulator(false)
        .with_retry(NO_RETRIES)
        .with_http_connector(transport.clone());
    let store = builder.build().map_err(|e| none(Box::new(e)))?;
    granted(store.credentials().get_credential()).await.map_err(none)?;
    let AzureSettings { container, prefix, .. } = settings;
    let service = Azure { account, container, url, store, client: transport.client() };
    Ok(Arc::new(CloudStore::new(service, transport, root, &prefix)))
}

fn service_url(settings: &AzureSettings, account: &str, environment: &MicrosoftAzureBuilder) -> String {
    let from_environment = || environment.get_config_value(&AzureConfigKey::Endpoint);
    match settings.endpoint.clone().or_else(from_environment) {
        Some(endpoint) if settings.path_style => format!("{}/{account}", endpoint.trim_end_matches('/')),
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://{account}.blob.core.windows.net"),
    }
}

struct Azure {
    account: String,
    container: String,
    url: Url,
    store: MicrosoftAzure,
    client: HttpClient,
}

/// The library's own would print credentials.
impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, container, .. } = self;
        f.debug_struct("Azure")
            .field("account", account)
            .field("container", container)
            .finish_non_exhaustive()
    }
}

impl Azure {
    /// Signs a request of our own and sends it.
    async fn send(
        &self,
        method: Method,
        path: &Path,
        query: &[(&str, &str)],
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Asked<HttpResponse> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(&self.container).extend(path.parts());
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(CONTENT_LENGTH, body.len())
            .body(body.into())
            .map_err(|e| generic(STORE, e))?;
        request.headers_mut().extend(headers);
        let credential = self.store.credentials().get_credential().await?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut request)?;
        self.client.execute(request).await.map_err(|e| generic(STORE, e))
    }

    async fn put(
        &self,
        path: &Path,
        query: &[(&str, &str)],
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Asked<HttpResponse> {
        let md5 = HeaderValue::from_str(&md5_of(&body)).map_err(|e| generic(STORE, e))?;
        let common = [(HeaderName::from_static("content-md5"), md5), (CONTENT_TYPE, OCTETS)];
        self.send(Method::PUT, path, query, common.into_iter().chain(headers), body).await
    }
}

#[async_trait]
impl Service for Azure {
    const LIMITS: PartLimits = PartLimits::AZURE;
    const CONDITIONS: Conditions = Conditions::HONOURED;

    fn objects(&self) -> &dyn ObjectStore {
        &self.store
    }

    fn lists(&self) -> &dyn PaginatedListStore {
        &self.store
    }

    fn version(&self, meta: &object_store::ObjectMeta) -> Option<String> {
        meta.e_tag.clone()
    }

    async fn put(&self, path: &Path, body: Bytes, condition: &PutCondition) -> Asked<Option<String>> {
        let condition = match condition {
            PutCondition::IfAbsent => (IF_NONE_MATCH, HeaderValue::from_static("*")),
            PutCondition::IfVersion(version) => {
                (IF_MATCH, HeaderValue::from_str(&version.0).map_err(|e| generic(STORE, e))?)
            }
        };
        let kind = (HeaderName::from_static("x-ms-blob-type"), HeaderValue::from_static("BlockBlob"));
        let answer = Self::put(self, path, &[], [condition, kind], body).await?;
        Ok(answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(ToOwned::to_owned))
    }

    /// The library's own would be a batch, which a signature for the container alone does not allow.
    async fn delete(&self, path: &Path) -> Asked<()> {
        self.send(Method::DELETE, path, &[], [], Bytes::new()).await.map(drop)
    }

    /// Nothing is sent: the mark begins the names of the blocks.
    async fn start_upload(&self, _: &Path, mark: &str) -> Asked<String> {
        Ok(mark.to_owned())
    }

    /// A block that is put again has its name again.
    async fn put_part(&self, upload: &Begun, number: u32, body: Bytes) -> Asked<String> {
        let id = block_id(&upload.id, number);
        Self::put(self, &upload.path, &[("comp", "block"), ("blockid", &id)], [], body).await?;
        Ok(id)
    }

    async fn complete(&self, upload: &Begun, parts: Vec<String>) -> Asked<()> {
        let mark = HeaderValue::from_str(&upload.mark).map_err(|e| generic(STORE, e))?;
        let headers = [
            (IF_NONE_MATCH, HeaderValue::from_static("*")),
            (HeaderName::from_static("x-ms-blob-content-type"), OCTETS),
            (HeaderName::try_from(format!("x-ms-meta-{MARK}")).map_err(|e| generic(STORE, e))?, mark),
        ];
        Self::put(self, &upload.path, &[("comp", "blocklist")], headers, block_list(&parts)).await.map(drop)
    }

    async fn abort(&self, _: &Path, _: &str) -> Asked<()> {
        Ok(())
    }

    async fn uploads(&self, _: &str) -> Asked<Option<Vec<Pending>>> {
        Ok(None)
    }
}

/// Names of the blocks of one blob must all be of one length.
fn block_id(mark: &str, number: u32) -> String {
    data_encoding::BASE64.encode(format!("{mark}-{number:05}").as_bytes())
}

fn block_list(ids: &[String]) -> Bytes {
    let blocks: String = ids.iter().map(|id| format!("<Uncommitted>{id}</Uncommitted>")).collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{blocks}</BlockList>").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blocks_are_of_one_length_up_to_the_last() {
        let mark = format!("{:032x}", 7u128);
        let last = block_id(&mark, PartLimits::AZURE.parts_max);
        assert_eq!(block_id(&mark, 1).len(), last.len());
        // What Azure takes before it is encoded: <https://learn.microsoft.com/en-us/rest/api/storageservices/put-block>.
        assert!(data_encoding::BASE64.decode(last.as_bytes()).unwrap().len() <= 64);
    }

    #[test]
    fn the_account_stands_in_the_host_or_in_the_path() {
        let settings = |endpoint: Option<&str>, path_style| AzureSettings {
            container: "backups".to_owned(),
            prefix: String::new(),
            account: Some("house".to_owned()),
            endpoint: endpoint.map(ToOwned::to_owned),
            path_style,
        };
        let url = |settings| service_url(&settings, "house", &MicrosoftAzureBuilder::new());
        assert_eq!(url(settings(None, false)), "https://house.blob.core.windows.net");
        let private = "https://house.privatelink.blob.core.windows.net/";
        assert_eq!(url(settings(Some(private), false)), private.trim_end_matches('/'));
        assert_eq!(url(settings(Some("http://127.0.0.1:10000"), true)), "http://127.0.0.1:10000/house");
    }
}
