"""A whole training, by every instruction set and any number of threads: the same bits on one machine.

The passes and the read-out promise it; what NumPy does between them has to leave it as it is.
"""

import lstm_rs
import numpy as np
import pytest
from conftest import ISAS, using
from lstm_rs.estimators import LSTMAutoencoder, LSTMClassifier, LSTMForecaster, LSTMRegressor

RNG = np.random.default_rng(0)
RAGGED = [RNG.normal(size=(steps, 3)) for steps in RNG.integers(4, 20, 40)]
LABELS = RNG.integers(0, 3, 40)
WAVE = np.sin(np.arange(150) / 3) + 0.1 * RNG.normal(size=150)

FITS = {
    "classifier": lambda: (
        LSTMClassifier(
            epochs=2,
            num_layers=2,
            bidirectional=True,
            dropout=0.1,
            cell=lstm_rs.CellSpec.peephole_lstm(),
            random_state=0,
        )
        .fit(RAGGED, LABELS)
        .predict_proba(RAGGED)
    ),
    "regressor": lambda: LSTMRegressor(epochs=2, dtype="float64", random_state=0).fit(RAGGED, LABELS).predict(RAGGED),
    "forecaster": lambda: (
        LSTMForecaster(3, strategy="recursive", window=20, epochs=2, random_state=0).fit(WAVE).predict_all(WAVE)
    ),
    "autoencoder": lambda: LSTMAutoencoder(epochs=1, random_state=0).fit(WAVE).score_samples(WAVE),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_has_the_same_bits(name):
    found = {}
    for isa in ISAS:
        for threads in (1, 2, 3):
            with using(isa), lstm_rs.num_threads(threads):
                found[isa, threads] = FITS[name]()
    first, *others = found.values()
    for place, other in zip(list(found)[1:], others, strict=True):
        np.testing.assert_array_equal(first, other, err_msg=f"{place}")
    assert np.isfinite(first).all() and np.ptp(first) > 0
