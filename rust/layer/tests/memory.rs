//! What a call allocates: nothing, where its workspace suffices.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ndarray::{Array2, Array3};

use super::calls::ALONE;
use super::cases::{Case, Data};
use crate::cell::tests::all;
use crate::layer::{Backward, Forward, Gradients, Output, OutputGradient, StateMut, Tape, TapeMut, Workspace};
use crate::simd::InstructionSet;
use crate::testing::on_every_isa;

/// The system's allocator, and how often each thread has asked it.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator.
#[allow(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

on_every_isa! {
    a_call_in_a_workspace_allocates_nothing,
    forward_needs_no_more_for_more_steps,
}

/// How often `call` allocates.
pub(super) fn allocations(call: impl FnOnce()) -> usize {
    let before = ASKED.get();
    call();
    ASKED.get() - before
}

fn a_call_in_a_workspace_allocates_nothing(isa: InstructionSet) {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1; 9]))), 1, "it counts");
    for (cell, sizes) in all().into_iter().flat_map(|cell| [(cell, [1, 1, 3, 32]), (cell, [9, 5, 3, 33])]) {
        for projection in [None, Some(7)] {
            let case = Case { projection, ..Case::new(cell, sizes) };
            let data = Data::<f32>::new(&case);
            let (forward, backward) =
                (Forward::new(isa, cell, &data.weights()).unwrap(), Backward::new(isa, cell, &data.weights()).unwrap());
            let [steps, batch, input, hidden] = sizes;
            let (rows, output) = (cell.gate_rows().count, case.output());
            let mut y = Array3::zeros((steps, batch, output));
            let mut gates = ndarray::Array4::zeros((steps, batch, rows, hidden));
            let mut c_tape = Array3::zeros((steps, batch, hidden));
            let (mut h, mut c) = (Array2::zeros((batch, output)), Array2::zeros((batch, hidden)));
            let mut workspace = Workspace::default();
            let mut run = || {
                let state = StateMut { h: h.view_mut(), c: c.view_mut() };
                let tape = Some(TapeMut { gates: gates.view_mut(), c: c_tape.view_mut() });
                let output = Output { y: y.view_mut(), state, tape };
                forward.run_with(&mut workspace, data.input(&case), output, &ALONE).unwrap();
            };
            assert!(allocations(&mut run) > 0);
            assert_eq!(allocations(run), 0, "{case:?}");

            let mut dx = Array3::zeros((steps, batch, input));
            let (mut w_ih, mut w_hh) = (Array2::zeros(data.w_ih.dim()), Array2::zeros(data.w_hh.dim()));
            let (mut b, mut peephole, mut w_hr) = (data.b.clone(), data.peephole.clone(), data.w_hr.clone());
            let mut run = || {
                let out = Gradients {
                    x: Some(dx.view_mut()),
                    w_ih: w_ih.view_mut(),
                    w_hh: w_hh.view_mut(),
                    b: b.as_mut().map(|b| b.view_mut()),
                    peephole: peephole.as_mut().map(|peephole| peephole.view_mut()),
                    w_hr: w_hr.as_mut().map(|w_hr| w_hr.view_mut()),
                    state: StateMut { h: h.view_mut(), c: c.view_mut() },
                };
                let tape = Tape { input: data.input(&case), y: y.view(), gates: gates.view(), c: c_tape.view() };
                let gradient = OutputGradient { dy: Some(y.view()), state: None };
                backward.run_with(&mut workspace, tape, gradient, out, &ALONE).unwrap();
            };
            assert!(allocations(&mut run) > 0);
            assert_eq!(allocations(run), 0, "{case:?}");
        }
    }
}

fn forward_needs_no_more_for_more_steps(isa: InstructionSet) {
    let bytes = |steps| {
        let case = Case::new(all()[0], [steps, 3, 2, 40]);
        let data = Data::<f64>::new(&case);
        let forward = Forward::new(isa, case.cell, &data.weights()).unwrap();
        let mut workspace = Workspace::default();
        let (mut y, mut h) = (Array3::zeros((steps, 3, 40)), Array2::zeros((3, 40)));
        let mut c = h.clone();
        let state = StateMut { h: h.view_mut(), c: c.view_mut() };
        forward
            .run_with(&mut workspace, data.input(&case), Output { y: y.view_mut(), state, tape: None }, &ALONE)
            .unwrap();
        workspace.bytes()
    };
    assert_eq!(bytes(1000), bytes(4000));
}
