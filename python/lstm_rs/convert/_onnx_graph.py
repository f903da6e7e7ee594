"""ONNX graphs: their nodes at any depth, and the values that follow from constants alone.

The evaluation is that of ``onnx.reference``. Nothing here knows what an LSTM is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from lstm_rs._optional import need

# The protobuf classes of ``onnx``, which is imported only where it is needed.
Proto: TypeAlias = Any

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
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
    return import_module("onnx.inliner").inline_local_functions(model) if model.functions else model


@dataclass
class Scope:
    """A graph, or a body inside a node, with the graphs around it, whose names it sees."""

    graph: Proto
    outer: Scope | None = None
    path: str = ""
    depth: int = 0
    constants: dict[str, Proto] = field(init=False)
    makers: dict[str, tuple[int, Proto]] = field(init=False)

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {out: (k, node) for k, node in enumerate(self.graph.node) for out in node.output if out}

    def home(self, name: str) -> Scope:
        """The nearest graph that makes this value."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.constants or name in scope.makers or any(i.name == name for i in scope.graph.input):
                return scope
            scope = scope.outer
        raise ValueError(f"{name}: nothing in the model makes this value: a damaged model, or a sparse tensor")


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
    from onnx import ValueInfoProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    nodes: dict[tuple[int, int], Proto] = {}
    tensors: dict[str, Proto] = {}
    todo = [(name, scope)]
    while todo:
        wanted, inside = todo.pop()
        home = inside.home(wanted)
        if wanted in home.constants:
            tensors[wanted] = home.constants[wanted]
        elif wanted in home.makers:
            at, node = home.makers[wanted]
            bodies = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
            if bodies or node.op_type in _RANDOM or node.domain not in ("", "ai.onnx"):
                raise RunTime(f"by the {node.op_type} node {node.name or wanted!r}")
            if (home.depth, at) not in nodes:
                nodes[home.depth, at] = node
                todo += [(one, home) for one in node.input if one]
        else:
            raise RunTime(f"from {wanted!r}, an input of the graph")
    for tensor in tensors.values():
        if tensor.data_location == tensor.EXTERNAL:
            files = [entry.value for entry in tensor.external_data if entry.key == "location"]
            raise ValueError(f"{tensor.name}: its values are in another file, {files}: give the path of the model")
    try:
        if not nodes:
            return np.asarray(numpy_helper.to_array(tensors[name]))
        # What is around a body was made before it, and nodes of one graph stand in the order that they run in.
        graph = helper.make_graph(
            [nodes[key] for key in sorted(nodes)], "constants", [], [ValueInfoProto(name=name)], list(tensors.values())
        )
        folded = helper.make_model(graph, opset_imports=model.opset_import)
        old = any(one.domain in ("", "ai.onnx") and one.version < 19 for one in model.opset_import)
        with np.errstate(all="ignore"):
            (value,) = ReferenceEvaluator(folded, new_ops=[_old_dequantize()] if old else None).run(None, {})
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:
        # The evaluator has no error of its own: a damaged tensor or node shows as anything.
        raise ValueError(f"{name}: cannot be computed from the model's constants: {error}") from error


def _old_dequantize() -> Any:
    """DequantizeLinear as of the opsets 10 to 18, which the evaluator lacks."""
    from onnx.reference.op_run import OpRun

    def run(_: Any, x: Any, scale: Any, zero: Any = None, **attributes: Any) -> tuple[np.ndarray]:
        if np.ndim(scale) == 1 and x.ndim > 1:
            axis = attributes.get("axis", 1) % x.ndim
            shape = tuple(-1 if k == axis else 1 for k in range(x.ndim))
            scale, zero = np.reshape(scale, shape), None if zero is None else np.reshape(zero, shape)
        steps = x.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))
        return (steps.astype(np.float32) * scale,)

    return type("DequantizeLinear", (OpRun,), {"op_domain": "", "_run": run})


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
                from onnx import numpy_helper

                values += [np.asarray(numpy_helper.to_array(one.t)) for one in node.attribute] or [np.zeros(1)]
            elif node is not None and node.op_type in _MOVES:
                todo += [(one, home) for one in (node.input if node.op_type == "Concat" else node.input[:1])]
            else:
                return None
    return values
