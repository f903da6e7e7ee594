//! Memory of large arrays and of packed weights that are gone, for those to come.
//!
//! A step of training drops its tape, its gradients and its packed weights, and makes others. From the system they would
//! get pages that have to be cleared first: at 1,024 units and a batch of 128, with another library at work between the
//! steps, a sixteenth of the time, measured; and to pack the weights of 256 units took 0.78 ms instead of 0.56. What is
//! kept suffices for such a step.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, TryLockError};

use super::Element;
use super::memory::Aligned;
use crate::error::Result;

/// From so many bytes on. Less is the business of the allocator.
pub(crate) const LARGE: usize = 256 << 10;
/// So many bytes are kept at most, of each dtype.
const KEPT: usize = 256 << 20;

/// What is free, in the order in which it came.
#[derive(Debug)]
pub struct Pool<T>(Mutex<Vec<Aligned<T>>>);

impl<T> Pool<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

/// Nobody is waited for: who finds the pool in use goes on without it.
///
/// What has lain there longest makes room: else sizes that nobody asks for any more would keep out those in use.
pub(crate) fn give_back<T: Element>(memory: Aligned<T>) {
    if memory.bytes() < LARGE {
        return;
    }
    let Ok(mut free) = T::pool().0.try_lock() else { return };
    free.push(memory);
    let mut bytes: usize = free.iter().map(Aligned::bytes).sum();
    let too_many = free.iter().take_while(|memory| {
        let too_many = bytes > KEPT;
        bytes -= memory.bytes();
        too_many
    });
    let count = too_many.count();
    free.drain(..count);
}

/// Room for so many numbers, which may hold anything; whether it held something before.
///
/// Memory of which it would waste as much again is left for others; else the last that was used is taken.
pub(crate) fn room<T: Element>(len: usize) -> Result<(Aligned<T>, bool)> {
    if let Some(mut memory) = take::<T>(len) {
        memory.resize(len)?;
        return Ok((memory, true));
    }
    Ok((Aligned::try_zeroed(len)?, false))
}

fn take<T: Element>(len: usize) -> Option<Aligned<T>> {
    let bytes = Aligned::<T>::bytes_for(len);
    if bytes < LARGE {
        return None;
    }
    let mut free = match T::pool().0.try_lock() {
        Ok(free) => free,
        Err(TryLockError::Poisoned(free)) => free.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    let fits = |memory: &Aligned<T>| (bytes..bytes.saturating_mul(2)).contains(&memory.bytes());
    let place = free.iter().rposition(fits)?;
    Some(free.remove(place))
}

/// Memory that is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Recycled<T> {
    memory: Aligned<T>,
    /// Known where `T` is: to drop, one has to do without.
    give_back: fn(Aligned<T>),
}

impl<T: Element> Recycled<T> {
    /// Room for so many numbers, which may hold anything.
    pub(crate) fn room(len: usize) -> Result<Self> {
        Ok(Self { memory: room(len)?.0, give_back })
    }
}

impl<T> Default for Recycled<T> {
    fn default() -> Self {
        Self { memory: Aligned::default(), give_back: drop }
    }
}

impl<T> Deref for Recycled<T> {
    type Target = Aligned<T>;
    #[inline(always)]
    fn deref(&self) -> &Aligned<T> {
        &self.memory
    }
}

impl<T> DerefMut for Recycled<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Aligned<T> {
        &mut self.memory
    }
}

impl<T> Drop for Recycled<T> {
    fn drop(&mut self) {
        (self.give_back)(std::mem::take(&mut self.memory));
    }
}
