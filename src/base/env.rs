//! Where time and chance enter: nothing else in the library asks the system for either.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment: seconds since 1970-01-01T00:00:00Z (may be negative) and nanoseconds, `0..1_000_000_000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded towards minus infinity.
    pub secs: i64,
    /// Nanoseconds past `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// The timestamp of a [`SystemTime`], before or after 1970.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(d) => Self {
                secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
                nanos: d.subsec_nanos(),
            },
            Err(before) => {
                let d = before.duration();
                let secs = i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                match d.subsec_nanos() {
                    0 => Self {
                        secs: -secs,
                        nanos: 0,
                    },
                    n => Self {
                        secs: -secs - 1,
                        nanos: 1_000_000_000 - n,
                    },
                }
            }
        }
    }

    /// The [`SystemTime`] of this timestamp; a moment out of the system's range becomes 1970.
    #[must_use]
    pub fn to_system(self) -> SystemTime {
        let nanos = Duration::from_nanos(u64::from(self.nanos));
        let base = if self.secs >= 0 {
            UNIX_EPOCH.checked_add(Duration::from_secs(self.secs.unsigned_abs()))
        } else {
            UNIX_EPOCH.checked_sub(Duration::from_secs(self.secs.unsigned_abs()))
        };
        base.and_then(|t| t.checked_add(nanos))
            .unwrap_or(UNIX_EPOCH)
    }
}

type Clock = dyn Fn() -> Timestamp + Send + Sync;
type Chance = dyn Fn(&mut [u8]) + Send + Sync;
type Wait = dyn Fn(Duration) + Send + Sync;

/// The source of time and of random bytes that a store is opened with.
///
/// Tests pass their own functions so that one seed gives one run; [`Env::real`] asks the system.
#[derive(Clone)]
pub struct Env {
    now: Arc<Clock>,
    random: Arc<Chance>,
    wait: Arc<Wait>,
}

impl Env {
    /// An environment made of the given clock and source of random bytes, in which waiting takes no time.
    pub fn new(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        random: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Self {
        Self {
            now: Arc::new(now),
            random: Arc::new(random),
            wait: Arc::new(|_| ()),
        }
    }

    /// The same environment with another way of waiting.
    #[must_use]
    pub fn with_wait(self, wait: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self {
            wait: Arc::new(wait),
            ..self
        }
    }

    /// The system's clock and random bytes (`getrandom(2)`).
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks for the time"
    )]
    pub fn real() -> Self {
        Self::new(
            || Timestamp::from_system(SystemTime::now()),
            |buf| {
                // Two independently keyed SipHash states per 8 bytes: the standard library draws their
                // keys from getrandom(2). Used for store ids only, never for secrets.
                use std::hash::{BuildHasher as _, Hasher as _, RandomState};
                for part in buf.chunks_mut(8) {
                    let word = RandomState::new().build_hasher().finish().to_le_bytes();
                    for (to, from) in part.iter_mut().zip(word) {
                        *to = from;
                    }
                }
            },
        )
        .with_wait(std::thread::sleep)
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// Waits for about so long.
    pub fn wait(&self, time: Duration) {
        (self.wait)(time);
    }

    /// Fills `buf` with random bytes.
    pub fn random(&self, buf: &mut [u8]) {
        (self.random)(buf);
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}
