//! One layer in one direction: the safe Rust API, over views of arrays.
//!
//! [`Forward`] and [`Backward`] are the weights in the order in which the passes read them; each has one method, `run`.
//!
//! ```
//! use lstm_rs::{cell::CellSpec, layer, simd::InstructionSet};
//! use ndarray::{Array2, Array3};
//!
//! let (steps, batch, input, hidden) = (5, 2, 3, 4);
//! let w_ih = Array2::<f32>::from_elem((4 * hidden, input), 0.1);
//! let w_hh = Array2::<f32>::from_elem((4 * hidden, hidden), 0.1);
//! let weights = layer::Weights { w_ih: w_ih.view(), w_hh: w_hh.view(), b: None, peephole: None, w_hr: None };
//! let packed = layer::Forward::new(InstructionSet::best(), CellSpec::default(), &weights)?;
//!
//! let x = Array3::<f32>::ones((steps, batch, input));
//! let mut y = Array3::zeros((steps, batch, hidden));
//! let (mut h, mut c) = (Array2::zeros((batch, hidden)), Array2::zeros((batch, hidden)));
//! packed.run(
//!     layer::Input { x: x.view(), state: None, lengths: None, reverse: false },
//!     layer::Output { y: y.view_mut(), state: layer::StateMut { h: h.view_mut(), c: c.view_mut() }, tape: None },
//!     &layer::Control { threads: 1, cancel: &|| false },
//! )?;
//! assert!(y[[4, 1, 3]] > y[[0, 1, 3]]);
//! # Ok::<(), lstm_rs::error::Error>(())
//! ```

#[allow(unsafe_code, reason = "threads write parts of one array")]
mod backward;
#[allow(unsafe_code, reason = "threads write parts of one array")]
mod deferred;
#[allow(unsafe_code, reason = "threads write parts of one array")]
mod forward;
#[allow(unsafe_code, reason = "threads write parts of one array")]
mod linear;
mod outer;
mod pack;
mod schedule;
mod share;
mod stream;

pub use backward::BackwardCall;
pub use forward::ForwardCall;
pub use linear::{Linear, LinearGradients};
pub use pack::{Backward, Forward};
pub use share::Workspace;
pub use stream::Stream;

use ndarray::{
    ArrayView1, ArrayView2, ArrayView3, ArrayView4, ArrayViewMut1, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4,
};

use crate::cell::CellSpec;
use crate::dims::{Dims, LayerDims, WeightShapes};
use crate::error::{Error, Result};

/// How a pass runs.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// How many threads it may use; a small call uses fewer.
    pub threads: usize,
    /// Says whether the caller wants it to stop; asked on the caller's thread between chunks of time.
    pub cancel: &'a dyn Fn() -> bool,
}

/// The parameters. Gate rows stand in the order i, f, g, o; peephole rows in the order i, f, o.
#[derive(Clone, Debug)]
pub struct Weights<'a, T> {
    /// (G·H, I)
    pub w_ih: ArrayView2<'a, T>,
    /// (G·H, P)
    pub w_hh: ArrayView2<'a, T>,
    /// (G·H,)
    pub b: Option<ArrayView1<'a, T>>,
    /// (k, H)
    pub peephole: Option<ArrayView2<'a, T>>,
    /// (P, H)
    pub w_hr: Option<ArrayView2<'a, T>>,
}

impl<T> Weights<'_, T> {
    /// The sizes, or what is wrong with them.
    pub fn dims(&self, cell: CellSpec) -> Result<LayerDims> {
        LayerDims::new(
            cell,
            WeightShapes {
                w_ih: self.w_ih.shape(),
                w_hh: self.w_hh.shape(),
                b: self.b.as_ref().map(|b| b.shape()),
                peephole: self.peephole.as_ref().map(|p| p.shape()),
                w_hr: self.w_hr.as_ref().map(|w| w.shape()),
            },
        )
    }
}

/// What is carried from step to step, in standard layout.
#[derive(Clone, Copy, Debug)]
pub struct State<'a, T> {
    /// (N, P)
    pub h: ArrayView2<'a, T>,
    /// (N, H)
    pub c: ArrayView2<'a, T>,
}

/// Room for a [`State`].
#[derive(Debug)]
pub struct StateMut<'a, T> {
    /// (N, P)
    pub h: ArrayViewMut2<'a, T>,
    /// (N, H)
    pub c: ArrayViewMut2<'a, T>,
}

/// What a pass forward runs on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a, T> {
    /// (T, N, I), the last axis contiguous: an array (N, T, I) with its axes permuted is as good.
    pub x: ArrayView3<'a, T>,
    /// The initial state; zeros where there is none.
    pub state: Option<State<'a, T>>,
    /// (N,), each from 0 to T; T where there are none.
    pub lengths: Option<&'a [i64]>,
    /// From the last valid step to the first.
    pub reverse: bool,
}

/// Where a pass forward writes. Steps past a sequence's end are left as they are.
#[derive(Debug)]
pub struct Output<'a, T> {
    /// (T, N, P), the last axis contiguous.
    pub y: ArrayViewMut3<'a, T>,
    /// The final state.
    pub state: StateMut<'a, T>,
    /// What a pass backward needs.
    pub tape: Option<TapeMut<'a, T>>,
}

/// Room for what a pass forward records, in standard layout.
#[derive(Debug)]
pub struct TapeMut<'a, T> {
    /// (T, N, G, H), activated.
    pub gates: ArrayViewMut4<'a, T>,
    /// (T, N, H)
    pub c: ArrayViewMut3<'a, T>,
}

/// What a pass forward has recorded, and what it ran on.
#[derive(Clone, Copy, Debug)]
pub struct Tape<'a, T> {
    /// What it ran on.
    pub input: Input<'a, T>,
    /// (T, N, P): what came out.
    pub y: ArrayView3<'a, T>,
    /// (T, N, G, H), activated.
    pub gates: ArrayView4<'a, T>,
    /// (T, N, H)
    pub c: ArrayView3<'a, T>,
}

/// The gradient of a loss with respect to what a pass forward gave.
#[derive(Clone, Copy, Debug)]
pub struct OutputGradient<'a, T> {
    /// (T, N, P); zeros where there is none.
    pub dy: Option<ArrayView3<'a, T>>,
    /// With respect to the final state; zeros where there is none.
    pub state: Option<State<'a, T>>,
}

/// Where a pass backward writes. The weights' gradients have to be in standard layout; `b` and `peephole` have to start
/// from zero, the matrices are overwritten.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// (T, N, I), the last axis contiguous; steps past a sequence's end are left as they are.
    pub x: Option<ArrayViewMut3<'a, T>>,
    /// (G·H, I)
    pub w_ih: ArrayViewMut2<'a, T>,
    /// (G·H, P)
    pub w_hh: ArrayViewMut2<'a, T>,
    /// (G·H,), where the weights have it.
    pub b: Option<ArrayViewMut1<'a, T>>,
    /// (k, H), where the weights have it.
    pub peephole: Option<ArrayViewMut2<'a, T>>,
    /// (P, H), where the weights have it.
    pub w_hr: Option<ArrayViewMut2<'a, T>>,
    /// With respect to the initial state.
    pub state: StateMut<'a, T>,
}

impl<T> Input<'_, T> {
    /// How many steps there are of all sequences together, lengths being right.
    fn valid(&self) -> usize {
        match self.lengths {
            None => self.x.dim().0 * self.x.dim().1,
            Some(lengths) => lengths.iter().map(|&length| usize::try_from(length).unwrap_or(0)).sum(),
        }
    }

    /// The sizes of the call, or what is wrong with them.
    fn dims(&self, layer: LayerDims) -> Result<Dims> {
        let dims = Dims::new(layer, self.x.shape(), false)?;
        if let Some(state) = &self.state {
            dims.check_state("state", state.h.shape(), state.c.shape())?;
        }
        if let Some(lengths) = self.lengths {
            dims.check_lengths(lengths)?;
        }
        Ok(dims)
    }
}

/// An array in standard layout as one slice.
fn flat<'a, T>(name: &str, array: Option<&'a mut [T]>) -> Result<&'a mut [T]> {
    array.ok_or_else(|| Error::layout(name))
}

/// Row `n` of a state: of zeros where there is none.
#[derive(Clone, Copy, Debug)]
struct StateRows<'a, T> {
    h: Option<&'a [T]>,
    c: Option<&'a [T]>,
    dims: LayerDims,
    zeros: &'a [T],
}

impl<'a, T> StateRows<'a, T> {
    /// `zeros` has to be as long as the larger of H and P.
    fn new<'b: 'a>(name: &str, state: Option<State<'b, T>>, dims: LayerDims, zeros: &'a [T]) -> Result<Self> {
        let (mut h, mut c) = (None, None);
        if let Some(state) = state {
            h = Some(state.h.to_slice().ok_or_else(|| Error::layout(&format!("{name}.h")))?);
            c = Some(state.c.to_slice().ok_or_else(|| Error::layout(&format!("{name}.c")))?);
        }
        Ok(Self { h, c, dims, zeros })
    }

    #[inline(always)]
    fn h(&self, n: usize) -> &'a [T] {
        let width = self.dims.output_size;
        self.h.map_or(&self.zeros[..width], |h| &h[n * width..][..width])
    }

    #[inline(always)]
    fn c(&self, n: usize) -> &'a [T] {
        let width = self.dims.hidden_size;
        self.c.map_or(&self.zeros[..width], |c| &c[n * width..][..width])
    }
}

#[cfg(any(test, fuzzing))]
mod tests;

/// The fuzzer's ways in.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// A call that fits, made of `bytes`: panics where the answer is wrong.
    pub fn passes(bytes: &[u8]) {
        super::tests::fuzz::passes(bytes);
    }

    /// A call that need not fit, made of `bytes`: panics where what fits is refused, or the other way round.
    pub fn refusals(bytes: &[u8]) {
        super::tests::fuzz::refusals(bytes);
    }
}
