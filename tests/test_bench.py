"""The benchmark, run once over tiny shapes: who takes part, what it records, and that a wrong answer stops it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lstm_rs import __main__ as command
from lstm_rs import _core, bench
from lstm_rs.bench import timing
from lstm_rs.bench.machine import Machine, bound, caches, measure, pinned
from lstm_rs.bench.peers import ALL, Call, environment, peers

ROOT = Path(__file__).parents[1]
TINY = (3, 2, 4, 5)
MACHINE = Machine(
    peak={"float32": 100e9, "float64": 50e9},
    bandwidth={"L1": 200e9, "L2": 100e9, "L3": 80e9, "DRAM": 20e9},
    threads=1,
    caches={"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20},
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda threads: MACHINE._replace(threads=threads))
    monkeypatch.setattr(bench, "MOMENT", 1e-4)
    monkeypatch.setattr(timing, "FEWEST", 1)
    monkeypatch.setattr(timing, "BLOCK", 1e-5)
    for threads in (1, 2):
        for name, value in environment(threads).items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("mode", bench.MODES)
def test_every_mode_runs_and_is_recorded(mode, tmp_path, capsys):
    file = tmp_path / "record.json"
    code = command.main(
        f"bench 3,2,4,5 --mode {mode} --peers numpy --seconds 0 --threads 2 --json {file}".split(),
    )
    assert code == 0
    record = json.loads(file.read_text())
    (row,) = record["rows"]
    steps = 1 if mode == "step" else 3
    assert (tuple(row["shape"]), row["mode"]) == ((steps, *TINY[1:]), mode)
    low, median, high = row["microseconds"]["lstm_rs"]
    assert 0 < low <= median <= high
    assert record["machine"]["threads"] == 2 and record["isa"] == _core.isa()
    told = capsys.readouterr().out
    assert bench.duration(median) in told and f"{steps},2,4,5" in told
    flop = 8 * steps * 2 * 5 * (4 + 5) * (3 if mode.startswith("train") else 1)
    if not mode.endswith("ragged"):
        assert row["gflops"] == pytest.approx(flop / median / 1e3, rel=1e-2)
        assert row["of_peak"] == pytest.approx(1e9 * row["gflops"] / row["peak"])
    beside = {"forward", "forward-f64", "step"}
    assert row["best"] == ("numpy" if mode in beside else None)
    if mode in beside:
        assert row["ratio"] == pytest.approx(row["microseconds"]["numpy"][1] / median, rel=1e-2)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", bench.MODES)
def test_every_peer_answers_as_we_do(name, mode):
    modules, make = ALL[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    (case,) = bench._cases([TINY], [mode], threads=1)
    call = make(case)
    if call is None:
        pytest.skip(f"{name} does not have {mode}")
    ours = peers([])["lstm_rs"](case)
    call.run()
    for actual, expected in zip(call.answer(), ours.answer(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_what_is_ours_is_a_peer_only_where_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: True)
    assert "lstm_rs.torch" not in peers() and {*peers()} == {"lstm_rs", *ALL} - {"lstm_rs.torch"}
    assert [*peers(["torch", "lstm_rs.torch"])] == ["lstm_rs", "torch", "lstm_rs.torch"]
    bench._print_head(MACHINE, ["lstm_rs"])
    assert "numpy" in capsys.readouterr().out.split("not here", 1)[1].split("\n")[0]
    bench._print_head(MACHINE, [*peers()])
    assert "not here" not in capsys.readouterr().out


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


def test_a_level_holds_what_a_thread_has_of_it():
    assert [MACHINE.level(size) for size in (32 << 10, 33 << 10, 2 << 20, 33 << 20)] == ["L1", "L2", "L3", "DRAM"]
    two = MACHINE._replace(threads=2)
    # L3 is one for all.
    assert [two.level(size) for size in (64 << 10, 2 << 20, 33 << 20)] == ["L1", "L2", "DRAM"]


def test_the_machine_is_measured():
    sizes = caches()
    assert 0 < sizes["L1"] < sizes["L2"] < sizes["L3"]
    machine = measure(2, seconds=0.002)
    assert machine.threads == 2 and machine.caches == sizes
    assert all(value > 1e6 for value in (*machine.peak.values(), *machine.bandwidth.values()))
    with pytest.raises(ValueError, match=r"^dtype: expected 'float32' or 'float64', got 'int8'"):
        _core.fma_peak("int8", 0.1)
    with pytest.raises(ValueError, match=r"^seconds: "):
        _core.read_bandwidth(1024, -1.0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no process")
def test_a_process_is_pinned_and_set_free():
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    with pinned(10_000):
        assert os.sched_getaffinity(0) == before


def test_calls_are_timed_in_turn():
    order = []
    times, figures = timing.in_turn(
        {name: lambda name=name: order.append(name) for name in "ab"}, {"figure": lambda: 3.0}, 0.0
    )
    assert order[:4] == ["a", "b", "a", "b"] and set(order) == {"a", "b"}
    assert figures == {"figure": (3.0, 3.0, 3.0)}
    assert all(0 < timing.low <= timing.median <= timing.high for timing in times.values())


def test_steps_of_a_stream_are_timed_once_for_all_numbers_of_steps():
    cases = bench._cases([(3, 1, 2, 4), (5, 1, 2, 4), (5, 2, 2, 4)], ["step", "forward"], 1)
    assert [case[:5] for case in cases if case.mode == "step"] == [(1, 1, 2, 4, "step"), (1, 2, 2, 4, "step")]
    assert len(cases) == 5


def test_sets_of_shapes_have_names(monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "run", lambda shapes, *_, **__: asked.extend(shapes) or 0)
    assert command.main(["bench", "deepbench-server", "7,6,5,4", "--threads", "2"]) == 0
    assert asked == [*bench.SETS["deepbench-server"], (7, 6, 5, 4)]


def test_the_environment_reaches_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    started = []

    def process(arguments, *, env, check):
        started.append((arguments, env["OPENBLAS_NUM_THREADS"], env["LSTM_RS_ISA"]))
        return subprocess.CompletedProcess(arguments, 3)

    monkeypatch.setattr(bench.subprocess, "run", process)
    assert command.main(["bench", "--threads", "2", "--isa", "scalar"]) == 3
    assert started == [([sys.executable, "-m", "lstm_rs", "bench", "--threads", "2", "--isa", "scalar"], "2", "scalar")]


def test_the_picture_shows_every_shape_and_peer(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "bench.png"
    arguments = ["bench", "3,2,4,5", "2,1,3,4", "--mode", "forward", "train", "--peers", "numpy", "--seconds", "0"]
    assert command.main([*arguments, "--threads", "2", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_refused_at_once(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert bench.run([TINY], plot="never.png") == 2
    assert "matplotlib" in capsys.readouterr().err


# Those of whole fits are for test_bench_fits.py.
RECORDS = [
    file for file in sorted((ROOT / "python/lstm_rs/bench/records").glob("*/*.json")) if "-fits" not in file.stem
]


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_records_are_what_a_run_writes(file):
    record = json.loads(file.read_text())
    assert file.stem.startswith(record["date"][:10]) and "lstm_rs" in record["versions"]
    for row in record["rows"]:
        low, median, high = row["microseconds"]["lstm_rs"]
        assert 0 < low <= median <= high
        assert row["ratio"] == pytest.approx(row["microseconds"][row["best"]][1] / median, rel=1e-3)


def test_the_readme_tells_of_records():
    """Its table is one record's, and its means are those of the records that it names."""
    readme = (ROOT / "README.md").read_text()
    named = [file for file in RECORDS if str(file.relative_to(ROOT)) in readme]
    assert len(named) == 2
    for file in named:
        record = json.loads(file.read_text())
        (forward, worst), (train, worst_train) = (bench.means(record)[mode] for mode in ("forward", "train"))
        figures = (forward, worst["ratio"], train, worst_train["ratio"])
        told = f"| {record['machine']['threads']} | {' | '.join(f'{figure:.2f}' for figure in figures)} |"
        assert told in readme, told
    assert any(bench.markdown(json.loads(file.read_text())) in readme for file in named)


@pytest.mark.parametrize("wrong", [["1,2,3"], ["1,2,3,0"], ["baseline"], ["--threads", "0"], ["--mode", "sideways"]])
def test_wrong_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["bench", *wrong])
    assert stopped.value.code == 2
    assert capsys.readouterr().err
