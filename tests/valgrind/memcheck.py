"""Looks for memory that is read or written where it must not be, not written, or lost: ``just memcheck``.

It runs `walk.py`, which calls everything in the compiled module, under valgrind's memcheck: on the scalar path and on
AVX2, as this valgrind knows no AVX-512. An error counts that has the compiled module among its callers, or among those
who made the memory. What the interpreter and NumPy do by themselves does not, nor what is lost of what is made once:
CPython makes the names in a module immortal, and the numpy crate its table of borrowed arrays, and leave them behind.

It does not see what one call leaves in a workspace for the next, which is written memory, nor a read in one array that
ends in another part of it, but for what `walk.py` forbids. Whether answers are right is for the other tests.

    python tests/valgrind/memcheck.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from under_valgrind import LIBRARY, MODULE, missing, prepare, run, version

OPTIONS = [
    "--tool=memcheck",
    # A load of 32 bytes that ends behind an array is no less an error where its start is aligned.
    "--partial-loads-ok=no",
    # As far behind an array as a tile is wide.
    "--redzone-size=512",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--error-limit=no",
    "--num-callers=40",
    # A worker that waits for the others keeps the only thread that valgrind lets run.
    "--fair-sched=yes",
    "--xml=yes",
]


IMPORT = "__pyo3_module_exec"
"""The function that fills the module when it is imported."""
TABLE = "numpy::borrow::shared::insert_shared"
"""The function that makes the table of borrowed arrays at the first call, in one block."""


def errors(written: ElementTree.Element) -> Iterator[tuple[str, bool, int, list[str]]]:
    """Read what memcheck has written: of each error its kind, whether it is ours, how often it came, and where."""
    times = {pair.findtext("unique"): int(pair.findtext("count") or 1) for pair in written.iterfind("errorcounts/pair")}
    for error in written.iterfind("error"):
        frames = error.findall("stack/frame")
        kind = error.findtext("kind") or ""
        made_by = " ".join(frame.findtext("fn") or "" for frame in frames)
        once = IMPORT in made_by or (TABLE in made_by and error.findtext("xwhat/leakedblocks") == "1")
        ours = any((frame.findtext("obj") or "").endswith(MODULE) for frame in frames)
        ours &= not (once and kind.startswith("Leak_"))
        said = [error.findtext("what") or error.findtext("xwhat/text") or ""]
        for frame in frames:
            place = f"{frame.findtext('file')}:{frame.findtext('line')}" if frame.findtext("file") else ""
            said.append(f"    {frame.findtext('fn') or '?'} {place or frame.findtext('obj') or ''}")
        yield kind, ours, times.get(error.findtext("unique"), 1), said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the compiled module, with its symbols")
    arguments = parser.parse_args()
    if lacks := missing():
        print(f"NOT RUN: memcheck: {lacks}")
        return 0
    print(f"{version('valgrind')}, Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.library)
        code = run(folder, [*OPTIONS, f"--xml-file={folder / 'errors.xml'}"], "walk.py")
        found = list(errors(ElementTree.parse(folder / "errors.xml").getroot()))
    others = Counter(kind for kind, ours, _, _ in found if not ours)
    if others:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        print(f"not of the compiled module, or made once: {listed}")
    counted = [(kind, times, said) for kind, ours, times, said in found if ours]
    for kind, times, said in counted:
        print(f"\n{kind}, {times} times: " + "\n".join(said))
    print(f"{len(counted)} errors of the compiled module; the calls ended with {code}")
    return int(bool(counted or code))


if __name__ == "__main__":
    sys.exit(main())
