"""A network that writes, letter by letter: textgenrnn, on NumPy and lstm_rs alone.

    pip install '.[keras]'
    pip install --no-deps textgenrnn==2.0.0      # MIT; for the weights in it, its code needs TensorFlow
    python examples/textgenrnn.py [temperature [seed]]

Max Woolf trained it on what people post on Reddit. The last 40 characters, each as a vector of 100 numbers, go through
two LSTMs; every step is weighed by how much it matters, and of the weighted average follows how probable each next
character is. The LSTMs were saved by the CuDNN layers of an old Keras, in a layout of their own, which `from_keras_h5`
knows.
"""

import json
import sys
from importlib import metadata

import h5py
import lstm_rs
import numpy as np

# What a text begins and ends with, how much of it the network sees, and what stands before its beginning.
MARK, WINDOW, NOTHING = "<s>", 40, 0
SENTENCE = "What is the best way to learn how to play the guitar?"


class Writer:
    """The network: it gives the probabilities of the next character, and with them texts."""

    def __init__(self):
        package = metadata.distribution("textgenrnn")
        path = package.locate_file("textgenrnn/textgenrnn_weights.hdf5")
        self.layers = [lstm_rs.from_keras_h5(path, name) for name in ("rnn_1", "rnn_2")]
        with h5py.File(path) as file:
            self.embedding = file["embedding/embedding/embeddings:0"][:]
            self.attention = file["attention/attention/attention_W:0"][:, 0]
            self.output = file["output/output/kernel:0"][:], file["output/output/bias:0"][:]
        vocabulary = package.locate_file("textgenrnn/textgenrnn_vocab.json").read_text(encoding="utf-8")
        self.numbers = json.loads(vocabulary)
        self.characters = {number: character for character, number in self.numbers.items()}

    def encode(self, characters):
        """The numbers of the last 40 characters, with nothing before them where there are less."""
        numbers = [self.numbers.get(character, NOTHING) for character in characters[-WINDOW:]]
        return [NOTHING] * (WINDOW - len(numbers)) + numbers

    def probabilities(self, windows):
        """What comes after each window (N, 40) of numbers: (N, 465)."""
        found = [self.embedding[np.asarray(windows)]]
        for layer in self.layers:
            y, _ = layer(found[-1])
            found.append(y)
        x = np.concatenate(found, axis=2)
        weights = softmax(x @ self.attention)
        kernel, bias = self.output
        return softmax((weights[:, None] @ x)[:, 0] @ kernel + bias)

    def nats(self, text):
        """The mean surprise per character, and of the end: -log of the probability that each had."""
        characters = [MARK, *text, MARK]
        p = self.probabilities([self.encode(characters[:k]) for k in range(1, len(characters))])
        right = [self.numbers[character] for character in characters[1:]]
        return float(-np.log(p[np.arange(len(right)), right]).mean())

    def write(self, rng, temperature=0.5, most=100):
        """A text. Low temperatures take the most probable characters, high ones are bold."""
        characters = [MARK]
        while len(characters) <= most:
            (p,) = self.probabilities([self.encode(characters)])
            # Never the number of nothing.
            p = softmax(np.log(p[1:].astype(np.float64) + 1e-7) / temperature)
            character = self.characters[1 + rng.choice(len(p), p=p)]
            if character == MARK:
                break
            characters.append(character)
        return "".join(characters[1:])


def softmax(x):
    """exp(x) as a part of its sum over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def main():
    """Say how well the network knows a sentence, and let it write some."""
    temperature = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    writer = Writer()
    print(f"{writer.nats(SENTENCE):.2f} nats a character: {SENTENCE}")
    for _ in range(5):
        print("-", writer.write(rng, temperature))


if __name__ == "__main__":
    main()
