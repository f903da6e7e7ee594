"""What one process of `lstm_rs.bench.fits` does: import one library, fit one model twice, and say what that took.

It is run by its path, ``python _fit_workers.py LIBRARY TASK.json DATA.npz FOUND.json``, and imports nothing of lstm_rs
for the others, so that no library pays for another. The model, the batches' size, the epochs, AdamW with its rates and
decay, and the norm that gradients are clipped to are the same in all; initial weights are what each library draws.

What is timed is what a user waits for: from the raw arrays in memory over scaling and windows to the trained model. The
first fit includes all that a library compiles or loads at its first use. The second starts from new weights in the same
process: of Keras it uses the compiled model again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Task = dict[str, Any]
Fit = Callable[[int], Callable[[], np.ndarray]]
"""Trains from a seed; what it gives makes the predictions that the task is judged by."""

CHUNK = 8
"""Batches that are sorted by length together, where sequences differ in length."""


# ----------------------------- what torch and Keras are given


class Scale:
    """The mean and the standard deviation of each column over the last axis."""

    def __init__(self, rows: np.ndarray) -> None:
        self.mean, self.deviation = rows.mean(axis=0), rows.std(axis=0)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Turn values into what the network sees."""
        return np.asarray((array - self.mean) / self.deviation, dtype=np.float32)

    def back(self, array: np.ndarray) -> np.ndarray:
        """Turn what the network says into values."""
        return np.asarray(array * self.deviation + self.mean)


def valid(lengths: np.ndarray, steps: int) -> np.ndarray:
    """Which steps of padded sequences are real: (n, T)."""
    return np.asarray(np.arange(steps) < lengths[:, None])


def windows(series: np.ndarray, steps: int) -> np.ndarray:
    """All windows of a series (T, F): (M, steps, F)."""
    return np.lib.stride_tricks.sliding_window_view(series, steps, axis=0).swapaxes(1, 2)


class Problem:
    """A task as arrays: x (n, T, F) scaled, y as the loss takes it, and how to judge what comes out."""

    def __init__(self, task: Task, data: Arrays) -> None:
        self.task, self.data, self.lengths = task, data, data.get("lengths")
        kind = task["kind"]
        if kind == "classifier":
            mask = valid(data["lengths"], data["x"].shape[1])
            self.scale = Scale(data["x"][mask])
            self.x = np.where(mask[..., None], self.scale(data["x"]), np.float32(0))
            self.classes, self.y = np.unique(data["y"], return_inverse=True)
            self.outputs = len(self.classes)
        elif kind == "regressor":
            self.scale = Scale(data["x"].reshape(-1, data["x"].shape[2]))
            self.x, self.target = self.scale(data["x"]), Scale(data["y"][:, None])
            self.y, self.outputs = self.target(data["y"][:, None]), 1
        else:
            self.scale = Scale(data["series"])
            series, window = self.scale(data["series"]), task["window"]
            if kind == "autoencoder":
                self.x = self.y = np.ascontiguousarray(windows(series, window))
            else:
                horizon = task["horizon"]
                both = windows(series, window + horizon)
                self.x = np.ascontiguousarray(both[:, :window])
                # Row t holds the values of the steps t+1 to t+horizon.
                ahead = np.stack([both[:, k + 1 : k + 1 + window] for k in range(horizon)], axis=2)
                self.y = np.ascontiguousarray(ahead[:, task["warm_up"] :].reshape(len(both), -1, horizon))
            self.outputs = series.shape[1] * task.get("horizon", 1)

    def rates(self) -> list[float]:
        """The learning rate of each step of training."""
        rate, steps = self.task["learning_rate"], self.task["epochs"] * -(-len(self.x) // self.task["batch_size"])
        share = np.arange(steps) / steps
        shapes = {"constant": np.ones(steps), "linear": 1 - share, "cosine": (1 + np.cos(np.pi * share)) / 2}
        return [float(part) for part in rate * shapes[self.task["schedule"]]]

    def test(self) -> tuple[np.ndarray, np.ndarray | None]:
        """What to predict from, (n, T, F), and its lengths."""
        kind, data = self.task["kind"], self.data
        if kind == "classifier":
            mask = valid(data["test_lengths"], data["test_x"].shape[1])
            return np.where(mask[..., None], self.scale(data["test_x"]), np.float32(0)), data["test_lengths"]
        if kind == "regressor":
            return self.scale(data["test_x"]), None
        series = self.scale(data["test_series"])
        return (series[None] if kind == "forecaster" else windows(series, self.task["window"])), None

    def predictions(self, out: np.ndarray) -> np.ndarray:
        """What the network gives for `test`, as an estimator of lstm_rs gives it."""
        kind = self.task["kind"]
        if kind == "classifier":
            return np.asarray(self.classes[out.argmax(axis=-1)])
        if kind == "regressor":
            return self.target.back(out)[:, 0]
        if kind == "forecaster":
            return self.scale.back(out[0])
        error = np.square(out - self.test()[0]).mean(axis=2)
        total, count = np.zeros(len(self.data["test_series"])), np.zeros(len(self.data["test_series"]))
        for k in range(error.shape[1]):
            total[k : k + len(error)] += error[:, k]
            count[k : k + len(error)] += 1
        return total / count


# ----------------------------- the libraries


def by_lstm_rs(task: Task, data: Arrays, threads: int) -> Fit:
    """The estimators, as they are used."""
    import lstm_rs
    from lstm_rs import estimators

    lstm_rs.set_num_threads(threads)
    kind = task["kind"]
    names = {"hidden_size", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "clip_norm"}
    names |= {"window", "horizon", "difference"} if kind == "forecaster" else set()
    names |= {"window", "latent_size"} if kind == "autoencoder" else set()
    options = {name: task[name] for name in names}

    def sequences(x: np.ndarray, lengths: np.ndarray | None) -> Any:
        return x if lengths is None else [row[:length] for row, length in zip(x, lengths, strict=True)]

    def fit(seed: int) -> Callable[[], np.ndarray]:
        if kind in ("classifier", "regressor"):
            make = estimators.LSTMClassifier if kind == "classifier" else estimators.LSTMRegressor
            model = make(random_state=seed, **options).fit(sequences(data["x"], data.get("lengths")), data["y"])
            return lambda: np.asarray(model.predict(sequences(data["test_x"], data.get("test_lengths"))))
        if kind == "forecaster":
            forecaster = estimators.LSTMForecaster(random_state=seed, **options).fit(data["series"])
            return lambda: np.asarray(forecaster.predict_all(data["test_series"])[..., 0])
        autoencoder = estimators.LSTMAutoencoder(random_state=seed, **options).fit(data["series"])
        return lambda: np.asarray(autoencoder.score_samples(data["test_series"]))

    return fit


def batches(rng: np.random.Generator, count: int, size: int, lengths: np.ndarray | None) -> Iterator[np.ndarray]:
    """The indices of each batch of one epoch; sequences of about one length together."""
    order = rng.permutation(count)
    if lengths is None:
        yield from (order[k : k + size] for k in range(0, count, size))
        return
    chunks = [order[k : k + CHUNK * size] for k in range(0, count, CHUNK * size)]
    parts = [chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks]
    cut = [part[k : k + size] for part in parts for k in range(0, len(part), size)]
    for k in rng.permutation(len(cut)):
        yield cut[k]


def by_torch(task: Task, data: Arrays, threads: int) -> Fit:
    """A plain loop, as one who knows PyTorch writes it for speed.

    The steps come first, the data are tensors before the first batch, and AdamW is the fused one. Ragged batches hold
    sequences of about one length, and run padded, each one's last output being picked: packed, they take twice as long.
    """
    import torch

    torch.set_num_threads(threads)
    functional = torch.nn.functional
    kind, hidden = task["kind"], task["hidden_size"]

    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(inputs, hidden)
            self.last = torch.nn.Linear(hidden, outputs)
            if kind == "autoencoder":
                self.to_latent = torch.nn.Linear(hidden, task["latent_size"])
                self.decoder = torch.nn.LSTM(task["latent_size"], hidden)

        def forward(self, x: Any, lengths: Any = None) -> Any:
            y, (h, _) = self.lstm(x)
            if kind == "autoencoder":
                y, _ = self.decoder(self.to_latent(h[-1]).expand(len(x), -1, -1))
            elif kind == "classifier":
                y = y[lengths - 1, torch.arange(len(lengths))]
            elif kind == "regressor":
                y = h[-1]
            return self.last(y)

    def fit(seed: int) -> Callable[[], np.ndarray]:
        torch.manual_seed(seed)
        problem, rng = Problem(task, data), np.random.default_rng(seed)
        model = Model(problem.x.shape[2], problem.outputs)
        parameters = list(model.parameters())
        # A decay of 0 leaves Adam.
        optimizer = torch.optim.AdamW(parameters, weight_decay=task["weight_decay"], fused=True)
        loss = functional.cross_entropy if kind == "classifier" else functional.mse_loss
        x = torch.from_numpy(problem.x).transpose(0, 1).contiguous()
        y = torch.from_numpy(problem.y)
        if y.ndim == 3:
            y = y.transpose(0, 1).contiguous()
        skipped, axis, lengths = task.get("warm_up", 0), 1 if y.ndim == 3 else 0, problem.lengths
        rates = iter(problem.rates())
        for _ in range(task["epochs"]):
            for chosen in batches(rng, x.shape[1], task["batch_size"], lengths):
                index = torch.from_numpy(chosen)
                if lengths is None:
                    out = model(x.index_select(1, index))
                else:
                    real = torch.from_numpy(lengths[chosen])
                    out = model(x[: int(real.max())].index_select(1, index), real)
                value = loss(out[skipped:], y.index_select(axis, index))
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                torch.nn.utils.clip_grad_norm_(parameters, task["clip_norm"])
                optimizer.param_groups[0]["lr"] = next(rates)
                optimizer.step()

        def predict() -> np.ndarray:
            x, lengths = problem.test()
            given = torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1)))
            with torch.inference_mode():
                array = model(given, None if lengths is None else torch.from_numpy(lengths)).numpy()
            return problem.predictions(array if array.ndim == 2 else array.swapaxes(0, 1))

        return predict

    return fit


def by_keras(task: Task, data: Arrays, threads: int) -> Fit:
    """``Model.fit`` on JAX, compiled; ragged sequences are padded with zeros, which a mask keeps out.

    Eight steps in each call take up to a tenth less time than one. Unrolled it is slower, and compiles for half
    a minute.
    """
    import keras

    kind, hidden = task["kind"], task["hidden_size"]
    layers, schedules = keras.layers, keras.optimizers.schedules
    made: dict[str, Any] = {}

    def build(steps: int | None, inputs: int, outputs: int) -> Any:
        stack = [keras.Input((steps, inputs))]
        if kind == "classifier":
            stack.append(layers.Masking())
        stack.append(layers.LSTM(hidden, return_sequences=kind == "forecaster"))
        if kind == "autoencoder":
            stack += [layers.Dense(task["latent_size"]), layers.RepeatVector(steps)]
            stack.append(layers.LSTM(hidden, return_sequences=True))
        if kind == "forecaster" and steps is not None:
            stack.append(layers.Cropping1D((task["warm_up"], 0)))
        stack.append(layers.Dense(outputs))
        return keras.Sequential(stack)

    def rate_of(rate: float, steps: int) -> Any:
        if task["schedule"] == "cosine":
            return schedules.CosineDecay(rate, steps)
        return rate if task["schedule"] == "constant" else schedules.PolynomialDecay(rate, steps, 0.0)

    def fit(seed: int) -> Callable[[], np.ndarray]:
        keras.utils.set_random_seed(seed)
        problem = Problem(task, data)
        _, steps, inputs = problem.x.shape
        labels = problem.y.astype(np.int32) if kind == "classifier" else problem.y
        model = build(steps, inputs, problem.outputs)
        if "model" in made:
            # Compiled already: new weights, and an optimizer that has not moved yet.
            fresh, model = model, made["model"]
            model.set_weights(fresh.get_weights())
            for variable, value in zip(model.optimizer.variables, made["optimizer"], strict=True):
                variable.assign(value)
        else:
            adam = keras.optimizers.AdamW(
                rate_of(task["learning_rate"], len(problem.rates())),
                weight_decay=task["weight_decay"],
                epsilon=1e-8,
                global_clipnorm=task["clip_norm"],
            )
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if kind == "classifier" else "mse"
            model.compile(optimizer=adam, loss=loss, jit_compile=True, steps_per_execution=8)
            adam.build(model.trainable_variables)
            made.update(model=model, optimizer=[np.asarray(variable.value) for variable in adam.variables])
        model.fit(problem.x, labels, epochs=task["epochs"], batch_size=task["batch_size"], verbose=0)

        def predict() -> np.ndarray:
            x, _ = problem.test()
            if kind == "forecaster":
                # The whole series, of which nothing is cut off.
                whole = build(None, inputs, problem.outputs)
                whole.set_weights(model.get_weights())
                return problem.predictions(np.asarray(whole(x)))
            if kind == "classifier":
                more = max(steps - x.shape[1], 0)
                x = np.pad(x, ((0, 0), (0, more), (0, 0)))
            return problem.predictions(model.predict(x, batch_size=1024, verbose=0))

        return predict

    return fit


LIBRARIES = {"lstm_rs": by_lstm_rs, "torch": by_torch, "keras": by_keras}


# ----------------------------- the process


def peak_memory() -> float:
    """The most memory that this process has had resident, in MiB; NaN where the system does not say."""
    try:
        # That of getrusage is the parent's where this process began as a copy of it.
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def main(library: str, task_file: str, data_file: str, found_file: str) -> None:
    """Fit twice, and write the figures and the predictions as JSON."""
    task: Task = json.loads(Path(task_file).read_text())
    with np.load(data_file) as file:
        data: Arrays = dict(file)
    start = time.perf_counter()
    fit = LIBRARIES[library](task, data, task["threads"])
    found: dict[str, Any] = {"import": time.perf_counter() - start}
    for name in ("first", "again"):
        start = time.perf_counter()
        predict = fit(task["seed"])
        found[name] = time.perf_counter() - start
        found.setdefault("memory", peak_memory())
    found["predictions"] = np.asarray(predict()).tolist()
    Path(found_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
