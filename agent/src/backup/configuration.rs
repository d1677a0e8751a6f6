//! The backup of a configuration: read, compared with the newest backup, and sealed whole where it differs.

use anyhow::Context;
use jiff::Timestamp;
use pgproof_policies::policy::ConfigSource;
use pgproof_repository::catalog::{self, Standing};
use pgproof_repository::configuration::{Configuration, Index, IndexError, changes};
use pgproof_repository::layout;
use pgproof_repository::lifecycle::Started;
use pgproof_repository::manifest::{SignedManifest, v1};

use super::{Begun, Described, Job, Made};
use crate::configuration;

impl Job {
    pub(super) async fn back_up_configuration(
        &self,
        config: &ConfigSource,
        begun: &Begun<'_>,
    ) -> anyhow::Result<Made> {
        let config = config.clone();
        let read = tokio::task::spawn_blocking(move || configuration::gather(&config)).await??;
        let at = Timestamp::now();
        let index = Index::of(&read, &self.signing_key)?;
        if let Some(same) = self.unchanged(&index).await? {
            return Ok(Made::Unchanged(Box::new(same)));
        }
        let mut started = Started::new(self.store.clone(), self.source.name.clone(), begun.id.clone());
        self.put(&mut started, layout::CONFIGURATION, v1::Role::Configuration, &read.to_bytes()).await?;
        self.stop_if_cancelled()?;
        let described = Described {
            snapshot: v1::Snapshot { at, lsn: None, in_recovery: false },
            pg_dump: None,
            contents: v1::Contents::Config(contents(&read, index.seal(&self.signing_key)?)),
            previous: self.previous().await,
            imported: None,
            warnings: Vec::new(),
            restore: format!("age -d -i IDENTITY {} | zstd -d", layout::CONFIGURATION),
        };
        Ok(Made::New(Box::new(self.commit(begun, started, described).await?)))
    }

    /// The newest backup, where it holds what this host has now. What cannot be compared counts as changed.
    async fn unchanged(&self, now: &Index) -> anyhow::Result<Option<SignedManifest>> {
        let signers = self.loaded.trusted_signers()?;
        let newest = catalog::newest(&self.store, &self.source.name, &signers).await;
        let Some((_, Standing::Whole(signed))) = newest.context("the newest backup cannot be compared")?
        else {
            return Ok(None);
        };
        let v1::Contents::Config(config) = &signed.get().contents else { return Ok(None) };
        let known = match Index::open(&config.index, &self.signing_key) {
            Ok(known) => known,
            Err(IndexError::NotOurs | IndexError::Damaged) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(changes(&known, now).is_empty().then_some(*signed))
    }
}

fn contents(read: &Configuration, index: String) -> v1::Config {
    v1::Config { files: read.files.len() as u64, variables: read.variables.len() as u64, index }
}
