//! All sources on one page, the worst first.

use askama::Template;
use jiff::Timestamp;
use pgproof_monitoring::survey::{Standing, worst};
use pgproof_policies::standing::{Aspect, State, Verdict};

use super::{Frame, aged, proof_told, protection, reasons, tone};
use crate::report::figures;
use crate::report::parts::{Cell, Tone, written};

#[derive(Debug, Template)]
#[template(path = "serve/sources.html")]
struct Page<'a> {
    frame: Frame,
    location: &'a str,
    tone: Tone,
    word: String,
    heading: String,
    told: String,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    name: String,
    state: Cell,
    backup: Cell,
    proof: Cell,
    objectives: Vec<Cell>,
    reasons: Vec<String>,
}

pub(in crate::serve) fn html(
    frame: Frame,
    location: &str,
    standings: &[Standing<'_>],
    now: Timestamp,
) -> String {
    let gravest = worst(standings);
    let mut sorted: Vec<&Standing<'_>> = standings.iter().collect();
    sorted.sort_by_key(|standing| std::cmp::Reverse(standing.state()));
    let page = Page {
        frame,
        location,
        tone: tone(gravest),
        word: protection(gravest),
        heading: heading(standings),
        told: told(standings),
        lines: sorted.into_iter().map(|standing| line(standing, now)).collect(),
    };
    written(&page)
}

fn heading(standings: &[Standing<'_>]) -> String {
    let all = standings.len() as u64;
    let of = |state| standings.iter().filter(|standing| standing.state() == state).count() as u64;
    match (of(State::Ok), of(State::Unknown)) {
        (well, _) if well == all => {
            format!("{} protected", figures::counted(all, "source is", "sources are"))
        }
        (_, unknown) if unknown == all => "The repository cannot be read".to_owned(),
        (well, _) => {
            format!("{} of {} protected", figures::count(well), figures::counted(all, "source", "sources"))
        }
    }
}

fn told(standings: &[Standing<'_>]) -> String {
    let counted =
        [State::Critical, State::Unknown, State::Warning, State::Ok].into_iter().filter_map(|state| {
            let count = standings.iter().filter(|standing| standing.state() == state).count();
            (count > 0).then(|| format!("{count} {}", protection(state)))
        });
    let counted = counted.collect::<Vec<_>>().join(", ");
    match standings.iter().all(|standing| standing.facts.is_none()) {
        true => "Nothing is known of any source now: that says neither that backups are there nor that they are not.".to_owned(),
        false => format!("{counted}."),
    }
}

fn line(standing: &Standing<'_>, now: Timestamp) -> Line {
    let state = standing.state();
    let facts = standing.facts;
    let none = |asked: bool| match (facts.is_some(), asked) {
        (false, _) => Cell::marked(Tone::Unknown, "not known"),
        (true, true) => Cell::marked(Tone::Bad, "never"),
        (true, false) => Cell::from("not asked for"),
    };
    let backup = facts.and_then(|facts| facts.newest_backup(now));
    let proof = facts.and_then(|facts| facts.newest_proof(now));
    let is_verified = standing.source.verification.is_some();
    Line {
        name: standing.source.name.to_string(),
        state: Cell::marked(tone(state), protection(state)),
        backup: backup.map_or_else(|| none(true), |backup| aged(backup.snapshot_at, now).into()),
        proof: proof.map_or_else(
            || none(is_verified),
            |proof| proof_told(aged(proof.finished_at, now), proof.verdict == Verdict::Degraded),
        ),
        objectives: objectives(standing),
        reasons: reasons(&standing.findings),
    }
}

fn objectives(standing: &Standing<'_>) -> Vec<Cell> {
    let named = [(Aspect::RecoveryPoint, "recovery point"), (Aspect::RecoveryTime, "recovery time")];
    let told = named.into_iter().filter_map(|(aspect, name)| {
        let finding = standing.findings.iter().find(|finding| finding.aspect == aspect)?;
        Some(Cell::marked(tone(finding.state), format!("{name} {}", finding.told)))
    });
    let told: Vec<Cell> = told.collect();
    match (told.is_empty(), standing.facts.is_some()) {
        (false, _) => told,
        (true, true) => vec!["none set".into()],
        (true, false) => vec![Cell::marked(Tone::Unknown, "not known")],
    }
}
