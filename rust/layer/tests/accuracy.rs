//! Near the reference: forward against its loops, gradients against differences of it, single against double precision.

use super::calls::{Forwarded, backward, both, forward};
use super::cases::{Case, Data, fill_past_the_ends};
use crate::cell::tests::{all, every};
use crate::reference;
use crate::simd::InstructionSet;
use crate::testing::{Real, Rng, assert_close, first_far, on_every_isa};

on_every_isa! {
    forward_is_near_the_reference,
    gradients_are_slopes_of_the_reference,
    single_precision_gradients_are_near_double_precision,
}

/// As the reference has it: 0 past the ends.
fn forward_with_zeros<T: Real>(isa: InstructionSet, case: &Case, data: &Data<T>) -> Forwarded<T> {
    let mut out = forward(isa, case, data);
    fill_past_the_ends(case, &mut out.y, T::ZERO);
    fill_past_the_ends(case, &mut out.gates, T::ZERO);
    fill_past_the_ends(case, &mut out.c_tape, T::ZERO);
    out
}

#[track_caller]
fn check_forward<T: Real>(isa: InstructionSet, case: &Case) {
    let wide = Data::<f64>::new(case);
    let expected = reference::forward(case.cell, &wide.weights(), &wide.input(case));
    let got = forward_with_zeros(isa, case, &Data::<T>::new(case));
    let expected = [
        expected.y.into_dyn(),
        expected.h.into_dyn(),
        expected.c.into_dyn(),
        expected.gates.into_dyn(),
        expected.c_tape.into_dyn(),
    ];
    for ((name, got), expected) in got.named().into_iter().zip(expected) {
        assert_close(&format!("{name} of {case:?}"), got, expected.view(), case.depth(false, false));
    }
}

fn forward_is_near_the_reference(isa: InstructionSet) {
    let mut rng = Rng::new(1);
    for cell in every() {
        for _ in 0..4 {
            let case = Case::draw(&mut rng, cell);
            check_forward::<f32>(isa, &case);
            check_forward::<f64>(isa, &case);
        }
    }
    for case in Case::many_chunks() {
        check_forward::<f32>(isa, &case);
        check_forward::<f64>(isa, &case);
    }
}

/// Every gradient in double precision, at up to 5 places of each array, against central differences of the reference.
///
/// Those are right to about 1e-10 (see `reference::slope`); what is to be found here is wrong in its first digits.
fn gradients_are_slopes_of_the_reference(isa: InstructionSet) {
    let mut rng = Rng::new(2);
    let (mut checked, mut corners) = (0, 0);
    for cell in every() {
        for _ in 0..2 {
            let mut case = Case::draw(&mut rng, cell);
            // Every gradient, then, and not too many units: each place takes four runs of the reference.
            (case.state, case.bias, case.need_dx) = (true, true, true);
            (case.steps, case.batch) = (case.steps.min(4), case.batch.min(3));
            case.lengths = case.lengths.map(|lengths| {
                let most = case.steps as i64;
                lengths[..case.batch].iter().map(|&length| length.min(most)).collect()
            });
            let (places, at_corners) = check_slopes(isa, &case, &mut rng);
            (checked, corners) = (checked + places, corners + at_corners);
        }
    }
    assert!(corners * 50 < checked, "{corners} of {checked} places are near a corner, where there is no slope");
}

/// How many places were looked at, and at how many of them a corner of an activation was too near for a difference.
#[track_caller]
fn check_slopes(isa: InstructionSet, case: &Case, rng: &mut Rng) -> (usize, usize) {
    let (mut checked, mut corners) = (0, 0);
    let mut data = Data::<f64>::new(case);
    let (_, mut gradients) = both(isa, case, &data);
    fill_past_the_ends(case, gradients.x.as_mut().expect("asked for"), 0.0);
    for (name, gradient) in gradients.named() {
        let count = gradient.len();
        let some = if count <= 5 { (0..count).collect() } else { (0..5).map(|_| rng.below(count)).collect::<Vec<_>>() };
        for at in some {
            let mut loss = |step| {
                let set = |data: &mut Data<f64>, value: Option<f64>| {
                    let mut all = data.parameters_mut();
                    let (_, array) = all.iter_mut().find(|(other, _)| *other == name).expect("there");
                    let place = array.iter_mut().nth(at).expect("in bounds");
                    std::mem::replace(place, value.unwrap_or(*place + step))
                };
                let before = set(&mut data, None);
                let out = reference::forward(case.cell, &data.weights(), &data.input(case));
                set(&mut data, Some(before));
                let dstate = data.dstate.as_ref().map(|(h, c)| (h.view(), c.view()));
                reference::loss(&out, data.dy.as_ref().map(|dy| dy.view()), dstate)
            };
            let slope = reference::slope(&mut loss);
            let most = 1e-9 * slope.abs().max(1.0);
            checked += 1;
            // A corner in between is in other places of a shorter difference.
            if (reference::slope(|step| loss(step / 16.0) * 16.0) - slope).abs() > most {
                corners += 1;
                continue;
            }
            let got = *gradient.iter().nth(at).expect("in bounds");
            assert!((got - slope).abs() <= most, "{name}[{at}] of {case:?}: {got}, but the slope is {slope}");
        }
    }
    (checked, corners)
}

/// Every element, against the same run in double precision, whose gradients the test above has checked.
fn single_precision_gradients_are_near_double_precision(isa: InstructionSet) {
    let mut rng = Rng::new(3);
    let mut cases = Case::many_chunks();
    for cell in every() {
        cases.extend((0..3).map(|_| Case::draw(&mut rng, cell)));
    }
    for case in &cases {
        let (_, single) = both(isa, case, &Data::<f32>::new(case));
        let (_, double) = both(isa, case, &Data::<f64>::new(case));
        for ((name, single), (_, double)) in single.of_sequences().into_iter().zip(double.of_sequences()) {
            assert_close(&format!("{name} of {case:?}"), single, double, case.depth(true, false));
        }
        for ((name, single), (_, double)) in single.of_weights().into_iter().zip(double.of_weights()) {
            assert_close(&format!("{name} of {case:?}"), single, double, case.depth(true, true));
        }
    }
}

/// The checks above see a single wrong element: here one is made, in each array in turn.
#[test]
fn a_wrong_element_is_seen() {
    let case = Case { seed: 4, ..Case::new(all()[0], [4, 3, 2, 5]) };
    let data = Data::<f64>::new(&case);
    let isa = InstructionSet::Scalar;
    let (tape, gradients) = both(isa, &case, &data);
    for (name, array) in tape.named().into_iter().chain(gradients.named()) {
        let mut wrong = array.to_owned();
        *wrong.iter_mut().last().expect("not empty") *= 1.0 + 1e-6;
        let tolerance = |scale| crate::testing::tolerance::<f64>(case.depth(true, true), scale);
        assert!(first_far(wrong.view(), array.view(), tolerance).is_some(), "{name}");
    }
    // And backward depends on everything that it is given.
    for which in 0..5 {
        let (mut other, mut wrong) = (data.clone(), tape.clone());
        match which {
            0 => other.x[[1, 1, 1]] += 0.5,
            1 => other.dy.as_mut().expect("there")[[1, 1, 1]] += 0.5,
            2 => wrong.gates[[1, 1, 1, 1]] += 0.5,
            3 => wrong.c_tape[[1, 1, 1]] += 0.5,
            _ => wrong.y[[1, 1, 1]] += 0.5,
        }
        let others = backward(isa, &case, &other, &wrong);
        assert!(others.named() != gradients.named(), "{which}");
    }
}
