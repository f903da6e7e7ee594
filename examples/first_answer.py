"""How long a model takes from nothing to its first answer, and how much memory: lstm_rs beside other libraries.

    pip install '.[peers]'
    pip install --no-deps silero-vad==6.2.3      # MIT; for the weights in it
    python examples/first_answer.py

The LSTM is that of silero-vad, 128 inputs and 128 units. It is written once in the format of each library; then, in a
process of its own, each is imported, reads its file and answers one step of one sequence. The table has the medians of
eleven processes: the time from the first line of the program, and the most memory that was resident, both with and
then without what Python and NumPy themselves take. It runs on Linux.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import lstm_rs

RUNS = 11
SILERO = "silero_vad/data/silero_vad_16k_sequence.onnx"
START = "import time; start = time.perf_counter(); import numpy as np; x = np.ones((1, 1, 128), np.float32)"
# Where the file is stands in sys.argv[1]. All give the same number.
PROGRAMS = {
    "numpy": ("", "0"),
    "lstm_rs": ("safetensors", "import lstm_rs; y, _ = lstm_rs.LSTM.load(sys.argv[1])(x)"),
    "onnxruntime": (
        "onnx",
        "import onnxruntime; s = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']);"
        "z = np.zeros((1, 1, 128), np.float32); y = s.run(['y'], {'x': x, 'h': z, 'c': z})[0]",
    ),
    "torch": (
        "pt",
        "import torch; m = torch.nn.LSTM(128, 128); m.load_state_dict(torch.load(sys.argv[1]));\n"
        "with torch.inference_mode(): y = m(torch.from_numpy(x))[0].numpy()",
    ),
}
END = (
    "seconds = time.perf_counter() - start; peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0];"
    "print(seconds, peak, y.sum() if 'y' in vars() else 0)"
)


def write(folder):
    """The LSTM in the format of each library: the files by their kinds."""
    import torch

    lstm = lstm_rs.from_onnx(metadata.distribution("silero-vad").locate_file(SILERO))
    files = {kind: str(Path(folder) / f"lstm.{kind}") for kind in ("safetensors", "onnx", "pt")}
    lstm.save(files["safetensors"])
    lstm_rs.to_onnx(lstm, files["onnx"])
    torch.save(lstm_rs.to_torch(lstm).state_dict(), files["pt"])
    return files | {"": ""}


def measure(code, file):
    """Seconds, MiB and the answer of one process."""
    program = "\n".join((START, "import sys", code, END))
    # With compiled modules, as they are after a first run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    out = subprocess.run(
        [sys.executable, "-c", program, file], capture_output=True, text=True, check=True, env=environment
    )
    seconds, kibibytes, answer = map(float, out.stdout.split())
    return seconds, kibibytes / 1024, answer


def main():
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        files = write(folder)
        found = {name: [] for name in PROGRAMS}
        for run in range(RUNS + 1):
            for name, (kind, code) in PROGRAMS.items():
                measured = measure(code, files[kind])
                # The first run reads from disk, and may compile.
                if run:
                    found[name].append(measured)
    print("| from nothing to the first answer | time | over NumPy's | memory | over NumPy's |\n|---|--:|--:|--:|--:|")
    base = [statistics.median(column) for column in zip(*found["numpy"], strict=True)]
    for name, runs in found.items():
        seconds, mebibytes, answer = (statistics.median(column) for column in zip(*runs, strict=True))
        assert name == "numpy" or abs(answer - statistics.median(r[2] for r in found["lstm_rs"])) < 1e-4
        print(
            f"| {name} | {1e3 * seconds:.0f} ms | {1e3 * (seconds - base[0]):.0f} ms "
            f"| {mebibytes:.0f} MiB | {mebibytes - base[1]:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
