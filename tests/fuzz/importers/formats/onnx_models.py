"""ONNX models: the fields of a model fuzzed by protobuf's own descriptors, and files of any bytes.

The models to start from have LSTM nodes of all kinds, with weights as they stand and through other nodes, inside
bodies and functions. A change sets, takes away, doubles or copies a field anywhere in one of them.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import lstm_rs
import numpy as np
import onnx
from choices import CHANGES, Choices, Skip
from contract import Attempt, check_lstm, documented
from google.protobuf.message import DecodeError, EncodeError
from lstm_rs.convert import from_onnx, to_onnx
from onnx import helper, numpy_helper

_H, _IN = 2, 3
_NUMBERS = [0, 1, -1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 18, 19, 22, 27, 255, 1 << 16, 1 << 20, 1 << 31, 1 << 40, 1 << 62,
            (1 << 63) - 1, -(1 << 63)]  # fmt: skip
_FLOATS = [0.0, 1.0, -1.0, 0.01, 0.2, 3e38, float("inf"), float("nan"), 1e-40]
_OPERATORS = """LSTM GRU DynamicQuantizeLSTM Constant ConstantOfShape Identity Cast Concat Expand Flatten Gather Reshape
    Slice Squeeze Unsqueeze Tile Transpose Shape Size Range Pad Add Sub Mul Div Pow Neg Exp MatMul Gemm Einsum
    DequantizeLinear QuantizeLinear Split Where Equal If Loop Scan OneHot EyeLike Resize Upsample CumSum ReduceSum TopK
    NonZero Unique Compress Trilu Conv Dropout RandomNormal Bernoulli Sequence SequenceConstruct SequenceAt
    SplitToSequence ConcatFromSequence StringConcat RegexFullMatch Optional Mod BitShift LogSoftmax
    BlackmanWindow DFT ScatterND GatherND Col2Im ImageDecoder""".split()
_WORDS = """x W R B P y lstm h0 c0 lengths Wt shape zero one init made local ai.onnx com.microsoft activations
    activation_alpha activation_beta clip direction hidden_size input_forget layout forward reverse bidirectional Tanh
    Sigmoid Relu Affine ScaledTanh LeakyRelu HardSigmoid axis perm value to location offset length data.bin ../data.bin
    /dev/zero""".split()
_TEXTS = ["", *_WORDS, *_OPERATORS]
_BYTES = [b"", b"\0", b"\xff\xfe", b"\0\0\0\x3f" * 16, b"forward", b"bidirectional", b"(a+)+$"]


_NODES: list[Any] = [0, None, "lstm", "lstm_l0", ["lstm_l0", "lstm_l1"], [0, 0], -1, "if/then_branch/lstm", 1]


def _const(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def _weights(directions: int = 1, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    shapes = {"W": (4 * _H, _IN), "R": (4 * _H, _H), "B": (8 * _H,), "P": (3 * _H,)}
    return {what: np.full((directions, *shape), 0.25, dtype) for what, shape in shapes.items()}


def _model(
    nodes: list[Any], constants: list[Any], opset: int = 17, functions: Any = (), domains: Any = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", 1, ["T", "N", _IN])],
        [helper.make_tensor_value_info("y", 1, None)],
        constants,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def _lstm(inputs: str = "x W R B", **attributes: Any) -> onnx.NodeProto:
    return _node("LSTM", inputs, "y", **{"name": "lstm", "hidden_size": _H, **attributes})


def models() -> list[onnx.ModelProto]:
    """Small valid models."""
    arrays = _weights()
    constants = [_const(what, array) for what, array in arrays.items()]
    plain = _model([_lstm()], constants[:3])
    cell = lstm_rs.CellSpec(coupled=True, peephole=True, gate_activation="hard_sigmoid", gate_clip=3.0)
    folded = [
        _node("Transpose", "Wt", "W1", perm=[1, 0]),
        _node("Unsqueeze", "W1 zero", "W"),
        _node("Constant", "", "Rc", value=_const("", arrays["R"].astype(np.float64))),
        _node("Cast", "Rc", "R1", to=1),
        _node("Reshape", "R1 shape", "R"),
        _node("ConstantOfShape", "half", "B1", value=_const("", np.zeros(1, np.float32))),
        _node("Concat", "B1 B1", "B", axis=1),
    ]
    extra = [
        _const("Wt", arrays["W"][0].T.copy()),
        _const("zero", np.array([0])),
        _const("shape", np.array([1, 4 * _H, _H])),
        _const("half", np.array([1, 4 * _H])),
        _const("one", np.array([1])),
        _const("tail", np.array([_H])),
    ]
    state = [
        _node("Shape", "x", "s"),
        _node("Gather", "s one", "n"),
        _node("Concat", "one n tail", "hs", axis=0),
        _node("ConstantOfShape", "hs", "h0", value=_const("", np.zeros(1, np.float32))),
        _node("Expand", "z hs", "c0"),
    ]
    stated = _model(
        [*state, _lstm("x W R B - h0 c0 P")], [*constants, *extra, _const("z", np.zeros((1, 1, 1), np.float32))]
    )
    quantized = _node("DequantizeLinear", "Wq scale point", "W", axis=1)
    integers = np.ones((1, 4 * _H, _IN), np.int8)
    scales = [
        _const("Wq", integers),
        _const("scale", np.full(4 * _H, 0.5, np.float32)),
        _const("point", np.zeros(4 * _H, np.int8)),
    ]
    dynamic = helper.make_node(
        "DynamicQuantizeLSTM",
        ["x", "W", "R", "B", "", "", "", "", "Ws", "Wz", "Rs", "Rz"],
        ["y"],
        domain="com.microsoft",
        hidden_size=_H,
        name="lstm",
    )
    dynamics = [
        _const("W", np.ones((1, _IN, 4 * _H), np.uint8)), _const("R", np.ones((1, _H, 4 * _H), np.uint8)), constants[2],
        *(_const(name, np.full(1, 0.5, np.float32)) for name in ("Ws", "Rs")),
        *(_const(name, np.zeros(1, np.uint8)) for name in ("Wz", "Rz")),
    ]  # fmt: skip
    body = helper.make_graph([_lstm()], "body", [], [helper.make_tensor_value_info("y", 1, None)], constants[:2])
    inside = [_node("If", "flag", "z", name="if", then_branch=body, else_branch=helper.make_graph([], "no", [], []))]
    # Small here, and of any size once a number is another.
    grown = [
        _node("Expand", "grain square", "B0"),
        _node("MatMul", "B0 B0", "B1"),
        _node("Pad", "B1 pads", "B2"),
        _node("Tile", "B2 twice", "B3"),
        _node("Range", "start end step", "B4"),
        _node("Cast", "B4", "B5", to=1),
        _node("Add", "B3 B5", "B6"),
        _node("Slice", "B6 start1 end1", "B"),
    ]
    growing = [
        _const("grain", np.full((1, 1), 0.5, np.float32)),
        _const("square", np.array([1, 1])),
        _const("pads", np.array([0, 0, 0, 3])),
        _const("twice", np.array([1, 4])),
        *(_const(name, np.array(k)) for name, k in (("start", 0), ("end", 16), ("step", 1))),
        *(_const(name, np.array([k])) for name, k in (("start1", 0), ("end1", 1))),
    ]
    function = helper.make_function(
        "local", "local", ["x", "W", "R", "B"], ["y"], [_lstm()], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("local", ["x", "W", "R", "B"], ["y"], domain="local")
    return [
        plain,
        to_onnx(lstm_rs.LSTM(_IN, _H, 2, bidirectional=True, batch_first=True, seed=0)),
        to_onnx(lstm_rs.LSTM(_IN, _H, cell=cell, dtype=np.float64, seed=0)),
        _model([*folded, _lstm()], extra),
        stated,
        _model([quantized, _lstm()], [*scales, *constants[1:3]], opset=13),
        _model([quantized, _lstm()], [*scales, *constants[1:3]], opset=21),
        _model([dynamic], dynamics, domains=["com.microsoft"]),
        _model(inside, [constants[2], _const("flag", np.array(True))]),
        _model([call], constants[:3], functions=[function], domains=["local"]),
        _model([*grown, _lstm()], [*constants[:2], *growing]),
        doubling(3),
    ]


def doubling(depth: int) -> onnx.ModelProto:
    """A model whose functions call the next one twice: 2^depth nodes, once they are in the place of their calls."""
    names = [f"f{k}" for k in range(depth + 1)]

    def function(name: str, nodes: list[Any], domains: list[str]) -> Any:
        imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(one, 1) for one in domains)]
        return helper.make_function(name, name, ["x"], ["y"], nodes, imports)

    def call(name: str, x: str, y: str) -> Any:
        return helper.make_node(name, [x], [y], domain=name)

    functions = [
        function(name, [call(below, "x", "t"), call(below, "t", "y")], [below])
        for name, below in itertools.pairwise(names)
    ]
    functions.append(function(names[-1], [_node("Neg", "x", "y")], []))
    constants = [_const("W0" if what == "W" else what, array) for what, array in _weights().items()]
    return _model([call("f0", "W0", "W"), _lstm()], constants[:3], functions=functions, domains=names)


def _sites(message: Any, depth: int = 0) -> list[tuple[Any, Any, int]]:
    """All fields of a message that are set, and those inside: the message, the field, and where it is in a list."""
    found: list[tuple[Any, Any, int]] = []
    for field, value in message.ListFields():
        values = [value] if not _repeated(field) else value
        for k, one in enumerate(values):
            found.append((message, field, k))
            if field.type == field.TYPE_MESSAGE and depth < 30:
                found += _sites(one, depth + 1)
    return found


def _repeated(field: Any) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _value(field: Any, choices: Choices) -> Any:
    """Something of a field's kind."""
    if field.type == field.TYPE_STRING:
        return choices.pick(_TEXTS)
    if field.type == field.TYPE_BYTES:
        return choices.pick(_BYTES)
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return choices.pick(_FLOATS)
    if field.type == field.TYPE_ENUM:
        return choices.pick([one.number for one in field.enum_type.values])
    return choices.pick(_NUMBERS)


def mutate(model: Any, choices: Choices) -> None:
    """Up to 6 changes of a model's fields."""
    for _ in range(choices.pick(CHANGES)):
        places = _sites(model)
        if not places:
            return
        message, field, k = choices.pick(places)
        change, many = choices.below(6), _repeated(field)
        is_message = field.type == field.TYPE_MESSAGE
        values = getattr(message, field.name)
        try:
            if change in (0, 1) and not is_message:
                if many:
                    values[k] = _value(field, choices)
                elif field.name == "raw_data" and message.data_type == message.INT64 and len(values) >= 8:
                    # One of its numbers, which may be those of a shape.
                    numbers = np.frombuffer(values).view(np.int64).copy()
                    numbers[choices.below(len(numbers))] = choices.pick(_NUMBERS)
                    message.raw_data = numbers.tobytes()
                else:
                    setattr(message, field.name, _value(field, choices))
            elif change in (0, 1):
                # Another of its kind, from elsewhere in the model.
                kind = field.message_type
                alike = [place for place in places if place[1].message_type is kind]
                other, of, at = choices.pick(alike)
                source = getattr(other, of.name)[at] if _repeated(of) else getattr(other, of.name)
                fresh = type(source)()
                fresh.CopyFrom(source)
                (values[k] if many else values).CopyFrom(fresh)
            elif change == 2:
                if many:
                    del values[k]
                else:
                    message.ClearField(field.name)
            elif change == 3 and many:
                if is_message:
                    fresh = type(values[k])()
                    fresh.CopyFrom(values[k])
                    values.insert(choices.below(len(values) + 1), fresh)
                else:
                    values.insert(choices.below(len(values) + 1), _value(field, choices))
            elif change == 4:
                # A field that has not been set.
                absent = [one for one in message.DESCRIPTOR.fields if one.type != one.TYPE_MESSAGE]
                one = choices.pick(absent)
                if _repeated(one):
                    getattr(message, one.name).append(_value(one, choices))
                else:
                    setattr(message, one.name, _value(one, choices))
            elif change == 5 and isinstance(values, bytes):
                at = choices.below(len(values) + 1)
                setattr(message, field.name, values[:at] + bytes([choices.byte()]) + values[at + 1 :])
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise Skip from error


class Onnx:
    """`lstm_rs.from_onnx`."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "model.onnx")
        self._models = models()
        # The last two have to be refused: 2^24 nodes, and 2^30 numbers.
        large = [_const("grain", np.ones(1, np.float32)), _const("twice", np.array([1 << 30]))]
        kept = [_const(what, array) for what, array in _weights().items() if what in "RB"]
        tiled = _model([_node("Tile", "grain twice", "W"), _lstm()], [*large, *kept])
        self._starts = [*self._models, doubling(24), tiled]
        with open(os.path.join(folder, "data.bin"), "wb") as file:
            file.write(b"\0\0\0\x3e" * 64)

    def seeds(self) -> list[bytes]:
        """Each model as a message, as bytes, and as a file's bytes."""
        changed = [bytes([way, k]) for way in (0, 1) for k in range(len(self._models))]
        return changed + [b"\3\0" + model.SerializeToString() for model in self._models]

    def attempt(self, choices: Choices) -> Attempt:
        """A model, a file of it, or any bytes; and a node."""
        way = choices.below(4)
        source: Any
        if way < 3:
            model = onnx.ModelProto()
            model.CopyFrom(choices.pick(self._starts))
            mutate(model, choices)
            node = choices.pick(_NODES)
            try:
                source = model if way == 0 else model.SerializeToString()
                shown = str(model)
            except (EncodeError, DecodeError, UnicodeError) as error:
                raise Skip from error
        else:
            node = choices.pick(_NODES)
            source = choices.rest()
            shown = repr(source)
        if way == 2:
            with open(self._path, "wb") as file:
                file.write(source)
            source = self._path
        return Attempt(
            lambda: from_onnx(source, node),
            check_lstm,
            errors=documented(from_onnx),
            shown=f"node={node!r} as {type(source).__name__} {shown}",
        )
