"""The loop: epochs of batches, with validation, early stopping, checkpoints and Ctrl-C.

An epoch is every batch once, then every validation batch once. What the loop does besides the passes of the model and
the update is a few comparisons of Python floats for each batch, and copies of the weights once an epoch.

The weights are never left torn. Ctrl-C waits for the end of the batch; after any other exception the model has the
weights of its last whole epoch. With validation it has those of the best one, in every case.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lstm_rs.layers import _size
from lstm_rs.train._batches import Batch
from lstm_rs.train._checkpoint import Keeper, put_weights
from lstm_rs.train._history import History
from lstm_rs.train._interrupt import Interrupt
from lstm_rs.train._models import Model
from lstm_rs.train._optimizer import Optimizer
from lstm_rs.train._optimizers import clip_grad_norm
from lstm_rs.train._progress import Progress


def fit(
    model: Model,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    *,
    epochs: int,
    validation: Iterable[Batch] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    clip_norm: float | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_epoch: Callable[[History], object] | None = None,
    history: History | None = None,
    run: Mapping[str, str] | None = None,
) -> History:
    """Train a model.

    Parameters
    ----------
    model : Model
        `Predictor`, `Autoencoder`, or one of your own.
    batches : iterable of Batch
        Iterated anew for each epoch: `Batches`, `TruncatedBatches`, or a list.
    optimizer : Optimizer
        Over the model's modules. Those that it does not have stay as they are.
    epochs : int
        How many there are in all, those before a checkpoint included.
    validation : iterable of Batch, optional
        Judged at the end of each epoch, without dropout. The model gets the weights of the best epoch at the end.
    patience : int, optional
        Training ends after so many epochs in which the validation loss has not come down.
    min_delta : float, default 0.0
        By how much at least it has to come down to count.
    clip_norm : float, optional
        The gradients of all modules together are scaled down to this norm where it is larger, by `clip_grad_norm`.
    progress : bool, default False
        Write to stderr how far training is.
    checkpoint : path, optional
        A file to keep the state of training in, at the end of an epoch: every ten seconds, and when `fit` ends,
        whether it is done, stopped by Ctrl-C or by an error. It takes safetensors.
    resume : bool, default False
        Go on from that file, if it is there. With the same data and options the end is that of an uninterrupted run, to
        the bit. Modules and optimizer have to be of the same kinds and sizes; what else should be the same, `run` says.
    on_epoch : callable, optional
        Called with the history after each epoch.
    history : History, optional
        What to write to, from its beginning; then the caller has it after an exception too.
    run : mapping of str to str, optional
        What else a checkpoint belongs to, such as a hash of the data or the options of the optimizer: one that was
        written with other texts is refused.

    Returns
    -------
    History
        The losses.

    Raises
    ------
    FloatingPointError
        If a loss or the norm of the gradients is not finite.
    KeyboardInterrupt
        After Ctrl-C, when the batch is done, the weights are in place and the checkpoint is written; after a second
        Ctrl-C at once. Only Python's own handler is replaced meanwhile, and only in the main thread.
    ValueError, TypeError
        If an argument does not make sense, if there are no batches, if the checkpoint is that of another model,
        optimizer or `run`, or if the model does not give what `Model` says.

    Notes
    -----
    Early stopping is that of Prechelt's class UP [1]_ on epochs. After an exception the model has the weights of the
    best epoch; without validation those of the last batch after Ctrl-C, and of the last whole epoch otherwise.

    References
    ----------
    .. [1] L. Prechelt, "Early stopping - but when?", Neural Networks: Tricks of the Trade, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import LSTM
    >>> from lstm_rs.train import Adam, Batches, Linear, Predictor, fit, mse
    >>> x = np.random.default_rng(0).normal(size=(40, 6, 2)).astype(np.float32)
    >>> batches = Batches(x, x.sum(axis=(1, 2))[:, None], batch_size=10, rng=0)
    >>> model = Predictor(LSTM(2, 8, seed=0), Linear(8, 1, seed=0), mse)
    >>> history = fit(model, batches, Adam(list(model.modules.values()), 0.01), epochs=20)
    >>> len(history.loss), len(history.step_loss), history.loss[-1] < history.loss[0] / 2
    (20, 80, True)
    """
    epochs = _size("epochs", epochs, 1)
    if patience is not None:
        patience = _size("patience", patience, 1)
        if validation is None:
            raise ValueError("patience: expected validation with it, got none")
    if not (min_delta >= 0.0 and math.isfinite(min_delta)):
        raise ValueError(f"min_delta: expected a finite number from 0 on, got {min_delta!r}")
    if clip_norm is not None and not clip_norm > 0.0:
        raise ValueError(f"clip_norm: expected more than 0, got {clip_norm!r}")
    if resume and checkpoint is None:
        raise ValueError("resume: expected a checkpoint to go on from, got None")
    names = _trained(model, optimizer)
    history = History() if history is None else history
    history.clear()
    keeper = Keeper(checkpoint, model, batches, optimizer, history, run, validation)
    if resume:
        keeper.resume(validation is not None)
    shown = Progress(epochs, len(history.loss), progress)
    with Interrupt() as interrupt, np.errstate(over="ignore", invalid="ignore"):
        try:
            while len(history.loss) < epochs and not _is_over(history, patience):
                start = time.perf_counter()
                loss, rate = _train(model, batches, optimizer, names, clip_norm, history, interrupt)
                judged = None if validation is None else _judge(model, validation, len(history.loss), interrupt)
                history.loss.append(loss)
                history.learning_rate.append(rate)
                history.seconds.append(time.perf_counter() - start)
                if judged is not None:
                    history.validation_loss.append(judged)
                    if _is_better(history, min_delta):
                        history.best_epoch = len(history.loss) - 1
                keeper.take()
                keeper.write_now_and_then()
                shown.show(len(history.loss), loss, judged)
                if on_epoch is not None:
                    on_epoch(history)
            if keeper.last.best is not None:
                put_weights(model, keeper.last.best)
            keeper.write()
        except BaseException as error:
            _put_back(model, optimizer, keeper, history, torn=not isinstance(error, _Stopped))
            try:
                keeper.write()
            except OSError as failed:
                # What ended training is said; this besides.
                if not isinstance(error, OSError):
                    warnings.warn(f"fit: the checkpoint cannot be written: {failed}", RuntimeWarning, stacklevel=2)
            if isinstance(error, _Stopped):
                raise KeyboardInterrupt from None
            raise
        finally:
            shown.close()
    if interrupt.noted:
        raise KeyboardInterrupt
    return history


class _Stopped(Exception):
    """Ctrl-C has been noted, and no batch is running."""


def _trained(model: Model, optimizer: Optimizer) -> list[str]:
    """The names of the modules that the optimizer has, in its order."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
    known = {id(module): name for name, module in model.modules.items()}
    for module in optimizer.modules:
        if id(module) not in known:
            raise ValueError(f"optimizer: expected modules of the model, got {module!r}, which it does not have")
    return [known[id(module)] for module in optimizer.modules]


def _is_better(history: History, min_delta: float) -> bool:
    """Whether the last epoch is the best one so far."""
    best, losses = history.best_epoch, history.validation_loss
    return best is None or losses[-1] < losses[best] - min_delta


def _is_over(history: History, patience: int | None) -> bool:
    """Whether the validation loss has not come down for too long."""
    if patience is None or history.best_epoch is None:
        return False
    return len(history.loss) - 1 - history.best_epoch >= patience


def _train(
    model: Model,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    names: list[str],
    clip_norm: float | None,
    history: History,
    interrupt: Interrupt,
) -> tuple[float, float]:
    """An epoch: its mean loss, and the rate of its last step."""
    total, sequences, rate = 0.0, 0, 0.0
    for batch in batches:
        if interrupt.noted:
            raise _Stopped
        loss, gradients = model.loss_and_gradients(batch)
        _check_answer(loss, gradients, names)
        if not math.isfinite(loss):
            raise FloatingPointError(_not_finite("the loss", loss, optimizer, len(history.loss)))
        trained = [gradients[name] for name in names]
        if clip_norm is not None:
            norm = clip_grad_norm(trained, clip_norm)
            if not math.isfinite(norm):
                raise FloatingPointError(_not_finite("the norm of the gradients", norm, optimizer, len(history.loss)))
        rate = optimizer.rate
        optimizer.step(*trained)
        history.step_loss.append(loss)
        count = batch.x.shape[1]
        total += loss * count
        sequences += count
    if sequences == 0:
        raise ValueError(
            f"batches: expected at least one batch in each epoch, got none in epoch {len(history.loss) + 1}"
            + ("; a generator can be iterated once, a list or Batches as often as wanted" if history.loss else "")
        )
    return total / sequences, rate


def _check_answer(loss: Any, gradients: Any, names: list[str]) -> None:
    """Refuse what a model of somebody's own should not give."""
    if not isinstance(loss, float):
        raise TypeError(f"loss_and_gradients: expected a float as the loss, got {type(loss).__name__}")
    if not isinstance(gradients, Mapping):
        raise TypeError(f"loss_and_gradients: expected a dict of gradients by module, got {type(gradients).__name__}")
    missing = [name for name in names if name not in gradients]
    if missing:
        raise KeyError(f"loss_and_gradients: expected gradients for {', '.join(names)}, got none for "
                       f"{', '.join(missing)}")  # fmt: skip


def _judge(model: Model, validation: Iterable[Batch], epoch: int, interrupt: Interrupt) -> float:
    """The mean loss over the validation batches."""
    total, sequences = 0.0, 0
    for batch in validation:
        if interrupt.noted:
            raise _Stopped
        count = batch.x.shape[1]
        total += model.loss(batch) * count
        sequences += count
    if sequences == 0:
        raise ValueError(f"validation: expected at least one batch in each epoch, got none in epoch {epoch + 1}")
    if not math.isfinite(total):
        raise FloatingPointError(
            f"fit: the validation loss of epoch {epoch + 1} is {total}; are there NaN or huge numbers in the data?"
        )
    return total / sequences


def _not_finite(what: str, value: float, optimizer: Optimizer, epoch: int) -> str:
    return (
        f"fit: {what} is {value} in epoch {epoch + 1}, after {optimizer.steps} steps; look for NaN or huge numbers in "
        f"the data, or lower the learning rate"
    )


def _put_back(model: Model, optimizer: Optimizer, keeper: Keeper, history: History, *, torn: bool) -> None:
    """Leave a model that can be used, and a history of whole epochs."""
    last = keeper.last
    if torn:
        optimizer.load_state_dict(last.optimizer)
    history.best_epoch = last.best_epoch
    if last.best is not None:
        put_weights(model, last.best)
    elif torn:
        put_weights(model, last.weights)
    for name in ("loss", "validation_loss", "seconds", "learning_rate"):
        del getattr(history, name)[last.epochs :]
