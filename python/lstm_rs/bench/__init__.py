"""Time a pass beside other libraries: ``python -m lstm_rs bench``.

Everything is timed in one process on one thread, in turn, so that what disturbs one disturbs all; medians are compared.
Before that, all have to give the same answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

import lstm_rs
from lstm_rs.bench.peers import Call, peers

SHAPES = (
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

FEWEST = 5  # rounds, however long one takes


def run(shapes: Sequence[tuple[int, int, int, int]], seconds: float) -> int:
    """Time all shapes and print the table; the exit code is 1 if a peer gives another answer.

    Parameters
    ----------
    shapes : sequence of (T, N, I, H)
        What to time.
    seconds : float
        How long to time each shape and mode.
    """
    lstm_rs.show_config()
    names = list(peers())
    print(f"{'beside':<18}{', '.join(names[1:]) or 'nothing: pip install torch'}\n")
    header = "".join(f"{name:>14}" for name in names)
    print(f"microseconds, median, one thread, float32\n{'T,N,I,H':<20}{'mode':<18}{header}{'GFLOP/s':>10}{'ratio':>8}")
    ratios: dict[str, list[tuple[float, str]]] = {"forward": [], "forward+backward": []}
    for shape in shapes:
        steps, batch, input_size, hidden_size = shape
        case = ",".join(map(str, shape))
        for mode in ratios:
            calls = {name: make(shape, mode == "forward") for name, make in peers().items()}
            if (wrong := _disagreement(calls)) is not None:
                print(f"{case} {mode}: {wrong} gives another answer", file=sys.stderr)
                return 1
            micros = {name: 1e6 * t for name, t in _medians({n: c.run for n, c in calls.items()}, seconds).items()}
            flop = 8 * steps * batch * hidden_size * (input_size + hidden_size) * (1 if mode == "forward" else 3)
            ours, *others = micros.values()
            row = f"{case:<20}{mode:<18}" + "".join(f"{micros[name]:>14,.1f}" for name in names)
            row += f"{flop / ours / 1e3:>10.1f}"
            if others:
                ratios[mode].append((min(others) / ours, case))
                row += f"{ratios[mode][-1][0]:>8.2f}"
            print(row, flush=True)
    print()
    for mode, values in ratios.items():
        if values:
            mean = np.exp(np.mean([np.log(ratio) for ratio, _ in values]))
            worst = min(values)
            print(f"{mode}: {mean:.2f} times as fast in the geometric mean; worst {worst[0]:.2f} at {worst[1]}")
    return 0


def _disagreement(calls: dict[str, Call]) -> str | None:
    """The name of the first that does not answer as we do."""
    ours, *others = calls.items()
    expected = ours[1].answer()
    for name, call in others:
        for actual, wanted in zip(call.answer(), expected, strict=True):
            if not np.allclose(actual, wanted, rtol=0, atol=1e-3 * float(np.abs(wanted).max())):
                return name
    return None


def _medians(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median seconds of each call, all taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST or time.perf_counter() < end:
        rounds += 1
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in taken.items()}
