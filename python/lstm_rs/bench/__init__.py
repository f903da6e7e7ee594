"""Time passes beside other libraries: ``python -m lstm_rs bench``.

Everything is timed in one process with the same number of threads, on as many cores, in turn, so that what disturbs one
disturbs all; medians are compared. Before that, all have to give the same answer. What the machine can do at most is
measured in the same turns.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lstm_rs
from lstm_rs import config
from lstm_rs.bench import machine as limits
from lstm_rs.bench.machine import Machine, bound, measure, pinned
from lstm_rs.bench.peers import ALL, MODES, OWN, Call, Case, environment, peers
from lstm_rs.bench.plot import draw
from lstm_rs.bench.timing import in_turn

__all__ = ["MODES", "SETS", "SHAPES", "Shape", "duration", "launch", "markdown", "means", "run"]

Shape = tuple[int, int, int, int]

SHAPES: tuple[Shape, ...] = (
    (1, 1, 64, 128),
    (1, 1, 128, 256),
    (1, 1, 512, 512),
    (100, 1, 1, 32),
    (100, 1, 64, 128),
    (256, 1, 512, 512),
    (128, 1, 1024, 1024),
    (28, 128, 28, 128),
    (50, 32, 128, 256),
    (50, 64, 512, 512),
    (25, 128, 1024, 1024),
)
"""T, N, I, H: single steps, single sequences, batches."""

SETS: dict[str, tuple[Shape, ...]] = {
    "usual": SHAPES,
    "deepbench": (
        *((25, n, h, h) for h in (512, 1024, 2048, 4096) for n in (16, 32, 64, 128)),
        *((50, n, 1536, 1536) for n in (8, 16, 32)),
        *((150, n, 256, 256) for n in (16, 32, 64)),
    ),
    "deepbench-server": (
        *((25, n, h, h) for h in (512, 1024, 2048) for n in (1, 2, 4)),
        *((50, n, 1536, 1536) for n in (1, 2, 4)),
        *((150, n, 256, 256) for n in (1, 2, 4)),
    ),
}
"""Shapes by name. The LSTMs of Baidu's DeepBench, for training and for inference on a server, whose input is as wide as
the layer."""

MOMENT = 2e-3
"""Seconds of one measurement of the machine, in each round."""


def launch(arguments: Sequence[str], threads: int, isa: str | None) -> int | None:
    """Run the command again in a process where all libraries use `threads` threads, unless this is one: its exit code.

    Libraries read that when they are loaded, and NumPy is loaded already.
    """
    wanted = environment(threads) | ({} if isa is None else {"LSTM_RS_ISA": isa})
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return None
    return subprocess.run(
        [sys.executable, "-m", "lstm_rs", *arguments], env=os.environ | wanted, check=False
    ).returncode


def run(
    shapes: Sequence[Shape] = SHAPES,
    seconds: float = 2.0,
    *,
    modes: Sequence[str] = MODES[:2],
    threads: int = 1,
    names: list[str] | None = None,
    out: str | None = None,
    plot: str | None = None,
) -> int:
    """Time all shapes and print the table.

    Parameters
    ----------
    shapes : sequence of (T, N, I, H)
        What to time.
    seconds : float
        How long to time each shape and mode.
    modes : sequence of str
        Out of `MODES`. Of "step", each N, I, H is timed once.
    threads : int
        Of every peer.
    names : list of str, optional
        The peers; all that are installed if there is none.
    out : str, optional
        A file for all figures, as JSON.
    plot : str, optional
        A file for a picture of them.

    Returns
    -------
    int
        The exit code: 1 if a peer gives another answer, 2 if a picture is asked for that cannot be drawn.
    """
    if plot is not None:
        # Before the long part.
        if importlib.util.find_spec("matplotlib") is None:
            print("a picture takes matplotlib: pip install matplotlib", file=sys.stderr)
            return 2
    with pinned(threads), lstm_rs.num_threads(threads):
        lstm_rs.show_config()
        rivals = peers(names)
        machine = measure(threads)
        _print_head(machine, list(rivals))
        rows: list[dict[str, Any]] = []
        todo = _cases(shapes, modes, threads)
        bar = _Bar(todo)
        for case in todo:
            bar.show()
            calls = {name: call for name, make in rivals.items() if (call := make(case)) is not None}
            if (wrong := _disagreement(calls)) is not None:
                print(f"{case}: {wrong} gives another answer", file=sys.stderr)
                return 1
            rows.append(_row(case, calls, machine, seconds))
            bar.clear()
            print(_line(rows[-1], list(rivals)), flush=True)
            bar.advance(case)
    record = _record(machine, list(rivals), rows)
    print()
    for mode, (mean, worst) in means(record).items():
        where = f"{worst['ratio']:.2f} at {','.join(map(str, worst['shape']))}, beside {worst['best']}"
        print(f"{mode}: {mean:.2f} times as fast as the best other in the geometric mean; worst {where}")
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n")
    if plot is not None:
        draw(record, plot)
    return 0


def _cases(shapes: Sequence[Shape], modes: Sequence[str], threads: int) -> list[Case]:
    cases = [Case(*shape, mode=mode, threads=threads) for mode in modes for shape in shapes]
    return list(dict.fromkeys(case._replace(steps=1) if case.streams else case for case in cases))


def _row(case: Case, calls: dict[str, Call], machine: Machine, seconds: float) -> dict[str, Any]:
    shape = case[:4]
    steps, batch, input_size, hidden_size = shape
    dtype = case.dtype.name
    weights = 4 * case.dtype.itemsize * hidden_size
    levels = {machine.level(weights * columns) for columns in (input_size, hidden_size)}
    figures = {dtype: lambda: limits.peak(machine, dtype, MOMENT)}
    figures |= {level: lambda level=level: limits.bandwidth(machine, level, MOMENT) for level in levels}  # type: ignore[misc]
    times, limited = in_turn({name: call.run for name, call in calls.items()}, figures, seconds)
    now = machine._replace(
        peak=machine.peak | {dtype: limited.pop(dtype).median},
        bandwidth=machine.bandwidth | {level: timing.median for level, timing in limited.items()},
    )
    passes = 3 if case.trains else 1
    _, _, lengths = case.make()
    share = 1.0 if lengths is None else float(lengths.sum()) / (steps * batch)
    flop = share * passes * 8 * steps * batch * hidden_size * (input_size + hidden_size)
    ours, *others = times.values()
    best = min(times.keys() - {"lstm_rs"}, key=lambda name: times[name].median, default=None)
    return {
        "shape": shape,
        "mode": case.mode,
        "microseconds": {name: [round(1e6 * value, 3) for value in timing] for name, timing in times.items()},
        "peak": now.peak[dtype],
        "bandwidth": {level: now.bandwidth[level] for level in sorted(levels)},
        "gflops": flop / ours.median / 1e9,
        "of_bound": share * passes * bound(now, shape, dtype) / ours.median,
        "of_peak": flop / ours.median / now.peak[dtype],
        "best": best,
        "ratio": min(other.median for other in others) / ours.median if others else None,
    }


class _Bar:
    """How far it is, with the time left, where a person looks on."""

    def __init__(self, cases: list[Case]) -> None:
        # Every case takes its seconds; those of many operations take longer.
        self._weights = [5 + 1e-10 * case.steps * case.batch * case.hidden_size**2 for case in cases]
        self._done = 0
        self._start = time.perf_counter()
        self._shown = sys.stderr.isatty()

    def show(self) -> None:
        if not self._shown:
            return
        share = sum(self._weights[: self._done]) / sum(self._weights)
        passed = time.perf_counter() - self._start
        left = f"{passed / share - passed:4.0f} s left" if self._done else ""
        print(f"\r[{'#' * int(30 * share):<30}] {share:4.0%} {left} ", end="", file=sys.stderr, flush=True)

    def advance(self, _: Case) -> None:
        self._done += 1

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _print_head(machine: Machine, names: list[str]) -> None:
    missing = [name for name in ALL if name not in names and name not in OWN]
    print(f"{'beside':<18}{', '.join(f'{name} {_version(name)}' for name in names[1:]) or 'nothing'}")
    if missing:
        print(f"{'not here':<18}{', '.join(missing)}")
    print(f"{'peak':<18}" + ", ".join(f"{v / 1e9:.0f} GFLOP/s in {dtype}" for dtype, v in machine.peak.items()))
    print(f"{'read':<18}" + ", ".join(f"{level} {v / 1e9:.0f} GB/s" for level, v in machine.bandwidth.items()))
    print(f"\nmedian time of a call, {machine.threads} thread{'s' * (machine.threads > 1)}")
    header = "".join(f"{name:>{_width(name)}}" for name in names)
    print(f"{'T,N,I,H':<18}{'mode':<15}{header}{'GFLOP/s':>9}{'bound':>7}{'peak':>6}{'ratio':>7}")


def _line(row: dict[str, Any], names: list[str]) -> str:
    times = {name: duration(timing[1]) for name, timing in row["microseconds"].items()}
    line = f"{','.join(map(str, row['shape'])):<18}{row['mode']:<15}"
    line += "".join(f"{times.get(name, '-'):>{_width(name)}}" for name in names)
    line += f"{row['gflops']:>9.1f}{row['of_bound']:>7.0%}{row['of_peak']:>6.0%}"
    return line + (f"{row['ratio']:>7.2f}" if row["ratio"] is not None else "")


def _width(name: str) -> int:
    """How wide a column with this name is."""
    return max(12, len(name) + 2)


def duration(microseconds: float) -> str:
    """Write a time in three digits.

    >>> duration(3.456), duration(156.2), duration(1234.0), duration(2.5e7)
    ('3.46 µs', '156 µs', '1.23 ms', '25.0 s')
    """
    value, units = microseconds, ["µs", "ms"]
    while value >= 999.5 and units:
        value /= 1000
        units.pop(0)
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {units[0] if units else 's'}"


def markdown(record: dict[str, Any]) -> str:
    """Make the table of a record's passes forward and with gradients, as the README has it."""
    lines = [
        "| T, N, I, H | forward | best other | | forward+backward | best other | |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = {(*row["shape"], row["mode"]): row for row in record["rows"]}
    for shape in dict.fromkeys(tuple(row["shape"]) for row in record["rows"]):
        cells = [", ".join(map(str, shape))]
        for mode in ("forward", "train"):
            row = rows[(*shape, mode)]
            ours, theirs = (duration(row["microseconds"][name][1]) for name in ("lstm_rs", row["best"]))
            cells += [ours, f"{theirs} {row['best']}", f"{row['ratio']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def means(record: dict[str, Any]) -> dict[str, tuple[float, dict[str, Any]]]:
    """How many times as fast as the best other, by mode: the geometric mean, and the worst row."""
    found = {}
    for mode in dict.fromkeys(row["mode"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["mode"] == mode and row["best"] is not None]
        if rows:
            mean = np.exp(np.mean(np.log([row["ratio"] for row in rows])))
            found[mode] = (float(mean), min(rows, key=lambda row: float(row["ratio"])))
    return found


def _record(machine: Machine, names: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": config._cpu(),
        "isa": lstm_rs._core.isa(),
        "versions": {"lstm_rs": lstm_rs.__version__} | {name: _version(name) for name in names[1:]},
        "machine": machine._asdict(),
        "columns": "microseconds are the quartiles; peak and bandwidth are those of the same turns",
        "rows": rows,
    }


def _version(name: str) -> str:
    if name in OWN:
        return lstm_rs.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _disagreement(calls: dict[str, Call]) -> str | None:
    """The name of the first that does not answer as we do."""
    ours, *others = calls.items()
    expected = ours[1].answer()
    for name, call in others:
        for actual, wanted in zip(call.answer(), expected, strict=True):
            if not np.allclose(actual, wanted, rtol=0, atol=1e-3 * float(np.abs(wanted).max())):
                return name
    return None
