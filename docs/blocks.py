"""The Python blocks of a page: found, run in order in one namespace, and what they print and draw.

A page is Markdown. After a fenced block of Python there may be a comment, which becomes what the block has made::

    <!-- output -->                what it printed, as it is
    <!-- output: markdown -->      what it printed, as a part of the page
    <!-- figure: NAME
    alt: what is to be seen
    The caption. -->               the figure that it drew with pyplot

Another comment, ``<!-- needs: PACKAGE, ... -->``, names the optional packages without which the page cannot run. A page
that shows a figure needs matplotlib besides. Nothing here knows MkDocs: the tests run the pages without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "pages"

# Wide enough for a page, and letters of one size with its text. Paths in the place of letters look the same everywhere.
STYLE = {
    "figure.figsize": (8.5, 4.2),
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "lstm_rs",
}

_PIECES = re.compile(
    r"^(?P<indent> *)```python(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$"
    r"|^<!-- (?P<what>output: markdown|output"
    r"|figure: (?P<name>[a-z0-9-]+)\nalt: (?P<alt>[^\n]+)\n(?P<caption>.*?)) -->$",
    re.DOTALL | re.MULTILINE,
)
_NEEDS = re.compile(r"^<!-- needs: (.+?) -->\n", re.MULTILINE)


@dataclass
class Made:
    """What the blocks of a page have made: the text of each output, and each figure as SVG, by name."""

    outputs: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def save(self, text: str, path: Path) -> None:
        """Write it to a file, for this text of the page."""
        made = {"page": _digest(text), "outputs": self.outputs, "figures": self.figures}
        path.write_text(json.dumps(made), encoding="utf-8")

    @classmethod
    def load(cls, text: str, path: Path) -> Made | None:
        """Read it from a file, unless that is of another text or not there."""
        if not path.exists():
            return None
        made = json.loads(path.read_text(encoding="utf-8"))
        return cls(made["outputs"], made["figures"]) if made["page"] == _digest(text) else None


def pages() -> dict[str, Path]:
    """All pages, by their path without the suffix."""
    return {path.relative_to(PAGES).with_suffix("").as_posix(): path for path in sorted(PAGES.rglob("*.md"))}


def code(text: str) -> list[str]:
    """The blocks of a page, each after as many empty lines as stand before it on the page."""
    return [_block(text, piece) for piece in _PIECES.finditer(text) if piece["code"] is not None]


def missing(text: str) -> list[str]:
    """The packages that a page needs and that are not installed; none is imported."""
    named = [name.strip() for names in _NEEDS.findall(text) for name in names.split(",")]
    if "<!-- figure: " in text:
        named.append("matplotlib")
    return [name for name in dict.fromkeys(named) if not _installed(name)]


def run(text: str, name: str, folder: Path) -> Made:
    """Run the blocks of a page in order, in a folder of their own.

    Parameters
    ----------
    text : str
        The page.
    name : str
        Its name, for tracebacks.
    folder : Path
        The working directory meanwhile, where the blocks may write.

    Returns
    -------
    Made

    Raises
    ------
    Exception
        What a block raises.
    """
    made, printed = Made(), io.StringIO()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with _inside(folder), _drawing(text):
        for piece in _PIECES.finditer(text):
            if piece["code"] is not None:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(_block(text, piece), f"{name}.md", "exec"), namespace)
            elif piece["name"] is not None:
                made.figures[piece["name"]] = _figure()
            else:
                made.outputs.append(printed.getvalue())
    return made


def shown(text: str, made: Made, figure: Any) -> str:
    """Put what the blocks have made into the page, figures as ``figure(name, alt, caption)`` writes them."""
    outputs = iter(made.outputs)

    def replace(piece: re.Match[str]) -> str:
        if piece["code"] is not None:
            return piece[0]
        if piece["name"] is not None:
            return str(figure(piece["name"], piece["alt"], piece["caption"]))
        output = next(outputs)
        return output if piece["what"] == "output: markdown" else f"```{{.text .output}}\n{output.rstrip()}\n```\n"

    return _NEEDS.sub("", _PIECES.sub(replace, text))


def makes(text: str) -> bool:
    """Say whether the page shows what its blocks make."""
    return any(piece["what"] is not None for piece in _PIECES.finditer(text))


def _block(text: str, piece: re.Match[str]) -> str:
    return "\n" * (text.count("\n", 0, piece.start()) + 1) + textwrap.dedent(piece["code"])


def _figure() -> str:
    """The figure that pyplot has at hand, as SVG without a date; it is closed."""
    import matplotlib.pyplot as plt

    if not plt.get_fignums():
        raise RuntimeError("the page shows a figure, but the block before it has drawn none")
    file = io.StringIO()
    plt.gcf().savefig(file, format="svg", metadata={"Date": None})
    plt.close("all")
    return file.getvalue()


@contextlib.contextmanager
def _drawing(text: str) -> Iterator[None]:
    """In our style, and without a screen."""
    if "<!-- figure: " not in text:
        yield
        return
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        with matplotlib.rc_context(STYLE):
            yield
    finally:
        plt.close("all")
        matplotlib.use(before)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
