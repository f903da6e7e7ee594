"""Weights of other libraries: importers and exporters.

Each importer reads what the other library gives it, puts the rows in our order, i, f, g, o, adds up what that library
adds up, and makes an `LSTM` of it, or raises an error that names the weight that does not fit. What cannot be
represented is refused, never dropped. Optional packages are imported by the functions that need them, when they are
called.
"""

from lstm_rs.convert._flax import from_flax
from lstm_rs.convert._keras import from_keras, to_keras
from lstm_rs.convert._keras_h5 import from_keras_h5
from lstm_rs.convert._nam import NAM, from_nam
from lstm_rs.convert._onnx import from_onnx
from lstm_rs.convert._to_onnx import to_onnx
from lstm_rs.convert._torch import from_torch, to_torch

__all__ = [
    "NAM",
    "from_flax",
    "from_keras",
    "from_keras_h5",
    "from_nam",
    "from_onnx",
    "from_torch",
    "to_keras",
    "to_onnx",
    "to_torch",
]
