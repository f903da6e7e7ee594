"""Learning rates over time: callables from the number of steps done, 0 at first, to the rate of the next step.

A step is one update of the weights, not an epoch. They are frozen dataclasses: they pickle, compare and print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class constant:
    """The same rate always.

    Parameters
    ----------
    rate : float
        The rate.

    Examples
    --------
    >>> from lstm_rs.train import constant
    >>> constant(0.1)(1000)
    0.1
    """

    rate: float

    def __post_init__(self) -> None:
        _rate("rate", self.rate)

    def __call__(self, steps: int) -> float:
        """The rate after so many steps."""
        return self.rate


@dataclass(frozen=True)
class linear:
    """From `rate` to `final` along a straight line, and `final` from there on.

    Parameters
    ----------
    rate : float
        The first rate.
    steps : int
        How many steps the line takes.
    final : float, default 0.0
        The last rate.

    Examples
    --------
    >>> from lstm_rs.train import linear
    >>> [linear(0.1, 10)(k) for k in (0, 5, 10, 11)]
    [0.1, 0.05, 0.0, 0.0]
    """

    rate: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _rate("rate", self.rate)
        _rate("final", self.final)
        _count("steps", self.steps, 1)

    def __call__(self, steps: int) -> float:
        """The rate after so many steps."""
        return self.rate + (self.final - self.rate) * min(steps / self.steps, 1.0)


@dataclass(frozen=True)
class cosine:
    """Up along a straight line for `warmup` steps, then down to `final` along half a cosine.

    Parameters
    ----------
    rate : float
        The highest rate.
    steps : int
        How many steps all of it takes, the warm-up included; `final` from there on.
    warmup : int, default 0
        Steps of the warm-up: the first has the rate ``rate / warmup``.
    final : float, default 0.0
        The last rate.

    Notes
    -----
    ``final + (rate - final) * (1 + cos(pi * k / K)) / 2``, of Loshchilov & Hutter [1]_.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, eq. 5.

    Examples
    --------
    >>> from lstm_rs.train import cosine
    >>> [round(cosine(0.1, 12, warmup=2)(k), 3) for k in (0, 1, 2, 7, 12)]
    [0.05, 0.1, 0.1, 0.05, 0.0]
    """

    rate: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _rate("rate", self.rate)
        _rate("final", self.final)
        _count("warmup", self.warmup, 0)
        _count("steps", self.steps, self.warmup + 1)

    def __call__(self, steps: int) -> float:
        """The rate after so many steps."""
        if steps < self.warmup:
            return self.rate * (steps + 1) / self.warmup
        along = min((steps - self.warmup) / (self.steps - self.warmup), 1.0)
        return self.final + (self.rate - self.final) * (1.0 + math.cos(math.pi * along)) / 2.0


@dataclass(frozen=True)
class exponential:
    """Multiplied by `decay` after every step.

    Parameters
    ----------
    rate : float
        The first rate.
    decay : float
        The factor of each step, above 0 and at most 1.

    Examples
    --------
    >>> from lstm_rs.train import exponential
    >>> round(exponential(0.1, 0.5)(3), 4)
    0.0125
    """

    rate: float
    decay: float

    def __post_init__(self) -> None:
        _rate("rate", self.rate)
        _factor("decay", self.decay)

    def __call__(self, steps: int) -> float:
        """The rate after so many steps."""
        return float(self.rate * self.decay**steps)


@dataclass(frozen=True)
class step:
    """Multiplied by `factor` after every so many steps.

    Parameters
    ----------
    rate : float
        The first rate.
    every : int
        After so many steps.
    factor : float, default 0.1
        Above 0 and at most 1.

    Examples
    --------
    >>> from lstm_rs.train import step
    >>> [step(0.5, 10, 0.5)(k) for k in (0, 9, 10, 20)]
    [0.5, 0.5, 0.25, 0.125]
    """

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _rate("rate", self.rate)
        _count("every", self.every, 1)
        _factor("factor", self.factor)

    def __call__(self, steps: int) -> float:
        """The rate after so many steps."""
        return float(self.rate * self.factor ** (steps // self.every))


def _rate(name: str, value: float) -> None:
    if not (value >= 0.0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite rate from 0 on, got {value!r}")


def _factor(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name}: expected a factor above 0 and at most 1, got {value!r}")


def _count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")
