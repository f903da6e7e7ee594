"""`lstm_rs.torch.LSTM` in a program: threads, compilers, dtypes and devices, and what it refuses."""

import lstm_rs
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from lstm_rs import CellSpec  # noqa: E402
from lstm_rs.torch import LSTM, _pass  # noqa: E402
from torch_twins import (  # noqa: E402
    answers,
    assert_same,
    make_input,
    one_thread,  # noqa: F401
    twins,
    without_projections,
)

pytestmark = without_projections
rnn = torch.nn.utils.rnn

# ----------------------------- threads


def test_a_call_has_the_threads_of_pytorch(monkeypatch):
    _, ours = twins(num_layers=2, dropout=0.5)
    x, state = make_input(ours)
    seen = []
    mask, backward = _pass.Plan.mask, _pass._core.backward_layers

    def spied(plan, shape, dtype):
        seen.append(lstm_rs.get_num_threads())
        return mask(plan, shape, dtype)

    class Core:
        def __getattr__(self, name):
            return getattr(lstm_rs._core, name)

        def backward_layers(self, *given):
            seen.append(lstm_rs.get_num_threads())
            return backward(*given)

    monkeypatch.setattr(_pass.Plan, "mask", spied)
    monkeypatch.setattr(_pass, "_core", Core())
    before, torch_before = lstm_rs.get_num_threads(), torch.get_num_threads()
    try:
        for threads in (2, 1, 3):
            torch.set_num_threads(threads)
            with lstm_rs.num_threads(5):
                ours(x, state)[0].sum().backward()
                with torch.no_grad():
                    ours(x, state)
                assert lstm_rs.get_num_threads() == 5
        assert seen == [2, 2, 2, 1, 1, 1, 3, 3, 3]
        assert lstm_rs.get_num_threads() == before
    finally:
        torch.set_num_threads(torch_before)


def test_the_bits_do_not_depend_on_the_threads():
    _, ours = twins(sizes=(16, 96), num_layers=2, bidirectional=True)
    x, state = make_input(ours, steps=20, batch=16)
    expected = answers(ours, x, state)
    torch.set_num_threads(2)
    try:
        assert_same(answers(ours, x, state), expected)
    finally:
        torch.set_num_threads(1)


# ----------------------------- compilers


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.lstm, self.last = torch.nn.Linear(3, 4), LSTM(4, 5, 2), torch.nn.Linear(5, 2)

    def forward(self, x):
        y, (h, _) = self.lstm(torch.relu(self.first(x)))
        return self.last(y) + h.sum()


def gradients(model, x, run=None):
    model.zero_grad()
    y = (model if run is None else run)(x)
    y.square().sum().backward()
    return [y.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


# The compiler hides it from people.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torch_compile_leaves_a_call_as_it_is():
    model, x = Model(), torch.randn(6, 2, 3)
    compiled = torch.compile(model, backend="eager")
    expected = gradients(model, x)
    for _ in range(2):
        for found, wanted in zip(gradients(model, x, compiled), expected, strict=True):
            torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected[0])
    packed = rnn.pack_sequence([torch.ones(3, 4), torch.ones(2, 4)])
    assert torch.equal(torch.compile(model.lstm, backend="eager")(packed)[0].data, model.lstm(packed)[0].data)
    # Whoever asks for one graph is told.
    torch.compiler.reset()
    with pytest.raises(Exception, match="graph break"):
        torch.compile(model, backend="eager", fullgraph=True)(x)


# PyTorch's LSTM makes it warn, too.
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_an_export_is_of_the_lstm_of_pytorch():
    model, x, other = Model().eval(), torch.randn(6, 2, 3), torch.randn(6, 2, 3)
    with torch.no_grad():
        expected = model(other)
        for exported in (torch.jit.trace(model, (x,)), torch.export.export(model, (x,)).module()):
            torch.testing.assert_close(exported(other), expected)
            assert "lstm" in str(getattr(exported, "inlined_graph", None) or exported.code)
        model.lstm = LSTM(4, 5, cell=CellSpec.peephole_lstm())
        for export in (torch.jit.trace, torch.export.export):
            with pytest.raises(RuntimeError, match=r"only the cell of torch.nn.LSTM can be exported, not CellSpec\("):
                export(model, (x,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_it_cannot_be_scripted():
    for module in (LSTM(3, 4), torch.nn.Sequential(LSTM(3, 4))):
        with pytest.raises(
            RuntimeError, match=r"^lstm_rs.torch.LSTM cannot be scripted: give its state_dict to a torch"
        ):
            torch.jit.script(module)


# ----------------------------- what is refused


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_refused_with_the_cast(dtype):
    module, x = LSTM(4, 7), torch.ones(3, 2, 4)
    for run in (lambda: module(x.to(dtype)), lambda: module(x.double()), lambda: module(x.int())):
        with pytest.raises(TypeError, match=r"^input: expected torch.float32, as the parameters are, got torch.\w+; "):
            run()
    state = torch.zeros(1, 2, 7)
    for hx in ((state.to(dtype), state), (state, state.to(dtype))):
        with pytest.raises(TypeError, match=rf"^hx\[[01]\]: expected torch.float32, .*got {dtype}; cast it with .to\("):
            module(x, hx)
    with pytest.raises(
        TypeError, match=r"expected parameters of float32 or float64, got .*; cast .* module.float\(\)$"
    ):
        module.to(dtype)(x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_computes_in_the_dtype_of_the_parameters(dtype):
    module, x = LSTM(4, 7), torch.randn(3, 2, 4)
    short = x.to(dtype).requires_grad_()
    expected = module(short.float())[0].detach()
    with torch.autocast("cpu", dtype=dtype):
        y, (h, c) = module(short, (torch.zeros(1, 2, 7, dtype=dtype),) * 2)
        y.sum().backward()
        with torch.no_grad():
            assert torch.equal(module(short)[0], expected)
    assert torch.equal(y, expected) and h.dtype == c.dtype == torch.float32
    assert short.grad.dtype == dtype and short.grad.abs().max() > 0


def test_another_device_than_that_of_the_parameters_is_refused():
    """Of the devices, only meta is everywhere."""
    module, x, state = LSTM(4, 7), torch.ones(3, 2, 4), torch.zeros(1, 2, 7)
    sentence = r": expected a tensor on cpu, as the parameters are, got one on meta; move it with .to\('cpu'\)$"
    with pytest.raises(RuntimeError, match="^input" + sentence):
        module(x.to("meta"))
    with pytest.raises(RuntimeError, match=r"^hx\[1\]" + sentence):
        module(x, (state, state.to("meta")))
    with pytest.raises(RuntimeError, match=r"the parameters are on the meta device, which holds no numbers; give them"):
        module.to("meta")(x.to("meta"))
    assert LSTM(4, 7, device="meta").to_empty(device="cpu")(x)[0].shape == (3, 2, 7)


def test_answers_go_back_to_the_device_of_the_input():
    """As far as it can be seen without such a device."""
    assert _pass.to_device(np.ones(3), torch.ones(1, device="meta")).device.type == "meta"
    array = np.ones(3)
    there = _pass.to_device(array, torch.ones(1))
    assert _pass.to_host(there.requires_grad_()).ctypes.data == array.ctypes.data


WRONG = {
    "features": lambda x, h, c: (x[..., :3], None),
    "too few axes": lambda x, h, c: (x[0, 0], None),
    "too many axes": lambda x, h, c: (x[None], None),
    "h of another batch": lambda x, h, c: (x, (h[:, :1], c)),
    "c of another width": lambda x, h, c: (x, (h, c[..., :3])),
    "h and c exchanged": lambda x, h, c: (x, (c, h)),
    "states of a batch for one sequence": lambda x, h, c: (x[:, 0], (h, c)),
    "h of another layer": lambda x, h, c: (x[:, 0], (h[:1, 0], c[:, 0])),
    "packed, features": lambda x, h, c: (rnn.pack_padded_sequence(x[..., :3], [9, 8, 4, 2, 1]), None),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_refused_as_by_pytorch(make):
    theirs, ours = twins(num_layers=2, proj_size=2)
    x, state = make_input(ours)
    said = []
    for module in (theirs, ours):
        with pytest.raises((RuntimeError, ValueError)) as refused:
            module(*make(x, *state))
        said.append((refused.type, str(refused.value)))
    assert said[1][0] is said[0][0]
    # Not the same words: of states that have other axes than the input, and of what PyTorch finds out by computing.
    if not any(words in said[0][1] for words in ("should also be", "cannot be multiplied")):
        assert said[1] == said[0]


def test_arguments_are_refused_as_by_pytorch():
    for wrong in (
        {"proj_size": 7},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"bias": 1},
        {"hidden_size": 0},
        {"input_size": 2.0},
    ):
        said = []
        for kind in (torch.nn.LSTM, LSTM):
            with pytest.raises((ValueError, TypeError)) as refused:
                kind(**{"input_size": 4, "hidden_size": 7, **wrong})
            said.append((refused.type, str(refused.value)))
        assert said[0] == said[1]
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        LSTM(4, 7, dropout=0.5)
