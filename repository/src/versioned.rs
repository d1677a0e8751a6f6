//! Stored JSON documents that say of themselves what they are, and in which version.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why a document is none that this program reads.
#[derive(Debug)]
pub enum Refused {
    Unreadable { source: serde_json::Error },
    OtherFormat { format: String },
    Newer { version: u32 },
}

/// Reads `format` and `version` before anything else: of a newer version nothing more need be understood to name it.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], format: &str, version: u32) -> Result<T, Refused> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let unreadable = |source| Refused::Unreadable { source };
    let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
    if head.format != format {
        return Err(Refused::OtherFormat { format: head.format });
    }
    match head.version == version {
        true => serde_json::from_slice(bytes).map_err(unreadable),
        false => Err(Refused::Newer { version: head.version }),
    }
}
