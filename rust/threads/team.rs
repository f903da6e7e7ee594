//! The threads of one process.

use super::member::Member;
use super::region::Region;
use super::sync::{Mutex, MutexGuard, TryLockError};
use super::{fork, memory, openmp};
// Not a model's: these are statics, and outlive it.
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(super) struct Team {
    /// Locked while a call has them.
    pub(super) members: Mutex<Vec<Member>>,
    /// When a call last could have had use for them, in nanoseconds since `epoch`.
    wanted: AtomicU64,
    epoch: Instant,
}

/// This process' team. After a fork the threads of the known one are not here, and its lock may be held for ever: it is
/// left alone.
static TEAM: AtomicPtr<Team> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn forget_team() {
    TEAM.store(std::ptr::null_mut(), Ordering::Relaxed);
    fork::note();
    openmp::forget();
}

/// This process' team; `None` where a child could not be told that it has none.
pub(super) fn team() -> Option<&'static Team> {
    // To ask the system for the process each time would take as long as to meet.
    static TOLD: AtomicBool = AtomicBool::new(false);
    let known = TEAM.load(Ordering::Acquire);
    // SAFETY: null, or a team that is never freed.
    if let Some(team) = unsafe { known.as_ref() } {
        return Some(team);
    }
    // To be told twice does no harm; to wait for another thread here might be for ever, after a fork.
    if !TOLD.load(Ordering::Relaxed) {
        if !fork::in_children(forget_team) {
            return None;
        }
        TOLD.store(true, Ordering::Relaxed);
    }
    let fresh = Box::into_raw(Box::new(Team::new(Vec::new())));
    let known = match TEAM.compare_exchange(known, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(known) => {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            known
        }
    };
    // SAFETY: as above.
    unsafe { known.as_ref() }
}

impl Team {
    pub(super) fn new(members: Vec<Member>) -> Self {
        Self { members: Mutex::new(members), wanted: AtomicU64::new(0), epoch: Instant::now() }
    }

    /// Runs a region on the caller's thread and on so many `others`; or not at all, while another call has them or where
    /// there are not enough threads: it says which.
    pub(super) fn run(&self, region: &Region<'_>, others: usize) -> bool {
        let Some(members) = self.members(others) else { return false };
        let Some(asked) = members.get(..others) else { return false };
        region.run(asked);
        true
    }

    /// Its members, at least `wanted` if they can be had; `None` while another call has them.
    fn members(&self, wanted: usize) -> Option<MutexGuard<'_, Vec<Member>>> {
        let mut members = match self.members.try_lock() {
            Ok(members) => members,
            Err(TryLockError::Poisoned(members)) => members.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        while members.len() < wanted && memory::suffices_for_a_thread() {
            let Ok(member) = Member::spawn(members.len() + 1) else { break };
            members.push(member);
        }
        Some(members)
    }

    /// How long ago a call last could have had use for the members; it is now that one could.
    pub(super) fn since_wanted(&self) -> Duration {
        let now = self.epoch.elapsed().as_nanos() as u64;
        Duration::from_nanos(now.saturating_sub(self.wanted.swap(now, Ordering::Relaxed)))
    }
}
