"""The losses: values and gradients by PyTorch's, by differences, and with what stands past the end."""

from functools import partial

import numpy as np
import pytest
from lstm_rs import train

ELEMENTWISE = {
    "mse": (train.mse, "mse_loss", {}),
    "mae": (train.mae, "l1_loss", {}),
    "huber": (train.huber, "huber_loss", {}),
    "huber 0.3": (partial(train.huber, delta=0.3), "huber_loss", {"delta": 0.3}),
}
SMOOTHING = [0.0, 0.1]
EVERY = {
    **{name: loss for name, (loss, _, _) in ELEMENTWISE.items()},
    "cross_entropy": train.cross_entropy,
    "smoothed": partial(train.cross_entropy, label_smoothing=0.2),
}


def case(name, shape, seed=0):
    """A prediction and its target, in float64."""
    rng = np.random.default_rng(seed)
    prediction = rng.normal(size=shape)
    classes = name in ("cross_entropy", "smoothed")
    return prediction, rng.integers(0, shape[-1], shape[:-1]) if classes else rng.normal(size=shape)


def padded(target, lengths):
    """The target with what nobody may read past the ends: NaN, or a class that there is not."""
    target = target.copy()
    target[np.arange(len(target))[:, None] >= lengths] = np.nan if target.dtype.kind == "f" else 10**6
    return target


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_as_in_torch(name, dtype):
    torch = pytest.importorskip("torch")
    loss, function, options = ELEMENTWISE[name]
    for shape in [(7,), (7, 3), (5, 4, 3)]:
        prediction, target = (array.astype(dtype) for array in case(name, shape))
        twin = torch.tensor(prediction, requires_grad=True)
        expected = getattr(torch.nn.functional, function)(twin, torch.tensor(target), **options)
        expected.backward()
        check(loss(prediction, target), expected, twin, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_cross_entropy_as_in_torch(smoothing, dtype):
    torch = pytest.importorskip("torch")
    for shape in [(7, 3), (5, 4, 3)]:
        prediction, target = case("cross_entropy", shape)
        prediction = prediction.astype(dtype)
        twin = torch.tensor(prediction, requires_grad=True)
        expected = torch.nn.functional.cross_entropy(
            twin.reshape(-1, shape[-1]), torch.tensor(target).reshape(-1), label_smoothing=smoothing
        )
        expected.backward()
        check(train.cross_entropy(prediction, target, label_smoothing=smoothing), expected, twin, dtype)


def check(got, expected, twin, dtype):
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    assert isinstance(got.value, float)
    assert got.gradient.dtype == dtype
    np.testing.assert_allclose(got.value, expected.item(), rtol=tolerance)
    np.testing.assert_allclose(got.gradient, twin.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EVERY)
def test_gradient_by_differences(name):
    loss, lengths = EVERY[name], np.array([5, 1, 3])
    prediction, target = case(name, (5, 3, 4))
    for options in ({}, {"lengths": lengths}):
        gradient = loss(prediction, target, **options).gradient
        estimate, step = np.zeros_like(gradient), 1e-6
        for index in np.ndindex(prediction.shape):
            values = []
            for sign in (1, -1):
                moved = prediction.copy()
                moved[index] += sign * step
                values.append(loss(moved, target, **options).value)
            estimate[index] = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(gradient, estimate, atol=1e-9)
        assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_lengths_are_the_mean_of_what_counts(name):
    loss, lengths = EVERY[name], np.array([5, 1, 3])
    prediction, target = case(name, (5, 3, 4))
    got = loss(prediction, padded(target, lengths), lengths=lengths)
    mask = np.arange(5)[:, None] < lengths
    expected = loss(prediction[mask], target[mask])
    assert got.value == expected.value
    assert np.array_equal(got.gradient[mask], expected.gradient)
    assert not got.gradient[~mask].any()
    # Nor is the prediction read there.
    prediction[~mask] = np.nan
    again = loss(prediction, padded(target, lengths), lengths=lengths)
    assert again.value == got.value
    assert np.array_equal(again.gradient, got.gradient)


@pytest.mark.parametrize("name", EVERY)
def test_whole_lengths_are_as_none(name):
    prediction, target = case(name, (5, 3, 4))
    one, two = EVERY[name](prediction, target), EVERY[name](prediction, target, lengths=np.full(3, 5))
    assert one.value == two.value
    assert np.array_equal(one.gradient, two.gradient)


def test_large_logits():
    loss = train.cross_entropy(np.array([[1e4, -1e4]]), np.array([1]))
    assert loss.value == 2e4
    assert loss.gradient.tolist() == [[1.0, -1.0]]


def test_targets_are_cast_to_the_prediction():
    prediction = np.array([1.5, 2.5], np.float32)
    for target in (np.array([1, 2]), np.array([1.0, 2.0]), [1, 2]):
        loss = train.mse(prediction, target)
        assert (loss.value, loss.gradient.dtype) == (0.25, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.mse(np.zeros((3, 1)), np.zeros(3)), ValueError, r"target: expected shape \(3, 1\).*got \(3,\)"),
        (lambda: train.mse(np.zeros(3, int), np.zeros(3)), TypeError, "prediction: expected .*float32 or float64"),
        (lambda: train.mse([0.0], np.zeros(1)), TypeError, "prediction: expected .*got list"),
        (lambda: train.mae(np.zeros(1), np.array(["a"])), TypeError, "target: expected numbers, got <U1"),
        (lambda: train.huber(np.zeros(1), np.zeros(1), delta=0.0), ValueError, "delta: expected more than 0, got 0.0"),
        (lambda: train.mse(np.zeros((0, 3)), np.zeros((0, 3))), ValueError, "expected something that counts"),
        (
            lambda: train.mse(np.zeros((4, 2)), np.zeros((4, 2)), lengths=np.zeros(2, int)),
            ValueError,
            "no valid step",
        ),
        (
            lambda: train.mse(np.zeros((4, 2)), np.zeros((4, 2)), lengths=np.array([4, 4, 4])),
            ValueError,
            r"lengths: expected one for each .*got shape \(3,\)",
        ),
        (lambda: train.cross_entropy(np.zeros((2, 3)), np.zeros(2)), TypeError, "target: expected classes as integers"),
        (
            lambda: train.cross_entropy(np.zeros((2, 3)), np.array([0, 3])),
            ValueError,
            "target: expected classes from 0 to 2, .*got 0 to 3",
        ),
        (lambda: train.cross_entropy(np.zeros((2, 3)), np.array([0, -1])), ValueError, "got -1 to 0"),
        (
            lambda: train.cross_entropy(np.zeros((2, 3)), np.zeros((2, 1), int)),
            ValueError,
            r"target: expected shape \(2,\)",
        ),
        (
            lambda: train.cross_entropy(np.zeros((2, 3)), np.array([0, 1]), label_smoothing=1.0),
            ValueError,
            "label_smoothing: expected from 0 to less than 1",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("lengths", [[9, 1, 1], [1, -4, 1]])
def test_lengths_out_of_range_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths: expected 0 to 3, the steps, got"):
        train.mse(np.ones((3, 3)), np.zeros((3, 3)), lengths=np.array(lengths))


def test_lengths_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="lengths: expected integers, got float64"):
        train.cross_entropy(np.ones((3, 2, 2)), np.zeros((3, 2), int), lengths=np.array([1.0, 2.0]))
