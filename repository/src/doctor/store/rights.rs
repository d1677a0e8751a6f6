//! What these credentials may do to a source, tried without doing it.

use bytes::Bytes;
use pgproof_policies::names::SourceName;

use super::{Probe, Subject};
use crate::ids::ObjectKey;
use crate::layout;
use crate::store::StoreError;
use crate::store::s3::Deleted;

/// The name of an object that never comes to be.
const NEVER: &str = "doctor";

/// Whose credentials they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Puts backups, deletes nothing.
    Agent,
    /// Puts reports, no backups.
    Verifier,
}

/// What is allowed below one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    pub put_backups: Probe<()>,
    pub put_reports: Probe<()>,
    pub delete_backups: Probe<Deleted>,
}

impl Subject {
    pub(super) async fn rights(&self) -> Vec<(SourceName, Rights)> {
        let mut rights = Vec::new();
        for source in &self.sources {
            rights.push((source.clone(), self.rights_of(source).await));
        }
        rights
    }

    async fn rights_of(&self, source: &SourceName) -> Rights {
        let run = self.traces.run();
        let backup = layout::backup_object(source, run, NEVER).expect("one segment");
        let report = layout::verification(source, run, run.started_at());
        let delete_backups = match &self.bucket {
            Some(bucket) => bucket.store.delete_nothing(&backup).await.into(),
            None if self.is_folder => Probe::NotTried("in a folder, whoever may write may delete"),
            None => self.store.delete(&backup).await.map(|()| Deleted::Nothing).into(),
        };
        Rights {
            put_backups: self.may_put(&backup).await.into(),
            put_reports: match self.role {
                Role::Agent => Probe::NotTried("that is the verifier's"),
                Role::Verifier => self.may_put(&report).await.into(),
            },
            delete_backups,
        }
    }

    /// An upload that is begun and given up: it needs the same right as a put, and nothing is ever to be seen of it.
    async fn may_put(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let upload = self.traces.start_upload(&self.store, key).await?;
        // Some stores let anybody begin one.
        let put = upload.put_part(1, Bytes::from_static(b"given up")).await;
        // What cannot be given up is told with what is left behind.
        let _ = upload.abort().await;
        put.map(drop)
    }
}
