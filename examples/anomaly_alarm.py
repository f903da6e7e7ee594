"""An alarm for what nobody has seen before: one spoilt beat among forty in a record of blood pressure.

    pip install '.[plot]'
    pip install --no-deps aeon==1.6.0      # BSD-3-Clause; for the data in it
    python examples/anomaly_alarm.py [--plot bleeding.png]

An autoencoder learns to reconstruct windows of 32 values from 16 numbers, of 1,200 values in which all is well. What it
then cannot reconstruct is like nothing it knows. The series is InternalBleeding16 of the UCR Anomaly Archive (Wu &
Keogh 2021), in which one stretch of 12 values is wrong.
"""

import argparse
from importlib import metadata

import numpy as np
from lstm_rs.estimators import LSTMAutoencoder

DATA = "aeon/datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_{}.csv"


def read(part):
    """The values, and the rows of the anomaly; the package is not imported."""
    path = metadata.distribution("aeon").locate_file(DATA.format(part))
    _, values, wrong = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
    return values, np.flatnonzero(wrong)


def runs(flags):
    """Where flags are up, as pairs of the first row and the one after the last."""
    return np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]))).reshape(-1, 2)


def main():
    """Learn what is normal, and say where something is not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", metavar="FILE", help="where a picture goes")
    args = parser.parse_args()
    (normal, _), (series, wrong) = read("TRAIN"), read("TEST")

    autoencoder = LSTMAutoencoder(random_state=0).fit(normal)
    scores = autoencoder.score_samples(series)
    scores[: len(normal)] = 0  # the series begins with what it has learned from
    print(f"the score that 1 of 100 normal values exceeds: {autoencoder.threshold_:.3f}")
    spans = runs(scores > autoencoder.threshold_)
    for begin, end in sorted(spans, key=lambda span: -scores[slice(*span)].max())[:5]:
        print(f"alarm: rows {begin} to {end - 1}, score up to {scores[begin:end].max():.3f}")
    print(f"highest at row {scores.argmax()}; wrong are rows {wrong[0]} to {wrong[-1]}")
    if args.plot:
        from lstm_rs import plot
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        rows, spans = np.arange(wrong[0] - 600, wrong[-1] + 600), [(wrong[0], wrong[-1])]
        plot.anomaly(series[rows], scores[rows], threshold=autoencoder.threshold_, spans=spans, times=rows, ax=figure)
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
