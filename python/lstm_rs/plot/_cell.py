"""The cell as a drawing: what stands between x_t and h_t, as the parts of a `CellSpec` say.

The path of the data runs from left to right: g, the input gate's valve, the sum, the state c, its activation, the
output gate's valve. The state's loop through the forget gate's valve lies above it, the recurrent connection below. x_t
and h_{t-1} reach all units by one line that branches. A part has the same place in every drawing, so that the drawings
of several cells side by side show what one has that the other has not. Biases and weights are not drawn, nor a
projection, which is no part of the cell.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lstm_rs._activations import activate
from lstm_rs._optional import need
from lstm_rs.cell import Activation, CellSpec
from lstm_rs.plot._axes import one_axes
from lstm_rs.plot._canvas import MEMORY, PEEPHOLE, QUIET, Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__doctest_requires__ = {"cell_diagram": ["matplotlib"]}

_DEFAULT_CELL = CellSpec()

BUS, INPUT, VALVE_I, SUM, CELL, SQUASH, VALVE_O, FORK = 0.0, 1.35, 3.1, 5.4, 7.7, 9.6, 11.1, 12.1  # x
RETURN, MAIN, UNDER, GATES, FORGET, RAIL, KEY = -2.1, 0.0, 1.05, 2.1, 4.1, 6.0, -2.9  # y
RADIUS, SIGN, HALF = 0.52, 0.29, 0.5  # of a unit, of a sign, half a side of the state
GATE_FILL, UNIT_FILL, STATE_FILL = "#fbe7a8", "#ffffff", "#d5e1f5"
SMALL, LINE = 0.27, 0.35  # size of small letters, and the height of their lines


def cell_diagram(spec: CellSpec = _DEFAULT_CELL, *, ax: Axes | None = None) -> Axes:
    """Draw a cell with the parts that it has.

    Parameters
    ----------
    spec : CellSpec, default CellSpec()
        The cell. A gate that is not there is not drawn; the loop of a state that is never forgotten says "weight 1".
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default ``matplotlib.pyplot.gca()``.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on: without scales, of equal aspect, the same limits for every cell.

    Raises
    ------
    TypeError
        If `spec` is not a CellSpec, or `ax` not an Axes.
    ImportError
        Without matplotlib.

    Notes
    -----
    A unit is a circle with the curve of its activation, from -4 to 4. It takes the weighted sum of what its arrows
    bring, and `gate_clip` cuts that sum, z, before the activation. A square is a delay of one step: the input and the
    forget gate peep at the state of the step before, the output gate at the new one, after `cell_clip`. The arrangement
    is our own; what is drawn is the equations of `CellSpec`, after Graves et al. [1]_ and Greff et al. [2]_.

    References
    ----------
    .. [1] A. Graves, A. Mohamed, G. Hinton, "Speech recognition with deep recurrent neural networks", ICASSP 2013.
    .. [2] K. Greff, R. K. Srivastava, J. Koutník, B. R. Steunebrink, J. Schmidhuber, "LSTM: a search space odyssey",
       IEEE TNNLS 28(10), 2017, figure 1.

    Examples
    --------
    >>> from lstm_rs import CellSpec, plot
    >>> from matplotlib.figure import Figure
    >>> left, right = Figure(figsize=(12, 4)).subplots(1, 2)
    >>> axes = plot.cell_diagram(CellSpec.hochreiter_1997(), ax=left)
    >>> axes = plot.cell_diagram(CellSpec.gers_1999(), ax=right)
    """
    need("matplotlib", "cell_diagram", "plot")
    if not isinstance(spec, CellSpec):
        raise TypeError(f"spec: expected a CellSpec, got {type(spec).__name__}; a layer has its own as lstm.cell")
    canvas = Canvas(one_axes(ax), -1.75, 13.95, -3.25, 6.15)
    _draw_data_path(canvas, spec)
    _draw_memory(canvas, spec)
    _draw_gates(canvas, spec)
    _draw_peepholes(canvas, spec)
    _draw_recurrence(canvas)
    _draw_key(canvas, spec)
    return canvas.axes


def _draw_data_path(canvas: Canvas, spec: CellSpec) -> None:
    """Draw what leads from x_t through the state to h_t."""
    canvas.text((BUS - 1.3, MAIN), "$x_t$", size=0.46)
    canvas.wire("x", [(BUS - 0.95, MAIN), (BUS, MAIN)], width=1.8, head=False)
    canvas.wire("x and h to g", [(BUS, MAIN), (INPUT - RADIUS, MAIN)], width=1.8)
    canvas.dot("bus", (BUS, MAIN))
    _draw_unit(canvas, "g", (INPUT, MAIN), spec.input_activation, spec.gate_clip, UNIT_FILL)
    canvas.text((INPUT, MAIN - 0.82), "cell input")
    _write_activation(canvas, (INPUT, MAIN - 1.2), spec.input_activation)

    into = VALVE_I - SIGN if spec.input_gate else SUM - SIGN
    canvas.wire("g", [(INPUT + RADIUS, MAIN), (into, MAIN)], width=1.8)
    canvas.text((INPUT + RADIUS + 0.35, MAIN + 0.32), "$g_t$")
    if spec.input_gate:
        canvas.sign("valve i", (VALVE_I, MAIN), "×")
        canvas.wire("i times g", [(VALVE_I + SIGN, MAIN), (SUM - SIGN, MAIN)], width=1.8)
    canvas.sign("sum", (SUM, MAIN), "+", edge=MEMORY)
    if spec.cell_clip is None:
        canvas.wire("sum to c", [(SUM + SIGN, MAIN), (CELL - HALF, MAIN)], width=2.4, color=MEMORY)
    else:
        middle = (SUM + SIGN + CELL - HALF) / 2
        canvas.wire("sum to clip", [(SUM + SIGN, MAIN), (middle - 0.3, MAIN)], width=2.4, color=MEMORY)
        canvas.box("clip c", (middle, MAIN), 0.6, 0.6)
        canvas.curve("clip c", (middle, MAIN), lambda z: np.clip(z, -2.0, 2.0), 0.22)
        canvas.wire("clip to c", [(middle + 0.3, MAIN), (CELL - HALF, MAIN)], width=2.4, color=MEMORY)
        canvas.text((middle, MAIN + 0.58), f"$|c|\\leq {spec.cell_clip:g}$", size=SMALL, color=QUIET)
    canvas.box("state", (CELL, MAIN), 2 * HALF, 2 * HALF, fill=STATE_FILL, edge=MEMORY)
    canvas.text((CELL, MAIN), "$c_t$", size=0.46)
    canvas.text((CELL, MAIN - 0.82), "cell state")

    start, end = CELL + HALF, VALVE_O - SIGN if spec.output_gate else FORK + 0.55
    if spec.output_activation != "identity":
        canvas.wire("c", [(start, MAIN), (SQUASH - RADIUS, MAIN)], width=1.8)
        _draw_unit(canvas, "output activation", (SQUASH, MAIN), spec.output_activation, None, UNIT_FILL)
        _write_activation(canvas, (SQUASH, MAIN - 0.82), spec.output_activation)
        start = SQUASH + RADIUS
    canvas.wire("c to h", [(start, MAIN), (end, MAIN)], width=1.8)
    if spec.output_gate:
        canvas.sign("valve o", (VALVE_O, MAIN), "×")
        canvas.wire("h", [(VALVE_O + SIGN, MAIN), (FORK + 0.55, MAIN)], width=1.8)
    canvas.text((FORK + 0.95, MAIN), "$h_t$", size=0.46)


def _draw_memory(canvas: Canvas, spec: CellSpec) -> None:
    """Draw the loop from the state through the forget gate's valve, if there is one, back into the sum."""
    canvas.wire("c to delay", [(CELL, MAIN + HALF), (CELL, UNDER + 0.15)], width=2.4, color=MEMORY, head=False)
    canvas.delay("delay of c", (CELL, UNDER + 0.15), MEMORY)
    canvas.text((CELL - 0.12, GATES + 0.33), "$c_{t-1}$", align="right")
    corner = [(CELL, UNDER + 0.3), (CELL, GATES)]
    if not spec.forget_gate:
        canvas.wire("loop of c", [*corner, (SUM, GATES), (SUM, MAIN + SIGN)], width=2.4, color=MEMORY)
        canvas.text((SUM - 0.05, GATES + 0.33), "weight 1")
        return
    canvas.wire("loop of c", [*corner, (SUM + SIGN, GATES)], width=2.4, color=MEMORY)
    canvas.sign("valve f", (SUM, GATES), "×", edge=MEMORY)
    canvas.wire("f times c", [(SUM, GATES - SIGN), (SUM, MAIN + SIGN)], width=2.4, color=MEMORY)


def _draw_gates(canvas: Canvas, spec: CellSpec) -> None:
    """Draw the gates, what they act on, and the line that brings them x_t and h_{t-1}."""
    places = {"i": (VALVE_I, GATES), "f": (SUM, FORGET), "o": (VALVE_O, GATES)}
    ends = {"i": GATES - RADIUS, "f": FORGET - RADIUS, "o": GATES - RADIUS}
    valves = {"i": MAIN + SIGN, "f": GATES + SIGN, "o": MAIN + SIGN}
    present = [gate for gate in spec.gates if gate != "g"]
    for gate in present:
        x, y = places[gate]
        _draw_unit(canvas, gate, (x, y), spec.gate_activation, spec.gate_clip, GATE_FILL)
        canvas.wire(gate, [(x, ends[gate]), (x, valves[gate])])
        side = -1 if gate == "i" else 1
        canvas.text((x + side * 0.14, (ends[gate] + valves[gate]) / 2 + 0.08), f"${gate}_t$",
                    align="right" if side < 0 else "left")  # fmt: skip
    heights = {"i": GATES, "f": FORGET, "o": RAIL}
    top = present[-1] if present else None
    for gate in present:
        x, y = places[gate]
        end = (x, y + RADIUS) if gate == "o" else (x - RADIUS, y)
        branch = [(BUS, heights[gate])] + ([(x, RAIL)] if gate == "o" else [])
        start = [(BUS, MAIN)] if gate == top else []
        canvas.wire(f"x and h to {gate}", [*start, *branch, end], width=1.0)
        if gate != top:
            canvas.dot(f"branch to {gate}", (BUS, heights[gate]))
    if present:
        canvas.text((BUS - 0.18, 1.05), "$x_t,\\ h_{t-1}$", size=0.3, align="right", color=QUIET)
    lines = len(_words(spec.gate_activation))
    for gate, name, at, align in (
        ("i", "input gate", (VALVE_I, GATES + RADIUS + 0.25 + LINE * lines), "center"),
        ("f", "forget gate", (SUM, FORGET + RADIUS + 0.25 + LINE * lines), "center"),
        ("o", "output gate", (VALVE_O + RADIUS + 0.2, GATES + LINE * lines / 2), "left"),
    ):
        if gate in present:
            canvas.text(at, name, align=align)
            _write_activation(canvas, (at[0], at[1] - 0.38), spec.gate_activation, align)
    if spec.gate_clip is not None:
        text = f"gates and cell input cut their sum $z$ to $|z|\\leq {spec.gate_clip:g}$"
        canvas.text(((BUS + FORK) / 2 + 1.0, RETURN + 0.4), text, size=SMALL, color=QUIET)
    if spec.coupled:
        x = (VALVE_I + RADIUS + SUM - SIGN) / 2
        canvas.wire("i to f", [(VALVE_I + RADIUS, GATES), (x - 0.4, GATES)])
        canvas.box("coupling", (x, GATES), 0.8, 0.56, fill=GATE_FILL)
        canvas.text((x, GATES), "$1-i_t$", size=SMALL)
        canvas.wire("f", [(x + 0.4, GATES), (SUM - SIGN, GATES)])
        canvas.text((SUM - 0.6, GATES + 1.22), "forget gate, coupled", align="left")
        canvas.text((SUM - 0.6, GATES + 0.76), "$f_t=1-i_t$", align="left")


def _draw_peepholes(canvas: Canvas, spec: CellSpec) -> None:
    """Draw how gates see the state: the input and the forget gate the old one, the output gate the new."""
    wire = partial(canvas.wire, color=PEEPHOLE, dashed=True)
    x = SUM + 1.2
    if {"i", "f"} & set(spec.peepholes):
        canvas.dot("peepholes at the old state", (x, GATES), PEEPHOLE)
    if "i" in spec.peepholes:
        # It goes under the loop, which is in its way.
        wire("peephole i, first part", [(x, GATES), (x, UNDER), (SUM + 0.16, UNDER)], head=False)
        part = RADIUS * 0.5**0.5
        wire("peephole i", [(SUM - 0.16, UNDER), (VALVE_I + part + GATES - part - UNDER, UNDER),
                            (VALVE_I + part, GATES - part)])  # fmt: skip
    if "f" in spec.peepholes:
        wire("peephole f", [(x, GATES), (x, FORGET), (SUM + RADIUS, FORGET)])
    if "o" in spec.peepholes:
        x = CELL + HALF + 0.35
        canvas.dot("peephole at the new state", (x, MAIN), PEEPHOLE)
        wire("peephole o", [(x, MAIN), (x, GATES), (VALVE_O - RADIUS, GATES)])


def _draw_recurrence(canvas: Canvas) -> None:
    """Draw how h_t comes back one step later."""
    canvas.dot("fork of h", (FORK, MAIN))
    middle = (BUS + FORK) / 2
    canvas.wire("h to delay", [(FORK, MAIN), (FORK, RETURN), (middle, RETURN)], width=1.0, head=False)
    canvas.delay("delay of h", (middle, RETURN))
    canvas.wire("recurrence", [(middle - 0.15, RETURN), (BUS, RETURN), (BUS, MAIN - 0.06)], width=1.0)
    canvas.text((BUS - 0.18, -1.05), "$h_{t-1}$", align="right")


def _draw_key(canvas: Canvas, spec: CellSpec) -> None:
    """Say what the signs mean, of those that are there."""
    x = -1.2
    if spec.input_gate or spec.forget_gate or spec.output_gate:
        canvas.sign("key to valves", (x, KEY), "×")
        canvas.text((x + 0.45, KEY), "valve: multiplies", size=SMALL, align="left")
        x += 3.7
    canvas.sign("key to the sum", (x, KEY), "+")
    canvas.text((x + 0.45, KEY), "adds", size=SMALL, align="left")
    x += 2.1
    canvas.delay("key to delays", (x, KEY))
    canvas.text((x + 0.35, KEY), "one step later", size=SMALL, align="left")
    x += 3.2
    if spec.peepholes:
        canvas.wire("key to peepholes", [(x, KEY), (x + 1.0, KEY)], color=PEEPHOLE, dashed=True)
        canvas.text((x + 1.2, KEY), "peephole: a gate sees the state", size=SMALL, align="left")


def _draw_unit(
    canvas: Canvas, name: str, at: tuple[float, float], activation: Activation, clip: float | None, fill: str
) -> None:
    """Draw a circle with what it makes of the sum of its inputs."""
    canvas.circle(f"unit {name}", at, RADIUS, fill=fill)
    bound = np.inf if clip is None else clip
    canvas.curve(f"unit {name}", at, lambda z: np.asarray(activate(activation, np.clip(z, -bound, bound))), 0.34)


def _write_activation(canvas: Canvas, at: tuple[float, float], activation: Activation, align: str = "center") -> None:
    """Write the name of an activation, on one line or two."""
    for index, line in enumerate(_words(activation)):
        canvas.text((at[0], at[1] - LINE * index), line, size=SMALL, align=align, color=QUIET)


def _words(activation: Activation) -> list[str]:
    """Name an activation on lines of about a dozen letters.

    Examples
    --------
    >>> _words(("hard_sigmoid", 0.25, 0.5)), _words("sigmoid"), _words(("elu", 0.5))
    (['hard sigmoid', '(0.25, 0.5)'], ['sigmoid'], ['elu (0.5)'])
    """
    name, parameters = (activation, ()) if isinstance(activation, str) else (activation[0], activation[1:])
    lines = [""]
    for word in [*name.split("_"), *([f"({', '.join(f'{p:.4g}' for p in parameters)})"] if parameters else [])]:
        if lines[-1] and len(lines[-1]) + len(word) > 12:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
