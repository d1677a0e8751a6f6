//! Holds: what keeps a backup whatever retention says, until somebody gives it back.
//!
//! Whatever lies in a hold's place keeps the backup, half a record too. So each step leaves what another try finishes:
//! half a hold gives way to a whole one, and of one that is given back the record goes last.

use bytes::Bytes;
use pgproof_policies::names::SourceName;

use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::records::{self, Hold, RecordError};
use crate::signature::SigningKey;
use crate::store::{PutCondition, SharedStore, StoreError, Version};

/// Puts a hold; one that is there already stays as it is.
pub async fn put(store: &SharedStore, hold: &Hold, signing_key: &SigningKey) -> Result<(), RecordError> {
    let of_the_store = |source| RecordError::Store { source };
    let key = layout::hold(&hold.source, &hold.id);
    if version(store, &key).await.map_err(of_the_store)?.is_some() {
        return Ok(());
    }
    let (bytes, signature) = records::signed(hold, signing_key)?;
    let signature_key = layout::signature_of(&key);
    // Left by somebody who died before the record.
    let half = version(store, &signature_key).await.map_err(of_the_store)?;
    let condition = half.map_or(PutCondition::IfAbsent, PutCondition::IfVersion);
    let put = |key: ObjectKey, bytes: Vec<u8>, condition| async move {
        store.put(&key, Bytes::from(bytes), condition).await.map_err(of_the_store)
    };
    put(signature_key, signature.into_bytes(), condition).await?;
    put(key, bytes, PutCondition::IfAbsent).await?;
    Ok(())
}

/// Whether there is anything to be given back.
pub async fn is_there(store: &SharedStore, source: &SourceName, id: &BackupId) -> Result<bool, StoreError> {
    let key = layout::hold(source, id);
    Ok(version(store, &key).await?.is_some() || version(store, &layout::signature_of(&key)).await?.is_some())
}

/// Gives a hold back; one that is not there counts as given back.
pub async fn give_back(store: &SharedStore, source: &SourceName, id: &BackupId) -> Result<(), StoreError> {
    let key = layout::hold(source, id);
    store.delete(&layout::signature_of(&key)).await?;
    store.delete(&key).await
}

async fn version(store: &SharedStore, key: &ObjectKey) -> Result<Option<Version>, StoreError> {
    match store.head(key).await {
        Ok(meta) => Ok(Some(meta.version)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::signature::{TrustedSigners, generate};
    use crate::store::faulty::{Fault, FaultyStore, Rule};
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    fn hold() -> Hold {
        Hold {
            version: 1,
            source: "app".parse().unwrap(),
            id: "20261124T020000Z-aaaaaa".parse().unwrap(),
            at: "2026-11-24T12:00:00Z".parse().unwrap(),
            host: "here".to_owned(),
            reason: "a trial".to_owned(),
        }
    }

    /// A key, and a store in which somebody died before the call of this number of this operation.
    fn died_before(operation: Operation, call: u64) -> (SigningKey, SharedStore, SharedStore) {
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let memory: SharedStore = Arc::new(MemoryStore::new());
        let rule = Rule::on(operation, Fault::FailBefore).from_call(call);
        let faulty = FaultyStore::scripted(memory.clone(), vec![rule]);
        (key, Arc::new(faulty), memory)
    }

    #[tokio::test]
    async fn a_hold_is_there_until_it_is_given_back_and_half_of_one_as_well() {
        let (key, faulty, memory) = died_before(Operation::Put, 2);
        let hold = hold();
        let is_there = async || super::is_there(&memory, &hold.source, &hold.id).await.unwrap();
        assert!(!is_there().await);
        put(&faulty, &hold, &key).await.unwrap_err();
        assert!(is_there().await);
        put(&memory, &hold, &key).await.unwrap();
        assert!(is_there().await);
        give_back(&memory, &hold.source, &hold.id).await.unwrap();
        assert!(!is_there().await);
    }

    #[tokio::test]
    async fn half_a_hold_gives_way_to_a_whole_one() {
        let (key, faulty, memory) = died_before(Operation::Put, 2);
        let (hold, signers) = (hold(), TrustedSigners::parse(&format!("h {}\n", key.public_line())).unwrap());
        put(&faulty, &hold, &key).await.unwrap_err();
        // Another moment, and so another signature.
        let later = Hold { reason: "another trial".to_owned(), ..hold };
        put(&memory, &later, &key).await.unwrap();
        let place = layout::hold(&later.source, &later.id);
        assert_eq!(records::get::<Hold>(&*memory, &place, &signers).await.unwrap().0, later);
    }

    #[tokio::test]
    async fn half_a_hold_can_be_given_back() {
        for (operation, call) in [(Operation::Put, 2), (Operation::Delete, 2)] {
            let (key, faulty, memory) = died_before(operation, call);
            let Hold { source, id, .. } = hold();
            let put = put(&faulty, &hold(), &key).await;
            if put.is_ok() {
                give_back(&faulty, &source, &id).await.unwrap_err();
            }
            assert!(is_there(&memory, &source, &id).await.unwrap(), "it holds, and says that it does not");
            give_back(&memory, &source, &id).await.unwrap();
            assert!(memory.list_folders(&layout::holds(&source)).await.unwrap().is_empty());
        }
    }
}
