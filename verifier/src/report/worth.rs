//! What a backup is worth by its standing and by what drills found of it, said alike by every page.

use jiff::Timestamp;
use pgproof_repository::report::v1::HistoryBackup;

use super::figures;
use super::parts::{Cell, Tone};

/// What [`HistoryBackup::standing`] calls a backup that is whole and signed.
pub(crate) const GOOD: &str = "good";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worth {
    /// It is none, or nobody vouches for it.
    Unusable,
    /// By the last drill that came to a verdict.
    FoundBad(Timestamp),
    Proved(Timestamp),
    NotProved,
}

impl Worth {
    pub(crate) fn of(backup: &HistoryBackup) -> Self {
        match (backup.standing == GOOD, backup.proved_at, backup.failed_at) {
            (false, ..) => Self::Unusable,
            (true, proved, Some(failed)) if proved.is_none_or(|proved| failed >= proved) => {
                Self::FoundBad(failed)
            }
            (true, Some(proved), _) => Self::Proved(proved),
            (true, None, _) => Self::NotProved,
        }
    }

    /// Whether somebody could go back to it, as far as anybody knows.
    pub(crate) fn is_good(self) -> bool {
        matches!(self, Self::Proved(_) | Self::NotProved)
    }

    pub(crate) fn tone(self) -> Tone {
        match self {
            Self::Unusable | Self::FoundBad(_) => Tone::Bad,
            Self::Proved(_) => Tone::Good,
            Self::NotProved => Tone::Unknown,
        }
    }
}

/// Whether it is whole and signed. Of one that a drill found bad that is no good news.
pub(crate) fn standing_cell(backup: &HistoryBackup) -> Cell {
    let held = if backup.held { ", held" } else { "" };
    match Worth::of(backup) {
        Worth::Unusable => Cell::marked(Tone::Bad, format!("{}{held}", backup.standing)),
        Worth::FoundBad(_) => Cell::marked(Tone::Unknown, format!("signed and whole{held}")),
        Worth::Proved(_) | Worth::NotProved => Cell::marked(Tone::Good, format!("{}{held}", backup.standing)),
    }
}

/// What drills found of it.
pub(crate) fn proof_cell(backup: &HistoryBackup) -> Cell {
    let worth = Worth::of(backup);
    match worth {
        Worth::FoundBad(at) => Cell::marked(worth.tone(), format!("found bad {}", figures::stamp(at))),
        Worth::Proved(at) => Cell::marked(worth.tone(), figures::stamp(at)),
        Worth::Unusable | Worth::NotProved => Cell::marked(Tone::Unknown, "not proved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_last_drill_with_a_verdict_decides() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let backup = |proved: Option<i64>, failed: Option<i64>| HistoryBackup {
            standing: GOOD.to_owned(),
            proved_at: proved.map(at),
            failed_at: failed.map(at),
            ..sample::rich().history.backups[0].clone()
        };
        for (proved, failed, worth) in [
            (None, None, Worth::NotProved),
            (Some(1), None, Worth::Proved(at(1))),
            (None, Some(1), Worth::FoundBad(at(1))),
            (Some(1), Some(2), Worth::FoundBad(at(2))),
            (Some(2), Some(2), Worth::FoundBad(at(2))),
            (Some(3), Some(2), Worth::Proved(at(3))),
        ] {
            assert_eq!(Worth::of(&backup(proved, failed)), worth);
        }
        let unsigned = HistoryBackup { standing: "unsigned".to_owned(), ..backup(Some(1), None) };
        assert_eq!(Worth::of(&unsigned), Worth::Unusable);
        let refuted = backup(None, Some(1));
        assert!(standing_cell(&refuted).tone != Some(Tone::Good), "no tick beside what was found bad");
    }
}
