"""The picture of the demo: forecasts on top, below them what every gate of every unit does in each year.

matplotlib is imported when a picture is made and not before, and without pyplot, so that the caller's backend
stays as it is. It can be read without colour vision and in grey: in every heat map, brighter means more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST_YEAR = 1850  # of the picture: few enough years to tell them apart, and some that training saw
TRUTH, FORECAST = "0.75", "#0b3c8c"


def draw(
    years: np.ndarray,
    numbers: np.ndarray,
    forecast: np.ndarray,
    gates: np.ndarray,
    c: np.ndarray,
    first_held_out: int,
) -> Figure:
    """Draw the picture.

    Parameters
    ----------
    years, numbers : (Y,) array
        The data.
    forecast : (Y,) array
        What reading each year says of the next.
    gates : (Y, 4, H) array
        The gates i, f, g, o as each year is read.
    c : (Y, H) array
        The cell state after each year.
    first_held_out : int
        The first year that training did not see.

    Returns
    -------
    matplotlib.figure.Figure
        To be written with its ``savefig``.

    Raises
    ------
    ModuleNotFoundError
        Without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    start = int(np.searchsorted(years, FIRST_YEAR))
    i, f, _, o = gates[start:].transpose(1, 0, 2)
    memory = np.tanh(c[start:])
    forecast = forecast[start - 1 : -1]  # what is said of a year was said the year before
    years, numbers = years[start:], numbers[start:]

    figure = Figure(figsize=(12, 11), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    top, *maps = figure.subplots(5, 1, sharex=True, height_ratios=[2, 1, 1, 1, 1])
    draw_forecast(top, years, numbers, forecast, first_held_out)
    valve = {0.0: "0 shut", 0.5: "0.5", 1.0: "1 open"}
    signed = {-1.0: "\u22121", 0.0: "0", 1.0: "1"}
    draw_map(maps[0], years, numbers, i, "input gate $i$\nwhat enters", valve)
    draw_map(maps[1], years, numbers, f, "forget gate $f$\nwhat is kept", valve)
    draw_map(maps[2], years, numbers, o, "output gate $o$\nwhat shows", valve)
    draw_map(maps[3], years, numbers, memory, "memory $\\tanh(c)$\nwhat is there", signed)
    for axes in maps:
        axes.axvline(first_held_out - 0.5, color="black", linewidth=2.5)
        axes.axvline(first_held_out - 0.5, color="white", linestyle="--", linewidth=1.5)
    maps[0].set_title(
        f"{c.shape[1]} units, one row each, as a year is read. Every map is ordered for itself: "
        "at the top what rises with the sunspots, at the bottom what falls",
        fontsize=11,
    )
    maps[-1].set_xlabel("year")
    maps[-1].set_xlim(years[0] - 0.5, years[-1] + 0.5)
    return figure


def draw_forecast(
    axes: Axes, years: np.ndarray, numbers: np.ndarray, forecast: np.ndarray, first_held_out: int
) -> None:
    """Draw the true numbers, the forecasts for the same years, and where the held-out years begin."""
    axes.fill_between(years, numbers, color=TRUTH, linewidth=0, label="true number")
    axes.plot(years, forecast, color=FORECAST, linewidth=1.8, label="forecast, made the year before")
    axes.axvline(first_held_out - 0.5, color="black", linestyle="--", linewidth=1.5)
    top = 1.15 * max(numbers.max(), forecast.max())
    axes.text(first_held_out - 1.5, 0.97 * top, "trained on these years", ha="right", va="top", fontsize=12)
    axes.text(first_held_out + 0.5, 0.97 * top, "held out", ha="left", va="top", fontsize=12)
    axes.set_ylim(0, top)
    axes.set_ylabel("sunspot number")
    axes.set_title("An LSTM forecasts the sunspots, and what its gates do meanwhile", fontsize=14)
    axes.legend(loc="upper left", frameon=False)


def draw_map(
    axes: Axes,
    years: np.ndarray,
    numbers: np.ndarray,
    values: np.ndarray,
    label: str,
    ticks: dict[float, str],
) -> None:
    """Draw values (Y, H), a row for each unit and a column for each year, between the outer ticks."""
    image = axes.imshow(
        values[:, order_of_units(values, numbers)].T,
        aspect="auto",
        interpolation="nearest",
        cmap="cividis",
        vmin=min(ticks),
        vmax=max(ticks),
        extent=(years[0] - 0.5, years[-1] + 0.5, 0.0, values.shape[1]),
    )
    axes.set_yticks([])
    axes.set_ylabel(label)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))


def order_of_units(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Order the columns of values (Y, H): first what rises with the numbers (Y,), last what falls."""
    covariance = (numbers - numbers.mean()) @ (values - values.mean(axis=0))
    return np.argsort(-covariance)
