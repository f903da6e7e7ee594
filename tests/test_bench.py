"""The benchmark, run once over tiny shapes: who takes part, what it records, and that a wrong answer stops it."""

import importlib.util
import json

import numpy as np
import pytest
from lstm_rs import __main__ as command
from lstm_rs import _core, bench
from lstm_rs.bench.machine import Machine, bound, measure
from lstm_rs.bench.peers import ALL, Call, Case, peers

TINY = (3, 2, 4, 5)
MACHINE = Machine({"float32": 100e9, "float64": 50e9}, {"L1": 200e9, "L2": 100e9, "L3": 80e9, "DRAM": 20e9}, threads=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda threads: MACHINE._replace(threads=threads))
    monkeypatch.setattr(bench, "FEWEST", 1)


@pytest.mark.parametrize("mode", bench.MODES)
def test_every_mode_runs_and_is_recorded(mode, tmp_path, capsys):
    file = tmp_path / "record.json"
    code = command.main(
        [
            "bench",
            "3,2,4,5",
            "--mode",
            mode,
            "--peers",
            "numpy",
            "--seconds",
            "0",
            "--threads",
            "2",
            "--json",
            str(file),
        ]
    )
    assert code == 0
    record = json.loads(file.read_text())
    (row,) = record["rows"]
    assert (tuple(row["shape"]), row["mode"]) == (TINY, mode)
    low, median, high = row["microseconds"]["lstm_rs"]
    assert 0 < low <= median <= high
    assert record["machine"]["threads"] == 2 and record["isa"] == _core.isa()
    told = capsys.readouterr().out
    assert f"{median:,.1f}" in told and "3,2,4,5" in told
    flop = 8 * 3 * 2 * 5 * (4 + 5) * (3 if mode.startswith("train") else 1)
    if mode != "ragged":
        assert row["gflops"] == pytest.approx(flop / median / 1e3, rel=1e-3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", bench.MODES)
def test_every_peer_answers_as_we_do(name, mode):
    modules, make = ALL[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    case = Case(*TINY, mode=mode, threads=1)
    call = make(case)
    if call is None:
        pytest.skip(f"{name} does not have {mode}")
    ours = peers([])["lstm_rs"](case)
    for actual, expected in zip(call.answer(), ours.answer(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_a_wrong_answer_stops_it(monkeypatch, capsys):
    def liar(case):
        return Call(lambda: None, lambda: (np.zeros((3, 2, 5), dtype=np.float32),))

    monkeypatch.setitem(ALL, "liar", ((), liar))
    assert bench.run([TINY], 0.0, names=["liar"], modes=["forward"]) == 1
    assert "liar gives another answer" in capsys.readouterr().err


def test_the_bound_is_the_formula():
    # 8 H H = 2,048 flop a step, in 20.48 ns; 4 H H numbers are 4,096 bytes, in L1: also 20.48 ns; I = 0.
    assert bound(MACHINE, (1, 1, 0, 16)) == pytest.approx(20.48e-9)
    # 4 MiB of weights in L3 at 80 GB/s: longer than 2,097,152 flop at the peak take.
    assert bound(MACHINE, (10, 1, 0, 512)) == pytest.approx(10 * (4 << 20) / 80e9)
    # A batch of 128 computes longer than it reads; half as fast in float64.
    assert bound(MACHINE, (2, 128, 64, 64)) == pytest.approx(2 * 2 * 8 * 128 * 64 * 64 / 100e9)
    assert bound(MACHINE, (2, 128, 64, 64), "float64") == pytest.approx(2 * 2 * 8 * 128 * 64 * 64 / 50e9)


def test_the_machine_is_measured():
    machine = measure(2, seconds=0.002)
    assert machine.threads == 2
    assert all(value > 1e6 for value in (*machine.peak.values(), *machine.bandwidth.values()))
    with pytest.raises(ValueError, match=r"^dtype: expected 'float32' or 'float64', got 'int8'"):
        _core.fma_peak("int8", 0.1)
    with pytest.raises(ValueError, match=r"^seconds: "):
        _core.read_bandwidth(1024, -1.0)


@pytest.mark.parametrize("wrong", [["1,2,3"], ["1,2,3,0"], ["--threads", "0"], ["--mode", "sideways"]])
def test_wrong_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["bench", *wrong])
    assert stopped.value.code == 2
    assert capsys.readouterr().err
