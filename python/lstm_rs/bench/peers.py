"""Who is timed: each makes a call for a case, at its best setting, with the same weights and input.

A peer is a function of a `Case` that gives a `Call`, or None where it does not have the mode. Peers are imported when
they are first asked for, and told the number of threads before that where they read it only then.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lstm_rs


class Case(NamedTuple):
    """What is timed: sizes, a mode, and a number of threads."""

    steps: int
    batch: int
    input_size: int
    hidden_size: int
    mode: str
    threads: int

    @property
    def trains(self) -> bool:
        """Whether it is a pass forward and backward."""
        return self.mode.startswith("train")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all numbers."""
        return np.dtype(np.float64 if self.mode.endswith("f64") else np.float32)

    def make(self) -> tuple[lstm_rs.LSTM, np.ndarray, np.ndarray | None]:
        """Make the layer, the input, and the lengths where they differ."""
        rng = np.random.default_rng(0)
        layer = lstm_rs.LSTM(self.input_size, self.hidden_size, dtype=self.dtype, seed=0)
        x = rng.normal(size=(self.steps, self.batch, self.input_size)).astype(self.dtype)
        lengths = rng.integers(1, self.steps + 1, size=self.batch) if self.mode == "ragged" else None
        return layer, x, lengths


class Call(NamedTuple):
    """One call to time, and what it answers: the output and, of a pass backward, the gradients of x and w_hh."""

    run: Callable[[], Any]
    answer: Callable[[], tuple[np.ndarray, ...]]


Make = Callable[[Case], Call | None]


def _lstm_rs(case: Case) -> Call:
    layer, x, lengths = case.make()
    if not case.trains:
        return Call(lambda: layer(x, lengths=lengths), lambda: (layer(x, lengths=lengths)[0],))
    dy = np.ones((*x.shape[:-1], layer.hidden_size), dtype=case.dtype)

    def run() -> Any:
        y, _, tape = layer.forward_train(x)
        return y, layer.backward(tape, dy)

    def answer() -> tuple[np.ndarray, ...]:
        y, grads = run()
        return y, grads.x, grads.weights["weight_hh_l0"]

    return Call(run, answer)


def _numpy(case: Case) -> Call | None:
    """A plain loop: what one writes without a library. Its matrix products are those of NumPy's BLAS."""
    if case.mode not in ("forward", "forward-f64"):
        return None
    layer, x, _ = case.make()
    w_ih, w_hh, b = (layer.weights[name].T for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))
    hidden = layer.hidden_size

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-z)))

    def run() -> np.ndarray:
        h = c = np.zeros((case.batch, hidden), dtype=case.dtype)
        y = np.empty((case.steps, case.batch, hidden), dtype=case.dtype)
        z_x = x @ w_ih + b
        for t in range(case.steps):
            z = z_x[t] + h @ w_hh
            i, f, g, o = (z[:, k * hidden : (k + 1) * hidden] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            y[t] = h
        return y

    return Call(run, lambda: (run(),))


def _torch(case: Case) -> Call:
    import torch

    torch.set_num_threads(case.threads)
    layer, x, lengths = case.make()
    module = torch.nn.LSTM(layer.input_size, layer.hidden_size, dtype=getattr(torch, case.dtype.name))
    weights = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}
    bias = weights.pop("bias_l0")
    module.load_state_dict({**weights, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
    given = torch.from_numpy(x).requires_grad_(case.trains)
    dy = torch.ones(*x.shape[:-1], layer.hidden_size, dtype=given.dtype)
    packed = None
    if lengths is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(given, torch.from_numpy(lengths), enforce_sorted=False)

    def run() -> Any:
        # Each time: other peers set it for themselves.
        torch.set_num_threads(case.threads)
        if not case.trains:
            with torch.inference_mode():
                return module(given if packed is None else packed)[0]
        module.zero_grad()
        given.grad = None
        y, _ = module(given)
        y.backward(dy)
        return y

    def answer() -> tuple[np.ndarray, ...]:
        y = run()
        if packed is not None:
            y = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=case.steps)[0]
        y = y.detach().numpy()
        return (y, given.grad.numpy(), module.weight_hh_l0.grad.numpy()) if case.trains else (y,)

    return Call(run, answer)


def _onnx_model(case: Case) -> tuple[bytes, np.ndarray]:
    """A model of one LSTM node, its gates in ONNX's order i, o, f, c, and the input."""
    from onnx import TensorProto, helper, numpy_helper

    layer, x, _ = case.make()

    def reorder(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])[None]

    bias = reorder(layer.weights["bias_l0"])
    constants = {
        "W": reorder(layer.weights["weight_ih_l0"]),
        "R": reorder(layer.weights["weight_hh_l0"]),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=1),
    }
    node = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=case.hidden_size)
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, (case.steps, 1, case.batch, case.hidden_size))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString(), x


def _onnxruntime(case: Case) -> Call | None:
    if case.mode != "forward":
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    model, x = _onnx_model(case)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Call(lambda: session.run(None, {"X": x}), lambda: (session.run(None, {"X": x})[0][:, 0],))


def _openvino(case: Case) -> Call | None:
    if case.mode != "forward":
        return None
    import openvino

    model, x = _onnx_model(case)
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        # By itself it may compute in bfloat16, where the CPU has that.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    given = openvino.Tensor(x, shared_memory=True)

    def run() -> Any:
        request.infer([given], share_inputs=True)
        return request.get_output_tensor().data

    return Call(run, lambda: (np.array(run())[:, 0],))


def _jax(case: Case) -> Call | None:
    if case.mode not in ("forward", "train"):
        return None
    # Read when jax starts: one number of threads a process.
    flags = os.environ.get("XLA_FLAGS", "")
    if case.threads == 1 and "multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    layer, x, _ = case.make()
    weights = tuple(jnp.asarray(layer.weights[name]) for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))
    zeros = jnp.zeros((case.batch, case.hidden_size), dtype=x.dtype)
    given, dy = jnp.asarray(x), jnp.ones((case.steps, case.batch, case.hidden_size), dtype=x.dtype)

    def forward(weights: Any, x: Any) -> Any:
        w_ih, w_hh, b = weights

        def step(state: Any, z_x: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(z_x + h @ w_hh.T, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jax.lax.scan(step, (zeros, zeros), x @ w_ih.T + b)[1]

    def train(weights: Any, x: Any) -> Any:
        y, pull = jax.vjp(forward, weights, x)
        return y, pull(dy)

    call = jax.jit(train if case.trains else forward)

    def run() -> Any:
        return jax.block_until_ready(call(weights, given))

    def answer() -> tuple[np.ndarray, ...]:
        if not case.trains:
            return (np.asarray(run()),)
        y, (grads, dx) = run()
        return np.asarray(y), np.asarray(dx), np.asarray(grads[1])

    return Call(run, answer)


ALL: dict[str, tuple[tuple[str, ...], Make]] = {
    "torch": (("torch",), _torch),
    "onnxruntime": (("onnxruntime", "onnx"), _onnxruntime),
    "openvino": (("openvino", "onnx"), _openvino),
    "jax": (("jax",), _jax),
    "numpy": ((), _numpy),
}
"""Peers: what each needs to be installed, and how its call is made."""


def peers(names: list[str] | None = None) -> dict[str, Make]:
    """Those that are installed, or of these the named ones; lstm_rs first."""
    found: dict[str, Make] = {"lstm_rs": _lstm_rs}
    for name, (modules, make) in ALL.items():
        if (names is None or name in names) and all(importlib.util.find_spec(module) for module in modules):
            found[name] = make
    return found
