"""What all importers end in: a layer made of weights that stand in our order, or an error that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs._parameters import Layout, as_array, float_dtype
from lstm_rs.cell import CellSpec
from lstm_rs.functional import Weights
from lstm_rs.layers import LSTM

_FIELDS = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b": "bias", "peephole": "peephole", "w_hr": "weight_hr"}


def build(
    parts: Sequence[Weights],
    *,
    names: Sequence[Mapping[str, str]],
    directions: int = 1,
    cell: CellSpec | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    dtype: npt.DTypeLike | None = None,
) -> LSTM:
    """Make a layer of one set of weights for each part, or nothing where one of them does not fit.

    Parameters
    ----------
    parts : sequence of Weights
        Layer 0, its second direction if there is one, layer 1, ...: gate rows in the order i, f, g, o.
    names : sequence of mapping
        For each part, what its fields (``w_ih``, ``w_hh``, ...) are called where they come from, for messages. A field
        that is left out goes by our own name.
    directions : int
        1 or 2.
    cell, batch_first, dropout
        As of `LSTM`.
    dtype : dtype, optional
        Of the layer; that of the weights if not given: float64 if any is, else float32.

    Raises
    ------
    ValueError
        If a shape does not fit the others, or a weight is NaN, infinite, or too large for `dtype`.
    TypeError
        If a weight is not of float32 or float64.
    """
    cell = CellSpec() if cell is None else cell
    arrays = [
        {
            field: finite(called.get(field, field), array)
            for field, array in zip(Weights._fields, part, strict=True)
            if array is not None
        }
        for part, called in zip(parts, names, strict=True)
    ]
    if dtype is None:
        dtype = np.result_type(*(array.dtype for part in arrays for array in part.values()))
    gates, first, called = len(cell.gates), arrays[0], names[0]
    for field in ("w_ih", "w_hh"):
        if first[field].ndim != 2:
            raise ValueError(f"{called.get(field, field)}: expected a matrix, got shape {first[field].shape}")
    rows, output_size = first["w_hh"].shape
    hidden_size, rest = divmod(rows, gates)
    if rest or not hidden_size:
        raise ValueError(
            f"{called.get('w_hh', 'w_hh')}: expected {gates} gates of as many rows each ({', '.join(cell.gates)}), "
            f"got shape {(rows, output_size)}"
        )
    projected = "w_hr" in first
    if not projected and output_size != hidden_size:
        raise ValueError(
            f"{called.get('w_hh', 'w_hh')}: expected shape {(rows, hidden_size)} for {gates} gates without a "
            f"projection, got {(rows, output_size)}"
        )
    bias = any("b" in part for part in arrays)
    dtype = float_dtype(dtype)
    input_size, num_layers = first["w_ih"].shape[1], len(parts) // directions
    shapes = Layout(
        cell,
        dtype,
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        num_layers=num_layers,
        directions=directions,
        bias=bias,
        batch_first=batch_first,
    ).shapes
    weights: dict[str, np.ndarray] = {}
    for k, (part, called) in enumerate(zip(arrays, names, strict=True)):
        suffix = f"_l{k // directions}" + ("_reverse" if k % directions else "")
        if bias and "b" not in part:
            part["b"] = np.zeros(rows, dtype)
        for field, array in part.items():
            name = _FIELDS[field] + suffix
            expected = shapes.get(name)
            if array.shape != expected:
                raise ValueError(
                    f"{called.get(field, field)}: expected "
                    f"{'none' if expected is None else f'shape {expected}'}, as the first layer has it, "
                    f"got shape {array.shape}"
                )
            with np.errstate(over="ignore"):
                weights[name] = array.astype(dtype, copy=False)
            if not np.isfinite(weights[name]).all():
                raise ValueError(
                    f"{called.get(field, field)}: expected at most {np.finfo(dtype).max:.3g}, for {dtype}, "
                    f"got {np.abs(array).max():.3g}"
                )
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise ValueError(f"weights: missing {', '.join(missing)}, which the first layer's weights ask for")
    return LSTM._of(
        weights,
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bias=bias,
        batch_first=batch_first,
        bidirectional=directions == 2,
        proj_size=output_size if projected else 0,
        dropout=dropout,
        cell=cell,
        dtype=dtype,
    )


def finite(name: str, array: Any) -> np.ndarray:
    """The array in this machine's byte order, if all of it are numbers of float32 or float64."""
    given = as_array(name, array)
    if given.dtype.kind != "f" or given.dtype.itemsize not in (4, 8):
        raise TypeError(f"{name}: expected float32 or float64, got {given.dtype}; cast it with .astype(np.float32)")
    if not np.isfinite(given).all():
        count = int(np.count_nonzero(~np.isfinite(given)))
        raise ValueError(f"{name}: {count} of {given.size} weights are NaN or infinite")
    return given.astype(given.dtype.newbyteorder("="), copy=False)
