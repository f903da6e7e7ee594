"""Where to draw, and what pictures over time share: panels below each other, the time axis, lines and maps.

matplotlib is imported when something is drawn and not before, and pyplot only when it has to say where to draw. Colours
are told apart by how dark they are and lines by their dashes as well, so that pictures can be read in grey; in a map,
brighter means more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    Where: TypeAlias = Axes | Figure | SubFigure | Sequence[Axes] | np.ndarray | None

INK, STRONG, WARM, PALE = "#1a1a1a", "#0b3c8c", "#c44e00", "#b0b0b0"
LINES: tuple[dict[str, Any], ...] = (
    {"color": STRONG, "linestyle": "solid", "linewidth": 1.6},
    {"color": WARM, "linestyle": (0, (5, 1.5)), "linewidth": 1.6},
    {"color": INK, "linestyle": (0, (1, 1.2)), "linewidth": 1.8},
    {"color": "#6fa8dc", "linestyle": (0, (6, 1.5, 1, 1.5)), "linewidth": 1.6},
)
"""How the lines of one panel look, from the first on."""


def one_axes(ax: Any) -> Axes:
    """Give the Axes that was given, or the current one of pyplot."""
    from matplotlib.axes import Axes

    if ax is None:
        from matplotlib import pyplot

        return pyplot.gca()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected a matplotlib Axes, got {type(ax).__name__}")
    return ax


def panels(ax: Where, heights: Sequence[float], names: str, gap: float = 0.04) -> np.ndarray:
    """Give Axes below each other for so many panels, with one time axis where they are made here.

    Without `ax` they are in a new figure of pyplot; a Figure or a SubFigure is filled; the place of one Axes is
    divided, `gap` of its height between two.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    count = len(heights)
    if isinstance(ax, Axes):
        return _divided(ax, heights, gap)
    if ax is None:
        from matplotlib import pyplot

        figure: Any = pyplot.figure(figsize=(7.5, 0.8 + 1.15 * sum(heights)), layout="constrained")
    else:
        figure = ax
    if isinstance(figure, Figure) and figure.get_layout_engine() is None:
        # Otherwise the panels' names would stand outside.
        figure.set_layout_engine("constrained")
    if isinstance(figure, FigureBase):
        made = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=list(heights))
        return np.asarray(made, dtype=object)[:, 0]
    given: list[Any] = list(ax) if isinstance(ax, Sequence | np.ndarray) else [ax]
    if not all(isinstance(axes, Axes) for axes in given):
        kinds = ", ".join(sorted({type(axes).__name__ for axes in given}))
        raise TypeError(f"ax: expected {count} Axes, a Figure, a SubFigure or one Axes to divide, got {kinds}")
    if len(given) != count:
        raise ValueError(f"ax: expected {count} Axes, for {names}, got {len(given)}")
    return _array(given)


def _divided(ax: Axes, heights: Sequence[float], gap: float) -> np.ndarray:
    """Put panels into the place of one Axes."""
    ax.set_axis_off()
    free = 1.0 - gap * (len(heights) - 1)
    top = 1.0
    made: list[Axes] = []
    for height in heights:
        part = free * height / sum(heights)
        made.append(ax.inset_axes((0.0, top - part, 1.0, part), sharex=made[0] if made else None, zorder=ax.zorder))
        top -= part + gap
    for axes in made[:-1]:
        axes.tick_params(labelbottom=False)
    return _array(made)


def _array(axes: list[Axes]) -> np.ndarray:
    array = np.empty(len(axes), dtype=object)
    array[:] = axes
    return array


class Time(NamedTuple):
    """The time axis: where each step stands."""

    at: np.ndarray  # (T,) float64, one distance apart
    dates: bool
    label: str

    @property
    def edges(self) -> tuple[float, float]:
        """Where the first step begins and the last ends."""
        half = (self.at[-1] - self.at[0]) / (2 * (len(self.at) - 1)) if len(self.at) > 1 else 0.5
        return float(self.at[0] - half), float(self.at[-1] + half)

    def label_axis(self, axes: Axes) -> None:
        """Write under an axis what it is, and dates as dates."""
        if self.dates:
            axes.xaxis_date()
        if self.label and not axes.get_xlabel():
            axes.set_xlabel(self.label)


def time_axis(times: npt.ArrayLike | None, steps: int) -> Time:
    """Take the times of so many steps, or count them from 0."""
    if times is None:
        return Time(np.arange(steps, dtype=np.float64), False, "step $t$")
    array = np.asarray(times)
    if array.shape != (steps,):
        raise ValueError(f"times: expected ({steps},), one for each step, got shape {array.shape}")
    dates = array.dtype.kind == "M"
    if dates:
        at = _date_numbers(array)
    elif array.dtype.kind in "iuf":
        at = array.astype(np.float64)
    else:
        raise TypeError(f"times: expected numbers or datetime64, got {array.dtype}")
    if steps > 1:
        # A map has columns of one width: by half a column or more, none may stand wrong. Months of 28 to 31 days pass.
        even = np.linspace(at[0], at[-1], steps)
        width = (at[-1] - at[0]) / (steps - 1)
        if not (width > 0 and np.all(np.abs(at - even) < width / 2)):
            raise ValueError(
                "times: expected times that rise in even steps, as the columns of a picture do; "
                "leave them out to count steps"
            )
    return Time(at, dates, "")


def times_of(name: str, values: Any, dates: bool) -> list[float]:
    """Take one time or several, as numbers on the axis."""
    array = np.atleast_1d(np.asarray(values))
    if (array.dtype.kind == "M") != dates:
        wanted = "datetime64, as the times are" if dates else "numbers, as the times are"
        raise TypeError(f"{name}: expected {wanted}, got {array.dtype}")
    return [float(value) for value in (_date_numbers(array) if dates else array)]


def _date_numbers(array: np.ndarray) -> np.ndarray:
    """Give dates as the days that matplotlib's axes count in."""
    from matplotlib import dates

    date2num: Any = dates.date2num
    return np.asarray(date2num(array), dtype=np.float64)


def mark_times(axes: Axes, mark: Any, time: Time) -> None:
    """Draw a line across at each of these times, which is seen on dark and on bright."""
    for at in [] if mark is None else times_of("mark", mark, time.dates):
        axes.axvline(at, color="black", linewidth=2.4, label="_mark")
        axes.axvline(at, color="white", linestyle=(0, (4, 3)), linewidth=1.2, label="_mark")


def name_panel(axes: Axes, name: str) -> None:
    """Write a panel's name to its left, level, so that the names of low panels do not meet."""
    axes.set_ylabel(name, rotation=0, ha="right", va="center", linespacing=1.4)


def draw_map(axes: Axes, time: Time, rows: np.ndarray, norm: Any, ticks: dict[float, str]) -> None:
    """Draw rows (T, K) as a map, the first on top, blank where it is NaN; the colours' scale is to the right of it."""
    left, right = time.edges
    # Where several steps fall on a pixel, their mean is shown and not one of them.
    blend = "auto" if rows.shape[0] > 600 else "nearest"
    image = axes.imshow(np.ma.masked_invalid(rows.T), aspect="auto", cmap="cividis", norm=norm, interpolation=blend,
                        extent=(left, right, rows.shape[1], 0.0))  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_yticks([])
    # Inside the panel's own place: a colour bar that takes its place from the panel would shift its time axis.
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.012, 0.0, 0.016, 1.0)))
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize="small")


def draw_lines(axes: Axes, time: Time, lines: dict[str, np.ndarray]) -> None:
    """Draw lines (T,) by name, with their names above the panel."""
    for style, (name, values) in zip(LINES, lines.items(), strict=False):
        axes.plot(time.at, values, label=name, **style)
    if any(not name.startswith("_") for name in lines):
        legend_above(axes)


def legend_above(axes: Axes) -> None:
    """Put the legend above the panel, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.15, ncols=4, frameon=False,
                fontsize="small", handlelength=2.6, columnspacing=1.4)  # fmt: skip


def draw_series(axes: Axes, time: Time, x: np.ndarray) -> None:
    """Draw what is read (T, F): a few columns as lines, many as a map."""
    from matplotlib.colors import Normalize

    if x.shape[1] <= len(LINES):
        draw_lines(axes, time, {f"_column {k}": column for k, column in enumerate(x.T)})
        axes.set_xlim(*time.edges)
        return
    low, high = float(np.nanmin(x)), float(np.nanmax(x))
    high = high if high > low else low + 1.0
    draw_map(axes, time, x, Normalize(low, high), {low: number(low), high: number(high)})


def number(value: float) -> str:
    """Write a number of two digits at an axis."""
    return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")


def align_names(drawn: np.ndarray) -> None:
    """Let the names of panels end at one line."""
    if len({axes.figure for axes in drawn}) == 1:
        drawn[0].figure.align_ylabels(drawn)
