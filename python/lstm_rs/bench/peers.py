"""Who is timed: each makes calls for one shape, at its best setting, with the same weights and input."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lstm_rs


class Call(NamedTuple):
    """One call to time, and what it answers: the output and, of a pass backward, the gradients of x and w_hh."""

    run: Callable[[], Any]
    answer: Callable[[], tuple[np.ndarray, ...]]


Shape = tuple[int, int, int, int]
Make = Callable[[Shape, bool], Call]


def peers() -> dict[str, Make]:
    """All that are installed, lstm_rs first."""
    found: dict[str, Make] = {"lstm_rs": _lstm_rs}
    if importlib.util.find_spec("torch") is not None:
        found["torch"] = _torch
    return found


def _layer_and_input(shape: Shape) -> tuple[lstm_rs.LSTM, np.ndarray]:
    steps, batch, input_size, hidden_size = shape
    layer = lstm_rs.LSTM(input_size, hidden_size, seed=0)
    return layer, np.random.default_rng(0).normal(size=(steps, batch, input_size)).astype(np.float32)


def _lstm_rs(shape: Shape, forward: bool) -> Call:
    layer, x = _layer_and_input(shape)
    if forward:
        return Call(lambda: layer(x), lambda: (layer(x)[0],))
    dy = np.ones((*x.shape[:-1], layer.hidden_size), dtype=np.float32)

    def run() -> Any:
        y, _, tape = layer.forward_train(x)
        return y, layer.backward(tape, dy)

    def answer() -> tuple[np.ndarray, ...]:
        y, grads = run()
        return y, grads.x, grads.weights["weight_hh_l0"]

    return Call(run, answer)


def _torch(shape: Shape, forward: bool) -> Call:
    import torch

    torch.set_num_threads(1)
    layer, x = _layer_and_input(shape)
    module = torch.nn.LSTM(layer.input_size, layer.hidden_size)
    weights = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}
    bias = weights.pop("bias_l0")
    module.load_state_dict({**weights, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
    given = torch.from_numpy(x).requires_grad_(not forward)
    dy = torch.ones(*x.shape[:-1], layer.hidden_size)

    def run() -> Any:
        if forward:
            with torch.inference_mode():
                return module(given)[0]
        module.zero_grad()
        given.grad = None
        y, _ = module(given)
        y.backward(dy)
        return y

    def answer() -> tuple[np.ndarray, ...]:
        y = run().detach().numpy()
        return (y,) if forward else (y, given.grad.numpy(), module.weight_hh_l0.grad.numpy())

    return Call(run, answer)
