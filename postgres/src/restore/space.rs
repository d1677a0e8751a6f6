//! Whether the target has room for a database, where that can be known: a server tells its folder, and only on this
//! host does that folder tell its free space.

use std::path::{Path, PathBuf};

use crate::connection::ConnectionSpec;

/// The room at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Space {
    /// Bytes that the server's account may still write below its data directory.
    Free {
        bytes: u64,
        folder: PathBuf,
    },
    NotKnown {
        why: String,
    },
}

/// What that means for a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    Enough,
    TooLittle { free: u64, folder: PathBuf },
    NotKnown { why: String },
}

impl Space {
    /// Asks the target's server, and the file system if the server is on this host. No failure: what cannot be found out
    /// is not known.
    pub async fn of(target: &ConnectionSpec) -> Self {
        if !target.host().is_here() {
            return Self::NotKnown { why: "the target is on another host".to_owned() };
        }
        match data_directory(target).await {
            Ok(folder) => Self::below(&folder),
            Err(why) => Self::NotKnown { why },
        }
    }

    /// Whether `needed` bytes go in.
    pub fn room_for(&self, needed: u64) -> Room {
        match self {
            Self::NotKnown { why } => Room::NotKnown { why: why.clone() },
            Self::Free { bytes, .. } if *bytes >= needed => Room::Enough,
            Self::Free { bytes, folder } => Room::TooLittle { free: *bytes, folder: folder.clone() },
        }
    }

    fn below(folder: &Path) -> Self {
        match rustix::fs::statvfs(folder) {
            Ok(stat) => {
                Self::Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), folder: folder.to_owned() }
            }
            // In a container, for instance, the same path is another one.
            Err(error) => Self::NotKnown {
                why: format!(
                    "{} cannot be looked at from here: {}",
                    folder.display(),
                    std::io::Error::from(error)
                ),
            },
        }
    }
}

/// Only superusers and members of `pg_read_all_settings` are told.
async fn data_directory(target: &ConnectionSpec) -> Result<PathBuf, String> {
    let session = Box::pin(target.connect()).await.map_err(|_| "the target cannot be reached".to_owned())?;
    let row = session.query_one("SELECT current_setting('data_directory')", &[]).await;
    let row = row.map_err(|_| "the role may not read data_directory".to_owned())?;
    row.try_get::<_, String>(0).map(PathBuf::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Host;

    #[test]
    fn room_is_judged_by_what_is_free() {
        let folder = PathBuf::from("/srv/data");
        let free = Space::Free { bytes: 100, folder: folder.clone() };
        assert_eq!(free.room_for(100), Room::Enough);
        assert_eq!(free.room_for(101), Room::TooLittle { free: 100, folder });
        let why = "the target is on another host".to_owned();
        assert_eq!(Space::NotKnown { why: why.clone() }.room_for(0), Room::NotKnown { why });
    }

    #[test]
    fn only_sockets_and_the_loopback_are_here() {
        let tcp = |name: &str, address: Option<&str>| Host::Tcp {
            name: name.to_owned(),
            address: address.map(|address| address.parse().unwrap()),
        };
        assert!(Host::Socket("/run/postgresql".into()).is_here());
        for (name, address) in [("localhost", None), ("127.0.0.2", None), ("::1", None), ("db", Some("::1"))]
        {
            assert!(tcp(name, address).is_here(), "{name}");
        }
        for (name, address) in [("db", None), ("10.0.0.1", None), ("localhost", Some("10.0.0.1"))] {
            assert!(!tcp(name, address).is_here(), "{name}");
        }
    }

    #[test]
    fn a_folder_that_is_not_here_is_not_known() {
        assert!(matches!(Space::below(Path::new("/nowhere/data")), Space::NotKnown { .. }));
        let Space::Free { bytes, .. } = Space::below(Path::new("/tmp")) else { panic!("/tmp is here") };
        assert!(bytes < u64::MAX);
    }
}
