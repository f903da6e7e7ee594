"""The examples in the docstrings, run on the modules as they are installed."""

import doctest
import importlib
import inspect
import pkgutil

import lstm_rs
import pytest

MODULES = ["lstm_rs", *(module.name for module in pkgutil.walk_packages(lstm_rs.__path__, "lstm_rs."))]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_has_an_example():
    public = {name: getattr(module, name) for module in (lstm_rs, lstm_rs.reference) for name in module.__all__}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    assert len(functions) >= 8
    assert [name for name, function in functions.items() if ">>> " not in (function.__doc__ or "")] == []
