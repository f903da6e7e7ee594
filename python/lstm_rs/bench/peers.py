"""Who is timed: each makes a call for a case, at its best setting, with the same weights and input.

A peer is a function of a `Case` that gives a `Call`, or None where it does not have the mode. Peers are imported when
they are first asked for. Most read the number of threads once, when they start, from what `environment` sets.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lstm_rs

MODES = ("forward", "train", "step", "forward-ragged", "train-ragged", "forward-f64", "train-f64")
"""A pass forward; forward and backward; one step of a stream; lengths uniform in 1..T; all in float64."""


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
    def streams(self) -> bool:
        """Whether one call is one step, from the state where the last call left it."""
        return self.mode == "step"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all numbers."""
        return np.dtype(np.float64 if self.mode.endswith("f64") else np.float32)

    def make(self) -> tuple[lstm_rs.LSTM, np.ndarray, np.ndarray | None]:
        """Make the layer, the input, and the lengths where they differ."""
        rng = np.random.default_rng(0)
        layer = lstm_rs.LSTM(self.input_size, self.hidden_size, dtype=self.dtype, seed=0)
        x = rng.normal(size=(self.steps, self.batch, self.input_size)).astype(self.dtype)
        lengths = rng.integers(1, self.steps + 1, size=self.batch) if self.mode.endswith("ragged") else None
        return layer, x, lengths

    def zeros(self) -> np.ndarray:
        """Make a state (N, H) to start from."""
        return np.zeros((self.batch, self.hidden_size), dtype=self.dtype)


class Call(NamedTuple):
    """One call to time, and what it answers: the output and, of a pass backward, the gradients of x and w_hh."""

    run: Callable[[], Any]
    answer: Callable[[], tuple[np.ndarray, ...]]


Make = Callable[[Case], Call | None]


def environment(threads: int) -> dict[str, str]:
    """What has to be set before a process starts, for every library to use so many threads."""
    flags = os.environ.get("XLA_FLAGS", "")
    alone = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if threads == 1 and alone not in flags:
        flags = f"{flags} {alone}".lstrip()
    pools = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "RAYON_NUM_THREADS",
    )
    return {
        **dict.fromkeys(pools, str(threads)),
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
    }


def stream_of(step: Callable[[], np.ndarray], reset: Callable[[], None]) -> Call:
    """Make a call of a function that runs one step and keeps its state; its answer is that of a third step."""

    def answer() -> tuple[np.ndarray, ...]:
        reset()
        step()
        step()
        return (np.array(step()),)

    return Call(step, answer)


def _lstm_rs(case: Case) -> Call:
    layer, x, lengths = case.make()
    if case.streams:
        stream, out = layer.stream(case.batch), np.empty_like(case.zeros())
        return stream_of(lambda: stream.step(x[0], out=out), stream.reset)
    if not case.trains:
        return Call(lambda: layer(x, lengths=lengths), lambda: (layer(x, lengths=lengths)[0],))
    dy = np.ones((*x.shape[:-1], layer.hidden_size), dtype=case.dtype)

    def run() -> Any:
        y, _, tape = layer.forward_train(x, lengths=lengths)
        return y, layer.backward(tape, dy)

    def answer() -> tuple[np.ndarray, ...]:
        y, grads = run()
        return y, grads.x, grads.weights["weight_hh_l0"]

    return Call(run, answer)


def _numpy(case: Case) -> Call | None:
    """A plain loop: what one writes without a library. Its matrix products are those of NumPy's BLAS."""
    if case.mode not in ("forward", "forward-f64", "step"):
        return None
    layer, x, _ = case.make()
    w_ih, w_hh, b = (layer.weights[name].T.copy() for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))
    hidden = layer.hidden_size
    h = c = case.zeros()

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-z)))

    def step(z_x: np.ndarray) -> np.ndarray:
        nonlocal h, c
        z = z_x + h @ w_hh
        i, f, g, o = (z[:, k * hidden : (k + 1) * hidden] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return np.asarray(h)

    def reset() -> None:
        nonlocal h, c
        h = c = case.zeros()

    def run() -> np.ndarray:
        reset()
        y = np.empty((case.steps, case.batch, hidden), dtype=case.dtype)
        z_x = x @ w_ih + b
        for t in range(case.steps):
            y[t] = step(z_x[t])
        return y

    if case.streams:
        return stream_of(lambda: step(x[0] @ w_ih + b), reset)
    return Call(run, lambda: (run(),))


def _torch(case: Case) -> Call:
    import torch

    return _module(case, torch.nn.LSTM)


def _lstm_rs_torch(case: Case) -> Call:
    import lstm_rs.torch

    return _module(case, lstm_rs.torch.LSTM)


def _module(case: Case, kind: Any) -> Call:
    """Make a call of PyTorch's module, or of one that is used as it is."""
    import torch

    torch.set_num_threads(case.threads)
    layer, x, lengths = case.make()
    module = kind(layer.input_size, layer.hidden_size, dtype=getattr(torch, case.dtype.name))
    weights = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}
    bias = weights.pop("bias_l0")
    module.load_state_dict({**weights, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
    given = torch.from_numpy(x).requires_grad_(case.trains)
    dy = torch.ones(*x.shape[:-1], layer.hidden_size, dtype=given.dtype)
    if case.streams:
        state = None

        def step() -> np.ndarray:
            nonlocal state
            with torch.inference_mode():
                y, state = module(given, state)
                return np.asarray(y[0])

        def reset() -> None:
            nonlocal state
            state = None

        return stream_of(step, reset)

    def run() -> Any:
        if not case.trains:
            with torch.inference_mode():
                return module(packed)[0]
        module.zero_grad()
        given.grad = None
        y, _ = module(given if lengths is None else pack())
        (y if lengths is None else unpack(y)).backward(dy)
        return y

    def pack() -> Any:
        return torch.nn.utils.rnn.pack_padded_sequence(given, torch.from_numpy(lengths), enforce_sorted=False)

    def unpack(y: Any) -> Any:
        return torch.nn.utils.rnn.pad_packed_sequence(y, total_length=case.steps)[0]

    def answer() -> tuple[np.ndarray, ...]:
        y = run() if lengths is None else unpack(run())
        y = y.detach().numpy()
        return (y, given.grad.numpy(), module.weight_hh_l0.grad.numpy()) if case.trains else (y,)

    # Of a pass forward alone, the packing is not counted.
    packed = given if lengths is None else pack()
    return Call(run, answer)


def _onnx_model(case: Case) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model of one LSTM node, its gates in ONNX's order i, o, f, c, and its inputs."""
    from onnx import TensorProto, helper, numpy_helper

    layer, x, lengths = case.make()
    optional = {}
    if lengths is not None:
        optional["lengths"] = lengths.astype(np.int32)
    if case.streams:
        optional |= {"h": case.zeros()[None], "c": case.zeros()[None]}
    inputs = {"X": x} | optional

    def reorder(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])[None]

    bias = reorder(layer.weights["bias_l0"])
    constants = {
        "W": reorder(layer.weights["weight_ih_l0"]),
        "R": reorder(layer.weights["weight_hh_l0"]),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=1),
    }
    outputs: dict[str, tuple[int, ...]] = {"Y": (case.steps, 1, case.batch, case.hidden_size)}
    if case.streams:
        outputs |= dict.fromkeys(("Y_h", "Y_c"), (1, case.batch, case.hidden_size))
    names = [name if name in optional else "" for name in ("lengths", "h", "c")]
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R", "B", *names], list(outputs), hidden_size=case.hidden_size)],
        "lstm",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString(), inputs


def _onnx_call(case: Case, inputs: dict[str, np.ndarray], infer: Callable[[], list[Any]]) -> Call:
    """Make a call of a function that runs a model on what stands in `inputs`, in arrays that it may share."""
    if not case.streams:
        return Call(infer, lambda: (np.array(infer()[0])[:, 0],))

    def step() -> np.ndarray:
        y, h, c = infer()
        inputs["h"][:], inputs["c"][:] = h, c
        return np.asarray(y[0, 0])

    def reset() -> None:
        inputs["h"][:], inputs["c"][:] = 0, 0

    return stream_of(step, reset)


def _onnxruntime(case: Case) -> Call | None:
    if case.mode not in ("forward", "forward-ragged", "step"):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    model, inputs = _onnx_model(case)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return _onnx_call(case, inputs, lambda: session.run(None, inputs))


def _openvino(case: Case) -> Call | None:
    if case.mode not in ("forward", "forward-ragged", "step"):
        return None
    import openvino

    model, inputs = _onnx_model(case)
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        # By itself it may compute in bfloat16, where the CPU has that.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    tensors = [openvino.Tensor(inputs[port.any_name], shared_memory=True) for port in compiled.inputs]
    count = len(compiled.outputs)

    def infer() -> list[Any]:
        request.infer(tensors, share_inputs=True)
        return [request.get_output_tensor(k).data for k in range(count)]

    return _onnx_call(case, inputs, infer)


def _tract(case: Case) -> Call | None:
    # It has one thread.
    if case.mode not in ("forward", "step") or case.threads > 1:
        return None
    import tract

    model, inputs = _onnx_model(case)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lstm.onnx"
        file.write_bytes(model)
        runnable = tract.Onnx().load(file).into_model().into_runnable()

    def infer() -> list[Any]:
        outputs = runnable.run([tract.Tensor.from_numpy(array) for array in inputs.values()])
        return [output.to_numpy() for output in outputs]

    return _onnx_call(case, inputs, infer)


def _jax(case: Case) -> Call | None:
    if case.mode not in ("forward", "train", "step"):
        return None
    import jax
    import jax.numpy as jnp

    layer, x, _ = case.make()
    # Rows of inputs times columns of units: the order that JAX is quickest with.
    weights = tuple(jnp.asarray(layer.weights[name].T) for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))
    zeros = jnp.asarray(case.zeros())
    given, dy = jnp.asarray(x), jnp.ones((case.steps, case.batch, case.hidden_size), dtype=x.dtype)

    def forward(weights: Any, x: Any, state: Any) -> Any:
        w_ih, w_hh, b = weights

        def step(state: Any, z_x: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(z_x + h @ w_hh, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jax.lax.scan(step, state, x @ w_ih + b)

    return _jax_call(
        case, weights, given, dy, (zeros, zeros), forward, lambda grads: np.asarray(grads[1]).T, lambda x: x
    )


def _jax_call(
    case: Case,
    weights: Any,
    given: Any,
    dy: Any,
    zeros: Any,
    forward: Callable[[Any, Any, Any], Any],
    of_w_hh: Callable[[Any], np.ndarray],
    time_major: Callable[[np.ndarray], np.ndarray],
) -> Call:
    """Make a call of a function `forward(weights, x, state) -> (state, y)` written in JAX."""
    import jax

    if case.streams:
        state = zeros
        advance = jax.jit(forward)

        def step() -> np.ndarray:
            nonlocal state
            state, y = advance(weights, given, state)
            return np.asarray(y[0])

        def reset() -> None:
            nonlocal state
            state = zeros

        return stream_of(step, reset)

    def train(weights: Any, x: Any) -> Any:
        y, pull = jax.vjp(lambda weights, x: forward(weights, x, zeros)[1], weights, x)
        return y, pull(dy)

    call = jax.jit(train if case.trains else lambda weights, x: forward(weights, x, zeros)[1])

    def run() -> Any:
        return jax.block_until_ready(call(weights, given))

    def answer() -> tuple[np.ndarray, ...]:
        if not case.trains:
            return (time_major(np.asarray(run())),)
        y, (grads, dx) = run()
        return time_major(np.asarray(y)), time_major(np.asarray(dx)), of_w_hh(grads)

    return Call(run, answer)


def _keras(case: Case) -> Call | None:
    if case.mode not in ("forward", "train"):
        return None
    import jax.numpy as jnp
    import keras

    if keras.backend.backend() != "jax":
        return None
    layer, x, _ = case.make()
    given = jnp.asarray(x.swapaxes(0, 1))
    theirs = keras.layers.LSTM(case.hidden_size, return_sequences=True)
    theirs.build(given.shape)
    theirs.set_weights([layer.weights[name].T for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0")])
    dy = jnp.ones((case.batch, case.steps, case.hidden_size), dtype=x.dtype)

    def forward(weights: Any, x: Any, state: Any) -> Any:
        return state, theirs.stateless_call(weights, others, x)[0]

    weights = [variable.value for variable in theirs.trainable_variables]
    others = [variable.value for variable in theirs.non_trainable_variables]
    return _jax_call(
        case, weights, given, dy, None, forward, lambda grads: np.asarray(grads[1]).T, lambda x: x.swapaxes(0, 1)
    )


ALL: dict[str, tuple[tuple[str, ...], Make]] = {
    "torch": (("torch",), _torch),
    "onnxruntime": (("onnxruntime", "onnx"), _onnxruntime),
    "openvino": (("openvino", "onnx"), _openvino),
    "jax": (("jax",), _jax),
    "keras": (("keras", "jax"), _keras),
    "tract": (("tract", "onnx"), _tract),
    "numpy": ((), _numpy),
    "lstm_rs.torch": (("torch",), _lstm_rs_torch),
}
"""Peers: what each needs to be installed, and how its call is made."""

OWN = ("lstm_rs.torch",)
"""Of these, what is ours: it is no peer unless it is named."""


def peers(names: list[str] | None = None) -> dict[str, Make]:
    """Those of others that are installed, or of all that are the named ones; lstm_rs first."""
    found: dict[str, Make] = {"lstm_rs": _lstm_rs}
    for name, (modules, make) in ALL.items():
        wanted = name not in OWN if names is None else name in names
        if wanted and all(importlib.util.find_spec(module) for module in modules):
            found[name] = make
    return found
