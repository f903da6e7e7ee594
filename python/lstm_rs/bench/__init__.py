"""Time passes beside other libraries: ``python -m lstm_rs bench``.

Everything is timed in one process with the same number of threads, in turn, so that what disturbs one disturbs all;
medians are compared. Before that, all have to give the same answer. The machine's own limits are measured first.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lstm_rs
from lstm_rs import config
from lstm_rs.bench.machine import Machine, bound, measure
from lstm_rs.bench.peers import ALL, Call, Case, peers

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

MODES = ("forward", "train", "ragged", "forward-f64", "train-f64")
"""A pass forward; forward and backward; forward over lengths uniform in 1..T; the first two in float64."""

FEWEST = 5  # rounds, however long one takes


class Timing(NamedTuple):
    """Quartiles of a call's seconds."""

    low: float
    median: float
    high: float


def run(
    shapes: Sequence[Shape] = SHAPES,
    seconds: float = 2.0,
    *,
    modes: Sequence[str] = MODES[:2],
    threads: int = 1,
    names: list[str] | None = None,
    out: str | None = None,
) -> int:
    """Time all shapes and print the table; the exit code is 1 if a peer gives another answer.

    Parameters
    ----------
    shapes : sequence of (T, N, I, H)
        What to time.
    seconds : float
        How long to time each shape and mode.
    modes : sequence of str
        Out of `MODES`.
    threads : int
        Of every peer.
    names : list of str, optional
        The peers; all that are installed if there is none.
    out : str, optional
        A file for all figures, as JSON.
    """
    with lstm_rs.num_threads(threads):
        lstm_rs.show_config()
        rivals = peers(names)
        machine = measure(threads)
        _print_head(machine, list(rivals))
        rows: list[dict[str, Any]] = []
        todo = [Case(*shape, mode=mode, threads=threads) for mode in modes for shape in shapes]
        start = time.perf_counter()
        for k, case in enumerate(todo):
            if sys.stderr.isatty():
                left = (time.perf_counter() - start) / k * (len(todo) - k) if k else seconds * len(todo)
                done = 30 * k // len(todo)
                print(f"\r[{'#' * done:<30}] {left:4.0f} s left ", end="", file=sys.stderr, flush=True)
            calls = {name: call for name, make in rivals.items() if (call := make(case)) is not None}
            if (wrong := _disagreement(calls)) is not None:
                print(f"{case}: {wrong} gives another answer", file=sys.stderr)
                return 1
            timings = _time({name: call.run for name, call in calls.items()}, seconds)
            rows.append(_row(case, timings, machine))
            print(("\r" if sys.stderr.isatty() else "") + _line(rows[-1], list(rivals)), flush=True)
    print()
    for mode in modes:
        _print_mean(mode, [row for row in rows if row["mode"] == mode])
    if out is not None:
        Path(out).write_text(json.dumps(_record(machine, list(rivals), rows), indent=1) + "\n")
    return 0


def _row(case: Case, timings: dict[str, Timing], machine: Machine) -> dict[str, Any]:
    ours, *others = timings.values()
    shape = case[:4]
    steps, batch, input_size, hidden_size = shape
    passes = 3 if case.trains else 1
    flop: float = passes * 8 * steps * batch * hidden_size * (input_size + hidden_size)
    least = passes * bound(machine, shape, case.dtype.name)
    if case.mode == "ragged":
        _, _, lengths = case.make()
        assert lengths is not None
        share = float(lengths.sum()) / (steps * batch)
        flop, least = flop * share, least * share
    return {
        "shape": shape,
        "mode": case.mode,
        "microseconds": {name: [round(1e6 * value, 3) for value in timing] for name, timing in timings.items()},
        "gflops": flop / ours.median / 1e9,
        "of_bound": least / ours.median,
        "of_peak": flop / ours.median / machine.peak[case.dtype.name],
        "ratio": min(other.median for other in others) / ours.median if others else None,
    }


def _print_head(machine: Machine, names: list[str]) -> None:
    missing = [name for name in ALL if name not in names]
    print(f"{'beside':<18}{', '.join(f'{name} {_version(name)}' for name in names[1:]) or 'nothing'}")
    if missing:
        print(f"{'not here':<18}{', '.join(missing)}")
    print(f"{'peak':<18}" + ", ".join(f"{v / 1e9:.0f} GFLOP/s in {dtype}" for dtype, v in machine.peak.items()))
    print(f"{'read':<18}" + ", ".join(f"{level} {v / 1e9:.0f} GB/s" for level, v in machine.bandwidth.items()))
    print(f"\nmicroseconds, median, {machine.threads} thread{'s' * (machine.threads > 1)}")
    header = "".join(f"{name:>13}" for name in names)
    print(f"{'T,N,I,H':<18}{'mode':<12}{header}{'GFLOP/s':>9}{'bound':>7}{'peak':>6}{'ratio':>7}")


def _line(row: dict[str, Any], names: list[str]) -> str:
    times = {name: f"{timing[1]:,.1f}" for name, timing in row["microseconds"].items()}
    line = f"{','.join(map(str, row['shape'])):<18}{row['mode']:<12}"
    line += "".join(f"{times.get(name, '-'):>13}" for name in names)
    line += f"{row['gflops']:>9.1f}{row['of_bound']:>7.0%}{row['of_peak']:>6.0%}"
    return line + (f"{row['ratio']:>7.2f}" if row["ratio"] is not None else "")


def _print_mean(mode: str, rows: list[dict[str, Any]]) -> None:
    ratios = [(row["ratio"], ",".join(map(str, row["shape"]))) for row in rows if row["ratio"] is not None]
    if ratios:
        mean = np.exp(np.mean([np.log(ratio) for ratio, _ in ratios]))
        worst, where = min(ratios)
        print(f"{mode}: {mean:.2f} times as fast as the best peer in the geometric mean; worst {worst:.2f} at {where}")


def _record(machine: Machine, names: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": config._cpu(),
        "isa": lstm_rs._core.isa(),
        "versions": {"lstm_rs": lstm_rs.__version__} | {name: _version(name) for name in names[1:]},
        "machine": machine._asdict(),
        "columns": "microseconds are the quartiles",
        "rows": rows,
    }


def _version(name: str) -> str:
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


def _time(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """The quartiles of each call's seconds, all taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST or time.perf_counter() < end:
        rounds += 1
        for name, call in calls.items():
            # Short calls several times in a row: the first finds its weights out of the caches, where others put them.
            times = 1 if not taken[name] else int(max(1, min(50, 2e-4 / taken[name][-1])))
            start = time.perf_counter()
            for _ in range(times):
                call()
            taken[name].append((time.perf_counter() - start) / times)
    return {name: Timing(*np.quantile(times, [0.25, 0.5, 0.75]).tolist()) for name, times in taken.items()}
