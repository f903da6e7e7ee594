"""What all estimators share: parameters, training, and what of it stays.

A subclass writes its own `fit` and the methods that predict, out of these parts. `fit` goes

    sequences = as_sequences(X)           # from _data; nothing of self has changed so far
    self._reset()                         # forget an earlier fit
    self.n_features_in_, self.scaler_, ... = ...
    self._train(data)                     # data: whatever `_batches` below takes
    return self

and `partial_fit` the same for the first call; for later ones it checks X against what is there and then calls
`self._train_more(data)`. The methods that predict begin with `self._check_fitted("predict")`.

Hooks that a subclass has to write:

- `_build(rng) -> Model`: the model of `lstm_rs.train`, from the parameters and the fitted sizes (`self._lstm` makes a
  layer of the common parameters). It is called again to load a file, when all of `_fitted` is set.
- `_batches(data, rng)`: an iterable of `Batch` that begins anew each time; shuffled by `rng`, in order when it is None.
- `_fitted`: the names of all fitted attributes that a file keeps, those of `SequenceEstimator._fitted` among them:
  numbers, bools, None, strings, arrays of numbers or strings, lists of arrays, `Scaler`.

and those that it may:

- `_split(data, fraction, rng) -> (training, validation)`: by default `Examples` are split at random.
- `_trained(data)`: what is left to do when the model has learnt, thresholds for example; also after an interrupt.

Parameters can be set after a fit: what a fitted estimator does has to follow `self._as_fitted`, all of them as they
were then, and `self._model_dtype()`.

`_train` leaves `model_`, `history_`, and for `partial_fit` the optimizer's moments and the generators. After a Ctrl-C
they are there too, at the weights of the best or the last whole batch, and KeyboardInterrupt goes on. After any other
error the estimator is as it was before: `fit` and `partial_fit` are decorated with `all_or_nothing`, which also calls
`_check_params` first: a subclass checks its own parameters there, and then calls super's.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from lstm_rs import train
from lstm_rs._parameters import float_dtype
from lstm_rs.cell import CellSpec
from lstm_rs.estimators import _params, _saving, _sklearn
from lstm_rs.estimators._data import Scaler, Sequences, take
from lstm_rs.layers import _DROPOUT_OF_ONE, LSTM
from lstm_rs.train._interrupt import Interrupt

if TYPE_CHECKING:
    from typing_extensions import Self

__doctest_requires__ = {"SequenceEstimator.save": ["safetensors"]}

F = TypeVar("F", bound=Callable[..., Any])

_PRIVATE = ("_as_fitted", "_moments", "_shuffle")
"""What a fit leaves besides the attributes whose names end in an underscore."""


_LEAVES_A_MODEL = (KeyboardInterrupt, OSError)
"""After these the model has learnt what it could: somebody stopped it, or its checkpoint cannot be written."""


def all_or_nothing(fit: F) -> F:
    """Decorate a method that fits: parameters are checked, and what fails leaves the estimator as it was before."""

    @functools.wraps(fit)
    def wrapped(self: SequenceEstimator, *args: Any, **kwargs: Any) -> Any:
        self._check_params()
        if self.dropout > 0.0 and self.num_layers == 1:
            warnings.warn(_DROPOUT_OF_ONE, UserWarning, stacklevel=2)
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException as error:
            if not (isinstance(error, _LEAVES_A_MODEL) and self.__sklearn_is_fitted__()):
                vars(self).clear()
                vars(self).update(before)
            raise

    return cast(F, wrapped)


class Examples(NamedTuple):
    """Sequences that have been scaled, and a target for each."""

    sequences: Sequences
    targets: Sequences


class SequenceEstimator(_params.Parameters):
    """The base of all estimators; see the module's text."""

    n_features_in_: int
    scaler_: Scaler
    model_: Any
    history_: train.History
    _as_fitted: dict[str, Any]
    _shuffle: np.random.Generator
    _moments: dict[str, np.ndarray]

    _fitted: ClassVar[tuple[str, ...]] = ("n_features_in_", "scaler_")

    def __init__(
        self,
        *,
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        cell: CellSpec | None = None,
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
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.cell = cell
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.scale = scale
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.resume = resume

    # Hooks.

    def _build(self, rng: np.random.Generator) -> Any:
        raise NotImplementedError

    def _batches(self, data: Any, rng: np.random.Generator | None) -> Iterable[train.Batch]:
        raise NotImplementedError

    def _split(self, data: Any, fraction: float, rng: np.random.Generator) -> tuple[Any, Any]:
        order = rng.permutation(len(data.sequences))
        return split(data, order, fraction)

    def _trained(self, data: Any) -> None:
        pass

    # Parts.

    def _check_params(self) -> None:
        """Refuse parameters that make no sense."""
        _params.integer("hidden_size", self.hidden_size, 1)
        _params.integer("num_layers", self.num_layers, 1)
        _params.flag("bidirectional", self.bidirectional)
        _params.real("dropout", self.dropout, 0.0, 1.0)
        if not isinstance(self.cell, CellSpec | None):
            raise TypeError(f"cell: expected a CellSpec or None, got {self.cell!r}")
        _params.integer("epochs", self.epochs, 1)
        _params.integer("batch_size", self.batch_size, 1)
        _params.real("learning_rate", self.learning_rate, 0.0, low_open=True)
        _params.choice("schedule", self.schedule, ("constant", "linear", "cosine"))
        _params.real("weight_decay", self.weight_decay, 0.0)
        if self.clip_norm is not None:
            _params.real("clip_norm", self.clip_norm, 0.0, low_open=True)
        _params.real("validation_fraction", self.validation_fraction, 0.0, 1.0)
        if self.patience is not None:
            _params.integer("patience", self.patience, 1)
            if self.validation_fraction == 0.0:
                raise ValueError("patience: expected a validation_fraction of more than 0 with it, got 0")
        _params.flag("scale", self.scale)
        float_dtype(self.dtype)
        if not isinstance(self.verbose, bool):
            _params.integer("verbose", self.verbose, 0)
        _params.flag("resume", self.resume)
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | os.PathLike):
            raise TypeError(f"checkpoint: expected a path or None, got {self.checkpoint!r}")
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: expected a path as checkpoint with resume=True, got None")
        if isinstance(self.random_state, np.random.Generator | np.random.RandomState | None):
            if self.resume and self.validation_fraction > 0.0:
                raise ValueError(
                    f"random_state: expected an int with resume=True and validation_fraction="
                    f"{self.validation_fraction}, so that the split is the same again, got {self.random_state!r}"
                )
        else:
            _params.generator(self.random_state)

    def _lstm(self, input_size: int, rng: np.random.Generator, *, bidirectional: bool | None = None) -> LSTM:
        """Make a layer of the common parameters; its weights and its dropout come from `rng`."""
        lstm = LSTM(
            input_size,
            self.hidden_size,
            self.num_layers,
            bidirectional=bool(self.bidirectional if bidirectional is None else bidirectional),
            cell=self.cell,
            dtype=self.dtype,
            seed=rng,
        )
        # Not above, where one layer alone would bring a warning: a fit gives its own, and a file is read without.
        lstm.dropout = float(self.dropout)
        return lstm

    def _reset(self) -> None:
        """Forget an earlier fit, and keep the parameters that the next one goes by."""
        self._forget()
        self._as_fitted = self.get_params()

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") or name in _PRIVATE]:
            delattr(self, name)

    def _scaled(self, sequences: Sequences) -> Sequences:
        """Scale sequences of X, and refuse what the model's dtype has no room for."""
        dtype = self._model_dtype() if hasattr(self, "model_") else float_dtype(self.dtype)
        with np.errstate(over="ignore"):
            scaled = self.scaler_.scale_all(sequences, dtype)
        if isinstance(scaled, np.ndarray) and np.isfinite(scaled).all():
            return scaled
        for k, sequence in enumerate(scaled):
            if not np.isfinite(sequence).all():
                other = "give dtype='float64', or other units" if dtype == np.float32 else "give other units"
                raise ValueError(f"X: sequence {k} has values that are too large for {dtype}; {other}")
        return scaled

    def _model_dtype(self) -> np.dtype[Any]:
        module = next(iter(self.model_.modules.values()))
        dtype: np.dtype[Any] = next(iter(module.weights.values())).dtype
        return dtype

    def _train(self, data: Any) -> None:
        """Build the model and train it, from the start or from the checkpoint."""
        initial, splitting, self._shuffle = _params.generator(self.random_state).spawn(3)
        validation = None
        if self.validation_fraction > 0.0:
            data, held_out = self._split(data, float(self.validation_fraction), splitting)
            validation = self._batches(held_out, None)
        self.model_ = self._build(initial)
        batches = self._batches(data, self._shuffle)
        run = None if self.checkpoint is None else self._identity(self._batches(data, None))
        self.history_ = train.History()
        with self._learning(data):
            self._run(
                batches,
                self._rate(batches),
                self.history_,
                epochs=int(self.epochs),
                validation=validation,
                patience=self.patience,
                checkpoint=self.checkpoint,
                resume=bool(self.resume),
                run=run,
            )

    def _identity(self, batches: Iterable[train.Batch]) -> dict[str, str]:
        """What a checkpoint belongs to: the parameters, and a hash of the data in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for batch in batches:
            for array in (batch.x, batch.target, batch.lengths):
                if array is not None:
                    digest.update(f"{array.shape} {array.dtype}".encode())
                    digest.update(array.tobytes())
        # How far training goes may change where the rate does not depend on it.
        free = {"verbose", "checkpoint", "resume"} | ({"epochs"} if self.schedule == "constant" else set())
        params = _saving.plain_params({name: value for name, value in self._as_fitted.items() if name not in free})
        return {name: json.dumps(value) for name, value in params.items()} | {"data": digest.hexdigest()}

    def _train_more(self, data: Any) -> None:
        """Train for one epoch from where the model stands, or from the start when there is none."""
        if not hasattr(self, "model_"):
            initial, _, self._shuffle = _params.generator(self.random_state).spawn(3)
            self.model_ = self._build(initial)
            self.history_ = train.History()
        with self._learning(data):
            # At a constant rate: a schedule ends where `fit` does.
            self._run(self._batches(data, self._shuffle), float(self.learning_rate), train.History(), epochs=1)

    @contextmanager
    def _learning(self, data: Any) -> Iterator[None]:
        """A block after which the estimator is finished, also where it was interrupted or its checkpoint is lost."""
        try:
            yield
        except _LEAVES_A_MODEL:
            self._finish(data)
            raise
        self._finish(data)

    def _finish(self, data: Any) -> None:
        """What is left to do, as a whole: a Ctrl-C waits for it."""
        with Interrupt() as interrupt:
            self._trained(data)
        if interrupt.noted:
            raise KeyboardInterrupt

    def _run(self, batches: Any, rate: Any, history: train.History, **options: Any) -> None:
        """Let `train.fit` do it, with the optimizer as it was left, and keep what comes of it."""
        optimizer = self._optimizer(rate)
        try:
            train.fit(
                self.model_,
                batches,
                optimizer,
                history=history,
                clip_norm=None if self.clip_norm is None else float(self.clip_norm),
                progress=bool(self.verbose),
                **options,
            )
        except _LEAVES_A_MODEL:
            self._keep(optimizer, history)
            raise
        self._keep(optimizer, history)

    def _keep(self, optimizer: train.Optimizer, history: train.History) -> None:
        # Not the optimizer: its arrays are views of each other, which a pickle would tear apart.
        self._moments = optimizer.state_dict()
        if history is not self.history_:
            for name in ("loss", "seconds", "learning_rate", "step_loss"):
                getattr(self.history_, name).extend(getattr(history, name))

    def _rate(self, batches: Any) -> Any:
        """The learning rate, or its schedule over all epochs."""
        rate = float(self.learning_rate)
        if self.schedule == "constant":
            return rate
        schedule = train.linear if self.schedule == "linear" else train.cosine
        return schedule(rate, int(self.epochs) * len(batches))

    def _optimizer(self, rate: Any) -> train.Optimizer:
        modules = list(self.model_.modules.values())
        if self.weight_decay > 0.0:
            optimizer: train.Optimizer = train.AdamW(modules, rate, weight_decay=float(self.weight_decay))
        else:
            optimizer = train.Adam(modules, rate)
        if hasattr(self, "_moments"):
            optimizer.load_state_dict(self._moments)
        return optimizer

    def _check_fitted_values(self) -> None:
        """Refuse attributes from a file that are none of a fit; sizes and scales have been checked."""

    def _check_fitted(self, method: str) -> None:
        """Refuse to go on without a fit."""
        if not self.__sklearn_is_fitted__():
            raise _sklearn.not_fitted(f"{type(self).__name__}.{method}: this estimator is not fitted yet; call fit")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a safetensors file, for `load`.

        Parameters
        ----------
        path : path
            Where to. What is there is replaced as a whole.

        Raises
        ------
        NotFittedError
            If there is nothing to keep yet.
        ValueError
            If a weight is NaN or infinite, or an attribute is of a kind that has no place in a file.
        ImportError
            If safetensors is not installed.

        Notes
        -----
        Parameters, weights, scales, history, and what `partial_fit` goes on from are kept; nothing is pickled. A
        `random_state` that is a generator is left out: None stands for it.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from lstm_rs.estimators import LSTMRegressor
        >>> X = np.random.default_rng(0).normal(size=(20, 5))
        >>> regressor = LSTMRegressor(hidden_size=4, epochs=2, random_state=0).fit(X, X[:, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     regressor.save(path)
        ...     again = LSTMRegressor.load(path)
        >>> bool((again.predict(X) == regressor.predict(X)).all())
        True
        """
        self._check_fitted("save")
        _saving.write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Make an estimator of a file that `save` wrote: its predictions have the same bits.

        Parameters
        ----------
        path : path
            Where from.

        Returns
        -------
        estimator
            Fitted.

        Raises
        ------
        ValueError
            If the file is broken, is of another class or a newer version, or does not fit together.
        OSError
            If the file cannot be opened.
        ImportError
            If safetensors is not installed.
        """
        return _saving.read(cls, path)

    def __sklearn_is_fitted__(self) -> bool:
        return all(hasattr(self, name) for name in ("model_", *self._fitted))

    def __sklearn_tags__(self) -> Any:
        return _sklearn.tags(None)


def split(data: Examples, order: np.ndarray, fraction: float) -> tuple[Examples, Examples]:
    """Take the last part of an order for validation: at least one, and at least one is left."""
    count = len(order)
    held_out = min(max(round(fraction * count), 1), count - 1)
    if count < 2:
        raise ValueError(f"validation_fraction: expected at least 2 sequences in X with {fraction}, got {count}")
    training, validation = order[: count - held_out], order[count - held_out :]
    return (
        Examples(take(data.sequences, training), take(data.targets, training)),
        Examples(take(data.sequences, validation), take(data.targets, validation)),
    )
