"""The linear read-out: what it computes, what it keeps, and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
from lstm_rs import LSTM, train


def tolerance(dtype):
    return 1e-6 if dtype == np.float32 else 1e-14


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (2, 3, 4)])
def test_forward_and_backward(shape, dtype, bias):
    rng = np.random.default_rng(0)
    linear = train.Linear(6, 4, bias=bias, dtype=dtype, seed=0)
    x, dy = (rng.normal(size=(*shape, size)).astype(dtype) for size in (6, 4))
    w = linear.weights["weight"].astype(np.float64)
    b = linear.weights["bias"].astype(np.float64) if bias else 0.0
    grads = linear.backward(x, dy)
    near = {"rtol": 10 * tolerance(dtype), "atol": 10 * tolerance(dtype)}
    np.testing.assert_allclose(linear(x), x @ w.T + b, **near)
    np.testing.assert_allclose(grads.x, dy @ w, **near)
    rows = dy.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(grads.weights["weight"], rows.T @ x.reshape(-1, 6), **near)
    if bias:
        np.testing.assert_allclose(grads.weights["bias"], rows.sum(axis=0), **near)
    assert list(grads.weights) == list(linear.weights) == ["weight", "bias"][: 1 + bias]
    assert {array.dtype for array in (linear(x), grads.x, *grads.weights.values())} == {np.dtype(dtype)}
    assert linear.backward(x, dy, need_dx=False).x is None


def test_layouts_in_memory_do_not_matter():
    rng = np.random.default_rng(0)
    linear = train.Linear(6, 4, seed=0)
    x, dy = rng.normal(size=(5, 3, 6)).astype(np.float32), rng.normal(size=(5, 3, 4)).astype(np.float32)
    strided = np.asfortranarray(x), np.asfortranarray(dy)
    assert np.array_equal(linear(x), linear(strided[0]))
    one, two = linear.backward(x, dy), linear.backward(*strided)
    assert np.array_equal(one.x, two.x)
    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_a_row_does_not_depend_on_the_others():
    linear, x = train.Linear(50, 3, seed=0), np.random.default_rng(0).normal(size=(40, 7, 50)).astype(np.float32)
    whole = linear(x)
    assert all(np.array_equal(linear(x[t]), whole[t]) for t in range(40))
    assert all(np.array_equal(linear(x[t, 0]), whole[t, 0]) for t in range(40))


def test_a_call_is_of_the_weights_of_one_moment():
    """Between the questions for its weights another thread may put others in their place."""
    linear, x = train.Linear(6, 4, seed=0), np.ones((3, 6), np.float32)
    other = train.Linear(6, 4, seed=1).state_dict()
    wanted = linear(x)

    class Meddled(dict):
        def __getitem__(self, name):
            linear._arrays = other
            return super().__getitem__(name)

    linear._arrays = Meddled(linear._arrays)
    assert np.array_equal(linear(x), wanted)
    assert linear._arrays is other


def test_initial_weights():
    linear = train.Linear(400, 300, seed=0)
    for array in linear.weights.values():
        assert array.min() >= -0.05
        assert array.max() <= 0.05
        assert abs(array.mean()) < 0.01
        assert array.std() == pytest.approx(0.05 / 3**0.5, rel=0.1)
    again, other = train.Linear(400, 300, seed=0), train.Linear(400, 300, seed=1)
    assert np.array_equal(linear.weights["weight"], again.weights["weight"])
    assert not np.array_equal(linear.weights["weight"], other.weights["weight"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda linear: pickle.loads(pickle.dumps(linear))])
def test_copies_are_apart(copied):
    linear = train.Linear(3, 2, seed=0)
    before = linear.state_dict()
    other = copied(linear)
    assert repr(other) == repr(linear) == "Linear(3, 2)"
    assert all(np.array_equal(other.weights[name], before[name]) for name in before)
    with other.edit() as w:
        w["weight"] += 1
    assert np.array_equal(linear.weights["weight"], before["weight"])
    with pytest.raises(ValueError, match="read-only"):
        copied(linear).weights["weight"][0, 0] = 1


def test_weights_are_read_only_and_change_as_a_whole():
    linear = train.Linear(3, 2, seed=0)
    seen = linear.weights["weight"]
    before = seen.copy()
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0] = 1
    with pytest.raises(ZeroDivisionError), linear.edit() as w:
        w["weight"] += 1
        raise ZeroDivisionError
    assert np.array_equal(linear.weights["weight"], before)
    given = np.ones(2, np.float32)
    linear.weights["bias"] = given
    given[:] = 5
    assert linear.weights["bias"].tolist() == [1, 1]
    with linear.edit() as w:
        w["weight"] = np.zeros((2, 3), np.float32)
    assert not linear.weights["weight"].any()
    assert np.array_equal(seen, before)


def test_state_dicts_of_either_dtype():
    one, two = train.Linear(3, 2, dtype=np.float64, seed=0), train.Linear(3, 2, seed=1)
    two.load_state_dict(one.state_dict())
    assert two.weights["weight"].dtype == np.float32
    assert np.array_equal(two.weights["weight"], one.weights["weight"].astype(np.float32))


def test_reprs():
    assert repr(train.Linear(3, 2, bias=False, dtype=np.float64)) == "Linear(3, 2, bias=False, dtype=float64)"
    assert repr(train.Linear(3, 2).weights) == "{weight: (2, 3), bias: (2,)}"


def edit_with(name, array):
    with train.Linear(3, 2).edit() as w:
        w[name] = array


LINEAR = train.Linear(3, 2, seed=0)
X, DY = np.zeros((5, 3), np.float32), np.zeros((5, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.Linear(0, 2), ValueError, "in_features: expected at least 1, got 0"),
        (lambda: train.Linear(3, 2.0), TypeError, "out_features: expected an int, got float"),
        (lambda: train.Linear(3, 2, bias=1), TypeError, "bias: expected a bool, got 1"),
        (lambda: train.Linear(3, 2, dtype=int), TypeError, "dtype: expected float32 or float64"),
        (lambda: LINEAR(X.tolist()), TypeError, "x: expected an array, got list"),
        (lambda: LINEAR(X[:, :2]), ValueError, r"x: expected shape \(..., 3\), got \(5, 2\)"),
        (lambda: LINEAR(X.astype(float)), TypeError, "x: expected float32, as the module is, got float64"),
        (lambda: LINEAR.backward(X, DY[:4]), ValueError, r"dy: expected shape \(5, 2\), .*got \(4, 2\)"),
        (lambda: LINEAR.backward(X, DY[:, :1]), ValueError, r"dy: expected shape \(..., 2\), got \(5, 1\)"),
        (lambda: LINEAR.backward(X, DY.astype(float)), TypeError, "dy: expected float32"),
        (lambda: LINEAR.load_state_dict({"weight": np.zeros((2, 3))}), KeyError, "state_dict: missing: bias"),
        (lambda: LINEAR.load_state_dict([]), TypeError, "state_dict: expected a mapping"),
        (
            lambda: LINEAR.load_state_dict({"weight": np.zeros((3, 2)), "bias": np.zeros(2)}),
            ValueError,
            r"weight: expected shape \(2, 3\), got \(3, 2\)",
        ),
        (lambda: edit_with("bias", np.zeros(2)), TypeError, "bias: expected float32, as the module is, got float64"),
        (lambda: edit_with("wieght", X), KeyError, "edit: expected the weights weight, bias"),
        (lambda: LINEAR.weights.__setitem__("bais", X), KeyError, "no weight 'bais'"),
    ],
)
def test_refusals(call, error, message):
    before = LINEAR.state_dict()
    with pytest.raises(error, match=message):
        call()
    assert all(np.array_equal(before[name], LINEAR.weights[name]) for name in before)


def test_both_are_modules():
    for module in (LSTM(3, 4), train.Linear(3, 4)):
        with module.edit() as w:
            assert w.keys() == module.weights.keys()
