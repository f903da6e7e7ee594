"""An alarm on readings as they come in: a generator of a sensor's values, a forecast for each, constant memory.

    pip install .
    python examples/streaming_from_a_generator.py [readings]

A forecaster learns from the first 2,000 readings. From then on each reading is compared with what was forecast for it,
and goes through `LSTM.stream`, which keeps the state and nothing else: the millionth step takes no more memory than the
first. There is an alarm where the forecast is off by half as much again as it ever was in training.
"""

import itertools
import sys
import tracemalloc

import numpy as np
from lstm_rs.estimators import LSTMForecaster

TRAINING = 2_000


def sensor(seed=0):
    """The temperature of a pump: two rhythms, noise, and from time to time a fault of ten readings."""
    rng = np.random.default_rng(seed)
    for t in itertools.count():
        yield 60 + 4 * np.sin(t / 8) + 2 * np.sin(t / 29) + 0.2 * rng.normal() + 3 * (t > TRAINING and t % 5_000 < 10)


def watch(forecaster, readings):
    """Each reading, and what was forecast for it out of those before (without `difference`, that is what comes out)."""
    model, scaler = forecaster.model_, forecaster.scaler_
    stream, expected = model.lstm.stream(), np.nan
    for reading in readings:
        yield reading, expected
        y = model.linear(stream.step(scaler.scale(np.array([reading]), np.float32)))
        expected = scaler.unscale(y)[0]


def main():
    """Learn from the first readings, watch the others."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    readings = sensor()
    known = list(itertools.islice(readings, TRAINING))
    forecaster = LSTMForecaster(difference=False, stride=8, random_state=0).fit(known)
    errors = np.abs(forecaster.predict_all(known)[:-1, 0] - known[1:])[16:]  # it needs some readings to go by
    limit = 1.5 * errors.max()
    print(f"forecasts are off by {np.median(errors):.2f} degrees; alarm from {limit:.2f} on")

    watched, last = watch(forecaster, itertools.chain(known, readings)), 0
    next(itertools.islice(watched, TRAINING, TRAINING), None)
    tracemalloc.start()
    for t, (reading, expected) in enumerate(itertools.islice(watched, count), start=TRAINING):
        if abs(reading - expected) > limit and t - last > 100:
            last = t
            print(f"alarm at reading {t}: {reading:.1f} degrees, expected {expected:.1f}")
    print(f"{count} readings, at most {tracemalloc.get_traced_memory()[1] / 1024:.0f} KiB of memory")


if __name__ == "__main__":
    main()
