"""What `memcheck.py` and `instructions.py` share: the package with the library to look at, and how it is run."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
LIBRARY = ROOT / "target/asm/release/liblstm_rs.so"
MODULE = "_core.abi3.so"
"""What the library is called in the package, and so in what valgrind writes."""


def missing() -> str | None:
    """Say what this machine lacks, if anything."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "it takes Linux on x86-64"
    for command in ("valgrind", "cc"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    source = "#include <valgrind/memcheck.h>\n#include <valgrind/callgrind.h>\n"
    if subprocess.run(["cc", "-E", "-x", "c", "-"], input=source, text=True, capture_output=True).returncode:
        return "valgrind's headers are not installed"
    return None


def version(command: str) -> str:
    """What `command --version` says, in one line."""
    return subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def prepare(folder: Path, library: Path = LIBRARY) -> None:
    """Put the package with this library, and the requests, into `folder`."""
    if not library.is_file():
        raise SystemExit(f"{library} is not there; `just memcheck` and `just instructions` build it")
    source = ROOT / "python/lstm_rs"
    # An editable installation puts its own library there.
    shutil.copytree(source, folder / "lstm_rs", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(library, folder / "lstm_rs" / MODULE)
    requests = [str(FOLDER / "requests.c"), "-o", str(folder / "requests.so")]
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", *requests, "-ldl"], check=True)


def run(folder: Path, tool: list[str], script: str, *arguments: str, **more: str) -> int:
    """Run a script of this folder under valgrind, with the package in `folder`: its exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_RS_")}
    environment |= {
        "LD_PRELOAD": str(folder / "requests.so"),
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'tests'}",
        # So that a block of Python is a block of valgrind.
        "PYTHONMALLOC": "malloc",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LSTM_RS_ISA": "avx2",
    } | more
    command = ["valgrind", "--quiet", *tool, sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, env=environment, cwd=folder, check=False).returncode


def requests() -> ctypes.CDLL:
    """Give the functions of requests.c, which this process was started with."""
    return ctypes.CDLL(None)
