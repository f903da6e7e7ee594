//! Threads that another library's OpenMP lends to the calls of one thread.
//!
//! OpenMP's threads spin for some milliseconds after each of their own regions. Where there are as many of them as CPUs, a
//! thread of the team that is woken then waits until the system takes a CPU away from one of them, 4 ms on Linux, and the
//! caller waits for it at the first barrier: a call between two of PyTorch's took that long instead of 0.3 ms. Inside a
//! program of such a library its own threads are the ones that are awake: they are given the region, as its own would be.
//!
//! `GOMP_parallel` is GNU's entry, which LLVM's and Intel's OpenMP have too.

use std::cell::Cell;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

type Body = extern "C" fn(*mut c_void);
type Parallel = unsafe extern "C" fn(body: Body, data: *mut c_void, threads: c_uint, flags: c_uint);
type Count = unsafe extern "C" fn() -> c_int;

/// The functions of an OpenMP that is loaded.
#[derive(Clone, Copy)]
pub(super) struct OpenMp {
    /// Runs a body on so many threads, the caller's among them; comes back when all have.
    pub(super) parallel: Parallel,
    /// How many threads run the body that calls it.
    pub(super) count: Count,
}

/// The one that is known.
static KNOWN: OnceLock<OpenMp> = OnceLock::new();
/// Is this a forked child? Its parent's OpenMP waits there for threads that are not.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many threads the owner runs its own regions with, while it lends them; else 0.
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// To be called in a forked child.
pub(super) fn forget() {
    IN_CHILD.store(true, Ordering::Relaxed);
}

/// Finds the OpenMP that a loaded library uses; says whether there is one.
pub fn find(library: &str) -> bool {
    // A child is told of its fork together with the team.
    if KNOWN.get().is_none()
        && super::team().is_some()
        && let Some(found) = system::open(library)
    {
        let _ = KNOWN.set(found);
    }
    KNOWN.get().is_some()
}

/// Has the calls of this thread run on the known OpenMP's threads, of which the owner has so many, or with 0 on the team's;
/// gives what held before.
pub fn swap(threads: usize) -> usize {
    LENT.replace(threads)
}

/// The threads that are lent to this thread, if they are enough for `workers`.
pub(super) fn lent(workers: usize) -> Option<Lent> {
    let threads = LENT.get();
    if threads < workers || IN_CHILD.load(Ordering::Relaxed) {
        return None;
    }
    KNOWN.get().map(|&openmp| Lent { openmp, threads })
}

/// Threads to run a region on.
pub(super) struct Lent {
    pub(super) openmp: OpenMp,
    pub(super) threads: usize,
}

/// A region as its threads see it.
struct Lease<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    workers: usize,
    caller: thread::ThreadId,
    count: Count,
    /// How many others have come.
    others: AtomicUsize,
    short: AtomicBool,
}

impl Lent {
    /// Runs `work`, which must not panic, once for each worker, the caller being number 0; or not at all, where there are
    /// not enough threads: it says which.
    pub(super) fn run(&self, workers: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
        let lease = Lease {
            work,
            workers,
            caller: thread::current().id(),
            count: self.openmp.count,
            others: AtomicUsize::new(0),
            short: AtomicBool::new(false),
        };
        // As many as the owner has: it would end those that are too many, and make them anew for its own next region.
        let threads = self.threads as c_uint;
        // SAFETY: the functions are those that their names say; `body` reads a lease, and none is left when this returns.
        unsafe { (self.openmp.parallel)(body, (&raw const lease).cast_mut().cast(), threads, 0) };
        !lease.short.load(Ordering::Relaxed)
    }
}

extern "C" fn body(data: *mut c_void) {
    // SAFETY: `run` gave it, and waits for all that read it.
    let lease = unsafe { &*data.cast::<Lease<'_>>() };
    // SAFETY: it asks for nothing. All that run this body get the same answer.
    let threads = unsafe { (lease.count)() };
    if usize::try_from(threads).is_ok_and(|threads| threads >= lease.workers) {
        let index = match thread::current().id() == lease.caller {
            true => 0,
            false => 1 + lease.others.fetch_add(1, Ordering::Relaxed),
        };
        if index < lease.workers {
            (lease.work)(index);
        }
    } else {
        lease.short.store(true, Ordering::Relaxed);
    }
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod system {
    use super::{CString, Count, OpenMp, Parallel, c_int, c_void};
    use std::ffi::c_char;
    use std::mem::transmute;

    const LAZY: c_int = 1;
    /// Only what is loaded already.
    const NO_LOAD: c_int = if cfg!(target_os = "macos") { 0x10 } else { 4 };

    unsafe extern "C" {
        fn dlopen(path: *const c_char, mode: c_int) -> *mut c_void;
        fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    pub(super) fn open(library: &str) -> Option<OpenMp> {
        let path = CString::new(library).ok()?;
        // SAFETY: strings end in 0; a null library is not asked. It is never closed, so what is found stays.
        let [parallel, count] = unsafe {
            let library = dlopen(path.as_ptr(), LAZY | NO_LOAD);
            if library.is_null() {
                return None;
            }
            [c"GOMP_parallel", c"omp_get_num_threads"].map(|name| dlsym(library, name.as_ptr()))
        };
        if parallel.is_null() || count.is_null() {
            return None;
        }
        // SAFETY: functions of these names have these types, in every OpenMP that has them.
        Some(unsafe {
            OpenMp {
                parallel: transmute::<*mut c_void, Parallel>(parallel),
                count: transmute::<*mut c_void, Count>(count),
            }
        })
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    pub(super) fn open(_: &str) -> Option<super::OpenMp> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static TEAM: Cell<c_int> = const { Cell::new(1) };
    }

    extern "C" fn count() -> c_int {
        TEAM.get()
    }

    /// As many threads as are asked for.
    unsafe extern "C" fn parallel(body: Body, data: *mut c_void, threads: c_uint, _: c_uint) {
        team_of(body, data, threads as usize);
    }

    /// One thread, as inside another region.
    unsafe extern "C" fn nested(body: Body, data: *mut c_void, _: c_uint, _: c_uint) {
        team_of(body, data, 1);
    }

    fn team_of(body: Body, data: *mut c_void, threads: usize) {
        let data = data as usize;
        let run = move || {
            TEAM.set(threads as c_int);
            body(data as *mut c_void);
            TEAM.set(1);
        };
        thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(run)));
            run();
        });
    }

    #[test]
    fn threads_that_are_lent_are_numbered_from_the_caller() {
        let caller = thread::current().id();
        for (threads, workers) in [(2, 2), (4, 4), (5, 3)] {
            let came: Vec<AtomicUsize> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
            let lent = Lent { openmp: OpenMp { parallel, count }, threads };
            let done = lent.run(workers, &|index| {
                came[index].fetch_add(1, Ordering::Relaxed);
                assert_eq!(index == 0, thread::current().id() == caller);
            });
            assert!(done && came.iter().all(|came| came.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn threads_that_are_too_few_do_nothing() {
        let lent = Lent { openmp: OpenMp { parallel: nested, count }, threads: 2 };
        assert!(!lent.run(2, &|_| unreachable!("there are not enough")));
    }

    #[test]
    fn threads_are_lent_to_one_thread_only() {
        assert_eq!(swap(3), 0);
        thread::scope(|scope| drop(scope.spawn(|| assert_eq!(swap(0), 0)).join()));
        assert_eq!(swap(0), 3);
        assert!(!find("no such library") && lent(1).is_none());
    }
}
