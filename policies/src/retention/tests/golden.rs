//! Whole histories and what is left of them: dates in, kept ones out, with their reasons.

use super::*;

/// The kept ones of a run of nightly backups with the days of each rule, in short.
fn days_of(kept: &[String], rule: &str) -> Vec<String> {
    let of_rule = |line: &String| line.split_once(rule).map(|(id, _)| id[..10].to_owned());
    kept.iter().filter_map(of_rule).collect()
}

#[test]
fn thirty_days_and_twelve_months_at_the_end_of_every_month_of_two_years() {
    let all = nightly((2027, 1, 1), (2029, 1, 1));
    for (now, oldest_day, oldest_month, kept_in_all) in [
        ("2028-01-31T03:00:00Z", "2028-01-02", "2027-02-28", 41),
        // The end of February of a leap year: thirty days reach back to the last but one of January.
        ("2028-02-29T03:00:00Z", "2028-01-31", "2027-03-31", 40),
        ("2028-03-01T03:00:00Z", "2028-02-01", "2027-04-30", 40),
        ("2028-04-30T03:00:00Z", "2028-04-01", "2027-05-31", 41),
        ("2028-12-31T03:00:00Z", "2028-12-02", "2028-01-31", 41),
    ] {
        let until: Vec<_> = all.iter().filter(|backup| backup.snapshot_at <= at(now)).cloned().collect();
        let kept = kept(&until, &FIRST_USER, "UTC", now);
        let (days, months) = (days_of(&kept, "daily"), days_of(&kept, "monthly"));
        assert_eq!((days.len(), months.len()), (30, 12), "{now}");
        assert_eq!(days.last().unwrap(), oldest_day, "{now}");
        assert_eq!(months.last().unwrap(), oldest_month, "{now}");
        assert_eq!(kept.len(), kept_in_all, "{now}");
    }
}

#[test]
fn pruned_every_night_for_three_years_it_keeps_what_it_would_keep_at_once() {
    let all = nightly((2026, 1, 1), (2028, 12, 31));
    let mut left: Vec<Candidate> = Vec::new();
    for tonight in &all {
        left.push(tonight.clone());
        let plan = plan(&left, &FIRST_USER, &TimeZone::UTC, tonight.snapshot_at);
        let gone: Vec<&str> = plan.expired().collect();
        left.retain(|backup| !gone.contains(&backup.id.as_str()));
    }
    let now = "2028-12-31T03:00:00Z";
    assert_eq!(kept(&left, &FIRST_USER, "UTC", now), kept(&all, &FIRST_USER, "UTC", now));
    assert_eq!(left.len(), 41);
}

#[test]
fn gaps_and_duplicates_of_one_day() {
    check(
        &[
            backup("2026-11-24T14:00:00Z", GOOD),
            backup("2026-11-24T02:00:00Z", GOOD),
            // A fortnight without.
            backup("2026-11-10T02:00:00Z", GOOD),
            backup("2026-11-10T02:00:01Z", GOOD),
            backup("2026-10-31T23:59:59Z", GOOD),
            backup("2026-06-01T00:00:00Z", GOOD),
            backup("2025-06-01T00:00:00Z", GOOD),
        ],
        &Retention { daily: 3, monthly: 3, ..Retention::default() },
        "UTC",
        "2026-11-24T15:00:00Z",
        &[
            "2026-11-24T14:00:00Z: newest good backup, daily 2026-11-24, monthly 2026-11",
            "2026-11-10T02:00:01Z: daily 2026-11-10",
            "2026-10-31T23:59:59Z: daily 2026-10-31, monthly 2026-10",
            "2026-06-01T00:00:00Z: monthly 2026-06",
        ],
    );
}

#[test]
fn a_clock_that_jumped_ahead_for_one_night_costs_one_night() {
    let mut backups = nightly((2026, 11, 1), (2026, 11, 24));
    backups.push(backup("2027-11-23T02:00:00Z", PROVED));
    let week = Retention { daily: 7, gate_verified: true, ..Retention::default() };
    // As long as its time is not believed it proves nothing newer than itself.
    assert_eq!(kept(&backups, &week, "UTC", "2026-11-24T03:00:00Z").len(), 24 + 1);
    backups[23].standing = PROVED;
    let kept = kept(&backups, &week, "UTC", "2026-11-24T03:00:00Z");
    assert_eq!(kept.len(), 7 + 1);
    assert_eq!(kept[0], "2027-11-23T02:00:00Z: dated in the future, its time is not believed");
}

#[test]
fn a_major_upgrade_keeps_the_last_proved_backup_of_the_old_server() {
    let of = |time: &str, standing, server: &str| Candidate {
        server: Some(server.to_owned()),
        ..backup(time, standing)
    };
    let mut backups = [
        of("2026-11-24T02:00:00Z", GOOD, "18/2"),
        of("2026-11-23T02:00:00Z", GOOD, "18/2"),
        of("2026-11-22T02:00:00Z", GOOD, "15/1"),
        of("2026-11-21T02:00:00Z", PROVED, "15/1"),
        of("2026-11-20T02:00:00Z", PROVED, "15/1"),
    ];
    let last = Retention { last: 1, ..Retention::default() };
    let now = "2026-11-24T03:00:00Z";
    check(
        &backups,
        &last,
        "UTC",
        now,
        &[
            "2026-11-24T02:00:00Z: newest good backup, last 1",
            "2026-11-22T02:00:00Z: newest good backup of another server than the newest one's, of which nothing is \
             proved yet",
            "2026-11-21T02:00:00Z: newest proved backup, of the server before this one; nothing of this one is proved \
             yet",
        ],
    );
    backups[1].standing = PROVED;
    check(
        &backups,
        &last,
        "UTC",
        now,
        &["2026-11-24T02:00:00Z: newest good backup, last 1", "2026-11-23T02:00:00Z: newest proved backup"],
    );
}

#[test]
fn a_copy_that_goes_on_with_the_series_does_not_push_out_the_newest_of_each_other_server() {
    let of = |time: &str, server: Option<&str>| Candidate {
        server: server.map(ToOwned::to_owned),
        ..backup(time, GOOD)
    };
    let backups = [
        of("2026-11-24T02:00:00Z", Some("15/2")),
        of("2026-11-23T02:00:00Z", None),
        of("2026-11-22T02:00:00Z", Some("15/1")),
        of("2026-11-21T02:00:00Z", Some("15/1")),
        of("2026-11-20T02:00:00Z", Some("15/3")),
    ];
    let last = Retention { last: 1, ..Retention::default() };
    let newest = "2026-11-24T02:00:00Z: newest good backup, last 1";
    let other = "newest good backup of another server than the newest one's, of which nothing is proved yet";
    let kept = [
        newest.to_owned(),
        format!("2026-11-22T02:00:00Z: {other}"),
        format!("2026-11-20T02:00:00Z: {other}"),
    ];
    check(&backups, &last, "UTC", "2026-11-24T03:00:00Z", &kept.each_ref().map(String::as_str));
    // Nobody waits for ever.
    check(&backups, &last, "UTC", "2026-12-26T03:00:00Z", &[&kept[0], &kept[1]]);
    check(&backups, &last, "UTC", "2026-12-28T03:00:00Z", &[newest]);
}

#[test]
fn a_flood_of_newer_fakes_pushes_nothing_out() {
    let mut real = nightly((2026, 11, 1), (2026, 11, 24));
    for backup in &mut real {
        backup.standing = PROVED;
    }
    let (now, last) =
        ("2026-11-24T12:00:00Z", Retention { last: 7, gate_verified: true, ..Retention::default() });
    let honest = kept(&real, &last, "UTC", now).len();
    assert_eq!(honest, 7);
    let minute = |number: i64| at("2026-11-24T03:00:00Z") + SignedDuration::from_secs(number);
    let flood = |standing: &Standing, first: Timestamp| {
        let fake = |number: i64| Candidate {
            id: format!("fake {number:04}"),
            snapshot_at: first + SignedDuration::from_secs(number),
            standing: standing.clone(),
            held: None,
            in_use: None,
            server: None,
            needs: Vec::new(),
        };
        (0..1000).map(fake).collect::<Vec<_>>()
    };
    let unreadable = Standing::Unreadable { why: "badly signed".to_owned() };
    for (what, fakes) in [
        ("unsigned", flood(&Standing::Unsigned, minute(0))),
        ("badly signed", flood(&unreadable, minute(0))),
        ("dated in the future", flood(&PROVED, at("2030-01-01T00:00:00Z"))),
        ("by hand", flood(&GOOD, minute(0))),
        ("by hand and back-dated", flood(&GOOD, at("2026-11-20T00:00:00Z"))),
    ] {
        let all: Vec<_> = real.iter().cloned().chain(fakes).collect();
        let kept = kept(&all, &last, "UTC", now);
        let left = kept.iter().filter(|line| !line.starts_with("fake")).count();
        assert_eq!(left, honest, "{what}: {kept:#?}");
    }
}

#[test]
fn a_proved_backup_gives_way_to_proved_ones_alone() {
    let gated = Retention { daily: 2, gate_verified: true, ..Retention::default() };
    check(
        &[
            backup("2026-11-24T02:00:00Z", PROVED),
            backup("2026-11-23T14:00:00Z", GOOD),
            backup("2026-11-23T02:00:00Z", PROVED),
            backup("2026-11-22T02:00:00Z", PROVED),
        ],
        &gated,
        "UTC",
        "2026-11-24T03:00:00Z",
        &[
            "2026-11-24T02:00:00Z: newest good backup, newest proved backup, daily 2026-11-24",
            "2026-11-23T14:00:00Z: daily 2026-11-23",
            "2026-11-23T02:00:00Z: proved, and only unproved ones would take its place",
        ],
    );
}

#[test]
fn what_somebody_restores_now_stays_and_takes_no_place() {
    let used = Candidate {
        in_use: Some("db1 until 2026-11-24 03:20:00 UTC".to_owned()),
        ..backup("2026-11-22T02:00:00Z", GOOD)
    };
    check(
        &[backup("2026-11-24T02:00:00Z", GOOD), backup("2026-11-23T02:00:00Z", GOOD), used],
        &Retention { last: 1, ..Retention::default() },
        "UTC",
        "2026-11-24T03:00:00Z",
        &[
            "2026-11-24T02:00:00Z: newest good backup, last 1",
            "2026-11-22T02:00:00Z: in use by db1 until 2026-11-24 03:20:00 UTC",
        ],
    );
}

#[test]
fn ten_thousand_backups_are_planned_in_no_time() {
    let hourly = |number: i64| {
        let snapshot_at = at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(number);
        let standing = Standing::Good { proved: number % 7 == 0 };
        Candidate { id: format!("{number:06}"), snapshot_at, ..backup("2026-01-01T00:00:00Z", standing) }
    };
    let backups: Vec<_> = (0..10_000).map(hourly).collect();
    let gated = Retention { hourly: 48, weekly: 8, yearly: 3, gate_verified: true, ..FIRST_USER };
    let plan = plan(&backups, &gated, &TimeZone::UTC, at("2027-03-01T00:00:00Z"));
    assert_eq!(plan.lines.len(), 10_000);
    let left = 10_000 - plan.expired().count();
    assert!((48..200).contains(&left), "{left} are left");
}
