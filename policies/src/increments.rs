//! When a backup of files follows the one before, and when it is a full one again.
//!
//! An incremental backup leaves out what an earlier one of its chain holds, so it is worth no more than the oldest backup
//! that it needs. Chains are therefore bounded twice: by the age of their full backup, and by their number.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

/// Most incremental backups behind one full one that a policy may ask for. A restore opens every backup whose bytes it
/// needs: a few requests each, and the memory of some frames.
pub const CHAIN_MAX_LIMIT: u32 = 100;
/// A full backup is due earlier by this part of `full_every`, so that a run which begins minutes before the time of last
/// week's does not put it off to the next one.
const EARLIER_BY_PART: i32 = 20;

/// What the policy's `incremental` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incremental {
    /// No backup follows a full one that is older than this.
    pub full_every: SignedDuration,
    /// No full backup is followed by more than this.
    pub chain_max: u32,
}

/// A chain as its newest backup knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// When its full backup was begun.
    pub full_at: Timestamp,
    /// Incremental backups in a row behind it.
    pub depth: u32,
}

/// Why a chain goes no further. `Display` stands behind "full, because".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainEnd {
    Age {
        full_every: SignedDuration,
    },
    Length {
        chain_max: u32,
    },
    /// The clock was set back since.
    Future {
        full_at: Timestamp,
    },
}

impl Incremental {
    /// Why the next backup is a full one, or `None` where it follows the chain.
    pub fn end_of(&self, chain: &Chain, now: Timestamp) -> Option<ChainEnd> {
        let age = now.duration_since(chain.full_at);
        let due_after = self.full_every - self.full_every / EARLIER_BY_PART;
        if age.is_negative() {
            return Some(ChainEnd::Future { full_at: chain.full_at });
        }
        if chain.depth >= self.chain_max {
            return Some(ChainEnd::Length { chain_max: self.chain_max });
        }
        (age >= due_after).then_some(ChainEnd::Age { full_every: self.full_every })
    }
}

impl fmt::Display for ChainEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age { full_every } => write!(f, "one is made every {full_every:#}"),
            Self::Length { chain_max } => write!(f, "the one before is followed by {chain_max} already"),
            Self::Future { full_at } => write!(f, "the one before is dated {full_at}, ahead of the clock"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);
    const WEEKLY: Incremental = Incremental { full_every: SignedDuration::from_hours(7 * 24), chain_max: 14 };

    fn end(hours: i64, depth: u32) -> Option<ChainEnd> {
        let full_at: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        WEEKLY.end_of(&Chain { full_at, depth }, full_at + SignedDuration::from_hours(hours))
    }

    #[test]
    fn a_week_after_the_full_backup_comes_the_next() {
        assert_eq!(end(0, 0), None);
        assert_eq!(end(6 * 24, 5), None);
        let age = Some(ChainEnd::Age { full_every: DAY * 7 });
        assert_eq!(end(7 * 24, 6), age);
        // The run of a week later that happened to begin somewhat earlier.
        assert_eq!(end(7 * 24 - 1, 6), age);
        assert_eq!(end(400 * 24, 1), age);
    }

    #[test]
    fn a_chain_has_its_greatest_length() {
        assert_eq!(end(14, 13), None);
        assert_eq!(end(15, 14), Some(ChainEnd::Length { chain_max: 14 }));
        assert_eq!(end(15, 99), Some(ChainEnd::Length { chain_max: 14 }));
    }

    #[test]
    fn a_clock_that_was_set_back_ends_the_chain() {
        assert!(matches!(end(-1, 1), Some(ChainEnd::Future { .. })));
    }

    #[test]
    fn nightly_runs_with_jitter_make_a_full_backup_each_week() {
        let first: Timestamp = "2026-11-01T02:00:00Z".parse().unwrap();
        let (mut chain, mut fulls) = (None, Vec::new());
        for night in 0..60 {
            let now = first + DAY * night + SignedDuration::from_mins(i64::from(night * 37 % 50));
            chain = match chain {
                Some(chain) if WEEKLY.end_of(&chain, now).is_none() => {
                    Some(Chain { depth: chain.depth + 1, ..chain })
                }
                _ => {
                    fulls.push(night);
                    Some(Chain { full_at: now, depth: 0 })
                }
            };
        }
        assert_eq!(fulls, [0, 7, 14, 21, 28, 35, 42, 49, 56]);
    }

    #[test]
    fn the_end_of_a_chain_says_why() {
        let told = [
            (ChainEnd::Age { full_every: DAY * 7 }, "one is made every 168h"),
            (ChainEnd::Length { chain_max: 14 }, "the one before is followed by 14 already"),
            (
                ChainEnd::Future { full_at: Timestamp::UNIX_EPOCH },
                "the one before is dated 1970-01-01T00:00:00Z, ahead of the clock",
            ),
        ];
        for (end, text) in told {
            assert_eq!(end.to_string(), text);
        }
    }
}
