"""The documentation site: the code of its pages runs, its links lead somewhere, and it asks nothing of other machines.

The blocks of a page run in order, in one namespace, in a folder of their own. What they make is handed to the build, so
that each runs once.
"""

import html.parser
import importlib.util
import os
import re
import subprocess
import sys
import traceback
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SITE_NEEDS = ("mkdocs", "mkdocs-material", "mkdocstrings-python", "latex2mathml", "ziamath", "fonttools", "matplotlib")


def load(name):
    """A module of docs/, by its path: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


blocks = load("blocks")
PAGES = blocks.pages()


# ----------------------------- the pages' code


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


def is_installed(package):
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if blocks.code(path.read_text("utf-8"))])
def test_the_code_of_a_page_runs(name, made, tmp_path):
    text = PAGES[name].read_text(encoding="utf-8")
    if missing := blocks.missing(text):
        pytest.skip(f"{', '.join(missing)} is not installed")
    blocks.run(text, name, tmp_path).save(text, made / f"{name.replace('/', '-')}.json")


def test_every_block_of_python_is_found():
    for name, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        assert len(blocks.code(text)) == len(re.findall(r"^ *```python", text, re.MULTILINE)), name
        # Anything else that looks like a program's fence is not run.
        assert not re.search(r"^ *(```|~~~)(py|python3|pycon)\b", text, re.MULTILINE), name


def test_a_block_that_fails_is_told_by_page_and_line(tmp_path):
    text = "# Title\n\n```python\nx = 1\n```\n\nText.\n\n```python\nassert x == 1\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failed:
        blocks.run(text, "page", tmp_path)
    last = traceback.extract_tb(failed.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == ("page.md", 11)


def test_what_a_block_prints_and_draws_is_shown(tmp_path):
    pytest.importorskip("matplotlib")
    text = (
        "```python\nimport matplotlib.pyplot as plt\nprint('seen')\n```\n<!-- output -->\n\n"
        "```python\nplt.plot([1, 2])\nprint('| a |')\n```\n<!-- output: markdown -->\n"
        "<!-- figure: line\nalt: A line.\nThe caption. -->\n"
    )
    made = blocks.run(text, "page", tmp_path)
    assert made.outputs == ["seen\n", "| a |\n"]
    assert "<svg" in made.figures["line"]
    shown = blocks.shown(text, made, lambda *parts: f"FIGURE {parts}")
    assert "```{.text .output}\nseen\n```" in shown
    assert "\n| a |\n" in shown
    assert "FIGURE ('line', 'A line.', 'The caption.')" in shown
    assert "<!--" not in shown


def test_a_figure_that_was_not_drawn_is_an_error(tmp_path):
    pytest.importorskip("matplotlib")
    text = "```python\nx = 1\n```\n<!-- figure: nothing\nalt: Nothing.\nNothing. -->\n"
    with pytest.raises(RuntimeError, match="has drawn none"):
        blocks.run(text, "page", tmp_path)


def test_what_was_made_is_of_the_page_as_it_was(tmp_path):
    blocks.Made(["out"], {}).save("the page", tmp_path / "made.json")
    assert blocks.Made.load("the page", tmp_path / "made.json").outputs == ["out"]
    assert blocks.Made.load("the page, changed", tmp_path / "made.json") is None
    assert blocks.Made.load("the page", tmp_path / "other.json") is None


def test_the_packages_that_a_page_needs_are_named():
    assert blocks.missing("<!-- needs: numpy, no-such-package -->\n") == ["no-such-package"]


# ----------------------------- the built site


@pytest.fixture(scope="module")
def site(made, tmp_path_factory):
    """The site, built strictly: a warning is an error."""
    wanted = [*SITE_NEEDS, *(p for path in PAGES.values() for p in blocks.missing(shown_text(path)))]
    if missing := [package for package in dict.fromkeys(wanted) if not is_installed(package)]:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", str(folder)]
    env = os.environ | {"LSTM_RS_DOCS_MADE": str(made), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr + built.stdout
    return folder


def shown_text(path):
    """The text of a page that needs its code to have run, else nothing."""
    text = path.read_text(encoding="utf-8")
    return text if blocks.makes(text) else ""


# What a browser fetches by itself.
FETCHED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
           "embed": "src", "object": "data", "image": "href", "use": "href"}  # fmt: skip


class Page(html.parser.HTMLParser):
    """The names, the links and the resources of an HTML page."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links, self.fetched, self.tags = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and attributes.get("href") and attributes.get("rel") not in ("prev", "next", "canonical"):
            self.fetched.append(attributes["href"])
        if FETCHED.get(tag) in attributes:
            self.fetched.append(attributes[FETCHED[tag]])


@pytest.fixture(scope="module")
def built(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built(built, site):
    assert {path.relative_to(site).with_suffix("").as_posix() for path in built} == {*PAGES, "404"}


def test_links_and_their_anchors_lead_somewhere(built, site):
    count, broken = 0, []
    for path, page in built.items():
        if path.name == "404.html":  # it is shown at any address, and has links from the root
            continue
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and unquote(parts.fragment) not in built[target].names:
                # Tabs and the theme's own buttons go by scripts.
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert count > 1000


def test_nothing_is_fetched_from_another_machine(built, site):
    for path, page in built.items():
        assert [link for link in page.fetched if urlsplit(link).scheme or link.startswith("//")] == [], path
        # For these the theme's script would ask GitHub, or load a renderer.
        assert not [a for _, a in page.tags if "mermaid" in (a.get("class") or "").split()], path
        assert not [a for _, a in page.tags if a.get("data-md-component") in ("source", "consent", "analytics")], path
    for path in site.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", css), path


def test_equations_are_mathml(built, site):
    equations = 0
    for path, page in built.items():
        text = path.read_text(encoding="utf-8")
        assert 'class="arithmatex"' not in text, path
        equations += sum(tag == "math" for tag, _ in page.tags)
    assert equations > 50
    assert (site / "assets" / "math.woff").read_bytes()[:4] == b"wOFF"


def test_figures_are_described(built):
    images = [(path, a) for path, page in built.items() for tag, a in page.tags if tag == "img"]
    assert len(images) >= 10
    assert [(path, a) for path, a in images if len(a.get("alt", "")) < 20] == []


def test_docstrings_are_shown_without_marks_of_restructuredtext(built, site):
    for path in built:
        if path.parent.name == "api":
            text = re.sub(r"<pre>.*?</pre>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert not re.search(r"\]_|::</p>|^\.\. |@[A-Z]+@|={4,}", text, re.MULTILINE), path.relative_to(site)
            # A product is no emphasis, nor a power.
            assert {*re.findall(r"<(?:em|strong)>([^<]*)", text)} <= {"required"}, path.relative_to(site)


def test_all_that_is_public_is_in_the_api_pages(built, site):
    import lstm_rs
    import lstm_rs.estimators
    import lstm_rs.plot
    import lstm_rs.reference
    import lstm_rs.train

    names = set().union(*(page.names for path, page in built.items() if path.parent.name == "api"))
    modules = (lstm_rs, lstm_rs.train, lstm_rs.estimators, lstm_rs.plot, lstm_rs.reference)
    public = [(module.__name__, name) for module in modules for name in module.__all__ if name != "__version__"]
    assert len(public) > 60
    # `from_torch` and its like are imported from lstm_rs, and shown where they are defined.
    assert [n for m, n in public if f"{m}.{n}" not in names and f"lstm_rs.convert.{n}" not in names] == []
