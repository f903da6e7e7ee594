//! Cells and weights: read from Python once, and packed for any number of calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::arrays::{
    Array, LIKE_W_IH, Number, Wanted, as_array, borrow, borrow_option, dtype_name, flag, view, wrong_dtype,
};
use super::detached;
use super::settings::chosen;
use crate::cell::{Activation, CellSpec};
use crate::dims::LayerDims;
use crate::error::Result;
use crate::layer::{self, Control};

impl<'a, 'py> FromPyObject<'a, 'py> for CellSpec {
    type Error = PyErr;

    fn extract(cell: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if cell.is_instance_of::<PyType>() {
            return Err(PyTypeError::new_err("cell: expected a CellSpec, got a class; call it, as in CellSpec()"));
        }
        let read = |name: &str| {
            cell.getattr(name).map_err(|_| {
                let got = cell.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
                PyTypeError::new_err(format!("cell: expected a CellSpec, got {got}"))
            })
        };
        let flag = |name: &str| flag(&format!("cell.{name}"), &read(name)?);
        let activation = |name: &str| read_activation(&format!("cell.{name}"), &read(name)?);
        let clip = |name: &str| -> PyResult<f64> {
            let wrong = |_| PyTypeError::new_err(format!("cell.{name}: expected None or a float"));
            Ok(read(name)?.extract::<Option<f64>>().map_err(wrong)?.unwrap_or(f64::INFINITY))
        };
        Ok(Self {
            input_gate: flag("input_gate")?,
            forget_gate: flag("forget_gate")?,
            output_gate: flag("output_gate")?,
            coupled: flag("coupled")?,
            peephole: flag("peephole")?,
            input_activation: activation("input_activation")?,
            output_activation: activation("output_activation")?,
            gate_activation: activation("gate_activation")?,
            gate_clip: clip("gate_clip")?,
            cell_clip: clip("cell_clip")?,
        })
    }
}

/// An activation as a `CellSpec` has it in normal form: a name, or a tuple of a name and all its parameters.
fn read_activation(what: &str, given: &Bound<'_, PyAny>) -> PyResult<Activation> {
    let wrong = || PyTypeError::new_err(format!("{what}: expected a str, or a tuple of a str and floats"));
    let (name, parameters) = match given.cast::<PyTuple>() {
        Ok(tuple) => {
            let name = tuple.get_item(0).map_err(|_| wrong())?.extract::<String>().map_err(|_| wrong())?;
            let rest = tuple.get_slice(1, tuple.len());
            (name, rest.extract::<Vec<f64>>().map_err(|_| wrong())?)
        }
        Err(_) => {
            let name = given.extract::<String>().map_err(|_| wrong())?;
            let defaults = Activation::ALL.iter().find(|(other, _)| *other == name).map_or(&[][..], |(_, all)| all);
            (name, defaults.iter().flatten().copied().collect())
        }
    };
    Activation::new(&name, &parameters)
        .ok_or_else(|| PyValueError::new_err(format!("{what}: there is no activation {given}")))
}

/// The activations by name, each with the values that its parameters take where none are given.
#[pyfunction]
pub(super) fn activations() -> BTreeMap<&'static str, Vec<Option<f64>>> {
    Activation::ALL.iter().map(|&(name, defaults)| (name, defaults.to_vec())).collect()
}

/// Refuses cells whose parts contradict each other.
#[pyfunction]
pub(super) fn check_cell(cell: CellSpec) -> PyResult<()> {
    Ok(cell.check()?)
}

/// The weights' arrays while they are borrowed.
pub(super) struct Weights<'py, T> {
    w_ih: Array<'py, T>,
    w_hh: Array<'py, T>,
    b: Option<Array<'py, T>>,
    peephole: Option<Array<'py, T>>,
    w_hr: Option<Array<'py, T>>,
}

/// The weights as Python has them.
pub(super) type WeightObjects<'a, 'py> = (
    &'a Bound<'py, PyAny>,
    &'a Bound<'py, PyAny>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
);

impl<'py, T: Number> Weights<'py, T> {
    pub(super) fn borrow((w_ih, w_hh, b, peephole, w_hr): WeightObjects<'_, 'py>) -> PyResult<Self> {
        let wanted = Wanted::Contiguous;
        Ok(Self {
            w_ih: borrow("w_ih", w_ih, wanted, "")?,
            w_hh: borrow("w_hh", w_hh, wanted, LIKE_W_IH)?,
            b: borrow_option("b", b, wanted, LIKE_W_IH)?,
            peephole: borrow_option("peephole", peephole, wanted, LIKE_W_IH)?,
            w_hr: borrow_option("w_hr", w_hr, wanted, LIKE_W_IH)?,
        })
    }

    /// Runs `pack` on them, their ranks being right.
    pub(super) fn with<R: Send>(
        &self,
        py: Python<'py>,
        cell: CellSpec,
        pack: impl FnOnce(&layer::Weights<'_, T>, &Control<'_>) -> Result<R> + Send,
    ) -> PyResult<R> {
        let shape = |array: &Option<Array<'py, T>>| array.as_ref().map(|array| array.shape().to_vec());
        let (b, peephole, w_hr) = (shape(&self.b), shape(&self.peephole), shape(&self.w_hr));
        LayerDims::new(
            cell,
            crate::dims::WeightShapes {
                w_ih: self.w_ih.shape(),
                w_hh: self.w_hh.shape(),
                b: b.as_deref(),
                peephole: peephole.as_deref(),
                w_hr: w_hr.as_deref(),
            },
        )?;
        let weights = layer::Weights {
            w_ih: view(&self.w_ih),
            w_hh: view(&self.w_hh),
            b: self.b.as_ref().map(view),
            peephole: self.peephole.as_ref().map(view),
            w_hr: self.w_hr.as_ref().map(view),
        };
        // In caches half a nanosecond a number, measured.
        let numbers = weights.w_ih.len() + weights.w_hh.len();
        detached(py, 0.5 * numbers as f64, |control| pack(&weights, control))
    }
}

/// The dtype that the weights decide on.
pub(super) fn decides<'py>(name: &str, weight: &Bound<'py, PyAny>) -> PyResult<bool> {
    if weight.is_none() {
        return Err(PyTypeError::new_err(format!("{name}: expected an array of float32 or float64, got None")));
    }
    let array = as_array(name, weight)?;
    let dtype = array.getattr("dtype")?;
    match dtype_name(&dtype)?.as_str() {
        "float32" => Ok(true),
        "float64" => Ok(false),
        _ => Err(wrong_dtype(name, weight, &dtype, "float32", " or float64")),
    }
}

/// Of either dtype.
pub(super) enum Either<A, B> {
    F32(A),
    F64(B),
}

/// A pass' weights, packed for one instruction set: immutable, and shared by any number of calls.
macro_rules! packed_weights {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[pyclass(frozen, module = "lstm_rs._core")]
        pub(super) struct $name(pub(super) Either<Arc<layer::$name<f32>>, Arc<layer::$name<f64>>>);

        #[pymethods]
        impl $name {
            #[new]
            #[pyo3(signature = (cell, w_ih, w_hh, b=None, peephole=None, w_hr=None))]
            fn new(
                py: Python<'_>,
                cell: CellSpec,
                w_ih: &Bound<'_, PyAny>,
                w_hh: &Bound<'_, PyAny>,
                b: Option<&Bound<'_, PyAny>>,
                peephole: Option<&Bound<'_, PyAny>>,
                w_hr: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<Self> {
                let objects = (w_ih, w_hh, b, peephole, w_hr);
                let isa = chosen();
                Ok(Self(if decides("w_ih", w_ih)? {
                    let weights = Weights::<f32>::borrow(objects)?;
                    let pack = |weights: &layer::Weights<'_, _>, control: &Control<'_>| layer::$name::with(isa, cell, weights, control);
                    Either::F32(Arc::new(weights.with(py, cell, pack)?))
                } else {
                    let weights = Weights::<f64>::borrow(objects)?;
                    let pack = |weights: &layer::Weights<'_, _>, control: &Control<'_>| layer::$name::with(isa, cell, weights, control);
                    Either::F64(Arc::new(weights.with(py, cell, pack)?))
                }))
            }
        }
    };
}

packed_weights! {
    /// Weights as `forward` reads them.
    Forward
}
packed_weights! {
    /// Weights as `backward` reads them.
    Backward
}
