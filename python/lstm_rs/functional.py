"""One layer, one direction: forward, forward_train and backward, and the tuples they speak in.

Axes: T steps, N batch, I input, H hidden, P output (the projection, or H without one), G gates that have rows.

These functions pack the weights on every call, which is what a single pass over changing weights needs;
`lstm_rs.LSTM` packs them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs.cell import CellSpec

_DEFAULT_CELL = CellSpec()


class Weights(NamedTuple):
    """The parameters of one layer in one direction.

    Gate rows stand in the order i, f, g, o; a gate that the cell does not have has no rows (coupled: i, g, o).

    Attributes
    ----------
    w_ih : (G*H, I) array
        Weights of the input.
    w_hh : (G*H, P) array
        Weights of the recurrence.
    b : (G*H,) array or None
        Bias.
    peephole : (k, H) array or None
        Diagonal weights from the state to the gates, in the order i, f, o: one row for each gate that has rows.
    w_hr : (P, H) array or None
        Projection of the hidden state. Without one P = H.
    """

    w_ih: np.ndarray
    w_hh: np.ndarray
    b: np.ndarray | None = None
    peephole: np.ndarray | None = None
    w_hr: np.ndarray | None = None


class State(NamedTuple):
    """What an LSTM carries from step to step.

    Attributes
    ----------
    h : (N, P) array
        The output of the step before; (P,) for one sequence.
    c : (N, H) array
        The cell state; (H,) for one sequence.
    """

    h: np.ndarray
    c: np.ndarray


new_state: Callable[[tuple[np.ndarray, np.ndarray]], State] = partial(tuple.__new__, State)
"""``State(h, c)`` of a tuple, without a frame of Python, which would be a tenth of a short call."""


class Gradients(NamedTuple):
    """The gradients of a loss, each shaped as what it is the gradient of.

    Attributes
    ----------
    x : array or None
        With respect to the input; None with ``need_dx=False``.
    weights : Weights
        With respect to the weights; None where the weight was None.
    state : State
        With respect to the initial state.
    """

    x: np.ndarray | None
    weights: Weights
    state: State


StateLike: TypeAlias = State | tuple[npt.ArrayLike, npt.ArrayLike] | None
Lengths: TypeAlias = int | Sequence[int] | np.ndarray | None


_set = object.__setattr__


class Tape:
    """What a pass forward has recorded for the pass backward: read-only, and there to be looked at.

    A tape refers to `x`, `y`, the weights and the initial state, it does not copy them: writing to those before
    `backward` gives wrong gradients. It can be used for `backward` more than once, and it pickles.

    Attributes
    ----------
    gates : (T, N, G, H) array
        The gates as they stood, after their activation, in the order of ``cell.gates``: a valve is shut at 0
        and open at 1. Zeros past a sequence's end.
    c : (T, N, H) array
        The cell state after each step. Zeros past a sequence's end.
    x, y : array
        The input and the output, as they were given.
    weights : Weights
        The weights it ran on.
    state : State or None
        The initial state.
    cell : CellSpec
        The cell.
    lengths : (N,) int64 array or None
        The lengths; of no axes for one sequence.
    reverse, batch_first : bool
        As they were given.

    Notes
    -----
    One sequence has a tape of N = 1.
    """

    __slots__ = (
        "batch_first",
        "c",
        "cell",
        "gates",
        "lengths",
        "reverse",
        "state",
        "weights",
        "x",
        "y",
    )

    gates: np.ndarray
    c: np.ndarray
    x: npt.ArrayLike
    y: np.ndarray
    weights: Weights
    state: State | None
    cell: CellSpec
    lengths: np.ndarray | None
    reverse: bool
    batch_first: bool

    def __init__(self, **recorded: Any) -> None:
        if recorded.keys() != _RECORDED:
            missing, unknown = sorted(_RECORDED - recorded.keys()), sorted(recorded.keys() - _RECORDED)
            raise TypeError(f"Tape: {'missing' if missing else 'unknown'} {', '.join(missing or unknown)}")
        for name in ("gates", "c"):
            array = recorded[name]
            if not isinstance(array, np.ndarray):
                raise TypeError(f"tape.{name}: expected an array, got {type(array).__name__}")
            array.setflags(write=False)
        for name, value in recorded.items():
            _set(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Tape.{name} is read-only")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Tape.{name} is read-only")

    def __reduce__(self) -> tuple[Any, ...]:
        recorded = {name: getattr(self, name) for name in self.__slots__}
        return _restore_tape, (recorded,)

    def __repr__(self) -> str:
        steps, batch, gates, hidden = self.gates.shape
        return f"<Tape of T={steps}, N={batch}, G={gates}, H={hidden}, {self.gates.dtype}>"


_RECORDED = frozenset(Tape.__slots__)


def _restore_tape(recorded: dict[str, Any]) -> Tape:
    return Tape(**recorded)


def forward(
    x: npt.ArrayLike,
    weights: Weights,
    state: StateLike = None,
    *,
    cell: CellSpec = _DEFAULT_CELL,
    lengths: Lengths = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[np.ndarray, State]:
    """Run one layer in one direction.

    Parameters
    ----------
    x : (T, N, I) array, or (T, I) for one sequence
        The input, float32 or float64; (N, T, I) with `batch_first`.
    weights : Weights
        The parameters, of the same dtype as `x`.
    state : State or tuple (h, c), optional
        The initial state, (N, P) and (N, H), or (P,) and (H,) for one sequence. Zeros if there is none.
    cell : CellSpec, optional
        The cell; by default the LSTM of Gers et al. 1999, without peepholes.
    lengths : (N,) ints, or int for one sequence, optional
        The valid steps of each sequence, from 0 to T. Past them `y` is 0 and `x` is never read; the final state
        is the one at the end, and a sequence of length 0 gives its initial state back. The cost follows their sum.
    reverse : bool, default False
        Run from the last valid step to the first. `y` stays aligned with time; the final state is the one after t = 0.
    batch_first : bool, default False
        `x` and `y` are (N, T, ...), by strides and without a copy. It concerns neither the state nor the tape.

    Returns
    -------
    y : (T, N, P) array
        The output of every step; without N for one sequence.
    state : State
        The final state.

    Raises
    ------
    ValueError
        If a shape or a length does not fit; the message names the argument, what was expected and what came.
    TypeError
        If a dtype is not float32 or float64, or not that of the weights; the message names the cast to make.

    Notes
    -----
    The equations are those of `CellSpec`. The same inputs give the same bits on every instruction set, for a sequence
    alone or in any batch, and for a whole sequence or its chunks with the state carried over.

    References
    ----------
    .. [1] F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", 1999.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> rng = np.random.default_rng(0)
    >>> weights = lstm_rs.Weights(w_ih=rng.normal(size=(4 * 5, 3)), w_hh=rng.normal(size=(4 * 5, 5)))
    >>> y, (h, c) = lstm_rs.forward(rng.normal(size=(7, 2, 3)), weights)
    >>> y.shape, h.shape, c.shape
    ((7, 2, 5), (2, 5), (2, 5))
    >>> bool((y[-1] == h).all())
    True
    """
    packed = _core.Forward(cell, *_as_weights(weights))
    y, h, c, _, _ = _core.forward(packed, x, state, as_lengths(lengths), reverse, batch_first, False)
    return y, State(h, c)


def forward_train(
    x: npt.ArrayLike,
    weights: Weights,
    state: StateLike = None,
    *,
    cell: CellSpec = _DEFAULT_CELL,
    lengths: Lengths = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[np.ndarray, State, Tape]:
    """Run one layer in one direction, and record what `backward` needs.

    Parameters
    ----------
    x, weights, state, cell, lengths, reverse, batch_first
        As in `forward`.

    Returns
    -------
    y : (T, N, P) array
        The same bits as from `forward`.
    state : State
        The final state.
    tape : Tape
        The gates and the state of every step, and what it ran on. Keep `x`, `y`, the weights and the initial state
        as they are until `backward`: the tape refers to them.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    References
    ----------
    .. [1] A. Graves, A. Mohamed, G. Hinton, "Speech recognition with deep recurrent neural networks", ICASSP 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> rng = np.random.default_rng(0)
    >>> weights = lstm_rs.Weights(w_ih=rng.normal(size=(4 * 5, 3)), w_hh=rng.normal(size=(4 * 5, 5)))
    >>> y, state, tape = lstm_rs.forward_train(rng.normal(size=(7, 3)), weights)
    >>> tape.gates.shape, tape.cell.gates
    ((7, 1, 4, 5), ('i', 'f', 'g', 'o'))
    """
    weights = _as_weights(weights)
    packed = _core.Forward(cell, *weights)
    lengths = as_lengths(lengths)
    y, h, c, gates, c_tape = _core.forward(packed, x, state, lengths, reverse, batch_first, True)
    tape = Tape(
        gates=gates,
        c=c_tape,
        x=x,
        y=y,
        weights=weights,
        state=None if state is None else State._make(state),
        cell=cell,
        lengths=lengths,
        reverse=reverse,
        batch_first=batch_first,
    )
    return y, State(h, c), tape


def backward(
    tape: Tape,
    dy: npt.ArrayLike | None = None,
    dstate: StateLike = None,
    *,
    need_dx: bool = True,
) -> Gradients:
    """Run one layer in one direction backward: backpropagation through all the time there is.

    Parameters
    ----------
    tape : Tape
        From `forward_train`. It is left as it is, and can be used again.
    dy : array, optional
        The gradient of the loss with respect to `y`, shaped as `y`. None means zeros, without an array of them.
        Past the end of a sequence it is never read.
    dstate : State or tuple (h, c), optional
        The gradient with respect to the final state. It enters at each sequence's own last step. None means zeros.
    need_dx : bool, default True
        Without it the gradient of `x` is None, and its product is saved.

    Returns
    -------
    Gradients
        With respect to `x`, to the weights (None where the weight was None), and to the initial state.

    Raises
    ------
    ValueError, TypeError
        If a shape or a dtype does not fit what the tape has recorded.

    Notes
    -----
    Backward over chunks, with the state's gradient handed on from the later to the earlier one, gives the same bits for
    `x` and the state as backward over the whole.

    References
    ----------
    .. [1] K. Greff, R. K. Srivastava, J. Koutnik, B. R. Steunebrink, J. Schmidhuber, "LSTM: a search space odyssey",
       IEEE TNNLS 28 (2017), section II.C.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> rng = np.random.default_rng(0)
    >>> weights = lstm_rs.Weights(w_ih=rng.normal(size=(4 * 5, 3)), w_hh=rng.normal(size=(4 * 5, 5)))
    >>> y, state, tape = lstm_rs.forward_train(rng.normal(size=(7, 2, 3)), weights)
    >>> grads = lstm_rs.backward(tape, dy=y)
    >>> grads.x.shape, grads.weights.w_hh.shape, grads.weights.b
    ((7, 2, 3), (20, 5), None)
    """
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected a Tape, got {type(tape).__name__}; it is the third answer of forward_train")
    packed = _core.Backward(tape.cell, *_as_weights(tape.weights))
    record = (
        tape.x,
        tape.state,
        as_lengths(tape.lengths),
        tape.reverse,
        tape.batch_first,
        tape.y,
        tape.gates,
        tape.c,
    )
    dx, w_ih, w_hh, b, peephole, w_hr, h, c = _core.backward(packed, record, dy, dstate, need_dx)
    return Gradients(dx, Weights(w_ih, w_hh, b, peephole, w_hr), State(h, c))


def as_lengths(lengths: Lengths) -> np.ndarray | None:
    """Lengths of any integer type as int64; bools and floats are refused."""
    if lengths is None:
        return None
    try:
        array = np.asarray(lengths)
    except ValueError:  # rows of several lengths
        raise TypeError(f"lengths: expected integers, one a sequence, got {lengths!r}") from None
    if array.dtype.kind == "u":
        # What does not fit is longer than any sequence, and is refused as such.
        array = np.minimum(array.astype(np.uint64), np.uint64(np.iinfo(np.int64).max))
    elif array.dtype.kind != "i" and array.size > 0:
        raise TypeError(
            f"lengths: expected integers, got {array.dtype}; cast them with np.asarray(lengths, dtype=np.int64)"
        )
    # A copy: the tape keeps it.
    return np.array(array, dtype=np.int64)


def _as_weights(weights: Any) -> Weights:
    """Weights, or another tuple or list of as many arrays."""
    if isinstance(weights, Weights):
        return weights
    if not isinstance(weights, tuple | list) or not 2 <= len(weights) <= 5:
        count = f" of {len(weights)}" if isinstance(weights, Sized) else ""
        raise TypeError(
            "weights: expected Weights, or a tuple (w_ih, w_hh, b, peephole, w_hr) of 2 to 5, "
            f"got {type(weights).__name__}{count}"
        )
    return Weights(*weights)
