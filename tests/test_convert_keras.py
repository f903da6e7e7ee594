"""Keras' LSTM, taken over and given back: the same outputs, the same bits, and what is refused."""

import os
import sys

import numpy as np
import pytest
from converted import refused, same_weights
from lstm_rs import LSTM, CellSpec
from lstm_rs.convert import from_keras, to_keras
from oracle import assert_close, assert_same_bits, make_input

# Without a word Keras asks for TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras is not installed")

# Keras' own way of making arrays of its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

INPUT, HIDDEN = 4, 7
OPTIONS = {
    "as it comes": {},
    "no bias": {"use_bias": False},
    "no forget bias": {"unit_forget_bias": False},
    "unrolled": {"unroll": True},
    "what is for training": {"dropout": 0.3, "recurrent_dropout": 0.2, "stateful": False},
}
# By Keras' name, and ours.
ACTIVATIONS = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
    None: "identity",
    "relu": "relu",
    "elu": "elu",
    "softsign": "softsign",
    "softplus": "softplus",
    "leaky_relu": ("leaky_relu", 0.2),
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
}
LAYERS = {
    "LeakyReLU": (lambda: keras.layers.LeakyReLU(negative_slope=0.125), ("leaky_relu", 0.125)),
    "LeakyReLU as ours": (lambda: keras.layers.LeakyReLU(negative_slope=0.01), "leaky_relu"),
    "LeakyReLU as it comes": (lambda: keras.layers.LeakyReLU(), ("leaky_relu", 0.3)),
    "ELU": (lambda: keras.layers.ELU(alpha=0.5), ("elu", 0.5)),
}


def drawn(arrays, seed=0, scale=0.5):
    """Arrays like those, of numbers that make the gates move."""
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=array.shape)).astype(array.dtype) for array in arrays]


def made(layer, seed=0, scale=0.5):
    """The layer, built, with random weights."""
    layer.build((None, None, INPUT))
    layer.set_weights(drawn(layer.get_weights(), seed, scale))
    return layer


def lstm(**options):
    return keras.layers.LSTM(HIDDEN, return_sequences=True, return_state=True, **options)


def same_outputs(ours, layer, steps=9, batch=5):
    """Hold our layer against Keras', from a state that is not zero."""
    rng = np.random.default_rng(3)
    x = np.ascontiguousarray(make_input(rng, steps, batch, INPUT, ours.dtype).swapaxes(0, 1))
    x = x if ours.batch_first else np.ascontiguousarray(x.swapaxes(0, 1))
    directions = 1 + ours.bidirectional
    state = [(0.5 * rng.normal(size=(directions, batch, HIDDEN))).astype(ours.dtype) for _ in range(2)]
    initial = [part[k] for k in range(directions) for part in state]
    wanted, *final = map(
        np.asarray, layer(np.asarray(x), initial_state=[keras.ops.convert_to_tensor(s) for s in initial])
    )
    y, (h, c) = ours(x, tuple(state))
    sizes = {"steps": steps, "batch": batch, "input_size": INPUT, "hidden_size": HIDDEN}
    assert_close(y, wanted, **sizes, name="y")
    assert_close(h, np.stack(final[::2]), **sizes, name="h")
    assert_close(c, np.stack(final[1::2]), **sizes, name="c")


# ----------------------------- in


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_outputs_are_those_of_the_layer(options):
    layer = made(lstm(**options))
    ours = from_keras(layer)
    assert repr(ours) == f"LSTM({INPUT}, {HIDDEN}, {'' if layer.use_bias else 'bias=False, '}batch_first=True)"
    same_outputs(ours, layer)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_outputs_are_those_of_both_directions(options):
    layer = made(keras.layers.Bidirectional(lstm(**options)))
    ours = from_keras(layer)
    assert ours.bidirectional and ours.batch_first and ours.bias is layer.forward_layer.use_bias
    same_outputs(ours, layer)


def test_a_backward_layer_of_its_own():
    backward = lstm(go_backwards=True, use_bias=False)
    layer = made(keras.layers.Bidirectional(lstm(), backward_layer=backward))
    ours = from_keras(layer)
    assert not ours.weights["bias_l0_reverse"].any()
    same_outputs(ours, layer)


@pytest.mark.parametrize("name", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("field", ["activation", "recurrent_activation"])
def test_activations(field, name):
    # Small weights, for with a linear activation nothing holds the state in bounds.
    layer = made(lstm(**{field: name}), scale=0.2)
    ours = from_keras(layer)
    if field == "activation":
        expected = CellSpec(input_activation=ACTIVATIONS[name], output_activation=ACTIVATIONS[name])
    else:
        expected = CellSpec(gate_activation=ACTIVATIONS[name])
    assert ours.cell == expected
    same_outputs(ours, layer)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_the_place_of_an_activation(name):
    make, said = LAYERS[name]
    layer = made(lstm(activation=make()), scale=0.2)
    ours = from_keras(layer)
    assert ours.cell == CellSpec(input_activation=said, output_activation=said)
    same_outputs(ours, layer)


@pytest.mark.parametrize("options", [{}, {"use_bias": False}], ids=["bias", "no bias"])
@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both"])
def test_arrays_are_as_good(both, options):
    layer = made(keras.layers.Bidirectional(lstm(**options)) if both else lstm(**options))
    ours = from_keras(layer.get_weights())
    same_weights(ours, from_keras(layer))
    same_weights(from_keras(tuple(array.tolist() for array in layer.get_weights()), dtype="f4"), ours)
    assert ours.batch_first
    cell = CellSpec(gate_activation="hard_sigmoid")
    assert from_keras(layer.get_weights(), cell=cell).cell == cell
    assert from_keras(layer.get_weights(), dtype=np.float64).dtype == np.float64


# ----------------------------- cuDNN's form


def cudnn_arrays(rng, dtype=np.float32):
    """A layer's arrays as cuDNN has them: of each gate W (H, I) and R (H, H), each row by row, and two biases.

    The shapes are those that Keras gave the numbers, which it stored as they came.
    """
    w = rng.normal(size=(4, HIDDEN, INPUT)).astype(dtype)
    r = rng.normal(size=(4, HIDDEN, HIDDEN)).astype(dtype)
    bias = rng.normal(size=(2, 4 * HIDDEN)).astype(dtype)
    kernel = np.concatenate([gate.ravel().reshape(INPUT, HIDDEN) for gate in w], axis=1)
    return (w, r, bias), [kernel, np.concatenate(list(r), axis=1), bias.ravel()]


def test_arrays_of_cudnn_are_known_by_their_bias():
    (w, r, bias), arrays = cudnn_arrays(np.random.default_rng(1))
    ours = from_keras(arrays)
    assert_same_bits(ours.weights["weight_ih_l0"], w.reshape(4 * HIDDEN, INPUT))
    assert_same_bits(ours.weights["weight_hh_l0"], r.reshape(4 * HIDDEN, HIDDEN))
    assert_same_bits(ours.weights["bias_l0"], bias[0] + bias[1])


def test_arrays_of_cudnn_in_both_directions():
    rng = np.random.default_rng(1)
    (_, first), (_, second) = cudnn_arrays(rng), cudnn_arrays(rng)
    ours = from_keras(first + second)
    for arrays, end in ((first, "_l0"), (second, "_l0_reverse")):
        one = from_keras(arrays)
        for name in ("weight_ih", "weight_hh", "bias"):
            assert_same_bits(ours.weights[name + end], one.weights[f"{name}_l0"])


# ----------------------------- in, refused


@pytest.mark.parametrize(
    ("layer", "error", "text"),
    [
        (lambda: keras.layers.GRU(3), TypeError, "^source: expected a keras.layers.LSTM, .* gives, got GRU$"),
        (lambda: keras.layers.Dense(3), TypeError, "got Dense$"),
        (
            lambda: keras.layers.Bidirectional(keras.layers.GRU(3), name="two"),
            ValueError,
            "^layer 'two': expected an LSTM layer, or a Bidirectional around one, got GRU$",
        ),
        (
            lambda: keras.layers.Bidirectional(keras.layers.LSTM(3), merge_mode="sum", name="two"),
            ValueError,
            "^layer 'two': expected merge_mode 'concat', .* got 'sum'",
        ),
        (
            lambda: keras.layers.Bidirectional(keras.layers.LSTM(3), merge_mode=None, name="two"),
            ValueError,
            "^layer 'two': expected merge_mode 'concat', .* got None",
        ),
        (
            lambda: keras.layers.Bidirectional(
                keras.layers.LSTM(3),
                backward_layer=keras.layers.LSTM(3, activation="relu", go_backwards=True),
                name="two",
            ),
            ValueError,
            "^layer 'two': expected the same activations in both directions, got CellSpec",
        ),
        (
            lambda: keras.layers.Bidirectional(
                keras.layers.LSTM(3, go_backwards=True), backward_layer=keras.layers.LSTM(3), name="two"
            ),
            ValueError,
            "^layer 'two': expected its first layer to run forwards and its second backwards, got otherwise$",
        ),
        (
            lambda: keras.layers.LSTM(3, go_backwards=True, name="one"),
            ValueError,
            r"^layer 'one': expected go_backwards=False, got True: .*gives these for x\[:, ::-1\]$",
        ),
        (
            lambda: keras.layers.LSTM(3, activation="gelu", name="one"),
            ValueError,
            "^layer 'one': activation: no such activation here: 'gelu'; there are tanh, sigmoid, ",
        ),
        (
            lambda: keras.layers.LSTM(3, recurrent_activation=keras.layers.ReLU(max_value=1.0), name="one"),
            ValueError,
            "^layer 'one': recurrent_activation: no such activation here: 'ReLU'; there are ",
        ),
        (
            lambda: keras.layers.LSTM(3, activation=squared, name="one"),
            ValueError,
            "^layer 'one': activation: no such activation here: '.*squared'; there are ",
        ),
        (
            lambda: keras.layers.LSTM(3, recurrent_activation=hard_sigmoid, name="one"),
            ValueError,
            "^layer 'one': recurrent_activation is called 'hard_sigmoid', but is not the one of Keras$",
        ),
    ],
)
def test_a_layer_that_we_have_not_is_refused(layer, error, text):
    refused(error, text, lambda: from_keras(made(layer())))


def squared(x):
    return x * x


def hard_sigmoid(x):
    """As Keras had it up to version 2."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def test_reversed_input_is_what_a_layer_that_goes_backwards_reads():
    """The way out that its refusal names."""
    layer = made(keras.layers.LSTM(HIDDEN, return_sequences=True, go_backwards=True))
    x = make_input(np.random.default_rng(0), 5, 9, INPUT, np.float32)
    y, _ = from_keras(layer.get_weights())(x[:, ::-1])
    assert_close(y, np.asarray(layer(x)), steps=9, batch=5, input_size=INPUT, hidden_size=HIDDEN)


def test_a_layer_without_weights_is_refused():
    for layer in (keras.layers.LSTM(3, name="new"), keras.layers.Bidirectional(keras.layers.LSTM(3), name="new")):
        refused(
            ValueError,
            "^layer 'new': expected weights, got a layer that has none yet: build it, or call it once$",
            lambda layer=layer: from_keras(layer),
        )


def test_a_layer_says_its_cell_itself():
    layer = made(keras.layers.LSTM(3, name="one"))
    refused(ValueError, "^cell: leave it out: layer 'one' says itself", lambda: from_keras(layer, cell=CellSpec()))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda a: a[:1], ValueError, "^source: expected 2 or 3 arrays .*, or 4 or 6 for two directions, got 1$"),
        (lambda a: [*a, *a[:2]], ValueError, "^source: expected 2 or 3 arrays .*, got 5$"),
        (lambda a: [a[0].T, *a[1:]], ValueError, r"^kernel: expected 28 columns, 4 gates of 7, .*got shape \(28, 4\)$"),
        (
            lambda a: [a[0][:, :21], a[1][:, :21], a[2]],
            ValueError,
            r"^kernel: expected 28 columns, .*got shape \(4, 21\); a GRU has such$",
        ),
        (
            lambda a: [a[0], a[1][:, :7], a[2]],
            ValueError,
            r"^recurrent_kernel: expected 28 columns, .*got shape \(7, 7\); a SimpleRNN has such$",
        ),
        (lambda a: [a[0], a[1][:0], a[2]], ValueError, "^kernel: expected 0 columns"),
        (lambda a: [a[0], a[1], a[2][:-1]], ValueError, r"^bias: expected shape \(28,\), .*got shape \(27,\)$"),
        (lambda a: [a[0], a[1], a[2][None]], ValueError, r"^bias: expected shape \(4H,\), got \(1, 28\)$"),
        (lambda a: [a[0][0], a[1], a[2]], ValueError, r"^kernel: expected shape \(I, 4H\), got \(28,\)$"),
        (lambda a: [*a, a[0][:2], *a[1:]], ValueError, r"^backward kernel: expected shape \(28, 4\), .*\(28, 2\)$"),
        (
            lambda a: [*a, a[0], a[1] * np.nan, a[2]],
            ValueError,
            "^backward recurrent_kernel: 196 of 196 weights are NaN",
        ),
        (lambda a: [a[0] * np.inf, *a[1:]], ValueError, "^kernel: 112 of 112 weights are NaN or infinite$"),
        (
            lambda a: [a[0].astype(np.float16), *a[1:]],
            TypeError,
            "^kernel: expected float32 or float64, got float16; cast",
        ),
        (lambda a: a[0], TypeError, "^source: expected a keras.layers.LSTM, .*, got ndarray$"),
        (lambda a: "model.keras", TypeError, "^source: expected a keras.layers.LSTM, .*, got str$"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(change, error, text):
    arrays = drawn([np.empty(shape, np.float32) for shape in ((INPUT, 28), (HIDDEN, 28), (28,))])
    refused(error, text, lambda: from_keras(change(arrays)))


# ----------------------------- out

OUT = {
    "one direction": {},
    "both directions": {"bidirectional": True},
    "no bias": {"bias": False, "bidirectional": True},
    "batch first": {"batch_first": True},
}
OUT_ACTIVATIONS = {said for said in ACTIVATIONS.values()} | {said for _, said in LAYERS.values()}


@pytest.mark.parametrize("options", OUT.values(), ids=OUT)
def test_there_and_back_is_the_same_to_the_bit(options):
    ours = LSTM(INPUT, HIDDEN, **options, seed=0)
    if ours.bias:
        ours.weights["bias_l0"] = np.where(np.arange(4 * HIDDEN) % 2, -0.0, 0.0).astype(np.float32)
    layer = to_keras(ours)
    assert type(layer) is (keras.layers.Bidirectional if ours.bidirectional else keras.layers.LSTM)
    again = from_keras(layer)
    same_weights(again, ours)
    assert again.batch_first and again.cell == ours.cell and again.bias == ours.bias
    x = make_input(np.random.default_rng(0), 5, 9, INPUT, np.float32)
    assert_close(again(x)[0], np.asarray(layer(x)), steps=9, batch=5, input_size=INPUT, hidden_size=HIDDEN)


@pytest.mark.parametrize("said", OUT_ACTIVATIONS, ids=str)
def test_activations_go_there_and_back(said):
    for cell in (CellSpec(input_activation=said, output_activation=said), CellSpec(gate_activation=said)):
        ours = LSTM(INPUT, HIDDEN, cell=cell, seed=0)
        layer = to_keras(ours)
        again = from_keras(layer)
        assert again.cell == cell
        same_weights(again, ours)
        # What Keras writes down of the layer makes the same layer again.
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_float64_is_refused_where_the_backend_has_none():
    if keras.backend.backend() != "jax":
        pytest.skip(f"the backend {keras.backend.backend()} has float64 always")
    import jax

    # Not tanh, of which Keras makes float32 on the way.
    cell = CellSpec(input_activation="sigmoid", output_activation="sigmoid")
    ours = LSTM(INPUT, HIDDEN, dtype=np.float64, cell=cell, seed=0)
    refused(
        ValueError,
        r"^lstm: the jax backend of Keras makes float32 of float64; first call "
        r"jax.config.update\('jax_enable_x64', True\)$",
        lambda: to_keras(ours),
    )
    jax.config.update("jax_enable_x64", True)
    try:
        layer = to_keras(ours)
        same_weights(from_keras(layer), ours)
        x = make_input(np.random.default_rng(0), 5, 9, INPUT)
        y, _ = from_keras(layer)(x)
        assert_close(y, np.asarray(layer(x)), steps=9, batch=5, input_size=INPUT, hidden_size=HIDDEN)
    finally:
        jax.config.update("jax_enable_x64", False)


PLAIN = (
    "^lstm: Keras has the LSTM with three gates, one activation for cell input and output, and nothing else, got Cell"
)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_layers": 2}, "^lstm: a Keras layer is one layer, got num_layers=2: export each on its own$"),
        ({"proj_size": 3}, "^lstm: Keras has no projection, got proj_size=3$"),
        ({"input_size": 0}, "^lstm: Keras has no input_size of 0$"),
        ({"cell": CellSpec.peephole_lstm()}, PLAIN),
        ({"cell": CellSpec.hochreiter_1997()}, PLAIN),
        ({"cell": CellSpec(output_gate=False)}, PLAIN),
        ({"cell": CellSpec(coupled=True)}, PLAIN),
        ({"cell": CellSpec(gate_clip=3.0)}, PLAIN),
        ({"cell": CellSpec(cell_clip=3.0)}, PLAIN),
        ({"cell": CellSpec(output_activation="identity")}, PLAIN),
        ({"cell": CellSpec(gate_activation="hard_sigmoid")}, "^lstm: Keras has no gate_activation 'hard_sigmoid'$"),
        (
            {"cell": CellSpec(gate_activation=("affine", 0.2, 0.5))},
            r"^lstm: Keras has no gate_activation \('affine', 0.2, 0.5\)$",
        ),
        (
            {"cell": CellSpec(input_activation="thresholded_relu", output_activation="thresholded_relu")},
            "^lstm: Keras has no input_activation 'thresholded_relu'$",
        ),
    ],
)
def test_what_keras_has_not_is_refused(options, text):
    options = {"input_size": INPUT, "hidden_size": HIDDEN} | options
    refused(ValueError, text, lambda: to_keras(LSTM(**options)))


def test_what_is_no_layer_of_ours_is_refused():
    refused(TypeError, "^lstm: expected an lstm_rs.LSTM, got LSTM$", lambda: to_keras(keras.layers.LSTM(3)))


def test_a_package_that_is_missing_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    refused(ImportError, r"^to_keras needs keras: pip install 'lstm-rs\[keras\]'$", lambda: to_keras(LSTM(3, 4)))
