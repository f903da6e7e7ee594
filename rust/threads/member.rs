//! A thread of the team, and how it is given work.

use super::affinity;
use super::region::Region;
use super::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use super::sync::thread::{self, JoinHandle};
use super::sync::{Line, Mutex, until};
use super::wait::PATIENCE;
use std::sync::{Arc, PoisonError};

/// A thread of the team, as its callers see it.
pub(super) struct Member {
    desk: Arc<Desk>,
    handle: JoinHandle<()>,
}

/// Where a member finds its work.
pub(super) struct Desk {
    /// What to work on next; null when there is nothing.
    next: Line<AtomicPtr<Region<'static>>>,
    parked: AtomicBool,
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
        let next = Line(AtomicPtr::new(std::ptr::null_mut()));
        let desk = Arc::new(Desk { next, parked: AtomicBool::new(false), home: Mutex::new(None) });
        let own = Arc::clone(&desk);
        let handle = thread::Builder::new().name(format!("lstm_rs-{index}")).spawn(move || life(&own))?;
        Ok(Self { desk, handle })
    }

    /// Gives it a region to work on, and the CPU that it had better not wake up on.
    pub(super) fn give(&self, region: &Region<'_>, place: Option<usize>) {
        let region = std::ptr::from_ref(region).cast::<Region<'static>>().cast_mut();
        // In one order with `parked` for both sides: either this sees the flag, or the member sees the region.
        self.desk.next.0.store(region, Ordering::SeqCst);
        if self.desk.parked.load(Ordering::SeqCst) {
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

impl Desk {
    /// Waits for a region and works on it, as worker `index`.
    pub(super) fn serve(&self, index: usize) {
        let here = || !self.next.0.load(Ordering::SeqCst).is_null();
        while !until(here, 2 * PATIENCE, index + 1) {
            self.parked.store(true, Ordering::SeqCst);
            while !here() {
                thread::park();
            }
            self.parked.store(false, Ordering::SeqCst);
        }
        let region = self.next.0.swap(std::ptr::null_mut(), Ordering::Acquire);
        // SAFETY: a caller gave it and keeps it alive until `running` is 0, to which this worker's 1 still counts.
        let region = unsafe { &*region };
        if let Some(home) = self.home.lock().unwrap_or_else(PoisonError::into_inner).take() {
            affinity::set(&home);
        }
        region.work(index);
        region.leave();
    }
}
