"""What is wrong is refused: in one sentence that names the argument, what was expected, what came, and the mend."""

import re

import lstm_rs
import numpy as np
import pytest
from calls import make_call, refused
from lstm_rs import CellSpec, State, Weights
from numpy.lib.stride_tricks import as_strided

T, N, I, H, P = 4, 3, 2, 5, 6  # noqa: E741  the letters of the axes
PASSES = ["forward", "forward_train"]
WEIGHTS = [*Weights._fields]
FORWARD = ["x", *WEIGHTS, "state.h", "state.c"]
BACKWARD = ["dy", "dstate.h", "dstate.c"]


def drawn(sizes=(T, N, I, H), output_size=P, cell="peephole_lstm", **how):
    return make_call(0, cell, sizes, output_size, np.float32, **how)


def with_argument(argument, value, **how):
    """A call whose `argument` is `value`, or `value` of what is right."""
    call = drawn(**how)
    name, _, field = argument.partition(".")
    owner = "weights" if name in WEIGHTS else name
    field = name if name in WEIGHTS else field
    right = getattr(getattr(call, owner), field) if field else getattr(call, owner)
    value = value(right) if callable(value) else value
    setattr(call, owner, getattr(call, owner)._replace(**{field: value}) if field else value)
    return call


def run_pass(name, call):
    if name == "backward":
        return call.run()
    return getattr(lstm_rs, name)(call.x, call.weights, call.state, **call.how)


def each_pass(call):
    return [lambda name=name: run_pass(name, call) for name in PASSES]


def test_what_is_right_is_taken():
    """Every test here changes one thing in this call."""
    for name in (*PASSES, "backward"):
        run_pass(name, drawn())
        run_pass(name, drawn(sizes=(T, None, I, H)))


# ----------------------------- dtypes

WRONG_DTYPES = {
    "float16": lambda array: array.astype(np.float16),
    "float64": lambda array: array.astype(np.float64),
    "int64": lambda array: array.astype(np.int64),
    "uint8": lambda array: array.astype(np.uint8),
    "bool": lambda array: array > 0,
    "object": lambda array: array.astype(object),
    "complex64": lambda array: array.astype(np.complex64),
    "str": lambda array: array.astype(str),
    "bytes": lambda array: array.astype(bytes),
    "datetime64": lambda array: array.astype("M8[s]"),
    "void": lambda array: np.zeros(array.shape, [("a", "f4")]),
}
if np.dtype(np.longdouble).itemsize > 8:
    WRONG_DTYPES["float"] = lambda array: array.astype(np.longdouble)


@pytest.mark.parametrize("dtype", WRONG_DTYPES)
@pytest.mark.parametrize("argument", FORWARD + BACKWARD)
def test_a_wrong_dtype_is_refused_with_the_cast(argument, dtype):
    call = with_argument(argument, WRONG_DTYPES[dtype])
    if argument == "w_ih" and dtype == "float64":
        # Of two dtypes that are both right, w_ih's is the one that counts.
        sentence = "w_hh: expected float64, as w_ih is, got float32; cast it with w_hh.astype(np.float64)"
        for run in each_pass(call):
            refused(run, TypeError, sentence)
        return
    for run in [call.run] if argument in BACKWARD else each_pass(call):
        said = refused(run, TypeError, argument=argument)
        assert said.startswith(f"{argument}: expected float32") and f", got {dtype}" in said
        assert said.endswith(f"; cast it with {argument}.astype(np.float32)")


def test_the_sentences_for_dtypes():
    call = with_argument("x", lambda x: x.astype(np.float16))
    sentence = "x: expected float32, as the weights are, got float16; cast it with x.astype(np.float32)"
    refused(call.run, TypeError, sentence)
    call = with_argument("w_ih", lambda w: w.astype(np.int32))
    refused(call.run, TypeError, "w_ih: expected float32 or float64, got int32; cast it with w_ih.astype(np.float32)")


@pytest.mark.parametrize("argument", FORWARD + BACKWARD)
def test_lists_of_another_dtype_are_refused_with_the_cast(argument):
    if argument != "w_ih":
        call = with_argument(argument, lambda array: array.tolist())
        said = refused(call.run, TypeError, argument=argument)
        assert said.endswith(f"got float64; cast it with np.asarray({argument}, dtype=np.float32)")
    call = with_argument(argument, lambda array: array.astype(int).tolist())
    assert "got int64; cast it with np.asarray(" in refused(call.run, TypeError, argument=argument)


@pytest.mark.parametrize("argument", FORWARD + BACKWARD)
def test_what_is_no_array_is_refused(argument):
    for nothing in (object(), "a word", {}):
        refused(with_argument(argument, lambda _, nothing=nothing: nothing).run, TypeError, argument=argument)
    call = with_argument(argument, [[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match=f"^{argument}: expected an array of numbers: "):
        call.run()


@pytest.mark.parametrize("argument", ["x", "w_ih", "w_hh", "state.h", "state.c", "dstate.h", "dstate.c"])
def test_none_is_refused_where_there_has_to_be_an_array(argument):
    said = refused(with_argument(argument, None).run, TypeError, argument=argument)
    assert said.startswith(f"{argument}: expected an array of float32") and said.endswith(", got None")


# ----------------------------- shapes

WRONG_SHAPES = {
    "one longer": lambda array: np.zeros([n + 1 for n in array.shape], array.dtype),
    "one axis more": lambda array: np.stack([array, array]),
    "an axis of 1 more": lambda array: array[None],
    "one axis less": lambda array: array[0],
    "first axis shorter": lambda array: array[:-1],
    "last axis shorter": lambda array: array[..., :-1],
    "first axis empty": lambda array: array[:0],
    "last axis empty": lambda array: array[..., :0],
    "scalar": lambda array: array.reshape(-1)[0],
    "transposed": lambda array: array.T,
}
# Where a shape is right, or where another argument is the one that does not fit it.
FITS = {("x", "first axis shorter"), ("x", "first axis empty"), ("b", "transposed")}
BLAMED = {
    ("x", "one axis less"): "state.h",
    ("w_ih", "last axis shorter"): "x",
    ("w_ih", "last axis empty"): "x",
    ("w_hr", "first axis shorter"): "w_hh",
}


@pytest.mark.parametrize("shape", WRONG_SHAPES)
@pytest.mark.parametrize("argument", FORWARD + BACKWARD)
def test_a_wrong_shape_is_refused(argument, shape):
    call = with_argument(argument, WRONG_SHAPES[shape])
    call.dy = call.dy if argument == "dy" else None
    if (argument, shape) in FITS:
        call.run()
        return
    blamed = BLAMED.get((argument, shape), argument)
    name, _, field = argument.partition(".")
    value = getattr(call.weights, name) if name in WEIGHTS else getattr(call, name)
    came = np.shape(getattr(value, field) if field else value)
    for run in [call.run] if argument in BACKWARD else each_pass(call):
        said = refused(run, ValueError, argument=blamed)
        # The numbers: those that were expected, and those that came.
        if blamed == argument:
            assert f"got {came}" in said or f"got shape {came}" in said, said
        assert re.search(r"\d|\(T, N, I\)", said.split(", got ")[0]), said


SENTENCES = [
    ("x", lambda x: x[0, 0], "x: expected (T, N, I) or one sequence (T, I), got shape (2,); "
     "add the axis of the features with x[:, None]?"),
    ("x", lambda x: x[None], "x: expected (T, N, I) or one sequence (T, I), got shape (1, 4, 3, 2); "
     "drop the first axis with x[0]?"),
    ("x", lambda x: x.swapaxes(1, 2), "x: expected 2 features in the last axis, as w_ih has columns, "
     "got shape (4, 2, 3); move the features to the last axis?"),
    ("w_ih", lambda w: w.T, "w_ih: expected 4 rows or a multiple of them, one block for each of the gates i, f, g, o, "
     "got shape (2, 20); transpose it?"),
    ("w_ih", lambda w: w[:, 0], "w_ih: expected 2 axes, (G*H, I), got shape (20,); add the axis with w_ih[:, None]?"),
    ("w_hh", lambda w: w.T, "w_hh: expected shape (20, 6) for hidden_size 5 and 4 gates, projected to 6 by w_hr, "
     "got (6, 20); transpose it?"),
    ("w_hr", lambda w: w.T, "w_hr: expected shape (6, 5) for hidden_size 5 and a projection to at least 1, "
     "got (5, 6); transpose it?"),
    ("w_hr", None, "w_hh: expected shape (20, 5) for hidden_size 5 and 4 gates, got (20, 6); "
     "give a projection w_hr of shape (6, 5)?"),
    ("b", lambda b: b[None], "b: expected shape (20,) for hidden_size 5 and 4 gates, got (1, 20); "
     "drop the first axis with [0]?"),
    ("peephole", lambda p: p.T, "peephole: expected shape (3, 5) for hidden_size 5 and 3 gates that look at the state, "
     "got (5, 3); transpose it?"),
    ("peephole", None, "peephole: expected shape (3, 5), as the cell has peephole=True, got None; "
     "give the array, or a cell without peepholes"),
    ("state.h", lambda h: h.T, "state.h: expected shape (3, 6) for a batch of 3, got (6, 3); transpose it?"),
    ("dstate.c", lambda c: c[:1], "dstate.c: expected shape (3, 5) for a batch of 3, got (1, 5)"),
    ("dy", lambda dy: dy.swapaxes(0, 1), "dy: expected shape (4, 3, 6) (T, N, ·), as x is, got (3, 4, 6); "
     "swap the first two axes?"),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value", "sentence"), SENTENCES, ids=[f"{k}" for k in range(len(SENTENCES))])
def test_the_sentences_for_shapes(argument, value, sentence):
    refused(with_argument(argument, value).run, ValueError, sentence)


def test_mends_for_a_missing_axis():
    call = drawn(sizes=(T, 1, I, H))
    call.dy = call.dy[:, 0]
    assert refused(call.run, ValueError, argument="dy").endswith("; add the second axis with [:, None]?")
    call = drawn(sizes=(T, 1, I, H))
    call.state = State(*(part[0] for part in call.state))
    assert refused(call.run, ValueError, argument="state.h").endswith("; add the first axis with [None]?")
    call = drawn()
    call.x = call.x[:, 0]
    assert refused(call.run, ValueError, argument="state.h").endswith("; take one of them with [0]?")


def test_a_peephole_array_needs_a_cell_that_has_peepholes():
    call = drawn()
    call.how["cell"] = CellSpec()
    sentence = (
        "peephole: expected None, as the cell has peephole=False, got shape (3, 5); "
        "use a cell with peephole=True, such as CellSpec.peephole_lstm()"
    )
    refused(call.run, ValueError, sentence)


@pytest.mark.parametrize("rows", [(0, 0), (0, 3)])
def test_no_hidden_units_are_refused(rows):
    weights = Weights(np.zeros((0, 2)), np.zeros(rows))
    for run in (lstm_rs.forward, lstm_rs.forward_train):
        refused(lambda run=run: run(np.zeros((4, 3, 2)), weights), ValueError, argument="w_ih")


def test_a_projection_to_nothing_is_refused():
    weights = Weights(np.zeros((8, 2)), np.zeros((8, 0)), w_hr=np.zeros((0, 2)))
    sentence = "w_hr: expected shape (1, 2) for hidden_size 2 and a projection to at least 1, got (0, 2)"
    refused(lambda: lstm_rs.forward(np.zeros((4, 3, 2)), weights), ValueError, sentence)
    weights = Weights(np.zeros((8, 2)), np.zeros((8, 0)))
    refused(lambda: lstm_rs.forward(np.zeros((4, 3, 2)), weights), ValueError, argument="w_hh")


@pytest.mark.parametrize("sizes", [(2**40, 2**19), (2**59, 1), (1, 2**59), (2**59, 0), (0, 2**59)])
@pytest.mark.parametrize("name", PASSES)
def test_sizes_whose_product_overflows_are_refused(name, sizes):
    """Of x without elements, or of one element that stands for all, there may be more than any result could have."""
    weights = Weights(np.zeros((8, 0), np.float32), np.zeros((8, 2), np.float32))
    call = getattr(lstm_rs, name)
    shown = (*sizes, 4, 2)
    sentence = f"x: sizes T, N, G, H = {shown} are more than an array can have"
    refused(lambda: call(np.empty((*sizes, 0), np.float32), weights), ValueError, sentence)
    if 0 not in sizes:
        one = as_strided(np.zeros(1, np.float32), (*sizes, 1), (0, 0, 4))
        weights = weights._replace(w_ih=np.zeros((8, 1), np.float32))
        refused(lambda: call(one, weights), ValueError, sentence)


# ----------------------------- states, weights, cells, flags


@pytest.mark.parametrize("name", ["state", "dstate"])
def test_a_state_is_a_tuple_of_two(name):
    call = drawn()
    h, c = getattr(call, name)
    for wrong, got in (
        (h, "ndarray"),
        ([h, c], "list"),
        ((h,), "a tuple of 1"),
        ((h, c, c), "a tuple of 3"),
        ({}, "dict"),
        ("hc", "str"),
    ):
        setattr(call, name, wrong)
        sentence = f"{name}: expected a State or another tuple (h, c), got {got}; write (h, c)"
        for run in [call.run] if name == "dstate" else each_pass(call):
            refused(run, TypeError, sentence)


def test_weights_are_a_tuple_of_two_to_five():
    call = drawn()
    w = call.weights
    for wrong, got in (
        (None, "NoneType"),
        (w.w_ih, "ndarray of 20"),
        (w[:1], "tuple of 1"),
        ((*w, None), "tuple of 6"),
        ({}, "dict of 0"),
        ("ab", "str of 2"),
        (3, "int"),
    ):
        call.weights = wrong
        sentence = f"weights: expected Weights, or a tuple (w_ih, w_hh, b, peephole, w_hr) of 2 to 5, got {got}"
        for run in each_pass(call):
            refused(run, TypeError, sentence)


def test_a_cell_is_a_cell_spec():
    call = drawn()
    for wrong, got in (
        (None, "NoneType"),
        ("peephole_lstm", "str"),
        ({"peephole": True}, "dict"),
        (CellSpec, "a class; call it, as in CellSpec()"),
    ):
        call.how["cell"] = wrong
        for run in each_pass(call):
            refused(run, TypeError, f"cell: expected a CellSpec, got {got}")


@pytest.mark.parametrize(
    ("part", "value", "error"),
    [
        ("peephole", "yes", TypeError),
        ("input_activation", "relu6", ValueError),
        ("input_activation", "affine", ValueError),
        ("input_activation", ("elu", 1.0, 2.0), ValueError),
        ("output_activation", 3, TypeError),
        ("gate_activation", (), TypeError),
        ("gate_clip", "x", TypeError),
        ("gate_clip", -1.0, ValueError),
        ("cell_clip", float("nan"), ValueError),
        ("input_gate", False, ValueError),
    ],
)
def test_a_tampered_cell_is_refused(part, value, error):
    """One that was made without its constructor, as unpickling does."""
    cell = CellSpec(coupled=True)
    object.__setattr__(cell, part, value)
    call = drawn()
    call.how["cell"] = cell
    with pytest.raises(error, match=r"^cell(\.|: )"):
        call.run()


@pytest.mark.parametrize("name", ["reverse", "batch_first", "need_dx"])
def test_flags_are_bools(name):
    for wrong in (1, 0, None, "yes", 1.0, [True]):
        call = drawn()
        setattr(call, name, wrong) if name == "need_dx" else call.how.update({name: wrong})
        kind = type(wrong).__name__
        sentence = f"{name}: expected True or False, got {wrong!r} of type {kind}; cast it with bool()"
        for run in [call.run] if name == "need_dx" else each_pass(call):
            refused(run, TypeError, sentence)
    # NumPy's bools are bools.
    call = drawn(reverse=np.True_)
    call.need_dx = np.False_
    assert "d_x" not in call.run()


# ----------------------------- lengths


@pytest.mark.parametrize(
    ("lengths", "error", "sentence"),
    [
        ([4, 5, 0], ValueError, "lengths[1]: expected 0 to 4 (the steps of x), got 5"),
        ([4, 3, -1], ValueError, "lengths[2]: expected 0 to 4 (the steps of x), got -1"),
        (np.array([2**63, 1, 1], np.uint64), ValueError,
         "lengths[0]: expected 0 to 4 (the steps of x), got 9223372036854775807"),
        ([4, 3], ValueError, "lengths: expected shape (3,) (one length a sequence), got (2,)"),
        ([], ValueError, "lengths: expected shape (3,) (one length a sequence), got (0,)"),
        (4, ValueError, "lengths: expected shape (3,) (one length a sequence), got ()"),
        ([[4, 3, 2]], ValueError,
         "lengths: expected shape (3,) (one length a sequence), got (1, 3); drop the first axis with [0]?"),
        ([True, False, True], TypeError,
         "lengths: expected integers, got bool; cast them with np.asarray(lengths, dtype=np.int64)"),
        ([4.0, 3.0, 2.0], TypeError,
         "lengths: expected integers, got float64; cast them with np.asarray(lengths, dtype=np.int64)"),
        (np.array([4, 3, 2], object), TypeError,
         "lengths: expected integers, got object; cast them with np.asarray(lengths, dtype=np.int64)"),
        ([4, 3, 2**70], TypeError,
         "lengths: expected integers, got object; cast them with np.asarray(lengths, dtype=np.int64)"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_lengths_are_refused(lengths, error, sentence):
    for run in each_pass(drawn(lengths=lengths)):
        refused(run, error, sentence)


@pytest.mark.parametrize("lengths", ["432", ["4", "3", "2"], {}, object(), [4, [3], 2], np.array([4, 3, 2], "m8[s]")])
def test_lengths_of_another_kind_are_refused(lengths):
    for run in each_pass(drawn(lengths=lengths)):
        with pytest.raises(TypeError, match=r"^lengths: expected integers"):
            run()


@pytest.mark.parametrize(
    ("lengths", "error", "sentence"),
    [
        ([3], ValueError, "lengths: expected shape () (an int), as x is one sequence, got (1,); "
         "drop the first axis with [0]?"),
        ([3, 2], ValueError, "lengths: expected shape () (an int), as x is one sequence, got (2,); "
         "take one of them with [0]?"),
        (5, ValueError, "lengths: expected 0 to 4 (the steps of x), got 5"),
        (-1, ValueError, "lengths: expected 0 to 4 (the steps of x), got -1"),
        (True, TypeError, "lengths: expected integers, got bool; cast them with np.asarray(lengths, dtype=np.int64)"),
        (3.0, TypeError,
         "lengths: expected integers, got float64; cast them with np.asarray(lengths, dtype=np.int64)"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_lengths_of_one_sequence_are_refused(lengths, error, sentence):
    for run in each_pass(drawn(sizes=(T, None, I, H), lengths=lengths)):
        refused(run, error, sentence)
