"""Neural Amp Modeler's LSTM files: read by the definition of the format, and what is refused."""

import json

import numpy as np
import pytest
from converted import refused
from lstm_rs.convert import NAM, from_nam
from oracle import assert_close, assert_same_bits

SIZES = {"one": (1, 3, 1), "deep": (1, 8, 3), "several inputs": (3, 5, 2), "one unit": (1, 1, 1)}


def made(input_size=1, hidden_size=3, num_layers=1, outputs=None, seed=0):
    """What the JSON of a model says, its numbers drawn."""
    rng = np.random.default_rng(seed)
    count = sum(4 * hidden_size * ((hidden_size if k else input_size) + hidden_size + 1) + 2 * hidden_size
                for k in range(num_layers)) + (outputs or 1) * (hidden_size + 1)  # fmt: skip
    config = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    if outputs is not None:
        config |= {"in_channels": input_size, "out_channels": outputs}
    return {
        "version": "0.5.4",
        "metadata": {"name": "Test", "loudness": -20.5},
        "architecture": "LSTM",
        "config": config,
        "weights": (0.7 * rng.normal(size=count)).astype(np.float32).tolist(),
        "sample_rate": 48000,
    }


def played(model, audio):
    """A model's output, sample by sample, as its format defines it: the numbers are read one after the other."""
    numbers = iter(model["weights"])
    size, hidden, layers = (model["config"][name] for name in ("input_size", "hidden_size", "num_layers"))
    outputs = model["config"].get("out_channels", 1)
    read = lambda count: [next(numbers) for _ in range(count)]  # noqa: E731
    cells = []
    for k in range(layers):
        width = (hidden if k else size) + hidden
        rows = [read(width) for _ in range(4 * hidden)]
        cells.append({"rows": rows, "bias": read(4 * hidden), "h": read(hidden), "c": read(hidden)})
    head = [read(hidden) for _ in range(outputs)]
    head_bias = read(outputs)
    assert next(numbers, None) is None
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    samples = []
    for x in audio:
        for cell in cells:
            seen = [*x, *cell["h"]]
            z = [sum(w * s for w, s in zip(row, seen, strict=True)) + b
                 for row, b in zip(cell["rows"], cell["bias"], strict=True)]  # fmt: skip
            for unit in range(hidden):
                i, f, g, o = (z[gate * hidden + unit] for gate in range(4))
                cell["c"][unit] = sigmoid(f) * cell["c"][unit] + sigmoid(i) * np.tanh(g)
                cell["h"][unit] = sigmoid(o) * np.tanh(cell["c"][unit])
            x = cell["h"]
        samples.append([sum(w * h for w, h in zip(row, x, strict=True)) + b
                        for row, b in zip(head, head_bias, strict=True)])  # fmt: skip
    return np.array(samples)


def sizes_of(model, steps):
    size, hidden, layers = (model["config"][name] for name in ("input_size", "hidden_size", "num_layers"))
    return {"steps": steps * layers, "batch": 1, "input_size": max(size, hidden), "hidden_size": hidden}


# ----------------------------- in


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [None, 1, 2])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_model_plays_what_its_format_says(sizes, outputs, dtype):
    model = made(*sizes, outputs=outputs)
    nam = from_nam(model, dtype=dtype)
    audio = np.random.default_rng(1).normal(size=(30, sizes[0])).astype(dtype)
    y, _ = nam.lstm(audio[:, None], nam.state)
    assert_close(y[:, 0] @ nam.head_weight.T + nam.head_bias, played(model, audio), **sizes_of(model, 30))
    # The same as it is played live.
    stream = nam.lstm.stream()
    stream.state = nam.state
    assert_same_bits(np.stack([stream.step(sample) for sample in audio]), y[:, 0])


def test_a_model_of_pytorch_that_was_exported():
    """The other way round: what the trainer writes, out of its module's own arrays."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    core, head = torch.nn.LSTM(1, 6, 2, batch_first=True), torch.nn.Linear(6, 1)
    state = torch.randn(2, 6), torch.randn(2, 6)
    weights = []
    with torch.no_grad():
        for k in range(2):
            own = {name: getattr(core, f"{name}_l{k}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            matrix = torch.cat([own["weight_ih"], own["weight_hh"]], dim=1)
            for part in (matrix, own["bias_ih"] + own["bias_hh"], state[0][k], state[1][k]):
                weights += part.flatten().tolist()
        weights += head.weight.flatten().tolist() + head.bias.tolist()
        audio = torch.randn(1, 50, 1)
        wanted = head(core(audio, tuple(part[:, None] for part in state))[0])[0].numpy()
    model = made(1, 6, 2) | {"weights": weights}
    nam = from_nam(model)
    y, _ = nam.lstm(audio.numpy().swapaxes(0, 1), nam.state)
    assert_close(y[:, 0] @ nam.head_weight.T + nam.head_bias, wanted, **sizes_of(model, 50))


def test_nothing_of_the_file_is_lost(tmp_path):
    model = made(1, 3, 2)
    path = tmp_path / "amp.nam"
    path.write_text(json.dumps(model), encoding="utf-8")
    for nam in (from_nam(path), from_nam(str(path)), from_nam(model)):
        assert isinstance(nam, NAM)
        assert repr(nam.lstm) == "LSTM(1, 3, num_layers=2)"
        assert nam.sample_rate == 48000.0
        assert nam.metadata == {"version": "0.5.4", "metadata": {"name": "Test", "loudness": -20.5}}
        assert [part.shape for part in nam.state] == [(2, 1, 3), (2, 1, 3)]
        assert (nam.head_weight.shape, nam.head_bias.shape) == ((1, 3), (1,))
        arrays = [*nam.lstm.weights.values(), *nam.state, nam.head_weight, nam.head_bias]
        assert sorted(np.concatenate([array.ravel() for array in arrays]).tolist()) == sorted(model["weights"])
    del model["sample_rate"]
    assert from_nam(model).sample_rate is None
    assert from_nam(model | {"weights": np.array(model["weights"])}).lstm.dtype == np.float32


# ----------------------------- refused


def config(**changes):
    return lambda model: model | {"config": {k: v for k, v in (model["config"] | changes).items() if v is not None}}


def weights(change):
    return lambda model: model | {"weights": change(model["weights"])}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda m: m | {"architecture": "WaveNet"}, ValueError, "expected the architecture 'LSTM', got 'WaveNet'$"),
        (lambda m: {k: v for k, v in m.items() if k != "architecture"}, ValueError, "architecture 'LSTM', got None$"),
        (lambda m: m | {"config": None}, ValueError, "expected a config with input_size, .*, got None$"),
        (config(hidden_size=None), KeyError, "config: missing hidden_size$"),
        (config(hidden_size="3"), TypeError, "config: expected an int for hidden_size, got '3'$"),
        (config(num_layers=True), TypeError, "config: expected an int for num_layers, got True$"),
        (config(num_layers=0), ValueError, "config: expected at least 1 for num_layers, got 0$"),
        (config(input_size=-1), ValueError, "config: expected at least 1 for input_size, got -1$"),
        (config(in_channels=2), ValueError, "config: expected in_channels 1, as input_size, got 2$"),
        (config(parametric=3), ValueError, "expected a config of input_size, .*, got also parametric$"),
        (config(hidden_size=4), ValueError, "expected 109 weights for the sizes in its config, got 70$"),
        (config(hidden_size=10**9), ValueError, "expected 400000001[0-9]+ weights for .*, got 70$"),
        (config(num_layers=10**18), ValueError, "expected [0-9]+ weights for .*, got 70$"),
        (config(out_channels=2), ValueError, "expected 74 weights for the sizes in its config, got 70$"),
        (weights(lambda w: w[:-1]), ValueError, "expected 70 weights for the sizes in its config, got 69$"),
        (weights(lambda w: [*w, 0.0]), ValueError, "expected 70 weights for the sizes in its config, got 71$"),
        (weights(lambda w: None), TypeError, "expected a list of weights, got NoneType$"),
        (weights(lambda w: "0" * 70), TypeError, "expected a list of weights, got str$"),
        (weights(lambda w: [*w[:-1], "0.5"]), TypeError, "expected weights that are numbers, got '0.5'$"),
        (weights(lambda w: [*w[:-1], True]), TypeError, "expected weights that are numbers, got True$"),
        (weights(lambda w: [*w[:-1], [0.5]]), TypeError, r"expected weights that are numbers, got \[0.5\]$"),
        (weights(lambda w: [*w[:-1], 10**400]), ValueError, "expected weights that fit into float64: "),
        (weights(lambda w: [*w[:-1], float("nan")]), ValueError, "weights: 1 of 70 weights are NaN or infinite$"),
        (weights(lambda w: [*w[:-2], 1e39, -1e39]), ValueError, "weights: 2 of 70 weights are NaN or infinite$"),
        (config(num_layers=10**4200), ValueError, "config: expected less than [0-9]+ for num_layers, got 1000+$"),
        (lambda m: m | {"sample_rate": 10**400}, ValueError, "expected a finite number for sample_rate, got 1000"),
        (lambda m: m | {"sample_rate": float("inf")}, ValueError, "expected a finite number for sample_rate, got inf$"),
        (lambda m: m | {"sample_rate": "48k"}, TypeError, "expected a number for sample_rate, got '48k'$"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, error, text):
    model = change(made())
    said = refused(error, text, lambda: from_nam(model))
    assert said.startswith("source: ")
    path = tmp_path / "amp.nam"
    path.write_text(json.dumps(model), encoding="utf-8")
    said = refused(error, text, lambda: from_nam(path))
    assert said.startswith(f"{path}: ")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"\x80\x04K\x01."])
def test_a_broken_file_is_refused(tmp_path, data):
    path = tmp_path / "amp.nam"
    path.write_bytes(data)
    said = refused(ValueError, "expected JSON, as a .nam file is: ", lambda: from_nam(path))
    assert said.startswith(f"{path}: ")
    path.write_bytes(b"[]")
    refused(ValueError, "expected a JSON object, as a .nam file is, got list$", lambda: from_nam(path))


def test_what_is_no_source_is_refused(tmp_path):
    refused(TypeError, "^source: expected a path, or a mapping of what the file says, got int$", lambda: from_nam(3))
    with pytest.raises(FileNotFoundError):
        from_nam(tmp_path / "nothing.nam")
    refused(TypeError, "expected float32 or float64, got int32", lambda: from_nam(made(), dtype=np.int32))
    refused(TypeError, "^dtype: expected float32 or float64, got ','$", lambda: from_nam(made(), dtype=","))


@pytest.mark.parametrize("weights", [np.array(1.0), np.ones((2, 35)), np.array(["1"] * 70), np.ones(70, complex)])
def test_an_array_that_is_no_list_of_numbers_is_refused(weights):
    refused(
        TypeError,
        "^source: expected one list of weights, got .* of shape",
        lambda: from_nam(made() | {"weights": weights}),
    )
