//! The team in every order of its threads' steps, and with every value that the memory model lets a load see: loom runs
//! each closure here once for each of them.

mod barriers;
mod panics;
mod regions;
pub(super) mod sync;

use super::member::Member;
use super::team::Team;
use super::{Barrier, Region, Worker};
use loom::cell::UnsafeCell;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Runs a model in all orders with at most so many preemptions (`None`: in all), and prints how many those are.
fn check(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new([(); 2].map(|()| AtomicUsize::new(0)));
    let counts = Arc::clone(&orders);
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = preemptions;
    let start = Instant::now();
    loom.check(move || {
        sync::begin();
        model();
        counts[usize::from(sync::cut())].fetch_add(1, Ordering::Relaxed);
    });
    let [whole, cut] = [0, 1].map(|index| orders[index].load(Ordering::Relaxed));
    assert!(whole > 0, "{name}: with at most {preemptions:?} preemptions nothing comes to its end");
    let bound = preemptions.map_or("no bound".into(), |most| format!("at most {most} preemptions"));
    println!("{name}: {whole} interleavings and {cut} cut short, {bound}, {:.1} s", start.elapsed().as_secs_f64());
}

/// Plain memory: loom reports two accesses that nothing orders, one of which writes.
struct Plain {
    checked: UnsafeCell<()>,
    value: Cell<usize>,
}

// SAFETY: loom's threads are one thread for the system.
unsafe impl Send for Plain {}
// SAFETY: as above.
unsafe impl Sync for Plain {}

impl Plain {
    fn new() -> Self {
        Self { checked: UnsafeCell::new(()), value: Cell::new(0) }
    }

    fn get(&self) -> usize {
        if !sync::cut() {
            self.checked.with(|_| ());
        }
        self.value.get()
    }

    fn set(&self, value: usize) {
        if !sync::cut() {
            self.checked.with_mut(|_| ());
        }
        self.value.set(value);
    }
}

/// A team whose members serve so many regions.
fn team(members: usize, regions: usize) -> Team {
    let member = |index| Member::with(index, move |desk| (0..regions).for_each(|_| desk.serve(index)));
    Team::new((1..=members).map(|index| member(index).unwrap()).collect())
}

/// Waits for the members.
fn dismiss(team: Team) {
    for member in team.members.into_inner().unwrap() {
        member.dismiss();
    }
}

/// What a worker panics with.
const CULPRIT: &str = "culprit";

/// Is this how a worker has panicked? Any other panic is one of loom's.
fn culprit_of(panic: Box<dyn Any + Send>) -> bool {
    match panic.downcast_ref::<&str>() {
        Some(&CULPRIT) => true,
        _ => resume_unwind(panic),
    }
}
