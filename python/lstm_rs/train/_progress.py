"""How far training is: one line that is rewritten on a terminal, about five lines elsewhere."""

from __future__ import annotations

import sys
import time

_EVERY = 0.1
"""Seconds between two writings of the line: nobody reads faster."""


class Progress:
    """The line, on stderr."""

    def __init__(self, epochs: int, done: int, wanted: bool) -> None:
        self._epochs = epochs
        self._first = done
        self._wanted = wanted and sys.stderr is not None
        self._start = time.perf_counter()
        self._written = -_EVERY
        self._width = 0
        self._line = ""
        self._terminal = self._wanted and sys.stderr.isatty()

    def show(self, epoch: int, loss: float, validation: float | None) -> None:
        """Say where training is after so many epochs."""
        if not self._wanted:
            return
        passed = time.perf_counter() - self._start
        left = passed / (epoch - self._first) * (self._epochs - epoch)
        parts = [f"epoch {epoch}/{self._epochs}", f"loss {loss:.4g}"]
        if validation is not None:
            parts.append(f"validation {validation:.4g}")
        parts.append(f"{left:.1f} s left" if epoch < self._epochs else f"{passed:.1f} s")
        self._line = "   ".join(parts)
        if self._terminal:
            if passed - self._written >= _EVERY:
                self._written = passed
                self._write()
        elif epoch == self._epochs or epoch % max(1, self._epochs // 5) == 0:
            print(self._line, file=sys.stderr, flush=True)
            self._line = ""

    def close(self) -> None:
        """Show the last epoch, and leave the line."""
        if self._line:
            if self._terminal:
                self._write()
                print(file=sys.stderr, flush=True)
            else:
                print(self._line, file=sys.stderr, flush=True)
            self._line = ""

    def _write(self) -> None:
        self._width = max(self._width, len(self._line))
        print(f"\r{self._line:<{self._width}}", end="", file=sys.stderr, flush=True)
