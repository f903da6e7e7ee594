"""LSTM passes on the CPU, forward and backward, from NumPy.

Every LSTM of the literature from 1997 on, with the same bits on every machine.

The layer is `LSTM`; one layer in one direction, as functions, is `forward`, `forward_train` and `backward`;
`CellSpec` says which cell; `lstm_rs.reference` is the same in readable NumPy. `from_torch`, `from_keras`, `from_onnx`
and their like read the weights of other libraries. Two modules are imported by name: `lstm_rs.torch`, the layer as a
module of PyTorch, and `lstm_rs.onnx`, the operator. ``python -m lstm_rs`` shows what else there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lstm_rs import _threadpoolctl
from lstm_rs._core import __version__
from lstm_rs._passes import LSTMGradients, LSTMTape
from lstm_rs._stream import Stream
from lstm_rs.cell import CellSpec
from lstm_rs.config import available_isas, get_num_threads, num_threads, set_num_threads, show_config
from lstm_rs.functional import Gradients, State, Tape, Weights, backward, forward, forward_train
from lstm_rs.layers import LSTM

if TYPE_CHECKING:
    from lstm_rs.convert import (
        NAM,
        from_flax,
        from_keras,
        from_keras_h5,
        from_nam,
        from_onnx,
        from_torch,
        to_keras,
        to_onnx,
        to_torch,
    )

__all__ = [
    "LSTM",
    "NAM",
    "CellSpec",
    "Gradients",
    "LSTMGradients",
    "LSTMTape",
    "State",
    "Stream",
    "Tape",
    "Weights",
    "__version__",
    "available_isas",
    "backward",
    "forward",
    "forward_train",
    "from_flax",
    "from_keras",
    "from_keras_h5",
    "from_nam",
    "from_onnx",
    "from_torch",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "show_config",
    "to_keras",
    "to_onnx",
    "to_torch",
]

_threadpoolctl.register()


def __getattr__(name: str) -> Any:
    # Importers are as much code as all the rest, and few programs need them: read when one is first asked for.
    if name in __all__:
        return getattr(import_module("lstm_rs.convert"), name)
    raise AttributeError(f"module 'lstm_rs' has no attribute {name!r}")
