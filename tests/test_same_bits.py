"""The promise: the same inputs give the same bits.

====================================================  ====================================  ==================
the same bits                                         for y, the state and the tape,        for the gradients
                                                      the gradients of x and the state      of the weights
====================================================  ====================================  ==================
on every instruction set                              yes                                   yes
with a tape or without, with dx or without            yes                                   yes
time-major and batch-first, one sequence or N = 1     yes                                   yes
a sequence alone, or at any place in any batch        yes                                   they sum over it
padded, or not                                        yes                                   they sum over it
whole, in chunks with the state carried, by steps     yes                                   they sum over it
====================================================  ====================================  ==================

The sign of zero counts; all NaN are alike. And what is not finite stays in its own sequence, but for the gradients of
the weights.
"""

import hashlib
from dataclasses import replace
from itertools import pairwise

import lstm_rs
import numpy as np
import pytest
from calls import DTYPES, Call, any_calls, assert_results_same, gradients, make_call
from conftest import ISAS, using
from hypothesis import assume, given
from hypothesis import strategies as st
from lstm_rs import State, Weights
from oracle import CELLS, EVERY, PRESETS, UNUSUAL, assert_same_bits, make_lengths

# Small ones for every cell. Large ones across the engine's inner boundaries: several chunks of time (more than 256 KiB
# of gates), sums of more than 256 steps, more than 60 rows, widths that are no multiple of a vector.
SMALL = (5, 4, 3, 11)
LARGE = [(90, 5, 11, 37), (9, 70, 19, 61), (300, 1, 5, 23)]
# Every cell on the fastest instruction set, some on each.
CASES = [(ISAS[-1], name, SMALL, None) for name in EVERY]
CASES += [(isa, name, SMALL, 13) for isa in ISAS for name in PRESETS]
CASES += [(isa, name, sizes, None) for isa in ISAS for name in ("gers_1999", "CIFG") for sizes in LARGE]
CASES += [(isa, "peephole_lstm", sizes, 29) for isa in ISAS for sizes in LARGE]
every_case = pytest.mark.parametrize(("isa", "cell", "sizes", "output_size"), CASES, indirect=["isa"], ids=str)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])


def ragged(sizes, seed=8):
    return make_lengths(np.random.default_rng(seed), *sizes[:2])


def per_sequence(out):
    """The results that belong to single sequences: all but the gradients of the weights."""
    return {name: array for name, array in out.items() if not name.startswith("d_weights.")}


def part(call, n, length=None):
    """Sequence `n` of a call of many, alone, cut to `length`."""
    own = Call(call.x[:length, n], call.weights, dy=call.dy[:length, n], how=dict(call.how))
    own.state, own.dstate = (State(state.h[n], state.c[n]) for state in (call.state, call.dstate))
    own.how.pop("lengths", None)
    return own


def assert_part(alone, out, n, length=None):
    """Hold what came of a sequence alone against sequence `n` of the batch."""
    batch = {name: out[name][:length, n] for name in ("y", "d_x")}
    batch |= {name: out[name][n] for name in ("final.h", "final.c", "d_state.h", "d_state.c")}
    batch |= {name: out[name][:length, n : n + 1] for name in ("tape.gates", "tape.c")}
    assert_results_same(per_sequence(alone), {name: batch[name] for name in per_sequence(alone)}, f"sequence {n}")


# ----------------------------- on every instruction set


@pytest.mark.parametrize(
    ("cell", "sizes"),
    [(cell, sizes) for cell in CELLS for sizes in (SMALL, *LARGE)] + [(cell, SMALL) for cell in UNUSUAL],
    ids=str,
)
@both_ways
@dtypes
def test_every_instruction_set(cell, sizes, reverse, dtype):
    call = make_call(0, cell, sizes, 29 if reverse else None, dtype, lengths=ragged(sizes), reverse=reverse)
    with using("scalar"):
        expected = call.run()
    for isa in ISAS[1:]:
        with using(isa):
            assert_results_same(call.run(), expected, isa)


@dtypes
@given(data=st.data())
def test_every_instruction_set_for_any_call(dtype, data):
    call = data.draw(any_calls(dtype, EVERY))
    with using("scalar"):
        expected = call.run()
    for isa in ISAS[1:]:
        with using(isa):
            assert_results_same(call.run(), expected, isa)


def test_a_tape_of_one_instruction_set_serves_another():
    call = make_call(0, "peephole_lstm", (5, 4, 3, 19))
    expected = call.run()
    for first in ISAS:
        for second in ISAS:
            with using(first):
                tape = lstm_rs.forward_train(call.x, call.weights, call.state, **call.how)[2]
            with using(second):
                grads = gradients(lstm_rs.backward(tape, call.dy, call.dstate))
            assert_results_same(grads, {name: expected[name] for name in grads}, f"{first}, {second}")


# ----------------------------- the same call in another form


@every_case
@both_ways
@dtypes
def test_tape_or_not_and_batch_first_or_not(isa, cell, sizes, output_size, reverse, dtype):
    call = make_call(1, cell, sizes, output_size, dtype, lengths=ragged(sizes), reverse=reverse)
    expected = call.run()
    y, final = lstm_rs.forward(call.x, call.weights, call.state, **call.how)
    for name, array in (("y", y), ("final.h", final.h), ("final.c", final.c)):
        assert_same_bits(array, expected[name], f"without a tape: {name}")

    x, dy = (np.ascontiguousarray(array.swapaxes(0, 1)) for array in (call.x, call.dy))
    out = replace(call, x=x, dy=dy, how=call.how | {"batch_first": True}).run()
    assert out["y"].shape == (sizes[1], sizes[0], output_size or sizes[3])
    out["y"], out["d_x"] = out["y"].swapaxes(0, 1), out["d_x"].swapaxes(0, 1)
    assert_results_same(out, expected, "batch-first")

    out = replace(call, need_dx=False).run()
    assert_results_same(out, {name: expected[name] for name in out}, "without dx")


@every_case
@both_ways
def test_one_sequence_is_a_batch_of_one(isa, cell, sizes, output_size, reverse):
    call = make_call(2, cell, (sizes[0], 1, *sizes[2:]), output_size, np.float32, reverse=reverse, lengths=[3])
    expected, alone = call.run(), part(call, 0)
    alone.how["lengths"] = 3
    out = alone.run()
    assert_part(out, expected, 0)
    for name in expected.keys() - per_sequence(expected):
        assert_same_bits(out[name], expected[name], name)


# ----------------------------- a sequence alone, in any batch, padded or not


@every_case
@both_ways
@dtypes
def test_a_sequence_alone_is_a_sequence_in_a_batch_padded_or_not(isa, cell, sizes, output_size, reverse, dtype):
    call = make_call(3, cell, sizes, output_size, dtype, reverse=reverse)
    out = call.run()
    for n in sorted({0, 1, sizes[1] // 2, sizes[1] - 1} & set(range(sizes[1]))):
        assert_part(part(call, n).run(), out, n)
    lengths = ragged(sizes)
    out = replace(call, how=call.how | {"lengths": lengths}).run()
    # A full one and an empty one are always among them.
    for n in {0, sizes[1] - 1, int(lengths.argmin()), int(lengths.argmax())}:
        assert_part(part(call, n, lengths[n]).run(), out, n, lengths[n])


@dtypes
@given(data=st.data())
def test_a_batch_in_another_order_with_others_left_out(dtype, data):
    call = data.draw(any_calls(dtype))
    batch = None if call.x.ndim == 2 else call.x.shape[0 if call.how["batch_first"] else 1]
    assume(batch and call.need_dx)
    order = np.array(data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=40)))
    axis = 0 if call.how["batch_first"] else 1
    other = replace(call, x=call.x.take(order, axis), how=dict(call.how))
    other.dy = None if call.dy is None else call.dy.take(order, axis)
    for name in ("state", "dstate"):
        state = getattr(call, name)
        setattr(other, name, None if state is None else State(state.h[order], state.c[order]))
    if "lengths" in call.how:
        other.how["lengths"] = call.how["lengths"][order]
    expected = per_sequence(call.run())
    axes = {"y": axis, "d_x": axis, "tape.gates": 1, "tape.c": 1}
    expected = {name: array.take(order, axes.get(name, 0)) for name, array in expected.items()}
    with using(data.draw(st.sampled_from(ISAS))):
        assert_results_same(per_sequence(other.run()), expected)


# ----------------------------- in chunks, and by steps


def run_in_chunks(call, cuts):
    """Run time in pieces, the state carried forward and its gradient carried back."""
    steps, reverse = len(call.x), call.how.get("reverse", False)
    edges = [0, *sorted(cuts), steps]
    spans = [slice(a, b) for a, b in pairwise(edges)]
    lengths = np.full(call.x.shape[1], steps) if call.how.get("lengths") is None else call.how["lengths"]
    state, dstate, tapes, pieces = (
        call.state,
        call.dstate,
        [],
        {name: [] for name in ("y", "tape.gates", "tape.c", "d_x")},
    )
    for span in reversed(spans) if reverse else spans:
        how = call.how | {"lengths": np.clip(lengths - span.start, 0, span.stop - span.start)}
        y, state, tape = lstm_rs.forward_train(call.x[span], call.weights, state, **how)
        tapes.append((span, y, tape))
    for span, y, tape in reversed(tapes):
        grads = lstm_rs.backward(tape, call.dy[span], dstate)
        dstate = grads.state
        for name, array in (("y", y), ("tape.gates", tape.gates), ("tape.c", tape.c), ("d_x", grads.x)):
            pieces[name].append((span.start, array))
    out = {
        name: np.concatenate([array for _, array in sorted(parts, key=lambda piece: piece[0])])
        for name, parts in pieces.items()
    }
    out |= {"final.h": state.h, "final.c": state.c, "d_state.h": dstate.h, "d_state.c": dstate.c}
    return out


@every_case
@both_ways
@dtypes
def test_chunks_and_single_steps_are_the_whole(isa, cell, sizes, output_size, reverse, dtype):
    steps = sizes[0]
    for lengths in (None, ragged(sizes)):
        call = make_call(4, cell, sizes, output_size, dtype, reverse=reverse, lengths=lengths)
        whole = per_sequence(call.run())
        cuts = {"halves": [steps // 2], "unequal": [1, steps // 3, steps - 1]}
        if steps < 20 and sizes[1] < 20:
            cuts["single steps"] = range(1, steps)
        for label, at in cuts.items():
            out = run_in_chunks(call, at)
            assert_results_same(out, {name: whole[name] for name in out}, label)


# ----------------------------- what is not finite stays where it is


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("where", ["x", "state.h", "state.c", "dy", "dstate.h", "dstate.c"])
@pytest.mark.parametrize("cell", PRESETS)
def test_what_is_not_finite_stays_in_its_sequence(isa, cell, where, poison):
    sizes, n = (4, 9, 3, 11), 5
    for output_size, dtype in ((None, np.float32), (6, np.float64)):
        call = make_call(5, cell, sizes, output_size, dtype)
        clean = call.run()
        name, _, field = where.partition(".")
        array = getattr(getattr(call, name), field) if field else getattr(call, name)[2]
        array[n, 1] = poison
        out = call.run()
        others = np.arange(sizes[1]) != n
        for result, array in per_sequence(out).items():
            axis = 1 if result in ("y", "d_x", "tape.gates", "tape.c") else 0
            assert_same_bits(array.compress(others, axis), clean[result].compress(others, axis), result)
        # It is there: what comes out of its sequence is another thing than before.
        moved = "d_x" if name in ("dy", "dstate") else "y"
        assert out[moved][:, n].tobytes() != clean[moved][:, n].tobytes()
        # Before it came, the sequence itself was as it had been.
        if name == "x":
            assert_same_bits(out["y"][:2], clean["y"][:2])


# ----------------------------- on every machine


def exact(shape, seed, dtype):
    """Sixty-fourths from -1 to 1, out of integers alone: every machine makes the same."""
    k = np.arange(np.prod(shape, dtype=np.int64), dtype=np.int64)
    return (((k * 7919 + seed * 104729) % 129 - 64) / 64).astype(dtype).reshape(shape)


def digest(cell, dtype):
    """The first 16 digits of SHA-256 over all results, little-endian, in the order of their names."""
    steps, batch, input_size, hidden_size, output_size = 40, 9, 5, 19, 7
    spec = CELLS[cell]
    rows = len(spec.gates) * hidden_size
    weights = Weights(
        exact((rows, input_size), 1, dtype),
        exact((rows, output_size), 2, dtype) / 2,
        exact((rows,), 3, dtype),
        exact((len(spec.peepholes), hidden_size), 4, dtype) / 2 if spec.peephole else None,
        exact((output_size, hidden_size), 5, dtype) / 4,
    )
    h, c = (batch, output_size), (batch, hidden_size)
    call = Call(
        exact((steps, batch, input_size), 6, dtype),
        weights,
        State(exact(h, 7, dtype), exact(c, 8, dtype)),
        exact((steps, batch, output_size), 9, dtype),
        State(exact(h, 10, dtype), exact(c, 11, dtype)),
        {"cell": spec, "lengths": np.array([40, 0, 17, 1, 40, 33, 39, 2, 40])},
    )
    whole = hashlib.sha256()
    for name, array in sorted(call.run().items()):
        assert np.isfinite(array).all(), name
        whole.update(name.encode() + array.astype(array.dtype.newbyteorder("<")).tobytes())
    return whole.hexdigest()[:16]


# Computed by version 0.1.0 on an AMD EPYC of family 25 (Zen 4), where scalar, AVX2 and AVX-512 agreed. They change only
# if the arithmetic does, and then for everybody: that is for a CHANGELOG to say.
KNOWN = {
    "gers_1999": ("d6bee4d57a9396f0", "686930e72376a807"),
    "hochreiter_1997": ("fe510026d1f896eb", "22fe08aa3bd15e95"),
    "peephole_lstm": ("3805854c8ec495bb", "171116af19173bc3"),
    "NIG": ("b18ab0fa2ff36a98", "38848b2df7c22ff6"),
    "NFG": ("87f8d680a09e0b9b", "1d022c24e70a70ab"),
    "NOG": ("d3d333f5280940cf", "9db0fe16ba19180e"),
    "NIAF": ("e737f3bace01a032", "44d15a5b0cd968f1"),
    "NOAF": ("6ec9794451b2eaac", "a9b4d37952c4cafd"),
    "CIFG": ("e40d1ed157bf1a5b", "47689de12af930d0"),
}


@pytest.mark.parametrize("cell", PRESETS)
def test_known_answers(isa, cell):
    assert (digest(cell, np.float32), digest(cell, np.float64)) == KNOWN[cell]


def test_known_answers_differ():
    """Each cell and each dtype has its own, so that a digest of nothing would be seen."""
    assert len({answer for pair in KNOWN.values() for answer in pair}) == 2 * len(PRESETS)
