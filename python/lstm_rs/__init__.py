"""LSTM passes on the CPU, forward and backward, from NumPy.

Every LSTM of the literature from 1997 on, with the same bits on every machine.

The layer is `LSTM`; one layer in one direction, as functions, is `forward`, `forward_train` and `backward`;
`CellSpec` says which cell; `lstm_rs.reference` is the same in readable NumPy. ``python -m lstm_rs`` shows what else
there is.
"""

from lstm_rs import _threadpoolctl
from lstm_rs._core import __version__
from lstm_rs._passes import LSTMGradients, LSTMTape
from lstm_rs._stream import Stream
from lstm_rs.cell import CellSpec
from lstm_rs.config import available_isas, get_num_threads, num_threads, set_num_threads, show_config
from lstm_rs.functional import Gradients, State, Tape, Weights, backward, forward, forward_train
from lstm_rs.layers import LSTM

__all__ = [
    "LSTM",
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
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "show_config",
]

_threadpoolctl.register()
