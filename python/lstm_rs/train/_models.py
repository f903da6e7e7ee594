"""Models: modules put together, with a loss and its gradients for all their weights.

`Predictor` reads a sequence and predicts a value for it, or for each of its steps::

    x (T, N, F) -> LSTM -> h (N, D*P) of the end, or y (T, N, D*P) -> Linear -> prediction -> loss

`Autoencoder` reconstructs a sequence from a few numbers (Srivastava, Mansimov, Salakhutdinov 2015)::

    x (T, N, F) -> LSTM -> h (N, D*P) -> Linear -> latent (N, Z), at each step -> LSTM -> Linear -> x reconstructed

The gradients are written out: each pass backward mirrors the pass forward above it.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np

from lstm_rs.functional import Lengths, State
from lstm_rs.layers import LSTM
from lstm_rs.train._batches import Batch
from lstm_rs.train._losses import LossFunction, mse
from lstm_rs.train._modules import Linear, Module

ModelGradients: TypeAlias = dict[str, dict[str, np.ndarray]]


class Model(Protocol):
    """What `fit` can train: `Predictor`, `Autoencoder`, or a class of your own with these three.

    Attributes
    ----------
    modules : dict of str to Module
        What owns the weights, by name, in a fixed order.

    Notes
    -----
    ``loss_and_gradients(batch)`` gives the loss as a float, and a dict with a dict of arrays for each name in
    `modules`: the ``weights`` of what `LSTM.backward` and `Linear.backward` return. Hand ``batch.lengths`` on to the
    passes and the losses. Where ``batch.carry`` is True the model has to start from the state that the batch before
    ended in, which it keeps itself, as `Predictor` does. The page on training loops has an example.
    """

    @property
    def modules(self) -> dict[str, Module]:
        """The modules by name, in a fixed order."""
        ...

    def loss_and_gradients(self, batch: Batch) -> tuple[float, ModelGradients]:
        """The loss of a batch, with dropout, and the gradients of each module's weights."""
        ...

    def loss(self, batch: Batch) -> float:
        """The loss of a batch, without dropout."""
        ...


class Predictor:
    """An LSTM with a linear read-out: a value or class for each sequence, or for each step.

    Parameters
    ----------
    lstm : LSTM
        Time-major.
    linear : Linear
        From D*P features to the prediction: of every step's output, or of the last layer's final hidden state, both
        directions' side by side.
    loss : LossFunction
        `mse`, `mae`, `huber`, `cross_entropy`, or one of your own.
    per_step : bool, default False
        A prediction for each step?

    Raises
    ------
    ValueError, TypeError
        If the modules do not fit each other.

    Attributes
    ----------
    lstm, linear, per_step
        As they were given.
    loss_function
        The loss as it was given.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> from lstm_rs.train import Batch, Linear, Predictor, mse
    >>> model = Predictor(lstm_rs.LSTM(3, 8, seed=0), Linear(8, 1, seed=0), mse)
    >>> x = np.ones((5, 4, 3), dtype=np.float32)
    >>> model(x).shape
    (4, 1)
    >>> loss, gradients = model.loss_and_gradients(Batch(x, np.zeros((4, 1))))
    >>> {name: len(arrays) for name, arrays in gradients.items()}
    {'lstm': 3, 'linear': 2}
    """

    def __init__(self, lstm: LSTM, linear: Linear, loss: LossFunction, *, per_step: bool = False) -> None:
        _check_lstm("lstm", lstm)
        _check_linear("linear", linear, "lstm", lstm)
        _check_loss(loss)
        _check_dtypes(lstm=lstm, linear=linear)
        self.lstm, self.linear, self.loss_function, self.per_step = lstm, linear, loss, per_step
        self._state: State | None = None

    @property
    def modules(self) -> dict[str, Module]:
        """``lstm`` and ``linear``."""
        return {"lstm": self.lstm, "linear": self.linear}

    def __call__(self, x: np.ndarray, lengths: Lengths = None) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        x : (T, N, F) array
            The input.
        lengths : (N,) ints, optional
            The valid steps of each sequence.

        Returns
        -------
        (N, O) array, or (T, N, O) with `per_step`
            Past the end of a sequence a prediction means nothing.
        """
        y, state = self.lstm(x, None, lengths)
        return self.linear(y if self.per_step else _final(self.lstm, state))

    def loss(self, batch: Batch) -> float:
        """The loss of a batch, without dropout."""
        y, self._state = self.lstm(batch.x, self._before(batch), batch.lengths)
        if self.per_step:
            return self.loss_function(self.linear(y), _target(batch), lengths=batch.lengths).value
        return self.loss_function(self.linear(_final(self.lstm, self._state)), _target(batch)).value

    def loss_and_gradients(self, batch: Batch) -> tuple[float, ModelGradients]:
        """The loss of a batch, with dropout, and the gradients of each module's weights."""
        y, state, tape = self.lstm.forward_train(batch.x, self._before(batch), batch.lengths)
        self._state = state
        if self.per_step:
            loss = self.loss_function(self.linear(y), _target(batch), lengths=batch.lengths)
            linear = self.linear.backward(y, loss.gradient)
            lstm = self.lstm.backward(tape, linear.x, need_dx=False)
        else:
            h = _final(self.lstm, state)
            loss = self.loss_function(self.linear(h), _target(batch))
            linear = self.linear.backward(h, loss.gradient)
            assert linear.x is not None
            lstm = self.lstm.backward(tape, None, _d_final(self.lstm, state, linear.x), need_dx=False)
        return loss.value, {"lstm": lstm.weights, "linear": linear.weights}

    def _before(self, batch: Batch) -> State | None:
        """The state that the batch starts from."""
        if not batch.carry:
            return None
        if self.lstm.bidirectional:
            raise ValueError("batch.carry: the second direction starts from the end; use an LSTM with one direction")
        if self._state is None:
            raise ValueError("batch.carry: expected False for the first batch: there is no state to go on from")
        return self._state


class Autoencoder:
    """An LSTM that reads a sequence into a few numbers, and one that reconstructs it.

    Parameters
    ----------
    encoder : LSTM
        From F features. Its last layer's final hidden state goes on, both directions' side by side.
    to_latent : Linear
        To Z values, the latent.
    decoder : LSTM
        From Z features: it reads the latent at every step.
    to_output : Linear
        From the decoder's outputs to F features.
    loss : LossFunction, default `mse`
        Between the sequence and its reconstruction.

    Raises
    ------
    ValueError, TypeError
        If the modules do not fit each other.

    Notes
    -----
    The autoencoder of Srivastava et al. [1]_ with an unconditional decoder: it never sees its earlier outputs. Here the
    latent is its input at every step, not its initial state, and the sequence is reconstructed in its own order.

    References
    ----------
    .. [1] N. Srivastava, E. Mansimov, R. Salakhutdinov, "Unsupervised learning of video representations using LSTMs",
       ICML 2015, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs import LSTM
    >>> from lstm_rs.train import Autoencoder, Linear
    >>> model = Autoencoder(LSTM(3, 8), Linear(8, 2), LSTM(2, 8), Linear(8, 3))
    >>> x = np.ones((5, 4, 3), dtype=np.float32)
    >>> model.encode(x).shape, model(x).shape
    ((4, 2), (5, 4, 3))
    """

    def __init__(
        self, encoder: LSTM, to_latent: Linear, decoder: LSTM, to_output: Linear, loss: LossFunction = mse
    ) -> None:
        _check_lstm("encoder", encoder)
        _check_lstm("decoder", decoder)
        _check_linear("to_latent", to_latent, "encoder", encoder)
        _check_linear("to_output", to_output, "decoder", decoder)
        _check_loss(loss)
        if decoder.input_size != to_latent.out_features:
            raise ValueError(
                f"decoder: expected input_size {to_latent.out_features}, as to_latent gives, got {decoder.input_size}"
            )
        if to_output.out_features != encoder.input_size:
            raise ValueError(
                f"to_output: expected out_features {encoder.input_size}, as encoder reads, got {to_output.out_features}"
            )
        _check_dtypes(encoder=encoder, to_latent=to_latent, decoder=decoder, to_output=to_output)
        self.encoder, self.to_latent, self.decoder, self.to_output = encoder, to_latent, decoder, to_output
        self.loss_function = loss

    @property
    def modules(self) -> dict[str, Module]:
        """``encoder``, ``to_latent``, ``decoder`` and ``to_output``."""
        return {
            "encoder": self.encoder,
            "to_latent": self.to_latent,
            "decoder": self.decoder,
            "to_output": self.to_output,
        }

    def encode(self, x: np.ndarray, lengths: Lengths = None) -> np.ndarray:
        """Read sequences x (T, N, F) into their latents (N, Z)."""
        _, state = self.encoder(x, None, lengths)
        return self.to_latent(_final(self.encoder, state))

    def decode(self, latent: np.ndarray, steps: int, lengths: Lengths = None) -> np.ndarray:
        """Reconstruct sequences (T, N, F) of so many steps from their latents (N, Z)."""
        y, _ = self.decoder(_repeat(latent, steps), None, lengths)
        return self.to_output(y)

    def __call__(self, x: np.ndarray, lengths: Lengths = None) -> np.ndarray:
        """Reconstruct sequences x (T, N, F). Past the end of a sequence it means nothing."""
        return self.decode(self.encode(x, lengths), len(x), lengths)

    def loss(self, batch: Batch) -> float:
        """The loss of a batch, without dropout; its target is its input."""
        _check_no_carry(batch)
        return self.loss_function(self(batch.x, batch.lengths), batch.x, lengths=batch.lengths).value

    def loss_and_gradients(self, batch: Batch) -> tuple[float, ModelGradients]:
        """The loss of a batch, with dropout, and the gradients of each module's weights."""
        _check_no_carry(batch)
        x, lengths = batch.x, batch.lengths
        _, state, encoder_tape = self.encoder.forward_train(x, None, lengths)
        h = _final(self.encoder, state)
        latent = self.to_latent(h)
        y, _, decoder_tape = self.decoder.forward_train(_repeat(latent, len(x)), None, lengths)
        loss = self.loss_function(self.to_output(y), x, lengths=lengths)

        to_output = self.to_output.backward(y, loss.gradient)
        decoder = self.decoder.backward(decoder_tape, to_output.x)
        assert decoder.x is not None
        to_latent = self.to_latent.backward(h, decoder.x.sum(axis=0))
        assert to_latent.x is not None
        d_state = _d_final(self.encoder, state, to_latent.x)
        encoder = self.encoder.backward(encoder_tape, None, d_state, need_dx=False)
        return loss.value, {
            "encoder": encoder.weights,
            "to_latent": to_latent.weights,
            "decoder": decoder.weights,
            "to_output": to_output.weights,
        }


def _final(lstm: LSTM, state: State) -> np.ndarray:
    """The last layer's final hidden state (N, D*P)."""
    h = state.h
    return np.concatenate((h[-2], h[-1]), axis=1) if lstm.bidirectional else h[-1]


def _d_final(lstm: LSTM, state: State, d_final: np.ndarray) -> State:
    """The gradient of the final state, given that of `_final`."""
    d_h, d_c = np.zeros_like(state.h), np.zeros_like(state.c)
    if lstm.bidirectional:
        d_h[-2], d_h[-1] = np.split(d_final, 2, axis=1)
    else:
        d_h[-1] = d_final
    return State(d_h, d_c)


def _repeat(latent: np.ndarray, steps: int) -> np.ndarray:
    """The latent (N, Z) at every step (T, N, Z)."""
    return np.broadcast_to(latent, (steps, *latent.shape))


def _target(batch: Batch) -> np.ndarray:
    if batch.target is None:
        raise ValueError("batch.target: expected an array, got None; give the batches their targets")
    return batch.target


def _check_no_carry(batch: Batch) -> None:
    if batch.carry:
        raise ValueError("batch.carry: an autoencoder needs whole sequences; use Batches, not TruncatedBatches")


def _check_lstm(name: str, lstm: LSTM) -> None:
    if not isinstance(lstm, LSTM):
        raise TypeError(f"{name}: expected an lstm_rs.LSTM, got {type(lstm).__name__}")
    if lstm.batch_first:
        raise ValueError(f"{name}: expected batch_first=False, as batches are time-major, got {lstm!r}")


def _check_linear(name: str, linear: Linear, source: str, lstm: LSTM) -> None:
    if not isinstance(linear, Linear):
        raise TypeError(f"{name}: expected a Linear, got {type(linear).__name__}")
    given = (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)
    if linear.in_features != given:
        raise ValueError(f"{name}: expected in_features {given}, as {source} gives, got {linear.in_features}")


def _check_loss(loss: LossFunction) -> None:
    if not callable(loss):
        raise TypeError(f"loss: expected a function such as lstm_rs.train.mse, got {loss!r}")


def _check_dtypes(**modules: LSTM | Linear) -> None:
    (first, one), *others = modules.items()
    for name, module in others:
        if module.dtype != one.dtype:
            raise TypeError(f"{name}: expected {one.dtype}, as {first} is, got {module.dtype}")
