//! Being told of a fork: a child has none of its parent's threads but the one that forked.

use std::sync::atomic::{AtomicUsize, Ordering};

static FORKS: AtomicUsize = AtomicUsize::new(0);

/// A number that is another one in a child than in its parent.
#[inline]
pub(super) fn count() -> usize {
    FORKS.load(Ordering::Relaxed)
}

/// Says that this is a child.
pub(super) fn note() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Has `forget` called in every child from now on, before anything else runs there; says whether that will be so.
///
/// It may do no more than store to an atomic.
#[cfg(unix)]
pub(super) fn in_children(forget: extern "C" fn()) -> bool {
    type Handler = Option<extern "C" fn()>;
    unsafe extern "C" {
        fn pthread_atfork(prepare: Handler, parent: Handler, child: Handler) -> i32;
    }
    // SAFETY: the function lives as long as the process, and may be called between a fork and what follows.
    unsafe { pthread_atfork(None, None, Some(forget)) == 0 }
}

#[cfg(not(unix))]
pub(super) fn in_children(_: extern "C" fn()) -> bool {
    true
}
