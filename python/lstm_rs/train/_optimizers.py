"""Optimizers: SGD, Adam and AdamW by PyTorch's update rules, and the clipping of gradients by their norm.

An optimizer is an `_update` of the flat vectors of `Optimizer`, in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lstm_rs.train._optimizer import Modules, Optimizer, Schedule


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    Parameters
    ----------
    modules, learning_rate
        As in `Optimizer`.
    momentum : float, default 0.0
        From 0 to less than 1.
    nesterov : bool, default False
        Look one step ahead along the momentum.
    weight_decay : float, default 0.0
        So much of each weight is added to its gradient.

    Raises
    ------
    ValueError
        If a number is out of its range, or `nesterov` comes without momentum.

    Notes
    -----
    With gradient g, weight w, velocity v and rate r, as ``torch.optim.SGD`` does it [1]_::

        g += weight_decay * w
        v  = momentum * v + g
        w -= r * v                     (nesterov: r * (g + momentum * v))

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep
       learning", ICML 2013.

    Examples
    --------
    >>> import lstm_rs
    >>> from lstm_rs.train import SGD, Linear, linear
    >>> SGD([lstm_rs.LSTM(3, 8), Linear(8, 1)], linear(0.1, steps=1000), momentum=0.9)
    <SGD over 393 weights after 0 steps>
    """

    def __init__(
        self,
        modules: Modules,
        learning_rate: float | Schedule,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _within("momentum", momentum)
        _decay(weight_decay)
        if nesterov and momentum == 0.0:
            raise ValueError("nesterov: expected a momentum above 0 with it, got 0")
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        if momentum > 0.0:
            self._slots = ("velocity",)
        super().__init__(modules, learning_rate)

    @property
    def _needs_weights(self) -> bool:
        return self.weight_decay > 0.0

    def _update(self, rate: float) -> None:
        gradient, change = self._gradient, self._change
        if self.weight_decay > 0.0:
            np.multiply(self._weight, self.weight_decay, out=change)
            gradient += change
        if self.momentum > 0.0:
            velocity = self._state["velocity"]
            velocity *= self.momentum
            velocity += gradient
            if self.nesterov:
                np.multiply(velocity, self.momentum, out=change)
                gradient += change
            else:
                gradient = velocity
        np.multiply(gradient, rate, out=change)


class Adam(Optimizer):
    """Adam: the mean gradient of each weight, over the root of its mean square.

    Parameters
    ----------
    modules : Module, or iterable or mapping of Module
        As in `Optimizer`.
    learning_rate : float or callable, default 1e-3
        As in `Optimizer`.
    betas : tuple of two floats, default (0.9, 0.999)
        How much is kept of the mean and of the mean square, from 0 to less than 1.
    eps : float, default 1e-8
        Added to the root.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Notes
    -----
    With gradient g, weight w, mean m, mean square s, rate r and step k = 1, 2, ... [1]_, as ``torch.optim.Adam``::

        m  = beta1 * m + (1 - beta1) * g
        s  = beta2 * s + (1 - beta2) * g**2
        w -= r / (1 - beta1**k) * m / (sqrt(s / (1 - beta2**k)) + eps)

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import lstm_rs
    >>> from lstm_rs.train import Adam, Linear
    >>> Adam([lstm_rs.LSTM(3, 8), Linear(8, 1)], 0.01)
    <Adam over 393 weights after 0 steps>
    """

    _slots: tuple[str, ...] = ("mean", "square")

    def __init__(
        self,
        modules: Modules,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if len(betas) != 2:
            raise ValueError(f"betas: expected two floats, got {betas!r}")
        for k, beta in enumerate(betas):
            _within(f"betas[{k}]", beta)
        if not eps >= 0.0:
            raise ValueError(f"eps: expected from 0 on, got {eps!r}")
        self.betas, self.eps = betas, eps
        super().__init__(modules, learning_rate)

    def _update(self, rate: float) -> None:
        one, two = self.betas
        gradient, change, root = self._gradient, self._change, self._scratch
        mean, square = self._state["mean"], self._state["square"]
        np.multiply(gradient, gradient, out=change)
        change *= 1.0 - two
        square *= two
        square += change
        gradient *= 1.0 - one
        mean *= one
        mean += gradient
        # m / (sqrt(s / c) + eps) is sqrt(c) * m / (sqrt(s) + eps * sqrt(c)): a product less over the vector.
        correction = math.sqrt(1.0 - two ** (self.steps + 1))
        np.sqrt(square, out=root)
        root += self.eps * correction
        np.divide(mean, root, out=change)
        change *= rate * correction / (1.0 - one ** (self.steps + 1))


class AdamW(Adam):
    """Adam with weight decay of its own: the weights shrink, whatever the gradients do.

    Parameters
    ----------
    modules, learning_rate, betas, eps
        As in `Adam`.
    weight_decay : float, default 1e-2
        So much of each weight, times the rate, is taken off at each step: of biases too.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Notes
    -----
    What `Adam` takes off, and ``rate * weight_decay * w`` besides [1]_, as ``torch.optim.AdamW``.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.

    Examples
    --------
    >>> import lstm_rs
    >>> from lstm_rs.train import AdamW, Linear
    >>> AdamW([lstm_rs.LSTM(3, 8), Linear(8, 1)], 0.01, weight_decay=0.1)
    <AdamW over 393 weights after 0 steps>
    """

    def __init__(
        self,
        modules: Modules,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        _decay(weight_decay)
        self.weight_decay = weight_decay
        super().__init__(modules, learning_rate, betas=betas, eps=eps)

    @property
    def _needs_weights(self) -> bool:
        return self.weight_decay > 0.0

    def _update(self, rate: float) -> None:
        super()._update(rate)
        if self.weight_decay > 0.0:
            self._weight *= rate * self.weight_decay
            self._change += self._weight


def clip_grad_norm(gradients: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]], max_norm: float) -> float:
    """Scale all gradients by one factor, in place, so that together they are no longer than `max_norm`.

    Parameters
    ----------
    gradients : mapping of str to array, or sequence of such
        They are changed.
    max_norm : float
        Above 0.

    Returns
    -------
    float
        The Euclidean norm of all together as it was before. If it is not finite nothing is scaled.

    Raises
    ------
    ValueError
        If `max_norm` is not above 0.

    Notes
    -----
    The factor is ``max_norm / (norm + 1e-6)`` where that is below 1, as in ``torch.nn.utils.clip_grad_norm_`` [1]_.

    References
    ----------
    .. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
       algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import clip_grad_norm
    >>> gradients = {"weight": np.array([3.0, 4.0])}
    >>> clip_grad_norm(gradients, 1.0)
    5.0
    >>> gradients["weight"].round(3)
    array([0.6, 0.8])
    """
    if not max_norm > 0.0:
        raise ValueError(f"max_norm: expected more than 0, got {max_norm!r}")
    mappings = [gradients] if isinstance(gradients, Mapping) else gradients
    arrays = [array for mapping in mappings for array in mapping.values()]
    # Pairwise sums: exact enough in float32 however many weights there are.
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(float(np.add.reduce(np.square(array), axis=None)) for array in arrays))
        if math.isinf(norm):
            # Squares of float32 overflow long before their root does.
            squares = (np.square(array, dtype=np.float64) for array in arrays)
            norm = math.sqrt(sum(float(np.add.reduce(square, axis=None)) for square in squares))
    factor = max_norm / (norm + 1e-6)
    if factor < 1.0 and math.isfinite(norm):
        for array in arrays:
            array *= factor
    return norm


def _within(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}: expected from 0 to less than 1, got {value!r}")


def _decay(value: float) -> None:
    if not (value >= 0.0 and math.isfinite(value)):
        raise ValueError(f"weight_decay: expected a finite number from 0 on, got {value!r}")
