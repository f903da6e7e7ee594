"""LSTM nodes of ONNX models as layers, and layers as models: against ONNX Runtime, and around in the same bits."""

import logging
from itertools import product

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec, Weights
from lstm_rs.convert._onnx import from_onnx
from lstm_rs.convert._onnx_layout import (
    activation_of,
    decimals,
    onnx_activation,
    onnx_of,
    take_activations,
    weights_of,
)
from lstm_rs.convert._to_onnx import to_onnx
from onnx_models import (
    IN,
    H,
    N,
    T,
    an_input,
    assert_runs_alike,
    helper,
    make_model,
    numpy_helper,
    one_node,
    onnx,
    run,
    same_weights,
    weights,
)
from oracle import assert_close, assert_same_bits, make_weights

CELLS = {
    "default": CellSpec(),
    "peephole": CellSpec(peephole=True),
    "coupled": CellSpec(coupled=True),
    "coupled-peephole": CellSpec(coupled=True, peephole=True),
    "clip": CellSpec(gate_clip=0.3, peephole=True),
    "clip-coupled": CellSpec(gate_clip=0.3, coupled=True),
    "linear": CellSpec(input_activation="identity"),
    "hard": CellSpec(gate_activation="hard_sigmoid", input_activation="softsign", output_activation="relu"),
    "numbers": CellSpec(
        gate_activation=("hard_sigmoid", 0.3, 0.4),
        input_activation=("leaky_relu", 0.2),
        output_activation=("scaled_tanh", 1.5, 0.7),
    ),
    "more": CellSpec(
        gate_activation=("affine", 0.2, 0.5), input_activation=("elu", 0.6), output_activation=("thresholded_relu", 0.1)
    ),
    "softplus": CellSpec(input_activation=("leaky_relu", 0.2), output_activation="softplus"),
}
# ONNX Runtime's default of ThresholdedRelu is 0, not ONNX's 1: it is tested with a number of its own above.


# ----------------------------- the layout


def test_the_order_of_gates_and_peepholes():
    """Rows that say which gate they are: i 1, o 2, f 3, c 4."""
    gates = np.repeat([1.0, 2.0, 3.0, 4.0], 2)
    W, R, P = gates[:, None] * np.ones(3), gates[:, None] * np.ones(2), gates[:6]
    B = np.concatenate([gates, 10 * gates])
    ours = weights_of(W, R, B, P, coupled=False)
    assert ours.w_ih[::2, 0].tolist() == ours.w_hh[::2, 0].tolist() == [1, 3, 4, 2]
    assert ours.b[::2].tolist() == [11, 33, 44, 22]
    assert ours.peephole[:, 0].tolist() == [1, 3, 2]
    coupled = weights_of(W, R, B, P, coupled=True)
    assert coupled.w_ih[::2, 0].tolist() == [1, 4, 2] and coupled.peephole[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["default", "peephole", "coupled", "coupled-peephole"])
def test_the_layout_goes_around(name, dtype):
    given = make_weights(np.random.default_rng(0), CELLS[name], IN, H, dtype=dtype)
    given.b[::3] = -0.0
    W, R, B, P = onnx_of(given, CELLS[name])
    assert W.shape == (4 * H, IN) and R.shape == (4 * H, H) and B.shape == (8 * H,)
    assert not B[4 * H :].any() and (P is None or P.shape == (3 * H,))
    if CELLS[name].coupled:
        assert not W[2 * H : 3 * H].any() and not B[2 * H : 3 * H].any()
    for field, array in weights_of(W, R, B, P, coupled=CELLS[name].coupled)._asdict().items():
        if getattr(given, field) is None:
            assert array is None
        else:
            assert_same_bits(array, getattr(given, field), field)


def test_what_the_layout_has_no_room_for():
    with pytest.raises(ValueError, match="this cell has no f"):
        onnx_of(make_weights(np.random.default_rng(0), CellSpec.hochreiter_1997(), IN, H), CellSpec.hochreiter_1997())
    with pytest.raises(ValueError, match=r"no projection; these weights have one of shape \(2, 5\)"):
        onnx_of(make_weights(np.random.default_rng(0), CellSpec(), IN, H, 2), CellSpec())


@pytest.mark.parametrize(
    ("activations", "alpha", "beta"),
    [
        ("SIGMOID tanh Tanh", [], []),
        ("HardSigmoid LeakyRelu Elu", [], []),
        ("Sigmoid LeakyRelu Affine", [0.3, 0.5], [0.1]),
        ("HardSigmoid LeakyRelu Tanh", [0.3, 0.4], [0.6]),
        ("HardSigmoid LeakyRelu Elu", [0.3], []),
        ("Sigmoid ThresholdedRelu Tanh", [0.2, 9.0, 9.0], [9.0]),
        ("HardSigmoid ScaledTanh Softsign", [0.2, 1.5], [0.5, 0.7]),
        ("HardSigmoid LeakyRelu Elu Sigmoid HardSigmoid Softplus", [0.3, 0.02, 0.5, 0.9], [0.45, 0.6]),
        ("Sigmoid Tanh Tanh HardSigmoid LeakyRelu affine", [0.3, 0.4, 0.5], [0.6, 0.7]),
        ("HardSigmoid Tanh Tanh HardSigmoid LeakyRelu Relu", [0.3], [0.4]),
    ],
)
def test_activations_are_taken_as_onnx_runtime_takes_them(activations, alpha, beta):
    """ONNX Runtime gives the same with the lists as they are, and with every number written out as we took it."""
    names = activations.split()
    directions = len(names) // 3
    taken = take_activations(names, alpha, beta, directions)
    explicit = [([name], *numbers) for name, *numbers in map(onnx_activation, sum(taken, ()))]

    def lists(names, alpha, beta):
        given = {"activations": names, "activation_alpha": alpha, "activation_beta": beta}
        both = {"direction": "bidirectional"} if directions == 2 else {}
        return both | {name: values for name, values in given.items() if values}

    model = one_node(arrays := weights(directions=directions), **lists(names, alpha, beta))
    (y,) = run(model, x=an_input())
    written = lists(*([value for one in explicit for value in one[k]] for k in range(3)))
    assert_same_bits(run(one_node(arrays, **written), x=an_input())[0], y)
    if taken[0] == taken[-1]:
        assert_runs_alike(model, from_onnx(model))
    else:
        with pytest.raises(ValueError, match="the same activations in both directions, got"):
            from_onnx(model)


def test_the_spelling_of_activations():
    for ours in ("identity", "sigmoid", "tanh", "relu", "softsign", "softplus", "leaky_relu", "thresholded_relu", "elu",
                 "hard_sigmoid", ("affine", 2.0, 3.0), ("scaled_tanh", 2.0, 3.0), ("leaky_relu", 2.0),
                 ("hard_sigmoid", 2.0, 0.5)):  # fmt: skip
        name, alpha, beta = onnx_activation(ours)
        assert activation_of(name, *alpha, *beta) == ours
        assert take_activations([name, "Tanh", "Tanh"], alpha, beta, 1) == [(ours, "tanh", "tanh")]
    assert onnx_activation("hard_sigmoid") == ("HardSigmoid", [0.2], [0.5])
    assert decimals(np.array([0.01, 1 / 3], np.float32)) == [0.01, 0.33333334]
    assert take_activations(None, None, None, 2) == [("sigmoid", "tanh", "tanh")] * 2
    for name in ("Affine", "ScaledTanh"):
        with pytest.raises(ValueError, match=f"{name} has no default parameters: give both"):
            activation_of(name, 1.0)
    with pytest.raises(ValueError, match=r"expected some of Affine, .*got 'Swish'"):
        activation_of("Swish")
    with pytest.raises(ValueError, match=r"expected 6 names, .*2 directions, got 3"):
        take_activations(["Tanh"] * 3, None, None, 2)


# ----------------------------- from_onnx: one node


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"input_forget": 1},
        {"clip": 0.3},
        {"clip": 0.3, "input_forget": 1},
        {"activations": ["Sigmoid", "Softsign", "Relu"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_node_is_the_layer(parts, attributes, directions):
    arrays = weights(directions=directions, peephole=True)[:parts]
    attributes = dict(attributes)
    if directions == 2:
        attributes["direction"] = "bidirectional"
        if "activations" in attributes:
            attributes["activations"] = attributes["activations"] * 2
    model = one_node(arrays, **attributes)
    lstm = from_onnx(model)
    assert (lstm.bias, lstm.cell.peephole, lstm.bidirectional) == (parts > 2, parts == 4, directions == 2)
    assert lstm.cell.gate_clip == attributes.get("clip")
    assert_runs_alike(model, lstm)


def test_a_node_of_float64_and_one_of_the_other_layout():
    lstm = from_onnx(one_node(weights(dtype=np.float64), layout=1, hidden_size=None))
    assert lstm.dtype == np.float64 and lstm.batch_first
    assert not from_onnx(one_node(weights(), layout=0)).batch_first


def test_sources(tmp_path):
    model = one_node(weights())
    wanted = from_onnx(model)
    for path in (tmp_path / "source", tmp_path / "m.onnx", str(tmp_path / "m.json")):
        onnx.save_model(model, path)
        same_weights(from_onnx(path), wanted)
    for one in (model.SerializeToString(), bytearray(model.SerializeToString())):
        same_weights(from_onnx(one), wanted)
    onnx.save_model(model, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0, location="big.bin")
    same_weights(from_onnx(tmp_path / "big.onnx"), wanted)
    with pytest.raises(ValueError, match=r"W: its values are in another file, \['big.bin'\]: give the path"):
        from_onnx((tmp_path / "big.onnx").read_bytes())
    (tmp_path / "big.bin").unlink()
    with pytest.raises((ValueError, OSError), match=r"big\.bin"):
        from_onnx(tmp_path / "big.onnx")
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(TypeError, match=r"^source: expected a path, bytes or an onnx.ModelProto, got int"):
        from_onnx(3)


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"^from_onnx needs onnx: pip install 'lstm-rs\[onnx\]'"):
        from_onnx(b"")
    with pytest.raises(ImportError, match=r"^to_onnx needs onnx: pip install 'lstm-rs\[onnx\]'"):
        to_onnx(LSTM(IN, H))


# ----------------------------- DynamicQuantizeLSTM


@pytest.fixture
def quantized(tmp_path):
    """A model by ONNX Runtime's own quantizer, of weights that differ from row to row in their size."""

    def make(directions, **options):
        from onnxruntime.quantization import quantize_dynamic

        arrays = weights(directions=directions)
        for array in arrays[:2]:
            array *= np.linspace(0.1, 2.0, 4 * H, dtype=np.float32)[:, None]
        direction = {"direction": "bidirectional"} if directions == 2 else {}
        onnx.save_model(one_node(arrays, **direction), tmp_path / "float.onnx")
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(
                tmp_path / "float.onnx", tmp_path / "q.onnx", op_types_to_quantize=["LSTM"],
                use_external_data_format=False, **options,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(tmp_path / "q.onnx")
        assert [node.op_type for node in model.graph.node] == ["DynamicQuantizeLSTM"]
        return arrays, model

    return make


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_quantized_weights_are_those_of_the_grid(quantized, directions, per_channel):
    """On inputs that ONNX Runtime rounds without a loss, which are 0 and 1, it runs on the very weights we read."""
    arrays, model = quantized(directions, per_channel=per_channel)
    lstm = from_onnx(model)
    (y,) = run(model, x=(x := np.eye(IN, dtype=np.float32)[None]))
    ours = lstm(x)[0].reshape(1, IN, directions, H).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(ours, y, rtol=0, atol=2e-6)
    float_lstm = from_onnx(one_node(arrays, **({"direction": "bidirectional"} if directions == 2 else {})))
    assert np.abs(float_lstm(x)[0] - lstm(x)[0]).max() > 1e-4
    for name in lstm.weights:
        exact = float_lstm.weights[name]
        if name.startswith("bias"):
            assert_same_bits(lstm.weights[name], exact)
        else:
            largest = np.abs(exact).max(axis=1, keepdims=True) if per_channel else np.abs(exact).max()
            assert (np.abs(lstm.weights[name] - exact) <= largest / 253).all(), name
    # A run of several steps: what is between is the rounding of inputs and states to 8 bits.
    rounded = run(model, x=an_input())[0].transpose(0, 2, 1, 3).reshape(T, N, -1)
    assert np.abs(rounded - lstm(an_input())[0]).max() < 0.05


def test_quantized_weights_by_hand():
    """uint8 with a zero point, a scale for each row: (q - 128) * scale."""
    rng = np.random.default_rng(0)
    W, R = (rng.integers(0, 256, (1, k, 4 * H), dtype=np.uint8) for k in (IN, H))
    scale = np.linspace(0.001, 0.02, 4 * H, dtype=np.float32)[None]
    zero = np.full((1, 4 * H), 128, np.uint8)
    arrays = {"W": W, "R": R, "Ws": scale, "Wz": zero, "Rs": scale[:, ::-1].copy(), "Rz": zero}

    def model(**other):
        constants = [numpy_helper.from_array(array, name) for name, array in (arrays | other).items()]
        inputs = ["x", "W", "R", "", "", "", "", "", "Ws", "Wz", "Rs", "Rz"]
        node = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], name="q", domain="com.microsoft", hidden_size=H)
        return make_model([node], constants)

    lstm = from_onnx(model())
    order = np.r_[0:H, 2 * H : 3 * H, 3 * H : 4 * H, H : 2 * H]
    wanted = ((W[0].astype(np.float32) - 128) * scale).T[order]
    assert_same_bits(lstm.weights["weight_ih_l0"], wanted)
    wanted = ((R[0].astype(np.float32) - 128) * scale[:, ::-1]).T[order]
    assert_same_bits(lstm.weights["weight_hh_l0"], wanted)
    with pytest.raises(ValueError, match=r"^Ws: expected W_scale of shape \(1,\) or \(1, 20\), got \(3,\)"):
        from_onnx(model(Ws=np.ones(3, np.float32)))
    with pytest.raises(ValueError, match=r"^W: expected W of int8 or uint8 .* got float32"):
        from_onnx(model(W=W.astype(np.float32)))


# ----------------------------- to_onnx


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_onnx_runtime_runs_what_is_written(name, layers, tmp_path):
    rng = np.random.default_rng(2)
    for two, first, bias in product([False, True], repeat=3):
        lstm = LSTM(IN, H, layers, bidirectional=two, batch_first=first, bias=bias, cell=CELLS[name], seed=3)
        model = to_onnx(lstm, tmp_path / "lstm.onnx")
        assert (tmp_path / "lstm.onnx").read_bytes() == model.SerializeToString()
        onnx.checker.check_model(model, full_check=True)
        for steps, batch in ((T, N), (2, 1)):
            x = an_input(shape=(batch, steps, IN) if first else (steps, batch, IN))
            h, c = (rng.normal(size=(layers * (1 + two), batch, H)).astype(np.float32) * 0.5 for _ in "hc")
            y, state = lstm(x, (h, c))
            for one, ours, theirs in zip(("y", "h_n", "c_n"), (y, *state), run(model, x=x, h=h, c=c), strict=True):
                assert_close(ours, theirs, steps=steps, batch=batch, input_size=IN, hidden_size=H, name=one)
        back = from_onnx(model, [f"lstm_l{k}" for k in range(layers)])
        assert (back.cell, back.bidirectional, back.num_layers) == (lstm.cell, two, layers)
        same_weights(back, lstm)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_of_bias_come_back(dtype):
    lstm = LSTM(IN, H, dtype=dtype, seed=0)
    bias = lstm.state_dict()["bias_l0"]
    bias[:3] = -0.0, np.finfo(dtype).tiny / 4, np.finfo(dtype).max
    lstm.weights["bias_l0"] = bias
    model = to_onnx(lstm)
    onnx.checker.check_model(model, full_check=True)
    same_weights(from_onnx(model), lstm)


def test_a_layer_without_inputs():
    lstm = LSTM(0, H, bidirectional=True, cell=CellSpec(coupled=True), seed=0)
    same_weights(from_onnx(to_onnx(lstm)), lstm)


@pytest.mark.parametrize(
    ("lstm", "text"),
    [
        (LSTM(IN, H, proj_size=2), "no projection, and this layer has proj_size=2"),
        (LSTM(IN, H, cell=CellSpec(output_gate=False)), "all of the gates i, f, o, and this layer's cell lacks some"),
        (LSTM(IN, H, cell=CellSpec(cell_clip=3.0)), "and never the state: this layer has cell_clip=3.0"),
        (LSTM(IN, H, dtype="f8", cell=CellSpec(gate_clip=1 / 3)), "in float32, and 0.3333333333333333 is none"),
        (LSTM(IN, H, cell=CellSpec(gate_clip=1e-60)), "in float32, and 1e-60 is none"),
        (LSTM(IN, H, cell=CellSpec(gate_clip=1e300)), "in float32, and 1e[+]300 is none"),
    ],
)
def test_layers_that_onnx_has_no_operator_for(lstm, text, tmp_path):
    with pytest.raises(ValueError, match=f"^lstm: .*{text}"):
        to_onnx(lstm, tmp_path / "none.onnx")
    assert not list(tmp_path.iterdir())


def test_to_onnx_takes_an_lstm():
    with pytest.raises(TypeError, match=r"^lstm: expected an LSTM, got Weights"):
        to_onnx(Weights(np.zeros((4, 1)), np.zeros((4, 1))))
