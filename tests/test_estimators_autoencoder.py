"""`LSTMAutoencoder`: scores, thresholds and latents against plain loops over windows, and an anomaly to be found."""

import signal
from importlib import metadata
from unittest import SkipTest

import numpy as np
import pytest
from lstm_rs.estimators import LSTMAutoencoder
from lstm_rs.estimators._windows import WindowBatches

RNG = np.random.default_rng(0)
STEPS = np.arange(150)
WAVES = np.stack([np.sin(STEPS / 3), np.cos(STEPS / 5)], axis=1) + 0.1 * RNG.normal(size=(150, 2))
SMALL = {"latent_size": 3, "hidden_size": 5, "epochs": 2, "random_state": 0, "dtype": "float64"}


def small(window=8, **options):
    return LSTMAutoencoder(window, **{**SMALL, **options})


# Scores and latents, against plain loops.


def firsts(length, window, stride):
    starts = list(range(0, length - window + 1, stride))
    return starts if starts[-1] == length - window else [*starts, length - window]


def plain(model, series, window, stride):
    """Scores, what was said again, and how many windows hold each step: window by window."""
    scaled = (series - model.scaler_.mean) / model.scaler_.deviation
    total, said, count = np.zeros(len(series)), np.zeros(series.shape), np.zeros(len(series))
    for first in firsts(len(series), window, stride):
        part = slice(first, first + window)
        again = model.model_(scaled[part, None])[:, 0]
        total[part] += ((again - scaled[part]) ** 2).mean(axis=1)
        said[part] += again
        count[part] += 1
    return total / count, said / count[:, None] * model.scaler_.deviation + model.scaler_.mean, count


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("length", [8, 9, 23, 150])
def test_scores_and_reconstructions_are_means_over_windows(length, stride):
    model = small(stride=stride).fit(WAVES)
    series = WAVES[:length]
    scores, said, count = plain(model, series, 8, stride)
    assert count.min() >= 1
    got = model.score_samples(series)
    assert got.shape == (length,)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, scores, rtol=1e-10)
    np.testing.assert_allclose(model.reconstruct(series), said, rtol=1e-10)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2, "dropout": 0.5}, {"scale": False}])
def test_other_networks(options):
    model = small(**options).fit(WAVES)
    scores, said, _ = plain(model, WAVES, 8, 1)
    np.testing.assert_allclose(model.score_samples(WAVES), scores, rtol=1e-10)
    np.testing.assert_allclose(model.reconstruct(WAVES), said, rtol=1e-10)


def test_more_windows_than_run_at_once(monkeypatch):
    model = small().fit(WAVES)
    scores, latents, said = model.score_samples(WAVES), model.transform(WAVES), model.reconstruct(WAVES)
    monkeypatch.setattr("lstm_rs.estimators._reconstructing._GROUP", 16)
    assert np.array_equal(model.score_samples(WAVES), scores)
    assert np.array_equal(model.transform(WAVES), latents)
    assert np.array_equal(model.reconstruct(WAVES), said)


def test_a_score_does_not_depend_on_what_no_window_has_in_common_with_it():
    model = small(dtype="float32").fit(WAVES)
    scores, changed = model.score_samples(WAVES), WAVES.copy()
    changed[100:] += 1.0
    again = model.score_samples(changed)
    assert np.array_equal(again[:93], scores[:93])
    assert (again[93:] != scores[93:]).all()
    assert np.array_equal(model.score_samples(WAVES[:100])[:93], scores[:93])


@pytest.mark.parametrize("stride", [1, 5])
def test_transform_gives_the_latent_of_each_window(stride):
    model = small(stride=stride).fit(WAVES)
    latents = model.transform(WAVES)
    starts = firsts(150, 8, stride)
    assert latents.shape == (len(starts), 3)
    scaled = (WAVES - model.scaler_.mean) / model.scaler_.deviation
    for latent, first in zip(latents, starts, strict=True):
        np.testing.assert_allclose(latent, model.model_.encode(scaled[first : first + 8, None])[0], rtol=1e-10)
    assert small(dtype="float32").fit_transform(WAVES).dtype == np.float32


def test_it_says_again_what_it_has_learnt():
    series = 50 + 10 * np.sin(np.arange(400) / 3)
    model = LSTMAutoencoder(16, epochs=30, random_state=0).fit(series)
    assert np.abs(model.reconstruct(series) - series).max() < 2
    assert model.score(series) == -np.mean(model.score_samples(series))
    assert -0.01 < model.score(series) < 0
    assert model.score(series + RNG.normal(size=400) * 10) < -0.1


# Thresholds.


@pytest.mark.parametrize("contamination", [0.0, 0.01, 0.2, 0.5])
def test_the_threshold_is_a_quantile_of_the_training_scores(contamination):
    model = small(contamination=contamination).fit(WAVES)
    scores = model.score_samples(WAVES)
    assert model.threshold_ == np.quantile(scores, 1 - contamination)
    said = model.predict(WAVES)
    assert said.shape == (150,)
    assert set(said) <= {-1, 1}
    assert np.array_equal(said == -1, scores > model.threshold_)
    assert (said == -1).sum() == np.ceil(contamination * 149)
    assert np.array_equal(small(contamination=contamination).fit_predict(WAVES), said)


def test_the_threshold_of_a_list_is_one_for_all():
    series = [WAVES[:60], WAVES[60:]]
    model = small(contamination=0.1).fit(series)
    scores = model.score_samples(series)
    assert [one.shape for one in scores] == [(60,), (90,)]
    assert model.threshold_ == pytest.approx(np.quantile(np.concatenate(scores), 0.9), rel=1e-12)
    for one, part, said in zip(scores, series, model.predict(series), strict=True):
        np.testing.assert_allclose(one, plain(model, part, 8, 1)[0], rtol=1e-10)
        assert np.array_equal(said == -1, one > model.threshold_)
    assert [one.shape for one in model.transform(series)] == [(53, 3), (83, 3)]
    assert [one.shape for one in model.reconstruct(series)] == [(60, 2), (90, 2)]
    assert model.score(series) == -np.mean(np.concatenate(scores))


def test_the_threshold_leaves_out_what_was_held_out():
    series = WAVES.copy()
    series[110:] *= 5
    model = small(validation_fraction=0.3, contamination=0.0).fit(series)
    assert len(model.history_.validation_loss) == 2
    training, held_out = model._split(model._windows([series]), 0.3, None)
    # 43 of the 143 windows, and the 7 before them that reach into the first one.
    assert (held_out.starts[0], held_out.starts[-1], len(held_out.starts)) == (100, 142, 43)
    assert (training.starts[0], training.starts[-1], len(training.starts)) == (0, 92, 93)
    assert model.threshold_ == pytest.approx(plain(model, series[:100], 8, 1)[0].max(), rel=1e-10)
    assert model.threshold_ < model.score_samples(series).max()


# Forms and parameters.


def test_forms():
    flat, column = small().fit(WAVES[:, 0]), small().fit(WAVES[:, :1])
    assert flat.reconstruct(WAVES[:, 0]).shape == (150,)
    assert flat.reconstruct(WAVES[:, :1]).shape == (150, 1)
    assert np.array_equal(flat.score_samples(WAVES[:, 0]), column.score_samples(WAVES[:, :1]))
    assert np.array_equal(flat.score_samples(list(WAVES[:, 0])), flat.score_samples(WAVES[:, 0]))
    assert small().fit(STEPS % 7).score_samples(STEPS % 7).shape == (150,)


def test_no_window_reaches_from_one_series_into_the_next():
    series = [WAVES[:20], WAVES[20:47], WAVES[47:55]]
    model = small(stride=3).fit(series)
    windows = model._windows(series)
    expected = [0, 3, 6, 9, 12, 20, 23, 26, 29, 32, 35, 38, 39, 47]
    assert windows.starts.tolist() == expected
    batches = WindowBatches(windows, 8, 4, np.random.default_rng(0))
    seen = np.concatenate([batch.x for batch in batches], axis=1)
    assert seen.shape == (8, 14, 2)
    rows = np.concatenate([model.scaler_.scale(one, np.float64) for one in series])
    wanted = sorted(rows[first : first + 8].tolist() for first in expected)
    assert sorted(seen.swapaxes(0, 1).tolist()) == wanted


def test_what_is_set_after_a_fit_counts_from_the_next_one_on():
    model = small().fit(WAVES)
    scores, latents = model.score_samples(WAVES), model.transform(WAVES)
    model.set_params(window=20, stride=4, latent_size=7, contamination=0.3, scale=False, dtype="float32")
    assert np.array_equal(model.score_samples(WAVES), scores)
    assert np.array_equal(model.transform(WAVES), latents)
    assert model.fit(WAVES).transform(WAVES).shape == (34, 7)


def test_the_same_seed_gives_the_same_bits():
    one, two, other = (small(random_state=seed).fit(WAVES).score_samples(WAVES) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_partial_fit_goes_on_epoch_by_epoch():
    parts = WAVES[:60], WAVES[60:]
    one, two = small(), small()
    for part in parts:
        one.partial_fit(part)
        assert one.threshold_ == np.quantile(one.score_samples(part), 0.99)
    for part in parts:
        two.partial_fit(part)
    assert np.array_equal(one.score_samples(WAVES), two.score_samples(WAVES))
    assert len(one.history_.loss) == 2
    np.testing.assert_array_equal(one.scaler_.mean, parts[0].mean(axis=0))
    with pytest.raises(ValueError, match="has 1 features, but LSTMAutoencoder is expecting 2"):
        one.partial_fit(WAVES[:, :1])
    assert len(one.history_.loss) == 2


# What it refuses.


@pytest.mark.parametrize("method", ["score_samples", "predict", "transform", "reconstruct", "score", "partial_fit"])
def test_series_that_do_not_fit(method):
    model = small().fit(WAVES)
    run = getattr(model, method)
    with pytest.raises(ValueError, match=r"X: expected at least 8 steps \(one window of 8\), got 7"):
        run(WAVES[:7])
    with pytest.raises(ValueError, match=r"X: expected at least 8 steps \(one window of 8\), got 5 in series 1"):
        run([WAVES, WAVES[:5]])
    with pytest.raises(ValueError, match="X has 3 features, but LSTMAutoencoder is expecting 2 features"):
        run(np.zeros((20, 3)))
    broken = WAVES.copy()
    broken[17, 1] = np.nan
    with pytest.raises(ValueError, match="X contains NaN at step 17, feature 1; lstm_rs does not fill gaps"):
        run(broken)
    with pytest.raises(ValueError, match="X: series 1 contains NaN at step 17, feature 1"):
        run([WAVES, broken])
    run(WAVES[:8])
    if method != "partial_fit":
        with pytest.raises(ValueError, match=f"LSTMAutoencoder.{method}: this estimator is not fitted yet"):
            getattr(small(), method)(WAVES)


def test_fit_refuses_them_too():
    with pytest.raises(ValueError, match=r"X: expected at least 8 steps \(one window of 8\), got 7"):
        small().fit(WAVES[:7])
    with pytest.raises(ValueError, match=r"give list\(X\)"):
        small().fit(WAVES[None])
    with pytest.raises(ValueError, match="validation_fraction: expected one that leaves a window of 8 steps before"):
        small(validation_fraction=0.5).fit(WAVES[:12])
    with pytest.raises(ValueError, match="X: sequence 0 has values that are too large for float32"):
        small(dtype="float32", scale=False).fit(WAVES * 1e300)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 0}, ValueError, "window: expected at least 1, got 0"),
        ({"window": 8, "stride": 9}, ValueError, "stride: expected at most 8, the window, .*, got 9"),
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"latent_size": 0}, ValueError, "latent_size: expected at least 1, got 0"),
        ({"contamination": 0.6}, ValueError, r"contamination: expected from 0 to 0\.5, got 0\.6"),
        ({"contamination": -0.1}, ValueError, "contamination: expected at least 0"),
        ({"contamination": "auto"}, TypeError, "contamination: expected a float, got 'auto'"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
    ],
)
def test_parameters_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        LSTMAutoencoder(**options).fit(WAVES)


# Files, Ctrl-C.


def test_files(tmp_path):
    pytest.importorskip("safetensors")
    model = small(num_layers=2, dtype="float32").fit(WAVES)
    model.save(tmp_path / "model.safetensors")
    again = LSTMAutoencoder.load(tmp_path / "model.safetensors")
    assert again.threshold_ == model.threshold_
    assert again.get_params() == model.get_params()
    assert np.array_equal(again.score_samples(WAVES), model.score_samples(WAVES))
    assert np.array_equal(again.partial_fit(WAVES).score_samples(WAVES), model.partial_fit(WAVES).score_samples(WAVES))


def test_a_resumed_fit_ends_in_the_same_bits(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    path, options = tmp_path / "checkpoint.safetensors", {"epochs": 6, "num_layers": 2, "dropout": 0.2}
    whole = small(**options).fit(WAVES)
    stopped = small(**options, checkpoint=path)
    iterate, epochs = WindowBatches.__iter__, []

    def interrupted(self):
        # The data are read once in order, without a generator, for the checkpoint to know them.
        epochs.append(self.rng is not None)
        for k, batch in enumerate(iterate(self)):
            if sum(epochs) == 4 and k == 1:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(WindowBatches, "__iter__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(WAVES)
    assert len(stopped.history_.loss) == 3
    assert (stopped.predict(WAVES) == -1).sum() == 2
    assert not np.array_equal(stopped.score_samples(WAVES), whole.score_samples(WAVES))
    resumed = small(**options, checkpoint=path, resume=True).fit(WAVES)
    assert np.array_equal(resumed.score_samples(WAVES), whole.score_samples(WAVES))
    assert resumed.threshold_ == whole.threshold_
    assert resumed.history_.step_loss == whole.history_.step_loss


# scikit-learn.


def test_searches_over_time():
    selection = pytest.importorskip("sklearn.model_selection")
    folds = selection.TimeSeriesSplit(3)
    scores = selection.cross_val_score(small(), WAVES, cv=folds)
    assert scores.shape == (3,)
    assert (scores < 0).all()
    search = selection.GridSearchCV(small(learning_rate=0.01), {"epochs": [1, 20]}, cv=folds).fit(WAVES)
    assert search.best_params_ == {"epochs": 20}
    assert search.predict(WAVES).shape == (150,)


def test_in_a_pipeline():
    pipeline, preprocessing = pytest.importorskip("sklearn.pipeline"), pytest.importorskip("sklearn.preprocessing")
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), small(scale=False)).fit(WAVES)
    np.testing.assert_allclose(model.score_samples(WAVES), small().fit(WAVES).score_samples(WAVES), rtol=1e-6)


APART = {
    "check_methods_sample_order_invariance": "the order of steps is what is looked at",
    "check_methods_subset_invariance": "one step is no window",
    "check_transformer_general": "transform gives a row for each window, not for each step",
    "check_transformer_data_not_an_array": "transform gives a row for each window, not for each step",
    "check_fit2d_1sample": "it wants '1 sample'; a row is a step, and the message has how many are needed",
    "check_fit1d": "a series may have one axis",
}
"""Checks of scikit-learn that cannot apply to one series, and why."""


def test_sklearn_checks():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    model = LSTMAutoencoder(window=4, hidden_size=4, latent_size=4, epochs=1)
    with pytest.warns(UserWarning, match="does not inherit from `sklearn.base.BaseEstimator`"):
        pairs = list(checks.estimator_checks_generator(model, legacy=True))
    passed = set()
    for estimator, check in pairs:
        name = getattr(check.func, "func", check.func).__name__
        if name in APART:
            # One that passes after all has to leave the table.
            with pytest.raises((AssertionError, ValueError, IndexError)):
                check(estimator)
            continue
        try:
            check(estimator)
            passed.add(name)
        except SkipTest as reason:
            assert name == "check_array_api_input", reason
    assert len(passed) > 25


# How well.


def internal_bleeding(part):
    """Series 135 of the UCR anomaly archive, from the package aeon, which need not be imported."""
    try:
        aeon = metadata.distribution("aeon")
    except metadata.PackageNotFoundError:
        pytest.skip("aeon, which brings the data, is not installed")
    path = aeon.locate_file(f"aeon/datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_{part}.csv")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, 1], np.flatnonzero(table[:, 2])


def test_it_finds_the_internal_bleeding():
    train, _ = internal_bleeding("TRAIN")
    test, anomaly = internal_bleeding("TEST")
    assert (len(train), anomaly[0], anomaly[-1]) == (1200, 4187, 4198)
    found = []
    for seed in range(5):
        scores = LSTMAutoencoder(random_state=seed).fit(train).score_samples(test)
        # The test series begins with the training series.
        highest = 1200 + int(scores[1200:].argmax())
        found.append(4187 - 50 <= highest <= 4198 + 50)
    assert sum(found) >= 4
