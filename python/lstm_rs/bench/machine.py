"""What the machine can do at most, measured, and the least time that a pass can take on it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lstm_rs import _core

LEVELS = ("L1", "L2", "L3", "DRAM")
DTYPES = ("float32", "float64")

_USUAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
"""Bytes of each cache, where the system does not say."""

_CPUS = Path("/sys/devices/system/cpu")


class Machine(NamedTuple):
    """Floating-point operations a second, by dtype; bytes read a second, by level: of all threads together."""

    peak: dict[str, float]
    bandwidth: dict[str, float]
    threads: int
    caches: dict[str, int]
    """Bytes of each: a thread has an L1 and an L2 of its own."""

    def level(self, size: int) -> str:
        """The first level that holds `size` bytes, each thread having its share of them."""
        for level, capacity in self.caches.items():
            if (size if level == "L3" else size / self.threads) <= capacity:
                return level
        return "DRAM"


def measure(threads: int, seconds: float = 0.2) -> Machine:
    """Measure each limit for so many seconds."""
    machine = Machine({}, {}, threads, caches())
    return machine._replace(
        peak={dtype: peak(machine, dtype, seconds) for dtype in DTYPES},
        bandwidth={level: bandwidth(machine, level, seconds) for level in LEVELS},
    )


def peak(machine: Machine, dtype: str, seconds: float) -> float:
    """Floating-point operations a second; a multiplication with addition is two."""
    return _together(machine.threads, lambda: _core.fma_peak(dtype, seconds))


def bandwidth(machine: Machine, level: str, seconds: float) -> float:
    """Bytes read a second from a level, out of a buffer that fills half of it or, of DRAM, twice the caches."""
    sizes = machine.caches
    if level == "L3":
        # Half of a large one is not this process' to have.
        size = min(max(4 * sizes["L2"], 8 << 20), sizes["L3"] // 2) // machine.threads
    elif level == "DRAM":
        size = min(2 * sizes["L3"], 1 << 30) // machine.threads
    else:
        size = sizes[level] // 2
    return _together(machine.threads, lambda: _core.read_bandwidth(size, seconds))


def _together(threads: int, call: Callable[[], float]) -> float:
    """The sum of what the threads reach side by side."""
    reached: list[float] = []
    team = [threading.Thread(target=lambda: reached.append(call())) for _ in range(threads - 1)]
    for thread in team:
        thread.start()
    reached.append(call())
    for thread in team:
        thread.join()
    return sum(reached)


def bound(machine: Machine, shape: tuple[int, int, int, int], dtype: str = "float32") -> float:
    """The least seconds of a pass forward: what its products take at the peak, or its weights to be read.

    The recurrent weights are read at each step, those of the input once.
    """
    steps, batch, _, hidden_size = shape
    size = {"float32": 4, "float64": 8}[dtype]
    speed = machine.peak[dtype]

    def read(columns: int) -> float:
        weights = 4 * size * hidden_size * columns
        return weights / machine.bandwidth[machine.level(weights)]

    _, _, input_size, _ = shape
    step = max(8 * batch * hidden_size**2 / speed, read(hidden_size))
    whole = max(8 * steps * batch * hidden_size * input_size / speed, read(input_size))
    return steps * step + whole


def caches() -> dict[str, int]:
    """Bytes of the first CPU's L1, L2 and L3."""
    found = dict(_USUAL)
    for index in sorted(_CPUS.glob("cpu0/cache/index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        digits = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and digits is not None and f"L{level}" in found:
            found[f"L{level}"] = int(digits[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[digits[2]]
    return found


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this process and its new threads on so many cores, one CPU of each, where the system lets it.

    A library that does not ask how many threads it may use takes a thread for each CPU that it may run on.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    cores: dict[str, int] = {}
    for cpu in sorted(before):
        try:
            core = (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        cores.setdefault(core, cpu)
    chosen = list(cores.values())[:threads]
    # More threads than cores: wherever the system wants them.
    os.sched_setaffinity(0, chosen if len(chosen) == threads else before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
