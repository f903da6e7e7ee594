"""Lines, circles and letters in the units of a diagram, so that all of it grows and shrinks as one.

Text is drawn as outlines, not as text of some points: in a small picture it gets smaller with the circles around it,
and what does not overlap at one size does not at any. Every artist says in its label what it is, behind an underscore,
which keeps it out of legends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path

Point = tuple[float, float]

INK, MEMORY, PEEPHOLE, QUIET, PAPER = "#1a1a1a", "#0b3c8c", "#a63c00", "#595959", "#ffffff"
CAPITAL = 0.73  # the height of a capital over the size of the font, in DejaVu Sans
HEAD = 0.24  # length of an arrow's head


class Canvas:
    """An Axes without scales that shows so many units."""

    def __init__(self, axes: Axes, left: float, right: float, bottom: float, top: float) -> None:
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        axes.set_axis_off()
        self.axes = axes
        # Widths of lines are in points: take what fits the Axes as it is now.
        box = axes.get_window_extent()
        unit = min(box.width / (right - left), box.height / (top - bottom)) * 72 / axes.figure.dpi
        self.point = min(max(unit / 40, 0.35), 2.0)

    def patch(self, name: str, path: Path, **style: Any) -> None:
        """Add an outline."""
        from matplotlib.patches import PathPatch

        # The limits are fixed: `add_patch` would measure each outline, which takes as long as all else.
        self.axes.add_artist(PathPatch(path, label=f"_{name}", **style))

    def wire(
        self,
        name: str,
        points: Sequence[Point],
        *,
        width: float = 1.3,
        color: str = INK,
        dashed: bool = False,
        head: bool = True,
        bend: float = 0.3,
    ) -> None:
        """Draw a line through points, round at its bends, with an arrow's head at the last."""
        from matplotlib.path import Path

        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        along = ((x1 - x0) / length, (y1 - y0) / length)
        end = (x1 - along[0] * HEAD * 0.8, y1 - along[1] * HEAD * 0.8) if head else (x1, y1)
        path = _rounded([*points[:-1], end], bend)
        dashes = (0, (2.6, 1.7)) if dashed else "solid"
        self.patch(name, path, fill=False, edgecolor=color, linewidth=width * self.point, linestyle=dashes,
                   capstyle="butt", zorder=2)  # fmt: skip
        if head:
            back = (x1 - along[0] * HEAD, y1 - along[1] * HEAD)
            aside = (-along[1] * HEAD * 0.4, along[0] * HEAD * 0.4)
            corners = [(x1, y1), (back[0] + aside[0], back[1] + aside[1]), (back[0] - aside[0], back[1] - aside[1])]
            self.patch(f"head of {name}", Path([*corners, corners[0]], closed=True), facecolor=color, linewidth=0,
                       zorder=3)  # fmt: skip

    def circle(self, name: str, centre: Point, radius: float, *, fill: str = PAPER, edge: str = INK) -> None:
        """Draw a circle."""
        from matplotlib.path import Path

        self.patch(name, Path.circle(centre, radius), facecolor=fill, edgecolor=edge, linewidth=1.3 * self.point,
                   zorder=4)  # fmt: skip

    def dot(self, name: str, centre: Point, color: str = INK) -> None:
        """Draw where a line branches."""
        self.circle(name, centre, 0.075, fill=color, edge=color)

    def box(self, name: str, centre: Point, width: float, height: float, *, fill: str = PAPER, edge: str = INK,
            bend: float = 0.12) -> None:  # fmt: skip
        """Draw a rectangle with round corners."""
        (x, y), dx, dy = centre, width / 2, height / 2
        middle = (x + dx, y)
        corners = [middle, (x + dx, y + dy), (x - dx, y + dy), (x - dx, y - dy), (x + dx, y - dy), middle]
        self.patch(name, _rounded(corners, bend), facecolor=fill, edgecolor=edge, linewidth=1.3 * self.point, zorder=4)

    def delay(self, name: str, centre: Point, color: str = INK) -> None:
        """Draw the black square that stands for one step of time."""
        self.box(name, centre, 0.3, 0.3, fill=color, edge=color, bend=0.04)

    def sign(self, name: str, centre: Point, sign: str, edge: str = INK) -> None:
        """Draw a circle with a times or a plus in it."""
        self.circle(name, centre, 0.29, edge=edge)
        arm = 0.16
        turn = math.pi / 4 if sign == "×" else 0.0
        for quarter in (0.0, math.pi / 2):
            dx, dy = arm * math.cos(turn + quarter), arm * math.sin(turn + quarter)
            self.stroke(f"{sign} of {name}", [(centre[0] - dx, centre[1] - dy), (centre[0] + dx, centre[1] + dy)], 1.5)

    def stroke(self, name: str, points: Sequence[Point], width: float, color: str = INK) -> None:
        """Draw a thin line over all else."""
        from matplotlib.path import Path

        self.patch(name, Path(points), fill=False, edgecolor=color, linewidth=width * self.point, zorder=5)

    def curve(self, name: str, centre: Point, function: Callable[[np.ndarray], np.ndarray], reach: float) -> None:
        """Draw a function of -4 to 4 inside a circle of twice that reach, over the line of 0."""
        z = np.linspace(-4.0, 4.0, 201)
        values = function(z)
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        x = centre[0] + reach * z / 4.0
        scale = 1.4 * reach / (high - low or 1.0)
        y = centre[1] + (values - (low + high) / 2) * scale
        zero = centre[1] - (low + high) / 2 * scale
        self.stroke(f"zero of {name}", [(x[0], zero), (x[-1], zero)], 0.6, QUIET)
        self.stroke(f"curve of {name}", list(zip(x.tolist(), y.tolist(), strict=True)), 1.5)

    def text(self, at: Point, text: str, *, size: float = 0.34, align: str = "center", color: str = INK) -> None:
        """Write at a point, which is half-way up a capital letter; with `align` "left" the text begins there."""
        from matplotlib.textpath import TextPath
        from matplotlib.transforms import Affine2D

        path = TextPath((0, 0), text, size=100)
        extent = path.get_extents()
        shift = {"left": extent.x0, "center": (extent.x0 + extent.x1) / 2, "right": extent.x1}[align]
        place = Affine2D().translate(-shift, -50 * CAPITAL).scale(size / 100).translate(*at)
        self.patch(f"text {text}", path.transformed(place), facecolor=color, linewidth=0, zorder=6)


def _rounded(points: Sequence[Point], bend: float) -> Path:
    """Give the path through points that takes its corners round."""
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near, far = (_towards(corner, other, bend) for other in (before, after))
        vertices += [near, corner, far]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*vertices, points[-1]], [*codes, Path.LINETO])


def _towards(start: Point, end: Point, distance: float) -> Point:
    """Go so far from one point towards another, or half the way."""
    length = math.hypot(end[0] - start[0], end[1] - start[1])
    part = min(distance / length, 0.5) if length else 0.0
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])
