//! Whose signatures count: OpenSSH's `allowed_signers` format, the part of it that has a use here.

use ed25519_dalek::{Signature, VerifyingKey};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, LineEnding, PublicKey, SshSig};

use super::{Claim, SIGNATURE_BYTES_MAX, SignatureError, Signer, SigningKey};

/// The signers named by a file of the form `ssh-keygen(1)` calls allowed signers.
#[derive(Debug, Clone, Default)]
pub struct TrustedSigners {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    principal: String,
    key: PublicKey,
    /// The same as a point of the curve, which is worked out once and not for each signature.
    point: VerifyingKey,
    /// `SHA256:…`
    fingerprint: String,
    /// Patterns with `*` and `?`; none means every namespace.
    namespaces: Option<Vec<String>>,
    valid_after: Option<Timestamp>,
    valid_before: Option<Timestamp>,
}

/// The line that believes a public key what it signs for these namespaces, and nothing else.
pub fn trusted_line(principal: &str, namespaces: &[&str], public: &str) -> String {
    format!("{principal} namespaces=\"{}\" {public}", namespaces.join(","))
}

impl TrustedSigners {
    /// Reads the lines `principals [options] ssh-ed25519 AAAA… [comment]`. One bad line spoils the file: a key that
    /// was meant to be limited must not become unlimited by a misspelling.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let entries =
            lines.map(|(line, text)| parse_entry(text).map_err(|reason| TrustError { line, reason }));
        Ok(Self { entries: entries.collect::<Result<_, _>>()? })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Accepts `signature` over `bytes` if a trusted key made it for `namespace` and was valid at `at`.
    pub fn verify(
        &self,
        namespace: &str,
        bytes: &[u8],
        signature: &str,
        at: Timestamp,
    ) -> Result<Signer, SignatureError> {
        self.claim(namespace, bytes, signature, at)?.check()
    }

    /// The same but for the equation on the curve, which is cheaper for many together ([`super::check_all`]).
    ///
    /// # Errors
    /// Of a signature that no equation could make good.
    pub fn claim(
        &self,
        namespace: &str,
        bytes: &[u8],
        signature: &str,
        at: Timestamp,
    ) -> Result<Claim, SignatureError> {
        let signature = parse_signature(signature)?;
        let known: Vec<&Entry> = self.entries_of(signature.public_key()).collect();
        let [first, ..] = known[..] else {
            let fingerprint = signature.public_key().fingerprint(HashAlg::Sha256).to_string();
            return Err(SignatureError::UnknownSigner { fingerprint });
        };
        if signature.namespace() != namespace {
            let (expected, found) = (namespace.to_owned(), signature.namespace().chars().take(64).collect());
            return Err(SignatureError::WrongNamespace { expected, found });
        }
        let malformed = |source| SignatureError::Malformed { source };
        let signed_data = SshSig::signed_data(namespace, signature.hash_alg(), bytes).map_err(malformed)?;
        let curve = Signature::from_slice(signature.signature_bytes());
        let curve = curve.map_err(|_| malformed(ssh_key::Error::FormatEncoding))?;
        let signer = permitting(&known, namespace, at).map(|entry| Signer {
            principal: entry.principal.clone(),
            fingerprint: entry.fingerprint.clone(),
        });
        Ok(Claim {
            key: first.point,
            principal: first.principal.clone(),
            signed_data,
            signature: curve,
            signer,
        })
    }

    /// Whether what `key` signs for `namespace` at `at` would count. A schedule that goes by what is signed must know it: it
    /// would otherwise do the same work again and again.
    ///
    /// # Errors
    /// Why it would not.
    pub fn would_accept(
        &self,
        key: &SigningKey,
        namespace: &str,
        at: Timestamp,
    ) -> Result<(), SignatureError> {
        let probe = namespace.as_bytes();
        self.verify(namespace, probe, &key.sign(namespace, probe)?, at).map(drop)
    }

    fn entries_of(&self, key: &KeyData) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.key.key_data() == key)
    }
}

/// A line of the trusted signers that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the trusted signers: {reason}")]
pub struct TrustError {
    pub line: usize,
    pub reason: String,
}

impl TrustError {
    pub fn hint(&self) -> Option<String> {
        Some(
            "a line reads: principal [namespaces=\"…\",valid-before=\"20271231Z\"] ssh-ed25519 AAAA…"
                .to_owned(),
        )
    }
}

fn parse_signature(text: &str) -> Result<SshSig, SignatureError> {
    if text.len() > SIGNATURE_BYTES_MAX {
        return Err(SignatureError::TooLong { bytes: text.len() });
    }
    let signature =
        SshSig::from_pem(text.trim_start()).map_err(|source| SignatureError::Malformed { source })?;
    if signature.version() != SshSig::VERSION {
        // The version is not part of what is signed, so it is compared here.
        let source = ssh_key::Error::Version { number: signature.version() };
        return Err(SignatureError::Malformed { source });
    }
    // The reserved field is not part of it either: `ssh-keygen` writes none.
    if !signature.reserved().is_empty() || !is_canonical(&signature, text) {
        return Err(SignatureError::Malformed { source: ssh_key::Error::FormatEncoding });
    }
    match (signature.public_key().algorithm(), signature.algorithm()) {
        (Algorithm::Ed25519, Algorithm::Ed25519) => Ok(signature),
        (Algorithm::Ed25519, other) | (other, _) => {
            Err(SignatureError::Algorithm { algorithm: other.to_string() })
        }
    }
}

/// Whether writing the signature again gives `text`. The decoder overlooks wrong lengths that `ssh-keygen` refuses, and
/// both programs must judge alike.
fn is_canonical(signature: &SshSig, text: &str) -> bool {
    fn printed(text: &str) -> impl Iterator<Item = u8> {
        text.bytes().filter(|byte| !byte.is_ascii_whitespace())
    }
    signature.to_pem(LineEnding::LF).is_ok_and(|canonical| printed(&canonical).eq(printed(text)))
}

/// The line that lets its key sign this at that time; else what the nearest one lacks.
fn permitting<'a>(
    entries: &[&'a Entry],
    namespace: &str,
    at: Timestamp,
) -> Result<&'a Entry, SignatureError> {
    let for_namespace: Vec<_> = entries.iter().copied().filter(|e| e.permits(namespace)).collect();
    let Some(nearest) = for_namespace.first() else {
        let (principal, namespace) = (entries[0].principal.clone(), namespace.to_owned());
        return Err(SignatureError::NamespaceNotAllowed { principal, namespace });
    };
    let not_valid = || SignatureError::NotValidAt { principal: nearest.principal.clone(), at };
    for_namespace.iter().copied().find(|e| e.is_valid_at(at)).ok_or_else(not_valid)
}

impl Entry {
    fn permits(&self, namespace: &str) -> bool {
        let Some(patterns) = &self.namespaces else { return true };
        patterns.iter().any(|pattern| matches_pattern(pattern.as_bytes(), namespace.as_bytes()))
    }

    /// Both ends belong to the span, as in `ssh-keygen`.
    fn is_valid_at(&self, at: Timestamp) -> bool {
        self.valid_after.is_none_or(|after| at >= after)
            && self.valid_before.is_none_or(|before| at <= before)
    }
}

fn parse_entry(line: &str) -> Result<Entry, String> {
    let (principal, rest) = split_field(line)?;
    let principal = principal.trim_matches('"').to_owned();
    if principal.is_empty() {
        return Err("the principal is empty".to_owned());
    }
    let (options, key) = if starts_with_key_type(rest) { ("", rest) } else { split_field(rest)? };
    let key = PublicKey::from_openssh(key).map_err(|error| format!("no public key: {error}"))?;
    let Some(bytes) = key.key_data().ed25519() else {
        return Err(format!("key type {} is not accepted, only ssh-ed25519", key.algorithm()));
    };
    let point = VerifyingKey::from_bytes(&bytes.0).map_err(|error| format!("no public key: {error}"))?;
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    let entry =
        Entry { principal, key, point, fingerprint, namespaces: None, valid_after: None, valid_before: None };
    split_options(options)?.into_iter().try_fold(entry, apply_option)
}

fn apply_option(mut entry: Entry, option: &str) -> Result<Entry, String> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let repeated = match name.to_ascii_lowercase().as_str() {
        "namespaces" => entry.namespaces.replace(parse_namespaces(value)?).is_some(),
        "valid-after" => entry.valid_after.replace(parse_time(value)?).is_some(),
        "valid-before" => entry.valid_before.replace(parse_time(value)?).is_some(),
        "cert-authority" => return Err("option cert-authority is not supported".to_owned()),
        other => return Err(format!("unknown option {other:?}")),
    };
    if repeated { Err(format!("option {name} is given twice")) } else { Ok(entry) }
}

fn parse_namespaces(value: &str) -> Result<Vec<String>, String> {
    let patterns: Vec<String> = value.split(',').map(|p| p.trim().to_owned()).collect();
    if patterns.iter().any(|p| p.is_empty() || p.starts_with('!')) {
        return Err("namespaces must be a list of names; empty and negated ones are not supported".to_owned());
    }
    Ok(patterns)
}

/// `YYYYMMDDZ` or `YYYYMMDDHHMM[SS]Z`. OpenSSH reads times without Z in the machine's zone; here they are refused,
/// because one file must mean the same on every host.
fn parse_time(value: &str) -> Result<Timestamp, String> {
    let bad = || format!("time {value:?} must read YYYYMMDDZ or YYYYMMDDHHMM[SS]Z, in UTC");
    let digits = value.strip_suffix('Z').filter(|d| d.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad)?;
    let padded = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return Err(bad()),
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%S", &padded).map_err(|_| bad())?;
    Ok(civil.to_zoned(TimeZone::UTC).map_err(|_| bad())?.timestamp())
}

/// The first field, in which blanks may stand between quotes, and what follows it.
fn split_field(text: &str) -> Result<(&str, &str), String> {
    let end = position_outside_quotes(text, |b| b == b' ' || b == b'\t');
    let end = end.ok_or("the line ends before its key")?;
    Ok((&text[..end], text[end..].trim_start()))
}

fn split_options(mut text: &str) -> Result<Vec<&str>, String> {
    let mut options = Vec::new();
    while !text.is_empty() {
        let end = position_outside_quotes(text, |b| b == b',').unwrap_or(text.len());
        let option = &text[..end];
        if option.is_empty() || option.bytes().filter(|b| *b == b'"').count() % 2 != 0 {
            return Err(format!("option {option:?} is malformed"));
        }
        options.push(option);
        text = text.get(end + 1..).unwrap_or("");
    }
    Ok(options)
}

fn position_outside_quotes(text: &str, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut quoted = false;
    text.bytes().position(|b| {
        quoted ^= b == b'"';
        !quoted && wanted(b)
    })
}

fn starts_with_key_type(text: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| text.starts_with(prefix))
}

fn matches_pattern(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => matches_pattern(rest, text),
        (Some((b'*', rest)), Some((_, tail))) => {
            matches_pattern(rest, text) || matches_pattern(pattern, tail)
        }
        (Some((b'?', rest)), Some((_, tail))) => matches_pattern(rest, tail),
        (Some((a, rest)), Some((b, tail))) => a == b && matches_pattern(rest, tail),
        _ => false,
    }
}
