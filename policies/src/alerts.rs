//! Which messages go out: each alert once, then reminders, then that it is over.
//!
//! What was sent is a value ([`Sent`]) that hosts share, so that a backup that fails every five minutes on two hosts tells
//! somebody once. Whoever reports says what it looked at: only that can be over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::names::SourceName;
use crate::policy::{Alerts, Delivery, Route};

/// Messages about one source to one route within an hour. What comes beyond waits, and is told as a number: whoever gets more reads none.
const PER_HOUR_MAX: usize = 10;
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Data are at risk now.
    P1,
    /// They will be, if nobody acts.
    P2,
    /// Somebody should look today.
    P3,
    /// For the record.
    P4,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $severity:ident;)*) => {
        /// What alerts are about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Where the policy says nothing else.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)*
                }
            }
        }
    };
}

kinds! {
    /// A drill proved a backup bad.
    BackupBad = "backup_bad", P1;
    /// The newest good backup is too old, or there is none.
    NoBackup = "no_backup", P1;
    /// Something in the repository is not what was signed.
    Tampered = "tampered", P1;
    /// The repository could not be read.
    Unreadable = "unreadable", P2;
    /// The verifier failed its own test.
    VerifierFailed = "verifier_failed", P2;
    /// The newest proof is too old, or there is none.
    NoProof = "no_proof", P2;
    /// An attempt to back up failed.
    RunFailed = "run_failed", P3;
    /// Something is on its way to be critical.
    Warning = "warning", P3;
    /// A drill could not be made.
    DrillNotRun = "drill_not_run", P3;
    /// Backups that should be gone could not be removed.
    PruneFailed = "prune_failed", P3;
    /// Another route did not take its message.
    NotifierFailed = "notifier_failed", P2;
}

/// Something somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub kind: Kind,
    /// Tells apart what of one kind is about different things.
    pub about: String,
    /// One line.
    pub subject: String,
    pub text: String,
}

/// What was sent of a source, and is not over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub alerts: BTreeMap<String, Known>,
    /// When each route got its messages of the last hour.
    #[serde(default)]
    pub recent: BTreeMap<String, Vec<Timestamp>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub kind: Kind,
    pub severity: Severity,
    pub subject: String,
    pub since: Timestamp,
    /// Who was told, and when last.
    pub told: BTreeMap<String, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Raised,
    Reminder,
    Recovered,
    /// Nothing is the matter: somebody tries the route.
    Test,
}

/// Whether somebody looked at what this alert, of this kind and key, was about: else its absence says nothing.
pub type LookedAt<'a> = dyn Fn(Kind, &str) -> bool + Sync + 'a;

/// One message to one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub route: String,
    pub event: Event,
    pub severity: Severity,
    pub kind: Option<Kind>,
    pub key: String,
    pub since: Timestamp,
    pub subject: String,
    pub text: String,
    /// Further messages that wait, as this route has had enough of this hour.
    pub held_back: usize,
}

impl Alert {
    /// That a drill found a backup bad: it stays so until another drill finds it good, or it is gone.
    pub fn of_bad_backup(id: &str) -> Self {
        let subject = format!("backup {id} is bad");
        Self { kind: Kind::BackupBad, about: id.to_owned(), subject, text: String::new() }
    }

    /// What makes it the same alert when it comes again.
    pub fn key(&self) -> String {
        match self.about.is_empty() {
            true => self.kind.as_str().to_owned(),
            false => format!("{}/{}", self.kind.as_str(), self.about),
        }
    }
}

impl Alerts {
    pub fn severity(&self, kind: Kind) -> Severity {
        self.severities.get(&kind).copied().unwrap_or_else(|| kind.severity())
    }
}

impl Route {
    fn takes(&self, source: &SourceName, severity: Severity) -> bool {
        !matches!(self.delivery, Delivery::Ping { .. })
            && (self.sources.is_empty() || self.sources.contains(source))
            && (self.severities.is_empty() || self.severities.contains(&severity))
    }
}

/// The messages that are due, given all alerts that there are of what was `looked_at`, which takes a kind and a key. Nothing
/// counts as sent before [`Sent::enter`].
pub fn due(
    policy: &Alerts,
    source: &SourceName,
    sent: &Sent,
    raised: &[Alert],
    looked_at: &LookedAt<'_>,
    now: Timestamp,
) -> Vec<Message> {
    let mut messages = Vec::new();
    for alert in raised {
        messages.extend(of_alert(policy, source, sent, alert, now));
    }
    let keys: BTreeSet<String> = raised.iter().map(Alert::key).collect();
    for (key, known) in &sent.alerts {
        if looked_at(known.kind, key) && !keys.contains(key) {
            messages.extend(of_recovery(policy, key, known));
        }
    }
    messages.sort_by(|a, b| (a.severity, &a.key, &a.route).cmp(&(b.severity, &b.key, &b.route)));
    bounded(messages, sent, now)
}

fn of_alert(
    policy: &Alerts,
    source: &SourceName,
    sent: &Sent,
    alert: &Alert,
    now: Timestamp,
) -> Vec<Message> {
    let (key, severity) = (alert.key(), policy.severity(alert.kind));
    let known = sent.alerts.get(&key);
    let since = known.map_or(now, |known| known.since.min(now));
    let taking = policy.routes.iter().filter(|(_, route)| route.takes(source, severity));
    let event = |name: &String| match known.and_then(|known| known.told.get(name)) {
        None => Some(Event::Raised),
        // A clock that was set back must not silence anybody.
        Some(told) if now.duration_since(*told) >= policy.repeat_after || *told > now + HOUR => {
            Some(Event::Reminder)
        }
        Some(_) => None,
    };
    let message = |(name, event): (&String, Event)| Message {
        route: name.clone(),
        event,
        severity,
        kind: Some(alert.kind),
        key: key.clone(),
        since,
        subject: alert.subject.clone(),
        text: alert.text.clone(),
        held_back: 0,
    };
    taking.filter_map(|(name, _)| Some(message((name, event(name)?)))).collect()
}

fn of_recovery(policy: &Alerts, key: &str, known: &Known) -> Vec<Message> {
    let told = known.told.keys().filter(|name| policy.routes.contains_key(*name));
    let message = |name: &String| Message {
        route: name.clone(),
        event: Event::Recovered,
        severity: known.severity,
        kind: Some(known.kind),
        key: key.to_owned(),
        since: known.since,
        subject: format!("over: {}", known.subject),
        text: String::new(),
        held_back: 0,
    };
    told.map(message).collect()
}

/// Cuts what a route cannot take in this hour; the last that goes out says how much waits.
fn bounded(messages: Vec<Message>, sent: &Sent, now: Timestamp) -> Vec<Message> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (route, times) in &sent.recent {
        counts.insert(route.clone(), times.iter().filter(|at| is_recent(**at, now)).count());
    }
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept: Vec<Message> = Vec::new();
    for message in messages {
        let count = counts.entry(message.route.clone()).or_default();
        if *count < PER_HOUR_MAX {
            *count += 1;
            kept.push(message);
        } else {
            *held.entry(message.route).or_default() += 1;
        }
    }
    for (route, held_back) in held {
        if let Some(last) = kept.iter_mut().rev().find(|message| message.route == route) {
            last.held_back = held_back;
        }
    }
    kept
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at).abs() < HOUR
}

impl Sent {
    /// Notes that a message went out.
    pub fn enter(&mut self, message: &Message, now: Timestamp) {
        let recent = self.recent.entry(message.route.clone()).or_default();
        recent.retain(|at| is_recent(*at, now));
        recent.push(now);
        let (Some(kind), true) = (message.kind, message.event != Event::Test) else { return };
        if message.event == Event::Recovered {
            if let Some(known) = self.alerts.get_mut(&message.key) {
                known.told.remove(&message.route);
            }
            return;
        }
        let known = self.alerts.entry(message.key.clone()).or_insert_with(|| Known {
            kind,
            severity: message.severity,
            subject: message.subject.clone(),
            since: message.since,
            told: BTreeMap::new(),
        });
        known.severity = message.severity;
        known.subject = message.subject.clone();
        known.told.insert(message.route.clone(), now);
    }

    /// Takes back that a message went out, as `before` had it: it did not.
    pub fn take_back(&mut self, message: &Message, before: &Self) {
        let earlier = before.alerts.get(&message.key);
        let told = earlier.and_then(|known| known.told.get(&message.route)).copied();
        match (told, self.alerts.get_mut(&message.key), earlier) {
            (Some(told), Some(known), _) => drop(known.told.insert(message.route.clone(), told)),
            (Some(told), None, Some(earlier)) => {
                let told = BTreeMap::from([(message.route.clone(), told)]);
                self.alerts.insert(message.key.clone(), Known { told, ..earlier.clone() });
            }
            (None, Some(known), _) => drop(known.told.remove(&message.route)),
            (_, None, _) => {}
        }
        self.forget();
    }

    /// Forgets alerts of which everybody knows that they are over, and those that nobody was told of.
    pub fn forget(&mut self) {
        self.alerts.retain(|_, known| !known.told.is_empty());
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
            Self::P4 => "P4",
        })
    }
}

impl FromStr for Severity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::P1, Self::P2, Self::P3, Self::P4].into_iter().find(|known| known.to_string() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Url;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn route(severities: &[Severity]) -> Route {
        Route {
            severities: severities.iter().copied().collect(),
            sources: BTreeSet::new(),
            time_limit: SignedDuration::from_secs(1),
            delivery: Delivery::Slack { url: Url::Written("https://example.org".to_owned()) },
        }
    }

    fn policy() -> Alerts {
        let routes = [("all".to_owned(), route(&[])), ("oncall".to_owned(), route(&[Severity::P1]))];
        Alerts { repeat_after: DAY, severities: BTreeMap::new(), routes: routes.into() }
    }

    fn alert(kind: Kind) -> Alert {
        Alert { kind, about: String::new(), subject: "it failed".to_owned(), text: "why".to_owned() }
    }

    fn failed_runs(kind: Kind, _: &str) -> bool {
        kind == Kind::RunFailed
    }

    fn source() -> SourceName {
        "app".parse().unwrap()
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 + hours)
    }

    /// What goes out at this hour, and is taken.
    fn step(sent: &mut Sent, raised: &[Alert], hours: i64) -> Vec<(String, Event)> {
        let looked_at = |kind: Kind, _: &str| matches!(kind, Kind::RunFailed | Kind::BackupBad);
        let messages = due(&policy(), &source(), sent, raised, &looked_at, at(hours));
        messages.iter().for_each(|message| sent.enter(message, at(hours)));
        sent.forget();
        messages.into_iter().map(|message| (message.route, message.event)).collect()
    }

    #[test]
    fn an_alert_is_sent_once_reminded_of_and_taken_back() {
        let mut sent = Sent::default();
        let failed = [alert(Kind::RunFailed)];
        let to_all = |event| vec![("all".to_owned(), event)];
        assert_eq!(step(&mut sent, &failed, 0), to_all(Event::Raised));
        assert_eq!(step(&mut sent, &failed, 1), []);
        assert_eq!(step(&mut sent, &failed, 23), []);
        assert_eq!(step(&mut sent, &failed, 24), to_all(Event::Reminder));
        assert_eq!(step(&mut sent, &[], 25), to_all(Event::Recovered));
        assert_eq!((step(&mut sent, &[], 26), sent.alerts.len()), (vec![], 0));
    }

    #[test]
    fn severity_says_who_is_told_and_what_was_not_looked_at_is_not_over() {
        let mut sent = Sent::default();
        let told: Vec<_> =
            step(&mut sent, &[alert(Kind::BackupBad)], 0).into_iter().map(|(route, _)| route).collect();
        assert_eq!(told, ["all", "oncall"]);
        let looked_at = failed_runs;
        assert_eq!(due(&policy(), &source(), &sent, &[], &looked_at, at(1)), []);
    }

    #[test]
    fn a_route_that_did_not_take_a_message_gets_it_next_time() {
        let (sent, looked_at) = (Sent::default(), failed_runs);
        let first = due(&policy(), &source(), &sent, &[alert(Kind::RunFailed)], &looked_at, at(0));
        assert_eq!(first.len(), 1);
        assert_eq!(due(&policy(), &source(), &sent, &[alert(Kind::RunFailed)], &looked_at, at(0)), first);
    }

    #[test]
    fn what_did_not_go_out_is_taken_back() {
        for (before, raised) in
            [(&[][..], true), (&[alert(Kind::RunFailed)][..], false), (&[alert(Kind::RunFailed)][..], true)]
        {
            let mut sent = Sent::default();
            step(&mut sent, before, 0);
            let (known, looked_at) = (sent.clone(), failed_runs);
            let raised = if raised { vec![alert(Kind::RunFailed)] } else { vec![] };
            let messages = due(&policy(), &source(), &sent, &raised, &looked_at, at(30));
            assert_eq!(messages.len(), 1);
            sent.enter(&messages[0], at(30));
            sent.forget();
            assert_ne!(sent.alerts, known.alerts);
            sent.take_back(&messages[0], &known);
            assert_eq!(sent.alerts, known.alerts);
        }
    }

    #[test]
    fn more_than_a_route_can_take_waits_and_is_counted() {
        let mut sent = Sent::default();
        let many: Vec<Alert> =
            (0..37).map(|n| Alert { about: format!("{n:02}"), ..alert(Kind::RunFailed) }).collect();
        let looked_at = failed_runs;
        let messages = due(&policy(), &source(), &sent, &many, &looked_at, at(0));
        assert_eq!((messages.len(), messages.last().unwrap().held_back), (PER_HOUR_MAX, 27));
        messages.iter().for_each(|message| sent.enter(message, at(0)));
        assert_eq!(due(&policy(), &source(), &sent, &many, &looked_at, at(0)), []);
        assert_eq!(due(&policy(), &source(), &sent, &many, &looked_at, at(1)).len(), PER_HOUR_MAX);
    }

    #[test]
    fn a_route_is_told_of_its_own_sources_and_a_ping_of_nothing() {
        let url = || Url::Written("https://example.org".to_owned());
        let only = |name: &str| Route { sources: BTreeSet::from([name.parse().unwrap()]), ..route(&[]) };
        let ping = Route { delivery: Delivery::Ping { url: url() }, ..route(&[]) };
        let routes = [("app", only("app")), ("other", only("other")), ("ping", ping)];
        let routes = routes.map(|(name, route)| (name.to_owned(), route)).into();
        let policy = Alerts { routes, ..policy() };
        let messages =
            due(&policy, &source(), &Sent::default(), &[alert(Kind::RunFailed)], &failed_runs, at(0));
        assert_eq!(messages.iter().map(|it| it.route.as_str()).collect::<Vec<_>>(), ["app"]);
    }

    #[test]
    fn a_clock_that_was_set_back_by_more_than_an_hour_silences_nobody() {
        let failed = [alert(Kind::RunFailed)];
        let again = |hours: i64| {
            let mut sent = Sent::default();
            step(&mut sent, &failed, 5);
            step(&mut sent, &failed, hours)
        };
        assert_eq!((again(5), again(4)), (vec![], vec![]));
        assert_eq!(again(3), [("all".to_owned(), Event::Reminder)]);
    }

    #[test]
    fn taking_back_is_for_the_one_route_that_did_not_take_it() {
        let mut sent = Sent::default();
        step(&mut sent, &[alert(Kind::BackupBad)], 0);
        let known = sent.clone();
        let looked_at = |kind: Kind, _: &str| kind == Kind::BackupBad;
        let over = due(&policy(), &source(), &sent, &[], &looked_at, at(1));
        assert_eq!(over.len(), 2);
        over.iter().for_each(|message| sent.enter(message, at(1)));
        sent.forget();
        sent.take_back(&over[0], &known);
        let told: Vec<_> = sent.alerts.values().flat_map(|known| known.told.keys()).collect();
        assert_eq!(told, [&over[0].route]);
    }

    proptest! {
        #[test]
        fn nobody_is_told_twice_within_the_repeat_and_each_raised_alert_is_told_at_once(
            raised in proptest::collection::vec(any::<bool>(), 1..60),
        ) {
            let mut sent = Sent::default();
            let mut last: Option<i64> = None;
            let mut open = false;
            for (hour, is_raised) in (0_i64..).step_by(2).zip(raised) {
                let alerts = if is_raised { vec![alert(Kind::RunFailed)] } else { vec![] };
                let told = step(&mut sent, &alerts, hour);
                let events: Vec<Event> = told.into_iter().map(|(_, event)| event).collect();
                let expected = match (is_raised, open) {
                    (true, false) => vec![Event::Raised],
                    (true, true) if last.is_some_and(|last| hour - last >= 24) => vec![Event::Reminder],
                    (false, true) => vec![Event::Recovered],
                    _ => vec![],
                };
                prop_assert_eq!(&events, &expected);
                if is_raised && !expected.is_empty() {
                    last = Some(hour);
                }
                open = is_raised;
            }
        }
    }
}
