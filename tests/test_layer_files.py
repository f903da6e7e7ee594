"""A layer in a file: every bit comes back, and a file that does not fit makes nothing."""

import json
import os
import stat
import struct
import sys

import numpy as np
import pytest
from converted import refused, same_weights
from lstm_rs import LSTM, CellSpec
from oracle import CELLS, assert_same_bits, make_input

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")

OPTIONS = {
    "one layer": {},
    "all": {"num_layers": 2, "bidirectional": True, "proj_size": 3, "batch_first": True, "dropout": 0.25},
    "no bias": {"num_layers": 3, "bias": False},
    "no input": {"input_size": 0},
}
# With parameters, and with numbers that JSON has to write out in full.
EXTENDED = {
    "hard_sigmoid": CellSpec(gate_activation=("hard_sigmoid", 1 / 6, 0.5)),
    "hard_sigmoid as it comes": CellSpec(gate_activation="hard_sigmoid"),
    "affine": CellSpec(input_activation=("affine", 0.1, -1e-30), peephole=True),
    "one parameter": CellSpec(output_activation=("leaky_relu", 0.30000000000000004)),
    "clips": CellSpec(gate_clip=3.0, cell_clip=1 / 3),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def made(**options):
    options = {"input_size": 4, "hidden_size": 5, "seed": 0} | options
    return LSTM(**options)


def same_layer(actual, expected):
    same_weights(actual, expected)
    assert repr(actual) == repr(expected) and actual.cell == expected.cell
    x = make_input(np.random.default_rng(0), 3, 2, expected.input_size, expected.dtype)
    assert_same_bits(actual(x)[0], expected(x)[0])


def parts(path):
    """The header of a file, as JSON and as it stands in its metadata, and the rest."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["lstm_rs"]), data[8 + length :]


def rewrite(path, header, said, rest):
    """A file of parts that were changed."""
    if said is not None:
        header["__metadata__"]["lstm_rs"] = said if isinstance(said, str) else json.dumps(said)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


# ----------------------------- there and back


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_bit_comes_back(path, options, dtype):
    lstm = made(**options, dtype=dtype)
    if lstm.bias:
        lstm.weights["bias_l0"] = np.where(np.arange(20) % 2, -0.0, np.finfo(dtype).smallest_subnormal).astype(dtype)
    lstm.save(path)
    same_layer(LSTM.load(path), lstm)
    same_layer(LSTM.load(str(path)), lstm)


@pytest.mark.parametrize("cell", [*CELLS.values(), *EXTENDED.values()], ids=[*CELLS, *EXTENDED])
def test_every_cell_comes_back(path, cell):
    lstm = made(cell=cell, num_layers=2)
    lstm.save(path)
    same_layer(LSTM.load(path), lstm)


def test_a_dropout_comes_back_without_a_word(path):
    lstm = made()
    lstm.dropout = 0.5
    lstm.save(path)
    assert LSTM.load(path).dropout == 0.5


def test_others_can_read_the_tensors(path):
    lstm = made()
    lstm.save(path, metadata={"trained on": "tides", "format": "np"})
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
        for name, array in lstm.weights.items():
            assert_same_bits(file.get_tensor(name), array, name)
    assert (metadata.pop("trained on"), metadata.pop("format")) == ("tides", "np")
    said = json.loads(metadata.pop("lstm_rs"))
    assert not metadata
    assert said.pop("library").startswith("lstm_rs ")
    assert said == {
        "format_version": 1,
        "input_size": 4,
        "hidden_size": 5,
        "num_layers": 1,
        "proj_size": 0,
        "bias": True,
        "batch_first": False,
        "bidirectional": False,
        "dropout": 0.0,
        "dtype": "float32",
        "cell": {},
    }
    same_layer(LSTM.load(path), lstm)


def test_tensors_stand_in_any_order(path):
    lstm = made(num_layers=2, bidirectional=True)
    lstm.save(path)
    header, said, rest = parts(path)
    rewrite(path, dict(reversed(header.items())), said, rest)
    same_layer(LSTM.load(path), lstm)


def test_what_is_left_out_of_a_cell_is_as_by_default(path):
    """What an older version wrote, that knew less of cells, means the same today."""
    made(cell=CellSpec.peephole_lstm()).save(path)
    assert parts(path)[1]["cell"] == {"peephole": True}


# ----------------------------- writing


def test_the_old_file_stays_until_the_new_one_is_whole(path, monkeypatch):
    made().save(path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("the disk is full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, broken)
            with pytest.raises(OSError, match="the disk is full"):
                made(seed=1).save(path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]
    made(seed=1).save(path)
    same_layer(LSTM.load(path), made(seed=1))
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links are those of POSIX")
def test_a_file_is_as_any_other(path):
    made().save(path)
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    # A link stays one.
    link = path.parent / "newest"
    link.symlink_to(path)
    made(seed=1).save(link)
    assert link.is_symlink()
    same_layer(LSTM.load(path), made(seed=1))


def test_what_cannot_be_written_is_refused(path):
    text = "^metadata: expected a mapping of str to str, got "
    refused(TypeError, text + "list$", lambda: made().save(path, metadata=["a"]))
    refused(TypeError, text + "'epoch': 3$", lambda: made().save(path, metadata={"epoch": 3}))
    refused(TypeError, text + "3: 'epoch'$", lambda: made().save(path, metadata={3: "epoch"}))
    refused(ValueError, "^metadata: expected any name but 'lstm_rs'", lambda: made().save(path, {"lstm_rs": "x"}))
    much = {"text": "x" * (17 << 20)}
    refused(ValueError, "^metadata: expected a header of at most 16777216 bytes, got ", lambda: made().save(path, much))
    with pytest.raises(FileNotFoundError):
        made().save(path.parent / "nowhere" / "model.safetensors")
    assert os.listdir(path.parent) == []


# ----------------------------- reading, refused


def said_of(path, text):
    """What is said of a file names it, and nothing is made."""
    said = refused(ValueError, text, lambda: LSTM.load(path))
    assert said.startswith(f"{path}: ")


def change_said(**changes):
    return lambda header, said: said.update(changes)


def change_tensor(name, **changes):
    return lambda header, said: header[name].update(changes)


HUGE = 10**9


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda h, s: h.pop("bias_l1"), "cannot be read: "),
        (
            lambda h, s: h.update(bias_l7=h.pop("bias_l1")),
            "tensors: missing: bias_l1; unexpected: bias_l7$",
        ),
        (lambda h, s: h.update(bias_l7=h.pop("bias_l1"), num_layers=1), "cannot be read: "),
        (change_said(num_layers=1), "tensors: unexpected: .*bias_l1"),
        (change_said(num_layers=3), "expected 9 tensors, 3 for each of 3 layers in 1 directions, got 6$"),
        (change_said(num_layers=HUGE), "expected 3000000000 tensors, 3 for each of 1000000000 layers in 1 direc"),
        (
            change_said(num_layers=4 * 10**4298, bidirectional=True),
            "header: expected less than [0-9]+ for num_layers, got 4000",
        ),
        (change_said(bidirectional=True), "expected 12 tensors, 3 for each of 2 layers in 2 directions, got 6$"),
        (change_said(bias=False), "tensors: unexpected: bias_l"),
        (change_said(cell={"peephole": True}), "expected 8 tensors, 4 for each of 2 layers in 1 directions, got 6$"),
        (change_said(proj_size=3), "expected 8 tensors, 4 for each of 2 layers"),
        (
            change_said(hidden_size=HUGE),
            r"weight_ih_l0: expected shape \(4000000000, 4\), for the sizes in the header, got \(20, 4\)$",
        ),
        (change_said(input_size=HUGE), r"weight_ih_l0: expected shape \(20, 1000000000\), .*got \(20, 4\)$"),
        (change_said(cell={"coupled": True}), r"weight_ih_l0: expected shape \(15, 4\), .*got \(20, 4\)$"),
        (change_tensor("weight_hh_l1", shape=[5, 20]), r"weight_hh_l1: expected shape \(20, 5\), .*got \(5, 20\)$"),
        (change_tensor("weight_hh_l1", dtype="I32"), "weight_hh_l1: expected F32, as the header has it, got I32$"),
        (change_tensor("weight_hh_l1", dtype="F32", shape=[HUGE, HUGE]), "cannot be read: "),
        (change_said(dtype="float64"), "weight_ih_l0: expected F64, as the header has it, got F32$"),
        (change_said(dtype="float16"), "header: expected dtype float32 or float64, got 'float16'$"),
        (change_said(dtype=["float32"]), "header: expected dtype float32 or float64"),
        (
            change_said(format_version=2),
            "format_version 1 at most, got 2, written by lstm_rs .*: a newer lstm_rs reads",
        ),
        (change_said(format_version="1"), "expected a format_version of 1, got '1'$"),
        (lambda h, s: s.pop("format_version"), "expected a format_version of 1, got None$"),
        (change_said(hidden_size=0), "header: expected an int from 1 on for hidden_size, got 0$"),
        (change_said(hidden_size=5.0), "header: expected an int from 1 on for hidden_size, got 5.0$"),
        (change_said(num_layers=True), "header: expected an int from 1 on for num_layers, got True$"),
        (change_said(input_size=-1), "header: expected an int from 0 on for input_size, got -1$"),
        (change_said(proj_size=5), "header: expected proj_size less than hidden_size 5, got 5$"),
        (change_said(bias=1), "header: expected true or false for bias, got 1$"),
        (change_said(dropout=1.0), "header: expected a dropout from 0 to less than 1, got 1.0$"),
        (change_said(dropout=float("nan")), "header: expected a dropout from 0 to less than 1, got nan$"),
        (change_said(momentum=0.9), "header: unknown: momentum$"),
        (lambda h, s: s.pop("bias"), "header: missing: bias$"),
        (change_said(cell=3), "header: expected a JSON object for cell, got 3$"),
        (
            change_said(cell={"soul": True}, library="lstm_rs 9.0"),
            "header: cell: unknown: soul, written by lstm_rs 9.0; this version knows input_gate, ",
        ),
        (change_said(cell={"coupled": True, "input_gate": False}), "header: cell: coupled=True needs the input gate"),
        (change_said(cell={"gate_activation": "softmax"}), "header: cell: gate_activation"),
        (change_said(cell={"gate_activation": ["hard_sigmoid", "x"]}), "header: cell: gate_activation"),
        (change_said(cell={"gate_activation": {}}), "header: cell: gate_activation"),
        (change_said(cell={"gate_clip": -1.0}), "header: cell: gate_clip"),
        (change_said(cell={"gate_clip": 10**400}), "header: cell: gate_clip must be finite, got 1000"),
        (lambda h, s: h["__metadata__"].update(lstm_rs="{"), "expected JSON under 'lstm_rs' in its metadata: "),
        (lambda h, s: h["__metadata__"].update(lstm_rs="[" * 10**6), "expected JSON under 'lstm_rs' in its metadata: "),
        (lambda h, s: h["__metadata__"].update(lstm_rs="[]"), "expected a JSON object under 'lstm_rs' .*, got list$"),
        (lambda h, s: h["__metadata__"].pop("lstm_rs"), "expected 'lstm_rs' in its metadata, as LSTM.save writes it"),
        (lambda h, s: h.pop("__metadata__"), "expected 'lstm_rs' in its metadata, as LSTM.save writes it"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(path, change, text):
    made(num_layers=2).save(path)
    header, said, rest = parts(path)
    before = json.dumps(said)
    change(header, said)
    rewrite(path, header, said if json.dumps(said) != before else None, rest)
    said_of(path, text)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(path, value):
    lstm = made()
    lstm.save(path)
    header, _, rest = parts(path)
    begin, end = header["bias_l0"]["data_offsets"]
    rewrite(path, header, None, rest[:begin] + np.full(20, value, np.float32).tobytes() + rest[end:])
    said_of(path, "bias_l0: 20 of 20 weights are NaN or infinite$")
    # Nor is such a file written, which could not be read again.
    lstm.weights["weight_ih_l0"] = np.full((20, 4), value, np.float32)
    before = path.read_bytes()
    refused(ValueError, "^lstm: weight_ih_l0: 80 of 80 weights are NaN or infinite$", lambda: lstm.save(path))
    assert path.read_bytes() == before


def test_a_truncated_file_is_refused_wherever_it_ends(path):
    made().save(path)
    data = path.read_bytes()
    for end in range(0, len(data), 37):
        path.write_bytes(data[:end])
        said_of(path, "expected a whole safetensors file")
    path.write_bytes(data + b"\0")
    said_of(path, "expected a whole safetensors file, got one that cannot be read: ")


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 300 << 20])
def test_a_header_that_is_longer_than_the_file_is_refused(path, length):
    made().save(path)
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", length) + data[8:])
    said_of(path, f"expected a whole safetensors file, got {len(data)} bytes and a header of {length}$")


def test_a_header_of_hundreds_of_megabytes_is_not_read(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 300 << 20))
        # A hole: it takes no disk.
        file.truncate((300 << 20) + 8)
    said_of(path, f"expected a header of at most 16777216 bytes, got {300 << 20}$")


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95" + b"K\x01." * 30, b"PK\x03\x04" + b"\0" * 60, b"{}" * 40])
def test_what_is_another_kind_of_file_is_refused(path, data):
    path.write_bytes(data)
    said_of(path, "expected a whole safetensors file, got ")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        LSTM.load(tmp_path / "nothing.safetensors")
    with pytest.raises(OSError):
        LSTM.load(tmp_path)
    with pytest.raises(TypeError):
        LSTM.load(3.5)


def test_tensors_of_another_library_are_refused_with_a_way(path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"lstm.weight_ih_l0": np.ones((8, 3), np.float32)}, path, metadata={"format": "pt"})
    said_of(path, "tensors of PyTorch can be given to lstm_rs.from_torch$")


def test_a_package_that_is_missing_is_asked_for(path, monkeypatch):
    made().save(path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(
        ImportError, r"^LSTM.load needs safetensors: pip install 'lstm-rs\[safetensors\]'$", lambda: LSTM.load(path)
    )
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    refused(
        ImportError, r"^LSTM.save needs safetensors: pip install 'lstm-rs\[safetensors\]'$", lambda: made().save(path)
    )
