"""Sixteen Python threads at once, on what they share. All of it holds with the GIL, and on a Python without one.

What is promised, and held here to the bit: a layer, a tape, weights and a fitted estimator are there for any number of
threads. Weights that change meanwhile, and streams, are test_free_threading_weights.py's.

What is not: a number that one thread writes while another reads it may come out as anything. That is all that may
happen: nothing ends, and nothing else is touched. An optimizer is its training loop's alone.

    LSTM_RS_RACE_SECONDS=60 pytest tests/test_free_threading*    # races for a minute each, instead of a second

What would bring this process down if it failed runs in one of its own.
"""

import copy
import os
import pickle
import subprocess
import sys
import sysconfig
import textwrap
import threading

import held
import lstm_rs
import numpy as np
import pytest
from at_once import MANY, RACE, SECONDS, at_once, many, switching
from calls import assert_results_same, gradients, make_call
from conftest import ISAS, using
from lstm_rs import LSTM, _core, train
from oracle import assert_same_bits
from stacked import FULL, Run, answers, made, make_layer, make_run, same


@pytest.fixture(autouse=True)
def _switching():
    with switching():
        yield


def in_a_process(code, *arguments):
    """What a script says; its end by a signal is a failure as any other."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error::RuntimeWarning", "-c", textwrap.dedent(code)]
    folder = os.path.dirname(__file__)
    path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS + 2 * RACE,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout.split()


@pytest.fixture(params=["short", "long"])
def layer_and_run(request):
    """Calls that keep the interpreter, and calls that leave it to others and are shared out."""
    if request.param == "short":
        return made()
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 16, 64, 2, **FULL)
    return layer, make_run(layer, rng, 12, 9)


# ----------------------------- the module


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_the_gil_stays_off():
    """With a module that needs it, Python switches it on, and warns."""
    told = in_a_process("import sys, lstm_rs; lstm_rs.LSTM(2, 3); print(sys._is_gil_enabled())")
    assert told == ["False"]


def test_a_first_import_in_all_threads_at_once():
    told = in_a_process(
        """
        import sys
        from at_once import MANY, many

        def first(k):
            import numpy as np
            if k % 2:
                import lstm_rs
            else:
                from lstm_rs import LSTM, train
                import lstm_rs.onnx, lstm_rs.estimators, lstm_rs
            importer = lstm_rs.from_torch
            layer = lstm_rs.LSTM(3, 8, 2, seed=0)
            x = np.ones((5, 2, 3), np.float32)
            y, _, tape = layer.forward_train(x)
            return y.tobytes() + layer.backward(tape, y).x.tobytes(), id(importer), id(sys.modules["lstm_rs._core"])

        found = many(first)
        print(len(found), len(set(found)))
        """
    )
    assert told == [str(MANY), "1"]


# ----------------------------- layers and tapes


def test_a_shared_layer_from_its_first_call_on(layer_and_run):
    """Its weights are packed for the pass backward by whoever comes first: all come first."""
    layer, run = layer_and_run
    runs = [Run(**{**vars(run), "x": run.x * layer.dtype.type(scale)}) for scale in (1.0, 0.5, -1.0, 2.0)]
    wanted = [answers(run)[0] for run in runs]
    for _ in range(5):
        shared = pickle.loads(pickle.dumps(layer))

        def work(k, shared=shared):
            own = Run(**{**vars(runs[k % 4]), "layer": shared})
            y, final = shared(own.x, own.state, own.lengths)
            return answers(own)[0], {"y": y, "h": final.h, "c": final.c}

        for k, (given, called) in enumerate(many(work)):
            same(given, wanted[k % 4])
            same(called, {name: given[name] for name in called})


def test_a_shared_tape(layer_and_run):
    layer, run = layer_and_run
    wanted, _ = answers(run)
    back = {name: array for name, array in wanted.items() if name.startswith("d_")}
    for _ in range(10):
        tape = layer.forward_train(run.x, run.state, run.lengths)[2]

        def work(k, tape=tape):
            # Its parts are made by whoever looks first.
            parts = tape.layers if k % 2 else pickle.loads(pickle.dumps(tape)).layers
            looked = [array for part in parts for array in (part.gates, part.c)]
            return looked, held.gradients(layer, tape, run)

        for looked, given in many(work):
            same(given, back)
            assert len(looked) == 8
            for array, other in zip(looked, [a for part in tape.layers for a in (part.gates, part.c)], strict=True):
                assert_same_bits(array, other)


def test_shared_weights_of_functions():
    call = make_call(0, "peephole_lstm", (20, 4, 5, 19), 7)
    wanted = call.run()
    tape = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)[2]

    def work(k):
        if k % 2:
            return call.run()
        y, final = lstm_rs.forward(call.x, call.weights, call.state, **call.how)
        grads = gradients(lstm_rs.backward(tape, call.dy, call.dstate))
        return {"y": y, "final.h": final.h, "final.c": final.c, "tape.gates": tape.gates, "tape.c": tape.c} | grads

    for given in many(work):
        assert_results_same(given, wanted)


def test_a_shared_generator_gives_each_mask_once():
    """Which thread gets which is chance; together they get what one would have got."""
    layer, run = made(dropout=0.5)
    serial = pickle.loads(pickle.dumps(layer))
    masks = [serial.forward_train(run.x)[2].dropout[0] for _ in range(4 * MANY)]
    tapes = [tape for some in many(lambda _: [layer.forward_train(run.x)[2] for _ in range(4)]) for tape in some]
    assert sorted(tape.dropout[0].tobytes() for tape in tapes) == sorted(mask.tobytes() for mask in masks)


# ----------------------------- threads and instruction sets


def test_threads_and_instruction_sets_that_others_change(layer_and_run):
    layer, run = layer_and_run
    wanted, _ = answers(run)
    before, done = lstm_rs.get_num_threads(), threading.Event()

    def change(k):
        n = 0
        while not done.is_set():
            n += 1
            lstm_rs.set_num_threads(1 + n % 4)
            _core.set_isa(ISAS[n % len(ISAS)])
            assert 1 <= lstm_rs.get_num_threads() <= 4 and _core.isa() in ISAS

    def call(k):
        for n in range(5):
            if k % 2:
                same(answers(Run(**{**vars(run), "layer": copy.copy(layer)}))[0], wanted)
                continue
            with lstm_rs.num_threads(1 + (k + n) % 5):
                same(answers(run)[0], wanted)
                assert lstm_rs.get_num_threads() == 1 + (k + n) % 5, "a block's own"

    def callers():
        try:
            many(call, MANY - 2)
        finally:
            done.set()

    try:
        with using(_core.isa()):
            at_once(callers, lambda: change(0), lambda: change(1))
    finally:
        lstm_rs.set_num_threads(before)


# ----------------------------- training and prediction


def trained(k):
    """A model of its own."""
    rng = np.random.default_rng(k)
    x, target = rng.normal(size=(6, 8, 3)).astype(np.float32), rng.normal(size=(8, 1)).astype(np.float32)
    model = train.Predictor(LSTM(3, 8, seed=k), train.Linear(8, 1, seed=k), train.mse)
    history = train.fit(model, [train.Batch(x, target)], train.Adam(model.modules, 1e-2), epochs=5)
    return [*history.loss, *(array.tobytes() for module in model.modules.values() for array in module.weights.values())]


def test_models_of_their_own_learn_side_by_side():
    assert many(trained) == [trained(k) for k in range(MANY)]


def estimators():
    from lstm_rs.estimators import LSTMAutoencoder, LSTMClassifier, LSTMForecaster, LSTMRegressor

    rng = np.random.default_rng(0)
    ragged = [rng.normal(size=(steps, 3)) for steps in rng.integers(4, 20, 40)]
    labels, wave = rng.integers(0, 3, 40), np.sin(np.arange(150) / 3)
    classifier = LSTMClassifier(epochs=1, num_layers=2, bidirectional=True, random_state=0).fit(ragged, labels)
    regressor = LSTMRegressor(epochs=1, random_state=0).fit(ragged, labels)
    forecaster = LSTMForecaster(3, strategy="recursive", window=20, epochs=1, random_state=0).fit(wave)
    autoencoder = LSTMAutoencoder(epochs=1, random_state=0).fit(wave)
    return {
        "predict_proba": lambda: classifier.predict_proba(ragged),
        "predict": lambda: regressor.predict(ragged),
        "forecast": lambda: forecaster.predict(),
        "predict_all": lambda: forecaster.predict_all(wave),
        "score_samples": lambda: autoencoder.score_samples(wave),
        "pickle": lambda: pickle.loads(pickle.dumps(regressor)).predict(ragged),
    }


def test_a_fitted_estimator_in_all_threads():
    ways = estimators()
    wanted = {name: way() for name, way in ways.items()}

    def work(k):
        order = list(ways)[k % len(ways) :] + list(ways)[: k % len(ways)]
        return {name: ways[name]() for name in order}

    for given in many(work):
        for name, array in given.items():
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)


# ----------------------------- what nobody should do


def test_arrays_that_others_write_to():
    """The numbers may be anything; nothing ends, and when nobody writes any more they are right again."""
    told = in_a_process(
        """
        import sys, threading, time
        import numpy as np
        import lstm_rs
        from at_once import MANY, at_once
        from stacked import FULL, Run, answers, make_layer, make_run, same
        from lstm_rs import Weights, train

        rng = np.random.default_rng(0)
        layer, linear = make_layer(rng, 16, 64, 2, **FULL), train.Linear(64, 6, seed=0)
        run = make_run(layer, rng, 12, 9)
        one_way = make_layer(rng, 16, 64, 2)
        arrays = [run.x, run.dy, *run.state, *run.dstate]
        clean = [array.copy() for array in arrays]
        weights = Weights(*(rng.normal(size=size) for size in ((256, 16), (256, 64), (256,))))
        y, _, tape = layer.forward_train(run.x, run.state, run.lengths)
        shared = [*arrays, *weights[:3], out := np.zeros((3, 64), np.float32), y, lengths := np.full(9, 3)]
        wanted, end, calls = answers(run)[0], time.monotonic() + float(sys.argv[1]), [0] * MANY

        def write(k):
            rng = np.random.default_rng(k)
            while time.monotonic() < end or min(calls[3:]) == 0:
                for array in shared:
                    if array.dtype.kind == "f":
                        array[...] = rng.choice([0.0, 1.0, -1e30, np.nan, np.inf])
                    else:
                        array[...] = rng.integers(0, 13)

        def call(k):
            stream = one_way.stream(3)
            x = np.zeros((4, 16))
            while time.monotonic() < end or calls[k] == 0:
                if k % 4 == 0:
                    answers(run)
                    layer(run.x, run.state, lengths)
                elif k % 4 == 1:
                    layer.backward(tape, run.dy, run.dstate)
                    lstm_rs.forward(x, weights)
                elif k % 4 == 2:
                    stream.step(run.x[0, :3], out)
                    stream.state = (run.state.h[:2, :3, :1].repeat(64, 2), stream.state.c)
                else:
                    linear.backward(out, linear(out))
                calls[k] += 1

        with np.errstate(all="ignore"):
            at_once(*(lambda k=k: write(k) for k in range(3)), *(lambda k=k: call(k) for k in range(3, MANY)))
        for array, was in zip(arrays, clean, strict=True):
            array[...] = was
        same(answers(run)[0], wanted)
        print("right")
        """,
        RACE,
    )
    assert told == ["right"]
