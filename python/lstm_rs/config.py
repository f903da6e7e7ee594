"""Threads, instruction sets, and what this installation is."""

from __future__ import annotations

import operator
import platform
import sys
from pathlib import Path

import numpy as np

from lstm_rs import _core


def available_isas() -> tuple[str, ...]:
    """The instruction sets that this CPU has, slowest first.

    The fastest is used, unless the environment variable ``LSTM_RS_ISA`` names another; it is read once, when the
    package is imported. The answers have the same bits on all of them.

    Returns
    -------
    tuple of str
        Out of "scalar", "avx2", "avx512", "neon".

    Examples
    --------
    >>> import lstm_rs
    >>> "scalar" in lstm_rs.available_isas()
    True
    """
    return tuple(_core.available_isas())


def get_num_threads() -> int:
    """How many threads a call uses: 1, in this version.

    Returns
    -------
    int

    Examples
    --------
    >>> import lstm_rs
    >>> lstm_rs.get_num_threads()
    1
    """
    return 1


def set_num_threads(n: int) -> None:
    """Allow a call to use up to `n` threads.

    This version computes every call on the thread that makes it, so that any `n` from 1 on is kept to, and
    `get_num_threads` goes on saying 1. Calls from several Python threads run side by side.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        If `n` is less than 1.
    TypeError
        If `n` is not an int.

    Examples
    --------
    >>> import lstm_rs
    >>> lstm_rs.set_num_threads(1)
    """
    if isinstance(n, bool):
        raise TypeError(f"n: expected an int, got {n!r}")
    if operator.index(n) < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")


def show_config() -> None:
    """Print the version, the CPU, the instruction sets, the threads, and whether the promise of equal bits holds here.

    The promise takes the default floating-point environment: where another library has told this thread's CPU to flush
    subnormal numbers to zero, it is void, and this says so.

    Examples
    --------
    >>> import lstm_rs
    >>> lstm_rs.show_config()  # doctest: +ELLIPSIS
    lstm_rs ...
    """
    flushes = float(np.float32(1e-45) * np.float32(1.0)) == 0.0
    rows = {
        f"lstm_rs {_core.__version__}": f"Python {platform.python_version()}, NumPy {np.__version__}",
        "CPU": _cpu(),
        "instruction sets": f"{', '.join(available_isas())} (in use: {_core.isa()})",
        "threads": f"{get_num_threads()} a call",
        "same bits": "no: this thread flushes subnormal numbers to zero" if flushes else "yes",
    }
    for name, value in rows.items():
        print(f"{name:<18}{value}")


def _cpu() -> str:
    """The CPU's name, as the system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
