"""Long calls, and signals that come in the middle of them."""

import copy
import signal
import time

import lstm_rs
import numpy as np
from lstm_rs import train
from lstm_rs.estimators import LSTMRegressor
from pool import digest, flat


class Stop(Exception):
    """What a handler raises."""


def stop(*_):
    raise Stop


def ones(*shape):
    return np.full(shape, 0.01, np.float32)


class LongCalls:
    """Calls of some tenths of a second each, by name; their arrays are made once."""

    def __init__(self):
        self.wide = lstm_rs.LSTM(64, 768, seed=0)
        self.crowd, self.alone = ones(2, 1500, 64), ones(150, 64)
        self.deep = lstm_rs.LSTM(32, 160, 2, bidirectional=True, seed=0)
        self.ragged, self.lengths = ones(60, 48, 32), np.arange(48) + 13
        self.stream = self.wide.stream(batch_size=1500)
        self.linear = train.Linear(800, 1000, seed=0)
        self.rows, self.d_rows = ones(3000, 800), ones(3000, 1000)
        self.weights = self.wide.weights
        self.function = lstm_rs.Weights(*(self.weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias")))
        self.sequences, self.targets = np.random.default_rng(0).normal(size=(60, 30, 3)), np.arange(60.0)
        self.names = [name for name in dir(self) if name.startswith("call_")]
        y, _, self.tape = self.wide.forward_train(self.crowd)
        self.dy, (self.deep_y, _, self.deep_tape) = y, self.deep.forward_train(self.ragged, lengths=self.lengths)

    def call_forward(self):
        return lstm_rs.forward(self.crowd, self.function)

    def call_forward_one(self):
        return self.wide(self.alone)

    def call_forward_train(self):
        return self.wide.forward_train(self.crowd)[:2]

    def call_backward(self):
        return self.wide.backward(self.tape, self.dy)

    def call_layers(self):
        return self.deep(self.ragged, lengths=self.lengths)

    def call_layers_backward(self):
        return self.deep.backward(self.deep_tape, self.deep_y)

    def call_stream(self):
        return self.stream.step(self.crowd[0])

    def call_linear(self):
        return self.linear(self.rows)

    def call_linear_backward(self):
        return self.linear.backward(self.rows, self.d_rows)

    def call_pack(self):
        return copy.copy(self.wide)

    def call_edit(self):
        with self.wide.edit() as weights:
            weights["bias_l0"][0] += 0.0

    def call_fit(self):
        return LSTMRegressor(epochs=50, hidden_size=24, random_state=0).fit(self.sequences, self.targets)


def ended(number, error, tally, bell, rng, name, call):
    """Runs `call` again and again until the exception of a signal ends it, at a random moment, and times that."""
    try:
        # In here, as it may come before this has returned.
        bell.ring(number, rng.uniform(0.0, 0.4))
        while True:
            call()
    except error:
        arrived = time.monotonic()
    heard = bell.rang(arrived)
    if heard is not None:
        tally.late(name.removeprefix("call_"), *heard)


def interrupted(tally, *arguments):
    """Ctrl-C in the middle of a call: `(bell, rng, name, call)`, as above."""
    ended(signal.SIGINT, KeyboardInterrupt, tally, *arguments)
    tally.counts["interrupts"] += 1


def raised(tally, *arguments):
    """The same with a handler of SIGUSR1 that raises an exception of its own."""
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        ended(signal.SIGUSR1, Stop, tally, *arguments)
        tally.counts["handlers that raised"] += 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def edited(tally, bell, rng):
    """Edits that a signal ends: the weights are the old ones or the new ones, and never some of each."""
    layer = lstm_rs.LSTM(16, 200, 2, seed=0)
    known, x = [digest(layer.state_dict().values())], ones(3, 2, 16)
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        try:
            bell.ring(signal.SIGUSR1, rng.uniform(0.0, 0.1))
            while True:
                with layer.edit() as weights:
                    for array in weights.values():
                        array *= np.float32(1.0001)
                    known = [known[-1], digest(weights.values())]
        except Stop:
            pass
        bell.rang(0.0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    now = digest(layer.state_dict().values())
    if now not in known:
        tally.fail("an edit that a signal ended left weights that are neither old nor new")
    # What is packed belongs to these weights.
    other = copy.deepcopy(layer)
    if digest(flat(layer(x))) != digest(flat(other(x))):
        tally.fail("an edit that a signal ended left packed weights of another snapshot")
    tally.counts["edits ended by a signal"] += 1
