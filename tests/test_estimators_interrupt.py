"""Ctrl-C in a fit: an estimator that works, and a checkpoint from which a fit ends as an uninterrupted one does."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from lstm_rs.estimators import LSTMClassifier, LSTMRegressor

pytest.importorskip("safetensors", reason="safetensors is not installed")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5, 2))
Y = X[:, :, 0].sum(axis=1)
SMALL = {"hidden_size": 4, "epochs": 6, "random_state": 0}

INTERRUPTED = """
    import os, pickle, signal, sys
    import numpy as np
    from lstm_rs.estimators import {kind}

    rng = np.random.default_rng(0)
    X = [rng.normal(size=(steps, 2)) for steps in rng.integers(3, 9, size=90)]
    sums = np.array([x[:, 0].sum() for x in X])
    y = sums if "{kind}" == "LSTMRegressor" else np.where(sums > 0, "plus", "minus")
    options = {options}
    path = sys.argv[1]


    class Stopping({kind}):
        # Ctrl-C, as the terminal sends it, in the second batch of the fifth epoch.
        def _batches(self, data, rng):
            batches = super()._batches(data, rng)
            if rng is None:
                return batches

            class Watched(type(batches)):
                epoch = 0

                def __iter__(self):
                    type(self).epoch += 1
                    for k, batch in enumerate(super().__iter__()):
                        if self.epoch == 5 and k == 1:
                            signal.raise_signal(signal.SIGINT)
                        yield batch

            batches.__class__ = Watched
            return batches


    def outputs(estimator):
        return estimator.predict_proba(X) if hasattr(estimator, "classes_") else estimator.predict(X)


    whole = {kind}(**options).fit(X, y)
    stopped = Stopping(**options, checkpoint=path)
    try:
        stopped.fit(X, y)
    except KeyboardInterrupt:
        print("interrupted")
    assert os.path.exists(path)
    assert len(stopped.history_.loss) == 4, stopped.history_
    assert np.isfinite(stopped.history_.loss).all()
    assert outputs(stopped).shape[0] == 90 and stopped.score(X, y) <= 1
    assert not np.array_equal(outputs(stopped), outputs(whole))
    seconds = stopped.history_.seconds[:]
    # It is an estimator like any other.
    stopped.save(path + ".estimator")
    assert stopped._moments["steps"] == len(stopped.history_.step_loss)
    stopped.partial_fit(X, y)
    assert len(stopped.history_.loss) == 5

    resumed = {kind}(**options, checkpoint=path, resume=True).fit(X, y)
    assert np.array_equal(outputs(resumed), outputs(whole))
    # No fit has the times of another: these epochs were not trained again.
    assert resumed.history_.seconds[:4] == seconds
    assert resumed.history_.step_loss == whole.history_.step_loss
    assert resumed.history_.best_epoch == whole.history_.best_epoch
    # What goes on from there has the same bits too.
    assert np.array_equal(outputs(resumed.partial_fit(X, y)), outputs(whole.partial_fit(X, y)))
    # A handler that was Python's own is so again.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("done")
"""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTMRegressor", {"hidden_size": 6, "epochs": 8, "random_state": 3}),
        (
            "LSTMClassifier",
            {
                "hidden_size": 6,
                "epochs": 8,
                "random_state": 3,
                "num_layers": 2,
                "dropout": 0.3,
                "validation_fraction": 0.2,
                "weight_decay": 0.01,
            },
        ),
    ],
)
def test_ctrl_c(tmp_path, kind, options):
    code = textwrap.dedent(INTERRUPTED.format(kind=kind, options=options))
    arguments = [sys.executable, "-c", code, str(tmp_path / "checkpoint.safetensors")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "done"]


def test_a_finished_fit_is_not_trained_further(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    fitted = LSTMRegressor(**SMALL, checkpoint=path).fit(X, Y)
    again = LSTMRegressor(**SMALL, checkpoint=path, resume=True).fit(X, Y)
    assert again.history_ == fitted.history_
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_more_epochs_go_on_from_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    options = SMALL | {"schedule": "constant"}
    shorter = LSTMRegressor(**options, checkpoint=path).fit(X, Y)
    longer = LSTMRegressor(**(options | {"epochs": 9}), checkpoint=path, resume=True).fit(X, Y)
    assert longer.history_.seconds[:6] == shorter.history_.seconds
    whole = LSTMRegressor(**(options | {"epochs": 9})).fit(X, Y)
    np.testing.assert_array_equal(longer.predict(X), whole.predict(X))


def test_without_resume_a_checkpoint_is_replaced(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    LSTMRegressor(**(SMALL | {"random_state": 1}), checkpoint=path).fit(X, Y)
    before = path.read_bytes()
    fresh = LSTMRegressor(**SMALL, checkpoint=path).fit(X, Y)
    np.testing.assert_array_equal(fresh.predict(X), LSTMRegressor(**SMALL).fit(X, Y).predict(X))
    assert path.read_bytes() != before


def test_resume_without_a_file_starts_anew(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    fitted = LSTMRegressor(**SMALL, checkpoint=path, resume=True).fit(X, Y)
    np.testing.assert_array_equal(fitted.predict(X), LSTMRegressor(**SMALL).fit(X, Y).predict(X))
    assert path.exists()


def test_a_checkpoint_of_another_model(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    LSTMRegressor(**SMALL, checkpoint=path).fit(X, Y)
    other = LSTMClassifier(**(SMALL | {"hidden_size": 5}), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="expected the checkpoint of modules"):
        other.fit(X, Y > 0)
    assert not hasattr(other, "model_")
