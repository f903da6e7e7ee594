"""What all pictures promise: where they draw, what they leave alone, and what happens without matplotlib."""

import io
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec, plot

NAMES = [name for name in plot.__all__ if name != "unit_order"]  # which draws nothing


def wave(steps=50):
    return np.sin(np.arange(steps, dtype=np.float32) / 4)


@pytest.fixture(scope="module")
def tape():
    return LSTM(1, 6, seed=0).forward_train(wave()[:, None])[2]


@pytest.fixture
def draw(tape):
    """Each function on some data, by name."""
    history = type("History", (), {"loss": [3.0, 2.0, 1.0], "validation_loss": [3.0, 2.5, 2.6], "best_epoch": 1})()
    return {
        "anomaly": lambda **ax: plot.anomaly(wave(), np.abs(wave()), threshold=0.9, spans=[(3, 5)], **ax),
        "cell_diagram": lambda **ax: plot.cell_diagram(CellSpec.peephole_lstm(), **ax),
        "forecast": lambda **ax: plot.forecast(wave(), wave(9), truth=wave(9), sides=("known", "new"), **ax),
        "gates": lambda **ax: plot.gates(tape, mark=9.5, **ax),
        "history": lambda **ax: plot.history(history, **ax),
        "unit": lambda **ax: plot.unit(tape, 2, mark=[9.5, 20.5], **ax),
    }


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Make every import of matplotlib fail as it does where there is none."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture
def pyplot(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")

    def show(*args, **kwargs):
        raise AssertionError("show was called")

    monkeypatch.setattr(pyplot, "show", show)
    yield pyplot
    pyplot.close("all")


def figure(**options):
    return pytest.importorskip("matplotlib.figure").Figure(**options)


def drawn_axes(answer):
    return list(answer) if isinstance(answer, np.ndarray) else [answer]


def test_every_function_is_tried(draw):
    assert sorted(draw) == sorted(NAMES)


def test_importing_the_package_imports_no_matplotlib():
    code = (
        "import sys; import lstm_rs; assert 'lstm_rs.plot' not in sys.modules; import lstm_rs.plot; "
        "print([name for name in sys.modules if name.partition('.')[0] == 'matplotlib'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_without_matplotlib_a_call_says_what_to_install(name, draw, no_matplotlib):
    with pytest.raises(ImportError, match=rf"^{name} needs matplotlib: pip install 'lstm-rs\[plot\]'$"):
        draw[name]()


def test_the_order_of_units_needs_no_matplotlib(tape, no_matplotlib):
    assert sorted(plot.unit_order(tape)) == list(range(6))


@pytest.mark.parametrize("name", NAMES)
def test_with_ax_pyplot_is_not_touched(name, draw, monkeypatch):
    axes = figure().subplots()
    # An import raises, whoever has imported it before.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr("matplotlib.pyplot", raising=False)
    if name in ("anomaly", "gates", "unit"):
        draw[name](ax=figure())
    answer = drawn_axes(draw[name](ax=axes))
    # What is divided is drawn on in its parts.
    assert answer == [axes] or {part.figure for part in answer} == {axes.figure}
    assert answer == [axes] or set(answer) <= set(axes.child_axes)


@pytest.mark.parametrize("name", ["anomaly", "gates", "unit"])
@pytest.mark.parametrize("kind", ["figure", "subfigure", "list", "array", "divided"])
def test_panels_go_where_ax_says(name, kind, draw):
    whole = figure(figsize=(7, 7), layout="constrained")
    count = {"anomaly": 2, "gates": 6, "unit": 3}[name]
    if kind == "figure":
        answer = draw[name](ax=whole)
        assert list(answer) == whole.axes
    elif kind == "subfigure":
        left, right = whole.subfigures(1, 2)
        answer = draw[name](ax=right)
        assert list(answer) == right.axes
        assert left.axes == []
    elif kind == "divided":
        axes = whole.subplots()
        answer = draw[name](ax=axes)
        assert list(answer) == axes.child_axes
        assert not axes.axison
        whole.draw_without_rendering()
        boxes = [part.get_window_extent() for part in answer]
        assert all(low.y1 < high.y0 for high, low in itertools.pairwise(boxes))
        assert max(box.y1 for box in boxes) == pytest.approx(axes.get_window_extent().y1)
        assert min(box.y0 for box in boxes) == pytest.approx(axes.get_window_extent().y0)
    else:
        axes = whole.subplots(count, 1)
        answer = draw[name](ax=list(axes) if kind == "list" else axes)
        assert list(answer) == list(axes)
    assert answer.shape == (count,)
    # One time axis.
    assert len({part.get_xlim() for part in answer}) == 1


@pytest.mark.parametrize("name", ["anomaly", "gates", "unit"])
def test_panels_refuse_what_they_cannot_draw_on(name, draw):
    count = {"anomaly": 2, "gates": 6, "unit": 3}[name]
    with pytest.raises(ValueError, match=rf"^ax: expected {count} Axes, for .*, got 5$"):
        draw[name](ax=figure().subplots(5, 1))
    with pytest.raises(TypeError, match=rf"^ax: expected {count} Axes, a Figure, .*, got str$"):
        draw[name](ax="top")


@pytest.mark.parametrize("name", ["cell_diagram", "forecast", "history"])
def test_one_axes_is_wanted(name, draw):
    with pytest.raises(TypeError, match=r"^ax: expected a matplotlib Axes, got Figure$"):
        draw[name](ax=figure())


@pytest.mark.parametrize("name", ["cell_diagram", "forecast", "history"])
def test_without_ax_the_current_axes_are_drawn_on(name, draw, pyplot):
    _, (_, right) = pyplot.subplots(1, 2)
    assert pyplot.gca() is right
    assert draw[name]() is right


@pytest.mark.parametrize("name", ["anomaly", "gates", "unit"])
def test_without_ax_panels_get_a_new_figure(name, draw, pyplot):
    before = pyplot.figure()
    answer = draw[name]()
    assert list(answer) == pyplot.gcf().axes
    assert pyplot.gcf() is not before
    assert before.axes == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["png", "svg"])
def test_saving_gives_a_picture_and_no_warning(name, form, draw):
    axes = figure(figsize=(6, 6), layout="constrained").subplots()
    draw[name](ax=axes)
    file = io.BytesIO()
    axes.figure.savefig(file, format=form)
    assert file.getvalue().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[form])
    # Letters and lines: an empty Axes is far smaller.
    assert len(file.getvalue()) > {"png": 12_000, "svg": 15_000}[form]


@pytest.mark.parametrize("name", NAMES)
def test_the_style_stays_the_users(name, draw):
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    draw[name](ax=figure().subplots())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", NAMES)
def test_pictures_pickle(name, draw):
    axes = figure().subplots()
    draw[name](ax=axes)
    again = pickle.loads(pickle.dumps(axes.figure))
    assert len(again.axes) == len(axes.figure.axes)
