"""Threads: the same bits with any number of them, whoever calls, and in every kind of process."""

import hashlib
import os
import subprocess
import sys
import threading

import lstm_rs
import numpy as np
import pytest

SECONDS = 120  # after which something hangs

CASES = {
    "one sequence, many units": dict(input_size=96, hidden_size=320, steps=40, batch=1),
    "one step": dict(input_size=200, hidden_size=512, steps=1, batch=1),
    "a batch": dict(input_size=28, hidden_size=64, steps=28, batch=130),
    "a batch of large weights": dict(input_size=64, hidden_size=300, steps=10, batch=37),
    "float64": dict(input_size=17, hidden_size=130, steps=20, batch=24, dtype=np.float64),
    "ragged": dict(input_size=16, hidden_size=100, steps=50, batch=40, ragged=True),
    "ragged, both directions": dict(
        input_size=16, hidden_size=100, steps=30, batch=40, ragged=True, bidirectional=True, num_layers=2
    ),
    "projected": dict(input_size=16, hidden_size=256, steps=30, batch=8, proj_size=100),
    "peepholes": dict(
        input_size=16, hidden_size=200, steps=30, batch=20, cell=lstm_rs.CellSpec.peephole_lstm(), ragged=True
    ),
}


def run(*, steps, batch, input_size, hidden_size, ragged=False, dtype=np.float32, **options):
    """All that a pass forward and backward give, as one digest."""
    layer = lstm_rs.LSTM(input_size, hidden_size, dtype=dtype, seed=1, **options)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(steps, batch, input_size)).astype(dtype)
    lengths = rng.integers(0, steps + 1, size=batch) if ragged else None
    y, state, tape = layer.forward_train(x, lengths=lengths)
    alone, _ = layer(x, lengths=lengths)
    grads = layer.backward(tape, y)
    arrays = [y, *state, alone, grads.x, *grads.state, *grads.weights.values()]
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_threads_gives_the_same_bits(case):
    digests = {}
    for n in (1, 2, 3, 8):
        with lstm_rs.num_threads(n):
            # More than once: the first call may find the others asleep.
            digests[n] = {run(**CASES[case]) for _ in range(3)}
    assert len(set.union(*digests.values())) == 1, digests


def test_a_block_concerns_this_thread_alone_and_nests():
    before = lstm_rs.get_num_threads()
    seen = []
    with lstm_rs.num_threads(5):
        with pytest.raises(RuntimeError, match="stop"), lstm_rs.num_threads(3):
            assert lstm_rs.get_num_threads() == 3
            raise RuntimeError("stop")
        assert lstm_rs.get_num_threads() == 5
        other = threading.Thread(target=lambda: seen.append(lstm_rs.get_num_threads()))
        other.start()
        other.join()
        lstm_rs.set_num_threads(before)
        assert lstm_rs.get_num_threads() == 5, "the block's own number goes first"
    assert lstm_rs.get_num_threads() == before
    assert seen == [before]


@pytest.mark.parametrize("wrong", [0, -1, 1025, 1 << 80])
def test_numbers_out_of_range_are_refused(wrong):
    for call in (lstm_rs.set_num_threads, lambda n: lstm_rs.num_threads(n).__enter__()):
        with pytest.raises(ValueError, match=r"^n: expected "):
            call(wrong)


def ask(code, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    return subprocess.run(
        command, env=environment | variables, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LSTM_RS_NUM_THREADS": "3", "RAYON_NUM_THREADS": "5"}, 3),
        ({"RAYON_NUM_THREADS": "5", "OMP_NUM_THREADS": "7"}, 5),
        ({"OMP_NUM_THREADS": "7,2"}, 7),
        ({"RAYON_NUM_THREADS": "0", "OMP_NUM_THREADS": "4"}, 4),
        ({"LSTM_RS_NUM_THREADS": "", "OMP_NUM_THREADS": "many", "RAYON_NUM_THREADS": "2"}, 2),
    ],
)
def test_the_environment_sets_the_number(variables, expected):
    done = ask("import lstm_rs; print(lstm_rs.get_num_threads())", **variables)
    assert done.stdout.split() == [str(expected)], done.stderr


def test_by_default_there_are_as_many_as_this_process_may_use():
    done = ask("import lstm_rs; print(lstm_rs.get_num_threads())")
    assert 1 <= int(done.stdout) <= os.cpu_count(), done.stderr


@pytest.mark.parametrize("nonsense", ["0", "-2", "two", "1025", "1.5"])
def test_nonsense_in_our_own_variable_is_refused(nonsense):
    done = ask("import lstm_rs", LSTM_RS_NUM_THREADS=nonsense)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ValueError: LSTM_RS_NUM_THREADS: expected 1 to 1024 threads, got '{nonsense}'"


def test_eight_python_threads_at_once_give_the_bits_of_one():
    layer = lstm_rs.LSTM(32, 128, seed=0)
    x = np.random.default_rng(0).normal(size=(20, 40, 32)).astype(np.float32)
    expected, _, tape = layer.forward_train(x)
    gradient = layer.backward(tape, expected).weights["weight_hh_l0"]
    wrong = []

    def work():
        with lstm_rs.num_threads(2):
            for _ in range(10):
                y, _, tape = layer.forward_train(x)
                if not np.array_equal(y, expected):
                    wrong.append("y")
                if not np.array_equal(layer.backward(tape, y).weights["weight_hh_l0"], gradient):
                    wrong.append("weight_hh_l0")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "hangs"
    assert not wrong


SCRIPT = """
import numpy as np, lstm_rs
lstm_rs.set_num_threads({threads})
layer = lstm_rs.LSTM(64, 256, seed=0)
x = np.random.default_rng(0).normal(size=(30, 48, 64)).astype(np.float32)

def digest(_=None):
    y, _, tape = layer.forward_train(x)
    grads = layer.backward(tape, y)
    return hash(y.tobytes() + grads.x.tobytes())

expected = digest()
"""


def script(text, threads=2):
    done = ask(SCRIPT.format(threads=threads) + text, PYTHONHASHSEED="0")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("threads", [2, 8])
def test_a_fork_in_the_middle_of_another_threads_call(threads):
    told = script(
        """
import os, signal, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads: that is the point
stop = threading.Event()
def work():
    while not stop.is_set():
        digest()
worker = threading.Thread(target=work)
worker.start()
for round in range(10):
    time.sleep(0.003 * round)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if digest() == expected == digest() else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
worker.join()
assert digest() == expected
print("done")
""",
        threads,
    )
    assert told.split() == ["done"]


@pytest.mark.parametrize("leave", ["", "os._exit(0)"])
@pytest.mark.parametrize("pause", [0, 0.05])
def test_a_process_ends_while_its_threads_work_wait_or_sleep(pause, leave):
    told = script(
        f"""
import os, threading, time
def work():
    while True:
        digest()
        time.sleep({pause})
threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
print("done", flush=True)
{leave}
"""
    )
    assert told.split() == ["done"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    file = tmp_path / "main.py"
    text = f"""
if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert pool.map(digest, range(4)) == [expected] * 4
    print("done")
"""
    file.write_text(SCRIPT.format(threads=2) + text)
    done = subprocess.run(
        [sys.executable, file],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout.split() == ["done"], done.stderr


def test_joblib():
    pytest.importorskip("joblib")
    told = script(
        """
import joblib
def work(layer, x):
    with lstm_rs.num_threads(2):
        return layer(x)[0]
here = layer(x)[0]
for y in joblib.Parallel(n_jobs=2)(joblib.delayed(work)(layer, x) for _ in range(4)):
    assert (y == here).all()
print("done")
"""
    )
    assert told.split() == ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_random_shapes():
    told = script(
        """
rng = np.random.default_rng(0)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def calls(n):
    for _ in range(n):
        sizes = rng.integers(1, [30, 20, 40, 60])
        layer = lstm_rs.LSTM(int(sizes[2]), int(sizes[3]), seed=0)
        y, _, tape = layer.forward_train(rng.normal(size=sizes[:3]).astype(np.float32))
        layer.backward(tape, y)
calls(1000)
before = resident()
calls(10_000)
print(resident() - before)
"""
    )
    assert int(told) < 8 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send on this system")
def test_ctrl_c_stops_a_call_of_many_threads():
    told = script(
        """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
big = lstm_rs.LSTM(256, 512, seed=0)
long = np.zeros((4000, 32, 256), np.float32)
for _ in range(3):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        big(long)
    except KeyboardInterrupt:
        print("stopped")
    assert digest() == expected
"""
    )
    assert told.split() == ["stopped"] * 3


def test_threadpoolctl_reaches_the_threads():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def seen():
        controllers = threadpoolctl.ThreadpoolController().select(user_api="lstm_rs").info()
        (ours,) = (one for one in controllers if one["internal_api"] == "lstm_rs")
        assert ours["version"] == lstm_rs.__version__
        return ours["num_threads"]

    before = lstm_rs.get_num_threads()
    assert seen() == before
    with threadpoolctl.threadpool_limits(limits=3, user_api="lstm_rs"):
        assert lstm_rs.get_num_threads() == seen() == 3
    assert lstm_rs.get_num_threads() == before
    # A thread's own number is what its calls use, and what is given back to it.
    with lstm_rs.num_threads(5):
        with threadpoolctl.threadpool_limits(limits=2):
            assert lstm_rs.get_num_threads() == seen() == 2
        assert lstm_rs.get_num_threads() == 5
    assert lstm_rs.get_num_threads() == before


def test_threadpoolctl_may_be_missing_or_old():
    for stub in ("None", "type(sys)('threadpoolctl')"):
        code = f"import sys; sys.modules['threadpoolctl'] = {stub}; import lstm_rs; print(lstm_rs.get_num_threads())"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS)
        assert int(told.stdout) >= 1
