"""`LSTMRegressor`: what it learns, forms of y, losses, and a prediction for each step."""

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec, train
from lstm_rs.estimators import LSTMRegressor
from lstm_rs.estimators.regressor import r2

RNG = np.random.default_rng(0)
SMALL = {"hidden_size": 4, "epochs": 2, "random_state": 0}
CUBE = RNG.normal(size=(20, 6, 2))
RAGGED = [RNG.normal(size=(steps, 2)) for steps in RNG.integers(2, 9, size=20)]
VALUES = CUBE[:, :, 0].sum(axis=1)


def adding(count, rng):
    """Sequences of random length and two features: numbers, and marks at two of them, which are to be added."""
    X, y = [], []
    for steps in rng.integers(6, 16, size=count):
        numbers, marks = rng.uniform(size=steps), np.zeros(steps)
        marks[rng.choice(steps, 2, replace=False)] = 1
        X.append(np.stack([numbers, marks], axis=1))
        y.append(numbers @ marks)
    return X, np.array(y)


def test_the_adding_problem():
    # Hochreiter & Schmidhuber 1997, experiment 4, shorter: it takes memory for what is marked, and none for the rest.
    rng = np.random.default_rng(1)
    X, y = adding(600, rng)
    fresh, truth = adding(200, rng)
    regressor = LSTMRegressor(epochs=40, random_state=0).fit(X, y)
    assert regressor.score(fresh, truth) > 0.98
    # What it says is in the units of y.
    assert np.sqrt(np.mean(np.square(regressor.predict(fresh) - truth))) < 0.06


def test_a_value_for_each_step():
    X = [RNG.normal(size=(steps, 1)) for steps in RNG.integers(3, 12, size=300)]
    y = [x[:, 0].cumsum() for x in X]
    regressor = LSTMRegressor(per_step=True, epochs=40, random_state=0).fit(X[:250], y[:250])
    assert regressor.score(X[250:], y[250:]) > 0.98
    predicted = regressor.predict(X[250:])
    assert isinstance(predicted, list) and [p.shape for p in predicted] == [t.shape for t in y[250:]]
    # No step sees a later one.
    np.testing.assert_allclose(regressor.predict([X[0][:2]])[0], regressor.predict([X[0]])[0][:2], atol=1e-5)


def test_another_cell_and_more_layers_learn_too():
    rng = np.random.default_rng(1)
    X, y = adding(300, rng)
    options = {"cell": CellSpec.peephole_lstm(), "num_layers": 2, "bidirectional": True, "dropout": 0.1}
    regressor = LSTMRegressor(**options, hidden_size=16, epochs=40, random_state=0, dtype="float64").fit(X, y)
    assert regressor.score(X, y) > 0.95


def test_predictions_are_those_of_the_layers_written_out():
    options = {"num_layers": 2, "bidirectional": True}
    regressor = LSTMRegressor(**SMALL, **options, dtype="float64").fit(RAGGED, np.arange(20.0))
    lstm, linear = regressor.model_.modules["lstm"], regressor.model_.modules["linear"]
    assert isinstance(lstm, LSTM)
    for k, x in enumerate(RAGGED):
        z = (x - regressor.scaler_.mean) / regressor.scaler_.deviation
        _, (h, _) = lstm(z)
        out = linear.weights["weight"] @ np.concatenate([h[-2], h[-1]]) + linear.weights["bias"]
        expected = out * regressor.y_scaler_.deviation + regressor.y_scaler_.mean
        np.testing.assert_allclose(regressor.predict([x]), expected, rtol=1e-12)
        np.testing.assert_allclose(regressor.predict(RAGGED)[k], expected[0], rtol=1e-12)


# Forms of y.


def test_columns_come_back_as_they_were():
    two = np.stack([VALUES, -VALUES], axis=1)
    for y, shape, count in ((VALUES, (20,), 1), (VALUES[:, None], (20, 1), 1), (two, (20, 2), 2)):
        regressor = LSTMRegressor(**SMALL).fit(CUBE, y)
        predicted = regressor.predict(CUBE)
        assert predicted.shape == shape and predicted.dtype == np.float64 and regressor.n_outputs_ == count
        assert regressor.partial_fit(CUBE, y).predict(CUBE).shape == shape
        assert isinstance(regressor.score(CUBE, y), float)


def test_columns_are_scaled_each_by_itself():
    y = np.stack([VALUES, 2.0**20 * VALUES + 2.0**24], axis=1)
    regressor = LSTMRegressor(**(SMALL | {"epochs": 60, "hidden_size": 16})).fit(CUBE, y)
    error = (regressor.predict(CUBE) - y) / y.std(axis=0)
    assert (np.sqrt(np.mean(error**2, axis=0)) < 0.3).all()


@pytest.mark.parametrize("columns", [(), (1,), (3,)])
def test_steps_come_back_as_they_were(columns):
    y = RNG.normal(size=(20, 6, *columns))
    regressor = LSTMRegressor(**SMALL, per_step=True).fit(CUBE, y)
    assert regressor.predict(CUBE).shape == y.shape
    as_list = LSTMRegressor(**SMALL, per_step=True).fit(list(CUBE), list(y))
    predicted = as_list.predict(list(CUBE))
    assert isinstance(predicted, list)
    np.testing.assert_array_equal(np.stack(predicted), regressor.predict(CUBE))
    assert as_list.score(list(CUBE), list(y)) == regressor.score(CUBE, y)
    # Mixed forms are taken too.
    mixed = LSTMRegressor(**SMALL, per_step=True).fit(CUBE, list(y))
    np.testing.assert_array_equal(mixed.predict(CUBE), regressor.predict(CUBE))


PER_STEP = [np.zeros(len(x)) for x in RAGGED]
BAD_Y = {
    "None": (CUBE, None, {}, ValueError, "y: LSTMRegressor requires y to be passed, but the target y is None"),
    "too few": (CUBE, VALUES[:-1], {}, ValueError, "y: expected 20 targets, one a sequence of X, got 19"),
    "number": (CUBE, 3.0, {}, TypeError, "y: expected an array or a list, got float"),
    "NaN": (CUBE, np.r_[VALUES[:-1], np.nan], {}, ValueError, r"y: Input y contains NaN at index \(19,\)"),
    "infinity": (CUBE, np.r_[np.inf, VALUES[1:]], {}, ValueError, r"y: Input y contains infinity at index \(0,\)"),
    "text": (CUBE, ["a"] * 20, {}, TypeError, "y: expected numbers, got dtype <U1; for labels there is LSTMClassifier"),
    "objects": (CUBE, np.array(["a"] * 20, object), {}, TypeError, "y: expected numbers, got dtype object"),
    "complex": (CUBE, 1j * VALUES, {}, ValueError, "y: Complex data not supported"),
    "three axes": (CUBE, np.zeros((20, 2, 2)), {}, ValueError, r"y: expected shape \(n,\) or \(n, k\), got \(20, 2, 2"),
    "no column": (CUBE, np.zeros((20, 0)), {}, ValueError, r"y: expected shape \(n,\) or \(n, k\), got \(20, 0\)"),
    "per step: values": (
        CUBE,
        VALUES,
        {"per_step": True},
        ValueError,
        "y: expected 6 steps in sequence 0, .*single va",
    ),
    "per step: short": (
        CUBE,
        np.zeros((20, 5)),
        {"per_step": True},
        ValueError,
        "y: expected 6 steps in sequence 0, .* 5",
    ),
    "per step: few": (RAGGED, PER_STEP[:-1], {"per_step": True}, ValueError, "y: expected 20 sequences of targets"),
    "per step: ragged": (
        RAGGED,
        PER_STEP[::-1],
        {"per_step": True},
        ValueError,
        r"y: expected \d steps in sequence \d",
    ),
    "per step: columns": (
        RAGGED,
        [np.zeros((len(x), 1 + (k == 7))) for k, x in enumerate(RAGGED)],
        {"per_step": True},
        ValueError,
        r"y: expected shape \(\d, 1\) in sequence 7, got \(\d, 2\)",
    ),
    "loss": (CUBE, VALUES, {"loss": "l2"}, ValueError, "loss: expected one of 'mse', 'mae', 'huber', got 'l2'"),
}


@pytest.mark.parametrize("name", BAD_Y)
def test_bad_y(name):
    X, y, options, error, match = BAD_Y[name]
    regressor = LSTMRegressor(**SMALL, **options)
    for method in (regressor.fit, regressor.partial_fit):
        with pytest.raises(error, match=match):
            method(X, y)
    assert not hasattr(regressor, "model_")


def test_other_columns_than_in_fit():
    regressor = LSTMRegressor(**SMALL).fit(CUBE, VALUES)
    two = np.stack([VALUES, VALUES], axis=1)
    for method in (regressor.partial_fit, regressor.score):
        with pytest.raises(ValueError, match="y: expected 1 columns, as in fit, got 2"):
            method(CUBE, two)


# Losses and scores.


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_loss_is_that_of_the_standardized_y(loss):
    # With a rate that moves nothing the loss of the first epoch is that of the model as it ends.
    options = SMALL | {"epochs": 1, "learning_rate": 1e-30, "batch_size": 20, "dtype": "float64"}
    regressor = LSTMRegressor(**options, loss=loss).fit(CUBE, VALUES)
    error = (regressor.predict(CUBE) - VALUES) / VALUES.std()
    size = np.abs(error)
    expected = {"mse": size**2, "mae": size, "huber": np.where(size < 1, size**2 / 2, size - 0.5)}[loss]
    assert regressor.history_.loss[0] == pytest.approx(expected.mean(), rel=1e-9)
    assert regressor.model_.loss_function is getattr(train, loss)


def test_mae_is_not_moved_by_outliers():
    # No feature says anything: what is left to learn is a centre of y, its mean or its median.
    X, y = np.ones((40, 3, 1)), np.r_[np.zeros(30), np.full(10, 100.0)]

    def centre(loss):
        return LSTMRegressor(**(SMALL | {"epochs": 200}), loss=loss).fit(X, y).predict(X)[0]

    assert centre("mse") == pytest.approx(25, abs=2)
    assert centre("mae") == pytest.approx(0, abs=2)
    assert 2 < centre("huber") < 23


def test_r2():
    true = RNG.normal(size=(50, 3))
    assert r2(true, true) == 1.0
    assert r2(true, np.broadcast_to(true.mean(axis=0), true.shape)) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(r2(true[:1], true[:1]))
    constant = np.ones((5, 1))
    assert r2(constant, constant) == 1.0 and r2(constant, constant + 1) == 0.0


def test_r2_is_that_of_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    true, predicted = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3))
    assert r2(true, predicted) == pytest.approx(metrics.r2_score(true, predicted), rel=1e-12)
    regressor = LSTMRegressor(**SMALL).fit(CUBE, VALUES)
    assert regressor.score(CUBE, VALUES) == pytest.approx(metrics.r2_score(VALUES, regressor.predict(CUBE)), rel=1e-12)


def test_the_score_per_step_is_that_of_all_steps_together():
    y = [x[:, 0] for x in RAGGED]
    regressor = LSTMRegressor(**SMALL, per_step=True).fit(RAGGED, y)
    predicted = np.concatenate(regressor.predict(RAGGED))[:, None]
    assert regressor.score(RAGGED, y) == r2(np.concatenate(y)[:, None], predicted)
