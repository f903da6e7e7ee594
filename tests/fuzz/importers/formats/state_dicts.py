"""Weights in memory: the state dicts of PyTorch, Keras and Flax, and of the layer itself.

A leaf of the tree says how its array is made: its shape, dtype, and kind. What is no such leaf is given as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import lstm_rs
import numpy as np
from choices import Choices, Skip, mutated, sites
from contract import Attempt, check_lstm, documented, same_arrays

_KINDS = ["array", "list", "ragged", "strided", "big-endian", "nan", "inf", "huge"]
_TENSORS = ["tensor", "grad", "sparse", "meta", "negated", "expanded", "parameter", "csr", "conjugate"]
_DTYPES = ["float32", "float64", "float16", "int64", "bool", "complex64", "U3", "object", "datetime64[s]", ">f4", "V4"]
_SMALL = ["shape", "dtype", "kind", *_DTYPES, *_KINDS, *_TENSORS]
# From the shape of an array to that of another.
_SHAPES: list[Callable[[list[Any]], list[Any]]] = [
    lambda shape: shape,
    lambda shape: shape,
    lambda shape: [],
    lambda shape: shape[1:],
    lambda shape: [1, *shape],
    lambda shape: shape[::-1],
    lambda shape: [0] * len(shape),
    lambda shape: [*shape[:-1], 1],
]
_LARGEST = 1 << 14


def leaf(*shape: int, dtype: str = "float32", kind: str = "array") -> dict[str, Any]:
    """An array to be."""
    return {"shape": list(shape), "dtype": dtype, "kind": kind}


def realised(tree: Any) -> Any:
    """The arrays of a tree."""
    if isinstance(tree, dict):
        if "shape" in tree and "dtype" in tree:
            return _array(tree)
        return {key: realised(value) for key, value in tree.items()}
    return [realised(value) for value in tree] if isinstance(tree, list) else tree


def _array(said: dict[str, Any]) -> Any:
    try:
        shape = tuple(said["shape"])
        if any(type(size) is not int or size < 0 for size in shape) or np.prod(shape, dtype=object) > _LARGEST:
            raise Skip
        kind = said.get("kind")
        fill = {"nan": np.nan, "inf": np.inf, "huge": 3e38}.get(kind, 0.1)
        array = np.full(shape, fill).astype(said["dtype"])
        if said["dtype"] == "float64" and kind == "huge":
            array = np.full(shape, 1.7e308)
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise Skip from error
    if kind == "list":
        return array.tolist()
    if kind == "ragged":
        return [array.tolist(), 0.5]
    if kind == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    if kind == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    return _tensor(array, kind) if kind in _TENSORS else array


def _tensor(array: np.ndarray, kind: str) -> Any:
    torch = sys.modules.get("torch")
    if torch is None:
        raise Skip
    try:
        tensor = torch.from_numpy(array)
        if kind == "sparse":
            return tensor.to_sparse()
        if kind == "csr":
            return tensor.to_sparse_csr()
        if kind == "grad":
            return tensor.requires_grad_()
        if kind == "meta":
            return tensor.to("meta")
        if kind == "parameter":
            return torch.nn.Parameter(tensor)
        if kind == "negated":
            # A view whose sign is kept in a flag.
            return torch.complex(tensor, tensor).conj().imag
        if kind == "conjugate":
            return torch.complex(tensor, tensor).conj()
        if kind == "expanded":
            return tensor[:1].expand(tensor.shape) if tensor.ndim else tensor
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise Skip from error
    return tensor


def changed(tree: Any, choices: Choices, words: list[Any]) -> tuple[Any, Any]:
    """A tree after some changes, and another of how one array is made; and what it stands for."""
    tree = mutated(tree, choices, words)
    leaves = [node[key] for node, key in sites(tree) if isinstance(node[key], dict) and "shape" in node[key]]
    kind, shape = choices.pick([None, None, *_KINDS, *_TENSORS]), choices.pick(_SHAPES)
    if leaves:
        one = choices.pick(leaves)
        one["kind"] = one.get("kind") if kind is None else kind
        one["shape"] = shape(one["shape"]) if isinstance(one["shape"], list) else one["shape"]
    try:
        return tree, realised(tree)
    except RecursionError as error:
        raise Skip from error


class _InMemory:
    """A tree of arrays that is changed, realised and given to an importer."""

    def __init__(self, folder: str) -> None:
        self._trees: list[Any] = self.trees()

    def trees(self) -> list[Any]:
        """What is read as it stands."""
        raise NotImplementedError

    def seeds(self) -> list[bytes]:
        """Each tree as it is."""
        return [bytes([k]) for k in range(len(self._trees))]

    def _source(self, choices: Choices, words: list[Any]) -> Any:
        return changed(choices.pick(self._trees), choices, [*words, *_SMALL])


_CELLS = [None, lstm_rs.CellSpec(peephole=True), lstm_rs.CellSpec(coupled=True), lstm_rs.CellSpec(forget_gate=False)]


_TORCH = ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "bias_ih_l0", "bias_hh_l0", "peephole_l0", "bias_l0",
          "weight_ih_l1", "weight_hh_l1", "weight_ih_l0_reverse", "weight_hh_l0_reverse", "weight_ih_l999999",
          "lstm.weight_ih_l0", "lstm.weight_hh_l0", "weight_ih_l00", "weight_hh_l01_reverse", "."]  # fmt: skip


class Torch(_InMemory):
    """`lstm_rs.from_torch`."""

    def __init__(self, folder: str) -> None:
        import_module("torch")
        super().__init__(folder)

    def trees(self) -> list[Any]:
        """One layer, two of them both ways with a projection, and one inside a model."""
        bias = {"bias_ih": leaf(8), "bias_hh": leaf(8)}
        plain = {"weight_ih": leaf(8, 3), "weight_hh": leaf(8, 2), **bias}
        many = {}
        for layer, way in ((0, ""), (0, "_reverse"), (1, ""), (1, "_reverse")):
            part = {"weight_ih": leaf(8, 2 if layer else 3), "weight_hh": leaf(8, 1), **bias, "weight_hr": leaf(1, 2)}
            many |= {f"{name}_l{layer}{way}": array for name, array in part.items()}
        plain = {f"{name}_l0": array for name, array in plain.items()}
        tensors = {name: {**array, "kind": "tensor"} for name, array in plain.items()}
        inside = {f"model.lstm.{name}": array for name, array in plain.items()} | {"head.weight": leaf(2, 2)}
        return [plain, tensors, many, inside]

    def attempt(self, choices: Choices) -> Attempt:
        """A state dict, a prefix and a cell."""
        tree, source = self._source(choices, _TORCH)
        prefix = choices.pick(["", "model.lstm", "model.lstm.", "model", "."])
        cell, dtype = choices.pick(_CELLS), choices.pick([None, "float32", "float64"])
        return Attempt(
            lambda: lstm_rs.from_torch(source, prefix, cell=cell, dtype=dtype),
            check_lstm,
            errors=documented(lstm_rs.from_torch),
            shown=f"prefix={prefix!r} cell={cell} {tree!r}",
        )


class Keras(_InMemory):
    """`lstm_rs.from_keras` of arrays."""

    def trees(self) -> list[Any]:
        """Without and with a bias, in both directions, and of cuDNN."""
        kernels = [leaf(3, 8), leaf(2, 8)]
        return [kernels, [*kernels, leaf(8)], [*kernels, leaf(8)] * 2, [*kernels, leaf(16)]]

    def attempt(self, choices: Choices) -> Attempt:
        """A list of arrays."""
        tree, source = self._source(choices, [leaf(3, 8), leaf(2, 8), leaf(8), leaf(16), leaf(0, 0), leaf(0)])
        dtype = choices.pick([None, "float32", "float64"])
        return Attempt(
            lambda: lstm_rs.from_keras(source, dtype=dtype),
            check_lstm,
            errors=documented(lstm_rs.from_keras),
            shown=repr(tree),
        )


_FLAX = ["params", "cell", "rngs", "ii", "if", "if_", "ig", "io", "hi", "hf", "hg", "ho", "dense_i", "dense_h",
          "kernel", "bias", "ii.kernel"]  # fmt: skip


class Flax(_InMemory):
    """`lstm_rs.from_flax` of parameters."""

    def trees(self) -> list[Any]:
        """Gates apart, as linen and nnx name them, and together."""
        apart: dict[str, Any] = {"i" + gate: {"kernel": leaf(3, 2)} for gate in "ifgo"}
        apart |= {"h" + gate: {"kernel": leaf(2, 2), "bias": leaf(2)} for gate in "ifgo"}
        nnx = {("if_" if name == "if" else name): dense for name, dense in apart.items()}
        together = {"dense_i": {"kernel": leaf(3, 8)}, "dense_h": {"kernel": leaf(2, 8), "bias": leaf(8)}}
        return [apart, {"params": {"cell": apart}}, {"cell": nnx, "rngs": {}}, together]

    def attempt(self, choices: Choices) -> Attempt:
        """Nested parameters."""
        tree, source = self._source(choices, _FLAX)
        return Attempt(
            lambda: lstm_rs.from_flax(source), check_lstm, errors=documented(lstm_rs.from_flax), shown=repr(tree)
        )


_OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "proj_size": 1},
    {"dtype": np.float64, "cell": lstm_rs.CellSpec(peephole=True)},
    {"bias": False},
]


class StateDict(_InMemory):
    """`lstm_rs.LSTM.load_state_dict`: a refusal leaves the weights, to the bit."""

    def trees(self) -> list[Any]:
        """All weights of each kind of layer, the first with the two biases of PyTorch."""
        trees = []
        for options in _OPTIONS:
            lstm = lstm_rs.LSTM(3, 2, seed=0, **options)
            trees.append({name: leaf(*array.shape) for name, array in lstm.weights.items()})
        trees[0]["bias_ih_l0"] = trees[0].pop("bias_l0")
        trees[0]["bias_hh_l0"] = leaf(8)
        return trees

    def attempt(self, choices: Choices) -> Attempt:
        """A state dict for a layer."""
        which = choices.below(len(self._trees))
        words = ["weight_ih_l0", "bias_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l9", *_SMALL]
        tree, source = changed(self._trees[which], choices, words)
        lstm = lstm_rs.LSTM(3, 2, seed=1, **_OPTIONS[which])
        before = lstm.state_dict()

        def answer(_: None) -> None:
            # Values are the caller's: a layer takes what is not finite, and still answers.
            lstm(np.zeros((2, 1, 3), lstm.dtype))

        return Attempt(
            lambda: lstm.load_state_dict(source),
            answer,
            lambda _: same_arrays(before, lstm.state_dict(), "load_state_dict"),
            documented(lstm_rs.LSTM.load_state_dict),
            f"{_OPTIONS[which]} {tree!r}",
        )
