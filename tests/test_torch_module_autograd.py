"""`lstm_rs.torch.LSTM` as PyTorch's autograd sees it."""

import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from lstm_rs import CellSpec  # noqa: E402
from lstm_rs.torch import LSTM  # noqa: E402
from torch_twins import (  # noqa: E402
    OPTIONS,
    answers,
    assert_alike,
    assert_same,
    make_input,
    one_thread,  # noqa: F401
    twins,
    without_projections,
)

pytestmark = without_projections
rnn = torch.nn.utils.rnn

CHECKED = {
    "one layer": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "projection": {"num_layers": 2, "proj_size": 2},
    "all": {"num_layers": 2, "bidirectional": True, "proj_size": 2, "cell": CellSpec.peephole_lstm()},
    "peepholes": {"cell": CellSpec.peephole_lstm()},
    "softsign": {"cell": CellSpec(input_activation="softsign", output_activation="softsign")},
    "coupled": {"cell": CellSpec.greff("CIFG"), "bias": False},
}


@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("options", CHECKED.values(), ids=CHECKED)
def test_gradients_are_those_of_differences(options, packed):
    """PyTorch's own check: every input, every weight, and outputs without a gradient among those that come in."""
    torch.manual_seed(0)
    module = LSTM(2, 3, **options, dtype=torch.float64)
    x, state = make_input(module, steps=4, batch=3)
    names = [name for name, _ in module.named_parameters()]
    inputs = (x, *state, *(2.0 * parameter.detach() for parameter in module.parameters()))

    def run(x, h, c, *weights):
        given = x
        if packed:
            given = rnn.pack_padded_sequence(x, torch.tensor([2, 4, 2]), module.batch_first, enforce_sorted=False)
        y, final = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (given, (h, c)))
        return (y.data if packed else y, *final)

    assert torch.autograd.gradcheck(run, [tensor.clone().requires_grad_() for tensor in inputs])


def test_only_what_needs_a_gradient_has_one():
    theirs, ours = twins(num_layers=2, bidirectional=True)
    expected = answers(theirs, *make_input(theirs))
    for frozen in (["weight_ih_l0", "bias_hh_l1"], [name for name, _ in ours.named_parameters()]):
        for name, parameter in ours.named_parameters():
            parameter.requires_grad_(name not in frozen)
            parameter.grad = None
        x, state = make_input(ours)
        for of_x in (False, True):
            y, final = ours(x.requires_grad_(of_x), state)
            assert y.requires_grad == (of_x or len(frozen) == 2)
            if y.requires_grad:
                y.sum().backward()
            assert (x.grad is None) is not of_x
            for name, parameter in ours.named_parameters():
                assert (parameter.grad is None) is (name in frozen)
            x.grad = None
        del y, final
    ours.requires_grad_(True)
    assert_alike(answers(ours, *make_input(ours)), expected, ours)


@pytest.mark.parametrize("part", ["y", "h", "c"])
def test_one_output_may_have_a_gradient_alone(part):
    theirs, ours = twins(**OPTIONS["all"])
    x, state = make_input(ours)
    grads = []
    for module in (theirs, ours):
        y, (h, c) = module(x, state)
        grads.append(torch.autograd.grad({"y": y, "h": h, "c": c}[part].square().sum(), [*module.parameters()]))
    for expected, mine in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_tensors_that_are_not_contiguous():
    theirs, ours = twins()
    x, state = make_input(ours)
    expected = answers(theirs, x, state)
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    swapped = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous() and not swapped.is_contiguous()
    for given in (strided, swapped):
        assert_alike(answers(ours, given, tuple(part.mT.contiguous().mT for part in state)), expected, ours)
    # A sum's gradient is one number that stands for all.
    for module in (theirs, ours):
        module.zero_grad()
        module(x.expand(2, *x.shape)[1], state)[0].sum().backward()
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad, rtol=0, atol=1e-11)
    # Weights may lie in another order, too.
    with torch.no_grad():
        ours.weight_hh_l0.data = ours.weight_hh_l0.mT.contiguous().mT
        torch.testing.assert_close(ours(x, state)[0], theirs(x, state)[0], rtol=0, atol=1e-12)
    assert_alike(answers(ours, x, state), expected, ours)


def test_the_two_biases_have_gradients_of_their_own():
    _, ours = twins(bidirectional=True)
    ours(make_input(ours)[0])[0].sum().backward()
    for way in ("", "_reverse"):
        one, other = (getattr(ours, f"bias_{kind}_l0{way}").grad for kind in ("ih", "hh"))
        assert torch.equal(one, other) and one.abs().max() > 0
        kept = other.clone()
        one.zero_()
        assert torch.equal(other, kept)


def test_nothing_is_shared_with_the_caller():
    """Gradients add up over calls, and what is done to one of them stays there."""
    _, ours = twins()
    x, state = make_input(ours)
    once = answers(ours, x, state)
    ours.zero_grad()
    for _ in range(2):
        y, _final = ours(x, state)
        y.sum().backward()
    twice = ours.weight_hh_l0.grad.clone()
    ours.zero_grad()
    y, _final = ours(x, state)
    y.sum().backward()
    torch.testing.assert_close(twice, 2 * ours.weight_hh_l0.grad)
    assert_same(answers(ours, x, state), once)


@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "bidirectional": True, "dropout": 0.5}], ids=str)
def test_a_graph_can_be_kept(options):
    _, ours = twins(**options)
    x, state = make_input(ours)
    y, _ = ours(x.requires_grad_(), state)
    found = []
    for _ in range(3):
        x.grad = None
        ours.zero_grad()
        y.square().sum().backward(retain_graph=True)
        found.append([x.grad, *(parameter.grad for parameter in ours.parameters())])
    for again in found[1:]:
        assert all(map(torch.equal, again, found[0]))
    y.square().sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.square().sum().backward()


@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "bidirectional": True, "dropout": 0.5}], ids=str)
def test_what_was_kept_is_freed_after_the_pass_backward(options):
    _, ours = twins(**options)
    x, state = make_input(ours)
    kept = []

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor
            kept.append((weakref.ref(self), tensor.numel()))

    with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
        y, final = ours(x, state)
    gates = 4 * ours.num_layers * (1 + ours.bidirectional) * x.shape[0] * x.shape[1] * ours.hidden_size
    assert sum(numbers for _, numbers in kept) > gates
    assert all(box() is not None for box, _ in kept)
    y.sum().backward()
    gc.collect()
    # Although the outputs are there still.
    assert all(box() is None for box, _ in kept) and final is not None


def test_nothing_is_kept_where_nothing_is_asked_for():
    _, ours = twins(num_layers=2)
    x, state = make_input(ours)
    expected = ours(x, state)[0]
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            y, (h, c) = ours(x, state)
        assert torch.equal(y, expected.detach())
        assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in (y, h, c))
    assert not ours.requires_grad_(False)(x, state)[0].requires_grad


def test_what_is_written_to_between_the_passes_is_told_of():
    _, ours = twins(num_layers=2)
    x, (h, c) = make_input(ours)
    # Outputs of an operation: autograd lets nobody write to a leaf.
    x, h, c = (1.0 * tensor.requires_grad_() for tensor in (x, h, c))
    for what in ("x", "h", "c", "y", "weight_hh_l1", "bias_ih_l0"):
        y, _ = ours(x, (h, c))
        loss = y.sum()
        with torch.no_grad():
            {"x": x, "h": h, "c": c, "y": y, **dict(ours.named_parameters())}[what].mul_(0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward(retain_graph=True)


def test_packed_data_that_are_written_to_are_told_of():
    _, ours = twins()
    for lengths in ([4, 2, 2], [4, 4, 4]):
        for part in ("x", "y"):
            x = rnn.pack_padded_sequence(make_input(ours, steps=4, batch=3)[0].requires_grad_(), lengths)
            y, _ = ours(x)
            loss = y.data.sum()
            with torch.no_grad():
                {"x": x, "y": y}[part].data.mul_(0.5)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


def test_a_second_derivative_is_refused():
    _, ours = twins(num_layers=2)
    x, state = make_input(ours)
    y, _ = ours(x.requires_grad_(), state)
    expected = torch.autograd.grad(y.square().sum(), [x, *ours.parameters()], retain_graph=True)
    # To ask for the first with a graph of its own is no fault,
    found = torch.autograd.grad(y.square().sum(), [x, *ours.parameters()], create_graph=True)
    assert all(map(torch.equal, found, expected))
    # but to go on through any of them is.
    for gradient in found:
        with pytest.raises(RuntimeError, match=r"^lstm_rs.torch.LSTM has no second derivatives; torch.nn.LSTM, which"):
            gradient.sum().backward(retain_graph=True)
    # It depends on the weights and on what came in, each alone.
    for dy, of in ((torch.ones_like(y), ours.weight_hh_l0), (torch.ones_like(y, requires_grad=True), None)):
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(dx.sum(), dy if of is None else of, retain_graph=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("how", ["vmap", "grad", "jvp", "dual"])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_what_there_is_no_rule_for_is_refused(how, recorded):
    _, ours = twins()
    x, _ = make_input(ours)
    dual = torch.autograd.forward_ad
    with torch.set_grad_enabled(recorded), pytest.raises((RuntimeError, NotImplementedError)):
        if how == "vmap":
            torch.func.vmap(lambda x: ours(x)[0])(torch.stack([x, x]))
        elif how == "grad":
            torch.func.grad(lambda x: ours(x)[0].sum())(x)
        elif how == "jvp":
            torch.func.jvp(lambda x: ours(x)[0], (x,), (x,))
        else:
            with dual.dual_level():
                ours(dual.make_dual(x, x))


def test_checkpoints_recompute_the_same():
    _, ours = twins(num_layers=3, dropout=0.5)
    x, state = make_input(ours)
    found = []
    for reentrant in (None, True, False):
        ours.zero_grad()
        given = x.clone().requires_grad_()
        torch.manual_seed(0)
        if reentrant is None:
            y, _ = ours(given, state)
        else:
            y, _ = torch.utils.checkpoint.checkpoint(ours, given, state, use_reentrant=reentrant)
        y.square().sum().backward()
        found.append([y.detach(), given.grad, *(parameter.grad for parameter in ours.parameters())])
    for again in found[1:]:
        assert all(map(torch.equal, again, found[0]))


def test_saved_tensors_may_go_elsewhere():
    _, ours = twins(num_layers=2, bidirectional=True)
    x, state = make_input(ours)
    expected = answers(ours, x, state)

    def pack(tensor):
        return tensor.numpy().tobytes(), tensor.shape

    def unpack(packed):
        return torch.from_numpy(np.frombuffer(bytearray(packed[0])).reshape(packed[1]))

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: pack(tensor.detach()), unpack):
        assert_same(answers(ours, x, state), expected)


def test_hooks_of_tensors_and_modules_fire():
    _, ours = twins()
    x, state = make_input(ours)
    seen = []
    handles = [
        ours.register_forward_pre_hook(lambda module, given: seen.append("before")),
        ours.register_forward_hook(lambda module, given, found: seen.append("after")),
        ours.register_full_backward_hook(lambda module, of_input, of_output: seen.append("backward")),
        ours.weight_hh_l0.register_hook(lambda gradient: seen.append("weight")),
    ]
    y, _ = ours(x.requires_grad_(), state)
    y.register_hook(lambda gradient: gradient * 2)
    y.sum().backward()
    assert seen[:2] == ["before", "after"] and sorted(seen[2:]) == ["backward", "weight"]
    doubled = x.grad.clone()
    for handle in handles:
        handle.remove()
    x.grad = None
    ours(x, state)[0].sum().backward()
    torch.testing.assert_close(doubled, 2 * x.grad)
    assert len(seen) == 4


def test_one_call_goes_on_from_another():
    """Truncated or not: the state carries gradients from chunk to chunk."""
    theirs, ours = twins(num_layers=2)
    x, state = make_input(ours, steps=12)
    grads = []
    for module in (theirs, ours):
        module.zero_grad()
        carried, loss = state, 0.0
        for chunk in x.split(4):
            y, carried = module(chunk, carried)
            loss = loss + y.square().sum()
        loss.backward()
        grads.append([parameter.grad for parameter in module.parameters()])
    for expected, mine in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-11)
