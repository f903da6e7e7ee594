//! The same bits, wherever they are promised.

use std::ops::Range;

use ndarray::{Array3, ArrayViewD, Axis, s};

use super::calls::{
    ALONE, Backwarded, Forwarded, assert_same, backward, both, forward, run_forward, try_backward, try_forward,
};
use super::cases::{Case, Data, Layout, fill_past_the_ends};
use super::ways::in_pieces;
use crate::caches::second_level;
use crate::cell::CellSpec;
use crate::cell::tests::{all, every};
use crate::layer::share::{FORCED, Split, WINDOW};
use crate::layer::{Backward, Control, Forward};
use crate::simd::InstructionSet;
use crate::testing::{Real, Rng, on_every_isa};

on_every_isa! {
    bits_are_those_of_scalar,
    a_sequence_alone_is_the_same_as_in_a_batch,
    pieces_are_the_whole,
    a_call_again_is_the_same,
    a_tape_changes_nothing,
    layout_changes_nothing,
    padding_changes_nothing,
    what_is_absent_is_zeros,
    threads_change_nothing,
    threads_pack_what_one_packs,
    windows_change_nothing,
}

/// A few calls with each cell, and those with many chunks of time.
fn cases(seed: u64, each: usize) -> Vec<Case> {
    let mut rng = Rng::new(seed);
    let mut cases = Vec::new();
    for cell in every() {
        cases.extend((0..each).map(|_| Case::draw(&mut rng, cell)));
    }
    cases.extend(Case::many_chunks());
    cases
}

/// The same for both types.
macro_rules! for_both_types {
    ($test:ident($isa:expr, $case:expr)) => {
        $test::<f32>($isa, $case);
        $test::<f64>($isa, $case);
    };
}

#[track_caller]
fn assert_all_same<T: Real>(
    case: &Case,
    (tape, gradients): &(Forwarded<T>, Backwarded<T>),
    (other_tape, others): &(Forwarded<T>, Backwarded<T>),
) {
    assert_same(case, tape.named(), other_tape.named());
    assert_same(case, gradients.named(), others.named());
}

fn bits_are_those_of_scalar(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        assert_all_same(case, &both(isa, case, &data), &both(InstructionSet::Scalar, case, &data));
    }
    for case in cases(11, 5) {
        for_both_types!(check(isa, &case));
    }
}

fn a_sequence_alone_is_the_same_as_in_a_batch(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        // All of a small batch; the ends and some between of a large one. And a part of it.
        let mut parts: Vec<Range<usize>> = (0..case.batch).step_by(case.batch.div_ceil(13)).map(|n| n..n + 1).collect();
        parts.push(case.batch / 3..case.batch);
        for part in parts {
            let (alone, its) = data.sequences(case, part.clone());
            let (its_tape, its_gradients) = both(isa, &alone, &its);
            // (N, ·), else (T, N, ..)
            let cut = |(name, mut array): (&'static str, ArrayViewD<'_, T>)| {
                let axis = Axis(usize::from(array.ndim() > 2));
                array.slice_axis_inplace(axis, part.clone().into());
                (name, array.to_owned())
            };
            let mut whole: Vec<_> = tape.named().into_iter().map(cut).collect();
            whole.extend(gradients.of_sequences().into_iter().map(cut));
            let mut got = its_tape.named();
            got.extend(its_gradients.of_sequences());
            assert_same(&alone, got, whole.iter().map(|(name, array)| (*name, array.view())).collect());
        }
    }
    for case in cases(12, 2) {
        for_both_types!(check(isa, &case));
    }
}

fn pieces_are_the_whole(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        let steps = case.steps;
        for cuts in [vec![0, steps / 2, steps], vec![0, 1, 1, steps.min(3), steps], (0..=steps).collect()] {
            if cuts.len() > 10 && case.hidden > 64 {
                continue;
            }
            let (y, dx, last) = in_pieces(isa, case, &data, &cuts);
            assert_same(case, vec![("y", y.view().into_dyn())], vec![("y", tape.y.view().into_dyn())]);
            assert_same(case, last.0.outputs()[1..].to_vec(), tape.outputs()[1..].to_vec());
            assert_same(case, last.1.of_sequences()[..2].to_vec(), gradients.of_sequences()[..2].to_vec());
            if let (Some(dx), Some(whole)) = (dx, &gradients.x) {
                assert_same(case, vec![("dx", dx.view().into_dyn())], vec![("dx", whole.view().into_dyn())]);
            }
        }
    }
    for case in cases(13, 2) {
        for_both_types!(check(isa, &case));
    }
}

/// Of weights that do not stay in a cache, each call begins where the last one ended.
fn a_call_again_is_the_same(isa: InstructionSet) {
    let hidden = (second_level() / size_of::<f32>() / 4).isqrt() + 1;
    for (steps, batch) in [(1, 1), (1, 3), (3, 1)] {
        let case = Case::new(CellSpec::GERS_1999, [steps, batch, 3, hidden]);
        let data = Data::<f32>::new(&case);
        let packed = Forward::new(isa, case.cell, &data.weights()).unwrap();
        let calls: Vec<_> = (0..3).map(|_| run_forward(&packed, &case, &data, true, &ALONE).unwrap()).collect();
        for call in &calls[1..] {
            assert_same(&case, calls[0].named(), call.named());
        }
    }
}

fn a_tape_changes_nothing(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let without = try_forward(isa, case, &data, false, &ALONE).unwrap();
        assert_same(case, without.outputs(), forward(isa, case, &data).outputs());
    }
    for case in cases(14, 3) {
        for_both_types!(check(isa, &case));
    }
}

fn threads_change_nothing(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case, counts: &[usize]) {
        let data = Data::<T>::new(case);
        let alone = both(isa, case, &data);
        for split in [Split::Batch, Split::Units] {
            for &threads in counts {
                let control = Control { threads, ..ALONE };
                FORCED.set(Some(split));
                let tape = try_forward(isa, case, &data, true, &control).unwrap();
                let gradients = try_backward(isa, case, &data, &tape, &control).unwrap();
                FORCED.set(None);
                assert_all_same(case, &(tape, gradients), &alone);
            }
        }
    }
    // So that the team is never busy with another test.
    let _turn = crate::threads::tests::turn();
    for case in cases(16, 1) {
        check::<f32>(isa, &case, &[3]);
        check::<f64>(isa, &case, &[2]);
    }
    // Enough units for three workers, with a projection of as many outputs.
    for (cell, projection) in [(CellSpec::GERS_1999, None), (all()[all().len() - 1], Some(150))] {
        for lengths in [None, Some((0..13).collect())] {
            let case = Case { projection, lengths, ..Case::new(cell, [12, 13, 5, 200]) };
            check::<f32>(isa, &case, &[2, 3, 8]);
            check::<f64>(isa, &case, &[2, 3, 8]);
        }
    }
    // Enough steps that memory of some is used again for others.
    for reverse in [false, true] {
        let lengths = Some((18..31).collect());
        let case = Case { lengths, reverse, ..Case::new(CellSpec::GERS_1999, [31, 13, 3, 40]) };
        check::<f32>(isa, &case, &[2, 3]);
    }
}

fn windows_change_nothing(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let windows = [None, Some(1), Some(40), Some(300)].map(|rows| {
            WINDOW.set(rows);
            let all = both(isa, case, &data);
            WINDOW.set(Some(1));
            all
        });
        windows[1..].iter().for_each(|some| assert_all_same(case, some, &windows[0]));
    }
    // When 70 of the 100 steps are left, 254 indices of the fourth chain wait for the others: there is room for no more.
    for (cell, projection) in [(CellSpec::GERS_1999, None), (all()[all().len() - 1], Some(5))] {
        for lengths in [None, Some(vec![100, 0, 41, 100, 3, 99, 17, 28, 60, 1, 33])] {
            for reverse in [false, true] {
                let lengths = lengths.clone();
                let case = Case { projection, lengths, reverse, ..Case::new(cell, [100, 11, 3, 10]) };
                for_both_types!(check(isa, &case));
            }
        }
    }
}

fn layout_changes_nothing(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let time_major = both(isa, &Case { layout: Layout::TimeMajor, ..case.clone() }, &data);
        for layout in [Layout::BatchFirst, Layout::Part] {
            let case = Case { layout, ..case.clone() };
            assert_all_same(&case, &both(isa, &case, &data), &time_major);
        }
    }
    for case in cases(15, 1) {
        for_both_types!(check(isa, &case));
    }
}

/// A call, and the same with steps of NaN behind its last.
fn padding_changes_nothing(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        let mut padded = case.clone();
        padded.steps += 3;
        padded.lengths = Some((0..case.batch).map(|n| case.length(n) as i64).collect());
        let pad = |array: &Array3<T>| {
            let (steps, batch, width) = array.dim();
            let mut longer = Array3::from_elem((steps + 3, batch, width), T::ZERO);
            longer.slice_mut(s![..steps, .., ..]).assign(array);
            longer
        };
        let mut its = Data { x: pad(&data.x), dy: data.dy.as_ref().map(pad), ..data };
        its.fill_past_the_ends(&padded, T::of(f64::NAN));
        let mut its_tape = forward(isa, &padded, &its);
        fill_past_the_ends(&padded, &mut its_tape.y, T::of(f64::NAN));
        fill_past_the_ends(&padded, &mut its_tape.gates, T::of(f64::NAN));
        fill_past_the_ends(&padded, &mut its_tape.c_tape, T::of(f64::NAN));
        let its_gradients = backward(isa, &padded, &its, &its_tape);

        let mut tape = tape;
        fill_past_the_ends(case, &mut tape.y, T::of(f64::NAN));
        let y = its_tape.y.slice(s![..case.steps, .., ..]);
        assert_same(case, vec![("y", y.into_dyn())], vec![("y", tape.y.view().into_dyn())]);
        assert_same(case, its_tape.outputs()[1..].to_vec(), tape.outputs()[1..].to_vec());
        assert_same(case, its_gradients.of_sequences()[..2].to_vec(), gradients.of_sequences()[..2].to_vec());
        if let (Some(its), Some(dx)) = (&its_gradients.x, &gradients.x) {
            let its = its.slice(s![..case.steps, .., ..]);
            assert_same(case, vec![("x", its.into_dyn())], vec![("x", dx.view().into_dyn())]);
        }
        // The chains of a weight's gradient are cut at indices t N + n, which more steps leave as they are.
        assert_same(case, its_gradients.of_weights(), gradients.of_weights());
    }
    for case in cases(16, 2) {
        for_both_types!(check(isa, &case));
    }
}

/// No bias, no state, no `dy`, no gradient of the state: as if it were zeros. And `dx` may be left out.
fn what_is_absent_is_zeros(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let whole = Case { bias: true, state: true, dy: true, dstate: true, need_dx: true, ..case.clone() };
        let mut zeros = Data::<T>::new(&whole);
        let without =
            Case { bias: false, state: false, dy: case.dy, dstate: !case.dy, need_dx: false, ..whole.clone() };
        let mut data = Data { b: None, state: None, ..zeros.clone() };
        zeros.b.as_mut().expect("there").fill(T::ZERO);
        let fill = |state: &mut Option<(ndarray::Array2<T>, ndarray::Array2<T>)>| {
            let (h, c) = state.as_mut().expect("there");
            h.fill(T::ZERO);
            c.fill(T::ZERO);
        };
        fill(&mut zeros.state);
        if case.dy {
            data.dstate = None;
            fill(&mut zeros.dstate);
        } else {
            data.dy = None;
            zeros.dy.as_mut().expect("there").fill(T::ZERO);
        }
        let (tape, gradients) = both(isa, &without, &data);
        let (with_zeros, mut others) = both(isa, &whole, &zeros);
        assert_same(case, tape.named(), with_zeros.named());
        assert!(gradients.x.is_none() && gradients.b.is_none());
        (others.x, others.b) = (None, None);
        assert_same(case, gradients.named(), others.named());
    }
    for case in cases(17, 1) {
        for_both_types!(check(isa, &case));
    }
}

/// Weights of so many numbers that packing them is shared out, in blocks of units of which the last is not whole.
fn threads_pack_what_one_packs(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        let _turn = crate::threads::tests::turn();
        let case = Case { projection: Some(211), ..Case::new(CellSpec::GERS_1999, [3, 2, 45, 301]) };
        let data = Data::<T>::new(&case);
        let packed = |threads| {
            let control = Control { threads, cancel: &|| false };
            let mut forward = Forward::with(isa, case.cell, &data.weights(), &control).unwrap();
            let mut backward = Backward::with(isa, case.cell, &data.weights(), &control).unwrap();
            let panels = [Some(&mut forward.w), forward.w_hr.as_mut()].into_iter();
            let panels = panels.chain([Some(&mut backward.w_ih), Some(&mut backward.w_hh), backward.w_hr.as_mut()]);
            let numbers = panels.flatten().flat_map(|panel| panel.blocks_mut().flat_map(|(_, _, numbers)| numbers));
            numbers.map(|number| number.bits()).collect::<Vec<_>>()
        };
        assert!(packed(1) == packed(3), "{}", isa.name());
    }
    check::<f32>(isa);
    check::<f64>(isa);
}
