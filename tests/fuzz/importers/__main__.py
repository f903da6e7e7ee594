"""Coverage-guided fuzzing of all that reads weights from elsewhere: ``python tests/fuzz/importers --seconds 60``.

Each importer runs in a process of its own for an equal share of the time, under atheris, which follows the coverage of
lstm_rs' Python code. `contract.py` says what an importer owes to an input. What breaks it, hangs or kills the process
is printed with the input's path and the command that repeats it, and the exit code is 1. ``--format`` picks one.

The inputs start from valid files that are made when it runs, and what adds coverage is kept for the next run in
``target/fuzz-importers``. From nothing kept and with the same ``--seed`` it makes the same inputs, as far as the time
goes. It takes Linux, and the packages whose files are read; what is not installed is said in a
line that starts with NOT RUN. It does not fuzz HDF5's, protobuf's or PyTorch's own readers, nor pickles.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from formats import TARGETS

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[2] / "target" / "fuzz-importers"
# libFuzzer's exit codes.
DEATHS = {
    70: "a hang",
    71: "too much memory",
    77: "an exception outside of the importer",
    -11: "a crash",
    -6: "a crash",
}
# Loading the other libraries takes longer than this only on a machine that is busy.
STARTUP = 180


class Row(NamedTuple):
    """What came of one importer."""

    format: str
    executions: int
    models: int
    refused: int
    edges: int
    features: int
    found: int


def fuzz(name: str, seconds: float, folder: Path, seed: int) -> Row:
    """Fuzz one importer; a process that dies is followed by another for the time that is left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "counts").unlink(missing_ok=True)
    finds = folder / "finds"
    before = set(finds.iterdir()) if finds.is_dir() else set()
    for old in before:
        old.unlink()
    edges = features = deaths = 0
    end = time.monotonic() + seconds
    while (left := round(end - time.monotonic())) > 0 and deaths < 20:
        # After a death with another seed: it would die of the same.
        again = f"--seed={seed + deaths if seed else 0}"
        command = [sys.executable, str(HERE / "one_format.py"), name, str(folder), str(left), again]
        log = folder / "log"
        with log.open("wb") as file:
            try:
                code = subprocess.run(
                    command, stdout=file, stderr=file, timeout=left + STARTUP, env=os.environ | {"PYTHONHASHSEED": "0"}
                ).returncode
            except subprocess.TimeoutExpired:
                code = 70
        text = log.read_text(errors="replace")
        for cov, ft in re.findall(r"cov: (\d+) ft: (\d+)", text):
            edges, features = max(edges, int(cov)), max(features, int(ft))
        if code == 0:
            break
        deaths += 1
        print(f"FOUND {name}: {DEATHS.get(code, f'exit code {code}')}; the log is {log}")
        print("".join(f"    {line}\n" for line in text.splitlines()[-12:]))
        (folder / f"log-{deaths}").write_text(text)
        if "stat" not in text and not edges:
            # It did not come as far as fuzzing: the next would not either.
            break
    kept = sorted(path for path in finds.iterdir() if path.suffix != ".txt") if finds.is_dir() else []
    for path in kept:
        said = path.with_suffix(".txt")
        what = said.read_text().partition("\n")[0] if said.exists() else "ended the process"
        print(f"FOUND {name}: {what}\n    input: {path}\n    repeat: {command_to_repeat(name, path)}")
    counts = struct.unpack("4q", (folder / "counts").read_bytes()) if (folder / "counts").exists() else (0,) * 4
    return Row(name, counts[0], counts[1], counts[2], edges, features, max(len(kept), deaths))


def command_to_repeat(name: str, path: Path) -> str:
    """What runs one input again, and shows it."""
    return f"{sys.executable} {Path(sys.argv[0])} --format {name} --repeat {path}"


def main() -> int:
    """Fuzz all formats, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="in all, besides loading the other libraries")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn; 0 is another each time")
    parser.add_argument("--format", choices=TARGETS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the corpus and what is found")
    parser.add_argument("--repeat", type=Path, metavar="INPUT", help="run this input of --format alone")
    given = parser.parse_args()
    names = [given.format] if given.format else list(TARGETS)
    missing = [package for package in ("atheris", "lstm_rs") if find_spec(package) is None]
    if missing or not sys.platform.startswith("linux"):
        print(f"NOT RUN: the fuzzing of the importers: it takes Linux and {', '.join(missing) or 'nothing else'}")
        return 0
    if given.repeat is not None:
        if given.format is None:
            parser.error("--repeat takes --format")
        command = [sys.executable, str(HERE / "one_format.py"), given.format, ".", "0", "--repeat", str(given.repeat)]
        return subprocess.run(command).returncode
    rows = []
    for name in names:
        absent = [package for package in TARGETS[name][0] if find_spec(package) is None]
        if absent:
            print(f"NOT RUN: the fuzzing of {name}: {', '.join(absent)} is not installed")
            continue
        rows.append(fuzz(name, given.seconds / len(names), given.folder / name, given.seed))
        print(f"{name}: {rows[-1].executions} executions, found {rows[-1].found}", flush=True)
    print(f"\n{'format':<12}" + "".join(f"{title:>12}" for title in Row._fields[1:]))
    for row in rows:
        print(f"{row.format:<12}" + "".join(f"{number:>12}" for number in row[1:]))
    broken = [row.format for row in rows if row.found or not (row.models and row.refused and row.edges)]
    print(f"\nfound something in {', '.join(broken)}" if broken else "\nfound nothing")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
