//! What a run of `doctor` leaves behind, and taking it away.

use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};

use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::store::{SharedStore, StoreError, Upload};

/// A run that began so long ago has ended, whatever became of it.
const ENDED_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// What this run put, and what it is called.
#[derive(Debug)]
pub struct Traces {
    store: SharedStore,
    /// Deletes versions, too, where there are any.
    thorough: Option<SharedStore>,
    run: BackupId,
    /// Kept because not every store can list them.
    uploads: Mutex<Vec<Arc<dyn Upload>>>,
}

/// What is still there afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// In a bucket that keeps versions, which these credentials may not remove.
    Versions {
        folder: String,
    },
    /// So many objects, which these credentials may not delete.
    Kept {
        objects: usize,
        folder: String,
    },
    NotKnown {
        folder: String,
        why: String,
    },
}

impl Traces {
    pub(super) fn new(store: SharedStore, run: BackupId) -> Self {
        Self { store, thorough: None, run, uploads: Mutex::default() }
    }

    pub(super) fn with_thorough(self, thorough: SharedStore) -> Self {
        Self { thorough: Some(thorough), ..self }
    }

    pub(super) fn key(&self, name: &str) -> ObjectKey {
        layout::doctor_probe(&self.run, name)
    }

    /// An id that no backup has.
    pub(super) fn run(&self) -> &BackupId {
        &self.run
    }

    pub(super) async fn start_upload(
        &self,
        store: &SharedStore,
        key: &ObjectKey,
    ) -> Result<Arc<dyn Upload>, StoreError> {
        let upload = store.start_upload(key).await?;
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&upload));
        Ok(upload)
    }

    /// It became an object, and some stores refuse to give it up then.
    pub(super) fn completed(&self, upload: &Arc<dyn Upload>) {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|begun| !Arc::ptr_eq(begun, upload));
    }

    /// Gives up what was begun and removes what was put, by this run and by earlier ones that could not.
    pub async fn remove(&self, now: Timestamp) -> Left {
        let uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stuck = None;
        for upload in uploads {
            if let Err(error) = upload.abort().await {
                stuck = Some(error);
            }
        }
        match (self.remove_objects(now).await, stuck) {
            (Ok(0), None) if self.store.left_versions() => {
                Left::Versions { folder: layout::doctor_run(&self.run).to_string() }
            }
            (Ok(0), None) => Left::Nothing,
            (Ok(objects), None) => Left::Kept { objects, folder: layout::doctor_runs().to_string() },
            (Err(error), _) | (Ok(_), Some(error)) => {
                let folder = layout::doctor_run(&self.run).to_string();
                Left::NotKnown { folder, why: crate::doctor::chain(&error) }
            }
        }
    }

    /// Removing took too long.
    pub(super) fn not_known(&self) -> Left {
        let folder = layout::doctor_run(&self.run).to_string();
        Left::NotKnown { folder, why: "removing it takes too long".to_owned() }
    }

    /// How many could not be removed for want of the right to.
    async fn remove_objects(&self, now: Timestamp) -> Result<usize, StoreError> {
        let listed: Vec<_> = self.store.list(&layout::doctor_runs(), None).try_collect().await?;
        let mut kept = 0;
        for key in listed.into_iter().map(|meta| meta.key).filter(|key| self.is_over(key, now)) {
            match self.delete(&key).await {
                Ok(()) => {}
                Err(StoreError::Denied { .. }) => kept += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if let Some(thorough) = &self.thorough
            && thorough.delete(key).await.is_ok()
        {
            return Ok(());
        }
        self.store.delete(key).await
    }

    /// Whether an object belongs to this run, or to one that ended. Whatever else lies there is none of ours.
    fn is_over(&self, key: &ObjectKey, now: Timestamp) -> bool {
        let run = key.as_str().split('/').nth(1).and_then(|run| run.parse::<BackupId>().ok());
        run.is_some_and(|run| run == self.run || run.started_at() < now - ENDED_AFTER)
    }
}
