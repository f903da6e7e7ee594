//! What loom puts in the place of the standard library's, and what a model has to say besides.
//!
//! * An atomic that ends tells loom so: an access that did not happen before its end is reported.
//! * `park` has a token, as the standard library's, and may wake up for nothing once in the life of a thread. loom's own
//!   loses a token that comes while a thread yields, and does not try `unpark` before and after what others do.
//! * Nothing knows the time. A wait with patience looks once; whether the other has come by then is up to the schedule.
//! * A wait without end looks once, too. Of orders that differ in how often it looks in vain there is no end, and all say
//!   the same. If it did look in vain, the others go on until nobody can. Then this order is cut short: it is played to its
//!   end in one way, without loom, to see that it has one. That the wait comes to look later is another order.
//! * Of the loads of an atomic loom knows the last only, and does not try a store before those of other threads that it
//!   hides. So each thread's loads change something of their own besides, and a store by another thread does so, too.
//!   Both are relaxed: they order nothing for loom's search for races.

pub use loom::sync::{Mutex, MutexGuard};
pub use std::sync::TryLockError;

use std::cell::Cell;
use std::time::Duration;

/// How many threads a model may have.
const THREADS: usize = 3;

loom::thread_local! {
    static OWN: usize = RUN.with(|run| run.threads.replace(run.threads.get() + 1));
}

/// The number of this thread.
fn own() -> usize {
    OWN.with(|own| *own)
}

/// What is known of the order that runs; loom's threads are one thread for the system.
struct Run {
    /// Is it cut short?
    cut: Cell<bool>,
    /// What has been done with atomics.
    steps: Cell<usize>,
    /// Threads that have a number.
    threads: Cell<usize>,
}

std::thread_local! {
    static RUN: Run = const { Run { cut: Cell::new(false), steps: Cell::new(0), threads: Cell::new(0) } };
}

/// Begins another order.
pub fn begin() {
    RUN.with(|run| {
        run.cut.set(false);
        run.threads.set(0);
    });
}

/// Is this order cut short? Then loom does not see who waits for whom.
pub fn cut() -> bool {
    RUN.with(|run| run.cut.get())
}

/// As `wait::until`.
pub fn until(done: impl Fn() -> bool, most: Duration, _workers: usize) -> bool {
    if done() {
        return true;
    }
    if most < Duration::MAX {
        return false;
    }
    let steps = || RUN.with(|run| run.steps.get());
    let (mut seen, mut idle) = (steps(), 0);
    while !cut() {
        loom::thread::yield_now();
        idle = if steps() == seen { idle + 1 } else { 0 };
        seen = steps();
        // Who does not wait here goes first. After as many turns there is nobody.
        if idle == 2 * loom::MAX_THREADS {
            RUN.with(|run| run.cut.set(true));
            loom::skip_branch();
        }
    }
    while !done() {
        loom::thread::yield_now();
    }
    true
}

pub mod atomic {
    use super::{RUN, THREADS, cut, own};
    use loom::sync::atomic as checked;
    use std::cell::Cell;
    use std::marker::PhantomData;
    pub use std::sync::atomic::Ordering;

    pub struct AtomicUsize {
        checked: checked::AtomicUsize,
        /// The last that was stored.
        last: Cell<usize>,
        /// One for each thread: its loads change it, and the stores of the others.
        looks: [checked::AtomicUsize; THREADS],
        /// Who has loaded it.
        seen: [Cell<bool>; THREADS],
    }

    // SAFETY: loom's threads are one thread for the system.
    unsafe impl Send for AtomicUsize {}
    // SAFETY: as above.
    unsafe impl Sync for AtomicUsize {}

    impl AtomicUsize {
        pub fn new(value: usize) -> Self {
            Self {
                checked: checked::AtomicUsize::new(value),
                last: Cell::new(value),
                looks: [(); THREADS].map(|()| checked::AtomicUsize::new(0)),
                seen: [const { Cell::new(false) }; THREADS],
            }
        }

        pub fn load(&self, order: Ordering) -> usize {
            step();
            if !cut() {
                let own = own();
                self.looks[own].fetch_add(0, Ordering::Relaxed);
                self.seen[own].set(true);
            }
            if cut() { self.last.get() } else { self.checked.load(order) }
        }

        pub fn store(&self, value: usize, order: Ordering) {
            self.meet_looks();
            if !cut() {
                self.checked.store(value, order);
            }
            self.last.set(value);
        }

        pub fn fetch_add(&self, value: usize, order: Ordering) -> usize {
            self.change(|last| last.wrapping_add(value), || self.checked.fetch_add(value, order))
        }

        pub fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
            self.change(|last| last.wrapping_sub(value), || self.checked.fetch_sub(value, order))
        }

        pub fn swap(&self, value: usize, order: Ordering) -> usize {
            self.change(|_| value, || self.checked.swap(value, order))
        }

        pub fn compare_exchange(&self, from: usize, to: usize, done: Ordering, not: Ordering) -> Result<usize, usize> {
            let known = self.change(
                |last| if last == from { to } else { last },
                || self.checked.compare_exchange(from, to, done, not).unwrap_or_else(|known| known),
            );
            if known == from { Ok(known) } else { Err(known) }
        }

        fn change(&self, change: impl Fn(usize) -> usize, checked: impl Fn() -> usize) -> usize {
            self.meet_looks();
            let known = if cut() { self.last.get() } else { checked() };
            self.last.set(change(known));
            known
        }

        fn meet_looks(&self) {
            step();
            for other in (0..THREADS).filter(|&other| other != own()) {
                if self.seen[other].get() && !cut() {
                    self.looks[other].fetch_add(0, Ordering::Relaxed);
                }
            }
        }
    }

    impl Drop for AtomicUsize {
        fn drop(&mut self) {
            if !cut() && !std::thread::panicking() {
                self.checked.with_mut(|_| ());
            }
        }
    }

    fn step() {
        RUN.with(|run| run.steps.set(run.steps.get() + 1));
    }

    pub struct AtomicBool(AtomicUsize);

    impl AtomicBool {
        pub fn new(value: bool) -> Self {
            Self(AtomicUsize::new(value.into()))
        }

        pub fn load(&self, order: Ordering) -> bool {
            self.0.load(order) != 0
        }

        pub fn store(&self, value: bool, order: Ordering) {
            self.0.store(value.into(), order);
        }
    }

    pub struct AtomicPtr<T>(AtomicUsize, PhantomData<*mut T>);

    // SAFETY: as the standard library's.
    unsafe impl<T> Send for AtomicPtr<T> {}
    // SAFETY: as above.
    unsafe impl<T> Sync for AtomicPtr<T> {}

    impl<T> AtomicPtr<T> {
        pub fn new(value: *mut T) -> Self {
            Self(AtomicUsize::new(value.expose_provenance()), PhantomData)
        }

        pub fn load(&self, order: Ordering) -> *mut T {
            std::ptr::with_exposed_provenance_mut(self.0.load(order))
        }

        pub fn store(&self, value: *mut T, order: Ordering) {
            self.0.store(value.expose_provenance(), order);
        }

        pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
            std::ptr::with_exposed_provenance_mut(self.0.swap(value.expose_provenance(), order))
        }

        pub fn compare_exchange(
            &self,
            from: *mut T,
            to: *mut T,
            done: Ordering,
            not: Ordering,
        ) -> Result<*mut T, *mut T> {
            self.0
                .compare_exchange(from.expose_provenance(), to.expose_provenance(), done, not)
                .map(std::ptr::with_exposed_provenance_mut)
                .map_err(std::ptr::with_exposed_provenance_mut)
        }
    }
}

pub mod thread {
    use loom::sync::Notify;
    use std::cell::RefCell;
    use std::sync::Arc;

    loom::thread_local! {
        static TOKEN: RefCell<Option<Arc<Token>>> = RefCell::new(None);
    }

    pub struct Token(Notify);

    impl Token {
        pub fn unpark(&self) {
            self.0.notify();
        }
    }

    pub fn park() {
        let token = TOKEN.with(|token| token.borrow().clone());
        token.expect("a thread that Builder has made").0.wait();
    }

    pub struct JoinHandle<T> {
        handle: loom::thread::JoinHandle<T>,
        token: Arc<Token>,
    }

    impl<T> JoinHandle<T> {
        pub fn thread(&self) -> &Token {
            &self.token
        }

        pub fn join(self) -> std::thread::Result<T> {
            self.handle.join()
        }
    }

    pub struct Builder(loom::thread::Builder);

    impl Builder {
        pub fn new() -> Self {
            Self(loom::thread::Builder::new())
        }

        pub fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub fn spawn<T: Send + 'static>(
            self,
            life: impl FnOnce() -> T + Send + 'static,
        ) -> std::io::Result<JoinHandle<T>> {
            let token = Arc::new(Token(Notify::new()));
            let own = Arc::clone(&token);
            let handle = self.0.spawn(move || {
                TOKEN.with(|token| token.replace(Some(own)));
                life()
            })?;
            Ok(JoinHandle { handle, token })
        }
    }
}
