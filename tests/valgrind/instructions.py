"""Counts the instructions of fixed calls, and holds them against those on record: ``just instructions``.

A time says little on a machine that others use; the number of instructions is the same from run to run. Counted is what
the compiled module executes, and the C library where the module calls it (copies, zeros, memory), on AVX2 and one
thread, under valgrind's callgrind. The instructions of Python and NumPy are printed and held against nothing: they
change with their versions. Cache misses and cycles are not looked at: fewer instructions need not be faster, and
AVX-512 is not seen at all, as this valgrind does not know it.

    python tests/valgrind/instructions.py            # fails where a call takes over 2 % more than on record
    python tests/valgrind/instructions.py --record   # takes what it counts for the record, after a change that is meant
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from under_valgrind import FOLDER, LIBRARY, MODULE, missing, prepare, run, version

RECORD = FOLDER / "instructions.json"
ALLOWED = 0.02
OPTIONS = ["--tool=callgrind", "--instr-atstart=no"]
CALLS = re.compile(r"desc: Trigger: Client Request: (\d+) x (.*)")
NAME = re.compile(r"\((\d+)\)(?: (.*))?")
"""How callgrind writes a name: with its number the first time, then by its number alone."""
C_LIBRARY = re.compile(r"/libc[.-][^/]*$")


def read(lines: Iterable[str]) -> tuple[str, int, int]:
    """Read what callgrind has written of one call: its name, its instructions, and those of Python and NumPy."""
    call, times, own, all_of_them = "", 1, 0, 0
    names: dict[str, str] = {}
    here = there = ""
    inclusive = False

    def known(text: str) -> str:
        number, name = NAME.fullmatch(text).groups()
        return names.setdefault(number, name) if name else names[number]

    for line in lines:
        key, _, value = line.rstrip("\n").partition("=")
        if match := CALLS.match(line):
            times, call = int(match[1]), match[2]
        elif key == "ob":
            here = there = known(value)
        elif key == "cob":
            there = known(value)
        elif key == "calls":
            inclusive = True
        elif line[:1] in "+-*0123456789" and line.strip():
            cost = int(line.split()[1])
            if not inclusive:
                all_of_them += cost
            # Of a call, the next line has what all of it takes.
            if here.endswith(MODULE) and (not inclusive or C_LIBRARY.search(there)):
                own += cost
            if inclusive:
                inclusive, there = False, here
    return call, round(own / times), round((all_of_them - own) / times)


def judge(counts: dict[str, int], recorded: dict[str, int]) -> tuple[list[str], list[str]]:
    """Say what fails, and what is less than on record."""
    wrong = [f"{call}: there is no record of it" for call in counts if call not in recorded]
    wrong += [f"{call}: it is on record, and was not counted" for call in recorded if call not in counts]
    fewer = []
    for call in counts.keys() & recorded.keys():
        now, then = counts[call], recorded[call]
        said = f"{call}: {now:,} instructions, {abs(now / then - 1):.1%} {{}} than the {then:,} on record"
        if now - then > ALLOWED * then:
            wrong.append(said.format("more"))
        elif then - now > ALLOWED * then:
            fewer.append(said.format("fewer"))
    return sorted(wrong), sorted(fewer)


def count(library: Path) -> dict[str, tuple[int, int]]:
    """Run the calls: the instructions of each, ours and the others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, library)
        if run(folder, [*OPTIONS, f"--callgrind-out-file={folder / 'out'}"], "counted.py"):
            raise SystemExit("instructions: the calls failed")
        found = {}
        for path in sorted(folder.glob("out.*"), key=lambda path: int(path.suffix[1:])):
            with path.open() as file:
                call, *counts = read(file)
            if call:
                found[call] = tuple(counts)
    return found


def made_with() -> dict[str, str]:
    import numpy as np

    versions = {"rustc": version("rustc"), "Python": sys.version.split()[0], "NumPy": np.__version__}
    return versions | {"valgrind": version("valgrind"), "instruction set": "avx2"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the compiled module")
    parser.add_argument("--record", action="store_true", help="write what is counted to the record")
    arguments = parser.parse_args()
    if lacks := missing():
        print(f"NOT RUN: instructions: {lacks}")
        return 0
    found = count(arguments.library)
    if not found:
        print("instructions: nothing was counted")
        return 1
    counts = {call: own for call, (own, _) in found.items()}
    now = made_with()
    record: dict[str, Any] = (
        json.loads(RECORD.read_text()) if RECORD.exists() else {"made with": {}, "instructions": {}}
    )
    recorded = record["instructions"]
    print(f"\n{'instructions of one call':<58}{'now':>12}{'on record':>12}{'':>9}{'others':>10}")
    for call, (own, others) in found.items():
        change = f"{own / recorded[call] - 1:+.2%}" if call in recorded else ""
        print(f"{call:<58}{own:>12,}{recorded.get(call, 0):>12,}{change:>9}{others:>10,}")
    if arguments.record:
        RECORD.write_text(json.dumps({"made with": now, "instructions": counts}, indent=1) + "\n")
        print(f"written to {RECORD.name}")
        return 0
    wrong, fewer = judge(counts, recorded)
    then = record["made with"]
    differs = [
        f"{name} {now[name]} where the record has {then.get(name)}" for name in now if now[name] != then.get(name)
    ]
    for line in differs:
        print(f"note: {line}")
    for line in fewer:
        print(f"fewer: {line}: record anew, so that it stays so")
    for line in wrong:
        print(f"FAILED: {line}")
    if wrong and now["rustc"] != then.get("rustc"):
        print(f"the compiler is another one, {now['rustc']} for {then.get('rustc')}: that alone can be the cause")
    if not wrong:
        print(f"{len(counts)} calls: none takes over {ALLOWED:.0%} more instructions than on record")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
