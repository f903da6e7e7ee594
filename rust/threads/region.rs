//! A call that is shared out.

use super::Worker;
use super::barrier::{Barrier, Bystander};
use super::member::Member;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Line, Mutex, until};
use super::{affinity, wait};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::time::Duration;

/// A panic that says that this process was forked in the middle of the call, by the caller's own thread: the workers that
/// it waits for are in the parent.
pub(crate) struct Orphan;

/// It lives on its caller's stack until `running` is 0.
pub(super) struct Region<'a> {
    job: &'a (dyn Fn(usize, &Worker<'_>) + Sync),
    /// How many workers each group has. The caller is the first of the first.
    counts: [usize; 2],
    barriers: [Barrier; 2],
    /// Workers besides the caller that have not finished.
    running: Line<AtomicUsize>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Region<'a> {
    pub(super) fn new(job: &'a (dyn Fn(usize, &Worker<'_>) + Sync), counts: [usize; 2]) -> Self {
        Self {
            job,
            counts,
            barriers: [Barrier::new(), Barrier::new()],
            running: Line(AtomicUsize::new(counts[0] + counts[1] - 1)),
            panic: Mutex::new(None),
        }
    }

    /// Runs it on the calling thread and these members, one for each other worker; comes back when all have finished.
    ///
    /// # Panics
    /// With [`Orphan`] in a child of a fork that the caller made meanwhile.
    pub(super) fn run(&self, members: &[Member]) {
        // Where the caller is, if there is a CPU for each worker.
        let place = affinity::here().filter(|_| members.len() < wait::cores());
        for member in members {
            member.give(self, place);
        }
        self.work(0);
        // The region must not go before the others have left it: nothing between here and there can return or panic.
        let orphaned = || self.barriers[0].is_orphaned();
        until(|| self.running.0.load(Ordering::Acquire) == 0 || orphaned(), Duration::MAX, members.len() + 1);
        if orphaned() {
            resume_unwind(Box::new(Orphan));
        }
    }

    /// Does one worker's part.
    pub(super) fn work(&self, index: usize) {
        let (group, index) = if index < self.counts[0] { (0, index) } else { (1, index - self.counts[0]) };
        let barrier = Some(&self.barriers[group]);
        let worker = Worker { index, count: self.counts[group], barrier };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.job)(group, &worker))) {
            if !panic.is::<Bystander>() {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            self.barriers[group].give_up();
        }
    }

    /// Says that a member has done its part, which may be the last that is seen of the region.
    pub(super) fn leave(&self) {
        self.running.0.fetch_sub(1, Ordering::Release);
    }

    /// Goes on with the panic of a worker, if there was one.
    pub(super) fn end(self) {
        if let Some(panic) = self.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}
