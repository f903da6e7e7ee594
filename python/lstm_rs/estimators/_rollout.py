"""How a network that has read a series goes on: one look, many steps, or from every step of it at once.

At step t the network reads the values and what is known of the steps ahead, and predicts A steps::

    [v_t, e_{t+1}, ..., e_{t+A}] -> LSTM -> Linear -> v_{t+1}, ..., v_{t+A}

A is the horizon (direct), or 1; then it reads on what it has just predicted (recursive). With `difference` it gives
v_{t+j} - v_t, brought to mean 0 and deviation 1 for each j by itself.

An LSTM goes on from a state, so h steps cost h steps, however long the past. From every step at once they cost h steps
of as many sequences as there are rows, which start from the states that one pass over the series has gone through.

A forecast has the same bits whichever way it is made: those of the LSTM and of the read-out do not depend on what else
is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_rs import train
from lstm_rs.estimators._data import Scaler
from lstm_rs.functional import State, forward_train
from lstm_rs.layers import LSTM

_ROWS = 4096
"""Steps of a long series that run at once, so that no memory but that of the result grows with it."""


class Series(NamedTuple):
    """A scaled series.

    Attributes
    ----------
    values : (T, k) array
        What is forecast.
    exogenous : (E, m) array
        What is known ahead: at least as many rows, more where the future is known.
    """

    values: np.ndarray
    exogenous: np.ndarray


@dataclass(frozen=True)
class AfterWarmUp:
    """The mean squared error of all steps but the first ones: nobody can forecast from nothing."""

    steps: int

    def __call__(
        self, prediction: np.ndarray, target: npt.ArrayLike, *, lengths: np.ndarray | None = None
    ) -> train.Loss:
        """The loss of (T, N, ...), and its gradient."""
        value, counted = train.mse(prediction[self.steps :], np.asarray(target)[self.steps :])
        gradient = np.zeros_like(prediction)
        gradient[self.steps :] = counted
        return train.Loss(value, gradient)


@dataclass(frozen=True)
class Network:
    """A network, and what its inputs and outputs mean.

    Attributes
    ----------
    lstm, linear
        The modules.
    ahead : int
        A, the steps that it predicts at once.
    difference : bool
        Does it predict differences to the last value?
    changes : Scaler
        Of what it predicts, (A*k,).
    """

    lstm: LSTM
    linear: train.Linear
    ahead: int
    difference: bool
    changes: Scaler

    def last(self, series: Series, state: State | None, steps: int) -> np.ndarray:
        """Forecast (steps, k) from the end of a series, all of which is read from `state` on.

        Directly, `steps` is at most A. `exogenous` has to reach as far as is forecast.
        """
        count = len(series.values)
        y = np.empty(0)
        for x, _ in _chunks(series, self.ahead, count):
            outputs, state = self.lstm(x[:, None], state)
            y = outputs[-1]
        first: np.ndarray = self._predicted(y, series.values[-1:])[0]
        if self.ahead > 1 or steps == 1:
            return first[:steps]
        result = np.empty((steps, first.shape[1]), first.dtype)
        result[0] = first[0]
        stream = self.lstm.stream()
        assert state is not None
        stream.state = state
        for j in range(1, steps):
            x_t = np.concatenate([result[j - 1 : j], series.exogenous[count + j : count + j + 1]], axis=1)
            result[j] = self._predicted(stream.step(x_t), result[j - 1 : j])[0, 0]
        return result

    def all(self, series: Series, steps: int) -> np.ndarray:
        """Forecast (T, steps, k): row t from the end of step t. `exogenous` has T + steps rows."""
        values, exogenous = series
        result = np.empty((len(values), steps, values.shape[1]), values.dtype)
        state = None
        for x, rows in _chunks(series, self.ahead, len(values)):
            if self.ahead > 1 or steps == 1:
                y, state = self.lstm(x[:, None], state)
                result[rows] = self._predicted(y[:, 0], values[rows])[:, :steps]
                continue
            y, states, state = _every_state(self.lstm, x, state)
            result[rows, 0] = self._predicted(y, values[rows])[:, 0]
            stream = self.lstm.stream(len(x))
            stream.state = states
            for j in range(1, steps):
                later = exogenous[rows.start + j + 1 : rows.stop + j + 1]
                before = result[rows, j - 1]
                result[rows, j] = self._predicted(stream.step(np.concatenate([before, later], axis=1)), before)[:, 0]
        return result

    def state(self, series: Series, count: int) -> State:
        """The state after the first `count` steps."""
        state = None
        for x, _ in _chunks(series, self.ahead, count):
            _, state = self.lstm(x[:, None], state)
        if state is None:
            lstm = self.lstm
            zeros = np.zeros((lstm.num_layers, 1, lstm.hidden_size), lstm.dtype)
            return State(zeros, zeros)
        return state

    def _predicted(self, y: np.ndarray, last: np.ndarray) -> np.ndarray:
        """From outputs (n, P), and the values (n, k) of their steps, to what comes (n, A, k)."""
        out = self.linear(y)
        out = out * self.changes.deviation.astype(out.dtype) + self.changes.mean.astype(out.dtype)
        out = out.reshape(len(y), self.ahead, -1)
        return np.asarray(out + last[:, None] if self.difference else out)


def inputs(series: Series, rows: np.ndarray, ahead: int) -> np.ndarray:
    """What the network reads at these rows: (..., k + A*m)."""
    values, exogenous = series
    x = values.take(rows, axis=0)
    if exogenous.shape[1] == 0:
        return x
    later = exogenous.take(rows[..., None] + np.arange(1, ahead + 1), axis=0)
    return np.concatenate([x, later.reshape(*rows.shape, -1)], axis=-1)


def targets(values: np.ndarray, rows: np.ndarray, ahead: int, difference: bool) -> np.ndarray:
    """What it should predict at these rows, before it is scaled: (..., A*k)."""
    later = values.take(rows[..., None] + np.arange(1, ahead + 1), axis=0)
    if difference:
        later = later - values.take(rows, axis=0)[..., None, :]
    return later.reshape(*rows.shape, -1)


def changes_of(series: list[np.ndarray], ahead: int) -> Scaler:
    """The mean and the deviation of v_{t+j} - v_t, for each j of 1 to A."""
    scalers = [Scaler.fit([one[j:].astype(np.float64) - one[:-j] for one in series]) for j in range(1, ahead + 1)]
    return Scaler(np.concatenate([s.mean for s in scalers]), np.concatenate([s.deviation for s in scalers]))


def _chunks(series: Series, ahead: int, count: int) -> Iterator[tuple[np.ndarray, slice]]:
    """The inputs of the first `count` steps, some at a time, and which they are."""
    for k in range(0, count, _ROWS):
        rows = np.arange(k, min(k + _ROWS, count))
        yield inputs(series, rows, ahead), slice(k, k + len(rows))


def _every_state(lstm: LSTM, x: np.ndarray, state: State | None) -> tuple[np.ndarray, State, State]:
    """Run over x (n, I): the outputs (n, P), the states after each step (L, n, ...), and the last of them (L, 1, ...).

    Layer by layer, because a layer's tape has its state of every step; not `LSTM.forward_train`, which drops outputs.
    """
    y = x[:, None]
    h, c = [], []
    for k, weights in enumerate(lstm._store.snapshot.weights):
        before = None if state is None else (state.h[k], state.c[k])
        y, _, tape = forward_train(y, weights, before, cell=lstm.cell)
        h.append(y[:, 0])
        c.append(tape.c[:, 0])
    states = State(np.stack(h), np.stack(c))
    return y[:, 0], states, State(*(np.ascontiguousarray(part[:, -1:]) for part in states))
