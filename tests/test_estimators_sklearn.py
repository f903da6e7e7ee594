"""scikit-learn: its checks of estimators, clone, pipelines, cross-validation and searches."""

import pytest

pytest.importorskip("sklearn", minversion="1.6")

import numpy as np
from lstm_rs.estimators import LSTMAutoencoder, LSTMClassifier, LSTMForecaster, LSTMRegressor
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted

# In the checks X is (n, T) for these: n univariate sequences of T steps.
TIME = "the second axis of a 2-D X is time: other sequences may be longer or shorter, and there is 1 feature"
APART = {
    "check_n_features_in": TIME,
    "check_n_features_in_after_fitting": TIME,
    "check_estimators_partial_fit_n_features": TIME,
}
# And (T, k) for these: a series of k columns.
SERIES = {
    "check_fit1d": "a 1-D X is a series of one column",
    "check_fit2d_1sample": "a series of one step is refused, but the sentence counts steps, not samples",
    "check_methods_sample_order_invariance": "the rows of X are steps in time: another order is another series",
    "check_methods_subset_invariance": "the rows of X are steps in time: a part of them is another, shorter series",
}
WINDOWS = "transform has a row for each window of the series, not for each of its steps"
ESTIMATORS = {
    "regressor": (LSTMRegressor(hidden_size=16, epochs=60, learning_rate=0.02, batch_size=16), APART),
    "classifier": (
        LSTMClassifier(hidden_size=8, epochs=20),
        {
            **APART,
            # All else that it looks at is in `test_blobs_as_sequences_of_two_steps` below.
            "check_classifiers_train": "it wants X.T refused in predict; " + TIME,
        },
    ),
    "forecaster": (LSTMForecaster(hidden_size=8, epochs=3, window=8), SERIES),
    "autoencoder": (
        LSTMAutoencoder(hidden_size=8, epochs=3, window=4, latent_size=2),
        {
            **SERIES,
            "check_transformer_data_not_an_array": WINDOWS,
            "check_transformer_general": WINDOWS,
        },
    ),
}
"""What is checked, and which checks cannot apply to it, with the reason."""


def all_checks():
    for name, (estimator, _) in ESTIMATORS.items():
        with pytest.warns(UserWarning, match="does not inherit from `sklearn.base.BaseEstimator`"):
            checks = list(estimator_checks_generator(estimator, legacy=True))
        seen = {}
        for instance, check in checks:
            inner = getattr(check.func, "func", check.func).__name__
            number = seen[inner] = seen.get(inner, -1) + 1
            yield pytest.param(name, instance, check, inner, id=f"{name}-{inner}-{number}")


CHECKS = list(all_checks())


@pytest.mark.parametrize(("name", "estimator", "check", "inner"), CHECKS)
def test_sklearn_check(name, estimator, check, inner):
    if inner not in ESTIMATORS[name][1]:
        check(estimator)
        return
    # One that passes after all has to leave the table.
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check(estimator)


def test_every_check_that_is_set_apart_exists():
    for name, (_, apart) in ESTIMATORS.items():
        assert set(apart) <= {param.values[3] for param in CHECKS if param.values[0] == name}
    assert len(CHECKS) > 170


RNG = np.random.default_rng(0)
CUBE = RNG.normal(size=(60, 5, 2))
RAGGED = [RNG.normal(size=(steps, 2)) for steps in RNG.integers(3, 9, size=60)]
VALUES = CUBE[:, :, 0].sum(axis=1)
LABELS = np.where([x[:, 0].sum() > 0 for x in RAGGED], "plus", "minus")
CODES = np.argsort(np.argsort(VALUES)) // 20
SMALL = {"hidden_size": 6, "epochs": 8, "random_state": 0}


def test_blobs_as_sequences_of_two_steps():
    # What `check_classifiers_train` looks at, on its data, but for X.T in predict.
    from sklearn.datasets import make_blobs

    X, y = make_blobs(n_samples=300, random_state=0)
    X = StandardScaler().fit_transform(X)
    for labels in (y, np.array(["one", "two", "three"])[y]):
        classifier = LSTMClassifier(hidden_size=8, epochs=20, random_state=0)
        with pytest.raises(ValueError, match="y: expected 300 targets"):
            classifier.fit(X, labels[:-1])
        classifier.fit(X, labels)
        assert classifier.predict(X).shape == (300,) and classifier.score(X, labels) > 0.83
        assert classifier.predict_proba(X).shape == (300, 3)


def test_kinds():
    assert is_classifier(LSTMClassifier()) and not is_regressor(LSTMClassifier())
    assert is_regressor(LSTMRegressor()) and not is_classifier(LSTMRegressor())


def test_clone_is_unfitted_and_has_the_same_parameters():
    fitted = LSTMClassifier(**SMALL).fit(RAGGED, LABELS)
    check_is_fitted(fitted)
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError, match=r"LSTMClassifier\.predict: this estimator is not fitted yet"):
        again.predict(RAGGED)
    with pytest.raises(NotFittedError):
        check_is_fitted(again)


def test_the_warning_is_the_one_of_sklearn():
    with pytest.warns(DataConversionWarning):
        LSTMClassifier(**SMALL).fit(CUBE, CODES[:, None])


def test_pipeline():
    half = FunctionTransformer(lambda X: X / 2 - 7)
    pipeline = make_pipeline(half, LSTMRegressor(**SMALL)).fit(CUBE, VALUES)
    alone = LSTMRegressor(**SMALL).fit(CUBE / 2 - 7, VALUES)
    np.testing.assert_array_equal(pipeline.predict(CUBE), alone.predict(CUBE / 2 - 7))
    assert pipeline.score(CUBE, VALUES) == alone.score(CUBE / 2 - 7, VALUES)
    flat = make_pipeline(StandardScaler(), LSTMClassifier(**SMALL)).fit(CUBE[:, :, 0], CODES)
    assert flat.predict_proba(CUBE[:, :, 0]).shape == (60, 3)


@pytest.mark.parametrize("form", ["array", "ragged"])
def test_cross_validation(form):
    X, y = (CUBE, CODES) if form == "array" else (RAGGED, LABELS)
    scores = cross_val_score(LSTMClassifier(**SMALL), X, y, cv=StratifiedKFold(3))
    by_hand = []
    for train, test in StratifiedKFold(3).split(np.zeros(60), y):
        classifier = LSTMClassifier(**SMALL).fit([X[k] for k in train], y[train])
        by_hand.append(classifier.score([X[k] for k in test], y[test]))
    assert scores.tolist() == by_hand
    log_losses = cross_val_score(LSTMClassifier(**SMALL), X, y, cv=3, scoring="neg_log_loss")
    assert np.isfinite(log_losses).all()
    assert cross_val_predict(LSTMClassifier(**SMALL), X, y, cv=3).shape == (60,)


@pytest.mark.parametrize("jobs", [1, 2])
def test_grid_search(jobs):
    grid = {"lstmregressor__hidden_size": [2, 6], "lstmregressor__learning_rate": [1e-4, 1e-2]}
    pipeline = make_pipeline(FunctionTransformer(), LSTMRegressor(**SMALL))
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs).fit(CUBE, VALUES)
    assert search.best_params_["lstmregressor__learning_rate"] == 1e-2
    means = search.cv_results_["mean_test_score"]
    assert means.shape == (4,) and np.isfinite(means).all() and len(set(means)) == 4
    assert search.best_estimator_[-1].get_params()["hidden_size"] == search.best_params_["lstmregressor__hidden_size"]
    assert search.predict(CUBE).shape == (60,)


def test_grid_search_over_ragged_lists():
    search = GridSearchCV(LSTMClassifier(**SMALL), {"bidirectional": [False, True]}, cv=2, n_jobs=2)
    search.fit(RAGGED, LABELS)
    assert set(search.predict(RAGGED)) <= {"plus", "minus"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
