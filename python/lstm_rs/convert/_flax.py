"""Weights of Flax's LSTM cells, of linen and of nnx.

Two forms hold the same numbers, the gates in the order i, f, g, o:

- one dense layer for each gate: ``ii``, ``if``, ``ig``, ``io`` of the input, without a bias, and ``hi``, ``hf``,
  ``hg``, ``ho`` of the state, with one. These are ``LSTMCell`` and ``OptimizedLSTMCell`` of linen, and ``LSTMCell`` of
  nnx, where ``if`` is called ``if_``;
- ``dense_i`` and ``dense_h`` for all gates together: ``OptimizedLSTMCell`` of nnx.

A kernel is (in, out): ours transposed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_rs.cell import CellSpec
from lstm_rs.convert._build import build, finite
from lstm_rs.functional import Weights
from lstm_rs.layers import LSTM

if TYPE_CHECKING:
    from flax import nnx

_GATES = ("i", "f", "g", "o")
_APART = tuple(side + gate for side in "ih" for gate in _GATES)
_TOGETHER = ("dense_i", "dense_h")


def from_flax(
    params: Mapping[str, Any] | nnx.Module,
    *,
    cell: CellSpec | None = None,
    batch_first: bool | None = None,
    dtype: npt.DTypeLike | None = None,
) -> LSTM:
    """Make a layer of the parameters of a Flax LSTM cell.

    Parameters
    ----------
    params : mapping, or nnx.LSTMCell, nnx.OptimizedLSTMCell or nnx.RNN
        The parameters of a cell by name, nested, of JAX or NumPy arrays: what ``init`` of a linen cell or ``nn.RNN``
        gives, or ``nnx.state``. Or the cell itself, if it is of nnx, or an ``nnx.RNN`` around it.
    cell : CellSpec, optional
        Which activations the parameters were trained with; by default tanh, and sigmoid for the gates, as in Flax. A
        cell of nnx says this itself.
    batch_first : bool, optional
        As of `LSTM`. By default that of the ``nnx.RNN``, and False for parameters and cells, which have no time axis.
    dtype : float32 or float64, optional
        Of the layer; by default that of the parameters.

    Returns
    -------
    LSTM
        Of one layer in one direction.

    Raises
    ------
    KeyError
        If parameters are missing, or there are others that would be dropped.
    ValueError
        If a shape does not fit, a weight is NaN or infinite, or the cell has an activation that we have not, or runs in
        reverse.
    TypeError
        If `params` is none of these, or a weight is not of float32 or float64.

    Notes
    -----
    The carry of Flax is ``(c, h)``; our state is ``(h, c)``: turn it round.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> params = {"i" + gate: {"kernel": np.ones((3, 8), dtype=np.float32)} for gate in "ifgo"}
    >>> for gate in "ifgo":
    ...     params["h" + gate] = {"kernel": np.eye(8, dtype=np.float32), "bias": np.zeros(8, dtype=np.float32)}
    >>> lstm_rs.from_flax({"params": {"cell": params}})
    LSTM(3, 8)
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(params, nnx.RNN):
        if params.reverse:
            raise ValueError(
                "params: the RNN runs in reverse: set reverse=False, and give the LSTM that is made x[::-1], or "
                "x[:, ::-1] where the batch is first"
            )
        batch_first = not params.time_major if batch_first is None else batch_first
        params = params.cell
    if nnx is not None and isinstance(params, nnx.LSTMCell | nnx.OptimizedLSTMCell):
        if cell is not None:
            raise ValueError(f"cell: leave it out: {type(params).__name__} says itself which activations it has")
        cell = _cell(params)
        names = _TOGETHER if isinstance(params, nnx.OptimizedLSTMCell) else _APART
        found: Mapping[str, Any] = {
            name: {field: value for field in ("kernel", "bias") if (value := getattr(dense, field)) is not None}
            for name in names
            for dense in [getattr(params, "if_" if name == "if" else name)]
        }
        where = ""
    elif isinstance(params, Mapping):
        found, where = _opened(params)
    else:
        raise TypeError(
            f"params: expected a mapping of parameters, an nnx.LSTMCell, an nnx.OptimizedLSTMCell or an nnx.RNN around "
            f"one, got {type(params).__name__}"
            + ("; a module of linen has no parameters: pass what its init gave" if _is_linen(params) else "")
        )
    weights, called = _part(_arrays(found, where), where)
    return build(
        [weights],
        names=[called],
        cell=cell,
        batch_first=False if batch_first is None else batch_first,
        dtype=dtype,
    )


def _is_linen(module: Any) -> bool:
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(module, linen.Module)


def _opened(params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The cell's parameters, through mappings that hold nothing else: {"params": {"cell": ...}}."""
    where = ""
    while not any(name in params for name in (*_APART, "if_", *_TOGETHER)):
        # An nnx.RNN keeps its generator beside the cell.
        inner = [name for name in params if not (name == "rngs" and "cell" in params)]
        if len(inner) != 1 or not isinstance(params[inner[0]], Mapping):
            listed = ", ".join(f"{where}{name}" for name in inner) or "nothing"
            raise KeyError(
                f"params: expected the parameters of one LSTM cell, ii, if, ig, io, hi, hf, hg, ho or dense_i, "
                f"dense_h, got {listed}; pass those of one cell"
            )
        where += f"{inner[0]}."
        params = params[inner[0]]
    return params, where


def _arrays(found: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """The arrays by one name each, all that there have to be, and no other."""
    given: dict[str, Any] = {}
    for name, dense in found.items():
        name = "if" if name == "if_" else str(name)
        fields = (
            {f"{name}.{field}": value for field, value in dense.items()}
            if isinstance(dense, Mapping)
            else {name: dense}
        )
        twice = [where + field for field in fields if field in given]
        if twice:
            raise KeyError(f"params: expected each once, got two of {', '.join(twice)}")
        given |= fields
    names = _TOGETHER if any(name in found for name in _TOGETHER) else _APART
    expected = [f"{name}.kernel" for name in names]
    expected += [f"{name}.bias" for name in names if name.removeprefix("dense_").startswith("h")]
    missing = [where + name for name in expected if name not in given]
    unexpected = [where + name for name in given if name not in expected]
    if missing or unexpected:
        lists = (("missing", missing), ("no weights of an LSTM, which would be dropped", unexpected))
        raise KeyError("params: " + "; ".join(f"{what}: {', '.join(names)}" for what, names in lists if names))
    return {name: finite(where + name, given[name]) for name in expected}


def _part(arrays: Mapping[str, np.ndarray], where: str) -> tuple[Weights, dict[str, str]]:
    """Our matrices, and what they are called."""
    for name, array in arrays.items():
        ndim = 2 if name.endswith("kernel") else 1
        if array.ndim != ndim:
            raise ValueError(f"{where}{name}: expected {ndim} axes, got shape {array.shape}")
    if "dense_i.kernel" in arrays:
        w_ih, w_hh, bias = (arrays[name] for name in ("dense_i.kernel", "dense_h.kernel", "dense_h.bias"))
        called = {"w_ih": "dense_i.kernel", "w_hh": "dense_h.kernel", "b": "dense_h.bias"}
        # The error of a shape has to show the shape that the caller knows.
        hidden_size = w_hh.shape[0]
        for field, array, shape in (
            ("w_ih", w_ih, (w_ih.shape[0], 4 * hidden_size)),
            ("w_hh", w_hh, (hidden_size, 4 * hidden_size)),
            ("b", bias, (4 * hidden_size,)),
        ):
            if array.shape != shape:
                raise ValueError(f"{where}{called[field]}: expected shape {shape}, for 4 gates of {hidden_size} as "
                                 f"{where}dense_h.kernel has rows, got {array.shape}")  # fmt: skip
    else:
        hidden_size = arrays["hi.kernel"].shape[0]
        input_size = arrays["ii.kernel"].shape[0]
        shapes = {"ii.kernel": (input_size, hidden_size), "hi.kernel": (hidden_size,) * 2, "hi.bias": (hidden_size,)}
        for name, array in arrays.items():
            shape = shapes[f"{name[0]}i.{name[3:]}"]
            if array.shape != shape:
                raise ValueError(f"{where}{name}: expected shape {shape}, for hidden_size {hidden_size} as "
                                 f"{where}hi.kernel has rows, got {array.shape}")  # fmt: skip
        w_ih, w_hh, bias = (
            np.concatenate([arrays[f"{side}{gate}.{field}"] for gate in _GATES], axis=-1)
            for side, field in (("i", "kernel"), ("h", "kernel"), ("h", "bias"))
        )
        called = {"w_ih": "ii.kernel", "w_hh": "hi.kernel", "b": "hi.bias"}
    return Weights(w_ih.T, w_hh.T, bias, None, None), {field: where + name for field, name in called.items()}


def _cell(module: Any) -> CellSpec:
    """The cell with the functions of an nnx module, which are known by being the very functions of JAX."""
    jax = sys.modules["jax"]
    known: list[tuple[Any, str | tuple[Any, ...]]] = [
        (jax.nn.sigmoid, "sigmoid"),
        (jax.nn.tanh, "tanh"),
        (jax.lax.tanh, "tanh"),
        (jax.nn.identity, "identity"),
        (jax.nn.relu, "relu"),
        (jax.nn.leaky_relu, ("leaky_relu", 0.01)),
        (jax.nn.elu, ("elu", 1.0)),
        (jax.nn.soft_sign, "softsign"),
        (jax.nn.softplus, "softplus"),
        (jax.nn.hard_sigmoid, ("hard_sigmoid", 1 / 6, 0.5)),
    ]

    def named(field: str) -> Any:
        function = getattr(module, field)
        for candidate, name in known:
            if function is candidate:
                return name
        raise ValueError(
            f"{field}: expected one of the functions of jax.nn that we have, "
            f"{', '.join(candidate.__name__ for candidate, _ in known)}, got {function!r}"
        )

    activation = named("activation_fn")
    return CellSpec(input_activation=activation, output_activation=activation, gate_activation=named("gate_fn"))
