//! Whose turn it is: which source a daemon looks at next, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::names::SourceName;

/// How often a source is tried that another process is at work on: one small read each time.
const HELD_WATCH: SignedDuration = SignedDuration::from_secs(5);
/// The clock is looked at so often, since a host may sleep, or its clock be set.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A clock that went back by more than this was set; less is how clocks are kept right.
const CLOCK_STEP: SignedDuration = SignedDuration::from_secs(10);

/// Waits that double with each failure in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: SignedDuration,
    /// However often it failed.
    pub longest: SignedDuration,
}

/// The sources, each with the time at which it is looked at next.
#[derive(Debug)]
pub struct Turns {
    backoff: Backoff,
    turns: BTreeMap<SourceName, Turn>,
    /// When somebody was last asked for.
    seen_at: Timestamp,
}

#[derive(Debug)]
struct Turn {
    look_at: Timestamp,
    /// Looks in a row of which nothing remains in the repository.
    failures: u32,
    is_at_work: bool,
}

/// How a look at a source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// There may be more to do.
    Worked,
    NothingDue {
        wake_at: Timestamp,
    },
    /// Another process is at work on it.
    Held,
    /// The store or this machine failed.
    Failed,
}

impl Backoff {
    /// How long to wait after so many failures in a row.
    pub fn after(self, failures: u32) -> SignedDuration {
        let doublings = failures.saturating_sub(1).min(16);
        (self.first * (1 << doublings)).min(self.longest)
    }
}

impl Turns {
    /// Nobody waits yet. `backoff` is for looks of which nothing remains: those that do, the plan waits for.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, turns: BTreeMap::new(), seen_at: Timestamp::MIN }
    }

    /// Looks at each of these at once. Those that somebody is at work on go on, also where they are not named any more.
    pub fn restart(&mut self, sources: impl IntoIterator<Item = SourceName>, now: Timestamp) {
        self.turns.retain(|_, turn| turn.is_at_work);
        for source in sources {
            self.turns.entry(source).or_insert(Turn { look_at: now, failures: 0, is_at_work: false });
        }
    }

    /// The source that has waited longest, which is at work from here on.
    pub fn take(&mut self, now: Timestamp) -> Option<SourceName> {
        self.notice(now);
        let idle = self.turns.iter_mut().filter(|(_, turn)| !turn.is_at_work && turn.look_at <= now);
        let (source, turn) = idle.min_by_key(|(_, turn)| turn.look_at)?;
        turn.is_at_work = true;
        Some(source.clone())
    }

    /// Where the clock was set back, all that was waited for is as good as unknown.
    fn notice(&mut self, now: Timestamp) {
        if now.duration_since(self.seen_at) < -CLOCK_STEP {
            let late = self.turns.values_mut().filter(|turn| turn.look_at > now);
            late.for_each(|turn| turn.look_at = now);
        }
        self.seen_at = now;
    }

    /// Enters how a look ended. A source that the policy has lost meanwhile is `still_there` no more.
    pub fn enter(&mut self, source: &SourceName, looked: Looked, still_there: bool, now: Timestamp) {
        if !still_there {
            self.turns.remove(source);
            return;
        }
        let Some(turn) = self.turns.get_mut(source) else { return };
        turn.is_at_work = false;
        turn.failures = if looked == Looked::Failed { turn.failures.saturating_add(1) } else { 0 };
        turn.look_at = match looked {
            Looked::Worked => now,
            Looked::NothingDue { wake_at } => wake_at,
            Looked::Held => now + HELD_WATCH,
            Looked::Failed => now + self.backoff.after(turn.failures),
        };
    }

    /// When to take the next one; `None` where nobody waits.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.turns.values().filter(|turn| !turn.is_at_work).map(|turn| turn.look_at).min()
    }

    /// How long to wait for somebody's turn, at most a minute.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let wait = self.wake_at().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        wait.unwrap_or(WAIT_MAX).min(WAIT_MAX)
    }

    /// When the source is looked at next; `None` while somebody is at work on it.
    pub fn look_at(&self, source: &SourceName) -> Option<Timestamp> {
        self.turns.get(source).filter(|turn| !turn.is_at_work).map(|turn| turn.look_at)
    }

    pub fn failures(&self, source: &SourceName) -> u32 {
        self.turns.get(source).map_or(0, |turn| turn.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);
    const BACKOFF: Backoff = Backoff { first: MINUTE, longest: SignedDuration::from_hours(6) };

    fn named(name: &str) -> SourceName {
        name.parse().unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn of(names: &[&str]) -> Turns {
        let mut turns = Turns::new(BACKOFF);
        turns.restart(names.iter().map(|name| named(name)), now());
        turns
    }

    #[test]
    fn each_gets_its_turn_and_nobody_two_at_once() {
        let mut turns = of(&["a", "b"]);
        assert_eq!(turns.take(now()), Some(named("a")));
        assert_eq!(turns.take(now()), Some(named("b")));
        assert_eq!((turns.take(now()), turns.wake_at()), (None, None));
        // After a drill the others come first.
        let later = now() + MINUTE;
        turns.enter(&named("a"), Looked::Worked, true, later);
        turns.enter(&named("b"), Looked::NothingDue { wake_at: later }, true, later);
        assert_eq!(turns.take(later), Some(named("a")));
        turns.enter(&named("a"), Looked::Worked, true, later + MINUTE);
        assert_eq!(turns.take(later + MINUTE), Some(named("b")));
    }

    #[test]
    fn each_ending_has_its_own_wait() {
        let wait = |looked| {
            let mut turns = of(&["a"]);
            turns.take(now());
            turns.enter(&named("a"), looked, true, now());
            turns.wake_at().unwrap().duration_since(now())
        };
        assert_eq!(wait(Looked::Worked), SignedDuration::ZERO);
        assert_eq!(wait(Looked::NothingDue { wake_at: now() + MINUTE * 9 }), MINUTE * 9);
        assert_eq!(wait(Looked::Held), HELD_WATCH);
        assert_eq!(wait(Looked::Failed), BACKOFF.after(1));
    }

    #[test]
    fn failures_in_a_row_wait_ever_longer() {
        let mut turns = of(&["a"]);
        let mut at = now();
        for failures in 1..5 {
            assert_eq!(turns.take(at), Some(named("a")));
            turns.enter(&named("a"), Looked::Failed, true, at);
            assert_eq!(turns.failures(&named("a")), failures);
            let wake_at = turns.wake_at().unwrap();
            assert_eq!(wake_at.duration_since(at), BACKOFF.after(failures));
            at = wake_at;
        }
        turns.take(at);
        turns.enter(&named("a"), Looked::Worked, true, at);
        assert_eq!(turns.failures(&named("a")), 0);
    }

    #[test]
    fn the_clock_is_looked_at_every_minute_and_the_past_is_now() {
        let wait = |look_at: Timestamp| {
            let mut turns = of(&["a"]);
            turns.take(now());
            turns.enter(&named("a"), Looked::NothingDue { wake_at: look_at }, true, now());
            turns.wait(now())
        };
        assert_eq!(Turns::new(BACKOFF).wait(now()), WAIT_MAX);
        assert_eq!(wait(now() + MINUTE * 180), WAIT_MAX);
        assert_eq!(wait(now() + SignedDuration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(wait(now() - SignedDuration::from_secs(7)), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_was_set_back_silences_nobody() {
        let mut turns = of(&["a"]);
        turns.take(now());
        assert_eq!(turns.look_at(&named("a")), None);
        turns.enter(&named("a"), Looked::NothingDue { wake_at: now() + MINUTE * 60 }, true, now());
        assert_eq!(turns.look_at(&named("a")), Some(now() + MINUTE * 60));
        // A clock that is kept right goes back by no more than this at once.
        assert_eq!(turns.take(now()), None);
        assert_eq!(turns.take(now() - CLOCK_STEP), None);
        assert_eq!(turns.take(now() - MINUTE * 24 * 60), Some(named("a")));
    }

    #[test]
    fn waits_grow_to_the_longest() {
        assert_eq!((BACKOFF.after(1), BACKOFF.after(2)), (MINUTE, MINUTE * 2));
        assert_eq!(BACKOFF.after(u32::MAX), BACKOFF.longest);
    }

    #[test]
    fn another_policy_is_looked_at_at_once_and_what_is_at_work_goes_on() {
        let mut turns = of(&["a", "b"]);
        turns.take(now());
        turns.enter(&named("a"), Looked::NothingDue { wake_at: now() + MINUTE * 60 }, true, now());
        assert_eq!(turns.take(now()), Some(named("b")));
        turns.restart([named("a"), named("c")], now() + MINUTE);
        assert_eq!(turns.take(now() + MINUTE), Some(named("a")));
        assert_eq!(turns.take(now() + MINUTE), Some(named("c")));
        turns.enter(&named("b"), Looked::Worked, false, now() + MINUTE);
        assert_eq!(turns.take(now() + MINUTE), None);
    }
}
