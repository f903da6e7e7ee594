"""The loop: what it records, when it ends, which weights it leaves, and what it says of wrong input."""

import io
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from lstm_rs import LSTM, train
from lstm_rs.train import _progress


class Scripted:
    """A model of one weight that counts its updates, with losses as written down."""

    def __init__(self, losses=(), validation=(), gradient=-1.0):
        self.linear = train.Linear(1, 1, bias=False, dtype=np.float64, seed=0)
        self.linear.weights["weight"] = np.zeros((1, 1))
        self.losses, self.validation, self.gradient = iter(losses), iter(validation), gradient

    @property
    def modules(self):
        return {"linear": self.linear}

    @property
    def updates(self):
        return float(self.linear.weights["weight"][0, 0])

    def loss_and_gradients(self, batch):
        return next(self.losses, 1.0), {"linear": {"weight": np.full((1, 1), self.gradient)}}

    def loss(self, batch):
        return next(self.validation)


def batch_of(count):
    return train.Batch(np.zeros((2, count, 1)))


ONE = [batch_of(1)]


def fit(model, batches=ONE, **options):
    return train.fit(model, batches, train.SGD(model.linear, 1.0), **{"epochs": 1, **options})


# ----------------------------- what it records


def test_epochs_are_means_over_sequences():
    model = Scripted(losses=[1.0, 4.0, 10.0, 2.0, 3.0, 5.0], validation=[6.0, 3.0, 5.0, 1.0])
    batches, validation = [batch_of(4), batch_of(4), batch_of(2)], [batch_of(3), batch_of(1)]
    history = fit(model, batches, validation=validation, epochs=2)
    assert history.loss == [(4 + 16 + 20) / 10, (8 + 12 + 10) / 10]
    assert history.validation_loss == [(18 + 3) / 4, (15 + 1) / 4]
    assert history.step_loss == [1.0, 4.0, 10.0, 2.0, 3.0, 5.0]
    assert history.best_epoch == 1
    assert len(history.seconds) == 2 and min(history.seconds) >= 0


def test_without_validation_there_is_no_best_epoch():
    history = fit(Scripted(), epochs=2)
    assert (history.validation_loss, history.best_epoch) == ([], None)


def test_rates_are_those_of_the_last_step():
    model = Scripted()
    optimizer = train.SGD(model.linear, train.linear(1.0, 8))
    history = train.fit(model, ONE * 4, optimizer, epochs=2)
    assert history.learning_rate == [1 - 3 / 8, 1 - 7 / 8]
    assert model.updates == sum(1 - k / 8 for k in range(8))


def test_a_history_of_the_callers_is_filled_from_its_beginning():
    kept = train.History(loss=[9.0], best_epoch=3)
    seen = []
    assert fit(Scripted(), epochs=3, history=kept, on_epoch=lambda h: seen.append((h is kept, len(h.loss)))) is kept
    assert seen == [(True, 1), (True, 2), (True, 3)]
    assert (kept.loss, kept.best_epoch) == ([1.0] * 3, None)


def test_clipping():
    model = Scripted(gradient=-8.0)
    fit(model, epochs=2, clip_norm=0.5)
    assert model.updates == pytest.approx(1.0, rel=1e-6)


def test_modules_that_the_optimizer_does_not_have_stay():
    lstm, linear = LSTM(2, 4, seed=0), train.Linear(4, 1, seed=0)
    model = train.Predictor(lstm, linear, train.mse)
    before = lstm.state_dict(), linear.state_dict()
    x = np.ones((3, 5, 2), np.float32)
    train.fit(model, [train.Batch(x, np.ones((5, 1)))], train.Adam(linear), epochs=3)
    assert all(np.array_equal(lstm.weights[name], before[0][name]) for name in before[0])
    assert not np.array_equal(linear.weights["weight"], before[1]["weight"])


def test_modules_in_the_optimizers_order():
    def trained(reverse):
        model = train.Predictor(LSTM(2, 4, seed=0), train.Linear(4, 1, seed=0), train.mse)
        modules = list(model.modules.values())
        x = np.ones((3, 5, 2), np.float32)
        train.fit(model, [train.Batch(x, np.ones((5, 1)))], train.Adam(modules[:: -1 if reverse else 1]), epochs=3)
        return model(x)

    assert np.array_equal(trained(False), trained(True))


# ----------------------------- when it ends, and with which weights


def test_the_best_weights_are_put_back():
    model = Scripted(validation=[5.0, 3.0, 4.0, 3.0, 6.0])
    history = fit(model, ONE * 2, validation=ONE, epochs=5)
    assert (history.best_epoch, len(history.loss), model.updates) == (1, 5, 4)


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "epochs", "best"),
    [
        ([5.0, 4.0, 4.0, 4.0, 4.0, 1.0], 2, 0.0, 4, 1),
        ([5.0, 4.0, 4.0, 3.9, 4.0, 4.0, 1.0], 2, 0.0, 6, 3),
        ([5.0, 4.0, 3.9, 3.8, 1.0], 2, 0.5, 4, 1),
        ([5.0, 4.5, 4.0, 1.0], 1, 0.5, 2, 0),
        ([1.0, 2.0, 3.0, 4.0], 3, 0.0, 4, 0),
        ([4.0, 3.0, 2.0, 1.0], 1, 0.0, 4, 3),
    ],
)
def test_early_stopping(losses, patience, min_delta, epochs, best):
    model = Scripted(validation=[*losses, *[0.0] * 9])
    history = fit(model, validation=ONE, epochs=min(9, len(losses)), patience=patience, min_delta=min_delta)
    assert (len(history.loss), history.best_epoch) == (epochs, best)
    assert model.updates == best + 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(bad):
    model, kept = Scripted(losses=[1.0, 1.0, 1.0, bad]), train.History()
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch 2, after 3 steps; look for NaN"):
        fit(model, ONE * 2, epochs=3, history=kept)
    # As at the end of the last whole epoch.
    assert model.updates == 2
    assert (kept.loss, kept.step_loss) == ([1.0], [1.0] * 3)


def test_a_norm_that_is_not_finite():
    model = Scripted(gradient=np.inf)
    with pytest.raises(FloatingPointError, match="the norm of the gradients is inf in epoch 1, after 0 steps"):
        fit(model, clip_norm=1.0)
    assert model.updates == 0


def test_a_validation_loss_that_is_not_finite():
    model = Scripted(validation=[1.0, np.nan])
    with pytest.raises(FloatingPointError, match="the validation loss of epoch 2 is nan"):
        fit(model, validation=ONE, epochs=3)
    assert model.updates == 1


def test_huge_numbers_give_one_error_and_no_warning():
    model = train.Predictor(LSTM(1, 4, seed=0), train.Linear(4, 1, seed=0), train.mse)
    given = [train.Batch(np.ones((3, 2, 1), np.float32), np.full((2, 1), 1e30))]
    with pytest.raises(FloatingPointError, match="the loss is inf"):
        train.fit(model, given, train.SGD(list(model.modules.values()), 0.1), epochs=2)


def test_an_exception_leaves_the_best_weights_or_those_of_the_last_epoch():
    def breaking():
        yield ONE[0]
        if len(kept.loss) == 3:
            raise OSError("the disk is gone")

    class Breaking:
        def __iter__(self):
            return breaking()

    for validation, expected in (({}, 3), ({"validation": ONE}, 2)):
        model, kept = Scripted(validation=[2.0, 1.0, 3.0]), train.History()
        with pytest.raises(OSError, match="the disk is gone"):
            fit(model, Breaking(), epochs=9, history=kept, **validation)
        assert model.updates == expected
        assert (len(kept.loss), len(kept.step_loss)) == (3, 4)


def test_a_history_has_whole_epochs_alone():
    class Full(list):
        def append(self, value):
            if len(self) == 2:
                raise MemoryError
            super().append(value)

    model, kept = Scripted(validation=[3.0, 2.0, 1.0]), train.History(learning_rate=Full())
    with pytest.raises(MemoryError):
        fit(model, validation=ONE, epochs=9, history=kept)
    lists = (kept.loss, kept.validation_loss, kept.seconds, kept.learning_rate)
    assert [len(each) for each in lists] == [2, 2, 2, 2]
    assert (kept.best_epoch, model.updates) == (1, 2)


# ----------------------------- Ctrl-C


class Pressed(Scripted):
    """Ctrl-C in the middle of these batches."""

    def __init__(self, *batches, times=1, **options):
        super().__init__(**options)
        self.batches, self.times, self.count = batches, times, 0

    def loss_and_gradients(self, batch):
        self.count += 1
        if self.count in self.batches:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().loss_and_gradients(batch)


def test_ctrl_c_waits_for_the_end_of_the_batch():
    model, kept = Pressed(5), train.History()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, ONE * 3, epochs=9, history=kept)
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler
    assert (model.count, model.updates) == (5, 5)
    assert (len(kept.loss), len(kept.step_loss)) == (1, 5)


def test_ctrl_c_leaves_the_best_weights():
    model, kept = Pressed(8, validation=[1.0, 2.0]), train.History()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ONE * 3, validation=ONE, epochs=9, history=kept)
    assert (model.count, model.updates, kept.best_epoch) == (8, 3, 0)


def test_a_second_ctrl_c_does_not_wait():
    model, kept = Pressed(5, times=2), train.History()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ONE * 3, epochs=9, history=kept)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The batch was not done: the weights are those of the epoch before.
    assert (model.count, model.updates) == (5, 3)


def test_ctrl_c_in_the_last_batch_is_not_lost():
    model, kept = Pressed(6), train.History()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ONE * 3, epochs=2, history=kept)
    assert (model.updates, len(kept.loss)) == (6, 2)


def test_ctrl_c_in_validation():
    class InValidation(Scripted):
        def loss(self, batch):
            if self.updates == 4:
                signal.raise_signal(signal.SIGINT)
            return 1.0

    model, kept = InValidation(), train.History()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ONE * 2, validation=ONE * 2, epochs=9, history=kept)
    assert (len(kept.loss), len(kept.validation_loss), kept.best_epoch, model.updates) == (1, 1, 0, 2)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_handler_of_the_programs_own_stays(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert len(fit(Pressed(2), ONE * 3, epochs=2).loss) == 2
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread():
    result = []
    thread = threading.Thread(target=lambda: result.append(fit(Scripted(), epochs=3)))
    thread.start()
    thread.join()
    assert len(result[0].loss) == 3


# ----------------------------- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_elsewhere_is_a_few_lines(capsys):
    fit(Scripted(losses=[0.5] * 60), epochs=60, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("epoch 12/60   loss 0.5   ") and lines[0].endswith(" s left")
    assert lines[-1].startswith("epoch 60/60   loss 0.5   ") and "left" not in lines[-1]


def test_progress_on_a_terminal_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(_progress, "_EVERY", 0.0)
    fit(Scripted(losses=[123456.0, 1.0, 0.5], validation=[3.0, 2.0, 1.0]), validation=ONE, epochs=3, progress=True)
    first, *parts = sys.stderr.getvalue().split("\r")
    assert first == ""
    assert parts[-1].endswith("\n") and "\n" not in "".join(parts)[:-1]
    assert parts[0].startswith("epoch 1/3   loss 1.235e+05   validation 3   ")
    assert parts[-1].startswith("epoch 3/3   loss 0.5   validation 1   ")
    assert len({len(part.rstrip("\n")) for part in parts}) == 1


def test_progress_ends_its_line_when_training_ends_early(monkeypatch, capsys):
    with pytest.raises(FloatingPointError):
        fit(Scripted(losses=[1.0, 1.0, np.nan]), epochs=60, progress=True)
    assert capsys.readouterr().err.startswith("epoch 2/60   loss 1   ")
    monkeypatch.setattr(sys, "stderr", None)
    fit(Scripted(), epochs=2, progress=True)


def test_no_progress(capsys):
    fit(Scripted(), epochs=3)
    assert capsys.readouterr() == ("", "")


# ----------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an int"),
        ({"patience": 0, "validation": ONE}, ValueError, "patience: expected at least 1"),
        ({"patience": 3}, ValueError, "patience: expected validation with it, got none"),
        ({"min_delta": -1.0}, ValueError, "min_delta: expected a finite number from 0 on"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: expected more than 0"),
        ({"resume": True}, ValueError, "resume: expected a checkpoint to go on from"),
        ({"batches": []}, ValueError, "batches: expected at least one batch in each epoch, got none in epoch 1$"),
        ({"validation": []}, ValueError, "validation: expected at least one batch in each epoch, got none in epoch 1"),
        (
            {"batches": iter(ONE), "epochs": 2},
            ValueError,
            "got none in epoch 2; a generator can be iterated once",
        ),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        fit(Scripted(), **options)


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"optimizer: expected modules of the model, got Linear\(1, 1.*\), which it"):
        train.fit(Scripted(), ONE, train.Adam(train.Linear(1, 1)), epochs=1)
    with pytest.raises(TypeError, match="optimizer: expected an Optimizer, got str"):
        train.fit(Scripted(), ONE, "adam", epochs=1)


def test_lstm_rs_does_not_import_it():
    code = "import sys, lstm_rs; sys.exit(any(name.startswith('lstm_rs.train') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ----------------------------- what a model of somebody's own gives


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((train.Loss(1.0, None), {}), TypeError, "expected a float as the loss, got Loss"),
        ((1.0, [{}]), TypeError, "expected a dict of gradients by module, got list"),
        ((1.0, {}), KeyError, "expected gradients for linear, got none for linear"),
        (
            (1.0, {"linear": {"weight": [[1.0]]}}),
            TypeError,
            "gradient of weight of module 0: expected an array, got list",
        ),
    ],
)
def test_an_answer_that_no_model_gives(answer, error, message):
    model = Scripted()
    model.loss_and_gradients = lambda batch: answer
    with pytest.raises(error, match=message):
        train.fit(model, ONE, train.Adam(model.modules), epochs=1)


def test_after_an_error_the_optimizer_is_as_after_the_last_whole_epoch():
    """So that training can go on as the error advises."""
    # The third step is of an epoch that is not finished: taken back.
    model = Scripted(losses=[1.0, 1.0, 1.0, np.nan])
    sgd = train.SGD(model.linear, 0.1, momentum=0.9)
    with pytest.raises(FloatingPointError):
        train.fit(model, [ONE[0], ONE[0]], sgd, epochs=2)
    assert sgd.steps == 2
    other = Scripted(losses=[1.0, 1.0])
    clean = train.SGD(other.linear, 0.1, momentum=0.9)
    train.fit(other, [ONE[0], ONE[0]], clean, epochs=1)
    assert np.array_equal(sgd.state_dict()["velocity"], clean.state_dict()["velocity"])
