//! The operations of a store, by name: for counting them and for making them fail.

use std::fmt;

/// One kind of call to a [`super::Store`] or [`super::Upload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Put,
    Get,
    GetRange,
    GetStream,
    Head,
    List,
    ListFolders,
    Delete,
    StartUpload,
    PutPart,
    CompleteUpload,
    AbortUpload,
    ListUploads,
    Clock,
    Lock,
    ExtendLock,
    Versions,
    Bucket,
}

impl Operation {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetRange => "get of a range",
            Self::GetStream => "get of a stream",
            Self::Head => "head",
            Self::List => "list",
            Self::ListFolders => "list of folders",
            Self::Delete => "delete",
            Self::StartUpload => "start of an upload",
            Self::PutPart => "put of a part",
            Self::CompleteUpload => "completion of an upload",
            Self::AbortUpload => "abort of an upload",
            Self::ListUploads => "list of uploads",
            Self::Clock => "clock",
            Self::Lock => "look at a lock",
            Self::ExtendLock => "extension of a lock",
            Self::Versions => "look at versions",
            Self::Bucket => "look at the bucket",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
