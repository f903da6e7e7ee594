"""Weights of ``torch.nn.LSTM``, and of `lstm_rs.torch.LSTM`, from a module or a state_dict; and back.

The rows stand in our order, i, f, g, o, and h_n and c_n in ours too: layer by layer, forward before reverse. What
differs is the bias: PyTorch keeps two, ``bias_ih`` and ``bias_hh``, of which only the sum matters.

Nothing here imports torch but `to_torch`: a state_dict of NumPy arrays is as good as one of tensors.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_rs._optional import need
from lstm_rs.cell import CellSpec
from lstm_rs.convert._build import build, finite
from lstm_rs.functional import Weights
from lstm_rs.layers import LSTM

if TYPE_CHECKING:
    import torch

__doctest_requires__ = {"to_torch": ["torch"]}

# Six digits are more layers than anyone has; int() of a longer number may take long.
_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh|peephole)_l(0|[1-9][0-9]{0,5})(_reverse)?")
_KINDS = {3: "GRU", 1: "RNN"}


def from_torch(
    source: torch.nn.Module | Mapping[str, Any],
    prefix: str = "",
    *,
    cell: CellSpec | None = None,
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: npt.DTypeLike | None = None,
) -> LSTM:
    """Make a layer of the weights of a ``torch.nn.LSTM``.

    Parameters
    ----------
    source : torch.nn.Module or mapping of str to tensor or array
        A ``torch.nn.LSTM``, a model with one inside, or a state_dict. NumPy arrays do as well as tensors.
    prefix : str, default ""
        Where in a larger model the LSTM is, as its state_dict has it: "encoder.lstm". It may be left out if there is
        only one.
    cell : CellSpec, optional
        Which cell the weights are of, for a state_dict of an `lstm_rs.torch.LSTM` with a cell of its own; by default
        that of PyTorch. A module says this itself.
    batch_first : bool, optional
        As of `LSTM`. By default that of the module; a state_dict does not say, and then it is False.
    dropout : float, optional
        As of `LSTM`. By default that of the module; a state_dict does not say, and then it is 0.
    dtype : float32 or float64, optional
        Of the layer; by default that of the weights.

    Returns
    -------
    LSTM
        Sizes, layers, directions, bias and projection are those that the names and shapes tell.

    Raises
    ------
    KeyError
        If there is no LSTM where `prefix` says, if some of its weights are missing, or if there are others beside them
        that would be dropped.
    ValueError
        If there are several LSTMs to choose from, if the weights are those of a GRU or an RNN, if a shape does not fit,
        or if a weight is NaN or infinite.
    TypeError
        If `source` is neither, if `cell` is no CellSpec, or if a weight is not of float32 or float64.

    Notes
    -----
    The two biases are added in float64, as `LSTM.load_state_dict` adds them. Tensors on another device are copied to
    the CPU. The equations, and with them the order of the rows, are in the documentation of ``torch.nn.LSTM``:
    https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> state_dict = {
    ...     "encoder.lstm.weight_ih_l0": np.ones((32, 3), dtype=np.float32),
    ...     "encoder.lstm.weight_hh_l0": np.ones((32, 8), dtype=np.float32),
    ...     "encoder.lstm.bias_ih_l0": np.ones(32, dtype=np.float32),
    ...     "encoder.lstm.bias_hh_l0": np.ones(32, dtype=np.float32),
    ...     "decoder.weight": np.ones((2, 8), dtype=np.float32),
    ... }
    >>> lstm = lstm_rs.from_torch(state_dict, "encoder.lstm")
    >>> lstm
    LSTM(3, 8)
    >>> float(lstm.weights["bias_l0"][0])
    2.0
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    if not isinstance(cell, CellSpec | None):
        raise TypeError(f"cell: expected a CellSpec, got {type(cell).__name__}")
    state_dict, modules = _opened(source)
    if prefix and not prefix.endswith("."):
        prefix += "."
    prefix = _chosen(state_dict, prefix, modules, cell)
    module = modules.get(prefix)
    if cell is not None and module is not None and cell != _cell(module):
        raise ValueError(f"cell: expected {_cell(module)}, which the module has, or nothing, got {cell}")
    cell = _cell(module) if cell is None else cell

    given = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    layers, directions = _checked(prefix, given, cell)
    arrays = {name: _array(prefix + name, value) for name, value in given.items()}
    _check_gates(prefix, arrays, cell)
    if dtype is None:
        # Before the biases are added: their sum is of float64.
        dtype = np.result_type(*(array.dtype for array in arrays.values()))
    suffixes = [f"_l{k}{way}" for k in range(layers) for way in ("", "_reverse")[:directions]]
    parts, names = zip(*(_part(prefix, arrays, suffix) for suffix in suffixes), strict=True)

    said_dropout = 0.0
    if module is not None:
        batch_first = module.batch_first if batch_first is None else batch_first
        said_dropout = module.dropout
    lstm = build(
        parts,
        names=names,
        directions=directions,
        cell=cell,
        batch_first=False if batch_first is None else batch_first,
        # A module of one layer may say a dropout. It acts in neither library, and PyTorch has warned of it.
        dropout=dropout if dropout is not None else said_dropout if layers > 1 else 0.0,
        dtype=dtype,
    )
    if dropout is None:
        lstm.dropout = float(said_dropout)
    return lstm


def to_torch(lstm: LSTM) -> torch.nn.LSTM:
    """Make a ``torch.nn.LSTM`` of a layer.

    Parameters
    ----------
    lstm : LSTM
        With the cell of today's libraries, ``CellSpec()``: PyTorch has no other.

    Returns
    -------
    torch.nn.LSTM
        On the CPU, with all options and weights of `lstm`. Our bias is its ``bias_ih``; its ``bias_hh`` is 0.

    Raises
    ------
    ValueError
        If ``torch.nn.LSTM`` does not have such a cell, or no such size.
    TypeError
        If `lstm` is something else.
    ImportError
        If torch is not installed.

    Notes
    -----
    `from_torch` makes the very same layer of the module, to the bit: the zeros of ``bias_hh`` are -0.0, which changes
    no number that it is added to, where 0.0 would make 0.0 of a bias of -0.0.

    Examples
    --------
    >>> import lstm_rs
    >>> lstm_rs.to_torch(lstm_rs.LSTM(3, 8, num_layers=2, bidirectional=True, seed=0))
    LSTM(3, 8, num_layers=2, bidirectional=True)
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm: expected an lstm_rs.LSTM, got {type(lstm).__name__}")
    if lstm.cell != CellSpec():
        raise ValueError(f"lstm: torch.nn.LSTM has no cell {lstm.cell}; lstm_rs.torch.LSTM(..., cell=...) has")
    if lstm.input_size == 0:
        raise ValueError("lstm: torch.nn.LSTM has no input_size of 0")
    torch = need("torch", "to_torch", "torch")
    # The weights that PyTorch draws are overwritten: what its generator gives to others stays as it was.
    with torch.random.fork_rng(devices=[]):
        module = torch.nn.LSTM(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            bias=lstm.bias,
            batch_first=lstm.batch_first,
            bidirectional=lstm.bidirectional,
            proj_size=lstm.proj_size,
            dtype=getattr(torch, lstm.dtype.name),
            device="cpu",
        )
    # Not above: there PyTorch warns of a dropout with one layer, of which we have warned already.
    module.dropout = lstm.dropout
    arrays = lstm.state_dict()
    for name in [name for name in arrays if name.startswith("bias_")]:
        suffix = name.removeprefix("bias")
        arrays["bias_ih" + suffix] = bias = arrays.pop(name)
        arrays["bias_hh" + suffix] = np.full_like(bias, -0.0)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return module


def _opened(source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state_dict, and the LSTM modules by their prefixes in it, if there are modules."""
    # Whoever has a module has imported torch.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        modules = {
            name + "." if name else "": module
            for name, module in source.named_modules(remove_duplicate=False)
            # PyTorch's own, whose attributes mean what they mean there. A scripted one is of another class.
            if isinstance(module, torch.nn.LSTM) or getattr(module, "original_name", None) == "LSTM"
        }
        return dict(source.state_dict()), modules
    if not isinstance(source, Mapping):
        raise TypeError(
            f"source: expected a torch.nn.LSTM, another torch.nn.Module or a state_dict, got {type(source).__name__}"
        )
    nested = [name for name, value in source.items() if isinstance(value, Mapping)]
    if nested:
        raise ValueError(
            f"source: expected names of tensors, got mappings under {', '.join(map(repr, nested))}: "
            f"pass the one that is the state_dict"
        )
    wrong = [name for name in source if not isinstance(name, str)]
    if wrong:
        raise KeyError(f"source: expected names that are str, got {wrong[0]!r}")
    return dict(source), {}


def _cell(module: Any) -> CellSpec:
    """The cell of a module: PyTorch's has none to choose, that of `lstm_rs.torch` has."""
    cell = getattr(module, "cell", None)
    return cell if isinstance(cell, CellSpec) else CellSpec()


def _chosen(state_dict: Mapping[str, Any], prefix: str, modules: Mapping[str, Any], cell: CellSpec | None) -> str:
    """The prefix under which the weights stand: what was given, or the only one there is."""
    kinds: dict[str, str] = {}
    for name in state_dict:
        before, dot, last = name.rpartition(".")
        where = before + dot
        if where not in kinds and _NAME.fullmatch(last):
            kinds[where] = _kind(state_dict, where, _cell(modules.get(where)) if cell is None else cell)
    if prefix in kinds:
        return prefix
    listed = ", ".join(f"{where!r} ({kind})" for where, kind in kinds.items()) or "none"
    if prefix:
        raise KeyError(f"prefix: no weights of an LSTM under {prefix!r}; prefixes that have any: {listed}")
    lstms = [where for where, kind in kinds.items() if kind == "LSTM"] or list(kinds)
    if not lstms:
        raise KeyError("source: no weights of an LSTM, by the names of PyTorch: weight_ih_l0, weight_hh_l0, ...")
    if len(lstms) > 1:
        raise ValueError(f"prefix: expected one of those that have an LSTM: {listed}")
    return lstms[0]


def _kind(state_dict: Mapping[str, Any], prefix: str, cell: CellSpec) -> str:
    """LSTM, GRU or RNN: by the gates in layer 0."""
    shape = tuple(getattr(state_dict.get(prefix + "weight_hh_l0"), "shape", ()))
    projection = tuple(getattr(state_dict.get(prefix + "weight_hr_l0"), "shape", ()))
    hidden_size = projection[1] if len(projection) == 2 else shape[1] if len(shape) == 2 else 0
    gates, rest = divmod(shape[0], hidden_size) if hidden_size and shape else (0, 0)
    return "LSTM" if gates == len(cell.gates) and not rest else "unknown" if rest else _KINDS.get(gates, "unknown")


def _checked(prefix: str, given: Mapping[str, Any], cell: CellSpec) -> tuple[int, int]:
    """How many layers and directions; every weight of all of them is there, and nothing else."""
    matches = [match for match in map(_NAME.fullmatch, given) if match]
    numbers = {int(match[2]) for match in matches}
    absent = next(k for k in range(len(numbers) + 1) if k not in numbers)
    if absent < len(numbers):
        raise KeyError(f"source: missing layer {absent} under {prefix!r}: there are weights of layer {max(numbers)}")
    directions = 2 if any(match[3] for match in matches) else 1
    fields = ["weight_ih", "weight_hh"]
    fields += ["bias_ih", "bias_hh"] if any(match[1].startswith("bias") for match in matches) else []
    fields += ["peephole"] if cell.peepholes else []
    fields += ["weight_hr"] if any(match[1] == "weight_hr" for match in matches) else []
    expected = [
        f"{field}_l{k}{way}" for k in range(len(numbers)) for way in ("", "_reverse")[:directions] for field in fields
    ]
    known = set(expected)
    missing = [prefix + name for name in expected if name not in given]
    unexpected = [prefix + name for name in given if name not in known]
    if missing or unexpected:
        lists = (("missing", missing), ("no weights of an LSTM, which would be dropped", unexpected))
        said = "; ".join(f"{what}: {_listed(names)}" for what, names in lists if names)
        peepholes = any("peephole_l" in name for name in unexpected)
        raise KeyError(f"source: {said}" + ("; of a cell with peepholes, which cell= has to say" if peepholes else ""))
    return len(numbers), directions


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are: a model may have hundreds."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _array(name: str, value: Any) -> np.ndarray:
    """The numbers of a tensor, or an array."""
    if hasattr(value, "detach"):
        if value.is_meta:
            raise ValueError(f"{name}: expected numbers, got a tensor on the meta device, which has none")
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in ("float32", "float64"):
            raise TypeError(f"{name}: expected float32 or float64, got {kind}; cast it with .float()")
        try:
            # By force: off another device, without a gradient, and with the sign that a view may keep in a flag.
            value = value.numpy(force=True)
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"{name}: expected a tensor that makes an array, got one of {value.layout}: {error}"
            ) from error
    return finite(name, value)


def _check_gates(prefix: str, arrays: Mapping[str, np.ndarray], cell: CellSpec) -> None:
    """Refuse a GRU or an RNN, whose weights have the names of an LSTM's."""
    kind = _kind(arrays, "", cell)
    if kind in _KINDS.values():
        rows = arrays["weight_hh_l0"].shape[0]
        hidden_size = rows // next(gates for gates, name in _KINDS.items() if name == kind)
        gates = len(cell.gates)
        raise ValueError(
            f"{prefix}weight_hh_l0: expected {gates * hidden_size} rows, {gates} gates of {hidden_size}, got {rows}, "
            f"as {'a GRU' if kind == 'GRU' else 'an RNN'} has"
        )


def _part(prefix: str, arrays: Mapping[str, np.ndarray], suffix: str) -> tuple[Weights, dict[str, str]]:
    """The weights of one direction of one layer, and what they are called."""
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "w_hr": "weight_hr"}
    names = {field: name + suffix for field, name in names.items()}
    called = {field: prefix + name for field, name in names.items()}
    bias = None
    if "bias_ih" + suffix in arrays:
        first, second = (arrays[name + suffix] for name in ("bias_ih", "bias_hh"))
        if first.shape != second.shape:
            raise ValueError(f"{prefix}bias_hh{suffix}: expected shape {first.shape}, as bias_ih, got {second.shape}")
        # A sum beyond all numbers is told of by who takes it.
        with np.errstate(over="ignore"):
            bias = first.astype(np.float64) + second.astype(np.float64)
        called["b"] = f"{prefix}bias_ih{suffix} + bias_hh{suffix}"
    called["peephole"] = f"{prefix}peephole{suffix}"
    w_ih, w_hh = arrays[names["w_ih"]], arrays[names["w_hh"]]
    return Weights(w_ih, w_hh, bias, arrays.get("peephole" + suffix), arrays.get(names["w_hr"])), called
