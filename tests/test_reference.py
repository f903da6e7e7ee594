"""The reference: its gradients against finite differences of its forward pass, and what it promises."""

from itertools import pairwise

import numpy as np
import pytest
from lstm_rs import reference
from lstm_rs.cell import CellSpec
from lstm_rs.functional import State, Weights
from oracle import CELLS, EVERY, PRESETS, assert_same_bits, make_input, make_state, make_weights, named_arrays

T, N, I, H, P = 4, 3, 2, 3, 2  # noqa: E741  the letters of the axes
LENGTHS = [4, 0, 3]


def drawn(cell, *, projected=False, seed=0):
    rng = np.random.default_rng(seed)
    out = P if projected else None
    weights = make_weights(rng, cell, I, H, out)
    dy = rng.normal(size=(T, N, out or H))
    return make_input(rng, T, N, I), weights, make_state(rng, N, H, out), dy, make_state(rng, N, H, out)


def numeric_gradients(loss, arrays, step=1e-5):
    """Central differences of a loss, with respect to every element of arrays that are changed in place."""
    gradients = {}
    for name, array in arrays.items():
        gradient = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            value = array[at]
            array[at] = value + step
            above = loss()
            array[at] = value - step
            gradient[at] = (above - loss()) / (2 * step)
            array[at] = value
        gradients[name] = gradient
    return gradients


def worst_difference(actual, numeric):
    """The largest difference over all arrays, beside 1 or the largest: of the order of step**2 and eps/step, 1e-9."""
    assert actual.keys() == numeric.keys()
    assert all(actual[name].shape == numeric[name].shape for name in actual)
    scale = max(1.0, *(np.abs(array).max(initial=0.0) for array in numeric.values()))
    return max(np.abs(actual[name] - numeric[name]).max(initial=0.0) for name in actual) / scale


@pytest.mark.parametrize(("reverse", "projected"), [(False, True), (True, False)], ids=["projected", "reverse"])
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_gradients_are_the_finite_differences(cell, reverse, projected):
    x, weights, state, dy, dstate = drawn(cell, projected=projected)
    how = {"cell": cell, "lengths": LENGTHS, "reverse": reverse}

    def loss():
        y, final = reference.forward(x, weights, state, **how)
        return (y * dy).sum() + (final.h * dstate.h).sum() + (final.c * dstate.c).sum()

    tape = reference.forward_train(x, weights, state, **how)[2]
    actual = named_arrays(reference.backward(tape, dy, dstate))
    parts = {"x": x, "state.h": state.h, "state.c": state.c}
    parts |= {f"weights.{name}": w for name, w in weights._asdict().items() if w is not None}
    numeric = numeric_gradients(loss, parts)
    assert worst_difference(actual, numeric) < 1e-7
    # The comparison can fail: no array is all but zero, and one wrong element shows.
    for name, gradient in actual.items():
        assert np.abs(gradient).max() > 1e-3, name
        wrong = actual | {name: gradient.copy()}
        wrong[name].flat[0] += 1e-5 * max(1.0, *(np.abs(array).max() for array in numeric.values()))
        assert worst_difference(wrong, numeric) > 1e-7


@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_one_step_is_the_equations(cell):
    """One unit, one step, in Python floats: independent of every axis."""
    from math import exp, log, tanh

    w, r, b, p = {}, {}, {}, {}
    for k, gate in enumerate("ifgo"):
        w[gate], r[gate], b[gate], p[gate] = 0.3 - 0.2 * k, 0.1 + 0.3 * k, 0.05 * k - 0.1, 0.4 - 0.3 * k
    x, h, c = 0.7, -0.4, 0.9

    def squash(activation, z):
        name, *parameters = (activation,) if isinstance(activation, str) else activation
        alpha, beta = (*parameters, None, None)[:2]
        return {
            "sigmoid": lambda: 1 / (1 + exp(-z)),
            "tanh": lambda: tanh(z),
            "identity": lambda: z,
            "relu": lambda: max(z, 0),
            "affine": lambda: alpha * z + beta,
            "leaky_relu": lambda: z if z > 0 else alpha * z,
            "thresholded_relu": lambda: z if z > alpha else 0,
            "scaled_tanh": lambda: alpha * tanh(beta * z),
            "hard_sigmoid": lambda: min(max(alpha * z + beta, 0), 1),
            "elu": lambda: z if z > 0 else alpha * (exp(z) - 1),
            "softsign": lambda: z / (1 + abs(z)),
            "softplus": lambda: log(1 + exp(z)),
        }[name]()

    def cut(z, clip):
        return z if clip is None else min(max(z, -clip), clip)

    def gate(name, state):
        z = w[name] * x + r[name] * h + b[name] + (p[name] * state if name in cell.peepholes else 0)
        return squash(cell.gate_activation, cut(z, cell.gate_clip)) if name in cell.gates else 1.0

    i, f = gate("i", c), gate("f", c)
    if cell.coupled:
        f = 1 - i
    g = squash(cell.input_activation, cut(w["g"] * x + r["g"] * h + b["g"], cell.gate_clip))
    c_new = cut(f * c + i * g, cell.cell_clip)
    h_new = gate("o", c_new) * squash(cell.output_activation, c_new)

    weights = Weights(
        *([[part[name]] for name in cell.gates] for part in (w, r)),
        [b[name] for name in cell.gates],
        [[p[name]] for name in cell.peepholes] or None,
    )
    y, final = reference.forward([[x]], weights, ([h], [c]), cell=cell)
    np.testing.assert_allclose([y.item(), *final.h, *final.c], [h_new, h_new, c_new], rtol=1e-14)


def run(x, weights, state, dy, dstate, **how):
    y, final, tape = reference.forward_train(x, weights, state, **how)
    return y, final, tape, reference.backward(tape, dy, dstate)


def same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("cell", PRESETS.values(), ids=PRESETS)
def test_reverse_is_the_valid_part_turned_around(cell, projected):
    x, weights, state, dy, dstate = drawn(cell, projected=projected)

    def turned(array):
        out = np.zeros_like(array)
        for n, length in enumerate(LENGTHS):
            out[:length, n] = array[:length, n][::-1]
        return out

    y, final, tape, grads = run(x, weights, state, dy, dstate, cell=cell, lengths=LENGTHS, reverse=True)
    y_2, final_2, tape_2, grads_2 = run(turned(x), weights, state, turned(dy), dstate, cell=cell, lengths=LENGTHS)
    same([y, *final], [turned(y_2), *final_2])
    same([tape.gates, tape.c], [turned(tape_2.gates), turned(tape_2.c)])
    same([grads.x, *grads.state], [turned(grads_2.x), *grads_2.state])
    for name, gradient in named_arrays(grads).items():
        if name.startswith("weights."):
            np.testing.assert_allclose(gradient, named_arrays(grads_2)[name], atol=1e-13, err_msg=name)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", PRESETS.values(), ids=PRESETS)
def test_each_sequence_is_as_if_it_were_alone_and_not_padded(cell, reverse):
    x, weights, state, dy, dstate = drawn(cell)
    y, final, tape, grads = run(x, weights, state, dy, dstate, cell=cell, lengths=LENGTHS, reverse=reverse)
    for n, length in enumerate(LENGTHS):
        own, own_d = (State(s.h[n], s.c[n]) for s in (state, dstate))
        y_n, final_n, tape_n, grads_n = run(
            x[:length, n], weights, own, dy[:length, n], own_d, cell=cell, reverse=reverse
        )
        assert y_n.shape == (length, H) and tape_n.gates.shape == (length, 1, len(cell.gates), H)
        np.testing.assert_allclose(y[:length, n], y_n, atol=1e-14)
        np.testing.assert_allclose(tape.c[:length, n], tape_n.c[:, 0], atol=1e-14)
        np.testing.assert_allclose(grads.x[:length, n], grads_n.x, atol=1e-13)
        for a, b in ((final, final_n), (grads.state, grads_n.state)):
            np.testing.assert_allclose(a.h[n], b.h, atol=1e-13)
            np.testing.assert_allclose(a.c[n], b.c, atol=1e-13)
        for array in (y, tape.gates, tape.c, grads.x):
            assert_same_bits(array[length:, n], np.zeros_like(array[length:, n]))
    same([final.h[1], final.c[1]], [state.h[1], state.c[1]])
    same([grads.state.h[1], grads.state.c[1]], [dstate.h[1], dstate.c[1]])


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_past_the_end_has_no_influence(reverse):
    cell = CELLS["peephole_lstm"]
    x, weights, state, dy, dstate = drawn(cell, projected=True)
    how = {"cell": cell, "lengths": LENGTHS, "reverse": reverse}
    _, _, _, grads = clean = run(x, weights, state, dy, dstate, **how)
    past = np.arange(T)[:, None] >= LENGTHS
    for poison in (np.nan, np.inf):
        x[past], dy[past] = poison, poison
        poisoned = run(x, weights, state, dy, dstate, **how)
        same([poisoned[0], *poisoned[1]], [clean[0], *clean[1]])
        same(named_arrays(poisoned[3]).values(), named_arrays(grads).values())


def test_a_nan_stays_in_its_sequence():
    x, weights, state, dy, dstate = drawn(CELLS["gers_1999"])
    y, final, _, grads = run(x, weights, state, dy, dstate)
    x[1, 2] = np.nan
    y_2, final_2, _, grads_2 = run(x, weights, state, dy, dstate)
    same([y[:, :2], y[:1, 2], grads.x[:, :2]], [y_2[:, :2], y_2[:1, 2], grads_2.x[:, :2]])
    for a, b in ((final, final_2), (grads.state, grads_2.state)):
        same([a.h[:2], a.c[:2]], [b.h[:2], b.c[:2]])
        assert np.isnan(b.h[2]).all() and np.isnan(b.c[2]).all()
    assert np.isnan(y_2[1:, 2]).all() and np.isnan(grads_2.weights.b).all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", PRESETS.values(), ids=PRESETS)
def test_chunks_are_the_whole(cell, reverse):
    x, weights, state, dy, dstate = drawn(cell, projected=True)
    y, final, _, grads = run(x, weights, state, dy, dstate, cell=cell, reverse=reverse)
    chunks = [slice(a, b) for a, b in pairwise((0, 1, 1, 4))]
    carried, tapes = state, []
    for chunk in reversed(chunks) if reverse else chunks:
        y_part, carried, tape = reference.forward_train(x[chunk], weights, carried, cell=cell, reverse=reverse)
        assert_same_bits(y_part, y[chunk])
        tapes.append((chunk, tape))
    same(carried, final)
    sums = {}
    for chunk, tape in reversed(tapes):
        part = reference.backward(tape, dy[chunk], dstate)
        dstate = part.state
        np.testing.assert_allclose(part.x, grads.x[chunk], atol=1e-14)
        for name, gradient in named_arrays(part).items():
            sums[name] = sums.get(name, 0.0) + gradient if name.startswith("weights.") else gradient
    same(dstate, grads.state)
    for name, gradient in named_arrays(grads).items():
        if name != "x":
            np.testing.assert_allclose(sums[name], gradient, atol=1e-13, err_msg=name)


def test_batch_first_and_one_sequence_concern_x_and_y_alone():
    cell = CELLS["CIFG"]
    x, weights, state, dy, dstate = drawn(cell)
    whole = run(x, weights, state, dy, dstate, cell=cell, lengths=LENGTHS)
    turned = [array.swapaxes(0, 1) for array in (x, dy)]
    other = run(turned[0], weights, state, turned[1], dstate, cell=cell, lengths=LENGTHS, batch_first=True)
    same([other[0].swapaxes(0, 1), *other[1]], [whole[0], *whole[1]])
    same([other[2].gates, other[2].c], [whole[2].gates, whole[2].c])
    grads = other[3]._replace(x=other[3].x.swapaxes(0, 1))
    same(named_arrays(grads).values(), named_arrays(whole[3]).values())

    own = State(state.h[2], state.c[2])
    for batch_first in (False, True):
        for lengths in (3, np.int8(3), [3]):
            y, final, tape = reference.forward_train(
                x[:, 2], weights, own, cell=cell, lengths=lengths, batch_first=batch_first
            )
            assert y.shape == (T, H) and final.h.shape == final.c.shape == (H,)
            assert tape.gates.shape == (T, 1, 3, H) and tape.c.shape == (T, 1, H)
            grads = reference.backward(tape, dy[:, 2])
            assert grads.x.shape == (T, I) and grads.state.c.shape == (H,)


def test_defaults_are_zeros_and_the_tape_can_be_used_again():
    x, weights, _, dy, dstate = drawn(CellSpec())
    zeros = State(np.zeros((N, H)), np.zeros((N, H)))
    y, final, tape = reference.forward_train(x, weights)
    y_2, final_2, tape_2 = reference.forward_train(x, weights, zeros)
    same([y, *final], [y_2, *final_2])
    for given, meant in (
        ((None, dstate), (0 * y, dstate)),
        ((dy, None), (dy, zeros)),
        ((None, None), (0 * y, zeros)),
    ):
        grads, grads_2 = reference.backward(tape, *given), reference.backward(tape_2, *meant)
        same(named_arrays(grads).values(), named_arrays(grads_2).values())
    without = reference.backward(tape, dy, need_dx=False)
    assert without.x is None
    same(without.weights[:3], reference.backward(tape, dy).weights[:3])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("steps", "batch", "inputs"), [(0, 3, 2), (4, 0, 2), (0, 0, 2), (4, 3, 0), (0, 3, 0)])
@pytest.mark.parametrize("cell", PRESETS.values(), ids=PRESETS)
def test_empty_axes(cell, steps, batch, inputs, reverse):
    rng = np.random.default_rng(6)
    weights = make_weights(rng, cell, inputs, H, P)
    state, dstate = make_state(rng, batch, H, P), make_state(rng, batch, H, P)
    x = make_input(rng, steps, batch, inputs)
    y, final, tape, grads = run(x, weights, state, None, dstate, cell=cell, reverse=reverse)
    assert y.shape == (steps, batch, P) and tape.gates.shape == (steps, batch, len(cell.gates), H)
    assert grads.x.shape == x.shape
    if inputs == 0 and steps and batch:
        one = make_input(rng, steps, batch, 1)
        twin = reference.forward(
            one, weights._replace(w_ih=np.zeros((len(weights.w_ih), 1))), state, cell=cell, reverse=reverse
        )
        same([y, *final], [twin[0], *twin[1]])
        return
    same([*final, *grads.state], [*state, *dstate])
    assert not np.shares_memory(final.h, state.h)
    for array, gradient in zip(weights, grads.weights, strict=True):
        if array is not None:
            assert_same_bits(gradient, np.zeros_like(array))


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_too_small_becomes_zero(reverse):
    tiny = 2.0**-481
    weights = Weights(np.zeros((4, 1)), np.zeros((4, 1)))
    _, final, tape = reference.forward_train(np.zeros((1, 1)), weights, ([0.0], [-4 * tiny]), reverse=reverse)
    assert_same_bits(final.c, np.array([-2 * tiny]))
    grads = reference.backward(tape, dstate=([0.0], [-2 * tiny]))
    assert_same_bits(grads.state.c, np.zeros(1))
    _, final = reference.forward(np.zeros((1, 1)), weights, ([0.0], [-2 * tiny]), reverse=reverse)
    assert_same_bits(final.c, np.zeros(1))


def test_the_carry_of_h_becomes_zero_too():
    for w, carried in ((2.0**-478, 2.0**-479), (2.0**-480, 0.0)):
        weights = Weights(np.zeros((4, 1)), np.array([[0.0], [0.0], [w], [0.0]]))
        tape = reference.forward_train(np.zeros((1, 1)), weights)[2]
        # d_z_g = d_c * i, and i is 0.5.
        assert_same_bits(reference.backward(tape, dstate=([0.0], [1.0])).state.h, np.array([carried]))


def test_an_infinite_weight_leaves_the_padding_alone():
    x, weights, state, dy, dstate = drawn(CELLS["gers_1999"])
    weights.w_ih[0, 0] = np.inf
    y, _, tape, grads = run(x, weights, state, dy, dstate, lengths=LENGTHS)
    for array in (y, tape.gates, tape.c, grads.x):
        assert_same_bits(array[:, 1], np.zeros_like(array[:, 1]))


def test_an_infinite_state_is_not_a_nan_without_peepholes():
    weights = Weights(np.zeros((4, 1)), np.zeros((4, 1)))
    y, final = reference.forward(np.zeros((2, 1)), weights, ([0.0], [np.inf]))
    assert final.c == np.inf
    np.testing.assert_array_equal(y, 0.5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": np.zeros(3)}, r"x: expected 3 axes, or 2 for one sequence, got shape \(3,\)"),
        ({"x": np.zeros((4, 3, 1))}, r"w_ih: expected shape \(12, 1\), got \(12, 2\)"),
        ({"w_ih": np.zeros((2, 12))}, r"w_ih: expected shape \(12, 2\)"),
        ({"w_hh": np.zeros((3, 12))}, r"w_hh: expected shape \(4\*H, P\)"),
        ({"w_hh": np.zeros((0, 0))}, "at least 1"),
        ({"w_hh": np.zeros((12, 2))}, "expected 3 columns without w_hr, got 2"),
        ({"w_hr": np.zeros((3, 2))}, r"w_hr: expected shape \(3, 3\)"),
        ({"b": np.zeros(1)}, r"b: expected shape \(12,\), got \(1,\)"),
        ({"peephole": np.zeros((3, 3))}, "peephole=False, got an array"),
        ({"cell": CellSpec(peephole=True)}, "peephole=True, got None"),
        (
            {"cell": CellSpec(peephole=True), "peephole": np.zeros((1, 3))},
            r"peephole: expected shape \(3, 3\)",
        ),
        ({"state": (np.zeros((1, 3)), np.zeros((3, 3)))}, r"state.h: expected shape \(3, 3\), got \(1, 3\)"),
        ({"state": (np.zeros((3, 3)), np.zeros(3))}, r"state.c: expected shape \(3, 3\), got \(3,\)"),
        ({"lengths": [4]}, r"lengths: expected shape \(3,\)"),
        ({"lengths": 4}, r"lengths: expected shape \(3,\)"),
        ({"lengths": [4, 5, 0]}, "expected 0 to 4"),
        ({"lengths": [4, -1, 0]}, "expected 0 to 4"),
    ],
)
def test_wrong_shapes_are_refused_and_not_broadcast(change, match):
    x, weights, state, _, _ = drawn(CellSpec())
    named = {"x": x, "state": state, "cell": CellSpec(), "lengths": None} | weights._asdict() | change
    weights = Weights(*(named.pop(name) for name in Weights._fields))
    with pytest.raises(ValueError, match=match):
        reference.forward(named.pop("x"), weights, **named)


def test_wrong_gradients_and_lengths_are_refused():
    x, weights, state, dy, dstate = drawn(CellSpec())
    tape = reference.forward_train(x, weights, state)[2]
    for wrong in (dy[:1], dy[..., :1], 1.0):
        with pytest.raises(ValueError, match="dy: expected shape"):
            reference.backward(tape, wrong)
    with pytest.raises(ValueError, match=r"dstate\.c: expected shape"):
        reference.backward(tape, dy, (dstate.h, dstate.c[:1]))
    for lengths in ([1.0, 2.0, 3.0], [True, False, True]):
        with pytest.raises(TypeError, match="lengths: expected integers"):
            reference.forward(x, weights, lengths=lengths)
