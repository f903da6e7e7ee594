//! What holds for all calls: the instruction set, and how many threads.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use pyo3::exceptions::{PyImportError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::simd::InstructionSet;
use crate::threads::openmp;

/// Index into [`InstructionSet::ALL`] of the one in use.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// How many threads a call may use.
static THREADS: AtomicUsize = AtomicUsize::new(1);

/// More threads than this are a mistake.
const MOST_THREADS: usize = 1024;

thread_local! {
    /// How many threads the calls of this thread may use; 0 where it has no say of its own.
    static OF_THIS_THREAD: Cell<usize> = const { Cell::new(0) };
}

pub(super) fn chosen() -> InstructionSet {
    InstructionSet::ALL[CHOSEN.load(Ordering::Relaxed)]
}

pub(super) fn num_threads() -> usize {
    match OF_THIS_THREAD.get() {
        0 => THREADS.load(Ordering::Relaxed),
        own => own,
    }
}

/// The instruction sets that this CPU has, slowest first.
#[pyfunction]
pub(super) fn available_isas() -> Vec<&'static str> {
    InstructionSet::available().map(InstructionSet::name).collect()
}

/// The instruction set in use.
#[pyfunction]
pub(super) fn isa() -> &'static str {
    chosen().name()
}

/// Uses another instruction set for weights that are packed from now on.
#[pyfunction]
#[pyo3(signature = (name, source="isa"))]
pub(super) fn set_isa(name: &str, source: &str) -> PyResult<()> {
    match InstructionSet::available().find(|isa| isa.name() == name) {
        Some(isa) => {
            CHOSEN.store(isa as usize, Ordering::Relaxed);
            Ok(())
        }
        None => {
            let there = available_isas().join(", ");
            Err(PyValueError::new_err(format!("{source}: expected one that this CPU has ({there}), got '{name}'")))
        }
    }
}

/// How many threads a call of this thread may use.
#[pyfunction]
pub(super) fn get_num_threads() -> usize {
    num_threads()
}

fn checked(n: usize) -> PyResult<usize> {
    match n {
        1..=MOST_THREADS => Ok(n),
        _ => Err(PyValueError::new_err(format!("n: expected 1 to {MOST_THREADS} threads, got {n}"))),
    }
}

/// Lets calls use up to `n` threads.
#[pyfunction]
pub(super) fn set_num_threads(n: usize) -> PyResult<()> {
    THREADS.store(checked(n)?, Ordering::Relaxed);
    Ok(())
}

/// Lets the calls of this thread use up to `n` threads, or with 0 as many as others; gives what held before.
#[pyfunction]
pub(super) fn swap_own_threads(n: usize) -> PyResult<usize> {
    Ok(OF_THIS_THREAD.replace(if n == 0 { 0 } else { checked(n)? }))
}

/// Finds the OpenMP that a loaded library uses, whose threads can be lent; says whether there is one.
#[pyfunction]
pub(super) fn find_openmp(library: &str) -> bool {
    openmp::find(library)
}

/// Has the calls of this thread run on that OpenMP's threads, of which its owner has `n`, or with 0 on our own; gives what
/// held before.
#[pyfunction]
pub(super) fn swap_lent_threads(n: usize) -> PyResult<usize> {
    Ok(openmp::swap(if n == 0 { 0 } else { checked(n)? }))
}

/// As [`get_num_threads`], for those who find the library among those that are loaded: threadpoolctl does.
#[unsafe(no_mangle)]
pub(super) extern "C" fn lstm_rs_get_num_threads() -> std::ffi::c_int {
    num_threads() as std::ffi::c_int
}

/// Lets calls use up to `n` threads, or as few or as many as there can be; where this thread has a say of its own, its
/// calls.
#[unsafe(no_mangle)]
pub(super) extern "C" fn lstm_rs_set_num_threads(n: std::ffi::c_int) {
    let n = usize::try_from(n).unwrap_or(1).clamp(1, MOST_THREADS);
    if OF_THIS_THREAD.get() == 0 {
        THREADS.store(n, Ordering::Relaxed);
    } else {
        OF_THIS_THREAD.set(n);
    }
}

/// Refuses a second interpreter of this process: NumPy belongs to one, and so do the types and the arrays here.
pub(super) fn one_interpreter() -> PyResult<()> {
    static KNOWN: AtomicI64 = AtomicI64::new(-1);
    // SAFETY: a module is initialised by a thread that is attached to an interpreter.
    let this = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    match KNOWN.compare_exchange(-1, this, Ordering::Relaxed, Ordering::Relaxed) {
        Err(known) if known != this => Err(PyImportError::new_err(
            "lstm_rs works in one interpreter of a process, as NumPy does, and another one has imported it: use threads, \
             or processes, in the place of subinterpreters",
        )),
        _ => Ok(()),
    }
}

/// Reads the environment, once.
pub(super) fn read_environment() -> PyResult<()> {
    match std::env::var("LSTM_RS_ISA") {
        Ok(name) if !name.is_empty() => set_isa(&name, "LSTM_RS_ISA")?,
        _ => CHOSEN.store(InstructionSet::best() as usize, Ordering::Relaxed),
    }
    THREADS.store(default_threads()?, Ordering::Relaxed);
    Ok(())
}

/// What the environment says, or as many threads as there are physical cores that this process may use.
fn default_threads() -> PyResult<usize> {
    if let Ok(text) = std::env::var("LSTM_RS_NUM_THREADS")
        && !text.is_empty()
    {
        return text.trim().parse().ok().filter(|n| (1..=MOST_THREADS).contains(n)).ok_or_else(|| {
            let what = format!("LSTM_RS_NUM_THREADS: expected 1 to {MOST_THREADS} threads, got '{text}'");
            PyValueError::new_err(what)
        });
    }
    // Those of others count where they make sense; OpenMP's may be a list, of which the first is the outermost.
    let others = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"].into_iter().find_map(|name| {
        let text = std::env::var(name).ok()?;
        text.split(',').next()?.trim().parse().ok().filter(|&n| n >= 1)
    });
    Ok(others.unwrap_or_else(cores).clamp(1, MOST_THREADS))
}

/// Physical cores that this process may use: a second thread on a core has no arithmetic units of its own.
fn cores() -> usize {
    let logical = available_parallelism().map_or(1, usize::from);
    physical().map_or(logical, |physical| physical.clamp(1, logical))
}

/// As Linux tells them.
fn physical() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = HashSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for cpu in first.parse::<usize>().ok()?..=last.parse().ok()? {
            let read =
                |what: &str| fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{what}")).ok();
            cores.insert((read("physical_package_id")?, read("core_id")?));
        }
    }
    Some(cores.len())
}
