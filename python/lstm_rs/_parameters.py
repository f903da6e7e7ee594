"""The parameters of a layer: their names and shapes, and the snapshots that they are kept in.

Weights and their packed form are one immutable `Snapshot`, which a `Store` swaps as a whole: whoever took one finishes
on it, and no pack can be stale.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs.cell import CellSpec
from lstm_rs.functional import Weights


class Names(NamedTuple):
    """The names of one part's weights, in the order of `Weights`; None for what it does not have."""

    w_ih: str
    w_hh: str
    b: str | None
    peephole: str | None
    w_hr: str | None


def as_array(name: str, given: Any) -> np.ndarray:
    """What is given as an array, or an error that names it."""
    try:
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got what makes none: {error}") from error
    except (TypeError, AttributeError, RuntimeError, BufferError) as error:
        # What turns itself into an array, as tensors do, has errors of its own. Not all exceptions: one may be of the
        # handler of a signal.
        raise TypeError(f"{name}: expected an array, got a {type(given).__name__} that makes none: {error}") from error


def float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """float32 or float64, and not None, which NumPy takes for float64."""
    try:
        known = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        # NumPy has Python parse a text with commas.
        known = None
    if known is None or known not in (np.float32, np.float64):
        raise TypeError(f"dtype: expected float32 or float64, got {known or repr(dtype)}")
    return known


class Layout:
    """Which parameters a layer has, part by part: a part is one direction of one layer.

    Parts stand in the order of the state's first axis: layer 0, its reverse, layer 1, ...
    """

    def __init__(
        self,
        cell: CellSpec,
        dtype: np.dtype[Any],
        *,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int,
        directions: int,
        bias: bool,
        batch_first: bool,
    ) -> None:
        self.cell = cell
        self.dtype = dtype
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size
        self.num_layers = num_layers
        self.directions = directions
        self.batch_first = batch_first
        self.parts: list[Names] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        rows = len(cell.gates) * hidden_size
        for k in range(num_layers):
            columns = input_size if k == 0 else output_size * directions
            for way in ("", "_reverse")[:directions]:
                suffix = f"_l{k}{way}"
                names = Names(
                    w_ih="weight_ih" + suffix,
                    w_hh="weight_hh" + suffix,
                    b="bias" + suffix if bias else None,
                    peephole="peephole" + suffix if cell.peepholes else None,
                    w_hr="weight_hr" + suffix if output_size != hidden_size else None,
                )
                shapes = (
                    (rows, columns),
                    (rows, output_size),
                    (rows,),
                    (len(cell.peepholes), hidden_size),
                    (output_size, hidden_size),
                )
                self.parts.append(names)
                self.shapes |= {name: shape for name, shape in zip(names, shapes, strict=True) if name is not None}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Weights to start from: uniform, and 1 more for the bias of a forget gate that has one."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        arrays = {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in self.shapes.items()}
        if "f" in self.cell.gates:
            first = self.cell.gates.index("f") * self.hidden_size
            for names in self.parts:
                if names.b is not None:
                    arrays[names.b][first : first + self.hidden_size] += 1
        return arrays

    def check(self, name: str, array: npt.ArrayLike) -> np.ndarray:
        """The array, if it can stand in the place of that weight."""
        if name not in self.shapes:
            raise KeyError(f"no weight {name!r}: there are {', '.join(self.shapes)}")
        given, shape = as_array(name, array), self.shapes[name]
        # In whatever byte order.
        if given.dtype.newbyteorder("=") != self.dtype:
            raise TypeError(
                f"{name}: expected {self.dtype}, as the layer is, got {given.dtype}; "
                f"cast it with .astype(np.{self.dtype})"
            )
        if given.shape != shape:
            hint = "; transpose it?" if given.shape == shape[::-1] else ""
            raise ValueError(f"{name}: expected shape {shape}, got {given.shape}{hint}")
        return given.astype(self.dtype, copy=False)


class Snapshot:
    """Weights by name, and their packed forms: made once, never changed."""

    def __init__(self, layout: Layout, arrays: Mapping[str, np.ndarray], like: Snapshot | None = None) -> None:
        """Copy `arrays`; what they leave out is shared with `like`."""
        shared: Mapping[str, np.ndarray] = {} if like is None else like.arrays
        given = {name: _frozen(array) for name, array in arrays.items()}
        self.layout = layout
        self.arrays: dict[str, np.ndarray] = {
            name: given[name] if name in given else shared[name] for name in layout.shapes
        }
        self.weights: list[Weights] = []
        self.forward: list[_core.Forward] = []
        self._backward: list[_core.Backward | None] = []
        for k, names in enumerate(layout.parts):
            if like is not None and not any(name in given for name in names):
                self.weights.append(like.weights[k])
                self.forward.append(like.forward[k])
                self._backward.append(like._backward[k])
            else:
                self.weights.append(Weights._make(None if name is None else self.arrays[name] for name in names))
                self.forward.append(_core.Forward(layout.cell, *self.weights[k]))
                self._backward.append(None)
        self.layers = _core.Layers(self.forward, layout.directions, layout.batch_first)

    def backward(self) -> list[_core.Backward]:
        """The weights of all parts as a pass backward reads them: packed when first needed."""
        packed: list[Any] = self._backward
        for k, part in enumerate(packed):
            if part is None:
                # Two threads may both come here: they make the same pack.
                packed[k] = _core.Backward(self.layout.cell, *self.weights[k])
        return packed


def _frozen(array: np.ndarray) -> np.ndarray:
    """A copy in a buffer of its own that nobody can make writable."""
    return np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)


class Store:
    """The newest snapshot, and the only ways to another."""

    def __init__(self, layout: Layout, arrays: Mapping[str, np.ndarray]) -> None:
        self.layout = layout
        self.snapshot = Snapshot(layout, arrays)
        # Held for a comparison and no longer: to pack takes long, and meanwhile a signal may set weights,
        # or another thread may fork.
        self._swap = threading.RLock()

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take arrays that have been checked."""
        while True:
            before = self.snapshot
            if self._swapped(before, Snapshot(self.layout, arrays, like=before)):
                return

    def _swapped(self, before: Snapshot, after: Snapshot) -> bool:
        """Put a snapshot in the place of the one that it was made of; False, if that is not the newest any more."""
        with self._swap:
            if self.snapshot is not before:
                return False
            self.snapshot = after
            return True

    @contextmanager
    def edit(self) -> Iterator[dict[str, np.ndarray]]:
        """Copies that become the newest snapshot at the end."""
        before = self.snapshot
        arrays = _Edit(before)
        yield arrays
        # Checked again: whoever holds an array can also reshape it in place.
        after = Snapshot(self.layout, {name: self.layout.check(name, array) for name, array in arrays.items()})
        if not self._swapped(before, after):
            raise RuntimeError("edit: the weights were changed by others meanwhile; edit them again")


class LayerWeights(Mapping[str, np.ndarray]):
    """The weights of a layer by name: read-only arrays, and names that can be assigned to."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> np.ndarray:
        return self._store.snapshot.arrays[name]

    def __setitem__(self, name: str, array: npt.ArrayLike) -> None:
        self._store.assign({name: self._store.layout.check(name, array)})

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.layout.shapes)

    def __len__(self) -> int:
        return len(self._store.layout.shapes)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name}: {shape}" for name, shape in self._store.layout.shapes.items()) + "}"


class _Edit(dict[str, np.ndarray]):
    """Writable copies of the weights, by names that are fixed."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__((name, array.copy()) for name, array in snapshot.arrays.items())
        self._layout = snapshot.layout

    def __setitem__(self, name: str, array: npt.ArrayLike) -> None:
        # `w[name] -= step` comes here with the array that is there already.
        if name not in self or array is not self[name]:
            super().__setitem__(name, self._layout.check(name, array).copy())

    def _fixed(self, *_: Any, **__: Any) -> Any:
        raise TypeError("edit: the names of the weights are fixed; assign to one of them")

    __delitem__ = pop = popitem = clear = update = setdefault = __ior__ = _fixed
