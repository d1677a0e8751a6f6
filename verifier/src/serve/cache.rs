//! What was read is kept for a while, so that a page that is asked for a thousand times reads the bucket once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// For how long something may be shown before it is read again.
pub(super) trait Keep {
    fn keep(&self) -> Duration;
}

/// So many things of a kind, those that were asked for last.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    slots: Mutex<Slots<K, V>>,
    entries_max: usize,
}

#[derive(Debug)]
struct Slots<K, V> {
    /// Each with the number of the question that last asked for it.
    by_key: HashMap<K, (u64, Slot<V>)>,
    asked: u64,
}

/// Locked while it is being read, so that it is read once however many ask.
type Slot<V> = Arc<tokio::sync::Mutex<Option<(Instant, Arc<V>)>>>;

impl<K: Eq + Hash + Clone, V: Keep + Send + Sync + 'static> Cache<K, V> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { slots: Mutex::new(Slots { by_key: HashMap::new(), asked: 0 }), entries_max }
    }

    /// What is kept, or what `read` gives. Reading goes on when whoever asked has gone: otherwise asking and leaving, again
    /// and again, would read every time.
    pub(super) async fn get(&self, key: &K, read: impl Future<Output = V> + Send + 'static) -> Arc<V> {
        let slot = self.slot(key);
        let reading = tokio::spawn(async move {
            let mut kept = slot.lock().await;
            if let Some((until, value)) = &*kept
                && Instant::now() < *until
            {
                return Arc::clone(value);
            }
            let value = Arc::new(read.await);
            *kept = Some((Instant::now() + value.keep(), Arc::clone(&value)));
            value
        });
        reading.await.expect("reading does not panic")
    }

    fn slot(&self, key: &K) -> Slot<V> {
        let mut slots = self.slots.lock().expect("no holder of this lock panics");
        slots.asked += 1;
        let asked = slots.asked;
        if !slots.by_key.contains_key(key) && slots.by_key.len() >= self.entries_max {
            let oldest = slots.by_key.iter().min_by_key(|(_, (asked, _))| *asked).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| slots.by_key.remove(&oldest));
        }
        let (last, slot) = slots.by_key.entry(key.clone()).or_insert_with(|| (asked, Slot::default()));
        *last = asked;
        Arc::clone(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Read(usize);

    impl Keep for Read {
        fn keep(&self) -> Duration {
            Duration::from_secs(60)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_read_once_however_many_ask_and_again_after_its_time() {
        static READS: AtomicUsize = AtomicUsize::new(0);
        let cache: Cache<&str, Read> = Cache::new(2);
        let read = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Read(READS.fetch_add(1, Ordering::SeqCst))
        };
        let all = futures::future::join_all((0..50).map(|_| cache.get(&"a", read()))).await;
        assert!(all.iter().all(|it| it.0 == 0));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(cache.get(&"a", read()).await.0, 1);
        // Who asks and leaves has asked all the same.
        tokio::time::advance(Duration::from_secs(61)).await;
        for _ in 0..10 {
            let _left = tokio::time::timeout(Duration::from_millis(1), cache.get(&"a", read())).await;
        }
        assert_eq!(cache.get(&"a", read()).await.0, 2);
        cache.get(&"b", read()).await;
        cache.get(&"c", read()).await;
        assert_eq!(cache.slots.lock().unwrap().by_key.len(), 2);
    }
}
