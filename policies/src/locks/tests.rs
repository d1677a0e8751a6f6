use jiff::ToSpan;
use jiff::civil::date;
use proptest::prelude::*;

use super::*;
use crate::retention::removal::ShareMax;
use crate::retention::{self, Candidate, Standing};

/// The days of this zone are of 23, 24 and 25 hours, and its offset is never zero.
const ZONE: &str = "America/St_Johns";
const OTHERWISE: SignedDuration = SignedDuration::from_hours(35 * 24);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn source() -> SourceName {
    "app".parse().unwrap()
}

fn by_class(rules: &Retention, spans: ClassSpans, zone: &str) -> Locks {
    Locks {
        lock: ObjectLock {
            mode: LockMode::Compliance,
            retain: Retain::ByClass { otherwise: OTHERWISE, spans },
        },
        zone: TimeZone::get(zone).unwrap(),
        sources: BTreeMap::from([(source(), rules.clone())]),
    }
}

fn candidate(snapshot_at: Timestamp) -> Candidate {
    Candidate {
        id: snapshot_at.to_string(),
        snapshot_at,
        standing: Standing::Good { proved: false },
        held: None,
        in_use: None,
        server: None,
        needs: Vec::new(),
    }
}

fn rules(daily: u32, weekly: u32, monthly: u32, yearly: u32) -> Retention {
    Retention { daily, weekly, monthly, yearly, remove_share_max: ShareMax::HALF, ..Retention::default() }
}

/// Every backup at its upload: when its lock ends.
fn uploaded(locks: &Locks, text: &str) -> String {
    locks.of_backup(&source(), at(text), at(text)).unwrap().to_string()
}

/// The locks that a prune makes longer, as `snapshot: until, for class`.
fn due(locks: &Locks, rules: &Retention, backups: &[Candidate], now: Timestamp) -> Vec<String> {
    let plan = retention::plan(backups, rules, &locks.zone, now);
    let line = |line: &PlanLine| {
        let Due { until, class } = locks.due(&source(), line, now)?;
        Some(format!("{}: {until} for {}", line.snapshot_at, class.map_or("within", Class::name)))
    };
    plan.lines.iter().filter_map(line).collect()
}

#[test]
fn at_its_upload_a_backup_is_locked_as_the_finest_rule_keeps_it() {
    let night = "2026-11-24T02:00:05Z";
    let locks = |rules: Retention| by_class(&rules, ClassSpans::default(), "UTC");
    assert_eq!(uploaded(&locks(rules(30, 8, 12, 7)), night), "2026-12-24T00:00:00Z");
    assert_eq!(uploaded(&locks(rules(0, 8, 12, 7)), night), "2027-01-18T00:00:00Z");
    assert_eq!(uploaded(&locks(rules(0, 0, 12, 0)), night), "2027-11-01T00:00:00Z");
    assert_eq!(uploaded(&locks(rules(0, 0, 0, 1)), night), "2027-01-01T00:00:00Z");
    let hourly = Retention { hourly: 48, ..rules(30, 0, 0, 0) };
    assert_eq!(uploaded(&locks(hourly.clone()), night), "2026-11-26T02:00:00Z");
    assert_eq!(uploaded(&locks(hourly.clone()), "2026-11-24T02:37:05Z"), "2026-11-26T02:00:00Z");
    // What stays for being young stays for sure.
    let within = Retention { within: Some(SignedDuration::from_hours(72)), ..hourly };
    assert_eq!(uploaded(&locks(within), night), "2026-11-27T02:00:05Z");
    // No rule with a length.
    let last = Retention { last: 5, ..Retention::default() };
    assert_eq!(uploaded(&locks(last), night), "2026-12-29T02:00:05Z");
}

#[test]
fn days_are_those_of_the_zone_and_all_objects_get_one_date() {
    let locks = by_class(&rules(2, 0, 0, 0), ClassSpans::default(), "Europe/Berlin");
    // In Berlin it is the 28th, and two days later summer has begun.
    let started = at("2026-03-27T23:30:00Z");
    let put = ["2026-03-27T23:30:00Z", "2026-03-28T04:00:00Z", "2026-03-29T21:59:59Z"];
    for now in put {
        assert_eq!(locks.of_backup(&source(), started, at(now)), Some(at("2026-03-29T22:00:00Z")), "{now}");
    }
    // A dump that outlasted its lock asks for none: the store would refuse a date that is past.
    assert_eq!(locks.of_backup(&source(), started, at("2026-03-29T22:00:00Z")), None);
}

#[test]
fn prune_locks_what_is_sure_of_its_slot() {
    let rules = rules(3, 0, 12, 2);
    let nights = date(2026, 9, 1).series(1.day()).take_while(|day| *day <= date(2026, 11, 24));
    let nights: Vec<_> = nights.map(|day| candidate(at(&format!("{day}T02:00:00Z")))).collect();
    let locks = by_class(&rules, ClassSpans::default(), "UTC");
    let now = at("2026-11-24T03:00:00Z");
    assert_eq!(
        due(&locks, &rules, &nights, now),
        [
            // November and the year are not over: these have their days alone.
            "2026-11-24T02:00:00Z: 2026-11-27T00:00:00Z for daily",
            "2026-11-23T02:00:00Z: 2026-11-26T00:00:00Z for daily",
            "2026-11-22T02:00:00Z: 2026-11-25T00:00:00Z for daily",
            "2026-10-31T02:00:00Z: 2027-10-01T00:00:00Z for monthly",
            "2026-09-30T02:00:00Z: 2027-09-01T00:00:00Z for monthly",
        ]
    );
    // After New Year the last of December is the year's too.
    let december = candidate(at("2026-12-31T02:00:00Z"));
    let now = at("2027-01-01T00:00:00Z");
    assert_eq!(
        due(&locks, &rules, &[december], now),
        ["2026-12-31T02:00:00Z: 2028-01-01T00:00:00Z for yearly"]
    );
}

#[test]
fn what_an_incremental_backup_needs_is_locked_as_long() {
    let rules = rules(2, 0, 12, 0);
    let full = candidate(at("2026-10-29T02:00:00Z"));
    let unneeded = candidate(at("2026-10-30T02:00:00Z"));
    let last = Candidate { needs: vec![full.id.clone()], ..candidate(at("2026-10-31T02:00:00Z")) };
    let newest = candidate(at("2026-11-24T02:00:00Z"));
    let candidates = [full, unneeded, last, newest];
    let locks = by_class(&rules, ClassSpans::default(), "UTC");
    let now = at("2026-11-24T03:00:00Z");
    let plan = retention::plan(&candidates, &rules, &locks.zone, now);
    let due = locks.all_due(&source(), &plan, &candidates, now);
    let due: Vec<_> = due.iter().map(|(id, due)| format!("{id} {}", due.until)).collect();
    let [newest, october, full] =
        ["2026-11-24", "2026-10-31", "2026-10-29"].map(|day| format!("{day}T02:00:00Z"));
    assert_eq!(
        due,
        [
            format!("{newest} 2026-11-26T00:00:00Z"),
            format!("{october} 2027-10-01T00:00:00Z"),
            format!("{full} 2027-10-01T00:00:00Z"),
        ]
    );
}

#[test]
fn what_has_the_longer_lock_keeps_it_whatever_needs_it() {
    let rules = rules(2, 0, 12, 0);
    let full = candidate(at("2026-10-31T02:00:00Z"));
    let next = Candidate { needs: vec![full.id.clone()], ..candidate(at("2026-11-23T02:00:00Z")) };
    let newest = Candidate { needs: vec![next.id.clone()], ..candidate(at("2026-11-24T02:00:00Z")) };
    let candidates = [full, next, newest];
    let locks = by_class(&rules, ClassSpans::default(), "UTC");
    let now = at("2026-11-24T03:00:00Z");
    let plan = retention::plan(&candidates, &rules, &locks.zone, now);
    let due = locks.all_due(&source(), &plan, &candidates, now);
    let due: Vec<_> = due.iter().map(|(_, due)| due.until.to_string()).collect();
    // Of the day before, the day's own lock ends before that of what needs it.
    assert_eq!(due, ["2026-11-26T00:00:00Z", "2026-11-26T00:00:00Z", "2027-10-01T00:00:00Z"]);
}

#[test]
fn what_stays_for_being_young_is_locked_so_long_and_no_lock_ends_now() {
    let young = Retention { within: Some(SignedDuration::from_hours(72)), ..Retention::default() };
    let locks = by_class(&young, ClassSpans::default(), "UTC");
    let night = [candidate(at("2026-11-24T02:00:00Z"))];
    let expected = "2026-11-24T02:00:00Z: 2026-11-27T02:00:00Z for within";
    assert_eq!(due(&locks, &young, &night, at("2026-11-27T01:59:59Z")), [expected]);
    assert_eq!(due(&locks, &young, &night, at("2026-11-27T02:00:00Z")), Vec::<String>::new());
}

#[test]
fn a_policy_without_object_lock_locks_nothing() {
    let policy = |lines: &str| {
        let nightly = include_str!("../../examples/nightly.toml");
        let text = nightly.replacen("[repository]\n", &format!("[repository]\n{lines}\n"), 1);
        Policy::parse(&text, "pgproof.toml").unwrap()
    };
    assert!(Locks::of(&policy("")).is_none());
    let set = Locks::of(&policy("object_lock = { mode = \"compliance\", retain = \"35d\" }")).unwrap();
    let now = at("2026-11-24T12:00:00Z");
    assert_eq!((set.mode(), set.of_record(now)), (LockMode::Compliance, Some(now + OTHERWISE)));
}

#[test]
fn the_policy_may_set_its_own_spans() {
    let span = |days: i64| Some(SignedDuration::from_hours(24 * days));
    let spans = ClassSpans::default().with(Class::Daily, span(7)).with(Class::Monthly, span(90));
    let rules = rules(30, 0, 12, 0);
    let locks = by_class(&rules, spans, "UTC");
    assert_eq!(uploaded(&locks, "2026-11-24T02:00:00Z"), "2026-12-01T02:00:00Z");
    let october = [candidate(at("2026-10-31T02:00:00Z"))];
    assert_eq!(
        due(&locks, &rules, &october, at("2026-11-24T03:00:00Z")),
        ["2026-10-31T02:00:00Z: 2027-01-29T02:00:00Z for monthly"]
    );
    // What would have ended by now is nothing to ask for.
    assert_eq!(due(&locks, &rules, &october, at("2027-02-01T00:00:00Z")), Vec::<String>::new());
}

#[test]
fn fixed_locks_count_from_the_put_and_are_never_made_longer() {
    let locks = Locks::fixed(LockMode::Governance, OTHERWISE);
    let now = at("2026-11-24T12:00:00Z");
    assert_eq!(locks.of_backup(&source(), at("2026-11-24T02:00:00Z"), now), Some(now + OTHERWISE));
    assert_eq!(locks.of_record(now), Some(now + OTHERWISE));
    let rules = rules(3, 0, 0, 0);
    assert_eq!(due(&locks, &rules, &[candidate(now)], now), Vec::<String>::new());
}

#[test]
fn no_lock_is_longer_than_a_store_takes() {
    let endless = rules(0, 0, 0, 100_000);
    let locks = by_class(&endless, ClassSpans::default(), "UTC");
    assert_eq!(uploaded(&locks, "2026-11-24T02:00:00Z"), "2126-10-31T02:00:00Z");
}

proptest! {
    /// Nobody pays for a lock on what retention would have let go: until it ends, the rules keep the backup, however many
    /// others are made meanwhile.
    #[test]
    fn while_a_lock_that_prune_asked_for_lasts_the_rules_keep_the_backup(
        minutes in proptest::collection::vec(0..60 * 24 * 800_i64, 1..40),
        further in proptest::collection::vec(0..60 * 24 * 800_i64, 0..60),
        counts in (0..40_u32, 0..12_u32, 0..14_u32, 0..4_u32),
        passed in 0..1000_i64,
    ) {
        let (daily, weekly, monthly, yearly) = counts;
        let rules = rules(daily, weekly, monthly, yearly);
        let locks = by_class(&rules, ClassSpans::default(), ZONE);
        let first = at("2026-01-01T00:00:00Z");
        let now = first + SignedDuration::from_hours(800 * 24);
        let backups: Vec<_> =
            minutes.iter().map(|minutes| candidate(first + SignedDuration::from_mins(*minutes))).collect();
        let plan = retention::plan(&backups, &rules, &locks.zone, now);
        let finest = rules.finest();
        for line in &plan.lines {
            let Some(due) = locks.due(&source(), line, now) else { continue };
            // The finest slot of a period that goes on may still go to another.
            if due.class == finest && !due.class.unwrap().is_over(line.snapshot_at, &locks.zone, now) {
                continue;
            }
            let left = due.until.duration_since(now);
            let later = now + SignedDuration::from_secs(left.as_secs() * passed / 1000);
            let new = further.iter().map(|minutes| candidate(now + SignedDuration::from_mins(*minutes)));
            let new = new.filter(|backup| backup.snapshot_at <= later);
            let all: Vec<_> = backups.iter().cloned().chain(new).collect();
            let plan = retention::plan(&all, &rules, &locks.zone, later);
            let then = plan.lines.iter().find(|then| then.id == line.id).unwrap();
            prop_assert!(then.decision != Decision::Expire, "{line:?} is locked until {} and went at {later}", due.until);
        }
    }

    /// With a backup in each period, the end of the span is the very moment from which it goes.
    #[test]
    fn a_span_ends_when_the_slot_is_taken(minutes in 0..60 * 24 * 800_i64, count in 1..30_u32) {
        let zone = TimeZone::get(ZONE).unwrap();
        let first = at("2026-01-01T00:00:00Z") + SignedDuration::from_mins(minutes);
        for class in Class::ALL.into_iter().filter(|class| *class != Class::Yearly) {
            let rules = match class {
                Class::Hourly => Retention { hourly: count, ..Retention::default() },
                Class::Daily => Retention { daily: count, ..Retention::default() },
                Class::Weekly => Retention { weekly: count, ..Retention::default() },
                _ => Retention { monthly: count, ..Retention::default() },
            };
            let end = class.kept_until(count, first, &zone).unwrap();
            // One an hour or a day from the first to the end, the very last at the end itself.
            let step = SignedDuration::from_hours(if class == Class::Hourly { 1 } else { 24 });
            let times = std::iter::successors(Some(first), |at| Some(*at + step)).take_while(|at| *at < end);
            let mut all: Vec<_> = times.map(candidate).collect();
            let goes = |all: &[Candidate], now| {
                let plan = retention::plan(all, &rules, &zone, now);
                plan.lines.iter().any(|line| line.snapshot_at == first && line.decision == Decision::Expire)
            };
            // Within its own period a later one takes its slot at once; it is not what this is about.
            all.retain(|it| it.snapshot_at == first || class.is_over(first, &zone, it.snapshot_at));
            prop_assert!(!goes(&all, end - SignedDuration::from_secs(1)), "{class} {first}");
            all.push(candidate(end));
            let periods = all.iter().filter(|it| it.snapshot_at != first).count() as u32;
            if periods >= count {
                prop_assert!(goes(&all, end), "{class} {first} until {end}");
            }
        }
    }
}
