//! Restore points: what was backed up together before a deployment, in one signed list.

use std::fmt;
use std::str::FromStr;

use futures::stream::TryStreamExt;
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, IdError, ManifestSha256, ObjectKey};
use crate::layout;
use crate::records::{self, Record, RecordError};
use crate::signature::{Signer, SigningKey, TrustedSigners, namespace};
use crate::store::SharedStore;

/// Characters of a deployment's reference that must be given at least, so that it is not met by chance.
const REFERENCE_CHARS_MIN: usize = 4;

/// A restore point: formed like a backup's id, and sorted by time like it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RestorePointId(BackupId);

/// Backups of several sources that belong together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestorePoint {
    pub version: u32,
    pub id: RestorePointId,
    pub at: Timestamp,
    pub host: String,
    pub reason: String,
    /// What was deployed next, such as the SHA of a commit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<String>,
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub source: SourceName,
    pub kind: String,
    pub backup: BackupId,
    pub manifest_sha256: ManifestSha256,
    pub snapshot_at: Timestamp,
    /// The backup is an older one, since which nothing had changed.
    #[serde(default)]
    pub unchanged: bool,
}

/// A restore point as it lies in the repository.
#[derive(Debug)]
pub struct Found {
    pub id: RestorePointId,
    /// What cannot be read, or is signed by nobody who is trusted, stands here with the reason.
    pub point: Result<(RestorePoint, Signer), RecordError>,
}

impl RestorePointId {
    pub fn new(now: Timestamp, random: &mut impl Rng) -> Self {
        Self(BackupId::new(now, random))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for RestorePointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RestorePointId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self)
    }
}

impl Record for RestorePoint {
    const NAMESPACE: &'static str = namespace::RESTORE_POINT;

    fn at(&self) -> Timestamp {
        self.at
    }
}

impl RestorePoint {
    /// Signs and stores it.
    pub async fn put(&self, store: &SharedStore, key: &SigningKey) -> Result<(), RecordError> {
        records::put(&**store, &layout::restore_point(&self.id), self, key).await
    }

    pub fn member(&self, source: &SourceName) -> Option<&Member> {
        self.members.iter().find(|member| member.source == *source)
    }
}

/// All restore points, oldest first.
pub async fn list(store: &SharedStore, signers: &TrustedSigners) -> Result<Vec<Found>, RecordError> {
    let prefix = layout::restore_points();
    let listed = store.list(&prefix, None).try_collect::<Vec<_>>().await;
    let objects = listed.map_err(|source| RecordError::Store { source })?;
    let id = |key: &ObjectKey| -> Option<RestorePointId> {
        key.as_str().strip_prefix(prefix.as_str())?.strip_suffix(".json")?.parse().ok()
    };
    let mut found = Vec::new();
    for id in objects.iter().filter_map(|object| id(&object.key)) {
        match get(store, &id, signers).await {
            Err(error) if error.is_of_the_store() => return Err(error),
            point => found.push(Found { id, point }),
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

async fn get(
    store: &SharedStore,
    id: &RestorePointId,
    signers: &TrustedSigners,
) -> Result<(RestorePoint, Signer), RecordError> {
    let (point, signer) = records::get::<RestorePoint>(&**store, &layout::restore_point(id), signers).await?;
    match point.id == *id {
        true => Ok((point, signer)),
        false => Err(RecordError::Elsewhere),
    }
}

/// The newest restore point that was made before the deployment whose reference begins with `reference`.
///
/// # Errors
/// That there is none, or that the beginning fits different references.
pub fn before_deployment<'a>(
    points: &'a [Found],
    reference: &str,
) -> Result<&'a RestorePoint, NoRestorePoint> {
    let reference = reference.trim();
    if reference.chars().count() < REFERENCE_CHARS_MIN {
        return Err(NoRestorePoint::TooShort);
    }
    let good = points.iter().filter_map(|found| found.point.as_ref().ok()).map(|(point, _)| point);
    let fits =
        |point: &&RestorePoint| point.reference.as_ref().is_some_and(|known| known.starts_with(reference));
    let fitting: Vec<&RestorePoint> = good.filter(fits).collect();
    let newest =
        fitting.last().ok_or(NoRestorePoint::Absent { unusable: points.iter().any(|f| f.point.is_err()) })?;
    match fitting.iter().all(|point| point.reference == newest.reference) {
        true => Ok(newest),
        false => Err(NoRestorePoint::Ambiguous),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRestorePoint {
    #[error("a deployment's reference is given with at least {REFERENCE_CHARS_MIN} characters")]
    TooShort,
    #[error("there is no restore point of that deployment{}", if *unusable { ", and some cannot be used" } else { "" })]
    Absent { unusable: bool },
    #[error("more than one deployment's reference begins like that")]
    Ambiguous,
}

impl NoRestorePoint {
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Absent { .. } => "`pgproof restore-point list` shows what is there",
            Self::TooShort | Self::Ambiguous => "give more of the reference",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::signature::generate;
    use crate::store::faulty::{Fault, FaultyStore, Rule};
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    fn found(at: &str, reference: Option<&str>) -> Found {
        let at: Timestamp = at.parse().unwrap();
        let id = RestorePointId::new(at, &mut rand::rng());
        let signer = Signer { principal: "agent".to_owned(), fingerprint: String::new() };
        let point = RestorePoint {
            version: 1,
            id: id.clone(),
            at,
            host: "host".to_owned(),
            reason: "deploy".to_owned(),
            reference: reference.map(str::to_owned),
            members: Vec::new(),
        };
        Found { id, point: Ok((point, signer)) }
    }

    #[test]
    fn a_deployment_is_found_by_the_beginning_of_its_reference() {
        let points = [
            found("2026-11-20T00:00:00Z", Some("9fceb02d")),
            found("2026-11-21T00:00:00Z", None),
            found("2026-11-22T00:00:00Z", Some("9fceb02d")),
            found("2026-11-23T00:00:00Z", Some("9fce1111")),
        ];
        let of = |reference| before_deployment(&points, reference).map(|point| point.id.clone());
        assert_eq!(of("9fceb0"), Ok(points[2].id.clone()), "the newest of two with one reference");
        assert_eq!(of("9fce"), Err(NoRestorePoint::Ambiguous));
        assert_eq!(of("9fc"), Err(NoRestorePoint::TooShort));
        assert_eq!(of("abcdef"), Err(NoRestorePoint::Absent { unusable: false }));
        let absent = NoRestorePoint::Absent { unusable: false };
        assert!(absent.hint().is_some_and(|hint| hint.contains("restore-point list")));
        assert!(NoRestorePoint::TooShort.hint().is_some_and(|hint| hint.contains("more of the reference")));
    }

    #[tokio::test]
    async fn signed_points_in_their_place_are_listed_oldest_first_and_others_with_their_error() {
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let stranger = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let until_2030 = format!("agent valid-before=\"20300101Z\" {}\n", key.public_line());
        let signers = TrustedSigners::parse(&until_2030).unwrap();
        let store: SharedStore = Arc::new(MemoryStore::new());
        let times =
            ["2026-11-22T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z", "2031-01-01T00:00:00Z"];
        let points = times.map(|at| found(at, None).point.unwrap().0);
        for (point, signer) in points.iter().zip([&key, &key, &stranger, &key]) {
            point.put(&store, signer).await.unwrap();
        }
        let elsewhere = found("2026-11-23T00:00:00Z", None).id;
        records::put(&*store, &layout::restore_point(&elsewhere), &points[0], &key).await.unwrap();
        let listed = list(&store, &signers).await.unwrap();
        let told =
            |found: &Found| (found.id.to_string(), found.point.as_ref().err().map(ToString::to_string));
        let bad = || Some("record is badly signed".to_owned());
        let expected = [
            (points[1].id.to_string(), None),
            (points[2].id.to_string(), bad()),
            (points[0].id.to_string(), None),
            (elsewhere.to_string(), Some("record belongs to another place".to_owned())),
            (points[3].id.to_string(), bad()),
        ];
        assert_eq!(listed.iter().map(told).collect::<Vec<_>>(), expected);
        let rule = Rule::on(Operation::Get, Fault::FailBefore);
        let faulty: SharedStore = Arc::new(FaultyStore::scripted(store, vec![rule]));
        assert!(list(&faulty, &signers).await.unwrap_err().is_of_the_store());
    }
}
