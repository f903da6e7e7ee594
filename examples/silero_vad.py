"""Where is speech in a recording? The voice activity detector silero-vad, on NumPy and lstm_rs alone, chunk by chunk.

    pip install '.[onnx]'
    pip install --no-deps silero-vad==6.2.3      # MIT; for the weights in it, its code needs PyTorch
    python examples/silero_vad.py [speech.wav]

A chunk of 32 ms and the 4 ms before it become four spectra of magnitudes; of these, four convolutions over time make
one vector of 128 numbers; an LSTM remembers what came before; and a weighted sum says how probable it is that somebody
speaks. The weights are those of one of the package's ONNX files, and ONNX itself only reads them.
"""

import sys
import wave
from importlib import metadata

import lstm_rs
import numpy as np
import onnx

RATE, CHUNK, CONTEXT = 16_000, 512, 64
# From the package: speech begins above the first, and ends below the second.
BEGIN, END = 0.5, 0.35
# The stride of each convolution; all have a kernel of 3 and one zero on either side.
STRIDES = (1, 2, 2, 1)
FRAME, HOP = 256, 128


def model_path():
    """The ONNX file in the installed package, which is not imported."""
    return metadata.distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k_sequence.onnx")


def convolve(x, weight, stride):
    """Slide weight (O, C, K) over x (C, T), without zeros around it: (O, T')."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=1)[:, ::stride]
    return np.tensordot(weight, windows, ([1, 2], [0, 2]))


class Detector:
    """The detector on a stream: call it with one chunk after the other."""

    def __init__(self, path):
        model = onnx.load(path)
        self.weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.stream = lstm_rs.from_onnx(model).stream()
        self.context = np.zeros(CONTEXT, np.float32)

    def __call__(self, chunk):
        """The probability that there is speech in (512,) float32 samples between -1 and 1."""
        samples = np.concatenate([self.context, chunk])
        self.context = samples[-CONTEXT:]
        # The rows are cosines, then sines, under a window; the first frame lies before the chunk.
        padded = np.pad(samples, HOP, mode="reflect")
        cosine, sine = np.split(convolve(padded[None], self.weights["stft.forward_basis_buffer"], HOP)[:, 1:], 2)
        x = np.sqrt(cosine**2 + sine**2)
        for k, stride in enumerate(STRIDES):
            x = convolve(np.pad(x, ((0, 0), (1, 1))), self.weights[f"encoder.{k}.weight"], stride)
            x = np.maximum(x + self.weights[f"encoder.{k}.bias"][:, None], 0)
        y = np.maximum(self.stream.step(x[:, 0]), 0)
        z = self.weights["output.weight"][0, :, 0] @ y + self.weights["output.bias"][0]
        return float(1 / (1 + np.exp(-z)))


def probabilities(samples, path):
    """The probability of speech in each chunk of a recording at 16 kHz; the last chunk is filled up with zeros."""
    samples = np.pad(np.asarray(samples, np.float32), (0, -len(samples) % CHUNK))
    detector = Detector(path)
    return np.array([detector(chunk) for chunk in samples.reshape(-1, CHUNK)])


def segments(speech):
    """Where speech begins and ends, in chunks."""
    found, begun = [], None
    for k, p in enumerate(speech):
        if begun is None and p >= BEGIN:
            begun = k
        elif begun is not None and p < END:
            found.append((begun, k))
            begun = None
    return found if begun is None else [*found, (begun, len(speech))]


def read(path):
    """A WAV file of 16 bits as float32 samples at 16 kHz, its channels averaged."""
    with wave.open(str(path)) as file:
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        data = file.readframes(file.getnframes())
    if width != 2 or rate % RATE:
        raise ValueError(f"{path}: expected 16 bits at a multiple of {RATE} Hz, got {8 * width} bits at {rate} Hz")
    samples = np.frombuffer(data, "<i2").reshape(-1, channels).mean(axis=1) / 32768
    factor = rate // RATE
    if factor > 1:
        # A low-pass of 32 zero crossings to each side under a Blackman window, before only every factor-th is kept.
        t = np.arange(-32 * factor, 32 * factor + 1)
        low_pass = np.sinc(t / factor) * np.blackman(len(t))
        samples = np.convolve(samples, low_pass / low_pass.sum(), "same")[::factor]
    return samples.astype(np.float32)


def main():
    """Print the probabilities, and where speech begins and ends."""
    recording = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/sounds/alsa/Front_Center.wav"
    speech = probabilities(read(recording), model_path())
    print(f"{recording}: the probability of speech, one sign for {1000 * CHUNK // RATE} ms")
    print("".join("▁▂▃▄▅▆▇█"[min(int(8 * p), 7)] for p in speech))
    for begin, end in segments(speech):
        print(f"speech from {begin * CHUNK / RATE:.2f} s to {end * CHUNK / RATE:.2f} s")


if __name__ == "__main__":
    main()
