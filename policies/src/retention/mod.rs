//! Which backups stay, which may go, and why.
//!
//! The rules, in the order in which they outrank one another:
//! 1. What cannot be judged is never deleted: unreadable, unsigned and newer-format backups stay, and so does
//!    everything under a hold.
//! 2. The newest good backup stays, and so does the newest proved one, whatever the numbers say.
//! 3. Slots (`last`, hourly to yearly, `within`) are filled from good backups only, newest first, one per
//!    calendar period of the policy's zone. A period without a good backup uses no slot, so a gap of any
//!    length never ages the rest away.
//! 4. A backup that failed its verification fills no slot, and goes when a good one of its age would go.
//! 5. A backup dated after now fills no slot: a wrong clock, or a hostile one, displaces nothing.
//! 6. With `gate_verified`, what is newer than the newest proof displaces nothing, and a proved backup gives way to
//!    proved ones alone. A thousand backups that a stolen host signs, whatever they are dated, push out no proved one.
//! 7. The newest good backup of another server than the newest one's stays for a while, until something of the newest
//!    server is proved: a copy that was set up with the same policy goes on with the series, and displaces it.
//! 8. What a backup that stays needs to be restored stays, too, and takes no slot: an incremental backup never outlives the
//!    ones whose bytes it shares.
//!
//! Whether a plan may be carried out without being asked is a decision of its own: [`removal`].

mod classes;
pub mod removal;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

pub use classes::Class;
use removal::ShareMax;
use slots::Slots;

/// How far a backup may lie in the future before its time is disbelieved: the skew between two hosts that
/// both run a time service is seconds, so five minutes is a broken clock.
pub const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// How long the newest good backup of another server outlives the numbers: somebody sees the warnings by then, or a
/// monthly look at the plan.
pub const OTHER_SERVER_KEPT: SignedDuration = SignedDuration::from_hours(35 * 24);

/// How many backups of each kind are kept. At least one rule is set, or `keep_all`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// Everything younger than this stays.
    pub within: Option<SignedDuration>,
    /// Nothing ever goes. Said aloud, because it is also what a forgotten rule would look like.
    pub keep_all: bool,
    /// A backup newer than the newest proved one displaces nothing until it was proved itself, and a proved one gives
    /// way to proved ones alone.
    pub gate_verified: bool,
    /// A plan that removes a larger share of the whole backups is carried out only when its number is confirmed.
    pub remove_share_max: ShareMax,
}

impl Retention {
    /// Whether any rule beside `keep_all` keeps something.
    pub fn has_rules(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().any(|&count| count > 0) || self.within.is_some()
    }
}

/// One backup of one source, as far as its keeping is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    /// The signed time of the snapshot, never an object's modification time.
    pub snapshot_at: Timestamp,
    pub standing: Standing,
    /// The reason of a hold on this backup.
    pub held: Option<String>,
    /// Who is restoring it now, and until when that is believed.
    pub in_use: Option<String>,
    /// The server that it was dumped from: its major version and system identifier, as far as they are known. Backups of
    /// two servers differ in it, such as those before and after an upgrade.
    pub server: Option<String>,
    /// The backups without which it cannot be restored.
    pub needs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Committed and well signed. `proved`: a verification passed.
    Good { proved: bool },
    /// A verification found that this backup does not restore.
    Failed,
    /// The manifest carries no signature of a trusted signer.
    Unsigned,
    /// There is a manifest and it cannot be read.
    Unreadable { why: String },
    /// The manifest's format is newer than this program.
    Newer,
}

/// One line per candidate, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub lines: Vec<PlanLine>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    pub id: String,
    pub snapshot_at: Timestamp,
    /// Whether it is a whole and well-signed backup, proved or not.
    pub whole: bool,
    pub decision: Decision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep(Vec<Reason>),
    Expire,
}

/// Why a backup stays. `Display` is what the plan prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    KeepAll,
    Last(u32),
    Hourly(String),
    Daily(String),
    Weekly(String),
    Monthly(String),
    Yearly(String),
    Within(SignedDuration),
    NewestGood,
    NewestProved,
    /// The newest good one of another server than that of the newest, of which nothing is proved.
    OtherServer,
    /// The newest proved one is of another server than the newest good one: there is no proof of the server that is
    /// dumped now.
    ProvedBeforeUpgrade,
    /// Displaced by the numbers, but no newer backup was proved yet.
    AwaitingProof,
    /// Proved, and displaced only by backups that are not.
    DisplacedByUnproved,
    /// It counts for nothing, but it is looked into for as long as a good one of its age would stay: the
    /// verification may have been at fault.
    FailedVerification,
    Held(String),
    InUse(String),
    FutureDated,
    Unsigned,
    Unreadable(String),
    NewerFormat,
    /// Nothing good exists, so nothing goes.
    NoGoodBackup,
    /// This one stays, and cannot be restored without it.
    NeededBy(String),
}

/// Decides for every candidate of **one source** whether it stays.
///
/// The order of `backups` does not matter; equal times are ordered by id.
pub fn plan(backups: &[Candidate], retention: &Retention, zone: &TimeZone, now: Timestamp) -> Plan {
    let mut ordered: Vec<&Candidate> = backups.iter().collect();
    ordered.sort_by(|a, b| (b.snapshot_at, &b.id).cmp(&(a.snapshot_at, &a.id)));

    let view = View::of(&ordered, now);
    let slots = |counts: &dyn Fn(&Candidate) -> bool| fill_slots(&ordered, counts, retention, zone, now);
    let mut reasons: Vec<Vec<Reason>> = ordered.iter().map(|backup| view.standing_reasons(backup)).collect();
    for (reasons, filled) in reasons.iter_mut().zip(slots(&|backup| view.is_countable(backup))) {
        reasons.extend(filled);
    }
    if retention.gate_verified {
        let settled = slots(&|backup| view.is_settled(backup));
        for ((backup, reasons), settled) in ordered.iter().zip(&mut reasons).zip(settled) {
            // With nothing proved there is nothing that may displace.
            let displaced = view.newest_proved.is_some() && settled.is_empty();
            if view.is_countable(backup) && reasons.is_empty() && !displaced {
                reasons.push(Reason::AwaitingProof);
            }
        }
        let among_proved = slots(&|backup| view.is_countable(backup) && is_proved(backup));
        for (reasons, filled) in reasons.iter_mut().zip(among_proved) {
            if reasons.is_empty() && !filled.is_empty() {
                reasons.push(Reason::DisplacedByUnproved);
            }
        }
    }
    let with_failed = slots(&|backup| view.is_believed_failure(backup) || view.is_countable(backup));
    for ((backup, reasons), filled) in ordered.iter().zip(&mut reasons).zip(with_failed) {
        if view.is_believed_failure(backup) && reasons.is_empty() && !filled.is_empty() {
            reasons.push(Reason::FailedVerification);
        }
        if retention.keep_all && reasons.is_empty() {
            reasons.push(Reason::KeepAll);
        }
    }

    keep_what_is_needed(&ordered, &mut reasons);

    let lines = ordered.iter().zip(reasons).map(|(backup, reasons)| line(backup, reasons)).collect();
    Plan { lines }
}

impl Plan {
    /// The ids that the plan lets go, oldest first: a run cut short has then removed the least useful ones.
    pub fn expired(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().rev().filter(|line| line.decision == Decision::Expire).map(|line| line.id.as_str())
    }
}

/// What the rules need to know of all candidates together.
struct View<'a> {
    believed_until: Timestamp,
    newest_good: Option<&'a Candidate>,
    newest_proved: Option<&'a Candidate>,
    /// The newest good one of each other server than that of the newest good one.
    of_other_servers: Vec<&'a Candidate>,
}

impl<'a> View<'a> {
    fn of(newest_first: &[&'a Candidate], now: Timestamp) -> Self {
        let believed_until = now.checked_add(CLOCK_SKEW_MAX).unwrap_or(Timestamp::MAX);
        let mut good =
            newest_first.iter().filter(|backup| is_good(backup) && backup.snapshot_at <= believed_until);
        let newest_good = good.clone().next().copied();
        let of_other_servers = newest_of_other_servers(good.clone().copied(), now);
        let newest_proved = good.find(|backup| is_proved(backup)).copied();
        Self { believed_until, newest_good, newest_proved, of_other_servers }
    }

    fn is_future(&self, backup: &Candidate) -> bool {
        backup.snapshot_at > self.believed_until
    }

    fn is_countable(&self, backup: &Candidate) -> bool {
        is_good(backup) && !self.is_future(backup)
    }

    /// Countable, and not newer than what was proved.
    fn is_settled(&self, backup: &Candidate) -> bool {
        self.is_countable(backup)
            && self.newest_proved.is_some_and(|proved| backup.snapshot_at <= proved.snapshot_at)
    }

    /// Whether the newest good backup is of another server than the newest proved one. What is not known is not another.
    fn server_changed_since_proof(&self) -> bool {
        let servers = (self.newest_good, self.newest_proved);
        let (Some(good), Some(proved)) = servers else { return false };
        good.server.as_ref().zip(proved.server.as_ref()).is_some_and(|(good, proved)| good != proved)
    }

    fn is_believed_failure(&self, backup: &Candidate) -> bool {
        backup.standing == Standing::Failed && !self.is_future(backup)
    }

    fn standing_reasons(&self, backup: &Candidate) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if let Some(why) = &backup.held {
            reasons.push(Reason::Held(why.clone()));
        }
        if let Some(by) = &backup.in_use {
            reasons.push(Reason::InUse(by.clone()));
        }
        match &backup.standing {
            Standing::Unsigned => reasons.push(Reason::Unsigned),
            Standing::Unreadable { why } => reasons.push(Reason::Unreadable(why.clone())),
            Standing::Newer => reasons.push(Reason::NewerFormat),
            Standing::Good { .. } | Standing::Failed if self.is_future(backup) => {
                reasons.push(Reason::FutureDated);
            }
            Standing::Good { .. } => {
                if self.newest_good.is_some_and(|good| good.id == backup.id) {
                    reasons.push(Reason::NewestGood);
                }
                if self.newest_proved.is_some_and(|proved| proved.id == backup.id) {
                    reasons.push(match self.server_changed_since_proof() {
                        true => Reason::ProvedBeforeUpgrade,
                        false => Reason::NewestProved,
                    });
                }
                if self.of_other_servers.iter().any(|other| other.id == backup.id) {
                    reasons.push(Reason::OtherServer);
                }
            }
            // A damaged backup is worth more than none.
            Standing::Failed if self.newest_good.is_none() => reasons.push(Reason::NoGoodBackup),
            Standing::Failed => {}
        }
        reasons
    }
}

/// None where a backup of the newest one's server is proved. What is not known of a server tells it from none.
fn newest_of_other_servers<'a>(
    good_newest_first: impl Iterator<Item = &'a Candidate>,
    now: Timestamp,
) -> Vec<&'a Candidate> {
    let (mut current, mut seen, mut newest) = (None, BTreeSet::new(), Vec::new());
    for backup in good_newest_first {
        let Some(server) = &backup.server else { continue };
        let current = *current.get_or_insert(server);
        if server == current && is_proved(backup) {
            return Vec::new();
        }
        let is_young = now.duration_since(backup.snapshot_at) <= OTHER_SERVER_KEPT;
        if server != current && seen.insert(server) && is_young {
            newest.push(backup);
        }
    }
    newest
}

fn is_good(backup: &Candidate) -> bool {
    matches!(backup.standing, Standing::Good { .. })
}

fn is_proved(backup: &Candidate) -> bool {
    backup.standing == Standing::Good { proved: true }
}

/// Also what the needed ones need themselves: whatever is listed can be restored.
fn keep_what_is_needed(newest_first: &[&Candidate], reasons: &mut [Vec<Reason>]) {
    let places: BTreeMap<&str, usize> =
        newest_first.iter().enumerate().map(|(place, backup)| (backup.id.as_str(), place)).collect();
    let mut staying: Vec<usize> =
        (0..reasons.len()).rev().filter(|&place| !reasons[place].is_empty()).collect();
    while let Some(place) = staying.pop() {
        let backup = newest_first[place];
        for needed in backup.needs.iter().filter_map(|id| places.get(id.as_str()).copied()) {
            if reasons[needed].is_empty() {
                reasons[needed].push(Reason::NeededBy(backup.id.clone()));
                staying.push(needed);
            }
        }
    }
}

/// What the numbers keep if just the backups that count existed.
fn fill_slots(
    newest_first: &[&Candidate],
    counts: &dyn Fn(&Candidate) -> bool,
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
) -> Vec<Vec<Reason>> {
    let mut slots = Slots::new(retention, zone, now);
    let mut take = |backup: &Candidate| slots.take(backup.snapshot_at);
    newest_first.iter().map(|backup| if counts(backup) { take(backup) } else { Vec::new() }).collect()
}

fn line(backup: &Candidate, reasons: Vec<Reason>) -> PlanLine {
    let decision = if reasons.is_empty() { Decision::Expire } else { Decision::Keep(reasons) };
    let whole = matches!(backup.standing, Standing::Good { .. } | Standing::Failed);
    PlanLine { id: backup.id.clone(), snapshot_at: backup.snapshot_at, whole, decision }
}

/// As reports say it: `daily 30, monthly 12`.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { last, hourly, daily, weekly, monthly, yearly, within, keep_all, gate_verified, .. } = self;
        let counts = [
            ("last", last),
            ("hourly", hourly),
            ("daily", daily),
            ("weekly", weekly),
            ("monthly", monthly),
            ("yearly", yearly),
        ];
        let set = counts.into_iter().filter(|(_, count)| **count > 0);
        let rules = set.map(|(name, count)| format!("{name} {count}"));
        let young = within.map(|span| Reason::Within(span).to_string());
        let all = keep_all.then(|| "everything".to_owned());
        let gate = gate_verified.then(|| "only proved ones displace".to_owned());
        f.write_str(&rules.chain(young).chain(all).chain(gate).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepAll => f.write_str("everything is kept"),
            Self::Last(number) => write!(f, "last {number}"),
            Self::Hourly(period) => write!(f, "hourly {period}"),
            Self::Daily(period) => write!(f, "daily {period}"),
            Self::Weekly(period) => write!(f, "weekly {period}"),
            Self::Monthly(period) => write!(f, "monthly {period}"),
            Self::Yearly(period) => write!(f, "yearly {period}"),
            Self::Within(span) => write!(f, "within {span:#}"),
            Self::NewestGood => f.write_str("newest good backup"),
            Self::NewestProved => f.write_str("newest proved backup"),
            Self::OtherServer => f.write_str(
                "newest good backup of another server than the newest one's, of which nothing is proved yet",
            ),
            Self::ProvedBeforeUpgrade => f.write_str(
                "newest proved backup, of the server before this one; nothing of this one is proved yet",
            ),
            Self::AwaitingProof => f.write_str("no newer backup was proved yet"),
            Self::DisplacedByUnproved => f.write_str("proved, and only unproved ones would take its place"),
            Self::FailedVerification => f.write_str("failed its verification, not yet displaced"),
            Self::Held(why) => write!(f, "held: {why}"),
            Self::InUse(by) => write!(f, "in use by {by}"),
            Self::FutureDated => f.write_str("dated in the future, its time is not believed"),
            Self::Unsigned => f.write_str("never delete what is not signed"),
            Self::Unreadable(why) => write!(f, "never delete what cannot be read: {why}"),
            Self::NewerFormat => f.write_str("never delete what a newer version wrote"),
            Self::NoGoodBackup => f.write_str("there is no good backup"),
            Self::NeededBy(id) => write!(f, "needed by {id}"),
        }
    }
}
