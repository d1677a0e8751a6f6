//! `pgproof fleet`: many repositories side by side, the unprotected first.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};
use jiff::{SignedDuration, Timestamp};
use pgproof_monitoring::fleet::{Document, Fleet, FleetSurvey, Line, Locked, worst};
use pgproof_policies::standing::State;

use super::status::colour;
use super::{print_json, say};
use crate::{cli, failure, plain};

/// What the summary counts, the worst first.
const STATES: [State; 4] = [State::Critical, State::Unknown, State::Warning, State::Ok];

/// Its exit codes are those of `status`: what could not be found out is unknown.
pub(crate) async fn run(policy: PathBuf, args: cli::Fleet, json: bool) -> anyhow::Result<ExitCode> {
    let state = match survey(policy, args).await.and_then(|survey| tell(&survey, json)) {
        Ok(state) => state,
        Err(error) => {
            failure::report(&error, json);
            State::Unknown
        }
    };
    Ok(state.exit_code().into())
}

async fn survey(policy: PathBuf, args: cli::Fleet) -> anyhow::Result<FleetSurvey> {
    let files = if args.files.is_empty() { vec![policy] } else { args.files };
    let fleet = Fleet::read(&files)?;
    Ok(fleet.survey(Timestamp::now(), Duration::from_secs(args.deadline)).await)
}

fn tell(survey: &FleetSurvey, json: bool) -> anyhow::Result<State> {
    // Reading may have taken its time.
    let now = Timestamp::now();
    let lines = survey.judge(now);
    if json {
        print_json(&Document::of(survey, now))?;
        return Ok(worst(&lines));
    }
    let is_coloured =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    say(&table(&lines, now, is_coloured))?;
    for line in &lines {
        for reason in &line.reasons {
            say(&format!("{}: {}: {reason}", place(line), protection(line.state)))?;
        }
        if let Some(hint) = line.hint {
            say(&format!("hint: {hint}"))?;
        }
    }
    say(&summary(&lines, survey.repository_count()))?;
    Ok(worst(&lines))
}

fn table(lines: &[Line<'_>], now: Timestamp, is_coloured: bool) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header([
        "repository",
        "source",
        "state",
        "backup, of objective",
        "proof",
        "restore, of objective",
        "failed",
        "size",
        "kept",
    ]);
    if let Some(column) = table.column_mut(7) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in lines {
        let cell = Cell::new(protection(line.state));
        let source = line.source.map(ToString::to_string).unwrap_or_default();
        let mut row = vec![
            Cell::new(line.repository),
            Cell::new(source),
            if is_coloured { cell.fg(colour(line.state)) } else { cell },
        ];
        row.extend(columns(line, now).map(Cell::new));
        table.add_row(row);
    }
    table.to_string()
}

/// What follows the state; empty where it is not known or not asked for.
fn columns(line: &Line<'_>, now: Timestamp) -> [String; 6] {
    let Some(standing) = &line.standing else { return Default::default() };
    let Some(facts) = standing.facts else { return Default::default() };
    let backup = facts.newest_backup(now);
    let proof = facts.newest_proof(now);
    let objectives = &standing.source.objectives;
    let age = backup.map(|backup| now.duration_since(backup.snapshot_at).max(SignedDuration::ZERO));
    let unproved = if standing.source.verification.is_some() { "never" } else { "" };
    let failed = line.last_failure().map(|(run, _)| plain::age(run.ended_at, now));
    [
        age.map_or_else(|| "never".to_owned(), |age| of_objective(age, objectives.recovery_point)),
        proof.map_or_else(|| unproved.to_owned(), |proof| plain::age(proof.finished_at, now)),
        match line.expected_recovery(now) {
            Some(took) => of_objective(took, objectives.recovery_time),
            None => objectives.recovery_time.map(|_| "not measured".to_owned()).unwrap_or_default(),
        },
        failed.unwrap_or_default(),
        backup.map(|backup| plain::bytes(backup.stored_bytes)).unwrap_or_default(),
        kept(line),
    ]
}

/// `6 h of 26 h`.
fn of_objective(value: SignedDuration, objective: Option<SignedDuration>) -> String {
    match objective {
        Some(objective) => format!("{} of {}", plain::duration(value), plain::duration(objective)),
        None => plain::duration(value),
    }
}

fn kept(line: &Line<'_>) -> String {
    let Some(kept) = line.kept else { return String::new() };
    let holds = match kept.holds {
        Some(0) => None,
        Some(count) => Some(format!("{count} held")),
        None => Some("holds not known".to_owned()),
    };
    let lock = match kept.lock {
        Locked::Not => None,
        Locked::By(lock) => Some(lock.to_string()),
        Locked::NotKnown => Some("lock not known".to_owned()),
    };
    [holds, lock].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn place(line: &Line<'_>) -> String {
    match line.source {
        Some(source) => format!("{}: {source}", line.repository),
        None => line.repository.to_owned(),
    }
}

/// `1 unprotected, 3 protected; 2 repositories`.
fn summary(lines: &[Line<'_>], repositories: usize) -> String {
    let counted = STATES.into_iter().filter_map(|state| {
        let count = lines.iter().filter(|line| line.state == state).count();
        (count > 0).then(|| format!("{count} {}", protection(state)))
    });
    let told = counted.collect::<Vec<_>>().join(", ");
    let repositories =
        if repositories == 1 { "1 repository".to_owned() } else { format!("{repositories} repositories") };
    match told.is_empty() {
        true => format!("no source in {repositories}"),
        false => format!("{told}, in {repositories}"),
    }
}

fn protection(state: State) -> String {
    state.protection().replace('_', " ")
}
