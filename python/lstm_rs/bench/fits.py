"""Time whole fits beside other libraries: ``python -m lstm_rs.bench.fits``.

Each estimator of `lstm_rs.estimators` is fitted to real data, and the same model is trained in PyTorch, in a plain
loop, and in Keras on JAX: the same epochs, batch size, AdamW and clipping. Every fit runs in a process of its own,
which the libraries take in turn. Times are from raw arrays to the trained model; see `_fit_workers` for what counts.

===========  ================================================================================  ===================
fit          data                                                                              judged by
===========  ================================================================================  ===================
regressor    44 years of sunspots each -> the year after; trained before 1920                  RMSE from 1920 on
forecaster   the sunspots, one year ahead at every step of windows of 44 years                 RMSE from 1920 on
autoencoder  blood pressure (InternalBleeding16 of UCR), windows of 32; trained on 1200 rows   rows to the anomaly
classifier   Japanese vowels: 12 channels, 7 to 29 steps; which of 9 speakers                  test accuracy
===========  ================================================================================  ===================

The last two come from the files of the package aeon, which is not imported: ``pip install --no-deps aeon==1.6.0``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lstm_rs
from lstm_rs import config
from lstm_rs.bench import _fit_workers, duration
from lstm_rs.bench.machine import caches, pinned
from lstm_rs.bench.peers import environment
from lstm_rs.datasets import load_sunspots
from lstm_rs.demo import FIRST_HELD_OUT, WINDOW

__all__ = ["LIBRARIES", "TASKS", "main", "markdown", "quality", "run"]

LIBRARIES = {"lstm_rs": (), "torch": ("torch",), "keras": ("keras", "jax")}
"""Who is timed, and what that needs to be installed."""

FIGURES = ("import", "first", "again")
"""Seconds: to import the library; of the first fit in a process; of the second."""

CLOSE = 50
"""Rows from the anomaly to the highest score that still count as found."""

Arrays = dict[str, np.ndarray]


# ----------------------------- the data


def aeon_file(name: str) -> Path:
    """Find a file among the data of the installed package aeon, which is not imported."""
    return Path(str(importlib.metadata.distribution("aeon").locate_file(f"aeon/datasets/data/{name}")))


def sunspot_windows() -> Arrays:
    """Make windows (n, 44, 1) of sunspot numbers, and the number of the year after each."""
    years, numbers = load_sunspots()
    every = np.lib.stride_tricks.sliding_window_view(numbers, WINDOW + 1)
    held_out = years[WINDOW:] >= FIRST_HELD_OUT
    x, y = every[:, :-1, None], every[:, -1]
    return {"x": x[~held_out], "y": y[~held_out], "test_x": x[held_out], "test_y": y[held_out]}


def sunspots() -> Arrays:
    """Read the sunspot numbers before 1920, and all."""
    years, numbers = load_sunspots()
    held_out = np.flatnonzero(years >= FIRST_HELD_OUT)
    series = numbers[:, None]
    return {"series": series[: held_out[0]], "test_series": series, "test_y": numbers[held_out]}


def internal_bleeding() -> Arrays:
    """Read a blood pressure without an anomaly, the whole of it, and in which rows of that the anomaly is."""
    name = "KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_{}.csv"
    train, test = (np.loadtxt(aeon_file(name.format(part)), delimiter=",", skiprows=1) for part in ("TRAIN", "TEST"))
    # The test file begins with the training file.
    rows = np.flatnonzero(test[:, 2])
    return {"series": train[:, 1:2], "test_series": test[:, 1:2], "test_y": rows, "start": np.array(len(train))}


def japanese_vowels() -> Arrays:
    """Read the utterances of nine speakers, padded with zeros to (n, T, 12), with their lengths and the speakers."""
    found: Arrays = {}
    for part, prefix in (("TRAIN", ""), ("TEST", "test_")):
        text = aeon_file(f"JapaneseVowels/JapaneseVowels_{part}.ts").read_text(encoding="utf-8")
        rows = [line.split(":") for line in text.partition("@data")[2].split()]
        sequences = [np.array([channel.split(",") for channel in row[:-1]], dtype=np.float64).T for row in rows]
        lengths = np.array([len(sequence) for sequence in sequences])
        x = np.zeros((len(rows), lengths.max(), sequences[0].shape[1]))
        for padded, sequence in zip(x, sequences, strict=True):
            padded[: len(sequence)] = sequence
        y = np.array([int(row[-1]) for row in rows])
        found |= {f"{prefix}x": x, f"{prefix}lengths": lengths, f"{prefix}y": y}
    return found


def _task(epochs: int, rate: float, schedule: str, **options: Any) -> dict[str, Any]:
    common = {"hidden_size": 32, "batch_size": 32, "clip_norm": 1.0, "weight_decay": 0.0}
    return common | {"epochs": epochs, "learning_rate": rate, "schedule": schedule} | options


TASKS: dict[str, tuple[dict[str, Any], Callable[[], Arrays]]] = {
    "regressor": (_task(30, 1e-2, "cosine"), sunspot_windows),
    "forecaster": (_task(15, 1e-2, "linear", window=44, warm_up=11, horizon=1, difference=False), sunspots),
    "autoencoder": (_task(20, 3e-3, "constant", window=32, latent_size=16), internal_bleeding),
    "classifier": (_task(60, 1e-2, "cosine", hidden_size=64, weight_decay=0.1), japanese_vowels),
}
"""Each estimator's model and training, and what makes its data.

They have their defaults, but for the 64 units of the classifier and for two that are trained for shorter, because three
centuries of sunspots are soon learnt by heart: the forecaster as `lstm_rs.demo` says why, and the regressor for 30
epochs, which did better than 100 on the years from 1830 to 1919 when fitted to those before (RMSE 16.8, not 20.3).
"""


def quality(kind: str, predictions: np.ndarray, data: Arrays) -> tuple[str, float]:
    """Say what the predictions are judged by, and how good they are.

    >>> quality("classifier", np.array([1, 2]), {"test_y": np.array([1, 3])})
    ('accuracy', 0.5)
    """
    y = data["test_y"]
    if kind == "classifier":
        return "accuracy", float(np.mean(predictions == y))
    if kind == "autoencoder":
        start = int(data["start"])
        top = start + int(np.argmax(predictions[start:]))
        return "rows off", float(max(y[0] - top, top - y[-1], 0))
    if kind == "forecaster":
        # Row t has the forecast made at its end, for the next one.
        predictions = predictions[-len(y) - 1 : -1, 0]
    return "RMSE", float(np.sqrt(np.mean(np.square(predictions - y))))


# ----------------------------- the processes


def fit(library: str, task: dict[str, Any], data_file: str, threads: int) -> dict[str, Any]:
    """Fit in a process of its own, on as many cores as threads: seconds, MiB, and the predictions.

    Raises
    ------
    RuntimeError
        If the process fails; with what it last said.
    """
    with tempfile.TemporaryDirectory() as folder:
        task_file, found_file = (str(Path(folder) / name) for name in ("task.json", "found.json"))
        Path(task_file).write_text(json.dumps(task | {"threads": threads}))
        # By its path, and away from the modules beside it, which are not for the other libraries to find.
        code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        command = [sys.executable, "-c", code, _fit_workers.__file__, library, task_file, data_file, found_file]
        with pinned(threads):
            done = subprocess.run(
                command, env=os.environ | environment(threads), capture_output=True, text=True, check=False
            )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"{library}: the process that fits the {task['kind']} failed: {last}")
        found: dict[str, Any] = json.loads(Path(found_file).read_text())
    return found


def run(
    names: Sequence[str] = tuple(TASKS), *, threads: Sequence[int] = (1, 2), repeats: int = 3, out: str | None = None
) -> dict[str, Any]:
    """Time the fits, print the table, and give all figures.

    Parameters
    ----------
    names : sequence of str
        Out of `TASKS`.
    threads : sequence of int
        Each fit is timed with each of these, for all libraries alike.
    repeats : int
        Processes for each; the table has their medians.
    out : str, optional
        A file for all figures, as JSON.

    Returns
    -------
    dict
        What is written to `out`.
    """
    libraries = [name for name, needed in LIBRARIES.items() if all(map(importlib.util.find_spec, needed))]
    rows: list[dict[str, Any]] = []
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": config._cpu(),
        "isa": lstm_rs._core.isa(),
        "caches": caches(),
        "versions": {"lstm_rs": lstm_rs.__version__}
        | {part: importlib.metadata.version(part) for library in libraries for part in LIBRARIES[library]},
        "columns": "medians of the processes; seconds to import, of the first fit and of another, memory in MiB",
        "rows": rows,
    }
    print(_head(record), flush=True)
    for name in names:
        task, load = TASKS[name]
        task = task | {"kind": name}
        data = load()
        with tempfile.TemporaryDirectory() as folder:
            data_file = str(Path(folder) / "data.npz")
            np.savez(data_file, **data)  # type: ignore[arg-type]
            for count in threads:
                runs: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
                for repeat in range(repeats):
                    for library in libraries:
                        # Another seed each time: a quality is then no single draw's.
                        runs[library].append(fit(library, task | {"seed": repeat}, data_file, count))
                found = [_row(name, task, count, library, runs[library], data) for library in libraries]
                print("\n".join(_line(row, found[0]) for row in found), flush=True)
                rows += found
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n")
    return record


def _row(
    name: str, task: dict[str, Any], threads: int, library: str, runs: list[dict[str, Any]], data: Arrays
) -> dict[str, Any]:
    judged = [quality(name, np.array(one.pop("predictions")), data) for one in runs]
    return {
        "fit": name,
        "task": {key: value for key, value in task.items() if key not in ("kind", "seed")},
        "threads": threads,
        "library": library,
        **{figure: statistics.median(one[figure] for one in runs) for figure in (*FIGURES, "memory")},
        "quality": [judged[0][0], statistics.median(value for _, value in judged)],
        "runs": runs,
    }


def markdown(record: dict[str, Any]) -> str:
    """Make the table: each time with how many times that of lstm_rs it is."""
    ours = {(row["fit"], row["threads"]): row for row in record["rows"] if row["library"] == "lstm_rs"}
    lines = [_line(row, ours[row["fit"], row["threads"]]) for row in record["rows"]]
    return "\n".join([_head(record), *lines]) + "\n"


def _head(record: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{record['cpu']}, {record['isa']}; {parts}\n\n"
        "| fit | threads | | import | first fit | | another | | memory | quality |\n"
        "|---|--:|---|--:|--:|--:|--:|--:|--:|---|"
    )


def _line(row: dict[str, Any], own: dict[str, Any]) -> str:
    cells = [row["fit"], str(row["threads"]), row["library"], duration(1e6 * row["import"])]
    for figure in ("first", "again"):
        cells += [duration(1e6 * row[figure]), f"{row[figure] / own[figure]:.2f}"]
    what, value = row["quality"]
    digits = {"accuracy": 3, "RMSE": 1, "rows off": 0}[what]
    cells += [f"{row['memory']:.0f} MiB", f"{what} {value:.{digits}f}"]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 if a fit fails."""
    parser = argparse.ArgumentParser(
        prog="python -m lstm_rs.bench.fits", description="Time whole fits beside PyTorch and Keras."
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of every library; default 1 2")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each fit and library; default 3")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME", help=", ".join(TASKS))
    parser.add_argument("--json", metavar="FILE", help="where all figures go")
    args = parser.parse_args(argv)
    if min(*args.threads, args.repeats) < 1:
        parser.error("--threads and --repeats: expected at least 1")
    try:
        run(args.only, threads=args.threads, repeats=args.repeats, out=args.json)
    except (RuntimeError, importlib.metadata.PackageNotFoundError) as error:
        hint = (
            ": pip install --no-deps aeon==1.6.0" if isinstance(error, importlib.metadata.PackageNotFoundError) else ""
        )
        print(f"{error}{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
