"""PyTorch's module and ours with the same weights, and what a call of either answers."""

import numpy as np
import pytest
from oracle import assert_close

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from lstm_rs.torch import LSTM  # noqa: E402

INPUT, HIDDEN = 4, 7

OPTIONS = {
    "one layer": {},
    "three layers": {"num_layers": 3},
    "both directions": {"bidirectional": True},
    "projection": {"proj_size": 3},
    "all": {"num_layers": 3, "bidirectional": True, "proj_size": 3, "batch_first": True},
    "all but a bias": {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False},
    "batch first": {"num_layers": 2, "batch_first": True},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32}

without_projections = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN:UserWarning"
)
"""PyTorch says once that its fast path has no projections."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Waiting for PyTorch's threads, where other work keeps them from running, takes longer than all the rest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def twins(seed=0, dtype=torch.float64, sizes=(INPUT, HIDDEN), **options):
    """``torch.nn.LSTM`` and ours with the same weights, of which the gates move."""
    torch.manual_seed(seed)
    theirs = torch.nn.LSTM(*sizes, **options, dtype=dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            # PyTorch starts from weights so small that the gates hardly move.
            parameter.mul_(2.0)
    ours = LSTM(*sizes, **options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_input(module, steps=9, batch=5, seed=1):
    """An input for a module, and a state; without a batch for one sequence."""
    generator = torch.Generator().manual_seed(seed)
    dtype = module.weight_ih_l0.dtype

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    many = () if batch is None else (batch,)
    lead = (*many, steps) if module.batch_first and many else (steps, *many)
    parts = module.num_layers * (1 + module.bidirectional)
    x = draw(*lead, module.input_size)
    state = tuple(0.5 * draw(parts, *many, k) for k in (module.proj_size or module.hidden_size, module.hidden_size))
    return x, state


def answers(module, x, state=None, lengths=None, enforce_sorted=False, seed=2):
    """Outputs and all gradients of a call by name, each array as NumPy has it.

    The gradients that come in are drawn from `seed`, and differ from element to element.
    """
    rnn = torch.nn.utils.rnn
    x = x.detach().clone().requires_grad_()
    state = None if state is None else tuple(part.detach().clone().requires_grad_() for part in state)
    given = x
    if lengths is not None:
        how = {"batch_first": module.batch_first, "enforce_sorted": enforce_sorted}
        given = rnn.pack_padded_sequence(x, torch.as_tensor(lengths), **how)
    y, final = module(given, state)
    packed = y
    if lengths is not None:
        steps = x.shape[int(module.batch_first)]
        y, _ = rnn.pad_packed_sequence(y, batch_first=module.batch_first, total_length=steps)
    generator = torch.Generator().manual_seed(seed)
    outputs = (y, *final)
    incoming = [torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.dtype) for part in outputs]
    module.zero_grad()
    torch.autograd.backward(outputs, incoming)
    found = {"y": y, "h": final[0], "c": final[1], "d_x": x.grad}
    if lengths is not None:
        found["packed"] = packed.data
    if state is not None:
        found |= {"d_h": state[0].grad, "d_c": state[1].grad}
    found |= {f"d_{name}": parameter.grad for name, parameter in module.named_parameters()}
    return {name: tensor.detach().numpy().copy() for name, tensor in found.items()}


def assert_alike(actual, expected, module, steps=9, batch=5):
    """Hold all arrays of `answers` against those of another module."""
    assert actual.keys() == expected.keys()
    width = (1 + module.bidirectional) * (module.proj_size or module.hidden_size)
    for name, array in actual.items():
        assert_close(
            array,
            expected[name],
            # As many layers as there are: each deepens the sum as T more steps would.
            steps=steps * module.num_layers,
            batch=batch,
            input_size=max(module.input_size, width),
            hidden_size=module.hidden_size,
            backward=name.startswith("d_"),
            over_batch=name.startswith("d_") and name not in ("d_x", "d_h", "d_c"),
            name=name,
        )


def assert_same(actual, expected):
    """The same bits in all arrays of `answers`."""
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert np.array_equal(array, expected[name]), name
