//! Threads for requests that wait for the disk, so that the few threads that read requests from the
//! kernel stay free, and so that many waiting fsyncs share one commit.

use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::base::{Error, Result};

/// Requests that may wait for a thread before the readers serve them themselves.
const QUEUE_LEN: usize = 1024;
/// Threads: as many fsyncs as share one commit.
const THREADS: usize = 16;

/// A request's work, its reply included.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads and a bounded queue.
#[derive(Debug)]
pub(super) struct Offload {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Offload {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no thread.
    pub(super) fn new() -> Result<Self> {
        let (queue, jobs) = bounded::<Job>(QUEUE_LEN);
        let mut threads = Vec::with_capacity(THREADS);
        for number in 0..THREADS {
            let jobs = jobs.clone();
            let thread = Builder::new()
                .name(format!("mmhfs-wait-{number}"))
                .spawn(move || jobs.iter().for_each(|job| job()))
                .map_err(|e| Error::io("start of a thread", e))?;
            threads.push(thread);
        }
        Ok(Self {
            queue: Some(queue),
            threads,
        })
    }

    /// Runs the job on another thread; if the queue is full, gives it back.
    ///
    /// # Errors
    /// The job itself, for the caller to run or to refuse.
    pub(super) fn run(&self, job: Job) -> std::result::Result<(), Job> {
        match &self.queue {
            Some(queue) => match queue.try_send(job) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Err(job),
            },
            None => Err(job),
        }
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        // Closing the queue ends the threads once it is empty.
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread for waiting requests panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_job_that_was_accepted_has_run_when_the_pool_is_gone() {
        let ran = Arc::new(AtomicU32::new(0));
        let pool = Offload::new().unwrap();
        for _ in 0..100 {
            let ran = Arc::clone(&ran);
            let job: Job = Box::new(move || {
                ran.fetch_add(1, Ordering::SeqCst);
            });
            assert!(pool.run(job).is_ok());
        }
        drop(pool);
        assert_eq!(ran.load(Ordering::SeqCst), 100);
    }
}
