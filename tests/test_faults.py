"""Faults from outside: exceptions at any moment, too little memory, forks in a handler, an interpreter on its way out.

Each script runs in a process of its own, as it may end it. What goes on for longer, and at random, is in `tests/soak`.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import textwrap

import lstm_rs
import numpy as np
import pytest
from lstm_rs import _parameters, train
from oracle import assert_same_bits

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and resource limits")

SECONDS = 60  # after which something hangs


def run(script, status=0, **environment):
    """The words that `script` prints; a failure if it ends in another way than with this status."""
    code = "import faulthandler\nfaulthandler.dump_traceback_later(50, exit=True)\nimport numpy as np\nimport lstm_rs\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code + textwrap.dedent(script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout.split()


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


@posix
@pytest.mark.parametrize("way", ["load_state_dict", "assign"])
def test_a_handler_sets_weights_while_others_are_set(monkeypatch, way):
    """A service loads a new model upon a signal: that may come while it is packing the last one."""
    layer = lstm_rs.LSTM(3, 5, seed=0)
    new, newest = (
        {name: array * np.float32(factor) for name, array in layer.state_dict().items()} for factor in (2, 3)
    )
    pack, signals = _parameters._core.Forward, []

    def forward(*arguments):
        if not signals:
            signals.append(True)
            signal.raise_signal(signal.SIGUSR1)
        return pack(*arguments)

    before = signal.signal(signal.SIGUSR1, lambda *_: layer.load_state_dict(newest))
    monkeypatch.setattr(_parameters, "_core", type("Core", (), {"Forward": forward, "Layers": lstm_rs._core.Layers}))
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        CHANGES[way](layer, new)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGUSR1, before)
    first = next(iter(new))
    assert signals
    for name, array in layer.state_dict().items():
        # The call that began first comes last, as if the handler had run before it.
        assert_same_bits(array, (new if way == "load_state_dict" or name == first else newest)[name], name)


# ----------------------------- too little memory: each allocation of a call fails once

LADDER = """
import hashlib, os, resource, sys
from lstm_rs import train

f = np.float32
ones = lambda *shape: np.full(shape, 0.01, f)


def flat(*answers):
    for answer in answers:
        if isinstance(answer, dict):
            yield from flat(*answer.values())
        elif isinstance(answer, tuple):
            yield from flat(*answer)
        elif answer is not None:
            yield answer


def digest(answers):
    out = hashlib.blake2b()
    for array in flat(answers):
        out.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return out.digest()


def child(work):
    process = os.fork()
    if process == 0:
        status = 12
        try:
            status = work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def starve(call, room, expected):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before, status = resource.getrlimit(resource.RLIMIT_AS), 0
    resource.setrlimit(resource.RLIMIT_AS, (now + room, before[1]))
    try:
        call()
    except MemoryError:
        status = 10
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return status if digest(call()) == expected else 11


def climb(call, megabytes, rungs=24):
    reader, writer = os.pipe()
    assert child(lambda: os.write(writer, digest(call())) and 0) == 0
    expected, names = os.read(reader, 64), {0: "done", 10: "refused"}
    rooms = [megabytes * 2**20 * k // rungs for k in range(rungs + 4)]
    return [names.get(status, status) for status in (child(lambda: starve(call, room, expected)) for room in rooms)]


def trained(layer, x):
    y, state, tape = layer.forward_train(x, rng=np.random.default_rng(0))
    return y, state, layer.backward(tape, y)


peephole = lstm_rs.CellSpec.peephole_lstm()
both = lstm_rs.LSTM(8, 24, 2, bidirectional=True, proj_size=8, dropout=0.2, cell=peephole, seed=0)
wide, tiny, linear = lstm_rs.LSTM(16, 32, seed=0), lstm_rs.LSTM(0, 1, seed=0), train.Linear(32, 48, seed=0)
heavy = lstm_rs.Weights(ones(1200, 500), ones(1200, 300), ones(1200))
x, crowd, rows, d_rows = ones(8, 300, 8), ones(1, 6000, 16), ones(12_000, 32), ones(12_000, 48)
many, lengths = ones(1, 300_000, 0), np.ones(300_000, int)
calls = {
    "forward": (lambda: wide(crowd), 3),
    "training": (lambda: trained(both, x), 14),
    "packing": (lambda: lstm_rs.backward(lstm_rs.forward_train(ones(1, 2, 500), heavy)[2])[1], 14),
    "lengths": (lambda: tiny(many, lengths=lengths), 22),
    "stream": (lambda: wide.stream(6000).step(crowd[0]), 7),
    "linear": (lambda: (linear(rows), linear.backward(rows, d_rows)), 7),
    "layer": (lambda: lstm_rs.LSTM(400, 200, seed=0).state_dict(), 12),
}
lstm_rs.set_num_threads(THREADS)
print(*climb(*calls[NAME]))
"""


# Large blocks come from the system one by one, and go back there, and no thread has room in store: what a call takes is
# then what it allocates. It takes the GNU C library.
PLAIN = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}


@linux
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["forward", "training", "packing", "lengths", "stream", "linear", "layer"])
def test_whatever_allocation_fails_is_a_memory_error(name, threads):
    outcomes = run(LADDER.replace("NAME", repr(name)).replace("THREADS", str(threads)), **PLAIN)
    assert set(outcomes) <= {"done", "refused"}, outcomes
    assert outcomes[-1] == "done"
    assert outcomes.count("refused") > 8, outcomes
