//! Calendar periods and how many of each are still free.

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

use super::{Class, Reason, Retention};

/// Hands out reasons to backups that are offered newest first.
pub(super) struct Slots<'a> {
    zone: &'a TimeZone,
    keep_all: bool,
    last: Counter,
    calendars: [Calendar; Class::ALL.len()],
    within: Option<(SignedDuration, Timestamp)>,
}

struct Counter {
    taken: u32,
    limit: u32,
}

/// One kind of period: the newest backup of each period takes a slot while any are left.
struct Calendar {
    limit: u32,
    taken: u32,
    latest: Option<String>,
    class: Class,
}

impl<'a> Slots<'a> {
    pub(super) fn new(retention: &Retention, zone: &'a TimeZone, now: Timestamp) -> Self {
        let calendar = |class| Calendar { limit: retention.count(class), taken: 0, latest: None, class };
        let calendars = Class::ALL.map(calendar);
        let within = retention.within.map(|span| (span, now.checked_sub(span).unwrap_or(Timestamp::MIN)));
        Self {
            zone,
            keep_all: retention.keep_all,
            last: Counter { taken: 0, limit: retention.last },
            calendars,
            within,
        }
    }

    pub(super) fn take(&mut self, at: Timestamp) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.keep_all {
            reasons.push(Reason::KeepAll);
        }
        if self.last.taken < self.last.limit {
            self.last.taken += 1;
            reasons.push(Reason::Last(self.last.taken));
        }
        let local = at.to_zoned(self.zone.clone());
        reasons.extend(self.calendars.iter_mut().filter_map(|calendar| calendar.take(&local)));
        if let Some((span, since)) = self.within
            && at >= since
        {
            reasons.push(Reason::Within(span));
        }
        reasons
    }
}

impl Calendar {
    fn take(&mut self, local: &Zoned) -> Option<Reason> {
        if self.taken >= self.limit {
            return None;
        }
        let period = self.class.period(local);
        if self.latest.as_ref() == Some(&period) {
            return None;
        }
        self.taken += 1;
        self.latest = Some(period.clone());
        Some(self.class.reason(period))
    }
}
