//! Sound inputs, from which the damaged ones are made, and those that a fuzzer found something with.
//!
//! Keys and what was made with them are files: inputs that a fuzzer keeps must mean the same in its next process.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use pgproof_repository::keys::{Identities, NoPrompts};
use pgproof_repository::signature::TrustedSigners;
use secrecy::SecretString;

pub const NAMESPACE: &str = "pgproof-manifest";
pub const MESSAGE: &[u8] = b"what was signed";
/// Of [`MESSAGE`], made with `ssh-keygen -Y sign` and a key that was thrown away.
pub const SIGNATURE: &str = include_str!("../seeds/manifest.json.sig");

const TRUSTED_SIGNERS: &str = include_str!("../seeds/trusted_signers");
/// A small sealed object, made with `zstd` and `age`.
const SEALED: &[u8] = include_bytes!("../seeds/sealed.zst.age");
const IDENTITY: &str = include_str!("../seeds/identity.txt");

/// The sound inputs of a target.
///
/// # Panics
/// If there is no target of that name.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let text = |text: &str| text.as_bytes().to_vec();
    match target {
        "archive" => vec![
            include_bytes!("../seeds/shop-15.dump").to_vec(),
            include_bytes!("../seeds/shop-16.dump").to_vec(),
            include_bytes!("../seeds/shop-18.dump").to_vec(),
        ],
        "manifest" => vec![
            include_bytes!("../../../repository/fixtures/manifest.v1.json").to_vec(),
            include_bytes!("../../../repository/fixtures/manifest.files.v1.json").to_vec(),
            include_bytes!("../../../repository/fixtures/manifest.files.incremental.v1.json").to_vec(),
            include_bytes!("../../../repository/fixtures/manifest.imported.v1.json").to_vec(),
            include_bytes!("../../../repository/fixtures/manifest.streams.v1.json").to_vec(),
        ],
        "report" => vec![include_bytes!("../../../repository/fixtures/report.v1.json").to_vec()],
        "inventory" => vec![include_bytes!("../seeds/inventory.json").to_vec()],
        "files_index" => vec![
            include_bytes!("../seeds/files-inventory.json").to_vec(),
            include_bytes!("../seeds/files-index.jsonl").to_vec(),
        ],
        "policy" => vec![
            include_bytes!("../../../policies/examples/deployment.toml").to_vec(),
            include_bytes!("../../../policies/examples/several.toml").to_vec(),
            include_bytes!("../../../policies/examples/files.toml").to_vec(),
        ],
        "globals" => vec![include_bytes!("../seeds/globals.sql").to_vec()],
        "moment" => vec![
            text("2026-11-24 01:30 Europe/Berlin"),
            text("2026-11-24T02:30:00+02:00[Europe/Kyiv]"),
            text("yesterday 02:00 UTC"),
            text("2 hours 3 minutes ago"),
            // Found: before the year one, which was written in a form that was not read again.
            text("220622w7ms ago"),
        ],
        "trusted_signers" => vec![text(TRUSTED_SIGNERS)],
        "signature" => vec![text(SIGNATURE)],
        "sealed" => vec![SEALED.to_vec()],
        other => panic!("no target {other:?}"),
    }
}

/// A time at which the key is valid.
///
/// # Panics
/// Never.
pub fn at() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().expect("a time")
}

/// Who may sign [`MESSAGE`].
///
/// # Panics
/// Never.
pub fn signers() -> &'static TrustedSigners {
    static SIGNERS: OnceLock<TrustedSigners> = OnceLock::new();
    SIGNERS.get_or_init(|| TrustedSigners::parse(TRUSTED_SIGNERS).expect("a line"))
}

/// Who may open the sealed object.
///
/// # Panics
/// Never.
pub fn identities() -> &'static Identities {
    static IDENTITIES: OnceLock<Identities> = OnceLock::new();
    IDENTITIES.get_or_init(|| {
        Identities::parse(&SecretString::from(IDENTITY), "seed".as_ref(), Arc::new(NoPrompts))
            .expect("an identity")
    })
}
