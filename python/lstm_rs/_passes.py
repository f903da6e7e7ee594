"""The passes over all layers and directions of an `LSTM`, and the tape between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs._parameters import Layout, Snapshot
from lstm_rs.functional import Lengths, State, StateLike, Tape, as_lengths

_set = object.__setattr__


class _Record(NamedTuple):
    """What one layer in one direction has recorded, as its pass backward takes it."""

    x: npt.ArrayLike
    state: State | None
    lengths: np.ndarray | None
    reverse: bool
    batch_first: bool
    y: np.ndarray
    gates: np.ndarray
    c: np.ndarray


class LSTMTape:
    """What `LSTM.forward_train` has recorded for `LSTM.backward`.

    Attributes
    ----------
    layers : tuple of Tape
        One for each layer and direction, in the order of the state's first axis: layer 0, its reverse, layer 1, ...
    dropout : tuple of array or None
        What the output of each layer but the last was multiplied by: 0, or ``1 / (1 - dropout)``. None without dropout.

    Notes
    -----
    It is read-only, and it pickles.
    """

    __slots__ = ("_layers", "_records", "_snapshot", "dropout")

    dropout: tuple[np.ndarray | None, ...]
    _layers: tuple[Tape, ...] | None
    _records: tuple[_Record, ...]
    _snapshot: Snapshot | None

    def __init__(self, layers: tuple[Tape, ...], dropout: tuple[np.ndarray | None, ...]) -> None:
        records = tuple(_Record(*(getattr(tape, name) for name in _Record._fields)) for tape in layers)
        self._fill(layers, records, None, dropout)

    @classmethod
    def _of(cls, snapshot: Snapshot, records: tuple[_Record, ...], dropout: tuple[np.ndarray | None, ...]) -> LSTMTape:
        """Make one whose `layers` are made when somebody looks at them: that takes as long as a short step."""
        tape = object.__new__(cls)
        tape._fill(None, records, snapshot, dropout)
        return tape

    def _fill(
        self,
        layers: tuple[Tape, ...] | None,
        records: tuple[_Record, ...],
        snapshot: Snapshot | None,
        dropout: tuple[np.ndarray | None, ...],
    ) -> None:
        _set(self, "_layers", layers)
        _set(self, "_records", records)
        _set(self, "_snapshot", snapshot)
        _set(self, "dropout", dropout)
        for mask in dropout:
            if mask is not None:
                mask.flags.writeable = False

    @property
    def layers(self) -> tuple[Tape, ...]:
        """One tape for each layer and direction."""
        if self._layers is None and self._snapshot is not None:
            cell, weights = self._snapshot.layout.cell, self._snapshot.weights
            parts = zip(self._records, weights, strict=True)
            _set(self, "_layers", tuple(Tape(cell=cell, weights=w, **record._asdict()) for record, w in parts))
        assert self._layers is not None
        return self._layers

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"LSTMTape.{name} is read-only")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"LSTMTape.{name} is read-only")

    def __reduce__(self) -> tuple[Any, ...]:
        return LSTMTape, (self.layers, self.dropout)

    def __repr__(self) -> str:
        return f"<LSTMTape of {', '.join(map(repr, self.layers))}>"


class LSTMGradients(NamedTuple):
    """The gradients that `LSTM.backward` gives, each shaped as what it is the gradient of.

    Attributes
    ----------
    x : array or None
        With respect to the input; None with ``need_dx=False``.
    weights : dict of str to array
        With respect to the weights, by the names of `LSTM.weights`.
    state : State
        With respect to the initial state.
    """

    x: np.ndarray | None
    weights: dict[str, np.ndarray]
    state: State


class Dropout(NamedTuple):
    """What to drop between layers, and where chance comes from."""

    probability: float
    rng: np.random.Generator

    def mask(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray | None:
        """What to multiply by: 0, or as much more than 1 as is dropped; None where nothing is."""
        if self.probability == 0.0:
            return None
        kept = self.rng.random(shape) >= self.probability
        return np.asarray(kept.astype(dtype) / dtype.type(1.0 - self.probability))


def forward_train(
    snapshot: Snapshot, x: npt.ArrayLike, state: StateLike, lengths: Lengths, dropout: Dropout
) -> tuple[np.ndarray, State, LSTMTape]:
    """Run all layers and directions, with dropout between layers, and record them."""
    layout = snapshot.layout
    directions, output = layout.directions, layout.output_size
    y = x if isinstance(x, np.ndarray) else np.asarray(x)
    lengths = as_lengths(lengths)
    batch_first = layout.batch_first
    states = split_state(layout, "state", state, y)
    records: list[_Record] = []
    masks: list[np.ndarray | None] = []
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for k in range(layout.num_layers):
        x = y
        if directions == 1:
            y, h, c, gates, c_tape = _core.forward(
                snapshot.forward[k], x, states[k], lengths, False, batch_first, True, True
            )
            ends.append((h, c))
            records.append(_Record(x, states[k], lengths, False, batch_first, y, gates, c_tape))
        else:
            # Both directions write into one array, side by side. The pass refuses an x of another rank.
            y = np.zeros((*x.shape[:-1], 2 * output) if x.ndim in (2, 3) else 0, dtype=layout.dtype)
            one, two = (
                (snapshot.forward[part], x, states[part], lengths, d == 1, batch_first, True, True, side)
                for d, part, side in ((0, 2 * k, y[..., :output]), (1, 2 * k + 1, y[..., output:]))
            )
            for d, (side, h, c, gates, c_tape) in enumerate(_core.forward_both(one, two)):
                ends.append((h, c))
                records.append(_Record(x, states[2 * k + d], lengths, d == 1, batch_first, side, gates, c_tape))
        if k < layout.num_layers - 1:
            masks.append(dropout.mask(y.shape, layout.dtype))
            y = y if masks[-1] is None else y * masks[-1]
    return y, _join(ends), LSTMTape._of(snapshot, tuple(records), tuple(masks))


def backward(
    layout: Layout, tape: LSTMTape, dy: npt.ArrayLike | None, dstate: StateLike, need_dx: bool
) -> LSTMGradients:
    """Run all layers and directions backward; the tape has to fit."""
    directions, output = layout.directions, layout.output_size
    records, snapshot = tape._records, tape._snapshot
    first = records[0]
    d_out: np.ndarray | None = None
    if dy is not None:
        d_out = dy if isinstance(dy, np.ndarray) else np.asarray(dy)
        expected = (*first.y.shape[:-1], directions * output)
        if d_out.shape != expected:
            raise ValueError(f"dy: expected shape {expected}, as y has, got {d_out.shape}")
    dstates = split_state(layout, "dstate", dstate, np.asarray(first.x))
    found: dict[str | None, np.ndarray | None] = {}
    starts: list[Any] = [None] * len(layout.parts)

    def ask(part: int, d_out: np.ndarray | None) -> Any:
        if snapshot is None:
            packed = _core.Backward(layout.cell, *tape.layers[part].weights)
        else:
            packed = snapshot.backward(part)
        return (packed, records[part], d_out, dstates[part], need_dx or part >= directions, True)

    def take(part: int, answer: Any) -> Any:
        dx, *weights, h, c = answer
        starts[part] = (h, c)
        found.update(zip(layout.parts[part], weights, strict=True))
        return dx

    for k in reversed(range(layout.num_layers)):
        if directions == 1:
            d_out = take(k, _core.backward(*ask(k, d_out)))
        else:
            sides = (None, None) if d_out is None else (d_out[..., :output], d_out[..., output:])
            answers = _core.backward_both(*(ask(2 * k + d, side) for d, side in enumerate(sides)))
            dx, dx_back = (take(2 * k + d, answer) for d, answer in enumerate(answers))
            d_out = None if dx is None else np.add(dx, dx_back, out=dx)
        mask = tape.dropout[k - 1] if k > 0 else None
        d_out = d_out if mask is None or d_out is None else d_out * mask
    weights: Any = {name: found[name] for name in layout.shapes}
    return LSTMGradients(d_out, weights, _join(starts))


def fits(layout: Layout, tape: LSTMTape) -> bool:
    """Is this the tape of such a layer? The gradients of another would be those of other weights."""
    if tape._snapshot is not None and tape._snapshot.layout is layout:
        return True
    got = [
        (record.cell, record.reverse, record.batch_first, [None if w is None else w.shape for w in record.weights])
        for record in tape.layers
    ]
    expected = [
        (
            layout.cell,
            k % layout.directions == 1,
            layout.batch_first,
            [None if name is None else layout.shapes[name] for name in names],
        )
        for k, names in enumerate(layout.parts)
    ]
    return got == expected


def split_state(layout: Layout, name: str, state: StateLike, x: np.ndarray) -> Sequence[State | None]:
    """A state of all layers and directions, part by part, for an input `x`."""
    parts = len(layout.parts)
    # Of another rank, the pass says what is wrong with x.
    if state is None or x.ndim not in (2, 3):
        return [None] * parts
    if not (isinstance(state, tuple) and len(state) == 2):
        raise TypeError(f"{name}: expected a State or another tuple (h, c), got {type(state).__name__}")
    batch = () if x.ndim == 2 else (x.shape[0 if layout.batch_first else 1],)
    arrays = []
    for letter, array, width in zip("hc", state, (layout.output_size, layout.hidden_size), strict=True):
        given, expected = np.asarray(array), (parts, *batch, width)
        if given.shape != expected:
            raise ValueError(
                f"{name}.{letter}: expected shape {expected} for num_layers {layout.num_layers} "
                f"and bidirectional {layout.directions == 2}, got {given.shape}"
            )
        arrays.append(given)
    return [State(h, c) for h, c in zip(*arrays, strict=True)]


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> State:
    """A state of all layers and directions, from those of each."""
    if len(parts) == 1:
        return State(*parts[0])
    return State(np.concatenate([h for h, _ in parts]), np.concatenate([c for _, c in parts]))
