//! A panic in one request is that request's EIO, not the end of the mount.

use std::any::Any;
use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::{Error, Ino, Result};

/// Runs one operation; a panic in it becomes [`Error::Internal`] and is logged.
///
/// Unwind safety is asserted because what an operation shares with others is the engine, which guards
/// its own state.
///
/// # Errors
/// What `work` says, or [`Error::Internal`] after a panic.
pub(super) fn contain<T>(
    op: &'static str,
    ino: Ino,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => {
            log::error!("{op} of inode {ino} panicked: {}", text(&*payload));
            Err(Error::Internal("an operation panicked"))
        }
    }
}

/// Makes every panic of the process write its place and a backtrace to the log.
///
/// For programs, not for the library: the hook is the process's. Where a panic is caught the stack is
/// gone already, so only a hook can tell where it came from.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        log::error!("{info}\n{}", Backtrace::force_capture());
    }));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_that_operation() {
        let outcome: Result<()> = contain("read", Ino::ROOT, || panic!("made for the test"));
        assert!(matches!(outcome, Err(Error::Internal(_))));
    }
}
