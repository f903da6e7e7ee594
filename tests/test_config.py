"""Threads and instruction sets: what is told of them, and the choice that the environment makes."""

import os
import subprocess
import sys

import lstm_rs
import numpy as np
import pytest
from conftest import ISAS, KNOWN_ISAS
from lstm_rs import _core

SCRIPT = """
import hashlib, numpy as np, lstm_rs
from lstm_rs import _core
layer = lstm_rs.LSTM(5, 19, 2, bidirectional=True, seed=0)
x = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
y, state, tape = layer.forward_train(x)
dx = layer.backward(tape, y).x
print(_core.isa(), hashlib.sha256(y.tobytes() + state.h.tobytes() + dx.tobytes()).hexdigest())
"""


def python(isa, *args):
    environment = {name: value for name, value in os.environ.items() if name != "LSTM_RS_ISA"}
    if isa is not None:
        environment["LSTM_RS_ISA"] = isa
    command = [sys.executable, "-W", "error", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_environment_chooses_the_instruction_set():
    answers = {}
    for name in ISAS:
        done = python(name, "-c", SCRIPT)
        assert done.returncode == 0, done.stderr
        used, answers[name] = done.stdout.split()
        assert used == name
    assert len(set(answers.values())) == 1, answers
    for nothing in (None, ""):
        assert python(nothing, "-c", SCRIPT).stdout.split() == [ISAS[-1], answers["scalar"]], "the fastest by default"


@pytest.mark.parametrize("name", ["sse9", "AVX2", *(name for name in KNOWN_ISAS if name not in ISAS)])
def test_an_instruction_set_that_is_not_there_is_refused_by_name(name):
    done = python(name, "-c", "import lstm_rs")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ValueError: LSTM_RS_ISA: expected one that this CPU has ({', '.join(ISAS)}), got '{name}'"


def test_available_isas():
    there = lstm_rs.available_isas()
    assert isinstance(there, tuple) and there[0] == "scalar"
    assert [name for name in KNOWN_ISAS if name in there] == list(there), "known names, slowest first"
    with pytest.raises(ValueError, match=r"^isa: expected one that this CPU has \(scalar.*, got 'sse9'"):
        _core.set_isa("sse9")


def test_threads():
    before = lstm_rs.get_num_threads()
    assert isinstance(before, int) and before >= 1
    for n in (1, 2, np.int64(3)):
        lstm_rs.set_num_threads(n)
        assert lstm_rs.get_num_threads() == n
    lstm_rs.set_num_threads(before)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"^n: expected at least 1 thread, got {wrong}"):
            lstm_rs.set_num_threads(wrong)
    for wrong in (True, 1.5, "2", None):
        with pytest.raises(TypeError):
            lstm_rs.set_num_threads(wrong)
    assert lstm_rs.get_num_threads() == before


def test_show_config(capsys):
    assert lstm_rs.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"lstm_rs {lstm_rs.__version__} ") and f"NumPy {np.__version__}" in lines[0]
    told = {line[:18].strip(): line[18:] for line in lines[1:]}
    assert told["instruction sets"] == f"{', '.join(ISAS)} (in use: {_core.isa()})"
    assert told["threads"] == f"up to {lstm_rs.get_num_threads()} a call"
    assert told["same bits"] == "yes"
    assert told["CPU"]
