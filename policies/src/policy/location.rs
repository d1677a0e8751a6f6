//! The section `[repository]`: where backups are put.

use std::path::PathBuf;

use super::{
    Checksums, ClassSpans, ConditionalWrites, Location, LockMode, ObjectLock, Provider, Repository, Retain,
    Sse, UPLOAD_PARTS_MAX,
    raw::{Field, Report, Table},
    values::{self, Endpoint},
};
use crate::retention::Class;

/// Keys that say nothing about a directory.
const S3_KEYS: [&str; 14] = [
    "region",
    "endpoint",
    "provider",
    "path_style",
    "conditional_writes",
    "checksums",
    "storage_class",
    "sse",
    "sse_kms_key",
    "profile",
    "max_parts",
    "allow_plain_http_reason",
    "object_lock",
    "delete_versions",
];
/// Classes from which nothing can be read before it was thawed for hours.
const FROZEN_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
/// Longest prefix in bytes: what is left of the 1,024 of an S3 key is ample for the names below it.
const PREFIX_BYTES_MAX: usize = 512;

const LOCATION: &str = "must be \"s3://bucket/prefix\" or \"file:///directory\"";

enum Place {
    Bucket { bucket: String, prefix: String },
    Directory(PathBuf),
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Repository> {
    if !table.has("location") {
        table.missing("location", LOCATION, report);
    }
    let place = table.converted("location", LOCATION, report, place);
    let s3 = S3Fields::read(&mut table, report);
    if let Some(Field { value: Place::Directory(_), .. }) = &place {
        for key in S3_KEYS.into_iter().filter(|key| table.has(key)) {
            table.refuse(key, "has a meaning for an s3:// location only", None, report);
        }
    }
    table.finish(report);
    let repository = match place?.value {
        Place::Directory(path) => {
            Repository { location: Location::Directory { path }, allow_plain_http_reason: None }
        }
        Place::Bucket { bucket, prefix } => s3.into_repository(bucket, prefix),
    };
    Some(repository)
}

struct S3Fields {
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
    allow_plain_http_reason: Option<String>,
}

impl S3Fields {
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
            allow_plain_http_reason: reason,
        }
    }

    fn into_repository(self, bucket: String, prefix: String) -> Repository {
        let location = Location::S3 {
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
    let rest = text.strip_prefix("s3://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let prefix_fits = prefix.is_empty() || prefix.split('/').all(is_prefix_part);
    let fits = is_bucket(bucket) && prefix_fits && prefix.len() <= PREFIX_BYTES_MAX;
    fits.then(|| Place::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
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
