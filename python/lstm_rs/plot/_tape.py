"""What pictures read out of a tape: one sequence, one layer and direction, each quantity as (T, H) with its symbol."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_rs._activations import activate
from lstm_rs._passes import LSTMTape
from lstm_rs.cell import CellSpec
from lstm_rs.functional import Tape


class Recording(NamedTuple):
    """One sequence of one part of a tape; NaN past its end."""

    cell: CellSpec
    x: np.ndarray  # (T, F)
    values: dict[str, np.ndarray]  # i, f, o, g, c, h as far as the cell has them, (T, H) each
    length: int  # valid steps


def recording(
    tape: Any, *, layer: int = 0, reverse: bool = False, sequence: int = 0, x: npt.ArrayLike | None = None
) -> Recording:
    """Read one sequence out of a tape; a coupled forget gate is 1 - i, and `h` is there before any projection."""
    part = _part(tape, layer, reverse)
    steps, batch, _, _ = part.gates.shape
    sequence = index("sequence", sequence, batch)
    length = steps if part.lengths is None else int(np.reshape(part.lengths, -1)[sequence])
    if length == 0:
        raise ValueError(f"tape: sequence {sequence} has no steps, so there is nothing to draw")

    def blank(array: np.ndarray) -> np.ndarray:
        array = np.array(array, dtype=np.float64)
        array[length:] = np.nan
        return array

    rows = {gate: part.gates[:, sequence, row] for row, gate in enumerate(part.cell.gates)}
    if part.cell.coupled:
        rows["f"] = 1.0 - rows["i"]
    c = blank(part.c[:, sequence])
    values: dict[str, np.ndarray] = {gate: blank(rows[gate]) for gate in ("i", "f", "o", "g") if gate in rows}
    values["c"] = c
    values["h"] = values.get("o", 1.0) * np.asarray(activate(part.cell.output_activation, c))
    return Recording(part.cell, blank(_input(part, sequence, x)), values, length)


def index(name: str, value: Any, count: int, why: str = "as many as the tape has") -> int:
    """Give an index as an int from 0, with -1 for the last."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}") from None
    if not -count <= number < count:
        raise ValueError(f"{name}: expected 0 to {count - 1}, {why}, got {number}")
    return number % count


def _part(tape: Any, layer: int, reverse: bool) -> Tape:
    """Find the tape of a layer and a direction."""
    if not isinstance(reverse, bool):
        raise TypeError(f"reverse: expected a bool, got {reverse!r}")
    if isinstance(tape, Tape):
        index("layer", layer, 1)
        if reverse and not tape.reverse:
            raise ValueError("reverse: this is the tape of one direction, which ran forward; leave it out")
        part = tape
    elif isinstance(tape, LSTMTape):
        directions = 2 if tape.layers[-1].reverse else 1
        number = index("layer", layer, len(tape.layers) // directions)
        if reverse and directions == 1:
            raise ValueError("reverse: this is the tape of an LSTM with bidirectional=False; leave it out")
        part = tape.layers[number * directions + reverse]
    else:
        raise TypeError(f"tape: expected a Tape or an LSTMTape of forward_train, got {type(tape).__name__}")
    if 0 in part.gates.shape[:2]:
        raise ValueError(f"tape: expected at least one step of one sequence, got {part!r}")
    return part


def _input(part: Tape, sequence: int, x: npt.ArrayLike | None) -> np.ndarray:
    """Find the input of a sequence (T, F), or take the one that was given."""
    steps = part.gates.shape[0]
    if x is None:
        array = np.asarray(part.x)
        if array.ndim == 3:
            array = array[sequence] if part.batch_first else array[:, sequence]
        return array
    array = np.asarray(x, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[0] != steps:
        raise ValueError(
            f"x: expected one sequence, ({steps},) or ({steps}, features) as the tape has {steps} steps, "
            f"got shape {np.shape(x)}"
        )
    return array
