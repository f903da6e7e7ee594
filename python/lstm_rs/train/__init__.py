"""Training: optimizers, schedules, losses, mini-batches and a loop, for `lstm_rs.LSTM` with a linear read-out.

NumPy is all it takes. Everything is time-major: inputs (T, N, F), targets (T, N, ...) or (N, ...), and nothing is cast
unless a docstring says so. A model is a few modules, which own weights, and a loss; a step of training is ::

    batch -> model.loss_and_gradients -> clip_grad_norm -> optimizer.step

and `fit` is that step in a loop, with validation, early stopping, checkpoints and Ctrl-C. Update rules, losses and
initial values are those of PyTorch, so that a run there and a run here have the same loss curve.

It has no automatic differentiation: `Predictor` and `Autoencoder` write their gradients out, and a model of your own
does the same, as `Model` says.
"""

from lstm_rs.train._batches import Batch, Batches, TruncatedBatches
from lstm_rs.train._fit import fit
from lstm_rs.train._history import History
from lstm_rs.train._losses import Loss, LossFunction, cross_entropy, huber, mae, mse
from lstm_rs.train._models import Autoencoder, Model, Predictor
from lstm_rs.train._modules import Linear, LinearGradients, Module
from lstm_rs.train._optimizer import Optimizer
from lstm_rs.train._optimizers import SGD, Adam, AdamW, clip_grad_norm
from lstm_rs.train._schedules import constant, cosine, exponential, linear, step

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Autoencoder",
    "Batch",
    "Batches",
    "History",
    "Linear",
    "LinearGradients",
    "Loss",
    "LossFunction",
    "Model",
    "Module",
    "Optimizer",
    "Predictor",
    "TruncatedBatches",
    "clip_grad_norm",
    "constant",
    "cosine",
    "cross_entropy",
    "exponential",
    "fit",
    "huber",
    "linear",
    "mae",
    "mse",
    "step",
]
