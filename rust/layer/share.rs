//! How a call is shared out among threads, and what each of them needs.
//!
//! Three ways, none of which changes an answer:
//!
//! * **by batch**: each worker runs some of the sequences. No barrier; each streams all the weights.
//! * **by units**: each worker runs some of the units of every sequence. Its part of the weights stays in its own
//!   second-level cache; the workers meet once a step, as each needs the others' output of the step before.
//! * **alone**, where that would take longer to arrange than to do.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::Control;
use super::deferred::CHAIN;
use super::schedule::Schedule;
use crate::caches::second_level;
use crate::dims::{Dims, LayerDims};
use crate::error::{Error, Result};
use crate::kernel::tile::{Panel, sums};
use crate::simd::Element;
use crate::simd::memory::{Aligned, try_resize};
use crate::threads::{OnCaller, Worker, worthwhile};

/// Bytes of pre-activations in a chunk of time: a quarter of a second-level cache of 1 MiB.
const CHUNK_BYTES: usize = 256 << 10;
/// Rows that each worker keeps when a batch is shared out, so that its tiles are full.
const FULL_ROWS: usize = 6;
/// A step of so many nanoseconds is worth a barrier, which takes 200 to 400.
const WORTH_MEETING: f64 = 1500.0;

/// The caller is asked whether to go on every so many nanoseconds of one thread's work, about: at each step of a short one
/// it would be part of the time.
const POLL: f64 = 20_000.0;

/// From so many sequences on, a step makes its input product itself: its tiles are full, so reading the input's weights
/// at each step costs nothing, and keeping pre-activations would.
pub(super) const DIRECT_ROWS: usize = 24;

/// How many steps `(t, n)` share an input product, of which each has so many pre-activations, at most.
pub(super) fn cells_per_chunk<T>(row: usize, batch: usize, steps: usize) -> usize {
    let cached = CHUNK_BYTES / size_of::<T>() / row.max(1);
    cached.max(DIRECT_ROWS.min(batch)).min(batch * steps)
}

/// How many steps a pass backward sweeps before it adds up what sums over them: so many that their gates' gradients, rows
/// of so many numbers, take half of a second-level cache; or more, where one chain of them does not fit.
pub(super) fn steps_per_window<T>(row: usize, batch: usize) -> usize {
    let rows = second_level() / 2 / size_of::<T>() / row.max(1);
    let rows = if rows < CHAIN { 4 * CHAIN } else { rows };
    #[cfg(any(test, fuzzing))]
    let rows = WINDOW.get().unwrap_or(rows);
    rows.div_ceil(batch.max(1))
}

/// What is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layer) enum Split {
    /// Sequences.
    Batch,
    /// Blocks of units.
    Units,
}

#[cfg(any(test, fuzzing))]
thread_local! {
    /// For tests: a split in place of the one that the model chooses.
    pub(in crate::layer) static FORCED: std::cell::Cell<Option<Split>> = const { std::cell::Cell::new(None) };
    /// For tests: rows of a window, which is a single step in `cargo test` unless they say otherwise.
    pub(in crate::layer) static WINDOW: std::cell::Cell<Option<usize>> =
        const { std::cell::Cell::new(if cfg!(test) { Some(1) } else { None }) };
    /// For tests: [`MULTIPLICATIONS`] of the caller.
    pub(in crate::layer) static WATCHED: std::cell::Cell<usize> = const { std::cell::Cell::new(MULTIPLICATIONS) };
}

/// Who does what in a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) threads: usize,
    pub(super) split: Split,
    /// How many steps may pass until the caller is asked again whether to go on.
    pub(super) steps_a_poll: usize,
}

/// How large a call is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) dims: Dims,
    /// Nanoseconds of one thread, about.
    pub(super) work: f64,
    /// How many threads it may use.
    pub(super) threads: usize,
}

/// How long one thread takes for `steps` of in all `cells` steps of one sequence, in nanoseconds, about.
///
/// A pass forward has 1 of `passes`. A pass backward has 2, and writes the sums of the weights.
pub(super) fn work<T>(layer: &LayerDims, (steps, cells): (usize, usize), passes: usize) -> f64 {
    let LayerDims { input_size, hidden_size, output_size, .. } = *layer;
    let (bytes, cells) = (size_of::<T>() * layer.gate_rows(), cells as f64);
    // 80 GFLOP/s in f32, or the weights are read: each step those of the state, once those of the input.
    let speed = if passes * bytes * (input_size + output_size) <= second_level() { 100.0 } else { 30.0 };
    let product = |columns: usize, times: usize| {
        let bytes = (bytes * columns) as f64;
        f64::max(bytes / 160.0 * cells, bytes / speed * times as f64)
    };
    let gates = 0.125 * (size_of::<T>() * hidden_size) as f64 * cells;
    let sums = 2.0 * (bytes * (input_size + output_size)) as f64 / speed;
    passes as f64 * (product(output_size, steps) + product(input_size, 1) + gates) + (passes - 1) as f64 * sums
}

/// How many threads a call of so much work may use.
pub(super) fn threads(control: &Control<'_>, work: f64) -> usize {
    #[cfg(any(test, fuzzing))]
    if FORCED.get().is_some() {
        return control.threads;
    }
    worthwhile(control.threads, Duration::from_nanos(work as u64))
}

/// How many threads each of two directions gets where they run side by side: each then keeps its weights in caches of
/// its own, and neither waits for the other.
///
/// `None` where one after the other is better: an odd thread would have nothing to do, though either could use it.
pub(super) fn side_by_side(threads: usize, batch: usize) -> Option<(usize, usize)> {
    let even = threads >= 2 && (threads.is_multiple_of(2) || batch / FULL_ROWS < threads);
    even.then_some((threads - threads / 2, threads / 2))
}

impl Plan {
    /// For a call over `schedule`, whose weights take `bytes` and have `blocks` of units that can be shared out.
    pub(super) fn new(schedule: &Schedule<'_>, size: &Size, (bytes, blocks): (usize, usize)) -> Self {
        let Size { work, threads, .. } = *size;
        let step = work / schedule.steps().max(1) as f64;
        // An empty call has no work: what is asked for must still be a number.
        let steps_a_poll = (POLL / step).clamp(1.0, 1e6) as usize;
        let share_out = |threads, split| Self { threads, split, steps_a_poll };
        #[cfg(any(test, fuzzing))]
        if let Some(split) = FORCED.get() {
            let most = if split == Split::Batch { schedule.batch() } else { blocks };
            return share_out(threads.min(most).max(1), split);
        }
        if threads <= 1 {
            return share_out(1, Split::Batch);
        }
        let of_batch = threads.min(schedule.batch());
        let of_units = threads.min(blocks);
        if schedule.batch() / FULL_ROWS >= threads && bytes <= second_level() / 4 * 3 {
            share_out(of_batch, Split::Batch)
        } else if of_units > 1 && (step >= WORTH_MEETING || schedule.steps() == 1) {
            share_out(of_units, Split::Units)
        } else if schedule.batch() / 2 >= threads {
            share_out(of_batch, Split::Batch)
        } else {
            share_out(1, Split::Batch)
        }
    }

    /// A worker's share of the sequences and of the `blocks`.
    pub(super) fn share<'a>(
        &self,
        worker: &Worker<'_>,
        schedule: Schedule<'a>,
        blocks: usize,
    ) -> (Schedule<'a>, Range<usize>) {
        match self.split {
            Split::Batch => (schedule.deal(worker), 0..blocks),
            Split::Units => (schedule, worker.part(blocks)),
        }
    }

    /// The most sequences and blocks that one of `workers` has.
    pub(super) fn most(&self, workers: usize, batch: usize, blocks: usize) -> (usize, usize) {
        match self.split {
            Split::Batch => (batch.div_ceil(workers), blocks),
            Split::Units => (batch, blocks.div_ceil(workers)),
        }
    }

    /// Waits for the others, where one needs what they wrote.
    #[inline(always)]
    pub(super) fn meet(&self, worker: &Worker<'_>) {
        if self.split == Split::Units {
            worker.wait();
        }
    }
}

/// Whether the caller wants a call to stop, which is asked on the caller's thread.
pub(super) struct Cancel<'a> {
    ask: OnCaller<&'a dyn Fn() -> bool>,
    said: AtomicBool,
}

impl<'a> Cancel<'a> {
    pub(super) fn new(control: &Control<'a>) -> Self {
        Self { ask: OnCaller::new(control.cancel), said: AtomicBool::new(false) }
    }

    /// Says it, as far as is known here.
    pub(super) fn said(&self) -> bool {
        // Once is enough: the next answer would be to another question.
        if !self.said.load(Ordering::Relaxed)
            && let Some(ask) = self.ask.get()
            && ask()
        {
            self.said.store(true, Ordering::Relaxed);
        }
        self.said.load(Ordering::Relaxed)
    }
}

/// Where the workers of a pass stop, so that all do at the same place.
pub(super) struct Stop<'a> {
    cancel: &'a Cancel<'a>,
    /// The first round that is not run.
    at: AtomicUsize,
}

impl<'a> Stop<'a> {
    pub(super) fn new(cancel: &'a Cancel<'a>) -> Self {
        Self { cancel, at: AtomicUsize::new(usize::MAX) }
    }

    /// Is `round` not to be run? Asked by all workers before each round; `meet` says that they meet within it.
    pub(super) fn before(&self, worker: &Worker<'_>, round: usize, meet: bool) -> bool {
        if self.at.load(Ordering::Relaxed) <= round {
            return true;
        }
        self.ask(worker, round, meet);
        self.at.load(Ordering::Relaxed) <= round
    }

    /// Asks, before `round` or within it.
    fn ask(&self, worker: &Worker<'_>, round: usize, meet: bool) {
        if worker.index() == 0 && self.cancel.said() {
            // The others may be in this round already: all leave together before the next.
            self.at.fetch_min(if meet && worker.count() > 1 { round + 1 } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Has it been asked for?
    pub(super) fn asked(&self) -> bool {
        self.at.load(Ordering::Relaxed) != usize::MAX
    }

    /// The end of a pass.
    pub(super) fn outcome(&self) -> Result<()> {
        if self.asked() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Between two looks in the middle of a round: half a millisecond, or some milliseconds on scalar code.
const MULTIPLICATIONS: usize = 1 << 24;

#[inline(always)]
fn between_looks() -> usize {
    #[cfg(any(test, fuzzing))]
    return WATCHED.get();
    #[cfg(not(any(test, fuzzing)))]
    MULTIPLICATIONS
}

/// How a worker learns in the middle of a round that it is not wanted any more: a step of thousands of sequences takes
/// seconds. It leaves the products that remain of the round, and still comes to all barriers.
pub(super) struct Watch<'a> {
    stop: &'a Stop<'a>,
    worker: &'a Worker<'a>,
    round: usize,
    meet: bool,
    /// Multiplications until it is asked again.
    left: usize,
}

impl<'a> Watch<'a> {
    /// `meet` says that the workers meet within a round.
    #[inline(always)]
    pub(super) fn new(stop: &'a Stop<'a>, worker: &'a Worker<'a>, meet: bool) -> Self {
        Self { stop, worker, round: 0, meet, left: between_looks() }
    }

    /// As [`Stop::before`].
    #[inline(always)]
    pub(super) fn before(&mut self, round: usize) -> bool {
        self.round = round;
        self.stop.before(self.worker, round, self.meet)
    }

    /// Are so many multiplications not to be made, nor what remains of the round?
    #[inline(always)]
    pub(super) fn stops(&mut self, work: usize) -> bool {
        match self.left.checked_sub(work) {
            Some(left) => {
                self.left = left;
                false
            }
            None => self.look(),
        }
    }

    #[cold]
    #[inline(never)]
    fn look(&mut self) -> bool {
        self.stop.ask(self.worker, self.round, self.meet);
        let asked = self.stop.asked();
        self.left = if asked { 0 } else { between_looks() };
        asked
    }
}

/// What a pass needs besides its arrays. It grows when it has to; a call that it suffices for allocates nothing.
#[derive(Debug)]
pub struct Workspace<T> {
    /// The order of the batch.
    pub(super) order: Vec<(usize, usize)>,
    /// As long as the larger of H and P.
    pub(super) zeros: Vec<T>,
    /// (N, H), where it is projected.
    pub(super) h: Aligned<T>,
    /// The gradients of the pre-activations, of the steps of a window.
    pub(super) d_z: Aligned<T>,
    /// Those of the outputs, where they are projected.
    pub(super) d_r: Aligned<T>,
    /// The place in the order of each sequence.
    pub(super) place: Vec<usize>,
    /// One for each worker.
    pub(super) hands: Vec<Hand<T>>,
}

/// What one worker needs.
#[derive(Debug)]
pub(super) struct Hand<T> {
    /// The sums of tiles.
    pub(super) sums: Aligned<T>,
    /// Forward, the pre-activations of a chunk of time.
    pub(super) z: Aligned<T>,
    /// The operands of a sum over a chain, and its columns.
    pub(super) left: Aligned<T>,
    pub(super) right: Panel<T>,
    pub(super) hidden: Aligned<T>,
    pub(super) column: Aligned<T>,
    /// Rows (t, j).
    pub(super) cells: Vec<(usize, usize)>,
}

impl<T: Element> Hand<T> {
    /// Room for the sums of tiles.
    pub(super) fn sums(&mut self) -> Result<()> {
        self.sums.grow(sums::<T>())
    }
}

impl<T> Default for Hand<T> {
    fn default() -> Self {
        let (sums, z, left, hidden, column) = Default::default();
        Self { sums, z, left, right: Panel::default(), hidden, column, cells: Vec::new() }
    }
}

impl<T> Default for Workspace<T> {
    fn default() -> Self {
        let (order, zeros, place, hands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (h, d_z, d_r) = Default::default();
        Self { order, zeros, h, d_z, d_r, place, hands }
    }
}

impl<T: Element> Workspace<T> {
    /// Bytes that it keeps, roughly.
    pub fn bytes(&self) -> usize {
        let hands = self.hands.iter().map(|Hand { sums, z, left, right, hidden, column, cells }| {
            let numbers = [sums, z, left, hidden, column].iter().map(|numbers| numbers.bytes()).sum::<usize>();
            numbers + right.room() + size_of_val(&cells[..])
        });
        let numbers = self.h.bytes() + self.d_z.bytes() + self.d_r.bytes() + size_of_val(&self.zeros[..]);
        numbers + size_of_val(&self.order[..]) + size_of_val(&self.place[..]) + hands.sum::<usize>()
    }

    /// At least so many hands.
    pub(super) fn hands(hands: &mut Vec<Hand<T>>, count: usize) -> Result<&mut [Hand<T>]> {
        let more = count.saturating_sub(hands.len());
        hands.try_reserve_exact(more).map_err(|_| Error::Memory(count * size_of::<Hand<T>>()))?;
        hands.resize_with(count.max(hands.len()), Hand::default);
        Ok(&mut hands[..count])
    }

    /// Zeros, at least so many.
    pub(super) fn zeros(zeros: &mut Vec<T>, len: usize) -> Result<&[T]> {
        if zeros.len() < len {
            try_resize(zeros, len, T::ZERO)?;
        }
        Ok(&zeros[..len])
    }
}
