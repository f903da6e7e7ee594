"""Train an LSTM on the sunspots and look inside: ``python -m lstm_rs demo``.

The number of sunspots swings in cycles of about eleven years, no two alike in height or length. An LSTM with
a linear read-out reads one year after the other and says what the next one brings::

    x_t (the number of year t) -> LSTM -> h_t (H,) -> w . h_t + b (the number of year t+1)

It learns from the years before 1920 and is judged on those from 1920 on. For each forecast it has seen the
true numbers of all the years before, as an observatory would have.

Training is short on purpose: 220 years are few, and the network soon learns them by heart. The recipe was
chosen on the training years alone, fitted before 1830, 1850 and 1870 and judged on the next forty or fifty
years. Those forecasts are best after 60 to 90 steps and get worse from there, while the training loss keeps
falling. Stopping by a validation split was tried and dropped: forty years are four cycles, too few to tell.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from importlib import resources
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from lstm_rs import LSTM, Weights, reference

FIRST_HELD_OUT = 1920
CYCLE = 11  # years, about
WINDOW = 4 * CYCLE  # years in one training example
WARM_UP = CYCLE  # years at the start of a window that do not count: nobody can forecast from nothing
BATCH = 16  # windows in one training step
RATE = 0.01  # of Adam, at the start; it falls to 0 along a straight line
MAX_NORM = 1.0  # of all gradients together
INSTALL_PLOT = 'pip install "lstm-rs[plot]"'


def load_sunspots() -> tuple[np.ndarray, np.ndarray]:
    """Read the yearly sunspot numbers that come with the package.

    Public domain, by the National Geophysical Data Center; the file is that of statsmodels 0.15.0.

    Returns
    -------
    years : (309,) integer array
        1700 to 2008.
    numbers : (309,) float64 array
        The mean number of sunspots in each year.

    Examples
    --------
    >>> years, numbers = load_sunspots()
    >>> int(years[numbers.argmax()]), float(numbers.max())
    (1957, 190.2)
    """
    with resources.files("lstm_rs").joinpath("data/sunspots.csv").open(encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, 0].astype(np.int64), table[:, 1]


class Scale(NamedTuple):
    """Sunspot numbers as the network sees them: square roots with mean 0 and standard deviation 1.

    The noise of a count grows with the count; its square root has noise of one size.
    """

    mean: float
    deviation: float

    @classmethod
    def fit(cls, numbers: np.ndarray) -> Scale:
        """Find the scale of `numbers`, which should be those of the training years alone."""
        roots = np.sqrt(numbers)
        return cls(float(roots.mean()), float(roots.std()))

    def to_network(self, numbers: np.ndarray) -> np.ndarray:
        """Turn sunspot numbers into float32 values for the network."""
        values = (np.sqrt(numbers) - self.mean) / self.deviation
        return np.asarray(values, dtype=np.float32)

    def to_numbers(self, values: np.ndarray) -> np.ndarray:
        """Turn what the network says into sunspot numbers, none of them below 0."""
        roots = np.maximum(values.astype(np.float64) * self.deviation + self.mean, 0)
        return np.asarray(roots**2)


def windows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a series into all its windows: x (T, M, 1), and the value one year later (T, M) as the target."""
    both = np.lib.stride_tricks.sliding_window_view(values, WINDOW + 1).T
    return both[:-1, :, None], both[1:]


class ReferenceLSTM:
    """The same layer through `lstm_rs.reference`: float64 NumPy, to compare the time that a step takes."""

    def __init__(self, lstm: LSTM) -> None:
        self.weights = {name: array.astype(np.float64) for name, array in lstm.weights.items()}

    def forward_train(self, x: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        """Run forward and keep the tape."""
        w = self.weights
        return reference.forward_train(x, Weights(w["weight_ih_l0"], w["weight_hh_l0"], w["bias_l0"]))

    def backward(self, tape: Any, dy: np.ndarray) -> Any:
        """Run backward, and name the gradients as the layer does."""
        w_ih, w_hh, b, *_ = reference.backward(tape, dy).weights
        return SimpleNamespace(weights={"weight_ih_l0": w_ih, "weight_hh_l0": w_hh, "bias_l0": b})

    def edit(self) -> contextlib.AbstractContextManager[dict[str, np.ndarray]]:
        """Give the weights to write to."""
        return contextlib.nullcontext(self.weights)


@dataclass
class Forecaster:
    """An LSTM with a linear read-out, which starts at 0."""

    lstm: LSTM | ReferenceLSTM
    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def new(cls, units: int, seed: int, *, in_numpy: bool = False) -> Forecaster:
        """Make an untrained one, on lstm_rs or on its NumPy reference."""
        lstm = LSTM(1, units, seed=seed)
        dtype = np.float64 if in_numpy else np.float32
        return cls(ReferenceLSTM(lstm) if in_numpy else lstm, np.zeros(units, dtype), np.zeros((), dtype))

    def loss_and_gradients(self, x: np.ndarray, target: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Give the mean squared error for x (T, N, 1), target (T, N), and its gradient for each weight."""
        y, _, tape = self.lstm.forward_train(x)
        error = y @ self.weight + self.bias - target
        error[:WARM_UP] = 0
        counted = error[WARM_UP:].size
        d_out = error * (2 / counted)
        grads = self.lstm.backward(tape, dy=d_out[..., None] * self.weight)
        readout = {"weight": np.tensordot(d_out, y, axes=2), "bias": np.sum(d_out)}
        return float(np.sum(error**2)) / counted, {**grads.weights, **readout}

    def subtract(self, steps: dict[str, np.ndarray]) -> None:
        """Take its step off each weight."""
        self.weight -= steps["weight"]
        self.bias -= steps["bias"]
        with self.lstm.edit() as w:
            for name in self.lstm.weights:
                w[name] -= steps[name]

    def forecast(self, values: np.ndarray) -> tuple[np.ndarray, Any]:
        """Forecast each next value of one series (T,), having seen all up to it; and the layer's tape."""
        y, _, tape = self.lstm.forward_train(values[:, None, None])
        return (y @ self.weight + self.bias)[:, 0], tape.layers[0]


@dataclass
class Adam:
    """Adam: the mean gradient of each weight, over the root of its mean square (Kingma & Ba, ICLR 2015)."""

    count: int = 0
    mean: dict[str, np.ndarray] = field(default_factory=dict)
    square: dict[str, np.ndarray] = field(default_factory=dict)

    def steps(self, gradients: dict[str, np.ndarray], rate: float) -> dict[str, np.ndarray]:
        """Take in new gradients, and say how far each weight should move against them."""
        self.count += 1
        for name, gradient in gradients.items():
            self.mean[name] = 0.9 * self.mean.get(name, 0) + 0.1 * gradient
            self.square[name] = 0.999 * self.square.get(name, 0) + 0.001 * gradient**2
        rate *= np.sqrt(1 - 0.999**self.count).item() / (1 - 0.9**self.count)  # both means started from 0
        return {name: rate * self.mean[name] / (np.sqrt(self.square[name]) + 1e-8) for name in gradients}


def clip(gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale all gradients by one factor, so that together they are no longer than `MAX_NORM`."""
    norm = sum(float(np.sum(np.square(gradient))) for gradient in gradients.values()) ** 0.5
    factor = MAX_NORM / max(norm, MAX_NORM)
    return {name: factor * gradient for name, gradient in gradients.items()}


def train_step(net: Forecaster, adam: Adam, x: np.ndarray, target: np.ndarray, rate: float = RATE) -> float:
    """Forward, backward, update; the loss before the update."""
    loss, gradients = net.loss_and_gradients(x, target)
    net.subtract(adam.steps(clip(gradients), rate))
    return loss


def train(values: np.ndarray, units: int, epochs: int, seed: int) -> Forecaster:
    """Train on a series (T,). An epoch shows every window once, in an order drawn from `seed`."""
    net, adam, rng = Forecaster.new(units, seed), Adam(), np.random.default_rng(seed)
    x, target = windows(values)
    start = time.perf_counter()
    for epoch in range(epochs):
        batches = np.array_split(rng.permutation(x.shape[1]), x.shape[1] // BATCH)
        losses = []
        for index, batch in enumerate(batches):
            rate = RATE * (1 - (epoch + index / len(batches)) / epochs)
            losses.append(train_step(net, adam, x[:, batch], target[:, batch], rate))
        show_progress(start, epoch + 1, epochs, float(np.mean(losses)))
    return net


def show_progress(start: float, epoch: int, epochs: int, loss: float) -> None:
    """Say how far training is: on one line that is rewritten on a terminal, on a few lines elsewhere."""
    left = (time.perf_counter() - start) / epoch * (epochs - epoch)
    line = f"epoch {epoch}/{epochs}   loss {loss:.4f}   {left:.1f} s left"
    if sys.stdout.isatty():
        print(f"\r{line:<60}", end="\n" if epoch == epochs else "", flush=True)
    elif epoch == epochs or epoch % max(1, epochs // 4) == 0:
        print(line, flush=True)


class Errors(NamedTuple):
    """RMSE over the held-out years, in sunspot numbers, of the network and of two forecasts without skill."""

    network: float
    persistence: float  # next year is as this year
    cycle_before: float  # next year is as 11 years before it


def held_out_errors(years: np.ndarray, numbers: np.ndarray, forecast: np.ndarray) -> Errors:
    """Judge the forecasts (Y,), each made in its year for the next."""
    start = int(np.searchsorted(years, FIRST_HELD_OUT))
    guesses = forecast[start - 1 : -1], numbers[start - 1 : -1], numbers[start - CYCLE : -CYCLE]
    return Errors(*(float(np.sqrt(np.mean((guess - numbers[start:]) ** 2))) for guess in guesses))


def step_seconds(net: Forecaster, values: np.ndarray, repeats: int) -> float:
    """Measure one training step: the median of `repeats`, after one to warm up."""
    x, target = (np.ascontiguousarray(array[:, :BATCH]) for array in windows(values))
    adam, seconds = Adam(), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        train_step(net, adam, x, target)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


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
    training = numbers[years < FIRST_HELD_OUT]
    scale = Scale.fit(training)
    series = scale.to_network(training)
    learned, held_out = f"{years[0]} to {FIRST_HELD_OUT - 1}", f"{FIRST_HELD_OUT} to {years[-1]}"
    print(f"Yearly sunspot numbers: trained on {learned}, held out {held_out}")
    print(f"LSTM(1, {units}) with a linear read-out, seed {seed}")

    start = time.perf_counter()
    net = train(series, units, epochs, seed)
    print(f"trained in {time.perf_counter() - start:.2f} s\n")

    outputs, tape = net.forecast(scale.to_network(numbers))
    forecast = scale.to_numbers(outputs)
    errors = held_out_errors(years, numbers, forecast)
    ratio = errors.network / errors.persistence
    print(f"Forecasts one year ahead, {held_out}: RMSE in sunspot numbers")
    print(f"  LSTM                        {errors.network:6.1f}   {ratio:.2f} of persistence")
    print(f"  persistence: as this year   {errors.persistence:6.1f}")
    print(f"  as {CYCLE} years before          {errors.cycle_before:6.1f}\n")

    fast = step_seconds(Forecaster.new(units, seed), series, repeats=50)
    slow = step_seconds(Forecaster.new(units, seed, in_numpy=True), series, repeats=5)
    print(f"One training step (forward, backward, update) on {BATCH} windows of {WINDOW} years")
    print(f"  lstm_rs, float32            {1e3 * fast:6.2f} ms")
    print(f"  NumPy reference, float64    {1e3 * slow:6.2f} ms   {slow / fast:.0f} times as long\n")
    return 0 if out is None else save_picture(out, years, numbers, forecast, tape)


def save_picture(out: str, years: np.ndarray, numbers: np.ndarray, forecast: np.ndarray, tape: Any) -> int:
    """Write the picture, or say why there is none and what to do; the exit code."""
    from lstm_rs import _demo_plot

    try:
        gates, c = tape.gates[:, 0], tape.c[:, 0]
        _demo_plot.draw(years, numbers, forecast, gates, c, FIRST_HELD_OUT).savefig(out)
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
