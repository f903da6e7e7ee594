"""Small ONNX models around LSTM nodes, and ONNX Runtime to run them: for the tests of what reads and writes them.

Importing this skips the importing test where the packages are not installed.
"""

import numpy as np
import pytest
from oracle import assert_close, assert_same_bits

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

IN, H, T, N = 3, 5, 7, 4


def weights(seed=0, directions=1, peephole=False, input_size=IN, dtype=np.float32):
    """W, R, B, P in ONNX's layout: arrays that owe nothing to `onnx_of`."""
    rng = np.random.default_rng(seed)
    shapes = ((4 * H, input_size), (4 * H, H), (8 * H,), (3 * H,))
    arrays = [(rng.normal(size=(directions, *shape)) * 0.5).astype(dtype) for shape in shapes]
    return arrays if peephole else arrays[:3]


def initializers(arrays, suffix=""):
    return [numpy_helper.from_array(a, what + suffix) for what, a in zip("WRBP", arrays, strict=False)]


def lstm_node(arrays, suffix="", x="x", sequence_lens="", state=("", ""), **attributes):
    names = [what + suffix for what in "WRBP"[: len(arrays)]]
    inputs = [x, *names[:3], sequence_lens, *state, *names[3:]]
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node(
        "LSTM", inputs, ["y" + suffix], **({"name": "lstm" + suffix, "hidden_size": H} | attributes)
    )


def make_model(nodes, constants, outputs=("y",), opset=14, functions=(), inputs=(("x", 1, ["T", "N", None]),)):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        constants,
    )
    domains = [helper.make_opsetid("", opset)] + [helper.make_opsetid("local", 1)] * bool(functions)
    return helper.make_model(graph, opset_imports=domains, ir_version=8, functions=functions)


def one_node(arrays, **attributes):
    return make_model([lstm_node(arrays, **attributes)], initializers(arrays))


def run(model, **feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def an_input(seed=1, shape=(T, N, IN)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_runs_alike(model, lstm, x=None):
    """ONNX Runtime's Y (T, D, N, H) is the layer's y (T, N, D*H)."""
    x = an_input() if x is None else x
    (y,) = run(model, x=x)
    ours, _ = lstm(x)
    y = y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)
    assert_close(ours, y, steps=x.shape[0], batch=x.shape[1], input_size=x.shape[2], hidden_size=H)


def same_weights(actual, expected):
    assert list(actual.weights) == list(expected.weights)
    for name, array in expected.weights.items():
        assert_same_bits(actual.weights[name], array, name)
