//! How large each part of an upload is, when the object's length is not known beforehand.

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Parts start here: large enough that requests cost little, small enough that some in flight fit a small host.
const FIRST_PART_BYTES: u64 = 8 * MIB;
/// Sizes are whole multiples of this, so that they read well in a listing.
const PART_GRAIN_BYTES: u64 = 64 * KIB;
/// The share of all parts that is spent while memory is kept low; the rest grows towards the largest object.
const LEVEL_PARTS_PERCENT: u64 = 80;
/// Over the first half of that stretch parts grow evenly to this size, then stay there. Where all must have one size they have
/// this one from the first: 10,000 hold 156 GiB.
const LEVEL_PART_BYTES: u64 = 16 * MIB;
/// Of an object that is a hundredth of the one beside it, so that it takes little of the memory: the least that S3 takes.
const SMALL_PART_BYTES: u64 = 5 * MIB;

/// What a store allows of an upload in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartLimits {
    pub parts_max: u32,
    pub part_bytes_min: u64,
    pub part_bytes_max: u64,
    pub object_bytes_max: u64,
    /// All parts of an upload but the last must have one size.
    pub equal_parts: bool,
}

impl PartLimits {
    /// The limits of Amazon S3 (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
    pub const S3: Self = Self {
        parts_max: 10_000,
        part_bytes_min: 5 * MIB,
        part_bytes_max: 5 * GIB,
        object_bytes_max: 5 * TIB,
        equal_parts: false,
    };

    /// Of Google's XML API (<https://cloud.google.com/storage/quotas#requests>): those of S3.
    pub const GOOGLE: Self = Self::S3;

    /// Of Azure's block blobs (<https://learn.microsoft.com/en-us/azure/storage/blobs/scalability-targets>). An object is no larger
    /// than with the others, so that it can be moved to them; any smallest size would do, and this one keeps requests few.
    pub const AZURE: Self = Self {
        parts_max: 50_000,
        part_bytes_min: MIB,
        part_bytes_max: 4_000 * MIB,
        object_bytes_max: 5 * TIB,
        equal_parts: false,
    };

    /// The same with fewer parts, for providers that take only 1,000; never more parts than before and at least one.
    pub fn with_max_parts(self, parts_max: u32) -> Self {
        Self { parts_max: parts_max.clamp(1, self.parts_max), ..self }
    }

    /// The largest object that parts within these limits can hold.
    pub fn reachable_bytes(&self) -> u64 {
        self.part_bytes_max.saturating_mul(u64::from(self.parts_max)).min(self.object_bytes_max)
    }
}

impl Default for PartLimits {
    fn default() -> Self {
        Self::S3
    }
}

/// The sizes of an upload's parts, by their number from 1.
///
/// Sizes grow slowly over four fifths of the parts, to twice the first size, so that memory stays small for as long as
/// it can (109 GiB with 10,000 parts). An estimate that this does not hold makes all of these parts as large as it takes, and no
/// larger: what is in memory is then the least with which the stream fits. The rest grows geometrically as far as the largest
/// allowed object needs. With few parts (1,000 of at most 5 GiB) the last fifth cannot reach the largest object; an estimate
/// is then what makes a huge stream fit. Where all parts must have one size, the estimate alone decides it.
#[derive(Debug, Clone)]
pub struct PartPlan {
    limits: PartLimits,
    first_bytes: u64,
    /// At the end of the slow stretch.
    level_bytes: u64,
    /// Parts of the slow stretch.
    level_parts: u32,
    /// What each later part is larger than the one before, in 1/[`GROWTH_UNIT`].
    growth: u64,
}

/// Fixed-point one of [`PartPlan::growth`].
const GROWTH_UNIT: u64 = 1 << 20;

impl PartPlan {
    /// A plan within `limits` for a stream of about `estimated_bytes`, if that is known; the estimate may be wrong.
    pub fn new(limits: PartLimits, estimated_bytes: Option<u64>) -> Self {
        let estimated = estimated_bytes.unwrap_or(0).min(limits.reachable_bytes());
        let slow = Self::level(limits, FIRST_PART_BYTES, LEVEL_PART_BYTES);
        let plan = match slow.bytes_after(slow.level_parts) >= estimated {
            true => slow,
            false => {
                let each = estimated.div_ceil(u64::from(slow.level_parts)).max(LEVEL_PART_BYTES);
                Self::level(limits, each, each)
            }
        };
        plan.with_tail()
    }

    /// The plan of an object that is small beside others whose parts are in memory as well.
    pub fn of_small(limits: PartLimits) -> Self {
        let level = if limits.equal_parts { SMALL_PART_BYTES } else { LEVEL_PART_BYTES };
        Self::level(limits, SMALL_PART_BYTES, level).with_tail()
    }

    fn level(limits: PartLimits, first: u64, level: u64) -> Self {
        let parts =
            u32::try_from(u64::from(limits.parts_max) * LEVEL_PARTS_PERCENT / 100).unwrap_or(0).max(1);
        let first = if limits.equal_parts { level } else { first };
        let mut plan =
            Self { limits, first_bytes: 0, level_bytes: 0, level_parts: parts, growth: GROWTH_UNIT };
        plan.first_bytes = plan.fit(first.div_ceil(PART_GRAIN_BYTES) * PART_GRAIN_BYTES);
        plan.level_bytes = plan.fit(level.div_ceil(PART_GRAIN_BYTES) * PART_GRAIN_BYTES);
        plan
    }

    /// With the parts behind the slow stretch.
    fn with_tail(mut self) -> Self {
        match self.limits.equal_parts {
            true => self.level_parts = self.limits.parts_max,
            false => self.growth = self.smallest_growth(),
        }
        self
    }

    /// The size of the part with which so many bytes are reached; `None` where no parts reach them.
    pub fn part_at(&self, bytes: u64) -> Option<u64> {
        let mut reached = 0_u64;
        self.sizes().find(|part| {
            reached = reached.saturating_add(*part);
            reached >= bytes
        })
    }

    /// The size of part `number` (from 1); a stream's last part may be smaller.
    pub fn part_bytes(&self, number: u32) -> u64 {
        let number = number.max(1);
        if number <= self.level_parts {
            return self.slow(number);
        }
        let mut bytes = self.slow(self.level_parts);
        for _ in self.level_parts..number {
            if bytes == self.limits.part_bytes_max {
                break;
            }
            bytes = self.grown(bytes);
        }
        bytes
    }

    /// What the first `parts` parts hold together: never more than the largest object.
    pub fn bytes_after(&self, parts: u32) -> u64 {
        self.sizes().take(parts as usize).fold(0, u64::saturating_add).min(self.limits.object_bytes_max)
    }

    pub fn limits(&self) -> PartLimits {
        self.limits
    }

    /// Every part's size in order, as far as the limit of parts.
    pub fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        let mut last = 0;
        (1..=self.limits.parts_max).map(move |number| {
            last = if number <= self.level_parts { self.slow(number) } else { self.grown(last) };
            last
        })
    }

    fn slow(&self, number: u32) -> u64 {
        let rising_parts = self.level_parts.div_ceil(2);
        let risen = u64::from((number - 1).min(rising_parts));
        let step = (self.level_bytes - self.first_bytes) * risen / u64::from(rising_parts);
        self.fit((self.first_bytes + step) / PART_GRAIN_BYTES * PART_GRAIN_BYTES)
    }

    fn grown(&self, bytes: u64) -> u64 {
        let grown = u128::from(bytes) * u128::from(self.growth) / u128::from(GROWTH_UNIT);
        let grown = u64::try_from(grown).unwrap_or(u64::MAX).min(self.limits.part_bytes_max);
        self.fit(grown.div_ceil(PART_GRAIN_BYTES) * PART_GRAIN_BYTES)
    }

    fn fit(&self, bytes: u64) -> u64 {
        bytes.max(self.limits.part_bytes_min).min(self.limits.part_bytes_max)
    }

    /// The least growth with which all parts hold the largest object (or the greatest, where none does), by bisection.
    fn smallest_growth(&self) -> u64 {
        let reach = self.limits.reachable_bytes();
        let reaches = |growth| Self { growth, ..self.clone() }.bytes_after(self.limits.parts_max) >= reach;
        let (mut low, mut high) = (GROWTH_UNIT, GROWTH_UNIT * GROWTH_UNIT);
        while low < high {
            let middle = low + (high - low) / 2;
            if reaches(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_stay_small_for_the_first_hundred_gib() {
        let plan = PartPlan::new(PartLimits::S3, None);
        assert_eq!(plan.part_bytes(1), 8 * MIB);
        let mut total = 0;
        for bytes in plan.sizes() {
            if total >= 100 * GIB {
                break;
            }
            assert!((8 * MIB..=16 * MIB).contains(&bytes), "{bytes} after {total}");
            total += bytes;
        }
        assert!(total >= 100 * GIB);
    }

    #[test]
    fn an_unknown_length_reaches_the_largest_object() {
        assert_eq!(PartPlan::new(PartLimits::S3, None).bytes_after(10_000), 5 * TIB);
    }

    #[test]
    fn an_estimate_is_reached_with_parts_of_nearly_one_size() {
        let plan = PartPlan::new(PartLimits::S3, Some(TIB));
        assert!(plan.bytes_after(8_000) >= TIB);
        assert!(plan.part_bytes(8_000) <= 2 * plan.part_bytes(1));
    }

    #[test]
    fn an_estimate_makes_parts_no_larger_than_it_takes() {
        for gib in [110, 200, 500, 1_000, 4_000] {
            let plan = PartPlan::new(PartLimits::S3, Some(gib * GIB));
            let part = plan.part_at(gib * GIB).expect("reached");
            assert!(part <= (gib * GIB / 8_000).max(16 * MIB) + PART_GRAIN_BYTES, "{gib} GiB: {part}");
        }
        assert_eq!(PartPlan::new(PartLimits::S3, None).part_at(6 * TIB), None);
    }

    #[test]
    fn parts_of_a_small_object_are_small() {
        for equal_parts in [false, true] {
            let plan = PartPlan::of_small(PartLimits { equal_parts, ..PartLimits::S3 });
            assert_eq!((plan.part_bytes(1), plan.bytes_after(10_000) >= 48 * GIB), (5 * MIB, true));
        }
        assert_eq!(PartPlan::of_small(PartLimits::AZURE).part_bytes(1), 5 * MIB);
    }

    /// As R2 wants them; the estimate is what makes room.
    #[test]
    fn parts_of_one_size_stay_so_to_the_last() {
        let limits = PartLimits { equal_parts: true, ..PartLimits::S3 };
        for (estimate, reach) in [(None, 156 * GIB), (Some(GIB), 156 * GIB), (Some(2 * TIB), 2 * TIB)] {
            let plan = PartPlan::new(limits, estimate);
            let first = plan.part_bytes(1);
            assert!(plan.sizes().all(|bytes| bytes == first));
            assert!(plan.bytes_after(limits.parts_max) >= reach, "{estimate:?}: {first}");
        }
        assert_eq!(PartPlan::new(limits, None).part_bytes(10_000), 16 * MIB);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_part_is_within_the_limits_and_none_is_smaller_than_the_one_before(
            parts_max in 1u32..=10_000,
            estimate in proptest::option::of(0u64..6 * TIB),
            probe in 1u32..=10_000,
        ) {
            let limits = PartLimits::S3.with_max_parts(parts_max);
            let plan = PartPlan::new(limits, estimate);
            let sizes: Vec<u64> = plan.sizes().collect();
            prop_assert_eq!(sizes.len(), parts_max as usize);
            prop_assert!(sizes.iter().all(|b| (limits.part_bytes_min..=limits.part_bytes_max).contains(b)));
            prop_assert!(sizes.is_sorted());
            let tail_parts = u64::from(parts_max) - u64::from(plan.level_parts);
            let tail_reach = limits.reachable_bytes().min(tail_parts * limits.part_bytes_max);
            prop_assert!(plan.bytes_after(parts_max) >= tail_reach);
            prop_assert!(plan.bytes_after(parts_max) >= estimate.unwrap_or(0).min(limits.reachable_bytes()));
            let probe = probe.min(parts_max);
            prop_assert_eq!(plan.part_bytes(probe), sizes[probe as usize - 1]);
        }
    }
}
