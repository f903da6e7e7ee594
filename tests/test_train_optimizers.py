"""The optimizers by PyTorch's, step by step; clipping, schedules, and what they keep."""

import pickle

import numpy as np
import pytest
from lstm_rs import LSTM, train

RATE = 0.05
RULES = {
    "sgd": (train.SGD, "SGD", {}),
    "sgd decay": (train.SGD, "SGD", {"weight_decay": 0.1}),
    "momentum": (train.SGD, "SGD", {"momentum": 0.9}),
    "momentum decay": (train.SGD, "SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (train.SGD, "SGD", {"momentum": 0.8, "nesterov": True}),
    "nesterov decay": (train.SGD, "SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    "adam": (train.Adam, "Adam", {}),
    "adam betas": (train.Adam, "Adam", {"betas": (0.5, 0.9), "eps": 1e-3}),
    "adamw": (train.AdamW, "AdamW", {}),
    "adamw decay": (train.AdamW, "AdamW", {"weight_decay": 0.5, "betas": (0.8, 0.99)}),
}


def modules(dtype=np.float64, seed=0):
    return [LSTM(3, 5, dtype=dtype, seed=seed), train.Linear(5, 2, dtype=dtype, seed=seed)]


def random_gradients(rng, pair, scale=1.0):
    return [
        {name: (scale * rng.normal(size=array.shape)).astype(array.dtype) for name, array in module.weights.items()}
        for module in pair
    ]


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_as_in_torch(name, scheduled):
    torch = pytest.importorskip("torch")
    make, twin, options = RULES[name]
    pair, rng = modules(), np.random.default_rng(1)
    parameters = {
        (k, key): torch.nn.Parameter(torch.tensor(array.copy()))
        for k, module in enumerate(pair)
        for key, array in module.weights.items()
    }
    schedule = train.exponential(RATE, 0.9)
    optimizer = make(pair, schedule if scheduled else RATE, **options)
    other = getattr(torch.optim, twin)(parameters.values(), lr=RATE, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(other, 0.9)
    for _ in range(25):
        gradients = random_gradients(rng, pair)
        for (k, key), parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[k][key])
        optimizer.step(*gradients)
        other.step()
        if scheduled:
            scheduler.step()
        for (k, key), parameter in parameters.items():
            np.testing.assert_allclose(pair[k].weights[key], parameter.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", RULES)
def test_gradients_are_left_as_they_are(name):
    make, _, options = RULES[name]
    pair = modules()
    gradients = random_gradients(np.random.default_rng(0), pair)
    before = [{key: array.copy() for key, array in given.items()} for given in gradients]
    make(pair, RATE, **options).step(*gradients)
    for given, kept in zip(gradients, before, strict=True):
        assert all(np.array_equal(given[key], kept[key]) for key in kept)


@pytest.mark.parametrize("name", RULES)
def test_float32_stays_float32(name):
    make, _, options = RULES[name]
    pair = modules(np.float32)
    optimizer = make(pair, RATE, **options)
    optimizer.step(*random_gradients(np.random.default_rng(0), pair))
    assert {array.dtype for key, array in optimizer.state_dict().items() if key != "steps"} <= {np.dtype(np.float32)}
    assert all(array.dtype == np.float32 for module in pair for array in module.weights.values())


@pytest.mark.parametrize("name", RULES)
def test_going_on_from_a_state_dict(name):
    make, _, options = RULES[name]
    rng = np.random.default_rng(2)
    pair = modules(np.float32)
    optimizer = make(pair, train.linear(RATE, 10), **options)
    gradients = [random_gradients(rng, pair) for _ in range(8)]
    for given in gradients[:4]:
        optimizer.step(*given)
    kept, weights = optimizer.state_dict(), [module.state_dict() for module in pair]
    for given in gradients[4:]:
        optimizer.step(*given)

    others = modules(np.float32, seed=9)
    again = make(others, train.linear(RATE, 10), **options)
    for module, arrays in zip(others, weights, strict=True):
        module.load_state_dict(arrays)
    again.load_state_dict(kept)
    assert again.steps == 4
    for given in gradients[4:]:
        again.step(*given)
    for one, two in zip(pair, others, strict=True):
        assert all(np.array_equal(one.weights[key], two.weights[key]) for key in one.weights)


def test_a_step_uses_the_weights_as_they_are():
    pair = modules()
    optimizer = train.AdamW(pair, RATE, weight_decay=1.0)
    zero = [{name: np.zeros_like(array) for name, array in module.weights.items()} for module in pair]
    pair[1].load_state_dict({"weight": np.full((2, 5), 8.0), "bias": np.full(2, 4.0)})
    optimizer.step(*zero)
    assert np.allclose(pair[1].weights["weight"], 8.0 * (1 - RATE))
    assert np.allclose(pair[1].weights["bias"], 4.0 * (1 - RATE))


def test_an_optimizer_pickles_with_its_modules():
    pair, rng = modules(), np.random.default_rng(0)
    optimizer = train.Adam(pair, train.cosine(RATE, 20, warmup=3))
    gradients = [random_gradients(rng, pair) for _ in range(4)]
    optimizer.step(*gradients[0])
    again = pickle.loads(pickle.dumps(optimizer))
    for given in gradients[1:]:
        optimizer.step(*given)
        again.step(*given)
    for one, two in zip(pair, again.modules, strict=True):
        assert one is not two
        assert all(np.array_equal(one.weights[key], two.weights[key]) for key in one.weights)


# ----------------------------- clipping


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [0.1, 3.0, 1e3])
def test_clip_as_in_torch(max_norm, dtype):
    torch = pytest.importorskip("torch")
    gradients = random_gradients(np.random.default_rng(3), modules(dtype))
    parameters = []
    for given in gradients:
        for array in given.values():
            parameter = torch.nn.Parameter(torch.zeros(array.shape, dtype=torch.float64))
            parameter.grad = torch.tensor(array.astype(np.float64))
            parameters.append(parameter)
    expected = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    norm = train.clip_grad_norm(gradients, max_norm)
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    assert norm == pytest.approx(expected, rel=tolerance)
    arrays = [array for given in gradients for array in given.values()]
    for array, parameter in zip(arrays, parameters, strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, parameter.grad.numpy(), rtol=tolerance)


def test_what_is_short_is_not_touched():
    (gradients,) = random_gradients(np.random.default_rng(0), modules()[1:])
    before = {name: array.copy() for name, array in gradients.items()}
    norm = train.clip_grad_norm(gradients, 1e6)
    assert norm == pytest.approx(np.sqrt(sum((array**2).sum() for array in before.values())))
    assert all(np.array_equal(gradients[name], before[name]) for name in before)


def test_what_is_not_finite_is_told():
    gradients = {"weight": np.array([3.0, np.inf])}
    assert train.clip_grad_norm(gradients, 1.0) == np.inf
    assert gradients["weight"].tolist() == [3.0, np.inf]


# ----------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (train.constant(0.5), {0: 0.5, 10**6: 0.5}),
        (train.linear(1.0, 4), {0: 1.0, 1: 0.75, 3: 0.25, 4: 0.0, 9: 0.0}),
        (train.linear(1.0, 4, final=0.5), {0: 1.0, 2: 0.75, 4: 0.5, 9: 0.5}),
        (train.cosine(1.0, 4), {0: 1.0, 1: 0.5 + 0.5**1.5, 2: 0.5, 4: 0.0, 9: 0.0}),
        (train.cosine(1.0, 8, warmup=4, final=0.2), {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.6, 8: 0.2, 9: 0.2}),
        (train.exponential(1.0, 0.5), {0: 1.0, 1: 0.5, 3: 0.125}),
        (train.step(1.0, 3), {0: 1.0, 2: 1.0, 3: 0.1, 5: 0.1, 6: 0.01}),
        (train.step(1.0, 2, 0.5), {1: 1.0, 2: 0.5, 4: 0.25}),
    ],
)
def test_schedules(schedule, expected):
    assert {k: pytest.approx(schedule(k), abs=1e-15) for k in expected} == expected
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert repr(schedule).startswith(type(schedule).__name__)


def test_a_schedule_counts_steps():
    linear = train.Linear(2, 1, dtype=np.float64)
    optimizer = train.SGD(linear, train.step(1.0, 2, 0.5))
    ones = {name: np.ones_like(array) for name, array in linear.weights.items()}
    moved = []
    for _ in range(5):
        before = linear.weights["bias"][0]
        optimizer.step(ones)
        moved.append(before - linear.weights["bias"][0])
    assert moved == pytest.approx([1.0, 1.0, 0.5, 0.5, 0.25])
    assert optimizer.steps == 5


# ----------------------------- refusals


LINEAR = train.Linear(2, 1, seed=0)
GOOD = {name: np.zeros_like(array) for name, array in LINEAR.weights.items()}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.Adam([]), ValueError, "modules: expected at least one"),
        (lambda: train.Adam([LINEAR, LINEAR]), ValueError, "modules: expected each once"),
        (
            lambda: train.Adam([LINEAR, train.Linear(2, 1, dtype=np.float64)]),
            TypeError,
            r"modules: expected weights of one dtype, got \['float32', 'float64'\]",
        ),
        (lambda: train.Adam(LINEAR, -1.0), ValueError, "learning_rate: expected a finite rate from 0 on, got -1.0"),
        (lambda: train.Adam(LINEAR, float("nan")), ValueError, "learning_rate: expected a finite rate"),
        (lambda: train.Adam(LINEAR, lambda k: -1.0), ValueError, "learning_rate: .*at step 0"),
        (lambda: train.Adam(LINEAR, betas=(0.9, 1.0)), ValueError, r"betas\[1\]: expected from 0 to less than 1"),
        (lambda: train.Adam(LINEAR, eps=-1.0), ValueError, "eps: expected from 0 on"),
        (lambda: train.AdamW(LINEAR, weight_decay=-1.0), ValueError, "weight_decay: expected a finite number"),
        (lambda: train.SGD(LINEAR, 0.1, momentum=1.0), ValueError, "momentum: expected from 0 to less than 1"),
        (lambda: train.SGD(LINEAR, 0.1, nesterov=True), ValueError, "nesterov: expected a momentum above 0"),
        (lambda: train.Adam(LINEAR).step(), ValueError, "gradients: expected 1 mappings, .*got 0"),
        (lambda: train.Adam(LINEAR).step({"weight": GOOD["weight"]}), KeyError, "missing: bias"),
        (lambda: train.Adam(LINEAR).step({**GOOD, "bais": 0}), KeyError, "unexpected: bais"),
        (
            lambda: train.Adam(LINEAR).step({**GOOD, "bias": np.zeros(2, np.float32)}),
            ValueError,
            r"gradient of bias of module 0: expected shape \(1,\), got \(2,\)",
        ),
        (
            lambda: train.Adam(LINEAR).step({**GOOD, "bias": np.zeros(1)}),
            TypeError,
            "gradient of bias of module 0: expected float32, as the weight is, got float64",
        ),
        (lambda: train.clip_grad_norm(dict(GOOD), 0.0), ValueError, "max_norm: expected more than 0"),
        (lambda: train.linear(0.1, 0), ValueError, "steps: expected at least 1, got 0"),
        (lambda: train.linear(float("inf"), 1), ValueError, "rate: expected a finite rate"),
        (lambda: train.cosine(0.1, 5, warmup=5), ValueError, "steps: expected at least 6, got 5"),
        (lambda: train.exponential(0.1, 1.5), ValueError, "decay: expected a factor above 0"),
        (lambda: train.step(0.1, 0), ValueError, "every: expected at least 1"),
        (
            lambda: train.Adam(LINEAR).load_state_dict(train.SGD(LINEAR, 0.1, momentum=0.5).state_dict()),
            KeyError,
            "missing: mean, square; unexpected: velocity",
        ),
        (
            lambda: train.Adam(LINEAR).load_state_dict(train.Adam(train.Linear(3, 1)).state_dict()),
            ValueError,
            r"mean: expected shape \(3,\), got \(4,\)",
        ),
        (
            lambda: train.Adam(LINEAR).load_state_dict(train.Adam(train.Linear(2, 1, dtype=float)).state_dict()),
            TypeError,
            "mean: expected float32, as the weights are, got float64",
        ),
    ],
)
def test_refusals(call, error, message):
    before = LINEAR.state_dict()
    with pytest.raises(error, match=message):
        call()
    assert all(np.array_equal(before[name], LINEAR.weights[name]) for name in before)


def test_the_norm_of_what_overflows_when_squared():
    gradients = {"weight": np.array([3e19, 4e19], np.float32)}
    assert train.clip_grad_norm(gradients, 1.0) == pytest.approx(5e19, rel=1e-6)
    np.testing.assert_allclose(gradients["weight"], [0.6, 0.8], rtol=1e-5)
