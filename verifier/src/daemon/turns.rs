//! Whose turn it is: which source is looked at next, and when.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pgproof_policies::drills::retry_after;
use pgproof_policies::names::SourceName;

/// How often a source is tried that another verifier is at work on: one small read each time.
const HELD_WATCH: SignedDuration = SignedDuration::from_secs(5);

/// The sources, each with the time at which it is looked at next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: BTreeMap<SourceName, Turn>,
}

#[derive(Debug)]
struct Turn {
    look_at: Timestamp,
    /// Looks in a row of which no report remains.
    failures: u32,
    is_at_work: bool,
}

/// How a look at a source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// There may be more to do.
    Drilled,
    NothingDue {
        wake_at: Timestamp,
    },
    /// Another verifier is at work on it.
    Held,
    /// The store or this machine failed.
    Failed,
}

impl Turns {
    /// Looks at each of these at once. Those that somebody is at work on go on, also where they are not named any more.
    pub(super) fn restart(&mut self, sources: impl IntoIterator<Item = SourceName>, now: Timestamp) {
        self.turns.retain(|_, turn| turn.is_at_work);
        for source in sources {
            self.turns.entry(source).or_insert(Turn { look_at: now, failures: 0, is_at_work: false });
        }
    }

    /// The source that has waited longest, which is at work from here on.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<SourceName> {
        let idle = self.turns.iter_mut().filter(|(_, turn)| !turn.is_at_work && turn.look_at <= now);
        let (source, turn) = idle.min_by_key(|(_, turn)| turn.look_at)?;
        turn.is_at_work = true;
        Some(source.clone())
    }

    /// Enters how a look ended. A source that the policy has lost meanwhile is `still_there` no more.
    pub(super) fn enter(&mut self, source: &SourceName, looked: Looked, still_there: bool, now: Timestamp) {
        if !still_there {
            self.turns.remove(source);
            return;
        }
        let Some(turn) = self.turns.get_mut(source) else { return };
        turn.is_at_work = false;
        turn.failures = if looked == Looked::Failed { turn.failures.saturating_add(1) } else { 0 };
        turn.look_at = match looked {
            Looked::Drilled => now,
            Looked::NothingDue { wake_at } => wake_at,
            Looked::Held => now + HELD_WATCH,
            Looked::Failed => now + retry_after(turn.failures),
        };
    }

    /// When to take the next one; `None` where nobody waits.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.turns.values().filter(|turn| !turn.is_at_work).map(|turn| turn.look_at).min()
    }

    pub(super) fn failures(&self, source: &SourceName) -> u32 {
        self.turns.get(source).map_or(0, |turn| turn.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    fn named(name: &str) -> SourceName {
        name.parse().unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn of(names: &[&str]) -> Turns {
        let mut turns = Turns::default();
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
        turns.enter(&named("a"), Looked::Drilled, true, later);
        turns.enter(&named("b"), Looked::NothingDue { wake_at: later }, true, later);
        assert_eq!(turns.take(later), Some(named("a")));
        turns.enter(&named("a"), Looked::Drilled, true, later + MINUTE);
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
        assert_eq!(wait(Looked::Drilled), SignedDuration::ZERO);
        assert_eq!(wait(Looked::NothingDue { wake_at: now() + MINUTE * 9 }), MINUTE * 9);
        assert_eq!(wait(Looked::Held), HELD_WATCH);
        assert_eq!(wait(Looked::Failed), retry_after(1));
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
            assert_eq!(wake_at.duration_since(at), retry_after(failures));
            at = wake_at;
        }
        turns.take(at);
        turns.enter(&named("a"), Looked::Drilled, true, at);
        assert_eq!(turns.failures(&named("a")), 0);
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
        turns.enter(&named("b"), Looked::Drilled, false, now() + MINUTE);
        assert_eq!(turns.take(now() + MINUTE), None);
    }
}
