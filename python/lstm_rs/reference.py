"""The LSTM in plain NumPy: one layer, one direction, forward and backward, to read and to check against.

The three functions here are called as `lstm_rs.forward`, `lstm_rs.forward_train` and `lstm_rs.backward` are.
Whatever comes in, they compute in float64 and answer in float64. They loop over time and nothing else, and
are not fast.

Forward
-------
One step, with ``*`` elementwise, ``r`` the output of a step, and ``p_*`` the peepholes, one weight for each
unit::

    i = sigmoid(W_i x_t + R_i r_{t-1} + p_i*c_{t-1} + b_i)
    f = sigmoid(W_f x_t + R_f r_{t-1} + p_f*c_{t-1} + b_f)
    g = tanh   (W_g x_t + R_g r_{t-1}               + b_g)
    c_t = f*c_{t-1} + i*g
    o = sigmoid(W_o x_t + R_o r_{t-1} + p_o*c_t     + b_o)      the output gate sees the new state
    h_t = o*tanh(c_t)
    r_t = W_hr h_t                                              with a projection, else r_t = h_t

A gate that the cell does not have is 1. A coupled forget gate is ``f = 1 - i``. Where the cell has other activations,
read them in the place of sigmoid and tanh. `gate_clip` cuts what goes into the activation of a gate or of the input,
`cell_clip` cuts ``c``.

Backward
--------
Full backpropagation through time. ``d_z_*`` is the gradient with respect to what goes into a gate, before its
activation; ``_next`` is the step that came after::

    d_r = d_y + sum_* R_*^T d_z_*_next
    d_h = W_hr^T d_r                                            with a projection, else d_h = d_r
    d_z_o = d_h * tanh(c) * o*(1-o)
    d_c   = d_h * o*(1-tanh(c)^2) + p_o*d_z_o
            + d_c_next*f_next + p_i*d_z_i_next + p_f*d_z_f_next
    d_z_f = d_c * c_{t-1} * f*(1-f)
    d_z_i = d_c * g * i*(1-i)                                   coupled: d_c * (g - c_{t-1}) * i*(1-i)
    d_z_g = d_c * i * (1-g^2)

    d_x    = sum_* W_*^T d_z_*
    d_W_*  = sum_t d_z_* x_t^T        d_R_* = sum_t d_z_* r_{t-1}^T        d_b_* = sum_t d_z_*
    d_W_hr = sum_t d_r h_t^T
    d_p_i  = sum_t d_z_i * c_{t-1}    d_p_f = sum_t d_z_f * c_{t-1}        d_p_o = sum_t d_z_o * c_t

Another activation has its slope in the place of ``s*(1-s)`` or ``1-a^2``, as `slope` gives it. What `gate_clip` has cut
has slope 0, and where `cell_clip` has cut ``c``, ``d_c`` is 0.

Two values go from a step to the one before it: ``R^T d_z`` (the carry of ``r``) and ``d_c*f + p_i*d_z_i +
p_f*d_z_f`` (the carry of ``c``). What arrives with `dstate` is the first carry, at each sequence's own last
step, and the carries that are left at the end are the gradients of the initial state. So the backward passes
of a sequence cut into pieces are the backward pass of the whole.

Three rules
-----------
Steps past the end of a sequence do not happen: they leave the state and the carries as they are, and what `x`
and `dy` hold there, NaN included, has no influence. Answers are 0 there.

A state that idles decays into subnormal numbers, which are slow on many CPUs, and so does a gradient on its way
back. ``c``, both carries and each ``d_z`` become +0 where they are smaller than 2**-480 in magnitude, the
threshold of float64 throughout the library: a product of two such numbers is normal. (In float32 it is 2**-56;
this module has only the one, as it has only float64. The difference is below every tolerance.)

NaN and Inf flow as IEEE says, without a warning, and stay in their own sequence, but for the weights'
gradients, which sum over all of them.

References
----------
A. Graves, A. Mohamed, G. Hinton, "Speech recognition with deep recurrent neural networks", ICASSP 2013.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from lstm_rs._activations import activate, slope
from lstm_rs.cell import Activation, CellSpec
from lstm_rs.functional import Gradients, State, Weights

__all__ = ["Tape", "activate", "backward", "forward", "forward_train", "slope"]

_SNAP = 2.0**-480
_TODAY = CellSpec()


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass, all of it in float64.

    It refers to what was float64 on the way in and does not copy it: do not write to that before `backward`.

    Attributes
    ----------
    gates : (T, N, G, H) array
        The gates after their activation, in the order of ``cell.gates``; 0 past the end of a sequence.
    c : (T, N, H) array
        The cell state after each step; 0 past the end of a sequence.
    x, y : array
        The input and the output, shaped as they were taken and given. For one sequence they have no axis N,
        where `gates` and `c` have N = 1.
    weights : Weights
        The weights of the run.
    state : State
        The state it started from: zeros if none was given. For one sequence without the axis N.
    cell : CellSpec
        The cell.
    lengths : (N,) array or None
        How many steps of each sequence count; None for all.
    reverse, batch_first : bool
        As they were given.
    """

    gates: np.ndarray
    c: np.ndarray
    x: np.ndarray
    y: np.ndarray
    weights: Weights
    state: State
    cell: CellSpec
    lengths: np.ndarray | None
    reverse: bool
    batch_first: bool


def forward(
    x: Any,
    weights: Weights,
    state: State | None = None,
    *,
    cell: CellSpec = _TODAY,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[np.ndarray, State]:
    """Run one layer in one direction over a batch of sequences.

    Parameters
    ----------
    x : (T, N, I) array_like
        The input; (N, T, I) with `batch_first`; (T, I) for one sequence.
    weights : Weights
        See `lstm_rs.functional.Weights`.
    state : State or (h, c), optional
        What to start from: h (N, P) and c (N, H), or (P,) and (H,) for one sequence. Default: zeros.
    cell : CellSpec, optional
        The cell. Default: today's LSTM, without peepholes.
    lengths : (N,) integers, optional
        How many steps of each sequence count, from 0 to T; an int for one sequence. Default: all.
    reverse : bool, optional
        Go from the last valid step to the first. The output stays in its place in time.
    batch_first : bool, optional
        Take x, and give y, with the batch as the first axis. No meaning for one sequence.

    Returns
    -------
    y : (T, N, P) array
        The output of each step; (N, T, P) with `batch_first`, (T, P) for one sequence. 0 past the end of a
        sequence.
    state : State
        The state after each sequence's last step; with `reverse`, that is step 0.

    Raises
    ------
    ValueError
        If a shape does not fit, or a length is below 0 or above T.
    TypeError
        If `lengths` are not integers.

    Examples
    --------
    A cell with one unit and all weights zero has its gates half open, and lets nothing in:

    >>> import numpy as np
    >>> from lstm_rs import reference
    >>> from lstm_rs.functional import Weights
    >>> weights = Weights(w_ih=np.zeros((4, 3)), w_hh=np.zeros((4, 1)))
    >>> y, state = reference.forward(np.ones((2, 3)), weights, state=([0.0], [8.0]))
    >>> state.c
    array([2.])
    >>> y.round(4)
    array([[0.4997],
           [0.482 ]])
    """
    y, final, _ = forward_train(x, weights, state, cell=cell, lengths=lengths, reverse=reverse, batch_first=batch_first)
    return y, final


@np.errstate(all="ignore")
def forward_train(
    x: Any,
    weights: Weights,
    state: State | None = None,
    *,
    cell: CellSpec = _TODAY,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[np.ndarray, State, Tape]:
    """Run as `forward` does, and keep what `backward` needs.

    Parameters
    ----------
    x, weights, state, cell, lengths, reverse, batch_first
        As in `forward`.

    Returns
    -------
    y, state
        As in `forward`.
    tape : Tape
        Every gate and every state on the way.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import reference
    >>> from lstm_rs.functional import Weights
    >>> weights = Weights(w_ih=np.zeros((4, 3)), w_hh=np.zeros((4, 1)), b=np.array([0.0, 9.0, 0.0, 0.0]))
    >>> y, state, tape = reference.forward_train(np.ones((2, 3)), weights)
    >>> dict(zip(tape.cell.gates, tape.gates[0, 0, :, 0].round(2).tolist()))
    {'i': 0.5, 'f': 1.0, 'g': 0.0, 'o': 0.5}
    """
    x = np.asarray(x, np.float64)
    weights = _float64_weights(weights)
    one = x.ndim == 2
    if x.ndim not in (2, 3):
        raise ValueError(f"x: expected 3 axes, or 2 for one sequence, got shape {x.shape}")
    x_t = _time_major(x, one, batch_first)
    steps, batch, _ = x_t.shape
    hidden_size, output_size = _check_weights(weights, cell, x.shape[-1])
    state = _check_state("state", state, () if one else (batch,), output_size, hidden_size)
    valid, lengths = _valid_steps(lengths, steps, batch, one)

    w_ih, w_hh, w_hr = weights.w_ih, weights.w_hh, weights.w_hr
    b = 0.0 if weights.b is None else weights.b
    p = _by_gate(cell.peepholes, weights.peephole)
    r, c = state.h.reshape(batch, output_size).copy(), state.c.reshape(batch, hidden_size).copy()
    gates_t = np.zeros((steps, batch, len(cell.gates), hidden_size))
    c_t = np.zeros((steps, batch, hidden_size))
    y_t = np.zeros((steps, batch, output_size))

    for t in _order(steps, reverse):
        now = valid[t][:, np.newaxis]
        z = x_t[t] @ w_ih.T + r @ w_hh.T + b
        z = _by_gate(cell.gates, z.reshape(batch, len(cell.gates), hidden_size).swapaxes(0, 1))
        i = _gate(cell, z["i"] + _seen(p, "i", c)) if "i" in z else 1.0
        f = _gate(cell, z["f"] + _seen(p, "f", c)) if "f" in z else 1.0 - i if cell.coupled else 1.0
        g = activate(cell.input_activation, _cut(z["g"], cell.gate_clip))
        c_new = _cut(_snap(f * c + i * g), cell.cell_clip)
        o = _gate(cell, z["o"] + _seen(p, "o", c_new)) if "o" in z else 1.0
        h = o * activate(cell.output_activation, c_new)
        r_new = h if w_hr is None else h @ w_hr.T

        by_gate = {"i": i, "f": f, "g": g, "o": o}
        by_row = np.stack([by_gate[gate] for gate in cell.gates], axis=1)
        gates_t[t] = np.where(now[:, np.newaxis], by_row, 0.0)
        c_t[t] = np.where(now, c_new, 0.0)
        y_t[t] = np.where(now, r_new, 0.0)
        r, c = np.where(now, r_new, r), np.where(now, c_new, c)

    y = _as_called(y_t, one, batch_first)
    final = State(r[0], c[0]) if one else State(r, c)
    tape = Tape(gates_t, c_t, x, y, weights, state, cell, lengths, reverse, batch_first)
    return y, final, tape


@np.errstate(all="ignore")
def backward(tape: Tape, dy: Any = None, dstate: State | None = None, *, need_dx: bool = True) -> Gradients:
    """Give the gradients of a loss, from its gradients with respect to what `forward_train` gave.

    Parameters
    ----------
    tape : Tape
        From `forward_train`. It is not changed, and can be used again.
    dy : array_like, optional
        The gradient with respect to y, shaped as y. Default: zeros.
    dstate : State or (h, c), optional
        The gradient with respect to the final state, shaped as that is. Default: zeros.
    need_dx : bool, optional
        False leaves out the gradient of the input.

    Returns
    -------
    Gradients
        Each shaped as what it is the gradient of; None where that was None. The weights' gradients are sums
        over the batch and the valid steps.

    Raises
    ------
    ValueError
        If a shape does not fit.

    Examples
    --------
    Half of the state is kept in each of two steps, so a quarter of its gradient reaches the start:

    >>> import numpy as np
    >>> from lstm_rs import reference
    >>> from lstm_rs.functional import Weights
    >>> weights = Weights(w_ih=np.zeros((4, 3)), w_hh=np.zeros((4, 1)))
    >>> y, state, tape = reference.forward_train(np.ones((2, 3)), weights)
    >>> grads = reference.backward(tape, dstate=([0.0], [1.0]))
    >>> grads.state.c
    array([0.25])
    >>> grads.weights.b is None
    True
    """
    cell, weights = tape.cell, tape.weights
    steps, batch, _, hidden_size = tape.gates.shape
    rows, output_size = weights.w_hh.shape
    one = tape.x.ndim == 2
    x_t, y_t = (_time_major(array, one, tape.batch_first) for array in (tape.x, tape.y))
    if dy is None:
        dy = np.zeros(tape.y.shape)
    dy = _checked("dy", np.asarray(dy, np.float64), tape.y.shape)
    dy_t = _time_major(dy, one, tape.batch_first)
    dstate = _check_state("dstate", dstate, () if one else (batch,), output_size, hidden_size)
    valid, _ = _valid_steps(tape.lengths, steps, batch, one)

    w_hh, w_hr = weights.w_hh, weights.w_hr
    p = _by_gate(cell.peepholes, weights.peephole)
    r_before = _before(y_t, tape.state.h.reshape(batch, output_size), valid, tape.reverse)
    c_before = _before(tape.c, tape.state.c.reshape(batch, hidden_size), valid, tape.reverse)
    a_t = activate(cell.output_activation, tape.c)
    dr_carry = dstate.h.reshape(batch, output_size).copy()
    dc_carry = dstate.c.reshape(batch, hidden_size).copy()
    dz_t = np.zeros_like(tape.gates)
    dr_t = np.zeros((steps, batch, output_size))

    for t in reversed(_order(steps, tape.reverse)):
        now = valid[t][:, np.newaxis]
        gate = _by_gate(cell.gates, tape.gates[t].swapaxes(0, 1))
        i, g, o = gate.get("i", 1.0), gate["g"], gate.get("o", 1.0)
        f = 1.0 - i if cell.coupled else gate.get("f", 1.0)
        c_prev, a = c_before[t], a_t[t]

        dr = dy_t[t] + dr_carry
        dh = dr if w_hr is None else dr @ w_hr
        dz = {"o": _snap(dh * a * _cut_slope(cell, cell.gate_activation, o))}
        dc = dh * o * slope(cell.output_activation, a) + _seen(p, "o", dz["o"]) + dc_carry
        if cell.cell_clip is not None:
            dc = np.where(np.abs(tape.c[t]) < cell.cell_clip, dc, 0.0)
        dz["f"] = _snap(dc * c_prev * _cut_slope(cell, cell.gate_activation, f))
        dz["i"] = _snap(dc * (g - c_prev if cell.coupled else g) * _cut_slope(cell, cell.gate_activation, i))
        dz["g"] = _snap(dc * i * _cut_slope(cell, cell.input_activation, g))

        dr_t[t] = dr
        dz_t[t] = np.where(now[:, np.newaxis], np.stack([dz[name] for name in cell.gates], axis=1), 0.0)
        dr_new = _snap(dz_t[t].reshape(batch, rows) @ w_hh)
        dc_new = _snap(dc * f + _seen(p, "i", dz["i"]) + _seen(p, "f", dz["f"]))
        dr_carry, dc_carry = np.where(now, dr_new, dr_carry), np.where(now, dc_new, dc_carry)

    # Sums over the valid steps alone: a NaN past the end times a gradient of 0 would still be a NaN.
    dz_rows = dz_t[valid].reshape(-1, rows)
    dz_by_gate = _by_gate(cell.gates, dz_t[valid].swapaxes(0, 1))
    seen = {"i": c_before[valid], "f": c_before[valid], "o": tape.c[valid]}
    h = a_t[valid] * _by_gate(cell.gates, tape.gates[valid].swapaxes(0, 1)).get("o", 1.0)
    d_weights = Weights(
        w_ih=dz_rows.T @ x_t[valid],
        w_hh=dz_rows.T @ r_before[valid],
        b=None if weights.b is None else dz_rows.sum(axis=0),
        peephole=np.stack([(dz_by_gate[name] * seen[name]).sum(axis=0) for name in p]) if p else None,
        w_hr=None if w_hr is None else dr_t[valid].T @ h,
    )
    dx = None
    if need_dx:
        dx_t = dz_t.reshape(*valid.shape, rows) @ weights.w_ih
        dx = _as_called(np.where(valid[..., np.newaxis], dx_t, 0.0), one, tape.batch_first)
    return Gradients(dx, d_weights, State(dr_carry[0], dc_carry[0]) if one else State(dr_carry, dc_carry))


def _gate(cell: CellSpec, z: np.ndarray) -> Any:
    """Open or shut a gate."""
    return activate(cell.gate_activation, _cut(z, cell.gate_clip))


def _cut(x: np.ndarray, clip: float | None) -> np.ndarray:
    """Cut to within `clip` of 0; a NaN stays."""
    return x if clip is None else np.clip(x, -clip, clip)


def _cut_slope(cell: CellSpec, activation: Activation, a: Any) -> Any:
    """Compute a slope, 0 where the argument was cut: there the value is that of an end."""
    a = np.asarray(a, np.float64)
    if cell.gate_clip is None:
        return slope(activation, a)
    ends = activate(activation, np.array([-cell.gate_clip, cell.gate_clip]))
    return np.where((ends.min() < a) & (a < ends.max()), slope(activation, a), 0.0)


def _snap(array: np.ndarray) -> np.ndarray:
    """Put +0 where a magnitude is below the threshold; a NaN stays."""
    return np.where(np.abs(array) < _SNAP, 0.0, array)


def _by_gate(names: Iterable[str], rows: np.ndarray | None) -> dict[str, Any]:
    """Give rows the names of their gates; no rows, no names."""
    return {} if rows is None else dict(zip(names, rows, strict=True))


def _seen(p: dict[str, Any], gate: str, c: Any) -> Any:
    """Look at c through a gate's peephole: 0 if it has none, where 0*c would be NaN for an infinite c."""
    return p[gate] * c if gate in p else 0.0


def _order(steps: int, reverse: bool) -> range:
    """Give the steps in the order they are run."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _before(after: np.ndarray, start: np.ndarray, valid: np.ndarray, reverse: bool) -> np.ndarray:
    """Find what each valid step started from, out of what each ended with (T, N, .) and the start (N, .)."""
    steps = len(after)
    if not reverse:
        return np.concatenate([start[np.newaxis], after])[:steps]
    came_before = np.concatenate([valid[1:], np.zeros_like(valid[:1])])
    return np.where(came_before[..., np.newaxis], np.roll(after, -1, axis=0), start)


def _time_major(array: np.ndarray, one: bool, batch_first: bool) -> np.ndarray:
    """Make (T, N, .) of what the caller has."""
    if one:
        return array[:, np.newaxis]
    return array.swapaxes(0, 1) if batch_first else array


def _as_called(array: np.ndarray, one: bool, batch_first: bool) -> np.ndarray:
    """Undo `_time_major`."""
    if one:
        return array[:, 0]
    return array.swapaxes(0, 1) if batch_first else array


def _checked(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Give the array back if it has that shape."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array


def _float64_weights(weights: Iterable[Any]) -> Weights:
    """Give the weights in float64."""
    arrays: list[Any] = [None if w is None else np.asarray(w, np.float64) for w in weights]
    return Weights(*arrays)


def _check_weights(weights: Weights, cell: CellSpec, input_size: int) -> tuple[int, int]:
    """Refuse weights that do not fit the cell and each other; give H and P."""
    w_ih, w_hh, b, peephole, w_hr = weights
    count = len(cell.gates)
    if w_hh.ndim != 2 or w_hh.shape[0] % count or 0 in w_hh.shape:
        raise ValueError(f"w_hh: expected shape ({count}*H, P), H and P at least 1, got {w_hh.shape}")
    hidden_size, output_size = w_hh.shape[0] // count, w_hh.shape[1]
    _checked("w_ih", w_ih, (count * hidden_size, input_size))
    if b is not None:
        _checked("b", b, (count * hidden_size,))
    if (peephole is not None) != cell.peephole:
        came = "None" if peephole is None else "an array"
        raise ValueError(f"peephole: the cell has peephole={cell.peephole}, got {came}")
    if peephole is not None:
        _checked("peephole", peephole, (len(cell.peepholes), hidden_size))
    if w_hr is not None:
        _checked("w_hr", w_hr, (output_size, hidden_size))
    elif output_size != hidden_size:
        raise ValueError(f"w_hh: expected {hidden_size} columns without w_hr, got {output_size}")
    return hidden_size, output_size


def _check_state(name: str, state: Any, lead: tuple[int, ...], output_size: int, hidden_size: int) -> State:
    """Give the state in float64, zeros for None, if its shapes fit."""
    h_shape, c_shape = (*lead, output_size), (*lead, hidden_size)
    if state is None:
        return State(np.zeros(h_shape), np.zeros(c_shape))
    h, c = (np.asarray(part, np.float64) for part in state)
    return State(_checked(f"{name}.h", h, h_shape), _checked(f"{name}.c", c, c_shape))


def _valid_steps(lengths: Any, steps: int, batch: int, one: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Tell which steps of which sequence happen, (T, N) of bool, and the lengths (N,) if there are any."""
    if lengths is None:
        return np.ones((steps, batch), bool), None
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if one and lengths.ndim == 0:
        lengths = lengths[np.newaxis]
    lengths = _checked("lengths", lengths.astype(np.int64), (batch,))
    if np.any((lengths < 0) | (lengths > steps)):
        raise ValueError(f"lengths: expected 0 to {steps}, the number of steps, got {lengths.tolist()}")
    return np.arange(steps)[:, np.newaxis] < lengths, lengths
