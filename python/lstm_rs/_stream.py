"""A layer run step by step, its state being kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs._parameters import Store
from lstm_rs._passes import split_state
from lstm_rs.functional import State


class Stream:
    """An `LSTM` run step by step; made by `LSTM.stream`.

    A stream stays on the weights that it took until `reset`. It belongs to one thread at a time.
    """

    _states: list[tuple[np.ndarray, np.ndarray]]

    def __init__(self, store: Store, batch_size: int) -> None:
        self._store = store
        self._batch_size = batch_size
        self.reset()

    def step(self, x_t: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray:
        """Run one step.

        Parameters
        ----------
        x_t : (N, I) array, or (I,) where N = 1
            The step's input.
        out : (N, P) array, or (P,), optional
            Where to write the output; not `x_t` itself.

        Returns
        -------
        y_t : (N, P) array, or (P,)
            The step's output, which is `out` where that is given.

        Raises
        ------
        ValueError, TypeError
            If a shape or a dtype does not fit. The state is then as it was before.

        Examples
        --------
        >>> import numpy as np
        >>> import lstm_rs
        >>> stream = lstm_rs.LSTM(3, 8, seed=0).stream(batch_size=2)
        >>> stream.step(np.ones((2, 3), dtype=np.float32)).shape
        (2, 8)
        """
        x_t = x_t if isinstance(x_t, np.ndarray) else np.asarray(x_t)
        layout = self._snapshot.layout
        one = x_t.ndim == 1 and self._batch_size == 1
        if (not one and (x_t.ndim != 2 or x_t.shape[0] != self._batch_size)) or x_t.shape[-1] != layout.input_size:
            shapes = f"({self._batch_size}, {layout.input_size})"
            if self._batch_size == 1:
                shapes += f" or ({layout.input_size},)"
            raise ValueError(f"x_t: expected shape {shapes}, got {x_t.shape}")
        _check_dtype("x_t", x_t, layout.dtype)
        leading = (None, None) if one else (None,)
        y = x_t[leading]
        if out is not None:
            expected = (*x_t.shape[:-1], layout.output_size)
            if not isinstance(out, np.ndarray) or out.shape != expected:
                got = out.shape if isinstance(out, np.ndarray) else type(out).__name__
                raise ValueError(f"out: expected an array of shape {expected}, got {got}")
        states = []
        last = len(self._states) - 1
        for k, (packed, state) in enumerate(zip(self._snapshot.forward, self._states, strict=True)):
            place = out[leading] if k == last and out is not None else None
            y, h, c, _, _ = _core.forward(packed, y, state, None, False, False, False, place)
            states.append((h, c))
        self._states = states
        return out if out is not None else y[0, 0] if one else y[0]

    @property
    def state(self) -> State:
        """The state now: h (L, N, P) and c (L, N, H), as copies. Assign a State, or a tuple (h, c), to set it."""
        return State(*(np.stack(arrays) for arrays in zip(*self._states, strict=True)))

    @state.setter
    def state(self, state: State | tuple[npt.ArrayLike, npt.ArrayLike]) -> None:
        if state is None:
            raise TypeError("state: expected a State or another tuple (h, c), got None; start again with reset()")
        layout = self._snapshot.layout
        order = (self._batch_size, 1) if layout.batch_first else (1, self._batch_size)
        like = np.empty((*order, layout.input_size), dtype=layout.dtype)
        parts = [part for part in split_state(layout, "state", state, like) if part is not None]
        for letter, array in zip("hc", parts[0], strict=True):
            _check_dtype(f"state.{letter}", array, layout.dtype)
        self._states = [(h.astype(layout.dtype), c.astype(layout.dtype)) for h, c in parts]

    def reset(self) -> None:
        """Start again from a state of zeros, on the layer's newest weights."""
        self._snapshot = self._store.snapshot
        layout, batch = self._snapshot.layout, self._batch_size
        self._states = [
            (np.zeros((batch, layout.output_size), layout.dtype), np.zeros((batch, layout.hidden_size), layout.dtype))
            for _ in range(layout.num_layers)
        ]


def _check_dtype(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> None:
    """Refuse another dtype; the byte order does not matter."""
    if array.dtype != dtype and array.dtype.newbyteorder("=") != dtype:
        raise TypeError(
            f"{name}: expected {dtype}, as the layer is, got {array.dtype}; cast it with .astype(np.{dtype})"
        )
