"""`lstm_rs.torch.LSTM` against ``torch.nn.LSTM``, and against our own layer: the same answers and gradients."""

import numpy as np
import pytest
from oracle import PRESETS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import lstm_rs  # noqa: E402
from lstm_rs.torch import LSTM  # noqa: E402
from torch_twins import (  # noqa: E402
    DTYPES,
    HIDDEN,
    INPUT,
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

# ----------------------------- PyTorch's


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("batch", [5, None], ids=["batch", "one sequence"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_answers_and_gradients_are_those_of_pytorch(options, batch, states, dtype):
    theirs, ours = twins(dtype=DTYPES[dtype], **options)
    x, state = make_input(ours, batch=batch)
    state = state if states else None
    assert_alike(answers(ours, x, state), answers(theirs, x, state), ours, batch=batch or 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize(
    ("lengths", "enforce_sorted"),
    [([4, 9, 1, 8, 4], False), ([9, 8, 4, 4, 1], True), ([9, 8, 4, 4, 1], False), ([9] * 5, True), ([3] * 5, False)],
    ids=str,
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_packed_sequences_are_those_of_pytorch(options, lengths, enforce_sorted, states, dtype):
    theirs, ours = twins(dtype=DTYPES[dtype], **options)
    x, state = make_input(ours)
    state = state if states else None
    how = (x, state, lengths, enforce_sorted)
    assert_alike(answers(ours, *how), answers(theirs, *how), ours)


def test_a_packed_answer_is_packed_as_the_input():
    theirs, ours = twins()
    x = rnn.pack_sequence([torch.randn(k, INPUT, dtype=torch.float64) for k in (2, 5, 1)], enforce_sorted=False)
    mine, other = ours(x)[0], theirs(x)[0]
    assert isinstance(mine, rnn.PackedSequence)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(mine, name), getattr(other, name))
    plain = rnn.pack_sequence([torch.randn(k, INPUT, dtype=torch.float64) for k in (5, 2)])
    assert ours(plain)[0].sorted_indices is None
    # The state goes with its sequence.
    assert torch.equal(ours(x)[1][0][0, 2], ours(rnn.unpack_sequence(x)[2])[1][0][0])


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_seed_drops_what_it_drops_in_pytorch(options, dtype):
    theirs, ours = twins(num_layers=3, dropout=0.4, dtype=DTYPES[dtype], **options)
    for batch, lengths in ((5, None), (None, None), (5, [4, 9, 1, 8, 4])):
        x, state = make_input(ours, batch=batch)
        found = []
        for module in (ours, theirs):
            torch.manual_seed(3)
            found.append(answers(module, x, state, lengths))
        assert_alike(*found, ours, batch=batch or 1)
        # The next draw drops others; evaluation none.
        assert not np.array_equal(answers(ours, x, state, lengths)["y"], found[0]["y"])
        assert_alike(answers(ours.eval(), x, state), answers(theirs.eval(), x, state), ours, batch=batch or 1)
        ours.train(), theirs.train()


def test_a_seed_drops_the_same_where_nothing_is_recorded():
    _, ours = twins(num_layers=3, dropout=0.4)
    x, state = make_input(ours)
    torch.manual_seed(3)
    expected = ours(x, state)[0]
    torch.manual_seed(3)
    with torch.no_grad():
        assert torch.equal(ours(x, state)[0], expected)


def test_everything_can_be_dropped():
    theirs, ours = twins(num_layers=2, dropout=1.0)
    x, state = make_input(ours)
    assert_alike(answers(ours, x, state), answers(theirs, x, state), ours)


def test_a_seed_gives_the_weights_that_it_gives_in_pytorch():
    for options in OPTIONS.values():
        found = []
        for kind in (torch.nn.LSTM, LSTM):
            torch.manual_seed(5)
            module = kind(INPUT, HIDDEN, **options)
            # And leaves the generator where it leaves it there.
            found.append([*module.state_dict().items(), ("next", torch.rand(3))])
            torch.manual_seed(6)
            module.reset_parameters()
            found[-1] += [*module.state_dict().items()]
        for (name, mine), (other, expected) in zip(*found, strict=True):
            assert name == other and torch.equal(mine, expected)


@pytest.mark.parametrize("options", [{"num_layers": 2, "dropout": 0.3}, {"bidirectional": True}], ids=str)
def test_training_takes_the_course_that_it_takes_in_pytorch(options):
    curves = []
    for kind in (torch.nn.LSTM, LSTM):
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({"lstm": kind(3, 8, batch_first=True, **options)}).double()
        model["head"] = torch.nn.Linear(16 if "bidirectional" in options else 8, 1, dtype=torch.float64)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(60):
            x = torch.randn(6, 12, 3, dtype=torch.float64)
            loss = ((model["head"](model["lstm"](x)[0])[:, -1, 0] - x.mean((1, 2))) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert np.mean(curves[0][-5:]) < 0.7 * np.mean(curves[0][:5])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-9, atol=0)


def test_the_comparison_can_fail():
    theirs, ours = twins(**OPTIONS["all"])
    x, state = make_input(ours)
    expected = answers(theirs, x, state)
    for name, value in ours.state_dict().items():
        with torch.no_grad():
            value[(1,) * value.dim()] += 1e-8
        with pytest.raises(AssertionError, match="above the tolerance"):
            assert_alike(answers(ours, x, state), expected, ours)
        ours.load_state_dict(theirs.state_dict())
        assert name in ours.state_dict()
    assert_alike(answers(ours, x, state), expected, ours)


# ----------------------------- our own layer

CELLS = PRESETS | {
    "hard_sigmoid": lstm_rs.CellSpec(gate_activation="hard_sigmoid", input_activation="softsign", cell_clip=0.5)
}


def layer_of(module):
    """The layer of the package with a module's weights."""
    layer = lstm_rs.LSTM(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bias=module.bias,
        batch_first=module.batch_first,
        bidirectional=module.bidirectional,
        proj_size=module.proj_size,
        cell=module.cell,
        dtype=str(module.weight_ih_l0.dtype).removeprefix("torch."),
    )
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    for name in list(arrays):
        if name.startswith("bias_ih"):
            both = arrays.pop(name), arrays.pop(name.replace("bias_ih", "bias_hh"))
            arrays[name.replace("bias_ih", "bias")] = both[0] + both[1]
    layer.load_state_dict(arrays)
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_bits_are_those_of_the_layer(cell, options, dtype):
    torch.manual_seed(0)
    module = LSTM(INPUT, HIDDEN, **options, dtype=DTYPES[dtype], cell=cell)
    layer = layer_of(module)
    for lengths in (None, [9, 7, 7, 2, 1]):
        x, state = make_input(module)
        found = answers(module, x, state, lengths, enforce_sorted=True)
        generator = torch.Generator().manual_seed(2)
        y, final, tape = layer.forward_train(x.numpy(), tuple(part.numpy() for part in state), lengths)
        dy, *dstate = (
            torch.randn(*part.shape, generator=generator, dtype=torch.float64).to(DTYPES[dtype]).numpy()
            for part in (y, *final)
        )
        grads = layer.backward(tape, dy, tuple(dstate))
        expected = {"y": y, "h": final.h, "c": final.c, "d_x": grads.x, "d_h": grads.state.h, "d_c": grads.state.c}
        for name, array in grads.weights.items():
            both = name.startswith("bias")
            names = [name.replace("bias", kind) for kind in ("bias_ih", "bias_hh")] if both else [name]
            expected |= {f"d_{name}": array for name in names}
        found.pop("packed", None)
        assert_same(found, expected)
        with torch.inference_mode():
            assert np.array_equal(module(x, state)[0].numpy(), layer(x.numpy(), tuple(map(np.asarray, state)))[0])


def test_a_cell_decides_on_the_parameters():
    coupled = LSTM(INPUT, HIDDEN, 2, bidirectional=True, cell=lstm_rs.CellSpec(coupled=True, peephole=True))
    assert coupled.weight_ih_l0.shape == (3 * HIDDEN, INPUT)
    assert coupled.bias_hh_l1_reverse.shape == (3 * HIDDEN,)
    assert coupled.peephole_l1_reverse.shape == (2, HIDDEN)
    assert [len(part) for part in coupled.all_weights] == [5] * 4
    bound = HIDDEN**-0.5
    for parameter in coupled.parameters():
        assert parameter.requires_grad and 0 < parameter.abs().max() <= bound
    assert "peephole=True" in repr(coupled) and "cell" not in repr(LSTM(INPUT, HIDDEN))
    assert [*LSTM(INPUT, HIDDEN).state_dict()] == [*torch.nn.LSTM(INPUT, HIDDEN).state_dict()]
    on = LSTM(INPUT, HIDDEN, device="meta", dtype=torch.float64, cell=lstm_rs.CellSpec.peephole_lstm())
    assert on.peephole_l0.device.type == "meta" and on.peephole_l0.dtype == torch.float64
    with pytest.raises(TypeError, match=r"^cell: expected a CellSpec, got str$"):
        LSTM(INPUT, HIDDEN, cell="peephole")
