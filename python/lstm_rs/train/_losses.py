"""Losses with their gradients: means over all elements that count.

``f(prediction, target, lengths=None) -> Loss(value, gradient)``. With `lengths` (N,), prediction and target are
(T, N, ...) and only the first ``lengths[n]`` steps of sequence n count: what stands past them is never read, in the
target too, and its gradient is 0. The mean is that of PyTorch's ``reduction="mean"`` over what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lstm_rs.train._modules import refuse_masked


class Loss(NamedTuple):
    """A loss and its gradient.

    Attributes
    ----------
    value : float
        The mean.
    gradient : array
        With respect to the prediction, of its shape and dtype.
    """

    value: float
    gradient: np.ndarray


class LossFunction(Protocol):
    """What a model can be trained on. Set other options of a loss with `functools.partial`."""

    def __call__(self, prediction: np.ndarray, target: npt.ArrayLike, *, lengths: np.ndarray | None = None) -> Loss:
        """The loss of a prediction, and its gradient."""
        ...


def mse(prediction: np.ndarray, target: npt.ArrayLike, *, lengths: np.ndarray | None = None) -> Loss:
    """Mean squared error.

    Parameters
    ----------
    prediction : array
        float32 or float64.
    target : array
        Of the same shape; it is cast to the prediction's dtype.
    lengths : (N,) ints, optional
        The steps that count, of a prediction (T, N, ...).

    Returns
    -------
    Loss
        The mean of ``(prediction - target)**2``, and its gradient.

    Raises
    ------
    ValueError, TypeError
        If the shapes or the dtypes do not fit, or if nothing counts.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import mse
    >>> mse(np.array([[1.0], [5.0]]), np.array([[2.0], [3.0]]))
    Loss(value=2.5, gradient=array([[-1.],
           [ 2.]]))
    """
    return _elementwise(_mse, prediction, target, lengths)


def mae(prediction: np.ndarray, target: npt.ArrayLike, *, lengths: np.ndarray | None = None) -> Loss:
    """Mean absolute error.

    Parameters
    ----------
    prediction, target, lengths
        As in `mse`.

    Returns
    -------
    Loss
        The mean of ``abs(prediction - target)``, and its gradient: 0 where they are equal.

    Raises
    ------
    ValueError, TypeError
        As in `mse`.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import mae
    >>> mae(np.array([1.0, 5.0]), np.array([2.0, 3.0]))
    Loss(value=1.5, gradient=array([-0.5,  0.5]))
    """
    return _elementwise(_mae, prediction, target, lengths)


def huber(
    prediction: np.ndarray, target: npt.ArrayLike, *, delta: float = 1.0, lengths: np.ndarray | None = None
) -> Loss:
    """Huber's loss: squared where the error is small, absolute where it is large.

    Parameters
    ----------
    prediction, target, lengths
        As in `mse`.
    delta : float, default 1.0
        Where one goes over into the other.

    Returns
    -------
    Loss
        The mean of ``e**2 / 2`` where ``abs(e) <= delta`` and of ``delta * (abs(e) - delta / 2)`` elsewhere [1]_, and
        its gradient.

    Raises
    ------
    ValueError, TypeError
        As in `mse`; or if `delta` is not above 0.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import huber
    >>> huber(np.array([1.0, 5.0]), np.array([1.5, 3.0]))
    Loss(value=0.8125, gradient=array([-0.25,  0.5 ]))
    """
    if not delta > 0.0:
        raise ValueError(f"delta: expected more than 0, got {delta!r}")

    def formula(error: np.ndarray) -> tuple[float, np.ndarray]:
        clipped = np.clip(error, -delta, delta)
        # c (e - c / 2) is both branches: c = e in the middle, c = +-delta outside.
        return float((clipped * (error - 0.5 * clipped)).sum()), clipped

    return _elementwise(formula, prediction, target, lengths)


def cross_entropy(
    prediction: np.ndarray,
    target: npt.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    lengths: np.ndarray | None = None,
) -> Loss:
    """Cross-entropy of the softmax of logits.

    Parameters
    ----------
    prediction : (..., C) array
        Logits, float32 or float64.
    target : (...) ints
        The classes, from 0 to C - 1.
    label_smoothing : float, default 0.0
        The share of the target that is spread evenly over all classes [1]_, from 0 to less than 1.
    lengths : (N,) ints, optional
        The steps that count, of a prediction (T, N, C).

    Returns
    -------
    Loss
        The mean over all positions that count, and its gradient.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes, classes or `label_smoothing` do not fit, or if nothing counts.

    References
    ----------
    .. [1] C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception architecture for computer
       vision", CVPR 2016, section 7.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import cross_entropy
    >>> loss = cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    >>> round(loss.value, 6), loss.gradient[0]
    (1.386294, array([-0.375,  0.125,  0.125,  0.125]))
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing: expected from 0 to less than 1, got {label_smoothing!r}")
    _check_prediction(prediction)
    refuse_masked("target", target)
    labels = np.asarray(target)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"target: expected classes as integers, got {labels.dtype}")
    if prediction.ndim == 0 or labels.shape != prediction.shape[:-1]:
        raise ValueError(
            f"target: expected shape {prediction.shape[:-1]}, the prediction's {prediction.shape} without the classes, "
            f"got {labels.shape}"
        )
    classes = prediction.shape[-1]
    if lengths is None:
        logits, labels, mask = prediction.reshape(-1, classes), labels.reshape(-1), None
    else:
        mask = _mask(prediction, lengths)
        logits, labels = prediction[mask], labels[mask]
    count = labels.size
    if count == 0:
        raise ValueError(f"prediction: expected something that counts, got shape {prediction.shape} and no valid step")
    least, most = np.minimum.reduce(labels), np.maximum.reduce(labels)
    if least < 0 or most >= classes:
        raise ValueError(
            f"target: expected classes from 0 to {classes - 1}, as the prediction has {classes}, got {least} to {most}"
        )
    shifted = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    gradient = np.exp(shifted)
    total = np.add.reduce(gradient, axis=1, keepdims=True)
    gradient /= total
    rows = np.arange(count)
    # -log softmax is log(total) - shifted.
    share = 1.0 - label_smoothing
    value = float(np.log(total).sum()) - share * float(shifted[rows, labels].sum())
    gradient[rows, labels] -= share
    if label_smoothing > 0.0:
        value -= label_smoothing / classes * float(shifted.sum())
        gradient -= label_smoothing / classes
    gradient /= count
    return Loss(value / count, _scatter(gradient, mask, prediction))


def _mse(error: np.ndarray) -> tuple[float, np.ndarray]:
    return float(np.square(error).sum()), 2.0 * error


def _mae(error: np.ndarray) -> tuple[float, np.ndarray]:
    return float(np.abs(error).sum()), np.sign(error)


def _elementwise(
    formula: Callable[[np.ndarray], tuple[float, np.ndarray]],
    prediction: np.ndarray,
    target: npt.ArrayLike,
    lengths: np.ndarray | None,
) -> Loss:
    """The mean of a formula of the error: it gives the sum, and the gradient of the sum."""
    _check_prediction(prediction)
    refuse_masked("target", target)
    wanted = np.asarray(target)
    if wanted.dtype.kind not in "fiu":
        raise TypeError(f"target: expected numbers, got {wanted.dtype}")
    if wanted.shape != prediction.shape:
        raise ValueError(f"target: expected shape {prediction.shape}, as the prediction has it, got {wanted.shape}")
    if lengths is None:
        mask, error = None, np.subtract(prediction, wanted, dtype=prediction.dtype, casting="same_kind")
    else:
        mask = _mask(prediction, lengths)
        error = np.subtract(prediction[mask], wanted[mask], dtype=prediction.dtype, casting="same_kind")
    if error.size == 0:
        raise ValueError(f"prediction: expected something that counts, got shape {prediction.shape} and no valid step")
    value, gradient = formula(error)
    gradient /= error.size
    return Loss(value / error.size, _scatter(gradient, mask, prediction))


def _check_prediction(prediction: np.ndarray) -> None:
    if not isinstance(prediction, np.ndarray) or prediction.dtype.kind != "f":
        got = prediction.dtype if isinstance(prediction, np.ndarray) else type(prediction).__name__
        raise TypeError(f"prediction: expected an array of float32 or float64, got {got}")


def _mask(prediction: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Which steps count (T, N)."""
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if prediction.ndim < 2 or lengths.shape != prediction.shape[1:2]:
        raise ValueError(
            f"lengths: expected one for each of the N sequences of a prediction (T, N, ...), got shape {lengths.shape} "
            f"for a prediction {prediction.shape}"
        )
    steps = prediction.shape[0]
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(f"lengths: expected 0 to {steps}, the steps, got {lengths.min()} to {lengths.max()}")
    mask: np.ndarray = np.arange(prediction.shape[0])[:, None] < lengths
    return mask


def _scatter(gradient: np.ndarray, mask: np.ndarray | None, prediction: np.ndarray) -> np.ndarray:
    """The gradient where it belongs, and 0 elsewhere."""
    if mask is None:
        return gradient.reshape(prediction.shape)
    full = np.zeros_like(prediction)
    full[mask] = gradient
    return full
