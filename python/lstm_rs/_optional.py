"""Packages that are there for one function alone: imported when it is called, and asked for by name."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(package: str, function: str, extra: str) -> ModuleType:
    """Import a package, or say which function needs it and how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        root = package.partition(".")[0]
        raise ImportError(f"{function} needs {root}: pip install 'lstm-rs[{extra}]'") from error
