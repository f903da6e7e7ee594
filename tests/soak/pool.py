"""A few hundred calls, each with the digest of what it answered when it was made.

A call is known by its kind and its seed alone, so that a process of its own can make it, too. `Call.digest` runs it
once and takes the digest of all arrays that come out; the passes promise the same bits on every instruction set and for
any number of threads, so that whoever runs it later has one number to compare with.
"""

import copy
import hashlib
import os
import pickle
import tempfile

import lstm_rs
import numpy as np
from lstm_rs import CellSpec, train
from lstm_rs.estimators import LSTMAutoencoder, LSTMClassifier, LSTMForecaster, LSTMRegressor

CELLS = [
    CellSpec(),
    CellSpec.hochreiter_1997(),
    CellSpec.peephole_lstm(),
    *map(CellSpec.greff, ("NIG", "NOG", "NIAF", "NOAF", "CIFG")),
    CellSpec(gate_activation="hard_sigmoid", input_activation="softsign"),
    CellSpec(output_activation="relu", cell_clip=0.5),
    CellSpec(peephole=True, coupled=True, gate_clip=0.7),
]

# Steps, batch (None is one sequence), inputs, units: around the lane counts of all instruction sets, with 0 and 1.
SMALL = ([0, 1, 2, 3, 5, 13, 40], [None, 0, 1, 2, 5, 17, 40], [0, 1, 3, 16, 33], [1, 2, 7, 16, 33, 64])
# Worth several threads, by units and by batch; results of some of them are large enough to be used again.
LARGE = [(20, 1, 48, 256), (1, 1, 128, 384), (12, 90, 20, 48), (5, 25, 32, 160), (10, 24, 17, 100), (24, 32, 16, 64)]


def digest(arrays):
    """Of the shapes and the bits of arrays; None stands for one that there is not."""
    out = hashlib.blake2b(digest_size=16)
    for array in arrays:
        if array is not None:
            array = np.ascontiguousarray(array)
            out.update(f"{array.shape} {array.dtype}".encode())
            # A view of bytes: of an array without elements there is none.
            out.update(memoryview(array.reshape(-1)).cast("B") if array.size else b"")
    return out.hexdigest()


def flat(*answers):
    """The arrays in tuples, dicts and lists of them, in order."""
    for answer in answers:
        if isinstance(answer, dict):
            yield from flat(*answer.values())
        elif isinstance(answer, tuple | list):
            yield from flat(*answer)
        else:
            yield answer


class Call:
    """One call: `digest` runs it."""

    def __init__(self, kind, seed):
        self.kind, self.seed = kind, seed
        self.rng = np.random.default_rng([KINDS.index(kind), seed])
        self.make()
        self.expected = None

    def __repr__(self):
        return f"{self.kind} {self.seed} {getattr(self, 'sizes', '')}"

    def draw(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def shape(self):
        """Sizes, dtype and cell."""
        self.large = self.seed % 10 == 0
        self.sizes = self.draw(LARGE) if self.large else tuple(map(self.draw, SMALL))
        self.dtype = self.draw([np.float32, np.float64])
        self.cell = self.draw(CELLS[:3] if self.large else CELLS)

    def normal(self, *shape):
        return self.rng.normal(size=[n for n in shape if n is not None]).astype(self.dtype)

    def lengths(self):
        """Lengths for the batch, or none."""
        steps, batch = self.sizes[:2]
        if self.rng.random() < 0.6:
            return None
        return int(self.rng.integers(steps + 1)) if batch is None else self.rng.integers(steps + 1, size=batch)

    def run(self):
        raise NotImplementedError

    def digest(self):
        return digest(flat(self.run()))


class Pass(Call):
    """The functions: one layer in one direction."""

    def make(self):
        self.shape()
        steps, batch, inputs, units = self.sizes
        cell, projected = self.cell, self.draw([None, None, 1, 9])
        out, rows = projected or units, len(cell.gates) * units
        self.weights = lstm_rs.Weights(
            self.normal(rows, inputs) / (inputs + 1) ** 0.5,
            self.normal(rows, out) * 0.5 / out**0.5,
            self.normal(rows) if self.rng.random() < 0.7 else None,
            self.normal(len(cell.peepholes), units) if cell.peephole else None,
            self.normal(out, units) / units**0.5 if projected else None,
        )
        self.how = {"cell": cell, "lengths": self.lengths(), "reverse": self.rng.random() < 0.3}
        self.how["batch_first"] = batch is not None and self.rng.random() < 0.3
        axes = (batch, steps) if self.how["batch_first"] else (steps, batch)
        self.x, self.dy = self.normal(*axes, inputs), self.normal(*axes, out)
        state = (self.normal(batch, out), self.normal(batch, units))
        self.state = self.draw([None, state])


class Forward(Pass):
    def run(self):
        return lstm_rs.forward(self.x, self.weights, self.state, **self.how)


class Backward(Pass):
    def run(self):
        y, state, tape = lstm_rs.forward_train(self.x, self.weights, self.state, **self.how)
        grads = lstm_rs.backward(tape, self.dy, need_dx=self.seed % 3 > 0)
        return y, state, tape.gates, tape.c, grads


class Layer(Call):
    """Layers, in one direction or both."""

    directions = (False, True)

    def make(self):
        self.shape()
        steps, batch, inputs, units = self.sizes
        self.both = self.draw(self.directions)
        layers, projected = 1 if self.large else self.draw([1, 2, 3]), self.draw([0, units // 2])
        options = {"bidirectional": self.both, "proj_size": projected, "cell": self.cell, "dtype": self.dtype}
        dropout = 0.3 if layers > 1 and self.seed % 2 else 0.0
        self.layer = lstm_rs.LSTM(inputs, units, layers, dropout=dropout, seed=self.seed, **options)
        self.x = self.normal(steps, batch, inputs)
        self.dy = self.normal(steps, batch, (projected or units) * (1 + self.both))
        self.span = self.lengths()

    def trained(self, layer):
        y, state, tape = layer.forward_train(self.x, lengths=self.span, rng=np.random.default_rng(self.seed))
        return y, state, layer.backward(tape, self.dy)

    def run(self):
        return self.layer(self.x, lengths=self.span), self.trained(self.layer)


class Copied(Layer):
    """A layer, and its tape, after pickling or copying: packed anew, for the instruction set of the moment."""

    def run(self):
        layer = (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)))[self.seed % 2](self.layer)
        y, state, tape = layer.forward_train(self.x, lengths=self.span, rng=np.random.default_rng(self.seed))
        return y, state, self.layer.backward(pickle.loads(pickle.dumps(tape)), self.dy)


class Saved(Layer):
    """A layer that was written to a file and read again."""

    def run(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "layer.safetensors")
            self.layer.save(path)
            layer = lstm_rs.LSTM.load(path)
        return layer.state_dict(), self.trained(layer)


class Edited(Layer):
    """A copy whose weights are edited, assigned to and loaded."""

    def run(self):
        layer = copy.copy(self.layer)
        y, _, tape = layer.forward_train(self.x, lengths=self.span, rng=np.random.default_rng(self.seed))
        with layer.edit() as weights:
            for name, gradient in layer.backward(tape, self.dy).weights.items():
                weights[name] -= self.dtype(0.01) * gradient
        layer.weights["weight_hh_l0"] = layer.weights["weight_hh_l0"] * self.dtype(0.5)
        other = pickle.loads(pickle.dumps(self.layer))
        other.load_state_dict(layer.state_dict())
        return y, other(self.x, lengths=self.span)


class Stream(Layer):
    """A stream, step by step, with room for its outputs or without."""

    directions = (False,)

    def run(self):
        if self.x.ndim == 3 and self.x.shape[1] == 0:
            return self.layer(self.x)
        stream = self.layer.stream(batch_size=1 if self.x.ndim == 2 else self.x.shape[1])
        outputs = []
        for t, x in enumerate(self.x[:12]):
            y = stream.step(x)
            if t % 3 == 2:
                stream.state = stream.state
            outputs.append(y)
        room = np.empty_like(self.dy[:1])
        for x in self.x[12:]:
            outputs.append(stream.step(x, out=room[0]).copy())
        state = stream.state
        stream.reset()
        return outputs, state, stream.state


class Linear(Call):
    """The read-out, forward and backward."""

    def make(self):
        self.dtype = self.draw([np.float32, np.float64])
        large = self.seed % 8 == 0
        rows, inputs, outputs = (700, 300, 120) if large else map(self.draw, ([0, 1, 5, 300], [1, 3, 33], [1, 2, 17]))
        self.sizes = rows, inputs, outputs
        self.linear = train.Linear(inputs, outputs, bias=self.seed % 3 > 0, dtype=self.dtype, seed=self.seed)
        self.x, self.dy = self.normal(rows, inputs), self.normal(rows, outputs)

    def run(self):
        return self.linear(self.x), self.linear.backward(self.x, self.dy)


class Fit(Call):
    """A small fit of an estimator, and what it answers."""

    def make(self):
        self.sequences = [self.rng.normal(size=(steps, 3)) for steps in self.rng.integers(2, 12, 20)]
        self.labels = self.rng.integers(0, 3, 20)
        self.wave = np.sin(np.arange(70) / 3) + 0.1 * self.rng.normal(size=70)

    def run(self):
        options = {"epochs": 2, "hidden_size": 6 + self.seed % 7, "random_state": self.seed}
        match self.seed % 4:
            case 0:
                model = LSTMClassifier(**options, bidirectional=True, num_layers=2, dropout=0.1)
                return model.fit(self.sequences, self.labels).predict_proba(self.sequences)
            case 1:
                model = LSTMRegressor(**options, dtype="float64").fit(self.sequences, self.labels)
                return pickle.loads(pickle.dumps(model)).predict(self.sequences)
            case 2:
                return LSTMForecaster(3, window=12, **options).fit(self.wave).predict()
        return LSTMAutoencoder(window=10, **options).fit(self.wave).score_samples(self.wave)


class Steps(Call):
    """Some steps of training with an optimizer."""

    def make(self):
        self.dtype = np.float32
        self.layer = lstm_rs.LSTM(3, 5 + self.seed % 30, seed=self.seed)
        self.sizes = self.layer.hidden_size
        self.x = self.normal(9, 4, 3)

    def run(self):
        layer = copy.copy(self.layer)
        optimizer = (train.Adam, train.SGD)[self.seed % 2](layer, 0.01)
        for _ in range(3):
            y, _, tape = layer.forward_train(self.x)
            grads = layer.backward(tape, dy=y).weights
            train.clip_grad_norm(grads, 1.0)
            optimizer.step(grads)
        return layer.state_dict()


# By name: the order is part of what a call is made of.
KINDS = ["forward", "backward", "layer", "stream", "linear", "copied", "saved", "edited", "fit", "steps"]
CLASSES = dict(zip(KINDS, [Forward, Backward, Layer, Stream, Linear, Copied, Saved, Edited, Fit, Steps], strict=True))
COUNTS = dict(zip(KINDS, [70, 70, 50, 30, 20, 20, 10, 20, 8, 10], strict=True))


def make(kind, seed):
    """The call of that kind and seed."""
    return CLASSES[kind](kind, seed)


def make_pool(seed, tell):
    """Calls of all kinds, and which gave other bits on another instruction set or other threads."""
    isas, before = lstm_rs.available_isas(), lstm_rs._core.isa()
    calls, wrong = [make(kind, seed + k) for kind, count in COUNTS.items() for k in range(count)], []
    for k, call in enumerate(calls):
        if k % 20 == 0:
            tell()
        with lstm_rs.num_threads(1):
            call.expected = call.digest()
        # On scalar code the large ones would take the time of all others.
        names = isas[1:] or isas if getattr(call, "large", False) else isas
        lstm_rs._core.set_isa(names[k % len(names)])
        with lstm_rs.num_threads(2 + k % 3):
            if call.digest() != call.expected:
                wrong.append(repr(call))
        lstm_rs._core.set_isa(before)
    return calls, wrong
