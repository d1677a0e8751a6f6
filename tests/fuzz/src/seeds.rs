//! Sound inputs, from which the damaged ones are made.

use std::sync::OnceLock;

use jiff::Timestamp;
use pgproof_repository::keys::{Recipients, generate_identity};
use pgproof_repository::sealed::seal_bytes;
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use secrecy::SecretString;

pub const NAMESPACE: &str = "pgproof-manifest";
pub const MESSAGE: &[u8] = b"what was signed";

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
        ],
        "trusted_signers" => vec![text(&signed().line)],
        "signature" => vec![text(&signed().signature)],
        "sealed" => vec![sealed().bytes.clone()],
        other => panic!("no target {other:?}"),
    }
}

/// A signature over [`MESSAGE`], and who may make it.
#[derive(Debug)]
pub struct Signed {
    pub signers: TrustedSigners,
    pub line: String,
    pub signature: String,
}

/// A time at which the key is valid.
///
/// # Panics
/// Never.
pub fn at() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().expect("a time")
}

/// Made once in a process, with a key of its own.
///
/// # Panics
/// If a key that was just made cannot be used.
pub fn signed() -> &'static Signed {
    static SIGNED: OnceLock<Signed> = OnceLock::new();
    SIGNED.get_or_init(|| {
        let (private, public) = generate("seed");
        let key = SigningKey::parse(&private, "seed".as_ref()).expect("a key that was just made");
        let line = format!("seed namespaces=\"{NAMESPACE}\",valid-before=\"20990101Z\" {public}\n");
        Signed {
            signers: TrustedSigners::parse(&line).expect("a line"),
            line,
            signature: key.sign(NAMESPACE, MESSAGE).expect("a signature"),
        }
    })
}

/// A small sealed object.
#[derive(Debug)]
pub struct Sealed {
    pub identity: SecretString,
    pub bytes: Vec<u8>,
}

/// Made once in a process, with an identity of its own.
///
/// # Panics
/// If nothing can be sealed to an identity that was just made.
pub fn sealed() -> &'static Sealed {
    static SEALED: OnceLock<Sealed> = OnceLock::new();
    SEALED.get_or_init(|| {
        let (identity, recipient) = generate_identity();
        let recipients = Recipients::parse([recipient]).expect("a recipient");
        let plain = b"a row\n".repeat(200);
        let sealed = seal_bytes(&recipients, 3, &plain).expect("sealed");
        Sealed { identity, bytes: sealed.bytes }
    })
}
