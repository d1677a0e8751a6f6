//! Who runs a store, and what of its ways the operator says rather than leaves to its profile.

/// Providers whose ways are known. What they are is data of the repository (`store::providers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Aws,
    Minio,
    Garage,
    CephRgw,
    CloudflareR2,
    BackblazeB2,
    Scaleway,
    Hetzner,
    Wasabi,
}

impl Provider {
    pub const ALL: [Self; 9] = [
        Self::Aws,
        Self::Minio,
        Self::Garage,
        Self::CephRgw,
        Self::CloudflareR2,
        Self::BackblazeB2,
        Self::Scaleway,
        Self::Hetzner,
        Self::Wasabi,
    ];

    /// As the policy has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Minio => "minio",
            Self::Garage => "garage",
            Self::CephRgw => "ceph-rgw",
            Self::CloudflareR2 => "cloudflare-r2",
            Self::BackblazeB2 => "backblaze-b2",
            Self::Scaleway => "scaleway",
            Self::Hetzner => "hetzner",
            Self::Wasabi => "wasabi",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name)
    }
}

/// What a store does with a condition on a write (`If-None-Match`, `If-Match`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionalWrites {
    Honoured,
    /// It writes all the same, or refuses the header: leases are then taken by a slower way that needs none.
    Ignored,
}

impl ConditionalWrites {
    pub(super) const CONSTRAINT: &'static str = "must be \"honoured\" or \"ignored\"";

    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "honoured" => Some(Self::Honoured),
            "ignored" => Some(Self::Ignored),
            _ => None,
        }
    }
}

/// By which checksum a store compares what arrives with what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// `x-amz-checksum-crc32c`.
    Crc32c,
    /// `Content-MD5`, which is older than S3 and known everywhere.
    Md5,
}

impl Checksums {
    pub(super) const CONSTRAINT: &'static str = "must be \"crc32c\" or \"md5\"";

    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "crc32c" => Some(Self::Crc32c),
            "md5" => Some(Self::Md5),
            _ => None,
        }
    }
}
