"""How the library behaves in its process: threads, Ctrl-C, memory that grows, and memory that is not there."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import lstm_rs
import numpy as np
import pytest
from calls import assert_results_same, gradients, make_call

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and resource limits")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

# ----------------------------- threads


def test_many_threads_get_the_same_bits():
    calls = [
        make_call(seed, cell, (20, 3, 5, 19), None, dtype)
        for seed, cell in enumerate(["gers_1999", "peephole_lstm", "CIFG", "NOG"])
        for dtype in (np.float32, np.float64)
    ]
    alone = [call.run() for call in calls]
    start = threading.Barrier(8)

    def work(first):
        start.wait()
        order = [(first + k) % len(calls) for k in range(3 * len(calls))]
        return [(k, calls[k].run()) for k in order]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            for k, out in results:
                assert_results_same(out, alone[k])


def test_one_tape_serves_many_threads():
    call = make_call(0, sizes=(30, 4, 5, 19))
    tape = lstm_rs.forward_train(call.x, call.weights, call.state)[2]
    alone = gradients(lstm_rs.backward(tape, call.dy))
    with ThreadPoolExecutor(8) as pool:
        for grads in pool.map(lambda _: lstm_rs.backward(tape, call.dy), range(32)):
            assert_results_same(gradients(grads), alone)


def longest_pause(call):
    """Seconds that `call` took in another thread, and the longest time for which this one could not run."""
    took = []

    def work():
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)

    thread = threading.Thread(target=work)
    pause, last = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        pause, last = max(pause, now - last), now
    thread.join()
    return took[0], pause


def one_call(name, steps):
    """A single call whose time is in proportion to `steps`."""
    if name == "sum":
        return lambda: sum(range(20_000 * steps))
    weights, x = make_call(0, sizes=(1, 16, 8, 128), dtype=np.float32).weights, np.ones((steps, 16, 8), np.float32)
    if name == "forward":
        return lambda: lstm_rs.forward(x, weights)
    tape = lstm_rs.forward_train(x, weights)[2]
    return lambda: lstm_rs.backward(tape)


# The last holds the interpreter, where only one thread may have it, and proves that this would be seen.
@pytest.mark.parametrize("name", ["forward", "backward", "sum"])
def test_other_threads_run_during_a_long_call(name):
    took, _ = longest_pause(one_call(name, 50))
    # One call of about a second, so that a pause shows beside those that the machine's other work makes.
    took, pause = longest_pause(one_call(name, min(int(50 / took) + 50, 10_000)))
    assert (pause > took / 2) == (name == "sum" and getattr(sys, "_is_gil_enabled", lambda: True)())


# ----------------------------- in a process of its own


def start(script, **environment):
    """A Python that runs `script`."""
    code = "import resource, signal, sys, time\nimport numpy as np\nimport lstm_rs\n" + textwrap.dedent(script)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment, **pipes)


def run(script, **environment):
    """What `script` prints; a failure if it fails."""
    process = start(script, **environment)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out.split()


# Passes that take many seconds on any machine, of little memory: x without elements, the scalar instruction set.
LONG = """
    import signal
    # Where the tests run in the background, the system has told them, and so this, to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    f = np.float32
    if PASS == "forward":
        weights = lstm_rs.Weights(np.ones((4096, 0), f), np.ones((4096, 1), f), w_hr=np.ones((1, 1024), f))
        x = np.zeros((1_000_000, 8, 0), f)
        run = lambda: lstm_rs.forward(x, weights)
    else:
        weights = lstm_rs.Weights(np.ones((1024, 0), f), np.ones((1024, 256), f))
        tape = lstm_rs.forward_train(np.zeros((1000, 32, 0), f), weights)[2]
        lstm_rs._core.set_isa("scalar")
        run = lambda: lstm_rs.backward(tape)
    print("started", flush=True)
"""
SMALL = """
    small = lstm_rs.Weights(np.ones((8, 3), f), np.ones((8, 2), f))
    y, _, tape = lstm_rs.forward_train(np.ones((4, 2, 3), f), small)
    assert np.isfinite(lstm_rs.backward(tape, dy=y).x).all()
    print("usable", flush=True)
"""


@posix
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_ctrl_c_ends_a_long_call(which):
    process = start(
        f"PASS = {which!r}"
        + textwrap.dedent(LONG)
        + textwrap.dedent(
            """
            try:
                run()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            """
        )
        + textwrap.dedent(SMALL)
    )
    # So that a call that does not end is a failure, and not a wait.
    patience = threading.Timer(60, process.kill)
    patience.start()
    try:
        assert process.stdout.readline() == "started\n", process.stdout.read()
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.read() == "usable\n"
        assert process.wait(timeout=60) == 0
    finally:
        patience.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@posix
def test_a_signal_whose_handler_returns_does_not_disturb():
    assert run(
        """
        f = np.float32
        rng = np.random.default_rng(0)
        weights = lstm_rs.Weights(rng.normal(size=(2048, 4)).astype(f), rng.normal(size=(2048, 512)).astype(f) / 22)
        x = rng.normal(size=(100, 16, 4)).astype(f)
        calm = lstm_rs.forward(x, weights)[0]
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        count = 0
        while len(seen) < 10:
            disturbed = lstm_rs.forward(x, weights)[0]
            count += 1
            assert disturbed.tobytes() == calm.tobytes()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("same")
        """
    ) == ["same"]


# ----------------------------- memory


def resident():
    """Bytes of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@linux
def test_calls_do_not_leak():
    call = make_call(0, "peephole_lstm", (50, 16, 8, 64), 32, np.float32)  # about 1 MB comes out of each
    wrong = make_call(0, "peephole_lstm", (50, 16, 8, 64), 32, np.float32)
    wrong.dstate = (wrong.dstate.h, wrong.dstate.c[:1])
    dtype = call.x.dtype

    def work(times):
        for _ in range(times):
            call.run()
            with pytest.raises(ValueError, match=r"dstate\.c"):
                wrong.run()

    work(10)
    memory, references = resident(), sys.getrefcount(dtype)
    work(100)
    assert sys.getrefcount(dtype) - references < 50, "every array made must give its dtype's reference back"
    assert resident() - memory < 20e6, "100 MB would be one leaked result a call"
    # The bound can fail: what is kept shows, and is more than the 256 MB that other tests may have left to be used.
    kept = [call.run() for _ in range(400)]
    assert resident() - memory > 20e6 and len(kept) == 400


LIMIT = """
    def limit(megabytes):
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 1_000_000, resource.RLIM_INFINITY))

    def refused(run, sentence):
        try:
            run()
        except MemoryError as error:
            assert sentence in str(error), error
            print("refused", flush=True)
        else:
            print("done", flush=True)

    f = np.float32
"""


@linux
@pytest.mark.parametrize(
    ("name", "script"),
    [
        # Results of 103 MB, a workspace of 102 MB for the hidden state before its projection.
        (
            "forward's workspace",
            """
            weights = lstm_rs.Weights(np.ones((1024, 1), f), np.ones((1024, 1), f), w_hr=np.ones((1, 256), f))
            x = np.ones((1, 100_000, 1), f)
            run, megabytes, sentence = lambda: lstm_rs.forward(x, weights), 150, "workspace of 102"
            """,
        ),
        # Results of 52 MB, a workspace of 109 MB for the gates' gradients of one step.
        (
            "backward's workspace",
            """
            weights = lstm_rs.Weights(np.ones((256, 1), f), np.ones((256, 64), f))
            tape = lstm_rs.forward_train(np.ones((1, 100_000, 1), f), weights)[2]
            run, megabytes, sentence = lambda: lstm_rs.backward(tape), 110, "workspace of 108"
            """,
        ),
        # Weights of 285 MB, which are packed into as much again.
        (
            "packing",
            """
            weights = lstm_rs.Weights(np.zeros((4096, 16384), f), np.zeros((4096, 1024), f))
            x = np.zeros((1, 16384), f)
            run, megabytes, sentence = lambda: lstm_rs.forward(x, weights), 100, "workspace of 285"
            """,
        ),
        # A tape of 102 MB, which NumPy allocates.
        (
            "results",
            """
            weights = lstm_rs.Weights(np.ones((256, 0), f), np.ones((256, 64), f))
            x = np.ones((100, 1000, 0), f)
            run, megabytes, sentence = lambda: lstm_rs.forward_train(x, weights), 90, "Unable to allocate"
            """,
        ),
    ],
)
def test_no_memory_is_a_memory_error(name, script):
    script = textwrap.dedent(LIMIT) + textwrap.dedent(script)
    assert run(script + "limit(megabytes)\nrefused(run, sentence)" + textwrap.dedent(SMALL)) == ["refused", "usable"]
    # It was the limit that refused it.
    assert run(script + "refused(run, sentence)") == ["done"]


@linux
def test_memory_for_gradients_does_not_grow_with_the_steps():
    """A pass backward over 100,000 steps in 30 MB: the gradients of all gates would take 102 MB."""
    script = """
        weights = lstm_rs.Weights(np.ones((256, 1), f), np.ones((256, 64), f))
        tape = lstm_rs.forward_train(np.ones((100_000, 1, 1), f), weights)[2]
        run, megabytes, sentence = lambda: lstm_rs.backward(tape), 30, ""
    """
    script = textwrap.dedent(LIMIT) + textwrap.dedent(script)
    assert run(script + "limit(megabytes)\nrefused(run, sentence)" + textwrap.dedent(SMALL)) == ["done", "usable"]
