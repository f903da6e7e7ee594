"""What `LSTMAutoencoder` is made of, behind its public methods: windows, and means over all that hold a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lstm_rs import train
from lstm_rs.estimators import _params
from lstm_rs.estimators._base import SequenceEstimator
from lstm_rs.estimators._data import Scaler
from lstm_rs.estimators._windows import (
    Form,
    WindowBatches,
    Windows,
    as_series,
    check_lengths,
    check_window,
    split,
    starts_of,
)

_GROUP = 1024
"""Windows that run side by side when nothing is learnt: enough for all threads, and their outputs fit into memory."""


class Reconstructing(SequenceEstimator):
    """The parts of an autoencoder."""

    window: int
    latent_size: int
    stride: int
    contamination: float

    _fitted = (*SequenceEstimator._fitted, "threshold_")

    def _check_params(self) -> None:
        check_window(self.window, self.stride, 1)
        if self.stride > self.window:
            raise ValueError(
                f"stride: expected at most {self.window}, the window, so that every step is in one, got {self.stride}"
            )
        _params.integer("latent_size", self.latent_size, 1)
        _params.real("contamination", self.contamination, 0.0)
        if self.contamination > 0.5:
            raise ValueError(f"contamination: expected from 0 to 0.5, got {self.contamination!r}")
        super()._check_params()

    def _checked(self, X: Any, window: int | None = None) -> tuple[list[np.ndarray], Form]:
        """Series that are long enough: for a window, or for that of the fit."""
        n_features = self.n_features_in_ if window is None else None
        series, form = as_series(X, n_features=n_features, owner=type(self).__name__)
        least = self._as_fitted["window"] if window is None else window
        check_lengths(series, form, least, f"one window of {least}")
        return series, form

    def _begin(self, series: list[np.ndarray]) -> None:
        self._reset()
        self.n_features_in_ = series[0].shape[1]
        self.scaler_ = Scaler.fit(series) if self.scale else Scaler.identity(self.n_features_in_)

    def _build(self, rng: np.random.Generator) -> train.Autoencoder:
        latent_size = int(self.latent_size)
        encoder, decoder = self._lstm(self.n_features_in_, rng), self._lstm(latent_size, rng)
        width = encoder.hidden_size * (2 if encoder.bidirectional else 1)
        to_latent = train.Linear(width, latent_size, dtype=encoder.dtype, seed=rng)
        to_output = train.Linear(width, self.n_features_in_, dtype=encoder.dtype, seed=rng)
        return train.Autoencoder(encoder, to_latent, decoder, to_output)

    def _check_fitted_values(self) -> None:
        _params.real("threshold_", self.threshold_, 0.0)

    def _windows(self, series: list[np.ndarray]) -> Windows:
        window, stride = int(self._as_fitted["window"]), int(self._as_fitted["stride"])
        rows = np.concatenate(self._scaled(series))
        starts = starts_of([len(one) for one in series], window, stride, last=True)
        return Windows(lambda index: (rows.take(index, axis=0), None), starts)

    def _batches(self, data: Windows, rng: np.random.Generator | None) -> Iterable[train.Batch]:
        return WindowBatches(data, int(self._as_fitted["window"]), int(self.batch_size), rng)

    def _split(self, data: Windows, fraction: float, rng: np.random.Generator) -> tuple[Windows, Windows]:
        return split(data, fraction, int(self._as_fitted["window"]))

    def _trained(self, data: Windows) -> None:
        rows = int(data.starts[-1]) + int(self._as_fitted["window"])
        scores = self._scores(data, rows)
        self.threshold_ = float(np.quantile(scores[~np.isnan(scores)], 1.0 - self._as_fitted["contamination"]))

    def _groups(self, windows: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Windows side by side: their rows (W, N), and x (W, N, F)."""
        steps = np.arange(self._as_fitted["window"])[:, None]
        for k in range(0, len(windows.starts), _GROUP):
            rows = windows.starts[k : k + _GROUP] + steps
            yield rows, windows.cut(rows)[0]

    def _scores(self, windows: Windows, length: int) -> np.ndarray:
        """The score of each row; NaN where no window holds it."""
        mean = _Mean((length,))
        for rows, x in self._groups(windows):
            mean.add(rows, np.square(self.model_(x) - x, dtype=np.float64).mean(axis=2))
        return mean.value()

    def _reconstructed(self, windows: Windows, shape: tuple[int, ...]) -> np.ndarray:
        mean = _Mean(shape)
        for rows, x in self._groups(windows):
            mean.add(rows, self.model_(x))
        return mean.value()


class _Mean:
    """The mean over the windows that hold each row."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sum, self._count = np.zeros(shape), np.zeros((shape[0], *(1 for _ in shape[1:])))

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        # Step by step: no two windows have the same row at the same step, so that none is lost. From the last one: a
        # row then takes its windows in their order, whatever groups they come in, and its sum has the same bits.
        for row, value in zip(rows[::-1], values[::-1], strict=True):
            self._sum[row] += value
            self._count[row] += 1

    def value(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(self._sum / self._count)
