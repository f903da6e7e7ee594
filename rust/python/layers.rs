//! The layers of an `LSTM`, each in one direction or both: the passes over all of them.

use std::sync::Arc;

use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyEllipsis, PySlice, PyTuple};

use super::arrays::{
    Array, Filled, LIKE_WEIGHTS, Number, State, StateOut, Wanted, borrow, borrow_option, flag, lengths, sequences,
    sequences_mut,
};
use super::passes::{BackwardArrays, ForwardArrays, Record, Recorded, new_tape};
use super::recycled::recycled_array;
use super::weights::{Backward, Either, Forward};
use crate::dims::Dims;
use crate::layer;

/// The packed weights of layers, each in one direction or both: immutable.
#[pyclass(frozen, module = "lstm_rs._core")]
pub(super) struct Layers {
    pub(super) parts: Parts,
    pub(super) directions: usize,
    batch_first: bool,
}

type Parts = Either<Vec<Arc<layer::Forward<f32>>>, Vec<Arc<layer::Forward<f64>>>>;

#[pymethods]
impl Layers {
    /// Parts stand in the order of the state's first axis; they fit on each other.
    #[new]
    fn new(parts: Vec<Bound<'_, Forward>>, directions: usize, batch_first: bool) -> PyResult<Self> {
        if !(1..=2).contains(&directions) || parts.is_empty() || !parts.len().is_multiple_of(directions) {
            return Err(PyValueError::new_err(
                "parts: expected one for each layer and direction, of which there are 1 or 2",
            ));
        }
        let (mut single, mut double) = (Vec::new(), Vec::new());
        for part in &parts {
            match &part.get().0 {
                Either::F32(part) => single.push(Arc::clone(part)),
                Either::F64(part) => double.push(Arc::clone(part)),
            }
        }
        let parts = match (single.len(), double.len()) {
            (_, 0) => Either::F32(single),
            (0, _) => Either::F64(double),
            _ => return Err(PyTypeError::new_err("parts: expected weights of one dtype")),
        };
        Ok(Self { parts, directions, batch_first })
    }

    /// Runs all layers: `(y, h, c)`.
    #[pyo3(signature = (x, state=None, lengths=None))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        state: Option<&Bound<'py, PyAny>>,
        lengths: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let call = ForwardCall { x, state, lengths, training: None };
        let Forwarded { y, h, c, .. } = match &self.parts {
            Either::F32(parts) => self.run(py, parts, &call)?,
            Either::F64(parts) => self.run(py, parts, &call)?,
        };
        (y, h, c).into_pyobject(py)
    }

    /// The same, recorded, with what `mask(shape)` gives multiplied onto the output of each layer but the last:
    /// `(y, h, c, records, masks)`, a record for each part, and a mask, or None, for each layer but the last.
    fn forward_train<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        state: Option<&Bound<'py, PyAny>>,
        lengths: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let call = ForwardCall { x, state, lengths, training: Some(mask) };
        let Forwarded { y, h, c, records, masks } = match &self.parts {
            Either::F32(parts) => self.run(py, parts, &call)?,
            Either::F64(parts) => self.run(py, parts, &call)?,
        };
        (y, h, c, PyTuple::new(py, records)?, PyTuple::new(py, masks)?).into_pyobject(py)
    }
}

/// What a pass forward is asked for.
struct ForwardCall<'a, 'py> {
    x: &'a Bound<'py, PyAny>,
    state: Option<&'a Bound<'py, PyAny>>,
    lengths: Option<&'a Bound<'py, PyAny>>,
    /// Whether it is recorded, and then what makes the masks between layers.
    training: Option<Option<&'a Bound<'py, PyAny>>>,
}

/// What a pass forward answers.
struct Forwarded<'py> {
    y: Bound<'py, PyAny>,
    h: Bound<'py, PyAny>,
    c: Bound<'py, PyAny>,
    records: Vec<Bound<'py, PyTuple>>,
    masks: Vec<Option<Bound<'py, PyAny>>>,
}

impl Layers {
    fn run<'py, T: Number>(
        &self,
        py: Python<'py>,
        parts: &[Arc<layer::Forward<T>>],
        call: &ForwardCall<'_, 'py>,
    ) -> PyResult<Forwarded<'py>> {
        let Self { directions, batch_first, .. } = *self;
        let count = parts.len() / directions;
        let mut x = borrow::<T>("x", call.x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(parts[0].dims(), x.shape(), batch_first)?;
        let state = State::<T>::borrow_stacked("state", call.state, &dims, (count, directions))?;
        let lengths = lengths(call.lengths, &dims)?;
        let filled = Filled::past_ends(lengths.as_deref());
        let end = StateOut::<T>::stacked(py, &dims, parts.len())?;
        let shape = dims.sequence_shape(directions * dims.layer.output_size);
        let (mut records, mut masks) = (Vec::new(), Vec::new());
        for (k, layer) in parts.chunks(directions).enumerate() {
            let y: Array<'py, T> = recycled_array(py, &shape, filled)?;
            let direction = |d: usize| -> PyResult<ForwardArrays<'py, '_, T>> {
                let part = k * directions + d;
                Ok(ForwardArrays {
                    dims: Dims::new(layer[d].dims(), x.shape(), batch_first)?,
                    x: x.clone(),
                    state: state.as_ref().map(|state| state.part(part)),
                    lengths: lengths.as_deref(),
                    reverse: d == 1,
                    y: y.clone(),
                    end: end.part(part),
                    tape: call.training.map(|_| new_tape(py, &dims, filled)).transpose()?,
                })
            };
            let one = direction(0)?;
            let two = (directions == 2).then(|| direction(1)).transpose()?;
            one.run(py, &layer[0], two.as_ref().map(|two| (&*layer[1], two)))?;
            if call.training.is_some() {
                for arrays in std::iter::once(one).chain(two) {
                    records.push(self.record(py, arrays, call.lengths)?);
                }
            }
            x = y;
            if let Some(mask) = call.training.filter(|_| k + 1 < count) {
                let mask = mask.map(|mask| mask.call1((x.getattr("shape")?,))).transpose()?;
                if let Some(mask) = &mask {
                    x = x.mul(mask)?.cast_into()?;
                }
                masks.push(mask);
            }
        }
        Ok(Forwarded { y: x.into_any(), h: end.h.into_any(), c: end.c.into_any(), records, masks })
    }

    /// What a pass backward reads as [`Record`].
    fn record<'py, T: Number>(
        &self,
        py: Python<'py>,
        arrays: ForwardArrays<'py, '_, T>,
        lengths: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let ForwardArrays { dims, x, state, reverse, y, tape, .. } = arrays;
        let state = state.map(|state| state.tuple()).transpose()?;
        let y = match self.directions {
            1 => y.into_any(),
            _ => side(&y, usize::from(reverse), dims.layer.output_size)?,
        };
        let (gates, c) = tape.unzip();
        (x, state, lengths, reverse, self.batch_first, y, gates, c).into_pyobject(py)
    }
}

/// The columns of one direction, of the outputs of both.
fn side<'py>(y: &Bound<'py, PyAny>, direction: usize, width: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = y.py();
    let first = (direction * width) as isize;
    y.get_item((PyEllipsis::get(py), PySlice::new(py, first, first + width as isize, 1)))
}

/// Runs all layers backward: `(dx, d_weights, h, c)`, the gradients of the weights part by part in one tuple, without
/// those of weights that there are not.
#[pyfunction]
pub(super) fn backward_layers<'py>(
    py: Python<'py>,
    parts: Vec<Bound<'py, Backward>>,
    records: Vec<Record<'py>>,
    masks: Vec<Option<Bound<'py, PyAny>>>,
    dy: Option<&Bound<'py, PyAny>>,
    dstate: Option<&Bound<'py, PyAny>>,
    need_dx: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let count = masks.len() + 1;
    if parts.is_empty() || records.len() != parts.len() || parts.len() != count && parts.len() != 2 * count {
        return Err(PyValueError::new_err("tape: expected as many records as the layer has parts"));
    }
    let need_dx = flag("need_dx", need_dx)?;
    let (mut single, mut double) = (Vec::new(), Vec::new());
    for part in &parts {
        match &part.get().0 {
            Either::F32(part) => single.push(&**part),
            Either::F64(part) => double.push(&**part),
        }
    }
    match (single.len(), double.len()) {
        (_, 0) => backward_in(py, &single, &records, &masks, (dy, dstate, need_dx)),
        (0, _) => backward_in(py, &double, &records, &masks, (dy, dstate, need_dx)),
        _ => Err(PyTypeError::new_err("parts: expected weights of one dtype")),
    }
}

fn backward_in<'py, T: Number>(
    py: Python<'py>,
    parts: &[&layer::Backward<T>],
    records: &[Record<'py>],
    masks: &[Option<Bound<'py, PyAny>>],
    (dy, dstate, need_dx): (Option<&Bound<'py, PyAny>>, Option<&Bound<'py, PyAny>>, bool),
) -> PyResult<Bound<'py, PyTuple>> {
    let count = masks.len() + 1;
    let directions = parts.len() / count;
    let dims = records[0].dims(parts[0])?;
    let output_size = dims.layer.output_size;
    let mut d_out = borrow_option::<T>("dy", dy, Wanted::Rows, LIKE_WEIGHTS)?;
    if let Some(dy) = &d_out {
        dims.check_sequence("dy", directions * output_size, dy.shape())?;
    }
    let dstate = State::<T>::borrow_stacked("dstate", dstate, &dims, (count, directions))?;
    let start = StateOut::<T>::stacked(py, &dims, parts.len())?;
    let mut gradients = Vec::with_capacity(parts.len());
    for k in (0..count).rev() {
        let first = k * directions;
        let direction = |d: usize| {
            let part = first + d;
            let dy = match &d_out {
                Some(dy) if directions == 2 => Some(side(dy, d, output_size)?),
                dy => dy.as_ref().map(|dy| dy.as_any().clone()),
            };
            let ends = (dstate.as_ref().map(|dstate| dstate.part(part)), start.part(part));
            let recorded = Recorded::new(parts[part], &records[part])?;
            // Of the same call: the states' gradients of all parts stand in one array.
            dims.check_sequence("tape.x", parts[part].dims().input_size, recorded.x.shape())?;
            BackwardArrays::new(py, parts[part], recorded, dy.as_ref(), ends, need_dx || k > 0)
        };
        let one = direction(0)?;
        let two = (directions == 2).then(|| direction(1)).transpose()?;
        one.run(py, parts[first], two.as_ref().map(|two| (parts[first + 1], two)))?;
        d_out = one.dx;
        if let Some(two) = two {
            if let (Some(dx), Some(more)) = (&d_out, &two.dx) {
                let (mut dx, more) = (sequences_mut(dx, &dims), sequences(more, &dims));
                py.detach(|| dx += &more);
            }
            gradients.push(two.gradients);
        }
        gradients.push(one.gradients);
        if let (Some(dx), Some(mask)) = (&d_out, k.checked_sub(1).and_then(|below| masks[below].as_ref())) {
            let mask = borrow::<T>("tape.dropout", mask, Wanted::Rows, LIKE_WEIGHTS)?;
            dims.check_sequence("tape.dropout", directions * output_size, mask.shape())?;
            d_out = Some(dx.mul(mask)?.cast_into()?);
        }
    }
    let gradients = gradients.into_iter().rev().flatten().flatten();
    (d_out, PyTuple::new(py, gradients.collect::<Vec<_>>())?, start.h, start.c).into_pyobject(py)
}
