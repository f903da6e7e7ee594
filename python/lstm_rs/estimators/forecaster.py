"""`LSTMForecaster`: how a series goes on.

At every step the network reads the values, and what is known ahead, and predicts what comes; `_rollout` has the
equations. It learns from windows of W steps. Each begins from a state of zeros, so its first W // 4 steps do not count
in the loss: without a past nobody can forecast. A forecast itself reads all of the series that it is given.

What it predicts is the difference to the last value, unless ``difference=False``. Where a series drifts, the level that
comes may be one that was never seen. One step ahead, as a share of persistence's error, on the last third of each:
a season on a rising line 0.99 (the value itself: 3.8), a random walk 1.09 (1.7), a season in noise 0.79 (0.73). On the
sunspots it is a draw before 1920, 0.63 (0.61), and the value itself is better from then on.

There are no intervals, and no missing values; time is only in the order of the rows.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs.cell import CellSpec
from lstm_rs.estimators import _params
from lstm_rs.estimators._base import all_or_nothing
from lstm_rs.estimators._forecasting import ANY, Forecasting, r2
from lstm_rs.estimators._rollout import Series
from lstm_rs.estimators._windows import Form, as_series, check_lengths
from lstm_rs.functional import State


class LSTMForecaster(Forecasting):
    """Forecasts of a series, some steps ahead.

    Parameters
    ----------
    horizon : int, default 1
        h, the steps ahead.
    strategy : {"direct", "recursive"}, default "direct"
        "direct" predicts all steps at once, and learns each for itself. "recursive" learns to predict the next one, and
        then reads on what it has predicted; it can go on for any number of steps.
    window : int, default 64
        W, the steps of a training window. What the network should learn to remember has to fit into it.
    difference : bool, default True
        Predict the difference to the last value, not the value? Better where a series drifts; where it always
        comes back to one level, False may be better.
    stride : int, default 1
        From one training window to the next.
    hidden_size, num_layers : int, default 32 and 1
        Of the LSTM.
    dropout : float, default 0.0
        Between layers.
    cell : CellSpec, optional
        The cell.
    epochs : int, default 20
        How often training sees every window.
    batch_size : int, default 32
        Windows in a training step.
    learning_rate : float, default 5e-3
        Of Adam, at the start.
    schedule : {"constant", "linear", "cosine"}, default "linear"
        How the learning rate goes on: "linear" and "cosine" end at 0.
    weight_decay : float, default 0.0
        Above 0, AdamW takes the place of Adam.
    clip_norm : float or None, default 1.0
        The largest norm of all gradients together.
    validation_fraction : float, default 0.0
        The share of the windows, the last ones, that is held out; the weights that do best on it are kept.
    patience : int, optional
        So many epochs without an improvement there end training.
    scale : bool, default True
        Bring all columns, and the differences, to mean 0 and deviation 1 inside?
    dtype : {"float32", "float64"}
        Of the network.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        An int gives the same bits in every fit on the same machine.
    verbose : int, default 0
        1 shows progress.
    checkpoint : path, optional
        Where training is written to while it runs; needs safetensors.
    resume : bool, default False
        Go on from the checkpoint if it is there?

    Attributes
    ----------
    model_ : lstm_rs.train.Predictor
        The network.
    history_ : lstm_rs.train.History
        The losses of the epochs.
    n_features_in_, n_exogenous_ : int
        k and m: the columns of X, all of which are forecast, and those that are known ahead.
    scaler_, exogenous_scaler_, changes_ : object
        ``mean`` and ``deviation`` of the columns, of those known ahead, and of what the network predicts.

    Notes
    -----
    The input of step t is the values of step t, and the exogenous columns of steps t+1 to t+h ("direct") or of step t+1
    ("recursive"): the calendar, plans, a weather forecast. A column that is not known ahead belongs into X.

    Ben Taieb et al. [1]_ compare the strategies: recursive forecasts add up their errors, direct ones know nothing of
    each other. With ``horizon=1`` they are one.

    References
    ----------
    .. [1] S. Ben Taieb, G. Bontempi, A. F. Atiya, A. Sorjamaa, "A review and comparison of strategies for multi-step
       ahead time series forecasting based on the NN5 forecasting competition", Expert Systems with Applications 39
       (2012).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.estimators import LSTMForecaster
    >>> series = np.sin(np.arange(300) / 3)
    >>> model = LSTMForecaster(horizon=5, window=32, random_state=0).fit(series)
    >>> forecast = model.predict()
    >>> bool(np.abs(forecast - np.sin(np.arange(300, 305) / 3)).max() < 0.1)
    True
    """

    def __init__(
        self,
        horizon: int = 1,
        *,
        strategy: str = "direct",
        window: int = 64,
        difference: bool = True,
        stride: int = 1,
        hidden_size: int = 32,
        num_layers: int = 1,
        dropout: float = 0.0,
        cell: CellSpec | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 5e-3,
        schedule: str = "linear",
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        scale: bool = True,
        dtype: npt.DTypeLike = "float32",
        random_state: int | np.random.Generator | np.random.RandomState | None = None,
        verbose: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__(
            hidden_size=hidden_size,
            num_layers=num_layers,
            dropout=dropout,
            cell=cell,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            validation_fraction=validation_fraction,
            patience=patience,
            scale=scale,
            dtype=dtype,
            random_state=random_state,
            verbose=verbose,
            checkpoint=checkpoint,
            resume=resume,
        )
        self.horizon = horizon
        self.strategy = strategy
        self.window = window
        self.difference = difference
        self.stride = stride

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, *, exogenous: Any = None) -> LSTMForecaster:
        """Learn how series go on.

        Parameters
        ----------
        X : (T,) or (T, k) array, or list of such
            A series, or several; all columns are forecast.
        y : None
            Ignored.
        exogenous : (T,) or (T, m) array, or list of such, optional
            Columns that are known ahead, row by row with X.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter makes no sense, if X or `exogenous` has NaN, if they have not as many rows, or if a series is
            shorter than the window and the horizon.

        Examples
        --------
        >>> import numpy as np
        >>> model = LSTMForecaster(window=8, epochs=1, random_state=0).fit(np.sin(np.arange(100.0)))
        >>> len(model.history_.loss)
        1
        """
        series, form = as_series(X)
        known = self._known("exogenous", exogenous, [(len(one), len(one)) for one in series], form, None)
        check_lengths(series, form, *self._least(self.get_params()))
        self._begin(series, known)
        self._train(self._data(series, known, form))
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any = None, *, exogenous: Any = None) -> LSTMForecaster:
        """Go on for one epoch, on what is given; the scale stays that of the first call.

        Parameters
        ----------
        X, y, exogenous
            As in `fit`. `predict` goes on from the end of this X.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As in `fit`; or if the number of columns has changed.

        Examples
        --------
        >>> import numpy as np
        >>> model = LSTMForecaster(window=8, random_state=0)
        >>> for part in np.split(np.sin(np.arange(100.0)), 2):
        ...     model = model.partial_fit(part)
        >>> len(model.history_.loss)
        2
        """
        if hasattr(self, "model_"):
            series, known, form = self._checked(X, exogenous, 0)
            check_lengths(series, form, *self._least(self._as_fitted))
        else:
            series, form = as_series(X)
            known = self._known("exogenous", exogenous, [(len(one), len(one)) for one in series], form, None)
            check_lengths(series, form, *self._least(self.get_params()))
            self._begin(series, known)
        self._train_more(self._data(series, known, form))
        return self

    def predict(
        self, X: Any = None, *, exogenous: Any = None, future_exogenous: Any = None, steps: int | None = None
    ) -> Any:
        """Go on from the end of a series.

        Parameters
        ----------
        X : (T,) or (T, k) array, or list of such, optional
            The past, at least 1 step; by default the series of the last `fit` or `partial_fit`.
        exogenous : (T,) or (T, m) array, or list of such, optional
            The columns that are known ahead, row by row with X.
        future_exogenous : array of `steps` rows, or list of such, optional
            Those of the steps that are forecast. For the "direct" strategy always those of the whole horizon.
        steps : int, optional
            How far; by default the horizon, which is also the most for the "direct" strategy.

        Returns
        -------
        (steps,) or (steps, k) float64 array, or list of such
            The forecast, in units of X.

        Raises
        ------
        ValueError, TypeError
            If X has NaN or other columns than in `fit`, if exogenous columns are missing, too few or too many, or if
            `steps` is more than the strategy can do.

        Examples
        --------
        >>> import numpy as np
        >>> series = np.sin(np.arange(100.0))
        >>> model = LSTMForecaster(strategy="recursive", window=8, epochs=1, random_state=0).fit(series)
        >>> model.predict(steps=20).shape, model.predict(series[:50], steps=3).shape
        ((20,), (3,))
        """
        self._check_fitted("predict")
        horizon, direct = self._as_fitted["horizon"], self._as_fitted["strategy"] == "direct"
        steps = horizon if steps is None else _params.integer("steps", steps, 1)
        if direct and steps > horizon:
            raise ValueError(
                f"steps: expected at most {horizon}, the horizon, with strategy='direct', got {steps}; "
                f"strategy='recursive' goes on for any number"
            )
        if X is None:
            if exogenous is not None:
                raise ValueError("exogenous: expected it with X; without X, that of fit is known already")
            form = Form(self.past_many_, tuple(bool(flat) for flat in self.past_flat_))
            states: list[State | None] = [State(h, c) for h, c in zip(self.past_h_, self.past_c_, strict=True)]
            past = [Series(*both) for both in zip(self.past_values_, self.past_exogenous_, strict=True)]
        else:
            series, known, form = self._checked(X, exogenous, 0)
            states = [None for _ in series]
            past = self._both(series, known)
        needed = horizon if direct else steps
        future = self._known("future_exogenous", future_exogenous, [(needed, ANY)] * len(past), form, self.n_exogenous_)
        results = []
        for one, state, later in zip(past, states, future, strict=True):
            whole = one._replace(exogenous=np.concatenate([one.exogenous, self._scaled_known(later)]))
            results.append(self.scaler_.unscale(self._network().last(whole, state, steps)))
        return form.give(results)

    def predict_all(self, X: Any, *, exogenous: Any = None) -> Any:
        """Forecast from every step of a series, as one would have who knew it up to there.

        Parameters
        ----------
        X : (T,) or (T, k) array, or list of such
            The series.
        exogenous : array of T to T + h rows, or list of such, optional
            The columns that are known ahead, row by row with X, and on for as long as they are known.

        Returns
        -------
        (T, h) or (T, h, k) float64 array, or list of such
            Row t has the forecasts for steps t+1 to t+h, made at the end of step t; NaN where the exogenous columns
            that they need are not given. It is what `predict` gives for the first t+1 steps, to the bit; nothing in it
            depends on later values of X.

        Raises
        ------
        ValueError, TypeError
            As in `predict`.

        Examples
        --------
        >>> import numpy as np
        >>> series = np.sin(np.arange(100.0))
        >>> model = LSTMForecaster(horizon=3, window=8, epochs=1, random_state=0).fit(series)
        >>> model.predict_all(series).shape
        (100, 3)
        >>> bool((model.predict_all(series)[49] == model.predict(series[:50])).all())
        True
        """
        self._check_fitted("predict_all")
        _, results, form = self._all(X, exogenous)
        return form.give(results)

    def score(self, X: Any, y: Any = None, *, exogenous: Any = None) -> float:
        """R2 of the forecasts from every step, against what came.

        Parameters
        ----------
        X, exogenous
            As in `predict_all`.
        y : None
            Ignored.

        Returns
        -------
        float
            1 for forecasts without error, 0 for those that do as well as the mean of X. It is the mean over columns;
            the first window // 4 steps of each series are left out, as in training.

        Raises
        ------
        ValueError, TypeError
            As in `predict_all`; or if no step is left.

        Examples
        --------
        >>> import numpy as np
        >>> series = np.sin(np.arange(300) / 3)
        >>> LSTMForecaster(window=32, random_state=0).fit(series).score(series) > 0.99
        True
        """
        self._check_fitted("score")
        series, results, form = self._all(X, exogenous)
        first, horizon = self._as_fitted["window"] // 4, self._as_fitted["horizon"]
        reach = self._ahead() if self.n_exogenous_ else 1
        check_lengths(
            series, form, first + 1 + reach, f"{first} of a warm-up, one to forecast from and {reach} after it"
        )
        predicted, came = [], []
        for one, forecasts in zip(series, results, strict=True):
            for j in range(1, horizon + 1):
                part = forecasts[first : len(one) - j, j - 1]
                given = np.isfinite(part).all(axis=1)
                predicted.append(part[given])
                came.append(one[first + j :][given] if len(part) else one[:0])
        return r2(np.concatenate(came), np.concatenate(predicted))
