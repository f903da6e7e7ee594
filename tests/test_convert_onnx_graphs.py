"""Where the LSTM nodes of a model and their weights are found, which node is taken, and what is refused and how."""

import io
import re
import warnings
from importlib import metadata

import numpy as np
import pytest
from lstm_rs.convert._onnx import from_onnx
from onnx_models import (
    IN,
    H,
    N,
    T,
    an_input,
    assert_runs_alike,
    helper,
    initializers,
    lstm_node,
    make_model,
    numpy_helper,
    one_node,
    onnx,
    run,
    same_weights,
    weights,
)  # fmt: skip
from oracle import assert_close


def const(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


# ----------------------------- constants


def through_nodes(W, R, B):
    """Weights that an exporter might have left: turned, cut, quantized, in halves."""
    nodes = [
        node("Transpose", "Wt", "W1", perm=[1, 0]),
        node("Unsqueeze", "W1 zero", "W2"),
        node("Identity", "W2", "W"),
        node("Constant", "", "Rc", value=const("", R.astype(np.float64))),
        node("Cast", "Rc", "R32", to=1),
        node("Slice", "R32 zeros end", "R33"),
        node("Reshape", "R33 Rshape", "R"),
        node("Concat", "B1 B2", "B3", axis=0),
        node("Unsqueeze", "B3 zero", "B"),
    ]
    constants = [
        const("Wt", W[0].T.copy()),
        const("zero", np.array([0])),
        const("zeros", np.zeros(3, np.int64)),
        const("end", np.array([1, 4 * H, H])),
        const("Rshape", np.array([1, 4 * H, H])),
        const("B1", B[0, : 4 * H]),
        const("B2", B[0, 4 * H :]),
    ]
    return nodes, constants


def test_weights_that_follow_from_constants():
    arrays = weights()
    nodes, constants = through_nodes(*arrays)
    model = make_model([*nodes, lstm_node(arrays)], constants)
    same_weights(from_onnx(model), from_onnx(one_node(arrays)))
    assert_runs_alike(model, from_onnx(model))


@pytest.mark.parametrize("opset", [14, 21])
@pytest.mark.parametrize("per_row", [False, True])
def test_dequantized_weights(per_row, opset):
    _, R, B = weights()
    q = np.random.default_rng(0).integers(-128, 128, (1, 4 * H, IN), dtype=np.int8)
    scale = np.linspace(0.001, 0.02, 4 * H, dtype=np.float32) if per_row else np.float32(0.01)
    zero = np.full(np.shape(scale), 3, np.int8)
    dequantize = node("DequantizeLinear", "q scale zero", "W", **({"axis": 1} if per_row else {}))
    constants = [const("q", q), const("scale", scale), const("zero", zero), *initializers((q, R, B))[1:]]
    model = make_model([dequantize, lstm_node((q, R, B))], constants, opset=opset)
    W = (q.astype(np.float32) - 3) * np.reshape(scale, (-1, 1))
    same_weights(from_onnx(model), from_onnx(one_node((W, R, B))))
    assert_runs_alike(model, from_onnx(model))


def test_an_old_operator_set():
    """Before opset 13 the axes were an attribute; before IR version 4 every initializer was an input as well."""
    arrays = weights()
    W, R, B = arrays
    nodes = [node("Unsqueeze", "W0", "W", axes=[0]), lstm_node(arrays)]
    inputs = [("x", 1, ["T", "N", None]), *((name, 1, None) for name in "RB")]
    model = make_model(nodes, [const("W0", W[0]), const("R", R), const("B", B)], opset=8, inputs=inputs)
    model.ir_version = 3
    same_weights(from_onnx(model), from_onnx(one_node(arrays)))


def bodies():
    """A model whose LSTMs stand in an If inside an If, and in a Loop; their weights around them at three depths."""
    arrays = [weights(seed) for seed in range(3)]

    def body(nodes, constants, out):
        return helper.make_graph(nodes, "body", [], [helper.make_tensor_value_info(out, 1, None)], constants)

    (W0, R0, B0), (W1, R1, B1), (W2, R2, B2) = (initializers(a, f"_{k}") for k, a in enumerate(arrays))
    inner = node("If", "flag", "y_inner", name="inner",
                 then_branch=body([lstm_node(arrays[0], "_0")], [W0], "y_0"),
                 else_branch=body([lstm_node(arrays[1], "_1", name="")], [W1, R1], "y_1"))  # fmt: skip
    outer = node("If", "flag", "y", name="outer", then_branch=body([inner], [R0, B1], "y_inner"),
                 else_branch=body([node("Identity", "x", "x_1")], [], "x_1"))  # fmt: skip
    value = helper.make_tensor_value_info
    loop_body = helper.make_graph(
        [lstm_node(arrays[2], "_2"), node("Identity", "go", "goes")], "loop", [value("k", 7, []), value("go", 9, [])],
        [value("goes", 9, []), value("y_2", 1, None)], [],
    )  # fmt: skip
    loop = node("Loop", "one flag", "ys", body=loop_body)
    constants = [B0, W2, R2, B2, const("one", np.array(1))]
    inputs = [("x", 1, ["T", "N", None]), ("flag", 9, [])]
    return arrays, make_model([outer, loop], constants, outputs=["y", "ys"], inputs=inputs)


def test_nodes_inside_bodies():
    arrays, model = bodies()
    names = ["outer/then_branch/inner/else_branch/y_1", "outer/then_branch/inner/then_branch/lstm_0", "ys/body/lstm_2"]
    for k, name in enumerate(names):
        for one in (name, k, np.int64(k)):
            same_weights(from_onnx(model, one), from_onnx(one_node(arrays[(1, 0, 2)[k]])))
    same_weights(from_onnx(model, "lstm_2"), from_onnx(one_node(arrays[2])))
    with pytest.raises(ValueError, match="call from_onnx") as caught:
        from_onnx(model)
    assert [f"[{k}] {name!r}: 3 -> 5, forward" in str(caught.value) for k, name in enumerate(names)] == [True] * 3
    y, ys = run(model, x=an_input(), flag=np.array(True))
    for theirs, k in ((y, 1), (ys[0], 2)):
        ours, _ = from_onnx(model, k)(an_input())
        assert_close(ours, theirs[:, 0], steps=T, batch=N, input_size=IN, hidden_size=H)


def test_a_node_inside_a_function():
    """As some exporters write a module: called twice, with the weights as inputs."""
    arrays = [weights(0), weights(1, input_size=H)]
    inside = [lstm_node(weights(), name="rnn"), node("Squeeze", "y one", "out")]
    inside.insert(0, node("Constant", "", "one", value=const("", np.array([1]))))
    function = helper.make_function(
        "local", "Module", ["x", "W", "R", "B"], ["out"], inside, [helper.make_opsetid("", 14)]
    )
    calls = [
        node("Module", f"{x} W{k} R{k} B{k}", out, domain="local")
        for k, (x, out) in enumerate((("x", "z"), ("z", "y")))
    ]
    model = make_model(calls, [c for k in range(2) for c in initializers(arrays[k], str(k))], functions=[function])
    for k in range(2):
        same_weights(from_onnx(model, k), from_onnx(one_node(arrays[k])))
    (y,) = run(model, x=an_input())
    ours, _ = from_onnx(model, [0, 1])(an_input())
    assert_close(ours, y, steps=T, batch=N, input_size=H, hidden_size=H)


# ----------------------------- state and lengths


def with_state(name, state, nodes=(), constants=()):
    arrays = weights()
    given = {"sequence_lens": name} if state is None else {"state": state}
    return make_model([*nodes, lstm_node(arrays, **given)], [*initializers(arrays), *constants])


@pytest.mark.parametrize("name", ["initial_h", "initial_c", "sequence_lens"])
@pytest.mark.parametrize("way", ["initializer", "expanded", "filled"])
@pytest.mark.parametrize("zero", [False, True])
def test_a_constant_state_is_not_dropped(name, way, zero):
    kind = np.int32 if name == "sequence_lens" else np.float32
    value, shape = kind(0 if zero else 2), ([N] if name == "sequence_lens" else [1, N, H])
    nodes, constants = [], []
    if way == "initializer":
        constants = [const("s", np.full(shape, value))]
    else:
        # The number of sequences is known only when the model runs: a learnt state, or one that is made of one number.
        middle = [const(f"d{k}", np.array([d])) for k, d in enumerate(shape)]
        at = shape.index(N)
        sizes = " ".join("n" if k == at else f"d{k}" for k in range(len(shape)))
        constants = [*middle, const("one", np.array([1]))]
        nodes = [node("Shape", "x", "xs"), node("Gather", "xs one", "n"), node("Concat", sizes, "size", axis=0)]
        if way == "expanded":
            constants.append(const("v", np.full([1 if k == at else d for k, d in enumerate(shape)], value)))
            nodes.append(node("Expand", "v size", "s"))
        else:
            nodes.append(node("ConstantOfShape", "size", "s", value=const("", np.array([value]))))
    state = {"initial_h": ("s", "zs"), "initial_c": ("zs", "s"), "sequence_lens": None}[name]
    model = with_state("s", state, nodes, [*constants, const("zs", np.zeros((1, N, H), np.float32))])
    if zero and name != "sequence_lens":
        assert_runs_alike(model, from_onnx(model))
    else:
        argument = "lengths=" if name == "sequence_lens" else "state="
        with pytest.raises(ValueError, match=rf"^node 'lstm': its {name}, 's', is a constant .* layer as {argument}$"):
            from_onnx(model)
        # The way out that the message names.
        of = model.graph.node[-1]
        of.input[list(of.input).index("s")] = ""
        same_weights(from_onnx(model), from_onnx(one_node(weights())))


def test_a_state_or_lengths_from_outside_are_arguments_of_the_call():
    arrays = weights()
    inputs = [("x", 1, ["T", "N", IN]), ("h", 1, [1, "N", H]), ("n", 6, ["N"])]
    nodes = [node("Tanh", "h", "c"), lstm_node(arrays, sequence_lens="n", state=("h", "c"))]
    model = make_model(nodes, initializers(arrays), inputs=inputs)
    h, n = an_input(2, (1, N, H)), np.array([7, 3, 1, 4], np.int32)
    (y,) = run(model, x=an_input(), h=h, n=n)
    ours, _ = from_onnx(model)(an_input(), (h, np.tanh(h)), n)
    assert_close(ours, y[:, 0], steps=T, batch=N, input_size=IN, hidden_size=H)


# ----------------------------- which node


def two_nodes(**second):
    arrays = [weights(0), weights(1, input_size=second.pop("input_size", H))]
    attributes = [{}, second]
    nodes = [lstm_node(a, f"_{k}", x="x" if k == 0 else "z", **attributes[k]) for k, a in enumerate(arrays)]
    squeeze = [node("Squeeze", "y_0 one", "z"), node("Squeeze", "y_1 one", "y")]
    constants = [const("one", np.array([1])), *initializers(arrays[0], "_0"), *initializers(arrays[1], "_1")]
    return arrays, make_model([nodes[0], squeeze[0], nodes[1], squeeze[1]], constants)


def test_several_nodes_are_layers():
    arrays, model = two_nodes()
    both = from_onnx(model, node=["lstm_0", "lstm_1"])
    assert both.num_layers == 2
    for k in range(2):
        one = from_onnx(one_node(arrays[k]))
        for name, array in one.weights.items():
            np.testing.assert_array_equal(both.weights[name.replace("l0", f"l{k}")], array)
    (y,) = run(model, x=an_input())
    assert_close(both(an_input())[0], y, steps=T, batch=N, input_size=IN, hidden_size=H)


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({"input_size": 4}, r"^node 'lstm_1': expected input size 5, the outputs of node 'lstm_0', got 4"),
        ({"input_forget": 1}, r"^node 'lstm_1': expected cell=CellSpec\(.* as node 'lstm_0' has, got CellSpec\("),
        ({"layout": 1}, r"^node 'lstm_1': expected batch_first=False, as node 'lstm_0' has, got True"),
    ],
)  # fmt: skip
def test_nodes_that_are_not_layers_of_one_lstm(second, text):
    with pytest.raises(ValueError, match=text):
        from_onnx(two_nodes(**second)[1], ["lstm_0", "lstm_1"])


@pytest.mark.parametrize(
    ("chosen", "error", "text"),
    [
        ("lstm", KeyError, "no LSTM node 'lstm'; there are 'lstm_0', 'lstm_1'"),
        (2, ValueError, "^node: expected an index from 0 to 1, got 2"),
        (-1, ValueError, "^node: expected an index from 0 to 1, got -1"),
        (True, TypeError, "^node: expected a name or an index, got True"),
        (1.0, TypeError, "^node: expected a name, an index, or a sequence of them, got 1.0"),
        ([], TypeError, "^node: expected a name, an index, or a sequence of them, got "),
        (["lstm_0", 1.5], TypeError, "^node: expected a name or an index, got float"),
        (["lstm_0", "lstm_3"], KeyError, "no LSTM node 'lstm_3'"),
    ],
)
def test_nodes_that_are_not_there(chosen, error, text):
    with pytest.raises(error, match=text):
        from_onnx(two_nodes()[1], chosen)


def test_two_nodes_of_one_name():
    _, model = two_nodes(name="lstm_0")
    with pytest.raises(ValueError, match=r"^node: 2 LSTM nodes are named 'lstm_0'; give the index of one"):
        from_onnx(model, "lstm_0")
    assert from_onnx(model, 1).input_size == H


# ----------------------------- models of other programs


@pytest.mark.parametrize(("layers", "two"), [(1, False), (2, True)])
def test_what_pytorch_exports(layers, two):
    """Its weights go through Slice and Concat, and its initial state is made of zeros when the model runs."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net, x = torch.nn.LSTM(IN, H, layers, bidirectional=two), torch.from_numpy(an_input())
    file = io.BytesIO()
    with warnings.catch_warnings():
        # That this exporter is the old one, which alone needs no further package.
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "T", 1: "N"}})
    names = [node.name for node in onnx.load_from_string(file.getvalue()).graph.node if node.op_type == "LSTM"]
    lstm = from_onnx(file.getvalue(), names)
    for k in range(layers):
        total = net.get_parameter(f"bias_ih_l{k}") + net.get_parameter(f"bias_hh_l{k}")
        np.testing.assert_array_equal(lstm.weights[f"bias_l{k}"], total.detach().numpy())
        np.testing.assert_array_equal(lstm.weights[f"weight_ih_l{k}"], net.get_parameter(f"weight_ih_l{k}").detach())
    wanted = net(x)[0].detach().numpy()
    assert_close(lstm(an_input())[0], wanted, steps=T, batch=N, input_size=IN, hidden_size=H)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("silero_vad_16k_sequence", None),
        ("silero_vad_openvino_16k", None),
        ("silero_vad", "one of the model's 4 LSTM nodes"),
        ("silero_vad_16k_op15", "one of the model's 2 LSTM nodes"),
        ("silero_vad_half", "one of the model's 2 LSTM nodes"),
        ("silero_vad_op18_ifless", "with an LSTM node, got one without; it has 12 Conv, "),
    ],
)
def test_the_models_of_silero_vad(name, text):
    """A voice activity detector as it was exported for this runtime and that; the last has no LSTM operator at all."""
    try:
        package = metadata.distribution("silero-vad")
    except metadata.PackageNotFoundError:
        pytest.skip("silero-vad is not installed")
    path = package.locate_file(f"silero_vad/data/{name}.onnx")
    if text is None:
        lstm = from_onnx(path)
    else:
        with pytest.raises(ValueError, match=text) as caught:
            from_onnx(path)
        names = re.findall(r"\[\d+\] '(.*)': 128 -> 128, forward", str(caught.value))
        assert len(names) == {"silero_vad": 4, "silero_vad_op18_ifless": 0}.get(name, 2)
        layers = [from_onnx(path, one) for one in names]
        # The branches with a state and without one share their weights.
        for one, other in zip(layers[::2], layers[1::2], strict=True):
            same_weights(one, other)
        if not layers:
            return
        lstm = layers[0]
    y, state = lstm(an_input(shape=(T, 128)))
    assert y.shape == (T, 128) and np.isfinite(y).all() and state.c.shape == (1, 128)
