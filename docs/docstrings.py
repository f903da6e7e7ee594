"""Docstrings as the site shows them: what numpydoc writes in reStructuredText, in Markdown.

The docstrings are to be read with ``help`` first of all. Three marks of theirs mean something else in Markdown: the two
colons before a literal block, the references ``[1]_`` with their list, and simple tables. An extension of griffe, which
reads the sources for the API pages, rewrites them.

Numpydoc also lets one entry stand for several: ``h, c`` for two arguments, ``int, Generator or None`` for a type,
``ValueError, TypeError`` for two errors. Griffe gives all arguments of an entry the type of the first, knows no two
names of what is returned, and takes a list of types for a tuple; that is mended after it has parsed them. So are stars,
which are products in a docstring, and defaults that are private constants, for which their value stands.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import (
    DocstringSectionAdmonition,
    DocstringSectionAttributes,
    DocstringSectionParameters,
    DocstringSectionRaises,
    DocstringSectionReturns,
    DocstringSectionText,
    ExprTuple,
    Extension,
    Function,
    Module,
    Object,
)

_STAR = re.compile(r"(`+)(?:(?!\1).)+\1|(?<=[\w)])(\*+)(?=[\w(-])", re.DOTALL)
_REFERENCE = re.compile(r"^( *)\.\. \[(\d+)\] (.+(?:\n\1 +\S.*)*)", re.MULTILINE)
_TABLE = re.compile(r"^( *)(=+) (=+)\n((?:\1\S.*\n)+?)\1=+ =+$", re.MULTILINE)


_OF_ENTRIES = (
    DocstringSectionParameters,
    DocstringSectionReturns,
    DocstringSectionRaises,
    DocstringSectionAttributes,
)


class Numpydoc(Extension):
    """Rewrites every docstring before it is parsed, and mends what has been parsed."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Go through a package that has been read as a whole."""
        _rewrite(pkg)


def _rewrite(obj: Object) -> None:
    for member in obj.members.values():
        if not member.is_alias:
            _rewrite(member)  # type: ignore[arg-type]
    if isinstance(obj, Function):
        _mend_defaults(obj)
    if obj.docstring is None:
        return
    obj.docstring.value = markdown(obj.docstring.value)
    function: Any = obj.members.get("__init__") if obj.is_class else obj
    for section in obj.docstring.parsed:
        if isinstance(section, DocstringSectionText):
            section.value = _escaped(section.value)
        elif isinstance(section, DocstringSectionAdmonition):
            section.value.description = _escaped(section.value.description)
        elif isinstance(section, _OF_ENTRIES):
            if isinstance(section, DocstringSectionParameters) and isinstance(function, Function):
                _mend_parameters(section.value, function.parameters)
            for entry in section.value:
                _mend_entry(entry)


def _mend_defaults(function: Function) -> None:
    """Put the value of a private constant of the module in the place of its name."""
    for parameter in function.parameters:
        name = str(parameter.default)
        constant = function.module.members.get(name) if name.startswith("_") else None
        if constant is not None and constant.is_attribute:
            parameter.default = str(constant.value)  # type: ignore[union-attr]


def _mend_entry(entry: Any) -> None:
    """One entry of a table."""
    entry.description = _escaped(entry.description)
    if isinstance(entry.annotation, ExprTuple):
        entry.annotation.implicit = True  # written without brackets
    elif isinstance(entry.annotation, str) and " : " in entry.annotation and not getattr(entry, "name", "-"):
        entry.name, entry.annotation = entry.annotation.split(" : ", 1)


def _escaped(text: str) -> str:
    """Text whose stars are stars, outside of code."""
    runs: list[tuple[bool, list[str]]] = []
    empty = code = False
    for line in text.split("\n"):
        if line.strip():
            code = line.startswith("    ") and (code or empty)
        empty = not line.strip()
        if not runs or runs[-1][0] != code:
            runs.append((code, []))
        runs[-1][1].append(line)
    return "\n".join("\n".join(lines) if code else _STAR.sub(_escape, "\n".join(lines)) for code, lines in runs)


def _escape(match: re.Match[str]) -> str:
    return match[0] if match[1] else match[2].replace("*", r"\*")


def _mend_parameters(entries: list[Any], parameters: Any) -> None:
    """Give each argument its own default, and where its entry has no type, its own annotation."""
    known = [entry for entry in entries if entry.name in parameters]
    annotations = [parameters[entry.name].annotation for entry in known]
    for entry, annotation in zip(known, annotations, strict=True):
        entry.value = parameters[entry.name].default
        if any(entry.annotation is other for other in annotations):
            entry.annotation = annotation


def markdown(text: str) -> str:
    """Rewrite a docstring."""
    text = _TABLE.sub(_table, text)
    text = _REFERENCE.sub(lambda m: f"{m[1]}{m[2]}. {' '.join(m[3].split())}", text)
    text = re.sub(r" ?\[(\d+)\]_", r" \\[\1\\]", text)
    text = re.sub(r"^ *::\n", "", text, flags=re.MULTILINE)
    return re.sub(r" ?::$", ":", text, flags=re.MULTILINE)


def _table(match: re.Match[str]) -> str:
    """A table of two columns without a head."""
    indent = match[1]
    rows = [re.split(r"\s{2,}(?=\S)", line.strip(), maxsplit=1) for line in match[4].splitlines()]
    lines = ["| | |", "|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(indent + line for line in lines)
