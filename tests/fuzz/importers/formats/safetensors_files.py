"""The package's own files: a layer, an estimator, and a checkpoint of training.

All are safetensors: a header of JSON, which has more JSON in its metadata, and numbers. Both are fuzzed as trees, the
numbers made to fit the header or not; and the file as bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any

import lstm_rs
import numpy as np
from choices import Choices, Skip, as_json, mutated
from contract import Attempt, check_lstm, documented, same_arrays
from lstm_rs import estimators, train

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U64": 8, "I8": 1, "U8": 1, "BOOL": 1,
          "F8_E4M3": 1, "C64": 8}  # fmt: skip
_NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "U64": "u8", "BOOL": "?"}
_FILLS = [0.1, 0.0, 1.0, -1.0, math.nan, math.inf, 3e38]
_LARGEST = 1 << 14
_WORDS = [*_BYTES, "dtype", "shape", "fill", "format_version", "library", "cell", "float32", "float64", *_FILLS]


class Parts:
    """A file taken apart: tensors and what is said in the metadata, as trees."""

    def __init__(self, data: bytes, key: str) -> None:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        self.data, self.key = data, key
        self.said = json.loads(header.pop("__metadata__")[key])
        self.tensors: dict[str, Any] = {}
        for name, tensor in header.items():
            raw = data[8 + length :][slice(*tensor["data_offsets"])]
            values = np.frombuffer(raw, _NUMPY[tensor["dtype"]])
            # As they are, or all the same: short bytes then change a whole tensor.
            self.tensors[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "fill": tuple(values.tolist())}
        self.words = [*_WORDS, *self.tensors, *self.said]

    def changed(self, choices: Choices) -> tuple[bytes, str]:
        """A file near this one, and what it says."""
        way = choices.below(3)
        if way == 2:
            data = choices.rest()
            return data, repr(data)
        said = mutated(self.said, choices, self.words)
        tensors = mutated(self.tensors, choices, self.words)
        fill = choices.pick([None, None, *_FILLS])
        if fill is not None and tensors and isinstance(tensor := choices.pick([*tensors.values()]), dict):
            tensor["fill"] = fill
        header: dict[str, Any] = {}
        numbers = b""
        for name, tensor in tensors.items():
            raw = _numbers(tensor)
            header[name] = {
                "dtype": tensor.get("dtype"),
                "shape": tensor.get("shape"),
                "data_offsets": [len(numbers), len(numbers) + len(raw)],
            }
            numbers += raw
        header["__metadata__"] = {self.key: as_json(said, choices)}
        if way == 1:
            header = mutated(header, choices, self.words)
        text = as_json(header, choices).encode(errors="surrogatepass")
        return struct.pack("<Q", len(text)) + text + numbers, text.decode(errors="replace")


def _numbers(tensor: Any) -> bytes:
    if (
        not isinstance(tensor, dict)
        or not isinstance(tensor.get("shape"), list)
        or tensor.get("dtype") not in [*_BYTES]
    ):
        raise Skip
    shape, dtype = tensor["shape"], tensor["dtype"]
    if any(type(size) is not int or size < 0 for size in shape):
        return b""
    count = math.prod(shape)
    if count > _LARGEST:
        return b""
    fill = tensor.get("fill")
    if dtype not in _NUMPY:
        return b"\1" * (count * _BYTES[dtype])
    try:
        values = np.array(fill, np.float64).ravel()
        with np.errstate(all="ignore"):
            return np.resize(values, count).astype(_NUMPY[dtype]).tobytes()
    except (TypeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise Skip from error


class _Files:
    """Files of some kind that are written, taken apart and changed."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "model.safetensors")
        self._parts = [Parts(data, self.key) for data in self.files()]

    key = ""

    def files(self) -> list[bytes]:
        """Valid files, as bytes."""
        raise NotImplementedError

    def _saved(self, *saved: Any) -> list[bytes]:
        files = []
        for one in saved:
            one.save(self._path)
            with open(self._path, "rb") as file:
                files.append(file.read())
        return files

    def seeds(self) -> list[bytes]:
        """Each file as it is: taken apart and put together, and as bytes."""
        raw = [bytes([k, 2]) + part.data for k, part in enumerate(self._parts) if len(part.data) < 1 << 14]
        return [bytes([k, 0]) for k in range(len(self._parts))] + raw

    def _write(self, choices: Choices) -> tuple[int, str]:
        """A file at the path: which it is near to, and what it says."""
        which = choices.below(len(self._parts))
        data, shown = self._parts[which].changed(choices)
        with open(self._path, "wb") as file:
            file.write(data)
        return which, shown


class Layer(_Files):
    """`lstm_rs.LSTM.load`."""

    key = "lstm_rs"

    def files(self) -> list[bytes]:
        """Layers with and without all there is."""
        cell = lstm_rs.CellSpec(peephole=True, gate_activation=("hard_sigmoid", 0.25, 0.5), cell_clip=3.0)
        return self._saved(
            lstm_rs.LSTM(3, 2, seed=0),
            lstm_rs.LSTM(3, 2, 2, bidirectional=True, proj_size=1, dropout=0.5, cell=cell, batch_first=True, seed=0),
            lstm_rs.LSTM(0, 1, bias=False, dtype=np.float64, seed=0),
        )

    def attempt(self, choices: Choices) -> Attempt:
        """A file of a layer."""
        _, shown = self._write(choices)
        return Attempt(
            lambda: lstm_rs.LSTM.load(self._path),
            check_lstm,
            errors=documented(lstm_rs.LSTM.load),
            shown=shown,
        )


class Estimators(_Files):
    """`load` of the estimators."""

    key = "lstm_rs.estimators"

    def files(self) -> list[bytes]:
        """One of each class."""
        rng, options = np.random.default_rng(0), {"hidden_size": 2, "epochs": 1, "random_state": 0}
        X, y = rng.normal(size=(6, 4, 2)), np.arange(6.0)
        self._x, series = X[:1], rng.normal(size=(12, 1))
        self._series = series
        fitted: list[Any] = [
            estimators.LSTMRegressor(**options).fit(X, y),
            estimators.LSTMClassifier(**options).fit(X, np.array(["a", "b"] * 3)),
            estimators.LSTMForecaster(window=3, **options).fit(series),
            estimators.LSTMAutoencoder(window=3, latent_size=2, **options).fit(series),
        ]
        self._classes = [type(one) for one in fitted]
        return self._saved(*fitted)

    def attempt(self, choices: Choices) -> Attempt:
        """A file of an estimator, loaded by its class."""
        which, shown = self._write(choices)
        cls = self._classes[which]
        return Attempt(
            lambda: cls.load(self._path),
            self._answer,
            errors=documented(cls.load),
            shown=f"{cls.__name__} {shown}",
        )

    def _answer(self, estimator: Any) -> None:
        """It predicts something of a small input; or says that this is no input for it."""
        repr(estimator)
        # Values that the file made as large as they get may overflow.
        with np.errstate(all="ignore"):
            try:
                self._predict(estimator)
            except ValueError as error:
                # A mean may be so large, or a deviation so small, that 0 is too far away; but only then.
                scaler, dtype = estimator.scaler_, estimator._model_dtype()
                far = np.abs(scaler.mean / scaler.deviation).max() >= np.finfo(dtype).max
                if not far or not str(error).startswith(f"X: sequence 0 has values that are too large for {dtype}"):
                    raise

    def _predict(self, estimator: Any) -> None:
        n = estimator.n_features_in_
        if isinstance(estimator, estimators.LSTMForecaster):
            if not estimator.n_exogenous_:
                estimator.predict(steps=1)
        elif isinstance(estimator, estimators.LSTMAutoencoder):
            if estimator._as_fitted["window"] < 1000:
                estimator.reconstruct(np.zeros((estimator._as_fitted["window"] + 1, n)))
        else:
            made = estimator.predict(np.zeros((1, 4, n)))
            assert len(made) == 1, f"{len(made)} answers to one sequence"


class Checkpoint(_Files):
    """`lstm_rs.train.fit` that goes on from a checkpoint."""

    key = "lstm_rs.train"

    def files(self) -> list[bytes]:
        """With Adam, without and with validation, and with momentum."""
        files = []
        for which in range(3):
            if os.path.exists(self._path):
                os.remove(self._path)
            self._run(which, 2)()
            with open(self._path, "rb") as file:
                files.append(file.read())
        return files

    def _run(self, which: int, epochs: int, resume: bool = False, state: dict[str, Any] | None = None) -> Any:
        """A run of so many epochs; its weights and all else that it keeps go to `state`."""
        rng = np.random.default_rng(3)
        lstm = lstm_rs.LSTM(2, 2, 2, dropout=0.25, seed=rng)
        linear = train.Linear(2, 1, seed=rng)
        x, y = np.ones((4, 3, 2), np.float32), np.ones((4, 1), np.float32)
        model = train.Predictor(lstm, linear, train.mse)
        optimizer = train.SGD([lstm, linear], 0.1, momentum=0.5) if which == 2 else train.Adam([lstm, linear], 0.1)
        batches = train.Batches(x, y, batch_size=2, rng=rng)
        validation = [*train.Batches(x, y, shuffle=False)] if which == 1 else None

        def kept() -> dict[str, np.ndarray]:
            chance = repr([rng.bit_generator.state, lstm._rng.bit_generator.state])  # type: ignore[union-attr]
            return {
                **{f"lstm {name}": array for name, array in lstm.state_dict().items()},
                **{f"linear {name}": array for name, array in linear.state_dict().items()},
                **{f"optimizer {name}": array for name, array in optimizer.state_dict().items()},
                "chance": np.array(chance),
            }

        if state is not None:
            state["kept"], state["before"] = kept, kept()

        def run() -> train.History:
            return train.fit(
                model, batches, optimizer, epochs=epochs, validation=validation, checkpoint=self._path, resume=resume
            )

        return run

    def attempt(self, choices: Choices) -> Attempt:
        """A checkpoint, and the run that it is of."""
        which, shown = self._write(choices)
        state: dict[str, Any] = {}
        run = self._run(which, 3, True, state)

        def answer(history: train.History) -> None:
            assert len(history.loss) >= 3, f"{len(history.loss)} epochs"

        def unchanged(error: Exception) -> None:
            # Training itself may fail later, with numbers that it went on from.
            if not isinstance(error, FloatingPointError):
                same_arrays(state["before"], state["kept"](), "fit")

        return Attempt(
            run,
            answer,
            unchanged,
            documented(train.fit),
            f"run {which} {shown}",
        )
