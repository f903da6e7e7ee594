"""Calls timed in turn, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

FEWEST = 5
"""Rounds, however long one takes."""

HOPELESS = 4.0
"""A call that takes so many times as long as the quickest is timed in two rounds alone."""

BLOCK = 5e-3
"""Seconds: a short call is repeated for about so long, and runs as long before that untimed: a third-level cache takes
some calls to fill."""

PAUSE = 1e-2
MOST_PAUSES = 20
"""Seconds between two calls, and how often at most: until the threads of the last one give up waiting for more.

The time that a thread has run is known from one tick of the system's clock to the next: in a shorter pause it may seem
to sleep.
"""


class Timing(NamedTuple):
    """Quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Timing:
        """Take the quartiles of values."""
        return cls(*np.quantile(values, [0.25, 0.5, 0.75]).tolist())


def in_turn(
    calls: Mapping[str, Callable[[], object]], limits: Mapping[str, Callable[[], float]], seconds: float
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Time calls and measure limits in turn, for so many seconds.

    Parameters
    ----------
    calls : mapping of callables
        Their seconds are taken: the mean of a block of calls, in each round.
    limits : mapping of callables
        They give a figure themselves.
    seconds : float
        How long it takes in all, unless `FEWEST` rounds take longer.

    Returns
    -------
    times, figures : dict of Timing
        The quartiles over the rounds.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    figures: dict[str, list[float]] = {name: [] for name in limits}
    first = {name: _block(call, 1) for name, call in calls.items()}
    quick = {name: _block(call, 1) if first[name] < 0.1 else first[name] for name, call in calls.items()}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST or time.perf_counter() < end:
        rounds += 1
        for name, measure in limits.items():
            figures[name].append(measure())
        for name, call in calls.items():
            if rounds > 2 and quick[name] > HOPELESS * min(quick.values()):
                continue
            _rest()
            times = int(np.clip(BLOCK / quick[name], 1, 1000))
            if quick[name] < 20 * BLOCK:
                # Others have put our weights out of the caches, and our threads to sleep.
                _block(call, times)
            taken[name].append(_block(call, times))
            quick[name] = min(quick[name], taken[name][-1])
    return (
        {name: Timing.of(values) for name, values in taken.items()},
        {name: Timing.of(values) for name, values in figures.items()},
    )


def _rest() -> None:
    """Sleep until this process no longer runs meanwhile: some libraries' threads spin for 50 ms after a call."""
    for _ in range(MOST_PAUSES):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 10:
            return


def _block(call: Callable[[], object], times: int) -> float:
    """Seconds of one of so many calls in a row."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times
