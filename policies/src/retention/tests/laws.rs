//! What holds for every set of backups and every policy.

use std::collections::BTreeSet;

use super::*;

const NOW: &str = "2026-11-24T12:00:00Z";
/// The days of this zone are of 23, 24 and 25 hours, and its offset is never zero.
const ZONE: &str = "America/St_Johns";

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        6 => Just(GOOD),
        2 => Just(PROVED),
        1 => Just(Standing::Failed),
        1 => Just(Standing::Unsigned),
        1 => Just(Standing::Newer),
        1 => Just(Standing::Unreadable { why: "not JSON".to_owned() }),
    ]
}

/// Two years back, two days ahead, often several in one hour.
pub(super) fn backups() -> impl Strategy<Value = Vec<Candidate>> {
    let minutes = prop_oneof![-60 * 24 * 730..60 * 48_i64, -60 * 72..30_i64];
    let one = (minutes, standing(), proptest::option::weighted(0.05, Just("a reason".to_owned())));
    proptest::collection::vec(one, 0..60).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        let candidate =
            |(number, (minutes, standing, held)): (usize, (i64, Standing, Option<String>))| Candidate {
                id: format!("{number:03}"),
                snapshot_at: at(NOW) + SignedDuration::from_mins(minutes),
                standing,
                held,
                in_use: None,
                server: None,
                needs: Vec::new(),
            };
        numbered.map(candidate).collect()
    })
}

pub(super) fn retention() -> impl Strategy<Value = Retention> {
    let within = proptest::option::of((1..2_000_i64).prop_map(SignedDuration::from_hours));
    let counts = (0..5_u32, 0..5_u32, 0..12_u32, 0..5_u32, 0..5_u32, 0..3_u32);
    (counts, within, any::<bool>()).prop_map(|(counts, within, gate_verified)| {
        let (last, hourly, daily, weekly, monthly, yearly) = counts;
        Retention {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
            keep_all: false,
            gate_verified,
            remove_share_max: ShareMax::HALF,
        }
    })
}

fn zone() -> TimeZone {
    TimeZone::get(ZONE).unwrap()
}

pub(super) fn expired(backups: &[Candidate], retention: &Retention) -> BTreeSet<String> {
    plan(backups, retention, &zone(), at(NOW)).expired().map(str::to_owned).collect()
}

fn is_future(backup: &Candidate) -> bool {
    backup.snapshot_at > at(NOW) + CLOCK_SKEW_MAX
}

fn counts(backup: &Candidate) -> bool {
    matches!(backup.standing, Standing::Good { .. }) && !is_future(backup)
}

fn newest<'a>(backups: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    backups.max_by_key(|backup| (backup.snapshot_at, &backup.id))
}

fn days<'a>(backups: impl Iterator<Item = &'a Candidate>) -> usize {
    backups.map(|backup| backup.snapshot_at.to_zoned(zone()).date()).collect::<BTreeSet<_>>().len()
}

proptest! {
    #[test]
    fn never_fewer_days_than_promised(backups in backups(), retention in retention()) {
        let expired = expired(&backups, &retention);
        let there = days(backups.iter().filter(|backup| counts(backup)));
        let left = days(backups.iter().filter(|backup| counts(backup) && !expired.contains(&backup.id)));
        prop_assert!(left >= there.min(retention.daily as usize), "{left} of {there} days are left");
    }

    #[test]
    fn never_fewer_backups_than_promised(backups in backups(), retention in retention()) {
        let expired = expired(&backups, &retention);
        let there = backups.iter().filter(|backup| counts(backup)).count();
        let left = backups.iter().filter(|backup| counts(backup) && !expired.contains(&backup.id)).count();
        prop_assert!(left >= there.min(retention.last.max(1) as usize), "{left} of {there} are left");
    }

    #[test]
    fn the_newest_good_and_the_newest_proved_never_expire(backups in backups(), retention in retention()) {
        let expired = expired(&backups, &retention);
        let good = newest(backups.iter().filter(|backup| counts(backup)));
        let proved = newest(backups.iter().filter(|backup| counts(backup) && backup.standing == PROVED));
        for backup in good.into_iter().chain(proved) {
            prop_assert!(!expired.contains(&backup.id), "{backup:?} expired");
        }
    }

    #[test]
    fn what_cannot_be_judged_never_expires(backups in backups(), retention in retention()) {
        let expired = expired(&backups, &retention);
        for backup in &backups {
            let judged = matches!(backup.standing, Standing::Good { .. } | Standing::Failed);
            if !judged || backup.held.is_some() || is_future(backup) {
                prop_assert!(!expired.contains(&backup.id), "{backup:?} expired");
            }
        }
    }

    #[test]
    fn what_does_not_count_displaces_nothing(backups in backups(), retention in retention()) {
        let counting: Vec<Candidate> = backups.iter().filter(|backup| counts(backup)).cloned().collect();
        let mut all = expired(&backups, &retention);
        all.retain(|id| counting.iter().any(|backup| backup.id == *id));
        prop_assert_eq!(all, expired(&counting, &retention));
    }

    #[test]
    fn the_order_of_the_listing_does_not_matter(backups in backups(), retention in retention()) {
        let reversed: Vec<Candidate> = backups.iter().rev().cloned().collect();
        prop_assert_eq!(expired(&backups, &retention), expired(&reversed, &retention));
    }

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(backups in backups(), retention in retention()) {
        let gone = expired(&backups, &retention);
        let left: Vec<Candidate> = backups.into_iter().filter(|backup| !gone.contains(&backup.id)).collect();
        prop_assert_eq!(expired(&left, &retention), BTreeSet::new());
    }

    #[test]
    fn the_gate_only_ever_keeps_more(backups in backups(), retention in retention()) {
        let open = expired(&backups, &Retention { gate_verified: false, ..retention.clone() });
        let gated = expired(&backups, &Retention { gate_verified: true, ..retention });
        prop_assert!(gated.is_subset(&open));
    }

    #[test]
    fn behind_the_gate_the_unproved_displace_nothing(backups in backups(), retention in retention()) {
        let gated = Retention { gate_verified: true, ..retention };
        let proved = newest(backups.iter().filter(|backup| counts(backup) && backup.standing == PROVED)).cloned();
        let settled: Vec<Candidate> = backups
            .iter()
            .filter(|backup| proved.as_ref().is_some_and(|proved| backup.snapshot_at <= proved.snapshot_at))
            .cloned()
            .collect();
        let mut of_settled = expired(&backups, &gated);
        of_settled.retain(|id| settled.iter().any(|backup| backup.id == *id && counts(backup)));
        prop_assert!(of_settled.is_subset(&expired(&settled, &gated)));
    }

    #[test]
    fn more_of_any_rule_never_keeps_less(backups in backups(), retention in retention(), more in 0..6_usize) {
        let mut generous = retention.clone();
        let rules = [
            &mut generous.last,
            &mut generous.hourly,
            &mut generous.daily,
            &mut generous.weekly,
            &mut generous.monthly,
            &mut generous.yearly,
        ];
        for (number, rule) in rules.into_iter().enumerate() {
            *rule += u32::from(number == more) * 2;
        }
        prop_assert!(expired(&backups, &generous).is_subset(&expired(&backups, &retention)));
    }

    /// However many, and whatever they are dated: one who holds a host's signing key has no verifier's.
    #[test]
    fn behind_the_gate_no_flood_of_the_unproved_removes_a_proved_one(
        backups in backups(),
        flood in backups(),
        retention in retention(),
    ) {
        let gated = Retention { gate_verified: true, ..retention };
        let before = expired(&backups, &gated);
        let flood = flood.into_iter().map(|fake| Candidate {
            id: format!("fake {}", fake.id),
            standing: match fake.standing {
                Standing::Good { .. } => GOOD,
                other => other,
            },
            ..fake
        });
        let proved: Vec<_> = backups.iter().filter(|backup| backup.standing == PROVED).cloned().collect();
        let after = expired(&backups.into_iter().chain(flood).collect::<Vec<_>>(), &gated);
        for backup in proved.iter().filter(|backup| !before.contains(&backup.id)) {
            prop_assert!(!after.contains(&backup.id), "{backup:?} went");
        }
    }

    /// The newest proved one must stay proof of something restorable whatever came after it.
    #[test]
    fn a_newer_unproved_backup_removes_no_proved_one(backups in backups(), retention in retention()) {
        let gated = Retention { gate_verified: true, ..retention };
        let before = expired(&backups, &gated);
        let newer = Candidate { id: "newer".to_owned(), ..backup(NOW, GOOD) };
        let with: Vec<_> = backups.iter().cloned().chain([newer]).collect();
        let proved = |id: &String| backups.iter().any(|b| b.id == *id && b.standing == PROVED);
        let gone: Vec<_> = expired(&with, &gated).difference(&before).filter(|id| proved(id)).cloned().collect();
        prop_assert_eq!(gone, Vec::<String>::new());
    }

    #[test]
    fn what_is_in_use_never_expires(backups in backups(), retention in retention()) {
        let used = |backup: &Candidate| Candidate { in_use: Some("db1".to_owned()), ..backup.clone() };
        let all: Vec<_> = backups.iter().map(used).collect();
        prop_assert_eq!(expired(&all, &retention), BTreeSet::new());
    }

    #[test]
    fn nothing_expires_while_everything_is_kept(backups in backups(), retention in retention()) {
        let all = Retention { keep_all: true, ..retention };
        prop_assert_eq!(expired(&backups, &all), BTreeSet::new());
    }
}
