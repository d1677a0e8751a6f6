//! A report as people read it on a terminal: the verdict first.

use std::fmt::Write;

use super::v1::{NegativeControl, OutcomeKind, Report};

impl Report {
    /// `key` is where the report was stored, if it was.
    pub fn text(&self, key: Option<&str>) -> String {
        let mut text = format!("{}: backup {} of {}\n", self.verdict, self.backup, self.source);
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<18} {value}");
        };
        line("shows", &self.snapshot_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        if let Some(seconds) = self.recovery_seconds {
            line("recovered in", &format!("{seconds:.1} s"));
        }
        for check in &self.checks {
            let detail = check.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            line(&check.name, &format!("{}{detail}", check.outcome()));
        }
        line("negative control", &told(&self.negative_control));
        for table in self.tables.iter().filter(|table| !table.equal) {
            let found =
                table.found.as_ref().map_or("unreadable".to_owned(), |found| format!("{} rows", found.rows));
            let problem = table.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            let told = format!(
                "{}.{}: {} rows dumped, {found}{problem}",
                table.schema, table.name, table.expected.rows
            );
            line("differs", &told);
        }
        for phase in &self.phases {
            line("took", &format!("{:.1} s {}", phase.seconds, phase.name));
        }
        let coverage = &self.coverage;
        let told = format!(
            "{} of {} kept backups proved in {} days",
            coverage.proved, coverage.kept, coverage.window_days
        );
        line("coverage", &told);
        for warning in &self.warnings {
            line("warning", warning);
        }
        if let Some(key) = key {
            line("report", &format!("number {}, {key}, signed by {}", self.number, self.report_signer));
        }
        text
    }
}

fn told(control: &NegativeControl) -> String {
    let reason = control.reason.clone().unwrap_or_default();
    match control.outcome {
        OutcomeKind::Passed => format!("passed ({} damaged copies called bad)", control.damages.len()),
        OutcomeKind::Failed => format!("FAILED: {reason}"),
        OutcomeKind::Degraded => format!("degraded: {reason}"),
        OutcomeKind::NotRun => format!("not run: {reason}"),
    }
}
