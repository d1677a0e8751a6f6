//! What the stores call the rights that pgproof needs, and what is not asked of them.

use pgproof_policies::policy::Location;

use crate::store::conditions::Conditions;

/// The names of one kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Powers {
    pub read: &'static str,
    pub list: &'static str,
    pub put: &'static str,
    pub delete: &'static str,
    pub list_uploads: &'static str,
    /// What it heeds, where neither a policy nor a provider says so.
    pub conditions: Conditions,
    pub drops_uploads_after_days: Option<u32>,
    /// What is to be looked at elsewhere.
    pub not_asked: Option<&'static str>,
}

impl Powers {
    pub fn of(location: &Location) -> &'static Self {
        match location {
            Location::S3 { .. } | Location::Directory { .. } => &Self::S3,
            Location::Google { .. } => &Self::GOOGLE,
            Location::Azure { .. } => &Self::AZURE,
        }
    }

    pub const S3: Self = Self {
        read: "s3:GetObject",
        list: "s3:ListBucket",
        put: "s3:PutObject",
        delete: "s3:DeleteObject",
        list_uploads: "s3:ListBucketMultipartUploads",
        conditions: Conditions::HONOURED,
        drops_uploads_after_days: None,
        not_asked: None,
    };

    pub const GOOGLE: Self = Self {
        read: "storage.objects.get",
        list: "storage.objects.list",
        put: "storage.objects.create",
        delete: "storage.objects.delete",
        list_uploads: "storage.multipartUploads.list",
        conditions: Conditions { complete_if_absent: false, ..Conditions::HONOURED },
        drops_uploads_after_days: None,
        not_asked: Some(
            "not asked of Google: look at the bucket's object versioning, soft delete, retention policy, and its lifecycle rule \
             for uploads that nobody completes (AbortIncompleteMultipartUpload)",
        ),
    };

    pub const AZURE: Self = Self {
        read: "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
        list: "the same on the container",
        put: "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
        delete: "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete",
        list_uploads: "the listing of uploads",
        conditions: Conditions::HONOURED,
        // Blocks that no list names.
        drops_uploads_after_days: Some(7),
        not_asked: Some(
            "not asked of Azure: whoever may write there may overwrite, so look that the container keeps versions, and makes them \
             immutable (version-level immutability)",
        ),
    };
}
