"""Too little memory: a MemoryError, wherever in a call it is, and all is usable after it.

The limits of `test_process.py` refuse one large array each. Here a ladder of limits, each a little higher than the one
before, lets each of a call's allocations in turn be the first that fails: in a fork each, so that one that ends the
process is seen.
"""

import pytest
from faults import linux, run

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


cell = lstm_rs.CellSpec.peephole_lstm()
both = lstm_rs.LSTM(8, 24, 2, bidirectional=True, proj_size=8, dropout=0.2, cell=cell, seed=0)
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
