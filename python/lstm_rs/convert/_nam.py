"""Models of Neural Amp Modeler: ``.nam`` files of the architecture "LSTM".

Such a file is JSON. Its weights are one list of numbers: for each layer the matrix of input and state side by side,
(4H, I + H), row by row, gates in the order i, f, g, o; the bias (4H,); the initial h (H,) and c (H,). Then the head,
which makes a sample of the last layer's h: a matrix (out, H), row by row, and a bias (out,).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_rs._parameters import float_dtype
from lstm_rs.convert._build import build, finite
from lstm_rs.functional import State, Weights
from lstm_rs.layers import LSTM

_SIZES = ("input_size", "hidden_size", "num_layers")
_CHANNELS = ("in_channels", "out_channels")
# So that what sizes are multiplied to can be written out.
_TOO_LARGE = 1 << 62


class NAM(NamedTuple):
    """A model of Neural Amp Modeler: all that its file says.

    Attributes
    ----------
    lstm : LSTM
        The layers.
    state : State
        Where the model starts from: h and c, (L, 1, H).
    head_weight : (out, H) array
        Makes the outputs, of which a model of one channel has one.
    head_bias : (out,) array
        Is added to them.
    sample_rate : float or None
        In Hz, if the file says.
    metadata : dict
        What else the file says: its version, the gear, the loudness, ...
    """

    lstm: LSTM
    state: State
    head_weight: np.ndarray
    head_bias: np.ndarray
    sample_rate: float | None
    metadata: dict[str, Any]


def from_nam(source: str | os.PathLike[str] | Mapping[str, Any], *, dtype: npt.DTypeLike = np.float32) -> NAM:
    """Read a model of Neural Amp Modeler.

    Parameters
    ----------
    source : path or mapping
        A ``.nam`` file of the architecture "LSTM", or what its JSON says.
    dtype : float32 or float64, default float32
        Of the layer, the state and the head.

    Returns
    -------
    NAM
        The layer, the state that it starts from, the head, and the rest of the file.

    Raises
    ------
    ValueError
        If the file is no such model, if the number of weights is not what its sizes ask for, or if a weight is NaN or
        infinite.
    KeyError
        If a size is missing.
    TypeError
        If `source` is neither, or a size or a weight is no number.
    OSError
        If the file cannot be opened.

    Notes
    -----
    The format is that of NeuralAmpModelerCore, https://github.com/sdatkinson/NeuralAmpModelerCore, ``NAM/lstm.cpp``.
    Its player runs half a second of silence before the first sample, so that the state settles, and may use an
    approximation of tanh; neither is in the file.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> weights = [0.1] * (4 * 2 * (1 + 2) + 4 * 2 + 2 + 2 + 2 + 1)
    >>> config = {"input_size": 1, "hidden_size": 2, "num_layers": 1}
    >>> nam = lstm_rs.from_nam({"version": "0.5.4", "architecture": "LSTM", "config": config, "weights": weights})
    >>> audio = np.zeros((100, 1), dtype=np.float32)
    >>> y, state = nam.lstm(audio[:, None], nam.state)
    >>> (y[:, 0] @ nam.head_weight.T + nam.head_bias).shape
    (100, 1)
    """
    name, said = _opened(source)
    if said.get("architecture") != "LSTM":
        raise ValueError(f"{name}: expected the architecture 'LSTM', got {said.get('architecture')!r}")
    config = said.get("config")
    if not isinstance(config, Mapping):
        raise ValueError(f"{name}: expected a config with {', '.join(_SIZES)}, got {config!r}")
    unknown = [key for key in config if key not in (*_SIZES, *_CHANNELS)]
    if unknown:
        raise ValueError(f"{name}: expected a config of {', '.join((*_SIZES, *_CHANNELS))}, got also "
                         f"{', '.join(map(str, unknown))}")  # fmt: skip
    missing = [key for key in _SIZES if key not in config]
    if missing:
        raise KeyError(f"{name}: config: missing {', '.join(missing)}")
    input_size, hidden_size, num_layers = (_size(name, config, key) for key in _SIZES)
    outputs = _size(name, config, "out_channels") if "out_channels" in config else 1
    if "in_channels" in config and _size(name, config, "in_channels") != input_size:
        raise ValueError(f"{name}: config: expected in_channels {input_size}, as input_size, "
                         f"got {config['in_channels']!r}")  # fmt: skip

    weights = _list(name, said.get("weights"))
    widths = 4 * hidden_size * (input_size + hidden_size), 8 * hidden_size * hidden_size
    expected = widths[0] + (num_layers - 1) * widths[1] + num_layers * 6 * hidden_size + outputs * (hidden_size + 1)
    numbers = _numbers(name, weights, expected, float_dtype(dtype))
    taken = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal taken
        start, taken = taken, taken + math.prod(shape)
        return numbers[start:taken].reshape(shape)

    parts, h, c = [], [], []
    for k in range(num_layers):
        columns = hidden_size if k else input_size
        matrix, bias = take(4 * hidden_size, columns + hidden_size), take(4 * hidden_size)
        parts.append(Weights(matrix[:, :columns], matrix[:, columns:], bias, None, None))
        h.append(take(hidden_size))
        c.append(take(hidden_size))
    head_weight, head_bias = take(outputs, hidden_size), take(outputs)
    return NAM(
        build(parts, names=[{} for _ in parts], dtype=numbers.dtype),
        State(np.stack(h)[:, None], np.stack(c)[:, None]),
        head_weight.copy(),
        head_bias.copy(),
        _sample_rate(name, said.get("sample_rate")),
        {key: value for key, value in said.items() if key not in ("architecture", "config", "weights", "sample_rate")},
    )


def _opened(source: Any) -> tuple[str, Mapping[str, Any]]:
    """What the model is called in messages, and what it says."""
    if isinstance(source, Mapping):
        return "source", source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a path, or a mapping of what the file says, got {type(source).__name__}")
    name = os.fspath(source)
    with open(name, encoding="utf-8") as file:
        try:
            said = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}: expected JSON, as a .nam file is: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{name}: expected a JSON object, as a .nam file is, got {type(said).__name__}")
    return name, said


def _size(name: str, config: Mapping[str, Any], key: str) -> int:
    """A size, at least 1."""
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: config: expected an int for {key}, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: config: expected at least 1 for {key}, got {value}")
    if value >= _TOO_LARGE:
        raise ValueError(f"{name}: config: expected less than {_TOO_LARGE} for {key}, got {value}")
    return value


def _list(name: str, weights: Any) -> Sequence[Any] | np.ndarray:
    """What can be a list of weights."""
    if not isinstance(weights, Sequence | np.ndarray) or isinstance(weights, str):
        raise TypeError(f"{name}: expected a list of weights, got {type(weights).__name__}")
    if isinstance(weights, np.ndarray) and (weights.ndim != 1 or weights.dtype.kind not in "fiu"):
        raise TypeError(f"{name}: expected one list of weights, got {weights.dtype} of shape {weights.shape}")
    return weights


def _numbers(name: str, weights: Sequence[Any] | np.ndarray, expected: int, dtype: np.dtype[Any]) -> np.ndarray:
    """The weights, if there are as many as the sizes ask for."""
    if len(weights) != expected:
        raise ValueError(f"{name}: expected {expected} weights for the sizes in its config, got {len(weights)}")
    if not isinstance(weights, np.ndarray):
        # NumPy would take "1.5" and True for numbers.
        wrong = [value for value in weights if isinstance(value, bool) or not isinstance(value, Real)]
        if wrong:
            raise TypeError(f"{name}: expected weights that are numbers, got {wrong[0]!r}")
    try:
        numbers = np.asarray(weights, dtype=np.float64)
    except OverflowError as error:
        raise ValueError(f"{name}: expected weights that fit into float64: {error}") from error
    if numbers.ndim != 1:
        raise ValueError(f"{name}: expected one list of weights, got shape {numbers.shape}")
    with np.errstate(over="ignore"):
        return finite(f"{name}: weights", numbers.astype(dtype))


def _sample_rate(name: str, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{name}: expected a number for sample_rate, got {value!r}")
    if value is None:
        return None
    try:
        rate = float(value)
    except OverflowError:
        rate = math.inf
    if not math.isfinite(rate):
        raise ValueError(f"{name}: expected a finite number for sample_rate, got {value!r}")
    return rate
