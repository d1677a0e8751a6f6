//! The section `[repository]`: where backups are put.

use std::path::PathBuf;

use super::{
    Checksums, ClassSpans, ConditionalWrites, Location, LockMode, ObjectLock, Provider, Repository, Retain,
    Sse, UPLOAD_PARTS_MAX,
    raw::{Field, Report, Table},
    values::{self, Endpoint},
};
use crate::retention::Class;

/// Keys that say nothing about a directory, and what each has a meaning for.
const STORE_KEYS: [(&str, &[Scheme]); 15] = [
    ("region", &[Scheme::S3]),
    ("endpoint", &[Scheme::S3, Scheme::Google, Scheme::Azure]),
    ("provider", &[Scheme::S3]),
    ("path_style", &[Scheme::S3, Scheme::Azure]),
    ("conditional_writes", &[Scheme::S3]),
    ("checksums", &[Scheme::S3]),
    ("storage_class", &[Scheme::S3]),
    ("sse", &[Scheme::S3]),
    ("sse_kms_key", &[Scheme::S3]),
    ("profile", &[Scheme::S3]),
    ("max_parts", &[Scheme::S3]),
    ("allow_plain_http_reason", &[Scheme::S3, Scheme::Google, Scheme::Azure]),
    ("object_lock", &[Scheme::S3]),
    ("delete_versions", &[Scheme::S3]),
    ("account", &[Scheme::Azure]),
];
/// Classes from which nothing can be read before it was thawed for hours.
const FROZEN_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
/// Longest prefix in bytes: what is left of the 1,024 of an S3 key is ample for the names below it.
const PREFIX_BYTES_MAX: usize = 512;

const LOCATION: &str = "must be \"s3://bucket/prefix\", \"gs://bucket/prefix\", \"az://container/prefix\" or \"file:///directory\"";
/// What other stores have in place of these is set up on the bucket, and pgproof does not ask for it.
const NO_LOCKS: &str = "has a meaning for an s3:// location only: give the bucket object versioning and soft delete, or the \
                        container version-level immutability, instead";

const ACCOUNT: &str = "must be the name of a storage account: 3 to 24 lower-case letters and digits";

enum Place {
    Bucket { scheme: Scheme, bucket: String, prefix: String },
    Directory(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Google,
    Azure,
}

impl Scheme {
    /// The scheme of an address, and what follows it.
    fn of(text: &str) -> Option<(Self, &str)> {
        [(Self::S3, "s3://"), (Self::Google, "gs://"), (Self::Azure, "az://")]
            .into_iter()
            .find_map(|(scheme, start)| Some((scheme, text.strip_prefix(start)?)))
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::S3 => "s3://",
            Self::Google => "gs://",
            Self::Azure => "az://",
        }
    }

    fn has_name(self, name: &str) -> bool {
        match self {
            Self::S3 => is_bucket(name),
            Self::Google => is_google_bucket(name),
            Self::Azure => is_container(name),
        }
    }
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Repository> {
    if !table.has("location") {
        table.missing("location", LOCATION, report);
    }
    let place = table.converted("location", LOCATION, report, place);
    let fields = StoreFields::read(&mut table, report);
    if let Some(place) = &place {
        refuse_meaningless(&table, &place.value, report);
    }
    table.finish(report);
    let (scheme, bucket, prefix) = match place?.value {
        Place::Directory(path) => {
            return Some(Repository {
                location: Location::Directory { path },
                allow_plain_http_reason: None,
            });
        }
        Place::Bucket { scheme, bucket, prefix } => (scheme, bucket, prefix),
    };
    Some(fields.into_repository(scheme, bucket, prefix))
}

fn refuse_meaningless(table: &Table<'_>, place: &Place, report: &mut Report<'_>) {
    let scheme = match place {
        Place::Directory(_) => None,
        Place::Bucket { scheme, .. } => Some(*scheme),
    };
    for (key, schemes) in STORE_KEYS.into_iter().filter(|(key, _)| table.has(key)) {
        if scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
            continue;
        }
        let named: Vec<&str> = schemes.iter().map(|scheme| scheme.prefix()).collect();
        let constraint = match (key, scheme) {
            ("object_lock" | "delete_versions", Some(_)) => NO_LOCKS.to_owned(),
            _ => format!("has a meaning for {} {} location only", article(named[0]), named.join(" or ")),
        };
        table.refuse(key, &constraint, None, report);
    }
}

fn article(name: &str) -> &'static str {
    if name.starts_with('g') { "a" } else { "an" }
}

struct StoreFields {
    region: Option<String>,
    endpoint: Option<String>,
    provider: Option<Provider>,
    path_style: Option<bool>,
    conditional_writes: Option<ConditionalWrites>,
    checksums: Option<Checksums>,
    storage_class: Option<String>,
    sse: Option<Sse>,
    profile: Option<String>,
    max_parts: Option<u32>,
    object_lock: Option<Box<ObjectLock>>,
    delete_versions: bool,
    account: Option<String>,
    allow_plain_http_reason: Option<String>,
}

impl StoreFields {
    fn read(table: &mut Table<'_>, report: &mut Report<'_>) -> Self {
        let reason = table.text("allow_plain_http_reason", report).map(|field| field.value);
        let endpoint = table.text("endpoint", report);
        if let Some(endpoint) = &endpoint {
            check_endpoint(endpoint, reason.is_some(), report);
        }
        let class = "must be the name of a storage class whose objects can be read at once";
        Self {
            region: table.text("region", report).map(|field| field.value),
            endpoint: endpoint.map(|field| field.value),
            provider: table
                .converted("provider", &provider_constraint(), report, Provider::by_name)
                .map(|field| field.value),
            path_style: table.flag("path_style", report).map(|field| field.value),
            conditional_writes: table
                .converted(
                    "conditional_writes",
                    ConditionalWrites::CONSTRAINT,
                    report,
                    ConditionalWrites::by_name,
                )
                .map(|field| field.value),
            checksums: table
                .converted("checksums", Checksums::CONSTRAINT, report, Checksums::by_name)
                .map(|field| field.value),
            storage_class: table
                .converted("storage_class", class, report, storage_class)
                .map(|field| field.value),
            sse: sse(table, report),
            profile: table.text("profile", report).map(|field| field.value),
            max_parts: table.number("max_parts", 1..=UPLOAD_PARTS_MAX, report),
            object_lock: table
                .table("object_lock", report)
                .and_then(|table| object_lock(table, report))
                .map(Box::new),
            delete_versions: table.flag("delete_versions", report).is_some_and(|field| field.value),
            account: table
                .converted("account", ACCOUNT, report, |text| is_account(text).then(|| text.to_owned()))
                .map(|field| field.value),
            allow_plain_http_reason: reason,
        }
    }

    fn into_repository(self, scheme: Scheme, bucket: String, prefix: String) -> Repository {
        let location = match scheme {
            Scheme::S3 => Location::S3 {
                bucket,
                prefix,
                region: self.region,
                endpoint: self.endpoint,
                provider: self.provider,
                path_style: self.path_style,
                conditional_writes: self.conditional_writes,
                checksums: self.checksums,
                storage_class: self.storage_class,
                sse: self.sse,
                profile: self.profile,
                max_parts: self.max_parts,
                object_lock: self.object_lock,
                delete_versions: self.delete_versions,
            },
            Scheme::Google => Location::Google { bucket, prefix, endpoint: self.endpoint },
            Scheme::Azure => Location::Azure {
                container: bucket,
                prefix,
                account: self.account,
                endpoint: self.endpoint,
                path_style: self.path_style.unwrap_or(false),
            },
        };
        Repository { location, allow_plain_http_reason: self.allow_plain_http_reason }
    }
}

fn provider_constraint() -> String {
    let names: Vec<String> =
        Provider::ALL.iter().map(|provider| format!("\"{}\"", provider.name())).collect();
    format!("must be one of {}; left out for a store of another make", names.join(", "))
}

fn place(text: &str) -> Option<Place> {
    if let Some(path) = text.strip_prefix("file://") {
        let odd = |letter: char| letter.is_control() || "%?#".contains(letter);
        return (path.starts_with('/') && !path.contains(odd)).then(|| Place::Directory(PathBuf::from(path)));
    }
    let (scheme, rest) = Scheme::of(text)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let prefix_fits = prefix.is_empty() || prefix.split('/').all(is_prefix_part);
    let fits = scheme.has_name(bucket) && prefix_fits && prefix.len() <= PREFIX_BYTES_MAX;
    fits.then(|| Place::Bucket { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// See <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
fn is_bucket(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends_well =
        bytes.first().is_some_and(|&byte| plain(byte)) && bytes.last().is_some_and(|&byte| plain(byte));
    let letters_fit = bytes.iter().all(|&byte| plain(byte) || byte == b'-' || byte == b'.');
    (3..=63).contains(&bytes.len()) && ends_well && letters_fit
}

/// See <https://cloud.google.com/storage/docs/buckets#naming>.
fn is_google_bucket(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends_well =
        [bytes.first(), bytes.last()].into_iter().all(|byte| byte.is_some_and(|&byte| plain(byte)));
    let letters_fit = bytes.iter().all(|&byte| plain(byte) || b"-_.".contains(&byte));
    (3..=222).contains(&bytes.len())
        && ends_well
        && letters_fit
        && name.split('.').all(|part| (1..=63).contains(&part.len()))
}

/// See <https://learn.microsoft.com/en-us/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>.
fn is_container(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let parts_fit = name.split('-').all(|part| !part.is_empty() && part.bytes().all(plain));
    (3..=63).contains(&name.len()) && parts_fit
}

/// See <https://learn.microsoft.com/en-us/azure/storage/common/storage-account-overview#storage-account-name>.
fn is_account(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=24).contains(&name.len()) && name.bytes().all(plain)
}

/// No part that a tool or a file system could take for something else.
fn is_prefix_part(part: &str) -> bool {
    let fits = |letter: char| letter.is_alphanumeric() || "-_.=+@~!".contains(letter);
    !part.is_empty() && part != "." && part != ".." && part.chars().all(fits)
}

fn storage_class(name: &str) -> Option<String> {
    let letters_fit =
        name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let fits = !name.is_empty() && letters_fit && !FROZEN_CLASSES.contains(&name);
    fits.then(|| name.to_owned())
}

fn object_lock(mut table: Table<'_>, report: &mut Report<'_>) -> Option<ObjectLock> {
    const MODE: &str = "must be \"governance\" or \"compliance\"";
    const RETAIN: &str = "must be a duration such as \"35d\", or \"by class\"";
    for (key, constraint) in [("mode", MODE), ("retain", RETAIN)] {
        if !table.has(key) {
            table.missing(key, constraint, report);
        }
    }
    let mode = table.converted("mode", MODE, report, |text| match text {
        "governance" => Some(LockMode::Governance),
        "compliance" => Some(LockMode::Compliance),
        _ => None,
    });
    // `None` for "by class".
    let retain = table.converted("retain", RETAIN, report, |text| match text {
        "by class" => Some(None),
        duration => values::duration(duration).map(Some),
    });
    let otherwise = table.duration("otherwise", report);
    let spans = Class::ALL
        .into_iter()
        .fold(ClassSpans::default(), |spans, class| spans.with(class, table.duration(class.name(), report)));
    let retain = retain?.value;
    match retain {
        Some(_) => {
            let by_class = Class::ALL.map(Class::name);
            for key in by_class.into_iter().chain(["otherwise"]).filter(|key| table.has(key)) {
                table.refuse(key, "has a meaning with `retain = \"by class\"` only", None, report);
            }
        }
        None if !table.has("otherwise") => {
            let constraint =
                "must say how long records are locked, and backups that no rule with a length keeps";
            table.missing("otherwise", constraint, report);
        }
        None => {}
    }
    table.finish(report);
    let retain = match retain {
        Some(span) => Retain::For(span),
        None => Retain::ByClass { otherwise: otherwise?, spans },
    };
    Some(ObjectLock { mode: mode?.value, retain })
}

fn sse(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Sse> {
    let key = table.text("sse_kms_key", report);
    let kind = table.converted("sse", "must be \"AES256\" or \"aws:kms\"", report, |text| match text {
        "AES256" => Some(Sse::Aes256),
        "aws:kms" => Some(Sse::Kms { key_id: None }),
        _ => None,
    });
    match (kind.map(|field| field.value), key) {
        (Some(Sse::Kms { .. }), key) => Some(Sse::Kms { key_id: key.map(|field| field.value) }),
        (kind, Some(key)) => {
            report.refuse(&key, "has a meaning with `sse = \"aws:kms\"` only", None);
            kind
        }
        (kind, None) => kind,
    }
}

fn check_endpoint(endpoint: &Field<String>, plain_http_is_allowed: bool, report: &mut Report<'_>) {
    match values::endpoint(&endpoint.value) {
        Endpoint::Safe => {}
        Endpoint::PlainToAnotherHost if plain_http_is_allowed => {}
        Endpoint::PlainToAnotherHost => {
            let constraint =
                "must start with https:// unless it is this host, or `allow_plain_http_reason` says why not";
            report.refuse(endpoint, constraint, Some(format!("{:?}", endpoint.value)));
        }
        // Not repeated: what stands before an @ may be a secret.
        Endpoint::Malformed => {
            report.refuse(endpoint, "must be https://host or https://host:port and nothing more", None);
        }
    }
}
