"""Keras' HDF5 files: of a model that Keras wrote, as its older versions wrote them, and broken ones."""

import importlib.util
import json
import os
import pathlib
import pickle
import sys
import warnings

import numpy as np
import pytest
from converted import refused, same_weights
from lstm_rs import CellSpec
from lstm_rs.convert import from_keras, from_keras_h5
from oracle import assert_same_bits

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


def drawn(input_size, hidden_size, rows=4, bias=None, seed=0):
    """Kernel, recurrent kernel and bias, of random numbers."""
    rng = np.random.default_rng(seed)
    shapes = ((input_size, rows * hidden_size), (hidden_size, rows * hidden_size), (bias or rows * hidden_size,))
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def write_legacy(file, layers, version="2.15.0"):
    """The layout of Keras 1 and 2: `layers` has for each layer the arrays by their full names."""
    file.attrs["layer_names"] = [name.encode() for name in layers]
    if version is not None:
        file.attrs["keras_version"] = version.encode()
    file.attrs["backend"] = b"tensorflow"
    for layer, arrays in layers.items():
        group = file.create_group(layer)
        group.attrs["weight_names"] = [name.encode() for name in arrays]
        for name, array in arrays.items():
            group[name] = array


def weights(owner, arrays, end=":0"):
    return {f"{owner}/{name}{end}": a for name, a in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False)}


@pytest.fixture
def legacy(tmp_path):
    """Write a file in the old layout, and give its path."""

    def write(layers, version="2.15.0", config=None, name="model.h5"):
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            write_legacy(file if config is None else file.create_group("model_weights"), layers, version)
            if config is not None:
                file.attrs["model_config"] = config if isinstance(config, str | bytes) else json.dumps(config)
        return path

    return write


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def layer_config(name, kind="LSTM", **config):
    return {"class_name": kind, "config": {"name": name} | config}


# ----------------------------- files of today's Keras


def quiet(call, *args, **how):
    """Keras warns that a format is old, and NumPy of how Keras makes arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **how)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The files of a model of all kinds of layers, and its LSTM layers by the names that they have there."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    layers = keras.layers
    activation = layers.LeakyReLU(negative_slope=0.125)
    deep = [
        layers.LSTM(3, name="deep", use_bias=False, return_sequences=True, activation="leaky_relu"),
        layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="deep_both"),
    ]
    flat = [
        layers.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid", name="hard"),
        layers.Bidirectional(layers.LSTM(5, return_sequences=True, activation=activation), name="both"),
        # A name that could be one of the two in a Bidirectional.
        layers.LSTM(4, return_sequences=True, name="forward_pass"),
    ]
    inner = keras.Sequential([keras.Input((None, 2)), *deep, layers.Dense(1)], name="inner")
    gru = layers.GRU(2, name="gru", return_sequences=True)
    x = begin = keras.Input((None, 3))
    for layer in (*flat, gru, inner):
        x = layer(x)
    whole = keras.Model(begin, x)
    for layer in (*flat, *deep):
        rng = np.random.default_rng(len(layer.name))
        layer.set_weights([rng.normal(size=weight.shape).astype(np.float32) for weight in layer.weights])
    folder = tmp_path_factory.mktemp("keras")
    quiet(whole.save, folder / "whole.h5")
    quiet(whole.save_weights, folder / "model.weights.h5")
    quiet(whole.save, folder / "model.keras")
    return folder, {layer.name: layer for layer in flat}, {layer.name: layer for layer in deep}


def test_layers_of_a_whole_model(model):
    folder, flat, deep = model
    for name, layer in (flat | {f"inner/{name}": layer for name, layer in deep.items()}).items():
        expected = quiet(from_keras, layer)
        ours = from_keras_h5(folder / "whole.h5", name)
        same_weights(ours, expected)
        assert repr(ours) == repr(expected)
        refused(
            ValueError,
            f"^cell: leave it out: .*whole.h5 says itself which activations '{name}' has$",
            lambda name=name: from_keras_h5(folder / "whole.h5", name, cell=CellSpec()),
        )
    listed = "'hard', 'both', 'forward_pass', 'inner/deep', 'inner/deep_both'$"
    refused(ValueError, f"^layer: expected the name of one of the LSTM layers in .*whole.h5: {listed}",
            lambda: from_keras_h5(folder / "whole.h5"))  # fmt: skip
    refused(KeyError, f"^layer: no recurrent layer 'lstm' in .*whole.h5; its LSTM layers: {listed}",
            lambda: from_keras_h5(folder / "whole.h5", "lstm"))  # fmt: skip
    refused(ValueError, "^layer: 'gru' in .*whole.h5 is a GRU, by its 3 gates; LSTM layers: 'hard', ",
            lambda: from_keras_h5(folder / "whole.h5", "gru"))  # fmt: skip


def test_layers_of_a_weights_file_of_keras_3(model):
    folder, flat, deep = model
    path = folder / "model.weights.h5"
    for name, layer in (flat | deep).items():
        expected = quiet(from_keras, layer)
        ours = from_keras_h5(path, name, cell=expected.cell)
        same_weights(ours, expected)
        assert repr(ours) == repr(expected)
        # The file does not say, and then it is taken for what Keras has by default.
        assert from_keras_h5(path, name).cell == CellSpec()
    refused(ValueError, "is a GRU, by its 3 gates", lambda: from_keras_h5(path, "gru"))
    refused(ValueError, "^layer: expected the name of one of .*'deep'", lambda: from_keras_h5(path))


def test_a_zip_archive_is_refused_with_what_to_do(model):
    text = "model.keras: expected an HDF5 file, got a zip archive, as .keras is: unpack model.weights.h5 from it$"
    refused(ValueError, text, lambda: from_keras_h5(model[0] / "model.keras"))


def test_layers_of_the_same_name_go_by_their_path(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        for place in ("layers/one/layers/lstm", "layers/two/layers/lstm"):
            file.create_group(place + "/vars").attrs["name"] = "memory"
            for k, array in enumerate(drawn(2, 3, seed=len(file["layers"]))):
                file[f"{place}/cell/vars/{k}"] = array
        # As the first versions of Keras 3 had it, without the name.
        for k, array in enumerate(drawn(2, 3)):
            file[f"_layer_checkpoint_dependencies/nameless/cell/vars/{k}"] = array
    for seed, place in enumerate(("layers/one/layers/lstm", "layers/two/layers/lstm"), start=1):
        same_weights(from_keras_h5(path, place), from_keras(drawn(2, 3, seed=seed)))
    same_weights(from_keras_h5(path, "nameless"), from_keras(drawn(2, 3)))


# ----------------------------- files of older versions


@pytest.mark.parametrize("owner", ["memory", "memory/lstm_cell", "memory/lstm_cell_12"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_names_of_weights_through_the_years(legacy, owner, bias):
    arrays = drawn(3, 5)[: 3 if bias else 2]
    path = legacy({"input": {}, "memory": weights(owner, arrays), "dense": {"dense/kernel:0": np.ones((5, 2), "f4")}})
    for ours in (from_keras_h5(path), from_keras_h5(str(path), "memory")):
        same_weights(ours, from_keras(arrays))
        assert ours.batch_first and ours.bias is bias
    assert from_keras_h5(path, dtype=np.float64).dtype == np.float64
    cell = CellSpec(input_activation="relu", output_activation="relu")
    assert from_keras_h5(path, cell=cell).cell == cell


@pytest.mark.parametrize("owner", ["{way}_lstm_1", "both/{way}_lstm/lstm_cell", "both/{way}_lstm_3"])
def test_both_directions_through_the_years(legacy, owner):
    first, second = drawn(3, 5), drawn(3, 5, seed=1)
    arrays = weights(owner.format(way="forward"), first) | weights(owner.format(way="backward"), second)
    path = legacy({"both": arrays})
    same_weights(from_keras_h5(path), from_keras(first + second))
    # In whatever order.
    swapped = weights(owner.format(way="backward"), second) | weights(owner.format(way="forward"), first)
    same_weights(from_keras_h5(legacy({"both": swapped}, name="swapped.h5")), from_keras(first + second))


def test_cudnn_layers_are_known_by_their_bias(legacy):
    arrays = drawn(3, 5, bias=40)
    # Old as it is: these had no choice of activations.
    path = legacy({"memory": weights("memory", arrays)}, version="2.1.5")
    ours = from_keras_h5(path)
    same_weights(ours, from_keras(arrays))
    first = arrays[0][:, :5]
    assert_same_bits(ours.weights["weight_ih_l0"][:5], np.ascontiguousarray(first.T.reshape(first.shape, order="F").T))
    assert_same_bits(ours.weights["weight_hh_l0"][:5], np.ascontiguousarray(arrays[1][:, :5]))
    assert_same_bits(ours.weights["bias_l0"], arrays[2][:20] + arrays[2][20:])


@pytest.mark.parametrize("version", ["1.2.2", "2.1.6-tf", "2.2.4"])
def test_weights_of_an_old_version_need_a_cell(legacy, version):
    arrays = drawn(3, 5)
    path = legacy({"memory": weights("memory", arrays)}, version=version)
    refused(
        ValueError,
        rf"^cell: expected one for 'memory' in .*: up to Keras 2.2, which wrote it \({version}\), the gates were "
        rf"hard_sigmoid unless .*CellSpec\(gate_activation='hard_sigmoid'\) or CellSpec\(\)$",
        lambda: from_keras_h5(path),
    )
    for cell in (CellSpec(), CellSpec(gate_activation="hard_sigmoid")):
        assert from_keras_h5(path, cell=cell).cell == cell


@pytest.mark.parametrize(("version", "slope"), [("2.2.4", 0.2), ("2.15.0", 0.2), ("3.0.0", 1 / 6), ("3.15.1", 1 / 6)])
def test_hard_sigmoid_has_changed(legacy, version, slope):
    config = sequential(layer_config("memory", recurrent_activation="hard_sigmoid", activation="tanh"))
    path = legacy({"memory": weights("memory", drawn(3, 5))}, version=version, config=config)
    assert from_keras_h5(path).cell == CellSpec(gate_activation=("hard_sigmoid", slope, 0.5))


def test_what_a_model_of_keras_2_says(legacy):
    arrays = {"memory": weights("memory", drawn(3, 5, bias=40)), "both": {}}
    arrays["both"] = weights("forward_x", drawn(5, 2)) | weights("backward_x", drawn(5, 2, seed=1))
    inner = layer_config("x", activation={"class_name": "LeakyReLU", "config": {"alpha": 0.25}}, time_major=True)
    config = [
        layer_config("memory", "CuDNNLSTM", go_backwards=False),
        layer_config("both", "Bidirectional", layer=inner),
    ]
    # Before Keras 2.2.3 the layers of a Sequential were its whole configuration.
    config = {"class_name": "Sequential", "config": config}
    path = legacy(arrays, version="2.1.6", config=config)
    assert from_keras_h5(path, "memory").cell == CellSpec()
    both = from_keras_h5(path, "both")
    said = ("leaky_relu", 0.25)
    assert both.cell == CellSpec(input_activation=said, output_activation=said)
    assert both.bidirectional and not both.batch_first


def test_names_too_long_for_one_attribute_are_in_pieces(tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        write_legacy(file, {"memory": weights("memory", drawn(3, 5))})
        names = file["memory"].attrs["weight_names"]
        del file["memory"].attrs["weight_names"], file.attrs["layer_names"]
        file.attrs["layer_names0"] = [b"memory"]
        file["memory"].attrs["weight_names0"], file["memory"].attrs["weight_names1"] = names[:1], names[1:]
    same_weights(from_keras_h5(path), from_keras(drawn(3, 5)))


def test_a_real_file_of_cudnn_layers_reads_english():
    """A model of characters, textgenrnn, from first layer to last: with a gate or an axis amiss it knows nothing.

    Of a sentence it has not seen it gives each character e^-0.77 on average. By chance that is 1/465 = e^-6.1; with the
    kernels as they stand in the file it is e^-51, and with any two gates exchanged at best e^-5.7.
    """
    spec = importlib.util.find_spec("textgenrnn")
    if spec is None:
        pytest.skip("textgenrnn is not installed")
    folder = pathlib.Path(spec.origin).parent
    path = folder / "textgenrnn_weights.hdf5"
    refused(ValueError, "^layer: expected the name .*hdf5: 'rnn_1', 'rnn_2'$", lambda: from_keras_h5(path))
    first, second = (from_keras_h5(path, name) for name in ("rnn_1", "rnn_2"))
    assert repr(first) == "LSTM(100, 128, batch_first=True)" and repr(second) == "LSTM(128, 128, batch_first=True)"
    with h5py.File(path) as file:
        embedding, attention = (file[name][()] for name in ("embedding/embedding/embeddings:0",
                                                            "attention/attention/attention_W:0"))  # fmt: skip
        kernel, bias = (file[f"output/output/{name}:0"][()] for name in ("kernel", "bias"))
    numbers = json.loads((folder / "textgenrnn_vocab.json").read_text(encoding="utf-8"))
    text = [464] + [
        numbers[character] for character in "What is the best way to learn how to play the guitar in the world?"
    ]
    # The last 40 characters, with zeros before.
    before = np.array([([0] * 40 + text[:k])[-40:] for k in range(1, len(text))])
    x = embedding[before]
    y, _ = first(x)
    x = np.concatenate([x, y, second(y)[0]], axis=2)
    looked_at = np.exp(x @ attention)
    logits = (x * looked_at).sum(axis=1) / looked_at.sum(axis=1) @ kernel + bias
    logits -= logits.max(axis=1, keepdims=True)
    likelihood = logits[range(len(before)), text[1:]] - np.log(np.exp(logits).sum(axis=1))
    assert likelihood.mean() > -1


# ----------------------------- refused


@pytest.mark.parametrize(
    ("kind", "config", "text"),
    [
        (
            "LSTM",
            {"go_backwards": True},
            r"memory: expected go_backwards=False, got True: .*gives these for x\[:, ::-1\]$",
        ),
        ("CuDNNLSTM", {"go_backwards": True}, "memory: expected go_backwards=False"),
        ("LSTM", {"activation": "selu"}, "memory: activation: no such activation here: 'selu'; there are "),
        (
            "LSTM",
            {"activation": {"class_name": "LeakyReLU", "config": {"negative_slope": "x"}, "module": "keras.layers"}},
            "memory: activation: expected a number for its parameter, got 'x'$",
        ),
        (
            "LSTM",
            {"activation": {"class_name": "ELU", "config": {"alpha": 10**400}, "module": "keras.layers"}},
            "memory: activation: expected a parameter that fits into float64, got 1000",
        ),
        (
            "LSTM",
            {"activation": {"class_name": "LeakyReLU", "config": {"alpha": 0.1}, "registered_name": "Mine>LeakyReLU"}},
            "memory: activation: no such activation here: 'LeakyReLU'",
        ),
        (
            "LSTM",
            {"activation": {"class_name": "LeakyReLU", "config": {"alpha": 0.1}, "module": "mine"}},
            "memory: activation: no such activation here: 'LeakyReLU'",
        ),
        ("LSTM", {"recurrent_activation": 3}, "memory: recurrent_activation: no such activation here: 3"),
        ("Bidirectional", {"merge_mode": "ave", "layer": layer_config("x")}, "memory: expected merge_mode 'concat'"),
        ("Bidirectional", {"layer": layer_config("x", "GRU")}, "memory: expected an LSTM layer, .* got GRU$"),
        ("Bidirectional", {"layer": 3}, "memory: expected the configuration of the layer inside .*, got 3$"),
        ("Bidirectional", {}, "memory: expected the configuration of the layer inside .*, got None$"),
        (
            "Bidirectional",
            {"layer": layer_config("x")},
            "memory: expected weights of 2 directions, as the model_config has it, got 1$",
        ),
        (
            "Bidirectional",
            {"layer": layer_config("x"), "backward_layer": layer_config("x")},
            "memory: expected its first layer to run forwards and its second backwards",
        ),
    ],
)
def test_what_a_model_says_that_we_have_not_is_refused(legacy, kind, config, text):
    config = sequential(layer_config("memory", kind, **config))
    path = legacy({"memory": weights("memory", drawn(3, 5))}, config=config)
    said = refused(ValueError, text, lambda: from_keras_h5(path))
    assert said.startswith(str(path))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("{", "model.h5: expected JSON in its model_config: "),
        ("[" * 100_000, "model.h5: expected JSON in its model_config: "),
        (sequential(), "model.h5: expected one configuration of the layer 'memory' in its model_config, got 0$"),
        (
            sequential(layer_config("memory", activation="tanh"), layer_config("memory", activation="relu")),
            "model.h5: expected one configuration of the layer 'memory' in its model_config, got 2$",
        ),
    ],
)
def test_a_broken_configuration_is_refused(legacy, config, text):
    if isinstance(config, str):
        # An attribute of HDF5 has up to 64 KB.
        config = config[:60_000]
    path = legacy({"memory": weights("memory", drawn(3, 5))}, config=config)
    refused(ValueError, text, lambda: from_keras_h5(path))


def change_array(name, value):
    """Put something else in an array's place."""

    def change(file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


ONE = "memory/memory/"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            change_array(ONE + "bias:0", None),
            ValueError,
            "model.h5: missing the array memory/memory/bias:0, which weight_names lists$",
        ),
        (change_array("memory", None), ValueError, "model.h5: missing the group 'memory', which layer_names lists$"),
        (
            change_array(ONE + "bias:0", np.ones(7, np.float32)),
            ValueError,
            r"model.h5: memory: bias: expected shape \(20,\), .*got shape \(7,\)$",
        ),
        (
            change_array(ONE + "kernel:0", np.full((3, 20), np.nan, np.float32)),
            ValueError,
            "model.h5: memory: kernel: 60 of 60 weights are NaN or infinite$",
        ),
        (
            change_array(ONE + "kernel:0", np.ones((3, 20), np.float16)),
            TypeError,
            "model.h5: memory: kernel: expected float32 or float64, got float16; cast",
        ),
        (
            change_array(ONE + "kernel:0", np.ones((3, 20), np.int32)),
            TypeError,
            "model.h5: memory/memory/kernel:0: expected float32 or float64, got int32$",
        ),
        (
            change_array(ONE + "kernel:0", np.ones(20, np.float32)),
            ValueError,
            "model.h5: expected an LSTM layer of Keras",
        ),
        (
            change_array(ONE + "bias:0", h5py.Empty("f4")),
            TypeError,
            "model.h5: memory/memory/bias:0: expected float32 or float64, got None$",
        ),
        (
            change_array(ONE + "bias:0", h5py.SoftLink("/memory/memory/kernel:0")),
            ValueError,
            "model.h5: missing the array memory/memory/bias:0",
        ),
        (
            change_array(ONE + "bias:0", h5py.ExternalLink("other.h5", "/bias")),
            ValueError,
            "model.h5: missing the array memory/memory/bias:0",
        ),
        (
            lambda file: file["memory"].attrs.__setitem__("weight_names", 3),
            ValueError,
            "model.h5: expected a whole HDF5 file of Keras, got one that cannot be read: ",
        ),
        (
            lambda file: file.attrs.__setitem__("layer_names", np.array([b"\xff\xfe"])),
            ValueError,
            "model.h5: expected a whole HDF5 file of Keras, got one that cannot be read: ",
        ),
        (
            lambda file: file.attrs.__delitem__("layer_names"),
            ValueError,
            "model.h5: expected an LSTM layer of Keras, got",
        ),
    ],
)
def test_a_broken_file_is_refused(legacy, change, error, text):
    path = legacy({"memory": weights("memory", drawn(3, 5))})
    from_keras_h5(path)
    with h5py.File(path, "a") as file:
        change(file)
    refused(error, text, lambda: from_keras_h5(path))


def test_numbers_that_are_not_there_are_refused(legacy, tmp_path):
    """Arrays of 4 * 10^18 bytes in a file of some KB; and of some that are read from elsewhere."""
    path = legacy({"memory": weights("memory", drawn(3, 5)[:2])})
    huge = 10**9
    with h5py.File(path, "a") as file:
        del file[ONE + "kernel:0"], file[ONE + "recurrent_kernel:0"]
        for name, rows in (("kernel:0", 3), ("recurrent_kernel:0", huge)):
            file.create_dataset(ONE + name, (rows, 4 * huge), "f4", chunks=(1, 1024), compression="gzip")
        file[ONE + "kernel:0"][0, :1000] = 1
    refused(ValueError, "kernel:0: expected 48000000000 bytes for shape", lambda: from_keras_h5(path))
    (tmp_path / "secret").write_bytes(b"x" * 240)
    with h5py.File(path, "a") as file:
        del file[ONE + "kernel:0"], file[ONE + "recurrent_kernel:0"]
        file[ONE + "recurrent_kernel:0"] = drawn(3, 5)[1]
        file.create_dataset(ONE + "kernel:0", (3, 20), "f4", external=[(str(tmp_path / "secret"), 0, 240)])
    text = "kernel:0: expected its numbers in the file itself, got a reference to another file$"
    refused(ValueError, text, lambda: from_keras_h5(path))


def test_a_truncated_file_is_refused_wherever_it_ends(legacy):
    path = legacy({"memory": weights("memory", drawn(3, 5))})
    data = path.read_bytes()
    for end in [0, 1, 7, 8, 100, *range(500, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:end])
        said = refused(ValueError, "model.h5: expected a whole HDF5 file of Keras", lambda: from_keras_h5(path))
        assert said.startswith(str(path))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_keras_h5(tmp_path / "nothing.h5")
    with pytest.raises(TypeError):
        from_keras_h5(3.5)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"kernel": [1.0]}))
    refused(ValueError, "weights.pkl: expected a whole HDF5 file of Keras, got one that", lambda: from_keras_h5(path))


def test_a_package_that_is_missing_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    text = r"^from_keras_h5 needs h5py: pip install 'lstm-rs\[keras\]'$"
    refused(ImportError, text, lambda: from_keras_h5("model.h5"))


def test_a_name_is_read_once(tmp_path, monkeypatch):
    """Not once for each other layer, which took minutes in a file of a thousand."""
    path, count = tmp_path / "many.weights.h5", 40
    with h5py.File(path, "w") as file:
        for k in range(count):
            for name, array in zip("012", drawn(3, 2), strict=True):
                file[f"layers/lstm_{k}/cell/vars/{name}"] = array
            file.create_group(f"layers/lstm_{k}/vars").attrs["name"] = f"memory_{k}"
    reads, read = [], h5py.AttributeManager.__getitem__
    monkeypatch.setattr(h5py.AttributeManager, "__getitem__", lambda *of: reads.append(of) or read(*of))
    assert from_keras_h5(path, "memory_7").hidden_size == 2
    assert count <= len(reads) <= 2 * count
