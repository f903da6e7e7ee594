"""Layers and tapes that are copied, pickled or sent to another process: the same bits there."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from oracle import assert_same_bits
from stacked import Run, answers, made, same


def trained(layer, x, seed):
    """A step of training with dropout: the function that goes into another process."""
    y, final, tape = layer.forward_train(x, rng=np.random.default_rng(seed))
    grads = layer.backward(tape, y)
    return y, final, tape, grads


def flat(y, final, grads):
    return [y, *final, grads.x, *grads.weights.values(), *grads.state]


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_the_same_bits_and_its_own_weights(how):
    layer, run = made(dropout=0.5)
    other = how(layer)
    assert repr(other) == repr(layer)
    run.rng = np.random.default_rng(3)
    wanted, _ = answers(run)
    twin = Run(**{**vars(run), "layer": other, "rng": np.random.default_rng(3)})
    same(answers(twin)[0], wanted)
    with pytest.raises(ValueError, match="WRITEABLE"):
        other.weights["bias_l0"].flags.writeable = True
    other.weights["bias_l0"] = np.zeros(20, np.float32)
    run.rng = np.random.default_rng(3)
    same(answers(run)[0], wanted)


def test_a_copy_drops_what_the_layer_would_drop():
    layer, run = made(dropout=0.5)
    layer.forward_train(run.x)
    other = pickle.loads(pickle.dumps(layer))
    assert_same_bits(layer.forward_train(run.x)[0], other.forward_train(run.x)[0])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda tape: pickle.loads(pickle.dumps(tape))])
def test_a_copied_tape_has_the_same_gradients(how):
    layer, run = made(dropout=0.5)
    wanted, tape = answers(run)
    other = how(tape)
    for target in (layer, copy.deepcopy(layer)):
        grads = target.backward(other, run.dy, run.dstate)
        given = {f"d_{name}": array for name, array in grads.weights.items()}
        given |= {"d_x": grads.x, "d_h": grads.state.h, "d_c": grads.state.c}
        same(given, {name: array for name, array in wanted.items() if name.startswith("d_")})
    for name in ("layers", "dropout", "anything"):
        with pytest.raises(AttributeError, match="read-only"):
            setattr(other, name, ())
        with pytest.raises(AttributeError, match="read-only"):
            delattr(other, name)


def test_another_process_gives_the_same_bits():
    layer, run = made(dropout=0.5)
    y, final, _, grads = trained(layer, run.x, 4)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there_y, there_final, there_tape, there_grads = pool.submit(trained, layer, run.x, 4).result(timeout=120)
    back = layer.backward(there_tape, there_y)
    for other in (there_grads, back):
        for a, b in zip(flat(there_y, there_final, other), flat(y, final, grads), strict=True):
            assert_same_bits(a, b)
