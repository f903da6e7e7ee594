"""Threads, instruction sets, and what this installation is."""

from __future__ import annotations

import operator
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    """How many threads a call made here may use.

    Unless it is set, the number comes from the environment variable ``LSTM_RS_NUM_THREADS``, else
    ``RAYON_NUM_THREADS``, else ``OMP_NUM_THREADS``, read once when the package is imported; else it is the number of
    physical cores that this process may use.

    Returns
    -------
    int

    Examples
    --------
    >>> import lstm_rs
    >>> with lstm_rs.num_threads(2):
    ...     lstm_rs.get_num_threads()
    2
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Allow a call to use up to `n` threads.

    A call too small to gain from them uses fewer. The answers have the same bits with any number. While one call has
    the threads, calls of other Python threads run on their own thread alone, side by side.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    ValueError
        If `n` is out of range.
    TypeError
        If `n` is not an int.

    Examples
    --------
    >>> import lstm_rs
    >>> before = lstm_rs.get_num_threads()
    >>> lstm_rs.set_num_threads(1)
    >>> lstm_rs.get_num_threads()
    1
    >>> lstm_rs.set_num_threads(before)
    """
    _core.set_num_threads(_threads(n))


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Allow the calls that this Python thread makes inside the block to use up to `n` threads.

    Other Python threads are not concerned; blocks nest.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    ValueError, TypeError
        As `set_num_threads`.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> lstm, x = lstm_rs.LSTM(3, 8, seed=0), np.ones((5, 2, 3), dtype=np.float32)
    >>> with lstm_rs.num_threads(1):
    ...     y, state = lstm(x)
    """
    before = _core.swap_own_threads(_threads(n))
    try:
        yield
    finally:
        _core.swap_own_threads(before)


def _threads(n: int) -> int:
    """A number of threads as an int that is not below 1: Rust checks the rest."""
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: expected an int, got {n!r}")
    if (threads := operator.index(n)) < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")
    return min(threads, 1 << 31)


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
        "threads": f"up to {get_num_threads()} a call",
        "same bits": "no: this thread flushes subnormal numbers to zero" if flushes else "yes",
    }
    for name, value in rows.items():
        print(f"{name:<18}{value}")


def _cpu() -> str:
    """The CPU's name, as the system tells it."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
