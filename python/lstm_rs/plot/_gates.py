"""What the gates did: maps of all units over time, and the valves of one unit as lines.

A tape holds every gate as it stood at every step, so nothing is computed here but the order of the units and, where the
forget gate is coupled, 1 - i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_rs._optional import need
from lstm_rs._passes import LSTMTape
from lstm_rs.cell import CellSpec, activation_parameters
from lstm_rs.functional import Tape
from lstm_rs.plot._axes import (
    align_names,
    draw_lines,
    draw_map,
    draw_series,
    mark_times,
    name_panel,
    number,
    panels,
    time_axis,
)
from lstm_rs.plot._tape import Recording, index, recording

if TYPE_CHECKING:
    from lstm_rs.plot._axes import Where

__doctest_requires__ = {"gates": ["matplotlib"], "unit": ["matplotlib"]}

_NAMES = {"i": "input gate", "f": "forget gate", "o": "output gate", "g": "cell input", "c": "cell state"}
_VALVES = ("i", "f", "o")
_LINEAR = 0.5  # up to where the scale of the state is about linear
_BOUNDED = {"sigmoid", "hard_sigmoid"}  # these are never below 0 nor above 1


def gates(
    tape: Tape | LSTMTape,
    *,
    layer: int = 0,
    reverse: bool = False,
    sequence: int = 0,
    x: npt.ArrayLike | None = None,
    units: Sequence[int] | np.ndarray | None = None,
    show: str | Sequence[str] | None = None,
    times: npt.ArrayLike | None = None,
    mark: npt.ArrayLike | None = None,
    ax: Where = None,
) -> np.ndarray:
    """Draw maps of all gates over time, below the input: a row for each unit, a column for each step.

    Parameters
    ----------
    tape : Tape or LSTMTape
        From `forward_train`.
    layer : int, default 0
        Of an LSTMTape, the layer; -1 is the last.
    reverse : bool, default False
        Of a bidirectional LSTMTape, the direction that ran from the last step to the first.
    sequence : int, default 0
        Which sequence of the batch.
    x : (T,) or (T, F) array, optional
        What to show as the input; by default what the tape has as the input of that layer. Up to four columns are
        lines, more are a map.
    units : sequence of int, optional
        Which units, from the top; by default all in the order of `unit_order`.
    show : str or sequence of str, optional
        Which panels, from the top: "x", "i", "f", "o", "g", "c", or a string of such letters; by default all that the
        cell has. A coupled forget gate is 1 - i.
    times : (T,) array of numbers or datetime64, optional
        When each step was, in even steps; by default steps are counted from 0.
    mark : float or sequence of float, optional
        Times at which a line goes across all panels, as where held-out data begin.
    ax : Figure, SubFigure, Axes or sequence of Axes, optional
        Where to draw: a Figure or a SubFigure gets the panels as subplots, an Axes is divided, a sequence has one Axes
        for each panel. By default a new figure of `matplotlib.pyplot`.

    Returns
    -------
    array of matplotlib.axes.Axes
        One for each panel.

    Raises
    ------
    TypeError
        If `tape` is not a tape, or another argument is of a wrong type.
    ValueError
        If there is no such layer, direction, sequence, unit or gate, if `x` or `times` does not fit the steps, or `ax`
        the panels.
    ImportError
        Without matplotlib.

    Notes
    -----
    Brighter is more. Gates between 0 and 1 are drawn on that scale, whatever they did. The scale of the state is linear
    to about 0.5 and logarithmic beyond (asinh): small states are seen beside one that grows without bound. What is past
    a sequence's end is blank.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import LSTM, plot
    >>> from matplotlib.figure import Figure
    >>> x = np.sin(np.arange(60, dtype=np.float32) / 4)[:, None]
    >>> y, state, tape = LSTM(1, 16, seed=0).forward_train(x)
    >>> axes = plot.gates(tape, ax=Figure(figsize=(8, 8), layout="constrained"))
    >>> len(axes)
    6
    """
    need("matplotlib", "gates", "plot")
    record = recording(tape, layer=layer, reverse=reverse, sequence=sequence, x=x)
    parts = _parts(record, show)
    hidden = record.values["c"].shape[1]
    chosen = _order(record, "c") if units is None else _units(units, hidden)
    time = time_axis(times, len(record.x))
    drawn = panels(ax, [1.0] * len(parts), ", ".join(parts))
    for part, axes in zip(parts, drawn, strict=True):
        if part == "x":
            draw_series(axes, time, record.x)
            name_panel(axes, "input $x_t$")
        else:
            rows = record.values[part][:, chosen]
            norm, ticks = _scale(part, record.cell, record.values[part])
            draw_map(axes, time, rows, norm, ticks)
            name_panel(axes, f"{_NAMES[part]}\n{_symbol(part, record.cell)}")
            if len(chosen) <= 10:
                axes.set_yticks(np.arange(len(chosen)) + 0.5, labels=[str(k) for k in chosen])
                axes.tick_params(axis="y", labelsize="x-small", length=0)
        mark_times(axes, mark, time)
    maps = [axes for part, axes in zip(parts, drawn, strict=True) if part != "x"]
    if maps:
        maps[0].set_title(_rows(len(chosen), hidden), fontsize="medium", loc="left")
    time.label_axis(drawn[-1])
    align_names(drawn)
    return drawn


def unit(
    tape: Tape | LSTMTape,
    k: int,
    *,
    layer: int = 0,
    reverse: bool = False,
    sequence: int = 0,
    x: npt.ArrayLike | None = None,
    times: npt.ArrayLike | None = None,
    mark: npt.ArrayLike | None = None,
    ax: Where = None,
) -> np.ndarray:
    """Draw what one unit did: its valves as lines, between its input and its state.

    Parameters
    ----------
    tape : Tape or LSTMTape
        From `forward_train`.
    k : int
        The unit, from 0 to H - 1; -1 is the last.
    layer, reverse, sequence, x, times, mark
        As in `gates`.
    ax : Figure, SubFigure, Axes or sequence of Axes, optional
        As in `gates`; a sequence has three, or two where the cell has no gates.

    Returns
    -------
    array of matplotlib.axes.Axes
        The input; the valves, if there are any; the state.

    Raises
    ------
    TypeError, ValueError, ImportError
        As from `gates`.

    Notes
    -----
    The lowest panel has the cell state c, what is let into it at each step (i times g, as far as the cell has these),
    and the output h, before a projection if there is one.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import LSTM, plot
    >>> from matplotlib.figure import Figure
    >>> x = np.sin(np.arange(60, dtype=np.float32) / 4)[:, None]
    >>> y, state, tape = LSTM(1, 16, seed=0).forward_train(x)
    >>> of_input, of_valves, of_state = plot.unit(tape, 3, ax=Figure(figsize=(8, 5), layout="constrained"))
    >>> [line.get_label() for line in of_valves.get_lines()]
    ['input gate $i_t$', 'forget gate $f_t$', 'output gate $o_t$']
    """
    need("matplotlib", "unit", "plot")
    record = recording(tape, layer=layer, reverse=reverse, sequence=sequence, x=x)
    k = index("k", k, record.values["c"].shape[1])
    time = time_axis(times, len(record.x))
    one = {name: values[:, k] for name, values in record.values.items()}
    valves = {f"{_NAMES[gate]} {_symbol(gate, record.cell)}": one[gate] for gate in _VALVES if gate in one}
    names = ["input", "valves", "state"] if valves else ["input", "state"]
    drawn = panels(ax, [1.2, 1.6, 1.6] if valves else [1.2, 1.6], ", ".join(names), gap=0.12)

    draw_series(drawn[0], time, record.x)
    name_panel(drawn[0], "input $x_t$")
    if valves:
        draw_lines(drawn[1], time, valves)
        name_panel(drawn[1], f"valves\nof unit {k}")
        if activation_parameters(record.cell.gate_activation)[0] in _BOUNDED:
            drawn[1].set_ylim(-0.04, 1.04)
            drawn[1].set_yticks([0, 0.5, 1], labels=["0 shut", "0.5", "1 open"])
    enters = ("let in $i_t g_t$", one["i"] * one["g"]) if "i" in one else ("let in $g_t$", one["g"])
    draw_lines(drawn[-1], time, {"cell state $c_t$": one["c"], enters[0]: enters[1], "output $h_t$": one["h"]})
    drawn[-1].axhline(0.0, color="0.75", linewidth=0.8, zorder=0)
    name_panel(drawn[-1], "its memory" if valves else f"memory\nof unit {k}")
    for axes in drawn:
        axes.set_xlim(*time.edges)
        mark_times(axes, mark, time)
    time.label_axis(drawn[-1])
    align_names(drawn)
    return drawn


def unit_order(
    tape: Tape | LSTMTape, *, by: str = "c", layer: int = 0, reverse: bool = False, sequence: int = 0
) -> np.ndarray:
    """Order the units so that those that do alike stand together: the order of the rows of `gates`.

    Parameters
    ----------
    tape : Tape or LSTMTape
        From `forward_train`.
    by : {"c", "i", "f", "o", "g"}
        What of the units is compared.
    layer, reverse, sequence
        As in `gates`.

    Returns
    -------
    (H,) array of int
        The units. What rises with the input is towards the front.

    Raises
    ------
    TypeError, ValueError
        As from `gates`.

    Notes
    -----
    Two units are alike as far as they correlate over time, ``(1 + r)/2``, and lie close, ``1/(1 + d/median d)`` with
    the squared distance d over time; the state is taken as the map shows it. The order is that of the second
    eigenvector of the normalized Laplacian of these likenesses: spectral seriation [1]_.

    References
    ----------
    .. [1] J. E. Atkins, E. G. Boman, B. Hendrickson, "A spectral algorithm for seriation and the consecutive ones
       problem", SIAM Journal on Computing 28(1), 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import LSTM, plot
    >>> y, state, tape = LSTM(1, 5, seed=0).forward_train(np.ones((9, 1), dtype=np.float32))
    >>> sorted(plot.unit_order(tape).tolist())
    [0, 1, 2, 3, 4]
    """
    record = recording(tape, layer=layer, reverse=reverse, sequence=sequence)
    _parts(record, [by])
    if by == "x":
        raise ValueError('by: expected one of "c", "i", "f", "o", "g", got "x"')
    return _order(record, by)


def _order(record: Recording, by: str) -> np.ndarray:
    """Order the units by spectral seriation."""
    values = record.values[by][: record.length]
    # As the map of the state shows it.
    seen = np.arcsinh(values / _LINEAR) if by == "c" else values
    centred = seen - seen.mean(axis=0)
    size = np.sqrt(np.sum(centred**2, axis=0))
    moves = centred / np.where(size > 1e-9 * max(1.0, float(size.max())), size, np.inf)
    if values.shape[1] < 2:
        return np.arange(values.shape[1])
    squares = np.sum(seen**2, axis=0)
    apart = np.maximum(squares + squares[:, None] - 2.0 * seen.T @ seen, 0.0)
    apart /= np.median(apart[~np.eye(len(apart), dtype=bool)]) or 1.0
    alike = (1.0 + moves.T @ moves) / 2.0 / (1.0 + apart)
    root = 1.0 / np.sqrt(alike.sum(axis=0))
    # The largest eigenvectors of this matrix are the smallest of the Laplacian.
    vector = np.linalg.eigh(alike * root * root[:, None])[1][:, -2] * root
    order = np.argsort(vector, kind="stable")
    # An eigenvector has no sign of its own.
    driver = record.x[: record.length].mean(axis=1) if record.x.shape[1] else np.zeros(len(values))
    rises = (driver - driver.mean()) @ moves
    front = rises if np.any(rises) else seen.mean(axis=0)
    return order[::-1] if front[order] @ np.linspace(1.0, -1.0, len(order)) < 0.0 else order


def _parts(record: Recording, show: str | Sequence[str] | None) -> list[str]:
    """Say which panels to draw."""
    there = ["x", *(name for name in ("i", "f", "o", "g", "c") if name in record.values)]
    if show is None:
        return there
    parts = list(show)
    for part in parts:
        if part not in there:
            raise ValueError(f"show: expected of {', '.join(there)}, which the cell has, got {part!r}")
    if not parts:
        raise ValueError(f"show: expected at least one of {', '.join(there)}, got none")
    return parts


def _units(units: Any, hidden: int) -> np.ndarray:
    """Check which units to draw."""
    chosen = np.asarray([index("units", number, hidden) for number in np.atleast_1d(np.asarray(units))], dtype=np.intp)
    if len(chosen) == 0:
        raise ValueError(f"units: expected at least one of 0 to {hidden - 1}, got none")
    return chosen


def _scale(part: str, cell: CellSpec, values: np.ndarray) -> tuple[Any, dict[float, str]]:
    """Choose the scale of colours of a map, and what is written at it."""
    from matplotlib.colors import AsinhNorm, Normalize

    if part in _VALVES and activation_parameters(cell.gate_activation)[0] in _BOUNDED:
        return Normalize(0.0, 1.0), {0.0: "0 shut", 0.5: "0.5", 1.0: "1 open"}
    most = float(np.nanmax(np.abs(values))) or 1.0
    if part == "c":
        inner = [1.0] if most > 3.0 else []
        norm: Any = AsinhNorm(linear_width=_LINEAR, vmin=-most, vmax=most)
    else:
        inner = []
        most = 1.0 if part == "g" and cell.input_activation in ("tanh", "softsign") else most
        norm = Normalize(-most, most)
    at = [-most, *(-value for value in inner), 0.0, *inner, most]
    return norm, {value: number(value) for value in at}


def _symbol(part: str, cell: CellSpec) -> str:
    """Write the symbol of a quantity."""
    return "$f_t=1-i_t$" if part == "f" and cell.coupled else f"${part}_t$"


def _rows(shown: int, hidden: int) -> str:
    """Say what the rows of the maps are."""
    of = f"{hidden} units" if shown == hidden else f"{shown} of {hidden} units"
    return f"{of}, one row each, in the same order in every map"
