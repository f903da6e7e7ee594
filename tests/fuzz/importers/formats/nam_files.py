"""Models of Neural Amp Modeler: the JSON as a tree, as a mapping or a file, and files of any bytes."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import lstm_rs
from choices import Choices, as_json, mutated
from contract import Attempt, check_lstm, documented

_WORDS = ["architecture", "LSTM", "WaveNet", "config", "input_size", "hidden_size", "num_layers", "in_channels",
          "out_channels", "weights", "sample_rate", "version", "metadata"]  # fmt: skip


def model(input_size: int, hidden_size: int, num_layers: int) -> dict[str, Any]:
    """A small model."""
    count = 4 * hidden_size * (input_size + hidden_size) + (num_layers - 1) * 8 * hidden_size**2
    count += 6 * hidden_size * num_layers + hidden_size + 1
    return {
        "version": "0.5.4",
        "architecture": "LSTM",
        "config": {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers},
        "weights": [0.1] * count,
        "sample_rate": 48000,
    }


class Nam:
    """`lstm_rs.from_nam`."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "model.nam")
        self._models = [model(1, 1, 1), model(2, 2, 2)]

    def seeds(self) -> list[bytes]:
        """The models as mappings, as files, and as the bytes of a file."""
        return [bytes([way, k]) for way in (0, 1) for k in range(2)] + [b"\2" + json.dumps(self._models[0]).encode()]

    def attempt(self, choices: Choices) -> Attempt:
        """A mapping, a file of JSON, or a file."""
        way = choices.below(3)
        source: Any = self._path
        if way < 2:
            said = mutated(choices.pick(self._models), choices, _WORDS)
            dtype = choices.pick(["float32", "float64"])
            if way == 0:
                source = said
                shown = repr(said)
            else:
                shown = as_json(said, choices)
                data = shown.encode(errors="surrogatepass")
        else:
            data, dtype = choices.rest(), "float32"
            shown = repr(data)
        if way:
            with open(self._path, "wb") as file:
                file.write(data)
        return Attempt(
            lambda: lstm_rs.from_nam(source, dtype=dtype),
            _answer,
            errors=documented(lstm_rs.from_nam),
            shown=shown,
        )


def _answer(nam: lstm_rs.NAM) -> None:
    check_lstm(nam.lstm)
    hidden_size = nam.lstm.hidden_size
    assert nam.state.h.shape == nam.state.c.shape == (nam.lstm.num_layers, 1, hidden_size)
    assert nam.head_weight.shape == (len(nam.head_bias), hidden_size)
    assert nam.sample_rate is None or math.isfinite(nam.sample_rate), f"sample_rate {nam.sample_rate}"
