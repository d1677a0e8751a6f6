//! Room for so many things in memory, shared by threads that each wait until there is some.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What there is room for.
#[derive(Debug, Clone, Copy)]
struct Limits {
    places: usize,
    bytes: u64,
    /// Places that there are beside one for each member, however many bytes that makes.
    beside: usize,
}

/// A number of places, and perhaps of bytes. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    places: usize,
    bytes: u64,
    members: usize,
}

impl Limits {
    fn allow(&self, held: &Held, bytes: u64) -> bool {
        let fits = held.bytes.saturating_add(bytes) <= self.bytes;
        held.places < self.places && (fits || held.places < held.members + self.beside)
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    bytes: u64,
}

/// Somebody who takes one place after the other, and of whom the room knows until this is dropped.
#[derive(Debug)]
pub(super) struct Member(Room);

impl Room {
    /// At least one place: with none, everybody would wait for ever.
    pub(super) fn new(places: usize) -> Self {
        Self::with(Limits { places: places.max(1), bytes: u64::MAX, beside: 0 })
    }

    /// The same with a limit of bytes, which gives way where it would leave less than one place for each member and `beside`.
    pub(super) fn within(places: usize, bytes: u64, beside: usize) -> Self {
        Self::with(Limits { places: places.max(1), bytes, beside })
    }

    fn with(limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, held: Mutex::default(), changed: Condvar::new() }))
    }

    pub(super) fn join(&self) -> Member {
        self.held().members += 1;
        self.0.changed.notify_all();
        Member(self.clone())
    }

    /// Takes a place; waits until there is one.
    pub(super) fn take(&self) -> Place {
        self.take_for(0)
    }

    fn take_for(&self, bytes: u64) -> Place {
        let held = self.held();
        let is_full = |held: &mut Held| !self.0.limits.allow(held, bytes);
        let mut held = self.0.changed.wait_while(held, is_full).unwrap_or_else(PoisonError::into_inner);
        held.places += 1;
        held.bytes += bytes;
        Place { room: self.clone(), bytes }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Takes a place for so many bytes; waits until there is room for them.
    pub(super) fn take(&self, bytes: u64) -> Place {
        self.0.take_for(bytes)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.held().members -= 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.room.held();
        held.places -= 1;
        held.bytes -= self.bytes;
        // Those who wait want more or less, so that the first of them may be one who has to go on waiting.
        self.room.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many a room lets in of so many bytes each.
    fn number(room: &Room, bytes: u64) -> usize {
        let mut taken = Vec::new();
        while room.0.limits.allow(&room.held(), bytes) {
            taken.push(room.take_for(bytes));
        }
        taken.len()
    }

    #[test]
    fn bytes_limit_the_places_down_to_one_for_each_member_and_those_beside() {
        let room = Room::within(5, 64, 2);
        let alone = room.join();
        assert_eq!([8, 12, 16, 21, 22, 500].map(|bytes| number(&room, bytes)), [5, 5, 4, 3, 3, 3]);
        let other = room.join();
        assert_eq!(number(&room, 500), 4);
        drop(alone);
        assert_eq!(number(&room, 500), 3);
        let held = (other.take(500), other.take(500), other.take(1));
        assert_eq!(number(&room, 1), 0);
        drop(held);
        assert_eq!(number(&room, 1), 5);
    }

    #[test]
    fn places_that_are_given_back_go_to_whoever_waits() {
        let room = Room::new(1);
        let place = room.take();
        let waiting = room.clone();
        let waits = std::thread::spawn(move || drop(waiting.take()));
        drop(place);
        waits.join().unwrap();
        assert_eq!(number(&room, u64::MAX), 1);
    }
}
