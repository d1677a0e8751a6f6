use jiff::{ToSpan, civil::date};
use proptest::prelude::*;

use super::*;

mod chains;
mod golden;
mod laws;

const GOOD: Standing = Standing::Good { proved: false };
const PROVED: Standing = Standing::Good { proved: true };
const FIRST_USER: Retention = Retention {
    last: 0,
    hourly: 0,
    daily: 30,
    weekly: 0,
    monthly: 12,
    yearly: 0,
    within: None,
    keep_all: false,
    gate_verified: false,
    remove_share_max: ShareMax::HALF,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn backup(snapshot_at: &str, standing: Standing) -> Candidate {
    Candidate {
        id: snapshot_at.to_owned(),
        snapshot_at: at(snapshot_at),
        standing,
        held: None,
        in_use: None,
        server: None,
        needs: Vec::new(),
    }
}

/// One good backup at 02:00 UTC of each day from `first` to `last`.
fn nightly(first: (i16, i8, i8), last: (i16, i8, i8)) -> Vec<Candidate> {
    let (first, last) = (date(first.0, first.1, first.2), date(last.0, last.1, last.2));
    let days = first.series(1.day()).take_while(|day| *day <= last);
    days.map(|day| backup(&format!("{day}T02:00:00Z"), GOOD)).collect()
}

/// The kept ones, newest first, as `id: reason, reason`.
fn kept(backups: &[Candidate], retention: &Retention, zone: &str, now: &str) -> Vec<String> {
    let zone = TimeZone::get(zone).unwrap();
    let plan = plan(backups, retention, &zone, at(now));
    assert_eq!(plan.lines.len(), backups.len());
    let line = |line: PlanLine| match line.decision {
        Decision::Keep(reasons) => {
            let reasons: Vec<String> = reasons.iter().map(Reason::to_string).collect();
            Some(format!("{}: {}", line.id, reasons.join(", ")))
        }
        Decision::Expire => None,
    };
    plan.lines.into_iter().filter_map(line).collect()
}

fn check(backups: &[Candidate], retention: &Retention, zone: &str, now: &str, expected: &[&str]) {
    assert_eq!(kept(backups, retention, zone, now), expected);
}

#[test]
fn thirty_days_and_twelve_months_across_a_leap_day() {
    let kept = kept(&nightly((2027, 1, 1), (2028, 3, 15)), &FIRST_USER, "UTC", "2028-03-15T03:00:00Z");
    assert_eq!(kept.len(), 40);
    assert_eq!(kept[0], "2028-03-15T02:00:00Z: newest good backup, daily 2028-03-15, monthly 2028-03");
    assert_eq!(kept[15], "2028-02-29T02:00:00Z: daily 2028-02-29, monthly 2028-02");
    assert_eq!(kept[29], "2028-02-15T02:00:00Z: daily 2028-02-15");
    assert_eq!(
        kept[30..],
        [
            "2028-01-31T02:00:00Z: monthly 2028-01",
            "2027-12-31T02:00:00Z: monthly 2027-12",
            "2027-11-30T02:00:00Z: monthly 2027-11",
            "2027-10-31T02:00:00Z: monthly 2027-10",
            "2027-09-30T02:00:00Z: monthly 2027-09",
            "2027-08-31T02:00:00Z: monthly 2027-08",
            "2027-07-31T02:00:00Z: monthly 2027-07",
            "2027-06-30T02:00:00Z: monthly 2027-06",
            "2027-05-31T02:00:00Z: monthly 2027-05",
            "2027-04-30T02:00:00Z: monthly 2027-04",
        ]
    );
}

#[test]
fn a_gap_ages_nothing_away() {
    let mut backups = nightly((2026, 1, 1), (2026, 6, 30));
    for failure in nightly((2026, 7, 1), (2026, 8, 29)) {
        backups.push(Candidate { standing: Standing::Unreadable { why: "cut short".to_owned() }, ..failure });
    }
    let kept = kept(&backups, &FIRST_USER, "UTC", "2030-01-01T00:00:00Z");
    let (failures, good): (Vec<_>, Vec<_>) = kept.iter().partition(|line| line.contains("cut short"));
    assert_eq!(failures.len(), 60);
    // Thirty days up to the last good one, and the month ends of January to May.
    assert_eq!(good.len(), 30 + 5);
    assert!(good[0].starts_with("2026-06-30T02:00:00Z: newest good backup, daily"), "{}", good[0]);
}

#[test]
fn sixty_days_of_failed_verification_keep_the_last_good_ones() {
    let mut backups = nightly((2026, 1, 1), (2026, 6, 30));
    for failure in nightly((2026, 7, 1), (2026, 8, 29)) {
        backups.push(Candidate { standing: Standing::Failed, ..failure });
    }
    let kept = kept(&backups, &FIRST_USER, "UTC", "2026-08-29T03:00:00Z");
    let (failed, good): (Vec<_>, Vec<_>) =
        kept.iter().partition(|line| line.contains("failed its verification"));
    assert_eq!(good.len(), 30 + 5);
    // Of the failed ones stays what would stay, were they good: thirty days, the first of them the end of July.
    assert_eq!(failed.len(), 30);
    assert!(failed[29].starts_with("2026-07-31T02:00:00Z"), "{}", failed[29]);
}

#[test]
fn the_newest_of_a_period_fills_its_slot() {
    check(
        &[
            backup("2026-11-22T02:00:00Z", GOOD),
            backup("2026-11-24T14:00:00Z", GOOD),
            backup("2026-11-24T02:00:00Z", GOOD),
            backup("2026-11-22T14:00:00Z", GOOD),
            backup("2026-11-21T02:00:00Z", GOOD),
        ],
        &Retention { daily: 2, ..Retention::default() },
        "UTC",
        "2026-11-24T15:00:00Z",
        &[
            "2026-11-24T14:00:00Z: newest good backup, daily 2026-11-24",
            "2026-11-22T14:00:00Z: daily 2026-11-22",
        ],
    );
}

#[test]
fn periods_are_those_of_the_zone() {
    let backups = [
        backup("2026-12-31T23:30:00Z", GOOD),
        backup("2026-12-31T22:30:00Z", GOOD),
        backup("2026-12-30T23:30:00Z", GOOD),
    ];
    let retention = Retention { daily: 3, yearly: 2, weekly: 1, ..Retention::default() };
    check(
        &backups,
        &retention,
        "Europe/Berlin",
        "2027-01-02T00:00:00Z",
        &[
            "2026-12-31T23:30:00Z: newest good backup, daily 2027-01-01, weekly 2026-W53, yearly 2027",
            "2026-12-31T22:30:00Z: daily 2026-12-31, yearly 2026",
        ],
    );
    check(
        &backups,
        &retention,
        "UTC",
        "2027-01-02T00:00:00Z",
        &[
            "2026-12-31T23:30:00Z: newest good backup, daily 2026-12-31, weekly 2026-W53, yearly 2026",
            "2026-12-30T23:30:00Z: daily 2026-12-30",
        ],
    );
}

#[test]
fn the_hour_that_comes_twice_is_two_hours() {
    check(
        &[
            backup("2026-10-25T00:10:00Z", GOOD),
            backup("2026-10-25T00:50:00Z", GOOD),
            backup("2026-10-25T01:50:00Z", GOOD),
            backup("2026-10-25T02:50:00Z", GOOD),
        ],
        &Retention { hourly: 3, ..Retention::default() },
        "Europe/Berlin",
        "2026-10-25T03:00:00Z",
        &[
            "2026-10-25T02:50:00Z: newest good backup, hourly 2026-10-25T03+01:00",
            "2026-10-25T01:50:00Z: hourly 2026-10-25T02+01:00",
            "2026-10-25T00:50:00Z: hourly 2026-10-25T02+02:00",
        ],
    );
}

#[test]
fn a_day_of_23_or_25_hours_is_one_day() {
    let retention = Retention { daily: 3, ..Retention::default() };
    check(
        &[
            backup("2026-03-28T01:30:00Z", GOOD),
            backup("2026-03-29T01:30:00Z", GOOD),
            backup("2026-03-29T21:30:00Z", GOOD),
            backup("2026-03-29T22:30:00Z", GOOD),
        ],
        &retention,
        "Europe/Berlin",
        "2026-03-30T00:00:00Z",
        &[
            "2026-03-29T22:30:00Z: newest good backup, daily 2026-03-30",
            "2026-03-29T21:30:00Z: daily 2026-03-29",
            "2026-03-28T01:30:00Z: daily 2026-03-28",
        ],
    );
    check(
        &[
            backup("2026-10-24T21:30:00Z", GOOD),
            backup("2026-10-24T22:30:00Z", GOOD),
            backup("2026-10-25T22:30:00Z", GOOD),
            backup("2026-10-25T23:30:00Z", GOOD),
        ],
        &retention,
        "Europe/Berlin",
        "2026-10-26T00:00:00Z",
        &[
            "2026-10-25T23:30:00Z: newest good backup, daily 2026-10-26",
            "2026-10-25T22:30:00Z: daily 2026-10-25",
            "2026-10-24T21:30:00Z: daily 2026-10-24",
        ],
    );
}

#[test]
fn a_clock_that_ran_ahead_displaces_nothing() {
    check(
        &[
            backup("2099-01-01T00:00:00Z", PROVED),
            backup("2026-11-24T02:05:01Z", GOOD),
            backup("2026-11-24T02:05:00Z", GOOD),
            backup("2026-11-23T02:00:00Z", GOOD),
            backup("2026-11-22T02:00:00Z", GOOD),
        ],
        &Retention { last: 2, ..Retention::default() },
        "UTC",
        "2026-11-24T02:00:00Z",
        &[
            "2099-01-01T00:00:00Z: dated in the future, its time is not believed",
            "2026-11-24T02:05:01Z: dated in the future, its time is not believed",
            "2026-11-24T02:05:00Z: newest good backup, last 1",
            "2026-11-23T02:00:00Z: last 2",
        ],
    );
}

#[test]
fn a_clock_that_fell_back_loses_nothing() {
    // Every backup lies in the future of this clock.
    let backups = nightly((2026, 11, 1), (2026, 11, 24));
    let kept = kept(&backups, &FIRST_USER, "UTC", "1970-01-01T00:00:00Z");
    assert_eq!(kept.len(), backups.len());
}

#[test]
fn what_cannot_be_judged_stays() {
    let mut held = backup("2020-01-01T00:00:00Z", GOOD);
    held.held = Some("lawsuit 7".to_owned());
    check(
        &[
            backup("2026-11-24T02:00:00Z", GOOD),
            backup("2020-01-04T00:00:00Z", Standing::Newer),
            backup("2020-01-03T00:00:00Z", Standing::Unsigned),
            backup("2020-01-02T00:00:00Z", Standing::Unreadable { why: "not JSON".to_owned() }),
            held,
            backup("2019-01-01T00:00:00Z", GOOD),
        ],
        &Retention { last: 1, ..Retention::default() },
        "UTC",
        "2026-11-24T03:00:00Z",
        &[
            "2026-11-24T02:00:00Z: newest good backup, last 1",
            "2020-01-04T00:00:00Z: never delete what a newer version wrote",
            "2020-01-03T00:00:00Z: never delete what is not signed",
            "2020-01-02T00:00:00Z: never delete what cannot be read: not JSON",
            "2020-01-01T00:00:00Z: held: lawsuit 7",
        ],
    );
}

#[test]
fn the_newest_good_and_the_newest_proved_outlive_every_rule() {
    let within = Retention { within: Some(SignedDuration::from_hours(24)), ..Retention::default() };
    check(
        &[
            backup("2026-01-03T00:00:00Z", Standing::Failed),
            backup("2026-01-02T00:00:00Z", GOOD),
            backup("2026-01-01T00:00:00Z", PROVED),
            backup("2025-12-31T00:00:00Z", PROVED),
        ],
        &within,
        "UTC",
        "2026-11-24T00:00:00Z",
        &["2026-01-02T00:00:00Z: newest good backup", "2026-01-01T00:00:00Z: newest proved backup"],
    );
    check(
        &[backup("2026-01-03T00:00:00Z", Standing::Failed)],
        &within,
        "UTC",
        "2026-11-24T00:00:00Z",
        &["2026-01-03T00:00:00Z: there is no good backup"],
    );
}

#[test]
fn with_the_gate_only_proof_displaces() {
    let gated = Retention { last: 2, gate_verified: true, ..Retention::default() };
    let mut backups = vec![
        backup("2026-11-24T00:00:00Z", GOOD),
        backup("2026-11-23T00:00:00Z", GOOD),
        backup("2026-11-22T00:00:00Z", GOOD),
        backup("2026-11-21T00:00:00Z", PROVED),
        backup("2026-11-20T00:00:00Z", GOOD),
        backup("2026-11-19T00:00:00Z", GOOD),
    ];
    let now = "2026-11-24T01:00:00Z";
    check(
        &backups,
        &gated,
        "UTC",
        now,
        &[
            "2026-11-24T00:00:00Z: newest good backup, last 1",
            "2026-11-23T00:00:00Z: last 2",
            "2026-11-21T00:00:00Z: newest proved backup",
            "2026-11-20T00:00:00Z: no newer backup was proved yet",
        ],
    );
    backups[3].standing = GOOD;
    assert_eq!(kept(&backups, &gated, "UTC", now).len(), backups.len());
    backups[0].standing = PROVED;
    assert_eq!(kept(&backups, &gated, "UTC", now).len(), 2);
}

#[test]
fn keep_all_keeps_all_and_no_rule_keeps_the_newest() {
    let backups = [
        backup("2026-11-24T00:00:00Z", GOOD),
        backup("2026-11-23T00:00:00Z", Standing::Failed),
        backup("2026-11-22T00:00:00Z", GOOD),
    ];
    let all = Retention { keep_all: true, ..Retention::default() };
    assert_eq!(kept(&backups, &all, "UTC", "2026-11-24T01:00:00Z").len(), 3);
    assert_eq!(kept(&backups, &Retention::default(), "UTC", "2026-11-24T01:00:00Z").len(), 1);
    assert_eq!(kept(&[], &FIRST_USER, "UTC", "2026-11-24T01:00:00Z"), Vec::<String>::new());
}

#[test]
fn the_oldest_goes_first() {
    let backups = nightly((2026, 11, 1), (2026, 11, 4));
    let last = Retention { last: 1, ..Retention::default() };
    let plan = plan(&backups, &last, &TimeZone::UTC, at("2026-11-24T00:00:00Z"));
    let expired: Vec<&str> = plan.expired().collect();
    assert_eq!(expired, ["2026-11-01T02:00:00Z", "2026-11-02T02:00:00Z", "2026-11-03T02:00:00Z"]);
}

#[test]
fn retention_is_said_in_words() {
    let rules = Retention { daily: 30, monthly: 12, ..Retention::default() };
    assert_eq!(rules.to_string(), "daily 30, monthly 12");
    let young = Retention {
        within: Some(SignedDuration::from_hours(48)),
        gate_verified: true,
        ..Retention::default()
    };
    assert_eq!(young.to_string(), "within 48h, only proved ones displace");
    assert_eq!(Retention { keep_all: true, ..Retention::default() }.to_string(), "everything");
}

#[test]
fn what_fills_no_slot_displaces_not_even_a_failed_backup() {
    check(
        &[
            backup("2099-01-01T00:00:00Z", Standing::Failed),
            backup("2026-11-24T00:00:00Z", Standing::Unsigned),
            backup("2026-11-23T00:00:00Z", Standing::Failed),
            backup("2026-11-22T00:00:00Z", GOOD),
        ],
        &Retention { last: 1, ..Retention::default() },
        "UTC",
        "2026-11-24T01:00:00Z",
        &[
            "2099-01-01T00:00:00Z: dated in the future, its time is not believed",
            "2026-11-24T00:00:00Z: never delete what is not signed",
            "2026-11-23T00:00:00Z: failed its verification, not yet displaced",
            "2026-11-22T00:00:00Z: newest good backup, last 1",
        ],
    );
}

#[test]
fn each_class_has_its_own_reason_and_name() {
    for class in Class::ALL {
        let reason = class.reason("2026".to_owned());
        assert_eq!((reason.class(), reason.to_string()), (Some(class), format!("{class} 2026")));
        assert_eq!(class.to_string(), class.name());
    }
    assert_eq!(Reason::Last(1).class(), None);
}
