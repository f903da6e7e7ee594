"""The process that is soaked: it makes the pool, draws operations until its time is up, and tells how it goes.

Each line on standard output is one JSON object: a tally so far. The supervisor waits for them.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
import warnings

import interrupts
import numpy as np
import operations
import pool
import processes
from measure import Bell, Tally, sample

# How often each is done in one deck; a deck has all of them, in random order.
DECK = {
    "calls": 30,
    "threads": 5,
    "handlers": 4,
    "refused": 4,
    "deep": 2,
    "fork": 4,
    "multiprocessing fork": 1,
    "multiprocessing spawn": 1,
    "little memory": 3,
    "little memory in a child": 6,
    "edit ended by a signal": 3,
    "interrupt": 4,
    "handler that raises": 2,
}


class Soak:
    """What the operations share."""

    def __init__(self, seed, seconds, sabotage):
        self.rng = np.random.default_rng(seed)
        self.seconds, self.sabotage = seconds, sabotage
        self.tally, self.start = Tally(), time.monotonic()
        self.pool, wrong = pool.make_pool(int(seed), self.tell)
        for call in wrong:
            self.tally.counts["wrong bits"] += 1
            self.tally.fail(f"wrong bits on another instruction set or other threads: {call}")
        self.long, self.hungry, self.bell = interrupts.LongCalls(), processes.Hungry(), Bell()
        self.turn, self.kept, self.start = 0, [], time.monotonic()

    def long_call(self):
        """The next of the long calls: all have their turn."""
        self.turn += 1
        name = self.long.names[self.turn % len(self.long.names)]
        return name, getattr(self.long, name)

    def operate(self, kind):
        """One operation."""
        match kind.split()[0]:
            case "multiprocessing":
                processes.multiprocess(self, kind.split()[1])
            case "little":
                processes.memory(self, here="child" not in kind)
            case "edit":
                interrupts.edited(self.tally, self.bell, self.rng)
            case "interrupt":
                interrupts.interrupted(self.tally, self.bell, self.rng, *self.long_call())
            case "handler":
                interrupts.raised(self.tally, self.bell, self.rng, *self.long_call())
            case "fork":
                processes.fork(self)
            case name:
                getattr(operations, name)(self)
        self.tally.operations[kind] += 1

    def run(self):
        # An operation of each kind first, whatever the time, and an interrupt in each of the long calls.
        deck = self.shuffled(dict.fromkeys(DECK, 1) | {"interrupt": len(self.long.names)})
        begun, told, sampled = False, 0.0, 0.0
        while (now := time.monotonic() - self.start) < self.seconds or not begun:
            self.break_something()
            self.operate(deck.pop())
            if not deck:
                begun, deck = True, self.shuffled(DECK)
            if now - sampled >= self.seconds / 100:
                self.tally.samples.append(sample(time.monotonic() - self.start))
                sampled = time.monotonic() - self.start
            if now - told >= 2.0:
                self.tell()
                told = now
        self.bell.close()
        self.tell(done=True)

    def shuffled(self, counts):
        return list(self.rng.permutation([kind for kind, count in counts.items() for _ in range(count)]))

    def tell(self, **more):
        print(json.dumps(self.tally.told() | {"seconds": time.monotonic() - self.start} | more), flush=True)

    def break_something(self):
        """The faults that prove that this run can fail."""
        match self.sabotage:
            case "leak":
                self.kept.append(np.ones(100_000))
            case "bit":
                for call in self.pool[::10]:
                    call.expected = "0" * 32
            case "hang" if self.tally.operations["calls"] > 3:
                time.sleep(1e6)
            case "abort" if self.tally.operations["calls"] > 3:
                os.abort()
            case "interrupt":
                call = type(self.long).call_backward
                self.long.names = ["call_slow"]
                type(self.long).call_slow = lambda long: (deaf(0.3), call(long))


def deaf(seconds):
    """Ignores Ctrl-C for some time, as a call does that asks too seldom."""
    signals = {signal.SIGINT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    time.sleep(seconds)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def main():
    seed, seconds, sabotage = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    faulthandler.enable(all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("error")
    # A fork beside other threads is the point, and a lone dropout no matter.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    soak = Soak(seed, seconds, sabotage)
    try:
        soak.run()
    except BaseException:
        soak.tally.fail(traceback.format_exc(limit=-12))
        soak.tell()
        os._exit(1)


if __name__ == "__main__":
    main()
