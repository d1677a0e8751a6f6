//! The timeline's geometry: where backups and drills of a window stand, and the gaps between good backups.

use askama::Template;
use jiff::{SignedDuration, Timestamp};
use pgproof_repository::report::v1::{History, HistoryBackup, HistoryDrill};

use super::figures;
use super::parts::Tone;
use super::verdict;
use super::worth::Worth;

/// Room at both ends, for labels that stand at the window's ends.
const MARGIN: f64 = 12.0;
/// How much longer than the usual interval a gap must be to be drawn, where there is no objective.
const GAP_FACTOR: f64 = 1.5;
/// About what a label takes in the timeline's own units, at its size of type.
const LABEL_WIDTH: f64 = 80.0;
/// Points in time that are labelled on the axis, at most.
const TICKS_MAX: usize = 7;

/// The timeline as SVG, in a class that shows it on some screens only.
#[derive(Debug, Template)]
#[template(path = "timeline.html")]
pub(crate) struct Drawing<'a> {
    timeline: &'a Timeline,
    class: &'static str,
}

/// A drawing of so many units in width, which has no height: lanes are the template's matter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Timeline {
    pub width: f64,
    pub from: Timestamp,
    pub to: Timestamp,
    pub backups: Vec<Mark>,
    pub drills: Vec<Mark>,
    /// Intervals between good backups that are longer than they should be.
    pub gaps: Vec<Bar>,
    pub ticks: Vec<Tick>,
    pub longest: Option<Gap>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    pub x: f64,
    pub tone: Tone,
    pub title: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    pub x: f64,
    pub width: f64,
    /// Only where there is room; the longest always has one.
    pub label: Option<Label>,
    pub longest: bool,
    pub title: String,
}

/// Text around a point that lies far enough from both ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    pub x: f64,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub x: f64,
    pub label: String,
}

/// A time without a good backup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gap {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Mark {
    pub(crate) fn is_bad(&self) -> bool {
        self.tone == Tone::Bad
    }
}

impl Gap {
    pub(crate) fn seconds(self) -> f64 {
        figures::seconds_between(self.from, self.to)
    }
}

impl Timeline {
    /// `to` is the drill's end, `objective` the recovery point objective in seconds.
    pub(crate) fn of(history: &History, to: Timestamp, objective: Option<f64>, width: f64) -> Self {
        let scale = Scale { from: history.since.min(to), to, width };
        let gaps = gaps(good_times(&history.backups), to);
        let longest = longest(&gaps);
        Self {
            width,
            from: scale.from,
            to,
            backups: history.backups.iter().map(|backup| backup_mark(backup, &scale)).collect(),
            drills: history.drills.iter().map(|drill| drill_mark(drill, &scale)).collect(),
            gaps: bars(&too_long(&gaps, objective), longest, &scale),
            ticks: ticks(&scale),
            longest,
        }
    }

    pub(crate) fn drawn(&self, class: &'static str) -> Drawing<'_> {
        Drawing { timeline: self, class }
    }

    /// Where lines end.
    pub(crate) fn right(&self) -> f64 {
        self.width - MARGIN
    }

    /// What the drawing shows, for those who do not see it.
    pub(crate) fn description(&self) -> String {
        let longest = self.longest.map_or_else(String::new, |gap| {
            format!(
                " The longest time without a good backup is {}, from {} to {}.",
                figures::span(gap.seconds()),
                figures::stamp(gap.from),
                figures::stamp(gap.to)
            )
        });
        format!(
            "{} and {} from {} to {}.{longest}",
            figures::counted(self.backups.len() as u64, "backup", "backups"),
            figures::counted(self.drills.len() as u64, "drill", "drills"),
            figures::stamp(self.from),
            figures::stamp(self.to)
        )
    }
}

/// When good backups were taken, in order. One that a drill found bad is none.
pub(crate) fn good_times(backups: &[HistoryBackup]) -> Vec<Timestamp> {
    let good = backups.iter().filter(|backup| Worth::of(backup).is_good());
    let mut times: Vec<Timestamp> = good.map(|backup| backup.snapshot_at).collect();
    times.sort();
    times
}

/// The times between good backups, and from the newest to `to`.
pub(crate) fn gaps(good: Vec<Timestamp>, to: Timestamp) -> Vec<Gap> {
    let ends = good.iter().skip(1).copied().chain([to]);
    let gaps = good.iter().copied().zip(ends).map(|(from, to)| Gap { from, to });
    gaps.filter(|gap| gap.to > gap.from).collect()
}

/// The longest; of several the first.
pub(crate) fn longest(gaps: &[Gap]) -> Option<Gap> {
    gaps.iter().copied().reduce(|longest, gap| if gap.seconds() > longest.seconds() { gap } else { longest })
}

/// Those above the objective; without one, those well above the usual.
fn too_long(gaps: &[Gap], objective: Option<f64>) -> Vec<Gap> {
    let mut seconds: Vec<f64> = gaps.iter().map(|gap| gap.seconds()).collect();
    seconds.sort_by(f64::total_cmp);
    let usual = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
    let limit = objective.unwrap_or(usual * GAP_FACTOR);
    gaps.iter().copied().filter(|gap| gap.seconds() > limit).collect()
}

struct Scale {
    from: Timestamp,
    to: Timestamp,
    width: f64,
}

impl Scale {
    /// Where a time stands; times outside the window stand at its ends.
    fn x(&self, at: Timestamp) -> f64 {
        let whole = figures::seconds_between(self.from, self.to);
        let share = if whole > 0.0 { figures::seconds_between(self.from, at) / whole } else { 1.0 };
        tenth(MARGIN + share.clamp(0.0, 1.0) * (self.width - 2.0 * MARGIN))
    }
}

/// A tenth of a unit is finer than anything that is seen.
fn tenth(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

fn backup_mark(backup: &HistoryBackup, scale: &Scale) -> Mark {
    let worth = Worth::of(backup);
    let state = match worth {
        Worth::Unusable => backup.standing.as_str(),
        Worth::FoundBad(_) => "found bad by a drill",
        Worth::Proved(_) => "proved",
        Worth::NotProved => "not proved",
    };
    let title = format!("backup {} of {}: {state}", backup.id, figures::stamp(backup.snapshot_at));
    Mark { x: scale.x(backup.snapshot_at), tone: worth.tone(), title }
}

fn drill_mark(drill: &HistoryDrill, scale: &Scale) -> Mark {
    let title = format!(
        "report {} of {}: {}",
        drill.number,
        figures::stamp(drill.finished_at),
        verdict::word(drill.verdict)
    );
    Mark { x: scale.x(drill.finished_at), tone: drill.verdict.into(), title }
}

/// Labels are given to the longest bars first, as long as none touches another.
fn bars(gaps: &[Gap], longest: Option<Gap>, scale: &Scale) -> Vec<Bar> {
    let mut order: Vec<usize> = (0..gaps.len()).collect();
    order.sort_by(|a, b| gaps[*b].seconds().total_cmp(&gaps[*a].seconds()));
    let mut bars: Vec<Bar> = gaps.iter().map(|gap| bar(*gap, longest == Some(*gap), scale)).collect();
    let mut taken: Vec<f64> = Vec::new();
    for index in order {
        let middle = bars[index].x + bars[index].width / 2.0;
        let half = LABEL_WIDTH / 2.0;
        let x = tenth(middle.clamp(half, (scale.width - half).max(half)));
        if taken.iter().all(|other| (other - x).abs() >= LABEL_WIDTH) {
            taken.push(x);
            bars[index].label = Some(Label { x, text: figures::span(gaps[index].seconds()) });
        }
    }
    bars
}

fn bar(gap: Gap, longest: bool, scale: &Scale) -> Bar {
    let (x, end) = (scale.x(gap.from), scale.x(gap.to));
    let title = format!(
        "{} without a good backup, from {} to {}",
        figures::span(gap.seconds()),
        figures::stamp(gap.from),
        figures::stamp(gap.to)
    );
    Bar { x, width: tenth(end - x), label: None, longest, title }
}

/// Evenly spaced days, as many as there is room for.
fn ticks(scale: &Scale) -> Vec<Tick> {
    let room = ((scale.width - 2.0 * MARGIN) / (LABEL_WIDTH * 1.2)) as usize;
    let count = room.clamp(1, TICKS_MAX) as i64;
    let whole = scale.to.duration_since(scale.from);
    let at = |index: i64| scale.from + SignedDuration::from_secs(whole.as_secs() * index / count);
    let tick = |index| {
        let x = scale.x(at(index)).clamp(LABEL_WIDTH / 2.0, scale.width - LABEL_WIDTH / 2.0);
        Tick { x: tenth(x), label: at(index).strftime("%-d %b %Y").to_string() }
    };
    let mut ticks: Vec<Tick> = (0..=count).map(tick).collect();
    // A window of hours has one day only.
    ticks.dedup_by(|a, b| a.label == b.label);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    const WIDTH: f64 = 960.0;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn everything_stands_inside_the_drawing_and_in_order() {
        for width in [340.0, WIDTH] {
            let report = sample::rich();
            let timeline = Timeline::of(&report.history, report.finished_at, Some(90_000.0), width);
            let xs: Vec<f64> = timeline.backups.iter().map(|mark| mark.x).collect();
            assert!(xs.is_sorted() && xs.iter().all(|x| (MARGIN..=width - MARGIN).contains(x)), "{xs:?}");
            for bar in &timeline.gaps {
                assert!(bar.x >= MARGIN && bar.x + bar.width <= width - MARGIN + 0.1, "{bar:?}");
            }
            let mut labels: Vec<f64> =
                timeline.gaps.iter().filter_map(|bar| Some(bar.label.as_ref()?.x)).collect();
            labels.sort_by(f64::total_cmp);
            assert!(labels.windows(2).all(|pair| pair[1] - pair[0] >= LABEL_WIDTH), "{labels:?}");
            assert!(timeline.ticks.len() <= TICKS_MAX + 1);
        }
    }

    #[test]
    fn the_longest_gap_is_marked_and_labelled() {
        let good = vec![at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z"), at("2026-11-05T00:00:00Z")];
        let gaps = gaps(good, at("2026-11-06T00:00:00Z"));
        assert_eq!(gaps.len(), 3);
        let longest = longest(&gaps).unwrap();
        assert_eq!((longest.from, longest.seconds()), (at("2026-11-02T00:00:00Z"), 259_200.0));
        let scale = Scale { from: at("2026-11-01T00:00:00Z"), to: at("2026-11-06T00:00:00Z"), width: WIDTH };
        let drawn = bars(&too_long(&gaps, None), Some(longest), &scale);
        assert_eq!(drawn.len(), 1);
        assert!(drawn[0].longest);
        assert_eq!(drawn[0].label.as_ref().unwrap().text, "3 days");
        // Three of five days.
        assert!((drawn[0].width - (WIDTH - 2.0 * MARGIN) * 0.6).abs() < 0.2, "{drawn:?}");
    }

    #[test]
    fn the_time_since_the_newest_backup_is_a_gap_too() {
        let gaps = gaps(vec![at("2026-11-01T00:00:00Z")], at("2026-11-09T00:00:00Z"));
        assert_eq!(longest(&gaps).unwrap().seconds(), 8.0 * 86_400.0);
        assert_eq!(super::gaps(Vec::new(), at("2026-11-09T00:00:00Z")), []);
    }

    #[test]
    fn backups_that_a_drill_found_bad_leave_a_gap() {
        let mut report = sample::rich();
        report.history.backups = sample::daily(20..=26, &[22, 23, 24]);
        report.history.since = at("2026-11-20T02:00:00Z");
        let timeline = Timeline::of(&report.history, at("2026-11-26T12:00:00Z"), Some(93_600.0), WIDTH);
        let (from, to) = (at("2026-11-21T02:00:00Z"), at("2026-11-25T02:00:00Z"));
        assert_eq!(timeline.longest, Some(Gap { from, to }));
        assert_eq!((timeline.gaps.len(), timeline.gaps[0].longest), (1, true));
    }

    #[test]
    fn an_empty_window_is_drawn_all_the_same() {
        let mut report = sample::rich();
        report.history.backups.clear();
        report.history.drills.clear();
        report.history.since = report.finished_at;
        let timeline = Timeline::of(&report.history, report.finished_at, None, WIDTH);
        assert_eq!((timeline.gaps.len(), timeline.longest), (0, None));
        assert_eq!(timeline.ticks.len(), 1);
        assert!(timeline.description().starts_with("0 backups and 0 drills"));
    }
}
