"""What the machine can do at most, measured, and the least time that a pass can take on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from lstm_rs import _core

LEVELS = {"L1": 16 << 10, "L2": 512 << 10, "L3": 8 << 20, "DRAM": 256 << 20}
"""Bytes to read from, which stay in that level of most caches."""


class Machine(NamedTuple):
    """Floating-point operations a second, by dtype; bytes read a second, by level: of all threads together."""

    peak: dict[str, float]
    bandwidth: dict[str, float]
    threads: int


def measure(threads: int, seconds: float = 0.2) -> Machine:
    """Measure each limit for so many seconds."""
    return Machine(
        {
            dtype: _together(threads, lambda dtype=dtype: _core.fma_peak(dtype, seconds))  # type: ignore[misc]
            for dtype in ("float32", "float64")
        },
        {
            level: _together(threads, lambda size=size: _core.read_bandwidth(size, seconds))  # type: ignore[misc]
            for level, size in LEVELS.items()
        },
        threads,
    )


def _together(threads: int, call: Callable[[], float]) -> float:
    """The sum of what the threads reach side by side."""
    reached: list[float] = []
    team = [threading.Thread(target=lambda: reached.append(call())) for _ in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    return sum(reached)


def bound(machine: Machine, shape: tuple[int, int, int, int], dtype: str = "float32") -> float:
    """The least seconds of a pass forward: what its products take at the peak, or its weights to be read.

    The recurrent weights are read at each step, those of the input once. A level's bandwidth counts for what fits it in
    each thread's share.
    """
    steps, batch, input_size, hidden_size = shape
    size, peak = (8 if dtype == "float64" else 4), machine.peak[dtype]

    def read(columns: int) -> float:
        weights = 4 * size * hidden_size * columns
        share = weights / machine.threads
        level = next((level for level, most in _CAPACITY.items() if share <= most), "DRAM")
        return weights / machine.bandwidth[level]

    step = max(8 * batch * hidden_size**2 / peak, read(hidden_size))
    whole = max(8 * steps * batch * hidden_size * input_size / peak, read(input_size))
    return steps * step + whole


_CAPACITY = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
"""Bytes of each level on most CPUs of servers; a thread has an L1 and an L2 of its own."""
