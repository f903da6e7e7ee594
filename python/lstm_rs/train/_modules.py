"""What owns weights: the protocol that `lstm_rs.LSTM` fulfils as it is, and the linear read-out.

A module gives its weights by name, read-only, and a block in which they are edited; an optimizer needs no more. The
read-out is ``y = x W^T + b``, with W (O, I) and b (O,), over the last axis of whatever comes.

Its products are made as those of the LSTM are, with the same bits on every machine and for any number of threads; the
outputs' and the inputs' gradients of a row do not depend on the other rows. NumPy's own would leave BLAS's threads
spinning on the CPUs that the next pass wants, which more than doubles the time of a step with many outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs._parameters import as_array, float_dtype
from lstm_rs.layers import _cast, _floats, _size


class Module(Protocol):
    """What an optimizer can train: `lstm_rs.LSTM`, `Linear`, or a class of your own."""

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """The weights by name, in a fixed order."""
        ...

    def edit(self) -> AbstractContextManager[dict[str, np.ndarray]]:
        """Writable weights inside, which become the module's when the block ends."""
        ...


class LinearGradients(NamedTuple):
    """The gradients that `Linear.backward` gives.

    Attributes
    ----------
    x : array or None
        With respect to the input, shaped as it; None with ``need_dx=False``.
    weights : dict of str to array
        With respect to the weights, by name.
    """

    x: np.ndarray | None
    weights: dict[str, np.ndarray]


class Linear:
    """A linear read-out, ``y = x W^T + b``.

    Parameters
    ----------
    in_features, out_features : int
        I and O.
    bias : bool, default True
        Is there a b?
    dtype : dtype, default float32
        float32 or float64: of the weights, and of all that comes in and goes out.
    seed : int, numpy.random.Generator or None
        Where the initial weights come from.

    Raises
    ------
    ValueError, TypeError
        If a size does not make sense, or an argument is of another type.

    Attributes
    ----------
    in_features, out_features, bias, dtype
        As they were given.
    weights
        ``weight`` (O, I) and ``bias`` (O,).

    Notes
    -----
    Initial weights are uniform on (-1/sqrt(I), 1/sqrt(I)), as those of ``torch.nn.Linear``.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import Linear
    >>> linear = Linear(8, 2, seed=0)
    >>> linear(np.ones((5, 3, 8), dtype=np.float32)).shape
    (5, 3, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: npt.DTypeLike = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.in_features = _size("in_features", in_features, 1)
        self.out_features = _size("out_features", out_features, 1)
        if not isinstance(bias, bool):
            raise TypeError(f"bias: expected a bool, got {bias!r}")
        self.bias = bias
        self.dtype = float_dtype(dtype)
        rng, bound = np.random.default_rng(seed), 1.0 / math.sqrt(self.in_features)
        shapes = {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}
        self._arrays = {
            name: _frozen(rng.uniform(-bound, bound, shape).astype(self.dtype))
            for name, shape in shapes.items()
            if bias or name == "weight"
        }

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run forward.

        Parameters
        ----------
        x : (..., I) array
            The input, of the module's dtype.

        Returns
        -------
        (..., O) array
            The output.

        Raises
        ------
        ValueError, TypeError
            If the shape or the dtype does not fit.
        """
        self._check("x", x, self.in_features)
        # Asked for once: between two questions another thread may put new weights in their place.
        arrays = self._arrays
        y = _core.linear(arrays["weight"], arrays.get("bias"), x.reshape(-1, self.in_features))
        return y.reshape(*x.shape[:-1], self.out_features)

    def backward(self, x: np.ndarray, dy: np.ndarray, *, need_dx: bool = True) -> LinearGradients:
        """Run backward.

        Parameters
        ----------
        x : (..., I) array
            The input that the pass forward had.
        dy : (..., O) array
            The gradient of the loss with respect to the output.
        need_dx : bool, default True
            Without it the gradient of `x` is None, and its product is saved.

        Returns
        -------
        LinearGradients
            ``x`` and ``weights``.

        Raises
        ------
        ValueError, TypeError
            If a shape or a dtype does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> linear, x = Linear(8, 2, seed=0), np.ones((3, 8), dtype=np.float32)
        >>> grads = linear.backward(x, dy=linear(x))
        >>> grads.x.shape, {name: array.shape for name, array in grads.weights.items()}
        ((3, 8), {'weight': (2, 8), 'bias': (2,)})
        """
        self._check("x", x, self.in_features)
        self._check("dy", dy, self.out_features)
        if x.shape[:-1] != dy.shape[:-1]:
            raise ValueError(f"dy: expected shape {(*x.shape[:-1], self.out_features)}, as x has it, got {dy.shape}")
        inputs, rows = x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features)
        dx, weight, bias = _core.linear_backward(self._arrays["weight"], inputs, rows, self.bias, need_dx)
        gradients = (("weight", weight), ("bias", bias))
        return LinearGradients(
            None if dx is None else dx.reshape(x.shape),
            {name: gradient for name, gradient in gradients if gradient is not None},
        )

    def _check(self, name: str, array: np.ndarray, features: int) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: expected an array, got {type(array).__name__}")
        if array.ndim == 0 or array.shape[-1] != features:
            raise ValueError(f"{name}: expected shape (..., {features}), got {array.shape}")
        if array.dtype != self.dtype:
            raise TypeError(
                f"{name}: expected {self.dtype}, as the module is, got {array.dtype}; "
                f"cast it with .astype(np.{self.dtype})"
            )

    @property
    def weights(self) -> LinearWeights:
        """The weights by name. The arrays are read-only; assign to a name to set one, or use `edit`.

        Examples
        --------
        >>> import numpy as np
        >>> linear = Linear(8, 2, seed=0)
        >>> linear.weights["bias"] = np.zeros(2, dtype=np.float32)
        >>> linear.weights["bias"]
        array([0., 0.], dtype=float32)
        """
        return LinearWeights(self)

    @contextmanager
    def edit(self) -> Iterator[dict[str, np.ndarray]]:
        """Writable weights inside: they become the module's when the block ends without an exception.

        Examples
        --------
        >>> linear = Linear(8, 2, seed=0)
        >>> with linear.edit() as w:
        ...     w["bias"][:] = 0
        >>> float(linear.weights["bias"].sum())
        0.0
        """
        arrays = self.state_dict()
        yield arrays
        if arrays.keys() != self._arrays.keys():
            raise KeyError(f"edit: expected the weights {', '.join(self._arrays)}, got {', '.join(arrays)}")
        self._arrays = {name: self._fit(name, arrays[name]) for name in self._arrays}

    def _fit(self, name: str, array: npt.ArrayLike) -> np.ndarray:
        """A frozen copy of the array, if it can stand in the place of that weight."""
        if name not in self._arrays:
            raise KeyError(f"no weight {name!r}: there are {', '.join(self._arrays)}")
        given, shape = np.asarray(array), self._arrays[name].shape
        if given.dtype != self.dtype:
            raise TypeError(
                f"{name}: expected {self.dtype}, as the module is, got {given.dtype}; "
                f"cast it with .astype(np.{self.dtype})"
            )
        if given.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {given.shape}")
        return _frozen(given.copy())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the weights, by name.

        Examples
        --------
        >>> list(Linear(8, 2).state_dict())
        ['weight', 'bias']
        """
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Take all weights from a dict, or none where something is wrong.

        Parameters
        ----------
        state_dict : mapping of str to array
            float32 and float64 are cast to the module's dtype.

        Raises
        ------
        KeyError
            If names are missing or unexpected; it lists them.
        ValueError, TypeError
            If a shape or a dtype does not fit.

        Examples
        --------
        >>> one, two = Linear(8, 2, seed=1), Linear(8, 2, seed=2)
        >>> two.load_state_dict(one.state_dict())
        >>> bool((one.weights["weight"] == two.weights["weight"]).all())
        True
        """
        check_names("state_dict", state_dict, self._arrays)
        self._arrays = {
            name: self._fit(name, _cast(name, _floats(name, as_array(name, state_dict[name])), self.dtype))
            for name in self._arrays
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy of a read-only array is writable.
        self.__dict__.update(state, _arrays={name: _frozen(array) for name, array in state["_arrays"].items()})

    def __repr__(self) -> str:
        said = [str(self.in_features), str(self.out_features)]
        if not self.bias:
            said.append("bias=False")
        if self.dtype != np.float32:
            said.append(f"dtype={self.dtype}")
        return f"Linear({', '.join(said)})"


class LinearWeights(Mapping[str, np.ndarray]):
    """The weights of a `Linear` by name: read-only arrays, and names that can be assigned to."""

    def __init__(self, linear: Linear) -> None:
        self._linear = linear

    def __getitem__(self, name: str) -> np.ndarray:
        return self._linear._arrays[name]

    def __setitem__(self, name: str, array: npt.ArrayLike) -> None:
        linear = self._linear
        linear._arrays = linear._arrays | {name: linear._fit(name, array)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._linear._arrays)

    def __len__(self) -> int:
        return len(self._linear._arrays)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name}: {array.shape}" for name, array in self.items()) + "}"


def refuse_masked(name: str, values: Any) -> None:
    """Refuse a masked array, whose mask NumPy's functions drop without a word."""
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name}: expected a value everywhere, got a masked array with gaps; lstm_rs does not fill them: "
            f"interpolate or drop them first"
        )


def check_names(what: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a mapping that lacks a name, or has one too many."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{what}: expected a mapping of names to arrays, got {type(given).__name__}")
    if given.keys() != expected.keys():
        missing = [name for name in expected if name not in given]
        unexpected = [str(name) for name in given if name not in expected]
        lists = (("missing", missing), ("unexpected", unexpected))
        raise KeyError(f"{what}: " + "; ".join(f"{kind}: {', '.join(names)}" for kind, names in lists if names))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
