//! A thread of the team, and how it is given work.

use super::affinity;
use super::region::Region;
use super::sync::atomic::{AtomicPtr, Ordering};
use super::sync::thread::{self, JoinHandle};
use super::sync::{Line, Mutex, until};
use super::wait::PATIENCE;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::{Arc, PoisonError};

/// In the place of a region: the member sleeps, or is about to.
const ASLEEP: *mut Region<'static> = without_provenance_mut(1);

/// A thread of the team, as its callers see it.
pub(super) struct Member {
    desk: Arc<Desk>,
    handle: JoinHandle<()>,
}

/// Where a member finds its work.
pub(super) struct Desk {
    /// What to work on next; null while it looks out for that, or `ASLEEP`.
    next: Line<AtomicPtr<Region<'static>>>,
    /// Where it may run, while it is kept off a caller's CPU.
    home: Mutex<Option<affinity::Set>>,
}

impl Member {
    /// A thread that works for as long as the process lives.
    pub(super) fn spawn(index: usize) -> std::io::Result<Self> {
        Self::with(index, move |desk| {
            loop {
                desk.serve(index);
            }
        })
    }

    /// A thread that does this at its desk.
    pub(super) fn with(index: usize, life: impl FnOnce(&Desk) + Send + 'static) -> std::io::Result<Self> {
        let desk = Arc::new(Desk { next: Line(AtomicPtr::new(null_mut())), home: Mutex::new(None) });
        let own = Arc::clone(&desk);
        let handle = thread::Builder::new().name(format!("lstm_rs-{index}")).spawn(move || life(&own))?;
        Ok(Self { desk, handle })
    }

    /// Gives it a region to work on, and the CPU that it had better not wake up on.
    pub(super) fn give(&self, region: &Region<'_>, place: Option<usize>) {
        let region = std::ptr::from_ref(region).cast::<Region<'static>>().cast_mut();
        // One of the two comes second to `next`: this, which then wakes the member, or the member, which then stays awake.
        if self.desk.next.0.swap(region, Ordering::Release) == ASLEEP {
            if let Some(cpu) = place {
                let mut home = self.desk.home.lock().unwrap_or_else(PoisonError::into_inner);
                let kept_off = affinity::keep_off(&self.handle, cpu);
                // One that has not been home since the last time still knows where that is.
                *home = home.take().or(kept_off);
            }
            self.handle.thread().unpark();
        }
    }
}

#[cfg(all(test, loom))]
impl Member {
    /// Waits for its thread to end.
    pub(super) fn dismiss(self) {
        self.handle.join().unwrap();
    }
}

impl Desk {
    /// Waits for a region and works on it, as worker `index`.
    pub(super) fn serve(&self, index: usize) {
        let next = || self.next.0.load(Ordering::Relaxed);
        if !until(|| !next().is_null(), 2 * PATIENCE, index + 1) {
            let asleep = self.next.0.compare_exchange(null_mut(), ASLEEP, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            while asleep && next() == ASLEEP {
                thread::park();
            }
        }
        let region = self.next.0.swap(null_mut(), Ordering::Acquire);
        // SAFETY: a caller gave it and keeps it alive until `running` is 0, to which this worker's 1 still counts.
        let region = unsafe { &*region };
        if let Some(home) = self.home.lock().unwrap_or_else(PoisonError::into_inner).take() {
            affinity::set(&home);
        }
        region.work(index);
        region.leave();
    }
}
