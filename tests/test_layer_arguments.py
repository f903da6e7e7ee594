"""What a layer is made with, and what it refuses: in its constructor, and in its calls."""

import warnings

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec
from oracle import PRESETS, assert_same_bits
from stacked import answers, make_layer, make_run, names_of

# ----------------------------- the constructor


def test_dropout_with_one_layer_warns():
    with pytest.warns(UserWarning, match="num_layers=1") as caught:
        LSTM(3, 4, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LSTM(3, 4, 2, dropout=0.5)


@pytest.mark.parametrize("cell", PRESETS.values(), ids=PRESETS)
def test_initial_weights(cell):
    layer = LSTM(20, 100, 2, bidirectional=True, proj_size=30, cell=cell, seed=5)
    assert list(layer.weights) == [
        name for names in names_of(layer) for name in names if cell.peephole or not name.startswith("peephole")
    ]
    for name, array in layer.weights.items():
        middle = np.zeros(array.shape)
        if name.startswith("bias") and "f" in cell.gates:
            first = 100 * cell.gates.index("f")
            middle[first : first + 100] = 1.0
        away = np.abs(array - middle)
        # 1/sqrt(100); 1 + 0.1 is rounded to float32.
        assert away.max() <= 0.1 + 1e-7, name
        assert away.max() > 0.09, name
        assert abs((array - middle).mean()) < 0.025, name
    assert len({array.tobytes() for array in layer.weights.values()}) == len(layer.weights)


def test_seeds():
    one, same_one, other = (LSTM(3, 4, seed=seed) for seed in (1, 1, 2))
    generator = LSTM(3, 4, seed=np.random.default_rng(1))
    for name, array in one.weights.items():
        assert_same_bits(same_one.weights[name], array)
        assert_same_bits(generator.weights[name], array)
        assert (other.weights[name] != array).any()
        assert (LSTM(3, 4).weights[name] != LSTM(3, 4).weights[name]).any()
    shared = np.random.default_rng(1)
    assert (LSTM(3, 4, seed=shared).weights["bias_l0"] != LSTM(3, 4, seed=shared).weights["bias_l0"]).all()


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"input_size": -1}, ValueError, "input_size: expected at least 0, got -1"),
        ({"input_size": 2.0}, TypeError, "input_size: expected an int, got float"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
        ({"hidden_size": True}, TypeError, "hidden_size: expected an int, got True"),
        ({"num_layers": 0}, ValueError, "num_layers: expected at least 1, got 0"),
        ({"proj_size": 4}, ValueError, "proj_size: expected less than hidden_size 4 .*, got 4"),
        ({"proj_size": -1}, ValueError, "proj_size: expected at least 0, got -1"),
        ({"bias": 1}, TypeError, "bias: expected a bool, got 1"),
        ({"batch_first": None}, TypeError, "batch_first: expected a bool, got None"),
        ({"bidirectional": "no"}, TypeError, "bidirectional: expected a bool, got 'no'"),
        ({"dropout": 1.0}, ValueError, "dropout: expected a probability from 0 to less than 1, got 1.0"),
        ({"dropout": -0.1}, ValueError, "dropout: expected a probability from 0 to less than 1, got -0.1"),
        ({"dropout": float("nan")}, ValueError, "dropout: expected a probability .*, got nan"),
        ({"dropout": "0.5"}, TypeError, "dropout: expected a float, got '0.5'"),
        ({"cell": "peephole"}, TypeError, "cell: expected a CellSpec, got str"),
        ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
        ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
        ({"dtype": "single precision"}, TypeError, "dtype: expected float32 or float64, got 'single precision'"),
        # NumPy has SyntaxError and UnicodeEncodeError for these.
        ({"dtype": ",f"}, TypeError, "dtype: expected float32 or float64, got ',f'"),
        ({"dtype": "\ud800"}, TypeError, r"dtype: expected float32 or float64, got '\\ud800'"),
    ],
)
def test_the_constructor_refuses(given, error, text):
    with pytest.raises(error, match=f"^{text}$"):
        LSTM(**{"input_size": 3, "hidden_size": 4} | given)


def test_numpy_sizes_and_the_repr():
    layer = LSTM(np.int32(3), np.uint8(4), np.int64(2), dtype="float64", cell=CellSpec.greff("CIFG"))
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (3, 4, 2)
    assert eval(repr(LSTM(3, 4, 2, bidirectional=True, dropout=0.5))).num_layers == 2
    assert repr(layer) == f"LSTM(3, 4, num_layers=2, cell={layer.cell!r}, dtype=float64)"


# ----------------------------- calls that are refused


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda r: {"x": r.x[..., :2]}, ValueError, "x: expected 3 features"),
        (lambda r: {"x": r.x[0, 0]}, ValueError, "x: expected .*got shape"),
        (lambda r: {"x": r.x.astype(np.float64)}, TypeError, "x: expected float32, .*got float64; cast it"),
        (lambda r: {"x": np.ones(r.x.shape, int)}, TypeError, "x: expected float32, .*got int64; cast it"),
        (lambda r: {"state": list(r.state)}, TypeError, "state: expected a State .*got list"),
        (lambda r: {"state": (r.state.h[:1], r.state.c)}, ValueError, r"state.h: expected shape \(4, 2, 5\)"),
        (lambda r: {"state": (r.state.h, r.state.c[:, 0])}, ValueError, r"state.c: expected shape \(4, 2, 5\)"),
        (lambda r: {"state": (r.state.h.astype(np.float64), r.state.c)}, TypeError, "state.h: expected float32"),
        (lambda r: {"lengths": [6, 1]}, ValueError, r"lengths\[0\]: expected 0 to 5 .*got 6"),
        (lambda r: {"lengths": [1.0, 1.0]}, TypeError, "lengths: expected integers, got float64"),
        (lambda r: {"lengths": [1, 1, 1]}, ValueError, r"lengths: expected shape \(2,\)"),
        (lambda r: {"dy": r.dy[..., :5]}, ValueError, r"dy: expected shape \(5, 2, 10\) \(T, N, ·\), as x is"),
        (lambda r: {"dy": r.dy.astype(np.float64)}, TypeError, "dy: expected float32"),
        (lambda r: {"dstate": (r.state.h, r.state.c[:2])}, ValueError, r"dstate.c: expected shape \(4, 2, 5\)"),
    ],
)
def test_calls_that_are_refused(change, error, text):
    rng = np.random.default_rng(10)
    layer = make_layer(rng, 3, 5, 2, bidirectional=True)
    run = make_run(layer, rng, 5, 2)
    changes = change(run)
    for name, value in changes.items():
        setattr(run, name, value)
    with pytest.raises(error, match=f"^{text}"):
        answers(run)
    if not changes.keys() & {"dy", "dstate"}:
        with pytest.raises(error, match=f"^{text}"):
            layer(run.x, run.state, run.lengths)


@pytest.mark.parametrize(
    "other",
    [
        {"num_layers": 1},
        {"bias": False},
        {"proj_size": 2},
        {"batch_first": True},
        {"cell": CellSpec.greff("NOAF")},
        {"cell": CellSpec(output_activation="identity")},
        {"num_layers": 1, "bidirectional": True},
        {"dtype": np.float64},
    ],
    ids=str,
)
def test_the_tape_of_another_kind_of_layer_is_refused(other):
    x = np.ones((4, 4, 4), other.get("dtype", np.float32))
    tape = LSTM(4, 4, **{"num_layers": 2} | other).forward_train(x)[2]
    with pytest.raises(ValueError, match=r"^tape: expected one of LSTM"):
        LSTM(4, 4, 2).backward(tape)
    with pytest.raises(TypeError, match=r"^tape: expected the LSTMTape of forward_train, got Tape"):
        LSTM(4, 4).backward(tape.layers[0])
