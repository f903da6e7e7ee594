"""The scripts under examples/, on the published models that they are about."""

import sys
import wave
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Of Debian's alsa-utils: "front center" and the like, each by one speaker, and one of noise.
SOUNDS = Path("/usr/share/sounds/alsa")


def example(name, *packages):
    """The script as a module; the test skips, by name, where a package that it needs is not installed."""
    for package, version in packages:
        wanted = package if version is None else f"{package}=={version}"
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{wanted} is not installed")
        if version not in (None, found):
            pytest.skip(f"{wanted} is not installed, but {found}")
    # By its path: the scripts are named as the packages are.
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    module.main()
    return capsys.readouterr().out.splitlines()


# ----------------------------- silero_vad


@pytest.fixture(scope="module")
def vad():
    return example("silero_vad", ("onnx", None), ("silero-vad", "6.2.3"))


@pytest.fixture
def sound(request):
    path = SOUNDS / request.param
    if not path.exists():
        pytest.skip(f"{path} is not there: it comes with alsa-utils")
    return path


def by_onnx_runtime(vad, name, samples):
    """The same chunks, run by ONNX Runtime on a whole model of the package."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(vad.model_path().parent / name), providers=["CPUExecutionProvider"])
    padded = np.pad(samples, (vad.CONTEXT, -len(samples) % vad.CHUNK))
    starts = range(0, len(padded) - vad.CONTEXT, vad.CHUNK)
    chunks = np.stack([padded[k : k + vad.CONTEXT + vad.CHUNK] for k in starts])
    if name == "silero_vad_16k_sequence.onnx":
        zeros = np.zeros((1, 1, 128), np.float32)
        return session.run(None, {"input": chunks, "h": zeros, "c": zeros})[0]
    state, found = np.zeros((2, 1, 128), np.float32), []
    for chunk in chunks:
        p, state = session.run(None, {"input": chunk[None], "state": state, "sr": np.array(16_000)})
        found.append(p[0, 0])
    return np.array(found)


@pytest.mark.parametrize("sound", ["Front_Center.wav", "Rear_Left.wav", "Noise.wav"], indirect=True)
@pytest.mark.parametrize("model", ["silero_vad_16k_sequence.onnx", "silero_vad.onnx"])
def test_the_probability_of_speech_is_that_of_onnx_runtime(vad, sound, model):
    samples = vad.read(sound)
    speech = vad.probabilities(samples, vad.model_path())
    np.testing.assert_allclose(speech, by_onnx_runtime(vad, model, samples), rtol=0, atol=1e-5)
    # Two words, or noise.
    assert len(vad.segments(speech)) == (0 if "Noise" in sound.name else 2)


@pytest.mark.parametrize("sound", ["Front_Center.wav"], indirect=True)
def test_the_script_of_speech(vad, sound, capsys, monkeypatch):
    title, strip, *found = run(vad, capsys, monkeypatch, sound)
    assert title.startswith(f"{sound}: ") and set(strip) <= set("▁▂▃▄▅▆▇█")
    assert len(strip) == -(-len(vad.read(sound)) // vad.CHUNK)
    assert [line.startswith("speech from ") for line in found] == [True, True]


def test_the_recording_is_resampled(vad, tmp_path):
    """A tone comes out as it was, one that 16 kHz cannot hold is gone, and two channels are one."""
    t = np.arange(48_000) / 48_000
    for pitch, remains in ((1_000, 1.0), (3_000, 1.0), (12_000, 0.0)):
        tone = np.stack([0.5 * np.sin(2 * np.pi * pitch * t)] * 2, axis=1)
        with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(48_000)
            file.writeframes(np.round(tone * 32_767).astype("<i2").tobytes())
        samples = vad.read(tmp_path / "tone.wav")
        assert samples.shape == (16_000,) and samples.dtype == np.float32
        inside = slice(100, -100)
        np.testing.assert_allclose(samples[inside], remains * tone[::3, 0][inside], rtol=0, atol=2e-3)


def test_segments(vad):
    assert vad.segments([0.1, 0.6, 0.4, 0.3, 0.9]) == [(1, 3), (4, 5)]


# ----------------------------- textgenrnn


@pytest.fixture(scope="module")
def writer():
    module = example("textgenrnn", ("h5py", None), ("textgenrnn", "2.0.0"))
    return module, module.Writer()


def test_the_writer_knows_a_sentence(writer):
    """0.80 nats a character; a network whose LSTMs are not read right knows nothing of it."""
    module, network = writer
    assert network.nats(module.SENTENCE) <= 0.82
    broken = module.Writer()
    for layer in broken.layers:
        i, f, g, o = np.split(layer.weights["weight_hh_l0"], 4)
        layer.weights["weight_hh_l0"] = np.concatenate([f, i, g, o])
    assert broken.nats(module.SENTENCE) > 2


def test_the_writer_writes_the_same_again(writer):
    _, network = writer
    texts = [network.write(np.random.default_rng(seed), most=30) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(0 < len(text) <= 30 for text in texts)
    cold = [network.write(np.random.default_rng(seed), temperature=1e-3, most=20) for seed in (1, 2)]
    assert cold[0] == cold[1]


def test_the_script_that_writes(writer, capsys, monkeypatch):
    module, _ = writer
    first, *texts = run(module, capsys, monkeypatch, 0.5, 3)
    assert first == f"0.80 nats a character: {module.SENTENCE}"
    assert len(texts) == 5 and all(text.startswith("- ") for text in texts)


# ----------------------------- torch_training


def test_the_script_that_trains_twice(capsys, monkeypatch):
    module = example("torch_training", ("torch", None))
    monkeypatch.setattr(module, "SIZES", [(4, 2, 3, 5, 1)])
    first, _, *table = run(module, capsys, monkeypatch, 1, 0.01)
    assert float(first.rpartition("at most ")[2].split()[0]) < 1e-9
    assert len(table) == 3 and table[2].startswith("| 4, 2, 3, 5, 1 |")
