"""Checkpoints: a run that was stopped and goes on ends in the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from lstm_rs import LSTM, train
from lstm_rs.train import _checkpoint

safetensors = pytest.importorskip("safetensors.numpy")
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

EPOCHS, SIZE, COUNT = 12, 8, 30
STEPS = EPOCHS * -(-COUNT // SIZE)


class Run:
    """Everything that chance has a part in: initial weights, dropout, the order; with a schedule and early stopping."""

    def __init__(self, seed, *, bits=np.random.PCG64, stop_at=None, dtype=np.float32, make=None, validation=True):
        rng = np.random.default_rng(123)
        sequences = [rng.normal(size=(steps, 3)).astype(dtype) for steps in rng.integers(2, 9, COUNT)]
        targets = np.array([[sequence.sum()] for sequence in sequences], dtype)
        chance = [np.random.Generator(bits(seed + k)) for k in range(3)]
        self.lstm = LSTM(3, 6, num_layers=2, dropout=0.3, bidirectional=True, dtype=dtype, seed=chance[0])
        linear = train.Linear(12, 1, dtype=dtype, seed=chance[1])
        self.model = Stopping(self.lstm, linear, train.mse, stop_at)
        self.batches = train.Batches(sequences, targets, batch_size=SIZE, rng=chance[2])
        self.validation = [*train.Batches(sequences[:9], targets[:9], shuffle=False)] if validation else None
        schedule = train.cosine(0.02, STEPS, warmup=5)
        modules = [self.lstm, linear]
        self.optimizer = make(modules, schedule) if make else train.AdamW(modules, schedule)
        self.history = train.History()

    def fit(self, **options):
        patience = None if self.validation is None else 6
        options = {"epochs": EPOCHS, "patience": patience, "clip_norm": 1.0, **options}
        train.fit(
            self.model,
            self.batches,
            self.optimizer,
            validation=self.validation,
            history=self.history,
            **options,
        )
        return self

    def end(self):
        """All that a run ends in, for comparisons."""
        history = {name: value for name, value in vars(self.history).items() if name != "seconds"}
        arrays = {f"{n}/{k}": a.tobytes() for n, m in self.model.modules.items() for k, a in m.weights.items()}
        kept = {name: array.tobytes() for name, array in self.optimizer.state_dict().items()}
        chance = repr([self.batches.rng.bit_generator.state, self.lstm._rng.bit_generator.state])
        return history, arrays, kept, chance


class Stopping(train.Predictor):
    """Something goes wrong in this batch, between the passes and the update."""

    def __init__(self, lstm, linear, loss, stop_at):
        super().__init__(lstm, linear, loss)
        self.stop_at, self.count = stop_at, 0

    def loss_and_gradients(self, batch):
        self.count += 1
        result = super().loss_and_gradients(batch)
        if self.count == self.stop_at:
            raise OSError("no more data")
        return result


def stopped(path, seed, stop_at, **options):
    run = Run(seed, stop_at=stop_at, **options)
    with pytest.raises(OSError, match="no more data"):
        run.fit(checkpoint=path)
    return run


OPTIMIZERS = {
    "adamw": train.AdamW,
    "adam": train.Adam,
    "sgd": train.SGD,
    "momentum": lambda modules, rate: train.SGD(modules, rate, momentum=0.9),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_is_uninterrupted(tmp_path, optimizer, dtype):
    path, make = tmp_path / "run.safetensors", OPTIMIZERS[optimizer]
    whole = Run(0, make=make, dtype=dtype).fit()
    assert len(whole.history.loss) > 6
    stopped(path, 0, 11, make=make, dtype=dtype)
    # Weights and chance come from the file alone.
    assert Run(50, make=make, dtype=dtype).fit(checkpoint=path, resume=True).end() == whole.end()


@pytest.mark.parametrize("stop_at", [1, 4, 5, 8, 9, 23])
def test_wherever_it_was_stopped(tmp_path, stop_at):
    path = tmp_path / "run.safetensors"
    whole = Run(0).fit()
    assert Run(1).fit().end() != whole.end()
    run = stopped(path, 0, stop_at)
    assert len(run.history.loss) == (stop_at - 1) // 4
    assert Run(50).fit(checkpoint=path, resume=True).end() == whole.end()


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM])
def test_any_source_of_chance(tmp_path, bits):
    path = tmp_path / "run.safetensors"
    stopped(path, 0, 11, bits=bits)
    assert Run(50, bits=bits).fit(checkpoint=path, resume=True).end() == Run(0, bits=bits).fit().end()


def test_stopped_again_and_again(tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(path, 0, 6)
    for seed in range(1, 20):
        run = Run(seed, stop_at=6)
        try:
            run.fit(checkpoint=path, resume=True)
            break
        except OSError:
            continue
    assert seed > 3
    assert run.end() == Run(0).fit().end()


def test_longer_than_planned_at_first(tmp_path):
    path = tmp_path / "run.safetensors"
    Run(0, validation=False).fit(checkpoint=path, epochs=5)
    longer = Run(50, validation=False).fit(checkpoint=path, epochs=EPOCHS, resume=True)
    assert len(longer.history.loss) == EPOCHS
    assert longer.end() == Run(0, validation=False).fit().end()


def test_what_is_done_stays_done(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = Run(0).fit(checkpoint=path)
    written = path.read_bytes()
    again = Run(50).fit(checkpoint=path, resume=True)
    assert again.end() == whole.end()
    assert again.model.count == 0
    assert path.read_bytes() == written


def test_the_file_changes_nothing_else(tmp_path):
    assert Run(0).fit(checkpoint=tmp_path / "run.safetensors").end() == Run(0).fit().end()


def test_without_a_file_it_starts_anew(tmp_path):
    path = tmp_path / "run.safetensors"
    assert Run(0).fit(checkpoint=path, resume=True).end() == Run(0).fit().end()
    # And without resume it starts anew with one.
    assert Run(1).fit(checkpoint=path).end() == Run(1).fit().end()


def test_stretches_go_on(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 30, 2)).astype(np.float32), rng.normal(size=(4, 30, 1))

    def run(seed, epochs, **options):
        lstm, linear = LSTM(2, 5, seed=seed), train.Linear(5, 1, seed=seed)
        model = train.Predictor(lstm, linear, train.mse, per_step=True)
        batches = train.TruncatedBatches(x, y, steps=8, batch_size=2)
        train.fit(model, batches, train.Adam([lstm, linear]), epochs=epochs, **options)
        return model(x)

    path = tmp_path / "run.safetensors"
    whole = run(0, 6)
    run(0, 3, checkpoint=path)
    assert np.array_equal(run(1, 6, checkpoint=path, resume=True), whole)


def test_when_it_is_written(tmp_path, monkeypatch):
    path, seen = tmp_path / "run.safetensors", []
    Run(0).fit(checkpoint=path, epochs=3, on_epoch=lambda history: seen.append(path.exists()))
    assert seen == [False] * 3
    assert path.exists()
    path.unlink()
    seen.clear()
    monkeypatch.setattr(_checkpoint, "_EVERY", 0.0)

    def written(history):
        seen.append(len(safetensors.load_file(path)["history/loss"]))

    Run(0).fit(checkpoint=path, epochs=3, on_epoch=written)
    assert seen == [1, 2, 3]
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_a_layer_from_a_file_has_dropout_of_its_own(tmp_path):
    path = tmp_path / "run.safetensors"
    run = Run(0)
    run.lstm.save(tmp_path / "lstm.safetensors")
    run.model.lstm = LSTM.load(tmp_path / "lstm.safetensors")
    run.optimizer = train.Adam([run.model.lstm, run.model.linear])
    run.fit(checkpoint=path, epochs=2)
    said = json.loads(safetensors_metadata(path)["lstm_rs.train"])
    assert list(said["generators"]) == ["batches", "module lstm"]


def safetensors_metadata(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


# ----------------------------- Ctrl-C

PROGRAM = """
    import hashlib, os, signal, sys
    sys.path.insert(0, {tests!r})
    from test_train_checkpoint import Run
    how, path, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    run = Run(0 if how != "resume" else 50)

    if how == "itself":
        passes = run.lstm.__class__.backward
        def backward(self, *arguments, **options):
            result = passes(self, *arguments, **options)
            if run.model.count == at:
                os.kill(os.getpid(), signal.SIGINT)
            return result
        run.lstm.__class__.backward = backward

    def told(history):
        print("epoch", len(history.loss), flush=True)
        if how == "waits" and len(history.loss) == at:
            sys.stdin.readline()

    options = {{}} if how == "whole" else {{"checkpoint": path, "resume": how == "resume"}}
    try:
        run.fit(on_epoch=told, **options)
    except KeyboardInterrupt:
        best = run.history.best_epoch
        value = run.model.loss(run.validation[0])
        assert value == run.history.validation_loss[best], (value, best)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        print("stopped after", len(run.history.loss), len(run.history.step_loss), flush=True)
    else:
        print("end", hashlib.sha256(repr(run.end()).encode()).hexdigest(), flush=True)
"""


def start(how, path, at=0):
    code = textwrap.dedent(PROGRAM).format(tests=os.path.dirname(__file__))
    return subprocess.Popen(
        [sys.executable, "-c", code, how, str(path), str(at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def last_line(process, given=None):
    out, _ = process.communicate(given, timeout=120)
    assert process.returncode == 0
    return out.splitlines()[-1]


@posix
def test_ctrl_c_in_a_batch_and_resumed(tmp_path):
    path = tmp_path / "run.safetensors"
    assert last_line(start("itself", path, 14)) == "stopped after 3 14"
    ended = last_line(start("resume", path))
    assert ended.startswith("end ")
    assert ended == last_line(start("whole", path))


@posix
def test_ctrl_c_from_outside_and_resumed(tmp_path):
    path = tmp_path / "run.safetensors"
    process = start("waits", path, 4)
    while process.stdout.readline() != "epoch 4\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert last_line(process, "\n").startswith("stopped after 4 ")
    ended = last_line(start("resume", path))
    assert ended.startswith("end ")
    assert ended == last_line(start("whole", path))


# ----------------------------- files of others


def rewritten(path, change):
    """The file with something changed."""
    tensors, metadata = safetensors.load_file(path), safetensors_metadata(path)
    said = json.loads(metadata["lstm_rs.train"])
    change(tensors, said)
    safetensors.save_file(tensors, path, {"lstm_rs.train": json.dumps(said)})


def other_optimizer(run):
    run.optimizer = train.SGD(list(run.model.modules.values()), 0.1)


def other_cell(run):
    run.lstm.dropout = 0.1


def other_batches(run):
    run.batches = list(run.batches)


def no_validation(run):
    run.validation = None


def other_bits(run):
    run.batches.rng = np.random.Generator(np.random.MT19937(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_optimizer, "expected the checkpoint of optimizer SGD, got AdamW"),
        (other_cell, r"expected the checkpoint of modules lstm LSTM\(.*dropout=0.1\).*, got .*dropout=0.3"),
        (other_batches, "expected random numbers for module lstm, got .*batches"),
        (no_validation, "validation: expected as before, with it, got none"),
        (other_bits, "batches: expected a MT19937, got PCG64"),
    ],
)
def test_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "run.safetensors"
    Run(0).fit(checkpoint=path, epochs=2)
    written, run = path.read_bytes(), Run(1)
    change(run)
    before = {name: module.state_dict() for name, module in run.model.modules.items()}
    with pytest.raises(ValueError, match=f"{path.name}: {message}"):
        run.fit(checkpoint=path, resume=True)
    # Nothing has been touched.
    for name, module in run.model.modules.items():
        assert all(np.array_equal(module.weights[key], before[name][key]) for key in before[name])
    assert run.optimizer.steps == 0
    assert path.read_bytes() == written


def drop(name):
    return lambda tensors, said: tensors.pop(name)


def reshape(tensors, said):
    tensors["best/linear/weight"] = tensors["best/linear/weight"].T.copy()


def put(name, array):
    return lambda tensors, said: tensors.update({name: np.asarray(array)})


def not_a_number(tensors, said):
    tensors["model/linear/weight"][0, :2] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (not_a_number, "model/linear/weight: 2 of 12 weights are NaN"),
        (put("history/loss", np.float64(1)), "best_epoch: expected an epoch from 0 to 0, got 1"),
        (put("history/step_loss", np.float64(1)), r"history/step_loss: expected float64 of shape \(1,\), got .* \(\)"),
        (put("optimizer/steps", np.int64(-1)), "optimizer: steps: expected from 0 to less than [0-9]+, got -1"),
        (
            put("optimizer/steps", np.uint64(2**64 - 1)),
            "optimizer: steps: expected from 0 to less than [0-9]+, got 184467",
        ),
        (lambda tensors, said: said.update(model=[3, None]), "expected the checkpoint of model Stopping, got 3, None"),
        (drop("model/lstm/weight_hh_l1"), "expected a tensor 'model/lstm/weight_hh_l1', got none"),
        (drop("history/step_loss"), "expected a tensor 'history/step_loss', got none"),
        (drop("optimizer/square"), "optimizer: state_dict: missing: square"),
        (reshape, r"best/linear/weight: expected float32 of shape \(1, 12\), got float32 of shape \(12, 1\)"),
        (lambda tensors, said: said.update(format_version=2), "expected format_version 1, got 2"),
        (lambda tensors, said: said.pop("generators"), "expected random numbers for batches, module lstm, got None"),
        (lambda tensors, said: said.update(generators=dict.fromkeys(said["generators"])), "batches: expected a PCG64"),
        (
            lambda tensors, said: said["generators"]["batches"].pop("state"),
            "batches: expected the state of a PCG64",
        ),
        (lambda tensors, said: said.pop("best_epoch"), "expected best_epoch, an epoch or null, got none"),
        (lambda tensors, said: said.update(best_epoch=7), "best_epoch: expected an epoch from 0 to 1, got 7"),
        (lambda tensors, said: said.update(best_epoch="1"), "best_epoch: expected an epoch from 0 to 1, got '1'"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(tmp_path, change, message):
    path = tmp_path / "run.safetensors"
    Run(0).fit(checkpoint=path, epochs=2)
    rewritten(path, change)
    run = Run(1)
    before, chance = run.lstm.state_dict(), repr(run.batches.rng.bit_generator.state)
    with pytest.raises(ValueError, match=message):
        run.fit(checkpoint=path, resume=True)
    assert all(np.array_equal(run.lstm.weights[key], before[key]) for key in before)
    assert run.optimizer.steps == 0
    assert repr(run.batches.rng.bit_generator.state) == chance


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run = Run(0)
    run.lstm.save(path)
    with pytest.raises(ValueError, match=r"expected 'lstm_rs\.train' in its metadata"):
        run.fit(checkpoint=path, resume=True)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        run.fit(checkpoint=path, resume=True)
    run.fit(checkpoint=path, epochs=1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        run.fit(checkpoint=path, resume=True)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint: expected a file in a folder .*nowhere"):
        Run(0).fit(checkpoint=tmp_path / "nowhere" / "run.safetensors", epochs=1)


def test_a_shuffled_validation_goes_on_as_it_was(tmp_path):
    """Its order decides on the last bits of its loss, and so, in the end, on the best epoch."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5, 2)).astype(np.float32), rng.normal(size=(40, 1)).astype(np.float32)

    def run(epochs, **options):
        lstm, linear = LSTM(2, 4, seed=0), train.Linear(4, 1, seed=0)
        batches = train.Batches(x[:20], y[:20], batch_size=7, rng=0)
        held_out = train.Batches(x[20:], y[20:], batch_size=3, rng=1)
        model = train.Predictor(lstm, linear, train.mse)
        optimizer = train.Adam(model.modules, 0.01)
        history = train.fit(model, batches, optimizer, epochs=epochs, validation=held_out, **options)
        return history, held_out.rng.bit_generator.state

    path = tmp_path / "run.safetensors"
    whole, state = run(6)
    run(3, checkpoint=path)
    resumed, resumed_state = run(6, checkpoint=path, resume=True)
    assert resumed.validation_loss == whole.validation_loss
    assert resumed_state == state
