//! placeholder

/// What a store allows of an upload in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartLimits {
    pub parts_max: u32,
    pub part_bytes_min: u64,
    pub part_bytes_max: u64,
    pub object_bytes_max: u64,
}
