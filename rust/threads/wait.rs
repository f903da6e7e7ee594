//! Waiting for another thread without sleep.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a worker spins before it yields, and again before it parks: waking a thread costs about as much.
pub(super) const PATIENCE: Duration = Duration::from_micros(50);

/// Spins, then yields, until `done`, or until some time has passed; says whether it is done.
///
/// Where there are more `workers` than CPUs, spinning would only keep the others from coming.
#[inline]
pub(super) fn until(done: impl Fn() -> bool, most: Duration, workers: usize) -> bool {
    for _ in 0..64 {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    let spins = if workers <= cores() { PATIENCE } else { Duration::ZERO };
    loop {
        if done() {
            return true;
        }
        let waited = start.elapsed();
        if waited >= most {
            return false;
        }
        if waited < spins {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
        } else {
            thread::yield_now();
        }
    }
}

/// How many CPUs this process may use.
pub(super) fn cores() -> usize {
    static CORES: AtomicUsize = AtomicUsize::new(0);
    match CORES.load(Ordering::Relaxed) {
        0 => {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            CORES.store(cores, Ordering::Relaxed);
            cores
        }
        known => known,
    }
}
