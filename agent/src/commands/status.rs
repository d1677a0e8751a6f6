//! `pgproof status`: how the sources stand, for people, programs and plugins.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Color, Table};
use jiff::Timestamp;
use pgproof_monitoring::document::Document;
use pgproof_monitoring::facts::GROWTH_SPANS;
use pgproof_monitoring::survey::{Standing, Subject, Survey, worst};
use pgproof_policies::standing::{Aspect, Finding, State};
use pgproof_repository::access::LoadedPolicy;

use super::{print_json, say};
use crate::{cli, failure, plain};

/// Every exit code is a plugin's: a policy that cannot be read is unknown, too.
pub(crate) async fn run(policy: &Path, args: cli::Status, json: bool) -> anyhow::Result<ExitCode> {
    let nagios = args.nagios;
    let state = match survey(policy, &args).await.and_then(|survey| tell(&survey, &args, json)) {
        Ok(state) => state,
        Err(error) => {
            if nagios {
                say(&one_line(State::Unknown, &format!("{error:#}"), ""))?;
            }
            failure::report(&error, json);
            State::Unknown
        }
    };
    Ok(state.exit_code().into())
}

async fn survey(policy: &Path, args: &cli::Status) -> anyhow::Result<Survey> {
    let loaded = LoadedPolicy::read(policy)?;
    for name in &args.source {
        loaded.source(name)?;
    }
    let now = Timestamp::now();
    let subject = Subject::open(&loaded, now).await.context("the state cannot be found out")?;
    let subject = if args.source.is_empty() { subject } else { subject.only(&args.source) };
    Ok(subject.survey(now).await)
}

fn tell(survey: &Survey, args: &cli::Status, json: bool) -> anyhow::Result<State> {
    // Reading may have taken its time.
    let now = Timestamp::now();
    let standings = survey.judge(now);
    match (json, args.nagios) {
        (true, _) => print_json(&Document::of(survey, now))?,
        (false, true) => say(&plugin_line(&standings, now))?,
        (false, false) => {
            let is_coloured = std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
            say(&table(&standings, now, is_coloured))?;
            for line in standings.iter().flat_map(|standing| attention(standing)) {
                say(&line)?;
            }
        }
    }
    Ok(worst(&standings))
}

fn table(standings: &[Standing<'_>], now: Timestamp, is_coloured: bool) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header([
        "source",
        "state",
        "backup",
        "size",
        "7 d",
        "30 d",
        "proof",
        "of backup",
        "objectives",
        "next run",
    ]);
    for column in [3, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for standing in standings {
        let state = standing.state();
        let cell = Cell::new(state.as_str());
        let mut row =
            vec![Cell::new(&standing.source.name), if is_coloured { cell.fg(colour(state)) } else { cell }];
        row.extend(columns(standing, now).map(Cell::new));
        table.add_row(row);
    }
    table.to_string()
}

/// What follows the state; empty where it is not known or not asked for.
fn columns(standing: &Standing<'_>, now: Timestamp) -> [String; 8] {
    let facts = standing.facts;
    let backup = facts.and_then(|facts| facts.newest_backup(now));
    let proof = facts.and_then(|facts| facts.newest_proof(now));
    let none = |asked: bool| if facts.is_some() && asked { "never" } else { "" }.to_owned();
    let growth = |span| facts.and_then(|facts| facts.growth(span, now)).map(signed_bytes).unwrap_or_default();
    let is_verified = standing.source.verification.is_some();
    [
        backup.map_or_else(|| none(true), |backup| plain::age(backup.snapshot_at, now)),
        backup.map(|backup| plain::bytes(backup.stored_bytes)).unwrap_or_default(),
        growth(GROWTH_SPANS[0]),
        growth(GROWTH_SPANS[1]),
        proof.map_or_else(|| none(is_verified), |proof| plain::age(proof.finished_at, now)),
        proof.map(|proof| proof.backup.clone()).unwrap_or_default(),
        objectives(&standing.findings),
        standing.next_run.map(plain::time).unwrap_or_default(),
    ]
}

/// `point met, time missed`.
fn objectives(findings: &[Finding]) -> String {
    let of = |aspect, name| {
        let finding = findings.iter().find(|finding| finding.aspect == aspect)?;
        let (verdict, _) = finding.told.split_once([':', ';', ',']).unwrap_or((&finding.told, ""));
        Some(format!("{name} {verdict}"))
    };
    let all = [of(Aspect::RecoveryPoint, "point"), of(Aspect::RecoveryTime, "time")];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A line for everything that is not well, and for who is at work.
fn attention(standing: &Standing<'_>) -> Vec<String> {
    let name = &standing.source.name;
    let unwell = standing.findings.iter().filter(|finding| finding.state != State::Ok);
    let mut lines: Vec<String> = unwell
        .map(|finding| {
            let since = finding.since.map(|at| format!(" (since {})", plain::time(at))).unwrap_or_default();
            format!("{name}: {}: {}: {}{since}", finding.state, finding.aspect, finding.told)
        })
        .collect();
    let at_work = standing.facts.iter().flat_map(|facts| &facts.at_work);
    lines
        .extend(at_work.map(|it| format!("{name}: at work: {} by process {} on {}", it.on, it.pid, it.host)));
    lines
}

/// <https://nagios-plugins.org/doc/guidelines.html>: one line, then performance data behind a bar.
fn plugin_line(standings: &[Standing<'_>], now: Timestamp) -> String {
    let unwell = |standing: &Standing<'_>| {
        let told = standing.findings.iter().filter(|finding| finding.state != State::Ok);
        let told: Vec<_> = told.map(|finding| format!("{}: {}", finding.aspect, finding.told)).collect();
        (!told.is_empty()).then(|| format!("{}: {}", standing.source.name, told.join("; ")))
    };
    let told: Vec<String> = standings.iter().filter_map(unwell).collect();
    let told = match told.len() {
        0 => format!("{} source(s) backed up and proved as the policy asks", standings.len()),
        _ => told.join(". "),
    };
    let performance = standings.iter().flat_map(|standing| performance(standing, now)).collect::<Vec<_>>();
    one_line(worst(standings), &told, &performance.join(" "))
}

fn one_line(state: State, told: &str, performance: &str) -> String {
    let told = told.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("PGPROOF {} - {told}", state.as_str().to_uppercase());
    if performance.is_empty() { line } else { format!("{line} | {performance}") }
}

/// `'label'=value[unit];[warning];[critical];[minimum]`.
fn performance(standing: &Standing<'_>, now: Timestamp) -> Vec<String> {
    let name = &standing.source.name;
    let aged = standing.findings.iter().filter_map(|finding| {
        let (value, limits) = (finding.value?.as_secs(), finding.thresholds);
        let limit =
            |it: Option<jiff::SignedDuration>| it.map(|it| it.as_secs().to_string()).unwrap_or_default();
        let warning = limit(limits.map(|limits| limits.warning));
        let critical = limit(limits.map(|limits| limits.critical));
        Some(format!("'{name}_{}'={value}s;{warning};{critical};0", finding.aspect))
    });
    let newest = standing.facts.and_then(|facts| facts.newest_backup(now));
    let size = newest.map(|backup| format!("'{name}_size'={}B;;;0", backup.stored_bytes));
    aged.chain(size).collect()
}

pub(super) fn colour(state: State) -> Color {
    match state {
        State::Ok => Color::Green,
        State::Warning => Color::Yellow,
        State::Unknown => Color::Magenta,
        State::Critical => Color::Red,
    }
}

fn signed_bytes(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "+" };
    format!("{sign}{}", plain::bytes(bytes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_line_is_one_line_with_one_bar() {
        assert_eq!(one_line(State::Ok, "all\n is | well", "'a'=1s"), "PGPROOF OK - all is / well | 'a'=1s");
        assert_eq!(one_line(State::Unknown, "no answer", ""), "PGPROOF UNKNOWN - no answer");
    }

    #[test]
    fn growth_has_a_sign() {
        assert_eq!(signed_bytes(-1024), "-1.00 KiB");
        assert_eq!(signed_bytes(0), "+0 B");
    }
}
