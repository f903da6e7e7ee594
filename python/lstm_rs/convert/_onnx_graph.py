"""ONNX graphs: their nodes at any depth, and the values that follow from constants alone.

How a node is evaluated is in `lstm_rs.convert._onnx_fold`. Nothing here knows what an LSTM is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from lstm_rs._optional import need
from lstm_rs.convert._onnx_fold import EACH, FOLDED, FREE, run_node, tensor_value

# The protobuf classes of ``onnx``, which is imported only where it is needed.
Proto: TypeAlias = Any

# In a model with functions, after they were put in the place of their calls.
_MOST_NODES = 100_000
# Give the values of their first input in another place or number; Concat those of all.
_MOVES = set("Cast Concat Expand Flatten Gather Identity Reshape Slice Squeeze Tile Transpose Unsqueeze".split())


def load(source: Any) -> Proto:
    """The model, its functions put in the place of their calls."""
    onnx = need("onnx", "from_onnx", "onnx")
    path = isinstance(source, str | os.PathLike)
    called = os.fspath(source) if path else "source"
    if isinstance(source, onnx.ModelProto):
        model = source
    elif path or isinstance(source, bytes | bytearray | memoryview):
        try:
            model = onnx.load_model(called) if path else onnx.load_model_from_string(bytes(source))
        except (OSError, MemoryError):
            raise
        except Exception as error:
            # Which error it is depends on the format, on protobuf's version and on where the file is damaged.
            raise ValueError(f"{called}: expected an ONNX model, got what cannot be read: {error}") from error
    else:
        raise TypeError(f"source: expected a path, bytes or an onnx.ModelProto, got {type(source).__name__}")
    if not (model.HasField("graph") and model.opset_import):
        raise ValueError(f"{called}: expected an ONNX model, got what has no graph or no operator set")
    if not model.functions:
        return model
    _check_functions(model, called)
    try:
        return import_module("onnx.inliner").inline_local_functions(model)
    except Exception as error:
        raise ValueError(
            f"{called}: expected functions that can be put in the place of their calls: {error}"
        ) from error


def _check_functions(model: Proto, called: str) -> None:
    """Refuse functions that call each other in a circle, or so often that the model would have no end."""
    functions = {(one.domain, one.name): one for one in model.functions}
    calls = {key: _calls(one.node, functions) for key, one in functions.items()}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Counter[tuple[str, str]]) -> int:
        return sum(count * sizes.get(key, 1) for key, count in nodes.items())

    try:
        for key in TopologicalSorter(
            {key: [one for one in nodes if one in calls] for key, nodes in calls.items()}
        ).static_order():
            sizes[key] = size(calls[key])
    except CycleError:
        raise ValueError(f"{called}: expected functions that do not call themselves, got some that do") from None
    total = size(_calls(model.graph.node, functions))
    if total > _MOST_NODES:
        raise ValueError(
            f"{called}: expected at most {_MOST_NODES} nodes once functions are in the place of their calls"
        )


def _calls(nodes: Any, functions: Mapping[tuple[str, str], Proto]) -> Counter[tuple[str, str]]:
    """How often each function is called by these nodes and those in their bodies; all other nodes under one name."""
    counts: Counter[tuple[str, str]] = Counter()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        key = (node.domain, node.op_type)
        counts[key if key in functions else ("", "")] += 1
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                todo += body.node
    return counts


@dataclass
class Scope:
    """A graph, or a body inside a node, with the graphs around it, whose names it sees."""

    graph: Proto
    outer: Scope | None = None
    path: str = ""
    depth: int = 0
    constants: dict[str, Proto] = field(init=False)
    makers: dict[str, tuple[int, Proto]] = field(init=False)
    inputs: set[str] = field(init=False)
    values: dict[str, np.ndarray | ValueError] = field(default_factory=dict)
    """What has been computed so far, or why it cannot be."""
    room: int = FREE
    """How many numbers may still be computed; that of the outermost graph counts."""

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {out: (k, node) for k, node in enumerate(self.graph.node) for out in node.output if out}
        self.inputs = {given.name for given in self.graph.input}

    @property
    def root(self) -> Scope:
        """The outermost graph."""
        scope = self
        while scope.outer is not None:
            scope = scope.outer
        return scope

    def home(self, name: str) -> Scope:
        """The nearest graph that makes this value."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.constants or name in scope.makers or name in scope.inputs:
                return scope
            scope = scope.outer
        raise ValueError(
            f"{name or 'an input'}: nothing in the model makes this value: a damaged model, or a sparse tensor"
        )


@dataclass
class Place:
    """A node, and where it is."""

    node: Proto
    scope: Scope
    name: str


class RunTime(ValueError):
    """A value that is not known before the model runs."""


def all_nodes(scope: Scope) -> Iterator[Place]:
    """All nodes of a graph and of the bodies in it, with the path to each as its name."""
    for k, node in enumerate(scope.graph.node):
        own = node.name or next(filter(None, node.output), f"{node.op_type}[{k}]")
        name = scope.path + own
        yield Place(node, scope, name)
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for j, body in enumerate(bodies):
                index = f"[{j}]" if len(bodies) > 1 else ""
                yield from all_nodes(Scope(body, scope, f"{name}/{attribute.name}{index}/", scope.depth + 1))


def constant(model: Proto, name: str, scope: Scope) -> np.ndarray:
    """The value of a name, if it follows from constants alone; else `RunTime`."""
    home = scope.home(name)
    if name not in home.values:
        try:
            home.values[name] = _constant(model, name, home)
        except ValueError as error:
            home.values[name] = error
    value = home.values[name]
    if isinstance(value, ValueError):
        raise type(value)(*value.args) from value.__cause__
    return value


def _constant(model: Proto, name: str, scope: Scope) -> np.ndarray:
    """As `constant`, of what has not been asked for yet."""
    nodes: dict[tuple[int, int], tuple[Scope, Proto]] = {}
    known: dict[str, np.ndarray] = {}
    todo = [(name, scope)]
    while todo:
        wanted, inside = todo.pop()
        home = inside.home(wanted)
        before = home.values.get(wanted)
        if isinstance(before, np.ndarray):
            known[wanted] = before
        elif wanted in home.constants:
            known[wanted] = home.values[wanted] = tensor_value(home.constants[wanted], wanted)
            scope.root.room += EACH * known[wanted].size
        elif wanted in home.makers:
            at, node = home.makers[wanted]
            if node.op_type not in FOLDED or node.domain not in ("", "ai.onnx"):
                raise RunTime(f"by the {node.op_type} node {node.name or wanted!r}")
            if (home.depth, at) not in nodes:
                nodes[home.depth, at] = home, node
                todo += [(one, home) for one in node.input if one]
        else:
            raise RunTime(f"from {wanted!r}, an input of the graph")
    # What is around a body was made before it, and nodes of one graph stand in the order that they run in.
    for _, (home, node) in sorted(nodes.items(), key=lambda item: item[0]):
        outputs = [out for out in node.output if out]
        try:
            given = {one: known[one] for one in node.input if one}
            values = run_node(node, given, model.opset_import, scope.root.room)
            known |= dict(zip(outputs, values, strict=True))
        except MemoryError:
            raise
        except Exception as error:
            # The evaluator has no error of its own: a damaged node shows as anything.
            raise ValueError(
                f"{name}: cannot be computed from the model's constants: the {node.op_type} node "
                f"{node.name or outputs[0]!r}: {error}"
            ) from error
        home.values |= dict(zip(outputs, values, strict=True))
        size = sum(value.size for value in values)
        scope.root.room += EACH * size if node.op_type == "Constant" else -size
    return known[name]


def known(model: Proto, name: str, scope: Scope) -> list[np.ndarray] | None:
    """The values that an input consists of, if they do not depend on the model's inputs but for their number."""
    values, todo = [], [(name, scope)]
    seen = set()
    while todo:
        wanted, inside = todo.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        try:
            values.append(constant(model, wanted, inside))
        except RunTime:
            home = inside.home(wanted)
            _, node = home.makers.get(wanted, (0, None))
            if node is not None and node.op_type == "ConstantOfShape":
                values += [tensor_value(one.t, one.name) for one in node.attribute] or [np.zeros(1)]
            elif node is not None and node.op_type in _MOVES:
                todo += [(one, home) for one in (node.input if node.op_type == "Concat" else node.input[:1])]
            else:
                return None
    return values
