"""ONNX's LSTM operator: against a loop written from its text, ONNX Runtime, and ONNX's own tests."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from lstm_rs.onnx import LSTM
from oracle import assert_close

# Each activation, as numbers, and how many of alpha and beta it takes.
ACTIVATIONS = {
    "Relu": (lambda x, a, b: np.maximum(x, 0), 0),
    "Tanh": (lambda x, a, b: np.tanh(x), 0),
    "Sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), 0),
    "Affine": (lambda x, a, b: a * x + b, 2),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 1),
    "ThresholdedRelu": (lambda x, a, b: np.where(x > a, x, 0), 1),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 2),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 2),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * (np.exp(x) - 1)), 1),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0),
    "Softplus": (lambda x, a, b: np.logaddexp(0, x), 0),
}


# 1 / (1 + exp(800)) is 0, by way of an infinity.
@np.errstate(over="ignore")
def plain(inputs, attributes):
    """The operator in float64 and in ONNX's own order of gates, one sequence and one step after the other."""
    X, W, R, B, lengths, h0, c0, P = (
        None
        if inputs.get(name) is None
        else np.asarray(inputs[name], np.int64 if name == "sequence_lens" else np.float64)
        for name in ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    )
    if attributes.get("layout"):
        X = X.swapaxes(0, 1)
        h0, c0 = (None if state is None else state.swapaxes(0, 1) for state in (h0, c0))
    H, clip = attributes["hidden_size"], attributes.get("clip", np.inf)
    ways = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}[attributes.get("direction", "forward")]
    names = list(attributes.get("activations", ("Sigmoid", "Tanh", "Tanh") * len(ways)))
    alpha, beta = (list(attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta"))
    squash = []
    for name in names:
        f, count = ACTIVATIONS[name]
        a = alpha.pop(0) if count > 0 else None
        b = beta.pop(0) if count > 1 else None
        squash.append(lambda x, f=f, a=a, b=b: f(x, a, b))
    T, N, D = *X.shape[:2], len(ways)
    Y, Y_h, Y_c = np.zeros((T, D, N, H)), np.zeros((D, N, H)), np.zeros((D, N, H))
    for d, way in enumerate(ways):
        f, g, out = squash[3 * d : 3 * d + 3]
        w_i, w_o, w_f, w_c = np.split(W[d], 4)
        r_i, r_o, r_f, r_c = np.split(R[d], 4)
        b_i, b_o, b_f, b_c = np.zeros((4, H)) if B is None else (B[d, : 4 * H] + B[d, 4 * H :]).reshape(4, H)
        p_i, p_o, p_f = np.zeros((3, H)) if P is None else P[d].reshape(3, H)
        for n in range(N):
            h = np.zeros(H) if h0 is None else h0[d, n]
            c = np.zeros(H) if c0 is None else c0[d, n]
            length = T if lengths is None else lengths[n]
            for t in range(length)[::way]:
                x = X[t, n]
                cut = lambda z: np.clip(z, -clip, clip)  # noqa: E731
                i = f(cut(w_i @ x + r_i @ h + b_i + p_i * c))
                forget = 1 - i if attributes.get("input_forget") else f(cut(w_f @ x + r_f @ h + b_f + p_f * c))
                c = forget * c + i * g(cut(w_c @ x + r_c @ h + b_c))
                o = f(cut(w_o @ x + r_o @ h + b_o + p_o * c))
                h = o * out(c)
                Y[t, d, n] = h
            if length:
                Y_h[d, n], Y_c[d, n] = h, c
    if attributes.get("layout"):
        return Y.transpose(2, 0, 1, 3), Y_h.swapaxes(0, 1), Y_c.swapaxes(0, 1)
    return Y, Y_h, Y_c


@st.composite
def models(draw, dtype=np.float32, layouts=(0,)):
    """The inputs and attributes of a node: all that there are, each as often as not."""
    T, N, input_size, H = (draw(st.sampled_from(k)) for k in ([1, 2, 4, 7], [1, 2, 3, 5], [1, 2, 5, 9], [1, 3, 8, 17]))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    D = 1 + (direction == "bidirectional")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layout = draw(st.sampled_from(layouts))

    def normal(*shape, scale=1.0):
        return (rng.normal(size=shape) * scale).astype(dtype)

    def state():
        return normal(N, D, H) if layout else normal(D, N, H)

    # The recurrence is weak enough for no error to grow, whatever the activations are.
    inputs = {
        "X": normal(N, T, input_size) if layout else normal(T, N, input_size),
        "W": normal(D, 4 * H, input_size, scale=0.5 / np.sqrt(input_size)),
        "R": normal(D, 4 * H, H, scale=0.2 / np.sqrt(H)),
    }
    attributes = {"hidden_size": H, "direction": direction}
    if layout:
        attributes["layout"] = 1
    optional = {
        "B": lambda: normal(D, 8 * H, scale=0.3),
        "sequence_lens": lambda: rng.integers(0, T, N, endpoint=True, dtype=np.int32),
        "initial_h": state,
        "initial_c": state,
        "P": lambda: normal(D, 3 * H, scale=0.3),
    }
    inputs |= {name: make() for name, make in optional.items() if draw(st.booleans())}
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.1, 0.3, 1.0, 2.5, 50.0]))
    if draw(st.booleans()):
        attributes["input_forget"] = 1
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(sorted(ACTIVATIONS)), min_size=3 * D, max_size=3 * D))
        takes = [ACTIVATIONS[name][1] for name in names]
        number = st.sampled_from([-0.5, 0.125, 0.5, 0.75, 1.0])
        attributes["activations"] = names
        for key, least in (("activation_alpha", 1), ("activation_beta", 2)):
            count = sum(count >= least for count in takes)
            if count:
                attributes[key] = draw(st.lists(number, min_size=count, max_size=count))
    return inputs, attributes


def check(actual, expected, inputs):
    T, N = inputs["X"].shape[:2]
    H = inputs["R"].shape[2]
    sizes = {"steps": T, "batch": N, "input_size": inputs["X"].shape[2], "hidden_size": H}
    for name, array, other in zip(("Y", "Y_h", "Y_c"), actual, expected, strict=True):
        # Arrays of one or two elements may cancel; states are of the order of 1.
        assert_close(array, other, **sizes, at_least=1.0, name=name)


def steady(inputs, attributes):
    """Leave out what no rounding can be held against: gates without bounds that multiply every error by more at each
    step, and what sits on the step of a ThresholdedRelu and comes out either way.
    """
    if "activations" not in attributes:
        return
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        as_they_are = plain(inputs, attributes)
        for _ in range(3):
            nudged = {
                name: array if name == "sequence_lens" else array * (1 + 1e-6 * rng.normal(size=array.shape))
                for name, array in inputs.items()
            }
            for a, b in zip(as_they_are, plain(nudged, attributes), strict=True):
                assume(np.abs(a - b).max(initial=0) < 1e-5 * max(1.0, np.abs(a).max(initial=0)))


def node_model(inputs, attributes):
    """A model of that one node, all its inputs given at run time."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    names = [name if name in inputs else "" for name in order]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, infos[0].type.tensor_type.elem_type, None) for name in ("Y", "Y_h", "Y_c")
    ]
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], **attributes)
    graph = helper.make_graph([node], "lstm", infos, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


# ----------------------------- against the text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
@settings(max_examples=3000)
def test_it_is_the_text(dtype, data):
    inputs, attributes = data.draw(models(dtype, layouts=(0, 1)))
    note(f"{ {name: array.shape for name, array in inputs.items()} } {attributes}")
    steady(inputs, attributes)
    actual = LSTM(**inputs, **attributes)
    assert all(array.dtype == dtype for array in actual)
    check(actual, plain(inputs, attributes), inputs)


# ----------------------------- against ONNX Runtime


@given(model=models())
@settings(max_examples=300)
def test_it_is_onnx_runtime(model):
    ort = pytest.importorskip("onnxruntime")
    inputs, attributes = model
    note(f"{ {name: array.shape for name, array in inputs.items()} } {attributes}")
    steady(inputs, attributes)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    serialized = node_model(inputs, attributes).SerializeToString()
    expected = ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"]).run(None, inputs)
    actual = LSTM(**inputs, **attributes)
    assert [array.shape for array in actual] == [array.shape for array in expected]
    check(actual, [array.astype(np.float64) for array in expected], inputs)
    if "sequence_lens" in inputs:
        for n, length in enumerate(inputs["sequence_lens"]):
            assert not actual[0][length:, :, n].any()
            assert length or not (actual[1][:, n].any() or actual[2][:, n].any())


def test_parameters_that_are_not_given_are_those_of_onnx_runtime():
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=shape).astype(np.float32)
              for name, shape in (("X", (4, 3, 2)), ("W", (1, 20, 2)), ("R", (1, 20, 5)))}  # fmt: skip
    for name in ("LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu"):
        attributes = {"hidden_size": 5, "activations": ["Sigmoid", name, name.upper()]}
        model = node_model(inputs, attributes).SerializeToString()
        expected = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)
        check(LSTM(**inputs, **attributes), [array.astype(np.float64) for array in expected], inputs)


# ----------------------------- ONNX's own tests


# All operators' test data are made where those of one are asked for, not without warnings.
@pytest.mark.filterwarnings("ignore")
def test_the_tests_of_onnx_pass():
    pytest.importorskip("onnx")
    from onnx import helper, numpy_helper
    from onnx.backend.test.case.node import collect_testcases

    cases = collect_testcases("LSTM")
    assert len(cases) == 6
    for case in cases:
        (node,) = case.model.graph.node
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
        names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
        given = [name for name, there in zip(names, node.input, strict=False) if there]
        for arrays, expected in case.data_sets:
            inputs = dict(zip(given, map(_array(numpy_helper), arrays), strict=True))
            answer = dict(zip(("Y", "Y_h", "Y_c"), LSTM(**inputs, **attributes), strict=True))
            wanted = [name for name, there in zip(answer, node.output, strict=False) if there]
            for name, array in zip(wanted, map(_array(numpy_helper), expected), strict=True):
                assert answer[name].shape == array.shape, case.name
                np.testing.assert_allclose(answer[name], array, rtol=case.rtol, atol=case.atol, err_msg=case.name)


def _array(numpy_helper):
    return lambda given: given if isinstance(given, np.ndarray) else numpy_helper.to_array(given)


# ----------------------------- refused


ARRAYS = {
    "X": np.zeros((4, 3, 2), np.float32),
    "W": np.zeros((1, 20, 2), np.float32),
    "R": np.zeros((1, 20, 5), np.float32),
}


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        ({"X": np.zeros((4, 3), np.float32)}, ValueError, "X: expected three axes, got shape (4, 3)"),
        ({"W": np.zeros((1, 20, 3), np.float32)}, ValueError, "W: expected shape (1, 20, 2), got (1, 20, 3)"),
        ({"R": np.zeros((2, 20, 5), np.float32)}, ValueError, "R: expected shape (1, 20, 5), got (2, 20, 5)"),
        ({"B": np.zeros((1, 20), np.float32)}, ValueError, "B: expected shape (1, 40), got (1, 20)"),
        ({"P": np.zeros((1, 20), np.float32)}, ValueError, "P: expected shape (1, 15), got (1, 20)"),
        ({"initial_c": np.zeros((3, 5), np.float32)}, ValueError, "initial_c: expected shape (1, 3, 5), got (3, 5)"),
        ({"sequence_lens": [1, 2]}, ValueError, "sequence_lens: expected shape (3,), got (2,)"),
        ({"sequence_lens": [1, 5, 2]}, ValueError,
         "sequence_lens: expected 0 to 4, the number of steps, got [1, 5, 2]"),
        ({"X": np.zeros((4, 3, 2))}, TypeError,
         "W: expected float64, as X has, got float32; cast it with W.astype(X.dtype)"),
        ({"X": np.zeros((4, 3, 2), np.float16)}, TypeError,
         "X: expected float32 or float64, got float16; cast it with X.astype(np.float32)"),
        ({"direction": "backward"}, ValueError,
         "direction: expected 'forward', 'reverse' or 'bidirectional', got 'backward'"),
        ({"layout": 2}, ValueError, "layout: expected 0 or 1, got 2"),
        ({"input_forget": -1}, ValueError, "input_forget: expected 0 or 1, got -1"),
        ({"clip": 0.0}, ValueError, "clip: expected a positive number, got 0.0"),
        ({"activations": ["Tanh"]}, ValueError,
         "activations: expected 3 names, which are f, g and h for 1 direction, got 1: 'Tanh'"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"], "activation_alpha": [1.0]}, ValueError,
         "activations: Affine has no default parameters: give both its alpha and its beta, in activation_alpha and "
         "activation_beta"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(wrong, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        LSTM(**(ARRAYS | {"hidden_size": 5} | wrong))


def test_the_comparison_can_fail():
    """A gate in another's place, an activation in another's, and a clip that does nothing all show."""
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in ARRAYS.items()}
    right = plain(inputs, {"hidden_size": 5})
    check(LSTM(**inputs, hidden_size=5), right, inputs)
    i, o, f, c = np.split(inputs["W"], 4, axis=1)
    swapped = inputs | {"W": np.concatenate([o, i, f, c], axis=1)}
    for wrong, attributes in (
        (swapped, {}),
        (inputs, {"clip": 1.0}),
        (inputs, {"activations": ["Sigmoid", "Tanh", "Elu"]}),
    ):
        with pytest.raises(AssertionError, match="above the tolerance"):
            check(LSTM(**wrong, hidden_size=5, **attributes), right, inputs)
