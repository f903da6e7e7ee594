//! What must not happen: numbers that cross from one sequence into another, padding that counts, states that decay into
//! the subnormals, empty calls that fail.

use ndarray::{Array2, Array3, ArrayViewD, Axis, array, s};

use super::calls::{ALONE, UNTOUCHED, assert_same, backward, both, forward, try_backward};
use super::cases::{Case, Data, Layout, fill_past_the_ends};
use crate::cell::CellSpec;
use crate::cell::tests::every;
use crate::simd::InstructionSet;
use crate::testing::{Real, Rng, assert_same_bits, on_every_isa};

on_every_isa! {
    nan_stays_in_its_sequence,
    past_the_ends_nothing_is_read_or_written,
    final_states_are_those_at_each_end,
    reverse_is_a_mirror,
    states_below_the_threshold_are_positive_zero,
    carries_below_the_threshold_are_positive_zero,
    gradients_below_the_threshold_are_positive_zero,
    empty_calls_give_the_state_back,
    without_input_the_recurrence_runs,
}

const PEEPHOLE: CellSpec = CellSpec { peephole: true, ..CellSpec::GERS_1999 };

/// NaN and infinities in some sequences: the bits of the others are as without, and the NaN is not lost either.
fn nan_stays_in_its_sequence(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let (nan, infinity) = (T::of(f64::NAN), T::of(f64::INFINITY));
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        let mut spoilt = data.clone();
        spoilt.x[[1, 2, 0]] = nan;
        spoilt.x[[0, 5, 1]] = infinity;
        spoilt.dy.as_mut().expect("there")[[2, 6, 0]] = nan;
        spoilt.state.as_mut().expect("there").0[[8, 0]] = nan;
        spoilt.dstate.as_mut().expect("there").1[[9, 3]] = nan;
        let (its_tape, its_gradients) = both(isa, case, &spoilt);
        let clean = |(name, array): (&'static str, ArrayViewD<'_, T>)| {
            (name, array.select(Axis(usize::from(array.ndim() > 2)), &[0, 1, 3, 4, 7, 10]))
        };
        let got = its_tape.named().into_iter().chain(its_gradients.of_sequences()).map(clean);
        let expected = tape.named().into_iter().chain(gradients.of_sequences()).map(clean);
        for ((name, got), (_, expected)) in got.zip(expected) {
            assert_same_bits(&format!("{name} of {case:?}"), got.view(), expected.view());
        }
        // Every unit sees every input, so from there on all is NaN; before it nothing is.
        let is_nan = |x: &T| x.wide().is_nan();
        assert!(its_tape.y.slice(s![1.., 2, ..]).iter().all(is_nan));
        assert!(!its_tape.y.slice(s![0, 2, ..]).iter().any(is_nan));
        assert!(its_tape.h.row(2).iter().all(is_nan) && its_tape.c.row(2).iter().all(is_nan));
        assert!(its_tape.y.slice(s![.., 8, ..]).iter().all(is_nan));
        let dx = its_gradients.x.as_ref().expect("asked for");
        assert!(dx.slice(s![..=2, 6, ..]).iter().all(is_nan));
        assert!(!dx.slice(s![3.., 6, ..]).iter().any(is_nan));
        assert!(its_gradients.h.row(6).iter().all(is_nan) && its_gradients.h.row(9).iter().all(is_nan));
        // The gradients of weights sum over all sequences.
        assert!(its_gradients.w_ih.iter().all(is_nan));
    }
    for cell in [CellSpec::GERS_1999, PEEPHOLE] {
        for projection in [None, Some(5)] {
            let case = Case { projection, seed: 21, ..Case::new(cell, [4, 11, 3, 9]) };
            check::<f32>(isa, &case);
            check::<f64>(isa, &case);
        }
    }
}

/// NaN past the ends in all that is read changes nothing; what is written stays as it was there.
fn past_the_ends_nothing_is_read_or_written(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        let nan = T::of(f64::NAN);
        let mut padded = data.clone();
        padded.fill_past_the_ends(case, nan);
        let mut its_tape = forward(isa, case, &padded);
        assert_same(case, its_tape.named(), tape.named());
        fill_past_the_ends(case, &mut its_tape.y, nan);
        fill_past_the_ends(case, &mut its_tape.gates, nan);
        fill_past_the_ends(case, &mut its_tape.c_tape, nan);
        let its_gradients = backward(isa, case, &padded, &its_tape);
        assert_same(case, its_gradients.named(), gradients.named());
        let untouched = T::of(UNTOUCHED).bits();
        for n in 0..case.batch {
            for t in case.length(n)..case.steps {
                let dx = gradients.x.as_ref().expect("asked for");
                let mut all = tape.y.slice(s![t, n, ..]).to_vec();
                all.extend(tape.gates.slice(s![t, n, .., ..]));
                all.extend(tape.c_tape.slice(s![t, n, ..]));
                all.extend(dx.slice(s![t, n, ..]));
                assert!(all.iter().all(|x| x.bits() == untouched), "step {t} of sequence {n} of {case:?}");
            }
        }
    }
    let mut rng = Rng::new(22);
    for cell in every() {
        for layout in [Layout::TimeMajor, Layout::BatchFirst] {
            let mut case = Case { need_dx: true, layout, ..Case::draw(&mut rng, cell) };
            case.lengths = Some((0..case.batch).map(|_| rng.below(case.steps + 1) as i64).collect());
            check::<f32>(isa, &case);
            check::<f64>(isa, &case);
        }
    }
}

fn final_states_are_those_at_each_end(isa: InstructionSet) {
    for reverse in [false, true] {
        for projection in [None, Some(3)] {
            let lengths = vec![0, 1, 5, 3, 0, 5];
            let case = Case { reverse, projection, lengths: Some(lengths), ..Case::new(PEEPHOLE, [5, 6, 2, 9]) };
            let data = Data::<f32>::new(&case);
            let (tape, gradients) = both(isa, &case, &data);
            let ((h, c), (dh, dc)) = (data.state.as_ref().expect("there"), data.dstate.as_ref().expect("there"));
            for n in 0..case.batch {
                let (last_h, last_c) = match case.length(n) {
                    0 => (h.row(n), c.row(n)),
                    length => {
                        let t = if reverse { 0 } else { length - 1 };
                        (tape.y.slice(s![t, n, ..]), tape.c_tape.slice(s![t, n, ..]))
                    }
                };
                assert_same_bits("h", tape.h.row(n), last_h);
                assert_same_bits("c", tape.c.row(n), last_c);
                if case.length(n) == 0 {
                    assert_same_bits("dh", gradients.h.row(n), dh.row(n));
                    assert_same_bits("dc", gradients.c.row(n), dc.row(n));
                }
            }
        }
    }
}

/// Each sequence turned round in time, and run the other way: the same turned round.
fn reverse_is_a_mirror(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let turn = |array: &Array3<T>| {
            let mut turned = array.clone();
            for n in 0..case.batch {
                let length = case.length(n);
                turned.slice_mut(s![..length, n, ..]).assign(&array.slice(s![..length;-1, n, ..]));
            }
            turned
        };
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        let other = Case { reverse: !case.reverse, ..case.clone() };
        let turned = Data { x: turn(&data.x), dy: data.dy.as_ref().map(turn), ..data };
        let (its_tape, its_gradients) = both(isa, &other, &turned);
        let y = turn(&its_tape.y);
        assert_same(case, vec![("y", y.view().into_dyn())], vec![("y", tape.y.view().into_dyn())]);
        assert_same(case, its_tape.outputs()[1..].to_vec(), tape.outputs()[1..].to_vec());
        assert_same(case, its_gradients.of_sequences()[..2].to_vec(), gradients.of_sequences()[..2].to_vec());
        if let (Some(x), Some(dx)) = (&its_gradients.x, &gradients.x) {
            assert_same(case, vec![("x", turn(x).view().into_dyn())], vec![("x", dx.view().into_dyn())]);
        }
    }
    let mut rng = Rng::new(23);
    for cell in every() {
        let case = Case::draw(&mut rng, cell);
        check::<f32>(isa, &case);
        check::<f64>(isa, &case);
    }
}

/// With weights of 0 every gate is exactly 1/2 and the input of the cell 0: the state is halved at each step.
fn halving<T: Real>(hidden: usize, steps: usize) -> (Case, Data<T>) {
    let case = Case { bias: false, ..Case::new(CellSpec::GERS_1999, [steps, 2, 1, hidden]) };
    let mut data = Data::new(&case);
    data.w_ih.fill(T::ZERO);
    data.w_hh.fill(T::ZERO);
    data.dy = None;
    (case, data)
}

/// `by` times the threshold.
fn threshold<T: Real>(by: f64) -> T {
    T::of(by * T::SNAP.wide())
}

fn states_below_the_threshold_are_positive_zero(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        for (start, after) in [(4.0, [2.0, 1.0, 0.0, 0.0]), (-4.0, [-2.0, -1.0, 0.0, 0.0]), (1.5, [0.0; 4])] {
            for hidden in [1, 7, 33] {
                let (case, mut data) = halving::<T>(hidden, 4);
                data.state.as_mut().expect("there").1.fill(threshold(start));
                let out = forward(isa, &case, &data);
                for (t, by) in after.into_iter().enumerate() {
                    let expected = Array2::from_elem((2, hidden), threshold::<T>(by));
                    assert_same_bits("c", out.c_tape.index_axis(Axis(0), t), expected.view());
                }
                assert_same_bits("c", out.c.view(), Array2::from_elem((2, hidden), threshold::<T>(after[3])).view());
            }
        }
    }
    check::<f32>(isa);
    check::<f64>(isa);
}

/// d_z_g is half of d_c, and d_x that times a weight of 1; the others are 0, as states and inputs of the cell are.
fn gradients_below_the_threshold_are_positive_zero(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        for (start, expected) in [(4.0, 2.0), (2.0, 1.0), (1.5, 0.0), (-2.0, -1.0), (-1.5, 0.0)] {
            let (case, mut data) = halving::<T>(7, 1);
            let case = Case { state: false, ..case };
            data.w_ih[[2 * 7 + 3, 0]] = T::ONE;
            let (dh, dc) = data.dstate.as_mut().expect("there");
            dh.fill(T::ZERO);
            dc.fill(threshold(start));
            data.x.fill(T::ZERO);
            let (_, gradients) = both(isa, &case, &data);
            let dx = gradients.x.expect("asked for");
            assert_same_bits("dx", dx.view(), Array3::from_elem((1, 2, 1), threshold::<T>(expected)).view());
        }
    }
    check::<f32>(isa);
    check::<f64>(isa);
}

fn carries_below_the_threshold_are_positive_zero(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        for (start, after) in [(4.0, [2.0, 1.0, 0.0]), (-4.0, [-2.0, -1.0, 0.0])] {
            for (steps, by) in (1..).zip(after) {
                let (case, mut data) = halving::<T>(7, steps);
                let (dh, dc) = data.dstate.as_mut().expect("there");
                dh.fill(T::ZERO);
                dc.fill(threshold(start));
                let (_, gradients) = both(isa, &case, &data);
                assert_same_bits("dc", gradients.c.view(), Array2::from_elem((2, 7), threshold::<T>(by)).view());
            }
        }
        // The carry of h: d_z_g is 1/2 at unit 0, and 0 elsewhere.
        let (case, mut data) = halving::<T>(3, 1);
        data.state = None;
        let g = 2 * 3;
        for (unit, by) in [4.0, 1.0, -1.0].into_iter().enumerate() {
            data.w_hh[[g, unit]] = threshold(by);
        }
        let (dh, dc) = data.dstate.as_mut().expect("there");
        dh.fill(T::ZERO);
        dc.fill(T::ZERO);
        dc.column_mut(0).fill(T::ONE);
        let (_, gradients) = both(isa, &Case { state: false, ..case }, &data);
        for row in gradients.h.rows() {
            let expected = array![threshold::<T>(2.0), T::ZERO, T::ZERO];
            assert_same_bits("dh", row, expected.view());
        }
        // A gradient that comes in is not a carry: it is passed through as it is.
        let (case, mut data) = halving::<T>(3, 1);
        let case = Case { lengths: Some(vec![0, 0]), ..case };
        data.dstate.as_mut().expect("there").1.fill(threshold(0.5));
        let (_, gradients) = both(isa, &case, &data);
        assert_same_bits("dc", gradients.c.view(), Array2::from_elem((2, 3), threshold::<T>(0.5)).view());
    }
    check::<f32>(isa);
    check::<f64>(isa);
}

/// No steps, no sequences, or no steps in any: the state back, and no gradient of weights.
fn empty_calls_give_the_state_back(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let data = Data::<T>::new(case);
        let (tape, gradients) = both(isa, case, &data);
        let zeros = (Array2::from_elem(tape.h.dim(), T::ZERO), Array2::from_elem(tape.c.dim(), T::ZERO));
        let (h, c) = data.state.as_ref().unwrap_or(&zeros);
        assert_same_bits("h", tape.h.view(), h.view());
        assert_same_bits("c", tape.c.view(), c.view());
        let (dh, dc) = data.dstate.as_ref().unwrap_or(&zeros);
        assert_same_bits("dh", gradients.h.view(), dh.view());
        assert_same_bits("dc", gradients.c.view(), dc.view());
        for (name, gradient) in gradients.of_weights() {
            assert!(gradient.iter().all(|x| x.bits() == 0), "{name}");
        }
        let untouched = |x: &T| *x == T::of(UNTOUCHED);
        assert!(tape.y.iter().chain(&tape.gates).chain(&tape.c_tape).all(untouched));
        assert!(gradients.x.expect("asked for").iter().all(untouched));
    }
    for cell in [CellSpec::GERS_1999, PEEPHOLE] {
        for [steps, batch, input, hidden] in [[0, 3, 2, 5], [4, 0, 2, 5], [0, 0, 2, 5], [0, 3, 0, 1], [3, 2, 2, 17]] {
            for (projection, state) in [(None, true), (Some(3), false)] {
                let lengths = Some(vec![0; batch]).filter(|_| steps == 3);
                let case = Case {
                    projection,
                    state,
                    dstate: state,
                    lengths,
                    ..Case::new(cell, [steps, batch, input, hidden])
                };
                for (reverse, layout) in [(false, Layout::TimeMajor), (true, Layout::BatchFirst), (false, Layout::Part)]
                {
                    let case = Case { reverse, layout, ..case.clone() };
                    check::<f32>(isa, &case);
                    check::<f64>(isa, &case);
                }
            }
        }
    }
}

/// I = 0 is as an input of zeros.
fn without_input_the_recurrence_runs(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, projection: Option<usize>) {
        let case = Case { projection, ..Case::new(PEEPHOLE, [5, 3, 0, 9]) };
        let data = Data::<T>::new(&case);
        let wider = Case { input: 2, ..case.clone() };
        let with_zeros = Data {
            x: Array3::from_elem((5, 3, 2), T::ZERO),
            w_ih: Array2::from_elem((data.w_ih.nrows(), 2), T::ONE),
            ..data.clone()
        };
        let (tape, gradients) = both(isa, &case, &data);
        let (expected, others) = both(isa, &wider, &with_zeros);
        assert_same(&case, tape.named(), expected.named());
        assert_same(&case, gradients.of_sequences()[..2].to_vec(), others.of_sequences()[..2].to_vec());
        assert_same(&case, gradients.of_weights()[1..].to_vec(), others.of_weights()[1..].to_vec());
        assert_eq!(gradients.x.expect("asked for").dim(), (5, 3, 0));
        assert_eq!(gradients.w_ih.dim(), (36, 0));
        assert!(tape.y.iter().any(|y| y.wide() != 0.0));
        // And nobody has to ask for a gradient that has no numbers.
        let without = Case { need_dx: false, ..case.clone() };
        assert!(try_backward(isa, &without, &data, &tape, &ALONE).is_ok());
    }
    for projection in [None, Some(4)] {
        check::<f32>(isa, projection);
        check::<f64>(isa, projection);
    }
}
