"""LSTM nodes of ONNX models as layers.

A node is one layer, in one direction or both; its weights are constants of the model, or follow from constants alone.
What is computed when the model runs cannot be read: weights then are refused, while an initial state or lengths are an
argument of the layer's call.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_rs.cell import CellSpec
from lstm_rs.convert._build import build
from lstm_rs.convert._onnx_graph import Place, Proto, RunTime, Scope, all_nodes, constant, known, load
from lstm_rs.convert._onnx_layout import decimals, take_activations, weights_of
from lstm_rs.functional import Weights
from lstm_rs.layers import LSTM

__doctest_requires__ = {"from_onnx": ["onnx"]}

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_SCALES = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
# `output_sequence` was an attribute of the first version of the operator: whether to write the first output.
_ATTRIBUTES = {"activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "input_forget",
               "layout", "output_sequence"}  # fmt: skip
_OPERATORS = {("", "LSTM"), ("ai.onnx", "LSTM"), ("com.microsoft", "DynamicQuantizeLSTM")}


def from_onnx(
    source: str | os.PathLike[str] | bytes | Any, node: str | int | Sequence[str | int] | None = None
) -> LSTM:
    """Make a layer of an LSTM node of an ONNX model, or of several nodes as layers upon each other.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        The model; weights in files beside it are read too, where it is a path.
    node : str, int or sequence of them, optional
        The node, by its name or its place in the list of all LSTM nodes. A node without a name goes by its first
        output; one inside the body of an If, Loop or Scan by the path to it, ``"if_0/then_branch/lstm"``. Several
        nodes become the layers of one LSTM, in that order. Not needed where the model has one LSTM node.

    Returns
    -------
    LSTM
        Of the dtype of the weights, with ``batch_first`` where the node has ``layout=1``.

    Raises
    ------
    ValueError
        If the file is not an ONNX model; if it has no LSTM node, or several and `node` is None: the message lists
        them; if a weight is computed when the model runs, lacks or has another shape, or is not finite; or if a node
        is something that `LSTM` is not: see the Notes.
    TypeError
        If the weights are not of float32 or float64.
    KeyError
        If there is no node of that name.
    OSError
        If the file, or one beside it that it names, cannot be opened.
    ImportError
        Without the package ``onnx``.

    Notes
    -----
    The operator is described in [1]_. Gates i, o, f, c become i, f, g, o, and the two biases are added. ``clip``
    becomes `gate_clip`, ``input_forget`` becomes `coupled`. ``DynamicQuantizeLSTM`` of ONNX Runtime is read as the
    float32 numbers that its weights stand for; ONNX Runtime rounds the inputs as well, and we do not.

    A weight may be made of constants by operators that change, move or combine numbers. One that is more than the
    model's constants are reason for, which a few bytes can ask for, is refused before it is made.

    Refused, since no LSTM here could do it: ``direction="reverse"`` (use ``lstm_rs.onnx.LSTM``, or `lstm_rs.forward`
    with ``reverse=True``), activations that differ from one direction to the other, and an initial state or lengths
    that are constants of the model: those are arguments of the layer's call.

    References
    ----------
    .. [1] https://onnx.ai/onnx/operators/onnx__LSTM.html

    Examples
    --------
    >>> import lstm_rs
    >>> model = lstm_rs.to_onnx(lstm_rs.LSTM(3, 8, num_layers=2, seed=0))
    >>> lstm_rs.from_onnx(model, node=["lstm_l0", "lstm_l1"])
    LSTM(3, 8, num_layers=2)
    """
    model = load(source)
    nodes = list(all_nodes(Scope(model.graph)))
    found = [place for place in nodes if (place.node.domain, place.node.op_type) in _OPERATORS]
    if not found:
        counts = Counter(place.node.op_type for place in nodes)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(8))
        raise ValueError(f"source: expected a model with an LSTM node, got one without; it has {kinds or 'no nodes'}")
    if node is None:
        if len(found) > 1:
            raise ValueError(
                f"node: expected one of the model's {len(found)} LSTM nodes, or several as layers upon each other, "
                f"got None; call from_onnx(source, node={found[0].name!r}), for example, of\n{_listed(model, found)}"
            )
        chosen = found
    elif isinstance(node, str | int | np.integer):
        chosen = [_choose(found, node)]
    elif isinstance(node, Sequence) and not isinstance(node, bytes | bytearray) and len(node):
        chosen = [_choose(found, one) for one in node]
    else:
        raise TypeError(f"node: expected a name, an index, or a sequence of them, got {node!r}")
    layers = [_Layer.read(model, place) for place in chosen]
    first = layers[0]
    for below, layer in itertools.pairwise(layers):
        for what in ("directions", "cell", "batch_first"):
            if getattr(layer, what) != getattr(first, what):
                raise ValueError(
                    f"node {layer.name!r}: expected {what}={getattr(first, what)}, as node {first.name!r} has, "
                    f"got {getattr(layer, what)}: they cannot be layers of one LSTM"
                )
        if layer.hidden_size != first.hidden_size:
            raise ValueError(
                f"node {layer.name!r}: expected hidden_size {first.hidden_size}, as node {first.name!r} has, "
                f"got {layer.hidden_size}: they cannot be layers of one LSTM"
            )
        outputs = below.directions * below.hidden_size
        if layer.input_size != outputs:
            raise ValueError(
                f"node {layer.name!r}: expected input size {outputs}, the outputs of node {below.name!r}, "
                f"got {layer.input_size}"
            )
    return build(
        [part for layer in layers for part in layer.parts],
        names=[layer.called for layer in layers for _ in layer.parts],
        directions=first.directions,
        cell=first.cell,
        batch_first=first.batch_first,
    )


# ----------------------------- one node


@dataclass
class _Layer:
    """An LSTM node in our terms."""

    name: str
    parts: list[Weights]
    called: dict[str, str]
    cell: CellSpec
    batch_first: bool

    @property
    def directions(self) -> int:
        return len(self.parts)

    @property
    def input_size(self) -> int:
        return int(self.parts[0].w_ih.shape[1])

    @property
    def hidden_size(self) -> int:
        return int(self.parts[0].w_hh.shape[1])

    @classmethod
    def read(cls, model: Proto, place: Place) -> _Layer:
        """Read a node, or say what of it no LSTM here can do."""
        at, quantized = f"node {place.name!r}", place.node.op_type != "LSTM"
        attributes = _attributes(place)
        direction = attributes.get("direction", "forward")
        if direction not in ("forward", "bidirectional"):
            raise ValueError(
                f"{at}: expected direction 'forward' or 'bidirectional', got {direction!r}"
                + ("; use lstm_rs.onnx.LSTM, or lstm_rs.forward with reverse=True" * (direction == "reverse"))
            )
        directions = 2 if direction == "bidirectional" else 1
        try:
            activations = take_activations(
                attributes.get("activations"),
                decimals(attributes.get("activation_alpha", ())),
                decimals(attributes.get("activation_beta", ())),
                directions,
            )
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from None
        if activations[0] != activations[-1]:
            raise ValueError(
                f"{at}: expected the same activations in both directions, got {activations[0]} and "
                f"{activations[1]}; use lstm_rs.onnx.LSTM"
            )
        clip = decimals([attributes["clip"]])[0] if "clip" in attributes else None
        if clip is not None and not clip > 0:
            raise ValueError(f"{at}: expected a clip above 0, got {clip}")
        inputs = dict(zip(_INPUTS + _SCALES if quantized else _INPUTS, place.node.input, strict=False))
        inputs = {what: name for what, name in inputs.items() if name}
        for what, argument in (("sequence_lens", "lengths"), ("initial_h", "state"), ("initial_c", "state")):
            values = known(model, inputs[what], place.scope) if what in inputs else None
            if values is not None and (what == "sequence_lens" or any(np.any(value) for value in values)):
                raise ValueError(
                    f"{at}: its {what}, {inputs[what]!r}, is a constant of the model, and a layer has none; set that "
                    f"input of the node to '' and give it to each call of the layer as {argument}="
                )
        W, R, B, P = _weights(model, place, inputs, directions, attributes.get("hidden_size"))
        coupled = bool(attributes.get("input_forget", 0))
        gate, into, out = activations[0]
        # The clip is named only where there is one.
        options: dict[str, Any] = {} if clip is None else {"gate_clip": clip}
        return cls(
            place.name,
            [
                weights_of(W[d], R[d], None if B is None else B[d], None if P is None else P[d], coupled=coupled)
                for d in range(directions)
            ],
            {
                ours: inputs[what]
                for ours, what in (("w_ih", "W"), ("w_hh", "R"), ("b", "B"), ("peephole", "P"))
                if what in inputs
            },
            CellSpec(
                coupled=coupled,
                peephole=P is not None,
                gate_activation=gate,
                input_activation=into,
                output_activation=out,
                **options,
            ),
            attributes.get("layout", 0) == 1,
        )


def _attributes(place: Place) -> dict[str, Any]:
    """The node's attributes as Python's values."""
    from onnx import AttributeProto, helper

    values: dict[str, Any] = {}
    kinds = {
        "activations": AttributeProto.STRINGS,
        "activation_alpha": AttributeProto.FLOATS,
        "activation_beta": AttributeProto.FLOATS,
        "clip": AttributeProto.FLOAT,
        "direction": AttributeProto.STRING,
    }
    for attribute in place.node.attribute:
        name = attribute.name
        if name not in _ATTRIBUTES:
            raise ValueError(f"node {place.name!r}: expected attributes of an LSTM, got one named {name!r}")
        try:
            values[name] = helper.get_attribute_value(attribute)
        except ValueError as error:
            raise ValueError(f"node {place.name!r}: its {name} has no value: {error}") from error
        if attribute.type != kinds.get(name, AttributeProto.INT):
            raise ValueError(f"node {place.name!r}: its {name} is of another type than ONNX's: {values[name]!r}")
    for name in ("input_forget", "layout"):
        if values.get(name, 0) not in (0, 1):
            raise ValueError(f"node {place.name!r}: expected {name} 0 or 1, got {values[name]}")
    if "direction" in values:
        values["direction"] = values["direction"].decode(errors="replace")
    if "activations" in values:
        values["activations"] = [one.decode(errors="replace") for one in values["activations"]]
    return values


def _weights(
    model: Proto, place: Place, inputs: dict[str, str], directions: int, hidden_size: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """W, R, B and P with the direction as their first axis, of floats, in shapes that fit."""
    arrays: dict[str, np.ndarray] = {}
    for what in ("W", "R", "B", "P", *_SCALES):
        if what in inputs:
            try:
                arrays[what] = constant(model, inputs[what], place.scope)
            except RunTime as error:
                raise ValueError(
                    f"{inputs[what]}: expected a constant as {what} of node {place.name!r}, got what is computed when "
                    f"the model runs, {error}; use lstm_rs.onnx.LSTM"
                ) from None
        elif what in ("W", "R") or (what.endswith("_scale") and place.node.op_type != "LSTM"):
            raise ValueError(f"node {place.name!r}: expected a {what} among its inputs, got none")
    if place.node.op_type != "LSTM":
        for what in ("W", "R"):
            arrays[what] = _dequantized(what, arrays, inputs)
    if arrays["R"].ndim != 3:
        raise ValueError(f"{inputs['R']}: expected R of three axes, (directions, 4*H, H), got {arrays['R'].shape}")
    h = int(arrays["R"].shape[2]) if hidden_size is None else hidden_size
    i = int(arrays["W"].shape[-1]) if arrays["W"].ndim else 0
    shapes = {"W": (4 * h, i), "R": (4 * h, h), "B": (8 * h,), "P": (3 * h,)}
    for what, shape in shapes.items():
        if what in arrays:
            if arrays[what].shape != (directions, *shape):
                raise ValueError(
                    f"{inputs[what]}: expected {what} of shape {(directions, *shape)} for hidden_size {h} and "
                    f"{directions} direction{'s' * (directions > 1)}, got {arrays[what].shape}"
                )
            if arrays[what].dtype not in (np.float32, np.float64):
                raise TypeError(
                    f"{inputs[what]}: expected float32 or float64, got {arrays[what].dtype}; cast the model's weights "
                    "and inputs to float32 first"
                )
    return arrays["W"], arrays["R"], arrays.get("B"), arrays.get("P")


def _dequantized(what: str, arrays: dict[str, np.ndarray], inputs: dict[str, str]) -> np.ndarray:
    """Weights (D, 4*H, ...) of a DynamicQuantizeLSTM's integers (D, ..., 4*H): a scale for each direction, or row."""
    integers, scale = arrays[what], arrays[f"{what}_scale"]
    zero = arrays.get(f"{what}_zero_point", np.zeros(scale.shape, integers.dtype))
    if integers.dtype not in (np.int8, np.uint8) or integers.ndim != 3:
        raise ValueError(
            f"{inputs[what]}: expected {what} of int8 or uint8 with three axes, got {integers.dtype} of shape "
            f"{integers.shape}"
        )
    directions, _, rows = integers.shape
    for name, array in ((f"{what}_scale", scale), (f"{what}_zero_point", zero)):
        if array.shape not in ((directions,), (directions, rows)):
            raise ValueError(
                f"{inputs[name]}: expected {name} of shape {(directions,)} or {(directions, rows)}, got {array.shape}"
            )
    steps = integers.astype(np.int32) - zero.reshape(directions, 1, -1).astype(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(steps.astype(np.float32) * scale.reshape(directions, 1, -1)).transpose(0, 2, 1)


def _choose(found: list[Place], node: Any) -> Place:
    """The node of that path, name or index."""
    if isinstance(node, str):
        for names in ([place.name for place in found], [place.node.name for place in found]):
            if names.count(node) == 1:
                return found[names.index(node)]
            if node and node in names:
                raise ValueError(f"node: {names.count(node)} LSTM nodes are named {node!r}; give the index of one")
        raise KeyError(f"node: no LSTM node {node!r}; there are {', '.join(repr(place.name) for place in found)}")
    if isinstance(node, bool):
        raise TypeError(f"node: expected a name or an index, got {node!r}")
    try:
        k = operator.index(node)
    except TypeError:
        raise TypeError(f"node: expected a name or an index, got {type(node).__name__}") from None
    if not 0 <= k < len(found):
        raise ValueError(f"node: expected an index from 0 to {len(found) - 1}, got {k}")
    return found[k]


def _listed(model: Proto, found: list[Place]) -> str:
    """The nodes with their sizes, a line for each."""
    lines = []
    for k, place in enumerate(found):
        try:
            layer = _Layer.read(model, place)
            both = "bidirectional" if layer.directions == 2 else "forward"
            what = f"{layer.input_size} -> {layer.hidden_size}, {both}"
        except (ValueError, TypeError) as error:
            what = f"cannot be read: {error}"
        lines.append(f"  [{k}] {place.name!r}: {what}")
    return "\n".join(lines)
