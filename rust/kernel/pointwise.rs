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
//! No closure touches a vector here: only functions can be `#[inline(always)]`, and what is not inlined loses the
//! instruction set's features.
//!
//! The order of the roundings is part of the bit contract; the comments at the lines give it. `c` and the carry become
//! +0 below [`Element::SNAP`].

use super::activation::{sigmoid, tanh};
use crate::cell::{Activation, CellSpec};
use crate::simd::memory::Groups;
use crate::simd::{Element, Lanes};

/// A vector of numbers, with zeros behind the end.
#[inline(always)]
fn get<S: Lanes<T>, T: Element>(simd: S, from: &[T], at: usize) -> S::V {
    let from = &from[at..];
    match simd.vectors(from).first() {
        Some(whole) => simd.load(whole),
        None => simd.load_partial(from),
    }
}

/// A vector to memory, as far as there is room.
#[inline(always)]
fn put<S: Lanes<T>, T: Element>(simd: S, v: S::V, to: &mut [T], at: usize) {
    let to = &mut to[at..];
    match simd.vectors_mut(to).first_mut() {
        Some(whole) => simd.store(v, whole),
        None => simd.store_partial(v, to),
    }
}

/// +0 in place of what is too small to matter.
#[inline(always)]
pub(crate) fn snap<S: Lanes<T>, T: Element>(simd: S, v: S::V) -> S::V {
    simd.select(simd.lt(simd.abs(v), simd.splat(T::SNAP)), simd.splat(T::ZERO), v)
}

/// The derivative `s(1 - s)` of a sigmoid of value `s`, times `by`.
#[inline(always)]
fn through_sigmoid<S: Lanes<T>, T: Element>(simd: S, by: S::V, s: S::V) -> S::V {
    simd.mul(by, simd.mul(s, simd.sub(simd.splat(T::ONE), s)))
}

/// `by` times the derivative at an activation of value `a`.
#[inline(always)]
fn through<S: Lanes<T>, T: Element>(simd: S, activation: Activation, by: S::V, a: S::V) -> S::V {
    match activation {
        Activation::Tanh => simd.mul(by, simd.neg_mul_add(a, a, simd.splat(T::ONE))),
        Activation::Identity => by,
    }
}

#[inline(always)]
fn activate<S: Lanes<T>, T: Element>(simd: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Tanh => tanh::<S, T>(simd, x),
        Activation::Identity => x,
    }
}

/// Runs `$body` with `$cell` known to the compiler where it is the usual one, which then has no branches left.
macro_rules! specialised {
    ($cell:ident => $body:expr) => {
        if $cell == CellSpec::GERS_1999 {
            let $cell = CellSpec::GERS_1999;
            $body
        } else {
            $body
        }
    };
}

/// `fma(p, seen, sum)`, where there is such a peephole.
#[inline(always)]
fn look<S: Lanes<T>, T: Element>(simd: S, (peephole, k): (&[S::A], Option<usize>), seen: S::V, sum: S::V) -> S::V {
    match k {
        None => sum,
        Some(k) => simd.mul_add(simd.load(&peephole[k]), seen, sum),
    }
}

/// A gate, from its pre-activation and the state that it sees.
#[inline(always)]
fn gate<S: Lanes<T>, T: Element>(
    simd: S,
    z: &[S::A],
    row: Option<usize>,
    peephole: (&[S::A], Option<usize>),
    state: S::V,
) -> S::V {
    match row {
        None => simd.splat(T::ONE),
        Some(row) => sigmoid::<S, T>(simd, look(simd, peephole, state, simd.load(&z[row]))),
    }
}

/// A gate, from the tape.
#[inline(always)]
fn recorded<S: Lanes<T>, T: Element>(simd: S, gates: &Groups<&[T]>, row: Option<usize>, at: usize) -> S::V {
    match row {
        None => simd.splat(T::ONE),
        Some(row) => get(simd, gates[row], at),
    }
}

/// One row's step forward, or the part of it that some blocks of units make.
pub(crate) struct Forward<'a, T> {
    /// Pre-activations without peepholes, `[block][gate][lanes]`.
    pub(crate) z: &'a [T],
    /// Peepholes, `[block][peephole][lanes]`.
    pub(crate) peephole: &'a [T],
    /// In: the state of the step before. Out: this step's.
    pub(crate) c: &'a mut [T],
    /// Out.
    pub(crate) h: &'a mut [T],
    /// Out, for the tape: activated gates.
    pub(crate) gates: Option<Groups<&'a mut [T]>>,
}

/// `z` to `c` and `h`.
#[inline(always)]
pub(crate) fn forward<S: Lanes<T>, T: Element>(simd: S, cell: CellSpec, row: Forward<'_, T>) {
    specialised!(cell => forward_any(simd, cell, row));
}

#[inline(always)]
fn forward_any<S: Lanes<T>, T: Element>(simd: S, cell: CellSpec, row: Forward<'_, T>) {
    let (rows, peepholes) = (cell.gate_rows(), cell.peephole_rows());
    let one = simd.splat(T::ONE);
    let mut gates = row.gates;
    for (block, z) in simd.vectors(row.z).chunks_exact(rows.count).enumerate() {
        let at = block * S::LANES;
        let peephole = &simd.vectors(row.peephole)[block * peepholes.count..];
        let before = get(simd, row.c, at);
        let i = gate(simd, z, rows.i, (peephole, peepholes.i), before);
        let f = if cell.coupled { simd.sub(one, i) } else { gate(simd, z, rows.f, (peephole, peepholes.f), before) };
        let g = activate::<S, T>(simd, cell.input_activation, simd.load(&z[rows.g]));
        // c = fma(f, c', i * g)
        let c = snap(simd, simd.mul_add(f, before, simd.mul(i, g)));
        let o = gate(simd, z, rows.o, (peephole, peepholes.o), c);
        let h = simd.mul(o, activate::<S, T>(simd, cell.output_activation, c));
        put(simd, c, row.c, at);
        put(simd, h, row.h, at);
        if let Some(gates) = &mut gates {
            for (place, value) in [(rows.i, i), (rows.f, f), (Some(rows.g), g), (rows.o, o)] {
                if let Some(place) = place {
                    put(simd, value, gates[place], at);
                }
            }
        }
    }
}

/// One row's step backward, or the part of it that some blocks of units make.
pub(crate) struct Backward<'a, T> {
    /// Activated gates, from the tape.
    pub(crate) gates: Groups<&'a [T]>,
    /// Peepholes, `[block][peephole][lanes]`.
    pub(crate) peephole: &'a [T],
    /// The state after the step.
    pub(crate) c: &'a [T],
    /// The state before the step.
    pub(crate) c_before: &'a [T],
    /// The gradient of `h`, in two parts to be added.
    pub(crate) d_h: (Option<&'a [T]>, &'a [T]),
    /// In: the carry of the step after. Out: this step's.
    pub(crate) d_c: &'a mut [T],
    /// Out: gradients of the pre-activations.
    pub(crate) d_z: Groups<&'a mut [T]>,
}

/// `d_h` and `d_c` to `d_z` and the carry.
#[inline(always)]
pub(crate) fn backward<S: Lanes<T>, T: Element>(simd: S, cell: CellSpec, row: Backward<'_, T>) {
    specialised!(cell => backward_any(simd, cell, row));
}

#[inline(always)]
fn backward_any<S: Lanes<T>, T: Element>(simd: S, cell: CellSpec, row: Backward<'_, T>) {
    let (rows, peepholes) = (cell.gate_rows(), cell.peephole_rows());
    let one = simd.splat(T::ONE);
    let hidden = row.c.len();
    for block in 0..hidden.div_ceil(S::LANES) {
        let at = block * S::LANES;
        let peephole = &simd.vectors(row.peephole)[block * peepholes.count..];
        let i = recorded(simd, &row.gates, rows.i, at);
        let g = recorded(simd, &row.gates, Some(rows.g), at);
        let o = recorded(simd, &row.gates, rows.o, at);
        let f = if cell.coupled { simd.sub(one, i) } else { recorded(simd, &row.gates, rows.f, at) };
        let (c, before) = (get(simd, row.c, at), get(simd, row.c_before, at));
        let a = activate::<S, T>(simd, cell.output_activation, c);

        // A gradient that is not there is added as the zeros it stands for: -0 + 0 is +0.
        let dy = match row.d_h.0 {
            Some(dy) => get(simd, dy, at),
            None => simd.splat(T::ZERO),
        };
        let d_h = simd.add(dy, get(simd, row.d_h.1, at));
        let d_o = through_sigmoid(simd, simd.mul(d_h, a), o);
        // d_c = fma(p_o, d_z_o, fma(d_h * o, 1 - a^2, carry))
        let carry = get(simd, row.d_c, at);
        let d_h_o = simd.mul(d_h, o);
        let d_c = match cell.output_activation {
            Activation::Tanh => simd.mul_add(d_h_o, simd.neg_mul_add(a, a, one), carry),
            Activation::Identity => simd.add(d_h_o, carry),
        };
        let d_c = look(simd, (peephole, peepholes.o), d_o, d_c);
        let d_f = through_sigmoid(simd, simd.mul(d_c, before), f);
        let d_i = simd.mul(d_c, if cell.coupled { simd.sub(g, before) } else { g });
        let d_i = through_sigmoid(simd, d_i, i);
        let d_g = through::<S, T>(simd, cell.input_activation, simd.mul(d_c, i), g);
        // carry = fma(p_f, d_z_f, fma(p_i, d_z_i, d_c * f))
        let carry = look(simd, (peephole, peepholes.i), d_i, simd.mul(d_c, f));
        let carry = look(simd, (peephole, peepholes.f), d_f, carry);
        put(simd, snap(simd, carry), row.d_c, at);
        for (place, value) in [(rows.i, d_i), (rows.f, d_f), (Some(rows.g), d_g), (rows.o, d_o)] {
            if let Some(place) = place {
                put(simd, value, row.d_z[place], at);
            }
        }
    }
}

/// `to = vectors`, as far as there is room; the carry of `h`, snapped.
#[inline(always)]
pub(crate) fn store_snapped<S: Lanes<T>, T: Element>(simd: S, from: &[T], to: &mut [T]) {
    for (block, from) in simd.vectors(from).iter().enumerate().take(to.len().div_ceil(S::LANES)) {
        put(simd, snap(simd, simd.load(from)), to, block * S::LANES);
    }
}

/// `h = o tanh(c)` of one row once more, for the gradient of a projection: the same bits as in [`forward`].
#[inline(always)]
pub(crate) fn hidden_again<S: Lanes<T>, T: Element>(
    simd: S,
    cell: CellSpec,
    gates: Groups<&[T]>,
    c: &[T],
    h: &mut [T],
) {
    for at in (0..c.len()).step_by(S::LANES) {
        let a = activate::<S, T>(simd, cell.output_activation, get(simd, c, at));
        let o = recorded(simd, &gates, cell.gate_rows().o, at);
        put(simd, simd.mul(o, a), h, at);
    }
}

/// `to = 0 + a`: the first link, without a look at what was there.
#[inline(always)]
pub(crate) fn begin<S: Lanes<T>, T: Element>(simd: S, a: &[T], to: &mut [T]) {
    for at in (0..to.len()).step_by(S::LANES) {
        put(simd, simd.add(get(simd, a, at), simd.splat(T::ZERO)), to, at);
    }
}

/// `to += a * b`, or `to += a` without `b`: one link of the chains that sum over time.
#[inline(always)]
pub(crate) fn accumulate<S: Lanes<T>, T: Element>(simd: S, a: &[T], b: Option<&[T]>, to: &mut [T]) {
    for at in (0..to.len()).step_by(S::LANES) {
        let (a, sum) = (get(simd, a, at), get(simd, to, at));
        let sum = match b {
            Some(b) => simd.mul_add(a, get(simd, b, at), sum),
            None => simd.add(a, sum),
        };
        put(simd, sum, to, at);
    }
}
