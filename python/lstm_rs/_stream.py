"""A layer run step by step, its state being kept."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs._parameters import Store
from lstm_rs.functional import State


class Stream:
    """An `LSTM` run step by step; made by `LSTM.stream`.

    A stream stays on the weights that it took until `reset`. It belongs to one thread at a time.
    """

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
        return self._stream.step(x_t, out)

    @property
    def state(self) -> State:
        """The state now: h (L, N, P) and c (L, N, H), as copies. Assign a State, or a tuple (h, c), to set it."""
        return State(*self._stream.state())

    @state.setter
    def state(self, state: State | tuple[npt.ArrayLike, npt.ArrayLike]) -> None:
        if state is None:
            raise TypeError("state: expected a State or another tuple (h, c), got None; start again with reset()")
        self._stream.set_state(state)

    def reset(self) -> None:
        """Start again from a state of zeros, on the layer's newest weights."""
        self._snapshot = self._store.snapshot
        self._stream = _core.Stream(self._snapshot.layers, self._batch_size)

    def __reduce__(self) -> NoReturn:
        # What copy.copy would make by itself moves on with the stream that it is of.
        raise TypeError("stream: cannot be copied or pickled; make another with LSTM.stream, and assign it the state")
