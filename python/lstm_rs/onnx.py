"""The LSTM operator of ONNX, as a function of NumPy arrays.

To run a model's LSTM many times, read it with `lstm_rs.from_onnx`: a layer packs its weights once, this function on
every call. It does not need the package ``onnx``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs.cell import CellSpec
from lstm_rs.convert._onnx_layout import take_activations, weights_of
from lstm_rs.functional import Lengths, as_lengths, forward

__all__ = ["LSTM"]

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def LSTM(
    X: npt.ArrayLike,
    W: npt.ArrayLike,
    R: npt.ArrayLike,
    B: npt.ArrayLike | None = None,
    sequence_lens: Lengths = None,
    initial_h: npt.ArrayLike | None = None,
    initial_c: npt.ArrayLike | None = None,
    P: npt.ArrayLike | None = None,
    *,
    hidden_size: int,
    direction: str = "forward",
    layout: int = 0,
    clip: float | None = None,
    input_forget: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run ONNX's LSTM operator, with every input and attribute that it has.

    Parameters
    ----------
    X : (T, N, I) array
        The input, float32 or float64, and with it all others; (N, T, I) with ``layout=1``.
    W : (D, 4*H, I) array
        Weights of the input, gates in the order i, o, f, c; D is 2 where `direction` is bidirectional, else 1.
    R : (D, 4*H, H) array
        Weights of the recurrence.
    B : (D, 8*H) array, optional
        The bias of `W`, then that of `R`; they are added.
    sequence_lens : (N,) ints, optional
        The valid steps of each sequence, from 0 to T.
    initial_h, initial_c : (D, N, H) array, optional
        The initial state; (N, D, H) with ``layout=1``. Zeros where there is none.
    P : (D, 3*H) array, optional
        Peepholes, in the order i, o, f.
    hidden_size : int
        H.
    direction : {"forward", "reverse", "bidirectional"}, default "forward"
        Which way the sequences are run.
    layout : {0, 1}, default 0
        1 puts the batch first in `X`, `Y` and the states.
    clip : float, optional
        What goes into the activations of the gates and of the input is cut to within this of 0.
    input_forget : {0, 1}, default 0
        1 couples the gates: ``f = 1 - i``. The rows of the forget gate are then there, and unused.
    activations : sequence of str, optional
        Three names for each direction, of the gates, the cell input and the output, out of ONNX's eleven: Relu, Tanh,
        Sigmoid, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu, Softsign and Softplus, in upper or
        lower case. Sigmoid, Tanh, Tanh if there are none.
    activation_alpha, activation_beta : sequence of float, optional
        Handed out, in the order of `activations`, to those that have an alpha or a beta, and to no others.

    Returns
    -------
    Y : (T, D, N, H) array
        The output of every step, 0 past a sequence's end; (N, T, D, H) with ``layout=1``.
    Y_h, Y_c : (D, N, H) array
        The final state; (N, D, H) with ``layout=1``.

    Raises
    ------
    ValueError
        If a shape, a length or an attribute does not fit; the message names it.
    TypeError
        If a dtype is not float32 or float64, or not the same for all.

    Notes
    -----
    The operator is described in [1]_. Where ONNX Runtime does otherwise, this function does what ONNX Runtime does:

    - ``clip`` cuts what goes into the gates and into the cell input, bias and peephole included; the text would have
      the state cut, too, before its activation.
    - The final state of a sequence of length 0 is 0, and not its initial state.
    - LeakyRelu, HardSigmoid and Elu without parameters have those of the operators of their names, 0.01, 0.2 and 0.5,
      and 1; but a ThresholdedRelu without alpha has 0, where that operator has 1. Affine and ScaledTanh need both
      parameters: ONNX Runtime takes 0 for them, which makes a constant of the gate, and here that is an error.

    ``layout=1`` and float64 are in the text, and not in ONNX Runtime 1.32.

    References
    ----------
    .. [1] https://onnx.ai/onnx/operators/onnx__LSTM.html

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs.onnx
    >>> rng = np.random.default_rng(0)
    >>> W, R = rng.normal(size=(2, 4 * 5, 3)), rng.normal(size=(2, 4 * 5, 5))
    >>> X = rng.normal(size=(7, 2, 3))
    >>> Y, Y_h, Y_c = lstm_rs.onnx.LSTM(X, W, R, hidden_size=5, direction="bidirectional", clip=3.0)
    >>> Y.shape, Y_h.shape, Y_c.shape
    ((7, 2, 2, 5), (2, 2, 5), (2, 2, 5))
    >>> bool((Y[-1, 0] == Y_h[0]).all() and (Y[0, 1] == Y_h[1]).all())
    True
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: expected 'forward', 'reverse' or 'bidirectional', got {direction!r}")
    for name, flag in (("layout", layout), ("input_forget", input_forget)):
        if flag not in (0, 1):
            raise ValueError(f"{name}: expected 0 or 1, got {flag!r}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a positive number, got {clip!r}")
    ways = _DIRECTIONS[direction]
    x = np.asarray(X)
    if x.ndim != 3:
        raise ValueError(f"X: expected three axes, got shape {x.shape}")
    steps, batch = x.shape[1::-1] if layout else x.shape[:2]
    many, h = len(ways), hidden_size
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"X: expected float32 or float64, got {x.dtype}; cast it with X.astype(np.float32)")
    w, r = _given("W", W, (many, 4 * h, x.shape[2]), x.dtype), _given("R", R, (many, 4 * h, h), x.dtype)
    b = None if B is None else _given("B", B, (many, 8 * h), x.dtype)
    p = None if P is None else _given("P", P, (many, 3 * h), x.dtype)
    state = _initial(initial_h, initial_c, (batch, many, h) if layout else (many, batch, h), x.dtype)
    lengths = as_lengths(sequence_lens)
    if lengths is not None and lengths.shape != (batch,):
        raise ValueError(f"sequence_lens: expected shape {(batch,)}, got {lengths.shape}")
    if lengths is not None and ((lengths < 0) | (lengths > steps)).any():
        raise ValueError(f"sequence_lens: expected 0 to {steps}, the number of steps, got {lengths.tolist()}")
    squashed = take_activations(activations, activation_alpha, activation_beta, many)

    y = np.empty((batch, steps, many, h) if layout else (steps, many, batch, h), x.dtype)
    y_h, y_c = (np.empty((batch, many, h) if layout else (many, batch, h), x.dtype) for _ in range(2))
    for d, (reverse, (gates, cell_input, output)) in enumerate(zip(ways, squashed, strict=True)):
        cell = CellSpec(
            coupled=bool(input_forget),
            peephole=p is not None,
            gate_activation=gates,
            input_activation=cell_input,
            output_activation=output,
            gate_clip=clip,
        )
        its = (slice(None), d) if layout else (d,)
        final: Any
        outputs, final = forward(
            x,
            weights_of(w[d], r[d], None if b is None else b[d], None if p is None else p[d], coupled=cell.coupled),
            None if state is None else (state[0][its], state[1][its]),
            cell=cell,
            lengths=lengths,
            reverse=reverse,
            batch_first=bool(layout),
        )
        y[(slice(None), slice(None), d) if layout else (slice(None), d)] = outputs
        y_h[its], y_c[its] = final
    if lengths is not None:
        empty = (lengths == 0,) if layout else (slice(None), lengths == 0)
        y_h[empty] = y_c[empty] = 0
    return y, y_h, y_c


def _given(name: str, array: npt.ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An input as an array, if it has that shape and dtype."""
    given = np.asarray(array)
    if given.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, as X has, got {given.dtype}; cast it with {name}.astype(X.dtype)")
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {given.shape}")
    return given


def _initial(h: Any, c: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The initial state, with zeros for what is not there; None where both are not."""
    if h is None and c is None:
        return None
    parts = (("initial_h", h), ("initial_c", c))
    first, second = (
        np.zeros(shape, dtype) if part is None else _given(name, part, shape, dtype) for name, part in parts
    )
    return first, second
