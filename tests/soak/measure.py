"""What a run counts, and what it measures: memory, and how long a signal takes."""

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import time
from collections import Counter

import numpy as np
from lstm_rs import _core

LATE = 0.1
"""Seconds that an interrupt may take, besides those for which the system did not run what had to run."""


class Tally:
    """Counts by name, and what went wrong."""

    def __init__(self):
        self.operations = Counter()
        self.counts = Counter()
        self.latencies = {}
        self.waits = []
        self.failures = []
        self.samples = []

    def fail(self, what):
        self.failures.append(what)
        print(f"FAILED: {what}", file=sys.stderr, flush=True)

    def late(self, name, latency, waited):
        """A signal that took so long, for `waited` of which a thread of this process was ready and had no CPU."""
        self.latencies.setdefault(name, []).append(latency)
        self.waits.append(max(0.0, latency - waited))
        if latency - waited > LATE:
            self.fail(f"{name}: a signal took {latency * 1e3:.0f} ms, without a CPU for {waited * 1e3:.0f} of them")

    def told(self):
        """All of it as what json writes."""
        return vars(self) | {"operations": dict(self.operations), "counts": dict(self.counts)}


def settle():
    """Gives back to the system what nobody uses, so that only what is kept is measured.

    What lstm_rs keeps for large results to come, up to 256 MiB of each dtype, is brought to the same amount each time:
    it drops what has lain there longest.
    """
    for dtype in (np.float32, np.float64):
        columns = (60 << 20) // (4096 * dtype().itemsize)
        weight, x = np.zeros((columns, 1), dtype), np.zeros((4096, 1), dtype)
        results = [_core.linear(weight, None, x) for _ in range(5)]
        del results
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident():
    """MiB of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def sample(seconds):
    """Seconds, MiB, Python's blocks, threads and open files."""
    settle()
    files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    return seconds, resident(), sys.getallocatedblocks(), threads, files


def growth(samples, column):
    """How much larger a column's median is in the last tenth of the samples than in the fourth, or None."""
    values, tenth = [one[column] for one in samples], len(samples) // 10
    if tenth == 0:
        return None
    return statistics.median(values[-tenth:]) - statistics.median(values[3 * tenth : 4 * tenth])


def without_cpu(process):
    """Nanoseconds for which each thread of a process was ready, and none of the CPUs was free."""
    waited = {}
    for thread in os.listdir(f"/proc/{process}/task"):
        try:
            with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                waited[thread] = int(file.read().split()[1])
        except (OSError, IndexError):
            pass  # It has ended, or this kernel does not tell.
    return waited


class Bell:
    """A process of its own that sends a signal to this one after some time, and says when it did."""

    def __init__(self):
        arguments = [sys.executable, __file__, str(os.getpid())]
        # In a session of its own, so that a Ctrl-C of the terminal leaves it alone.
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def ring(self, number, seconds):
        self.process.stdin.write(f"{int(number)} {seconds:.6f}\n")
        self.process.stdin.flush()

    def rang(self, arrived):
        """Seconds until the signal had `arrived`, and for how many of them some thread had to wait for a CPU.

        None where the bell itself had to wait, and does not know when the signal went.
        """
        before, after, *waits = self.process.stdout.readline().split()
        if float(after) - float(before) > 0.002:
            return None
        told = dict(pair.split(":") for pair in waits)
        now = without_cpu(os.getpid())
        waited = max((now[thread] - int(told[thread]) for thread in now if thread in told), default=0)
        return max(0.0, arrived - float(before)), waited / 1e9

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def ring_when_asked(process):
    """What the bell's process does."""
    for line in sys.stdin:
        number, seconds = line.split()
        time.sleep(float(seconds))
        waits = " ".join(f"{thread}:{waited}" for thread, waited in without_cpu(process).items())
        before = time.monotonic()
        os.kill(process, int(number))
        print(before, time.monotonic(), waits, flush=True)


if __name__ == "__main__":
    ring_when_asked(int(sys.argv[1]))
