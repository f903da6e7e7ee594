"""Bytes as a row of choices, and what they can do to a tree of dicts, lists and values.

The fuzzer changes bytes; a target reads them as choices and makes its input of them. Bytes that are not there count as
0, and 0 is always the choice that changes nothing: an empty input is a valid file, and every byte leads a step away
from it.

Trees stand for JSON, for HDF5 files and for state dicts alike; each target makes what it needs of its tree.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# Written into JSON in the place of these texts: `json.dumps` itself could not nest so deep.
DEEP = {"@lists 200": (200, "["), "@lists 100000": (100_000, "["), "@dicts 900": (900, '{"config": ')}
ENDS = {"[": "]", '{"config": ': "}"}
NUMBERS: list[Any] = [
    0, -1, 3, 255, 1 << 16, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 10**400, 10**4299, 0.5, 1e300, float("nan"),
    float("inf"),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 1, 2, 4, 8, 12, 1 << 40, 1 << 62, *NUMBERS, 0.0, -0.0, -0.5, 1.0, 1e-310, 1e38, -float("inf"),
    "", "0", "1", "-1", "1e3", "nan", "None", "a/b", "..", "\0", "\ud800", "ä", "x" * 300, [], {}, [0], [[1]], ["a"],
    {"a": 1}, *DEEP,
]  # fmt: skip
# Places in a tree, from which on it is changed no more: it could be doubled again and again.
LARGEST = 500

# Of many changes the first that breaks a tree hides the others.
CHANGES = (0, 1, 1, 1, 2, 2, 3, 6)


class Skip(Exception):
    """The choices make nothing that could be given to an importer."""


class Choices:
    """Choices out of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next byte, or 0 after the last."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, count: int) -> int:
        """A number less than `count`."""
        return (self.byte() if count <= 256 else self.byte() | self.byte() << 8) % max(count, 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of them; the first by default."""
        return options[self.below(len(options))]

    def rest(self) -> bytes:
        """All bytes that are left."""
        start, self._at = self._at, len(self._data)
        return self._data[start:]


def sites(tree: Any) -> list[tuple[Any, Any]]:
    """All places in a tree: the dict or list, and the key or index in it."""
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        keys: Any = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            todo.append(node[key])
    return found


def mutated(tree: Any, choices: Choices, words: Sequence[Any]) -> Any:
    """A copy of a tree with up to 6 changes."""
    tree = copy.deepcopy(tree)
    names = [word for word in words if not isinstance(word, dict | list)] or [""]
    for _ in range(choices.pick(CHANGES)):
        places = sites(tree)
        if not 0 < len(places) <= LARGEST:
            break
        node, key = choices.pick(places)
        change = choices.below(9)
        if change == 0:
            node[key] = copy.deepcopy(choices.pick(VALUES))
        elif change == 1:
            node[key] = copy.deepcopy(choices.pick(words))
        elif change == 2:
            del node[key]
        elif change == 3:
            value = copy.deepcopy(choices.pick(VALUES))
            if isinstance(node, list):
                node.insert(key, value)
            else:
                node[choices.pick(names)] = value
        elif change == 4:
            other, at = choices.pick(places)
            if at in other if isinstance(other, dict) else at < len(other):
                node[key] = copy.deepcopy(other[at])
        elif change == 5:
            # The name goes, what it stands for stays.
            if isinstance(node, dict):
                node[choices.pick([*names, 0, 7])] = node.pop(key)
        elif change == 6:
            if type(node[key]) in (int, float):
                node[key] = choices.pick([node[key] + 1, node[key] - 1, 2 * node[key], *NUMBERS])
        elif change == 7:
            if isinstance(node, list):
                node += copy.deepcopy(node) * choices.pick([1, 3])
            else:
                node[choices.pick(names)] = copy.deepcopy(node[key])
        elif change == 8:
            node[key] = choices.pick([[node[key]], {"config": node[key]}, [node[key], copy.deepcopy(node[key])]])
    return tree


def as_json(tree: Any, choices: Choices) -> str:
    """A tree as JSON, which may be cut or changed as a text too."""
    try:
        text = json.dumps(tree)
    except (TypeError, ValueError) as error:
        raise Skip from error
    for name, (depth, start) in DEEP.items():
        if f'"{name}"' in text:
            text = text.replace(f'"{name}"', start * depth + "1" + ENDS[start] * depth)
    change = choices.below(8)
    at = choices.below(len(text) + 1) if change > 5 else 0
    if change == 6:
        text = text[:at]
    elif change == 7:
        text = text[:at] + choices.pick(['"', "{", "]", ",", "1", "-", "NaN", "\0", "\ud800"]) + text[at + 1 :]
    return text
