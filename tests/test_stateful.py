"""Layers that live long: `long_lived.LongLived`, and mistakes that it has to find.

LSTM_RS_STATEFUL_EXAMPLES=2000 pytest tests/test_stateful.py    # a longer run, of programs drawn at random
"""

import os

import lstm_rs
import numpy as np
import pytest
from conftest import ISAS
from held import HAS_FILES
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from long_lived import LongLived
from lstm_rs import LSTM, Stream, _core, _files, _parameters
from lstm_rs._parameters import Snapshot, Store

EXAMPLES = int(os.environ.get("LSTM_RS_STATEFUL_EXAMPLES", "50"))

TestLongLived = LongLived.TestCase
TestLongLived.settings = settings(max_examples=EXAMPLES, stateful_step_count=30)


def test_files_are_part_of_it():
    pytest.importorskip("safetensors", reason="safetensors is not installed: no layer was saved and loaded")
    assert HAS_FILES


# ----------------------------- mistakes


def stale_forward(patch):
    """An assignment that leaves the packed weights as they were."""

    def assign(self, arrays):
        before = self.snapshot
        self.snapshot = Snapshot(self.layout, arrays, like=before)
        self.snapshot.layers = before.layers

    patch.setattr(Store, "assign", assign)


def stale_backward(patch):
    """The same of those that a pass backward reads."""
    init = Snapshot.__init__

    def made(self, layout, arrays, like=None):
        init(self, layout, arrays, like)
        if like is not None:
            self._backward = list(like._backward)

    patch.setattr(Snapshot, "__init__", made)


def one_part_is_not_packed(patch):
    """Of the last part alone."""
    init = Snapshot.__init__

    def made(self, layout, arrays, like=None):
        init(self, layout, arrays, like)
        if like is not None and len(self.forward) > 1:
            self.forward[-1] = like.forward[-1]
            self.layers = _core.Layers(self.forward, layout.directions, layout.batch_first)

    patch.setattr(Snapshot, "__init__", made)


def gates_exchanged(patch):
    """The recurrence of the first gate in the place of the second's: a layer made anew has it, too."""

    class Exchanged:
        def __getattr__(self, name):
            return getattr(_core, name)

        @staticmethod
        def Forward(cell, w_ih, w_hh, *rest):
            first, second, *others = np.split(w_hh, len(cell.gates)) if len(cell.gates) > 1 else (w_hh, w_hh[:0])
            return _core.Forward(cell, w_ih, np.concatenate([second, first, *others]), *rest)

    patch.setattr(_parameters, "_core", Exchanged())


def a_copy_shares(patch):
    def copied(self):
        other = LSTM.__new__(LSTM)
        other.__dict__.update(self.__dict__)
        return other

    patch.setattr(LSTM, "__copy__", copied, raising=False)


def a_pickle_is_of_the_first_weights(patch):
    init = Store.__init__

    def made(self, layout, arrays):
        init(self, layout, arrays)
        self.first = self.snapshot

    def state(self):
        return self.__dict__ | {"_store": dict(self._store.first.arrays)}

    patch.setattr(Store, "__init__", made)
    patch.setattr(LSTM, "__getstate__", state)


def what_is_assigned_is_not_copied(patch):
    patch.setattr(_parameters, "_frozen", lambda array: array)


def an_edit_that_fails_is_taken(patch):
    edit = Store.edit

    class Taken:
        def __init__(self, store):
            self.edit = edit(store)

        def __enter__(self):
            return self.edit.__enter__()

        def __exit__(self, *_):
            return self.edit.__exit__(None, None, None) or False

    patch.setattr(LSTM, "edit", lambda self: Taken(self._store))


def an_edit_overwrites_what_others_did(patch):
    class Blind:
        def __init__(self, store):
            self.store = store

        def __enter__(self):
            self.arrays = {name: array.copy() for name, array in self.store.snapshot.arrays.items()}
            return self.arrays

        def __exit__(self, error, *_):
            if error is None:
                self.store.assign(self.arrays)

    patch.setattr(LSTM, "edit", lambda self: Blind(self._store))


def what_is_refused_is_taken_by_halves(patch):
    whole = LSTM.load_state_dict

    def load(self, arrays):
        if arrays.keys() != self.weights.keys():
            return whole(self, arrays)
        for name, array in arrays.items():
            self.weights[name] = array.astype(self.dtype)

    patch.setattr(LSTM, "load_state_dict", load)


def one_bias_of_two(patch):
    load = LSTM.load_state_dict

    def loaded(self, arrays):
        load(self, {name: array * (not name.startswith("bias_hh")) for name, array in arrays.items()})

    patch.setattr(LSTM, "load_state_dict", loaded)


def a_tape_follows_the_weights(patch):
    backward = LSTM.backward

    def newest(self, tape, *args, **options):
        if isinstance(tape, lstm_rs.LSTMTape):
            tape = lstm_rs.LSTMTape._of(self._store.snapshot, *tape._recorded[1:])
        return backward(self, tape, *args, **options)

    patch.setattr(LSTM, "backward", newest)


def a_stream_keeps_old_weights(patch):
    def reset(self):
        self._snapshot = getattr(self, "_snapshot", self._store.snapshot)
        self._stream = _core.Stream(self._snapshot.layers, self._batch_size)

    patch.setattr(Stream, "reset", reset)


def a_stream_follows_the_weights(patch):
    step = Stream.step

    def newest(self, *args):
        state = self.state
        self.reset()
        self.state = state
        return step(self, *args)

    patch.setattr(Stream, "step", newest)


def streams_share_a_state(patch):
    init = Stream.__init__

    def made(self, store, batch_size):
        init(self, store, batch_size)
        shared = store.__dict__.setdefault("streams", {})
        self._stream = shared.setdefault(batch_size, self._stream)

    patch.setattr(Stream, "__init__", made)


def a_step_that_is_refused_moves(patch):
    step = Stream.step

    def moves(self, x_t, out=None):
        try:
            return step(self, x_t, out)
        except ValueError:
            self._stream.step(np.ones_like(x_t[1:]))
            raise

    patch.setattr(Stream, "step", moves)


def changed(name, when):
    """A call that answers with the last bit of one number changed."""

    def mistake(patch):
        run = getattr(LSTM, name)

        def wrong(self, *args, **options):
            y, *rest = run(self, *args, **options)
            if when() and y.size:
                y.flat[-1] = np.nextafter(y.flat[-1], y.dtype.type(9))
            return y, *rest

        patch.setattr(LSTM, name, wrong)

    return mistake


def a_file_rounds(patch):
    write = _files.write

    def rounded(path, options, arrays, metadata):
        halves = {name: array.astype(np.float16).astype(array.dtype) for name, array in arrays.items()}
        write(path, options, halves, metadata)

    patch.setattr(_files, "write", rounded)


MISTAKES = {
    mistake.__name__: mistake
    for mistake in (
        stale_forward,
        stale_backward,
        one_part_is_not_packed,
        gates_exchanged,
        a_copy_shares,
        a_pickle_is_of_the_first_weights,
        what_is_assigned_is_not_copied,
        an_edit_that_fails_is_taken,
        an_edit_overwrites_what_others_did,
        what_is_refused_is_taken_by_halves,
        one_bias_of_two,
        a_tape_follows_the_weights,
        a_stream_keeps_old_weights,
        a_stream_follows_the_weights,
        streams_share_a_state,
        a_step_that_is_refused_moves,
    )
} | {
    "three threads change a bit": changed("__call__", lambda: lstm_rs.get_num_threads() == 3),
    "an instruction set changes a bit": changed("forward_train", lambda: _core.isa() != ISAS[0]),
}
if HAS_FILES:
    MISTAKES["a_file_rounds"] = a_file_rounds


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(mistake, monkeypatch):
    mistake(monkeypatch)
    # The same programs each time, until one fails; to make it shorter would take longer.
    found = settings(
        max_examples=200,
        stateful_step_count=30,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        print_blob=False,
    )
    # A wrong number, or an error where there should be none, or another.
    with pytest.raises((AssertionError, ValueError, RuntimeError, pytest.fail.Exception)):
        run_state_machine_as_test(LongLived, settings=found)
