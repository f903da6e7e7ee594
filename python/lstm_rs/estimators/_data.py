"""What goes into an estimator: sequences that have been looked over, their scale, and their way into a batch.

Axes: n sequences, T steps, F features. `Sequences` are either one array (n, T, F), or a list of arrays (T_i, F) when
they are ragged. A list in is a list out, also where all are of one length.

- `as_sequences` takes what a user gives as X and checks it; `as_sequence` checks one of them, or a whole series (T, F).
- `Scaler` brings every feature to mean 0 and deviation 1, with numbers from the training data alone.
- `time_major` cuts sequences into padded groups (T, N, F), for predictions.

Values stay as they came (float32, or float64 for all else) until a `Scaler` has done its work, in float64: a float32 of
a large offset has no room for what changes. Nothing here fills gaps or resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lstm_rs.train._modules import refuse_masked

Sequences: TypeAlias = np.ndarray | list[np.ndarray]
"""(n, T, F), or a list of (T_i, F)."""

_BLOCK = 1 << 16
"""Rows whose statistics are taken at once, so that no float64 copy of all the data is made."""


def as_sequences(X: Any, *, name: str = "X", n_features: int | None = None, owner: str = "the estimator") -> Sequences:
    """Check sequences, and bring them into one of two forms.

    Parameters
    ----------
    X : (n, T, F) array, (n, T) array of n univariate sequences, or list of (T_i, F) or (T_i,) arrays
        Numbers of any kind but complex ones.
    name : str
        What errors call it.
    n_features : int, optional
        How many features there have to be.
    owner : str
        Who says so, in the error.

    Returns
    -------
    (n, T, F) array, or list of (T_i, F) arrays
        float32 as it came, float64 for all else.

    Raises
    ------
    ValueError
        If there is nothing, if a value is NaN or infinite, or if the axes or the number of features do not fit.
    TypeError
        If there are no numbers in it.
    """
    refuse_odd(X, name)
    ragged = isinstance(X, list | tuple)
    if not ragged:
        array = np.asarray(X)
        if array.dtype == object and array.ndim == 1:
            X, ragged = list(array), True
    if ragged:
        if not len(X):
            raise ValueError(f"{name}: expected at least 1 sequence, got an empty list")
        if all(np.ndim(item) == 0 for item in X[:1]):
            raise ValueError(_one_axis(name, (len(X),)))
        sequences = [as_sequence(item, name=f"{name}: sequence {k}") for k, item in enumerate(X)]
        first = sequences[0].shape[1]
        for k, sequence in enumerate(sequences):
            if sequence.shape[1] != first:
                raise ValueError(
                    f"{name}: expected {first} features in every sequence, as in the first, got {sequence.shape[1]} in "
                    f"sequence {k}"
                )
        check_features(first, n_features, name, owner)
        return sequences
    if array.ndim == 0:
        raise TypeError(f"{name}: expected an array (n, T, F) or (n, T), or a list of arrays, got {type(X).__name__}")
    array = _as_floats(array, name)
    if array.ndim not in (2, 3):
        raise ValueError(_one_axis(name, array.shape))
    if array.shape[0] == 0:
        raise ValueError(f"{name}: expected at least 1 sequence, got 0 sample(s) (shape={array.shape})")
    if 0 in array.shape[1:]:
        raise ValueError(
            f"{name}: expected at least 1 step and 1 feature, got 0 feature(s) (shape={array.shape}) while a minimum "
            "of 1 is required."
        )
    if array.ndim == 2:
        array = array[:, :, None]
    check_finite(array, name)
    check_features(array.shape[2], n_features, name, owner)
    return array


def as_sequence(item: Any, *, name: str) -> np.ndarray:
    """Check one sequence, or a series: (T, F), or (T,) for one feature; give it as (T, F)."""
    refuse_odd(item, name)
    array = _as_floats(np.asarray(item), name)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape (T, F), or (T,) for one feature, got {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least 1 step and 1 feature, got shape {array.shape}")
    if array.ndim == 1:
        array = array[:, None]
    check_finite(array, name)
    return array


def check_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity in (n, T, F) or (T, F), and say where the first one is."""
    finite = np.isfinite(array)
    if finite.all():
        return
    *sequence, step, feature = (int(k) for k in np.argwhere(~finite)[0])
    value = array[(*sequence, step, feature)]
    what = "NaN" if np.isnan(value) else "infinity"
    place = f"{name}: sequence {sequence[0]}" if sequence else name
    raise ValueError(
        f"{place} contains {what} at step {step}, feature {feature}; lstm_rs does not fill gaps: interpolate or drop "
        "them first"
    )


def check_features(got: int, expected: int | None, name: str, owner: str) -> None:
    """Refuse another number of features than there were in `fit`."""
    if expected is not None and got != expected:
        raise ValueError(
            f"{name}: {name} has {got} features, but {owner} is expecting {expected} features as input, as in fit"
        )


def _one_axis(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"{name}: expected (n, T, F), (n, T) for n univariate sequences, or a list of (T, F) arrays, got shape "
        f"{shape}; Reshape your data: one sequence is {name}[None]"
    )


def refuse_odd(X: Any, name: str) -> None:
    refuse_masked(name, X)
    if hasattr(X, "toarray") and not isinstance(X, np.ndarray):
        raise TypeError(f"{name}: expected a dense array, got sparse data ({type(X).__name__}); call its toarray()")


def _as_floats(array: np.ndarray, name: str) -> np.ndarray:
    """float32 as it is; all else that is a number as float64."""
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: expected numbers, got dtype object with what is none: each argument must be a string or a "
                f"number ({error})"
            ) from error
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: Complex data not supported: give real and imaginary part as two features")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    return array if array.dtype == np.float32 else array.astype(np.float64, copy=False)


@dataclass(frozen=True)
class Scaler:
    """Standardizes features: ``(x - mean) / deviation``.

    Attributes
    ----------
    mean, deviation : (F,) float64 arrays
        Over all steps of the training data; a feature that is constant there has deviation 1.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, sequences: Sequences) -> Scaler:
        """Take the statistics of all steps of all sequences."""
        rows = _rows(sequences)
        blocks = [slice(k, k + _BLOCK) for k in range(0, len(rows), _BLOCK)]
        low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
        # By its range: rounding gives most constants a deviation that is not 0.
        constant = low == high
        # What is huge is refused when it is scaled. Squares of what has been divided by its range do not overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            span = np.where(constant, 1.0, high - low)
            mean = sum((np.sum(rows[b], axis=0, dtype=np.float64) for b in blocks), np.zeros(1)) / len(rows)
            square = sum((np.sum(np.square((rows[b] - mean) / span), axis=0) for b in blocks), np.zeros(1)) / len(rows)
        return cls(np.asarray(mean), np.where(constant, 1.0, span * np.sqrt(square)))

    @classmethod
    def identity(cls, features: int) -> Scaler:
        """Make one that changes nothing."""
        return cls(np.zeros(features), np.ones(features))

    def scale(self, values: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
        """Standardize (..., F), in float64, and cast to `dtype`; the result is contiguous."""
        return np.ascontiguousarray((values - self.mean) / self.deviation, dtype=dtype)

    def scale_all(self, sequences: Sequences, dtype: npt.DTypeLike) -> Sequences:
        """Standardize all sequences."""
        if isinstance(sequences, np.ndarray):
            return self.scale(sequences, dtype)
        return [self.scale(sequence, dtype) for sequence in sequences]

    def unscale(self, values: np.ndarray) -> np.ndarray:
        """Give (..., F) back in their own units, as float64."""
        return np.asarray(values * self.deviation + self.mean, dtype=np.float64)


def _rows(sequences: Sequences) -> np.ndarray:
    if isinstance(sequences, np.ndarray):
        return sequences.reshape(-1, sequences.shape[-1])
    return sequences[0] if len(sequences) == 1 else np.concatenate(sequences)


def take(sequences: Sequences, indices: Sequence[int] | np.ndarray) -> Sequences:
    """Some of the sequences, or of anything else that is an array or a list."""
    if isinstance(sequences, np.ndarray):
        return sequences[indices]
    return [sequences[k] for k in indices]


def time_major(sequences: Sequences, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Cut sequences into groups of at most `size`, of like lengths, as a layer takes them.

    Yields
    ------
    indices : (N,) int array
        Which sequences these are.
    x : (T, N, F) array
        Contiguous, with zeros past each one's end.
    lengths : (N,) int64 array or None
        None when all have T steps.
    """
    if isinstance(sequences, np.ndarray):
        for k in range(0, len(sequences), size):
            group = sequences[k : k + size]
            yield np.arange(k, k + len(group)), np.ascontiguousarray(group.swapaxes(0, 1)), None
        return
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    for k in range(0, len(order), size):
        indices = order[k : k + size]
        longest = int(lengths[indices].max())
        x = np.zeros((longest, len(indices), sequences[0].shape[1]), dtype=sequences[0].dtype)
        for column, index in enumerate(indices):
            x[: lengths[index], column] = sequences[index]
        equal = bool((lengths[indices] == longest).all())
        yield indices, x, None if equal else lengths[indices]
