"""What came of it: a forecast beside the truth, scores of anomaly below their series, the losses of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_rs._optional import need
from lstm_rs.plot._axes import (
    INK,
    LINES,
    PALE,
    STRONG,
    WARM,
    align_names,
    draw_series,
    legend_above,
    one_axes,
    panels,
    time_axis,
    times_of,
)
from lstm_rs.plot._tape import index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lstm_rs.plot._axes import Where

__doctest_requires__ = {"forecast": ["matplotlib"], "anomaly": ["matplotlib"], "history": ["matplotlib"]}


def forecast(
    history: npt.ArrayLike,
    prediction: npt.ArrayLike,
    *,
    truth: npt.ArrayLike | None = None,
    start: int | None = None,
    times: npt.ArrayLike | None = None,
    sides: tuple[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a forecast after what was known, and what really came.

    Parameters
    ----------
    history : (T,) array
        What was known.
    prediction : (h,) array
        The forecast; NaN where there is none.
    truth : (m,) array, optional
        What came after `history`.
    start : int, optional
        Which step the first value of `prediction` is for, counted from the first of `history`; by default T, the step
        after the last. Forecasts of known steps, each made the step before, have an earlier one.
    times : array of numbers or datetime64, optional
        When each step was, in even steps, from the first of `history` to the last that is drawn.
    sides : tuple of two str, optional
        What to write before and after the line where `history` ends, such as ``("trained on", "held out")``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default ``matplotlib.pyplot.gca()``.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ValueError
        If an array has another shape, or `start` does not fit.
    TypeError
        If `ax` is not an Axes, or an argument is of another type.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import plot
    >>> from matplotlib.figure import Figure
    >>> wave = np.sin(np.arange(60) / 4)
    >>> axes = plot.forecast(wave[:50], wave[48:58], truth=wave[50:], ax=Figure().subplots())
    """
    need("matplotlib", "forecast", "plot")
    known, guess = _series("history", history), _series("prediction", prediction)
    came = np.empty(0) if truth is None else _series("truth", truth)
    first = (
        len(known) if start is None else index("start", start, len(known) + 1, "a step of history or the one after it")
    )
    steps = max(len(known) + len(came), first + len(guess))
    if steps == 0:
        raise ValueError("history: expected at least one step of history or prediction, got none")
    time = time_axis(times, steps)
    axes = one_axes(ax)
    axes.margins(x=0.5 / max(steps - 1, 1))  # half a step, as a map on the same axis has
    true = np.concatenate([known, came])
    name = "history" if truth is None else "true value"
    axes.plot(time.at[: len(true)], true, color=PALE, linewidth=3.2, label=name, solid_capstyle="butt")
    few = len(guess) <= 60
    axes.plot(time.at[first : first + len(guess)], guess, color=STRONG, linewidth=1.5, label="forecast",
              marker="o" if few else None, markersize=3.5)  # fmt: skip
    if 0 < len(known) < steps:
        between = float(time.at[len(known) - 1] + time.at[len(known)]) / 2
        axes.axvline(between, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label="_end of history")
        if sides is not None:
            if not (isinstance(sides, tuple | list) and len(sides) == 2):
                raise TypeError(f"sides: expected two strings, got {sides!r}")
            low, high = axes.get_ylim()
            axes.set_ylim(low, high + 0.12 * (high - low))
            for text, offset, align in ((sides[0], -6, "right"), (sides[1], 6, "left")):
                axes.annotate(text, (between, 1.0), xycoords=("data", "axes fraction"), xytext=(offset, -5),
                              textcoords="offset points", ha=align, va="top")  # fmt: skip
    legend_above(axes)
    time.label_axis(axes)
    return axes


def anomaly(
    series: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    threshold: float | None = None,
    spans: Sequence[tuple[Any, Any]] | np.ndarray | None = None,
    times: npt.ArrayLike | None = None,
    ax: Where = None,
) -> np.ndarray:
    """Draw a series, and below it how anomalous each step is.

    Parameters
    ----------
    series : (T,) or (T, F) array
        The series: up to four columns as lines on one axis, so bring them to one scale first; more as a map.
    scores : (T,) array
        The score of each step, higher for more anomalous; NaN where there is none.
    threshold : float, optional
        Scores above it are alarms.
    spans : sequence of (first, last), optional
        Where anomalies are known to be: the first and the last step of each, or their times if there are `times`.
    times : (T,) array of numbers or datetime64, optional
        When each step was, in even steps; by default steps are counted from 0.
    ax : Figure, SubFigure, Axes or sequence of two Axes, optional
        Where to draw: a Figure or a SubFigure gets two subplots, an Axes is divided. By default a new figure of
        `matplotlib.pyplot`.

    Returns
    -------
    array of two matplotlib.axes.Axes
        The series; the scores.

    Raises
    ------
    ValueError
        If a shape does not fit, or a span ends before it begins.
    TypeError
        If an argument is of another type.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import plot
    >>> from matplotlib.figure import Figure
    >>> series = np.sin(np.arange(200) / 4)
    >>> series[120:124] = 0
    >>> scores = np.abs(np.gradient(np.gradient(series)))
    >>> top, below = plot.anomaly(series, scores, threshold=0.1, spans=[(120, 123)], ax=Figure())
    """
    need("matplotlib", "anomaly", "plot")
    values = np.asarray(series, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[0] == 0:
        raise ValueError(f"series: expected (T,) or (T, F) with at least one step, got shape {np.shape(series)}")
    score = _series("scores", scores)
    if len(score) != len(values):
        raise ValueError(f"scores: expected {len(values)}, one for each step of the series, got {len(score)}")
    time = time_axis(times, len(values))
    known = [] if spans is None else [_span(span, time.dates) for span in spans]
    drawn = panels(ax, [1.6, 1.3], "the series and its scores", gap=0.15)
    top, below = drawn
    draw_series(top, time, values)
    top.set_ylabel("series")
    below.set_ylabel("anomaly score")
    below.plot(time.at, score, color=STRONG, linewidth=1.1, label="score")
    if threshold is not None:
        limit = float(threshold)
        below.axhline(limit, color=INK, linestyle=(0, (5, 2)), linewidth=1.1, label="threshold")
        below.fill_between(time.at, limit, score, where=score > limit, interpolate=True, color=WARM, linewidth=0,
                           label="alarm")  # fmt: skip
    left, right = time.edges
    half = (right - left) / len(values) / 2
    for axes in drawn:
        for number, (first, last) in enumerate(known):
            # The edge keeps a span in sight that is less than a pixel wide.
            axes.axvspan(first - half, last + half, facecolor="0.85", edgecolor="0.45", linewidth=1.0, zorder=0,
                         label="_anomaly" if number or axes is top else "known anomaly")  # fmt: skip
        axes.set_xlim(left, right)
    legend_above(below)
    time.label_axis(below)
    align_names(drawn)
    return drawn


def history(history: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the losses of a training, epoch by epoch.

    Parameters
    ----------
    history : History or fitted estimator
        What `lstm_rs.train.fit` gives, or what has it as ``history_``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default ``matplotlib.pyplot.gca()``.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on. Its scale of losses is logarithmic where they fall by more than a factor of 10.

    Raises
    ------
    TypeError
        If `history` has no losses, or `ax` is not an Axes.
    ValueError
        If there is no epoch in it.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> from lstm_rs import plot
    >>> from lstm_rs.train import History
    >>> from matplotlib.figure import Figure
    >>> losses = History(loss=[1.0, 0.5, 0.3], validation_loss=[1.1, 0.7, 0.8], best_epoch=1)
    >>> axes = plot.history(losses, ax=Figure().subplots())
    """
    need("matplotlib", "history", "plot")
    from matplotlib.ticker import MaxNLocator

    given = getattr(history, "history_", history)
    if not hasattr(given, "loss"):
        raise TypeError(
            f"history: expected a History of lstm_rs.train or a fitted estimator, got {type(history).__name__}"
        )
    loss = _series("history.loss", given.loss)
    validation = _series("history.validation_loss", getattr(given, "validation_loss", ()))
    if len(loss) == 0:
        raise ValueError("history: expected at least one epoch, got none")
    axes = one_axes(ax)
    few = len(loss) <= 20
    for style, name, values, sign in zip(LINES, ("training", "validation"), (loss, validation), "os", strict=False):
        if len(values):
            axes.plot(
                np.arange(1, len(values) + 1), values, label=name, marker=sign if few else None, markersize=4, **style
            )
    best = getattr(given, "best_epoch", None)
    if best is not None:
        axes.axvline(best + 1, color="0.4", linestyle=(0, (1, 1.5)), linewidth=1.4, label=f"best: epoch {best + 1}")
    every = np.concatenate([loss, validation])
    if np.all(every > 0) and every.max() > 10 * every.min():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="loss")
    legend_above(axes)
    return axes


def _series(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Take one column of numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one column, (T,), got shape {array.shape}; draw the columns one by one")
    return array


def _span(span: Any, dates: bool) -> tuple[float, float]:
    """Take the first and the last time of a span."""
    ends = times_of("spans", span, dates)
    if len(ends) != 2 or not ends[0] <= ends[1]:
        raise ValueError(f"spans: expected pairs of a first and a last step, got {span!r}")
    return ends[0], ends[1]
