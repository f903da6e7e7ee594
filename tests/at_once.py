"""Many threads at once, for tests of what they share."""

import os
import sys
import threading
from contextlib import contextmanager

MANY = 16
SECONDS = 120  # after which something hangs
# How long to look for what happens only now and then.
RACE = float(os.environ.get("LSTM_RS_RACE_SECONDS", "1"))


def at_once(*works):
    """Run each in a thread of its own, all from the same moment; what they answer, or the first of their errors.

    An answer is worth nothing where another thread has failed: all of them end before anything is raised.
    """
    start = threading.Barrier(len(works))
    answers, errors = [None] * len(works), []

    def run(k, work):
        try:
            start.wait(SECONDS)
            answers[k] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 2 * RACE)
        assert not thread.is_alive(), "hangs"
    if errors:
        raise errors[0]
    return answers


def many(work, count=MANY):
    """The same in so many threads, each of which is given its number."""
    return at_once(*(lambda k=k: work(k) for k in range(count)))


@contextmanager
def switching(seconds=1e-5):
    """Let Python go from one thread to the next as often as it can, where only one of them runs at a time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
