"""A program that keeps layers, tapes and streams for long, as a state machine that Hypothesis drives.

Beside each layer stands what its weights have to be, as arrays that no layer has ever seen the inside of. What the
layer answers is held against a layer made anew of those arrays, to the bit, and that one against the reference:
whatever has been done to the layer before, to its copies, to its streams, to the threads or to the instruction set
must not show. Streams are held, step by step, against the weights and the state that they should have, and tapes
against the gradients that they had to give when they were made.

It does not drop anything out: two generators in the same state are test_layer_copies.py's. It has one thread at a time:
several are test_free_threading.py's. Arrays that a tape refers to are left as they are, as its documentation asks.
"""

import copy
import os
import pickle
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext

import lstm_rs
import numpy as np
import pytest
from conftest import ISAS
from held import HAS_FILES, SIZES, Held, Kept, Running, finite, gradients, scaled, spoil, truth, wrong_calls
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lstm_rs import LSTM, State, _core
from oracle import CELLS, assert_same_bits, make_state
from stacked import Run, answers, make_layer, make_run, same

SEEDS = st.integers(0, 2**32 - 1)
# Which of several things of a kind, however many there are.
PLACES = st.integers(0, 11)


def through_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


class LongLived(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.layers, self.tapes, self.streams = [], [], []
        self.cleanup = ExitStack()
        self.folder = self.cleanup.enter_context(tempfile.TemporaryDirectory())
        self.cleanup.callback(lstm_rs.set_num_threads, lstm_rs.get_num_threads())
        self.cleanup.callback(_core.set_isa, _core.isa())
        self.threads, self.own = lstm_rs.get_num_threads(), None

    def teardown(self):
        self.cleanup.close()

    def held(self, k):
        return self.layers[k % len(self.layers)]

    @contextmanager
    def block(self):
        """As many threads as the program wants at this moment."""
        with nullcontext() if self.own is None else lstm_rs.num_threads(self.own):
            yield

    # ----------------------------- layers

    @initialize(seed=SEEDS)
    def first(self, seed):
        """One of each, so that there is something to go on with."""
        options = {"input_size": 3, "hidden_size": 5, "num_layers": 2, "bias": True, "bidirectional": False}
        options |= {"batch_first": False, "proj_size": 0, "cell": CELLS["gers_1999"], "dtype": np.dtype(np.float32)}
        self.make(seed, options)
        self.record(0, seed)
        self.start(0, 1)

    def make(self, seed, options):
        layer = make_layer(np.random.default_rng(seed), **options)
        note(repr(layer))
        self.layers.append(Held(layer, options, layer.state_dict()))

    @precondition(lambda self: len(self.layers) < 5)
    @rule(
        seed=SEEDS,
        sizes=st.sampled_from(SIZES),
        num_layers=st.integers(1, 3),
        flags=st.integers(0, 7),
        projected=st.sampled_from([0, 0, 1, 4]),
        cell=st.sampled_from(sorted(CELLS)),
        dtype=st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)]),
    )
    def another(self, seed, sizes, num_layers, flags, projected, cell, dtype):
        options = dict(zip(("input_size", "hidden_size"), sizes, strict=True))
        options |= {name: bool(flags >> k & 1) for k, name in enumerate(("batch_first", "bidirectional"))}
        options |= {"bias": flags < 4, "num_layers": num_layers, "proj_size": min(projected, sizes[1] - 1)}
        self.make(seed, options | {"cell": CELLS[cell], "dtype": dtype})

    @precondition(lambda self: len(self.layers) > 2)
    @rule(k=PLACES)
    def forget(self, k):
        """Its tapes and streams stay, and the layers that were made of it."""
        self.layers.pop(k % len(self.layers))

    @precondition(lambda self: len(self.layers) < 5)
    @rule(k=PLACES, how=st.sampled_from(["copy", "deepcopy", "pickle", *["file", "file"] * HAS_FILES]))
    def copied(self, k, how):
        held = self.held(k)
        path = os.path.join(self.folder, "layer.safetensors")
        if how == "file" and not finite(held.arrays):
            with pytest.raises(ValueError, match="NaN or infinite"):
                held.layer.save(path)
            assert not os.path.exists(path)
            return
        if how == "file":
            held.layer.save(path)
            layer = LSTM.load(path)
            os.unlink(path)
        else:
            layer = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": through_pickle}[how](held.layer)
        self.layers.append(held.like(layer))

    # ----------------------------- weights

    @rule(k=PLACES, seed=SEEDS, how=st.sampled_from(["as they are", "float64", "float32", "two biases"]))
    def load(self, k, seed, how):
        held = self.held(k)
        dtype, arrays = held.layer.dtype, held.drawn(seed)
        given = dict(arrays)
        if how == "two biases":
            rng = np.random.default_rng(seed)
            for name in [name for name in arrays if name.startswith("bias")]:
                other = rng.normal(size=arrays[name].shape).astype(dtype)
                given |= {name.replace("bias", "bias_ih"): given.pop(name), name.replace("bias", "bias_hh"): other}
                arrays[name] = (arrays[name].astype(np.float64) + other).astype(dtype)
        elif how != "as they are":
            given = {name: array.astype(how) for name, array in arrays.items()}
            arrays = {name: array.astype(dtype) for name, array in given.items()}
        given = {name: array.copy() for name, array in given.items()}
        held.layer.load_state_dict(given)
        held.arrays = arrays
        spoil(given.values())

    @rule(k=PLACES, seed=SEEDS, j=PLACES, layout=st.sampled_from(["C", "F", "A, swapped", "C, nan"]))
    def assign(self, k, seed, j, layout):
        held = self.held(k)
        name = list(held.arrays)[j % len(held.arrays)]
        array = held.drawn(seed)[name]
        if "nan" in layout and array.size:
            array.flat[j % array.size] = np.nan
        given = np.array(array, array.dtype.newbyteorder("S" if "swapped" in layout else "="), order=layout[0])
        held.layer.weights[name] = given
        held.arrays[name] = array
        spoil([given])

    @rule(
        k=PLACES,
        seed=SEEDS,
        which=st.integers(1, 2**20 - 1),
        place=st.booleans(),
        end=st.sampled_from(["", "", "raises", "others"]),
    )
    def edit(self, k, seed, which, place, end):
        """Some of the weights, in place or not; an edit that fails, or that others came before, changes nothing."""
        held, expected = self.held(k), {"": None, "raises": ZeroDivisionError, "others": RuntimeError}[end]
        drawn = held.drawn(seed)
        names = [name for k, name in enumerate(drawn) if which >> k & 1]
        with nullcontext() if expected is None else pytest.raises(expected), held.layer.edit() as w:
            for name in names:
                if place:
                    w[name][...] = drawn[name]
                else:
                    w[name] = drawn[name]
            if end == "raises":
                raise ZeroDivisionError
            if end == "others":
                first = next(iter(drawn))
                held.layer.weights[first] = held.arrays[first] = drawn[first]
        if expected is None:
            held.arrays |= {name: drawn[name].copy() for name in names}
        spoil(w.values())

    @rule(k=PLACES, seed=SEEDS, rate=st.sampled_from([1e-3, 1e-2]))
    def step_of_training(self, k, seed, rate):
        """By the gradients of the layer, and beside it by those of one made anew."""
        held = self.held(k)
        run = held.run(seed)
        wanted = truth(held, run)
        with self.block():
            _, _, tape = held.layer.forward_train(run.x, run.state, run.lengths)
            grads = held.layer.backward(tape, run.dy, run.dstate, need_dx=False)
            with held.layer.edit() as w:
                for name, gradient in grads.weights.items():
                    w[name] -= scaled(gradient, rate)
        held.arrays = {name: array - scaled(wanted[f"d_{name}"], rate) for name, array in held.arrays.items()}

    # ----------------------------- calls

    @rule(seed=SEEDS)
    def look_at_all(self, seed):
        """A call of every layer, the gradients of every tape, and a step of every stream."""
        for k in range(len(self.layers)):
            self.call(k, seed, True)
        for k in range(len(self.tapes)):
            self.backward(k, None)
        for running in self.streams:
            self.one_step(running, np.random.default_rng(seed))

    @rule(k=PLACES, seed=SEEDS, back=st.booleans())
    def call(self, k, seed, back):
        held = self.held(k)
        run = held.run(seed)
        wanted = truth(held, run)
        with self.block():
            y, final = held.layer(run.x, run.state, run.lengths)
            if back:
                same(answers(run)[0], wanted)
        same({"y": y, "h": final.h, "c": final.c}, {name: wanted[name] for name in "yhc"})

    @precondition(lambda self: len(self.tapes) < 6)
    @rule(k=PLACES, seed=SEEDS)
    def record(self, k, seed):
        held = self.held(k)
        run = held.run(seed)
        with self.block():
            y, final, tape = held.layer.forward_train(run.x, run.state, run.lengths)
        wanted = truth(held, run)
        same({"y": y, "h": final.h, "c": final.c}, {name: wanted[name] for name in "yhc"})
        wanted = {name: array for name, array in wanted.items() if name.startswith("d_")}
        self.tapes.append(Kept(tape, run, held.options, wanted))

    @rule(j=PLACES, k=PLACES | st.none(), how=st.sampled_from([None, copy.deepcopy, through_pickle]))
    def backward(self, j, k, how=None):
        """The gradients of the weights of then, whatever has become of the layer; by another one if it is alike."""
        kept = self.tapes[j % len(self.tapes)]
        layer = kept.run.layer
        if how is not None:
            kept.tape = how(kept.tape)
        if k is not None:
            held = self.held(k)
            if held.options == kept.options:
                layer = held.layer
            elif held.options["hidden_size"] != kept.options["hidden_size"]:
                with pytest.raises(ValueError, match=r"^tape: expected one of LSTM"):
                    held.layer.backward(kept.tape, kept.run.dy)
        with self.block():
            same(gradients(layer, kept.tape, kept.run), kept.wanted)

    @rule(k=PLACES, seed=SEEDS)
    def refused(self, k, seed):
        layer = self.held(k).layer
        for call, error in wrong_calls(layer, make_run(layer, np.random.default_rng(seed), 3, 2)).values():
            with pytest.raises(error), self.block():
                call()

    # ----------------------------- streams

    @precondition(lambda self: len(self.streams) < 6)
    @rule(k=PLACES, batch=st.integers(1, 3))
    def start(self, k, batch):
        held = self.held(k)
        if held.options["bidirectional"]:
            with pytest.raises(ValueError, match=r"^stream: a bidirectional layer"):
                held.layer.stream(batch)
        else:
            self.streams.append(Running(held.layer.stream(batch), held, batch))

    @rule(j=PLACES, seed=SEEDS, out=st.booleans(), count=st.integers(1, 3))
    def step(self, j, seed, out, count):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            self.one_step(self.streams[j % len(self.streams)], rng, out)

    def one_step(self, running, rng, out=False):
        options, batch = running.taken.options, running.batch
        width = options["proj_size"] or options["hidden_size"]
        x = rng.normal(size=(batch, options["input_size"])).astype(options["dtype"])
        run = Run(None, x[:, None] if options["batch_first"] else x[None], running.state)
        run.dy = np.zeros((*run.x.shape[:2], width), options["dtype"])
        wanted = truth(running.taken, run)
        y = np.full((batch, width), np.nan, options["dtype"]) if out else None
        with self.block():
            y = running.stream.step(x, y)
        assert_same_bits(y, wanted["y"].reshape(y.shape), "y_t")
        running.state = State(wanted["h"], wanted["c"])

    @rule(j=PLACES, seed=SEEDS, what=st.sampled_from(["reset", "set the state", "wrong"]))
    def turn(self, j, seed, what):
        """A stream somewhere else; or nowhere, where what is asked of it is wrong."""
        running = self.streams[j % len(self.streams)]
        stream, options, batch = running.stream, running.taken.options, running.batch
        if what == "reset":
            stream.reset()
            running.reset()
        elif what == "set the state":
            rng, out = np.random.default_rng(seed), options["proj_size"] or None
            parts = [make_state(rng, batch, options["hidden_size"], out, options["dtype"]) for _ in running.state.h]
            given = State(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
            running.state = State(*(array.copy() for array in given))
            stream.state = given
            spoil(given)
        else:
            with pytest.raises(ValueError, match=r"^x_t: expected shape"):
                stream.step(np.zeros((batch + 1, options["input_size"]), options["dtype"]))
            with pytest.raises(TypeError, match=r"^x_t: expected float"):
                stream.step(np.zeros((batch, options["input_size"]), np.float16))
            with pytest.raises(ValueError, match=r"^state.c: expected shape"):
                stream.state = State(running.state.h + 1, running.state.c[:0])

    # ----------------------------- threads and instruction sets

    @rule(isa=st.sampled_from(ISAS), n=st.integers(1, 4), own=st.none() | st.integers(1, 4))
    def set_up(self, isa, n, own):
        _core.set_isa(isa)
        lstm_rs.set_num_threads(n)
        self.threads, self.own = n, own

    # ----------------------------- always

    @invariant()
    def the_weights_are_what_they_should_be(self):
        for held in self.layers:
            given = held.layer.state_dict()
            same(given, held.arrays)
            same(dict(held.layer.weights), held.arrays)
            spoil(given.values())

    @invariant()
    def the_states_are_what_they_should_be(self):
        for running in self.streams:
            state = running.stream.state
            for part, wanted in zip(state, running.state, strict=True):
                assert_same_bits(part, wanted, "state")
            spoil(state)

    @invariant()
    def the_threads_are_those_that_were_set(self):
        assert lstm_rs.get_num_threads() == self.threads
        with self.block():
            assert lstm_rs.get_num_threads() == (self.own or self.threads)
