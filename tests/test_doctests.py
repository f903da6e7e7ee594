"""The examples in the docstrings, run on the modules as they are installed."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import lstm_rs
import pytest

# `__init__` files of packages are imported on the way, and one of them needs PyTorch.
WALK = pkgutil.walk_packages(lstm_rs.__path__, "lstm_rs.", onerror=lambda name: None)
MODULES = ["lstm_rs", *(module.name for module in WALK)]


PUBLIC = ("datasets", "estimators", "plot", "reference", "train")


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples(name):
    if name.startswith("lstm_rs.torch"):
        pytest.importorskip("torch")
    module, runner, skipped = importlib.import_module(name), doctest.DocTestRunner(), []
    # What an example needs besides NumPy, by the function that has it.
    requires = getattr(module, "__doctest_requires__", {})
    for example in doctest.DocTestFinder().find(module, name):
        packages = requires.get(example.name.removeprefix(f"{name}."), ())
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            skipped.append(f"{example.name} needs {', '.join(missing)}")
        else:
            runner.run(example)
    assert runner.summarize().failed == 0
    if skipped:
        pytest.skip("; ".join(skipped))


def test_every_public_function_has_an_example():
    modules = [lstm_rs, *(importlib.import_module(f"lstm_rs.{name}") for name in PUBLIC)]
    public = [getattr(module, name) for module in modules for name in module.__all__]
    functions = [value for value in public if inspect.isfunction(value)]
    assert len(functions) >= 10
    assert [f"{f.__module__}.{f.__name__}" for f in functions if ">>> " not in (f.__doc__ or "")] == []


def test_the_examples_of_the_readme(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    namespace = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), namespace)
    assert len(capsys.readouterr().out.split()) >= 11
    assert namespace["grads"].x.shape == (20, 4, 3)
