//! What a daemon tells the service manager that runs it, systemd or what speaks as systemd does. Where none listens
//! (`NOTIFY_SOCKET`), nothing is told.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};

/// Signs of life in the time after which the manager takes the daemon for dead: one may come late.
const BEATS_IN_TIME_LIMIT: u32 = 3;

/// A daemon's line to its service manager.
#[derive(Debug, Default)]
pub struct ServiceManager {
    is_there: bool,
    /// What was told last, so that it is told once.
    status: String,
    /// `None` where nobody waits for signs of life.
    beats: Option<Interval>,
}

impl ServiceManager {
    /// The one that started this process, if one did. Needs the runtime.
    #[must_use]
    pub fn of_this_process() -> Self {
        let beats = sd_notify::watchdog_enabled().map(beats_within);
        Self { is_there: std::env::var_os("NOTIFY_SOCKET").is_some(), status: String::new(), beats }
    }

    /// From here on the daemon keeps its schedules. That the repository cannot be reached does not make it unready:
    /// it is the daemon who tells of that.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The policy is being read again; [`Self::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            // Without the time of it, systemd takes the message for a fault.
            Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
        }
    }

    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// What the daemon is at, on one line.
    pub fn status(&mut self, line: String) {
        if line != self.status {
            self.tell(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }

    /// Gives a sign of life when one is due. Belongs into the loop that stands still when the daemon does; where nobody
    /// waits for it, this never ends.
    pub async fn beat(&mut self) {
        match &mut self.beats {
            None => std::future::pending().await,
            Some(beats) => {
                beats.tick().await;
                self.tell(&[NotifyState::Watchdog]);
            }
        }
    }

    /// Gives signs of life as long as this takes: work within the loop that has time limits of its own.
    pub async fn alive_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.beat() => {}
            }
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.is_there
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "the service manager cannot be told: {states:?}");
        }
    }
}

fn beats_within(time_limit: Duration) -> Interval {
    let mut beats = tokio::time::interval((time_limit / BEATS_IN_TIME_LIMIT).max(Duration::from_millis(1)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beats_come_well_within_the_time_limit_and_not_at_all_where_nobody_waits() {
        let limit = Duration::from_secs(120);
        let mut waited_for = ServiceManager { beats: Some(beats_within(limit)), ..ServiceManager::default() };
        let began = tokio::time::Instant::now();
        for _ in 0..4 {
            waited_for.beat().await;
        }
        assert_eq!(began.elapsed(), limit);
        let mut nobody = ServiceManager::default();
        assert!(tokio::time::timeout(limit, nobody.beat()).await.is_err());
    }
}
