//! Backups that need one another: chains of incremental ones.

use std::collections::BTreeSet;

use super::laws::{backups, expired, retention};
use super::*;

const NOW: &str = "2026-11-24T12:00:00Z";
/// Back so far a backup needs others, in these tests.
const REACH: usize = 8;

/// Sets of backups, most of which follow others and need some of their chain, whatever either is worth.
fn chained() -> impl Strategy<Value = Vec<Candidate>> {
    let links = proptest::collection::vec((0..6_u8, any::<u8>()), 60);
    (backups(), links).prop_map(|(mut backups, links)| {
        backups.sort_by_key(|backup| (backup.snapshot_at, backup.id.clone()));
        let mut chain: Vec<String> = Vec::new();
        for (backup, (kind, needed)) in backups.iter_mut().zip(links) {
            if kind == 0 {
                chain.clear();
            }
            let near = chain.iter().rev().take(REACH).enumerate();
            backup.needs = near.filter(|(bit, _)| needed >> bit & 1 == 1).map(|(_, id)| id.clone()).collect();
            chain.push(backup.id.clone());
        }
        backups
    })
}

fn alone(backups: &[Candidate]) -> Vec<Candidate> {
    backups.iter().cloned().map(|backup| Candidate { needs: Vec::new(), ..backup }).collect()
}

proptest! {
    #[test]
    fn nothing_that_stays_needs_what_goes(backups in chained(), retention in retention()) {
        let gone = expired(&backups, &retention);
        for backup in backups.iter().filter(|backup| !gone.contains(&backup.id)) {
            for needed in &backup.needs {
                prop_assert!(!gone.contains(needed), "{} stays and needs {needed}", backup.id);
            }
        }
    }

    #[test]
    fn being_needed_keeps_more_and_changes_nothing_else(backups in chained(), retention in retention()) {
        let (zone, now) = (TimeZone::UTC, at(NOW));
        let (with, without) = (
            plan(&backups, &retention, &zone, now),
            plan(&alone(&backups), &retention, &zone, now),
        );
        for (with, without) in with.lines.iter().zip(&without.lines) {
            match (&with.decision, &without.decision) {
                (Decision::Keep(reasons), Decision::Expire) => {
                    prop_assert!(matches!(reasons[..], [Reason::NeededBy(_)]), "{reasons:?}");
                }
                (with, without) => prop_assert_eq!(with, without),
            }
        }
    }

    /// So that a chain goes as a whole once nothing that stays needs it.
    #[test]
    fn what_is_kept_for_another_is_kept_for_one_that_stays(backups in chained(), retention in retention()) {
        let plan = plan(&backups, &retention, &TimeZone::UTC, at(NOW));
        let gone: BTreeSet<&str> = plan.expired().collect();
        for line in &plan.lines {
            let Decision::Keep(reasons) = &line.decision else { continue };
            let [Reason::NeededBy(by)] = &reasons[..] else { continue };
            let by = backups.iter().find(|backup| backup.id == *by).unwrap();
            prop_assert!(by.needs.contains(&line.id) && !gone.contains(by.id.as_str()), "{line:?}");
        }
    }

    #[test]
    fn a_plan_of_chains_carried_out_leaves_nothing_to_do(backups in chained(), retention in retention()) {
        let gone = expired(&backups, &retention);
        let left: Vec<Candidate> = backups.into_iter().filter(|backup| !gone.contains(&backup.id)).collect();
        prop_assert_eq!(expired(&left, &retention), BTreeSet::new());
    }
}

#[test]
fn a_chain_stays_while_its_last_backup_does_and_then_goes() {
    let daily = Retention { daily: 3, ..Retention::default() };
    let mut backups = nightly((2026, 11, 1), (2026, 11, 14));
    for night in 0..backups.len() {
        // A full one on the 1st and on the 8th, and each night's changes are never written to again.
        let chain = night / 7 * 7..night;
        backups[night].needs = backups[chain].iter().map(|backup| backup.id.clone()).collect();
    }
    let on = |day: usize| {
        let all: Vec<_> = backups[..day].to_vec();
        kept(&all, &daily, "UTC", &format!("2026-11-{day:02}T03:00:00Z"))
    };
    assert_eq!(on(7).len(), 7);
    assert_eq!(on(7)[3], "2026-11-04T02:00:00Z: needed by 2026-11-07T02:00:00Z");
    // The 7th is the last one of the old chain that is kept for itself.
    let ninth = on(9);
    assert_eq!(ninth.len(), 9);
    assert_eq!(ninth[1], "2026-11-08T02:00:00Z: daily 2026-11-08");
    assert_eq!(ninth[8], "2026-11-01T02:00:00Z: needed by 2026-11-07T02:00:00Z");
    assert_eq!(on(10).len(), 3);
}

#[test]
fn a_hold_on_an_incremental_backup_holds_what_it_needs() {
    let mut backups = nightly((2026, 11, 20), (2026, 11, 24));
    backups[1].needs = vec![backups[0].id.clone()];
    backups[1].held = Some("an audit".to_owned());
    check(
        &backups,
        &Retention { last: 1, ..Retention::default() },
        "UTC",
        NOW,
        &[
            "2026-11-24T02:00:00Z: newest good backup, last 1",
            "2026-11-21T02:00:00Z: held: an audit",
            "2026-11-20T02:00:00Z: needed by 2026-11-21T02:00:00Z",
        ],
    );
}
