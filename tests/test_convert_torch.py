"""PyTorch's LSTM, taken over and given back: the same outputs, the same bits, and what is refused."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from converted import refused, same_weights
from lstm_rs import LSTM, CellSpec
from lstm_rs.convert import from_torch, to_torch
from oracle import assert_close, assert_same_bits, make_input

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# PyTorch says once that its fast path has no projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

OPTIONS = {
    "one layer": {},
    "three layers": {"num_layers": 3, "dropout": 0.25},
    "both directions": {"bidirectional": True},
    "projection": {"proj_size": 3},
    "all": {"num_layers": 3, "bidirectional": True, "proj_size": 3, "batch_first": True, "dropout": 0.5},
    "all but a bias": {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False},
    "batch first": {"num_layers": 2, "batch_first": True},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32}
INPUT, HIDDEN = 4, 7


def make_module(kind=torch.nn.LSTM, *, dtype="float32", seed=0, **options):
    torch.manual_seed(seed)
    module = kind(INPUT, HIDDEN, **options, dtype=DTYPES[dtype])
    with torch.no_grad():
        for parameter in module.parameters():
            # PyTorch starts from weights so small that the gates hardly move.
            parameter.mul_(2.0)
    return module.eval()


class Encoder(torch.nn.Module):
    """A larger model."""

    def __init__(self, inner):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, INPUT)
        self.rnn = inner
        self.head = torch.nn.Linear(HIDDEN, 2)


class Model(torch.nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def arrays_of(module):
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def same_outputs(layer, module, steps=9, batch=5):
    """Hold the layer against the module, from a state that is not zero."""
    rng = np.random.default_rng(3)
    x = make_input(rng, steps, batch, INPUT, layer.dtype)
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if layer.batch_first else x
    parts, out = module.num_layers * (1 + module.bidirectional), module.proj_size or HIDDEN
    state = [(0.5 * rng.normal(size=(parts, batch, width))).astype(layer.dtype) for width in (out, HIDDEN)]
    with torch.no_grad():
        wanted_y, wanted = module(torch.tensor(x), tuple(map(torch.tensor, state)))
    y, final = layer(x, tuple(state))
    # As many layers as there are: each deepens the sum as T more steps would.
    sizes = {"steps": steps * module.num_layers, "batch": batch, "input_size": max(INPUT, 2 * HIDDEN)}
    for name, ours, theirs in (("y", y, wanted_y), ("h", final.h, wanted[0]), ("c", final.c, wanted[1])):
        assert_close(ours, theirs.numpy(), **sizes, hidden_size=HIDDEN, name=name)


# ----------------------------- in


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_outputs_are_those_of_the_module(options, dtype):
    module = make_module(dtype=dtype, **options)
    layer = from_torch(module)
    assert (layer.batch_first, layer.dropout) == (module.batch_first, module.dropout)
    assert (layer.num_layers, layer.bidirectional, layer.bias) == (
        module.num_layers,
        module.bidirectional,
        module.bias,
    )
    assert (layer.proj_size, layer.dtype, layer.cell) == (module.proj_size, np.dtype(dtype), CellSpec())
    same_outputs(layer, module)


@pytest.mark.parametrize("as_arrays", [False, True], ids=["tensors", "arrays"])
def test_a_state_dict_is_as_good(as_arrays):
    module = make_module(num_layers=2, bidirectional=True, proj_size=3, batch_first=True, dropout=0.5)
    state_dict = arrays_of(module) if as_arrays else module.state_dict()
    layer = from_torch(state_dict, batch_first=True, dropout=0.5)
    same_weights(layer, from_torch(module))
    same_outputs(layer, module)
    assert from_torch(state_dict).batch_first is False
    assert from_torch(state_dict).dropout == 0.0


@pytest.mark.parametrize("prefix", ["encoder.rnn", "encoder.rnn.", ""])
def test_an_lstm_in_a_larger_model(prefix):
    module = make_module(num_layers=2, batch_first=True, dropout=0.25)
    model = Model(encoder=Encoder(module), gate=torch.nn.GRU(INPUT, HIDDEN), plain=torch.nn.RNN(INPUT, HIDDEN))
    layer = from_torch(model, prefix)
    assert layer.batch_first and layer.dropout == 0.25
    same_outputs(layer, module)
    # What the module says is the default; an argument counts.
    assert from_torch(model, prefix, batch_first=False, dropout=0.0).batch_first is False
    assert from_torch(model, prefix, batch_first=False, dropout=0.0).dropout == 0.0
    same_weights(from_torch(model.state_dict(), prefix), layer)
    same_weights(from_torch(arrays_of(model), prefix), layer)


def test_of_several_one_is_chosen_by_its_prefix():
    one, two = make_module(seed=1), make_module(seed=2)
    model = Model(first=one, second=Encoder(two))
    same_outputs(from_torch(model, "first"), one)
    same_outputs(from_torch(model, "second.rnn"), two)
    for source in (model, model.state_dict()):
        refused(
            ValueError,
            r"^prefix: expected one of those that have an LSTM: 'first\.' \(LSTM\), 'second\.rnn\.' \(LSTM\)$",
            lambda source=source: from_torch(source),
        )


def test_the_biases_are_added_as_load_state_dict_adds_them():
    module = make_module()
    arrays = arrays_of(module)
    layer = LSTM(INPUT, HIDDEN)
    layer.load_state_dict(arrays)
    same_weights(from_torch(arrays), layer)
    layer = LSTM(INPUT, HIDDEN, dtype=np.float64)
    layer.load_state_dict(arrays)
    same_weights(from_torch(arrays, dtype=np.float64), layer)


def test_the_dtype_is_that_of_the_weights_or_as_asked_for():
    module = make_module(dtype="float64")
    assert from_torch(module).dtype == np.float64
    layer = from_torch(module, dtype=np.float32)
    assert_same_bits(layer.weights["weight_hh_l0"], arrays_of(module)["weight_hh_l0"].astype(np.float32))
    mixed = arrays_of(make_module()) | {"bias_hh_l0": np.zeros(28)}
    assert from_torch(mixed).dtype == np.float64
    # The other byte order is another dtype to NumPy, and the same numbers.
    swapped = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays_of(module).items()}
    same_weights(from_torch(swapped), from_torch(module))


def test_a_scripted_module_says_what_it_said():
    module = make_module(batch_first=True, num_layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(module)
    layer = from_torch(scripted)
    assert layer.batch_first
    same_outputs(layer, module)


def test_a_module_that_is_there_twice_is_the_same_under_both_names():
    module = make_module(batch_first=True)
    model = Model(one=module, two=module)
    assert from_torch(model, "one").batch_first and from_torch(model, "two").batch_first


def test_a_module_of_one_layer_may_have_a_dropout():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make_module(dropout=0.5)
    layer = from_torch(module)
    assert layer.dropout == 0.5
    assert to_torch(layer).dropout == 0.5


def test_the_layer_keeps_weights_of_its_own():
    module = make_module()
    before = arrays_of(module)["weight_ih_l0"]
    layer = from_torch(module)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    assert_same_bits(layer.weights["weight_ih_l0"], before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_weights_on_another_device_are_copied():
    module = make_module()
    same_weights(from_torch(module.cuda()), from_torch(module.cpu()))


# ----------------------------- our own module

CELL_OPTIONS = {"num_layers": 2, "bidirectional": True, "proj_size": 3, "batch_first": True, "dropout": 0.25}
MODULE_CELLS = {
    "usual": CellSpec(),
    "peepholes": CellSpec.peephole_lstm(),
    # Three gates, as a GRU has.
    "coupled": CellSpec(coupled=True),
    "coupled, peepholes": CellSpec.greff("CIFG"),
    # The weights look like PyTorch's.
    "linear": CellSpec(output_activation="identity"),
    "clipped": CellSpec(gate_clip=0.5, cell_clip=0.25),
}


@pytest.mark.parametrize("cell", MODULE_CELLS.values(), ids=MODULE_CELLS)
def test_the_module_of_this_library_with_its_cell(cell):
    from lstm_rs.torch import LSTM as Module

    torch.manual_seed(0)
    module = Module(INPUT, HIDDEN, **CELL_OPTIONS, cell=cell).eval()
    layer = from_torch(module)
    assert layer.cell == cell and layer.batch_first and layer.dropout == 0.25
    same_outputs(layer, module)
    model = Model(encoder=module, gate=torch.nn.GRU(INPUT, HIDDEN))
    same_weights(from_torch(model), layer)
    same_weights(from_torch(model, "encoder"), layer)
    # A state_dict does not say.
    same_weights(from_torch(module.state_dict(), cell=cell), layer)
    same_weights(from_torch(arrays_of(model), "encoder", cell=cell), layer)


def test_a_cell_that_is_not_that_of_the_weights_is_refused():
    from lstm_rs.torch import LSTM as Module

    module = Module(INPUT, HIDDEN, cell=CellSpec.peephole_lstm())
    refused(
        KeyError,
        "^source: no weights of an LSTM, which would be dropped: peephole_l0; of a cell with peepholes, which",
        lambda: from_torch(module.state_dict()),
    )
    for source in (module, make_module()):
        refused(
            ValueError,
            r"^cell: expected CellSpec\(.*\), which the module has, or nothing, got CellSpec\(.*coupled=True, ",
            lambda source=source: from_torch(source, cell=CellSpec(coupled=True)),
        )
    arrays = arrays_of(make_module())
    refused(KeyError, "^source: missing: peephole_l0$", lambda: from_torch(arrays, cell=CellSpec(peephole=True)))
    text = r"^weight_hh_l0: expected 3 gates of as many rows each \(i, g, o\), got shape \(28, 7\)$"
    refused(ValueError, text, lambda: from_torch(arrays, cell=CellSpec(coupled=True)))
    refused(TypeError, "^cell: expected a CellSpec, got str$", lambda: from_torch(arrays, cell="coupled"))


# ----------------------------- in, refused


def test_what_is_no_lstm_is_refused():
    gru, rnn = make_module(torch.nn.GRU), make_module(torch.nn.RNN)
    for source in (gru, gru.state_dict(), arrays_of(gru)):
        refused(
            ValueError,
            "^weight_hh_l0: expected 28 rows, 4 gates of 7, got 21, as a GRU has$",
            lambda source=source: from_torch(source),
        )
    refused(ValueError, "^weight_hh_l0: expected 28 rows, 4 gates of 7, got 7, as an RNN has$", lambda: from_torch(rnn))
    model = Model(encoder=gru, other=make_module())
    refused(ValueError, "^encoder.weight_hh_l0: expected 28 rows", lambda: from_torch(model, "encoder"))
    # With a projection the rows are to be held against its columns.
    arrays = arrays_of(make_module(proj_size=3))
    arrays |= {name: arrays[name][:21] for name in arrays if name != "weight_hr_l0"}
    refused(ValueError, "got 21, as a GRU has$", lambda: from_torch(arrays))


def test_where_there_is_none_it_is_said_what_there_is():
    model = Model(encoder=make_module(), gate=make_module(torch.nn.GRU))
    refused(
        KeyError,
        r"^prefix: no weights of an LSTM under 'decoder\.'; prefixes that have any: 'encoder\.' \(LSTM\), "
        r"'gate\.' \(GRU\)$",
        lambda: from_torch(model, "decoder"),
    )
    refused(KeyError, "^source: no weights of an LSTM, by the names of PyTorch", lambda: from_torch({}))
    refused(KeyError, "^source: no weights of an LSTM", lambda: from_torch(torch.nn.Linear(2, 2)))
    # A cell's names have no layer.
    refused(KeyError, "^source: no weights of an LSTM", lambda: from_torch(torch.nn.LSTMCell(2, 2)))


def test_what_would_be_dropped_is_refused():
    arrays = arrays_of(make_module())
    refused(
        KeyError,
        "^source: no weights of an LSTM, which would be dropped: head.weight, weight_ih_l0_scale$",
        lambda: from_torch(arrays | {"head.weight": np.zeros(2), "weight_ih_l0_scale": np.zeros(2)}),
    )
    many = {f"head.{k}": np.zeros(2) for k in range(100)}
    refused(KeyError, "head.0, .*head.7 and 92 more$", lambda: from_torch(arrays | many))
    # A weight that is made of others has to be made first.
    module = torch.nn.utils.parametrizations.weight_norm(make_module(), "weight_hh_l0")
    refused(
        KeyError,
        "^source: missing: weight_hh_l0; .*dropped: parametrizations.weight_hh_l0.original0, ",
        lambda: from_torch(module),
    )


FULL = {"num_layers": 2, "bidirectional": True, "proj_size": 3}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda d: d.pop("weight_hh_l1_reverse"), KeyError, "^source: missing: weight_hh_l1_reverse$"),
        (lambda d: d.pop("bias_hh_l0"), KeyError, "^source: missing: bias_hh_l0$"),
        (lambda d: d.pop("weight_hr_l1"), KeyError, "^source: missing: weight_hr_l1$"),
        (
            lambda d: [d.pop(name) for name in list(d) if "_l0" in name],
            KeyError,
            "^source: missing layer 0 under '': there are weights of layer 1$",
        ),
        (
            lambda d: d.update(weight_ih_l123456=d["weight_ih_l0"]),
            KeyError,
            "^source: missing layer 2 under '': there are weights of layer 123456$",
        ),
        (
            lambda d: d.update(weight_ih_l1=d["weight_ih_l1"].T),
            ValueError,
            r"^weight_ih_l1: expected shape \(28, 6\), as the first layer has it, got shape \(6, 28\)$",
        ),
        (
            lambda d: d.update(weight_ih_l0=d["weight_ih_l0"][:20]),
            ValueError,
            r"^weight_ih_l0: expected shape \(28, 4\), .*got shape \(20, 4\)$",
        ),
        (
            lambda d: d.update(weight_hh_l0=d["weight_hh_l0"][:27]),
            ValueError,
            r"^weight_hh_l0: expected 4 gates of as many rows each \(i, f, g, o\), got shape \(27, 3\)$",
        ),
        (lambda d: d.update(weight_hh_l0=d["weight_hh_l0"][0]), ValueError, "^weight_hh_l0: expected a matrix"),
        (
            lambda d: d.update(bias_hh_l1=d["bias_hh_l1"][:1]),
            ValueError,
            r"^bias_hh_l1: expected shape \(28,\), as bias_ih, got \(1,\)$",
        ),
        (
            lambda d: d.update(bias_hh_l1=d["bias_hh_l1"][:9], bias_ih_l1=d["bias_ih_l1"][:9]),
            ValueError,
            r"^bias_ih_l1 \+ bias_hh_l1: expected shape \(28,\), .*got shape \(9,\)$",
        ),
        (
            lambda d: d["weight_hr_l1"].__setitem__((0, 1), np.nan),
            ValueError,
            "^weight_hr_l1: 1 of 21 weights are NaN or infinite$",
        ),
        (
            lambda d: d["bias_hh_l0_reverse"].__setitem__(slice(None), -np.inf),
            ValueError,
            "^bias_hh_l0_reverse: 28 of 28 weights are NaN or infinite$",
        ),
        (
            lambda d: d.update(weight_hh_l0=d["weight_hh_l0"].astype(np.float16)),
            TypeError,
            r"^weight_hh_l0: expected float32 or float64, got float16; cast it with \.astype\(np\.float32\)$",
        ),
        (
            lambda d: d.update(weight_hh_l0=d["weight_hh_l0"].astype(int)),
            TypeError,
            "^weight_hh_l0: expected float32 or float64, got int64",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(change, error, text):
    arrays = arrays_of(make_module(**FULL))
    from_torch(arrays)
    prefixed = {f"model.rnn.{name}": array for name, array in arrays.items()}
    change(arrays)
    refused(error, text, lambda: from_torch(arrays))
    # In a larger model by the name that it has there.
    prefixed = {f"model.rnn.{name}": array for name, array in arrays.items()} | {"model.head": np.zeros(3)}
    said = refused(error, "", lambda: from_torch(prefixed, "model.rnn"))
    assert "model.rnn." in said


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_a_precision_is_refused_with_the_cast(dtype):
    module = make_module().to(getattr(torch, dtype))
    refused(
        TypeError,
        rf"^weight_ih_l0: expected float32 or float64, got {dtype}; cast it with \.float\(\)$",
        lambda: from_torch(module),
    )
    from_torch(module.float())


def test_too_large_for_the_dtype_is_refused():
    arrays = arrays_of(make_module(dtype="float64"))
    arrays["weight_ih_l0"][0, 0] = -1e39
    refused(
        ValueError,
        r"^weight_ih_l0: expected at most 3\.4e\+38, for float32, got 1e\+39$",
        lambda: from_torch(arrays, dtype=np.float32),
    )
    # Two biases that fit, whose sum does not.
    arrays = arrays_of(make_module())
    arrays["bias_ih_l0"][0] = arrays["bias_hh_l0"][0] = 3e38
    refused(ValueError, r"^bias_ih_l0 \+ bias_hh_l0: expected at most 3\.4e\+38", lambda: from_torch(arrays))


def test_what_is_no_source_is_refused():
    refused(
        TypeError,
        "^source: expected a torch.nn.LSTM, another torch.nn.Module or a state_dict, got str$",
        lambda: from_torch("model.pt"),
    )
    refused(TypeError, "^prefix: expected a str, got int$", lambda: from_torch(make_module(), 0))
    checkpoint = {"epoch": 1, "state_dict": arrays_of(make_module())}
    refused(
        ValueError,
        "^source: expected names of tensors, got mappings under 'state_dict': pass the one that is the state_dict$",
        lambda: from_torch(checkpoint),
    )
    refused(KeyError, "^source: expected names that are str, got 1$", lambda: from_torch({1: np.zeros(2)}))
    refused(
        ValueError,
        "^weight_ih_l0: expected numbers, got a tensor on the meta device, which has none$",
        lambda: from_torch(torch.nn.LSTM(3, 4, device="meta")),
    )
    refused(TypeError, "^dtype: expected float32 or float64", lambda: from_torch(make_module(), dtype=np.int32))


# ----------------------------- out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_there_and_back_is_the_same_to_the_bit(options, dtype):
    layer = LSTM(INPUT, HIDDEN, **options, dtype=dtype, seed=0)
    if layer.bias:
        # The sign of a zero is a bit too.
        layer.weights["bias_l0"] = np.where(np.arange(4 * HIDDEN) % 2, -0.0, 0.0).astype(dtype)
    module = to_torch(layer)
    assert type(module) is torch.nn.LSTM and module.training
    again = from_torch(module)
    assert repr(again) == repr(layer)
    same_weights(again, layer)
    same_outputs(layer, module.eval())


def test_what_another_takes_out_is_what_it_put_in():
    module = make_module(**FULL)
    there = to_torch(from_torch(module))
    for name, tensor in there.state_dict().items():
        if name.startswith("weight"):
            assert torch.equal(tensor, module.state_dict()[name])
        elif name.startswith("bias_ih"):
            assert torch.equal(tensor, getattr(module, name) + getattr(module, name.replace("ih", "hh")))
        else:
            assert not tensor.any()


def test_exporting_draws_no_random_numbers():
    layer = LSTM(INPUT, HIDDEN, seed=0)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    to_torch(layer)
    assert torch.rand(1) == wanted


@pytest.mark.parametrize(
    "cell",
    [
        CellSpec.peephole_lstm(),
        CellSpec.hochreiter_1997(),
        CellSpec(coupled=True),
        CellSpec(output_activation="identity"),
        CellSpec(cell_clip=3.0),
    ],
    ids=str,
)
def test_a_cell_that_pytorch_has_not_is_refused(cell):
    said = refused(ValueError, "^lstm: torch.nn.LSTM has no cell CellSpec", lambda: to_torch(LSTM(3, 4, cell=cell)))
    assert said.endswith("; lstm_rs.torch.LSTM(..., cell=...) has")


def test_what_pytorch_has_not_is_refused():
    refused(ValueError, "^lstm: torch.nn.LSTM has no input_size of 0$", lambda: to_torch(LSTM(0, 4)))
    refused(TypeError, "^lstm: expected an lstm_rs.LSTM, got LSTM$", lambda: to_torch(make_module()))


# ----------------------------- what makes no array


def test_what_makes_no_array_is_refused_by_its_name():
    whole = make_module().state_dict()
    name = "weight_hh_l0"
    refused(TypeError, f"^{name}: expected a tensor that makes an array, got one of torch.sparse_coo: ",
            lambda: from_torch(whole | {name: whole[name].to_sparse()}))  # fmt: skip
    refused(ValueError, f"^{name}: expected an array, got what makes none: ",
            lambda: from_torch(whole | {name: [[1.0, 2.0], [3.0]]}))  # fmt: skip


def test_a_tensor_that_keeps_its_sign_in_a_flag():
    module = make_module()
    whole = module.state_dict()
    negated = {name: torch.complex(tensor, -tensor).conj().imag for name, tensor in whole.items()}
    assert all(tensor.is_neg() for tensor in negated.values())
    same_weights(from_torch(negated), from_torch(module))


def test_a_projection_without_a_recurrence_is_refused():
    arrays = {"weight_ih_l0": np.ones((8, 3), "f4"), "weight_hr_l0": np.ones((1, 2), "f4")}
    refused(KeyError, "^source: missing: weight_hh_l0$", lambda: from_torch(arrays))


# ----------------------------- without torch


def test_nothing_is_imported_that_is_not_needed():
    script = """
import sys
import numpy as np
import lstm_rs, lstm_rs.convert
optional = {"torch", "keras", "h5py", "jax", "flax", "onnx", "safetensors"}
state_dict = {"weight_ih_l0": np.ones((8, 3), dtype="f4"), "weight_hh_l0": np.ones((8, 2), dtype="f4")}
print(lstm_rs.convert.from_torch(state_dict), sorted(optional & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (run.stdout, run.stderr) == ("LSTM(3, 2, bias=False) []\n", "")


def test_a_package_that_is_missing_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(ImportError, r"^to_torch needs torch: pip install 'lstm-rs\[torch\]'$", lambda: to_torch(LSTM(3, 4)))
    refused(TypeError, "^source: expected", lambda: from_torch("model.pt"))
