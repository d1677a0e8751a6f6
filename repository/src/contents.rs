//! What a backup holds beside its archives, fetched and checked against the signed manifest.

use futures::stream::StreamExt;
use pgproof_policies::names::SourceName;
use sha2::{Digest, Sha256};

use crate::configuration::{CONFIGURATION_BYTES_MAX, Configuration, ConfigurationError};
use crate::ids::{BackupId, CiphertextSha256, ObjectKey};
use crate::inventory::{self, INVENTORY_BYTES_MAX, Inventory, InventoryError};
use crate::keys::Identities;
use crate::layout;
use crate::manifest::SignedManifest;
use crate::manifest::v1::{Object, Role};
use crate::sealed::{self, Expected, ReadError, SealedReader, UnsealError};
use crate::store::{SharedStore, StoreError};

/// Globals of thousands of roles stay far below this.
const GLOBALS_BYTES_MAX: u64 = 64 << 20;

/// The inventory of a backup.
pub async fn inventory(
    store: &SharedStore,
    signed: &SignedManifest,
    identities: &Identities,
) -> Result<Inventory, ContentsError> {
    let bytes = whole(store, signed, Role::Inventory, INVENTORY_BYTES_MAX, identities).await?;
    inventory::parse(&bytes).map_err(|source| ContentsError::Inventory { source })
}

/// The inventory of a backup of another kind than a database, as it was written.
pub async fn inventory_bytes(
    store: &SharedStore,
    signed: &SignedManifest,
    identities: &Identities,
) -> Result<Vec<u8>, ContentsError> {
    whole(store, signed, Role::Inventory, INVENTORY_BYTES_MAX, identities).await
}

/// The statements that make roles, memberships and tablespaces.
pub async fn globals(
    store: &SharedStore,
    signed: &SignedManifest,
    identities: &Identities,
) -> Result<String, ContentsError> {
    let bytes = whole(store, signed, Role::Globals, GLOBALS_BYTES_MAX, identities).await?;
    String::from_utf8(bytes).map_err(|_| ContentsError::NotText)
}

/// The files and variables of a backup of configuration.
pub async fn configuration(
    store: &SharedStore,
    signed: &SignedManifest,
    identities: &Identities,
) -> Result<Configuration, ContentsError> {
    let bytes = whole(store, signed, Role::Configuration, CONFIGURATION_BYTES_MAX, identities).await?;
    Configuration::parse(&bytes).map_err(|source| ContentsError::Configuration { source })
}

/// The key of one of the backup's objects. The manifest is signed, and its names are still not trusted to be paths.
pub fn object_key(source: &SourceName, id: &BackupId, object: &Object) -> Result<ObjectKey, ContentsError> {
    let key = layout::backup_object(source, id, &object.name);
    key.ok_or_else(|| ContentsError::ObjectName { name: object.name.clone() })
}

/// Reads every byte of an object and compares it with what was signed: with identities all the way to the plaintext,
/// without them the ciphertext.
pub async fn read_through(
    store: &SharedStore,
    key: &ObjectKey,
    object: &Object,
    identities: Option<&Identities>,
) -> Result<(), ContentsError> {
    let Some(identities) = identities else { return hash_through(store, key, object).await };
    let (store, key, identities) = (store.clone(), key.clone(), identities.clone());
    let (expected, runtime) = (expected(object), tokio::runtime::Handle::current());
    let check =
        move || SealedReader::open(store, runtime, key, expected, &identities)?.stream()?.check().map(drop);
    let checked = tokio::task::spawn_blocking(check).await.expect("reading does not panic");
    checked.map_err(|source| ContentsError::Read { source })
}

/// Sees that an object opens with one of the identities, and compares the hash of all its bytes with what was signed.
/// For objects that somebody else is going to decrypt and decode.
pub async fn open_and_hash(
    store: &SharedStore,
    key: &ObjectKey,
    object: &Object,
    identities: &Identities,
) -> Result<(), ContentsError> {
    let (opened, opened_key, identities) = (store.clone(), key.clone(), identities.clone());
    let (expected, runtime) = (expected(object), tokio::runtime::Handle::current());
    let open = move || SealedReader::open(opened, runtime, opened_key, expected, &identities).map(drop);
    let open = tokio::task::spawn_blocking(open).await.expect("opening does not panic");
    open.map_err(|source| ContentsError::Read { source })?;
    hash_through(store, key, object).await
}

/// What the signed manifest says of an object.
pub fn expected(object: &Object) -> Expected {
    Expected { plaintext: object.plaintext, ciphertext: object.ciphertext }
}

async fn hash_through(store: &SharedStore, key: &ObjectKey, object: &Object) -> Result<(), ContentsError> {
    let fetched = |source| ContentsError::Store { source };
    let mut body = store.get_stream(key, 0..object.ciphertext.bytes).await.map_err(fetched)?;
    let mut hash = Sha256::new();
    while let Some(bytes) = body.next().await {
        hash.update(bytes.map_err(fetched)?);
    }
    let found = CiphertextSha256::new(hash.finalize().into());
    (found == object.ciphertext.sha256).then_some(()).ok_or(ContentsError::Hash)
}

async fn whole(
    store: &SharedStore,
    signed: &SignedManifest,
    role: Role,
    bytes_max: u64,
    identities: &Identities,
) -> Result<Vec<u8>, ContentsError> {
    let manifest = signed.get();
    let object = manifest.object(role).ok_or(ContentsError::Missing { role })?;
    let key = object_key(&manifest.source, &manifest.id, object)?;
    let read = store.get(&key, object.ciphertext.bytes.min(bytes_max)).await;
    let (bytes, _) = read.map_err(|source| ContentsError::Store { source })?;
    let (identities, object) = (identities.clone(), object.clone());
    let expected = expected(&object);
    let unseal = move || sealed::unseal_bytes(&identities, &bytes, bytes_max, Some(&expected));
    let plain = tokio::task::spawn_blocking(unseal).await.expect("unsealing does not panic");
    plain.map_err(|source| ContentsError::Sealed { name: object_name(role), source })
}

fn object_name(role: Role) -> &'static str {
    match role {
        Role::Archive => "archive",
        Role::Globals => layout::GLOBALS,
        Role::Inventory => layout::INVENTORY,
        Role::Configuration => layout::CONFIGURATION,
        Role::Index => layout::INDEX,
        Role::HostIndex => layout::HOST_INDEX,
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentsError {
    #[error("manifest names no object with role {role:?}")]
    Missing { role: Role },
    #[error("{name:?} is not the name of an object")]
    ObjectName { name: String },
    #[error("object cannot be fetched")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("{name} is not what was signed, or cannot be opened")]
    Sealed {
        name: &'static str,
        #[source]
        source: UnsealError,
    },
    #[error("inventory is not usable")]
    Inventory {
        #[source]
        source: InventoryError,
    },
    #[error("configuration is not usable")]
    Configuration {
        #[source]
        source: ConfigurationError,
    },
    #[error("globals are not UTF-8")]
    NotText,
    #[error("object is not what was signed, or cannot be opened")]
    Read {
        #[source]
        source: ReadError,
    },
    #[error("object is not what was signed: its bytes have another SHA-256")]
    Hash,
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::keys::{NoPrompts, Recipients, generate_identity};
    use crate::manifest::{self, v1::Manifest};
    use crate::signature::{SigningKey, TrustedSigners, generate};
    use crate::store::PutCondition;
    use crate::store::altered::{Alteration, AlteredStore};
    use crate::store::memory::MemoryStore;

    /// A backup of two small objects.
    struct Backup {
        store: SharedStore,
        signed: SignedManifest,
        identities: Identities,
        recipients: Recipients,
    }

    impl Backup {
        async fn of(globals: &[u8], inventory: &[u8]) -> Self {
            let (identity, recipient) = generate_identity();
            let identities = Identities::parse(&identity, Path::new("a test"), Arc::new(NoPrompts)).unwrap();
            let recipients = Recipients::parse([recipient]).unwrap();
            let store: SharedStore = Arc::new(MemoryStore::new());
            let mut made: Manifest = manifest::parse(include_bytes!("../fixtures/manifest.v1.json")).unwrap();
            made.objects.clear();
            for (name, role, plain) in
                [(layout::GLOBALS, Role::Globals, globals), (layout::INVENTORY, Role::Inventory, inventory)]
            {
                let sealed = sealed::seal_bytes(&recipients, 3, plain).unwrap();
                let (plaintext, ciphertext) = (sealed.plaintext, sealed.ciphertext);
                made.objects.push(Object { name: name.to_owned(), role, plaintext, ciphertext });
                let key = layout::backup_object(&made.source, &made.id, name).unwrap();
                store.put(&key, sealed.bytes.into(), PutCondition::IfAbsent).await.unwrap();
            }
            let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
            let signers = TrustedSigners::parse(&format!("h {}\n", key.public_line())).unwrap();
            let bytes = made.to_bytes();
            let signature = key.sign(manifest::NAMESPACE, &bytes).unwrap();
            let signed = SignedManifest::check(&bytes, &signature, &signers).unwrap();
            Self { store, signed, identities, recipients }
        }

        fn object(&self, role: Role) -> (&Object, ObjectKey) {
            let manifest = self.signed.get();
            let object = manifest.object(role).unwrap();
            (object, object_key(&manifest.source, &manifest.id, object).unwrap())
        }
    }

    #[tokio::test]
    async fn what_was_put_comes_back_and_what_is_missing_or_no_text_is_told() {
        let backup = Backup::of(b"CREATE ROLE a;", b"{}").await;
        let Backup { store, signed, identities, .. } = &backup;
        assert_eq!(globals(store, signed, identities).await.unwrap(), "CREATE ROLE a;");
        assert_eq!(inventory_bytes(store, signed, identities).await.unwrap(), b"{}");
        let missing = configuration(store, signed, identities).await;
        assert!(matches!(missing, Err(ContentsError::Missing { role: Role::Configuration })), "{missing:?}");
        let odd = Backup::of(b"\xff", b"no inventory").await;
        let no_text = globals(&odd.store, &odd.signed, &odd.identities).await;
        assert!(matches!(no_text, Err(ContentsError::NotText)), "{no_text:?}");
        let unusable = inventory(&odd.store, &odd.signed, &odd.identities).await;
        assert!(matches!(unusable, Err(ContentsError::Inventory { .. })), "{unusable:?}");
        // What is not what was signed is named.
        let (_, key) = backup.object(Role::Globals);
        let changed = AlteredStore::new(store.clone(), key, Alteration::Flipped { at: 0, mask: 1 });
        let changed: SharedStore = Arc::new(changed);
        let error = globals(&changed, signed, identities).await.unwrap_err();
        assert!(error.to_string().starts_with(layout::GLOBALS), "{error}");
    }

    /// However much of an object is looked at, another one does not pass.
    #[tokio::test]
    async fn an_object_passes_only_with_the_bytes_that_were_signed() {
        let backup = Backup::of(&b"CREATE ROLE a;\n".repeat(9_000), b"{}").await;
        let (object, key) = backup.object(Role::Globals);
        let (known, nobody) = (&backup.identities, &Backup::of(b"", b"").await.identities);
        let bytes = object.ciphertext.bytes;
        let (whole, _) = backup.store.get(&key, bytes).await.unwrap();
        let other = sealed::seal_bytes(&backup.recipients, 3, b"CREATE ROLE b;").unwrap().bytes;
        let alterations = [
            None,
            Some(Alteration::Flipped { at: bytes - 1, mask: 1 }),
            Some(Alteration::Flipped { at: 0, mask: 1 }),
            Some(Alteration::Cut { bytes: bytes - 1 }),
            Some(Alteration::Replaced { by: other.into() }),
            Some(Alteration::Replaced { by: whole.slice(..whole.len() / 2) }),
        ];
        for alteration in alterations {
            let is_whole = alteration.is_none();
            let store = match alteration.clone() {
                None => backup.store.clone(),
                Some(alteration) => {
                    Arc::new(AlteredStore::new(backup.store.clone(), key.clone(), alteration)) as SharedStore
                }
            };
            for (identities, is_enough) in [(None, true), (Some(known), true), (Some(nobody), false)] {
                let read = read_through(&store, &key, object, identities).await;
                assert_eq!(read.is_ok(), is_whole && is_enough, "{alteration:?}: {read:?}");
            }
            for (identities, is_enough) in [(known, true), (nobody, false)] {
                let opened = open_and_hash(&store, &key, object, identities).await;
                assert_eq!(opened.is_ok(), is_whole && is_enough, "{alteration:?}: {opened:?}");
            }
        }
    }
}
