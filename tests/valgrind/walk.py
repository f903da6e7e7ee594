"""Calls of everything in the compiled module, for `memcheck.py`, which runs this under valgrind.

Memcheck knows where an array ends, as each is a block of its own, and what nobody has written. Three things it is told:

- behind each row of an input, and past the end of each sequence, there is memory that may not be touched;
- every answer has to be written in full, and is asked for that;
- what an answer's memory holds counts as not written when the answer is let go: large ones are made of it again.
"""

from __future__ import annotations

import copy
import ctypes
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, product
from typing import Any

import lstm_rs
import numpy as np
from lstm_rs import LSTM, CellSpec, _core
from oracle import EVERY, make_input, make_lengths, make_state, make_weights
from under_valgrind import requests

DTYPES = (np.float32, np.float64)
ASK = requests()
ASK.request_first_undefined.restype = ctypes.c_long

called: set[str] = set()
undefined: list[str] = []
answers = 0


def noted(name: str, function: Any) -> Callable[..., Any]:
    """Make the same of a function, and note its calls."""

    def call(*arguments: Any, **options: Any) -> Any:
        called.add(name)
        return function(*arguments, **options)

    return call


def watch() -> list[str]:
    """Note what is called of the compiled module; give all its names."""
    names = [name for name in dir(_core) if not name.startswith("_")]
    for name in names:
        setattr(_core, name, noted(name, getattr(_core, name)))
    return names


def without_numpys_cache() -> None:
    """Let NumPy take each array's memory from malloc, and give it back to free."""
    core = np._core if hasattr(np, "_core") else np.core
    get, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    table = ctypes.cast(get(core.multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    # PyDataMem_SetHandler, by its place in NumPy's C API.
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
    set_handler(new(ctypes.addressof(ctypes.c_char.in_dll(ASK, "request_handler")), b"mem_handler", None))


def ask(request: Any, array: np.ndarray, *sizes: int) -> int:
    """Make a request of memory that starts where an array does."""
    return int(request(ctypes.c_void_p(array.ctypes.data), *(ctypes.c_size_t(size) for size in sizes)))


def arrays_of(answer: Any) -> Iterator[np.ndarray]:
    """All arrays in an answer."""
    if isinstance(answer, np.ndarray):
        yield answer
    elif isinstance(answer, dict):
        yield from arrays_of(list(answer.values()))
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from arrays_of(part)


def check(name: str, *answer: Any) -> None:
    """Note what of an answer was not written, and forget the rest."""
    global answers
    for k, array in enumerate(arrays_of(answer)):
        answers += 1
        # A copy takes along what is not written.
        whole = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        if (place := ask(ASK.request_first_undefined, whole, whole.nbytes)) >= 0:
            where = np.unravel_index(place // array.itemsize, array.shape)
            undefined.append(f"{name}: array {k} {array.shape} at {tuple(map(int, where))}")
        ask(ASK.request_forget, whole, whole.nbytes)


def apart(array: np.ndarray, lengths: Any = None, batch_first: bool = False) -> np.ndarray:
    """The same, with forbidden memory behind each row of the last axis, and past the end of each sequence."""
    room = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    view = room[..., : array.shape[-1]]
    view[...] = array
    row = room.shape[-1] * room.itemsize
    ask(ASK.request_forbid, room, room.size // room.shape[-1], row, view.shape[-1] * room.itemsize, row)
    if lengths is not None:
        by_sequence = view if batch_first else view.swapaxes(0, 1)
        for sequence, length in zip(by_sequence, lengths, strict=True):
            rest = sequence[length:]
            if rest.size:
                ask(ASK.request_forbid, rest, len(rest), rest.strides[0], 0, row)
    return view


def one_layer(name: str, cell: CellSpec, sizes: tuple[int, ...], dtype: Any, **how: Any) -> None:
    """`forward`, `forward_train` and `backward` of T, N, I, H, P."""
    steps, batch, inputs, hidden, outputs = sizes
    rng = np.random.default_rng(0)
    weights = make_weights(rng, cell, inputs, hidden, outputs or None, how.pop("bias", True), dtype)
    x, dy = (make_input(rng, steps, batch, width, dtype) for width in (inputs, outputs or hidden))
    state, dstate = (make_state(rng, batch, hidden, outputs or None, dtype) for _ in range(2))
    lengths = make_lengths(rng, steps, batch) if how.pop("ragged", False) else None
    if how.get("batch_first"):
        x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1)
    x, dy = (apart(array, lengths, how.get("batch_first", False)) for array in (x, dy))
    how |= {"cell": cell, "lengths": lengths}
    label = f"{name} {_core.isa()} {np.dtype(dtype)} {sizes}"
    check(f"forward of {label}", lstm_rs.forward(x, weights, state, **how))
    y, final, tape = lstm_rs.forward_train(x, weights, **how)
    check(f"backward of {label}", lstm_rs.backward(tape, dy, dstate))
    check(f"backward of {label}, without dy and dx", lstm_rs.backward(tape, None, dstate, need_dx=False))
    check(f"forward_train of {label}", y, final, tape.gates, tape.c)


def widths() -> None:
    """Widths around the lanes of every instruction set, and around tiles; all ways of a call."""
    ways = cycle(({}, {"reverse": True}, {"batch_first": True}, {"ragged": True}, {"ragged": True, "batch_first": True,
                 "reverse": True}, {"bias": False}))  # fmt: skip
    inputs = cycle((1, 3, 0, 8, 17, 5, 33))
    batches = cycle((1, 2, 3, 5, 7, 13, 25))
    outputs = cycle((0, 0, 1, 0, 3, 9))
    for hidden in (1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 23, 31, 33, 37, 65):
        sizes = (next(batches) % 4 + 1, next(batches), next(inputs), hidden, min(next(outputs), hidden))
        one_layer("widths", CellSpec(), sizes, DTYPES[hidden % 2], **next(ways))
        one_layer("widths", CellSpec.peephole_lstm(), sizes, DTYPES[(hidden + 1) % 2], **next(ways))
    for sizes in ((0, 2, 3, 5, 0), (3, 0, 3, 5, 0)):
        one_layer("nothing", CellSpec(), sizes, np.float32)


def cells() -> None:
    """Every cell, every activation, both ways of clipping."""
    for k, (name, cell) in enumerate(EVERY.items()):
        one_layer(name, cell, (2, 3, 2, 9 if k % 3 else 11, 0), DTYPES[k % 2], ragged=k % 4 == 0)


def large() -> None:
    """Answers so large that their memory is kept for others: made of new memory, and then of what was kept."""
    for dtype, ragged in product(DTYPES, (False, False, True)):
        one_layer("large", CellSpec(), (2, 6554, 5, 5, 0), dtype, ragged=ragged)


def threads() -> None:
    """Calls that are shared out: by sequences, by units, both directions side by side; lent threads."""
    for count in (2, 3):
        with lstm_rs.num_threads(count):
            one_layer("threads", CellSpec(), (5, 29, 40, 75, 0), np.float32, ragged=True)
            one_layer("threads", CellSpec.peephole_lstm(), (6, 1, 30, 131, 0), np.float64)
            stacked(LSTM(30, 51, 2, bidirectional=True, seed=0), 7, 26)
    # Of the C compiler: known once it is loaded.
    ctypes.CDLL("libgomp.so.1")
    assert _core.find_openmp("libgomp.so.1")
    before = _core.swap_lent_threads(2)
    one_layer("lent threads", CellSpec(), (5, 29, 40, 75, 0), np.float32)
    _core.swap_lent_threads(before)


def stacked(lstm: LSTM, steps: int, batch: int) -> None:
    """All passes of an `LSTM`, a copy of it and of its tape, and new weights."""
    rng = np.random.default_rng(0)
    directions = 1 + lstm.bidirectional
    lengths = make_lengths(rng, steps, batch)
    x = make_input(rng, steps, batch, lstm.input_size, lstm.dtype)
    dy = make_input(rng, steps, batch, directions * (lstm.proj_size or lstm.hidden_size), lstm.dtype)
    if lstm.batch_first:
        x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1)
    x, dy = (apart(array, lengths, lstm.batch_first) for array in (x, dy))
    for one in (lstm, pickle.loads(pickle.dumps(lstm)), copy.deepcopy(lstm)):
        check(f"{one}", one(x, lengths=lengths))
    _, final = lstm(x, lengths=lengths)
    y, last, tape = lstm.forward_train(x, final, lengths)
    grads = lstm.backward(tape, dy, last)
    with lstm.edit() as weights:
        for name, gradient in grads.weights.items():
            weights[name] -= 0.1 * gradient
    check(f"backward of {lstm}", grads.x, grads.weights, grads.state)
    check(f"forward_train of {lstm}", y, last, [(layer.gates, layer.c) for layer in tape.layers])


def layers() -> None:
    for dtype in DTYPES:
        stacked(LSTM(5, 7, 2, bidirectional=True, proj_size=3, dropout=0.5, dtype=dtype, seed=0), 4, 3)
        stacked(LSTM(3, 9, 3, batch_first=True, cell=CellSpec.peephole_lstm(), dtype=dtype, seed=0), 3, 5)
        stacked(LSTM(1, 17, bias=False, dtype=dtype, seed=0), 5, 1)
    y, _, tape = LSTM(3, 5, seed=0).forward_train(np.ones((4, 3), np.float32))
    check("a tape from a pickle", LSTM(3, 5, seed=0).backward(pickle.loads(pickle.dumps(tape)), y).weights)


def streams() -> None:
    for dtype, batch, sizes in product(DTYPES, (1, 3), ((5, 7), (1, 17), (16, 33))):
        lstm = LSTM(*sizes, num_layers=2, proj_size=5, dtype=dtype, seed=0)
        one, other = lstm.stream(batch), lstm.stream(batch)
        for _ in range(3):
            x = apart(np.ones((batch, sizes[0]), dtype))
            out = apart(np.zeros((batch, 5), dtype))
            one.step(x, out=out)
            check("a step to out", np.ascontiguousarray(out))
            check("a step", other.step(x))
        other.state = one.state
        check("a stream's state", other.state)
        other.reset()


def read_outs() -> None:
    rng = np.random.default_rng(0)
    sizes = (1, 1, 1), (7, 5, 3), (13, 17, 9), (33, 9, 31), (259, 3, 257)
    for dtype, (rows, inputs, outputs) in product(DTYPES, sizes):
        weight, bias = rng.normal(size=(outputs, inputs)).astype(dtype), rng.normal(size=outputs).astype(dtype)
        x, dy = rng.normal(size=(rows, inputs)).astype(dtype), rng.normal(size=(rows, outputs)).astype(dtype)
        for with_bias in (True, False):
            check("linear", _core.linear(weight, bias if with_bias else None, x))
            check("linear_backward", _core.linear_backward(weight, x, dy, with_bias, with_bias))


def refused(call: Callable[[], Any], errors: Any = (TypeError, ValueError)) -> None:
    try:
        call()
    except errors:
        return
    raise AssertionError(f"{call} was not refused")


def refusals() -> None:
    """What is refused leaves nothing behind."""
    lstm, x = LSTM(3, 5, seed=0), np.ones((4, 2, 3), np.float32)
    y, final, tape = lstm.forward_train(x)
    stream, step = lstm.stream(2), np.ones((2, 3), np.float32)
    weights = make_weights(np.random.default_rng(0), CellSpec(), 3, 5, dtype=np.float32)
    _, _, recorded = lstm_rs.forward_train(x, weights)
    for wrong in (x.astype(np.float64), x[:, :, :2], x[0, 0], "x", None, x.astype(object), [[1.0], [1.0, 2.0]]):
        refused(lambda wrong=wrong: lstm(wrong))
        refused(lambda wrong=wrong: lstm.forward_train(x, (wrong, wrong)))
        refused(lambda wrong=wrong: lstm_rs.forward(wrong, weights))
        refused(lambda wrong=wrong: lstm_rs.forward(x, weights._replace(w_hh=wrong)))
        refused(lambda wrong=wrong: stream.step(wrong))
        refused(lambda wrong=wrong: stream.step(step, out=wrong) if wrong is not None else stream.step(wrong))
        refused(lambda wrong=wrong: lstm.backward(tape, y, (wrong, final.c)))
        refused(lambda wrong=wrong: lstm_rs.backward(recorded, y, (wrong, wrong)))
        refused(lambda wrong=wrong: _core.linear(wrong, None, x[0]))
    for lengths in ([5, 1], [-1, 2], [1], [[1, 2]], [2**63 - 1, 0]):
        refused(lambda lengths=lengths: lstm(x, lengths=lengths))
        refused(lambda lengths=lengths: lstm_rs.forward_train(x, weights, lengths=lengths))
    shared = np.ones((2, 8), np.float32)
    refused(lambda: stream.step(shared[:, :3], out=shared[:, 3:]))
    refused(lambda: _core.set_isa("another"))
    refused(lambda: _core.set_num_threads(0))
    refused(lambda: _core.Layers([], 1, False))
    refused(lambda: _core.Stream(_core.Layers([_core.Forward(CellSpec(), *weights)] * 2, 2, False), 1))
    refused(lambda: _core.check_cell(lstm))
    refused(lambda: _core.fma_peak("float16", 0.001))
    # Rows without end, of one number: there is no memory for the answer.
    endless = np.lib.stride_tricks.as_strided(x, (1 << 40, 2, 3), (0, 12, 4))
    refused(lambda: lstm(endless), MemoryError)


def interrupted() -> None:
    """A call that a signal ends."""

    def raises(*_: Any) -> None:
        raise InterruptedError

    lstm, x = LSTM(8, 64, seed=0), np.zeros((20_000, 24, 8), np.float32)
    before = signal.signal(signal.SIGALRM, raises)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    refused(lambda: lstm(x), InterruptedError)
    signal.signal(signal.SIGALRM, before)


def machine() -> None:
    assert _core.activations().keys() and _core.available_isas()
    assert _core.fma_peak("float32", 0.001) > 0 and _core.fma_peak("float64", 0.001) > 0
    assert _core.read_bandwidth(10_007, 0.001) > 0


def main() -> None:
    names = watch()
    without_numpys_cache()
    lstm_rs.show_config()
    lstm_rs.set_num_threads(1)
    for isa in _core.available_isas():
        _core.set_isa(isa)
        # The scalar path multiplies and adds by a call of the C library: sizes of no matter to it are for the others.
        parts = (widths, cells, layers, streams, read_outs, refusals, machine)
        for part in parts if isa == "scalar" else (*parts, large, threads):
            part()
            print(f"{time.process_time():6.1f} s  {isa} {part.__name__}: {answers} arrays so far", flush=True)
    interrupted()
    left = sorted(set(names) - called)
    for name in left:
        print(f"never called: {name}")
    for line in undefined:
        print(f"not written: {line}")
    sys.exit(bool(left or undefined))


if __name__ == "__main__":
    main()
