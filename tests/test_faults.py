"""Faults from outside: exceptions at any moment, forks in a handler, an interpreter on its way out.

Each script runs in a process of its own, as it may end it. What goes on for longer, and at random, is in `tests/soak`;
what comes of too little memory in `test_faults_memory.py`.
"""

import os
import sys

import lstm_rs
import numpy as np
import pytest
from faults import linux, posix, run
from lstm_rs import train
from oracle import assert_same_bits

# ----------------------------- an exception at any moment: the old weights, or the new ones


class Stop(Exception):
    """What comes in between."""


def stopped_at(line, change):
    """Runs `change`, with an exception at that line of the library's Python code, as the handler of a signal raises it.

    False if there are fewer lines.
    """
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(os.path.dirname(lstm_rs.__file__)):
            return None
        if event == "line":
            lines += 1
            if lines == line:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        change()
    except Stop:
        return True
    finally:
        sys.settrace(before)
    return False


def edit(module, weights):
    with module.edit() as arrays:
        for name in arrays:
            arrays[name][:] = weights[name]


CHANGES = {
    "edit": edit,
    "load_state_dict": lambda module, weights: module.load_state_dict(weights),
    "assign": lambda module, weights: module.weights.__setitem__(next(iter(weights)), next(iter(weights.values()))),
}


@pytest.mark.parametrize("kind", ["LSTM", "Linear"])
@pytest.mark.parametrize("way", CHANGES)
def test_what_stops_a_change_of_weights_leaves_the_old_or_the_new(kind, way):
    make = {
        "LSTM": lambda: lstm_rs.LSTM(3, 5, 2, bidirectional=True, seed=0),
        "Linear": lambda: train.Linear(3, 4, seed=0),
    }
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)

    def answers(module):
        y = module(x)
        return {"y": y if kind == "Linear" else y[0]} | module.state_dict()

    new = {name: array * np.float32(0.5) for name, array in make[kind]().state_dict().items()}
    changed = make[kind]()
    CHANGES[way](changed, new)
    wanted = [answers(make[kind]()), answers(changed)]
    seen = [0, 0]
    for line in range(1, 1000):
        module = make[kind]()
        was_stopped = stopped_at(line, lambda module=module: CHANGES[way](module, new))
        got = answers(module)
        which = int(np.array_equal(got["y"], wanted[1]["y"]))
        for name, array in got.items():
            assert_same_bits(array, wanted[which][name], f"{name}, stopped at line {line}")
        seen[which] += 1
        if not was_stopped:
            break
    assert which == 1 and seen[0] > 3, f"{line} lines"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a file that its reference closes
def test_what_stops_a_save_leaves_the_old_file_or_the_new(tmp_path):
    pytest.importorskip("safetensors")
    layers = [lstm_rs.LSTM(3, 5, seed=seed) for seed in range(2)]
    path = tmp_path / "layer.safetensors"
    wanted = []
    for layer in layers:
        layer.save(path)
        wanted.append(path.read_bytes())
    seen = set()
    for line in range(1, 1000):
        path.write_bytes(wanted[0])
        was_stopped = stopped_at(line, lambda: layers[1].save(path))
        seen.add(wanted.index(path.read_bytes()))
        assert os.listdir(tmp_path) == [path.name], f"stopped at line {line}"
        if not was_stopped:
            break
    assert seen == {0, 1}


LOADED = """
import signal
from lstm_rs import _parameters

layer = lstm_rs.LSTM(3, 5, seed=0)
new, newest = ({name: array * np.float32(factor) for name, array in layer.state_dict().items()} for factor in (2, 3))
core, signals = _parameters._core, []


class Core:
    Layers = core.Layers

    def Forward(*arguments):
        if not signals:
            signals.append(True)
            signal.raise_signal(signal.SIGUSR1)
        return core.Forward(*arguments)


signal.signal(signal.SIGUSR1, lambda *_: layer.load_state_dict(newest))
_parameters._core = Core
CHANGE
assert signals
print(*(name for name, array in layer.state_dict().items() if (array == new[name]).all()))
print("and", *(name for name, array in layer.state_dict().items() if (array == newest[name]).all()))
"""


@posix
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("layer.load_state_dict(new)", "weight_ih_l0 weight_hh_l0 bias_l0 and"),
        ("layer.weights['bias_l0'] = new['bias_l0']", "bias_l0 and weight_ih_l0 weight_hh_l0"),
    ],
)
def test_a_handler_sets_weights_while_others_are_set(change, told):
    """A service loads a new model upon a signal, which may come while it packs the last one: neither waits.

    What began first comes last, as if the handler had run before it.
    """
    assert run(LOADED.replace("CHANGE", change)) == told.split()


# ----------------------------- signals in the middle of a long call

SMALL = """
import os, signal, time
from lstm_rs import train

f = np.float32
ones = lambda *shape: np.full(shape, 0.01, f)
lstm_rs.set_num_threads(THREADS)
small, x = lstm_rs.LSTM(3, 5, 2, bidirectional=True, seed=0), ones(4, 2, 3)


def answer():
    y, state, tape = small.forward_train(x)
    grads = small.backward(tape, y)
    return b"".join(array.tobytes() for array in (y, *state, grads.x, *grads.weights.values()))
"""

LONG = """
wide, both = lstm_rs.LSTM(16, 512, seed=0), lstm_rs.LSTM(16, 384, 2, bidirectional=True, seed=0)
linear, rows, d_rows = train.Linear(1500, 1500, seed=0), ones(4000, 1500), ones(4000, 1500)
crowd = ones(1, 4000, 16)
y, _, tape = wide.forward_train(ones(2, 400, 16))
# On scalar code a single step of so many sequences takes seconds.
lstm_rs._core.set_isa("scalar")
weights = lstm_rs.Weights(ones(2048, 16), ones(2048, 512))
slow, slow_both = (__import__("copy").copy(layer) for layer in (wide, both))
stream = slow.stream(4000)
calls = {
    "forward": lambda: lstm_rs.forward(crowd, weights),
    "forward_train": lambda: slow.forward_train(crowd),
    "backward": lambda: slow.backward(tape, y),
    "both": lambda: slow_both(crowd),
    "stream": lambda: stream.step(crowd[0]),
    "linear": lambda: linear(rows),
    "linear_backward": lambda: linear.backward(rows, d_rows),
    "packing": lambda: lstm_rs.LSTM(400, 300, seed=0),
    "training": lambda: train_for_ever(),
}


def train_for_ever():
    optimizer = train.Adam(small, 0.01)
    while True:
        y, _, tape = small.forward_train(x)
        optimizer.step(small.backward(tape, dy=y).weights)
"""

STOPPED = """
class Stop(Exception):
    pass


def stop(*_):
    raise Stop


signal.signal(signal.SIGALRM, stop)
weights_before, before = small.state_dict(), answer()
for name, call in calls.items():
    state = stream.state
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    start = time.monotonic()
    try:
        while True:
            call()
    except Stop:
        seconds = time.monotonic() - start - 0.1
    assert all((new == old).all() for new, old in zip(stream.state, state)) or name != "stream"
    small.load_state_dict(weights_before)
    assert answer() == before, name
    print(name, f"{seconds:.3f}")
"""


@posix
@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_s_exception_leaves_any_long_call(threads):
    """Within 0.1 s, which the soak measures; here a call that does not ask in the middle of a step takes 5 to 20 s."""
    told = run((SMALL + LONG + STOPPED).replace("THREADS", str(threads)))
    seconds = dict(zip(told[::2], map(float, told[1::2]), strict=True))
    assert len(seconds) == 9
    assert max(seconds.values()) < 3.0, seconds


@posix
def test_sys_exit_in_a_handler_ends_the_process():
    script = """
        import signal, sys
        layer, x = lstm_rs.LSTM(64, 512, seed=0), np.ones((60, 16, 64), np.float32)
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        while True:
            layer(x)
        """
    run(script, status=7)


FORKED = """
layer, inputs = lstm_rs.LSTM(64, 512, seed=0), ones(60, 8, 64)
expected, before = layer(inputs)[0].tobytes(), answer()
children = []


def fork(*_):
    process = os.fork()
    if process:
        children.append(process)
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.alarm(40)
        global parent
        parent = False
        # In the handler itself, too, all is usable.
        if answer() != before:
            os._exit(1)


parent = True
signal.signal(signal.SIGALRM, fork)
while parent and len(children) < 6:
    signal.setitimer(signal.ITIMER_REAL, 0.031)
    try:
        while parent and signal.getitimer(signal.ITIMER_REAL)[0]:
            assert layer(inputs)[0].tobytes() == expected
    except RuntimeError as error:
        assert not parent and "forked" in str(error), error
        os.write(1, b"told ")
if not parent:
    os._exit(0 if layer(inputs)[0].tobytes() == expected and answer() == before else 2)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
assert layer(inputs)[0].tobytes() == expected
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_fork_in_a_handler_in_the_middle_of_a_call(threads):
    """The child's call goes on where it is the only worker, and else raises; it waits for nobody."""
    told = run((SMALL + FORKED).replace("THREADS", str(threads)))
    assert told[-1] == "done"
    assert set(told[:-1]) <= ({"told"} if threads > 1 else set())


# ----------------------------- an interpreter on its way out

DAEMONS = """
import atexit, ctypes, os, sys, threading, time

lstm_rs.set_num_threads(2)
layer = lstm_rs.LSTM(64, 256, seed=0)
x, small = np.ones((STEPS, 4, 64), np.float32), np.ones((3, 2, 64), np.float32)


def work():
    while True:
        layer(x)


def call():
    y, _, tape = layer.forward_train(small)
    layer.backward(tape, y)


def told():
    os.write(1, b"called")


call()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""

ENDS = {
    "the end": ("", 0),
    "an atexit handler": ("atexit.register(lambda: (call(), told()))", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    # Functions of C that run when the interpreter is gone, for a second: `sleep` is given the status.
    "exit handlers of C": ("ctypes.CDLL(None).on_exit(ctypes.CDLL(None).sleep, None); sys.exit(1)", 1),
    "a finalizer": ("Last = type('Last', (), {'__del__': lambda _, call=call: call()}); layer.last = Last()", 0),
    "a thread that is no daemon": ("threading.Thread(target=lambda: (time.sleep(0.3), call(), told())).start()", 0),
}


@linux
# Calls that come back meanwhile, and calls that do not.
@pytest.mark.parametrize("steps", [300, 8000])
@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_beside_calls_of_daemon_threads(end, steps):
    script, status = ENDS[end]
    # It takes a moment that does not always come.
    for _ in range(3 if status == 1 else 1):
        told = run(DAEMONS.replace("STEPS", str(steps)) + script, status)
        assert told == (["called"] if "told" in script else [])


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
code = '''
import sys
try:
    import lstm_rs
except ImportError as error:
    print(type(error).__name__, error, flush=True)
else:
    print("imported", flush=True)
'''
failed = interpreters.run_string(other, code)
print(failed or "ended")
layer = lstm_rs.LSTM(3, 5, seed=0)
assert layer(np.ones((4, 3), np.float32))[0].shape == (4, 5)
"""


def test_a_subinterpreter_is_refused_in_words():
    told = run(SUBINTERPRETER, PYTHONWARNINGS="ignore")
    assert told[0] == "ImportError" and told[-1] == "ended", told
