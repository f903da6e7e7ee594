//! What the team is made of: the standard library's, or in a model what a model checker puts in its place.

#[cfg(all(test, loom))]
pub(super) use super::models::sync::{Mutex, MutexGuard, TryLockError, atomic, thread, until};
#[cfg(not(all(test, loom)))]
pub(super) use super::wait::until;
#[cfg(not(all(test, loom)))]
pub(super) use std::{
    sync::{Mutex, MutexGuard, TryLockError, atomic},
    thread,
};

/// Two cache lines, as some CPUs fetch them in pairs.
#[repr(align(128))]
pub(super) struct Line<T>(pub(super) T);
