"""What the regressor and the classifier share: an LSTM and a linear read-out, over sequences with a target each.

The read-out sees the last layer's final hidden state, or with `per_step` its output at every step. All sequences are
scaled by the same mean and deviation per feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lstm_rs import train
from lstm_rs.estimators import _params
from lstm_rs.estimators._base import Examples, SequenceEstimator
from lstm_rs.estimators._data import Scaler, Sequences, as_sequences, time_major
from lstm_rs.train._modules import refuse_masked


class Supervised(SequenceEstimator):
    """Sequences, and a target for each or for each of their steps."""

    per_step: bool

    def _loss(self) -> Any:
        raise NotImplementedError

    def _outputs_needed(self) -> int:
        raise NotImplementedError

    def _check_params(self) -> None:
        super()._check_params()
        _params.flag("per_step", self.per_step)

    def _build(self, rng: np.random.Generator) -> train.Predictor:
        lstm = self._lstm(self.n_features_in_, rng)
        width = lstm.hidden_size * (2 if lstm.bidirectional else 1)
        linear = train.Linear(width, self._outputs_needed(), dtype=lstm.dtype, seed=rng)
        return train.Predictor(lstm, linear, self._loss(), per_step=bool(self.per_step))

    def _batches(self, data: Examples, rng: np.random.Generator | None) -> Iterable[train.Batch]:
        return train.Batches(
            data.sequences,
            data.targets,
            batch_size=int(self.batch_size),
            shuffle=rng is not None,
            rng=rng,
            per_step=bool(self._as_fitted["per_step"]),
        )

    def _start(self, sequences: Sequences) -> None:
        """Forget an earlier fit, and take what these sequences say of features and scale."""
        self._reset()
        self.n_features_in_ = sequences[0].shape[1]
        self.scaler_ = Scaler.fit(sequences) if self.scale else Scaler.identity(self.n_features_in_)

    def _outputs(self, X: Any, method: str) -> Sequences:
        """The read-out, float64: (n, k), or with `per_step` (n, T, k) or a list of (T_i, k)."""
        self._check_fitted(method)
        sequences = as_sequences(X, n_features=self.n_features_in_, owner=type(self).__name__)
        scaled = self._scaled(sequences)
        values = np.empty((len(scaled), self._outputs_needed()))
        steps: list[Any] = [None] * len(scaled)
        for indices, x, lengths in time_major(scaled, _GROUP):
            y = self.model_(x, lengths)
            if not self._as_fitted["per_step"]:
                values[indices] = y
                continue
            for column, index in enumerate(indices):
                steps[index] = y[: len(scaled[index]), column].astype(np.float64)
        if not self._as_fitted["per_step"]:
            return values
        return steps if isinstance(scaled, list) else np.stack(steps)


_GROUP = 256
"""Sequences of a prediction that run side by side: enough for all threads, and their outputs fit into memory."""


def given(y: Any, sequences: Sequences, owner: str, *, per_step: bool) -> Sequences:
    """Check the number of targets, with `per_step` that of their steps too; give an array, or a list like `sequences`.

    What is in them is left to the caller.
    """
    if y is None:
        raise ValueError(f"y: {owner} requires y to be passed, but the target y is None")
    if not hasattr(y, "__len__") and not hasattr(y, "__array__"):
        raise TypeError(f"y: expected an array or a list, got {type(y).__name__}")
    for part in y if isinstance(y, list | tuple) else [y]:
        refuse_masked("y", part)
    if not per_step:
        try:
            array = np.asarray(y)
        except ValueError:  # of several lengths
            raise ValueError(
                "y: expected one target a sequence, got several lengths; for targets per step give per_step=True"
            ) from None
        if array.ndim == 0 or len(array) != len(sequences):
            raise ValueError(
                f"y: expected {len(sequences)} targets, one a sequence of X, got "
                + ("a single number" if array.ndim == 0 else str(len(array)))
            )
        return array
    targets = [np.asarray(target) for target in (y if isinstance(y, list | tuple) else np.asarray(y))]
    if len(targets) != len(sequences):
        raise ValueError(f"y: expected {len(sequences)} sequences of targets, as in X, got {len(targets)}")
    for k, (target, sequence) in enumerate(zip(targets, sequences, strict=True)):
        if target.ndim == 0 or len(target) != len(sequence):
            raise ValueError(
                f"y: expected {len(sequence)} steps in sequence {k}, as in X, got "
                + ("a single value; per_step=True needs one a step" if target.ndim == 0 else str(len(target)))
            )
        if target.shape[1:] != targets[0].shape[1:]:
            raise ValueError(
                f"y: expected shape {(len(sequence), *targets[0].shape[1:])} in sequence {k}, got {target.shape}"
            )
    return np.stack(targets) if isinstance(sequences, np.ndarray) else targets


def together(targets: Sequences) -> np.ndarray:
    """All steps of all sequences, or all targets, along one axis."""
    if isinstance(targets, np.ndarray):
        return targets
    return np.concatenate(targets)


def each(function: Callable[[np.ndarray], np.ndarray], values: Sequences) -> Sequences:
    """Apply a function to an array, or to all of a list."""
    return function(values) if isinstance(values, np.ndarray) else [function(value) for value in values]
