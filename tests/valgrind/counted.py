"""The calls whose instructions `instructions.py` counts. It runs under callgrind; alone, nothing is counted.

Each call is made once before it is counted: what the first keeps for those to come is then there. The shapes are small,
as valgrind makes each number of a fused multiply-add by a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lstm_rs
import numpy as np
from lstm_rs import LSTM, CellSpec, Weights, _core
from under_valgrind import requests

Sizes = tuple[int, int, int, int]


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Numbers from -0.5 to 0.5, the same ones everywhere."""
    count = int(np.prod(shape))
    return (np.arange(count) * 0.6180339887498949 % 1.0 - 0.5).astype(dtype).reshape(shape)


def make_lstm(inputs: int, hidden: int, layers: int = 1, **options: Any) -> LSTM:
    lstm = LSTM(inputs, hidden, layers, seed=0, **options)
    lstm.load_state_dict({name: numbers(*array.shape, dtype=lstm.dtype) for name, array in lstm.weights.items()})
    return lstm


def forward(sizes: Sizes, layers: int = 1, lengths: Any = None, **options: Any) -> Callable[[], Any]:
    steps, batch, inputs, hidden = sizes
    lstm = make_lstm(inputs, hidden, layers, **options)
    x = numbers(steps, batch, inputs, dtype=lstm.dtype)
    return lambda: lstm(x, lengths=lengths)


def train(sizes: Sizes, **options: Any) -> Callable[[], Any]:
    steps, batch, inputs, hidden = sizes
    lstm = make_lstm(inputs, hidden, **options)
    x, dy = (numbers(steps, batch, width, dtype=lstm.dtype) for width in (inputs, hidden))

    def run() -> Any:
        _, _, tape = lstm.forward_train(x)
        return lstm.backward(tape, dy)

    return run


def one_pass(sizes: Sizes) -> Callable[[], Any]:
    steps, batch, inputs, hidden = sizes
    weights = Weights(numbers(4 * hidden, inputs), numbers(4 * hidden, hidden), numbers(4 * hidden))
    x = numbers(steps, batch, inputs)
    return lambda: lstm_rs.forward(x, weights, reverse=True)


def stream(inputs: int, hidden: int) -> Callable[[], Any]:
    stream = make_lstm(inputs, hidden).stream()
    x, out = numbers(inputs), np.empty(hidden, np.float32)
    return lambda: stream.step(x, out=out)


def linear(rows: int, inputs: int, outputs: int) -> Callable[[], Any]:
    weight, bias, x, dy = numbers(outputs, inputs), numbers(outputs), numbers(rows, inputs), numbers(rows, outputs)

    def run() -> Any:
        return _core.linear(weight, bias, x), _core.linear_backward(weight, x, dy, True, True)

    return run


def edit(inputs: int, hidden: int) -> Callable[[], Any]:
    lstm = make_lstm(inputs, hidden)

    def run() -> None:
        with lstm.edit() as weights:
            weights["bias_l0"] += 1

    return run


CALLS: dict[str, tuple[int, Callable[[], Callable[[], Any]]]] = {
    "forward of 1,1,64,128": (20, lambda: forward((1, 1, 64, 128))),
    "forward of 100,1,64,128": (1, lambda: forward((100, 1, 64, 128))),
    "forward of 7,128,28,128": (1, lambda: forward((7, 128, 28, 128))),
    "forward of 20,32,32,64, ragged": (1, lambda: forward((20, 32, 32, 64), lengths=np.arange(32) * 20 // 31)),
    "forward of 8,16,32,64, two layers in both directions": (
        1,
        lambda: forward((8, 16, 32, 64), layers=2, bidirectional=True),
    ),
    "forward and backward of 6,32,64,96": (1, lambda: train((6, 32, 64, 96))),
    "forward and backward of 50,1,64,128": (1, lambda: train((50, 1, 64, 128))),
    "forward and backward of 10,16,32,64, peephole": (
        1,
        lambda: train((10, 16, 32, 64), cell=CellSpec.peephole_lstm()),
    ),
    "forward and backward of 10,16,32,64, float64": (1, lambda: train((10, 16, 32, 64), dtype=np.float64)),
    "lstm_rs.forward of 20,3,17,23, reverse": (1, lambda: one_pass((20, 3, 17, 23))),
    "step of a stream of 64,128, to out": (20, lambda: stream(64, 128)),
    "linear of 256,128,10, forward and backward": (1, lambda: linear(256, 128, 10)),
    "edit of 64,128": (1, lambda: edit(64, 128)),
}
"""How often each is made while it is counted, and what makes it."""


def main() -> None:
    ask = requests()
    lstm_rs.set_num_threads(1)
    lstm_rs.show_config()
    for name, (times, make) in CALLS.items():
        call = make()
        call()
        ask.request_start()
        for _ in range(times):
            call()
        ask.request_stop(f"{times} x {name}".encode())


if __name__ == "__main__":
    main()
