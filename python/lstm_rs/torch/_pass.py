"""The passes forward and backward over all layers, as one function of PyTorch's autograd.

All that the pass backward reads is kept with ``save_for_backward``: so autograd tells of a tensor that was written to
between the passes, frees what was kept after the pass backward, and shows all of it to hooks on saved tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lstm_rs import _core
from lstm_rs.cell import CellSpec
from lstm_rs.functional import Weights

_MOST_THREADS = 1024
"""Of `lstm_rs.set_num_threads`."""


class Packing:
    """Where the steps of a PackedSequence stand in (T, N): it has them step by step, of sequences of falling length."""

    def __init__(self, batch_sizes: torch.Tensor) -> None:
        sizes = batch_sizes.numpy()
        valid = np.arange(sizes[0]) < sizes[:, None]
        self.shape = valid.shape
        self.lengths = valid.sum(axis=0, dtype=np.int64)
        # Sequences of one length have no padding.
        self._rows = None if valid.all() else np.flatnonzero(valid)

    def pad(self, data: np.ndarray) -> np.ndarray:
        """As (T, N, ...), with zeros past the ends."""
        padded = data
        if self._rows is not None:
            padded = np.zeros((self.shape[0] * self.shape[1], *data.shape[1:]), data.dtype)
            padded[self._rows] = data
        return padded.reshape(*self.shape, *data.shape[1:])

    def pack(self, padded: np.ndarray) -> np.ndarray:
        """Without what is past the ends."""
        data = padded.reshape(-1, *padded.shape[2:])
        return data if self._rows is None else data.take(self._rows, axis=0)


class Plan(NamedTuple):
    """What a call is told besides its tensors."""

    cell: CellSpec
    fields: tuple[str, ...]
    """The weights of one part, which is one direction of one layer, in the order in which they come; the parts stand in
    the order of the state's first axis."""
    directions: int
    batch_first: bool
    packing: Packing | None
    dropout: float

    def parts(self, weights: Sequence[Any]) -> Iterator[Weights]:
        """The weights part by part, the two biases added."""
        count = len(self.fields)
        for first in range(0, len(weights), count):
            given = dict(zip(self.fields, weights[first : first + count], strict=True))
            if "b_ih" in given:
                given["b"] = given.pop("b_ih") + given.pop("b_hh")
            yield Weights(**given)

    def forward(self, weights: Sequence[Any]) -> list[_core.Forward]:
        """The weights as a pass forward reads them."""
        return [_core.Forward(self.cell, *part) for part in self.parts(weights)]

    def of_weights(self, gradients: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The gradients in the order of the weights, of those that the engine gives part by part."""
        names = [name for name in Weights._fields if name in self.fields or (name == "b" and "b_ih" in self.fields)]
        for first in range(0, len(gradients), len(names)):
            given = dict(zip(names, gradients[first : first + len(names)], strict=True))
            if "b" in given:
                # Both biases have its gradient, each in memory of its own: who scales one in place leaves the other.
                given["b_ih"], given["b_hh"] = given["b"], given["b"].copy()
            yield from (given[field] for field in self.fields)

    def mask(self, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
        """What to multiply a layer's outputs by: 0, or as much more than 1 as is dropped.

        It is drawn from PyTorch's generator, in the order of time and without the padding, as torch.nn.LSTM draws it:
        the same seed drops the same outputs.
        """
        packing, swapped = self.packing, self.batch_first and len(shape) == 3
        if packing is not None:
            size: tuple[int, ...] = (int(packing.lengths.sum()), shape[-1])
        else:
            size = (shape[1], shape[0], shape[2]) if swapped else shape
        kept = 1.0 - self.dropout
        drawn = torch.empty(size, dtype=dtype, device="cpu").bernoulli_(kept)
        if kept > 0.0:
            drawn /= kept
        mask: np.ndarray = (drawn.transpose(0, 1) if swapped else drawn).numpy()
        return mask if packing is None else packing.pad(mask)

    def pad(self, array: Any) -> Any:
        """What the engine takes for a sequence's inputs, outputs and their gradients."""
        return array if array is None or self.packing is None else self.packing.pad(array)

    def pack(self, array: Any) -> Any:
        """What the caller has for it."""
        return array if array is None or self.packing is None else self.packing.pack(array)


class _Record(NamedTuple):
    """What one part's pass has recorded, as the engine writes it and reads it."""

    x: Any
    state: Any
    lengths: Any
    reverse: bool
    batch_first: bool
    y: Any
    gates: Any
    c: Any


def to_host(tensor: torch.Tensor | None) -> Any:
    """A tensor's own memory as an array; of one on another device, a copy."""
    return None if tensor is None else tensor.numpy(force=True)


def to_device(array: Any, like: torch.Tensor) -> torch.Tensor:
    """An array's own memory as a tensor; where `like` is on another device, a copy there."""
    tensor = torch.from_numpy(array)
    return tensor if like.is_cpu else tensor.to(like.device)


def run(plan: Plan, packed: list[_core.Forward], x: Any, h: Any, c: Any) -> tuple[torch.Tensor, ...]:
    """Run forward and keep nothing: (y, h, c)."""
    layers, call = _core.Layers(packed, plan.directions, plan.batch_first), _arguments(plan, x, h, c)
    with _Threads():
        if plan.dropout > 0.0:
            y, h_n, c_n, *_ = layers.forward_train(*call, _mask(plan, x))
        else:
            y, h_n, c_n = layers.forward(*call)
    return to_device(plan.pack(y), x), to_device(h_n, x), to_device(c_n, x)


class Pass(torch.autograd.Function):  # type: ignore[misc]
    """``apply(plan, x, h, c, *weights)`` gives (y, h, c); without an initial state `h` and `c` are None."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Any, h: Any, c: Any, *weights: Any) -> tuple[torch.Tensor, ...]:
        """Run forward, and keep what the pass backward reads."""
        ctx.set_materialize_grads(False)
        with _Threads():
            layers = _core.Layers(plan.forward(list(map(to_host, weights))), plan.directions, plan.batch_first)
            y, h_n, c_n, recorded, masks = layers.forward_train(*_arguments(plan, x, h, c), _mask(plan, x))
        y, h_n, c_n = to_device(plan.pack(y), x), to_device(h_n, x), to_device(c_n, x)
        records, ways = list(map(_Record._make, recorded)), plan.directions
        arrays = [
            *(record.gates for record in records),
            *(record.c for record in records),
            # What goes from layer to layer.
            *(record.y for record in records[:-ways]),
            *(record.x for record in records[ways::ways]),
            *masks,
        ]
        ctx.plan, ctx.parts = plan, len(records)
        ctx.save_for_backward(x, h, c, y, *weights, *(None if a is None else torch.from_numpy(a) for a in arrays))
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Run backward: the gradients of x, h, c and the weights, where they are needed."""
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        with torch.no_grad():
            arrays = _backward(ctx.plan, ctx.parts, saved, gradients, needed[0])
            found = [to_device(a, saved[0]) if need else None for a, need in zip(arrays, needed, strict=True)]
        if torch.is_grad_enabled():
            return None, *_Once.apply(len(found), *found, *gradients, *saved[: len(found)])
        return None, *found


class _Once(torch.autograd.Function):  # type: ignore[misc]
    """Gradients as they are, but for gradients of their own: ``apply(count, *gradients, *what they are made of)``."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Any) -> tuple[Any, ...]:
        return tuple(None if tensor is None else tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "lstm_rs.torch.LSTM has no second derivatives; torch.nn.LSTM, which loads the same state_dict, has them"
        )


def _backward(plan: Plan, parts: int, saved: Any, gradients: Any, need_dx: bool) -> Iterator[np.ndarray | None]:
    """The gradients of x, h, c and the weights, of what `Pass.forward` has saved."""
    dy, dh, dc = map(to_host, gradients)
    dy = plan.pad(dy)
    arrays = map(to_host, saved)
    ways = plan.directions

    def take(count: int) -> list[Any]:
        return list(islice(arrays, count))

    x, h, c, y = take(4)
    x, y = plan.pad(x), plan.pad(y)
    weights = take(parts * len(plan.fields))
    gates, cells = take(parts), take(parts)
    outputs = [*take(parts - ways), *_sides(y, ways)]
    inputs = [x, *take(parts // ways - 1)]
    masks = list(arrays)
    lengths = _lengths(plan)
    records = [
        _Record(
            inputs[k // ways],
            None if h is None else (h[k], c[k]),
            lengths,
            k % ways == 1,
            plan.batch_first,
            outputs[k],
            gates[k],
            cells[k],
        )
        for k in range(parts)
    ]
    dstate = None
    if dh is not None or dc is not None:
        lead = (dc if dh is None else dh).shape[:-1]
        dstate = (
            np.zeros((*lead, outputs[-1].shape[-1]), y.dtype) if dh is None else dh,
            np.zeros((*lead, cells[-1].shape[-1]), y.dtype) if dc is None else dc,
        )
    with _Threads():
        packed = [_core.Backward(plan.cell, *part) for part in plan.parts(weights)]
        dx, of_weights, dh_0, dc_0 = _core.backward_layers(packed, records, masks, dy, dstate, need_dx)
    return chain((plan.pack(dx), dh_0, dc_0), plan.of_weights(of_weights))


def _sides(y: Any, ways: int) -> list[Any]:
    """The outputs of each direction, of those of both."""
    return [y] if ways == 1 else np.split(y, ways, axis=-1)


def _arguments(plan: Plan, x: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
    return plan.pad(to_host(x)), None if h is None else (to_host(h), to_host(c)), _lengths(plan)


def _lengths(plan: Plan) -> Any:
    return None if plan.packing is None else plan.packing.lengths


def _mask(plan: Plan, x: torch.Tensor) -> Any:
    return (lambda shape: plan.mask(shape, x.dtype)) if plan.dropout > 0.0 else None


def _find_openmp() -> bool:
    """Whether PyTorch's threads can be had: it has them of the OpenMP that its largest library is linked with."""
    suffix = {"linux": "so", "darwin": "dylib"}.get(sys.platform)
    library = Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"
    return suffix is not None and _core.find_openmp(str(library))


_OPENMP = _find_openmp()


class _Threads:
    """As many threads as PyTorch has, and those very ones: they spin after its calls, in the way of any others."""

    def __enter__(self) -> None:
        threads = min(torch.get_num_threads(), _MOST_THREADS)
        self._before = _core.swap_own_threads(threads), _core.swap_lent_threads(threads if _OPENMP else 0)

    def __exit__(self, *_: object) -> None:
        own, lent = self._before
        _core.swap_own_threads(own)
        _core.swap_lent_threads(lent)
