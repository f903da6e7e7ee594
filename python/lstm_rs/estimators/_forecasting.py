"""What `LSTMForecaster` is made of, behind its public methods: checks, scales, windows, and where forecasts go on from.

Series are scaled by column, and so are the columns that are known ahead; what the network predicts is scaled once more
when it is a difference, because those are small where a series is smooth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from lstm_rs import train
from lstm_rs._parameters import float_dtype
from lstm_rs.estimators import _params
from lstm_rs.estimators._base import SequenceEstimator
from lstm_rs.estimators._data import Scaler
from lstm_rs.estimators._rollout import AfterWarmUp, Network, Series, changes_of, inputs, targets
from lstm_rs.estimators._windows import Form, WindowBatches, Windows, as_series, check_window, split, starts_of

ANY = sys.maxsize
"""As many rows as there are."""


class Data(NamedTuple):
    """What is learnt from, and all of the series, which forecasts go on from."""

    windows: Windows
    series: list[Series]
    form: Form


class Forecasting(SequenceEstimator):
    """The parts of a forecaster."""

    horizon: int
    strategy: str
    window: int
    difference: bool
    stride: int

    _fitted = (
        *SequenceEstimator._fitted,
        "exogenous_scaler_",
        "changes_",
        "past_many_",
        "past_flat_",
        "past_h_",
        "past_c_",
        "past_values_",
        "past_exogenous_",
    )

    @property
    def n_exogenous_(self) -> int:
        """The number of columns that are known ahead."""
        return len(self.exogenous_scaler_.mean)

    def _check_params(self) -> None:
        _params.integer("horizon", self.horizon, 1)
        _params.choice("strategy", self.strategy, ("direct", "recursive"))
        check_window(self.window, self.stride, 2)
        _params.flag("difference", self.difference)
        super()._check_params()

    @staticmethod
    def _least(params: dict[str, Any]) -> tuple[int, str]:
        """The fewest steps that can be learnt from, and why."""
        ahead = params["horizon"] if params["strategy"] == "direct" else 1
        return params["window"] + ahead, f"a window of {params['window']} and {ahead} ahead of it"

    def _ahead(self) -> int:
        return int(self._as_fitted["horizon"]) if self._as_fitted["strategy"] == "direct" else 1

    def _checked(self, X: Any, exogenous: Any, more: int) -> tuple[list[np.ndarray], list[np.ndarray], Form]:
        """Series with the columns of the fit, and what is known ahead, of their steps and of up to `more` others."""
        series, form = as_series(X, n_features=self.n_features_in_, owner=type(self).__name__)
        columns = self.n_exogenous_
        return (
            series,
            self._known("exogenous", exogenous, [(len(one), len(one) + more) for one in series], form, columns),
            form,
        )

    def _known(
        self, name: str, given: Any, rows: list[tuple[int, int]], form: Form, columns: int | None
    ) -> list[np.ndarray]:
        """Check columns that are known ahead: for each series so many rows at least, and at most; (E, m) of each."""
        if given is None:
            if columns:
                raise ValueError(
                    f"{name}: expected {columns} columns for {rows[0][0]} steps, as fit had exogenous ones, got None"
                )
            return [np.empty((least, 0)) for least, _ in rows]
        if columns == 0:
            raise ValueError(f"{name}: expected None, as there were no exogenous columns in fit")
        known, other = as_series(given, name=name, n_features=columns, owner=type(self).__name__)
        if other.many != form.many or len(known) != len(rows):
            raise ValueError(
                f"{name}: expected "
                + (f"a list of {len(rows)}, one for each series" if form.many else "one array, as X is one series")
                + f", got {f'a list of {len(known)}' if other.many else 'one array'}"
            )
        for k, (one, (least, most)) in enumerate(zip(known, rows, strict=True)):
            if not least <= len(one) <= most:
                wanted = f"{least}" if most == least else f"at least {least}" if most == ANY else f"{least} to {most}"
                which = f" for series {k}" if form.many else ""
                of = "step of the horizon" if name == "future_exogenous" and self._ahead() > 1 else "step"
                raise ValueError(f"{name}: expected {wanted} rows{which}, one for each {of}, got {len(one)}")
        return known

    def _begin(self, series: list[np.ndarray], known: list[np.ndarray]) -> None:
        """Forget an earlier fit, and take what these series say of columns and scales."""
        self._reset()
        k, m = series[0].shape[1], known[0].shape[1]
        self.n_features_in_ = k
        self.scaler_ = Scaler.fit(series) if self.scale else Scaler.identity(k)
        self.exogenous_scaler_ = Scaler.fit(known) if self.scale and m else Scaler.identity(m)
        self.changes_ = Scaler.identity(self._ahead() * k)
        if self.scale and self.difference:
            self.changes_ = changes_of([self.scaler_.scale(one, np.float64) for one in series], self._ahead())

    def _both(self, series: list[np.ndarray], known: list[np.ndarray]) -> list[Series]:
        return [Series(*both) for both in zip(self._scaled(series), map(self._scaled_known, known), strict=True)]

    def _scaled_known(self, known: np.ndarray) -> np.ndarray:
        dtype = self._model_dtype() if hasattr(self, "model_") else float_dtype(self.dtype)
        with np.errstate(over="ignore"):
            scaled = self.exogenous_scaler_.scale(known, dtype)
        if not np.isfinite(scaled).all():
            raise ValueError(f"exogenous: values that are too large for {dtype}; give dtype='float64', or other units")
        return scaled

    def _data(self, series: list[np.ndarray], known: list[np.ndarray], form: Form) -> Data:
        ahead, difference = self._ahead(), bool(self._as_fitted["difference"])
        both = self._both(series, known)
        rows = Series(*(np.concatenate(parts) for parts in zip(*both, strict=True)))
        mean, deviation = (part.astype(rows.values.dtype) for part in (self.changes_.mean, self.changes_.deviation))

        def cut(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            target = targets(rows.values, index, ahead, difference)
            return inputs(rows, index, ahead), (target - mean) / deviation

        span = int(self._as_fitted["window"]) + ahead
        starts = starts_of([len(one) for one in series], span, int(self._as_fitted["stride"]))
        return Data(Windows(cut, starts), both, form)

    def _build(self, rng: np.random.Generator) -> train.Predictor:
        k, ahead = self.n_features_in_, self._ahead()
        if self.changes_.mean.shape != (ahead * k,):
            raise ValueError(f"changes_: expected {ahead * k} values, {k} columns of {ahead} steps")
        lstm = self._lstm(k + ahead * self.n_exogenous_, rng)
        linear = train.Linear(lstm.hidden_size, ahead * k, dtype=lstm.dtype, seed=rng)
        return train.Predictor(lstm, linear, AfterWarmUp(int(self._as_fitted["window"]) // 4), per_step=True)

    def _check_fitted_values(self) -> None:
        _params.flag("past_many_", self.past_many_)
        flat, m, dtype = self.past_flat_, self.n_exogenous_, float_dtype(self.dtype)
        if not isinstance(flat, np.ndarray) or flat.ndim != 1 or flat.dtype != bool or not flat.size:
            raise ValueError("past_flat_: expected a bool for each series")
        if len(flat) > 1 and not self.past_many_:
            raise ValueError(f"past_flat_: expected one series, as past_many_ says, got {len(flat)}")
        state, rest = (self.num_layers, 1, self.hidden_size), self._ahead() if m else 1
        wanted = {"h": state, "c": state, "values": (rest, self.n_features_in_), "exogenous": (rest, m)}
        for name, shape in wanted.items():
            array = getattr(self, f"past_{name}_")
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (len(flat), *shape):
                raise ValueError(f"past_{name}_: expected {dtype} of shape {(len(flat), *shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"past_{name}_: NaN or infinite")

    def _batches(self, data: Data, rng: np.random.Generator | None) -> Iterable[train.Batch]:
        return WindowBatches(data.windows, int(self._as_fitted["window"]), int(self.batch_size), rng)

    def _split(self, data: Data, fraction: float, rng: np.random.Generator) -> tuple[Data, Data]:
        window = int(self._as_fitted["window"])
        training, held_out = split(data.windows, fraction, window + self._ahead(), window // 4 + 1)
        return data._replace(windows=training), data._replace(windows=held_out)

    def _trained(self, data: Data) -> None:
        # What `predict` goes on from: a state, and the last rows, which the network can read only when it is known
        # what is ahead of them.
        network, rest = self._network(), self._ahead() if self.n_exogenous_ else 1
        cuts = [len(one.values) - rest for one in data.series]
        states = [network.state(one, cut) for one, cut in zip(data.series, cuts, strict=True)]
        self.past_many_, self.past_flat_ = data.form.many, np.array(data.form.flat)
        self.past_h_, self.past_c_ = (np.stack(parts) for parts in zip(*states, strict=True))
        self.past_values_ = np.stack([one.values[cut:] for one, cut in zip(data.series, cuts, strict=True)])
        self.past_exogenous_ = np.stack([one.exogenous[cut:] for one, cut in zip(data.series, cuts, strict=True)])

    def _network(self) -> Network:
        difference = bool(self._as_fitted["difference"])
        return Network(self.model_.lstm, self.model_.linear, self._ahead(), difference, self.changes_)

    def _all(self, X: Any, exogenous: Any) -> tuple[list[np.ndarray], list[np.ndarray], Form]:
        """The series, and their forecasts (T, h, k) from every step."""
        horizon = int(self._as_fitted["horizon"])
        series, known, form = self._checked(X, exogenous, horizon)
        network, results = self._network(), []
        for one in self._both(series, known):
            steps, reach = len(one.values), len(one.exogenous)
            padding = np.zeros((steps + horizon - reach, self.n_exogenous_), one.exogenous.dtype)
            whole = one._replace(exogenous=np.concatenate([one.exogenous, padding]))
            result = self.scaler_.unscale(network.all(whole, horizon))
            if self.n_exogenous_:
                # Row t, column j - 1 has read what is known up to step t + j, or of the whole horizon.
                read = np.arange(steps)[:, None] + np.arange(1, horizon + 1)
                result[(read if network.ahead == 1 else read[:, -1:].repeat(horizon, axis=1)) >= reach] = np.nan
            results.append(result)
        return series, results, form


def r2(came: np.ndarray, predicted: np.ndarray) -> float:
    """R2 of (n, k), as a mean over columns; 0 for a constant column that is not forecast exactly, as scikit-learn's."""
    residual = np.square(came - predicted).sum(axis=0)
    total = np.square(came - came.mean(axis=0)).sum(axis=0)
    ratio = np.divide(residual, total, out=(residual != 0.0).astype(np.float64), where=total != 0.0)
    return float(np.mean(1.0 - ratio))
