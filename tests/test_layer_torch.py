"""The layer against torch.nn.LSTM and its autograd, its weights taken over as they are."""

import numpy as np
import pytest
from lstm_rs import LSTM
from oracle import assert_close, make_input

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# PyTorch says once that its fast path has no projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

OPTIONS = {
    "one layer": {},
    "three layers": {"num_layers": 3},
    "both directions": {"bidirectional": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 3},
    "all": {"num_layers": 3, "bidirectional": True, "proj_size": 3, "batch_first": True},
    "all but a bias": {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False},
    "batch first": {"num_layers": 2, "batch_first": True},
}
# Rounding errors come in steps: in float64 the tolerance is some 1e-13, in float32 some 1e-4.
DTYPES = {"float64": torch.float64, "float32": torch.float32}
INPUT, HIDDEN = 4, 7


class Pair:
    """A layer and PyTorch's with the same weights, the same input, and the same gradients coming in."""

    def __init__(self, options, dtype, steps=9, batch=5, states=True, seed=0):
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.module = torch.nn.LSTM(INPUT, HIDDEN, **options, dtype=DTYPES[dtype])
        with torch.no_grad():
            for parameter in self.module.parameters():
                # PyTorch starts from weights so small that the gates hardly move.
                parameter.mul_(2.0)
        self.layer = LSTM(INPUT, HIDDEN, **options, dtype=dtype)
        self.layer.load_state_dict({name: tensor.numpy() for name, tensor in self.module.state_dict().items()})
        layers, directions = self.module.num_layers, 1 + self.module.bidirectional
        out = self.module.proj_size or HIDDEN
        self.batch_first = self.module.batch_first and batch is not None
        self.x, self.dy = (self.input(steps, batch, width) for width in (INPUT, directions * out))
        parts = layers * directions
        self.state, self.dstate = (
            tuple(self.shaped(parts, batch, width) for width in (out, HIDDEN)) if states else None for _ in range(2)
        )
        # As many layers as there are: each deepens the sum as T more steps would.
        self.sizes = {
            "steps": steps * layers,
            "batch": batch or 1,
            "input_size": max(INPUT, directions * out),
            "hidden_size": HIDDEN,
        }

    def input(self, steps, batch, width):
        array = make_input(self.rng, steps, batch, width, self.layer.dtype)
        return np.ascontiguousarray(array.swapaxes(0, 1)) if self.batch_first else array

    def shaped(self, parts, batch, width):
        shape = (parts, width) if batch is None else (parts, batch, width)
        return (0.5 * self.rng.normal(size=shape)).astype(self.layer.dtype)

    def ours(self, lengths=None):
        y, final, tape = self.layer.forward_train(self.x, self.state, lengths)
        grads = self.layer.backward(tape, self.dy, self.dstate)
        arrays = {"y": y, "h": final.h, "c": final.c, "d_x": grads.x} | {
            f"d_{name}": array for name, array in grads.weights.items()
        }
        return arrays | ({"d_h": grads.state.h, "d_c": grads.state.c} if self.state is not None else {})

    def theirs(self, lengths=None):
        rnn = torch.nn.utils.rnn
        x = torch.tensor(self.x, requires_grad=True)
        state = None if self.state is None else tuple(torch.tensor(part, requires_grad=True) for part in self.state)
        how = {"batch_first": self.batch_first}
        given = (
            x if lengths is None else rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False, **how)
        )
        y, final = self.module(given, state)
        if lengths is not None:
            y, _ = rnn.pad_packed_sequence(y, total_length=self.x.shape[int(self.batch_first)], **how)
        # The loss whose gradients with respect to y and to the final state are dy and dstate.
        loss = (y * torch.from_numpy(self.dy)).sum()
        for part, gradient in zip(final, self.dstate or (), strict=self.dstate is not None):
            loss = loss + (part * torch.from_numpy(gradient)).sum()
        self.module.zero_grad()
        loss.backward()
        arrays = {"y": y, "h": final[0], "c": final[1], "d_x": x.grad}
        for name, parameter in self.module.named_parameters():
            # Each of the two biases has the gradient of our one.
            arrays["d_" + name.replace("bias_ih", "bias").replace("bias_hh", "bias")] = parameter.grad
        if state is not None:
            arrays |= {"d_h": state[0].grad, "d_c": state[1].grad}
        return {name: tensor.detach().numpy() for name, tensor in arrays.items()}

    def check(self, lengths=None):
        actual, expected = self.ours(lengths), self.theirs(lengths)
        assert actual.keys() == expected.keys()
        for name, array in actual.items():
            backward, weights = name.startswith("d_"), name.startswith(("d_weight", "d_bias"))
            assert_close(array, expected[name], **self.sizes, backward=backward, over_batch=weights, name=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_batch(options, states, dtype):
    Pair(options, dtype, states=states).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_sequence(options, dtype):
    Pair(options, dtype, batch=None).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_packed_sequences(options, states, dtype):
    """Of every length but 0, which PyTorch does not pack."""
    pair = Pair(options, dtype, states=states)
    pair.check(lengths=[4, 9, 1, 8, 4])
    # What is past the ends reaches neither.
    steps = np.arange(9) >= np.array([4, 9, 1, 8, 4])[:, None]
    for array in (pair.x, pair.dy):
        array[steps if pair.batch_first else steps.T] = np.nan
    assert all(np.isfinite(array).all() for array in pair.ours([4, 9, 1, 8, 4]).values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_sequence(dtype):
    Pair({"num_layers": 2, "bidirectional": True}, dtype, steps=120, batch=3).check()


@pytest.mark.parametrize("states", ["h", "c"])
def test_only_one_part_of_the_final_state_has_a_gradient(states):
    pair = Pair(OPTIONS["two layers, both directions"], "float64")
    pair.dy[...] = 0.0
    pair.dstate["hc".index("c" if states == "h" else "h")][...] = 0.0
    expected = pair.theirs()
    pair.check()
    pair.dy = None
    for name, array in pair.ours().items():
        sizes = pair.sizes | {"backward": name.startswith("d_"), "over_batch": name.startswith(("d_w", "d_b"))}
        assert_close(array, expected[name], **sizes, name=name)


def test_the_tensors_themselves_can_be_loaded():
    pair = Pair(OPTIONS["all"], "float32")
    other = LSTM(INPUT, HIDDEN, **OPTIONS["all"])
    other.load_state_dict(pair.module.state_dict())
    for name, array in pair.layer.weights.items():
        assert (other.weights[name] == array).all()


def test_the_comparison_can_fail():
    """Two names exchanged in what is loaded, or one weight moved: each shows."""
    for one, other in (
        ("weight_ih_l1", "weight_ih_l1_reverse"),
        ("bias_ih_l0", "bias_hh_l0_reverse"),
        ("weight_hr_l0", "weight_hr_l2"),
    ):
        pair = Pair(OPTIONS["all"], "float32")
        arrays = {name: tensor.numpy() for name, tensor in pair.module.state_dict().items()}
        pair.layer.load_state_dict(arrays | {one: arrays[other], other: arrays[one]})
        with pytest.raises(AssertionError, match="above the tolerance"):
            pair.check()
    pair = Pair(OPTIONS["three layers"], "float64")
    with pair.layer.edit() as w:
        w["weight_hh_l1"][3, 3] += 1e-9
    with pytest.raises(AssertionError, match="above the tolerance"):
        pair.check()
