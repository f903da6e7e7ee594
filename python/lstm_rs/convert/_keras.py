"""Weights of ``keras.layers.LSTM``, from a layer or its arrays, and back.

Keras has one kernel (I, 4H), one recurrent kernel (H, 4H), and one bias (4H,), columns in the order i, f, c, o: ours
transposed. What ``unit_forget_bias`` adds is in the bias already.

The layers that once ran on cuDNN alone, CuDNNLSTM, have a bias of 8H, by which they are known: the bias of the input,
then that of the state. Their matrices are stored as cuDNN reads them: the I*H numbers of a gate's kernel are our (H, I)
in its own order though the shape says (I, H), and the recurrent kernel of a gate is our (H, H) as it stands.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_rs._optional import need
from lstm_rs.cell import CellSpec
from lstm_rs.convert._build import build, finite
from lstm_rs.convert._keras_config import describe, keras_activation, major_version
from lstm_rs.functional import Weights
from lstm_rs.layers import LSTM

if TYPE_CHECKING:
    import keras

__doctest_requires__ = {"to_keras": ["keras"]}

_SOURCES = "a keras.layers.LSTM, a Bidirectional around one, or the list of arrays that get_weights() gives"
_ARRAYS = ("kernel", "recurrent_kernel", "bias")


def from_keras(
    source: keras.layers.Layer | Sequence[npt.ArrayLike],
    *,
    cell: CellSpec | None = None,
    dtype: npt.DTypeLike | None = None,
) -> LSTM:
    """Make a layer of the weights of a Keras LSTM.

    Parameters
    ----------
    source : keras.layers.LSTM, keras.layers.Bidirectional, or sequence of arrays
        A layer that has been built; or what its ``get_weights()`` gives: kernel (I, 4H), recurrent kernel (H, 4H) and,
        if there is one, bias (4H,), and after them the same again of a second direction.
    cell : CellSpec, optional
        Which activations the arrays were trained with; by default tanh, and sigmoid for the gates, as in Keras. A layer
        says this itself.
    dtype : float32 or float64, optional
        Of the layer; by default that of the weights.

    Returns
    -------
    LSTM
        With ``batch_first=True``, as Keras has its sequences.

    Raises
    ------
    ValueError
        If a shape does not fit, a weight is NaN or infinite, or the layer has what we have not: another activation,
        ``go_backwards``, a ``merge_mode`` other than "concat".
    TypeError
        If `source` is neither, or if a weight is not of float32 or float64.

    See Also
    --------
    from_keras_h5 : The same from a file, without Keras.

    Notes
    -----
    What concerns training alone is not carried over: dropout, recurrent dropout, constraints, regularisers. Nor is what
    concerns the call: ``return_sequences`` (`LSTM` always gives all outputs; the last of each direction are in the
    final state), ``stateful`` (hand on the state that a call gives), masks (hand over lengths: past them our outputs
    are 0, where Keras repeats the last one unless ``zero_output_for_mask``).

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> kernel, recurrent_kernel = np.ones((3, 32), dtype=np.float32), np.ones((8, 32), dtype=np.float32)
    >>> lstm_rs.from_keras([kernel, recurrent_kernel, np.zeros(32, dtype=np.float32)])
    LSTM(3, 8, batch_first=True)
    """
    if hasattr(source, "get_config") and hasattr(source, "get_weights"):
        return _from_layer(source, cell, dtype)
    if not isinstance(source, list | tuple):
        raise TypeError(f"source: expected {_SOURCES}, got {type(source).__name__}")
    if len(source) not in (2, 3, 4, 6):
        raise ValueError(
            f"source: expected 2 or 3 arrays (kernel, recurrent_kernel, bias), or 4 or 6 for two directions, got "
            f"{len(source)}"
        )
    directions = 2 if len(source) > 3 else 1
    each = len(source) // directions
    groups = [source[k : k + each] for k in range(0, len(source), each)]
    return assemble(groups, [""] if directions == 1 else ["forward ", "backward "], cell=cell, dtype=dtype)


def to_keras(lstm: LSTM) -> keras.layers.LSTM | keras.layers.Bidirectional:
    """Make a Keras layer of an LSTM of one layer.

    Parameters
    ----------
    lstm : LSTM
        Of one layer, in one direction or both.

    Returns
    -------
    keras.layers.LSTM or keras.layers.Bidirectional
        Built, with ``return_sequences=True`` and the weights. It takes sequences batch first, (N, T, I), whatever
        `lstm` does. `from_keras` makes the same weights of it, to the bit.

    Raises
    ------
    ValueError
        If Keras does not have such a layer: several layers, a projection, peepholes, gates coupled or left out,
        clipping, other activations, or two that differ; or if its backend has no float64.
    TypeError
        If `lstm` is something else.
    ImportError
        If Keras, or its backend, is not installed.

    Examples
    --------
    >>> import lstm_rs
    >>> layer = lstm_rs.to_keras(lstm_rs.LSTM(3, 8, seed=0))
    >>> [weight.shape for weight in layer.weights]
    [(3, 32), (8, 32), (32,)]
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm: expected an lstm_rs.LSTM, got {type(lstm).__name__}")
    if lstm.num_layers != 1:
        raise ValueError(f"lstm: a Keras layer is one layer, got num_layers={lstm.num_layers}: export each on its own")
    if lstm.proj_size:
        raise ValueError(f"lstm: Keras has no projection, got proj_size={lstm.proj_size}")
    if lstm.input_size == 0:
        raise ValueError("lstm: Keras has no input_size of 0")
    cell = lstm.cell
    plain = CellSpec(
        input_activation=cell.input_activation,
        output_activation=cell.output_activation,
        gate_activation=cell.gate_activation,
    )
    if cell != plain or cell.input_activation != cell.output_activation:
        raise ValueError(
            f"lstm: Keras has the LSTM with three gates, one activation for cell input and output, and nothing else, "
            f"got {cell}"
        )
    keras = need("keras", "to_keras", "keras")
    with warnings.catch_warnings():
        # JAX warns where it makes float32 of float64; here it is an error.
        warnings.simplefilter("ignore")
        kept = keras.ops.convert_to_numpy(keras.ops.zeros(1, dtype=lstm.dtype.name)).dtype
    if kept != lstm.dtype:
        raise ValueError(
            f"lstm: the {keras.backend.backend()} backend of Keras makes {kept} of {lstm.dtype}"
            + ("; first call jax.config.update('jax_enable_x64', True)" if keras.backend.backend() == "jax" else "")
        )
    layer = keras.layers.LSTM(
        lstm.hidden_size,
        activation=keras_activation(keras, cell.input_activation, "input_activation"),
        recurrent_activation=keras_activation(keras, cell.gate_activation, "gate_activation"),
        use_bias=lstm.bias,
        return_sequences=True,
        dtype=lstm.dtype.name,
    )
    if lstm.bidirectional:
        layer = keras.layers.Bidirectional(layer, dtype=lstm.dtype.name)
    layer.build((None, None, lstm.input_size))
    layer.set_weights([array.T for array in lstm.state_dict().values()])
    return layer


def assemble(
    groups: Sequence[Sequence[npt.ArrayLike]],
    prefixes: Sequence[str],
    *,
    cell: CellSpec | None = None,
    batch_first: bool = True,
    dtype: npt.DTypeLike | None = None,
) -> LSTM:
    """Make a layer of the two or three arrays of each direction, which go by a prefix and their name."""
    names = [[prefix + name for name in _ARRAYS[: len(group)]] for group, prefix in zip(groups, prefixes, strict=True)]
    arrays = [[finite(*pair) for pair in zip(called, group, strict=True)]
              for called, group in zip(names, groups, strict=True)]  # fmt: skip
    if dtype is None:
        dtype = np.result_type(*(array.dtype for group in arrays for array in group))
    return build(
        [_part(called, group) for called, group in zip(names, arrays, strict=True)],
        names=[dict(zip(("w_ih", "w_hh", "b"), called, strict=False)) for called in names],
        directions=len(groups),
        cell=cell,
        batch_first=batch_first,
        dtype=dtype,
    )


def _part(names: Sequence[str], arrays: Sequence[np.ndarray]) -> Weights:
    """The weights of one direction."""
    for name, array, (letters, ndim) in zip(
        names, arrays, (("(I, 4H)", 2), ("(H, 4H)", 2), ("(4H,)", 1)), strict=False
    ):
        if array.ndim != ndim:
            raise ValueError(f"{name}: expected shape {letters}, got {array.shape}")
    hidden_size = arrays[1].shape[0]
    for name, array in zip(names, arrays[:2], strict=False):
        if array.shape[1] != 4 * hidden_size or not hidden_size:
            kind = {3: "; a GRU has such", 1: "; a SimpleRNN has such"}.get(array.shape[1] // max(hidden_size, 1), "")
            raise ValueError(
                f"{name}: expected {4 * hidden_size} columns, 4 gates of {hidden_size}, as many as the recurrent "
                f"kernel has rows, got shape {array.shape}{kind if array.shape[1] % max(hidden_size, 1) == 0 else ''}"
            )
    w_ih, w_hh, bias = arrays[0].T, arrays[1].T, arrays[2] if len(arrays) == 3 else None
    if bias is not None and bias.shape == (8 * hidden_size,):
        w_ih, w_hh = _from_cudnn(arrays[0], arrays[1])
        # A sum beyond all numbers is told of by who takes it.
        with np.errstate(over="ignore"):
            bias = bias[: 4 * hidden_size].astype(np.float64) + bias[4 * hidden_size :].astype(np.float64)
    return Weights(w_ih, w_hh, bias, None, None)


def _from_cudnn(kernel: np.ndarray, recurrent_kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Our matrices of those that were stored as cuDNN reads them, gate by gate."""
    hidden_size = recurrent_kernel.shape[0]
    w_ih = [np.ascontiguousarray(gate).reshape(hidden_size, -1) for gate in np.split(kernel, 4, axis=1)]
    return np.concatenate(w_ih), np.concatenate(np.split(recurrent_kernel, 4, axis=1))


def _from_layer(layer: Any, cell: CellSpec | None, dtype: npt.DTypeLike | None) -> LSTM:
    """As `from_keras`, of a layer."""
    kinds = [kind.__name__ for kind in type(layer).__mro__]
    kind = next((kind for kind in ("LSTM", "CuDNNLSTM", "Bidirectional") if kind in kinds), None)
    if kind is None:
        raise TypeError(f"source: expected {_SOURCES}, got {type(layer).__name__}")
    name = f"layer {layer.name!r}"
    if cell is not None:
        raise ValueError(f"cell: leave it out: {name} says itself which activations it has")
    inner = [layer.forward_layer, layer.backward_layer] if kind == "Bidirectional" else [layer]
    root = sys.modules[type(layer).__module__.partition(".")[0]]
    for part in inner:
        _check_functions(root, part, name)
    # Keras 2 outside of a package that is called keras has no version of Keras to ask for.
    major = major_version(root.__version__) if root.__name__ == "keras" else 2
    described = describe(kind, layer.get_config(), major=major, name=name)
    groups = [part.get_weights() for part in inner]
    for group in groups:
        if not group:
            raise ValueError(f"{name}: expected weights, got a layer that has none yet: build it, or call it once")
    return assemble(
        groups,
        [f"{name}: {way}" for way in (("",) if len(groups) == 1 else ("forward ", "backward "))],
        cell=described.cell,
        batch_first=described.batch_first,
        dtype=dtype,
    )


def _check_functions(root: Any, layer: Any, name: str) -> None:
    """A configuration has only the names of functions: refuse one that only goes by the name of one of Keras' own."""
    known = getattr(root, "activations", None)
    config: Mapping[str, Any] = layer.get_config()
    for field in ("activation", "recurrent_activation"):
        said = config.get(field)
        if (
            known is not None
            and isinstance(said, str)
            and getattr(known, said, None) is not getattr(layer, field, None)
        ):
            raise ValueError(f"{name}: {field} is called {said!r}, but is not the one of Keras")
