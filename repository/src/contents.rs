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
