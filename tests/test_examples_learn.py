"""The scripts under examples/ that learn: what they print, and that they have learnt something."""

import re
import tracemalloc
from importlib import util

import numpy as np
import pytest
from lstm_rs.datasets import load_sunspots
from test_examples import EXAMPLES, example, run

AEON = ("aeon", "1.6.0")
PNG = b"\x89PNG"


@pytest.fixture
def picture(tmp_path):
    """Arguments for a picture where matplotlib is installed; the test ends with a look at it."""
    file = tmp_path / "picture.png"
    yield ("--plot", file) if util.find_spec("matplotlib") else ()
    if util.find_spec("matplotlib"):
        assert file.read_bytes().startswith(PNG)


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", line)]


# ----------------------------- sunspot_forecast


def test_sunspots(capsys, monkeypatch, picture):
    ours, before, ahead = run(example("sunspot_forecast"), capsys, monkeypatch, *picture)
    error, none = (float(re.search(r"RMSE +([\d.]+)", line)[1]) for line in (ours, before))
    # That of the year before can be had from the numbers alone.
    years, spots = load_sunspots()
    change = np.diff(spots)[years[1:] >= 1920]
    assert none == pytest.approx(np.sqrt(np.mean(change**2)), abs=0.06)
    assert error < 0.75 * none
    years_ahead = [int(part) for part in re.findall(r"(\d{4}):", ahead)]
    assert years_ahead == list(range(2009, 2020))
    # A cycle, and not a level.
    values = [int(part) for part in re.findall(r": (\d+)", ahead)]
    assert len(values) == 11 and max(values) > 2 * min(values) + 20


# ----------------------------- anomaly_alarm


def test_the_anomaly(capsys, monkeypatch, picture):
    threshold, *alarms, highest = run(example("anomaly_alarm", AEON), capsys, monkeypatch, *picture)
    assert 1 <= len(alarms) <= 5
    (limit,), (top, *wrong) = numbers(threshold)[-1:], numbers(highest)
    assert wrong == [4187, 4198]
    assert wrong[0] - 50 <= top <= wrong[1] + 50
    (begin, end, score) = numbers(alarms[0])
    assert begin <= top <= end and score > limit
    assert all(numbers(alarm)[0] >= 1200 for alarm in alarms)


def test_runs():
    module = example("anomaly_alarm")
    assert module.runs(np.array([1, 1, 0, 0, 1], bool)).tolist() == [[0, 2], [4, 5]]
    assert module.runs(np.zeros(3, bool)).tolist() == []


# ----------------------------- speaker_classification


def test_the_speakers(capsys, monkeypatch):
    module = example("speaker_classification", AEON)
    (X, y), (X_test, y_test) = module.read("TRAIN"), module.read("TEST")
    assert (len(X), len(X_test)) == (270, 370) and {x.shape[1] for x in X} == {12}
    assert (np.unique(y).tolist(), np.bincount(y.astype(int))[1:].tolist()) == (list("123456789"), [30] * 9)
    first, right, _, head, *rows, _, doubtful = run(module, capsys, monkeypatch, "--epochs", 20)
    assert first.startswith("270 utterances of 7 to 26 steps, 20 times: ")
    share = numbers(right)[0] / 100
    assert share > 0.8
    table = np.array([[0 if cell == "." else int(cell) for cell in row.split()[1:]] for row in rows])
    assert head.split()[-9:] == list("123456789") and table.shape == (9, 9)
    assert table.sum(axis=1).tolist() == np.bincount(y_test.astype(int))[1:].tolist()
    assert np.trace(table) / len(X_test) == pytest.approx(share, abs=5e-4)
    assert doubtful.startswith("least sure of number ")


# ----------------------------- character_model


def test_the_characters(capsys, monkeypatch):
    module = example("character_model")
    # Less of the text and a smaller network, for seconds.
    monkeypatch.setattr(module, "UNITS", 32)
    *_, known, empty, written = run(module, capsys, monkeypatch, "--epochs", 8, "--characters", 40_000)
    nats, none = numbers(known)
    text = " ".join("\n\n".join(module.pydoc_data.topics.topics.values())[:40_000].split())
    counts = np.unique(list(text), return_counts=True)[1]
    assert none == pytest.approx(np.log(len(counts)), abs=0.006)
    # Better than who knows how frequent each character is.
    p = counts / counts.sum()
    assert nats < -np.sum(p * np.log(p)) - 0.2
    assert empty == "" and written.startswith("The statement ") and len(written) == 314


def test_the_characters_are_drawn_as_the_model_says():
    """Where it is sure of what comes next, it writes that: here the characters in a circle."""
    module = example("character_model")
    size, rng = 5, np.random.default_rng(0)
    circle = np.arange(2000) % size
    batches = module.batches(circle, size, 4)
    model = module.Predictor(
        module.LSTM(size, 16, seed=rng), module.Linear(16, size, seed=rng), module.cross_entropy, per_step=True
    )
    module.fit(model, batches, module.Adam([model.lstm, model.linear], 0.01), epochs=40)
    assert module.write(model, np.array(list("abcde")), "cd", 8, 0.3, rng) == "cdeabcdeab"


# ----------------------------- streaming_from_a_generator


def test_the_stream(capsys, monkeypatch):
    try:
        first, *alarms, last = run(example("streaming_from_a_generator"), capsys, monkeypatch, 9_000)
    finally:
        tracemalloc.stop()
    off, limit = numbers(first)
    assert 0 < off < limit < 3
    # Two faults from the 2,000th to the 11,000th reading, and no false alarm.
    assert [numbers(alarm)[0] for alarm in alarms] == [5_000, 10_000]
    count, kibibytes = numbers(last)
    assert count == 9_000 and kibibytes < 64


def test_the_stream_forecasts_as_the_forecaster_does():
    module = example("streaming_from_a_generator")
    known = np.fromiter(module.itertools.islice(module.sensor(), 300), float)
    forecaster = module.LSTMForecaster(difference=False, epochs=1, random_state=0).fit(known)
    expected = forecaster.predict_all(known)[:-1, 0]
    said = [forecast for _, forecast in module.watch(forecaster, known)]
    assert np.isnan(said[0])
    np.testing.assert_allclose(said[1:], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["sunspot_forecast", "anomaly_alarm", "speaker_classification", "character_model", "streaming_from_a_generator"],
)
def test_it_says_how_to_run_it_and_is_short(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert f"    python examples/{name}.py" in text.split('"""')[1]
    assert len(text.splitlines()) < 60
