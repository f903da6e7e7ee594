"""Mini-batches: every sequence once, its own steps and targets, in an order that a seed repeats; and stretches."""

import numpy as np
import pytest
from lstm_rs import LSTM, train

LENGTHS = [4, 1, 7, 3, 3, 12, 5, 8, 2, 6, 9]


def ragged(per_step=False, width=3):
    """Sequences whose numbers say where they stand: 100 * sequence + step."""
    sequences = [
        np.repeat(100.0 * k + np.arange(steps)[:, None], width, axis=1).astype(np.float32)
        for k, steps in enumerate(LENGTHS)
    ]
    targets = [1000 * k + np.arange(steps) for k, steps in enumerate(LENGTHS)]
    return sequences, targets if per_step else np.arange(len(LENGTHS)) * 10


def check(batch, sequences, per_step):
    """What is in a batch; the sequences that it has."""
    steps, count, _ = batch.x.shape
    assert batch.x.flags.c_contiguous and batch.x.dtype == np.float32
    lengths = np.full(count, steps) if batch.lengths is None else batch.lengths
    assert lengths.max() == steps
    assert batch.lengths is None or (lengths.min() < steps and lengths.dtype == np.int64)
    which = (batch.x[0, :, 0] // 100).astype(int).tolist()
    for n, k in enumerate(which):
        assert lengths[n] == len(sequences[k])
        assert np.array_equal(batch.x[: lengths[n], n], sequences[k])
        assert not batch.x[lengths[n] :, n].any()
        if per_step:
            assert batch.target[: lengths[n], n].tolist() == [1000 * k + t for t in range(lengths[n])]
        else:
            assert batch.target[n] == 10 * k
    assert batch.carry is False
    return which


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4, 11, 50])
def test_every_sequence_once(size, bucket, per_step):
    sequences, targets = ragged(per_step)
    batches = train.Batches(sequences, targets, per_step=per_step, batch_size=size, bucket=bucket, rng=0)
    orders = []
    for _ in range(3):
        epoch = list(batches)
        assert len(epoch) == len(batches) == -(-len(LENGTHS) // size)
        orders.append([k for batch in epoch for k in check(batch, sequences, per_step)])
        assert sorted(orders[-1]) == list(range(len(LENGTHS)))
        assert sorted(batch.x.shape[1] for batch in epoch)[1:] == [size] * (len(epoch) - 1)
    # With one batch of all, sorted by length, there is one order; else a new one each time.
    assert len({tuple(order) for order in orders}) == 3 or (bucket and size >= len(LENGTHS))


@pytest.mark.parametrize("per_step", [False, True])
def test_without_shuffling_the_order_is_kept(per_step):
    sequences, targets = ragged(per_step)
    batches = train.Batches(sequences, targets, per_step=per_step, batch_size=4, shuffle=False)
    for _ in range(2):
        order = [check(batch, sequences, per_step) for batch in batches]
        assert order == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_like_lengths_stand_together():
    rng = np.random.default_rng(0)
    sequences = [np.zeros((steps, 1), np.float32) for steps in rng.integers(1, 100, 400)]

    def padding(bucket):
        batches = train.Batches(sequences, None, batch_size=10, bucket=bucket, rng=0)
        return sum(0 if b.lengths is None else (len(b.x) - b.lengths).sum() for b in batches)

    assert padding(True) < padding(False) / 4


def test_a_seed_repeats_and_a_generator_goes_on():
    sequences, targets = ragged()

    def epochs(rng, count=3):
        batches = train.Batches(sequences, targets, batch_size=3, rng=rng)
        return [[batch.target.tolist() for batch in batches] for _ in range(count)]

    assert epochs(5) == epochs(np.random.default_rng(5)) != epochs(6)
    rng = np.random.default_rng(5)
    batches = train.Batches(sequences, targets, batch_size=3, rng=rng)
    assert batches.rng is rng
    assert [b.target.tolist() for b in batches] == epochs(5)[0]
    state = rng.bit_generator.state
    # Only the start of an epoch draws.
    half = iter(batches)
    next(half)
    moved = rng.bit_generator.state
    assert moved != state
    list(half)
    assert rng.bit_generator.state == moved
    rng.bit_generator.state = state
    assert [b.target.tolist() for b in batches] == epochs(5)[1]


def test_arrays_are_as_lists_and_are_not_copied():
    x = np.random.default_rng(0).normal(size=(9, 5, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(9, 5, 3))
    for per_step, target in ((True, y), (False, y[:, 0])):
        options = {"per_step": per_step, "batch_size": 4}
        one = train.Batches(x, target, rng=3, **options)
        two = train.Batches(list(x), list(target), rng=3, **options)
        assert np.shares_memory(one._rows.x, x)
        for a, b in zip(one, two, strict=True):
            assert a.lengths is b.lengths is None
            assert np.array_equal(a.x, b.x)
            assert np.array_equal(a.target, b.target)
    # One in a list, the other not; and an array in another order.
    for sequences, targets in ((list(x), y), (x, list(y)), (np.asfortranarray(x), np.asfortranarray(y))):
        (batch,) = train.Batches(sequences, targets, per_step=True, shuffle=False)
        assert np.array_equal(batch.x, x.swapaxes(0, 1))
        assert np.array_equal(batch.target, y.swapaxes(0, 1))


def test_no_targets():
    batches = train.Batches(np.zeros((3, 4, 2), np.float32), None)
    assert [batch.target for batch in batches] == [None]


# ----------------------------- stretches


def test_stretches():
    sequences, targets = ragged(per_step=True)
    batches = train.TruncatedBatches(sequences, targets, steps=5, batch_size=4)
    given = list(batches)
    assert len(batches) == len(given) == 2 + 3 + 2
    assert [batch.carry for batch in given] == [False, True, False, True, True, False, True]
    seen = {k: [] for k in range(len(LENGTHS))}
    group = -1
    for batch in given:
        group += not batch.carry
        assert batch.x.shape[0] <= 5
        for n in range(batch.x.shape[1]):
            k = 4 * group + n
            length = batch.x.shape[0] if batch.lengths is None else batch.lengths[n]
            seen[k] += batch.x[:length, n, 0].tolist()
            assert (batch.target[:length, n] - 1000 * k == batch.x[:length, n, 0] - 100 * k).all()
            assert not batch.x[length:, n].any()
    assert seen == {k: [100 * k + t for t in range(steps)] for k, steps in enumerate(LENGTHS)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [1, 4, 5, 100])
def test_stretches_give_the_bits_of_one_long_pass(steps, dtype):
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(length, 3)).astype(dtype) for length in (23, 17, 5, 23)]
    targets = [rng.normal(size=(len(sequence), 2)) for sequence in sequences]
    lstm = LSTM(3, 6, num_layers=2, proj_size=4, dtype=dtype, seed=0)
    seen = []

    def loss(prediction, target, *, lengths=None):
        seen.append(prediction)
        return train.mse(prediction, target, lengths=lengths)

    model = train.Predictor(lstm, train.Linear(4, 2, dtype=dtype, seed=0), loss, per_step=True)
    for run in (model.loss, model.loss_and_gradients):
        seen.clear()
        for batch in train.TruncatedBatches(sequences, targets, steps=steps):
            run(batch)
        (whole,) = train.Batches(sequences, targets, per_step=True, shuffle=False)
        assert np.array_equal(np.concatenate(seen), model(whole.x, whole.lengths))
        _, state = lstm(whole.x, None, whole.lengths)
        assert np.array_equal(model._state.h, state.h)
        assert np.array_equal(model._state.c, state.c)


# ----------------------------- refusals


X = np.zeros((3, 4, 2), np.float32)
Y = np.zeros((3, 4, 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.Batches(X[0], None), ValueError, r"sequences: expected an array \(n, T, F\) .*got \(4, 2\)"),
        (lambda: train.Batches([], None), ValueError, "sequences: expected at least one, got none"),
        (lambda: train.Batches(X[:0], None), ValueError, "sequences: expected at least one, got none"),
        (lambda: train.Batches(X[:, :0], None), ValueError, "expected at least 1 step, got 0 for sequence 0"),
        (lambda: train.Batches([X[0], X[0, :0]], None), ValueError, "expected at least 1 step, got 0 for sequence 1"),
        (lambda: train.Batches([X[0], X[0, 0]], None), ValueError, r"list of \(T, F\), got \(2,\) for sequence 1"),
        (
            lambda: train.Batches([X[0], X[0, :, :1]], None),
            ValueError,
            r"sequences: expected \(2,\) in each step, as in sequence 0, got \(1,\) in sequence 1",
        ),
        (
            lambda: train.Batches([X[0], X[0].astype(float)], None),
            TypeError,
            "sequences: expected float32, as sequence 0 is, got float64 in sequence 1",
        ),
        (lambda: train.Batches(X.astype(int), None), TypeError, "sequences: expected float32 or float64, got int64"),
        (lambda: train.Batches(X, Y[:2]), ValueError, "targets: expected 3, one for each sequence, got 2"),
        (
            lambda: train.Batches(X, Y[:, :3], per_step=True),
            ValueError,
            r"targets: expected 4 steps for sequence 0, as it has, got shape \(3, 1\)",
        ),
        (lambda: train.Batches(X, Y[:, 0, 0], per_step=True), ValueError, "targets: expected 4 steps for sequence 0"),
        (
            lambda: train.Batches(X[:2], [[1.0], [1.0, 2.0]]),
            ValueError,
            "targets: .*several shapes; .*per_step=True",
        ),
        (lambda: train.Batches(X, None, batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
        (lambda: train.TruncatedBatches(X, Y, steps=0), ValueError, "steps: expected at least 1, got 0"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
