//! Reading a backup's objects to their last byte, and opening each frame of its archives.
//!
//! Before anything is restored every object is opened and hashed against the signed manifest, and all but indexed archives
//! are decoded as well. The frames of an indexed archive are decrypted, compared with the signed inventory and decoded
//! once: by the restore those that it needs, by the drill the rest. Decoding all of them a second time would take a drill about
//! a tenth longer; the drills that hold a negative control do it, and compare the hash of the whole plaintext.

use std::time::Instant;

use jiff::Timestamp;
use pgproof_postgres::restore::{OpenedFrames, ReadArchives};
use pgproof_repository::keys::Identities;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{Object, Role};
use pgproof_repository::report::Outcome;
use pgproof_repository::store::SharedStore;
use pgproof_repository::{contents, custody};

use super::names::OBJECTS;
use super::scratch::{Fault, of_opening, of_restore};
use super::work::Drill;

/// How far an object is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Its header is opened, its bytes are hashed.
    Ciphertext,
    /// Down to the plaintext, which is hashed too.
    Plaintext,
}

impl Drill {
    /// Reads every byte of every object. What is left to open afterwards decides on the check; else it has passed.
    pub(super) async fn read_objects(&mut self) -> bool {
        let since = Instant::now();
        let signed = self.signed.clone();
        let manifest = signed.get();
        for object in &manifest.objects {
            tracing::info!(object = object.name, bytes = object.ciphertext.bytes, "reading through");
            let read = read_object(&self.store, &signed, object, &self.identities, self.depth(object)).await;
            if let Err(fault) = read {
                self.took("read objects", since);
                let detail = self.objects_read();
                self.blame(OBJECTS, fault.about(&object.name), Some(detail));
                return false;
            }
        }
        self.took("read objects", since);
        if self.is_read_to_the_plaintext() {
            let detail = format!("{}, each down to its plaintext", self.objects_read());
            self.enter(OBJECTS, Outcome::Passed, Some(detail));
        }
        self.recipients_shown().await;
        true
    }

    /// Opens what the restore had no need of.
    pub(super) async fn open_rest(&mut self, archives: ReadArchives) {
        if self.is_read_to_the_plaintext() {
            return;
        }
        let since = Instant::now();
        let opened = archives.open_rest().await;
        self.took("open the rest of the archives", since);
        match opened {
            Ok(OpenedFrames { while_restoring, afterwards }) => {
                let detail = format!(
                    "{}; {} frames of archives opened, {while_restoring} of them while restoring",
                    self.objects_read(),
                    while_restoring + afterwards,
                );
                self.enter(OBJECTS, Outcome::Passed, Some(detail));
            }
            Err(error) => {
                let detail = self.objects_read();
                self.blame(OBJECTS, of_restore(&error, false), Some(detail));
            }
        }
    }

    fn depth(&self, object: &Object) -> Depth {
        let opened_later = object.role == Role::Archive && self.dumped.archive.indexed;
        if opened_later && self.control.is_none() { Depth::Ciphertext } else { Depth::Plaintext }
    }

    fn is_read_to_the_plaintext(&self) -> bool {
        self.signed.get().objects.iter().all(|object| self.depth(object) == Depth::Plaintext)
    }

    fn objects_read(&self) -> String {
        let manifest = self.signed.get();
        format!("{} objects, {} bytes", manifest.objects.len(), manifest.stored_bytes())
    }

    /// Whose keys this host holds: they have just opened the backup.
    async fn recipients_shown(&mut self) {
        let identities = self.identities.clone();
        let mut recipients = self.report.recipients.clone();
        let try_all = move || {
            for recipient in &mut recipients {
                match custody::opens(&recipient.key, &identities, &mut rand::rng()) {
                    Ok(true) => recipient.shown_at = Some(Timestamp::now()),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(key = recipient.key, %error, "recipient cannot be tried"),
                }
            }
            recipients
        };
        if let Ok(recipients) = tokio::task::spawn_blocking(try_all).await {
            self.report.recipients = recipients;
        }
    }
}

/// What one object of a backup is worth: read to its last byte.
pub(super) async fn read_object(
    store: &SharedStore,
    signed: &SignedManifest,
    object: &Object,
    identities: &Identities,
    depth: Depth,
) -> Result<(), Fault> {
    let manifest = signed.get();
    let read = match (contents::object_key(&manifest.source, &manifest.id, object), depth) {
        (Ok(key), Depth::Plaintext) => contents::read_through(store, &key, object, Some(identities)).await,
        (Ok(key), Depth::Ciphertext) => contents::open_and_hash(store, &key, object, identities).await,
        (Err(error), _) => Err(error),
    };
    let Err(error) = read else { return Ok(()) };
    let (recipients, identities) = (manifest.recipients.clone(), identities.clone());
    let blamed = tokio::task::spawn_blocking(move || of_opening(&error, &recipients, &identities)).await;
    Err(blamed.unwrap_or_else(|panicked| Fault::Lasting { reason: panicked.to_string() }))
}
