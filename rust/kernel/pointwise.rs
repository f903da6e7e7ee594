//! What happens to each unit by itself: pre-activations to `(c, h)`, and its gradient, side by side.
//!
//! Forward (Graves, Mohamed & Hinton 2013; an absent gate is 1, coupled: `f = 1 - i`):
//!
//! ```text
//! i = sigmoid(z_i + p_i c')      f = sigmoid(z_f + p_f c')      g = tanh(z_g)        c' the state of the step before
//! c = f c' + i g                 o = sigmoid(z_o + p_o c)       h = o tanh(c)
//! ```
//!
//! Backward, from `d_h` and the carry `d_c'` of the step after:
//!
//! ```text
//! a = tanh(c)            d_z_o = d_h a o(1-o)           d_c = d_h o (1-a^2) + d_c' + p_o d_z_o
//! d_z_f = d_c c' f(1-f)  d_z_i = d_c g i(1-i)           d_z_g = d_c i (1-g^2)
//! coupled: d_z_i = d_c (g - c') i(1-i)                  carry: d_c f + p_i d_z_i + p_f d_z_f
//! ```
//!
//! Another activation takes the place of sigmoid or tanh, and its slope that of s(1-s) or 1-a^2. Where `gate_clip` has cut
//! what goes into an activation its slope is 0, and where `cell_clip` has cut `c`, `d_c` is 0.
//!
//! No closure touches a vector here: only functions can be `#[inline(always)]`, and what is not inlined loses the
//! instruction set's features.
//!
//! The order of the roundings is part of the bit contract; the comments at the lines give it. `c`, the carry and each `d_z`
//! become +0 below [`Element::SNAP`].

use super::activation::{activate, cut, slope};
use crate::cell::{Activation, CellSpec};
use crate::simd::memory::{Columns, ColumnsMut};
use crate::simd::{Element, Lanes};

/// A vector of numbers from `at` on: WHOLE, or with zeros behind the end.
#[inline(always)]
fn get<S: Lanes<T>, T: Element, const WHOLE: bool>(simd: S, from: &[T], at: usize) -> S::V {
    let from = &from[at..];
    if WHOLE { simd.load(&simd.vectors(from)[0]) } else { simd.load_partial(from) }
}

/// A vector to memory from `at` on: WHOLE, or as far as there is room.
#[inline(always)]
fn put<S: Lanes<T>, T: Element, const WHOLE: bool>(simd: S, v: S::V, to: &mut [T], at: usize) {
    let to = &mut to[at..];
    if WHOLE { simd.store(v, &mut simd.vectors_mut(to)[0]) } else { simd.store_partial(v, to) }
}

/// Runs `$body` for each vector of `$count` numbers, with `$at` where it starts and `WHOLE` a constant: the last may not
/// be whole.
macro_rules! for_each_vector {
    ($S:ident, $count:expr, $at:ident => $body:expr) => {
        let (count, mut $at) = ($count, 0);
        while $at + $S::LANES <= count {
            const WHOLE: bool = true;
            $body;
            $at += $S::LANES;
        }
        if $at < count {
            const WHOLE: bool = false;
            $body;
        }
    };
}

/// +0 in place of what is too small to matter.
#[inline(always)]
pub(crate) fn snap<S: Lanes<T>, T: Element>(simd: S, v: S::V) -> S::V {
    simd.select(simd.lt(simd.abs(v), simd.splat(T::SNAP)), simd.splat(T::ZERO), v)
}

/// The values of an activation between which its argument was not cut, where it may have been.
type Limits<V> = Option<(V, V)>;

/// `by` times the slope of `activation` where its value is `a`; 0 outside of `limits`, where its argument was cut.
#[inline(always)]
fn through<S: Lanes<T>, T: Element>(
    simd: S,
    (activation, limits): (Activation, Limits<S::V>),
    by: S::V,
    a: S::V,
) -> S::V {
    let by = match activation {
        Activation::Identity => by,
        _ => simd.mul(by, slope::<S, T>(simd, activation, a)),
    };
    match limits {
        None => by,
        Some((low, high)) => {
            let zero = simd.splat(T::ZERO);
            let inside = simd.select(simd.lt(low, a), by, zero);
            simd.select(simd.lt(a, high), inside, zero)
        }
    }
}

/// What a clipped activation gives at either end: at an end its argument was cut.
#[inline(always)]
fn limits<S: Lanes<T>, T: Element>(simd: S, activation: Activation, clip: f64) -> Limits<S::V> {
    if clip == f64::INFINITY {
        return None;
    }
    let low = activate::<S, T>(simd, activation, simd.splat(T::of(-clip)));
    let high = activate::<S, T>(simd, activation, simd.splat(T::of(clip)));
    Some((simd.min(low, high), simd.max(low, high)))
}

/// `x` to within `clip` of 0; NaN stays NaN.
#[inline(always)]
fn clipped<S: Lanes<T>, T: Element>(simd: S, clip: f64, x: S::V) -> S::V {
    if clip == f64::INFINITY { x } else { cut(simd, T::of(-clip), x, T::of(clip)) }
}

/// Runs `$body` with `$cell` known to the compiler where it is the usual one, which then has no branches left.
macro_rules! specialised {
    ($cell:ident => $body:expr) => {
        if $cell == crate::cell::CellSpec::GERS_1999 {
            let $cell = crate::cell::CellSpec::GERS_1999;
            $body
        } else {
            $body
        }
    };
}
pub(crate) use specialised;

/// `fma(peephole, seen, sum)`, where there is such a peephole.
#[inline(always)]
fn look<S: Lanes<T>, T: Element>(simd: S, (peephole, k): (&[S::A], Option<usize>), seen: S::V, sum: S::V) -> S::V {
    match k {
        None => sum,
        Some(k) => simd.mul_add(simd.load(&peephole[k]), seen, sum),
    }
}

/// Activates a gate of one block in place, with the state that it sees.
#[inline(always)]
fn gate<S: Lanes<T>, T: Element>(
    simd: S,
    cell: CellSpec,
    z: &mut [S::A],
    row: Option<usize>,
    peephole: (&[S::A], Option<usize>),
    state: S::V,
) -> S::V {
    let Some(row) = row else {
        return simd.splat(T::ONE);
    };
    let argument = clipped(simd, cell.gate_clip, look(simd, peephole, state, simd.load(&z[row])));
    let value = activate::<S, T>(simd, cell.gate_activation, argument);
    simd.store(value, &mut z[row]);
    value
}

/// An activated gate of one block.
#[inline(always)]
fn value<S: Lanes<T>, T: Element>(simd: S, gates: &[S::A], gate: Option<usize>) -> S::V {
    match gate {
        None => simd.splat(T::ONE),
        Some(gate) => simd.load(&gates[gate]),
    }
}

/// Where the rows of a step forward are, as far as some blocks of units go.
pub(crate) struct Step<'a, T> {
    /// In: the state of the step before. Out: this step's.
    pub(crate) c: ColumnsMut<'a, T>,
    /// Out.
    pub(crate) h: ColumnsMut<'a, T>,
    /// Out, for the tape: activated gates, and the state once more.
    pub(crate) tape: Option<(ColumnsMut<'a, T>, ColumnsMut<'a, T>)>,
}

/// A step of some rows, of which `row` tells where they are: `z`, `[row][block][gate]`, to states and outputs. `c` is room
/// for their states.
///
/// It goes over all the rows with what needs the state of the step before, and again with what needs the new one: as many
/// chains of operations are then under way as there are rows, and the divisions, which are what takes longest, follow
/// each other closely.
#[inline(always)]
pub(crate) fn forward<S: Lanes<T>, T: Element>(
    simd: S,
    cell: CellSpec,
    (z, blocks): (&mut [S::A], usize),
    peephole: &[S::A],
    c: &mut [S::A],
    (rows, row): (usize, impl Fn(usize) -> usize),
    mut step: Step<'_, T>,
) {
    let (gates, looks) = (cell.gate_rows(), cell.peephole_rows());
    // By indices: to divide memory into chunks takes longer than a short step can wait for.
    let width = blocks * gates.count;
    for k in 0..rows {
        let row = row(k);
        let (z, c) = (&mut z[k * width..][..width], &mut c[k * blocks..][..blocks]);
        let before = &*step.c.row(row);
        for_each_vector!(S, before.len(), at => {
            let block = at / S::LANES;
            let z = &mut z[block * gates.count..][..gates.count];
            let peephole = &peephole[block * looks.count..];
            let before = get::<S, T, WHOLE>(simd, before, at);
            let i = gate(simd, cell, z, gates.i, (peephole, looks.i), before);
            let f = if cell.coupled {
                simd.sub(simd.splat(T::ONE), i)
            } else {
                gate(simd, cell, z, gates.f, (peephole, looks.f), before)
            };
            let g = clipped(simd, cell.gate_clip, simd.load(&z[gates.g]));
            let g = activate::<S, T>(simd, cell.input_activation, g);
            simd.store(g, &mut z[gates.g]);
            // c = fma(f, c', i * g)
            let new = clipped(simd, cell.cell_clip, snap(simd, simd.mul_add(f, before, simd.mul(i, g))));
            simd.store(new, &mut c[block]);
            gate(simd, cell, z, gates.o, (peephole, looks.o), new);
        });
    }
    for k in 0..rows {
        let row = row(k);
        let (z, c) = (&z[k * width..][..width], &c[k * blocks..][..blocks]);
        store(simd, c, step.c.row(row));
        let h = step.h.row(row);
        for_each_vector!(S, h.len(), at => {
            let block = at / S::LANES;
            let a = activate::<S, T>(simd, cell.output_activation, simd.load(&c[block]));
            let o = value(simd, &z[block * gates.count..], gates.o);
            put::<S, T, WHOLE>(simd, simd.mul(o, a), h, at);
        });
        if let Some((places, states)) = &mut step.tape {
            store(simd, c, states.row(row));
            for gate in 0..gates.count {
                let place = places.group(row, gate);
                for_each_vector!(S, place.len(), at => {
                    let value = simd.load(&z[at / S::LANES * gates.count + gate]);
                    put::<S, T, WHOLE>(simd, value, place, at);
                });
            }
        }
    }
}

/// Where the rows of a step backward are, as far as some blocks of units go.
pub(crate) struct StepBack<'a, T> {
    /// Activated gates, from the tape.
    pub(crate) gates: Columns<'a, T>,
    /// The state after the step.
    pub(crate) c: Columns<'a, T>,
    /// The gradient of `h` that comes from outside.
    pub(crate) dy: Option<Columns<'a, T>>,
    /// In: the carry of the step after. Out: this step's.
    pub(crate) d_c: ColumnsMut<'a, T>,
    /// Out: gradients of the pre-activations.
    pub(crate) d_z: ColumnsMut<'a, T>,
}

/// A step back of some rows, of which `row` tells where they are and their state before the step: the carry of `h`, `[row][block]`, and that of `c` to the
/// gradients of the pre-activations. `a` is room for the activated states.
#[inline(always)]
pub(crate) fn backward<'a, S: Lanes<T>, T: Element>(
    simd: S,
    cell: CellSpec,
    (d_h, blocks): (&[S::A], usize),
    peephole: &[S::A],
    a: &mut [S::A],
    (rows, row): (usize, impl Fn(usize) -> (usize, &'a [T])),
    mut step: StepBack<'_, T>,
) {
    let (gates, looks) = (cell.gate_rows(), cell.peephole_rows());
    let one = simd.splat(T::ONE);
    let gate_limits = limits::<S, T>(simd, cell.gate_activation, cell.gate_clip);
    let input_limits = limits::<S, T>(simd, cell.input_activation, cell.gate_clip);
    for k in 0..rows {
        fetch(simd, step.c.row(row(k).0), &mut a[k * blocks..]);
    }
    for a in &mut *a {
        simd.store(activate::<S, T>(simd, cell.output_activation, simd.load(a)), a);
    }
    for k in 0..rows {
        let (row, before) = row(k);
        let (d_h, a) = (&d_h[k * blocks..][..blocks], &a[k * blocks..][..blocks]);
        for_each_vector!(S, before.len(), at => {
            let block = at / S::LANES;
            let peephole = &peephole[block * looks.count..];
            let i = recorded::<S, T, WHOLE>(simd, &step.gates, row, gates.i, at);
            let g = recorded::<S, T, WHOLE>(simd, &step.gates, row, Some(gates.g), at);
            let o = recorded::<S, T, WHOLE>(simd, &step.gates, row, gates.o, at);
            let f = if cell.coupled {
                simd.sub(one, i)
            } else {
                recorded::<S, T, WHOLE>(simd, &step.gates, row, gates.f, at)
            };
            let (a, before) = (simd.load(&a[block]), get::<S, T, WHOLE>(simd, before, at));
            // A gradient that is not there is added as the zeros it stands for: -0 + 0 is +0.
            let dy = match &step.dy {
                Some(dy) => get::<S, T, WHOLE>(simd, dy.row(row), at),
                None => simd.splat(T::ZERO),
            };
            let d_h = simd.add(dy, simd.load(&d_h[block]));
            let through_gate = (cell.gate_activation, gate_limits);
            let d_o = snap(simd, through(simd, through_gate, simd.mul(d_h, a), o));
            // d_c = fma(p_o, d_z_o, fma(d_h * o, 1 - a^2, carry))
            let carry = get::<S, T, WHOLE>(simd, step.d_c.row(row), at);
            let d_h_o = simd.mul(d_h, o);
            let d_c = match cell.output_activation {
                Activation::Identity => simd.add(d_h_o, carry),
                activation => simd.mul_add(d_h_o, slope::<S, T>(simd, activation, a), carry),
            };
            let d_c = look(simd, (peephole, looks.o), d_o, d_c);
            let d_c = if cell.cell_clip == f64::INFINITY {
                d_c
            } else {
                let c = get::<S, T, WHOLE>(simd, step.c.row(row), at);
                simd.select(simd.lt(simd.abs(c), simd.splat(T::of(cell.cell_clip))), d_c, simd.splat(T::ZERO))
            };
            let d_f = snap(simd, through(simd, through_gate, simd.mul(d_c, before), f));
            let d_i = simd.mul(d_c, if cell.coupled { simd.sub(g, before) } else { g });
            let d_i = snap(simd, through(simd, through_gate, d_i, i));
            let d_g = snap(simd, through(simd, (cell.input_activation, input_limits), simd.mul(d_c, i), g));
            // carry = fma(p_f, d_z_f, fma(p_i, d_z_i, d_c * f))
            let carry = look(simd, (peephole, looks.i), d_i, simd.mul(d_c, f));
            let carry = look(simd, (peephole, looks.f), d_f, carry);
            put::<S, T, WHOLE>(simd, snap(simd, carry), step.d_c.row(row), at);
            for (gate, value) in [(gates.i, d_i), (gates.f, d_f), (Some(gates.g), d_g), (gates.o, d_o)] {
                if let Some(gate) = gate {
                    put::<S, T, WHOLE>(simd, value, step.d_z.group(row, gate), at);
                }
            }
        });
    }
}

/// A gate, from the tape.
#[inline(always)]
fn recorded<S: Lanes<T>, T: Element, const WHOLE: bool>(
    simd: S,
    gates: &Columns<'_, T>,
    row: usize,
    gate: Option<usize>,
    at: usize,
) -> S::V {
    match gate {
        None => simd.splat(T::ONE),
        Some(gate) => get::<S, T, WHOLE>(simd, gates.group(row, gate), at),
    }
}

/// `h = o tanh(c)` of one row once more, for the gradient of a projection: the same bits as in [`forward`].
#[inline(always)]
pub(crate) fn hidden_again<S: Lanes<T>, T: Element>(
    simd: S,
    cell: CellSpec,
    gates: &Columns<'_, T>,
    c: &Columns<'_, T>,
    row: usize,
    h: &mut [T],
) {
    for_each_vector!(S, h.len(), at => {
        let a = activate::<S, T>(simd, cell.output_activation, get::<S, T, WHOLE>(simd, c.row(row), at));
        let o = recorded::<S, T, WHOLE>(simd, gates, row, cell.gate_rows().o, at);
        put::<S, T, WHOLE>(simd, simd.mul(o, a), h, at);
    });
}

/// `to = vectors`, as far as there is room.
#[inline(always)]
pub(crate) fn store<S: Lanes<T>, T: Element>(simd: S, vectors: &[S::A], to: &mut [T]) {
    for_each_vector!(S, to.len(), at => put::<S, T, WHOLE>(simd, simd.load(&vectors[at / S::LANES]), to, at));
}

/// The carry of `h`: `vectors` snapped in place, and to memory as far as there is room.
#[inline(always)]
pub(crate) fn hand_on<S: Lanes<T>, T: Element>(simd: S, vectors: &mut [S::A], to: &mut [T]) {
    for_each_vector!(S, to.len(), at => {
        let carry = snap(simd, simd.load(&vectors[at / S::LANES]));
        simd.store(carry, &mut vectors[at / S::LANES]);
        put::<S, T, WHOLE>(simd, carry, to, at);
    });
}

/// `vectors = from`, with zeros behind its end.
#[inline(always)]
pub(crate) fn fetch<S: Lanes<T>, T: Element>(simd: S, from: &[T], vectors: &mut [S::A]) {
    for_each_vector!(S, from.len(), at => {
        simd.store(get::<S, T, WHOLE>(simd, from, at), &mut vectors[at / S::LANES]);
    });
}

/// `to = vectors + b`
#[inline(always)]
pub(crate) fn sum<S: Lanes<T>, T: Element>(simd: S, vectors: &[S::A], b: &[T], to: &mut [T]) {
    for_each_vector!(S, to.len(), at => {
        let sum = simd.add(simd.load(&vectors[at / S::LANES]), get::<S, T, WHOLE>(simd, b, at));
        put::<S, T, WHOLE>(simd, sum, to, at);
    });
}

/// `to += vectors`, as far as there is room; `to` counts as 0 in the first link of a chain.
#[inline(always)]
pub(crate) fn add_vectors<S: Lanes<T>, T: Element>(simd: S, first: bool, vectors: &[S::A], to: &mut [T]) {
    for_each_vector!(S, to.len(), at => {
        let sum = if first { simd.splat(T::ZERO) } else { get::<S, T, WHOLE>(simd, to, at) };
        put::<S, T, WHOLE>(simd, simd.add(simd.load(&vectors[at / S::LANES]), sum), to, at);
    });
}

/// `to += a_1 b_1 + ... + a_K b_K`, whose sum is a chain of its own; `to` counts as 0 in the first link of a chain.
#[inline(always)]
pub(crate) fn add_products<S: Lanes<T>, T: Element, const K: usize>(
    simd: S,
    first: bool,
    a: [T; K],
    b: [&[T]; K],
    to: &mut [T],
) {
    let a = a.map(|a| simd.splat(a));
    for_each_vector!(S, to.len(), at => {
        let mut product = simd.splat(T::ZERO);
        for (a, b) in a.iter().zip(&b) {
            product = simd.mul_add(*a, get::<S, T, WHOLE>(simd, b, at), product);
        }
        let sum = if first { simd.splat(T::ZERO) } else { get::<S, T, WHOLE>(simd, to, at) };
        put::<S, T, WHOLE>(simd, simd.add(product, sum), to, at);
    });
}

/// `to += a * b`, or `to += a` without `b`: one link of the chains that sum over time.
#[inline(always)]
pub(crate) fn accumulate<S: Lanes<T>, T: Element>(simd: S, a: &[T], b: Option<&[T]>, to: &mut [T]) {
    for_each_vector!(S, to.len(), at => {
        let (a, sum) = (get::<S, T, WHOLE>(simd, a, at), get::<S, T, WHOLE>(simd, to, at));
        let sum = match b {
            Some(b) => simd.mul_add(a, get::<S, T, WHOLE>(simd, b, at), sum),
            None => simd.add(a, sum),
        };
        put::<S, T, WHOLE>(simd, sum, to, at);
    });
}
