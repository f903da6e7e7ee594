"""Estimators that learn from sequences: ``fit`` and ``predict``, by scikit-learn's conventions.

`LSTMRegressor` and `LSTMClassifier` go from a sequence, or from each of its steps, to numbers or a label.
`LSTMForecaster` says how a series goes on, `LSTMAutoencoder` where it does what it usually does not. NumPy is all they
need. With scikit-learn they take part in its pipelines, cross-validation and searches; without it they work alike.
Files need safetensors.

Imported by name: ``import lstm_rs.estimators``.
"""

from lstm_rs.estimators.autoencoder import LSTMAutoencoder
from lstm_rs.estimators.classifier import LSTMClassifier
from lstm_rs.estimators.forecaster import LSTMForecaster
from lstm_rs.estimators.regressor import LSTMRegressor

__all__ = ["LSTMAutoencoder", "LSTMClassifier", "LSTMForecaster", "LSTMRegressor"]
