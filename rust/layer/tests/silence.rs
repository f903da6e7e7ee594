//! A long silence: what is left of an input decays, and the gradient on its way back. Numbers below the normal ones cost
//! some CPUs a hundredfold, so none may come up, not even on the way to a normal one: the CPU itself keeps count. Of x86-64 alone: the flags
//! of others are not read here.

use ndarray::Axis;

use super::calls::{ALONE, forward, try_backward};
use super::cases::{Case, Data};
use crate::cell::tests::all;
use crate::simd::InstructionSet;
use crate::simd::flags::meets_subnormals;
use crate::testing::{Real, on_every_isa};

on_every_isa! { what_decays_never_becomes_subnormal }

/// Something at the first step, and nothing after it; a gradient at the last step, and nothing before it. Biases of 0, but
/// for the forget gate, that lets everything fade.
fn pulse<T: Real>(case: &Case, fade: f64) -> Data<T> {
    let mut data = Data::<T>::new(case);
    data.x.slice_axis_mut(Axis(0), (1..).into()).fill(T::ZERO);
    let dy = data.dy.as_mut().expect("there");
    dy.slice_axis_mut(Axis(0), (..case.steps as isize - 1).into()).fill(T::ZERO);
    let bias = data.b.as_mut().expect("there");
    bias.fill(T::ZERO);
    if let Some(f) = case.cell.gate_rows().f {
        bias.slice_axis_mut(Axis(0), (f * case.hidden..(f + 1) * case.hidden).into()).fill(T::of(-fade));
    }
    data
}

fn what_decays_never_becomes_subnormal(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        for cell in all().into_iter().filter(|cell| cell.forget_gate && cell.output_gate) {
            for (batch, fade) in [(1, 0.5), (1, 2.0), (7, 1.0), (26, 0.0)] {
                let steps = if size_of::<T>() == 4 { 250 } else { 900 };
                let case = Case { dstate: false, ..Case::new(cell, [steps, batch, 3, 18]) };
                let data = pulse::<T>(&case, fade);
                let (tape, met) = meets_subnormals(|| forward(isa, &case, &data));
                assert!(!met, "forward, {case:?}");
                let (gradients, met) = meets_subnormals(|| try_backward(isa, &case, &data, &tape, &ALONE));
                assert!(gradients.is_ok() && !met, "backward, {case:?}");
            }
        }
    }
    check::<f32>(isa);
    check::<f64>(isa);
}
