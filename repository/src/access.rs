//! Opening a repository as a policy says: the policy file, the store, the keys.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgproof_policies::locks::Locks;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{ConditionalWrites, Location, Policy, PolicyProblems, Provider, Source, Sse};
use sha2::{Digest, Sha256};

use crate::keys::{Identities, KeyError, KeyPrompts, Recipients};
use crate::signature::{SignatureError, SigningKey, TrustError, TrustedSigners};
use crate::store::azure::{self, AzureSettings};
use crate::store::conditions::Conditions;
use crate::store::directory::DirectoryStore;
use crate::store::google::{self, GoogleSettings};
use crate::store::providers::{self, Profile};
use crate::store::retry::{RetryPolicy, RetryStore};
use crate::store::s3::{S3Settings, S3Store, Sse as S3Sse};
use crate::store::{SharedStore, StoreError};

/// What the policy is called in the folder where somebody works.
pub const POLICY_HERE: &str = "pgproof.toml";

/// The policy to go by: the one that was named; else the one in this folder; else the one of the host, whose path this is.
pub fn policy_path(named: Option<PathBuf>, of_host: &str) -> PathBuf {
    let [here, of_host] = [POLICY_HERE, of_host].map(PathBuf::from);
    named.unwrap_or_else(
        || if !is_here(here.symlink_metadata()) && is_there(&of_host) { of_host } else { here },
    )
}

/// A folder that may not be searched, such as root's for a service that was begun in it, holds no policy of this account.
fn is_here(looked: io::Result<Metadata>) -> bool {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    looked.map_or_else(|error| !absent.contains(&error.kind()), |_| true)
}

/// One that is there and must not be looked at is to be told of as such.
fn is_there(path: &Path) -> bool {
    !matches!(path.try_exists(), Ok(false))
}

/// A policy that was read and found sound.
#[derive(Debug, Clone)]
pub struct LoadedPolicy {
    pub policy: Policy,
    pub path: PathBuf,
    /// SHA-256 of the file's bytes, in hexadecimal: which policy was in force.
    pub sha256: String,
}

impl LoadedPolicy {
    pub fn read(path: &Path) -> Result<Self, AccessError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| AccessError::PolicyFile { path: path.to_owned(), source })?;
        let policy = Policy::parse(&text, &path.display().to_string())
            .map_err(|source| AccessError::Policy { source })?;
        let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
        Ok(Self { policy, path: path.to_owned(), sha256 })
    }

    /// The same with the verifier's own keys and credentials.
    #[must_use]
    pub fn for_verifier(self) -> Self {
        Self { policy: self.policy.for_verifier(), ..self }
    }

    pub fn source(&self, name: &SourceName) -> Result<&Source, AccessError> {
        let known = || self.policy.sources.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let unknown = || AccessError::NoSuchSource { name: name.clone(), known: known() };
        self.policy.sources.get(name).ok_or_else(unknown)
    }

    /// The store, with retries that carry it through an outage of a minute. A folder that is not there is not made,
    /// since it may be a disk that is away: see [`Self::make_place`].
    pub async fn open_store(&self) -> Result<SharedStore, AccessError> {
        self.open_store_to_look(RetryPolicy::default()).await
    }

    /// The same, for somebody who waits no longer than `patience` says.
    pub async fn open_store_to_look(&self, patience: RetryPolicy) -> Result<SharedStore, AccessError> {
        trying(self.open_once().await, patience)
    }

    /// The same, for somebody who goes on where a folder is away, until it is back.
    pub async fn open_store_to_watch(&self, patience: RetryPolicy) -> Result<SharedStore, AccessError> {
        trying(Box::pin(self.open_with(|path| Ok(DirectoryStore::at(path)))).await, patience)
    }

    /// The store, which tries nothing again.
    pub async fn open_once(&self) -> Result<SharedStore, StoreError> {
        Box::pin(self.open_with(|path| DirectoryStore::open_existing(path))).await
    }

    /// Makes the folder (not its parents) of a repository that lies in one: for whoever begins a repository.
    pub fn make_place(&self) -> Result<(), AccessError> {
        match &self.policy.repository.location {
            Location::Directory { path } => {
                DirectoryStore::open(path).map(drop).map_err(|source| AccessError::Store { source })
            }
            Location::S3 { .. } | Location::Google { .. } | Location::Azure { .. } => Ok(()),
        }
    }

    /// Whether the repository lies in a folder. One that is empty may be the place of a disk that is not mounted.
    pub fn is_in_a_folder(&self) -> bool {
        matches!(self.policy.repository.location, Location::Directory { .. })
    }

    async fn open_with(
        &self,
        open: fn(&Path) -> Result<DirectoryStore, StoreError>,
    ) -> Result<SharedStore, StoreError> {
        let location = &self.policy.repository.location;
        match location.clone() {
            Location::Directory { path } => Ok(Arc::new(open(&path)?)),
            Location::S3 { bucket, prefix, .. } => {
                let common = S3Settings { locks: Locks::of(&self.policy), ..S3Settings::new(bucket, prefix) };
                Ok(Arc::new(S3Store::connect(s3_settings(common, location)).await?))
            }
            Location::Google { bucket, prefix, endpoint } => {
                Box::pin(google::connect(GoogleSettings { bucket, prefix, endpoint })).await
            }
            Location::Azure { container, prefix, account, endpoint, path_style } => {
                let settings = AzureSettings { container, prefix, account, endpoint, path_style };
                Box::pin(azure::connect(settings)).await
            }
        }
    }

    /// How the bucket is reached; none where the repository is not in S3.
    pub fn s3_settings(&self) -> Option<S3Settings> {
        match &self.policy.repository.location {
            Location::Directory { .. } | Location::Google { .. } | Location::Azure { .. } => None,
            location @ Location::S3 { bucket, prefix, .. } => {
                Some(s3_settings(S3Settings::new(bucket, prefix), location))
            }
        }
    }

    /// What is known of S3's provider; nothing of other places, and of a store that nobody named.
    pub fn provider_profile(&self) -> Option<&'static Profile> {
        match &self.policy.repository.location {
            Location::Directory { .. } | Location::Google { .. } | Location::Azure { .. } => None,
            Location::S3 { provider, endpoint, .. } => provider_profile(*provider, endpoint.as_deref()),
        }
    }

    pub fn recipients(&self) -> Result<Recipients, AccessError> {
        Recipients::parse(&self.policy.recipients).map_err(|source| AccessError::Keys { source })
    }

    pub fn signing_key(&self) -> Result<SigningKey, AccessError> {
        let path = self
            .policy
            .signing_key
            .as_deref()
            .ok_or(AccessError::NotInPolicy { field: "keys.signing_key" })?;
        SigningKey::load(path).map_err(|source| AccessError::Signing { path: path.to_owned(), source })
    }

    pub fn trusted_signers(&self) -> Result<TrustedSigners, AccessError> {
        let path = self
            .policy
            .trusted_signers
            .as_deref()
            .ok_or(AccessError::NotInPolicy { field: "keys.trusted_signers" })?;
        let text = std::fs::read_to_string(path)
            .map_err(|source| AccessError::KeyFile { path: path.to_owned(), source })?;
        TrustedSigners::parse(&text).map_err(|source| AccessError::Signers { path: path.to_owned(), source })
    }

    /// Whether this host is meant to read backups.
    pub fn has_identity(&self) -> bool {
        !self.policy.identity_files.is_empty()
    }

    pub fn identities(&self, prompts: Arc<dyn KeyPrompts>) -> Result<Identities, AccessError> {
        if !self.has_identity() {
            return Err(AccessError::NotInPolicy { field: "keys.identity_files" });
        }
        Identities::load(&self.policy.identity_files, prompts).map_err(|source| AccessError::Keys { source })
    }
}

fn trying(store: Result<SharedStore, StoreError>, patience: RetryPolicy) -> Result<SharedStore, AccessError> {
    let store = store.map_err(|source| AccessError::Store { source })?;
    Ok(Arc::new(RetryStore::with_policy(store, patience)))
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    #[error("policy {} cannot be read", path.display())]
    PolicyFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("policy is not usable")]
    Policy {
        #[source]
        source: PolicyProblems,
    },
    #[error("there is no source {name} in the policy (it has: {known})")]
    NoSuchSource { name: SourceName, known: String },
    #[error("the policy does not set {field}, which this command needs")]
    NotInPolicy { field: &'static str },
    #[error("{} cannot be read", path.display())]
    KeyFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be used", path.display())]
    Signing {
        path: PathBuf,
        #[source]
        source: SignatureError,
    },
    #[error("{} cannot be used", path.display())]
    Signers {
        path: PathBuf,
        #[source]
        source: TrustError,
    },
    #[error("keys cannot be used")]
    Keys {
        #[source]
        source: KeyError,
    },
    #[error("repository cannot be opened")]
    Store {
        #[source]
        source: StoreError,
    },
}

impl AccessError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::PolicyFile { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "run this as the policy's owner or as the service's account, or let this account read it: chgrp GROUP, chmod 640 \
                 (600 if it is its owner's alone)",
            ),
            Self::PolicyFile { .. } => {
                Some("name the policy with --policy FILE or PGPROOF_POLICY, or write one with `pgproof init`")
            }
            Self::NotInPolicy { field: "keys.identity_files" } => Some(
                "reading backups takes an identity: run this on a restore host, whose policy names `keys.identity_files`",
            ),
            Self::NoSuchSource { .. } => Some("name one of these, or add a [sources.NAME] to the policy"),
            Self::KeyFile { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "`keys.trusted_signers` in the policy names this file: correct the path, or let this account read it: chgrp GROUP, \
                 chmod 640",
            ),
            Self::KeyFile { .. } => Some(
                "`keys.trusted_signers` in the policy names this file: restore it, or write the public keys that sign \
                 backups into a new one",
            ),
            Self::NotInPolicy { .. } => Some("add it to the policy; `pgproof init` shows how"),
            _ => None,
        }
    }
}

/// What the policy says of a bucket, over the ways of its provider, over the common case.
fn s3_settings(common: S3Settings, location: &Location) -> S3Settings {
    let Location::S3 {
        region,
        endpoint,
        provider,
        path_style,
        conditional_writes,
        checksums,
        storage_class,
        sse,
        profile,
        max_parts,
        delete_versions,
        ..
    } = location
    else {
        return common;
    };
    let sse = sse.as_ref().map(|sse| match sse {
        Sse::Aes256 => S3Sse::Aes256,
        Sse::Kms { key_id } => S3Sse::Kms { key_id: key_id.clone() },
    });
    let common = match provider_profile(*provider, endpoint.as_deref()) {
        Some(ways) => S3Settings {
            // What the environment or the AWS profile names comes before a provider's usual region.
            usual_region: ways.region_at(endpoint.as_deref()),
            path_style: ways.path_style,
            limits: ways.parts,
            conditions: ways.conditions(),
            bare_etags: ways.bare_etags,
            checksums: ways.checksums,
            ..common
        },
        None => common,
    };
    let conditions = match conditional_writes {
        Some(ConditionalWrites::Honoured) => Conditions::HONOURED,
        Some(ConditionalWrites::Ignored) => Conditions::IGNORED,
        None => common.conditions,
    };
    S3Settings {
        region: region.clone(),
        endpoint: endpoint.clone(),
        path_style: path_style.unwrap_or(common.path_style),
        limits: max_parts.map_or(common.limits, |parts_max| common.limits.with_max_parts(parts_max)),
        conditions,
        checksums: checksums.unwrap_or(common.checksums),
        storage_class: storage_class.clone(),
        sse,
        profile: profile.clone(),
        delete_versions: *delete_versions,
        ..common
    }
}

/// The provider that the policy names, or else the one whose endpoint it is.
fn provider_profile(named: Option<Provider>, endpoint: Option<&str>) -> Option<&'static Profile> {
    named.map(providers::profile).or_else(|| providers::at(endpoint))
}

#[cfg(test)]
mod tests {
    use pgproof_policies::policy::Checksums;

    use super::*;

    /// A bucket of which the policy says no more than its provider.
    fn of_provider(provider: Provider) -> Location {
        Location::S3 {
            bucket: "bucket".to_owned(),
            prefix: "p".to_owned(),
            region: None,
            endpoint: None,
            provider: Some(provider),
            path_style: None,
            conditional_writes: None,
            checksums: None,
            storage_class: None,
            sse: None,
            profile: None,
            max_parts: None,
            object_lock: None,
            delete_versions: false,
        }
    }

    #[test]
    fn a_providers_ways_hold_where_the_policy_says_nothing() {
        for known in &providers::PROFILES {
            let found = s3_settings(S3Settings::new("bucket", "p"), &of_provider(known.provider));
            let said = (found.path_style, found.limits, found.conditions, found.bare_etags, found.checksums);
            let ways = (known.path_style, known.parts, known.conditions(), known.bare_etags, known.checksums);
            assert_eq!(said, ways, "{}", known.name);
            assert_eq!(found.usual_region, known.region_at(None), "{}", known.name);
        }
        // Where nobody names one, its endpoint may.
        assert_eq!(provider_profile(None, None).map(|it| it.provider), Some(Provider::Aws));
        assert!(provider_profile(None, Some("https://s3.example.org")).is_none());
        let named = provider_profile(Some(Provider::Aws), Some("https://s3.example.org"));
        assert_eq!(named.map(|it| it.provider), Some(Provider::Aws));
    }

    #[test]
    fn what_the_policy_says_of_a_bucket_goes_before_its_providers_ways() {
        for (writes, conditions) in [
            (ConditionalWrites::Honoured, Conditions::HONOURED),
            (ConditionalWrites::Ignored, Conditions::IGNORED),
        ] {
            for known in &providers::PROFILES {
                let other = match known.checksums {
                    Checksums::Crc32c => Checksums::Md5,
                    Checksums::Md5 => Checksums::Crc32c,
                };
                let location = Location::S3 {
                    bucket: "bucket".to_owned(),
                    prefix: "p".to_owned(),
                    region: Some("eu".to_owned()),
                    endpoint: Some("https://s3.example.org".to_owned()),
                    provider: Some(known.provider),
                    path_style: Some(!known.path_style),
                    conditional_writes: Some(writes),
                    checksums: Some(other),
                    storage_class: Some("COLD".to_owned()),
                    sse: Some(Sse::Kms { key_id: Some("key".to_owned()) }),
                    profile: Some("backup".to_owned()),
                    max_parts: Some(7),
                    object_lock: None,
                    delete_versions: true,
                };
                let found = s3_settings(S3Settings::new("bucket", "p"), &location);
                assert_eq!(found.region.as_deref(), Some("eu"));
                assert_eq!(found.endpoint.as_deref(), Some("https://s3.example.org"));
                assert_eq!((found.path_style, found.conditions), (!known.path_style, conditions));
                assert_eq!(
                    (found.limits.parts_max, found.delete_versions, found.checksums),
                    (7, true, other)
                );
                assert_eq!(found.storage_class.as_deref(), Some("COLD"));
                assert_eq!(found.profile.as_deref(), Some("backup"));
                assert_eq!(found.sse, Some(S3Sse::Kms { key_id: Some("key".to_owned()) }));
            }
        }
    }

    fn example(text: &str) -> LoadedPolicy {
        let policy = Policy::parse(text, "pgproof.toml").unwrap_or_else(|problems| panic!("{problems}"));
        LoadedPolicy { policy, path: "pgproof.toml".into(), sha256: String::new() }
    }

    /// A folder and no identity; a bucket and one.
    fn examples() -> [LoadedPolicy; 2] {
        [
            include_str!("../../policies/examples/directory.toml"),
            include_str!("../../policies/examples/several.toml"),
        ]
        .map(|text| example(&text.replace("/etc/pgproof", "/nowhere/pgproof")))
    }

    #[test]
    fn only_a_host_whose_policy_names_an_identity_is_meant_to_read() {
        let prompts = || Arc::new(crate::keys::NoPrompts);
        let [backs_up, restores] = examples();
        assert!(!backs_up.has_identity() && restores.has_identity());
        let refused = backs_up.identities(prompts()).unwrap_err();
        assert!(matches!(refused, AccessError::NotInPolicy { field: "keys.identity_files" }), "{refused:?}");
        assert!(refused.hint().unwrap().contains("restore host"));
        // Its file is not here.
        let missing = restores.identities(prompts()).unwrap_err();
        assert!(
            matches!(missing, AccessError::Keys { source: KeyError::IdentityFile { .. } }),
            "{missing:?}"
        );
        let unreadable = restores.trusted_signers().unwrap_err();
        assert!(matches!(unreadable, AccessError::KeyFile { .. }), "{unreadable:?}");
        assert!(unreadable.hint().unwrap().contains("keys.trusted_signers"));
    }

    #[test]
    fn a_bucket_has_settings_and_a_folder_none() {
        let [folder, bucket] = examples();
        assert!(folder.s3_settings().is_none() && folder.provider_profile().is_none());
        let settings = bucket.s3_settings().unwrap();
        assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), ("pgproof", "house"));
        assert_eq!(bucket.provider_profile().map(|it| it.provider), Some(Provider::Garage));
    }

    #[test]
    fn what_an_operator_can_mend_has_a_hint() {
        let file = |kind: io::ErrorKind| AccessError::PolicyFile { path: "p".into(), source: kind.into() };
        let key = |kind: io::ErrorKind| AccessError::KeyFile { path: "k".into(), source: kind.into() };
        let unknown = examples()[0].source(&"nobody".parse().unwrap()).unwrap_err();
        for (error, expected) in [
            (file(io::ErrorKind::PermissionDenied), "chmod 640"),
            (file(io::ErrorKind::NotFound), "--policy FILE"),
            // One that is there is not to be written anew.
            (key(io::ErrorKind::PermissionDenied), "let this account read it"),
            (key(io::ErrorKind::NotFound), "write the public keys"),
            (unknown, "[sources.NAME]"),
            (AccessError::NotInPolicy { field: "keys.signing_key" }, "pgproof init"),
        ] {
            assert!(error.hint().is_some_and(|hint| hint.contains(expected)), "{error}");
        }
    }

    #[test]
    fn a_named_policy_goes_before_the_hosts_and_an_absent_one_is_looked_for_here() {
        let folder = tempfile::tempdir().unwrap();
        let of_host = folder.path().join("pgproof.toml");
        let text = of_host.to_str().unwrap();
        assert_eq!(policy_path(None, text), Path::new(POLICY_HERE));
        std::fs::write(&of_host, "").unwrap();
        assert_eq!(policy_path(None, text), of_host);
        assert_eq!(policy_path(Some("named.toml".into()), text), Path::new("named.toml"));
        // Here is the folder of somebody else.
        assert!(is_here(of_host.metadata()) && is_here(Err(io::ErrorKind::StaleNetworkFileHandle.into())));
        assert!(!is_here(Err(io::ErrorKind::NotFound.into())));
        assert!(!is_here(Err(io::ErrorKind::PermissionDenied.into())));
    }
}
