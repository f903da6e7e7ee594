"""`LSTMClassifier`: from a sequence to a label, or from every step of it."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs import train
from lstm_rs.cell import CellSpec
from lstm_rs.estimators import _sklearn
from lstm_rs.estimators._base import Examples, all_or_nothing, split
from lstm_rs.estimators._data import Sequences, as_sequences
from lstm_rs.estimators._supervised import Supervised, each, given, together


class LSTMClassifier(Supervised):
    """Predict a label for each sequence, or for each of its steps.

    An LSTM runs over the sequence; a linear layer reads its last hidden state, or with `per_step` its output at every
    step, and softmax makes a probability for each label of it. Trained on the cross-entropy, by backpropagation through
    the whole sequence.

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
        Is there a label for each step? Without `bidirectional` a prediction then knows the steps up to its own, no
        later.
    epochs : int, default 60
        How often training sees every sequence.
    batch_size : int, default 32
        Sequences in a step of training.
    learning_rate : float, default 1e-2
        Of Adam, at the start.
    schedule : {"constant", "linear", "cosine"}, default "cosine"
        How the learning rate falls over all epochs; the last two end at 0.
    weight_decay : float, default 0.1
        Of AdamW: so much of each weight, times the rate, is taken off at each step. 0 makes it Adam.
    clip_norm : float or None, default 1.0
        The largest norm that the gradient of a step may have; a larger one is scaled down.
    validation_fraction : float, default 0.0
        The part of the sequences that is held out to choose the best epoch, whose weights are kept.
    patience : int, optional
        End after so many epochs without a better loss on what is held out.
    scale : bool, default True
        Standardize every feature.
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
    classes_ : (C,) array
        The labels, sorted.
    model_ : lstm_rs.train.Predictor
        What was trained; ``model_.modules["lstm"]`` is the `lstm_rs.LSTM`.
    history_ : lstm_rs.train.History
        Losses and times of every epoch.
    n_features_in_ : int
        F.
    scaler_
        ``mean`` and ``deviation`` of X in the training data.

    Notes
    -----
    X is an array (n, T, F), an array (n, T) of n univariate sequences, or a list of ragged arrays (T_i, F) or (T_i,).
    Learning rate, schedule and decay did best in cross-validation on the training part of Japanese vowels [3]_.
    What is held out for validation has each label as often as the rest, as far as that goes. A Ctrl-C ends `fit` with
    KeyboardInterrupt and leaves an estimator that predicts, with the weights of the last whole batch or the best epoch.

    References
    ----------
    .. [1] F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", 1999.
    .. [2] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    .. [3] M. Kudo, J. Toyama, M. Shimbo, "Multidimensional curve classification using passing-through regions",
       Pattern Recognition Letters 20 (1999).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(steps, 2)).cumsum(axis=0) for steps in rng.integers(5, 12, size=64)]
    >>> y = np.array(["up" if x[-1, 0] > x[0, 0] else "down" for x in X])
    >>> classifier = LSTMClassifier(hidden_size=16, random_state=0).fit(X, y)
    >>> classifier.classes_.tolist(), classifier.predict_proba(X[:3]).shape
    (['down', 'up'], (3, 2))
    >>> classifier.score(X, y) > 0.9
    True
    """

    _fitted = (*Supervised._fitted, "classes_")

    def __init__(
        self,
        *,
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        cell: CellSpec | None = None,
        per_step: bool = False,
        epochs: int = 60,
        batch_size: int = 32,
        learning_rate: float = 1e-2,
        schedule: str = "cosine",
        weight_decay: float = 0.1,
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

    @all_or_nothing
    def fit(self, X: Any, y: Any) -> LSTMClassifier:
        """Train anew.

        Parameters
        ----------
        X : (n, T, F) array, (n, T) array, or list of (T_i, F) or (T_i,) arrays
            The sequences.
        y : (n,) array
            Their labels, of any kind that can be sorted; with `per_step` (n, T), or a list of (T_i,).

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
        sequences, labels = self._pair(X, y)
        classes = _classes(together(labels))
        self._start(sequences)
        self.classes_ = classes
        self._train(self._examples(sequences, labels))
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> LSTMClassifier:
        """Train for one epoch, from where it stands.

        Scaling is that of the first call, or of `fit`; the learning rate is constant.

        Parameters
        ----------
        X, y
            As in `fit`.
        classes : array, optional
            All labels that will ever come; needed in the first call only, and there by default those in y.

        Returns
        -------
        self
        """
        fitted = self.__sklearn_is_fitted__()
        sequences, labels = self._pair(X, y, again=fitted)
        known = None if classes is None else _classes(np.asarray(classes), "classes")
        if not fitted:
            known = _classes(together(labels)) if known is None else known
            _codes(known, together(labels))
            self._start(sequences)
            self.classes_ = known
        elif known is not None and not np.array_equal(known, self.classes_):
            raise ValueError(
                f"classes: expected those of the first call, {self.classes_.tolist()}, got {known.tolist()}"
            )
        self._train_more(self._examples(sequences, labels))
        return self

    def predict_proba(self, X: Any) -> Sequences:
        """Predict the probability of each label.

        Parameters
        ----------
        X : (n, T, F) array, (n, T) array, or list of (T_i, F) or (T_i,) arrays
            The sequences.

        Returns
        -------
        (n, C) float64 array
            In the order of `classes_`. With `per_step` (n, T, C); a list of (T_i, C) for a list.
        """
        return each(np.exp, self._log_proba(X, "predict_proba"))

    def predict_log_proba(self, X: Any) -> Sequences:
        """Predict the logarithm of each label's probability.

        Parameters
        ----------
        X
            As in `predict_proba`.

        Returns
        -------
        array or list
            As from `predict_proba`.
        """
        return self._log_proba(X, "predict_log_proba")

    def predict(self, X: Any) -> Sequences:
        """Predict the most probable label.

        Parameters
        ----------
        X : (n, T, F) array, (n, T) array, or list of (T_i, F) or (T_i,) arrays
            The sequences.

        Returns
        -------
        (n,) array
            Out of `classes_`. With `per_step` (n, T); a list of (T_i,) for a list.
        """
        outputs = self._outputs(X, "predict")
        return each(lambda values: self.classes_[np.argmax(values, axis=-1)], outputs)

    def score(self, X: Any, y: Any) -> float:
        """Accuracy: the part of the labels that is predicted rightly.

        Parameters
        ----------
        X, y
            As in `fit`; with `per_step` every step counts alike.

        Returns
        -------
        float
            From 0 to 1.
        """
        self._check_fitted("score")
        sequences, labels = self._pair(X, y, again=True)
        return float(np.mean(together(self.predict(sequences)) == together(labels)))

    def _check_fitted_values(self) -> None:
        classes = self.classes_
        if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(np.unique(classes)) != len(classes):
            raise ValueError("classes_: expected a list of labels, each once")

    def _loss(self) -> Any:
        return train.cross_entropy

    def _outputs_needed(self) -> int:
        return len(self.classes_)

    def _log_proba(self, X: Any, method: str) -> Sequences:
        return each(_log_softmax, self._outputs(X, method))

    def _pair(self, X: Any, y: Any, *, again: bool = False) -> tuple[Sequences, Sequences]:
        """Check X and y, `again` against what is known already."""
        owner = type(self).__name__
        sequences = as_sequences(X, n_features=self.n_features_in_ if again else None, owner=owner)
        per_step = bool(self._as_fitted["per_step"] if again else self.per_step)
        labels = given(y, sequences, owner, per_step=per_step)
        array, axes = (labels, 2 if per_step else 1) if isinstance(labels, np.ndarray) else (labels[0], 1)
        if array.shape[axes:] == (1,):
            message = "A column-vector y was passed when a 1d array was expected; its only column is taken"
            warnings.warn(message, _sklearn.conversion_warning(), stacklevel=4)
            labels = each(lambda values: values[..., 0], labels)
        elif array.ndim != axes:
            raise ValueError(
                f"y: expected one label {'a step' if per_step else 'a sequence'}, got shape {array.shape}"
                + ("" if per_step else "; for a label per step give per_step=True")
            )
        _check_labels(together(labels).ravel())
        return sequences, labels

    def _examples(self, sequences: Sequences, labels: Sequences) -> Examples:
        return Examples(self._scaled(sequences), each(lambda values: _codes(self.classes_, values), labels))

    def _split(self, data: Examples, fraction: float, rng: np.random.Generator) -> tuple[Examples, Examples]:
        if self.per_step:
            return super()._split(data, fraction, rng)
        order = rng.permutation(len(data.sequences))
        order = order[np.argsort(np.asarray(data.targets)[order], kind="stable")]
        # Sorted by label, what is held out is taken at even distances: so it has of each label its part.
        held_out = min(max(round(fraction * len(order)), 1), len(order) - 1)
        places = ((np.arange(held_out) + 0.5) * len(order) / held_out).astype(np.int64)
        return split(data, np.concatenate([np.delete(order, places), order[places]]), fraction)

    def __sklearn_tags__(self) -> Any:
        return _sklearn.tags("classifier", needs_y=True)


def _check_labels(labels: np.ndarray) -> None:
    """Refuse what is a number to be predicted rather than a label."""
    if labels.dtype.kind == "c":
        raise ValueError("y: Complex data not supported: expected labels")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            what = "NaN" if np.isnan(labels).any() else "infinity"
            raise ValueError(f"y: Input y contains {what}: expected labels")
        if (labels != np.round(labels)).any():
            raise ValueError(
                "y: Unknown label type: continuous: expected labels, got numbers with fractions; "
                "LSTMRegressor predicts those"
            )


def _classes(labels: np.ndarray, name: str = "y") -> np.ndarray:
    """All labels, sorted; at least two."""
    try:
        classes = np.unique(labels)
    except TypeError as error:
        raise TypeError(f"{name}: expected labels of one kind that can be sorted: {error}") from error
    if len(classes) < 2:
        raise ValueError(
            f"{name}: expected labels of at least 2 classes, got 1 class only: {classes.tolist()}; there is nothing to "
            "tell apart"
        )
    return classes


def _codes(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of each label in the classes."""
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unknown = classes[codes] != labels
    if np.any(unknown):
        raise ValueError(
            f"y: expected labels out of {classes.tolist()}, got {np.asarray(labels)[unknown][0]!r}; the first "
            "partial_fit takes all that will come as classes="
        )
    return np.asarray(codes, dtype=np.int64)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))
