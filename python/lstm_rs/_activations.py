"""The activations of a `CellSpec` in NumPy, and their slopes: a part of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lstm_rs.cell import Activation, activation_parameters


def _sigmoid(x: Any) -> Any:
    """Compute 1/(1 + exp(-x)), written so that exp cannot overflow and the tail keeps its digits."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0, e) / (1.0 + e)


def _scaled_tanh_slope(a: Any, alpha: float, beta: float) -> Any:
    return alpha * beta * (1.0 - (a / alpha) ** 2) if alpha else np.zeros_like(a)


# Each as a function of its argument x, and its slope as a function of its value a.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (_sigmoid, lambda a: a * (1.0 - a)),
    "tanh": (np.tanh, lambda a: 1.0 - a * a),
    "identity": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(0.0, x), lambda a: np.where(a > 0.0, 1.0, 0.0)),
    "affine": (lambda x, alpha, beta: alpha * x + beta, lambda a, alpha, beta: np.full_like(a, alpha)),
    "leaky_relu": (lambda x, alpha: np.where(x < 0.0, alpha * x, x), lambda a, alpha: np.where(a > 0.0, 1.0, alpha)),
    "thresholded_relu": (lambda x, alpha: np.where(x <= alpha, 0.0, x), lambda a, alpha: np.where(a > 0.0, 1.0, 0.0)),
    "scaled_tanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), _scaled_tanh_slope),
    "hard_sigmoid": (
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0),
        lambda a, alpha, beta: np.where((a > 0.0) & (a < 1.0), alpha, 0.0),
    ),
    "elu": (
        lambda x, alpha: np.where(x > 0.0, x, alpha * np.expm1(x)),
        lambda a, alpha: np.where(a > 0.0, 1.0, a + alpha),
    ),
    "softsign": (lambda x: x / (1.0 + np.abs(x)), lambda a: (1.0 - np.abs(a)) ** 2),
    "softplus": (lambda x: np.logaddexp(0.0, x), lambda a: -np.expm1(-a)),
}


@np.errstate(all="ignore")
def activate(activation: Activation, x: np.ndarray) -> Any:
    """Apply an activation of a `CellSpec`.

    Parameters
    ----------
    activation : str or tuple
        As a `CellSpec` keeps it.
    x : array of float64
        Its argument.

    Returns
    -------
    array
        Shaped as `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import reference
    >>> reference.activate("hard_sigmoid", np.array([-9.0, 0.0, 1.0]))
    array([0. , 0.5, 0.7])
    """
    name, parameters = activation_parameters(activation)
    return _FUNCTIONS[name][0](x, *parameters)


@np.errstate(all="ignore")
def slope(activation: Activation, a: np.ndarray) -> Any:
    """Compute an activation's derivative from its value, which is what a tape holds.

    Parameters
    ----------
    activation : str or tuple
        As a `CellSpec` keeps it; a leaky relu, a thresholded relu or an elu with an alpha from 0 on.
    a : array of float64
        Its value.

    Returns
    -------
    array
        Shaped as `a`. At a corner, the slope of one of the sides: of a relu, that below.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import reference
    >>> reference.slope("sigmoid", np.array([0.0, 0.5, 1.0]))
    array([0.  , 0.25, 0.  ])
    """
    name, parameters = activation_parameters(activation)
    return _FUNCTIONS[name][1](a, *parameters)
