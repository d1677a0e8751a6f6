//! Notices that a dump stands still, which a lock or a dead network path can make it do for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;

/// How often the beats are looked at: fine enough for time-outs of minutes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// No count of beats ever gets there.
const RESTING: u64 = u64::MAX;

/// Counts signs of life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beat(Arc<AtomicU64>);

impl Beat {
    pub(crate) fn now(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on none is expected.
    pub(crate) fn rest(&self) {
        self.0.store(RESTING, Ordering::Relaxed);
    }

    /// Ends once there was no beat for `timeout`.
    pub(crate) async fn stopped_for(&self, timeout: SignedDuration) {
        let timeout = Duration::try_from(timeout).unwrap_or(Duration::MAX);
        let (mut seen, mut since) = (self.0.load(Ordering::Relaxed), tokio::time::Instant::now());
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while since.elapsed() < timeout {
            looks.tick().await;
            let beats = self.0.load(Ordering::Relaxed);
            if beats != seen || beats == RESTING {
                (seen, since) = (beats, tokio::time::Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beats_put_the_end_off() {
        let beat = Beat::default();
        let started = tokio::time::Instant::now();
        let beating = beat.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                beating.now();
            }
        });
        beat.stopped_for(SignedDuration::from_secs(30)).await;
        let lasted = started.elapsed();
        assert!(lasted >= Duration::from_secs(130) && lasted <= Duration::from_secs(133), "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_not_given_up() {
        let beat = Beat::default();
        beat.rest();
        let given_up = beat.stopped_for(SignedDuration::from_secs(30));
        assert!(tokio::time::timeout(Duration::from_secs(3600), given_up).await.is_err());
    }
}
