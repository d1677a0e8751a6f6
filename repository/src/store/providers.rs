//! What is known of the stores that people use, with the page that says so. What nobody could be found to say is unknown,
//! and `doctor` tries it.

use pgproof_policies::policy::{Checksums, Provider};

use super::conditions::Conditions;
use super::part_plan::PartLimits;

/// Whether a store does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Yes,
    No,
    /// It is taken to do it, as Amazon does, until `doctor` finds otherwise.
    Unknown,
}

/// How a provider's regions are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regions {
    /// By the operator.
    Named,
    /// There is one, unless somebody configured another.
    Usually(&'static str),
    /// The endpoint's host has it as this part of its name, counted from 0.
    InHost(usize),
}

/// The ways of one provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    pub provider: Provider,
    /// As people call it.
    pub name: &'static str,
    /// What the hosts of its endpoints end with; none where people run it under names of their own.
    pub hosts: &'static [&'static str],
    /// The bucket in the path: where a certificate or a name of its own for each bucket cannot be counted on.
    pub path_style: bool,
    /// What requests are signed for where nothing names a region.
    pub regions: Regions,
    pub parts: PartLimits,
    pub put_if_absent: Support,
    pub complete_if_absent: Support,
    pub replace_if_unchanged: Support,
    /// `If-Match` is compared with the ETag without its quotes.
    pub bare_etags: bool,
    pub checksums: Checksums,
    pub object_lock: Support,
    /// Days after which it drops uploads that nobody completed, without a rule that says so.
    pub drops_uploads_after_days: Option<u32>,
    /// Where all of this is written.
    pub pages: &'static [&'static str],
}

impl Profile {
    /// The region of this endpoint, where nothing else names one.
    pub fn region_at(&self, endpoint: Option<&str>) -> Option<String> {
        match self.regions {
            Regions::Named => None,
            Regions::Usually(region) => Some(region.to_owned()),
            Regions::InHost(part) => {
                let host = host_of(endpoint?);
                let prefix = self.hosts.iter().find_map(|known| host.strip_suffix(known))?;
                prefix.trim_end_matches('.').split('.').nth(part).map(ToOwned::to_owned)
            }
        }
    }

    pub fn conditions(&self) -> Conditions {
        let taken = |support| support != Support::No;
        Conditions {
            put_if_absent: taken(self.put_if_absent),
            complete_if_absent: taken(self.complete_if_absent),
            replace_if_unchanged: taken(self.replace_if_unchanged),
        }
    }
}

/// The profile of a provider.
pub fn profile(provider: Provider) -> &'static Profile {
    // There is one for each: a test looks.
    PROFILES.iter().find(|profile| profile.provider == provider).unwrap_or(&AWS)
}

/// The profile of whoever answers at this endpoint, where its host tells. Without an endpoint it is Amazon.
pub fn at(endpoint: Option<&str>) -> Option<&'static Profile> {
    let Some(endpoint) = endpoint else { return Some(&AWS) };
    let host = host_of(endpoint);
    let is_of = |known: &&str| host == **known || host.ends_with(&format!(".{known}"));
    PROFILES.iter().find(|profile| profile.hosts.iter().any(is_of))
}

fn host_of(endpoint: &str) -> String {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split(['/', ':']).next().unwrap_or_default().to_ascii_lowercase()
}

const AWS: Profile = Profile {
    provider: Provider::Aws,
    name: "Amazon S3",
    hosts: &["amazonaws.com", "amazonaws.com.cn"],
    path_style: false,
    regions: Regions::Named,
    parts: PartLimits::S3,
    put_if_absent: Support::Yes,
    complete_if_absent: Support::Yes,
    replace_if_unchanged: Support::Yes,
    bare_etags: false,
    checksums: Checksums::Crc32c,
    object_lock: Support::Yes,
    drops_uploads_after_days: None,
    pages: &[
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html",
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html",
    ],
};

/// In the order in which they are asked for; each differs from Amazon in what it names.
pub const PROFILES: [Profile; 9] = [
    AWS,
    Profile {
        provider: Provider::Minio,
        name: "MinIO",
        hosts: &[],
        path_style: true,
        regions: Regions::Usually("us-east-1"),
        // Its page lists PutObject, and not CompleteMultipartUpload; before August 2025 `If-Match` on a key without an
        // object was ignored (minio/minio#21526).
        complete_if_absent: Support::Unknown,
        drops_uploads_after_days: Some(1),
        pages: &["https://docs.min.io/enterprise/aistor-object-store/developers/s3-api-compatibility"],
        ..AWS
    },
    Profile {
        provider: Provider::Garage,
        name: "Garage",
        hosts: &[],
        path_style: true,
        regions: Regions::Usually("garage"),
        // Tried with 2.5.0: conditions are taken and not acted on, and so are locks.
        put_if_absent: Support::No,
        complete_if_absent: Support::No,
        replace_if_unchanged: Support::No,
        object_lock: Support::No,
        pages: &["https://garagehq.deuxfleurs.fr/documentation/reference-manual/s3-compatibility"],
        ..AWS
    },
    Profile {
        provider: Provider::CephRgw,
        name: "Ceph RGW",
        hosts: &[],
        path_style: true,
        regions: Regions::Usually("us-east-1"),
        // Conditions on completions came in 2025 (ceph/ceph#64830).
        complete_if_absent: Support::Unknown,
        replace_if_unchanged: Support::Unknown,
        bare_etags: true,
        pages: &[
            "https://docs.ceph.com/en/latest/radosgw/s3/",
            "https://github.com/ceph/s3-tests/issues/583",
        ],
        ..AWS
    },
    Profile {
        provider: Provider::CloudflareR2,
        name: "Cloudflare R2",
        hosts: &["r2.cloudflarestorage.com"],
        path_style: true,
        regions: Regions::Usually("auto"),
        parts: PartLimits { equal_parts: true, ..PartLimits::S3 },
        // Its own bucket locks are rules of the bucket, not headers of an object.
        object_lock: Support::No,
        drops_uploads_after_days: Some(7),
        pages: &[
            "https://developers.cloudflare.com/r2/api/s3/conditional-operations/",
            "https://developers.cloudflare.com/r2/objects/upload-objects",
            "https://github.com/cloudflare/cloudflare-docs/pull/7485",
        ],
        ..AWS
    },
    Profile {
        provider: Provider::BackblazeB2,
        name: "Backblaze B2",
        hosts: &["backblazeb2.com"],
        regions: Regions::InHost(1),
        // It answers conditional writes with 501, and had no x-amz-checksum headers until 2025.
        put_if_absent: Support::No,
        complete_if_absent: Support::No,
        replace_if_unchanged: Support::No,
        checksums: Checksums::Md5,
        pages: &["https://www.backblaze.com/docs/cloud-storage-s3-compatible-api"],
        ..AWS
    },
    Profile {
        provider: Provider::Scaleway,
        name: "Scaleway",
        hosts: &["scw.cloud"],
        regions: Regions::InHost(1),
        parts: PartLimits { parts_max: 1_000, ..PartLimits::S3 },
        complete_if_absent: Support::Unknown,
        object_lock: Support::Unknown,
        pages: &[
            "https://www.scaleway.com/en/docs/object-storage/api-cli/multipart-uploads/",
            "https://www.scaleway.com/en/docs/object-storage/api-cli/using-conditional-writes/",
        ],
        ..AWS
    },
    Profile {
        provider: Provider::Hetzner,
        name: "Hetzner",
        hosts: &["your-objectstorage.com"],
        regions: Regions::InHost(0),
        // Tried by the authors of litestream (#1509): an ETag in quotes never matches.
        complete_if_absent: Support::Unknown,
        bare_etags: true,
        pages: &[
            "https://docs.hetzner.com/storage/object-storage/supported-actions/",
            "https://github.com/benbjohnson/litestream/pull/1509",
        ],
        ..AWS
    },
    Profile {
        provider: Provider::Wasabi,
        name: "Wasabi",
        hosts: &["wasabisys.com"],
        regions: Regions::InHost(1),
        put_if_absent: Support::Unknown,
        complete_if_absent: Support::Unknown,
        replace_if_unchanged: Support::Unknown,
        pages: &["https://docs.wasabi.com/docs/operations-on-objects"],
        ..AWS
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_its_profile_and_a_page_that_says_so() {
        for provider in Provider::ALL {
            let profile = profile(provider);
            assert_eq!(profile.provider, provider);
            assert!(profile.pages.iter().all(|page| page.starts_with("https://")));
            assert!(!profile.pages.is_empty());
            assert!(profile.parts.parts_max <= PartLimits::S3.parts_max);
        }
        assert_eq!(PROFILES.len(), Provider::ALL.len());
    }

    #[test]
    fn the_endpoints_host_tells_who_it_is() {
        let told = |endpoint| at(endpoint).map(|profile| profile.provider);
        assert_eq!(told(None), Some(Provider::Aws));
        assert_eq!(told(Some("https://s3.eu-central-1.amazonaws.com")), Some(Provider::Aws));
        assert_eq!(told(Some("https://abc.r2.cloudflarestorage.com")), Some(Provider::CloudflareR2));
        assert_eq!(told(Some("https://S3.fr-par.scw.cloud:443/")), Some(Provider::Scaleway));
        assert_eq!(told(Some("https://fsn1.your-objectstorage.com")), Some(Provider::Hetzner));
        assert_eq!(told(Some("https://s3.eu-central-003.backblazeb2.com")), Some(Provider::BackblazeB2));
        assert_eq!(told(Some("https://notamazonaws.com")), None);
        assert_eq!(told(Some("http://127.0.0.1:9000")), None);
    }

    #[test]
    fn regions_are_told_as_each_provider_names_them() {
        let told = |endpoint| at(Some(endpoint)).unwrap().region_at(Some(endpoint));
        assert_eq!(told("https://s3.fr-par.scw.cloud").as_deref(), Some("fr-par"));
        assert_eq!(told("https://s3.eu-central-003.backblazeb2.com").as_deref(), Some("eu-central-003"));
        assert_eq!(told("https://fsn1.your-objectstorage.com/").as_deref(), Some("fsn1"));
        assert_eq!(told("https://x.r2.cloudflarestorage.com").as_deref(), Some("auto"));
        assert_eq!(told("https://s3.wasabisys.com"), None);
        assert_eq!(told("https://s3.eu-central-1.amazonaws.com"), None);
        let garage = profile(Provider::Garage).region_at(Some("http://127.0.0.1:3900"));
        assert_eq!(garage.as_deref(), Some("garage"));
    }

    #[test]
    fn what_is_unknown_is_taken_to_be_as_with_amazon() {
        assert_eq!(profile(Provider::Garage).conditions(), Conditions::IGNORED);
        assert_eq!(profile(Provider::Wasabi).conditions(), Conditions::HONOURED);
        assert!(profile(Provider::CloudflareR2).parts.equal_parts);
    }
}
