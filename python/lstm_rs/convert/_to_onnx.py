"""A layer as an ONNX model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lstm_rs._optional import need
from lstm_rs.convert._onnx_layout import decimals, onnx_activation, onnx_of
from lstm_rs.layers import LSTM

__doctest_requires__ = {"to_onnx": ["onnx"]}

# LSTM as of opset 14, which is the newest but for bfloat16; old runtimes take it too.
_OPSET, _IR_VERSION = 14, 8


def to_onnx(lstm: LSTM, path: str | os.PathLike[str] | None = None) -> Any:
    """Make an ONNX model of a layer.

    Parameters
    ----------
    lstm : LSTM
        The layer.
    path : path, optional
        Where to write the model, too.

    Returns
    -------
    onnx.ModelProto
        With the inputs ``x``, ``h``, ``c`` and the outputs ``y``, ``h_n``, ``c_n``, shaped as those of a call of the
        layer; T and N are free. One LSTM node for each layer, named ``lstm_l0``, ``lstm_l1``, ...; opset 14.

    Raises
    ------
    ValueError
        If the layer has what ONNX's operator has not: a projection, `cell_clip`, a cell without one of its gates; or a
        number that is not one of float32, in which ONNX stores those of the activations and `gate_clip`.
    TypeError
        If `lstm` is not an LSTM.
    ImportError
        Without the package ``onnx``.

    Notes
    -----
    Dropout is left out: it acts in training only. float64 is as the standard allows; ONNX Runtime does not run it.
    `batch_first` is made of Transpose nodes, as ONNX Runtime has no ``layout=1``; `from_onnx` reads the LSTM nodes
    alone, and so gives a layer with ``batch_first=False`` back. The weights come back in the same bits.

    Examples
    --------
    >>> import lstm_rs
    >>> model = lstm_rs.to_onnx(lstm_rs.LSTM(3, 8, bidirectional=True, seed=0))
    >>> [node.op_type for node in model.graph.node]
    ['LSTM', 'Transpose', 'Reshape']
    """
    onnx = need("onnx", "to_onnx", "onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm: expected an LSTM, got {type(lstm).__name__}")
    attributes = _node_attributes(lstm)
    parts = lstm._store.snapshot.weights
    d, h = (2 if lstm.bidirectional else 1), lstm.hidden_size
    if sum(array.nbytes for part in parts for array in part if array is not None) >= 2**31 - 2**20:
        raise ValueError(f"lstm: an ONNX model holds less than 2 GiB, and this layer is larger: {lstm!r}")
    nodes, constants = [], []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(kind: str, inputs: list[str], outputs: list[str], **options: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, name=options.pop("name", outputs[0]), **options))
        return outputs[0]

    layers = range(lstm.num_layers)
    ends = {"h": ["h"], "c": ["c"]}
    last = {"h": ["h_n"], "c": ["c_n"]}
    if lstm.num_layers > 1:
        sizes = constant("directions", np.full(lstm.num_layers, d, np.int64))
        for state in ends:
            ends[state] = [f"{state}_l{k}" for k in layers]
            last[state] = [f"{state}_n_l{k}" for k in layers]
            add("Split", [state, sizes], ends[state], axis=0, name=f"split_{state}")
    x = add("Transpose", ["x"], ["x_time_first"], perm=[1, 0, 2]) if lstm.batch_first else "x"
    merged = constant("merged", np.array([0, 0, d * h], np.int64))
    for k in layers:
        stacks = zip(*(onnx_of(part, lstm.cell) for part in parts[k * d : (k + 1) * d]), strict=True)
        w, r, b, p = (
            "" if one[0] is None else constant(f"{what}_l{k}", np.stack(one))
            for what, one in zip("WRBP", stacks, strict=True)
        )
        inputs = [x, w, r, b, "", ends["h"][k], ends["c"][k], p]
        outputs = [f"y_l{k}", last["h"][k], last["c"][k]]
        y = add("LSTM", inputs if p else inputs[:-1], outputs, name=f"lstm_l{k}", **attributes)
        # (T, D, N, H) to (T, N, D*H); of the last layer the other axes come first where the batch does.
        swap = lstm.batch_first and k == lstm.num_layers - 1
        y = add("Transpose", [y], [f"y_l{k}_steps"], perm=[2, 0, 1, 3] if swap else [0, 2, 1, 3])
        x = add("Reshape", [y, merged], ["y" if k == lstm.num_layers - 1 else f"x_l{k + 1}"])
    if lstm.num_layers > 1:
        for state in ends:
            add("Concat", last[state], [f"{state}_n"], axis=0)
    kind = helper.np_dtype_to_tensor_dtype(lstm.dtype)
    steps = ["N", "T"] if lstm.batch_first else ["T", "N"]
    shapes: dict[str, list[int | str]] = {"x": [*steps, lstm.input_size], "y": [*steps, d * h]}
    shapes |= {name: [lstm.num_layers * d, "N", h] for name in ("h", "c", "h_n", "c_n")}
    infos = {name: helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "lstm",
        [infos[name] for name in ("x", "h", "c")],
        [infos[name] for name in ("y", "h_n", "c_n")],
        constants,
    )
    model = helper.make_model(
        graph,
        producer_name="lstm_rs",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    if path is not None:
        onnx.save_model(model, Path(path))
    return model


def _node_attributes(lstm: LSTM) -> dict[str, Any]:
    """The attributes of each LSTM node, or what of the layer an LSTM node is not."""
    cell = lstm.cell
    if lstm.proj_size:
        raise ValueError(f"lstm: ONNX's LSTM has no projection, and this layer has proj_size={lstm.proj_size}")
    if not (cell.input_gate and cell.forget_gate and cell.output_gate):
        raise ValueError(f"lstm: ONNX's LSTM has all of the gates i, f, o, and this layer's cell lacks some: {cell}")
    if cell.cell_clip is not None:
        raise ValueError(
            f"lstm: ONNX's LSTM clips what goes into the gates, and never the state: this layer has "
            f"cell_clip={cell.cell_clip}"
        )
    triple = [onnx_activation(one) for one in (cell.gate_activation, cell.input_activation, cell.output_activation)]
    attributes: dict[str, Any] = {"hidden_size": lstm.hidden_size}
    if lstm.bidirectional:
        attributes["direction"] = "bidirectional"
    if cell.coupled:
        attributes["input_forget"] = 1
    d = 2 if lstm.bidirectional else 1
    alpha = [value for one in triple for value in one[1]] * d
    beta = [value for one in triple for value in one[2]] * d
    clip = [] if cell.gate_clip is None else [cell.gate_clip]
    numbers: list[float] = [*alpha, *beta, *clip]
    for value in numbers:
        if not _stored(value, lstm.dtype):
            raise ValueError(f"lstm: ONNX stores the numbers of a cell in float32, and {value} is none: {cell}")
    if [one[0] for one in triple] != ["Sigmoid", "Tanh", "Tanh"]:
        attributes["activations"] = [one[0] for one in triple] * d
    attributes |= {name: values for name, values in (("activation_alpha", alpha), ("activation_beta", beta)) if values}
    return attributes | ({"clip": clip[0]} if clip else {})


def _stored(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether a number of the cell comes back from float32 as what it is to a layer of this dtype."""
    if abs(value) > float(np.finfo(np.float32).max) or (value and not np.float32(value)):
        return False
    return dtype == np.float32 or decimals([value]) == [value]
