//! Which CPUs a thread runs on.
//!
//! A parked thread may wake up on the CPU of the thread that wakes it, though others have nothing to do. There it starts
//! when the caller has done its own part and waits: the two then work one after the other, or wait for each other at each
//! barrier (28 times as slow, for as long as it was looked at), and for the system both have run too lately to be moved.
//! So a member is woken off its caller's CPU.

pub(super) use system::{Set, here, keep_off, set};

#[cfg(all(target_os = "linux", not(all(test, loom))))]
mod system {
    use std::mem::size_of;
    use std::os::unix::thread::{JoinHandleExt, RawPthread};
    use std::thread::JoinHandle;

    /// CPUs up to 1,024, as the system's own type has.
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(transparent)]
    pub(in super::super) struct Set([u64; 16]);

    unsafe extern "C" {
        fn sched_getcpu() -> i32;
        fn pthread_self() -> RawPthread;
        fn pthread_getaffinity_np(thread: RawPthread, size: usize, set: *mut Set) -> i32;
        fn pthread_setaffinity_np(thread: RawPthread, size: usize, set: *const Set) -> i32;
    }

    /// The CPU under this thread.
    pub(in super::super) fn here() -> Option<usize> {
        // SAFETY: it asks for nothing, and says -1 where it does not know.
        usize::try_from(unsafe { sched_getcpu() }).ok()
    }

    /// Lets a thread run on any CPU that it runs on now but this one: where it might run before, if that has changed.
    pub(in super::super) fn keep_off(thread: &JoinHandle<()>, cpu: usize) -> Option<Set> {
        let mut home = Set([0; 16]);
        // SAFETY: the handle's thread has not been joined, and the set has so many bytes.
        let known = unsafe { pthread_getaffinity_np(thread.as_pthread_t(), size_of::<Set>(), &raw mut home) };
        let mut off = home;
        *off.0.get_mut(cpu / 64)? &= !(1 << (cpu % 64));
        if known != 0 || off == home {
            return None;
        }
        // SAFETY: as above. A set without a CPU is refused, and nothing changes.
        let set = unsafe { pthread_setaffinity_np(thread.as_pthread_t(), size_of::<Set>(), &raw const off) };
        (set == 0).then_some(home)
    }

    /// Lets this thread run on these CPUs.
    pub(in super::super) fn set(set: &Set) {
        // SAFETY: the set has so many bytes. Where it is refused, the thread stays where it may run.
        unsafe { pthread_setaffinity_np(pthread_self(), size_of::<Set>(), set) };
    }
}

#[cfg(any(not(target_os = "linux"), all(test, loom)))]
mod system {
    use super::super::sync::thread::JoinHandle;

    pub(in super::super) enum Set {}

    pub(in super::super) fn here() -> Option<usize> {
        None
    }

    pub(in super::super) fn keep_off(_: &JoinHandle<()>, _: usize) -> Option<Set> {
        None
    }

    pub(in super::super) fn set(_: &Set) {}
}
