//! How fast a scrub reads, and whether it is to go on.

use std::time::Duration;

use super::Watch;
use crate::base::limits::SCRUB_WAIT_MS_MAX;
use crate::base::{Error, Result, Timestamp};
use crate::engine::Engine;
use crate::engine::types::Progress;

pub(super) struct Pace<'a> {
    engine: &'a Engine,
    /// Bytes in a second; `None` as fast as it goes.
    rate: Option<u64>,
    started: Timestamp,
    /// What was waited so far: enough even if the clock is set back.
    waited: Duration,
    progress: Progress,
    watch: Watch<'a>,
    stopped: bool,
}

impl<'a> Pace<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        rate: Option<u64>,
        bytes_total: u64,
        watch: Watch<'a>,
    ) -> Self {
        Self {
            engine,
            rate,
            started: engine.env.now(),
            waited: Duration::ZERO,
            progress: Progress {
                bytes_total,
                ..Progress::default()
            },
            watch,
            stopped: false,
        }
    }

    /// Adds to what there is to read.
    pub(super) fn expect(&mut self, bytes: u64) {
        let total = &mut self.progress.bytes_total;
        *total = total.saturating_add(bytes);
    }

    /// Counts a file.
    pub(super) fn one_more(&mut self) {
        self.progress.entries += 1;
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.progress.bytes
    }

    /// Whether the caller has ended it.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Counts bytes that were read, and waits until as much may be read.
    ///
    /// # Errors
    /// [`Error::Stale`] if the store is closed, [`Error::Busy`] if the scrub is to end.
    pub(super) fn read(&mut self, bytes: u64) -> Result<()> {
        self.progress.bytes = self.progress.bytes.saturating_add(bytes);
        self.check()?;
        if bytes > 0 && !(self.watch)(self.progress) {
            self.stopped = true;
        }
        self.check()?;
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else {
            return Ok(());
        };
        let nanos = u128::from(self.progress.bytes) * 1_000_000_000 / u128::from(rate);
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        loop {
            let passed = since(self.started, self.engine.env.now()).max(self.waited);
            let Some(left) = due.checked_sub(passed).filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            let step = left.min(Duration::from_millis(SCRUB_WAIT_MS_MAX));
            self.engine.env.wait(step);
            self.waited = self.waited.saturating_add(step);
            self.check()?;
        }
    }

    fn check(&self) -> Result<()> {
        if self.stopped {
            return Err(Error::Busy("the scrub was told to end"));
        }
        if self
            .engine
            .closed
            .load(std::sync::atomic::Ordering::Acquire)
        {
            return Err(Error::Stale);
        }
        Ok(())
    }
}

fn since(start: Timestamp, now: Timestamp) -> Duration {
    let (start, now) = (start.to_system(), now.to_system());
    now.duration_since(start).unwrap_or_default()
}
