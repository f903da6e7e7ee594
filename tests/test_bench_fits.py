"""The benchmark of whole fits, over tiny data for one epoch: that all train on the same, and what it records."""

import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import lstm_rs
import numpy as np
import pytest
from lstm_rs import train
from lstm_rs.bench import _fit_workers, fits

# Keras' variables, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TINY = {
    "hidden_size": 3, "batch_size": 8, "clip_norm": 1.0, "learning_rate": 0.01, "schedule": "cosine",
    "weight_decay": 0.0, "epochs": 2, "threads": 1,
}  # fmt: skip


def wave(steps):
    return 40 + 10 * np.sin(np.arange(steps) / 3)


def regressor():
    every = np.lib.stride_tricks.sliding_window_view(wave(40), 9)
    x, y = every[:, :-1, None], every[:, -1]
    return {"x": x[:20], "y": y[:20], "test_x": x[20:], "test_y": y[20:]}


def forecaster():
    series = wave(50)
    return {"series": series[:40, None], "test_series": series[:, None], "test_y": series[40:]}


def autoencoder():
    series = wave(60)
    series[50:53] = 45
    return {
        "series": series[:40, None],
        "test_series": series[:, None],
        "test_y": np.arange(50, 53),
        "start": np.array(40),
    }


def classifier():
    rng, found = np.random.default_rng(3), {}
    for prefix, count in (("", 21), ("test_", 5)):
        lengths = rng.integers(3, 8, size=count)
        lengths[0] = 7
        x = rng.normal(5, 2, size=(count, 7, 2)) * _fit_workers.valid(lengths, 7)[..., None]
        found |= {f"{prefix}x": x, f"{prefix}lengths": lengths, f"{prefix}y": np.arange(count) % 3 + 4}
    return found


TASKS = {
    "regressor": (TINY, regressor),
    "forecaster": (
        TINY | {"window": 12, "warm_up": 3, "horizon": 1, "difference": False, "schedule": "linear"},
        forecaster,
    ),
    "autoencoder": (TINY | {"window": 6, "latent_size": 2, "schedule": "constant"}, autoencoder),
    "classifier": (TINY | {"weight_decay": 0.1}, classifier),
}


@pytest.fixture(autouse=True)
def threads():
    """What the libraries are told of threads ends with the test."""
    with lstm_rs.num_threads(lstm_rs.get_num_threads()):
        if "torch" not in sys.modules:
            yield
            return
        torch = sys.modules["torch"]
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)


def load(kind):
    task, make = TASKS[kind]
    return task | {"kind": kind, "seed": 0}, make()


def installed(library):
    return all(map(importlib.util.find_spec, fits.LIBRARIES[library]))


# ----------------------------- the same problem for all


def rows(*arrays):
    """Examples in an order of their own: those of a batch (T, N, ...) or (N, ...) as one row each."""
    return sorted(
        tuple(np.concatenate([np.ravel(part) for part in parts]).round(5)) for parts in zip(*arrays, strict=True)
    )


@pytest.mark.parametrize("kind", TASKS)
def test_the_others_are_given_what_the_estimators_train_on(kind, monkeypatch):
    task, data = load(kind)
    problem = _fit_workers.Problem(task, data)
    given, real = [], train.fit

    def fit(model, batches, optimizer, **options):
        seen = list(batches)
        given.extend(seen)
        assert (options["clip_norm"], options["epochs"]) == (task["clip_norm"], task["epochs"])
        assert getattr(optimizer, "weight_decay", 0.0) == task["weight_decay"]
        rate, steps = optimizer.learning_rate, range(task["epochs"] * len(seen))
        rates = [rate(k) if callable(rate) else rate for k in steps]
        np.testing.assert_allclose(rates, problem.rates(), rtol=1e-12)
        encoder, *_, last = model.modules.values()
        assert (encoder.hidden_size, last.out_features) == (task["hidden_size"], problem.outputs)
        return real(model, batches, optimizer, **options)

    monkeypatch.setattr(train, "fit", fit)
    _fit_workers.by_lstm_rs(task, data, 1)(0)
    ours = []
    for batch in given:
        steps, count = batch.x.shape[:2]
        x = np.zeros((count, problem.x.shape[1], problem.x.shape[2]))
        x[:, :steps] = batch.x.swapaxes(0, 1)
        y = batch.x if batch.target is None else batch.target
        y = y.swapaxes(0, 1)[:, task.get("warm_up", 0) :] if kind in ("forecaster", "autoencoder") else y
        ours += rows(x, np.reshape(y, (count, -1)))
    theirs = rows(problem.x, np.reshape(problem.y, (len(problem.x), -1)))
    np.testing.assert_allclose(sorted(ours), theirs, rtol=0, atol=1e-4)
    chosen = list(_fit_workers.batches(np.random.default_rng(0), len(problem.x), task["batch_size"], problem.lengths))
    # As many steps of Adam; ours are of even sizes where theirs has a small last one.
    assert len(chosen) == len(given)
    assert sorted(np.concatenate(chosen)) == list(range(len(problem.x)))


@pytest.mark.parametrize("library", fits.LIBRARIES)
@pytest.mark.parametrize("kind", TASKS)
def test_every_library_fits_and_predicts(kind, library):
    if not installed(library):
        pytest.skip(f"{library} is not installed")
    task, data = load(kind)
    # All in one batch: Keras shuffles as it likes. A second fit starts anew in every respect.
    fit = _fit_workers.LIBRARIES[library](task | {"batch_size": 99}, data, 1)
    first, again = fit(0)(), fit(0)()
    np.testing.assert_allclose(again, first, rtol=0, atol=1e-5 * np.abs(first).max())
    expected = {"regressor": (12,), "forecaster": (50, 1), "autoencoder": (60,), "classifier": (5,)}[kind]
    assert first.shape == expected and np.isfinite(first).all()
    assert isinstance(fits.quality(kind, first, data)[1], float)
    if kind == "classifier":
        assert set(first) <= {4, 5, 6}


@pytest.mark.parametrize("library", ["torch", "keras"])
def test_padding_does_not_count(library, monkeypatch):
    if not installed(library):
        pytest.skip(f"{library} is not installed")
    monkeypatch.setattr(_fit_workers.Problem, "predictions", lambda self, out: np.array(out))
    outputs = []
    for more in (0, 4):
        task, data = load("classifier")
        for name in ("x", "test_x"):
            data[name] = np.pad(data[name], ((0, 0), (0, more), (0, 0)))
        outputs.append(_fit_workers.LIBRARIES[library](task | {"batch_size": 99}, data, 1)(0)())
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("library", ["torch", "keras"])
def test_what_is_trained_long_is_good(library):
    if not installed(library):
        pytest.skip(f"{library} is not installed")
    task, data = load("forecaster")
    predictions = _fit_workers.LIBRARIES[library](task | {"epochs": 60, "hidden_size": 8}, data, 1)(0)()
    what, error = fits.quality("forecaster", predictions, data)
    # That of the value before, of a wave whose steps are known.
    none = np.sqrt(np.mean(np.diff(wave(50))[39:] ** 2))
    assert what == "RMSE" and error < 0.7 * none


# ----------------------------- how it is judged


def test_quality():
    assert fits.quality("classifier", np.array([1, 2, 2]), {"test_y": np.array([1, 2, 3])}) == ("accuracy", 2 / 3)
    assert fits.quality("regressor", np.array([1.0, 2]), {"test_y": np.array([1.0, 4])}) == ("RMSE", 2**0.5)
    # The forecast for a value stands in the row before it; the first rows are those of the training.
    rows = np.array([[9.0], [9], [3], [5], [9]])
    assert fits.quality("forecaster", rows, {"test_y": np.array([3.0, 6])}) == ("RMSE", 0.5**0.5)
    found = {"test_y": np.array([6, 7]), "start": np.array(2)}
    for top, off in ((6, 0), (7, 0), (9, 2), (3, 3)):
        scores = np.zeros(10)
        scores[[0, top]] = 9, 1
        assert fits.quality("autoencoder", scores, found) == ("rows off", off)


def test_scores_are_the_mean_over_the_windows_that_hold_a_row():
    task, data = load("autoencoder")
    problem = _fit_workers.Problem(task, data)
    x, _ = problem.test()
    error = np.random.default_rng(0).random(x.shape)
    expected = [np.mean([error[m, t - m, 0] ** 2 for m in range(len(x)) if 0 <= t - m < 6]) for t in range(60)]
    np.testing.assert_allclose(problem.predictions(x + error), expected, rtol=1e-5)


# ----------------------------- the command


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(fits, "TASKS", TASKS)
    monkeypatch.setattr(fits, "LIBRARIES", {"lstm_rs": ()})


def test_the_command(tiny, tmp_path, capsys):
    file = tmp_path / "record.json"
    assert fits.main(f"--threads 1 2 --repeats 2 --only classifier --json {file}".split()) == 0
    record = json.loads(file.read_text())
    assert record["cpu"] and record["isa"] == lstm_rs._core.isa()
    assert record["versions"] == {"lstm_rs": lstm_rs.__version__}
    assert [(row["fit"], row["threads"], row["library"]) for row in record["rows"]] == [
        ("classifier", count, "lstm_rs") for count in (1, 2)
    ]
    for row in record["rows"]:
        assert row["task"]["hidden_size"] == 3 and len(row["runs"]) == 2
        for figure in (*fits.FIGURES, "memory"):
            low, high = sorted(run[figure] for run in row["runs"])
            assert 0 < low <= row[figure] <= high
        assert 10 < row["memory"] < 1000
        assert row["quality"][0] == "accuracy" and 0 <= row["quality"][1] <= 1
    told = capsys.readouterr().out
    assert fits.markdown(record) in told and "| classifier | 2 | lstm_rs |" in told


def test_a_process_that_fails_is_an_error(tiny, monkeypatch, capsys):
    monkeypatch.setattr(fits, "TASKS", {"classifier": (TINY | {"batch_size": 0}, classifier)})
    assert fits.main("--threads 1 --repeats 1 --only classifier".split()) == 1
    error = capsys.readouterr().err
    assert "lstm_rs: the process that fits the classifier failed: ValueError: batch_size: " in error


def test_data_that_are_not_there_are_an_error(tiny, monkeypatch, capsys):
    def missing():
        raise importlib.metadata.PackageNotFoundError("aeon")

    monkeypatch.setattr(fits, "TASKS", {"classifier": (TINY, missing)})
    assert fits.main("--threads 1 --repeats 1 --only classifier".split()) == 1
    assert "pip install --no-deps aeon==1.6.0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["--threads 0", "--repeats 0", "--only nothing"])
def test_arguments_are_checked(arguments, capsys):
    with pytest.raises(SystemExit):
        fits.main(arguments.split())
    assert arguments.split()[0] in capsys.readouterr().err


def test_the_others_do_not_pay_for_lstm_rs():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit(any(m.startswith('lstm_rs') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code, _fit_workers.__file__], check=False).returncode == 0


def test_the_table():
    def row(library, scale, quality):
        figures = {"import": 0.02 * scale, "first": 0.5 * scale, "again": 0.25 * scale**2, "memory": 50 * scale}
        return {"fit": "regressor", "threads": 1, "library": library, **figures, "quality": ["RMSE", quality]}

    record = {
        "cpu": "a CPU", "isa": "avx2", "versions": {"lstm_rs": "0.1", "torch": "2.9"},
        "rows": [row("lstm_rs", 1, 16.25), row("torch", 4, 17.04)],
    }  # fmt: skip
    head, _, *table = fits.markdown(record).splitlines()
    assert head == "a CPU, avx2; lstm_rs 0.1, torch 2.9"
    assert table[2:] == [
        "| regressor | 1 | lstm_rs | 20.0 ms | 500 ms | 1.00 | 250 ms | 1.00 | 50 MiB | RMSE 16.2 |",
        "| regressor | 1 | torch | 80.0 ms | 2.00 s | 4.00 | 4.00 s | 16.00 | 200 MiB | RMSE 17.0 |",
    ]
    assert {line.count("|") for line in table} == {11}


# ----------------------------- the data


@pytest.fixture
def aeon():
    try:
        importlib.metadata.version("aeon")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("aeon is not installed")


# Of the clone: the package is installed without them.
RECORDS = sorted((Path(__file__).parents[1] / "python/lstm_rs/bench/records").glob("*/*-fits.json"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_records_are_what_a_run_writes(file):
    record = json.loads(file.read_text())
    assert file.stem.startswith(record["date"][:10])
    places = {(row["fit"], row["threads"], row["library"]) for row in record["rows"]}
    assert places == {(name, count, library) for name in fits.TASKS for count in (1, 2) for library in fits.LIBRARIES}
    for row in record["rows"]:
        task, _ = fits.TASKS[row["fit"]]
        assert row["task"] == task, "made with other settings: run it again"
        assert len(row["runs"]) >= 3
        for figure in (*fits.FIGURES, "memory"):
            assert row[figure] == statistics.median(one[figure] for one in row["runs"]) > 0


def test_sunspots():
    data = fits.sunspots()
    assert data["series"].shape == (220, 1) and data["test_series"].shape == (309, 1) and len(data["test_y"]) == 89
    several = fits.sunspot_windows()
    assert several["x"].shape == (176, 44, 1) and several["test_x"].shape == (89, 44, 1)
    np.testing.assert_array_equal(several["test_y"], data["test_y"])
    np.testing.assert_array_equal(several["test_x"][1:, -1, 0], data["test_y"][:-1])


def test_internal_bleeding(aeon):
    data = fits.internal_bleeding()
    assert data["series"].shape == (1200, 1) and data["test_series"].shape == (7501, 1) and data["start"] == 1200
    assert data["test_y"].tolist() == list(range(4187, 4199))
    np.testing.assert_array_equal(data["test_series"][:1200], data["series"])


def test_japanese_vowels(aeon):
    data = fits.japanese_vowels()
    assert data["x"].shape == (270, 26, 12) and data["test_x"].shape == (370, 29, 12)
    assert (data["lengths"].min(), data["lengths"].max(), data["test_lengths"].max()) == (7, 26, 29)
    assert np.bincount(data["y"]).tolist() == [0] + [30] * 9 and set(data["test_y"]) == set(range(1, 10))
    mask = _fit_workers.valid(data["lengths"], 26)
    assert not data["x"][~mask].any() and np.all(data["x"][mask].any(axis=1))
    # The first line of the file.
    assert data["lengths"][0] == 20 and data["x"][0, 0, 0] == 1.860936 and data["x"][0, 1, 0] == 1.891651
