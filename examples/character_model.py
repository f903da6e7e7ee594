"""A network that learns to write, letter by letter, from the language reference that ships with Python.

    pip install .
    python examples/character_model.py [--epochs 8] [--characters 200000]

Sixteen places of the text are read side by side, in stretches of 64 characters, the state being carried from one
stretch to the next (truncated backpropagation through time). After each epoch it is asked about text that it has not
seen. Then it writes: each character is drawn from what it says comes next, and is what `LSTM.stream` sees next.
"""

import argparse
import pydoc_data.topics

import numpy as np
from lstm_rs import LSTM
from lstm_rs.train import Adam, Linear, Predictor, TruncatedBatches, cosine, cross_entropy, fit

PLACES, STEPS, UNITS = 16, 64, 128


def batches(numbers, size, places):
    """Characters one-hot, in rows side by side; the target of each is the next."""
    end = (len(numbers) - 1) // places * places
    x, target = np.eye(size, dtype=np.float32)[numbers[:end]], numbers[1 : end + 1]
    return TruncatedBatches(x.reshape(places, -1, size), target.reshape(places, -1), steps=STEPS, batch_size=places)


def write(model, characters, text, count, temperature, rng):
    """Go on from a text, one character at a time."""
    stream, one_hot = model.lstm.stream(), np.eye(len(characters), dtype=np.float32)
    for k in range(len(text) + count - 1):
        y = model.linear(stream.step(one_hot[np.searchsorted(characters, text[k])])).astype(float)
        if k + 1 == len(text):
            p = np.exp((y - y.max()) / temperature)
            text += rng.choice(characters, p=p / p.sum())
    return text


def main():
    """Train, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--characters", type=int, default=200_000)
    args = parser.parse_args()
    text = " ".join("\n\n".join(pydoc_data.topics.topics.values())[: args.characters].split())
    characters, numbers = np.unique(list(text), return_inverse=True)
    size, cut = len(characters), len(numbers) * 9 // 10
    training, unseen = batches(numbers[:cut], size, PLACES), batches(numbers[cut:], size, 8)

    rng = np.random.default_rng(0)
    model = Predictor(LSTM(size, UNITS, seed=rng), Linear(UNITS, size, seed=rng), cross_entropy, per_step=True)
    adam = Adam([model.lstm, model.linear], cosine(1e-2, args.epochs * len(training)))
    history = fit(model, training, adam, epochs=args.epochs, validation=unseen, clip_norm=1.0, progress=True)
    print(f"unseen text: {min(history.validation_loss):.2f} nats a character; without knowledge {np.log(size):.2f}\n")
    print(write(model, characters, "The statement ", 300, 0.5, rng))


if __name__ == "__main__":
    main()
