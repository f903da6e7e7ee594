"""Weights that change, and streams, while sixteen Python threads use them; with the GIL, and on a Python without one.

What is promised, and held here to the bit: a call, a tape, a stream and a copy are of the weights of one moment, whole.
An edit is taken as a whole, or refused where others were faster; no assignment is lost. A stream belongs to one thread
at a time: others are refused in words, and its state is that of the steps one after the other.

    LSTM_RS_RACE_SECONDS=60 pytest tests/test_free_threading*    # races for a minute each, instead of a second
"""

import copy
import pickle
import threading
import time

import numpy as np
import pytest
from at_once import MANY, RACE, at_once, many, switching
from held import HAS_FILES
from lstm_rs import LSTM, CellSpec, State, train
from oracle import assert_same_bits
from stacked import FULL, Run, answers, make_layer, make_run, same


@pytest.fixture(autouse=True)
def _switching():
    with switching():
        yield


class Versions:
    """A layer that is trained from version to version, round and round, and what is known of each."""

    def __init__(self, layer, drawn, ask):
        self.layer, self.arrays, self.known = layer, [drawn(k) for k in range(7)], {}
        for k, arrays in enumerate(self.arrays):
            layer.load_state_dict(arrays)
            self.known[self.of(ask())] = self.known[self.of(arrays)] = k
        assert len(self.known) == 2 * len(self.arrays)
        layer.load_state_dict(self.arrays[0])
        # Steps that have begun, and that have come to their end.
        self.begun = self.ended = 0
        self.done, self.looks = threading.Event(), [0] * MANY

    @staticmethod
    def of(arrays):
        return tuple(array.tobytes() for array in arrays.values())

    def step(self):
        """By each way to new weights in turn."""
        self.begun += 1
        arrays = self.arrays[self.begun % len(self.arrays)]
        if self.begun % 3 == 0:
            self.layer.load_state_dict(arrays)
        else:
            with self.layer.edit() as w:
                for name, array in arrays.items():
                    if self.begun % 3 == 1:
                        w[name] = array
                    else:
                        w[name][...] = array
        self.ended += 1

    def learn(self):
        start = time.monotonic()
        # Where there is little time, until all have looked.
        while not self.done.is_set() and (time.monotonic() < start + RACE or min(self.looks[1:]) < 2):
            self.step()
        self.done.set()

    def look(self, k, way):
        """Whatever `way` finds is of one version, which was there between its call and its answer."""
        try:
            while not self.done.is_set():
                first = self.ended
                version = self.known.get(self.of(way(k)))
                steps = range(first, self.begun + 1)
                assert version is not None, "of no version"
                assert any(step % len(self.arrays) == version for step in steps), (version, steps)
                self.looks[k] += 1
        finally:
            self.done.set()

    def run(self, ways):
        """One thread learns, the others look, each in one way."""
        lookers = (lambda k=k: self.look(k, ways[k % len(ways)]) for k in range(1, MANY))
        at_once(self.learn, *lookers)
        assert min(self.looks[1:]) >= 2 and self.ended > len(self.arrays)


def test_one_trains_while_others_look(tmp_path):
    """Each answer, each copy and each file is of one version of the weights, and of none that has gone before."""
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 16, 64, 2, **FULL)
    run = make_run(layer, rng, 4, 3)

    def drawn(k):
        return make_layer(np.random.default_rng(k), 16, 64, 2, **FULL).state_dict()

    def through_file(k):
        path = tmp_path / f"{k}.safetensors"
        layer.save(path)
        return LSTM.load(path).state_dict()

    ways = [
        lambda k: answers(run)[0],
        lambda k: pickle.loads(pickle.dumps(layer)).state_dict(),
        lambda k: answers(run)[0],
        lambda k: copy.deepcopy(layer).state_dict(),
        lambda k: answers(Run(**{**vars(run), "layer": copy.copy(layer)}))[0],
        lambda k: layer.state_dict(),
        *[through_file] * HAS_FILES,
    ]
    Versions(layer, drawn, lambda: answers(run)[0]).run(ways)


def test_a_stream_is_of_one_version_too():
    layer = make_layer(np.random.default_rng(0), 8, 32, 2)
    x = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    streams = [layer.stream() for _ in range(MANY)]

    def steps(k):
        streams[k].reset()
        return {"y": np.stack([streams[k].step(x_t) for x_t in x])}

    def drawn(k):
        return make_layer(np.random.default_rng(k), 8, 32, 2).state_dict()

    Versions(layer, drawn, lambda: {"y": layer(x)[0]}).run([steps, lambda k: {"y": layer(x)[0]}])


def test_edits_at_once_lose_nothing():
    """Who was not first is told so, and edits again: all have been counted in the end."""
    layer = LSTM(2, 3, seed=0)
    layer.weights["bias_l0"] = np.zeros(12, np.float32)

    def count_up(k):
        refused = 0
        for _ in range(10):
            while True:
                try:
                    with layer.edit() as w:
                        w["bias_l0"] += 1
                        time.sleep(0)
                    break
                except RuntimeError as error:
                    assert str(error) == "edit: the weights were changed by others meanwhile; edit them again"
                    refused += 1
        return refused

    refused = sum(many(count_up))
    assert set(layer.weights["bias_l0"]) == {10.0 * MANY}
    assert refused > 0, "they have not come at once"


def test_assignments_at_once_lose_nothing():
    layer = LSTM(2, 3, 4, bidirectional=True, cell=CellSpec.peephole_lstm(), seed=0)
    names = list(layer.weights)
    assert len(names) >= MANY
    wanted = {name: np.full_like(layer.weights[name], k) for k, name in enumerate(names)}

    def assign(k):
        for name in names[k::MANY]:
            layer.weights[name] = wanted[name]

    many(assign)
    same(layer.state_dict(), wanted)
    x = np.ones((4, 2, 2), np.float32)
    fresh = LSTM(2, 3, 4, bidirectional=True, cell=CellSpec.peephole_lstm())
    fresh.load_state_dict(wanted)
    assert_same_bits(layer(x)[0], fresh(x)[0])


def test_a_read_out_is_of_one_version():
    linear, x = train.Linear(6, 4, seed=0), np.ones((3, 6), np.float32)
    versions = [train.Linear(6, 4, seed=k).state_dict() for k in range(3)]
    known, done = set(), threading.Event()
    for arrays in versions:
        linear.load_state_dict(arrays)
        known.add(linear(x).tobytes())

    def learn():
        try:
            for k in range(1000):
                linear.load_state_dict(versions[k % 3])
        finally:
            done.set()

    def look(k):
        while not done.is_set():
            assert linear(x).tobytes() in known

    at_once(learn, *(lambda k=k: look(k) for k in range(1, MANY)))


# ----------------------------- streams


@pytest.mark.parametrize("size", [7, 200], ids=["short", "long"])
def test_a_stream_that_many_use(size):
    """Refused in words, or a step of its own: together they are the steps of one thread, one after the other."""
    # A state that never comes to rest, so that no two steps are alike.
    cell = CellSpec(forget_gate=False, output_activation="identity")
    layer = make_layer(np.random.default_rng(0), 4, size, 3, cell=cell, dtype=np.float64)
    x, each = np.random.default_rng(1).normal(size=4), 8
    serial = layer.stream()
    steps, states = [], {0: serial.state}
    for k in range(MANY * each):
        steps.append(serial.step(x).tobytes())
        states[k + 1] = serial.state
    assert len(set(steps)) == len(steps)
    known = {(state.h.tobytes(), state.c.tobytes()) for state in states.values()}
    shared = layer.stream()

    def use(k):
        mine, refused = [], 0
        for _ in range(each):
            try:
                if k % 4 == 3:
                    h, c = shared.state
                    assert (h.tobytes(), c.tobytes()) in known
                else:
                    mine.append(shared.step(x).tobytes())
            except RuntimeError as error:
                assert str(error).startswith("stream: a step is under way; a stream belongs to one thread at a time")
                refused += 1
        return mine, refused

    found = many(use)
    made_of = sorted(steps.index(step) for mine, _ in found for step in mine)
    assert made_of == list(range(len(made_of))) and made_of, "each step once, and none is left out"
    for mine, _ in found:
        order = [steps.index(step) for step in mine]
        assert order == sorted(order)
    for part, wanted in zip(shared.state, states[len(made_of)], strict=True):
        assert_same_bits(part, wanted)


def test_a_stream_that_is_reset_and_set_by_others():
    """The state is at any time one that it can have come to."""
    layer = make_layer(np.random.default_rng(0), 4, 100, 2)
    x = np.random.default_rng(1).normal(size=4).astype(np.float32)
    serial, known, steps = layer.stream(), set(), set()
    for _ in range(MANY * 50 + 1):
        known.add(tuple(part.tobytes() for part in serial.state))
        steps.add(serial.step(x).tobytes())
    start = State(*(np.zeros_like(part) for part in serial.state))
    shared = layer.stream()

    def use(k):
        for _ in range(50):
            try:
                if k % 4 == 0:
                    shared.reset()
                elif k % 4 == 1:
                    shared.state = start
                elif k % 4 == 2:
                    assert tuple(part.tobytes() for part in shared.state) in known
                else:
                    assert shared.step(x).tobytes() in steps
            except RuntimeError as error:
                assert str(error).startswith("stream: a step is under way")

    many(use)
    assert tuple(part.tobytes() for part in shared.state) in known
