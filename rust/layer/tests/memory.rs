//! What a call allocates: nothing, where its workspace suffices, and no more for more steps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ndarray::{Array1, Array2, Array3, Array4};

use super::calls::ALONE;
use super::cases::{Case, Data};
use crate::cell::tests::all;
use crate::error::{Error, Result};
use crate::layer::{Backward, Forward, Gradients, Output, OutputGradient, StateMut, Tape, TapeMut, Workspace};
use crate::simd::InstructionSet;
use crate::testing::on_every_isa;

/// The system's allocator, how often each thread has asked it, and how much it gives at once.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(usize::MAX) };
}

// SAFETY: all is left to the system's allocator, or refused.
#[allow(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST.get() {
            return std::ptr::null_mut();
        }
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST.get() {
            return std::ptr::null_mut();
        }
        ASKED.set(ASKED.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

on_every_isa! {
    a_call_in_a_workspace_allocates_nothing,
    no_pass_needs_more_for_more_steps,
    a_pass_without_memory_is_an_error,
}

/// How often `call` allocates.
pub(super) fn allocations(call: impl FnOnce()) -> usize {
    let before = ASKED.get();
    call();
    ASKED.get() - before
}

/// A layer, all arrays of its passes, and a workspace.
struct Passes {
    case: Case,
    data: Data<f32>,
    forward: Forward<f32>,
    backward: Backward<f32>,
    y: Array3<f32>,
    gates: Array4<f32>,
    c_tape: Array3<f32>,
    h: Array2<f32>,
    c: Array2<f32>,
    dx: Array3<f32>,
    w_ih: Array2<f32>,
    w_hh: Array2<f32>,
    b: Option<Array1<f32>>,
    peephole: Option<Array2<f32>>,
    w_hr: Option<Array2<f32>>,
    workspace: Workspace<f32>,
}

impl Passes {
    fn new(isa: InstructionSet, case: Case) -> Self {
        let data = Data::<f32>::new(&case);
        let Case { steps, batch, input, hidden, .. } = case;
        let (rows, output) = (case.cell.gate_rows().count, case.output());
        Self {
            forward: Forward::new(isa, case.cell, &data.weights()).unwrap(),
            backward: Backward::new(isa, case.cell, &data.weights()).unwrap(),
            y: Array3::zeros((steps, batch, output)),
            gates: Array4::zeros((steps, batch, rows, hidden)),
            c_tape: Array3::zeros((steps, batch, hidden)),
            h: Array2::zeros((batch, output)),
            c: Array2::zeros((batch, hidden)),
            dx: Array3::zeros((steps, batch, input)),
            w_ih: Array2::zeros(data.w_ih.dim()),
            w_hh: Array2::zeros(data.w_hh.dim()),
            b: data.b.clone(),
            peephole: data.peephole.clone(),
            w_hr: data.w_hr.clone(),
            workspace: Workspace::default(),
            case,
            data,
        }
    }

    fn forward(&mut self) -> Result<()> {
        let state = StateMut { h: self.h.view_mut(), c: self.c.view_mut() };
        let tape = Some(TapeMut { gates: self.gates.view_mut(), c: self.c_tape.view_mut() });
        let output = Output { y: self.y.view_mut(), state, tape };
        self.forward.run_with(&mut self.workspace, self.data.input(&self.case), output, &ALONE)
    }

    fn backward(&mut self) -> Result<()> {
        let out = Gradients {
            x: Some(self.dx.view_mut()),
            w_ih: self.w_ih.view_mut(),
            w_hh: self.w_hh.view_mut(),
            b: self.b.as_mut().map(|b| b.view_mut()),
            peephole: self.peephole.as_mut().map(|peephole| peephole.view_mut()),
            w_hr: self.w_hr.as_mut().map(|w_hr| w_hr.view_mut()),
            state: StateMut { h: self.h.view_mut(), c: self.c.view_mut() },
        };
        let input = self.data.input(&self.case);
        let tape = Tape { input, y: self.y.view(), gates: self.gates.view(), c: self.c_tape.view() };
        let gradient = OutputGradient { dy: Some(self.y.view()), state: None };
        self.backward.run_with(&mut self.workspace, tape, gradient, out, &ALONE)
    }
}

fn a_call_in_a_workspace_allocates_nothing(isa: InstructionSet) {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1; 9]))), 1, "it counts");
    for (cell, sizes) in all().into_iter().flat_map(|cell| [(cell, [1, 1, 3, 32]), (cell, [9, 5, 3, 33])]) {
        for projection in [None, Some(7)] {
            let mut passes = Passes::new(isa, Case { projection, ..Case::new(cell, sizes) });
            assert!(allocations(|| passes.forward().unwrap()) > 0);
            assert_eq!(allocations(|| passes.forward().unwrap()), 0, "{:?}", passes.case);
            assert!(allocations(|| passes.backward().unwrap()) > 0);
            assert_eq!(allocations(|| passes.backward().unwrap()), 0, "{:?}", passes.case);
        }
    }
}

fn no_pass_needs_more_for_more_steps(isa: InstructionSet) {
    for projection in [None, Some(7)] {
        let bytes = |steps| {
            let mut passes = Passes::new(isa, Case { projection, ..Case::new(all()[0], [steps, 3, 2, 40]) });
            passes.forward().unwrap();
            let forward = passes.workspace.bytes();
            passes.backward().unwrap();
            (forward, passes.workspace.bytes())
        };
        assert_eq!(bytes(1000), bytes(2000));
    }
}

fn a_pass_without_memory_is_an_error(isa: InstructionSet) {
    let mut passes = Passes::new(isa, Case::new(all()[0], [9, 5, 3, 33]));
    for most in [0, 200, 10_000] {
        MOST.set(most);
        let results = (passes.forward(), passes.backward());
        MOST.set(usize::MAX);
        assert!(matches!(results, (Err(Error::Memory(_)), Err(Error::Memory(_)))), "{most}: {results:?}");
    }
    assert_eq!((passes.forward(), passes.backward()), (Ok(()), Ok(())));
}
