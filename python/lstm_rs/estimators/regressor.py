"""`LSTMRegressor`: from a sequence to numbers, or from every step of it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs import train
from lstm_rs.cell import CellSpec
from lstm_rs.estimators import _params, _sklearn
from lstm_rs.estimators._base import Examples, all_or_nothing
from lstm_rs.estimators._data import Scaler, Sequences, as_sequences
from lstm_rs.estimators._supervised import Supervised, each, given, together

_LOSSES = ("mse", "mae", "huber")


class LSTMRegressor(Supervised):
    """Predict one or several numbers for each sequence, or for each of its steps.

    An LSTM runs over the sequence; a linear layer reads its last hidden state, or with `per_step` its output at every
    step. Trained by backpropagation through the whole sequence.

    Parameters
    ----------
    hidden_size : int, default 32
        H, the units of each layer.
    num_layers : int, default 1
        Layers, one over the outputs of the other.
    bidirectional : bool, default False
        Does each layer also run from the last step to the first? The read-out sees both.
    dropout : float, default 0.0
        The probability that an output between two layers is set to 0 in training.
    cell : CellSpec, optional
        The cell; by default the LSTM of Gers et al. 1999.
    per_step : bool, default False
        Is there a y for each step? Without `bidirectional` a prediction then knows the steps up to its own, no later.
    loss : {"mse", "mae", "huber"}, default "mse"
        Of the standardized y; "huber" is square up to one deviation and linear from there on.
    epochs : int, default 100
        How often training sees every sequence.
    batch_size : int, default 32
        Sequences in a step of training.
    learning_rate : float, default 1e-2
        Of Adam, at the start.
    schedule : {"constant", "linear", "cosine"}, default "cosine"
        How the learning rate falls over all epochs; the last two end at 0.
    weight_decay : float, default 0.0
        Of AdamW: so much of each weight, times the rate, is taken off at each step. 0 makes it Adam.
    clip_norm : float or None, default 1.0
        The largest norm that the gradient of a step may have; a larger one is scaled down.
    validation_fraction : float, default 0.0
        The part of the sequences that is held out to choose the best epoch, whose weights are kept.
    patience : int, optional
        End after so many epochs without a better loss on what is held out.
    scale : bool, default True
        Standardize every feature, and y.
    dtype : {"float32", "float64"}, default "float32"
        Of the weights and of all that is computed.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Where weights, batches and dropout come from. The same int gives the same bits on the same machine.
    verbose : int, default 0
        1 shows the progress of training.
    checkpoint : path, optional
        Where training keeps its state (a safetensors file), so that a fit that was cut off can be resumed.
    resume : bool, default False
        Go on from the checkpoint, if it is there; data and parameters have to be the same.

    Attributes
    ----------
    model_ : lstm_rs.train.Predictor
        What was trained; ``model_.modules["lstm"]`` is the `lstm_rs.LSTM`.
    history_ : lstm_rs.train.History
        Losses and times of every epoch.
    n_features_in_ : int
        F.
    n_outputs_ : int
        The numbers that are predicted at once.
    scaler_, y_scaler_
        ``mean`` and ``deviation`` of X and y in the training data.

    Notes
    -----
    X is an array (n, T, F), an array (n, T) of n univariate sequences, or a list of ragged arrays (T_i, F) or (T_i,).
    A Ctrl-C ends `fit` with KeyboardInterrupt and leaves an estimator that predicts, with the weights of the last whole
    batch or the best epoch.

    References
    ----------
    .. [1] F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", 1999.
    .. [2] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(steps, 2)) for steps in rng.integers(5, 12, size=64)]
    >>> y = np.array([x[:, 0].sum() for x in X])
    >>> regressor = LSTMRegressor(hidden_size=16, epochs=60, random_state=0).fit(X, y)
    >>> regressor.predict(X[:3]).shape
    (3,)
    >>> regressor.score(X, y) > 0.95
    True
    """

    _fitted = (*Supervised._fitted, "n_outputs_", "single_output_", "y_scaler_")

    def __init__(
        self,
        *,
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        cell: CellSpec | None = None,
        per_step: bool = False,
        loss: str = "mse",
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-2,
        schedule: str = "cosine",
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
            bidirectional=bidirectional,
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
        self.per_step = per_step
        self.loss = loss

    @all_or_nothing
    def fit(self, X: Any, y: Any) -> LSTMRegressor:
        """Train anew.

        Parameters
        ----------
        X : (n, T, F) array, (n, T) array, or list of (T_i, F) or (T_i,) arrays
            The sequences.
        y : (n,) or (n, k) array
            The targets; with `per_step` (n, T) or (n, T, k), or a list of (T_i,) or (T_i, k).

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X, y or a parameter does not fit; the message names it.
        FloatingPointError
            If the loss is no longer finite.
        """
        sequences, targets, single = self._pair(X, y)
        self._begin(sequences, targets, single)
        self._train(self._examples(sequences, targets))
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any) -> LSTMRegressor:
        """Train for one epoch, from where it stands.

        Scaling is that of the first call, or of `fit`; the learning rate is constant.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        self
        """
        fitted = self.__sklearn_is_fitted__()
        sequences, targets, single = self._pair(X, y, again=fitted)
        if not fitted:
            self._begin(sequences, targets, single)
        self._train_more(self._examples(sequences, targets))
        return self

    def predict(self, X: Any) -> Sequences:
        """Predict y.

        Parameters
        ----------
        X : (n, T, F) array, (n, T) array, or list of (T_i, F) or (T_i,) arrays
            The sequences.

        Returns
        -------
        (n,) or (n, k) float64 array
            As y was in `fit`. With `per_step` (n, T) or (n, T, k); a list of (T_i,) or (T_i, k) for a list.
        """
        outputs = self._outputs(X, "predict")
        outputs = each(self.y_scaler_.unscale, outputs)
        return each(lambda values: values[..., 0], outputs) if self.single_output_ else outputs

    def score(self, X: Any, y: Any) -> float:
        """R2, the part of the variance of y that is predicted: 1 at best, 0 for its mean.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        float
            The mean over the columns of y; with `per_step` over all steps together.
        """
        self._check_fitted("score")
        sequences, targets, _ = self._pair(X, y, again=True)
        predicted = self.predict(sequences)
        true = together(targets).reshape(-1, self.n_outputs_)
        return r2(true, together(predicted).reshape(-1, self.n_outputs_))

    def _loss(self) -> Any:
        return {"mse": train.mse, "mae": train.mae, "huber": train.huber}[self.loss]

    def _outputs_needed(self) -> int:
        return self.n_outputs_

    def _check_params(self) -> None:
        super()._check_params()
        _params.choice("loss", self.loss, _LOSSES)

    def _pair(self, X: Any, y: Any, *, again: bool = False) -> tuple[Sequences, Sequences, bool]:
        """Check X and y, `again` against what is known; give y with an axis of columns, and whether that is new."""
        owner = type(self).__name__
        sequences = as_sequences(X, n_features=self.n_features_in_ if again else None, owner=owner)
        per_step = bool(self._as_fitted["per_step"] if again else self.per_step)
        targets = each(_numbers, given(y, sequences, owner, per_step=per_step))
        array, axes = (targets, 2 if per_step else 1) if isinstance(targets, np.ndarray) else (targets[0], 1)
        columns = array.shape[axes:]
        if len(columns) > 1 or 0 in columns:
            expected = "(n, T) or (n, T, k)" if per_step else "(n,) or (n, k)"
            raise ValueError(f"y: expected shape {expected}, got {array.shape}")
        count = columns[0] if columns else 1
        if again and count != self.n_outputs_:
            raise ValueError(f"y: expected {self.n_outputs_} columns, as in fit, got {count}")
        return sequences, targets if columns else each(lambda values: values[..., None], targets), not columns

    def _begin(self, sequences: Sequences, targets: Sequences, single: bool) -> None:
        """Forget an earlier fit, and learn the scales."""
        self._start(sequences)
        self.single_output_ = single
        self.n_outputs_ = int(targets[0].shape[-1])
        self.y_scaler_ = Scaler.fit(targets) if self.scale else Scaler.identity(self.n_outputs_)

    def _check_fitted_values(self) -> None:
        _params.flag("single_output_", self.single_output_)
        if self.single_output_ and self.n_outputs_ != 1:
            raise ValueError(f"n_outputs_: expected 1, as single_output_ says, got {self.n_outputs_}")

    def _examples(self, sequences: Sequences, targets: Sequences) -> Examples:
        scaled = self._scaled(sequences)
        return Examples(scaled, self.y_scaler_.scale_all(targets, scaled[0].dtype))

    def __sklearn_tags__(self) -> Any:
        return _sklearn.tags("regressor", multi_output=True, needs_y=True)


def _numbers(values: np.ndarray) -> np.ndarray:
    """Targets as float64, all of them finite."""
    if values.dtype == object:
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"y: expected numbers, got dtype object with what is none ({error})") from error
    if values.dtype.kind == "c":
        raise ValueError("y: Complex data not supported: give real and imaginary part as two columns")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"y: expected numbers, got dtype {values.dtype}; for labels there is LSTMClassifier")
    values = values.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        what = "NaN" if np.isnan(values[tuple(wrong[0])]) else "infinity"
        raise ValueError(f"y: Input y contains {what} at index {tuple(map(int, wrong[0]))}; drop it with its sequence")
    return values


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """The coefficient of determination of (n, k): the mean over the columns; NaN for less than two rows.

    A constant column counts 1 where it is predicted exactly, else 0.
    """
    if len(true) < 2:
        return float("nan")
    residual = np.sum(np.square(true - predicted), axis=0)
    total = np.sum(np.square(true - true.mean(axis=0)), axis=0)
    constant = np.where(residual == 0.0, 1.0, 0.0)
    return float(np.mean(np.where(total > 0.0, 1.0 - residual / np.where(total > 0.0, total, 1.0), constant)))
