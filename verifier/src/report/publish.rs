//! Every report also lies in the policy's report directory, where people look for it.

use std::path::PathBuf;

use anyhow::Context;
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::report::chain;

use super::export;
use crate::verifier::Verifier;

impl Verifier {
    /// Writes a stored report's files into the policy's report directory; nothing where it names none. They are made from
    /// what the store holds, so what is published is what was stored.
    pub(crate) async fn publish(&self, key: &ObjectKey) -> anyhow::Result<Option<PathBuf>> {
        let verifier = self.loaded.policy.verifier.as_ref();
        let Some(folder) = verifier.and_then(|verifier| verifier.report_directory.as_deref()) else {
            return Ok(None);
        };
        let failed = || format!("the report is stored and could not be written into {}", folder.display());
        let stored = chain::files(&self.store, key).await.with_context(failed)?;
        let page = export::write(folder, &stored, &self.signers).with_context(failed)?;
        export::write_index(folder).with_context(failed)?;
        Ok(Some(page))
    }
}
