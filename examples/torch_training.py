"""One training script, twice: with torch.nn.LSTM, and with lstm_rs.torch.LSTM in its place.

    pip install '.[torch]'
    python examples/torch_training.py [threads [seconds]]

A Linear, an LSTM and another Linear are trained by Adam on noise. In float64 both give the same losses; in float32 the
table has the median times of a step and of an answer, the two taken in turn.
"""

import statistics
import sys
import time

import lstm_rs.torch
import torch

# T, N, I, H and layers.
SIZES = [(100, 1, 64, 128, 1), (20, 16, 64, 64, 2), (28, 128, 28, 128, 1), (50, 32, 128, 256, 1)]


class Model(torch.nn.Module):
    """What stands around an LSTM in most models."""

    def __init__(self, lstm, input_size, hidden_size, layers):
        super().__init__()
        self.first = torch.nn.Linear(input_size, input_size)
        self.lstm = lstm(input_size, hidden_size, layers)
        self.last = torch.nn.Linear(hidden_size, 4)

    def forward(self, x):
        """Give (T, N, 4) of (T, N, I)."""
        return self.last(self.lstm(torch.relu(self.first(x)))[0])


def make_step(lstm, size, dtype=torch.float32):
    """A model from a fixed seed: a step of its training, which gives the loss, and the model itself."""
    steps, batch, input_size, hidden_size, layers = size
    torch.manual_seed(0)
    model = Model(lstm, input_size, hidden_size, layers).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, target = torch.randn(steps, batch, input_size, dtype=dtype), torch.randn(steps, batch, 4, dtype=dtype)

    def step():
        loss = torch.nn.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def answer():
        with torch.inference_mode():
            model(x)

    return step, answer


def losses(lstm, size, count):
    """The losses of so many steps in float64."""
    step, _ = make_step(lstm, size, torch.float64)
    return [step() for _ in range(count)]


def in_turn(calls, seconds):
    """The median milliseconds of each call: they take turns, for so long."""
    times = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for call, found in zip(calls, times, strict=True):
            call()
            # The second in a row: what the other left in the caches is gone.
            start = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def main():
    """Print how far the losses are apart, and the table."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0
    pair = (torch.nn.LSTM, lstm_rs.torch.LSTM)
    theirs, ours = (losses(lstm, (20, 4, 8, 16, 2), 50) for lstm in pair)
    apart = max(abs(a - b) / a for a, b in zip(theirs, ours, strict=True))
    print(f"losses of 50 steps in float64, from {theirs[0]:.3f} to {theirs[-1]:.3f}: at most {apart:.1e} apart\n")
    print(f"| T, N, I, H, layers; {torch.get_num_threads()} thread(s) | step, torch.nn | lstm_rs.torch | ratio "
          "| answer, torch.nn | lstm_rs.torch | ratio |\n|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for size in SIZES:
        made = [make_step(lstm, size) for lstm in pair]
        cells = []
        for calls in zip(*made, strict=True):
            first, second = in_turn(calls, seconds)
            cells += [f"{first:.2f} ms", f"{second:.2f} ms", f"{first / second:.2f}"]
        print(f"| {', '.join(map(str, size))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
