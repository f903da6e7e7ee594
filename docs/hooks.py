"""What MkDocs does besides when it builds the site: it runs the pages, and writes equations as MathML.

Figures and outputs are made by the pages' own code while the site is built, so that none can be out of date; see
blocks.py. The tests have run it already and hand its results over in the folder that the environment variable
``LSTM_RS_DOCS_MADE`` names.

Equations stand in the pages as TeX. Browsers show MathML by themselves, given a font that knows mathematics, which few
systems have: the site brings those letters of STIX Two that it uses, out of the package ziamath.
"""

from __future__ import annotations

import html
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from fontTools import subset
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</(?P=tag)>', re.DOTALL
)
# Latin, Greek, both in mathematical italics, and signs.
_LETTERS = [
    *range(0x20, 0x7F), *range(0xA0, 0x100), *range(0x391, 0x3CA), 0x210E, *range(0x1D434, 0x1D468),
    *range(0x1D6E2, 0x1D71C), 0x2016, 0x2026, 0x2032, *range(0x2061, 0x2065), *range(0x2190, 0x2194), 0x2202, 0x2208,
    0x2211, 0x2212, 0x221A, 0x221E, 0x2248, 0x2260, 0x2264, 0x2265, 0x2299, 0x22A4, 0x22C5, 0x22EF,
]  # fmt: skip


def _load_blocks() -> Any:
    # A hook is loaded by its path and has no package: its neighbour is loaded in the same way.
    spec = importlib.util.spec_from_file_location("docs_blocks", Path(__file__).with_name("blocks.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


blocks = _load_blocks()


def on_files(files: Any, *, config: Any) -> Any:
    """Add the font of the equations."""
    path = importlib.metadata.distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf")
    options = subset.Options(flavor="woff", layout_features=["*"], hinting=False, notdef_outline=True)
    font, file = subset.load_font(str(path), options), io.BytesIO()
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=_LETTERS)
    subsetter.subset(font)
    subset.save_font(font, file, options)
    files.append(File.generated(config, "assets/math.woff", content=file.getvalue()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Run the page where it shows what its code makes, and put that in; examples and records, too."""
    name = page.file.src_uri.removesuffix(".md")
    if blocks.makes(markdown):
        markdown = _shown(markdown, name, page, config, files)
    for mark, made in (("<!-- examples -->", _examples), ("<!-- records -->", _records), ("<!-- fits -->", _fits)):
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Turn TeX into MathML."""
    return _EQUATION.sub(_mathml, html)


def _shown(markdown: str, name: str, page: Any, config: Any, files: Any) -> str:
    text = blocks.pages()[name].read_text(encoding="utf-8")
    if lacking := blocks.missing(text):
        raise PluginError(f"{name}: its figures need {', '.join(lacking)}; see docs/mkdocs.yml for what to install")
    handed = os.environ.get("LSTM_RS_DOCS_MADE")
    made = None if handed is None else blocks.Made.load(text, Path(handed) / f"{name.replace('/', '-')}.json")
    if made is None:
        with tempfile.TemporaryDirectory() as folder:
            made = blocks.run(text, name, Path(folder))
    up = "../" * name.count("/")

    def figure(called: str, alt: str, caption: str) -> str:
        uri = f"figures/{name.replace('/', '-')}-{called}.svg"
        files.append(File.generated(config, uri, content=made.figures[called]))
        return (
            f'<figure markdown="span">\n<a href="{up}{uri}">![{alt}]({up}{uri})</a>\n'
            f'<figcaption markdown="span">{caption.strip()}</figcaption>\n</figure>'
        )

    return str(blocks.shown(markdown, made, figure))


def _examples() -> str:
    """All example scripts, each under its name."""
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts.append(f"## {path.name} {{ #{path.stem} }}\n\n```py\n{path.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)


def _records() -> str:
    """The tables of all records of ``python -m lstm_rs bench``, and one of their means."""
    from lstm_rs import bench

    means = [
        "| CPU | threads | forward | worst | forward+backward | worst |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    tables = []
    for path, record in _kept("shape"):
        threads = record["machine"]["threads"]
        found = bench.means(record)
        figures = [f"{figure:.2f}" for mode in ("forward", "train") for figure in _mean_and_worst(found[mode])]
        cpu = f"{record['cpu']} ({path.parent.name})"
        means.append(f"| {cpu} | {threads} | {' | '.join(figures)} |")
        others = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "lstm_rs")
        tables.append(
            f"### {cpu}, {threads} thread{'s' * (threads > 1)}\n\n{record['date'][:10]}, {record['isa']}, float32, "
            f"beside {others}.\n\n{_numbers(bench.markdown(record))}"
        )
    return "\n".join([*means, "", *tables])


def _fits() -> str:
    """The tables of all records of ``python -m lstm_rs.bench.fits``."""
    from lstm_rs.bench import fits

    tables = []
    for path, record in _kept("fit"):
        head, _, table = fits.markdown(record).partition("\n\n")
        tables.append(f"{record['date'][:10]}, {path.parent.name}: {head}.\n\n{_numbers(table)}")
    return "\n".join(tables)


def _kept(key: str) -> list[tuple[Path, dict[str, Any]]]:
    """The records that are kept in the repository, of the benchmark whose rows have this key."""
    paths = sorted((ROOT / "python/lstm_rs/bench/records").rglob("*.json"))
    records = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return [(path, record) for path, record in records if key in record["rows"][0]]


def _numbers(table: str) -> str:
    """A table of many numbers, set close."""
    return f'<div class="numbers" markdown>\n\n{table.strip()}\n\n</div>\n'


def _mean_and_worst(found: tuple[float, dict[str, Any]]) -> tuple[float, float]:
    mean, worst = found
    return mean, worst["ratio"]


def _mathml(match: re.Match[str]) -> str:
    tex = html.unescape(match["inline"] if match["block"] is None else match["block"])
    equation = convert(tex, display="inline" if match["block"] is None else "block")
    if (rows := equation.count("<mtr>")) and rows != tex.count(r"\\") + 1:
        raise PluginError(f"an equation has lost a row (is there an empty cell at its end?): {tex}")
    if match["block"] is None:
        return equation
    return f'<div class="equation">{equation}</div>'
