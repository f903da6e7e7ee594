"""The process that fuzzes one importer: ``python one_format.py FORMAT FOLDER SECONDS --seed S``; or runs one input.

FOLDER keeps the corpus, and what has been found: an input for each defect, under a name that says which. Numbers of
what has been run go to FOLDER/counts, also when the process dies.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import resource
import sys
import tempfile
from importlib import import_module
from typing import Any

import atheris

with atheris.instrument_imports(include=["lstm_rs"]):
    import lstm_rs
    import lstm_rs._files
    import lstm_rs.convert._to_onnx
    import lstm_rs.datasets
    import lstm_rs.estimators
    import lstm_rs.estimators._saving
    import lstm_rs.train
    import lstm_rs.train._checkpoint

from choices import Choices, Skip
from contract import Find, judge
from formats import TARGETS

LONGEST = 1 << 16
# More address space than what is there after the seeds.
ROOM = 1 << 30
# Seconds by the clock, on machines that do other things too; `contract.py` counts those of the CPU.
HANG = 40
COUNTS = ("executions", "models", "refused", "not made")


class Runner:
    """Runs inputs, counts what comes of them, and keeps one input of each defect."""

    def __init__(self, target: Any, folder: str) -> None:
        self._target = target
        self._finds = os.path.join(folder, "finds")
        os.makedirs(self._finds, exist_ok=True)
        self._known = set(os.listdir(self._finds))
        path = os.path.join(folder, "counts")
        with open(path, "ab") as file:
            file.truncate(8 * len(COUNTS))
        with open(path, "r+b") as file:
            self._counts = memoryview(mmap.mmap(file.fileno(), 8 * len(COUNTS))).cast("q")

    def run(self, data: bytes) -> Find | bool | None:
        """Run an input; None if it makes nothing."""
        try:
            attempt = self._target.attempt(Choices(data))
        except Skip:
            self._count(3)
            return None
        result = judge(attempt)
        self._count(1 if result is True else 2)
        if isinstance(result, Find):
            self._keep(result, data)
        return result

    def __call__(self, data: bytes) -> None:
        """As libFuzzer calls it."""
        self.run(data)

    def _count(self, what: int) -> None:
        self._counts[0] += 1
        self._counts[what] += 1

    def _keep(self, find: Find, data: bytes) -> None:
        name = hashlib.sha256(find.signature.encode()).hexdigest()[:12]
        if name in self._known:
            return
        self._known.add(name)
        path = os.path.join(self._finds, name)
        with open(path, "wb") as file:
            file.write(data)
        with open(path + ".txt", "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{find.signature}: {find.message}\n\n{find.trace}")


def limit_memory() -> None:
    """Let the process have so much address space more than it has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    room = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    """Run the seeds, which have to be read, and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format", choices=TARGETS)
    parser.add_argument("folder")
    parser.add_argument("seconds", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", metavar="INPUT")
    given = parser.parse_args()
    lstm_rs.set_num_threads(1)
    _, module, name = TARGETS[given.format]
    # In memory where there is such a folder: most of the time would go by in writing files.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as files:
        target = getattr(import_module(module), name)(files)
        if given.repeat is not None:
            _repeat(target, given.repeat)
            return
        corpus = os.path.join(given.folder, "corpus")
        os.makedirs(corpus, exist_ok=True)
        runner = Runner(target, given.folder)
        for k, seed in enumerate(target.seeds()):
            result = runner.run(seed)
            if result is not True:
                sys.exit(f"{given.format}: seed {k} is valid, and was not read: {result}")
            with open(os.path.join(corpus, f"seed-{k}"), "wb") as file:
                file.write(seed)
        limit_memory()
        options = [f"-max_total_time={given.seconds}", f"-seed={given.seed}", f"-max_len={LONGEST}", f"-timeout={HANG}",
                   f"-report_slow_units={HANG}", "-rss_limit_mb=0", "-len_control=20",
                   f"-artifact_prefix={runner._finds}{os.sep}"]  # fmt: skip
        atheris.Setup([sys.argv[0], corpus, *options], runner)
        atheris.Fuzz()


def _repeat(target: Any, path: str) -> None:
    """Run one input, and show what it is and what comes of it."""
    with open(path, "rb") as file:
        attempt = target.attempt(Choices(file.read()))
    print(attempt.shown[:4000])
    limit_memory()
    result = judge(attempt)
    if isinstance(result, Find):
        print(result.trace)
        sys.exit(f"{result.signature}: {result.message}")
    print("read" if result else "refused")


if __name__ == "__main__":
    main()
