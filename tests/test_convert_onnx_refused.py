"""What `from_onnx` refuses, and in which words; and that damaged files end in those errors."""

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec
from lstm_rs.convert._onnx import from_onnx
from lstm_rs.convert._to_onnx import to_onnx
from onnx_models import IN, H, helper, one_node, onnx, weights


def changed(what, change):
    """A model one of whose weights is another."""
    arrays = dict(zip("WRBP", weights(peephole=True), strict=True))
    arrays[what] = change(arrays[what])
    return one_node(tuple(arrays.values()))


def set_nan(array):
    array[0, 1] = np.nan
    return array


def broken(change):
    """A model whose LSTM node, or graph, was changed by hand."""
    model = one_node(weights())
    change(model.graph)
    return model


def forget(name):
    return lambda graph: graph.initializer.remove(next(t for t in graph.initializer if t.name == name))


def computed(graph):
    graph.node.insert(0, helper.make_node("Abs", ["x"], ["W"], name="made"))
    forget("W")(graph)


def noise(graph):
    graph.node.insert(0, helper.make_node("RandomNormal", [], ["W"], shape=[1, 4 * H, IN]))
    forget("W")(graph)


def circle(graph):
    graph.node.extend([helper.make_node("Neg", ["W"], ["V"]), helper.make_node("Neg", ["V"], ["W"])])
    forget("W")(graph)


def no_data(graph):
    graph.initializer[0].ClearField("raw_data")


def lstm(**attributes):
    return lambda: one_node(weights(), **attributes)


def hand(change):
    return lambda: broken(change)


def array(what, change):
    return lambda: changed(what, change)


def other_kind(graph):
    graph.node[0].op_type = "GRU"


def other_domain(graph):
    graph.node[0].domain = "mine"


def no_recurrence(graph):
    graph.node[0].input[2] = ""


def opposite(array):
    return np.concatenate([array[:, : 4 * H] * 0 + np.float32(np.inf), array[:, 4 * H :] * 0 - np.float32(np.inf)], 1)


def no_units(graph):
    for tensor, shape in zip(graph.initializer, ([1, 0, 3], [1, 0, 0], [1, 0]), strict=True):
        tensor.ClearField("dims")
        tensor.dims.extend(shape)
        tensor.raw_data = b""
    graph.node[0].ClearField("attribute")


REFUSED = {
    "another hidden_size": (lstm(hidden_size=4), r"W: expected W of shape \(1, 16, 3\)"),
    "a gate less": (array("W", lambda a: a[:, : 3 * H]), r"W: expected .* \(1, 20, 3\) .*got \(1, 15, 3\)"),
    "transposed": (array("R", lambda a: a.transpose(0, 2, 1)), r"R: expected .* \(1, 20, 5\) .*got \(1, 5, 20\)"),
    "no direction": (array("W", lambda a: a[0]), r"W: expected .* got \(20, 3\)"),
    "R of two axes": (array("R", lambda a: a[0]), r"R: expected R of three axes.*got \(20, 5\)"),
    "half a bias": (array("B", lambda a: a[:, : 4 * H]), r"B: expected .* \(1, 40\) .* got \(1, 20\)"),
    "short peepholes": (array("P", lambda a: a[:, :H]), r"P: expected .* \(1, 15\) .* got \(1, 5\)"),
    "one of two directions": (lstm(direction="bidirectional"), r"W: expected .*\(2, 20, 3\) .*2 directions"),
    "nan": (array("R", set_nan), "R: 5 of 100 weights are NaN or infinite"),
    "infinite bias": (array("B", lambda a: a + np.float32(np.inf)), "B: 20 of 20 weights are NaN or infinite"),
    "a bias that overflows": (array("B", lambda a: np.full_like(a, 3e38)), "B: 20 of 20 weights are NaN or infinite"),
    "two infinities": (array("B", opposite), "B: 20 of 20 weights are NaN or infinite"),
    "hidden_size 0": (lstm(hidden_size=0), r"W: expected W of shape \(1, 0, 3\)"),
    "no units": (hand(no_units), r"R: expected .* gates of as many rows each"),
    "float16": (array("W", lambda a: a.astype("f2")), "W: expected float32 or float64, got float16; cast"),
    "reverse": (lstm(direction="reverse"), "node 'lstm': .*'reverse'; use lstm_rs.onnx.LSTM, or"),
    "direction": (lstm(direction="sideways"), "node 'lstm': .* got 'sideways'$"),
    "two activations": (lstm(activations=["Tanh"] * 2), "node 'lstm': activations: expected 3 names"),
    "no activation": (lstm(activations=["Tanh", "Tanh", "Swish"]), "node 'lstm': .*got 'Swish'"),
    "no alpha": (lstm(activations=["Affine", "Tanh", "Tanh"]), "node 'lstm': .*give both its alpha"),
    "clip 0": (lstm(clip=0.0), "node 'lstm': expected a clip above 0, got 0.0"),
    "clip nan": (lstm(clip=np.nan), "node 'lstm': expected a clip above 0, got nan"),
    "layout 2": (lstm(layout=2), "node 'lstm': expected layout 0 or 1, got 2"),
    "a size of text": (lstm(hidden_size="5"), "node 'lstm': its hidden_size is of another type"),
    "an alpha of text": (lstm(activation_alpha=["a"]), "node 'lstm': its activation_alpha is of another type"),
    "another attribute": (lstm(projection=3), "node 'lstm': .* one named 'projection'"),
    "no R": (hand(no_recurrence), "node 'lstm': expected a R among its inputs, got none"),
    "no inputs": (hand(lambda g: g.node[0].ClearField("input")), "node 'lstm': expected a W among its inputs"),
    "no such weight": (hand(forget("W")), "W: nothing in the model makes this value"),
    "computed": (hand(computed), "W: .* of node 'lstm', .* from 'x', an input of the graph; use lstm_rs.onnx"),
    "random": (hand(noise), "W: .* when the model runs, by the RandomNormal node 'W'"),
    "circle": (hand(circle), "W: cannot be computed from the model's constants"),
    "no data": (hand(no_data), "W: expected a whole tensor, got one that cannot be read: "),
    "no LSTM": (hand(other_kind), "source: .* got one without; it has 1 GRU"),
    "no nodes": (hand(lambda g: g.ClearField("node")), "source: .* got one without; it has no nodes"),
    "another domain": (hand(other_domain), "source: .* got one without"),
    "empty": (lambda: b"", "source: expected an ONNX model, got what has no graph"),
    "text": (lambda: b"not a model", "source: expected an ONNX model, got what "),
    "an empty model": (lambda: onnx.ModelProto(), "source: expected an ONNX model, got what has no graph"),
    "half a file": (lambda: one_node(weights()).SerializeToString()[:-100], "source: expected an ONNX model, got what"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    make, text = REFUSED[name]
    with pytest.raises((TypeError if name == "float16" else ValueError), match=f"^{text}"):
        from_onnx(make())


def test_damaged_bytes_never_surprise():
    """A byte changed anywhere: a layer, or one of the errors that are promised."""
    rng = np.random.default_rng(0)
    data = to_onnx(LSTM(2, 1, cell=CellSpec(peephole=True, coupled=True), seed=0)).SerializeToString()
    outcomes = set()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] = (damaged[at] + rng.integers(1, 256)) % 256
        try:
            outcomes.add(type(from_onnx(damaged)))
        except (ValueError, TypeError) as error:
            assert str(error)
            outcomes.add(type(error))
    assert {LSTM, ValueError} <= outcomes
