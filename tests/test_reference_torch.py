"""The reference against PyTorch's nn.LSTM and its autograd, in float64."""

import numpy as np
import pytest
from lstm_rs import reference
from lstm_rs.functional import State
from oracle import CELLS, assert_close, assert_gradients_close, make_input, make_state, make_weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# (T, N, I, H, P)
SHAPES = [(1, 1, 1, 1, None), (5, 3, 4, 6, None), (9, 2, 3, 5, 2), (30, 4, 7, 11, None), (12, 5, 8, 10, 9)]


def drawn(shape):
    steps, batch, inputs, hidden, out = shape
    rng = np.random.default_rng(sum(k or 0 for k in shape))
    weights = make_weights(rng, CELLS["gers_1999"], inputs, hidden, out)
    dy = rng.normal(size=(steps, batch, out or hidden))
    state, dstate = (make_state(rng, batch, hidden, out) for _ in range(2))
    sizes = {"steps": steps, "batch": batch, "input_size": inputs, "hidden_size": hidden}
    return make_input(rng, steps, batch, inputs), weights, state, dy, dstate, sizes, rng


def torch_lstm(weights, **how):
    """An nn.LSTM with these weights in its last direction. Of its two biases one is ours, the other 0."""
    rows, inputs = weights.w_ih.shape
    out = 0 if weights.w_hr is None else len(weights.w_hr)
    lstm = torch.nn.LSTM(inputs, rows // 4, proj_size=out, dtype=torch.float64, **how)
    end = "_l0_reverse" if lstm.bidirectional else "_l0"
    names = {
        "weight_ih": weights.w_ih,
        "weight_hh": weights.w_hh,
        "bias_ih": weights.b,
        "bias_hh": 0 * weights.b,
    }
    if out:
        names["weight_hr"] = weights.w_hr
    with torch.no_grad():
        for name, array in names.items():
            getattr(lstm, name + end).copy_(torch.from_numpy(array))
    return lstm, {name: getattr(lstm, name + end) for name in names}


def leaf(array):
    return torch.tensor(array, requires_grad=True)


def torch_gradients(x, parameters, state):
    weights = {"weight_hr": None} | {name: p.grad.numpy() for name, p in parameters.items()}
    ours = reference.Weights(weights["weight_ih"], weights["weight_hh"], weights["bias_ih"], None, weights["weight_hr"])
    return reference.Gradients(x.grad.numpy(), ours, State(*(part.grad.numpy() for part in state)))


def scalar(y, final, dy, dstate):
    """The loss whose gradients with respect to y and the final state are dy and dstate."""
    parts = zip((y, *final), (dy, *dstate), strict=True)
    return sum((part * torch.from_numpy(np.ascontiguousarray(d))).sum() for part, d in parts)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(shape, batch_first):
    x, weights, state, dy, dstate, sizes, _ = drawn(shape)
    if batch_first:
        x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1)
    y, final, tape = reference.forward_train(x, weights, state, batch_first=batch_first)
    grads = reference.backward(tape, dy, dstate)

    lstm, parameters = torch_lstm(weights, batch_first=batch_first)
    x, state = leaf(x), [leaf(part) for part in state]
    y_t, final_t = lstm(x, tuple(part[None] for part in state))
    final_t = [part[0] for part in final_t]
    scalar(y_t, final_t, dy, dstate).backward()
    for name, ours, theirs in zip(("y", "h", "c"), (y, *final), (y_t, *final_t), strict=True):
        assert_close(ours, theirs.detach().numpy(), **sizes, name=name)
    assert_gradients_close(grads, torch_gradients(x, parameters, state), **sizes)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lengths_and_reverse_are_packed_sequences(shape, bidirectional):
    """PyTorch has no reverse direction alone: it is the second of two."""
    x, weights, state, dy, dstate, sizes, rng = drawn(shape)
    lengths = rng.integers(1, sizes["steps"], size=sizes["batch"], endpoint=True)
    lengths[-1] = sizes["steps"]  # pad_packed_sequence cuts what no sequence reaches
    y, final, tape = reference.forward_train(x, weights, state, lengths=lengths, reverse=bidirectional)
    grads = reference.backward(tape, dy, dstate)

    lstm, parameters = torch_lstm(weights, bidirectional=bidirectional)
    x, state = leaf(x), [leaf(part) for part in state]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
    directions = 1 + bidirectional
    y_t, final_t = lstm(packed, tuple(part[None].repeat(directions, 1, 1) for part in state))
    y_t = torch.nn.utils.rnn.pad_packed_sequence(y_t)[0][..., -y.shape[-1] :]
    final_t = [part[-1] for part in final_t]
    scalar(y_t, final_t, dy, dstate).backward()
    for name, ours, theirs in zip(("y", "h", "c"), (y, *final), (y_t, *final_t), strict=True):
        assert_close(ours, theirs.detach().numpy(), **sizes, name=name)
    assert_gradients_close(grads, torch_gradients(x, parameters, state), **sizes)
