//! The team: threads that share out one call.
//!
//! A call is one region: the caller is worker 0, the others are threads of the team, made on first use and kept. Within
//! it workers meet at barriers. A worker that waits spins, then yields, then (between regions) parks.
//!
//! * Threads that another library lends come first: see `openmp.rs`.
//! * A team that is busy with another call is not waited for: the caller then works alone.
//! * A team belongs to a process: a forked child makes its own.
//! * A fork in the middle of a call, which a signal's handler on the caller's thread can make, ends the call in the child.
//! * A panic in one worker releases the others from their barrier and goes on in the caller; the team stays usable.
//!
//! Nothing here decides what is shared out, and no answer depends on it.

mod affinity;
mod fork;
mod memory;
pub mod openmp;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// How long a worker spins before it yields, and again before it parks: waking a thread costs about as much.
const PATIENCE: Duration = Duration::from_micros(50);

/// Two cache lines, as some CPUs fetch them in pairs.
#[repr(align(128))]
struct Line<T>(T);

/// A panic that only says that another worker has panicked.
struct Bystander;

/// A panic that says that this process was forked in the middle of the call, by the caller's own thread: the workers that
/// it waits for are in the parent.
pub(crate) struct Orphan;

/// How many forks lie between this process and the one that first asked.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// One of those that share a call.
pub(crate) struct Worker<'a> {
    index: usize,
    count: usize,
    barrier: Option<&'a Barrier>,
}

impl Worker<'_> {
    /// From 0, which is the caller.
    #[inline(always)]
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// How many there are.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// This worker's part of `items`: as many as the others have, or one more.
    #[inline(always)]
    pub(crate) fn part(&self, items: usize) -> std::ops::Range<usize> {
        self.index * items / self.count..(self.index + 1) * items / self.count
    }

    /// Waits until all have come here; what they wrote before is seen after.
    #[inline(always)]
    pub(crate) fn wait(&self) {
        if let Some(barrier) = self.barrier {
            barrier.wait(self.count);
        }
    }
}

/// Something that belongs to the caller's thread.
pub(crate) struct OnCaller<T> {
    value: T,
    thread: ThreadId,
}

// SAFETY: `get` hands it out only on the thread that made it.
unsafe impl<T> Sync for OnCaller<T> {}

impl<T> OnCaller<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value, thread: thread::current().id() }
    }

    /// On the thread that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        (self.thread == thread::current().id()).then_some(&self.value)
    }
}

/// Where the workers of a region meet.
struct Barrier {
    arrived: Line<AtomicUsize>,
    generation: Line<AtomicUsize>,
    broken: AtomicBool,
    /// [`FORKS`] when the region began.
    forks: usize,
}

impl Barrier {
    fn new() -> Self {
        Self {
            arrived: Line(AtomicUsize::new(0)),
            generation: Line(AtomicUsize::new(0)),
            broken: AtomicBool::new(false),
            forks: FORKS.load(Ordering::Relaxed),
        }
    }

    /// Is this a child in which nobody else comes?
    fn is_orphaned(&self) -> bool {
        FORKS.load(Ordering::Relaxed) != self.forks
    }

    #[inline(always)]
    fn wait(&self, count: usize) {
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
}

/// Spins, then yields, until `done`, or until some time has passed; says whether it is done.
///
/// Where there are more `workers` than CPUs, spinning would only keep the others from coming.
#[inline]
fn until(done: impl Fn() -> bool, most: Duration, workers: usize) -> bool {
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
fn cores() -> usize {
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

/// A call that is shared out. It lives on the caller's stack until `running` is 0.
struct Region<'a> {
    job: &'a (dyn Fn(usize, &Worker<'_>) + Sync),
    /// How many workers each group has. The caller is the first of the first.
    counts: [usize; 2],
    barriers: [Barrier; 2],
    /// Workers besides the caller that have not finished.
    running: Line<AtomicUsize>,
    /// Where the caller was when it came, if there is a CPU for each worker.
    place: Option<usize>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Region<'_> {
    fn work(&self, index: usize) {
        let (group, index) = if index < self.counts[0] { (0, index) } else { (1, index - self.counts[0]) };
        let barrier = Some(&self.barriers[group]);
        let worker = Worker { index, count: self.counts[group], barrier };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.job)(group, &worker))) {
            if !panic.is::<Bystander>() {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            self.barriers[group].broken.store(true, Ordering::Relaxed);
        }
    }
}

/// A thread of the team, as its callers see it.
struct Member {
    desk: Arc<Desk>,
    handle: JoinHandle<()>,
}

/// Where a member finds its work.
struct Desk {
    /// What to work on next; null when there is nothing.
    next: Line<AtomicPtr<Region<'static>>>,
    parked: AtomicBool,
    /// Where it may run, while it is kept off a caller's CPU.
    home: Mutex<Option<affinity::Set>>,
}

impl Member {
    fn spawn(index: usize) -> std::io::Result<Self> {
        let next = Line(AtomicPtr::new(std::ptr::null_mut()));
        let desk = Arc::new(Desk { next, parked: AtomicBool::new(false), home: Mutex::new(None) });
        let own = Arc::clone(&desk);
        let handle = thread::Builder::new().name(format!("lstm_rs-{index}")).spawn(move || own.serve(index))?;
        Ok(Self { desk, handle })
    }

    /// Gives it a region to work on.
    fn give(&self, region: &Region<'_>) {
        let place = region.place;
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
    /// Works on what comes, for as long as the process lives.
    fn serve(&self, index: usize) {
        loop {
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
            // The last that is seen of the region.
            region.running.0.fetch_sub(1, Ordering::Release);
        }
    }
}

/// The threads of one process.
struct Team {
    /// Locked while a call has them.
    members: Mutex<Vec<Member>>,
    /// When a call last could have had use for them, in nanoseconds since `epoch`.
    wanted: AtomicU64,
    epoch: Instant,
}

/// This process' team. After a fork the threads of the known one are not here, and its lock may be held for ever: it is
/// left alone.
static TEAM: AtomicPtr<Team> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn forget_team() {
    TEAM.store(std::ptr::null_mut(), Ordering::Relaxed);
    FORKS.fetch_add(1, Ordering::Relaxed);
    openmp::forget();
}

/// This process' team; `None` where a child could not be told that it has none.
fn team() -> Option<&'static Team> {
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
    let (members, wanted, epoch) = (Mutex::new(Vec::new()), AtomicU64::new(0), Instant::now());
    let fresh = Box::into_raw(Box::new(Team { members, wanted, epoch }));
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
    /// Its members, at least `wanted` if they can be had; `None` while another call has them.
    fn members(&self, wanted: usize) -> Option<MutexGuard<'_, Vec<Member>>> {
        let mut members = match self.members.try_lock() {
            Ok(members) => members,
            Err(TryLockError::Poisoned(members)) => members.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        while members.len() < wanted {
            // Without enough threads the caller works alone.
            if !memory::suffices_for_a_thread() {
                break;
            }
            let Ok(member) = Member::spawn(members.len() + 1) else { break };
            members.push(member);
        }
        Some(members)
    }
}

/// Waking a parked thread pays for itself in calls of this length.
const WORTH_WAKING: Duration = Duration::from_micros(150);
/// Sharing pays in calls of this length, if nobody has to be woken.
const WORTH_SHARING: Duration = Duration::from_micros(3);

/// How many of `threads` a call should ask for that takes one thread `estimate`.
///
/// In between it is worth it when the members are awake; they are woken when such calls follow each other.
pub(crate) fn worthwhile(threads: usize, estimate: Duration) -> usize {
    if threads <= 1 || estimate < WORTH_SHARING {
        return 1;
    }
    if estimate >= WORTH_WAKING {
        return threads;
    }
    let Some(team) = team() else { return 1 };
    let now = team.epoch.elapsed().as_nanos() as u64;
    let before = team.wanted.swap(now, Ordering::Relaxed);
    let follows = now.saturating_sub(before) < (PATIENCE + 2 * estimate).as_nanos() as u64;
    if follows { threads } else { 1 }
}

/// Runs `job` once for each worker, with one of `hands` each: all of them, or the first alone.
///
/// # Panics
/// With the panic of a worker, when all have finished; with [`Orphan`] in a child of a fork that the caller made meanwhile.
pub(crate) fn share<H: Send>(hands: &mut [H], job: impl Fn(&Worker<'_>, &mut H) + Sync) {
    share_pair([hands, &mut []], |_, worker, hand| job(worker, hand));
}

/// The same for two groups side by side, which do not meet each other; `job` is told the group. The second may be empty.
///
/// # Panics
/// As [`share`].
pub(crate) fn share_pair<H: Send>(mut hands: [&mut [H]; 2], job: impl Fn(usize, &Worker<'_>, &mut H) + Sync) {
    let alone = |hands: [&mut [H]; 2]| {
        for (group, hands) in hands.into_iter().enumerate() {
            if let Some(hand) = hands.first_mut() {
                job(group, &Worker { index: 0, count: 1, barrier: None }, hand);
            }
        }
    };
    let counts = [hands[0].len(), hands[1].len()];
    let others = counts[0] + counts[1] - 1;
    if others == 0 {
        return alone(hands);
    }
    let starts = hands.each_mut().map(|hands| OneEach(hands.as_mut_ptr()));
    let job = |group: usize, worker: &Worker<'_>| {
        // SAFETY: a group has as many hands as workers, and each worker has an index of its own in it.
        let hand = unsafe { &mut *starts[group].at(worker.index) };
        job(group, worker, hand);
    };
    let mut region = Region {
        job: &job,
        counts,
        barriers: [Barrier::new(), Barrier::new()],
        running: Line(AtomicUsize::new(others)),
        place: None,
        panic: Mutex::new(None),
    };
    if let Some(lent) = openmp::lent(others + 1) {
        if !lent.run(others + 1, &|index| region.work(index)) {
            return alone(hands);
        }
    } else {
        let Some(members) = team().and_then(|team| team.members(others)) else {
            return alone(hands);
        };
        let Some(asked) = members.get(..others) else {
            return alone(hands);
        };
        region.place = affinity::here().filter(|_| others < cores());
        for member in asked {
            member.give(&region);
        }
        region.work(0);
        // `region` must not go before the others have left it: nothing between here and there can return or panic.
        let orphaned = || region.barriers[0].is_orphaned();
        until(|| region.running.0.load(Ordering::Acquire) == 0 || orphaned(), Duration::MAX, others + 1);
        if orphaned() {
            resume_unwind(Box::new(Orphan));
        }
    }
    if let Some(panic) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

/// The start of an array of which each worker uses its own element.
struct OneEach<H>(*mut H);

// SAFETY: an element is used by one thread at a time.
unsafe impl<H: Send> Sync for OneEach<H> {}

impl<H> OneEach<H> {
    /// Where element `index` is.
    fn at(&self, index: usize) -> *mut H {
        self.0.wrapping_add(index)
    }
}

#[cfg(test)]
pub(crate) mod tests;
