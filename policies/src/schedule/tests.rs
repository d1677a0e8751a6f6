use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn next(text: &str, zone: &TimeZone, count: usize, after: &str) -> Vec<String> {
    let schedule = schedule(text);
    let mut times = Vec::new();
    let mut last = at(after);
    for _ in 0..count {
        last = schedule.next_after(last, zone).unwrap();
        times.push(last.to_string());
    }
    times
}

#[test]
fn five_fields_that_come_true_are_a_schedule() {
    for good in ["0 2 * * *", " 15 * * * * ", "*/20 4-6 * * MON-FRI", "0 0 29 2 *", "30 3 L * *"] {
        assert_eq!(schedule(good).to_string(), good.trim());
    }
    for bad in
        ["", "0 2 * *", "0 0 2 * * *", "60 2 * * *", "0 24 * * *", "nightly", "0 2 * * * 2026", "@reboot"]
    {
        assert!(matches!(bad.parse::<Schedule>(), Err(ScheduleError::Malformed { .. })), "{bad:?}");
    }
    assert!(matches!("0 0 30 2 *".parse::<Schedule>(), Err(ScheduleError::Never { .. })));
}

#[test]
fn a_night_that_skips_the_hour_still_has_its_run() {
    assert_eq!(
        next("30 2 * * *", &berlin(), 3, "2026-03-28T00:00:00Z"),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_night_with_the_hour_twice_has_one_run() {
    assert_eq!(
        next("30 2 * * *", &berlin(), 3, "2026-10-24T00:00:00Z"),
        ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
}

/// Of the days around each change of the clocks: what a fixed time becomes.
#[test]
fn changes_of_the_clocks_neither_skip_nor_double_a_run() {
    for (zone, text, after, expected) in [
        // Berlin goes from 02:00 to 03:00, and back from 03:00 to 02:00.
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-03-28T12:00:00Z",
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-10-24T12:00:00Z",
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        (
            "Europe/Berlin",
            "0 3 * * *",
            "2026-03-28T12:00:00Z",
            ["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"],
        ),
        (
            "Europe/Berlin",
            "0 * * * *",
            "2026-10-25T00:00:00Z",
            ["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        ),
        (
            "Europe/Berlin",
            "0 * * * *",
            "2026-03-29T00:00:00Z",
            ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
        ),
        // New York goes from 02:00 to 03:00, and back from 02:00 to 01:00.
        (
            "America/New_York",
            "30 2 * * *",
            "2026-03-07T12:00:00Z",
            ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        ),
        (
            "America/New_York",
            "30 1 * * *",
            "2026-10-31T12:00:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        // Lord Howe goes half an hour, from 02:00 to 02:30, and back from 02:00 to 01:30.
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T00:00:00Z",
            ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-04T00:00:00Z",
            ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "0 2 * * *",
            "2026-10-03T00:00:00Z",
            ["2026-10-03T15:30:00Z", "2026-10-04T15:00:00Z"],
        ),
    ] {
        let zone = TimeZone::get(zone).unwrap();
        assert_eq!(next(text, &zone, 2, after), expected, "{text} in {zone:?} after {after}");
        let [first, second] = expected.map(at);
        let schedule = schedule(text);
        assert_eq!(schedule.at_or_before(second, &zone), Some(second), "{text} at {second}");
        let between = second - SignedDuration::from_secs(1);
        assert_eq!(schedule.at_or_before(between, &zone), Some(first), "{text} at {between}");
    }
}

#[test]
fn the_longest_gap_is_what_a_recovery_point_has_to_allow() {
    let from = at("2026-11-24T00:00:00Z");
    let gap = |text: &str, zone: &TimeZone| schedule(text).longest_gap(zone, from).unwrap().as_mins();
    assert_eq!(gap("0 2 * * *", &TimeZone::UTC), 24 * 60);
    assert_eq!(gap("0 4 * * *", &berlin()), 25 * 60);
    assert_eq!(gap("0 2 * * 1-5", &TimeZone::UTC), 3 * 24 * 60);
    assert_eq!(gap("0 2 1 * *", &TimeZone::UTC), 31 * 24 * 60);
    assert_eq!(gap("*/15 * * * *", &TimeZone::UTC), 15);
}

#[test]
fn the_shortest_gap_is_that_of_a_walk_through_all_times() {
    const UTC: &TimeZone = &TimeZone::UTC;
    for (text, minutes) in [
        ("* * * * *", 1),
        ("*/25 * * * *", 10),
        ("*/2 9-17 * * *", 2),
        ("0 0,12 * * *", 12 * 60),
        ("0,59 0 * * *", 59),
        ("0 0,23 * * *", 60),
        ("0 0,23 * * 1,3", 23 * 60),
        ("30 2 * * *", 24 * 60),
        ("30 2 * * 1", 7 * 24 * 60),
        ("30 2 * * 1,4", 3 * 24 * 60),
        ("30 2 1 * *", 28 * 24 * 60),
        ("30 2 L * *", 28 * 24 * 60),
        ("0 1,23 */2 * *", 2 * 60),
        ("0 0 29 2 *", (4 * 365 + 1) * 24 * 60),
    ] {
        let schedule = schedule(text);
        let walk = schedule.gaps(SignedDuration::ZERO, UTC, BEFORE_SOME_NEW_YEAR);
        let walked = walk.take(GAP_OCCURRENCES_MAX).min();
        assert_eq!(schedule.shortest_gap(), walked, "{text}");
        assert_eq!(schedule.shortest_gap(), Some(SignedDuration::from_mins(minutes)), "{text}");
    }
}

#[test]
fn looking_back_finds_what_looking_ahead_found() {
    for (text, from) in [
        ("30 2 * * *", "2026-03-28T00:00:00Z"),
        ("30 2 * * *", "2026-10-24T00:00:00Z"),
        ("0 */2 * * *", "2026-10-24T20:00:00Z"),
        ("0 4 * * 0", "2026-11-24T00:00:00Z"),
        ("0 0 29 2 *", "2026-11-24T00:00:00Z"),
    ] {
        let schedule = schedule(text);
        let mut last = schedule.next_after(at(from), &berlin()).unwrap();
        for _ in 0..4 {
            assert_eq!(schedule.at_or_before(last, &berlin()), Some(last), "{text} at {last}");
            let next = schedule.next_after(last, &berlin()).unwrap();
            let just_before = next - SignedDuration::from_secs(1);
            assert_eq!(schedule.at_or_before(just_before, &berlin()), Some(last), "{text} before {next}");
            last = next;
        }
    }
}

#[test]
fn the_longest_gap_of_a_leap_day_is_four_years() {
    let leap_day = schedule("0 0 29 2 *").longest_gap(&TimeZone::UTC, at("2026-11-24T00:00:00Z"));
    assert_eq!(leap_day, Some(SignedDuration::from_hours((4 * 365 + 1) * 24)));
}
