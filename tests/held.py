"""What a program that lives long holds, for `long_lived.LongLived`: each thing beside what it should be."""

from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import lstm_rs
import numpy as np
from conftest import ISAS, using
from lstm_rs import LSTM, State, _core
from stacked import Run, answers, check, make_layer, make_run

HAS_FILES = find_spec("safetensors") is not None

# Around lanes, and one wide enough for its calls to be shared out among threads.
SIZES = [(0, 1), (1, 2), (3, 5), (4, 8), (5, 9), (2, 17), (12, 64)]
WIDE = 64


@dataclass
class Held:
    """A layer, what it was made with, and what its weights should be."""

    layer: LSTM
    options: dict
    arrays: dict

    def fresh(self):
        """A layer that has never had other weights."""
        layer = LSTM(**self.options)
        layer.load_state_dict(self.arrays)
        return layer

    def drawn(self, seed):
        """Other weights for it."""
        return make_layer(np.random.default_rng(seed), **self.options).state_dict()

    def like(self, layer):
        """Another layer of the same weights."""
        return Held(layer, self.options, {name: array.copy() for name, array in self.arrays.items()})

    def run(self, seed):
        """A call of any shape."""
        rng = np.random.default_rng(seed)
        if self.options["hidden_size"] == WIDE:
            steps, batch = int(rng.integers(3, 7)), int(rng.integers(6, 10))
        else:
            steps, batch = int(rng.integers(0, 6)), [None, 0, 1, 2, 3, 4][rng.integers(6)]
        return make_run(self.layer, rng, steps, batch, *(bool(rng.integers(2)) for _ in range(2)))


@dataclass
class Kept:
    """A tape, the call it is of, and what a pass backward over it gives."""

    tape: Any
    run: Run
    options: dict
    wanted: dict


class Running:
    """A stream, the layer it is of, and the weights and the state that it should have."""

    def __init__(self, stream, of, batch):
        self.stream, self.of, self.batch = stream, of, batch
        self.reset()

    def reset(self):
        self.taken = self.of.like(None)
        options = self.taken.options
        widths = options["proj_size"] or options["hidden_size"], options["hidden_size"]
        shapes = ((options["num_layers"], self.batch, width) for width in widths)
        self.state = State(*(np.zeros(shape, options["dtype"]) for shape in shapes))


@contextmanager
def plainly(wide):
    """Alone on one thread, and on the plainest instruction set, but for what would take too long there."""
    with using(ISAS[min(1, len(ISAS) - 1)] if wide else ISAS[0]), lstm_rs.num_threads(1):
        yield


def truth(held, run):
    """What a layer made anew answers; within the tolerance it is what the reference answers."""
    with plainly(held.options["hidden_size"] == WIDE):
        fresh = Run(**{**vars(run), "layer": held.fresh()})
        if finite(held.arrays):
            check(fresh)
        return answers(fresh)[0]


def finite(arrays):
    return all(np.isfinite(array).all() for array in arrays.values())


def spoil(arrays):
    """Write over arrays that a layer has been given, or has given: they are not its own."""
    for array in arrays:
        array[...] = np.nan


def gradients(layer, tape, run):
    grads = layer.backward(tape, run.dy, run.dstate, need_dx=run.need_dx)
    given = {f"d_{name}": array for name, array in grads.weights.items()} | {"d_x": grads.x}
    return given | {"d_h": grads.state.h, "d_c": grads.state.c}


def scaled(gradient, rate):
    """A step that moves no weight by more than `rate`: gates that saturate would hide what is wrong."""
    largest = np.abs(gradient).max(initial=0.0)
    return gradient * gradient.dtype.type(rate / max(float(largest), 1.0))


# ----------------------------- what is refused, and has to leave everything as it is


def wrong_calls(layer, run):
    """Calls that cannot be, each with the error that it gives."""
    x, other = run.x, np.float64 if layer.dtype == np.float32 else np.float32
    name, array = next(iter(layer.weights.items()))
    tape = layer.forward_train(run.x, run.state, run.lengths)[2]
    stranger = LSTM(layer.input_size + 1, layer.hidden_size, layer.num_layers, dtype=layer.dtype)
    return {
        "x of another width": (lambda: layer(np.ones((*x.shape[:-1], x.shape[-1] + 1), x.dtype)), ValueError),
        "x of another dtype": (lambda: layer.forward_train(x.astype(other)), TypeError),
        "x None": (lambda: layer(None), TypeError),
        "a state of one": (lambda: layer(x, (np.zeros(1, x.dtype),)), TypeError),
        "a state of another shape": (lambda: layer(x, (np.zeros(1, x.dtype),) * 2), ValueError),
        "lengths of floats": (lambda: layer(x, lengths=[0.5]), TypeError),
        "lengths too long": (lambda: layer(x, lengths=np.full(x.shape[1:2], 99)), ValueError),
        "dy of another shape": (lambda: layer.backward(tape, run.dy[..., :0]), ValueError),
        "dy of another dtype": (lambda: layer.backward(tape, run.dy.astype(other)), TypeError),
        "no tape": (lambda: layer.backward(None), TypeError),
        "a stranger's tape": (lambda: stranger.backward(tape), ValueError),
        "a weight of no name": (lambda: layer.weights.__setitem__("no", array), KeyError),
        "a weight of another shape": (lambda: layer.weights.__setitem__(name, array[1:]), ValueError),
        "a weight of another dtype": (lambda: layer.weights.__setitem__(name, array.astype(other)), TypeError),
        "a weight in place": (lambda: layer.weights[name].__setitem__(..., 0), ValueError),
        "a name too many": (lambda: layer.load_state_dict(layer.state_dict() | {"no": array}), KeyError),
        "a name too few": (lambda: layer.load_state_dict({}), KeyError),
        "the last of a wrong shape": (lambda: layer.load_state_dict(_last_is_wrong(layer)), ValueError),
        "another size": (lambda: setattr(layer, "hidden_size", 3), AttributeError),
        "no number of threads": (lambda: lstm_rs.set_num_threads(0), ValueError),
        "no instruction set": (lambda: _core.set_isa("mmx"), ValueError),
    }  # fmt: skip


def _last_is_wrong(layer):
    """Weights that are all new, and of which the last does not fit."""
    arrays = {name: array + 1 for name, array in layer.state_dict().items()}
    last = list(arrays)[-1]
    return arrays | {last: arrays[last][None]}
