"""Long series, and the windows that a network learns them by.

A series (T, F) is cut into windows of W steps, one every `stride` steps. All series lie end to end in one array of
rows, and a window is the number of its first row::

    rows (S, F), starts (M,)     window m holds rows[starts[m] : starts[m] + W]

Only the windows of one batch are ever copied: all of them at once would take W times the memory of the series. A window
never reaches from one series into the next, because `starts` has no such window.

Nothing here scales, and nothing pads: a series that is too short is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lstm_rs.estimators import _params
from lstm_rs.estimators._data import as_sequence, check_features, refuse_odd
from lstm_rs.train import Batch

Cut: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, "np.ndarray | None"]]
"""From row numbers (W, N) to what the network reads (W, N, F), and its target."""


class Form(NamedTuple):
    """How series were given, so that results come back in the same form.

    Attributes
    ----------
    many : bool
        Was it a list?
    flat : tuple of bool
        Of each series: was it (T,)?
    """

    many: bool
    flat: tuple[bool, ...]

    def give(self, results: list[np.ndarray], *, columns: bool = True) -> Any:
        """Give results back: a list for a list; with `columns`, a series (T,) loses its last axis again."""
        if columns:
            results = [result[..., 0] if flat else result for result, flat in zip(results, self.flat, strict=True)]
        return results if self.many else results[0]


def as_series(
    X: Any, *, name: str = "X", n_features: int | None = None, owner: str = "the estimator"
) -> tuple[list[np.ndarray], Form]:
    """Check one series or several.

    Parameters
    ----------
    X : (T,) or (T, F) array, or list of such
        A list of numbers is one series.
    name : str
        What errors call it.
    n_features : int, optional
        How many features there have to be.
    owner : str
        Who says so, in the error.

    Returns
    -------
    series : list of (T, F) arrays
        float32 as it came, float64 for all else.
    form : Form
        How they were given.

    Raises
    ------
    ValueError
        If there is nothing, if a value is NaN or infinite, or if axes or features do not fit.
    TypeError
        If there are no numbers in it.
    """
    for item in X if isinstance(X, list | tuple) else [X]:
        refuse_odd(item, name)
    many = isinstance(X, list | tuple) and not (len(X) and np.ndim(X[0]) == 0)
    if many:
        if not len(X):
            raise ValueError(f"{name}: expected at least 1 series, got an empty list")
        given = [item if hasattr(item, "toarray") else np.asarray(item) for item in X]
        series = [as_sequence(item, name=f"{name}: series {k}") for k, item in enumerate(given)]
        for k, one in enumerate(series):
            if one.shape[1] != series[0].shape[1]:
                raise ValueError(
                    f"{name}: expected {series[0].shape[1]} features in every series, as in the first, got "
                    f"{one.shape[1]} in series {k}"
                )
    else:
        array = X if hasattr(X, "toarray") else np.asarray(X)  # sparse data is refused by `as_sequence`
        given = [array]
        if array.ndim == 3:
            raise ValueError(
                f"{name}: expected one series, (T,) or (T, F), or a list of them, got shape {array.shape}; "
                f"for several series give list({name})"
            )
        if array.ndim and 0 in array.shape:
            # scikit-learn's words for it: its checks of estimators look for them.
            raise ValueError(
                f"{name}: expected at least 1 step and 1 feature, got 0 feature(s) (shape={array.shape}) while a "
                "minimum of 1 is required."
            )
        series = [as_sequence(array, name=name)]
    if given[0].ndim == 1 and n_features not in (None, 1):
        raise ValueError(
            f"{name}: expected {n_features} features, as in fit, got shape {given[0].shape}, which is 1 feature; "
            f"Reshape your data: one step is {name}[None]"
        )
    check_features(series[0].shape[1], n_features, name, owner)
    return series, Form(many, tuple(item.ndim == 1 for item in given))


def check_lengths(series: list[np.ndarray], form: Form, least: int, why: str, *, name: str = "X") -> None:
    """Refuse a series of fewer than `least` steps."""
    for k, one in enumerate(series):
        if len(one) < least:
            which = f" in series {k}" if form.many else ""
            raise ValueError(f"{name}: expected at least {least} steps ({why}), got {len(one)}{which}")


def starts_of(lengths: list[int], span: int, stride: int, *, last: bool = False) -> np.ndarray:
    """Number the first rows of all windows of series that lie end to end.

    Parameters
    ----------
    lengths : list of int
        The steps of each series.
    span : int
        The steps that a window needs, with those past its end that are its target.
    stride : int
        From one window to the next.
    last : bool, default False
        Also the last window of each series, where the stride does not lead to it, so that every step is in a window?
    """
    starts, first = [], 0
    for length in lengths:
        own = np.arange(0, length - span + 1, stride)
        if last and own[-1] != length - span:
            own = np.append(own, length - span)
        starts.append(own + first)
        first += length
    return np.concatenate(starts)


class Windows(NamedTuple):
    """Windows to learn from.

    Attributes
    ----------
    cut : callable
        Gathers a batch.
    starts : (M,) int array
        The first row of each, in order.
    """

    cut: Cut
    starts: np.ndarray


class WindowBatches:
    """Mini-batches of windows: each iteration is an epoch, in a new order if there is a generator.

    The batches of an epoch differ by at most one window: a last one of very few would shake the weights.
    """

    def __init__(self, windows: Windows, length: int, batch_size: int, rng: np.random.Generator | None) -> None:
        self._windows = windows
        self._steps = np.arange(length)[:, None]
        self._count = -(-len(windows.starts) // batch_size)
        self.rng = rng

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        cut, starts = self._windows
        order = starts if self.rng is None else self.rng.permutation(starts)
        for part in np.array_split(order, self._count):
            yield Batch(*cut(part + self._steps))


def split(windows: Windows, fraction: float, span: int, unjudged: int = 0) -> tuple[Windows, Windows]:
    """Hold out the last windows, and leave out those that hold steps of them.

    At random it would be no test: a window and the one that begins a step later have all but one step in common.

    Parameters
    ----------
    windows : Windows
        All of them.
    fraction : float
        How much of them to hold out.
    span : int
        As in `starts_of`.
    unjudged : int, default 0
        The steps at the start of a window that its loss does not judge: training windows may hold them too.

    Raises
    ------
    ValueError
        If nothing is left to train on.
    """
    starts = windows.starts
    count = min(max(round(fraction * len(starts)), 1), len(starts) - 1)
    training, held_out = starts[: len(starts) - count], starts[len(starts) - count :]
    if count:
        training = training[training + span <= held_out[0] + unjudged]
    if not count or not len(training):
        raise ValueError(
            f"validation_fraction: expected one that leaves a window of {span} steps before those held out, got "
            f"{fraction} of {len(starts)} windows; give a smaller one, or a longer X"
        )
    return windows._replace(starts=training), windows._replace(starts=held_out)


def check_window(window: Any, stride: Any, least: int) -> None:
    """Refuse a window or a stride that makes no sense."""
    _params.integer("window", window, least)
    _params.integer("stride", stride, 1)
