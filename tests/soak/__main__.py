"""One process that uses lstm_rs for hours, as a service does, while everything around it goes wrong.

    python tests/soak --minutes 60 [--seed N]

It draws operations at random until the time is up: passes, layers, streams, read-outs, fits, files and pickles, in all
shapes, dtypes, cells, instruction sets and numbers of threads; Python threads, forks and other processes; refused
calls, Ctrl-C and other signals in the middle of long calls, recursion, and too little memory. The answers' bits are
compared with those that the same calls gave at the beginning. At the end it prints what was done, and exits with 1
where

* a bit was wrong, or an exception or an exit status another than the right one;
* the memory in use grew by more than --growth MiB from the fourth tenth of the run to its last;
* a signal took more than 100 ms from being sent to its exception, without the time for which the system had no CPU;
* the process ended by itself, or did nothing for --patience seconds: then all stacks are printed.

Stopped earlier, by Ctrl-C or SIGTERM, it reports what there is. It takes Linux. It does not look for races, which
`just tsan` does, and compares with no reference, which the tests do.
`--sabotage` breaks something on purpose, to see that this fails: leak, bit, hang, abort or interrupt.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from measure import growth

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(prog="python tests/soak", description="Uses lstm_rs for a long time.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, from the first operation on (default: 1)")
    parser.add_argument("--seed", type=int, default=None, help="what is drawn (default: from the clock)")
    parser.add_argument(
        "--growth", type=float, help="MiB that the memory may grow by (default: 16, 64 below 10 minutes)"
    )
    parser.add_argument("--patience", type=float, default=600.0, help="seconds after which it hangs (default: 600)")
    parser.add_argument(
        "--sabotage", default="nothing", choices=["nothing", "leak", "bit", "hang", "abort", "interrupt"]
    )
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        print("NOT RUN: the soak: it takes Linux")
        return 0
    seed = options.seed if options.seed is not None else int(time.time())
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = [str(HERE / "worker.py"), str(seed), str(options.minutes * 60), options.sabotage]
    told, hung, status = supervise(arguments, options.patience)
    # A short run has not yet been everywhere when it is measured for the first time.
    most_growth = options.growth or (16.0 if options.minutes >= 10 else 64.0)
    return report(told, hung, status, most_growth)


def supervise(arguments, patience):
    """Runs the worker: its last tally, whether it hung, and its exit status, which is None where it was stopped."""
    # In a session of its own: a Ctrl-C of the terminal is for this process, which then reports what there is.
    worker = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines = queue.Queue()

    def read():
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    told, hung, shown, waited = None, False, time.monotonic(), 0
    while True:
        try:
            line, waited = lines.get(timeout=1.0), 0
        except KeyboardInterrupt:
            worker.kill()
            worker.wait()
            return told, False, None
        except queue.Empty:
            # Second by second: time for which this process itself was stopped, as by Ctrl-Z, does not count.
            waited += 1
            if waited < patience:
                continue
            hung = True
            print(f"HANGS: nothing was done for {patience:g} seconds", flush=True)
            show_stacks(worker.pid)
            worker.send_signal(signal.SIGABRT)  # Upon which it prints the stacks of all its Python threads.
            try:
                worker.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()
            break
        if line is None:
            break
        told = json.loads(line)
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{told['seconds'] / 60:6.1f} min: {sum(told['operations'].values())} operations, "
                  f"{told['counts'].get('calls', 0)} calls, {len(told['failures'])} failures, "
                  f"{told['samples'][-1][1] if told['samples'] else 0:.0f} MiB", flush=True)  # fmt: skip
    return told, hung, worker.wait()


def show_stacks(process):
    """What each thread of a process does, as far as this machine can tell."""
    for task in sorted(Path(f"/proc/{process}/task").iterdir(), key=lambda path: int(path.name)):
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        print(f"  thread {task.name} {(task / 'comm').read_text().strip()}: {state}")
    if shutil.which("gdb"):
        command = ["gdb", "-p", str(process), "-batch", "-ex", "thread apply all bt 16"]
        try:
            print(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
        except subprocess.TimeoutExpired:
            print("  gdb had nothing to say within a minute")
    sys.stdout.flush()


def report(told, hung, status, most_growth):
    """Prints what was done, and what of it was wrong; an exit status."""
    if told is None:
        print(f"FAILED: the process ended with status {status} before it told anything")
        return 1
    counts, failures = told["counts"], list(told["failures"])
    if hung:
        failures.append("it hung")
    elif status is None:
        print(f"stopped after {told['seconds'] / 60:.1f} minutes")
    elif status != 0 or not told.get("done"):
        failures.append(f"the process ended with status {status}")
    print(f"\n{'operations':<32}{sum(told['operations'].values()):>10}")
    for name, count in sorted(told["operations"].items()):
        print(f"  {name:<30}{count:>10}")
    print(f"{'calls compared':<32}{counts.get('calls', 0):>10}")
    for kind in sorted(set(counts) & {"forward", "backward", "layer", "stream", "linear", "copied", "saved", "edited",
                                      "fit", "steps"}):  # fmt: skip
        print(f"  {kind:<30}{counts[kind]:>10}")
    for name in ("forks", "processes", "interrupts", "handlers that raised", "handlers that returned",
                 "edits ended by a signal", "calls in little memory", "MemoryErrors", "exceptions"):  # fmt: skip
        print(f"{name:<32}{counts.get(name, 0):>10}")
    show_latencies(told)
    names = ("memory in use, MiB", "Python's blocks", "threads", "open files")
    for column, name in enumerate(names, start=1):
        grown = growth(told["samples"], column)
        last = told["samples"][-1][column] if told["samples"] else 0
        print(f"{name:<32}{last:>10.0f}   " + ("too few samples" if grown is None else f"grown by {grown:+.1f}"))
        # A run that has ended early has no last tenth to speak of.
        if column == 1 and (status is None or told.get("done")):
            if grown is None:
                failures.append("the memory in use was measured too seldom")
            elif grown > most_growth:
                failures.append(f"the memory in use grew by {grown:.1f} MiB, of which {most_growth:g} are allowed")
    print(f"{'wrong bits':<32}{counts.get('wrong bits', 0):>10}")
    print(f"{'hangs':<32}{int(hung):>10}")
    print(f"{'seconds':<32}{told['seconds']:>10.0f}\n")
    for failure in failures:
        print(f"FAILED: {failure}")
    print("FAILED" if failures else "PASSED")
    return int(bool(failures))


def show_latencies(told):
    """From a signal to its exception, in milliseconds."""
    if not told["latencies"]:
        return
    everything = sorted(one for some in told["latencies"].values() for one in some)

    def line(name, values):
        median, worst = statistics.median(values) * 1e3, max(values) * 1e3
        late = values[int(0.95 * (len(values) - 1))] * 1e3
        print(f"  {name:<30}{len(values):>10}   median {median:6.1f}   95 % {late:6.1f}   worst {worst:6.1f}")

    print("from a signal to its exception, ms")
    line("all", everything)
    line("all, without waits for a CPU", sorted(told["waits"]))
    for name, some in sorted(told["latencies"].items()):
        line(name, sorted(some))


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    # Large blocks go back to the system, and few threads have room in store: then memory in use is memory that is kept,
    # and a limit is felt.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "131072")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    sys.exit(main())
