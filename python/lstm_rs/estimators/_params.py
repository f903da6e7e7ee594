"""An estimator's parameters: read from the signature of its `__init__`, set, shown, and checked.

scikit-learn's conventions, without scikit-learn: `__init__` stores its arguments and does nothing else, so that any of
them can be changed afterwards; they are checked when `fit` begins. Its `clone`, pipelines and searches need no more.
"""

from __future__ import annotations

import inspect
import math
import operator
from typing import Any

import numpy as np


class Parameters:
    """`get_params`, `set_params` and the repr of a class whose `__init__` stores its arguments by their names."""

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Names and defaults, in the order of the signature."""
        signature = inspect.signature(cls.__init__)
        return {name: parameter.default for name, parameter in signature.parameters.items() if name != "self"}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give all parameters by name.

        Parameters
        ----------
        deep : bool, default True
            For scikit-learn; no parameter is an estimator.

        Returns
        -------
        dict
            The arguments of the constructor as they are now.
        """
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **params: Any) -> Any:
        """Set parameters; they count from the next `fit` on.

        Parameters
        ----------
        **params
            By the names of the constructor's arguments.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter; nothing is set then.
        """
        known = self._defaults()
        for name in params:
            if name not in known:
                raise ValueError(f"{type(self).__name__}: no parameter {name!r}: there are {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        said = [
            f"{name}={value!r}"
            for name, default in self._defaults().items()
            if (value := getattr(self, name)) is not default and not _same(value, default)
        ]
        return f"{type(self).__name__}({', '.join(said)})"


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def integer(name: str, value: Any, least: int) -> int:
    """An int from `least` on; NumPy's are some too."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def real(name: str, value: Any, low: float, high: float = math.inf, *, low_open: bool = False) -> float:
    """A float of [low, high), or of (low, high)."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, float | int | np.floating | np.integer):
        raise TypeError(f"{name}: expected a float, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if not ((low < number if low_open else low <= number) and number < high):
        least = f"more than {low:g}" if low_open else f"at least {low:g}"
        most = "finite" if high == math.inf else f"less than {high:g}"
        raise ValueError(f"{name}: expected {least} and {most}, got {value!r}")
    return number


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected a bool, got {value!r}")
    return bool(value)


def generator(random_state: Any) -> np.random.Generator:
    """Make a generator of its own: the same for the same int; a generator that is given moves on by one number."""
    if random_state is None:
        return np.random.default_rng()
    if isinstance(random_state, np.random.Generator):
        return np.random.default_rng(int(random_state.integers(2**63)))
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(int(random_state.randint(2**31 - 1)))
    try:
        seed = integer("random_state", random_state, 0)
    except TypeError:
        raise TypeError(
            f"random_state: expected an int, None, a numpy Generator or RandomState, got {random_state!r}"
        ) from None
    return np.random.default_rng(seed)
