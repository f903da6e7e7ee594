"""Small ONNX models that ask for much: refused before memory or time is taken for them."""

import numpy as np
import pytest
from converted import refused
from lstm_rs.convert._onnx import from_onnx
from onnx_models import H, helper, initializers, lstm_node, make_model, numpy_helper, one_node, weights


def const(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def made(nodes, **constants):
    """A model whose W is made by nodes."""
    arrays = weights()
    return make_model([*nodes, lstm_node(arrays)], [*initializers(arrays)[1:], *(const(*c) for c in constants.items())])


ONE = np.ones((1, 1), np.float32)
LARGE = np.array([30_000, 30_000])
DOUBLED = [node("Concat", f"a{k} a{k}", f"a{k + 1}", axis=0) for k in range(40)]
GROWING = {
    "ConstantOfShape": made([node("ConstantOfShape", "s", "W")], s=LARGE),
    "Expand": made([node("Expand", "one s", "W")], one=ONE, s=LARGE),
    "Tile": made([node("Tile", "one s", "W")], one=ONE, s=LARGE),
    "Pad": made([node("Pad", "one s", "W")], one=ONE, s=np.array([0, 0, 30_000, 30_000])),
    "Range": made([node("Range", "zero s step", "W")], zero=np.array(0), s=np.array(1 << 30), step=np.array(1)),
    "Concat": made([*DOUBLED, node("Identity", "a40", "W")], a0=ONE),
    "Add": made([node("Add", "row column", "W")], row=np.ones((1, 30_000)), column=np.ones((30_000, 1))),
    "Gather": made([node("Gather", "row zeros", "W", axis=0)], row=np.ones((1, 3000)), zeros=np.zeros(3000, np.int64)),
}


@pytest.mark.parametrize("kind", GROWING)
def test_an_array_of_any_size_from_a_few_bytes(kind):
    text = (
        f"^W: cannot be computed from the model's constants: the {kind} node '.*': it makes [0-9]+ numbers, more than"
    )
    refused(ValueError, text, lambda: from_onnx(GROWING[kind]))


def test_a_product_that_takes_long():
    # Both within what may be made of so many constants; their product would take 2^37 multiplications.
    long = made([node("MatMul", "a b", "W")], a=np.ones((512, 1 << 17), np.int8), b=np.ones((1 << 17, 2048), np.int8))
    refused(ValueError, "the MatMul node 'W': it takes more than [0-9]+ multiplications", lambda: from_onnx(long))


def test_an_operator_whose_work_has_no_bound():
    text = "^W: expected a constant as W .*, got what is computed when the model runs, by the RegexFullMatch node 'W'"
    slow = made([node("RegexFullMatch", "s", "W", pattern="(a+)+$")], s=np.array([b"a" * 60 + b"b"], object))
    refused(ValueError, text, lambda: from_onnx(slow))


def test_many_nodes_over_the_same_constants_are_computed_once():
    """A chain of 300 nodes, and an LSTM at each of its links: 45 000 evaluations if each began from the start."""
    arrays = weights()
    chain = [node("Identity", f"W{k}", f"W{k + 1}") for k in range(300)]
    lstms = []
    for k in range(300):
        lstms.append(lstm_node(arrays, name=f"lstm{k}"))
        lstms[-1].input[1], lstms[-1].output[0] = f"W{k}", f"y{k}"
    constants = initializers(arrays)
    constants[0].name = "W0"
    said = refused(ValueError, "^node: expected one of the model's 300 LSTM nodes",
                   lambda: from_onnx(make_model([*chain, *lstms], constants)))  # fmt: skip
    assert said.count(f"3 -> {H}, forward") == 300


# ----------------------------- functions


def function(name, body):
    return helper.make_function("local", name, ["x"], ["y"], body, [helper.make_opsetid(*one) for one in IMPORTS])


def call(name, x, y):
    return helper.make_node(name, [x], [y], domain="local")


IMPORTS = (("", 14), ("local", 1))


def with_functions(called, *functions):
    arrays = weights()
    return make_model([call(called, "x", "z"), lstm_node(arrays)], initializers(arrays), functions=functions)


def test_functions_that_call_each_other():
    doubling = [function(f"f{k}", [call(f"f{k + 1}", "x", "t"), call(f"f{k + 1}", "t", "y")]) for k in range(40)]
    last = function("f40", [node("Neg", "x", "y")])
    text = "^source: expected at most [0-9]+ nodes once functions are in the place of their calls$"
    refused(ValueError, text, lambda: from_onnx(with_functions("f0", *doubling, last)))
    text = "^source: expected functions that do not call themselves, got some that do$"
    for circle in ([function("f", [call("f", "x", "y")])],
                   [function("f", [call("g", "x", "y")]), function("g", [call("f", "x", "y")])]):  # fmt: skip
        refused(ValueError, text, lambda circle=circle: from_onnx(with_functions("f", *circle)))
    # A function that is called often is none of these.
    assert from_onnx(with_functions("f37", *doubling[37:], last)).hidden_size == H


def test_a_call_that_does_not_fit_its_function():
    model = with_functions("f", function("f", [node("Neg", "x", "y")]))
    model.graph.node[0].input.append("x")
    refused(ValueError, "^source: expected functions that can be put in the place of their calls: ",
            lambda: from_onnx(model))  # fmt: skip


# ----------------------------- damage in places that no evaluator sees


def broken(change):
    model = one_node(weights())
    change(model.graph)
    return model


def reference(graph):
    attribute = graph.node[0].attribute[0]
    attribute.CopyFrom(type(attribute)(name="hidden_size", ref_attr_name="size", type=attribute.INT))


def no_name(graph):
    """An initial state of zeros, of a length that is known when the model runs, and of an input that is not there."""
    graph.node.insert(0, node("Shape", "x", "s"))
    graph.node.insert(1, node("ConstantOfShape", "s", "zeros"))
    graph.node.insert(2, helper.make_node("Concat", ["zeros", ""], ["h0"], axis=0))
    graph.node[3].input.extend(["", "h0"])


def damaged_state(graph):
    """An initial state of zeros, of a length that is known when the model runs, whose zero is no tensor."""
    graph.node.insert(0, node("Shape", "x", "s"))
    graph.node.insert(1, helper.make_node("ConstantOfShape", ["s"], ["h0"], value=const("", np.zeros(1))))
    graph.node[1].attribute[0].t.ClearField("raw_data")
    graph.node[2].input.extend(["", "h0"])


def elsewhere(graph):
    """A constant in the model whose numbers are in another file."""
    tensor = graph.initializer[0]
    graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=tensor))
    value = graph.node[0].attribute[0].t
    value.ClearField("raw_data")
    value.data_location = value.EXTERNAL
    value.external_data.add(key="location", value="secret")
    del graph.initializer[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (reference, "^node 'lstm': its hidden_size has no value: "),
        (no_name, "^an input: nothing in the model makes this value"),
        (damaged_state, "^value: expected a whole tensor, got one that cannot be read: "),
        (elsewhere, r"^W: cannot be computed .*: value: its values are in another file, \['secret'\]: give the path"),
    ],
)
def test_what_is_damaged_is_named(change, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Of the right size, and not to be read all the same.
    (tmp_path / "secret").write_bytes(np.ones((4 * H, 3), np.float32).tobytes())
    refused(ValueError, text, lambda: from_onnx(broken(change)))
