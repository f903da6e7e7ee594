"""The picture of a benchmark: a roofline with every shape on it, and every peer's time beside ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure


def draw(record: dict[str, Any], file: str) -> None:
    """Draw a record of `lstm_rs.bench.run` into a file."""
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row["mode"] for row in record["rows"]))
    names = list(dict.fromkeys(name for row in record["rows"] for name in row["microseconds"]))
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in record["rows"]))
    height = 4.6 + 0.5 + len(modes) * (1.1 + 0.24 * len(shapes))
    figure = Figure(figsize=(11, height), layout="constrained")
    ratios = [4.6, *[1.1 + 0.24 * len(shapes)] * len(modes)]
    parts: Any = figure.subfigures(1 + len(modes), 1, height_ratios=ratios)
    roofs, *bars = parts
    threads = record["machine"]["threads"]
    figure.suptitle(
        f"lstm_rs {record['versions']['lstm_rs']} on {record['cpu']}, "
        f"{threads} thread{'s' * (threads > 1)}, {record['date'][:10]}"
    )
    for axes, mode in zip(np.atleast_1d(roofs.subplots(1, len(modes), sharey=True)), modes, strict=True):
        _roofline(axes, record, mode)
    for part, mode in zip(bars, modes, strict=True):
        _bars(part, record, mode, names[1:])
    figure.savefig(file, dpi=130)


def intensity(row: dict[str, Any]) -> float:
    """Operations for each byte of weights that has to be read: W_hh at each step, W_ih once."""
    steps, batch, input_size, hidden_size = row["shape"]
    size = 8 if row["mode"].endswith("f64") else 4
    return float(2 * steps * batch * (input_size + hidden_size) / (size * (input_size + steps * hidden_size)))


def _numbers(record: dict[str, Any]) -> dict[tuple[int, ...], int]:
    """What the shapes are called in the picture, from 1."""
    shapes = dict.fromkeys(tuple(row["shape"]) for row in record["rows"])
    return {shape: k + 1 for k, shape in enumerate(shapes)}


def _roofline(axes: Axes, record: dict[str, Any], mode: str) -> None:
    rows = [row for row in record["rows"] if row["mode"] == mode]
    machine, numbers = record["machine"], _numbers(record)
    peak = machine["peak"]["float64" if mode.endswith("f64") else "float32"] / 1e9
    x = np.geomspace(0.2, 1.5 * max(64, *(intensity(row) for row in rows)), 200)
    for k, (level, speed) in enumerate(machine["bandwidth"].items()):
        line = np.minimum(peak, speed / 1e9 * x)
        axes.plot(x, line, color="0.55", linestyle=("-", "--", "-.", ":")[k], linewidth=1)
        start = (0.22, speed / 1e9 * 0.22)
        if start[1] < peak:
            axes.annotate(level, start, xytext=(2, 4), textcoords="offset points", color="0.35", fontsize=8)
    axes.axhline(peak, color="0.55", linewidth=1)
    axes.annotate(
        f"peak {peak:.0f} GFLOP/s", (x[-1], peak), xytext=(0, 4), textcoords="offset points", ha="right", fontsize=8
    )
    labelled: list[tuple[float, float]] = []
    for row in rows:
        place = intensity(row)
        if row["best"] is not None:
            theirs = row["gflops"] / row["ratio"]
            axes.plot([place, place], [theirs, row["gflops"]], color="0.75", linewidth=1, zorder=1)
            axes.scatter(place, theirs, marker="_", color="0.35", zorder=2)
        axes.scatter(place, row["gflops"], color="C0", s=28, zorder=3)
        # One that would lie on others goes to the other side, or below, or above.
        near = sum(0.7 < place / x < 1.4 and 0.88 < row["gflops"] / y < 1.14 for x, y in labelled)
        offset = ((5, -3), (-11, -3), (-3, -11), (-3, 5))[near % 4]
        labelled.append((place, row["gflops"]))
        axes.annotate(
            str(numbers[tuple(row["shape"])]),
            (place, row["gflops"]),
            xytext=offset,
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(xscale="log", yscale="log", title=mode, xlabel="operations a byte of weights")
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel("GFLOP/s (dot: lstm_rs, dash: the best other)")
    axes.spines[["top", "right"]].set_visible(False)


def _bars(figure: SubFigure, record: dict[str, Any], mode: str, names: list[str]) -> None:
    rows = [row for row in record["rows"] if row["mode"] == mode]
    if not names:
        return
    figure.suptitle(f"{mode}: time of a call, as a multiple of lstm_rs's; blue: the best of them", fontsize=10)
    places, numbers = np.arange(len(rows)), _numbers(record)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        times = np.array([row["microseconds"].get(name, [np.nan] * 3)[1] for row in rows])
        multiples = times / [row["microseconds"]["lstm_rs"][1] for row in rows]
        best = np.array([row["best"] == name for row in rows])
        axes.barh(places, np.minimum(multiples, 4.2), color=np.where(best, "C0", "0.82"), height=0.78)
        for place, multiple, here in zip(places, multiples, best, strict=True):
            text = "" if np.isnan(multiple) else f"{multiple:.0f}" if multiple > 9.95 else f"{multiple:.2f}"
            axes.text(0.08, place, text, va="center", fontsize=7.5, color="white" if here else "black")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=name, xlim=(0, 4), xticks=[1, 2, 3], yticks=places)
        axes.title.set_fontsize(9)
        labels = [f"{','.join(map(str, row['shape']))}   {numbers[tuple(row['shape'])]}" for row in rows]
        axes.set_yticklabels(labels, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if not np.isfinite(multiples).any():
            # Its place stays, so that a library stands in one column over all modes.
            axes.spines["bottom"].set_visible(False)
            axes.set(title="", xticks=[])
            axes.lines[0].set_visible(False)
    panels[0].invert_yaxis()
