"""What is done over and over in this process: calls, Python threads, refused calls, signals, recursion."""

import gc
import os
import signal
import sys
import threading

import lstm_rs
import numpy as np
from lstm_rs import train

MOST_THREADS = 6


class Settings:
    """An instruction set and a number of threads, for a while."""

    def __init__(self, rng):
        isas = lstm_rs.available_isas()
        self.isa = isas[-1 - int(rng.geometric(0.6) - 1) % len(isas)]
        self.threads = int(rng.integers(1, MOST_THREADS + 1))
        self.everywhere = rng.random() < 0.3

    def __enter__(self):
        self.before = lstm_rs._core.isa(), lstm_rs.get_num_threads()
        lstm_rs._core.set_isa(self.isa)
        if self.everywhere:
            lstm_rs.set_num_threads(self.threads)
        else:
            self.block = lstm_rs.num_threads(self.threads)
            self.block.__enter__()

    def __exit__(self, *_):
        lstm_rs._core.set_isa(self.before[0])
        if self.everywhere:
            lstm_rs.set_num_threads(self.before[1])
        else:
            self.block.__exit__(None, None, None)


def check(tally, call):
    """Runs a call, and compares its bits with those of the beginning."""
    tally.counts[call.kind] += 1
    tally.counts["calls"] += 1
    if call.digest() != call.expected:
        tally.counts["wrong bits"] += 1
        tally.fail(f"wrong bits: {call!r} on {lstm_rs._core.isa()}, {lstm_rs.get_num_threads()} threads")


def some(rng, pool, count):
    return [pool[int(k)] for k in rng.integers(len(pool), size=count)]


def calls(soak):
    """Some calls, one after the other."""
    with Settings(soak.rng):
        for call in some(soak.rng, soak.pool, 5):
            check(soak.tally, call)


def threads(soak):
    """Several Python threads at once; another collects garbage, or forks, meanwhile."""
    count = int(soak.rng.integers(2, MOST_THREADS + 1))
    work = [(some(soak.rng, soak.pool, 4), Settings(soak.rng)) for _ in range(count)]
    wrong = []

    def run(calls, settings):
        try:
            with lstm_rs.num_threads(settings.threads):
                for call in calls:
                    check(soak.tally, call)
        except BaseException as error:
            wrong.append(error)

    team = [threading.Thread(target=run, args=one, daemon=True) for one in work]
    for thread in team:
        thread.start()
    while any(thread.is_alive() for thread in team):
        if soak.rng.random() < 0.5:
            gc.collect()
        else:
            for call in some(soak.rng, soak.pool, 1):
                check(soak.tally, call)
    for thread in team:
        thread.join()
    for error in wrong:
        soak.tally.fail(f"threads: {error!r}")


def handlers(soak):
    """Signals whose handlers return: timers, children that end, and calls made in a handler."""
    seen, wrong, busy = [0], [], [False]
    inner = [call for call in some(soak.rng, soak.pool, 6) if not getattr(call, "large", False)][:2]
    children = []

    def handle(*_):
        seen[0] += 1
        # On a slow machine the next signal comes before this has ended: not deeper and deeper.
        if seen[0] % 5 == 1 and not busy[0]:
            busy[0] = True
            wrong.extend(call for call in inner if call.digest() != call.expected)
            busy[0] = False
        if seen[0] % 20 == 2 and len(children) < 2:
            children.append(os.posix_spawn("/bin/true", ["true"], {}))

    before = [(number, signal.signal(number, handle)) for number in (signal.SIGALRM, signal.SIGCHLD)]
    # With and without the system's own restart of what they interrupt.
    signal.siginterrupt(signal.SIGALRM, bool(soak.rng.integers(2)))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.004)
    try:
        with Settings(soak.rng):
            for call in some(soak.rng, soak.pool, 4):
                check(soak.tally, call)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for child in children:
            os.waitpid(child, 0)
        for number, handler in before:
            signal.signal(number, handler)
    soak.tally.counts["handlers that returned"] += seen[0]
    for call in wrong:
        soak.tally.counts["wrong bits"] += 1
        soak.tally.fail(f"wrong bits in a handler: {call!r}")


class Poison:
    """What raises when it is asked for its numbers."""

    def __array__(self, *_, **__):
        raise RuntimeError("no numbers")


def refused(soak):
    """Calls that have to be refused; a good one after each."""
    layer = lstm_rs.LSTM(3, 5, 2, dropout=0.5, seed=0)
    other = lstm_rs.LSTM(3, 5, seed=0)
    stream, linear = other.stream(), train.Linear(3, 2)
    x = np.ones((4, 2, 3), np.float32)
    tape = layer.forward_train(x)[2]
    weights = lstm_rs.Weights(np.ones((20, 3)), np.ones((20, 5)))

    def half():
        with layer.edit() as w:
            w["bias_l0"][:] = 7
            w["bias_l1"] = w["bias_l0"][:3]

    wrong = [
        (ValueError, lambda: layer(x[:, :, :2])),
        (TypeError, lambda: layer(x.astype(np.float64))),
        (ValueError, lambda: layer(x, lengths=[5, 1])),
        (TypeError, lambda: layer(x, state=3)),
        (ValueError, lambda: layer.backward(other.forward_train(x)[2])),
        (ValueError, lambda: layer.backward(tape, x)),
        (TypeError, lambda: layer.forward_train(x, rng=3)),
        (ValueError, lambda: stream.step(x[0, 0, :2])),
        (ValueError, lambda: stream.step(x[0, 0], out=np.ones(3, np.float32))),
        (ValueError, lambda: lstm_rs.forward(np.ones((4, 2, 2)), weights)),
        (TypeError, lambda: lstm_rs.forward(x, weights)),
        (TypeError, lambda: lstm_rs.forward(None, weights)),
        (ValueError, lambda: linear(x[..., :2])),
        (ValueError, lambda: lstm_rs.set_num_threads(0)),
        (ValueError, lambda: lstm_rs._core.set_isa("no such thing")),
        ((RuntimeError, TypeError), lambda: layer(Poison())),
        (ValueError, half),
    ]
    before = layer.state_dict()
    for k in soak.rng.integers(len(wrong), size=6):
        error, call = wrong[int(k)]
        try:
            call()
        except error:
            soak.tally.counts["exceptions"] += 1
        else:
            soak.tally.fail(f"refused call {k} was not refused")
        check(soak.tally, some(soak.rng, soak.pool, 1)[0])
    if any((layer.weights[name] != array).any() for name, array in before.items()):
        soak.tally.fail("a refused edit changed weights")


def deep(soak):
    """A call at the end of a deep recursion, and one in a finalizer."""
    call = some(soak.rng, soak.pool, 1)[0]

    def down(levels):
        if levels:
            return down(levels - 1)
        return call.digest()

    room = sys.getrecursionlimit()
    for levels in (room - 200, room - 60, room - 20):
        try:
            if down(levels) != call.expected:
                soak.tally.fail(f"wrong bits in a recursion: {call!r}")
        except RecursionError:
            soak.tally.counts["exceptions"] += 1
    answers = []

    class Last:
        def __del__(self):
            answers.append(call.digest() == call.expected)

    one = Last()
    one.itself = one
    del one
    gc.collect()
    if answers != [True]:
        soak.tally.fail(f"wrong bits in a finalizer: {call!r}")
