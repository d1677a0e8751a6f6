//! The names of a source's folders, newest first, in few requests however many there are.
//!
//! A store lists names upwards only, a thousand at a time. Names begin with the second of their start, so the newest are
//! found as in a telephone book: the list is opened at a guess, and at a better one where it held too few or went on too
//! long. A store of a thousand folders or fewer tells all of them in the one answer that every search begins with.

use std::collections::VecDeque;

use futures::stream::{self, Stream};
use jiff::Timestamp;
use pgproof_policies::names::SourceName;

use super::CatalogError;
use crate::ids::{BackupId, KeyPrefix};
use crate::layout;
use crate::store::SharedStore;

/// Names asked for at once: what S3 gives in one answer.
const NAMES_PER_REQUEST: usize = 1000;
/// The most that are searched for at once: half an answer, so that a guess may be off by as much.
const SEARCHED_MAX: usize = NAMES_PER_REQUEST / 2;
/// Guesses by how dense the names lie; where these fail, they lie unevenly and halving is surer.
const GUESSES_MAX: usize = 4;
/// The most that a guess goes further back than the one before, in lengths of that.
const FURTHER_MAX: i64 = 64;
/// Characters of an id before its random tail: `20261124T020000Z`.
const START_CHARS: usize = 16;
/// Sorts after every id, which begins with a digit.
const AFTER_ALL: &str = ":";
/// Sorts next after the slash that ends a folder's name, and so after all that is in the folder.
const AFTER_SLASH: char = '0';

/// A bound of a search: ids that sort before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before(String);

impl Before {
    pub fn id(id: &BackupId) -> Self {
        Self(id.to_string())
    }

    /// What was started before this second.
    pub fn time(at: Timestamp) -> Self {
        Self(name_at(at))
    }
}

/// A source's folders, of which the first names were read.
#[derive(Debug)]
pub struct Folders {
    store: SharedStore,
    prefix: KeyPrefix,
    first: Answer,
}

/// Consecutive names, as one request told them.
#[derive(Debug, Clone)]
struct Answer {
    /// Those of backups, oldest first.
    ids: Vec<BackupId>,
    /// The last name, whatever it is.
    last: Option<String>,
    more: bool,
}

impl Folders {
    pub async fn open(store: &SharedStore, source: &SourceName) -> Result<Self, CatalogError> {
        let (store, prefix) = (store.clone(), layout::backups(source));
        let first = ask(&store, &prefix, None).await?;
        Ok(Self { store, prefix, first })
    }

    pub fn oldest(&self) -> Option<&BackupId> {
        self.first.ids.first()
    }

    /// The first of them, oldest first: all, or a thousand.
    pub fn first(&self) -> &[BackupId] {
        &self.first.ids
    }

    /// The newest `count`, newest first, of those before `before`; at most half a thousand are given at once.
    pub async fn newest(&self, before: Option<&Before>, count: usize) -> Result<Vec<BackupId>, CatalogError> {
        let end = before.map_or(AFTER_ALL, |before| &before.0);
        let count = count.min(SEARCHED_MAX);
        let mut search = Search::new(self.first.clone().cut(end), count, end, Timestamp::now());
        while let Some(from) = search.next_from() {
            let answer = ask(&self.store, &self.prefix, Some(&from)).await?.cut(end);
            search.learn(answer);
        }
        match search.found() {
            Some(found) => Ok(found),
            // Somebody put so many other names there that guesses lead nowhere.
            None => {
                let all = super::ids_below(&self.store, &self.prefix).await?;
                Ok(all.into_iter().rev().filter(|id| id.as_str() < end).take(count).collect())
            }
        }
    }

    /// All of them, or all before `before`, newest first, asked for in portions as they are read.
    pub fn newest_first(
        &self,
        before: Option<Before>,
    ) -> impl Stream<Item = Result<BackupId, CatalogError>> + '_ {
        let start = (VecDeque::new(), before);
        stream::try_unfold(start, move |(mut known, mut before)| async move {
            if known.is_empty() {
                known = self.newest(before.as_ref(), SEARCHED_MAX).await?.into();
            }
            let Some(id) = known.pop_front() else { return Ok(None) };
            before = Some(Before::id(&id));
            Ok(Some((id, (known, before))))
        })
    }
}

async fn ask(store: &SharedStore, prefix: &KeyPrefix, from: Option<&str>) -> Result<Answer, CatalogError> {
    let page = store.folders_from(prefix, from, NAMES_PER_REQUEST).await;
    let page = page.map_err(|source| CatalogError::Store { source })?;
    let mut ids: Vec<BackupId> = page.names.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort();
    Ok(Answer { ids, last: page.names.into_iter().next_back(), more: page.more })
}

impl Answer {
    /// Without what does not sort before `end`.
    fn cut(mut self, end: &str) -> Self {
        if self.last.as_deref().is_some_and(|last| last >= end) {
            self.more = false;
        }
        self.ids.retain(|id| id.as_str() < end);
        self
    }

    /// How far its ids lie apart, in seconds.
    fn seconds_each(&self) -> i64 {
        let ends = self.ids.first().zip(self.ids.last());
        let span =
            ends.map_or(0, |(first, last)| last.started_at().as_second() - first.started_at().as_second());
        (span / i64::try_from(self.ids.len().max(1)).unwrap_or(i64::MAX)).max(1)
    }
}

/// What is known while the newest are looked for. It asks nothing itself.
struct Search {
    count: usize,
    /// The last answer that did not reach the end: what is looked for begins in it or after it.
    low: Answer,
    /// Whether `low` begins with the first name of all.
    from_first: bool,
    /// From this second on there are too few.
    high: i64,
    /// Where the newest are expected to end.
    end: i64,
    next: Next,
    asked: usize,
}

/// What to do next.
#[derive(Debug, Clone)]
enum Next {
    /// Ask for the names from this second on.
    From(i64),
    /// Ask for those that follow `low`.
    Follow,
    /// `None` where what is known does not tell.
    Found(Option<Vec<BackupId>>),
}

/// How the last guess was wrong.
#[derive(Clone, Copy)]
enum Miss {
    /// The answer did not reach the end.
    TooEarly,
    /// It did, with so many.
    TooLate(usize),
}

impl Search {
    fn new(first: Answer, count: usize, end: &str, now: Timestamp) -> Self {
        let end_at = second_of(end);
        let found = (!first.more).then(|| newest(&first.ids, count));
        let mut search = Self {
            count,
            low: first,
            from_first: true,
            high: end_at.map_or(Timestamp::MAX.as_second(), |at| at + 1),
            end: end_at.unwrap_or(now.as_second()),
            next: Next::Follow,
            asked: 0,
        };
        search.next = match found {
            Some(found) => Next::Found(Some(found)),
            None => search.guess(Miss::TooEarly),
        };
        search
    }

    /// The name to begin the next request with.
    fn next_from(&self) -> Option<String> {
        match &self.next {
            Next::From(at) => Timestamp::from_second(*at).ok().map(name_at),
            Next::Follow => self.low.last.as_ref().map(|last| format!("{last}{AFTER_SLASH}")),
            Next::Found(_) => None,
        }
    }

    fn learn(&mut self, answer: Answer) {
        self.asked += 1;
        self.next = match self.next {
            _ if answer.more => {
                (self.low, self.from_first) = (answer, false);
                self.guess(Miss::TooEarly)
            }
            _ if answer.ids.len() >= self.count => Next::Found(Some(newest(&answer.ids, self.count))),
            Next::From(at) => {
                self.high = at;
                self.guess(Miss::TooLate(answer.ids.len()))
            }
            Next::Follow | Next::Found(_) => {
                let ids: Vec<_> = self.low.ids.iter().chain(&answer.ids).cloned().collect();
                // Fewer than asked for are all there are only if they begin with the first of all.
                let is_enough = self.from_first || ids.len() >= self.count;
                Next::Found(is_enough.then(|| newest(&ids, self.count)))
            }
        };
    }

    /// Each guess but the following of `low` lies between its end and `high`, and brings them nearer to each other.
    fn guess(&self, miss: Miss) -> Next {
        let Some(low_at) = self.low.ids.last().map(|id| id.started_at().as_second()) else {
            return Next::Follow;
        };
        // Nothing is expected after the end, unless something was found there.
        let upper = if low_at < self.end { self.high.min(self.end + 1) } else { self.high };
        let halfway = low_at + (upper - low_at) / 2;
        let at = match miss {
            _ if self.asked >= GUESSES_MAX => halfway,
            Miss::TooEarly => match self.end - self.low.seconds_each() * self.wanted() {
                at if at > low_at => at,
                _ => halfway,
            },
            // As much further back as they were too few.
            Miss::TooLate(found) => {
                let times = self.wanted() / i64::try_from(found.max(1)).unwrap_or(i64::MAX);
                let further = self.end - (self.end - self.high) * times.clamp(2, FURTHER_MAX);
                let is_far = (self.high - low_at) / self.low.seconds_each() > NAMES_PER_REQUEST as i64;
                if further <= low_at && is_far { halfway } else { further }
            }
        };
        let at = if at < self.high { at } else { halfway };
        if at > low_at { Next::From(at) } else { Next::Follow }
    }

    /// Twice as many as are needed: a guess that is a little too late costs a request.
    fn wanted(&self) -> i64 {
        i64::try_from(self.count * 2).unwrap_or(i64::MAX).min(NAMES_PER_REQUEST as i64 * 3 / 4)
    }

    fn found(self) -> Option<Vec<BackupId>> {
        match self.next {
            Next::Found(found) => found,
            Next::From(_) | Next::Follow => None,
        }
    }
}

/// The second that a name begins with.
fn second_of(name: &str) -> Option<i64> {
    let id: BackupId = format!("{}-aaaaaa", name.get(..START_CHARS)?).parse().ok()?;
    Some(id.started_at().as_second())
}

/// The last `count`, the last first.
fn newest(oldest_first: &[BackupId], count: usize) -> Vec<BackupId> {
    oldest_first.iter().rev().take(count).cloned().collect()
}

fn name_at(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests;
