//! Calls that are stopped in the middle of a step, of which one may take seconds.

use ndarray::{Array1, Array2, ArrayViewD};

use super::calls::{ALONE, forward, stop_at, try_backward, try_forward};
use super::cases::{Case, Data};
use crate::cell::CellSpec;
use crate::error::{Error, Result};
use crate::layer::share::{FORCED, Split, WATCHED};
use crate::layer::{Backward, Control, Forward, Linear, LinearGradients, Workspace};
use crate::simd::InstructionSet;
use crate::testing::{assert_same_bits, on_every_isa};

on_every_isa! {
    a_step_can_be_stopped,
    a_read_out_can_be_stopped,
    packing_can_be_stopped,
}

/// Ends `call` at some of the moments at which it asks, of which there are at least so many.
fn stopped(least: usize, threads: usize, call: &dyn Fn(&Control<'_>) -> Result<()>) {
    let (result, all) = stop_at(usize::MAX, threads, call);
    assert_eq!(result, Ok(()));
    assert!(all >= least, "asks {all} times, expected at least {least}");
    // Not at each of hundreds of moments: this is run under qemu, too.
    let apart = all.div_ceil(8).max(1);
    // Other threads may come to the end first: then there is less to ask, but for the first questions.
    for at in if threads == 1 { (0..all).step_by(apart) } else { (0..all.min(2)).step_by(1) } {
        assert_eq!(stop_at(at, threads, call), (Err(Error::Cancelled), at + 1));
    }
    for at in (0..all).step_by(apart).filter(|_| threads > 1) {
        assert!(matches!(stop_at(at, threads, call).0, Ok(()) | Err(Error::Cancelled)));
    }
}

/// With so few multiplications between two questions as no call of a test's size has otherwise.
fn watched(run: impl Fn(usize)) {
    let _turn = crate::threads::tests::turn();
    let before = WATCHED.replace(1 << 10);
    for (threads, split) in [(1, None), (2, Some(Split::Batch)), (3, Some(Split::Batch)), (3, Some(Split::Units))] {
        FORCED.set(split);
        run(threads);
    }
    FORCED.set(None);
    WATCHED.set(before);
}

fn same<'a>(
    actual: impl IntoIterator<Item = (&'static str, ArrayViewD<'a, f32>)>,
    expected: impl IntoIterator<Item = (&'static str, ArrayViewD<'a, f32>)>,
) {
    actual.into_iter().zip(expected).for_each(|((name, one), (_, other))| assert_same_bits(name, one, other));
}

fn a_step_can_be_stopped(isa: InstructionSet) {
    let peephole = CellSpec { peephole: true, ..CellSpec::GERS_1999 };
    // And how often each asks, at least, also where a worker has a third of its units: before the first step, and in it,
    // unless it is one of a single sequence by few units.
    for (case, least) in [
        (Case::new(peephole, [1, 150, 5, 37]), 2),
        (Case::new(CellSpec::GERS_1999, [3, 1, 40, 70]), 1),
        (Case::new(CellSpec::GERS_1999, [30, 3, 20, 37]), 2),
        (Case { projection: Some(19), ..Case::new(peephole, [2, 60, 5, 37]) }, 2),
    ] {
        let data = Data::<f32>::new(&case);
        let (y, gradients) =
            (forward(isa, &case, &data), super::calls::backward(isa, &case, &data, &forward(isa, &case, &data)));
        watched(|threads| {
            stopped(least, threads, &|control| {
                let got = try_forward(isa, &case, &data, true, control)?;
                same([("y", got.y.view().into_dyn())], [("y", y.y.view().into_dyn())]);
                Ok(())
            });
            stopped(least, threads, &|control| {
                let got = try_backward(isa, &case, &data, &y, control)?;
                same(got.named(), gradients.named());
                Ok(())
            });
        });
    }
}

fn a_read_out_can_be_stopped(isa: InstructionSet) {
    let number = |k: usize| (k * 37 % 101) as f32 / 50.0 - 1.0;
    let array = |rows, columns| Array2::from_shape_fn((rows, columns), |(m, k)| number(m * 7 + k));
    let (weight, x, dy) = (array(31, 40), array(100, 40), array(100, 31));
    let linear = Linear::new(isa, weight.view(), None).unwrap();
    let run = |control: &Control<'_>| -> Result<[Array2<f32>; 3]> {
        let [mut y, mut dx, mut d_weight] = [dy.dim(), x.dim(), weight.dim()].map(Array2::zeros);
        let mut d_bias = Array1::zeros(31);
        let mut workspace = Workspace::default();
        linear.forward(&mut workspace, x.view(), y.view_mut(), control)?;
        let (x_out, bias) = (Some(dx.view_mut()), Some(d_bias.view_mut()));
        let out = LinearGradients { x: x_out, weight: d_weight.view_mut(), bias };
        linear.backward(&mut workspace, x.view(), dy.view(), out, control)?;
        Ok([y, dx, d_weight])
    };
    let expected = run(&ALONE).unwrap();
    watched(|threads| {
        stopped(5, threads, &|control| {
            run(control)?
                .iter()
                .zip(&expected)
                .for_each(|(got, one)| assert_same_bits("gradient", got.view(), one.view()));
            Ok(())
        });
    });
}

fn packing_can_be_stopped(isa: InstructionSet) {
    let case = Case { projection: Some(40), ..Case::new(CellSpec::GERS_1999, [1, 1, 50, 90]) };
    let data = Data::<f32>::new(&case);
    watched(|threads| {
        stopped(3, threads, &|control| Forward::with(isa, case.cell, &data.weights(), control).map(drop));
        stopped(3, threads, &|control| Backward::with(isa, case.cell, &data.weights(), control).map(drop));
    });
}
