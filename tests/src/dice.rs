//! Chance that can be had again: numbers drawn from a seed, which is printed where something was drawn from it.

/// Names the seed for tests that draw; without it they draw from 0.
const SEED: &str = "PGPROOF_FAULT_SEED";

/// SplitMix64: a few lines, and even enough to choose what fails.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From the environment's seed, which is told.
    ///
    /// # Panics
    /// When what the environment names is no number.
    #[must_use]
    pub fn of_environment() -> Self {
        let seed = std::env::var(SEED).map_or(0, |text| text.parse().expect("a seed is a number"));
        println!("{SEED}={seed}");
        Self::of(seed)
    }

    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((drawn ^ (drawn >> 31)) % end.max(1) as u64) as usize
    }

    /// One of these.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}
