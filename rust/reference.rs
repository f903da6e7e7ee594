//! The forward equations as plain loops in double precision: no tile, no vector, no chunk, no packing.
//!
//! What the engine computes is compared with this. Gradients have no formula here at all: the engine's are compared with
//! differences of [`loss`]. The only thing taken from the engine is the order of the gates' rows, and the rule that a
//! state below [`Element::SNAP`] is +0.

use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayView3};

use crate::cell::{Activation, CellSpec};
use crate::layer::{Input, Weights};
use crate::simd::Element;

/// What comes out; 0 past each sequence's end.
pub(crate) struct Outcome {
    /// (T, N, P)
    pub(crate) y: Array3<f64>,
    /// (N, P)
    pub(crate) h: Array2<f64>,
    /// (N, H)
    pub(crate) c: Array2<f64>,
    /// (T, N, G, H)
    pub(crate) gates: Array4<f64>,
    /// (T, N, H): the state after each step.
    pub(crate) c_tape: Array3<f64>,
}

/// One layer, one direction.
pub(crate) fn forward(cell: CellSpec, weights: &Weights<'_, f64>, input: &Input<'_, f64>) -> Outcome {
    let (steps, batch, _) = input.x.dim();
    let (rows, looks) = (cell.gate_rows(), cell.peephole_rows());
    let hidden = weights.w_ih.nrows() / rows.count;
    let output = weights.w_hh.ncols();
    let mut out = Outcome {
        y: Array3::zeros((steps, batch, output)),
        h: Array2::zeros((batch, output)),
        c: Array2::zeros((batch, hidden)),
        gates: Array4::zeros((steps, batch, rows.count, hidden)),
        c_tape: Array3::zeros((steps, batch, hidden)),
    };
    for n in 0..batch {
        let mut r = vec![0.0; output];
        let mut c = vec![0.0; hidden];
        if let Some(state) = &input.state {
            r = state.h.row(n).to_vec();
            c = state.c.row(n).to_vec();
        }
        let length = input.lengths.map_or(steps, |lengths| lengths[n] as usize);
        for s in 0..length {
            let t = if input.reverse { length - 1 - s } else { s };
            // What goes into the gate that has these rows, for one unit, but for the peephole.
            let z = |gate: usize, unit: usize| {
                let row = gate * hidden + unit;
                let mut z = weights.b.map_or(0.0, |b| b[row]);
                for (k, &x) in input.x.slice(ndarray::s![t, n, ..]).iter().enumerate() {
                    z += weights.w_ih[[row, k]] * x;
                }
                for (k, &r) in r.iter().enumerate() {
                    z += weights.w_hh[[row, k]] * r;
                }
                z
            };
            let look = |row: Option<usize>, unit: usize, state: f64| match (row, weights.peephole) {
                (Some(row), Some(peephole)) => peephole[[row, unit]] * state,
                _ => 0.0,
            };
            let mut h = vec![0.0; hidden];
            for unit in 0..hidden {
                let before = c[unit];
                let clip = |x: f64, clip: f64| x.clamp(-clip, clip);
                let gate = |z: f64| squash(cell.gate_activation, clip(z, cell.gate_clip));
                let i = rows.i.map_or(1.0, |row| gate(z(row, unit) + look(looks.i, unit, before)));
                let f = match cell.coupled {
                    true => 1.0 - i,
                    false => rows.f.map_or(1.0, |row| gate(z(row, unit) + look(looks.f, unit, before))),
                };
                let g = squash(cell.input_activation, clip(z(rows.g, unit), cell.gate_clip));
                c[unit] = clip(snap(f * before + i * g), cell.cell_clip);
                let o = rows.o.map_or(1.0, |row| gate(z(row, unit) + look(looks.o, unit, c[unit])));
                h[unit] = o * squash(cell.output_activation, c[unit]);
                for (row, gate) in [(rows.i, i), (rows.f, f), (Some(rows.g), g), (rows.o, o)] {
                    if let Some(row) = row {
                        out.gates[[t, n, row, unit]] = gate;
                    }
                }
                out.c_tape[[t, n, unit]] = c[unit];
            }
            r = match weights.w_hr {
                None => h,
                Some(w_hr) => {
                    let row = |p: usize| h.iter().enumerate().map(|(k, h)| w_hr[[p, k]] * h).sum();
                    (0..output).map(row).collect()
                }
            };
            for (p, &r) in r.iter().enumerate() {
                out.y[[t, n, p]] = r;
            }
        }
        for (p, &r) in r.iter().enumerate() {
            out.h[[n, p]] = r;
        }
        for (unit, &c) in c.iter().enumerate() {
            out.c[[n, unit]] = c;
        }
    }
    out
}

/// A loss whose gradients with respect to `y`, `h` and `c` are these.
pub(crate) fn loss(
    out: &Outcome,
    dy: Option<ArrayView3<'_, f64>>,
    dstate: Option<(ArrayView2<'_, f64>, ArrayView2<'_, f64>)>,
) -> f64 {
    let mut loss = 0.0;
    if let Some(dy) = dy {
        loss += out.y.iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>();
    }
    if let Some((dh, dc)) = dstate {
        loss += out.h.iter().zip(dh).map(|(h, dh)| h * dh).sum::<f64>();
        loss += out.c.iter().zip(dc).map(|(c, dc)| c * dc).sum::<f64>();
    }
    loss
}

/// The slope of `f` at 0 by central differences of fourth order.
///
/// With a step of 2^-11 the two errors, of the fifth derivative (4 * 2^-44 / 120 of it) and of the roundings (about 2^-41
/// of the value), are both far below 1e-9.
pub(crate) fn slope(mut f: impl FnMut(f64) -> f64) -> f64 {
    const STEP: f64 = 1.0 / 2048.0;
    (8.0 * (f(STEP) - f(-STEP)) - (f(2.0 * STEP) - f(-2.0 * STEP))) / (12.0 * STEP)
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// An activation.
pub(crate) fn squash(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Sigmoid => sigmoid(z),
        Activation::Tanh => z.tanh(),
        Activation::Identity => z,
        // Not f64::max, for which NaN is nothing.
        Activation::Relu => {
            if z < 0.0 {
                0.0
            } else {
                z
            }
        }
        Activation::Affine { alpha, beta } => alpha.mul_add(z, beta),
        Activation::LeakyRelu { alpha } => {
            if z < 0.0 {
                alpha * z
            } else {
                z
            }
        }
        Activation::ThresholdedRelu { alpha } => {
            if z <= alpha {
                0.0
            } else {
                z
            }
        }
        Activation::ScaledTanh { alpha, beta } => alpha * (beta * z).tanh(),
        Activation::HardSigmoid { alpha, beta } => alpha.mul_add(z, beta).clamp(0.0, 1.0),
        Activation::Elu { alpha } => {
            if z > 0.0 {
                z
            } else {
                alpha * z.exp_m1()
            }
        }
        Activation::Softsign => z / (1.0 + z.abs()),
        Activation::Softplus => (if z < 0.0 { 0.0 } else { z }) + (-z.abs()).exp().ln_1p(),
    }
}

fn snap(state: f64) -> f64 {
    if state.abs() < f64::SNAP { 0.0 } else { state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::State;
    use ndarray::array;

    /// Two steps of one unit with every part of the cell, against numbers from outside: the same sums in Python's
    /// `decimal` with 40 digits.
    #[test]
    fn two_steps_by_hand() {
        let cell = CellSpec { peephole: true, ..CellSpec::GERS_1999 };
        let w_ih = array![[0.5], [-0.25], [0.75], [1.0]];
        let w_hh = array![[0.125], [0.5], [-0.5], [0.25]];
        let (b, peephole, w_hr) = (array![0.25, 0.5, -0.125, 0.0], array![[0.5], [-1.0], [0.25]], array![[2.0]]);
        let weights = Weights {
            w_ih: w_ih.view(),
            w_hh: w_hh.view(),
            b: Some(b.view()),
            peephole: Some(peephole.view()),
            w_hr: Some(w_hr.view()),
        };
        let (x, h, c) = (array![[[1.0]], [[-0.5]]], array![[0.25]], array![[-0.5]]);
        let state = Some(State { h: h.view(), c: c.view() });
        let out = forward(cell, &weights, &Input { x: x.view(), state, lengths: None, reverse: false });
        let near = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-15, "{got} {expected}");
        near(out.y[[0, 0, 0]], -0.09146574923503561);
        near(out.gates[[0, 0, 0, 0]], 0.6297746074044134);
        near(out.gates[[0, 0, 1, 0]], 0.7057850278370112);
        near(out.gates[[0, 0, 2, 0]], 0.46211715726000974);
        near(out.gates[[0, 0, 3, 0]], 0.7402049938386354);
        near(out.c_tape[[0, 0, 0]], -0.0618628626302394);
        near(out.y[[1, 0, 0]], -0.17438641777279057);
        near(out.gates[[1, 0, 0, 0]], 0.4894104212760913);
        near(out.gates[[1, 0, 1, 0]], 0.6550088512534209);
        near(out.gates[[1, 0, 2, 0]], -0.42540026300940786);
        near(out.gates[[1, 0, 3, 0]], 0.3577724642270973);
        near(out.c_tape[[1, 0, 0]], -0.24871604451707563);
        near(out.h[[0, 0]], -0.17438641777279057);
        near(out.c[[0, 0]], -0.24871604451707563);
        let back = forward(cell, &weights, &Input { x: x.view(), state, lengths: Some(&[1]), reverse: true });
        near(back.y[[0, 0, 0]], out.y[[0, 0, 0]]);
        assert_eq!(back.y[[1, 0, 0]], 0.0);
    }

    #[test]
    fn slopes_are_those_of_calculus() {
        let error = slope(|x| (1.0 + x).tanh()) - (1.0 - 1f64.tanh().powi(2));
        assert!(error.abs() < 1e-11, "{error:e}");
    }
}
