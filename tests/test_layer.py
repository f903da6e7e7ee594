"""The layer, forward and backward, against layers of the reference on top of each other; and its dropout."""

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from lstm_rs import LSTM, LSTMTape, State
from oracle import PRESETS, assert_close, assert_same_bits, make_input
from stacked import Run, answers, check, expected, make_layer, make_run, same

# ----------------------------- forward and backward


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "proj_size": 5, "batch_first": True}], ids=["one", "both"]
)
def test_two_layers_of_every_preset(isa, cell, options, dtype):
    rng = np.random.default_rng(1)
    layer = make_layer(rng, 4, 9, 2, cell=cell, dtype=dtype, **options)
    check(make_run(layer, rng, 7, 3))


@given(st.data())
def test_any_layer(data):
    draw = data.draw
    hidden = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17]), "hidden_size")
    options = {
        "bias": draw(st.booleans(), "bias"),
        "batch_first": draw(st.booleans(), "batch_first"),
        "bidirectional": draw(st.booleans(), "bidirectional"),
        "proj_size": draw(st.integers(0, min(hidden - 1, 9)), "proj_size"),
        "cell": PRESETS[draw(st.sampled_from(list(PRESETS)), "cell")],
        "dtype": draw(st.sampled_from([np.float32, np.float64]), "dtype"),
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    layer = make_layer(rng, draw(st.integers(0, 6), "input_size"), hidden, draw(st.integers(1, 3), "layers"), **options)
    batch = draw(st.one_of(st.none(), st.integers(0, 5)), "batch")
    run = make_run(layer, rng, draw(st.integers(0, 6), "steps"), batch, draw(st.booleans()), draw(st.booleans()))
    if draw(st.booleans(), "no dy"):
        run.dy = None
    run.need_dx = draw(st.booleans(), "need_dx")
    note(repr(layer))
    check(run)
    # A call gives the same bits as forward_train.
    y, final = layer(run.x, run.state, run.lengths)
    trained = layer.forward_train(run.x, run.state, run.lengths)
    for a, b in zip((y, *final), (trained[0], *trained[1]), strict=True):
        assert_same_bits(a, b)


def test_the_comparison_can_fail():
    """One wrong element of any array, a direction or a layer's weights exchanged: each shows."""
    rng = np.random.default_rng(2)
    layer = make_layer(rng, 4, 5, 2, bidirectional=True)
    run = make_run(layer, rng, 6, 3)
    check(run)
    arrays = layer.state_dict()
    for one, other in (("weight_hh_l0", "weight_hh_l0_reverse"), ("weight_ih_l1", "weight_ih_l1_reverse")):
        wrong = LSTM(4, 5, 2, bidirectional=True)
        wrong.load_state_dict(arrays | {one: arrays[other], other: arrays[one]})
        mixed = Run(wrong, run.x, run.state, run.lengths, run.dy, run.dstate)
        with pytest.raises(AssertionError, match="above the tolerance"):
            same_within(answers(mixed)[0], expected(run))
    for name in (actual := answers(run)[0]):
        wrong = actual[name].copy()
        wrong.flat[-1] += np.float32(0.001 * np.abs(wrong).max())
        with pytest.raises(AssertionError, match=f"^{name}: error"):
            same_within(actual | {name: wrong}, expected(run))


def same_within(actual, wanted):
    for name, array in actual.items():
        weights = name.startswith(("d_weight", "d_bias"))
        sizes = {"steps": 12, "batch": 3, "input_size": 10, "hidden_size": 5}
        assert_close(array, wanted[name], **sizes, backward=name[:2] == "d_", over_batch=weights, name=name)


def test_padding_is_never_read():
    rng = np.random.default_rng(3)
    layer = make_layer(rng, 3, 5, 2, bidirectional=True)
    run = make_run(layer, rng, 6, 4)
    clean, _ = answers(run)
    past = np.arange(6)[:, None] >= run.lengths
    for array in (run.x, run.dy):
        array[past] = np.nan
    same(answers(run)[0], clean)


@pytest.mark.parametrize("lengths", [[3, 0, 5], np.array([3, 0, 5], np.int32), np.array([3, 0, 5], np.uint64)])
def test_lengths_of_any_integers(lengths):
    rng = np.random.default_rng(4)
    layer = make_layer(rng, 3, 5, 2)
    run = make_run(layer, rng, 5, 3)
    run.lengths = np.array([3, 0, 5])
    wanted, _ = answers(run)
    run.lengths = lengths
    same(answers(run)[0], wanted)


def test_layouts_and_lists():
    """Fortran order, strides, byte order, lists: the same bits."""
    rng = np.random.default_rng(5)
    layer = make_layer(rng, 3, 5, 2, bidirectional=True, dtype=np.float64)
    run = make_run(layer, rng, 5, 4)
    wanted, _ = answers(run)
    changes = (
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda array: array[::-1].copy()[::-1],
        lambda array: array.astype(">f8"),
        lambda array: array.tolist(),
    )
    for change in changes:
        pairs = [tuple(change(part) for part in pair) for pair in (run.state, run.dstate)]
        changed = Run(layer, change(run.x), pairs[0], run.lengths, change(run.dy), pairs[1])
        same(answers(changed)[0], wanted)


def test_a_tape_serves_more_than_once():
    rng = np.random.default_rng(6)
    layer = make_layer(rng, 3, 5, 2, bidirectional=True, dropout=0.5)
    run = make_run(layer, rng, 5, 4)
    first, tape = answers(run)
    again = layer.backward(tape, run.dy, run.dstate)
    assert_same_bits(again.x, first["d_x"])
    for name, array in again.weights.items():
        assert_same_bits(array, first[f"d_{name}"], name)
    assert list(again.weights) == list(layer.weights)
    assert isinstance(tape, LSTMTape) and isinstance(again.state, State)


# ----------------------------- dropout


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_is_the_reference_with_the_masks_of_the_tape(bidirectional):
    rng = np.random.default_rng(7)
    layer = make_layer(rng, 3, 6, 3, dropout=0.25, bidirectional=bidirectional, dtype=np.float64)
    run = make_run(layer, rng, 5, 4)
    run.rng = np.random.default_rng(11)
    _, tape = answers(run)
    assert len(tape.dropout) == 2, "between three layers, and not after the last"
    run.masks, run.rng = tape.dropout, np.random.default_rng(11)
    check(run)
    for mask in tape.dropout:
        assert set(np.unique(mask)) == {0.0, 1.0 / 0.75}
    assert (tape.dropout[0] != tape.dropout[1]).any()
    # Masks that are not those of the run would show.
    run.masks, run.rng = tape.dropout[::-1], np.random.default_rng(11)
    with pytest.raises(AssertionError, match="above the tolerance"):
        check(run)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_drops_as_often_as_asked_and_keeps_the_mean(dtype):
    layer = LSTM(2, 50, 2, dropout=0.3, dtype=dtype, seed=0)
    mask = layer.forward_train(np.ones((40, 50, 2), dtype))[2].dropout[0]
    assert mask.dtype == dtype and mask.shape == (40, 50, 50)
    # 100,000 of them: the share of zeros is within five standard deviations, 0.0072.
    assert abs((mask == 0).mean() - 0.3) < 0.0072
    assert abs(mask.mean() - 1.0) < 0.011


def test_dropout_acts_in_training_alone():
    rng = np.random.default_rng(8)
    dropping, plain = (make_layer(np.random.default_rng(0), 3, 6, 2, dropout=p) for p in (0.5, 0.0))
    x = make_input(rng, 5, 4, 3, np.float32)
    assert_same_bits(dropping(x)[0], plain(x)[0])
    assert_same_bits(plain.forward_train(x)[0], plain(x)[0])
    assert (dropping.forward_train(x)[0] != dropping(x)[0]).any()
    assert plain.forward_train(x)[2].dropout == (None,)
    assert LSTM(3, 6).forward_train(x)[2].dropout == ()
    with pytest.raises(ValueError, match="read-only"):
        dropping.forward_train(x)[2].dropout[0][:] = 1


def test_dropout_comes_from_the_generator_given_or_from_the_layer():
    rng = np.random.default_rng(9)
    x = make_input(rng, 5, 4, 3, np.float32)
    layer = LSTM(3, 6, 2, dropout=0.5, seed=1)
    given_one, given_two = (layer.forward_train(x, rng=np.random.default_rng(3))[0] for _ in range(2))
    assert_same_bits(given_one, given_two)
    assert (layer.forward_train(x, rng=np.random.default_rng(4))[0] != given_one).any()
    own, next_own = (layer.forward_train(x)[0] for _ in range(2))
    assert (own != next_own).any()
    # A Generator that was given has left the layer's own alone.
    assert_same_bits(LSTM(3, 6, 2, dropout=0.5, seed=1).forward_train(x)[0], own)
    for wrong in (0, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"^rng: expected a numpy\.random.Generator, got"):
            layer.forward_train(x, rng=wrong)
