//! One question an aspect.

use jiff::{SignedDuration, Timestamp};

use super::{Aspect, CLOCK_SKEW_MAX, Drill, Facts, Finding, Limits, State, Verdict, is_ahead, told};
use crate::policy::{Kind, Source, Thresholds};

/// Passed-over folders that a sentence names; the rest it counts.
const NAMED_MAX: usize = 3;
/// A missed objective that far ahead is worth a look now.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub source: &'a Source,
    pub limits: &'a Limits,
    pub facts: &'a Facts,
    pub now: Timestamp,
}

impl Question<'_> {
    pub(super) fn backup_age(&self) -> Finding {
        let (aspect, limits) = (Aspect::BackupAge, self.limits.backup_age);
        if let Some(newest) = self.facts.newest_backup(self.now) {
            let of = format!("backup {}", newest.id);
            return self.aged(aspect, newest.snapshot_at, limits, &of);
        }
        let (state, told) = match (self.facts.not_looked_at, self.facts.backups.len()) {
            (0, 0) if self.facts.passed_over.is_empty() => (State::Critical, "there is no backup".to_owned()),
            (0, 0) => (State::Critical, "there is no good backup".to_owned()),
            (0, _) => (State::Unknown, "every good backup is dated ahead of this clock".to_owned()),
            (count, _) => (
                State::Critical,
                format!("no good backup among the newest; {count} older folders or more were not looked at"),
            ),
        };
        Finding { state, thresholds: limits, since: self.facts.first_seen, ..Finding::ok(aspect, told) }
    }

    /// A backup of files counts although some could not be read: all others are safe, and somebody must know of these.
    pub(super) fn incomplete(&self) -> Option<Finding> {
        let newest = self.facts.newest_backup(self.now)?;
        let aspect = Aspect::Incomplete;
        match (newest.losses, &self.source.kind) {
            (0, Kind::Files(_)) => Some(Finding::ok(aspect, format!("backup {} lacks no file", newest.id))),
            (0, _) => None,
            (losses, _) => {
                let told = format!(
                    "backup {} lacks {losses} file(s) or parts of them; `pgproof show --inventory` lists them",
                    newest.id
                );
                let since = Some(newest.snapshot_at);
                Some(Finding { state: State::Warning, since, ..Finding::ok(aspect, told) })
            }
        }
    }

    pub(super) fn proof_age(&self) -> Option<Finding> {
        self.source.verification.as_ref()?;
        let (aspect, limits) = (Aspect::ProofAge, self.limits.proof_age);
        if let Some(proof) = self.facts.newest_proof(self.now) {
            let of = format!("proof (of backup {})", proof.backup);
            return Some(self.aged(aspect, proof.finished_at, limits, &of));
        }
        // The first drill is overdue when any other would be, had there been one when the source was first seen.
        let overdue_at = self.facts.first_seen.zip(limits).map(|(seen, limits)| later(seen, limits.warning));
        let since = overdue_at.filter(|at| *at <= self.now);
        let (state, told) = match (since, overdue_at) {
            (Some(_), _) => (State::Critical, "no backup was ever proved, and the first drill is overdue"),
            (None, Some(_)) => (State::Ok, "no backup was proved yet, and the first drill is not overdue"),
            (None, None) => (State::Unknown, "there is nothing to prove yet"),
        };
        Some(Finding { state, thresholds: limits, since, ..Finding::ok(aspect, told.to_owned()) })
    }

    /// What a drill found bad stays so until another comes to a verdict: one that could not be run hides nothing.
    pub(super) fn drill(&self) -> Option<Finding> {
        self.source.verification.as_ref()?;
        let newest = self.newest_drill(|_| true)?;
        let finding = drilled("the newest drill", newest);
        let judged = self.newest_drill(|drill| drill.verdict != Verdict::Open);
        let judged = judged.map(|drill| drilled("the newest drill with a verdict", drill));
        match judged.filter(|judged| judged.state > finding.state) {
            Some(judged) => {
                let told =
                    format!("{}; a newer one could not be run on backup {}", judged.told, newest.backup);
                Some(Finding { told, ..judged })
            }
            None => Some(finding),
        }
    }

    /// Missed is a warning: what is lost today is the business of [`Aspect::BackupAge`] and its thresholds.
    pub(super) fn recovery_point(&self) -> Option<Finding> {
        let objective = self.source.objectives.recovery_point?;
        let aspect = Aspect::RecoveryPoint;
        let Some(newest) = self.facts.newest_backup(self.now) else {
            let state = State::Critical;
            let told = format!("nothing can be recovered; the objective is {}", told(objective));
            return Some(Finding { state, ..Finding::ok(aspect, told) });
        };
        let age = self.age(newest.snapshot_at);
        let gap =
            self.newest_drill(|_| true).and_then(|drill| drill.longest_gap).filter(|gap| *gap > objective);
        let (state, since, told) = match (age > objective, gap) {
            (true, _) => {
                let told =
                    format!("missed: {} would be lost, the objective is {}", told(age), told(objective));
                (State::Warning, Some(later(newest.snapshot_at, objective)), told)
            }
            (false, Some(gap)) => {
                let told = format!(
                    "met now; the newest drill found a gap of {}, the objective is {}",
                    told(gap),
                    told(objective)
                );
                (State::Warning, None, told)
            }
            (false, None) => (State::Ok, None, format!("met: {} of {}", told(age), told(objective))),
        };
        Some(Finding { state, since, value: Some(age), ..Finding::ok(aspect, told) })
    }

    pub(super) fn recovery_time(&self) -> Option<Finding> {
        let objective = self.source.objectives.recovery_time?;
        let aspect = Aspect::RecoveryTime;
        let measured = self.facts.newest_measured(self.now);
        let Some((drill, took)) = measured.and_then(|drill| Some((drill, drill.recovery?))) else {
            // A promise that nothing measures is the policy's mistake; one that was not measured yet is not known.
            let (state, why) = match self.source.verification {
                Some(_) => (State::Unknown, "not measured by any drill"),
                None => (State::Warning, "not measured, since the policy asks for no verification"),
            };
            let told = format!("{why}; the objective is {}", told(objective));
            return Some(Finding { state, ..Finding::ok(aspect, told) });
        };
        let (state, since, told) = match drill.recovery_missed_from {
            _ if took > objective => {
                let told = format!("missed: it took {}, the objective is {}", told(took), told(objective));
                (State::Warning, Some(drill.finished_at), told)
            }
            Some(at) if at.duration_since(self.now) < SOON => {
                let day = at.strftime("%Y-%m-%d");
                (State::Warning, None, format!("met, and at its growth missed from {day} on"))
            }
            _ => (State::Ok, None, format!("met: {} of {}", told(took), told(objective))),
        };
        Some(Finding { state, since, value: Some(took), ..Finding::ok(aspect, told) })
    }

    /// Named, and never critical: that is for the age to say.
    pub(super) fn failing(&self) -> Option<Finding> {
        let newest = self.facts.runs.first()?;
        let failures = self.facts.failures_in_a_row(self.now);
        let Some(error) = newest.error.as_ref().filter(|_| failures > 0) else {
            let told = format!("the last run, on {}, made a backup", newest.host);
            return Some(Finding::ok(Aspect::Failing, told));
        };
        let since = self.facts.runs.get(failures - 1).map(|run| run.started_at);
        let told =
            format!("{failures} run(s) in a row made no backup; the last, on {}: {error}", newest.host);
        Some(Finding { state: State::Warning, since, ..Finding::ok(Aspect::Failing, told) })
    }

    /// One of several hosts is a warning, since it may have been put out of service; all of them are not.
    pub(super) fn host_silent(&self) -> Option<Finding> {
        let (aspect, limits) = (Aspect::HostSilent, self.limits.host_silent);
        let limits = limits?;
        let hosts = self.facts.hosts();
        let (_, heard) = *hosts.iter().max_by_key(|(_, heard)| *heard)?;
        let whole = self.aged(aspect, heard, Some(limits), "record of a run on any host");
        if whole.state != State::Ok {
            return Some(whole);
        }
        let silent = hosts.iter().filter(|(_, heard)| self.age(*heard) > limits.warning);
        let silent: Vec<_> =
            silent.map(|(host, heard)| format!("{host} for {}", told(self.age(*heard)))).collect();
        match silent.len() {
            0 => Some(whole),
            _ => {
                let told = format!("nothing was heard from {}", silent.join(", "));
                Some(Finding { state: State::Warning, told, ..whole })
            }
        }
    }

    pub(super) fn unreadable(&self) -> Finding {
        let Facts { passed_over, worthless_records, .. } = self.facts;
        let named = passed_over.iter().take(NAMED_MAX).map(|it| format!("{}: {}", it.id, it.why));
        let mut parts: Vec<String> = named.collect();
        if let Some(more @ 1..) = passed_over.len().checked_sub(NAMED_MAX) {
            parts.push(format!("{more} more"));
        }
        if *worthless_records > 0 {
            parts.push(format!("{worthless_records} record(s) or report(s) cannot be used"));
        }
        let state = if parts.is_empty() { State::Ok } else { State::Warning };
        let told = match state {
            State::Ok => "nothing newer than the newest good backup was passed over".to_owned(),
            _ => format!("does not count: {}", parts.join("; ")),
        };
        Finding { state, ..Finding::ok(Aspect::Unreadable, told) }
    }

    pub(super) fn removal(&self) -> Finding {
        match self.facts.unfinished_removals {
            0 => Finding::ok(Aspect::Removal, "no removal stopped half-way".to_owned()),
            count => {
                let told = format!("{count} removal(s) stopped half-way; `pgproof prune` goes on with them");
                Finding { state: State::Warning, ..Finding::ok(Aspect::Removal, told) }
            }
        }
    }

    pub(super) fn clock(&self) -> Finding {
        let dated = self.facts.backups.iter().map(|it| (it.snapshot_at, format!("backup {}", it.id)));
        let reports = self.facts.drills.iter().map(|it| (it.finished_at, format!("report on {}", it.backup)));
        let ahead = dated.chain(reports).filter(|(at, _)| is_ahead(*at, self.now)).max();
        let skew = self.facts.store_clock_ahead.filter(|skew| skew.abs() > CLOCK_SKEW_MAX);
        let told = match (skew, ahead) {
            (Some(skew), _) => {
                let direction = if skew.is_negative() { "behind" } else { "ahead of" };
                format!("the store's clock is {} {direction} this one: ages may be wrong by that", told(skew))
            }
            (None, Some((at, what))) => {
                let by = told(at.duration_since(self.now));
                format!("{what} is dated {by} ahead of this clock, and does not count yet")
            }
            (None, None) => return Finding::ok(Aspect::Clock, "nothing is dated ahead".to_owned()),
        };
        Finding { state: State::Warning, ..Finding::ok(Aspect::Clock, told) }
    }

    fn newest_drill(&self, wanted: impl Fn(&Drill) -> bool) -> Option<&Drill> {
        self.facts.newest_drill(self.now, wanted)
    }

    fn aged(&self, aspect: Aspect, at: Timestamp, thresholds: Option<Thresholds>, what: &str) -> Finding {
        let age = self.age(at);
        let (state, since) = match thresholds {
            Some(Thresholds { critical, .. }) if age > critical => {
                (State::Critical, Some(later(at, critical)))
            }
            Some(Thresholds { warning, .. }) if age > warning => (State::Warning, Some(later(at, warning))),
            _ => (State::Ok, None),
        };
        let limit = match (state, thresholds) {
            (_, None) => "; the policy sets no limit".to_owned(),
            (State::Critical, Some(limits)) => format!(", more than {}", told(limits.critical)),
            (State::Warning, Some(limits)) => format!(", more than {}", told(limits.warning)),
            (_, Some(_)) => String::new(),
        };
        let told = format!("the newest {what} is {} old{limit}", told(age));
        Finding { state, value: Some(age), thresholds, since, ..Finding::ok(aspect, told) }
    }

    fn age(&self, at: Timestamp) -> SignedDuration {
        self.now.duration_since(at).max(SignedDuration::ZERO)
    }
}

/// What one drill says.
fn drilled(which: &str, drill: &Drill) -> Finding {
    let (state, what) = match drill.verdict {
        Verdict::Proved => (State::Ok, "proved"),
        Verdict::Degraded => (State::Ok, "proved, with a weakness that its report names,"),
        Verdict::Bad => (State::Critical, "refuted"),
        Verdict::Open => (State::Warning, "could not be run on"),
        Verdict::VerifierFailed => {
            (State::Critical, "failed its own test, so that no verdict of the verifier counts, on")
        }
    };
    let told = format!("{which} {what} backup {}", drill.backup);
    let since = (state != State::Ok).then_some(drill.finished_at);
    Finding { state, since, ..Finding::ok(Aspect::Drill, told) }
}

/// Past the end of time is its end.
fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
