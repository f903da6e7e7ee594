"""Forks, other processes, and too little memory."""

import faulthandler
import multiprocessing
import os
import resource
import sys
import threading
import time

import lstm_rs
import numpy as np
import pool as calls
from operations import Settings, check, some

PATIENCE = 300
"""Seconds after which a child hangs."""
FINE, REFUSED, WRONG = 0, 10, 11


def child(work):
    """Runs `work` in a fork, which has no way back from it; its exit status."""
    process = os.fork()
    if process == 0:
        status = WRONG
        try:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            status = work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return process


def ended(soak, process, what):
    """Waits for a child, which must have ended well."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    soak.tally.counts["forks"] += 1
    if status not in (FINE, REFUSED):
        soak.tally.fail(f"{what}: a child ended with status {status}")
    return status


def right(some_calls):
    """Do they have their bits?"""
    for call in some_calls:
        if call.digest() != call.expected:
            print(f"wrong bits in a child: {call!r}", file=sys.stderr)
            return WRONG
    return FINE


def fork(soak):
    """A child that calls and exits; often while other threads are in the middle of calls."""
    stop = threading.Event()
    others = []
    for call in some(soak.rng, soak.pool, int(soak.rng.integers(3))):
        others.append(threading.Thread(target=lambda call=call: repeat(call, stop), daemon=True))
        others[-1].start()
    mine = some(soak.rng, soak.pool, 3)
    with Settings(soak.rng):
        for _ in range(2):
            time.sleep(float(soak.rng.uniform(0, 0.01)))
            process = child(lambda: right(mine))
            check(soak.tally, mine[0])
            ended(soak, process, "fork")
    stop.set()
    for thread in others:
        thread.join()


def repeat(call, stop):
    while not stop.is_set():
        call.digest()


def answer(keys):
    """In a process of `multiprocessing`: do the calls that are made there anew have the same bits?"""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    for kind, seed, expected in keys:
        if calls.make(kind, seed).digest() != expected:
            sys.exit(f"wrong bits in another process: {kind} {seed}")


def multiprocess(soak, method):
    """Two processes, of one way to start them."""
    context = multiprocessing.get_context(method)
    small = [call for call in some(soak.rng, soak.pool, 12) if not getattr(call, "large", False)]
    keys = [(call.kind, call.seed, call.expected) for call in small]
    team = [context.Process(target=answer, args=(keys[k::2],)) for k in range(2)]
    for process in team:
        process.start()
    for process in team:
        process.join()
        soak.tally.counts["processes"] += 1
        if process.exitcode != 0:
            soak.tally.fail(f"multiprocessing {method}: exit status {process.exitcode}")
        process.close()


class Limit:
    """No more than so many bytes of address space than there are, for a while."""

    def __init__(self, more):
        self.more = more

    def __enter__(self):
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        self.before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + self.more, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_AS, self.before)


class Hungry:
    """Calls that ask for many megabytes at many places, by name, and how many."""

    def __init__(self):
        f = np.float32
        self.wide = lstm_rs.LSTM(32, 128, seed=0)
        self.both = lstm_rs.LSTM(32, 96, 2, bidirectional=True, dropout=0.2, seed=0)
        self.projected = lstm_rs.LSTM(32, 256, proj_size=16, seed=0)
        self.heavy = lstm_rs.LSTM(700, 500, seed=0)
        self.x = np.ones((24, 96, 32), f)
        self.flat = np.ones((2, 12_000, 32), f)
        self.rows = np.ones((40_000, 64), f)
        self.linear = lstm_rs.train.Linear(64, 64, seed=0)
        self.function = lstm_rs.Weights(np.ones((1024, 600), f), np.ones((1024, 256), f))
        self.calls = {
            "forward": (lambda: self.wide(self.flat), 30),
            "forward, projected": (lambda: self.projected(self.flat), 30),
            "forward_train": (lambda: self.wide.forward_train(self.x)[:2], 10),
            "backward": (lambda: self.wide.backward(self.wide.forward_train(self.flat)[2]), 120),
            "both directions": (lambda: self.train(self.both, self.x), 30),
            "packing": (lambda: lstm_rs.forward(np.ones((1, 1, 600), f), self.function), 5),
            "edit": (lambda: self.edit(), 30),
            "stream": (lambda: self.wide.stream(12_000).step(self.flat[0]), 40),
            "linear": (lambda: self.linear(self.rows), 12),
            "linear backward": (lambda: self.linear.backward(self.rows, self.rows), 12),
        }
        self.names = list(self.calls)
        self.expected = {name: self.digest(name) for name in self.names}

    def train(self, layer, x):
        y, state, tape = layer.forward_train(x, rng=np.random.default_rng(0))
        return y, state, layer.backward(tape, y)

    def edit(self):
        with self.heavy.edit() as weights:
            weights["bias_l0"][0] += 0.0
        return self.heavy.state_dict()

    def digest(self, name):
        return calls.digest(calls.flat(self.calls[name][0]()))


def starve(soak, name, room):
    """Runs a hungry call in so little room, keeping its answers until there is none; then once more: an exit status."""
    status, kept = FINE, []
    try:
        with Limit(room):
            for _ in range(60):
                kept.append(list(calls.flat(soak.hungry.calls[name][0]())))
                if calls.digest(kept[-1]) != soak.hungry.expected[name]:
                    status = WRONG
    except MemoryError:
        status = max(status, REFUSED)
    kept.clear()
    if soak.hungry.digest(name) != soak.hungry.expected[name]:
        return WRONG
    return max(status, right(soak.after))


def memory(soak, here):
    """Too little memory for a call, here or in a child: a MemoryError, and all is usable."""
    name = soak.hungry.names[int(soak.rng.integers(len(soak.hungry.names)))]
    # As often near nothing as near enough.
    room = int(soak.hungry.calls[name][1] * 2**20 * soak.rng.uniform(0, 1.1) ** 2)
    soak.after = [call for call in some(soak.rng, soak.pool, 8) if not getattr(call, "large", False)][:2]
    with Settings(soak.rng):
        if here:
            # Where Python itself finds no room for its own small things, that is not what is asked here.
            status = starve(soak, name, room + (2 << 20))
        else:
            status = ended(soak, child(lambda: starve(soak, name, room)), f"memory for {name}, {room} bytes")
    if status == WRONG:
        soak.tally.counts["wrong bits"] += 1
        soak.tally.fail(f"wrong bits after a MemoryError: {name}, {room} bytes")
    soak.tally.counts["calls in little memory"] += 1
    soak.tally.counts["MemoryErrors"] += status == REFUSED
