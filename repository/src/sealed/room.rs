//! Room for so many things in memory, shared by threads that each wait until there is some.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A number of places. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Room);

impl Room {
    /// At least one place: with none, everybody would wait for ever.
    pub(super) fn new(places: usize) -> Self {
        Self(Arc::new(Shared { free: Mutex::new(places.max(1)), freed: Condvar::new() }))
    }

    /// Takes a place; waits until there is one.
    pub(super) fn take(&self) -> Place {
        let mut free = self.free();
        while *free == 0 {
            free = self.0.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Place(self.clone())
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.0.freed.notify_one();
    }
}
