"""The comparison is tested here: that it fails when it should, and only then."""

import re

import numpy as np
import pytest
from lstm_rs import reference
from lstm_rs.functional import Weights
from oracle import (
    CELLS,
    PRESETS,
    assert_close,
    assert_gradients_close,
    assert_same_bits,
    make_input,
    make_lengths,
    make_state,
    make_weights,
    named_arrays,
    tolerance,
)

SIZES = {"steps": 7, "batch": 3, "input_size": 4, "hidden_size": 5}


@pytest.fixture
def expected():
    return np.random.default_rng(1).normal(size=(7, 3, 5))


def fails(match, actual, expected, **changes):
    with pytest.raises(AssertionError, match=match):
        assert_close(actual, expected, **(SIZES | changes))


def test_equal_arrays_are_close_and_rounded_ones_too(expected):
    assert assert_close(expected, expected, **SIZES) == 0.0
    assert 0.0 < assert_close(expected.astype(np.float32), expected, **SIZES) < 0.01


def test_the_tolerance_is_the_formula_written_out():
    expected = np.array([0.5, -4.0, np.inf, np.nan])
    eps, tiny = 2.0**-23, 2.0**-126
    # (4 + 5) * 7 + 2 = 65, of which log2 is a bit above 6.
    assert tolerance(expected, np.float32, **SIZES) == 16 * 7 * eps * 4 + 64 * tiny
    assert tolerance(expected, np.float32, **SIZES, backward=True) == 2 * 16 * 7 * eps * 4 + 64 * tiny
    # (4 + 5) * 7 * 3 + 2 = 191.
    over_batch = tolerance(expected, np.float32, **SIZES, backward=True, over_batch=True)
    assert over_batch == 2 * 16 * 8 * eps * 4 + 64 * tiny
    assert tolerance(np.zeros(3), np.float64, **SIZES) == 64 * 2.0**-1022
    # No steps: log2(2) = 1.
    assert tolerance(np.ones(1), np.float64, **(SIZES | {"steps": 0})) == 16 * 2.0**-52 + 64 * 2.0**-1022
    # A lower bound for the scale counts where it is above the largest element, and only there.
    assert tolerance(expected, np.float32, **SIZES, at_least=5.0) == 16 * 7 * eps * 5 + 64 * tiny
    assert tolerance(expected, np.float32, **SIZES, at_least=1.0) == 16 * 7 * eps * 4 + 64 * tiny
    with pytest.raises(ValueError, match="over_batch needs backward"):
        tolerance(expected, np.float32, **SIZES, over_batch=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("at", [(0, 0, 0), (3, 1, 2), (6, 2, 4)])
def test_one_perturbed_element_fails_and_is_named(expected, dtype, at):
    actual = expected.astype(dtype)
    expected = actual.astype(np.float64)
    allowed = tolerance(expected, dtype, **SIZES)
    actual[at] += dtype(0.9 * allowed)
    assert assert_close(actual, expected, **SIZES) == pytest.approx(0.9, abs=0.05)
    actual[at] += dtype(0.2 * allowed)
    fails(re.escape(f"above the tolerance {allowed:.3g}, worst at {at}") + ".*; 1 of 105", actual, expected)


def test_it_is_the_maximum_that_counts_not_the_mean(expected):
    big = np.tile(expected, (100, 1, 1))
    actual = big.copy()
    actual[350, 1, 1] += 2 * tolerance(big, np.float64, **SIZES)
    assert np.abs(actual - big).mean() < tolerance(big, np.float64, **SIZES) / 1000
    fails("1 of 10500", actual, big)


def test_nan_must_be_where_it_is_expected(expected):
    with_nan = expected.copy()
    with_nan[2, 1, 3] = np.nan
    fails(r"wrong places, first at \(2, 1, 3\)", with_nan, expected)
    fails(r"wrong places, first at \(2, 1, 3\)", expected, with_nan)
    fails("wrong places", np.full_like(expected, np.nan), expected)
    assert_close(with_nan, with_nan.copy(), **SIZES)
    with_inf = with_nan.copy()
    with_inf[2, 1, 3] = np.inf
    fails("expected nan, got inf", with_inf, with_nan)


def test_inf_must_be_where_it_is_expected_with_its_sign(expected):
    with_inf = expected.copy()
    with_inf[0, 0, 1] = np.inf
    assert_close(with_inf, with_inf.copy(), **SIZES)
    fails("expected inf, got -inf", np.where(np.isinf(with_inf), -np.inf, with_inf), with_inf)
    fails("expected inf", expected, with_inf)
    fails("got inf", with_inf, expected)
    # An Inf must not make the tolerance infinite for the rest.
    actual = with_inf.copy()
    actual[5, 2, 2] += 1e-6
    fails(r"worst at \(5, 2, 2\)", actual, with_inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_expected_zero_allows_no_small_number(dtype):
    expected = np.zeros((7, 3, 5))
    actual = expected.astype(dtype)
    assert_close(actual, expected, **SIZES)
    actual[1, 1, 1] = 100 * np.finfo(dtype).tiny
    fails("above the tolerance", actual, expected)


def test_shapes_are_compared_and_not_broadcast(expected):
    fails(r"expected shape \(7, 3, 5\), got \(1, 3, 5\)", expected[:1], expected)
    fails(r"expected shape \(7, 3, 5\), got \(7, 5, 3\)", expected.swapaxes(1, 2), expected)
    fails(r"expected shape \(7, 3, 5\), got \(\)", np.asarray(expected[0, 0, 0]), expected)
    fails("expected shape", expected[:0], expected)


def test_dtypes_are_compared(expected):
    for dtype in (np.float16, np.longdouble, np.int64, np.complex128, object):
        fails("must be an array of float32 or float64", expected.astype(dtype), expected)
    fails("expected must be an array", expected, np.ones((7, 3, 5), int))
    fails("must be an array", expected.tolist(), expected)
    fails("float64 cannot be judged by float32", expected, expected.astype(np.float32))


def test_empty_arrays_compare_by_shape():
    assert assert_close(np.zeros((0, 3)), np.zeros((0, 3)), **SIZES) == 0.0
    fails("expected shape", np.zeros((0, 3)), np.zeros((3, 0)))


def drawn(cell, dtype=np.float64):
    rng = np.random.default_rng(2)
    weights = make_weights(rng, cell, 4, 5, dtype=dtype)
    return make_input(rng, 7, 3, 4, dtype), weights, make_state(rng, 3, 5, dtype=dtype), rng


@pytest.mark.parametrize("name", PRESETS)
def test_swapped_gates_fail_forward_and_backward(name):
    cell = PRESETS[name]
    x, weights, state, _ = drawn(cell)
    y, final, tape = reference.forward_train(x, weights, state, cell=cell)
    grads = reference.backward(tape, np.ones_like(y), final)

    def swapped(array):
        rows = array.reshape(len(cell.gates), 5, -1).copy()
        rows[[0, -1]] = rows[[-1, 0]]
        return rows.reshape(array.shape)

    wrong = weights._replace(w_ih=swapped(weights.w_ih), w_hh=swapped(weights.w_hh), b=swapped(weights.b))
    fails("above the tolerance", reference.forward(x, wrong, state, cell=cell)[0], y)
    fails("above the tolerance", swapped(grads.weights.w_ih), grads.weights.w_ih, backward=True, over_batch=True)


def test_each_gradient_is_compared():
    cell = CELLS["peephole_lstm"]
    rng = np.random.default_rng(3)
    weights = make_weights(rng, cell, 4, 5, output_size=2)
    y, final, tape = reference.forward_train(make_input(rng, 7, 3, 4), weights, cell=cell)
    grads = reference.backward(tape, np.ones_like(y), final)
    assert assert_gradients_close(grads, grads, **SIZES) == 0.0
    names = {"x", "state.h", "state.c", *(f"weights.{name}" for name in Weights._fields)}
    assert named_arrays(grads).keys() == names
    for name in names:
        twin = reference.backward(tape, np.ones_like(y), final)
        named_arrays(twin)[name].flat[-1] += 1e-9
        with pytest.raises(AssertionError, match=f"d_{name}: error"):
            assert_gradients_close(twin, grads, **SIZES)
    with pytest.raises(AssertionError, match="expected gradients of"):
        assert_gradients_close(grads._replace(x=None), grads, **SIZES)
    with pytest.raises(AssertionError, match="expected gradients of"):
        assert_gradients_close(grads, grads._replace(x=None), **SIZES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits(dtype):
    a = np.random.default_rng(4).normal(size=(4, 3)).astype(dtype)
    a[0] = [np.inf, -np.inf, 0.0]
    assert_same_bits(a, a.copy())
    assert_same_bits(a, np.asfortranarray(a))
    assert_same_bits(a[::2], a[::2].copy())
    assert_same_bits(a[:0], a[:0].copy())
    for at, value in (
        ((0, 0), -np.inf),
        ((0, 2), -0.0),
        ((2, 1), np.nan),
        ((3, 2), np.nextafter(a[3, 2], dtype(9))),
    ):
        b = a.copy()
        b[at] = value
        with pytest.raises(AssertionError, match=re.escape(f"1 of 12 differ in their bits, first at {at}")):
            assert_same_bits(b, a)
        with pytest.raises(AssertionError, match="1 of 12"):
            assert_same_bits(a, b)


def test_bits_take_all_nan_as_one():
    quiet, negative, payload = (
        np.array([word], np.uint32).view(np.float32) for word in (0x7FC00000, 0xFFC00000, 0x7FC01234)
    )
    assert_same_bits(quiet, negative)
    assert_same_bits(payload, quiet)
    with pytest.raises(AssertionError, match="differ"):
        assert_same_bits(quiet, np.array([np.inf], np.float32))


def test_bits_compare_dtype_and_shape():
    a = np.zeros((2, 3), np.float32)
    for other, match in (
        (a.astype(np.float64), "expected dtype float64"),
        (a.reshape(3, 2), "expected shape"),
        (a[:1], "expected shape"),
        (a.tolist(), "not arrays"),
        (a.astype(">f4"), "expected dtype"),
    ):
        with pytest.raises(AssertionError, match=match):
            assert_same_bits(a, other)
    with pytest.raises(AssertionError, match="float32 and float64, not int64"):
        assert_same_bits(np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_every_cell_is_among_the_cells():
    # 8 sets of gates, 4 pairs of activations; again with peepholes, but for the set without gates; coupled.
    assert len(CELLS) == len(set(CELLS.values())) == 8 * 4 + 7 * 4 + 2 * 2 * 4
    assert PRESETS.items() <= CELLS.items()


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_drawn_weights_move_the_gates(cell):
    x, weights, state, _ = drawn(cell)
    tape = reference.forward_train(x, weights, state, cell=cell)[2]
    for row, gate in enumerate(cell.gates):
        moved = tape.gates[:, :, row]
        assert moved.std() > 0.1, f"gate {gate} is dead"
        if gate != "g":
            assert np.mean((moved > 0.02) & (moved < 0.98)) > 0.5, f"gate {gate} is saturated"


def test_drawn_data_has_its_shapes_and_edges():
    rng = np.random.default_rng(5)
    weights = make_weights(rng, CELLS["CIFG"], 4, 5, output_size=2, bias=False, dtype=np.float32)
    assert [None if w is None else w.shape for w in weights] == [(15, 4), (15, 2), None, (2, 5), (2, 5)]
    assert {w.dtype for w in weights if w is not None} == {np.dtype(np.float32)}
    assert make_input(rng, 7, None, 4).shape == (7, 4)
    assert [part.shape for part in make_state(rng, None, 5, 2)] == [(2,), (5,)]
    assert [part.shape for part in make_state(rng, 3, 5, 2)] == [(3, 2), (3, 5)]
    for batch in range(4):
        lengths = make_lengths(rng, 7, batch)
        assert lengths.shape == (batch,)
        assert batch < 2 or {0, 7} <= set(lengths.tolist())
