"""What a run of training leaves besides the weights: how its losses went."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """How training went, epoch by epoch.

    Attributes
    ----------
    loss : list of float
        The mean over each epoch's batches, weighted by their sequences.
    validation_loss : list of float
        The same of the validation batches at the end of each epoch; empty without validation.
    seconds : list of float
        How long each epoch took, validation included.
    learning_rate : list of float
        The rate of each epoch's last step.
    step_loss : list of float
        The loss of every batch, before its update.
    best_epoch : int or None
        The index, from 0, of the epoch with the best validation loss; None without validation.

    Examples
    --------
    >>> from lstm_rs.train import History
    >>> History().loss
    []
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    step_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None

    def clear(self) -> None:
        """Forget everything."""
        for name in LISTS:
            getattr(self, name).clear()
        self.best_epoch = None


LISTS = ("loss", "validation_loss", "seconds", "learning_rate", "step_loss")
