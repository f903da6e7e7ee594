"""Who is speaking? Nine men say two Japanese vowels; sequences of different lengths become labels.

    pip install .
    pip install --no-deps aeon==1.6.0      # BSD-3-Clause; for the data in it
    python examples/speaker_classification.py

An utterance is 7 to 29 steps of 12 numbers, the coefficients of a linear prediction of the sound (Kudo, Toyama &
Shimbo 1999). There are 270 to learn from and 370 others to be judged on. The sequences go in as a list; nobody pads.
"""

import argparse
from importlib import metadata

import numpy as np
from lstm_rs.estimators import LSTMClassifier


def read(part):
    """Utterances (T_i, 12), and who spoke; the package is not imported."""
    path = metadata.distribution("aeon").locate_file(f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts")
    _, _, lines = path.read_text(encoding="utf-8").partition("@data")
    rows = [line.split(":") for line in lines.split()]
    # One channel after the other, and the speaker at the end.
    sequences = [np.array([channel.split(",") for channel in row[:-1]], dtype=float).T for row in rows]
    return sequences, np.array([row[-1] for row in rows])


def main():
    """Train, and say how often it is right, about whom, and where it is least sure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    (X, y), (X_test, y_test) = read("TRAIN"), read("TEST")

    classifier = LSTMClassifier(hidden_size=64, epochs=args.epochs, random_state=0).fit(X, y)
    probabilities = classifier.predict_proba(X_test)
    found = classifier.classes_[probabilities.argmax(axis=1)]
    print(f"{len(X)} utterances of {min(map(len, X))} to {max(map(len, X))} steps, {args.epochs} times: ", end="")
    print(f"{sum(classifier.history_.seconds):.1f} s")
    print(f"right about {np.mean(found == y_test):.1%} of {len(X_test)} others\n")

    print("true \\ said" + "".join(f"{name:>5}" for name in classifier.classes_))
    for name in classifier.classes_:
        said = [np.sum(found[y_test == name] == other) for other in classifier.classes_]
        print(f"{name:<11}" + "".join(f"{count or '.':>5}" for count in said))
    doubtful = probabilities.max(axis=1).argmin()
    first, second = np.argsort(-probabilities[doubtful])[:2]
    print(f"\nleast sure of number {doubtful}, of speaker {y_test[doubtful]}: ", end="")
    print(" or ".join(f"{classifier.classes_[k]} ({probabilities[doubtful, k]:.0%})" for k in (first, second)))


if __name__ == "__main__":
    main()
