"""How many sunspots will there be? A forecast of the yearly numbers since 1700, which come with lstm_rs.

    pip install '.[plot]'
    python examples/sunspot_forecast.py [--plot sunspots.png]

The forecaster learns from the years before 1920. From then on it forecasts each next year, having seen all years
before, and is compared with a forecast that takes no skill: next year is as this year. At last it goes on by
itself from the end of the data, its own forecasts being what it sees.
"""

import argparse

import numpy as np
from lstm_rs.datasets import load_sunspots
from lstm_rs.estimators import LSTMForecaster

FIRST_HELD_OUT, AHEAD = 1920, 11


def main():
    """Train, judge, and forecast."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--plot", metavar="FILE", help="where a picture goes")
    args = parser.parse_args()

    years, numbers = load_sunspots()
    # The noise of a count grows with the count; that of its square root does not.
    roots = np.sqrt(numbers)
    forecaster = LSTMForecaster(
        strategy="recursive", window=44, difference=False, epochs=args.epochs, learning_rate=0.01, random_state=0
    ).fit(roots[years < FIRST_HELD_OUT])

    # Row t has what was forecast at the end of year t, for the next.
    forecasts = np.maximum(forecaster.predict_all(roots)[:-1, 0], 0) ** 2
    held_out = years[1:] >= FIRST_HELD_OUT
    truth = numbers[1:][held_out]
    for name, guess in (("LSTM", forecasts), ("as the year before", numbers[:-1])):
        print(
            f"{name:<20}RMSE {np.sqrt(np.mean((guess[held_out] - truth) ** 2)):5.1f} sunspots from {FIRST_HELD_OUT} on"
        )

    ahead = np.maximum(forecaster.predict(roots, steps=AHEAD), 0) ** 2
    print("and on from there:  " + "  ".join(f"{years[-1] + k}: {n:.0f}" for k, n in enumerate(ahead, start=1)))
    if args.plot:
        from lstm_rs import plot
        from matplotlib.figure import Figure

        figure, drawn = Figure(figsize=(11, 4), layout="constrained"), np.concatenate([forecasts[held_out], ahead])
        times = np.arange(years[0], years[-1] + AHEAD + 1)
        known, sides = numbers[years < FIRST_HELD_OUT], ("trained on", "forecast")
        plot.forecast(known, drawn, truth=truth, times=times, sides=sides, ax=figure.subplots())
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
