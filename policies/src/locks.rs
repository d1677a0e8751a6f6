//! Until when the store itself is to keep what was put, so that nobody can remove it: decided at an upload, and once more
//! by each prune.
//!
//! A lock can be made longer and never shorter, so no backup is locked for longer than the rules are sure to keep it, unless
//! the policy says so. Of every period the newest backup has the slot, and which one that was is known when the period is
//! over. At its upload a backup is therefore locked for as long as the finest rule keeps it: that slot it has, unless another
//! backup of the same period follows, and then it is a lock that was not needed. Prune, which knows whose the slots of the
//! past periods are, locks their backups for the rest.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::names::SourceName;
use crate::policy::{ClassSpans, Location, LockMode, ObjectLock, Policy, Retain};
use crate::retention::{Candidate, Class, Decision, Plan, PlanLine, Reason, Retention};

/// Longest lock that S3 takes: its default retention goes up to 100 years.
const LONGEST: SignedDuration = SignedDuration::from_hours(36_500 * 24);

/// What a policy says of locks, with all that the decision takes.
#[derive(Clone, Debug)]
pub struct Locks {
    lock: ObjectLock,
    zone: TimeZone,
    sources: BTreeMap<SourceName, Retention>,
}

/// A lock that a kept backup should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub until: Timestamp,
    /// The rule that keeps it for so long.
    pub class: Option<Class>,
}

impl Locks {
    /// `None` where nothing is locked.
    pub fn of(policy: &Policy) -> Option<Self> {
        let Location::S3 { object_lock: Some(lock), .. } = &policy.repository.location else { return None };
        let sources = policy.sources.values();
        let sources = sources.map(|source| (source.name.clone(), source.retention.clone())).collect();
        Some(Self { lock: **lock, zone: policy.time_zone(), sources })
    }

    /// The same time for everything, from when it is put.
    pub fn fixed(mode: LockMode, retain: SignedDuration) -> Self {
        let lock = ObjectLock { mode, retain: Retain::For(retain) };
        Self { lock, zone: TimeZone::UTC, sources: BTreeMap::new() }
    }

    pub fn mode(&self) -> LockMode {
        self.lock.mode
    }

    /// For an object of a backup that was started then and is put now. By class this is one date for all its objects, and
    /// none for a dump that took longer than its lock would last.
    pub fn of_backup(&self, source: &SourceName, started_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let Retain::ByClass { otherwise, spans } = &self.lock.retain else { return self.of_record(now) };
        let rules = self.sources.get(source);
        let finest = rules.and_then(|rules| self.kept_until(rules, spans, rules.finest()?, started_at));
        let within = rules.and_then(|rules| started_at.checked_add(rules.within?).ok());
        let until = finest.max(within).or_else(|| started_at.checked_add(*otherwise).ok())?;
        Some(at_the_longest(until, started_at)).filter(|until| *until > now)
    }

    /// For a record of an act, which no rule removes.
    pub fn of_record(&self, now: Timestamp) -> Option<Timestamp> {
        let (Retain::For(span) | Retain::ByClass { otherwise: span, .. }) = self.lock.retain;
        now.checked_add(span).ok()
    }

    /// How long a backup that a plan keeps should be locked, by the slots that nothing can take from it any more. `None` where
    /// no rule keeps it beyond `now` for sure.
    pub fn due(&self, source: &SourceName, line: &PlanLine, now: Timestamp) -> Option<Due> {
        let (Retain::ByClass { spans, .. }, Decision::Keep(reasons)) = (&self.lock.retain, &line.decision)
        else {
            return None;
        };
        let (rules, at) = (self.sources.get(source)?, line.snapshot_at);
        let of_class = |class: Class| {
            let is_sure = Some(class) == rules.finest() || class.is_over(at, &self.zone, now);
            self.kept_until(rules, spans, class, at).filter(|_| is_sure)
        };
        let of_reason = |reason: &Reason| {
            let class = reason.class();
            let until = match reason {
                Reason::Within(span) => at.checked_add(*span).ok(),
                _ => of_class(class?),
            };
            // Stores count in seconds.
            let until = at_the_longest(until?, at).as_second();
            Some(Due { until: Timestamp::from_second(until).ok()?, class })
        };
        let due = reasons.iter().filter_map(of_reason).max_by_key(|due| due.until)?;
        (due.until > now).then_some(due)
    }

    /// The same for all that a plan keeps, in its order. What a backup needs to be restored is locked for as long as itself.
    pub fn all_due<'a>(
        &self,
        source: &SourceName,
        plan: &'a Plan,
        candidates: &[Candidate],
        now: Timestamp,
    ) -> Vec<(&'a str, Due)> {
        let kept = plan.lines.iter().filter(|line| matches!(line.decision, Decision::Keep(_)));
        let mut all: BTreeMap<&str, Option<Due>> =
            kept.clone().map(|line| (line.id.as_str(), self.due(source, line, now))).collect();
        let own = all.clone();
        for candidate in candidates {
            let Some(Some(due)) = own.get(candidate.id.as_str()) else { continue };
            for needed in &candidate.needs {
                if let Some(of_needed) = all.get_mut(needed.as_str()) {
                    let is_longer = of_needed.is_none_or(|known| known.until < due.until);
                    *of_needed = if is_longer { Some(*due) } else { *of_needed };
                }
            }
        }
        kept.filter_map(|line| Some((line.id.as_str(), all[line.id.as_str()]?))).collect()
    }

    fn kept_until(
        &self,
        rules: &Retention,
        spans: &ClassSpans,
        class: Class,
        at: Timestamp,
    ) -> Option<Timestamp> {
        match spans.of(class) {
            Some(span) => at.checked_add(span).ok(),
            // What the calendar does not hold is far beyond the longest lock.
            None => Some(class.kept_until(rules.count(class), at, &self.zone).unwrap_or(Timestamp::MAX)),
        }
    }
}

fn at_the_longest(until: Timestamp, from: Timestamp) -> Timestamp {
    until.min(from.checked_add(LONGEST).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests;
