"""What goes between the passes forward and backward of an `LSTM`, and what comes of them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lstm_rs import _core
from lstm_rs._parameters import Layout, Snapshot
from lstm_rs.functional import State, Tape

_Record: TypeAlias = tuple[Any, ...]
"""What one layer in one direction has recorded, as the passes write it and read it."""

_RECORDED = ("x", "state", "lengths", "reverse", "batch_first", "y", "gates", "c")
"""The names of its fields: those of a `Tape`."""

_set = object.__setattr__


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

    __slots__ = ("_layers", "_recorded")

    _layers: tuple[Tape, ...]
    _recorded: tuple[Snapshot | None, tuple[_Record, ...], tuple[np.ndarray | None, ...]]

    def __init__(self, layers: tuple[Tape, ...], dropout: tuple[np.ndarray | None, ...]) -> None:
        for mask in dropout:
            if mask is not None:
                mask.flags.writeable = False
        records = tuple(tuple(getattr(tape, name) for name in _RECORDED) for tape in layers)
        _set(self, "_layers", layers)
        _set(self, "_recorded", (None, records, dropout))

    @classmethod
    def _of(cls, snapshot: Snapshot, records: tuple[_Record, ...], dropout: tuple[np.ndarray | None, ...]) -> LSTMTape:
        """Make one whose `layers` are made when somebody looks at them: that takes as long as a short step."""
        tape = object.__new__(cls)
        _set(tape, "_recorded", (snapshot, records, dropout))
        return tape

    @property
    def dropout(self) -> tuple[np.ndarray | None, ...]:
        """The masks between layers."""
        return self._recorded[2]

    @property
    def layers(self) -> tuple[Tape, ...]:
        """One tape for each layer and direction."""
        snapshot, records, _ = self._recorded
        if not hasattr(self, "_layers") and snapshot is not None:
            layers = []
            for record, weights in zip(records, snapshot.weights, strict=True):
                recorded = dict(zip(_RECORDED, record, strict=True))
                if recorded["state"] is not None:
                    recorded["state"] = State(*recorded["state"])
                layers.append(Tape(cell=snapshot.layout.cell, weights=weights, **recorded))
            _set(self, "_layers", tuple(layers))
        return self._layers

    def _packed(self, layout: Layout) -> list[_core.Backward] | None:
        """The weights that it ran on as a pass backward reads them; None if they are those of another kind of layer."""
        snapshot = self._recorded[0]
        if snapshot is not None and snapshot.layout is layout:
            return snapshot.backward()
        if not _fit(layout, self.layers):
            return None
        return [_core.Backward(tape.cell, *tape.weights) for tape in self.layers]

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
    dtype: np.dtype[Any]

    def mask(self, shape: tuple[int, ...]) -> np.ndarray:
        """What to multiply by: 0, or as much more than 1 as is dropped."""
        kept = self.rng.random(shape) >= self.probability
        mask = np.asarray(kept.astype(self.dtype) / self.dtype.type(1.0 - self.probability))
        mask.flags.writeable = False
        return mask


def _fit(layout: Layout, tapes: tuple[Tape, ...]) -> bool:
    """Are these the tapes of such a layer? The gradients of another would be those of other weights."""
    got = [
        (tape.cell, tape.reverse, tape.batch_first, [None if w is None else (w.shape, w.dtype) for w in tape.weights])
        for tape in tapes
    ]
    expected = [
        (
            layout.cell,
            k % layout.directions == 1,
            layout.batch_first,
            [None if name is None else (layout.shapes[name], layout.dtype) for name in names],
        )
        for k, names in enumerate(layout.parts)
    ]
    return got == expected
