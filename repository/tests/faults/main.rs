//! Faults at every call to the store, by every act, one and two at a time and five hundred in a row: a fresh process always
//! finds a state that is legal, and goes on from it to where it would have come to anyhow.
//!
//! What is legal stands in [`laws`]. A failure names its seed: `PGPROOF_FAULT_SEED=N` begins with it, and
//! `PGPROOF_FAULT_CASES=N` sets how many are tried.

mod blows;
mod laws;
mod world;

use std::collections::BTreeSet;
use std::fmt;

use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use blows::{Below, Blow, Case, Strike, calls_of};
use laws::Law;
use world::{Act, World};

/// Pairs of faults that CI tries: a few seconds.
const PAIRS: u64 = 60;
/// Acts in a row of the soak.
const SOAKED: u64 = 500;
/// Of a thousand acts of the soak, those that are struck.
const STRUCK_PERMILLE: u32 = 400;
/// Acts of the soak between two looks at everything.
const LOOKED_EVERY: u64 = 20;
/// With retries below it a process that hangs or dies does so as without.
const EVERY_WAY: [(Blow, Below); 7] = [
    (Blow::Before, Below::Bare),
    (Blow::After, Below::Bare),
    (Blow::Hang, Below::Bare),
    (Blow::DeathBefore, Below::Bare),
    (Blow::DeathAfter, Below::Bare),
    (Blow::Before, Below::Retries),
    (Blow::After, Below::Retries),
];
/// Longer than the grace of litter, and than any lease or pin lives.
const A_DAY: SignedDuration = SignedDuration::from_hours(25);

#[tokio::test(start_paused = true)]
async fn backup_struck_anywhere() {
    strike_everywhere(Act::Backup).await;
}

#[tokio::test(start_paused = true)]
async fn incremental_backup_struck_anywhere() {
    strike_everywhere(Act::Increment).await;
}

#[tokio::test(start_paused = true)]
async fn prune_struck_anywhere() {
    strike_everywhere(Act::Prune).await;
}

#[tokio::test(start_paused = true)]
async fn report_struck_anywhere() {
    strike_everywhere(Act::Report).await;
}

#[tokio::test(start_paused = true)]
async fn restore_struck_anywhere() {
    strike_everywhere(Act::Restore).await;
}

#[tokio::test(start_paused = true)]
async fn hold_struck_anywhere() {
    strike_everywhere(Act::HoldAndRelease).await;
}

/// Two acts, each struck, or one that is struck twice.
#[tokio::test(start_paused = true)]
async fn pairs_of_faults() {
    let past = World::with_a_past(0).await;
    let mut calls = Vec::new();
    for act in Act::ALL {
        calls.push((act, calls_of(&past, act, 0).await));
    }
    for seed in seeds(PAIRS) {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut world = past.fork();
        let acts = if random.random() { 1 } else { 2 };
        let mut cases = Vec::new();
        for _ in 0..acts {
            let (act, calls) = calls[random.random_range(0..calls.len())];
            let below = if random.random() { Below::Bare } else { Below::Retries };
            let strikes = (0..2 / acts).map(|_| Strike::random(random, calls)).collect();
            let case = Case { seed, act, strikes, below };
            drop(case.carry_out(&mut world).await);
            laws::of_every_moment(&world, &case).await;
            world.pass(SignedDuration::from_mins(random.random_range(1..60)));
            cases.push(case);
        }
        come_to_rest(world, &Cases(&cases)).await;
    }
}

/// Five hundred acts, mostly backups and prunes, with faults in many and hours to days between: then all is as it should be.
#[tokio::test(start_paused = true)]
async fn soak() {
    let seed = seeds(1).start;
    println!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let mut world = World::with_a_past(seed).await;
    let mut last = None;
    for number in 0..cases(SOAKED) {
        let act = match random.random_range(0..20) {
            0 => Act::Report,
            1 => Act::Restore,
            2 => Act::HoldAndRelease,
            3..10 => Act::Prune,
            10..14 => Act::Increment,
            _ => Act::Backup,
        };
        let is_struck = random.random_range(0..1000) < STRUCK_PERMILLE;
        // Beyond the last call of an act nothing strikes.
        let strikes = is_struck.then(|| Strike::random(random, 60)).into_iter().collect::<Vec<_>>();
        let below = if random.random() { Below::Bare } else { Below::Retries };
        let case = Soaked { seed, number, case: Case { seed: random.random(), act, strikes, below } };
        let ended = case.case.carry_out(&mut world).await;
        if case.case.strikes.is_empty() {
            let is_well = matches!(ended, Some(Ok(_)));
            laws::demand(Law::Undisturbed, &case, is_well, &format!("{ended:?}"));
        }
        if number % LOOKED_EVERY == 0 {
            laws::of_every_moment(&world, &case).await;
        }
        world.pass(SignedDuration::from_mins(random.random_range(40..3 * 24 * 60)));
        last = Some(case);
    }
    come_to_rest(world, &last.expect("an act")).await;
}

/// Every blow at every call of an act, each in a world of its own. What leaves the same behind is looked at once.
async fn strike_everywhere(act: Act) {
    let past = World::with_a_past(0).await;
    let calls = calls_of(&past, act, 0).await;
    let mut looked_at = BTreeSet::new();
    for (call, (blow, below)) in (1..=calls).flat_map(|call| EVERY_WAY.map(|way| (call, way))) {
        let case = Case { seed: 0, act, strikes: vec![Strike { blow, call }], below };
        let mut world = past.fork();
        drop(case.carry_out(&mut world).await);
        if looked_at.insert(world.footprint().await) {
            laws::of_every_moment(&world, &case).await;
            come_to_rest(world, &case).await;
        }
    }
    println!("{act:?}: {calls} calls, {} states", looked_at.len());
}

/// A day later undisturbed processes do what is due, each of which must come to its good end; and on the day after that prune.
async fn come_to_rest(mut world: World, case: &dyn fmt::Display) {
    let days = [&[Act::HoldAndRelease, Act::Restore, Act::Backup, Act::Report][..], &[Act::Prune]];
    for act in days.into_iter().flat_map(|acts| acts.iter().copied().enumerate()) {
        if act.0 == 0 {
            world.pass(A_DAY);
        }
        let (seed, act) = (u64::MAX - act.0 as u64, act.1);
        let ended = world.process(seed).carry_out(act).await;
        world.observe();
        laws::demand(Law::Undisturbed, case, ended.is_ok(), &format!("{act:?} afterwards: {ended:?}"));
        laws::of_an_answer(&world, case, &ended.unwrap_or_default()).await;
    }
    laws::of_rest(&world, case).await;
}

/// A case within a long row, which is had again by the row's seed.
struct Soaked {
    seed: u64,
    number: u64,
    case: Case,
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "act {} of seed {} ({})", self.number, self.seed, self.case)
    }
}

struct Cases<'a>(&'a [Case]);

impl fmt::Display for Cases<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|case| write!(f, "[{case}]"))
    }
}

/// The seeds to try, from that of the environment on.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let first = number_of("PGPROOF_FAULT_SEED").unwrap_or(0);
    first..first.saturating_add(cases(usual))
}

fn cases(usual: u64) -> u64 {
    number_of("PGPROOF_FAULT_CASES").unwrap_or(usual)
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}
