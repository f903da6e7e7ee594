"""Ctrl-C that waits for the end of a batch."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """A block in which the first Ctrl-C is noted, and the second raises KeyboardInterrupt at once.

    Only in the main thread, which alone gets signals, and only in the place of Python's own handler: a program that has
    set another one keeps it, and one that ignores Ctrl-C goes on ignoring it.

    Attributes
    ----------
    noted : bool
        Has there been one?
    """

    def __init__(self) -> None:
        self.noted = False
        self._installed = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
                self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
