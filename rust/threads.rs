//! The team: threads that share out one call.
//!
//! A call is one region: the caller is worker 0, the others are threads of the team, made on first use and kept. Within
//! it workers meet at barriers. A worker that waits spins, then yields, then (between regions) parks.
//!
//! * Threads that another library lends come first: see `openmp.rs`.
//! * A team that is busy with another call is not waited for: the caller then works alone.
//! * A team belongs to a process: a forked child makes its own.
//! * A fork in the middle of a call, which a signal's handler on the caller's thread can make, ends the call in the child.
//! * A panic in one worker releases the others from their barrier and goes on in the caller; the team stays usable.
//!
//! Nothing here decides what is shared out, and no answer depends on it.

mod affinity;
mod barrier;
mod fork;
mod member;
mod memory;
pub mod openmp;
mod region;
mod sync;
mod team;
mod wait;

use barrier::Barrier;
#[cfg(feature = "python")]
pub(crate) use region::Orphan;
use region::Region;
use std::thread::{self, ThreadId};
use std::time::Duration;
use team::team;
use wait::PATIENCE;

/// One of those that share a call.
pub(crate) struct Worker<'a> {
    index: usize,
    count: usize,
    barrier: Option<&'a Barrier>,
}

impl Worker<'_> {
    /// From 0, which is the caller.
    #[inline(always)]
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// How many there are.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// This worker's part of `items`: as many as the others have, or one more.
    #[inline(always)]
    pub(crate) fn part(&self, items: usize) -> std::ops::Range<usize> {
        self.index * items / self.count..(self.index + 1) * items / self.count
    }

    /// Waits until all have come here; what they wrote before is seen after.
    #[inline(always)]
    pub(crate) fn wait(&self) {
        if let Some(barrier) = self.barrier {
            barrier.wait(self.count);
        }
    }
}

/// Something that belongs to the caller's thread.
pub(crate) struct OnCaller<T> {
    value: T,
    thread: ThreadId,
}

// SAFETY: `get` hands it out only on the thread that made it.
unsafe impl<T> Sync for OnCaller<T> {}

impl<T> OnCaller<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value, thread: thread::current().id() }
    }

    /// On the thread that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        (self.thread == thread::current().id()).then_some(&self.value)
    }
}

/// Waking a parked thread pays for itself in calls of this length.
const WORTH_WAKING: Duration = Duration::from_micros(150);
/// Sharing pays in calls of this length, if nobody has to be woken.
const WORTH_SHARING: Duration = Duration::from_micros(3);

/// How many of `threads` a call should ask for that takes one thread `estimate`.
///
/// In between it is worth it when the members are awake; they are woken when such calls follow each other.
pub(crate) fn worthwhile(threads: usize, estimate: Duration) -> usize {
    if threads <= 1 || estimate < WORTH_SHARING {
        return 1;
    }
    if estimate >= WORTH_WAKING {
        return threads;
    }
    let Some(team) = team() else { return 1 };
    let follows = team.since_wanted() < PATIENCE + 2 * estimate;
    if follows { threads } else { 1 }
}

/// Runs `job` once for each worker, with one of `hands` each: all of them, or the first alone.
///
/// # Panics
/// With the panic of a worker, when all have finished; with `Orphan` in a child of a fork that the caller made meanwhile.
pub(crate) fn share<H: Send>(hands: &mut [H], job: impl Fn(&Worker<'_>, &mut H) + Sync) {
    share_pair([hands, &mut []], |_, worker, hand| job(worker, hand));
}

/// The same for two groups side by side, which do not meet each other; `job` is told the group. The second may be empty.
///
/// # Panics
/// As [`share`].
pub(crate) fn share_pair<H: Send>(mut hands: [&mut [H]; 2], job: impl Fn(usize, &Worker<'_>, &mut H) + Sync) {
    let alone = |hands: [&mut [H]; 2]| {
        for (group, hands) in hands.into_iter().enumerate() {
            if let Some(hand) = hands.first_mut() {
                job(group, &Worker { index: 0, count: 1, barrier: None }, hand);
            }
        }
    };
    let counts = [hands[0].len(), hands[1].len()];
    let others = counts[0] + counts[1] - 1;
    if others == 0 {
        return alone(hands);
    }
    let starts = hands.each_mut().map(|hands| OneEach(hands.as_mut_ptr()));
    let job = |group: usize, worker: &Worker<'_>| {
        // SAFETY: a group has as many hands as workers, and each worker has an index of its own in it.
        let hand = unsafe { &mut *starts[group].at(worker.index) };
        job(group, worker, hand);
    };
    let region = Region::new(&job, counts);
    let shared = match openmp::lent(others + 1) {
        Some(lent) => lent.run(others + 1, &|index| region.work(index)),
        None => team().is_some_and(|team| team.run(&region, others)),
    };
    if !shared {
        return alone(hands);
    }
    region.end();
}

/// The start of an array of which each worker uses its own element.
struct OneEach<H>(*mut H);

// SAFETY: an element is used by one thread at a time.
unsafe impl<H: Send> Sync for OneEach<H> {}

impl<H> OneEach<H> {
    /// Where element `index` is.
    fn at(&self, index: usize) -> *mut H {
        self.0.wrapping_add(index)
    }
}

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
