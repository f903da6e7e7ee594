"""What a fit leaves that is refused, fails or is interrupted, and which checkpoints it takes."""

import signal

import numpy as np
import pytest
from lstm_rs import train
from lstm_rs.estimators import LSTMAutoencoder, LSTMClassifier, LSTMForecaster, LSTMRegressor

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5, 2)), RNG.normal(size=12)
WAVE = np.sin(np.arange(60) / 3)


@pytest.fixture(autouse=True)
def python_takes_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def small(**options):
    return LSTMRegressor(**{"hidden_size": 3, "epochs": 2, "random_state": 0} | options)


def test_a_refused_fit_leaves_the_one_before():
    estimator = small().fit(X, Y)
    before = estimator.predict(X)
    for bad in (np.full((12, 5, 2), 1e300), X[:, :, :1] * np.nan):
        with pytest.raises(ValueError):
            estimator.fit(bad, Y)
        assert np.array_equal(estimator.predict(X), before)
    new = small(validation_fraction=0.5)
    with pytest.raises(ValueError, match="validation_fraction: expected at least 2 sequences"):
        new.fit(X[:1], Y[:1])
    assert [name for name in vars(new) if name.endswith("_")] == []


@pytest.mark.parametrize("estimator", [LSTMAutoencoder, LSTMForecaster])
def test_ctrl_c_waits_for_what_follows_the_training(estimator, monkeypatch):
    model, finish = estimator(window=8, epochs=1, random_state=0), estimator._trained

    def interrupted(self, data):
        signal.raise_signal(signal.SIGINT)
        finish(self, data)

    monkeypatch.setattr(estimator, "_trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(WAVE)
    model.predict(WAVE)


@pytest.mark.parametrize("estimator", [LSTMAutoencoder, LSTMForecaster])
def test_an_error_in_what_follows_the_training_leaves_nothing(estimator, monkeypatch):
    def fails(self, data):
        raise MemoryError

    monkeypatch.setattr(estimator, "_trained", fails)
    model = estimator(window=8, epochs=1, random_state=0)
    with pytest.raises(MemoryError):
        model.fit(WAVE)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(WAVE)


OTHER = {
    # Not Y + 1, which is the same when it has been scaled.
    "data": (lambda model: model.fit(X, Y[::-1]), "data"),
    "fewer data": (lambda model: model.fit(X[:-1], Y[:-1]), "data"),
    "loss": (lambda model: model.set_params(loss="mae").fit(X, Y), "loss"),
    "learning_rate": (lambda model: model.set_params(learning_rate=0.5).fit(X, Y), "learning_rate"),
    "random_state": (lambda model: model.set_params(random_state=1).fit(X, Y), "random_state"),
    "batch_size": (lambda model: model.set_params(batch_size=5).fit(X, Y), "batch_size"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_another_fit_is_refused(name, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "checkpoint.safetensors"
    whole = small(checkpoint=path).fit(X, Y)
    again = small(checkpoint=path, resume=True).fit(X, Y)
    assert np.array_equal(again.predict(X), whole.predict(X))
    fit, what = OTHER[name]
    with pytest.raises(ValueError, match=rf"expected the checkpoint of a run with {what} .*remove it, or give another"):
        fit(small(checkpoint=path, resume=True))


@pytest.mark.parametrize("path", ["nowhere/checkpoint", "."])
def test_a_checkpoint_that_cannot_be_written_is_refused_at_once(path, tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="checkpoint: expected a file in a folder that can be written to"):
        small(checkpoint=tmp_path / path).fit(X, Y)


def test_a_disk_that_is_full_costs_the_checkpoint_alone(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    from lstm_rs import _files

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files, "_replace", full)
    estimator = small(checkpoint=tmp_path / "checkpoint").fit
    with pytest.raises(OSError, match="No space left"):
        estimator(X, Y)
    assert estimator.__self__.predict(X).shape == (12,)


MASKED = np.ma.masked_equal(np.where(np.arange(60) == 7, -999.0, WAVE), -999.0)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: LSTMForecaster(window=8).fit(MASKED),
        lambda: LSTMAutoencoder(window=8).fit([WAVE, MASKED]),
        lambda: LSTMRegressor().fit(np.ma.masked_greater(X, 1.0), Y),
        lambda: LSTMRegressor().fit([MASKED, WAVE], [1.0, 2.0]),
        lambda: LSTMRegressor().fit(X, np.ma.masked_greater(Y, 0.0)),
        lambda: LSTMClassifier().fit(X, np.ma.masked_equal([0, 1] * 6, 1)),
        lambda: train.mse(np.zeros(60), MASKED),
        lambda: train.cross_entropy(np.zeros((12, 2)), np.ma.masked_equal([0, 1] * 6, 1)),
        lambda: train.Batches([MASKED[:, None]], None),
        lambda: train.Batches(X, np.ma.masked_greater(Y, 0.0)),
    ],
)
def test_masked_values_are_refused(fit):
    with pytest.raises(ValueError, match="expected a value everywhere, got a masked array with gaps"):
        fit()


def test_a_mask_without_gaps_is_none():
    assert np.array_equal(
        LSTMForecaster(window=8, epochs=1, random_state=0).fit(np.ma.array(WAVE)).predict(),
        LSTMForecaster(window=8, epochs=1, random_state=0).fit(WAVE).predict(),
    )


def test_targets_of_several_lengths_need_per_step():
    with pytest.raises(ValueError, match=r"y: expected one target a sequence, got several lengths; .* per_step=True"):
        LSTMRegressor().fit([X[0], X[1, :3]], [[1.0, 2.0], [1.0]])
