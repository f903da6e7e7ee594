//! Where the workers of a region meet.

use super::fork;
use super::sync::Line;
use super::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::sync::until;
use std::panic::resume_unwind;
use std::time::Duration;

/// A panic that only says that another worker has panicked.
pub(super) struct Bystander;

pub(super) struct Barrier {
    arrived: Line<AtomicUsize>,
    generation: Line<AtomicUsize>,
    broken: AtomicBool,
    /// How often this process had been forked when the region began.
    forks: usize,
}

impl Barrier {
    pub(super) fn new() -> Self {
        Self {
            arrived: Line(AtomicUsize::new(0)),
            generation: Line(AtomicUsize::new(0)),
            broken: AtomicBool::new(false),
            forks: fork::count(),
        }
    }

    /// Waits until `count` have come here, or one of them never will.
    #[inline(always)]
    pub(super) fn wait(&self, count: usize) {
        // Nobody moves on before this worker has arrived, so this is the generation of this meeting.
        let generation = self.generation.0.load(Ordering::Relaxed);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.generation.0.store(generation.wrapping_add(1), Ordering::Release);
        } else {
            let moved_on = || self.generation.0.load(Ordering::Acquire) != generation;
            let given_up = || self.broken.load(Ordering::Relaxed) || self.is_orphaned();
            until(|| moved_on() || given_up(), Duration::MAX, count);
            if !moved_on() {
                resume_unwind(Box::new(Bystander));
            }
        }
    }

    /// Is this a child, forked in the middle of the region, in which nobody else comes?
    pub(super) fn is_orphaned(&self) -> bool {
        fork::count() != self.forks
    }

    /// Lets all go that wait here or will: a worker has panicked.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}
