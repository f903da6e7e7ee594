//! Sizes: every shape is checked here, once.
//!
//! T steps, N batch, I input, H hidden, P output (the projection, or H without one), G gates that have rows.

use std::ops::Deref;

use crate::cell::CellSpec;
use crate::error::{Error, Result};

/// The sizes of one layer in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerDims {
    /// I
    pub input_size: usize,
    /// H
    pub hidden_size: usize,
    /// P: as H where there is no projection.
    pub output_size: usize,
    /// G
    pub gates: usize,
}

/// The shapes of one layer's weights.
#[derive(Clone, Copy, Debug)]
pub struct WeightShapes<'a> {
    /// (G·H, I)
    pub w_ih: &'a [usize],
    /// (G·H, P)
    pub w_hh: &'a [usize],
    /// (G·H,)
    pub b: Option<&'a [usize]>,
    /// (k, H)
    pub peephole: Option<&'a [usize]>,
    /// (P, H)
    pub w_hr: Option<&'a [usize]>,
}

impl LayerDims {
    /// The sizes that the weights have, or what is wrong with them.
    pub fn new(cell: CellSpec, shapes: WeightShapes<'_>) -> Result<Self> {
        cell.check()?;
        let gates = cell.gate_rows().count;
        let (&[rows, input_size], &[_, recurrent]) =
            (two("w_ih", "(G*H, I)", shapes.w_ih)?, two("w_hh", "(G*H, P)", shapes.w_hh)?);
        if rows == 0 || rows % gates != 0 {
            return Err(Error::gate_rows(shapes.w_ih, cell.gate_names(), input_size % gates == 0 && input_size > 0));
        }
        let hidden_size = rows / gates;
        let output_size = match shapes.w_hr {
            None => hidden_size,
            Some(w_hr) => {
                let &[output_size, columns] = two("w_hr", "(P, H)", w_hr)?;
                if output_size == 0 || columns != hidden_size {
                    let expected = [recurrent.max(1), hidden_size];
                    let why = format!("for hidden_size {hidden_size} and a projection to at least 1");
                    return Err(Error::shape("w_hr", &expected, w_hr, &why));
                }
                output_size
            }
        };
        let for_hidden = format!("for hidden_size {hidden_size} and {gates} gates");
        let for_recurrent = match shapes.w_hr {
            None => for_hidden.clone(),
            Some(_) => format!("{for_hidden}, projected to {output_size} by w_hr"),
        };
        if shapes.w_hr.is_none() && shapes.w_hh == [rows, recurrent] && recurrent > 0 && recurrent != hidden_size {
            return Err(Error::projection_missing(shapes.w_hh, hidden_size, &for_recurrent));
        }
        expect("w_hh", &[rows, output_size], shapes.w_hh, &for_recurrent)?;
        if let Some(b) = shapes.b {
            expect("b", &[rows], b, &for_hidden)?;
        }
        let peepholes = cell.peephole_rows().count;
        match (shapes.peephole, peepholes) {
            (None, 0) => {}
            (None, _) => return Err(Error::peephole_missing(peepholes, hidden_size)),
            (Some(got), 0) => return Err(Error::peephole_unused(got)),
            (Some(got), _) => {
                let why = format!("for hidden_size {hidden_size} and {peepholes} gates that look at the state");
                expect("peephole", &[peepholes, hidden_size], got, &why)?;
            }
        }
        Ok(Self { input_size, hidden_size, output_size, gates })
    }

    /// Rows of the weights: G·H.
    pub const fn gate_rows(&self) -> usize {
        self.gates * self.hidden_size
    }
}

/// The arrays of one step: `x_t` (N, I) and `out` (N, P), or those of one sequence without N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepDims {
    /// (N, P), or (P,)
    pub out: Shape,
    /// No axis N.
    pub single: bool,
}

impl StepDims {
    /// For an input of this shape.
    pub fn new(layer: &LayerDims, batch: usize, x: &[usize]) -> Result<Self> {
        let single = batch == 1 && *x == [layer.input_size];
        if !single && *x != [batch, layer.input_size] {
            return Err(Error::step_shape(batch, layer.input_size, x));
        }
        let width = layer.output_size;
        Ok(Self { out: if single { Shape::new([width]) } else { Shape::new([batch, width]) }, single })
    }

    /// Checks an array to write to, or says what came in place of one.
    pub fn check_out(&self, got: std::result::Result<&[usize], &str>) -> Result<()> {
        match got {
            Ok(got) if *got == *self.out => Ok(()),
            got => Err(Error::step_out(&self.out, got)),
        }
    }
}

/// How the caller's arrays stand for sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Axes {
    /// One sequence: no axis N.
    pub single: bool,
    /// (N, T, ·) in place of (T, N, ·).
    pub batch_first: bool,
}

/// The lengths of at most three axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    lengths: [usize; 3],
    axes: usize,
}

impl Shape {
    fn new<const N: usize>(shape: [usize; N]) -> Self {
        let mut lengths = [0; 3];
        lengths[..N].copy_from_slice(&shape);
        Self { lengths, axes: N }
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.lengths[..self.axes]
    }
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// T
    pub steps: usize,
    /// N
    pub batch: usize,
    /// I, H, P, G
    pub layer: LayerDims,
    /// How the arrays of sequences are laid out.
    pub axes: Axes,
}

impl Dims {
    /// The sizes of a call with an input of this shape.
    pub fn new(layer: LayerDims, x: &[usize], batch_first: bool) -> Result<Self> {
        let (steps, batch, features, single) = match *x {
            [steps, features] => (steps, 1, features, true),
            [batch, steps, features] if batch_first => (steps, batch, features, false),
            [steps, batch, features] => (steps, batch, features, false),
            _ => return Err(Error::input_rank(x, batch_first)),
        };
        if features != layer.input_size {
            return Err(Error::features(x, layer.input_size));
        }
        let dims = Self { steps, batch, layer, axes: Axes { single, batch_first: batch_first && !single } };
        // The largest array of a call is the tape's gates.
        let bytes = [steps, batch, layer.gates, layer.hidden_size, size_of::<f64>()];
        // NumPy counts an axis of length 0 as one of length 1.
        let most = bytes.iter().try_fold(1usize, |size, &n| size.checked_mul(n.max(1)));
        let output = [steps, batch, layer.output_size, size_of::<f64>()];
        let output = output.iter().try_fold(1usize, |size, &n| size.checked_mul(n.max(1)));
        match (most, output) {
            (Some(most), Some(output)) if most.max(output) <= isize::MAX as usize => Ok(dims),
            _ => Err(Error::overflow(&bytes[..4])),
        }
    }

    /// Steps of all sequences together.
    pub const fn cells(&self) -> usize {
        self.steps * self.batch
    }

    /// The shape, as the caller has it, of an array of sequences `width` wide.
    pub fn sequence_shape(&self, width: usize) -> Shape {
        match self.axes {
            Axes { single: true, .. } => Shape::new([self.steps, width]),
            Axes { batch_first: true, .. } => Shape::new([self.batch, self.steps, width]),
            _ => Shape::new([self.steps, self.batch, width]),
        }
    }

    /// The shape, as the caller has it, of a state `width` wide.
    pub fn state_shape(&self, width: usize) -> Shape {
        if self.axes.single { Shape::new([width]) } else { Shape::new([self.batch, width]) }
    }

    /// The shape, as the caller has it, of the states of so many layers and directions, each `width` wide.
    pub fn stacked_shape(&self, parts: usize, width: usize) -> Shape {
        if self.axes.single { Shape::new([parts, width]) } else { Shape::new([parts, self.batch, width]) }
    }

    /// Checks an array of sequences.
    pub fn check_sequence(&self, name: &str, width: usize, got: &[usize]) -> Result<()> {
        let axes = match self.axes {
            Axes { single: true, .. } => "(T, ·), as x is one sequence",
            Axes { batch_first: true, .. } => "(N, T, ·), as x is",
            _ => "(T, N, ·), as x is",
        };
        expect(name, &self.sequence_shape(width), got, axes)
    }

    /// Checks a state or its gradient.
    pub fn check_state(&self, name: &str, h: &[usize], c: &[usize]) -> Result<()> {
        let part = |letter: &str, width: usize, got: &[usize]| {
            let expected = self.state_shape(width);
            if *expected == *got {
                return Ok(());
            }
            let batch = format!("for a batch of {}", self.batch);
            let why = if self.axes.single { "for one sequence" } else { &batch };
            Err(Error::shape(&format!("{name}.{letter}"), &expected, got, why))
        };
        part("h", self.layer.output_size, h)?;
        part("c", self.layer.hidden_size, c)
    }

    /// Checks a part of the states of so many layers, each in one direction or two.
    pub fn check_stacked(
        &self,
        name: &str,
        layers: usize,
        directions: usize,
        width: usize,
        got: &[usize],
    ) -> Result<()> {
        let expected = self.stacked_shape(layers * directions, width);
        if *expected == *got {
            Ok(())
        } else {
            Err(Error::stacked_shape(name, &expected, got, layers, directions == 2))
        }
    }

    /// Checks what a tape has recorded: gates (T, N, G, H), c (T, N, H).
    pub fn check_tape(&self, gates: &[usize], c: &[usize]) -> Result<()> {
        let Self { steps, batch, layer: LayerDims { hidden_size, gates: count, .. }, .. } = *self;
        let why = "as the tape's x and weights are";
        expect("tape.gates", &[steps, batch, count, hidden_size], gates, why)?;
        expect("tape.c", &[steps, batch, hidden_size], c, why)
    }

    /// Checks the shape of lengths: (N,), or () for one sequence.
    pub fn check_lengths_shape(&self, got: &[usize]) -> Result<()> {
        match self.axes.single {
            true => expect("lengths", &[], got, "(an int), as x is one sequence"),
            false => expect("lengths", &[self.batch], got, "(one length a sequence)"),
        }
    }

    /// Checks lengths: one a sequence, from 0 to T.
    pub fn check_lengths(&self, lengths: &[i64]) -> Result<()> {
        if lengths.len() != self.batch {
            return expect("lengths", &[self.batch], &[lengths.len()], "(one length a sequence)");
        }
        match lengths.iter().position(|&length| length < 0 || length as u64 > self.steps as u64) {
            None => Ok(()),
            Some(n) => Err(Error::length(Some(n).filter(|_| !self.axes.single), lengths[n], self.steps)),
        }
    }
}

/// A shape of two axes.
fn two<'a>(name: &str, axes: &str, shape: &'a [usize]) -> Result<&'a [usize; 2]> {
    shape.try_into().map_err(|_| Error::rank(name, axes, shape))
}

/// The one comparison of shapes.
fn expect(name: &str, expected: &[usize], got: &[usize], why: &str) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::shape(name, expected, got, why)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(w_ih: &[usize], w_hh: &[usize]) -> Result<LayerDims> {
        LayerDims::new(CellSpec::default(), WeightShapes { w_ih, w_hh, b: None, peephole: None, w_hr: None })
    }

    #[track_caller]
    fn says<T: std::fmt::Debug>(result: Result<T>, sentence: &str) {
        assert_eq!(result.unwrap_err().to_string(), sentence);
    }

    #[test]
    fn a_wrong_shape_is_named_with_its_mend() {
        says(
            layer(&[512, 3], &[128, 512]),
            "w_hh: expected shape (512, 128) for hidden_size 128 and 4 gates, got (128, 512); transpose it?",
        );
        says(
            layer(&[3, 512], &[512, 128]),
            "w_ih: expected 4 rows or a multiple of them, one block for each of the gates i, f, g, o, got shape (3, 512); \
             transpose it?",
        );
        says(layer(&[8], &[8, 2]), "w_ih: expected 2 axes, (G*H, I), got shape (8,); add the axis with w_ih[:, None]?");
        let dims = layer(&[8, 3], &[8, 2]).unwrap();
        says(
            Dims::new(dims, &[5, 3, 4], false),
            "x: expected 3 features in the last axis, as w_ih has columns, got shape (5, 3, 4); \
             move the features to the last axis?",
        );
        says(
            Dims::new(dims, &[3], false),
            "x: expected (T, N, I) or one sequence (T, I), got shape (3,); add the axis of the features with x[:, None]?",
        );
        let call = Dims::new(dims, &[5, 4, 3], true).unwrap();
        assert_eq!((call.steps, call.batch), (4, 5));
        says(
            call.check_sequence("dy", 2, &[4, 5, 2]),
            "dy: expected shape (5, 4, 2) (N, T, ·), as x is, got (4, 5, 2); swap the first two axes?",
        );
        says(call.check_lengths(&[0, 1, 5, 4, 4]), "lengths[2]: expected 0 to 4 (the steps of x), got 5");
        says(
            Dims::new(layer(&[8, 0], &[8, 2]).unwrap(), &[1 << 40, 1 << 30, 0], false),
            "x: sizes T, N, G, H = (1099511627776, 1073741824, 4, 2) are more than an array can have",
        );
    }
}
