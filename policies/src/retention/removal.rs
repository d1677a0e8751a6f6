//! When a plan removes so much that somebody should look first.
//!
//! A rule that lost a digit, a zone that was changed, a clock that jumped: each makes a plan that is right by its rules
//! and removes most of what there is. So a plan that removes more than a set share of the whole backups is carried out
//! only when its number is confirmed.

use std::fmt;

use super::{Decision, Plan};

/// Removals that are never asked about: a young source with `last = 1` removes two of three backups every time.
pub const UNASKED_MAX: usize = 9;

/// The largest share of the whole backups, in percent, that one plan removes unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareMax(u8);

impl ShareMax {
    /// A plan that is carried out daily removes a few of a hundred.
    pub const HALF: Self = Self(50);

    /// `None` unless 1 to 100; with 100 nothing is ever asked.
    pub fn of_percent(percent: u32) -> Option<Self> {
        u8::try_from(percent).ok().filter(|percent| (1..=100).contains(percent)).map(Self)
    }
}

impl Default for ShareMax {
    fn default() -> Self {
        Self::HALF
    }
}

/// Why a plan is not carried out as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It removes more than the policy's share.
    TooMany { removed: usize, whole: usize, share_max: ShareMax },
    /// Somebody confirmed another number than the plan's.
    OtherNumber { removed: usize, confirmed: usize },
}

/// Whether the plan may be carried out; `confirmed` is the number of removals that an operator said yes to.
pub fn allowed(plan: &Plan, share_max: ShareMax, confirmed: Option<usize>) -> Result<(), Objection> {
    let whole = plan.lines.iter().filter(|line| line.whole).count();
    let removed = plan.lines.iter().filter(|line| line.decision == Decision::Expire).count();
    match confirmed {
        Some(confirmed) if confirmed == removed => Ok(()),
        Some(confirmed) => Err(Objection::OtherNumber { removed, confirmed }),
        None if removed > UNASKED_MAX && removed * 100 > whole * usize::from(share_max.0) => {
            Err(Objection::TooMany { removed, whole, share_max })
        }
        None => Ok(()),
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { removed, whole, share_max } => {
                write!(f, "{removed} of {whole} whole backups would go, more than {} % of them", share_max.0)
            }
            Self::OtherNumber { removed, confirmed } => {
                write!(f, "the removal of {confirmed} was confirmed, and the plan removes {removed}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::PlanLine;
    use super::*;

    fn plan(kept: usize, removed: usize) -> Plan {
        let line = |number: usize| PlanLine {
            id: number.to_string(),
            snapshot_at: Timestamp::UNIX_EPOCH,
            whole: true,
            decision: if number < kept { Decision::Keep(Vec::new()) } else { Decision::Expire },
        };
        Plan { lines: (0..kept + removed).map(line).collect() }
    }

    #[test]
    fn a_large_share_asks_for_its_number() {
        let half = ShareMax::default();
        let too_many = Objection::TooMany { removed: 360, whole: 400, share_max: half };
        assert_eq!(allowed(&plan(40, 360), half, None), Err(too_many));
        assert_eq!(too_many.to_string(), "360 of 400 whole backups would go, more than 50 % of them");
        assert_eq!(allowed(&plan(40, 360), half, Some(360)), Ok(()));
        let other = Objection::OtherNumber { removed: 360, confirmed: 359 };
        assert_eq!(allowed(&plan(40, 360), half, Some(359)), Err(other));
        assert_eq!(allowed(&plan(200, 200), half, None), Ok(()));
        assert!(allowed(&plan(200, 201), half, None).is_err());
        assert_eq!(allowed(&plan(1, 999), ShareMax::of_percent(100).unwrap(), None), Ok(()));
    }

    #[test]
    fn few_are_not_asked_about_unless_a_number_was_said() {
        let half = ShareMax::default();
        assert_eq!(allowed(&plan(1, UNASKED_MAX), half, None), Ok(()));
        assert!(allowed(&plan(1, UNASKED_MAX + 1), half, None).is_err());
        assert!(allowed(&plan(40, 2), half, Some(3)).is_err());
        assert_eq!(allowed(&plan(40, 0), half, None), Ok(()));
    }

    #[test]
    fn what_cannot_be_judged_makes_no_share_smaller() {
        let mut plan = plan(50, 10);
        for line in plan.lines.iter_mut().take(45) {
            line.whole = false;
        }
        assert!(allowed(&plan, ShareMax::default(), None).is_err());
    }

    #[test]
    fn a_share_is_a_percentage() {
        assert_eq!([0, 101, 1000].map(ShareMax::of_percent), [None; 3]);
    }
}
