"""The drawing of the cell: each part is there when the cell has it, and nothing runs into anything else."""

import functools
import itertools
import re

import numpy as np
import pytest
from lstm_rs import CellSpec, plot

BARE = CellSpec(input_gate=False, forget_gate=False, output_gate=False)
LONG = CellSpec(
    peephole=True,
    input_activation=("thresholded_relu", 0.123),
    output_activation=("scaled_tanh", 1.7159, 0.6667),
    gate_activation=("hard_sigmoid", 0.1667, 0.5),
    gate_clip=2.5,
    cell_clip=0.125,
)
SPECS = {
    "bare": BARE,
    "1997": CellSpec.hochreiter_1997(),
    "1999": CellSpec.gers_1999(),
    "peephole": CellSpec.peephole_lstm(),
    "coupled": CellSpec(coupled=True),
    "long names": LONG,
    "long names, coupled": CellSpec(
        coupled=True, peephole=True, gate_activation=("leaky_relu", 0.25), input_activation="identity", gate_clip=100
    ),
    **{name: CellSpec.greff(name) for name in ("V", "NIG", "NFG", "NOG", "NIAF", "NOAF", "NP", "CIFG")},
}
every_cell = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@functools.cache
def draw(spec, size=(6, 4)):
    axes = pytest.importorskip("matplotlib.figure").Figure(figsize=size).subplots()
    assert plot.cell_diagram(spec, ax=axes) is axes
    return axes


def parts(axes):
    """Give all artists by what they are."""
    found = {}
    for patch in axes.patches:
        name = patch.get_label()
        assert name.startswith("_")
        found.setdefault(name.removeprefix("_"), []).append(patch)
    return found


def texts(found):
    return [name.removeprefix("text ") for name in found if name.startswith("text ")]


def centre(patch):
    box = patch.get_path().get_extents()
    return np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])


def ends(patch):
    vertices = patch.get_path().vertices
    return vertices[0], vertices[-1]


@every_cell
def test_a_gate_is_drawn_when_the_cell_has_it(spec):
    found = parts(draw(spec))
    weighted = set(spec.gates)
    for gate, name in (("i", "input gate"), ("f", "forget gate"), ("o", "output gate")):
        assert (f"unit {gate}" in found) == (gate in weighted)
        assert (f"x and h to {gate}" in found) == (gate in weighted)
        assert (name in texts(found)) == (gate in weighted)
        assert (f"peephole {gate}" in found) == (gate in spec.peepholes)
    assert "unit g" in found
    assert {"$x_t$", "$h_t$", "$h_{t-1}$", "$c_t$", "$c_{t-1}$", "$g_t$", "cell input", "cell state"} <= set(
        texts(found)
    )
    assert {"state", "sum", "delay of c", "delay of h", "loop of c", "recurrence"} <= set(found)
    for gate in "ifo":
        there = gate in weighted or (gate == "f" and spec.coupled)
        assert (f"valve {gate}" in found) == there
    assert ("weight 1" in texts(found)) == (not spec.forget_gate)
    assert ("unit output activation" in found) == (spec.output_activation != "identity")


@every_cell
def test_a_coupled_forget_gate_is_drawn_as_such(spec):
    found = parts(draw(spec))
    assert ("coupling" in found) == spec.coupled
    assert ("$f_t=1-i_t$" in texts(found)) == spec.coupled
    if spec.coupled:
        assert {"$1-i_t$", "forget gate, coupled"} <= set(texts(found))
        # From the input gate to the valve of the state.
        assert np.linalg.norm(ends(found["i to f"][0])[0] - centre(found["unit i"][0])) < 0.6
        assert np.linalg.norm(ends(found["f"][0])[1] - centre(found["valve f"][0])) < 0.6


def test_the_input_and_the_forget_gate_peep_at_the_old_state_and_the_output_gate_at_the_new():
    found = parts(draw(CellSpec.peephole_lstm()))
    delay, state = centre(found["delay of c"][0]), centre(found["state"][0])
    old, new = centre(found["peepholes at the old state"][0]), centre(found["peephole at the new state"][0])
    loop = found["loop of c"][0].get_path()
    assert np.linalg.norm(ends(found["loop of c"][0])[0] - delay) < 0.2  # the loop begins after the delay
    assert loop.contains_point(old, radius=0.01) or np.min(np.abs(loop.vertices[:, 1] - old[1])) < 1e-9
    assert new[1] == pytest.approx(state[1])
    assert new[0] > state[0]
    for name, start in (("peephole i, first part", old), ("peephole f", old), ("peephole o", new)):
        np.testing.assert_allclose(ends(found[name][0])[0], start, atol=1e-9)
    for gate in "ifo":
        wire = found[f"peephole {gate}"][0]
        assert wire.get_linestyle() not in ("solid", "-")
        assert 0.5 < np.linalg.norm(ends(wire)[1] - centre(found[f"unit {gate}"][0])) < 0.8


@every_cell
def test_wires_end_where_a_part_begins(spec):
    """The tip of every arrow lies on the edge of a circle or a box, or on the line that it joins."""
    axes = draw(spec)
    found = parts(axes)
    shapes = [patches[0] for name, patches in found.items()
              if re.match(r"unit|valve|sum|state|clip c|coupling|bus", name)]  # fmt: skip
    for name, patches in found.items():
        if not name.startswith("head of ") or "key" in name:
            continue
        tip = patches[0].get_path().vertices[0]
        if name.removeprefix("head of ") in ("h", "c to h") and tip[0] > 12:
            continue  # out of the cell, to h_t
        inside = [shape for shape in shapes if shape.get_path().get_extents().padded(0.02).contains(*tip)]
        assert inside, name


@every_cell
def test_both_loops_are_closed(spec):
    found = parts(draw(spec))
    for path in (
        ["state", "c to delay", "delay of c", "loop of c", "sum" if not spec.forget_gate else "valve f"],
        ["fork of h", "h to delay", "delay of h", "recurrence", "bus"],
    ):
        for before, wire, after in zip(path[:-2:2], path[1:-1:2], path[2::2], strict=True):
            start, end = ends(found[wire][0])
            tips = found.get(f"head of {wire}")
            end = tips[0].get_path().vertices[0] if tips else end
            assert found[before][0].get_path().get_extents().padded(0.02).contains(*start), wire
            assert found[after][0].get_path().get_extents().padded(0.02).contains(*end), wire


def test_a_line_ends_inside_its_arrows_head():
    found = parts(draw(CellSpec.peephole_lstm()))
    heads = {name: patches[0] for name, patches in found.items() if name.startswith("head of ")}
    assert len(heads) > 15
    for name, head in heads.items():
        # At the tip the end of a broad line would be seen.
        end = ends(found[name.removeprefix("head of ")][0])[1]
        assert head.get_path().contains_point(end, radius=0.01), name
        assert np.linalg.norm(head.get_path().vertices[0] - end) > 0.1, name


@pytest.mark.parametrize(
    "field, value, name",
    [
        ("gate_activation", "sigmoid", "sigmoid"),
        ("gate_activation", ("hard_sigmoid", 0.25, 0.5), "hard sigmoid"),
        ("input_activation", "softsign", "softsign"),
        ("output_activation", ("elu", 0.5), "elu (0.5)"),
    ],
)
def test_activations_are_named(field, value, name):
    found = parts(draw(CellSpec(**{field: value})))
    count = 3 if field == "gate_activation" else 1
    assert len(found[f"text {name}"]) == count
    if name == "hard sigmoid":
        assert len(found["text (0.25, 0.5)"]) == count


def test_a_unit_shows_the_curve_of_its_activation():
    found = parts(draw(CellSpec(input_activation="relu", gate_clip=2.0)))
    (relu,) = found["curve of unit g"]
    x, y = relu.get_path().vertices.T
    half = len(x) // 2
    assert np.ptp(y[:half]) == 0  # 0 below 0
    assert (np.diff(y[half : half + 50]) > 0).all()
    assert np.ptp(y[-49:]) == 0  # above 2 the sum is cut


def test_clips_are_drawn():
    plain, clipped = parts(draw(CellSpec())), parts(draw(CellSpec(gate_clip=2.5, cell_clip=3)))
    assert set(clipped) - set(plain) >= {"clip c", r"text $|c|\leq 3$"}
    assert [text for text in texts(clipped) if r"$|z|\leq 2.5$" in text]
    assert not [text for text in texts(plain) if r"\leq" in text]


@every_cell
def test_no_text_runs_into_another_or_into_a_part(spec):
    axes = draw(spec)
    boxes, shapes = [], []
    for patch in axes.patches:
        name, box = patch.get_label(), patch.get_path().get_extents()
        assert axes.viewLim.x0 <= box.x0 <= box.x1 <= axes.viewLim.x1, name
        assert axes.viewLim.y0 <= box.y0 <= box.y1 <= axes.viewLim.y1, name
        if name.startswith("_text "):
            boxes.append((name, box))
        elif name.startswith(("_unit", "_valve", "_sum", "_delay", "_key")):
            shapes.append((name, box))
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)
    for (one, a), (other, b) in itertools.product(boxes, shapes):
        assert not a.overlaps(b), (one, other)
    for patch in axes.patches:
        name = patch.get_label()
        if not patch.get_fill() and not name.startswith(("_curve", "_zero", "_×", "_+")):
            line = patch.get_path().interpolated(50).vertices
            for one, box in boxes:
                inside = (line[:, 0] > box.x0) & (line[:, 0] < box.x1) & (line[:, 1] > box.y0) & (line[:, 1] < box.y1)
                assert not inside.any(), (one, name)


@every_cell
def test_a_part_has_the_same_place_in_every_cell(spec):
    full, found = draw(CellSpec.peephole_lstm()), draw(spec)
    assert found.get_xlim() == full.get_xlim()
    assert found.get_ylim() == full.get_ylim()
    places, expected = parts(found), parts(full)
    for name in set(places) & set(expected):
        if re.match(r"unit|valve|sum|state|delay of", name):
            np.testing.assert_array_equal(centre(places[name][0]), centre(expected[name][0]))


def test_the_same_letters_in_a_small_picture():
    large, small = draw(CellSpec(), (12, 8)), draw(CellSpec(), (3, 2))
    (a,), (b,) = (parts(axes)["text input gate"] for axes in (large, small))
    np.testing.assert_array_equal(a.get_path().vertices, b.get_path().vertices)
    (a,), (b,) = (parts(axes)["x and h to g"] for axes in (large, small))
    assert a.get_linewidth() > 2 * b.get_linewidth()


def test_the_default_is_the_default_cell():
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    assert sorted(parts(plot.cell_diagram(ax=axes))) == sorted(parts(draw(CellSpec())))
    assert axes.get_legend_handles_labels() == ([], [])


def test_another_type_is_refused():
    pytest.importorskip("matplotlib")
    with pytest.raises(TypeError, match=r"^spec: expected a CellSpec, got str; a layer has its own as lstm.cell$"):
        plot.cell_diagram("peephole")
