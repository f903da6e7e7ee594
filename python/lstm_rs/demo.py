"""Train an LSTM on the sunspots and look inside: ``python -m lstm_rs demo``.

The number of sunspots swings in cycles of about eleven years, no two alike in height or length. An
`lstm_rs.estimators.LSTMForecaster` reads one year after the other and forecasts the next. It learns from the
years before 1920 and is judged on those from 1920 on. For each forecast it has seen the true numbers of all the years
before, as an observatory would have.

Training is short on purpose: 220 years are few, and the network soon learns them by heart. The recipe was chosen on the
training years alone, fitted before 1830, 1850 and 1870 and judged on the next forty or fifty years. Those forecasts are
best after 60 to 90 steps and get worse from there, while the training loss keeps falling. Stopping by a validation
split was tried and dropped: forty years are four cycles, too few to tell.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstm_rs import Weights, reference
from lstm_rs.datasets import load_sunspots
from lstm_rs.estimators import LSTMForecaster

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST_HELD_OUT = 1920
CYCLE = 11  # years, about
WINDOW = 4 * CYCLE  # years in one training example
BATCH = 16  # windows in one training step
FIRST_SHOWN = 1850  # in the picture: few enough years to tell them apart, and some that training saw
INSTALL_PLOT = 'pip install "lstm-rs[plot]"'


def make_forecaster(*, seed: int, units: int, epochs: int, verbose: int = 0) -> LSTMForecaster:
    """Make the forecaster, untrained. The first quarter of a window, a cycle, does not count in its loss."""
    return LSTMForecaster(
        window=WINDOW,
        difference=False,
        hidden_size=units,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=0.01,
        schedule="linear",
        random_state=seed,
        verbose=verbose,
    )


def to_network(numbers: np.ndarray) -> np.ndarray:
    """Take the square root: the noise of a count grows with the count, that of its root does not."""
    return np.asarray(np.sqrt(numbers))


def to_numbers(values: np.ndarray) -> np.ndarray:
    """Turn what the network forecasts into sunspot numbers, none of them below 0."""
    return np.asarray(np.maximum(values, 0) ** 2)


def forecasts(forecaster: LSTMForecaster, numbers: np.ndarray) -> np.ndarray:
    """Forecast each year (Y,) from the years before it; there is none for the first."""
    # Row t is what was forecast at the end of year t for the next.
    made = to_numbers(forecaster.predict_all(to_network(numbers))[:-1, 0])
    return np.concatenate([[np.nan], made])


class Errors(NamedTuple):
    """RMSE over the held-out years, in sunspot numbers, of the network and of two forecasts without skill."""

    network: float
    persistence: float  # next year is as this year
    cycle_before: float  # next year is as 11 years before it


def held_out_errors(years: np.ndarray, numbers: np.ndarray, forecast: np.ndarray) -> Errors:
    """Judge the forecasts (Y,), each for its year."""
    held_out = years >= FIRST_HELD_OUT
    guesses = forecast, np.roll(numbers, 1), np.roll(numbers, CYCLE)
    return Errors(*(float(np.sqrt(np.mean((guess - numbers)[held_out] ** 2))) for guess in guesses))


def seconds_of_passes(forecaster: LSTMForecaster) -> tuple[float, float]:
    """Measure a pass forward and one backward over a batch, here and in NumPy: medians, after one each to warm up."""
    lstm = forecaster.model_.lstm
    x = np.random.default_rng(0).normal(size=(WINDOW, BATCH, 1)).astype(np.float32)
    w_ih, w_hh, b = (array.astype(np.float64) for array in lstm.weights.values())

    def ours() -> None:
        y, _, tape = lstm.forward_train(x)
        lstm.backward(tape, dy=y, need_dx=False)

    def in_numpy() -> None:
        y, _, tape = reference.forward_train(x.astype(np.float64), Weights(w_ih, w_hh, b))
        reference.backward(tape, dy=y)

    medians = []
    for passes, repeats in ((ours, 50), (in_numpy, 5)):
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            passes()
            seconds.append(time.perf_counter() - start)
        medians.append(float(np.median(seconds[1:])))
    return medians[0], medians[1]


def run(*, seed: int, units: int, epochs: int, out: str | None) -> int:
    """Train, forecast, compare, and draw; the exit code is 1 if the picture cannot be written, else 0.

    Parameters
    ----------
    seed : int
        Of the initial weights and of the order of the training windows.
    units : int
        Hidden units of the LSTM.
    epochs : int
        How often training sees every window.
    out : str or None
        Where to write the picture; None for no picture.
    """
    years, numbers = load_sunspots()
    learned, held_out = f"{years[0]} to {FIRST_HELD_OUT - 1}", f"{FIRST_HELD_OUT} to {years[-1]}"
    print(f"Yearly sunspot numbers: trained on {learned}, held out {held_out}")
    print(f"LSTM(1, {units}) with a linear read-out, seed {seed}", flush=True)

    start = time.perf_counter()
    forecaster = make_forecaster(seed=seed, units=units, epochs=epochs, verbose=1)
    forecaster.fit(to_network(numbers[years < FIRST_HELD_OUT]))
    print(f"trained in {time.perf_counter() - start:.2f} s\n")

    forecast = forecasts(forecaster, numbers)
    errors = held_out_errors(years, numbers, forecast)
    ratio = errors.network / errors.persistence
    print(f"Forecasts one year ahead, {held_out}: RMSE in sunspot numbers")
    print(f"  LSTM                        {errors.network:6.1f}   {ratio:.2f} of persistence")
    print(f"  persistence: as this year   {errors.persistence:6.1f}")
    print(f"  as {CYCLE} years before          {errors.cycle_before:6.1f}\n")

    fast, slow = seconds_of_passes(forecaster)
    print(f"Forward and backward over {BATCH} windows of {WINDOW} years")
    print(f"  lstm_rs, float32            {1e3 * fast:6.2f} ms")
    print(f"  NumPy reference, float64    {1e3 * slow:6.2f} ms   {slow / fast:.0f} times as long\n")
    if out is None:
        return 0
    try:
        draw(years, numbers, forecast, forecaster).savefig(out)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        print(f"No picture, because matplotlib is missing. For the picture: {INSTALL_PLOT}")
        return 0
    except (OSError, ValueError) as error:  # no such directory; no such file format
        print(f"cannot write the picture: {error}", file=sys.stderr)
        return 1
    print(f"Picture: {out}")
    return 0


def draw(years: np.ndarray, numbers: np.ndarray, forecast: np.ndarray, forecaster: LSTMForecaster) -> Figure:
    """Draw the forecasts, and below them what every gate of every unit does as each year is read."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lstm_rs import plot

    x = forecaster.scaler_.scale(to_network(numbers)[:, None], np.float32)
    tape: Any = forecaster.model_.lstm.forward_train(x)[2].layers[0]
    shown, known = years >= FIRST_SHOWN, years < FIRST_HELD_OUT
    start = FIRST_SHOWN - int(years[0])

    figure = Figure(figsize=(12, 11), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    top, *maps = figure.subplots(5, 1, sharex=True, height_ratios=[2, 1, 1, 1, 1])
    plot.forecast(
        numbers[shown & known],
        forecast[shown],
        truth=numbers[~known],
        start=0,
        times=years[shown],
        sides=("trained on these years", "held out"),
        ax=top,
    )
    top.set_ylabel("sunspot number")
    top.set_title("An LSTM forecasts the sunspots, and what its gates do meanwhile")
    plot.gates(tape, show="ifoc", times=years, mark=FIRST_HELD_OUT - 0.5, ax=maps)
    maps[-1].set_xlabel("year")
    maps[-1].set_xlim(years[start] - 0.5, years[-1] + 0.5)
    return figure
