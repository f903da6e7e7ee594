"""What an importer owes to any input: a model that answers, or an error of the kinds that its documentation lists.

An error counts as one of these if the package itself raised it on purpose, in a sentence that says what of the input is
wrong: Python's or NumPy's own words that came through by chance are a find, also where their class is a documented one.
So are a warning, an error of any other class, more than `SECONDS` of CPU time, more than `BYTES` of memory, and
anything that a refused input has changed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lstm_rs
import numpy as np

SECONDS = 5.0
# An input has at most 64 KiB, and no reader needs a thousand times as much.
BYTES = 256 << 20

PACKAGE = os.path.dirname(os.path.abspath(lstm_rs.__file__)) + os.sep
# Errors out of Rust have no line of Python; they begin with the argument's name.
_NAMED = re.compile(r"['\"]?[^:]+: .", re.DOTALL)
_NAMED_BY_RUST = re.compile(r"[a-z_0-9]+: .", re.DOTALL)


@dataclass
class Attempt:
    """An input, ready to be given to an importer.

    Attributes
    ----------
    load : callable
        Gives the input to the importer.
    answer : callable
        Asks what has been made for an answer, and checks its shape.
    after_refusal : callable
        Checks that the error has left nothing changed.
    errors : tuple of exception classes
        Those that are documented.
    shown : str
        The input in words, to repeat it by.
    """

    load: Callable[[], Any]
    answer: Callable[[Any], None]
    after_refusal: Callable[[Exception], None] = field(default=lambda _: None)
    errors: tuple[type[Exception], ...] = (ValueError, TypeError, OSError)
    shown: str = ""


@dataclass
class Find:
    """A broken promise."""

    what: str
    where: str
    message: str
    trace: str = ""

    @property
    def signature(self) -> str:
        """What two inputs that show the same defect have in common."""
        return f"{self.what} at {self.where}"


def judge(attempt: Attempt) -> Find | bool:
    """Make an attempt; True if a model came of it, False if the input was refused, or what is wrong."""
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    result = _judged(attempt)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    if not isinstance(result, Find):
        if seconds > SECONDS:
            return Find("more than 5 s", "load", f"{seconds:.1f} s")
        if grown > BYTES:
            return Find("more than 256 MiB", "load", f"{grown >> 20} MiB")
    return result


def _judged(attempt: Attempt) -> Find | bool:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"lstm_rs\b")
        try:
            made = attempt.load()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if not isinstance(error, attempt.errors):
                return _found(type(error).__name__, error)
            if any(isinstance(one, MemoryError) for one in _chain(error)):
                return _found("MemoryError", error)
            if not _deliberate(error):
                return _found(f"{type(error).__name__} by chance", error)
            try:
                attempt.after_refusal(error)
            except AssertionError as changed:
                return Find("changed by what was refused", _where(error), str(changed), _trace(error))
            return False
        try:
            attempt.answer(made)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return _found(f"{type(error).__name__} in the answer", error)
    return True


def _found(what: str, error: BaseException) -> Find:
    message = str(error) if not isinstance(error, RecursionError) else "recursion"
    return Find(what, _where(error), message[:300], _trace(error))


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-12))[-4000:]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _frames(error: BaseException) -> list[tuple[str, int]]:
    return [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]


def _where(error: BaseException) -> str:
    """The innermost line of the package."""
    ours = [(name, line) for name, line in _frames(error) if name.startswith(PACKAGE)]
    return f"{ours[-1][0].removeprefix(PACKAGE)}:{ours[-1][1]}" if ours else "no line of lstm_rs"


def _deliberate(error: BaseException) -> bool:
    """Say whether the package raised it itself, in words of its own."""
    name, line = _frames(error)[-1]
    if isinstance(error, OSError) and error.filename is not None:
        return True
    if not name.startswith(PACKAGE) or not error.args:
        return False
    if line in _raising_lines(name):
        return bool(_NAMED.match(str(error)))
    return bool(_NAMED_BY_RUST.match(str(error)))


@functools.cache
def _raising_lines(name: str) -> frozenset[int]:
    """The lines of the `raise` statements of a file."""
    with open(name, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return frozenset(line for node in raises for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


# ----------------------------- answers


def check_lstm(lstm: Any) -> None:
    """A layer has finite weights, says what it is, and runs."""
    assert isinstance(lstm, lstm_rs.LSTM), f"expected an LSTM, got {type(lstm).__name__}"
    assert repr(lstm).startswith("LSTM(")
    for name, array in lstm.weights.items():
        assert np.isfinite(array).all(), f"{name}: not finite"
    if lstm.input_size > 1 << 16:
        return
    directions, outputs = 2 if lstm.bidirectional else 1, lstm.proj_size or lstm.hidden_size
    shape = (1, 2, lstm.input_size) if lstm.batch_first else (2, 1, lstm.input_size)
    y, (h, c) = lstm(np.full(shape, 0.5, lstm.dtype))
    assert y.shape == (*shape[:2], directions * outputs), f"y of shape {y.shape}"
    assert h.shape == (lstm.num_layers * directions, 1, outputs), f"h of shape {h.shape}"
    assert c.shape == (lstm.num_layers * directions, 1, lstm.hidden_size), f"c of shape {c.shape}"


def same_arrays(before: dict[str, np.ndarray], after: dict[str, np.ndarray], what: str) -> None:
    """The same names and the same bits."""
    assert list(before) == list(after), f"{what}: other names"
    for name, array in before.items():
        assert array.dtype == after[name].dtype and array.tobytes() == after[name].tobytes(), f"{what}: {name}"


@functools.cache
def documented(function: Any) -> tuple[type[Exception], ...]:
    """The classes of errors that a function's documentation lists, but for a package that is not installed."""
    import builtins

    text = inspect.getdoc(function) or ""
    raises = text.partition("\nRaises\n------\n")[2]
    names = []
    for line in raises.splitlines():
        if re.fullmatch(r"-+", line):
            names.pop()
            break
        if line and not line.startswith(" "):
            names += line.split(", ")
    classes = tuple(getattr(builtins, name) for name in names if name and name != "ImportError")
    assert classes, f"{function}: its documentation lists no errors"
    return classes
