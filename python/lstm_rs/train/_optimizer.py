"""What all optimizers share: the weights as one flat vector, the steps done, and the schedule.

All weights of all modules count as one vector: gradients are gathered into one buffer, moments live in one array each,
and an update is about ten NumPy calls in place, whatever the number of weights' names. Written weight by weight, a step
of a small LSTM would be mostly calls. Blocks that fit into a cache were tried: from 20 thousand weights to 1.3 million
they gain nothing or too little. Nothing here goes through BLAS, whose threads would go on spinning on the CPUs that the
next pass wants; so the bits do not depend on how many it has.

There are no parameter groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lstm_rs.train._modules import Module, check_names

Modules: TypeAlias = Module | Iterable[Module] | Mapping[str, Module]
"""What an optimizer trains."""

Schedule: TypeAlias = Callable[[int], float]
"""From the number of steps done, 0 at first, to the rate of the next step."""

_MOST_STEPS = 1 << 62
"""What can still be counted on from in int64."""


class Optimizer:
    """What all optimizers share: the flat vector, the steps and the schedule. Use `SGD`, `Adam` or `AdamW`.

    Parameters
    ----------
    modules : Module, or iterable or mapping of Module
        What to train; all of one dtype.
    learning_rate : float or callable
        The rate, or a schedule: from the number of steps done, 0 at first, to the rate.

    Attributes
    ----------
    modules : tuple of Module
        As they were given.
    learning_rate
        As it was given; may be set.
    steps : int
        The steps done.
    """

    _slots: tuple[str, ...] = ()
    """The names of the flat arrays that are kept from step to step."""

    def __init__(self, modules: Modules, learning_rate: float | Schedule) -> None:
        if isinstance(modules, Mapping):
            modules = list(modules.values())
        self.modules: tuple[Module, ...] = tuple(modules) if isinstance(modules, Iterable) else (modules,)
        if not self.modules:
            raise ValueError("modules: expected at least one, got none")
        if len({id(module) for module in self.modules}) < len(self.modules):
            raise ValueError("modules: expected each once, got one of them twice")
        self.learning_rate = learning_rate
        self.steps = 0
        dtypes = {array.dtype for module in self.modules for array in module.weights.values()}
        if len(dtypes) != 1:
            raise TypeError(f"modules: expected weights of one dtype, got {sorted(map(str, dtypes))}")
        (self.dtype,) = dtypes
        size = sum(array.size for module in self.modules for array in module.weights.values())
        self._state = {name: np.zeros(size, self.dtype) for name in self._slots}
        self._make_buffers(size)
        _ = self.rate

    def _make_buffers(self, size: int) -> None:
        """What a step writes to, and the change of each weight as a view of it."""
        self._gradient, self._change, self._weight, self._scratch = np.zeros((4, size), self.dtype)
        self._views: list[dict[str, np.ndarray]] = []
        start = 0
        for module in self.modules:
            views = {}
            for name, array in module.weights.items():
                views[name] = self._change[start : start + array.size].reshape(array.shape)
                start += array.size
            self._views.append(views)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a view is no view.
        buffers = ("_gradient", "_change", "_weight", "_scratch", "_views")
        state = {name: value for name, value in self.__dict__.items() if name not in buffers}
        return {**state, "size": self._gradient.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        size = state.pop("size")
        self.__dict__.update(state)
        self._make_buffers(size)

    @property
    def rate(self) -> float:
        """The rate of the next step."""
        rate = self.learning_rate(self.steps) if callable(self.learning_rate) else self.learning_rate
        if not (rate >= 0.0 and math.isfinite(rate)):
            raise ValueError(f"learning_rate: expected a finite rate from 0 on, got {rate!r} at step {self.steps}")
        return float(rate)

    def step(self, *gradients: Mapping[str, np.ndarray]) -> None:
        """Update the weights of all modules.

        Parameters
        ----------
        *gradients : mapping of str to array
            One for each module, in the order of ``modules``: the gradient for each weight.

        Raises
        ------
        KeyError
            If names are missing or unexpected.
        ValueError, TypeError
            If there is not one mapping for each module, or a gradient does not fit its weight.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_rs.train import SGD, Linear
        >>> linear = Linear(2, 1, seed=0)
        >>> before = linear.state_dict()
        >>> SGD(linear, 0.5).step({"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)})
        >>> bool((linear.weights["bias"] == before["bias"] - 0.5).all())
        True
        """
        rate = self.rate
        np.concatenate(self._flat(gradients), out=self._gradient)
        if self._needs_weights:
            arrays = [array.reshape(-1) for module in self.modules for array in module.weights.values()]
            np.concatenate(arrays, out=self._weight)
        self._update(rate)
        self.steps += 1
        for module, views in zip(self.modules, self._views, strict=True):
            with module.edit() as weights:
                for name, change in views.items():
                    weights[name] -= change

    def _flat(self, gradients: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        """All gradients in the order of the flat vector, each as a vector."""
        if len(gradients) != len(self.modules):
            raise ValueError(
                f"gradients: expected {len(self.modules)} mappings, one for each module, got {len(gradients)}"
            )
        flat = []
        for k, (given, views) in enumerate(zip(gradients, self._views, strict=True)):
            check_names(f"gradients of module {k}", given, views)
            for name, view in views.items():
                array, what = given[name], f"gradient of {name} of module {k}"
                if not isinstance(array, np.ndarray):
                    raise TypeError(f"{what}: expected an array, got {type(array).__name__}")
                if array.shape != view.shape:
                    raise ValueError(f"{what}: expected shape {view.shape}, got {array.shape}")
                if array.dtype != self.dtype:
                    raise TypeError(f"{what}: expected {self.dtype}, as the weight is, got {array.dtype}")
                flat.append(array.reshape(-1))
        return flat

    @property
    def _needs_weights(self) -> bool:
        """Whether the update reads the weights."""
        return False

    def _update(self, rate: float) -> None:
        """Write what is to be taken off the weights to `_change`; gradients may be overwritten."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that an optimizer keeps from step to step.

        Examples
        --------
        >>> from lstm_rs.train import Adam, Linear
        >>> {name: array.shape for name, array in Adam(Linear(2, 1)).state_dict().items()}
        {'steps': (), 'mean': (3,), 'square': (3,)}
        """
        return {"steps": np.array(self.steps, np.int64), **{name: array.copy() for name, array in self._state.items()}}

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Take what `state_dict` gave, or nothing where something is wrong.

        Parameters
        ----------
        state_dict : mapping of str to array
            From an optimizer of the same class over modules of the same shapes.

        Raises
        ------
        KeyError
            If names are missing or unexpected.
        ValueError, TypeError
            If a shape or a dtype does not fit.

        Examples
        --------
        >>> from lstm_rs.train import Adam, Linear
        >>> one, two = Adam(Linear(2, 1)), Adam(Linear(2, 1))
        >>> two.load_state_dict(one.state_dict())
        """
        check_names("state_dict", state_dict, {"steps": None, **self._state})
        given = {name: np.asarray(array) for name, array in state_dict.items()}
        if given["steps"].shape != () or given["steps"].dtype.kind not in "iu":
            raise ValueError(f"steps: expected one integer, got {given['steps']!r}")
        if not 0 <= int(given["steps"]) < _MOST_STEPS:
            raise ValueError(f"steps: expected from 0 to less than {_MOST_STEPS}, got {given['steps']}")
        for name, array in self._state.items():
            if given[name].shape != array.shape:
                raise ValueError(f"{name}: expected shape {array.shape}, got {given[name].shape}")
            if given[name].dtype != array.dtype:
                raise TypeError(f"{name}: expected {array.dtype}, as the weights are, got {given[name].dtype}")
        self.steps = int(given["steps"])
        for name, array in self._state.items():
            array[:] = given[name]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._gradient.size} weights after {self.steps} steps>"
