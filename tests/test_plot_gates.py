"""Pictures of what gates did: they show the numbers of the tape and no others."""

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec, Weights, forward_train, plot

CELLS = {
    "1999": CellSpec(),
    "1997": CellSpec.hochreiter_1997(),
    "coupled": CellSpec(coupled=True),
    "no output gate": CellSpec.greff("NOG"),
    "no gates": CellSpec(input_gate=False, forget_gate=False, output_gate=False),
}
RNG = np.random.default_rng(7)
X = RNG.normal(size=(20, 3, 2)).astype(np.float32).cumsum(axis=0)


def figure():
    return pytest.importorskip("matplotlib.figure").Figure(figsize=(8, 8), layout="constrained")


def run(cell=None, **options):
    return LSTM(2, 7, cell=cell, seed=0, **options).forward_train(X, lengths=[20, 13, 0])[2]


def image(axes):
    """The rows of a map, as (T, K), NaN where it is blank."""
    (shown,) = axes.get_images()
    return np.ma.filled(shown.get_array().astype(np.float64), np.nan).T


def expected(tape, part, sequence, length):
    """What a map should show, of the tape alone."""
    if part == "c":
        rows = tape.c[:, sequence]
    elif part == "f" and tape.cell.coupled:
        rows = 1 - tape.gates[:, sequence, 0]
    else:
        rows = tape.gates[:, sequence, tape.cell.gates.index(part)]
    rows = rows.astype(np.float64)
    rows[length:] = np.nan
    return rows


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_maps_show_the_tape_in_one_order(cell):
    tape = run(cell).layers[0]
    there = [part for part in "ifog" if part in cell.gates or (part == "f" and cell.coupled)] + ["c"]
    drawn = plot.gates(tape, ax=figure())
    assert len(drawn) == 1 + len(there)
    order = plot.unit_order(tape)
    assert sorted(order) == list(range(7))
    for part, axes in zip(there, drawn[1:], strict=True):
        np.testing.assert_array_equal(image(axes), expected(tape, part, 0, 20)[:, order])
    # Columns are centred on their steps, and the first row is on top.
    (shown,) = drawn[1].get_images()
    assert shown.get_extent() == [-0.5, 19.5, 7.0, 0.0]
    assert drawn[1].get_ylim() == (7.0, 0.0)


def test_chosen_units_come_in_the_order_they_were_given_in():
    tape = run()
    drawn = plot.gates(tape, units=[5, 0, -1], show="fc", ax=figure())
    for part, axes in zip("fc", drawn, strict=True):
        np.testing.assert_array_equal(image(axes), expected(tape.layers[0], part, 0, 20)[:, [5, 0, 6]])
        assert [label.get_text() for label in axes.get_yticklabels()] == ["5", "0", "6"]
    assert drawn[0].get_title(loc="left").startswith("3 of 7 units")


def test_past_the_end_of_a_sequence_it_is_blank():
    drawn = plot.gates(run(), sequence=1, ax=figure())
    for axes in drawn[1:]:
        assert np.isnan(image(axes)[13:]).all()
        assert np.isfinite(image(axes)[:13]).all()
        assert axes.get_xlim() == (-0.5, 19.5)
    for column, line in zip(X[:, 1].T, drawn[0].get_lines(), strict=True):
        np.testing.assert_array_equal(line.get_ydata()[:13], column[:13])
        assert np.isnan(line.get_ydata()[13:]).all()


@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_and_directions(batch_first):
    x = X.swapaxes(0, 1) if batch_first else X
    lstm = LSTM(2, 7, num_layers=2, bidirectional=True, batch_first=batch_first, seed=0)
    _, _, tape = lstm.forward_train(x)
    for layer, reverse, number in ((0, False, 0), (0, True, 1), (1, False, 2), (-1, True, 3)):
        drawn = plot.gates(tape, layer=layer, reverse=reverse, sequence=2, units=range(7), ax=figure())
        for part, axes in zip("ifogc", drawn[1:], strict=True):
            np.testing.assert_array_equal(image(axes), expected(tape.layers[number], part, 2, 20))
        # Layer 1 reads what layer 0 says, 14 columns: a map.
        if number < 2:
            np.testing.assert_array_equal([line.get_ydata() for line in drawn[0].get_lines()], X[:, 2].T)
        else:
            below = np.asarray(tape.layers[2].x)
            np.testing.assert_array_equal(image(drawn[0]), below[2] if batch_first else below[:, 2])
        np.testing.assert_array_equal(
            plot.unit_order(tape.layers[number], sequence=2),
            plot.unit_order(tape, layer=layer, reverse=reverse, sequence=2),
        )


def test_a_tape_of_one_sequence_without_a_batch():
    rng = np.random.default_rng(0)
    weights = Weights(rng.normal(size=(16, 2)), rng.normal(size=(16, 4)))
    _, _, tape = forward_train(X[:, 0].astype(np.float64), weights, reverse=True)
    drawn = plot.gates(tape, units=range(4), ax=figure())
    np.testing.assert_array_equal(image(drawn[1]), tape.gates[:, 0, 0])
    np.testing.assert_array_equal([line.get_ydata() for line in drawn[0].get_lines()], X[:, 0].T)
    plot.gates(tape, reverse=True, ax=figure())  # it did run in reverse


def test_the_input_can_be_another():
    drawn = plot.gates(run(), x=np.arange(20), show="x", ax=figure())
    np.testing.assert_array_equal(drawn[0].get_lines()[0].get_ydata(), np.arange(20.0))


def test_gates_keep_the_scale_from_shut_to_open():
    drawn = plot.gates(run(), ax=figure())
    for axes in drawn[1:4]:
        (shown,) = axes.get_images()
        assert (shown.norm.vmin, shown.norm.vmax) == (0.0, 1.0)
    relu = plot.gates(run(CellSpec(gate_activation="relu")), show="f", ax=figure())[0].get_images()[0]
    most = run(CellSpec(gate_activation="relu")).layers[0].gates[:, 0, 1].max()
    assert relu.norm.vmax == pytest.approx(most)
    state = drawn[-1].get_images()[0].norm
    assert state.vmin == -state.vmax == pytest.approx(-np.abs(run().layers[0].c[:, 0]).max())


def test_where_steps_share_pixels_their_mean_is_shown():
    short = plot.gates(run(), show="i", ax=figure())[0].get_images()[0]
    tape = LSTM(1, 2, seed=0).forward_train(np.zeros((2000, 1), np.float32))[2]
    long = plot.gates(tape, show="i", ax=figure())[0].get_images()[0]
    assert (short.get_interpolation(), long.get_interpolation()) == ("nearest", "auto")


def test_brighter_is_more_in_grey():
    colours = pytest.importorskip("matplotlib").colormaps[plot.gates(run(), ax=figure())[1].get_images()[0].cmap.name]
    grey = colours(np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) > 0).all()


def test_lines_are_told_apart_without_colour():
    pytest.importorskip("matplotlib")
    from matplotlib.colors import to_rgb

    lines = plot.unit(run(), 0, ax=figure())[1].get_lines()
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 3
    grey = sorted(np.dot(to_rgb(line.get_color()), [0.299, 0.587, 0.114]) for line in lines)
    assert np.diff(grey).min() > 0.05


def test_times_and_marks():
    years = np.arange(1900, 1920)
    drawn = plot.gates(run(), times=years, mark=[1909.5, 1914.5], ax=figure())
    for axes in drawn:
        assert axes.get_xlim() == (1899.5, 1919.5)
        marks = {line.get_xdata()[0] for line in axes.get_lines() if line.get_label() == "_mark"}
        assert marks == {1909.5, 1914.5}
    assert drawn[-1].get_xlabel() == ""
    assert plot.gates(run(), ax=figure())[-1].get_xlabel() == "step $t$"


def test_dates():
    months = np.datetime64("2020-01", "M") + np.arange(20)
    drawn = plot.gates(run(), times=months, mark=np.datetime64("2020-06-15"), ax=figure())
    drawn[0].figure.draw_without_rendering()
    assert "2020-01" in [label.get_text() for label in drawn[-1].get_xticklabels()]
    assert {line.get_xdata()[0] for line in drawn[1].get_lines()} == {18428.0}  # days from 1970 on


@pytest.mark.parametrize("shown", ["subfigure", "list"])
def test_the_time_axis_can_be_shared_with_a_forecast(shown):
    whole = figure()
    if shown == "list":
        whole.set_layout_engine("none")  # which would put right what the maps get wrong
        top, *rest = whole.subplots(4, 1, sharex=True)
        drawn = plot.gates(run(), show="ifc", ax=rest)
    else:
        upper, lower = whole.subfigures(2, 1)
        top = upper.subplots()
        drawn = plot.gates(run(), show="ifc", ax=lower)
        top.sharex(drawn[0])
    plot.forecast(X[:, 0, 0], X[1:, 0, 0], start=1, ax=top)
    assert {axes.get_xlim() for axes in (top, *drawn)} == {(-0.5, 19.5)}
    if shown == "list":
        # Colour bars take no place from the maps: a step has the same place in all.
        whole.draw_without_rendering()
        assert len({(round(a.get_window_extent().x0), round(a.get_window_extent().x1)) for a in (top, *drawn)}) == 1


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_lines_of_a_unit(cell):
    tape = run(cell).layers[0]
    gates = [gate for gate in "ifo" if gate in cell.gates or (gate == "f" and cell.coupled)]
    drawn = plot.unit(tape, 4, sequence=1, ax=figure())
    assert len(drawn) == (3 if gates else 2)
    if gates:
        for gate, line in zip(gates, drawn[1].get_lines(), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), expected(tape, gate, 1, 13)[:, 4])
            assert f"{gate}_t" in line.get_label()
    state, enters, output = drawn[-1].get_lines()[:3]
    np.testing.assert_array_equal(state.get_ydata(), expected(tape, "c", 1, 13)[:, 4])
    i = expected(tape, "i", 1, 13)[:, 4] if cell.input_gate else 1.0
    np.testing.assert_array_equal(enters.get_ydata(), i * expected(tape, "g", 1, 13)[:, 4])
    # The layer computed h in float32.
    np.testing.assert_allclose(output.get_ydata()[:13], tape.y[:13, 1, 4], atol=1e-6)
    assert np.isnan(output.get_ydata()[13:]).all()


def test_the_valves_of_a_unit_go_from_shut_to_open():
    drawn = plot.unit(run(), 0, ax=figure())
    assert [label.get_text() for label in drawn[1].get_yticklabels()] == ["0 shut", "0.5", "1 open"]
    assert drawn[1].get_ylim() == (-0.04, 1.04)
    assert {axes.get_xlim() for axes in drawn} == {(-0.5, 19.5)}


def test_likes_stand_together():
    """Units that are driven by phases of one wave come in the order of the phases, forward or backward."""
    t = np.arange(200)
    shuffled = RNG.permutation(24)
    phases = np.linspace(0, np.pi, 24)[shuffled]
    tape = run_like(np.sin(t[:, None] / 9 + phases), np.sin(t / 9))
    found = phases[plot.unit_order(tape)]
    # What rises with the input, phase 0, is at the front.
    np.testing.assert_array_equal(found, np.sort(phases))
    backward = run_like(np.sin(t[:, None] / 9 + phases), -np.sin(t / 9))
    np.testing.assert_array_equal(phases[plot.unit_order(backward)], np.sort(phases)[::-1])


def run_like(c, x):
    """A tape with this state."""
    lstm = LSTM(1, c.shape[1], dtype=np.float64, seed=0)
    tape = lstm.forward_train(x[:, None])[2].layers[0]
    fields = {name: getattr(tape, name) for name in type(tape).__slots__}
    return type(tape)(**fields | {"c": c[:, None]})


def test_units_that_do_not_move_are_ordered_by_level():
    levels = np.array([0.5, -0.25, 0.75, 0.0, -1.0])
    assert plot.unit_order(run_like(np.tile(levels, (30, 1)), np.zeros(30))).tolist() == [2, 0, 3, 1, 4]
    for shuffled in (RNG.permutation(levels) for _ in range(8)):
        found = plot.unit_order(run_like(np.tile(shuffled, (30, 1)), np.zeros(30)))
        np.testing.assert_array_equal(shuffled[found], np.sort(levels)[::-1])
    # One that moves by less than rounding does not.
    jitter = np.tile(levels, (30, 1)) + 1e-12 * RNG.normal(size=(30, 5))
    assert plot.unit_order(run_like(jitter, RNG.normal(size=30))).tolist() == [2, 0, 3, 1, 4]
    assert plot.unit_order(run_like(np.zeros((1, 1)), np.zeros(1))).tolist() == [0]
    assert sorted(plot.unit_order(run_like(np.zeros((9, 4)), np.zeros(9)))) == [0, 1, 2, 3]


def test_units_at_two_levels_are_not_mixed():
    t = np.arange(100)
    c = np.sin(t[:, None] / 9 + np.linspace(0, 1, 10)) + np.tile([5.0, -5.0], 5)
    order = plot.unit_order(run_like(c, np.sin(t / 9)))
    assert len({k % 2 for k in order[:5]}) == 1


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"layer": 1}, ValueError, "layer: expected 0 to 0, as many as the tape has, got 1"),
        ({"layer": "first"}, TypeError, "layer: expected an int, got str"),
        ({"reverse": True}, ValueError, "reverse: this is the tape of an LSTM with bidirectional=False"),
        ({"reverse": 1}, TypeError, "reverse: expected a bool, got 1"),
        ({"sequence": 3}, ValueError, "sequence: expected 0 to 2, as many as the tape has, got 3"),
        ({"sequence": True}, TypeError, "sequence: expected an int, got True"),
        ({"sequence": 2}, ValueError, "tape: sequence 2 has no steps"),
        ({"units": [0, 7]}, ValueError, "units: expected 0 to 6, as many as the tape has, got 7"),
        ({"units": [0.5]}, TypeError, "units: expected an int, got float"),
        ({"units": []}, ValueError, "units: expected at least one of 0 to 6, got none"),
        ({"show": ["h"]}, ValueError, "show: expected of x, i, f, o, g, c, which the cell has, got 'h'"),
        ({"show": []}, ValueError, "show: expected at least one of x, i, f, o, g, c, got none"),
        ({"x": np.zeros(19)}, ValueError, "x: expected one sequence, .* as the tape has 20 steps, got shape"),
        ({"x": X}, ValueError, "x: expected one sequence"),
        ({"times": np.arange(19)}, ValueError, r"times: expected \(20,\), one for each step, got shape \(19,\)"),
        ({"times": list("abcdefghijklmnopqrst")}, TypeError, "times: expected numbers or datetime64, got <U1"),
        ({"times": np.arange(20) ** 2}, ValueError, "times: expected times that rise in even steps"),
        ({"times": np.arange(20)[::-1]}, ValueError, "times: expected times that rise in even steps"),
    ],
)
def test_wrong_arguments_get_a_sentence(options, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        plot.gates(run(), ax=figure(), **options)
    assert "\n" not in str(caught.value)


def test_wrong_tapes_get_a_sentence():
    for function in (plot.gates, plot.unit_order, lambda tape: plot.unit(tape, 0)):
        with pytest.raises(TypeError, match=r"^tape: expected a Tape or an LSTMTape of forward_train, got ndarray$"):
            figure()
            function(X)
    tape = run()
    with pytest.raises(ValueError, match=r"^k: expected 0 to 6, as many as the tape has, got 7$"):
        plot.unit(tape, 7, ax=figure())
    with pytest.raises(TypeError, match=r"^k: expected an int, got float$"):
        plot.unit(tape, 1.0, ax=figure())
    with pytest.raises(ValueError, match=r"^reverse: this is the tape of one direction, which ran forward"):
        plot.gates(tape.layers[0], reverse=True, ax=figure())
    with pytest.raises(ValueError, match=r"^show: expected of x, i, o, g, c, which the cell has, got 'f'$"):
        plot.gates(run(CellSpec.hochreiter_1997()), show="if", ax=figure())
    with pytest.raises(ValueError, match=r'^by: expected one of "c", "i", "f", "o", "g", got "x"$'):
        plot.unit_order(tape, by="x")
    empty = LSTM(2, 3, seed=0).forward_train(np.zeros((0, 1, 2), np.float32))[2]
    with pytest.raises(ValueError, match=r"^tape: expected at least one step of one sequence, got <Tape of T=0"):
        plot.gates(empty, ax=figure())
