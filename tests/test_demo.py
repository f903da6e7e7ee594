"""The demo and the command line."""

import subprocess
import sys

import numpy as np
import pytest
from lstm_rs import demo
from lstm_rs.__main__ import main


def command_line(*arguments, cwd=None):
    """Run ``python -m lstm_rs`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "lstm_rs", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.fixture(scope="module")
def series():
    """The training years as the network sees them."""
    years, numbers = demo.load_sunspots()
    training = numbers[years < demo.FIRST_HELD_OUT]
    return demo.Scale.fit(training).to_network(training)


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Make every import of matplotlib fail as it does where there is none."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_the_data_are_complete():
    years, numbers = demo.load_sunspots()
    np.testing.assert_array_equal(years, np.arange(1700, 2009))
    assert numbers.shape == (309,)
    # The first, the last, the record of 1957, and a year without a spot.
    assert numbers[0] == 5.0
    assert numbers[-1] == 2.9
    assert numbers[years == 1957] == numbers.max() == 190.2
    assert numbers[years == 1810] == numbers.min() == 0.0


def test_scale_goes_there_and_back():
    numbers = np.array([0.0, 1.0, 50.0, 190.2])
    scale = demo.Scale.fit(numbers)
    values = scale.to_network(numbers)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(scale.to_numbers(values), numbers, atol=1e-4)
    assert scale.to_numbers(np.float32([-100.0])) == 0


def test_windows_hold_each_pair_of_years():
    x, target = demo.windows(np.arange(100, dtype=np.float32))
    assert x.shape == (demo.WINDOW, 100 - demo.WINDOW, 1)
    assert target.shape == x.shape[:2]
    np.testing.assert_array_equal(target, x[..., 0] + 1)
    assert x[0, 0, 0] == 0
    assert target[-1, -1] == 99


def test_training_never_sees_the_held_out_years(monkeypatch):
    """Other numbers from 1920 on do not change the network."""
    years, numbers = demo.load_sunspots()
    seen = []
    train = demo.train
    monkeypatch.setattr(demo, "train", lambda *arguments: seen.append(train(*arguments)) or seen[-1])
    for held_out in (numbers, np.where(years < 1920, numbers, 1e6)):
        monkeypatch.setattr(demo, "load_sunspots", lambda held_out=held_out: (years, held_out))
        demo.run(seed=0, units=4, epochs=1, out=None)
    first, second = seen
    np.testing.assert_array_equal(first.weight, second.weight)
    for name, array in first.lstm.weights.items():
        np.testing.assert_array_equal(array, second.lstm.weights[name])


def test_a_forecast_sees_no_later_year(series):
    net = demo.train(series, units=4, epochs=1, seed=0)
    changed = series.copy()
    changed[100:] += 1
    before, tape = net.forecast(series)
    after, _ = net.forecast(changed)
    assert before.shape == series.shape
    assert tape.gates.shape == (len(series), 1, 4, 4)
    assert tape.c.shape == (len(series), 1, 4)
    np.testing.assert_array_equal(before[:100], after[:100])
    assert np.all(before[100:] != after[100:])


def test_errors_compare_the_same_years():
    years = np.arange(1900, 1950)
    numbers = years.astype(np.float64)
    forecast = numbers + 1  # each says what the next year brings
    errors = demo.held_out_errors(years, numbers, forecast)
    assert errors == (0.0, 1.0, 11.0)
    forecast[years == 1919] += 30  # the forecast for 1920, the first that counts, of 30 that do
    assert demo.held_out_errors(years, numbers, forecast).network == pytest.approx(30**0.5)
    forecast[years == 1918] = np.nan  # for 1919
    forecast[years == 1949] = np.nan  # for a year of which nothing is known
    assert demo.held_out_errors(years, numbers, forecast).network == pytest.approx(30**0.5)


def test_the_first_years_of_a_window_do_not_count(series):
    net = demo.Forecaster.new(3, seed=0)  # untrained: it says 0
    x, target = (array[:, :5].copy() for array in demo.windows(series))
    loss, gradients = net.loss_and_gradients(x, target)
    assert loss == pytest.approx(np.mean(np.square(target[demo.WARM_UP :])), rel=1e-6)
    target[: demo.WARM_UP] = np.nan
    again, gradients_again = net.loss_and_gradients(x, target)
    assert again == loss
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, gradients_again[name])


def test_gradients_are_those_of_the_loss(series):
    """Differences of the loss agree with the gradients, along a random direction of all weights together."""
    net = demo.Forecaster.new(5, seed=1, in_numpy=True)
    rng = np.random.default_rng(2)
    net.weight += rng.normal(size=5)
    x, target = (array[:, :3].astype(np.float64) for array in demo.windows(series))
    _, gradients = net.loss_and_gradients(x, target)
    direction = {name: rng.normal(size=np.shape(gradient)) for name, gradient in gradients.items()}
    expected = sum(np.sum(gradients[name] * direction[name]) for name in gradients)
    losses = []
    for step in (-1e-5, 2e-5):
        net.subtract({name: -step * direction[name] for name in direction})
        losses.append(net.loss_and_gradients(x, target)[0])
    assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(expected, rel=1e-7)


def test_lstm_rs_trains_as_its_reference_does(series):
    x, target = (np.ascontiguousarray(array[:, :8]) for array in demo.windows(series))
    losses = []
    for in_numpy in (False, True):
        net, adam = demo.Forecaster.new(6, seed=3, in_numpy=in_numpy), demo.Adam()
        losses.append([demo.train_step(net, adam, x, target) for _ in range(10)])
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_adam_takes_first_steps_of_the_rate():
    """The first step is the rate in the direction of the gradient, whatever its size (Kingma & Ba, 2.1)."""
    steps = demo.Adam().steps({"a": np.array([1e-3, -5.0, 0.0])}, rate=0.1)
    np.testing.assert_allclose(steps["a"], [0.1, -0.1, 0.0], rtol=1e-3)


def test_clipping_keeps_the_direction():
    gradients = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}  # 5 long
    clipped = demo.clip(gradients)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.0])
    np.testing.assert_allclose(clipped["b"], [[0.8]])
    short = {"a": np.array([0.3]), "b": np.zeros(2)}
    np.testing.assert_array_equal(demo.clip(short)["a"], short["a"])


def test_forecasts_beat_persistence(series):
    """A full training with the command line's defaults. Ten seeds reach 0.5 to 0.6 of persistence."""
    years, numbers = demo.load_sunspots()
    scale = demo.Scale.fit(numbers[years < demo.FIRST_HELD_OUT])
    net = demo.train(series, units=32, epochs=8, seed=0)
    outputs, _ = net.forecast(scale.to_network(numbers))
    errors = demo.held_out_errors(years, numbers, scale.to_numbers(outputs))
    assert errors.network <= 0.8 * errors.persistence
    assert errors.network <= 0.8 * errors.cycle_before


def test_the_same_seed_trains_the_same_network(series):
    first, again, other = (demo.train(series, units=4, epochs=1, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert not np.array_equal(first.weight, other.weight)


def test_progress_in_a_file_is_a_few_lines(series, capsys):
    demo.train(series, units=1, epochs=40, seed=0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["10/40", "20/40", "30/40", "40/40"]


def test_progress_on_a_terminal_is_one_line(series, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    demo.train(series, units=1, epochs=6, seed=0)
    out = capsys.readouterr().out
    assert out.count("\r") == 6
    assert out.count("\n") == 1
    assert "0.0 s left" in out.rpartition("\r")[2]


def test_demo_on_the_command_line(tmp_path):
    pytest.importorskip("matplotlib")
    done = command_line("demo", "--epochs", "1", "--units", "4", "--seed", "7", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "of persistence" in done.stdout
    assert "NumPy reference" in done.stdout
    assert "times as long" in done.stdout
    assert (tmp_path / "sunspots.png").read_bytes().startswith(b"\x89PNG")


def test_demo_without_a_picture(tmp_path):
    done = command_line("demo", "--epochs", "1", "--units", "4", "--no-plot", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "icture" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_demo_without_matplotlib_says_how_to_get_the_picture(tmp_path, capsys, no_matplotlib):
    out = tmp_path / "sunspots.png"
    assert main(["demo", "--epochs", "1", "--units", "4", "--out", str(out)]) == 0
    assert 'pip install "lstm-rs[plot]"' in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize("name", ["no/such/folder.png", "sunspots.nope"])
def test_a_picture_that_cannot_be_written(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["demo", "--epochs", "1", "--units", "4", "--out", str(tmp_path / name)]) == 1
    assert "cannot write the picture" in capsys.readouterr().err


def test_the_picture_leaves_pyplot_alone(tmp_path):
    pytest.importorskip("matplotlib")
    code = (
        "import sys; from lstm_rs.__main__ import main;"
        "main(['demo', '--epochs', '1', '--units', '1', '--out', 'a.png']);"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, timeout=120)


def test_units_are_ordered_by_how_they_follow_the_sunspots():
    from lstm_rs._demo_plot import order_of_units

    numbers = np.array([0.0, 1.0, 2.0, 1.0])
    values = np.stack([-numbers, np.ones(4), 2 * numbers, numbers], axis=1)
    np.testing.assert_array_equal(order_of_units(values, numbers), [2, 3, 1, 0])


def test_info():
    import lstm_rs

    done = command_line("info")
    assert (done.returncode, done.stderr) == (0, "")
    assert lstm_rs.__version__ in done.stdout


def test_no_command_says_what_there_is():
    done = command_line()
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout
    assert "info" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "invalid choice: 'nope'"),
        (["demo", "--units", "0"], "--units: expected 1 or more, got 0"),
        (["demo", "--epochs", "many"], "--epochs: invalid integer value: 'many'"),
        (["demo", "--seed", "-1"], "--seed: expected 0 or more, got -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
