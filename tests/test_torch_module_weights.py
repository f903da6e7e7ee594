"""The weights of `lstm_rs.torch.LSTM`: in files and copies, and changed in whatever way between calls."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from lstm_rs import CellSpec  # noqa: E402
from lstm_rs.torch import LSTM  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
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

# ----------------------------- files and copies


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_state_dict_goes_both_ways(options):
    theirs, ours = twins(**options)
    for source, kind in ((theirs, LSTM), (ours, torch.nn.LSTM)):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        other = kind(4, 7, **options, dtype=torch.float64)
        assert str(other.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
        x, state = make_input(ours)
        assert_alike(answers(other, x, state), answers(source, x, state), ours)


def through_a_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_a_file])
@pytest.mark.parametrize("cell", [None, CellSpec.greff("CIFG")], ids=["usual", "CIFG"])
def test_a_copy_answers_alike_and_has_its_own_weights(how, cell):
    torch.manual_seed(0)
    module = LSTM(4, 7, 2, bidirectional=True, dtype=torch.float64, cell=cell).eval()
    x, state = make_input(module)
    with torch.no_grad():
        module(x, state)
    other = how(module)
    assert type(other) is LSTM and other.cell == module.cell and not other.training and repr(other) == repr(module)
    # What is packed goes into no file.
    assert "_packed" not in module.__getstate__()
    expected = answers(module, x, state)
    assert_same(answers(other, x, state), expected)
    with torch.no_grad():
        other.weight_hh_l0.zero_()
        assert not torch.equal(other(x, state)[0], module(x, state)[0])
    assert_same(answers(module, x, state), expected)


def test_it_moves_between_dtypes():
    theirs, ours = twins(num_layers=2)
    for dtype in (torch.float32, torch.float64):
        theirs, ours = theirs.to(dtype), ours.to(dtype)
        x, state = make_input(ours)
        with torch.no_grad():
            torch.testing.assert_close(ours(x, state)[0], theirs(x, state)[0], rtol=0, atol=1e-6)
        assert_alike(answers(ours, x, state), answers(theirs, x, state), ours)


# ----------------------------- weights that change

CHANGES = {
    "an optimizer": lambda module: torch.optim.SGD(module.parameters(), lr=0.1).step(),
    "in place": lambda module: module.weight_hh_l0.mul_(0.5),
    "past autograd": lambda module: module.weight_ih_l1.data.mul_(0.5),
    "through an array": lambda module: np.copyto(module.bias_hh_l1.detach().numpy(), 0.25),
    "one bit": lambda module: module.weight_hh_l0.data.view(torch.int64).bitwise_xor_(2),
    "another parameter": lambda module: setattr(module, "weight_ih_l0", torch.nn.Parameter(module.weight_ih_l0 * 2)),
    "its data": lambda module: setattr(module.bias_ih_l0, "data", module.bias_ih_l0.data + 1),
    "a state_dict": lambda module: module.load_state_dict(twins(seed=9, num_layers=2)[1].state_dict()),
    "initial weights": lambda module: module.reset_parameters(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_call_runs_on_the_weights_as_they_are(change):
    theirs, ours = twins(num_layers=2)
    x, state = make_input(ours)
    for module in (ours, theirs):
        module(x, state)[0].sum().backward()
    with torch.no_grad():
        before = ours(x, state)[0]
        packed = ours._packed
        assert torch.equal(ours(x, state)[0], before) and ours._packed is packed
        torch.manual_seed(0)
        change(ours)
        after = ours(x, state)[0]
        assert ours._packed is not packed and not torch.equal(after, before)
        torch.manual_seed(0)
        change(theirs)
        torch.testing.assert_close(after, theirs(x, state)[0], rtol=0, atol=1e-12)
    # The bits of a call that packs them anew.
    assert torch.equal(ours(x, state)[0], after)
    assert ours._packed is None


def test_weights_of_the_same_bytes_but_another_shape_or_dtype_are_packed_anew():
    x = torch.ones(3, 2, 4)
    for change in (torch.flatten, lambda weight: weight.view(torch.float64)):
        ours = LSTM(4, 4)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.zero_()
            ours(x)
            for name, parameter in [*ours.named_parameters()]:
                setattr(ours, name, torch.nn.Parameter(change(parameter.data)))
            with pytest.raises(ValueError, match=r"^w_(ih|hh): "):
                ours(x.to(ours.weight_ih_l0.dtype))


def test_calls_while_another_thread_writes_to_the_weights():
    """Each runs on what it has copied: none keeps a pack of weights that are not there."""
    _, ours = twins()
    x, state = make_input(ours)
    stop = threading.Event()

    def write():
        with torch.no_grad():
            while not stop.is_set():
                ours.weight_hh_l0.neg_()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with torch.no_grad():
            for _ in range(200):
                ours(x, state)
    finally:
        stop.set()
        writer.join()
    with torch.no_grad():
        kept = ours(x, state)[0]
        ours._packed = None
        assert torch.equal(ours(x, state)[0], kept)


def test_weights_of_a_functional_call():
    theirs, ours = twins(num_layers=2)
    x, state = make_input(ours)
    other = {name: 0.5 * parameter.detach() for name, parameter in ours.named_parameters()}
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            before = ours(x, state)[0]
            found, expected = (torch.func.functional_call(m, other, (x, state))[0] for m in (ours, theirs))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
            assert torch.equal(ours(x, state)[0], before)


NORMS = {
    "parametrized": lambda module: torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0"),
    "orthogonal": lambda module: torch.nn.utils.parametrizations.orthogonal(module, "weight_hh_l0"),
    "hooked": lambda module: torch.nn.utils.spectral_norm(module, "weight_hh_l0"),
    "pruned": lambda module: prune.l1_unstructured(module, "weight_hh_l0", 0.3),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_weights_that_are_computed(norm):
    theirs, ours = twins()
    for module in (theirs, ours):
        torch.manual_seed(0)
        norm(module)
        module.eval()
    assert isinstance(ours, LSTM)
    x, state = make_input(ours)
    assert_alike(answers(ours, x, state), answers(theirs, x, state), ours)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, state)[0], theirs(x, state)[0], rtol=0, atol=1e-12)
