use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn read(text: &str) -> Result<Timestamp, MomentError> {
    parse(text, None, &zone("America/New_York"), at("2026-11-24T12:00:00Z"))
}

#[test]
fn a_moment_with_a_zone_is_understood_in_many_spellings() {
    for (text, instant) in [
        ("2026-11-24T01:30:00Z", "2026-11-24T01:30:00Z"),
        ("2026-11-24t01:30:00z", "2026-11-24T01:30:00Z"),
        ("2026-11-24T02:30:00+01:00", "2026-11-24T01:30:00Z"),
        ("2026-11-24 02:30:00.25 +01:00", "2026-11-24T01:30:00.25Z"),
        ("2026-11-24 01:30:00+00", "2026-11-24T01:30:00Z"),
        ("2026-11-24 01:30 UTC", "2026-11-24T01:30:00Z"),
        ("  2026-11-24   01:30  utc ", "2026-11-24T01:30:00Z"),
        ("2026-11-24T01:30 Z", "2026-11-24T01:30:00Z"),
        ("2026-11-24 02:30 Europe/Berlin", "2026-11-24T01:30:00Z"),
        ("2026-11-24T02:30[Europe/Berlin]", "2026-11-24T01:30:00Z"),
        ("2026-11-24T02:30+01:00[Europe/Berlin]", "2026-11-24T01:30:00Z"),
        ("2026-11-24T01:30Z[Europe/Berlin]", "2026-11-24T01:30:00Z"),
        ("now", "2026-11-24T12:00:00Z"),
        ("NOW", "2026-11-24T12:00:00Z"),
        ("2 hours ago", "2026-11-24T10:00:00Z"),
        ("90m ago", "2026-11-24T10:30:00Z"),
        ("1 day ago", "2026-11-23T12:00:00Z"),
        ("2026-11-24 01:30 America/Chicago", "2026-11-24T07:30:00Z"),
        ("2026-11-24 01:30 america/santiago", "2026-11-24T04:30:00Z"),
        ("yesterday 02:00 America/Chicago", "2026-11-23T08:00:00Z"),
        ("yesterday 02:00 UTC", "2026-11-23T02:00:00Z"),
        ("today 02:00 Europe/Berlin", "2026-11-24T01:00:00Z"),
        ("yesterday 02:00 +02:00", "2026-11-23T00:00:00Z"),
        ("2031-01-01 00:00 UTC", "2031-01-01T00:00:00Z"),
    ] {
        assert_eq!(read(text), Ok(at(instant)), "{text:?}");
    }
}

#[test]
fn the_policy_s_zone_is_used_only_where_the_text_names_none() {
    let berlin = |text: &str| parse(text, Some("Europe/Berlin"), &TimeZone::UTC, at("2026-11-24T23:30:00Z"));
    assert_eq!(berlin("2026-07-01 12:00"), Ok(at("2026-07-01T10:00:00Z")));
    assert_eq!(berlin("2026-07-01 12:00 UTC"), Ok(at("2026-07-01T12:00:00Z")));
    // In Berlin the 25th has begun already.
    assert_eq!(berlin("yesterday 02:00"), Ok(at("2026-11-24T01:00:00Z")));
    assert_eq!(berlin("yesterday 02:00 UTC"), Ok(at("2026-11-23T02:00:00Z")));
    // A day ago is the same time of the day, whatever the clocks did in between.
    let after_change = at("2026-10-25T11:00:00Z");
    assert_eq!(
        parse("1 day ago", Some("Europe/Berlin"), &TimeZone::UTC, after_change),
        Ok(at("2026-10-24T10:00:00Z"))
    );
}

#[test]
fn a_local_time_without_a_zone_is_refused_with_its_readings() {
    let error = read("2026-11-24 01:30").unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"2026-11-24 01:30\" names no time zone and could be 2026-11-24T01:30:00Z (UTC) or \
         2026-11-24T06:30:00Z (America/New_York)"
    );
    assert!(error.hint().unwrap().contains("zone"));
    // On a machine that keeps UTC there is one reading, and still nobody said that it was meant.
    let on_utc = parse("yesterday 02:00", None, &TimeZone::UTC, at("2026-11-24T12:00:00Z"));
    assert!(matches!(on_utc, Err(MomentError::NoZone { readings, .. }) if readings.len() == 1));
    // In the machine's zone this time came twice.
    let error = read("2026-11-01 01:30").unwrap_err();
    assert!(matches!(&error, MomentError::NoZone { readings, .. } if readings.len() == 3), "{error}");
}

#[test]
fn a_time_that_came_twice_is_refused_with_both_instants() {
    assert_eq!(
        read("2026-10-25 02:30 Europe/Berlin").unwrap_err().to_string(),
        "\"2026-10-25 02:30 Europe/Berlin\" happened twice in Europe/Berlin: 2026-10-25T00:30:00Z (+02) or \
         2026-10-25T01:30:00Z (+01)"
    );
    assert_eq!(read("2026-10-25T02:30+01:00[Europe/Berlin]"), Ok(at("2026-10-25T01:30:00Z")));
}

#[test]
fn a_time_that_never_came_is_refused_with_both_instants() {
    assert_eq!(
        read("2026-03-29 02:30 Europe/Berlin").unwrap_err().to_string(),
        "\"2026-03-29 02:30 Europe/Berlin\" never happened in Europe/Berlin, where clocks skipped it: \
         2026-03-29T00:30:00Z (+02) or 2026-03-29T01:30:00Z (+01)"
    );
}

#[test]
fn offsets_that_contradict_their_zone_are_refused() {
    let error = read("2026-07-01T02:30+01:00[Europe/Berlin]").unwrap_err();
    assert!(matches!(error, MomentError::OffsetConflict { .. }), "{error}");
}

#[test]
fn unknown_zones_are_refused_by_name() {
    for text in ["2026-11-24 01:30 Mars/Olympus", "2026-11-24 01:30 CEST"] {
        assert!(matches!(read(text), Err(MomentError::UnknownZone { .. })), "{text:?}: {:?}", read(text));
    }
    let of_policy = parse("2026-11-24 01:30", Some("Nowhere"), &TimeZone::UTC, at("2026-11-24T12:00:00Z"));
    assert_eq!(of_policy, Err(MomentError::UnknownZone { zone: "Nowhere".to_owned() }));
}

#[test]
fn everything_else_is_refused_and_nothing_panics() {
    let long = "9".repeat(10_000);
    for text in [
        "",
        " ",
        "UTC",
        "today",
        "yesterday UTC",
        "2026-11-24",
        "2026-11-24 UTC",
        "02:30",
        "ago",
        "hours ago",
        "24.11.2026 02:30 UTC",
        "2026-02-30 02:30 UTC",
        "2026-11-24 25:00 UTC",
        "2026-11-24 02:30 UTC UTC",
        "tomorrow 02:00 UTC",
        "1700000000",
        "ä",
        "]",
        "2026-11-24 02:30 [",
        "\0",
        &long,
    ] {
        assert!(matches!(read(text), Err(MomentError::Unreadable { .. })), "{text:?}: {:?}", read(text));
    }
    assert!(matches!(read("15000 years ago"), Err(MomentError::OutOfRange { .. })));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        let _ = read(&text);
    }

    #[test]
    fn a_printed_instant_is_read_back(second in -30_000_000_000_i64..200_000_000_000_i64) {
        let instant = Timestamp::from_second(second).unwrap();
        proptest::prop_assert_eq!(read(&instant.to_string()), Ok(instant));
        let spelled = instant.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        proptest::prop_assert_eq!(read(&spelled), Ok(instant));
    }
}

#[test]
fn what_is_too_long_for_a_time_is_refused_and_not_repeated_whole() {
    let longest = format!("now{}", " ".repeat(MOMENT_BYTES_MAX));
    assert!(read(&longest).is_ok(), "white space around it has no length");
    let words = "x".repeat(MOMENT_BYTES_MAX);
    let told = |text: &str| read(text).unwrap_err().to_string();
    assert!(told(&words).contains(&words));
    let cut = format!("\"{}\"", "x".repeat(MOMENT_BYTES_MAX / 2));
    assert!(told(&format!("{words}x")).contains(&cut), "{}", told(&format!("{words}x")));
}

#[test]
fn before_the_year_one_nothing_is_counted() {
    assert_eq!(read("0001-01-01T00:00:00Z"), Ok(at("0001-01-01T00:00:00Z")));
    for text in ["220622w7ms ago", "0001-01-01T00:00:00+00:01", "0000-12-31 23:59 UTC"] {
        assert!(matches!(read(text), Err(MomentError::OutOfRange { .. })), "{text}: {:?}", read(text));
    }
}
