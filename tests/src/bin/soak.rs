//! The soak with the real programs, a real PostgreSQL and a real S3 server behind a proxy that misbehaves:
//! `soak [ACTS] [SEED]`. Build the programs first: `cargo build --workspace --locked`.
//!
//! Backups, prunes, restores and drills in a row; in every second something fails or the program is killed, at a request that
//! is drawn; prune's clock and the store's are days ahead at times. What nothing disturbs must end well, and at the end every
//! backup that is listed must restore to the rows that it was made of. CI runs the same idea in memory
//! (`repository/tests/faults`), where five hundred acts take seconds.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgproof_tests::clock;
use pgproof_tests::dice::Dice;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};

const ACTS_USUAL: usize = 60;
/// Requests among which the one that fails is drawn: about as many as a backup makes.
const REQUESTS: usize = 40;
/// How long a program may take that is to be killed at a request it may never make.
const PATIENCE: Duration = Duration::from_secs(60);
/// The clocks of the program and of the store, ahead by longer than the grace of litter.
const AHEAD: Duration = Duration::from_secs(2 * 24 * 3600);
const INTEGRITY: i32 = 4;
const PRUNE: [&str; 3] = ["prune", SOURCE, "--yes"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Backup,
    Prune,
    PruneDaysLater,
    Restore,
    Drill,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let acts = arguments.next().map_or(ACTS_USUAL, |text| text.parse().expect("a number of acts"));
    let seed = arguments.next().map_or(0, |text| text.parse().expect("a seed"));
    println!("{acts} acts, seed {seed}");
    let mut soak = Soak::new(seed);
    for number in 1..=acts {
        soak.act(number);
    }
    soak.finish();
}

struct Soak {
    sandbox: Sandbox,
    dice: Dice,
    /// Rows that the database had when a backup was made.
    rows: BTreeMap<String, String>,
    /// How acts ended.
    ended: BTreeMap<String, usize>,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let sandbox = Sandbox::small().with_retention("{ last = 3, remove_share_max = 100 }");
        // So that there is something to restore from the start.
        sandbox.run_well(&["backup", SOURCE]);
        Self { sandbox, dice: Dice::of(seed), rows: BTreeMap::new(), ended: BTreeMap::new() }
    }

    fn act(&mut self, number: usize) {
        use Act::{Backup, Drill, Prune, PruneDaysLater, Restore};
        let usual = [Backup, Backup, Backup, Backup, Prune, Prune, PruneDaysLater, Restore, Drill];
        let act = self.dice.one_of(&usual);
        self.sandbox.server.psql(SOURCE, "insert into notes select max(id) + 1, 1, 'one more' from notes");
        let is_disturbed = self.dice.below(2) == 0;
        let is_killed = is_disturbed && self.dice.below(3) == 0;
        let fault = self.dice.one_of(&faults());
        let request = self.dice.below(REQUESTS);
        let outcome = match (is_disturbed, is_killed) {
            (false, _) => Some(self.run(act)),
            (true, false) => {
                let times = 1 + self.dice.below(3);
                self.sandbox.proxy.add(Rule::new(fault.clone()).after(request).times(times));
                Some(self.run(act))
            }
            (true, true) => {
                self.kill(act, request);
                None
            }
        };
        self.sandbox.proxy.clear();
        self.sandbox.proxy.move_clock(Duration::ZERO);
        self.note_backups();
        let how = match (&outcome, is_disturbed) {
            (None, _) => format!("killed at request {request}"),
            (Some(_), false) => "undisturbed".to_owned(),
            (Some(_), true) => format!("{fault:?} at request {request}"),
        };
        let code = outcome.as_ref().and_then(|outcome| outcome.code);
        println!("{number:>4} {act:?}, {how}: {code:?}");
        if let Some(failed) = outcome.as_ref().filter(|outcome| !outcome.succeeded()) {
            println!(
                "     {}",
                failed.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default()
            );
        }
        *self.ended.entry(format!("{act:?} {code:?}")).or_default() += 1;
        let Some(outcome) = outcome else { return };
        let told = format!("{}\n{}", outcome.text(), outcome.stderr);
        assert!(!told.contains("panicked"), "{told}");
        assert_ne!(outcome.code, Some(INTEGRITY), "a fault on the way was taken for damage: {told}");
        assert!(is_disturbed || outcome.succeeded(), "undisturbed, and yet it failed: {told}");
    }

    fn run(&mut self, act: Act) -> Outcome {
        self.command(act).output().expect("a program").into()
    }

    fn kill(&mut self, act: Act, request: usize) {
        let after = self.dice.one_of(&[Fault::Hold, Fault::HoldResponse]);
        let mut command = self.command(act);
        self.sandbox.proxy.forget_seen();
        self.sandbox.proxy.add(Rule::new(after).after(request).times(1));
        self.sandbox.proxy.add(Rule::new(Fault::Hold).after(request));
        let mut program = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a program");
        let ended = || matches!(program.try_wait(), Ok(Some(_)));
        wait_for(&self.sandbox, ended);
        // It may have ended before it came so far.
        let _ = program.kill();
        program.wait().expect("its end");
        self.sandbox.proxy.abandon();
    }

    fn command(&mut self, act: Act) -> Command {
        let sandbox = &self.sandbox;
        match act {
            Act::Backup => sandbox.command(&["backup", SOURCE]),
            Act::Prune => sandbox.command(&PRUNE),
            Act::PruneDaysLater => {
                let command = sandbox.command(&PRUNE);
                sandbox.proxy.move_clock(AHEAD);
                clock::offset(&command, &format!("+{}s", AHEAD.as_secs()))
            }
            Act::Restore => {
                sandbox.server.psql("postgres", "drop database if exists restored with (force)");
                sandbox.command(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"])
            }
            Act::Drill => sandbox.verifier_command(&["drill", SOURCE, "--json"]),
        }
    }

    /// Whatever has become a backup since, whether or not its maker lived to tell, has the rows of now.
    fn note_backups(&mut self) {
        let rows = self.sandbox.server.psql(SOURCE, "select count(*) from notes");
        for id in self.sandbox.good_ids() {
            self.rows.entry(id).or_insert_with(|| rows.clone());
        }
    }

    /// Undisturbed, everything is to be had and nothing else is left.
    fn finish(self) {
        let sandbox = &self.sandbox;
        sandbox.run_well(&["backup", SOURCE]);
        sandbox.proxy.move_clock(AHEAD);
        let swept: Outcome = clock::offset(&sandbox.command(&PRUNE), &format!("+{}s", AHEAD.as_secs()))
            .output()
            .expect("a program")
            .into();
        assert!(swept.succeeded(), "{}\n{}", swept.text(), swept.stderr);
        sandbox.proxy.move_clock(Duration::ZERO);
        sandbox.run_well(&["check", SOURCE, "--read-data"]);
        let ids = sandbox.good_ids();
        for id in &ids {
            sandbox.server.psql("postgres", "drop database if exists restored with (force)");
            sandbox.run_well(&["restore", SOURCE, "--backup", id, "--into", "restored", "--yes"]);
            let restored = sandbox.server.psql("restored", "select count(*) from notes");
            if let Some(rows) = self.rows.get(id) {
                assert_eq!(restored, *rows, "{id}");
            }
        }
        let strays: Vec<_> = sandbox
            .objects()
            .into_iter()
            .filter(|name| name.contains("/backups/") && !ids.iter().any(|id| name.contains(id.as_str())))
            .collect();
        assert!(strays.is_empty(), "{strays:#?}");
        let audit = sandbox.run(&["audit", SOURCE]);
        println!("{:#?}\n{} backups restore", self.ended, ids.len());
        // Half a hold keeps its backup, and is told until somebody makes it whole or gives it back.
        let text = audit.text();
        println!("{} halves of records", text.lines().filter(|line| line.starts_with("remains")).count());
        let findings = text.lines().filter(|line| line.starts_with("DOES NOT CHECK"));
        let others: Vec<_> = findings.filter(|line| !line.contains("half of a hold")).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::Status(500),
        Fault::Status(503),
        Fault::Disconnect,
        Fault::LoseResponse,
        Fault::CutShort(10),
        Fault::CutRequest(10),
        Fault::WrongEtag,
        Fault::StaleList,
        Fault::Delay(Duration::from_secs(2)),
        Fault::Throttle(1_000_000),
    ]
}

/// Returns when a request is held, or the program has ended.
fn wait_for(sandbox: &Sandbox, mut ended: impl FnMut() -> bool) {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    for _ in 0..PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
        if sandbox.proxy.wait_until(LOOK_EVERY, |seen| seen.iter().any(|seen| seen.faulty)) || ended() {
            return;
        }
    }
}
