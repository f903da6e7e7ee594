"""Calls inside PyTorch run on PyTorch's own threads, where its OpenMP can be found."""

import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from lstm_rs.torch import _pass  # noqa: E402

linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@linux
def test_on_linux_the_threads_of_pytorch_are_found():
    with open("/proc/self/maps") as file:
        if "libgomp" not in file.read():
            pytest.skip("a PyTorch without GNU's OpenMP")
    assert _pass._OPENMP


SET_UP = """
    import os, torch
    import lstm_rs
    from lstm_rs.torch import LSTM
    torch.set_num_threads(2)
    torch.manual_seed(0)
    lstm, x = LSTM(64, 96, 2), torch.randn(20, 16, 64)

    def ours():
        names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
        return sum(name.startswith("lstm_rs") for name in names)

    def run():
        y, _ = lstm(x)
        lstm.zero_grad()
        y.square().sum().backward()
        return y.detach().numpy().tobytes() + lstm.weight_hh_l1.grad.numpy().tobytes()
"""


def printed(code):
    code = textwrap.dedent(SET_UP) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@linux
@pytest.mark.skipif(not _pass._OPENMP, reason="no OpenMP found")
def test_a_call_makes_no_threads_of_its_own():
    assert printed("""
        two = run()
        print(ours())
        torch.set_num_threads(1)
        print(two == run())
        # And those of a call outside are the library's.
        lstm_rs.set_num_threads(2)
        lstm_rs.LSTM(64, 96)(x.numpy())
        print(ours())
    """) == ["0", "True", "1"]  # fmt: skip


@linux
def test_a_forked_child_has_threads_of_its_own():
    """PyTorch's are not there: to ask its OpenMP for them would be to wait for ever."""
    assert printed("""
        import sys
        with torch.no_grad():
            parent = lstm(x)[0].numpy().tobytes()
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                print(lstm(x)[0].numpy().tobytes() == parent, ours(), flush=True)
                os._exit(0)
            print(os.waitpid(child, 0)[1])
    """) == ["True", "1", "0"]  # fmt: skip
