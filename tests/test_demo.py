"""The demo and the command line."""

import subprocess
import sys

import numpy as np
import pytest
from lstm_rs import demo
from lstm_rs.__main__ import main
from lstm_rs.datasets import load_sunspots


def command_line(*arguments, cwd=None):
    """Run ``python -m lstm_rs`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "lstm_rs", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Make every import of matplotlib fail as it does where there is none."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_the_data_are_complete():
    years, numbers = load_sunspots()
    np.testing.assert_array_equal(years, np.arange(1700, 2009))
    assert numbers.shape == (309,)
    # The first, the last, the record of 1957, and a year without a spot.
    assert numbers[0] == 5.0
    assert numbers[-1] == 2.9
    assert numbers[years == 1957] == numbers.max() == 190.2
    assert numbers[years == 1810] == numbers.min() == 0.0


def test_roots_go_there_and_back():
    numbers = np.array([0.0, 1.0, 50.0, 190.2])
    np.testing.assert_allclose(demo.to_numbers(demo.to_network(numbers)), numbers, rtol=1e-12)
    assert demo.to_numbers(np.array([-3.0])) == 0


def test_training_never_sees_the_held_out_years(monkeypatch):
    """Other numbers from 1920 on do not change the network."""
    years, numbers = load_sunspots()
    trained = []
    make = demo.make_forecaster
    monkeypatch.setattr(demo, "make_forecaster", lambda **options: trained.append(make(**options)) or trained[-1])
    for held_out in (numbers, np.where(years < 1920, numbers, 1e6)):
        monkeypatch.setattr(demo, "load_sunspots", lambda held_out=held_out: (years, held_out))
        demo.run(seed=0, units=4, epochs=1, out=None)
    first, second = (forecaster.model_.modules for forecaster in trained)
    for name, module in first.items():
        for key, array in module.weights.items():
            np.testing.assert_array_equal(array, second[name].weights[key])


@pytest.fixture(scope="module")
def sunspots():
    """Years, numbers, and forecasts by the command line's defaults."""
    years, numbers = load_sunspots()
    forecaster = demo.make_forecaster(seed=0, units=32, epochs=8)
    forecaster.fit(demo.to_network(numbers[years < demo.FIRST_HELD_OUT]))
    return years, numbers, forecaster


def test_a_forecast_sees_no_later_year(sunspots):
    _, numbers, forecaster = sunspots
    changed = numbers.copy()
    changed[100:] += 10
    before, after = demo.forecasts(forecaster, numbers), demo.forecasts(forecaster, changed)
    assert before.shape == numbers.shape and np.isnan(before[0])
    np.testing.assert_array_equal(before[:101], after[:101])
    assert np.all(before[101:] != after[101:])


def test_errors_compare_the_same_years():
    years = np.arange(1900, 1950)
    numbers = years.astype(np.float64)
    forecast = numbers.copy()
    errors = demo.held_out_errors(years, numbers, forecast)
    assert errors == (0.0, 1.0, 11.0)
    forecast[years == 1920] += 30  # the first that counts, of 30 that do
    assert demo.held_out_errors(years, numbers, forecast).network == pytest.approx(30**0.5)
    forecast[years == 1919] = np.nan
    assert demo.held_out_errors(years, numbers, forecast).network == pytest.approx(30**0.5)


def test_forecasts_beat_persistence(sunspots):
    years, numbers, forecaster = sunspots
    errors = demo.held_out_errors(years, numbers, demo.forecasts(forecaster, numbers))
    assert errors.network <= 0.8 * errors.persistence
    assert errors.network <= 0.8 * errors.cycle_before


def test_demo_on_the_command_line(tmp_path):
    pytest.importorskip("matplotlib")
    done = command_line("demo", "--epochs", "1", "--units", "4", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("epoch 1/1   loss ") and done.stderr.count("\n") == 1
    assert "of persistence" in done.stdout
    assert "NumPy reference" in done.stdout
    assert "times as long" in done.stdout
    assert (tmp_path / "sunspots.png").read_bytes().startswith(b"\x89PNG")


def test_demo_without_a_picture(tmp_path):
    done = command_line("demo", "--epochs", "1", "--units", "4", "--no-plot", cwd=tmp_path)
    assert done.returncode == 0
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
