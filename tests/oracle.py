"""The comparison all tests use, and what they draw their data with.

Three questions are asked of two arrays, and each has one function:

- `assert_close`: is this near enough to the reference? How near is near enough follows from how deep the sum
  is, from the direction, and from what is summed over; never from what happened to pass.
- `assert_same_bits`: is this the very same? For everything that is promised to the bit.
- `assert_gradients_close`: `assert_close` for each array of a `Gradients`.

The comparison has tests of its own, in test_oracle.py: a comparison that cannot fail proves nothing.

How much room the tolerance leaves
----------------------------------
A plain NumPy float32 LSTM, forward and backward, was held against the reference, three draws of each. Its
worst error, as a part of the tolerance:

- presets, eight shapes up to 40 steps of 256 units and 500 steps of 8: forward 0.13, backward 0.33; both
  below 0.05 up to 100 steps;
- every cell, up to 30 steps: forward 0.03, backward 0.22.

To see it again::

    pytest tests/test_oracle_calibration.py -s
"""

import math
from itertools import product

import numpy as np
from lstm_rs.cell import CellSpec
from lstm_rs.functional import State, Weights

# ----------------------------- the comparison


def tolerance(
    expected,
    dtype,
    *,
    steps,
    batch,
    input_size,
    hidden_size,
    backward=False,
    over_batch=False,
    at_least=0.0,
):
    """The largest error allowed, for a result in `dtype`.

    Rounding errors of a chain of n operations grow far slower than n: log2 of the depth is enough, and 16 is
    for the activations and for the way an error in the state is carried on. The backward pass goes twice the
    way. The last term is for what is 0, or so small that it is rounded to subnormals.

    The scale is the largest element. In an array of one or two elements a sum may cancel, and then that is no
    measure of what was rounded: of float32 runs with T = N = I = H = 1, one or two in a hundred are above the
    tolerance for no fault of theirs. `at_least` is for those: a lower bound for the scale.
    """
    if over_batch and not backward:
        raise ValueError("only gradients are summed over the batch: over_batch needs backward=True")
    info = np.finfo(dtype)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(float(finite.max()) if finite.size else 0.0, at_least)
    depth = (input_size + hidden_size) * steps * (batch if over_batch else 1)
    factor = 16 * (2 if backward else 1) * math.ceil(math.log2(depth + 2))
    return factor * float(info.eps) * scale + 64 * float(info.tiny)


def assert_close(
    actual,
    expected,
    *,
    steps,
    batch,
    input_size,
    hidden_size,
    backward=False,
    over_batch=False,
    at_least=0.0,
    name="",
):
    """Fail unless every element is within the tolerance, and NaN and Inf are where they should be.

    Parameters
    ----------
    actual : array of float32 or float64
        What is tested. Its dtype decides the tolerance.
    expected : array
        What it should be, at least as precise as `actual`.
    steps, batch, input_size, hidden_size : int
        The run: T, N, I and H.
    backward : bool
        Is it a gradient?
    over_batch : bool
        Is it a weight's gradient, which is summed over the batch?
    at_least : float
        The least scale, for arrays of so few elements that all of them may cancel; 0 elsewhere.
    name : str
        What the array is, for the message.

    Returns
    -------
    float
        The largest error as a part of the tolerance, at most 1.
    """
    label = name or "array"
    for role, array in (("actual", actual), ("expected", expected)):
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            kind = getattr(array, "dtype", type(array).__name__)
            raise AssertionError(f"{label}: {role} must be an array of float32 or float64, is {kind}")
    if expected.dtype.itemsize < actual.dtype.itemsize:
        raise AssertionError(f"{label}: {actual.dtype} cannot be judged by {expected.dtype}")
    if actual.shape != expected.shape:
        raise AssertionError(f"{label}: expected shape {expected.shape}, got {actual.shape}")

    atol = tolerance(
        expected,
        actual.dtype,
        steps=steps,
        batch=batch,
        input_size=input_size,
        hidden_size=hidden_size,
        backward=backward,
        over_batch=over_batch,
        at_least=at_least,
    )
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    both_finite = np.isfinite(actual) & np.isfinite(expected)
    same_special = (np.isnan(actual) & np.isnan(expected)) | (actual == expected)
    wrong = ~both_finite & ~same_special
    if wrong.any():
        at = _first(wrong)
        raise AssertionError(
            f"{label}: NaN or Inf in {wrong.sum()} wrong places, first at {at}: "
            f"expected {expected[at]}, got {actual[at]}"
        )
    # Subtracted where finite only: Inf - Inf is an error elsewhere.
    error = np.abs(np.subtract(actual, expected, out=np.zeros_like(actual), where=both_finite))
    worst = float(error.max()) if error.size else 0.0
    if not worst <= atol:
        at = _first(error == worst)
        raise AssertionError(
            f"{label}: error {worst:.3g} is above the tolerance {atol:.3g}, worst at {at}: "
            f"expected {expected[at]!r}, got {actual[at]!r}; {(error > atol).sum()} of {error.size} are off"
        )
    return worst / atol


def assert_gradients_close(actual, expected, *, steps, batch, input_size, hidden_size, at_least=0.0, name=""):
    """Hold each array of one `Gradients` against the other, None against None; give the worst ratio."""
    worst = 0.0
    actual, expected = named_arrays(actual), named_arrays(expected)
    if actual.keys() != expected.keys():
        raise AssertionError(f"{name}: expected gradients of {list(expected)}, got {list(actual)}")
    for part, array in actual.items():
        ratio = assert_close(
            array,
            expected[part],
            steps=steps,
            batch=batch,
            input_size=input_size,
            hidden_size=hidden_size,
            backward=True,
            over_batch=part.startswith("weights."),
            at_least=at_least,
            name=f"{name} d_{part}".strip(),
        )
        worst = max(worst, ratio)
    return worst


def assert_same_bits(actual, expected, name=""):
    """Fail unless dtype, shape and every bit are equal.

    +0 and -0 are different. All NaN are alike: their sign and payload differ from one processor to the next.
    """
    label = name or "array"
    if not (isinstance(actual, np.ndarray) and isinstance(expected, np.ndarray)):
        raise AssertionError(f"{label}: not arrays: {type(actual).__name__} and {type(expected).__name__}")
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{label}: expected dtype {expected.dtype}, got {actual.dtype}")
    if actual.shape != expected.shape:
        raise AssertionError(f"{label}: expected shape {expected.shape}, got {actual.shape}")
    differ = _bits(actual) != _bits(expected)
    if differ.any():
        at = _first(differ)
        a, e = actual[at], expected[at]
        raise AssertionError(
            f"{label}: {differ.sum()} of {differ.size} differ in their bits, first at {at}: "
            f"expected {e!r} ({_bits(e[None])[0]:#x}), got {a!r} ({_bits(a[None])[0]:#x})"
        )


def named_arrays(gradients):
    """The arrays of a `Gradients` by name ("x", "weights.w_ih", "state.h"), without those that are None."""
    parts = {"x": gradients.x}
    parts |= {f"weights.{name}": array for name, array in gradients.weights._asdict().items()}
    parts |= {f"state.{name}": array for name, array in gradients.state._asdict().items()}
    return {name: array for name, array in parts.items() if array is not None}


def _bits(array):
    """The array as unsigned integers, all its NaNs made alike."""
    if array.dtype not in (np.float32, np.float64):
        raise AssertionError(f"bits are compared for float32 and float64, not {array.dtype}")
    alike = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return alike.view(f"u{array.dtype.itemsize}")


def _first(mask):
    """Where the first True is."""
    return tuple(int(k) for k in np.argwhere(mask)[0])


# ----------------------------- the cells

# By the names of the literature. NP of Greff et al. is gers_1999, their V is peephole_lstm.
PRESETS = {
    "gers_1999": CellSpec.gers_1999(),
    "hochreiter_1997": CellSpec.hochreiter_1997(),
    "peephole_lstm": CellSpec.peephole_lstm(),
    **{name: CellSpec.greff(name) for name in ("NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG")},
}


def _all_cells():
    """Every allowed combination of the flags, by name: a preset's, or one made of its parts."""
    known = {cell: name for name, cell in PRESETS.items()}
    cells = {}
    for i, f, o, coupled, peephole in product([True, False], repeat=5):
        for into, out in product(["tanh", "identity"], repeat=2):
            try:
                cell = CellSpec(i, f, o, coupled, peephole, into, out)
            except ValueError:
                continue
            name = known.get(cell) or "-".join(
                part
                for part in (
                    "".join(cell.gates),
                    "coupled" * coupled,
                    "peephole" * peephole,
                    "linear_in" * (into == "identity"),
                    "linear_out" * (out == "identity"),
                )
                if part
            )
            cells[name] = cell
    return cells


CELLS = _all_cells()


def _unusual_cells():
    """Each activation in each place, and both ways of clipping, by name."""
    activations = {
        "sigmoid": "sigmoid",
        "tanh": "tanh",
        "identity": "identity",
        "relu": "relu",
        "affine": ("affine", -0.4, 0.3),
        "leaky_relu": ("leaky_relu", 0.1),
        "thresholded_relu": ("thresholded_relu", 0.2),
        "scaled_tanh": ("scaled_tanh", 1.7, 0.6),
        "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
        "elu": ("elu", 0.7),
        "softsign": "softsign",
        "softplus": "softplus",
    }
    bases = ({}, {"peephole": True}, {"peephole": True, "coupled": True})
    cells = {}
    for k, (name, activation) in enumerate(activations.items()):
        for shift, field in enumerate(("gate_activation", "input_activation", "output_activation")):
            parts = bases[(k + shift) % 3] | {field: activation}
            cells[f"{name}-{field}"] = CellSpec(**parts)
            cells[f"{name}-{field}-clip"] = CellSpec(**parts, gate_clip=0.8 + 0.1 * k, cell_clip=1.2 - 0.1 * shift)
    cells |= {f"cell_clip-{k}": CellSpec(**base, cell_clip=0.5) for k, base in enumerate(bases)}
    cells |= {f"gate_clip-{k}": CellSpec(**base, gate_clip=0.7) for k, base in enumerate(bases)}
    cells["cell_clip-no-input-gate"] = CellSpec(input_gate=False, peephole=True, cell_clip=0.75)
    cells["gate_clip-no-output-gate"] = CellSpec(output_gate=False, gate_clip=0.5)
    return cells


# Chaotic, some of them: up to a few steps.
UNUSUAL = _unusual_cells()
EVERY = CELLS | UNUSUAL

# ----------------------------- the data


def make_weights(rng, cell, input_size, hidden_size, output_size=None, bias=True, dtype=np.float64):
    """Weights that make the gates move: what goes into a gate has a spread of about 1.5.

    Saturated gates would hide a wrong gradient, and dead ones a wrong gate. With `output_size` there is a
    projection. What the state feeds back is weaker where a gate or an activation is missing, since there
    nothing holds the state in bounds. Of these cells, some that never forget or whose output is linear are
    chaotic all the same: hold them against a tolerance up to 30 steps; the presets keep to any length.
    """
    gates, out = len(cell.gates), output_size or hidden_size
    rows = gates * hidden_size
    whole = cell.input_gate and cell.forget_gate and cell.output_gate
    squashed = cell.input_activation == cell.output_activation == "tanh" and cell.gate_activation == "sigmoid"
    feedback = 1.0 if whole and squashed else 0.3
    w_hh = rng.normal(size=(gates, hidden_size, out)) * feedback / math.sqrt(out)
    if cell.input_activation == cell.output_activation == "identity":
        w_hh[cell.gates.index("g")] *= 0.3
    # A gate that opens without bounds multiplies the state by more at each step.
    drive = 1.0 if cell.gate_activation == "sigmoid" else 0.4
    arrays = Weights(
        w_ih=rng.normal(size=(rows, input_size)) * drive / math.sqrt(max(input_size, 1)),
        w_hh=w_hh.reshape(rows, out),
        b=rng.normal(size=rows) * 0.5 if bias else None,
        peephole=rng.normal(size=(len(cell.peepholes), hidden_size)) * feedback * drive / 2 if cell.peephole else None,
        w_hr=rng.normal(size=(out, hidden_size)) / math.sqrt(hidden_size) if output_size else None,
    )
    return Weights(*(None if array is None else array.astype(dtype) for array in arrays))


def make_input(rng, steps, batch, input_size, dtype=np.float64):
    """An input (T, N, I), or (T, I) with ``batch=None``."""
    return rng.normal(size=(steps, *_lead(batch), input_size)).astype(dtype)


def make_state(rng, batch, hidden_size, output_size=None, dtype=np.float64):
    """A state that is not zero: an error in how it enters, or in its gradient, must show."""
    h = rng.normal(size=(*_lead(batch), output_size or hidden_size)) * 0.5
    return State(h.astype(dtype), rng.normal(size=(*_lead(batch), hidden_size)).astype(dtype))


def make_lengths(rng, steps, batch):
    """Lengths (N,) with a full sequence and an empty one among them, where there are sequences enough."""
    lengths = rng.integers(0, steps, size=batch, endpoint=True)
    lengths[:2] = (steps, 0)[:batch]
    return rng.permutation(lengths)


def _lead(batch):
    """The axis N, or none."""
    return () if batch is None else (batch,)
