//! What strikes a process at one of its calls to the store, and how a process goes on that was struck.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pgproof_repository::store::SharedStore;
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::retry::RetryStore;
use rand::Rng;
use rand::rngs::StdRng;

use crate::laws::{self, Law};
use crate::world::{Act, Claimed, Done, World};

/// When whoever started a process that hangs gives it up. Time is tokio's paused one.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3600);
/// What a process leaves to its background tasks when it ends.
const AFTERMATH: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The request is lost.
    Before,
    /// It is carried out and its answer is lost.
    After,
    /// No answer; whoever waits gives up, and the process goes on to its end.
    Hang,
    /// The process dies before the call: neither it nor any later one happens.
    DeathBefore,
    /// It dies when the call has taken effect.
    DeathAfter,
}

impl Blow {
    pub(crate) const ALL: [Self; 5] =
        [Self::Before, Self::After, Self::Hang, Self::DeathBefore, Self::DeathAfter];

    fn is_got_over_with_retries(self) -> bool {
        matches!(self, Self::Before | Self::After)
    }
}

/// A blow at the call of this number, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strike {
    pub(crate) blow: Blow,
    pub(crate) call: u64,
}

impl Strike {
    fn rules(self) -> Vec<Rule> {
        let at = |fault| Rule::always(fault).from_call(self.call).times(1);
        match self.blow {
            Blow::Before => vec![at(Fault::FailBefore)],
            Blow::After => vec![at(Fault::FailAfter)],
            Blow::Hang => vec![at(Fault::Hang)],
            Blow::DeathBefore => vec![Rule::always(Fault::Hang).from_call(self.call)],
            Blow::DeathAfter => {
                vec![at(Fault::FailAfter), Rule::always(Fault::Hang).from_call(self.call + 1)]
            }
        }
    }

    pub(crate) fn random(random: &mut StdRng, calls: u64) -> Self {
        let blow = Blow::ALL[random.random_range(0..Blow::ALL.len())];
        Self { blow, call: random.random_range(1..=calls) }
    }
}

/// Whether there is something between a process and the store that tries again, as in the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    Bare,
    Retries,
}

/// An act with what strikes it, and the numbers by which it can be had again.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) act: Act,
    pub(crate) strikes: Vec<Strike>,
    pub(crate) below: Below,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {:?} on {:?}, struck by {:?}", self.seed, self.act, self.below, self.strikes)
    }
}

impl Case {
    /// Carries the act out in `world`, and holds what it says against what is so. `None` where it was given up or died.
    pub(crate) async fn carry_out(&self, world: &mut World) -> Option<Done<Claimed>> {
        let rules = self.strikes.iter().flat_map(|strike| strike.rules()).collect();
        let faulty: SharedStore = Arc::new(FaultyStore::scripted(world.store(), rules));
        let store = match self.below {
            Below::Bare => faulty,
            Below::Retries => Arc::new(RetryStore::new(faulty)),
        };
        let process = world.process_on(store, self.seed);
        let ended = tokio::time::timeout(GIVEN_UP_AFTER, Box::pin(process.carry_out(self.act))).await.ok();
        tokio::time::sleep(AFTERMATH).await;
        world.observe();
        if let Some(Ok(claimed)) = &ended {
            laws::of_an_answer(world, self, claimed).await;
        }
        let gets_over = self.below == Below::Retries
            && self.strikes.iter().all(|strike| strike.blow.is_got_over_with_retries());
        if gets_over {
            let is_well = matches!(ended, Some(Ok(_)));
            laws::demand(Law::CarriedThrough, self, is_well, &format!("{ended:?}"));
        }
        ended
    }
}

/// How many calls an act makes in this world when nothing strikes it.
pub(crate) async fn calls_of(world: &World, act: Act, seed: u64) -> u64 {
    let mut fork = world.fork();
    let counting = FaultyStore::scripted(fork.store(), Vec::new());
    let process = fork.process_on(Arc::new(counting.clone()), seed);
    process.carry_out(act).await.expect("an act that nothing strikes");
    fork.observe();
    counting.calls()
}
