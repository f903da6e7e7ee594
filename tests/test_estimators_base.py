"""What all estimators share: parameters, random states, repeated and partial fits, copies, and what they import."""

import copy
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from lstm_rs import CellSpec
from lstm_rs.estimators import LSTMClassifier, LSTMRegressor

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(steps, 2)) for steps in RNG.integers(3, 9, size=40)]
SUMS = np.array([x[:, 0].sum() for x in X])
SIGNS = np.where(SUMS > 0, "plus", "minus")
SMALL = {"hidden_size": 6, "epochs": 3, "random_state": 0}

CASES = {"regressor": (LSTMRegressor, SUMS), "classifier": (LSTMClassifier, SIGNS)}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def raw(estimator, X=X):
    """Outputs that differ when any weight does."""
    return estimator.predict_proba(X) if isinstance(estimator, LSTMClassifier) else estimator.predict(X)


def same(one, two, X=X):
    return np.array_equal(raw(one, X), raw(two, X))


# Parameters.


def test_the_constructor_stores_its_arguments_and_does_nothing_else(case):
    kind, _ = case
    odd = {name: object() for name in kind().get_params()}
    estimator = kind(**odd)
    assert vars(estimator) == odd
    assert estimator.get_params() == odd


def test_set_params(case):
    kind, _ = case
    estimator = kind()
    assert estimator.set_params(hidden_size=5, cell=CellSpec.peephole_lstm()) is estimator
    assert estimator.hidden_size == 5 and estimator.get_params()["cell"].peephole
    with pytest.raises(ValueError, match="no parameter 'hidden': there are hidden_size, num_layers, "):
        estimator.set_params(epochs=1, hidden=5)
    assert estimator.epochs == kind().epochs


def test_repr_says_what_is_not_as_by_default():
    assert repr(LSTMRegressor()) == "LSTMRegressor()"
    assert repr(LSTMClassifier(hidden_size=64, scale=False)) == "LSTMClassifier(hidden_size=64, scale=False)"


BAD = {
    "hidden_size zero": ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
    "hidden_size float": ({"hidden_size": 8.0}, TypeError, r"hidden_size: expected an int, got 8\.0"),
    "hidden_size bool": ({"hidden_size": True}, TypeError, "hidden_size: expected an int, got True"),
    "num_layers": ({"num_layers": 0}, ValueError, "num_layers: expected at least 1"),
    "bidirectional": ({"bidirectional": 1}, TypeError, "bidirectional: expected a bool, got 1"),
    "dropout": ({"dropout": 1.0}, ValueError, r"dropout: expected at least 0 and less than 1, got 1\.0"),
    "cell": ({"cell": "lstm"}, TypeError, "cell: expected a CellSpec or None, got 'lstm'"),
    "epochs": ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
    "batch_size": ({"batch_size": -1}, ValueError, "batch_size: expected at least 1, got -1"),
    "rate 0": ({"learning_rate": 0.0}, ValueError, r"learning_rate: expected more than 0 and finite, got 0\.0"),
    "rate NaN": ({"learning_rate": float("nan")}, ValueError, "learning_rate: expected more than 0"),
    "rate too large": ({"learning_rate": 10**400}, ValueError, "learning_rate: expected more than 0 and finite, "),
    "rate str": ({"learning_rate": "fast"}, TypeError, "learning_rate: expected a float, got 'fast'"),
    "schedule": ({"schedule": "step"}, ValueError, "schedule: expected one of 'constant', 'linear', 'cosine', got 's"),
    "weight_decay": ({"weight_decay": -0.1}, ValueError, "weight_decay: expected at least 0 and finite"),
    "clip_norm": ({"clip_norm": 0}, ValueError, "clip_norm: expected more than 0"),
    "fraction": ({"validation_fraction": 1.0}, ValueError, "validation_fraction: expected at least 0 and less than 1"),
    "patience": ({"patience": 3}, ValueError, "patience: expected a validation_fraction of more than 0 with it"),
    "scale": ({"scale": "standard"}, TypeError, "scale: expected a bool"),
    "dtype": ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64, got float16"),
    "dtype None": ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
    "random_state": ({"random_state": "0"}, TypeError, "random_state: expected an int, None, a numpy Generator or Ra"),
    "negative state": ({"random_state": -1}, ValueError, "random_state: expected at least 0, got -1"),
    "verbose": ({"verbose": "yes"}, TypeError, "verbose: expected an int, got 'yes'"),
    "checkpoint": ({"checkpoint": 3}, TypeError, "checkpoint: expected a path or None, got 3"),
    "resume": ({"resume": True}, ValueError, "resume: expected a path as checkpoint with resume=True, got None"),
    "resumed split": (
        {"resume": True, "checkpoint": "c", "validation_fraction": 0.2, "random_state": None},
        ValueError,
        r"random_state: expected an int with resume=True and validation_fraction=0\.2",
    ),
    "per_step": ({"per_step": None}, TypeError, "per_step: expected a bool, got None"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters_are_refused_when_fit_begins(case, name):
    kind, y = case
    params, error, match = BAD[name]
    estimator = kind(**(SMALL | params))
    for method in (estimator.fit, estimator.partial_fit):
        with pytest.raises(error, match=match):
            method(X, y)
    assert not hasattr(estimator, "model_")


def test_dropout_of_one_layer_gives_a_warning_where_fit_is_called(case):
    kind, y = case
    estimator = kind(**SMALL, dropout=0.3)
    for method in (estimator.fit, estimator.partial_fit):
        with pytest.warns(UserWarning, match="^dropout acts between layers: with num_layers=1 it does") as caught:
            method(X, y)
        assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(**SMALL, dropout=0.3, num_layers=2).fit(X, y)


def test_numbers_of_numpy_are_numbers(case):
    kind, y = case
    odd = {"hidden_size": np.int64(6), "epochs": np.int32(3), "learning_rate": np.float32(0.0078125)}
    plain = kind(**(SMALL | {"learning_rate": 0.0078125})).fit(X, y)
    assert same(kind(**(SMALL | odd)).fit(X, y), plain)


# Chance.


def test_the_same_state_gives_the_same_bits(case):
    kind, y = case
    options = SMALL | {"num_layers": 2, "dropout": 0.3, "validation_fraction": 0.2}
    one, two = kind(**options).fit(X, y), kind(**options).fit(X, y)
    assert same(one, two) and one.history_.step_loss == two.history_.step_loss
    assert not same(one, kind(**(options | {"random_state": 1})).fit(X, y))


def test_a_second_fit_starts_anew(case):
    kind, y = case
    once = kind(**SMALL).fit(X, y)
    twice = kind(**SMALL).fit(X[:30], y[:30]).fit(X, y)
    assert same(once, twice) and len(twice.history_.loss) == SMALL["epochs"]


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_a_generator_moves_on(case, make):
    kind, y = case

    def two_fits():
        state = make(3)
        return [kind(**(SMALL | {"random_state": state})).fit(X, y) for _ in range(2)]

    (a, b), (c, d) = two_fits(), two_fits()
    assert same(a, c) and same(b, d) and not same(a, b)


def test_without_a_state_fits_differ(case):
    kind, y = case
    one, two = (kind(**(SMALL | {"random_state": None})).fit(X, y) for _ in range(2))
    assert not same(one, two)


# Partial fits.


def test_partial_fits_repeat_and_go_on(case):
    kind, y = case
    one, two = kind(**SMALL), kind(**SMALL)
    for part in (slice(0, 20), slice(20, 40)):
        one.partial_fit(X[part], y[part])
        two.partial_fit(X[part], y[part])
    assert same(one, two) and len(one.history_.loss) == 2
    before = raw(one)
    one.partial_fit(X, y)
    assert not np.array_equal(raw(one), before)


def test_partial_fits_at_a_constant_rate_are_a_fit(case):
    # The same weights, order of batches and moments of Adam: epochs one by one, or in a row.
    kind, y = case
    options = SMALL | {"schedule": "constant", "num_layers": 2, "dropout": 0.2}
    whole, parts = kind(**options).fit(X, y), kind(**options)
    for _ in range(options["epochs"]):
        parts.partial_fit(X, y)
    assert same(whole, parts)
    assert whole.history_.step_loss == parts.history_.step_loss


def test_partial_fit_keeps_the_scale_of_the_first_call(case):
    kind, y = case
    estimator = kind(**SMALL).partial_fit(X, y)
    mean = estimator.scaler_.mean.copy()
    estimator.partial_fit([x + 100 for x in X], y)
    assert np.array_equal(estimator.scaler_.mean, mean)


def test_partial_fit_after_fit_starts_where_fit_ended(case):
    kind, y = case
    fitted = kind(**SMALL, schedule="cosine").fit(X, y)
    loss = fitted.history_.loss[-1]
    fitted.partial_fit(X, y)
    assert len(fitted.history_.loss) == SMALL["epochs"] + 1
    # Not at the rate 0, at which a cosine ends.
    assert fitted.history_.learning_rate[-1] == fitted.learning_rate
    assert fitted.history_.loss[-1] < loss * 1.5


# Validation, and what training is given.


def test_validation_keeps_the_best_epoch(case):
    kind, y = case
    options = SMALL | {"epochs": 60, "validation_fraction": 0.25, "learning_rate": 0.05, "schedule": "constant"}
    estimator = kind(**options).fit(X, y)
    judged = estimator.history_.validation_loss
    assert len(judged) == 60 and estimator.history_.best_epoch == int(np.argmin(judged))
    # The same run, cut off at its best epoch, has the same weights.
    cut = kind(**(options | {"epochs": estimator.history_.best_epoch + 1})).fit(X, y)
    assert same(estimator, cut)


def test_patience_ends_training(case):
    kind, y = case
    options = SMALL | {"epochs": 300, "validation_fraction": 0.25, "patience": 4, "learning_rate": 0.05}
    estimator = kind(**options, schedule="constant").fit(X, y)
    history = estimator.history_
    assert len(history.loss) < 300
    assert len(history.loss) - 1 - history.best_epoch == 4


def test_what_is_held_out_is_not_trained_on(case):
    kind, y = case
    estimator = kind(**(SMALL | {"validation_fraction": 0.5, "batch_size": 1})).fit(X, y)
    assert len(estimator.history_.step_loss) == SMALL["epochs"] * len(X) / 2


def test_validation_needs_two_sequences():
    regressor = LSTMRegressor(**SMALL, validation_fraction=0.5)
    with pytest.raises(ValueError, match=r"validation_fraction: expected at least 2 sequences in X with 0\.5, got 1"):
        regressor.fit(X[:1], SUMS[:1])
    assert not hasattr(regressor, "model_")


@pytest.mark.parametrize(
    ("schedule", "last"),
    [("constant", 0.01), ("linear", 0.01 * (1 - 5 / 6)), ("cosine", 0.01 * (1 + np.cos(np.pi * 5 / 6)) / 2)],
)
def test_schedules_span_all_epochs(schedule, last):
    # 40 sequences in batches of 20: 6 steps, the last of which is number 5.
    regressor = LSTMRegressor(**SMALL, schedule=schedule, learning_rate=0.01, batch_size=20).fit(X, SUMS)
    assert regressor.history_.learning_rate[-1] == pytest.approx(last, rel=1e-12)


def test_weight_decay_shrinks(case):
    kind, y = case
    plain, decayed = kind(**SMALL, weight_decay=0.0).fit(X, y), kind(**SMALL, weight_decay=10.0).fit(X, y)

    def size(estimator):
        return sum(np.square(a).sum() for a in estimator.model_.modules["lstm"].weights.values())

    assert size(decayed) < 0.9 * size(plain)


def test_clip_norm_counts(case):
    kind, y = case
    assert not same(kind(**SMALL, clip_norm=1e-3).fit(X, y), kind(**SMALL, clip_norm=None).fit(X, y))


def test_the_layer_is_as_the_parameters_say(case):
    kind, y = case
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.25, "cell": CellSpec.peephole_lstm()}
    estimator = kind(**SMALL, **options, dtype="float64").fit(X, y)
    lstm = estimator.model_.modules["lstm"]
    assert (lstm.num_layers, lstm.bidirectional, lstm.dropout, lstm.cell) == tuple(options.values())
    assert lstm.dtype == np.float64 and (lstm.input_size, lstm.hidden_size) == (2, 6)
    assert raw(estimator).dtype == np.float64


def test_float64_learns_what_float32_does(case):
    kind, y = case
    single, double = kind(**SMALL).fit(X, y), kind(**SMALL, dtype=np.float64).fit(X, y)
    # 3 epochs from the same weights: what is between them is rounding.
    np.testing.assert_allclose(raw(single), raw(double), rtol=0, atol=1e-4)
    assert not same(single, double)


def test_a_loss_that_explodes_leaves_no_half_fit():
    regressor = LSTMRegressor(**SMALL, scale=False, learning_rate=1e30, clip_norm=None)
    regressor.set_params(epochs=50)
    with pytest.raises(FloatingPointError, match="epoch"):
        regressor.fit(X, 1e30 * SUMS)
    assert not hasattr(regressor, "model_") and not hasattr(regressor, "scaler_")


def test_a_partial_fit_that_fails_changes_nothing():
    regressor = LSTMRegressor(**SMALL, scale=False).fit(X, SUMS)
    before, moments, losses = raw(regressor), regressor._moments, list(regressor.history_.step_loss)
    huge = [1e30 * x for x in X]
    for learning_rate in (0.01, 1e30):
        regressor.set_params(learning_rate=learning_rate, clip_norm=None)
        with pytest.raises(FloatingPointError, match="epoch"):
            regressor.partial_fit(huge, 1e30 * SUMS)
        np.testing.assert_array_equal(raw(regressor), before)
        assert regressor._moments is moments and regressor.history_.step_loss == losses
    fresh = LSTMRegressor(**SMALL, scale=False)
    with pytest.raises(FloatingPointError):
        fresh.partial_fit(huge, 1e30 * SUMS)
    assert not hasattr(fresh, "model_") and not hasattr(fresh, "scaler_")


def test_progress_is_shown_when_asked_for(case, capsys):
    kind, y = case
    kind(**SMALL).fit(X, y)
    assert capsys.readouterr() == ("", "")
    kind(**SMALL, verbose=1).fit(X, y)
    out, err = capsys.readouterr()
    assert out == "" and "epoch 3/3" in err


# Copies.


def test_copies_predict_the_same_and_learn_on_alike(case):
    kind, y = case
    estimator = kind(**(SMALL | {"num_layers": 2, "dropout": 0.2})).fit(X, y)
    for again in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        assert same(again, estimator)
        # The optimizer and the generators have come along, and are the copy's own.
        before = raw(estimator)
        again.partial_fit(X, y)
        assert np.array_equal(raw(estimator), before)
        learnt = copy.deepcopy(estimator).partial_fit(X, y)
        assert same(again, learnt)


def test_parameters_set_after_a_fit_wait_for_the_next(case):
    kind, y = case
    estimator = kind(**SMALL).fit(X, y)
    before = raw(estimator)
    estimator.set_params(dtype="float64", hidden_size=9, scale=False, per_step=True)
    assert np.array_equal(raw(estimator), before)


def test_unfitted_estimators_say_so(case):
    kind, y = case
    estimator = kind()
    methods = {"predict": (X,), "score": (X, y), "save": ("nowhere.safetensors",)}
    if kind is LSTMClassifier:
        methods |= {"predict_proba": (X,), "predict_log_proba": (X,)}
    for name, arguments in methods.items():
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.{name}: this estimator is not fitted yet; call fit"):
            getattr(estimator, name)(*arguments)
        with pytest.raises(AttributeError, match="not fitted"):
            getattr(estimator, name)(*arguments)


# Imports.


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_is_light():
    found = run(
        "import sys, lstm_rs.estimators\n"
        "print([name for name in ('sklearn', 'scipy', 'matplotlib', 'torch', 'pandas', 'safetensors', 'joblib')"
        " if name in sys.modules])"
    )
    assert found.strip() == "[]"


def test_the_library_itself_does_not_import_estimators():
    assert run("import sys, lstm_rs; print('lstm_rs.estimators' in sys.modules)").strip() == "False"


WITHOUT = """
import sys
import warnings

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sklearn":
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
import warnings
import numpy as np
from lstm_rs.estimators import LSTMClassifier, LSTMRegressor

rng = np.random.default_rng(0)
X, y = rng.normal(size=(30, 5, 2)), np.repeat(["a", "b"], 15)
options = dict(hidden_size=4, epochs=2, random_state=0)
classifier = LSTMClassifier(**options)
try:
    classifier.predict(X)
except (ValueError, AttributeError) as error:
    assert type(error).__name__ == "NotFittedError", error
else:
    raise AssertionError("not refused")
assert classifier.fit(X, y).predict(X).shape == (30,)
assert 0 <= classifier.score(X, y) <= 1 and classifier.predict_proba(X).shape == (30, 2)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    classifier.partial_fit(X, y[:, None])
assert [w.category for w in seen] == [UserWarning], seen
regressor = LSTMRegressor(**options).fit(X, X.sum(axis=(1, 2)))
assert regressor.set_params(epochs=1).partial_fit(X, X.sum(axis=(1, 2))).predict(X).shape == (30,)
print(repr(regressor), "sklearn" in sys.modules)
"""


def test_all_works_without_sklearn():
    out = run(WITHOUT)
    assert out.strip() == "LSTMRegressor(hidden_size=4, epochs=1, random_state=0) False"
