"""`lstm_rs.torch.convert`: our module in the place of PyTorch's, in a model that is there already."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from lstm_rs.torch import LSTM, convert  # noqa: E402
from torch_twins import (  # noqa: E402
    answers,
    assert_alike,
    make_input,
    one_thread,  # noqa: F401
    twins,
    without_projections,
)

pytestmark = without_projections


class Model(torch.nn.Module):
    """Two LSTMs, one of which stands in two places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.LSTM(4, 6, 2, batch_first=True, dropout=0.2, bidirectional=True)
        self.decoders = torch.nn.ModuleList([torch.nn.LSTM(12, 12)] * 2)
        self.head = torch.nn.Linear(12, 1)

    def forward(self, x):
        y, _ = self.encoder(x)
        for decoder in self.decoders:
            y, _ = decoder(y)
        return self.head(y)


def test_every_lstm_of_a_model_becomes_ours():
    model = Model().double()
    plain = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (plain, model)]
    model.decoders[0].eval().requires_grad_(False)
    plain.decoders[0].eval().requires_grad_(False)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    keys, flags = [*model.state_dict()], [module.training for module in model.modules()]
    assert convert(model) is model
    assert type(model.encoder) is LSTM and type(model.decoders[0]) is LSTM
    assert type(model.head) is torch.nn.Linear
    # All else is as it was, and the very same.
    assert model.decoders[0] is model.decoders[1]
    assert all(module is modules[name] for name, module in model.named_modules())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert [*model.state_dict()] == keys and [module.training for module in model.modules()] == flags
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    for _ in range(3):
        for m, optimizer in zip((plain, model), optimizers, strict=True):
            torch.manual_seed(1)
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_alone(dtype):
    theirs, _ = twins(num_layers=2, proj_size=3, batch_first=True, dtype=dtype)
    converted = convert(copy.deepcopy(theirs))
    assert type(converted) is LSTM
    x, state = make_input(theirs)
    assert_alike(answers(converted, x, state), answers(theirs, x, state), theirs)
    # It can be told from the one that it was by nothing but its class.
    assert repr(converted) == repr(theirs)
    assert convert(converted) is converted


def test_hooks_stay_and_can_still_be_removed():
    module, seen = torch.nn.LSTM(4, 7), []
    handles = [
        module.register_forward_hook(lambda *_: seen.append("forward")),
        module.register_full_backward_hook(lambda *_: seen.append("backward")),
        module.register_state_dict_post_hook(lambda *_: seen.append("state_dict")),
        module.weight_hh_l0.register_hook(lambda _: seen.append("weight")),
    ]
    convert(module)
    x = torch.ones(3, 2, 4, requires_grad=True)
    module(x)[0].sum().backward()
    module.state_dict()
    assert sorted(seen) == ["backward", "forward", "state_dict", "weight"]
    for handle in handles:
        handle.remove()
    module(x)[0].sum().backward()
    module.state_dict()
    assert len(seen) == 4


class WithItsOwnForward(torch.nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def test_what_is_left_alone():
    model = torch.nn.ModuleDict(
        {
            "subclass": WithItsOwnForward(4, 7),
            "parametrized": torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(4, 7), "weight_hh_l0"),
            "patched": torch.nn.LSTM(4, 7),
            "gru": torch.nn.GRU(4, 7),
            "cell": torch.nn.LSTMCell(4, 7),
            "plain": torch.nn.LSTM(4, 7),
        }
    )
    model["patched"].forward = lambda x: "its own"
    kinds = {name: type(module) for name, module in model.items()}
    convert(model)
    assert {name: type(module) for name, module in model.items()} == kinds | {"plain": LSTM}
    assert model["patched"](torch.ones(3, 2, 4)) == "its own"


def test_all_or_nothing():
    model = torch.nn.ModuleDict({"one": torch.nn.LSTM(4, 7), "two": torch.nn.LSTM(4, 7, dtype=torch.bfloat16)})
    sentence = (
        r"^two.weight_ih_l0: expected float32 or float64, got torch.bfloat16; cast the model with module.float\(\)$"
    )
    with pytest.raises(TypeError, match=sentence):
        convert(model)
    assert type(model["one"]) is torch.nn.LSTM
    with pytest.raises(TypeError, match=r"^weight_ih_l0: expected float32"):
        convert(model["two"])
    with pytest.raises(TypeError, match=r"^module: expected a torch.nn.Module, got dict$"):
        convert({})
