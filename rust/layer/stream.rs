//! Layers run step by step, their state being kept: what comes of a whole sequence, to the bit, one step at a time.

use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, ArrayViewD, ArrayViewMut2, Axis, s};

use super::{Control, Forward, Input, Output, State, StateMut, Workspace};
use crate::dims::LayerDims;
use crate::error::{Error, Result};
use crate::simd::Element;
use crate::simd::memory::try_resize;

/// Layers in one direction, and the state that they are in. A step allocates nothing.
#[derive(Debug)]
pub struct Stream<T> {
    layers: Vec<Arc<Forward<T>>>,
    /// (L, N, P) and (L, N, H)
    h: Array3<T>,
    c: Array3<T>,
    /// The state after the step under way, which takes the place of the other when that has come to its end.
    next_h: Array3<T>,
    next_c: Array3<T>,
    /// (N, P): the output of the layer below, and that of the one at work.
    below: Array2<T>,
    above: Array2<T>,
    workspace: Workspace<T>,
}

impl<T: Element> Stream<T> {
    /// For `batch` sequences, from a state of zeros. The layers fit on each other, and there is at least one.
    ///
    /// # Errors
    /// No memory for so many.
    ///
    /// # Panics
    /// Without a layer.
    pub fn new(layers: Vec<Arc<Forward<T>>>, batch: usize) -> Result<Self> {
        let LayerDims { hidden_size, output_size, .. } = layers[0].dims();
        let zeros = |shape: [usize; 3]| {
            let mut numbers = Vec::new();
            let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n)).unwrap_or(usize::MAX);
            try_resize(&mut numbers, len, T::ZERO)?;
            Ok(Array3::from_shape_vec(shape, numbers).expect("as many numbers"))
        };
        let state = |width| zeros([layers.len(), batch, width]);
        let output = || Ok(zeros([1, batch, output_size])?.index_axis_move(Axis(0), 0));
        Ok(Self {
            h: state(output_size)?,
            c: state(hidden_size)?,
            next_h: state(output_size)?,
            next_c: state(hidden_size)?,
            below: output()?,
            above: output()?,
            workspace: Workspace::default(),
            layers,
        })
    }

    /// The sizes of the first layer.
    pub fn dims(&self) -> LayerDims {
        self.layers[0].dims()
    }

    /// How many sequences there are.
    pub fn batch(&self) -> usize {
        self.h.len_of(Axis(1))
    }

    /// How long one thread takes for a step, in nanoseconds, about.
    pub fn nanoseconds(&self) -> f64 {
        self.layers.iter().map(|layer| layer.nanoseconds(1, self.batch())).sum()
    }

    /// The state: (L, N, P) and (L, N, H).
    pub fn state(&self) -> (ArrayView3<'_, T>, ArrayView3<'_, T>) {
        (self.h.view(), self.c.view())
    }

    /// Goes on from another state, of the same shape.
    ///
    /// # Errors
    /// Where it has another shape; the state is then as it was.
    pub fn set_state(&mut self, h: ArrayViewD<'_, T>, c: ArrayViewD<'_, T>) -> Result<()> {
        for (name, mine, given) in [("state.h", &self.h, &h), ("state.c", &self.c, &c)] {
            if mine.shape() != given.shape() {
                return Err(Error::stacked_shape(name, mine.shape(), given.shape(), self.layers.len(), false));
            }
        }
        self.h.assign(&h);
        self.c.assign(&c);
        Ok(())
    }

    /// One step, of `x` (N, I) to `y` (N, P), their last axes contiguous.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or `control` said stop; the state is then as it was.
    pub fn step(&mut self, x: ArrayView2<'_, T>, mut y: ArrayViewMut2<'_, T>, control: &Control<'_>) -> Result<()> {
        let Self { layers, h, c, next_h, next_c, below, above, workspace } = self;
        let last = layers.len() - 1;
        for (k, layer) in layers.iter().enumerate() {
            let x = if k == 0 { x.view() } else { below.view() };
            let out = if k == last { y.view_mut() } else { above.view_mut() };
            let state = State { h: h.slice(s![k, .., ..]), c: c.slice(s![k, .., ..]) };
            let input = Input { x: x.insert_axis(Axis(0)), state: Some(state), lengths: None, reverse: false };
            let state = StateMut { h: next_h.slice_mut(s![k, .., ..]), c: next_c.slice_mut(s![k, .., ..]) };
            let output = Output { y: out.insert_axis(Axis(0)), state, tape: None };
            layer.run_with(workspace, input, output, control)?;
            std::mem::swap(below, above);
        }
        std::mem::swap(h, next_h);
        std::mem::swap(c, next_c);
        Ok(())
    }
}
