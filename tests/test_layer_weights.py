"""The layer's weights: read-only, copied and checked on the way in, packed anew; and whoever took some keeps them."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lstm_rs import LSTM
from oracle import assert_same_bits
from stacked import FULL, Run, answers, check, made, same


def fresh(layer):
    """The same weights in a layer that has never had others."""
    other = LSTM(4, 5, 2, **FULL, dtype=layer.dtype)
    other.load_state_dict(layer.state_dict())
    return other


def assert_like_fresh(run):
    """No pack is stale: forward and backward are those of a layer that has only ever had these weights."""
    other = Run(**{**vars(run), "layer": fresh(run.layer)})
    same(answers(run)[0], answers(other)[0])
    check(run)


# ----------------------------- what is handed out


def test_the_arrays_cannot_be_written_to():
    layer, _ = made()
    for name, array in layer.weights.items():
        while isinstance(array, np.ndarray):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
            array = array.base
        assert isinstance(array, bytes), f"{name}: its memory belongs to an object that nobody can write to"
    with pytest.raises(ValueError, match="read-only"):
        layer.weights["bias_l0"] -= 1


def test_the_weights_are_a_mapping():
    layer, _ = made()
    assert len(layer.weights) == len(list(layer.weights)) == 20
    assert "bias_l1_reverse" in layer.weights and "bias_l2" not in layer.weights
    assert repr(LSTM(3, 4).weights) == "{weight_ih_l0: (16, 3), weight_hh_l0: (16, 4), bias_l0: (16,)}"
    with pytest.raises(KeyError):
        layer.weights["bias_l2"]
    with pytest.raises((AttributeError, TypeError)):
        del layer.weights["bias_l0"]


def test_the_layer_does_not_share_what_it_was_given():
    layer, run = made()
    wanted, _ = answers(run)
    one = layer.state_dict()
    layer.load_state_dict(one)
    two = np.array(layer.weights["weight_ih_l0"])
    layer.weights["weight_ih_l0"] = two
    with layer.edit() as w:
        three = w["weight_hh_l0"]
        w["bias_l0"] = four = w["bias_l0"].copy()
    for array in (*one.values(), two, three, four, *layer.state_dict().values(), w["bias_l1"]):
        array[...] = 7.0
    same(answers(run)[0], wanted)


# ----------------------------- assignment


def test_an_assignment_changes_forward_and_backward():
    layer, run = made()
    before, _ = answers(run)
    for name in layer.weights:
        layer.weights[name] = layer.weights[name] * np.float32(0.5)
        assert_like_fresh(run)
        after, _ = answers(run)
        assert (after["y"] != before["y"]).any() and (after["d_x"] != before["d_x"]).any(), name
        before = after


@pytest.mark.parametrize(
    ("name", "array", "error", "text"),
    [
        ("bias", np.zeros(20), KeyError, "no weight 'bias': there are weight_ih_l0, "),
        ("bias_l0", np.zeros(20), TypeError, r"^bias_l0: expected float32, .*got float64; cast it"),
        ("bias_l0", [0] * 20, TypeError, r"^bias_l0: expected float32, .*got int64; cast it"),
        ("bias_l0", np.zeros((20, 1), np.float32), ValueError, r"^bias_l0: expected shape \(20,\), got \(20, 1\)$"),
        (
            "weight_ih_l0",
            np.zeros((4, 20), np.float32),
            ValueError,
            r"^weight_ih_l0: expected shape \(20, 4\), got \(4, 20\); transpose it\?$",
        ),
    ],
)
def test_what_cannot_be_assigned(name, array, error, text):
    layer, run = made()
    before, _ = answers(run)
    with pytest.raises(error, match=text):
        layer.weights[name] = array
    with pytest.raises(error, match=text), layer.edit() as w:
        w["bias_l1"][...] = 0
        w[name] = array
    same(answers(run)[0], before)


def test_any_layout_can_be_assigned():
    layer, run = made()
    wanted, _ = answers(run)
    weights = dict(layer.weights)
    for change in (np.asfortranarray, lambda a: a.astype(">f4"), lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
        for name, array in weights.items():
            layer.weights[name] = change(array)
            assert layer.weights[name].dtype.isnative
        same(answers(run)[0], wanted)
        with layer.edit() as w:
            for name, array in weights.items():
                w[name] = change(array)
        same(answers(run)[0], wanted)


# ----------------------------- edit


def test_edit_in_place_and_by_assignment():
    layer, run = made()
    before, _ = answers(run)
    grads = {name: before[f"d_{name}"] for name in layer.weights}
    start = layer.state_dict()
    with layer.edit() as w:
        assert list(w) == list(layer.weights)
        for name, gradient in grads.items():
            w[name] -= np.float32(0.01) * gradient
        w["bias_l1"] = w["bias_l1"] + np.float32(1.0)
        same(answers(run)[0], before)
    for name, array in layer.weights.items():
        moved = start[name] - np.float32(0.01) * grads[name]
        assert_same_bits(array, moved + np.float32(1.0) if name == "bias_l1" else moved, name)
    assert_like_fresh(run)
    assert (answers(run)[0]["y"] != before["y"]).any()


def test_an_exception_leaves_the_weights_as_they_were():
    layer, run = made()
    before, _ = answers(run)
    with pytest.raises(ZeroDivisionError), layer.edit() as w:
        w["bias_l0"] += 1
        raise ZeroDivisionError
    same(answers(run)[0], before)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop("bias_l0"),
        lambda w: w.popitem(),
        lambda w: w.clear(),
        lambda w: w.update(bias_l0=0),
        lambda w: w.setdefault("bias_l9", 0),
        lambda w: w.__delitem__("bias_l0"),
        lambda w: w.__ior__({}),
    ],
)
def test_the_names_are_fixed(change):
    layer, _ = made()
    with pytest.raises(TypeError, match=r"^edit: the names of the weights are fixed"), layer.edit() as w:
        change(w)


def test_an_array_reshaped_in_place_is_refused():
    layer, run = made()
    before, _ = answers(run)
    with pytest.raises(ValueError, match=r"^bias_l0: expected shape \(20,\), got \(10,\)"), layer.edit() as w:
        w["bias_l0"].resize(10, refcheck=False)
    same(answers(run)[0], before)


@pytest.mark.parametrize("way", ["assignment", "edit", "load"])
def test_an_edit_that_others_came_before_is_refused(way):
    layer, run = made()
    other = made(seed=1)[0].state_dict()
    with pytest.raises(RuntimeError, match=r"^edit: the weights were changed by others meanwhile"), layer.edit() as w:
        if way == "assignment":
            layer.weights["bias_l0"] = other["bias_l0"]
        elif way == "load":
            layer.load_state_dict(other)
        else:
            with layer.edit() as inner:
                inner["bias_l0"] = other["bias_l0"]
        w["bias_l0"] += 1
    assert_same_bits(layer.weights["bias_l0"], other["bias_l0"])
    assert_like_fresh(run)


# ----------------------------- snapshots


def test_a_tape_keeps_the_weights_it_ran_with():
    layer, run = made()
    before, tape = answers(run)
    # This one has not been run backward yet, so that its pack for that is made after the change.
    unused = layer.forward_train(run.x, run.state, run.lengths)[2]
    with layer.edit() as w:
        for array in w.values():
            array *= -1
    for record in (tape, unused):
        grads = layer.backward(record, run.dy, run.dstate)
        assert_same_bits(grads.x, before["d_x"])
        for name, array in grads.weights.items():
            assert_same_bits(array, before[f"d_{name}"], name)
    assert (answers(run)[0]["d_x"] != before["d_x"]).any()


class Meddler(np.random.Generator):
    """A Generator that sets the weights of a layer when it is asked: in the middle of a call, between two layers."""

    def __init__(self, layer, arrays):
        super().__init__(np.random.PCG64(3))
        self.meddle = lambda: layer.load_state_dict(arrays)

    def random(self, *args):
        self.meddle()
        return super().random(*args)


def test_a_call_keeps_the_weights_it_began_with():
    layer, run = made(dropout=0.5)
    run.rng = np.random.Generator(np.random.PCG64(3))
    wanted, _ = answers(run)
    other = made(seed=1)[0].state_dict()
    run.rng = Meddler(layer, other)
    same(answers(run)[0], wanted)
    assert_same_bits(layer.weights["bias_l1"], other["bias_l1"])


def test_every_call_among_edits_is_that_of_one_snapshot():
    """Weights that change between two values: every answer is that of the one or of the other, never a mixture."""
    layer, run = made()
    weights = [layer.state_dict(), made(seed=1)[0].state_dict()]
    wanted = []
    for arrays in weights:
        layer.load_state_dict(arrays)
        wanted.append({name: array.tobytes() for name, array in answers(run)[0].items()})
    assert wanted[0]["y"] != wanted[1]["y"]
    stop, seen = threading.Event(), set()

    def call():
        while not stop.is_set():
            given = {name: array.tobytes() for name, array in answers(run)[0].items()}
            assert given in wanted
            seen.add(wanted.index(given))
            y, final = layer(run.x, run.state, run.lengths)
            assert (y.tobytes(), final.h.tobytes()) in [(one["y"], one["h"]) for one in wanted]

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for _ in range(4)]
        for k in itertools.count():
            if k % 2:
                layer.load_state_dict(weights[k % 4 // 2])
            else:
                with layer.edit() as w:
                    for name, array in weights[k % 4 // 2].items():
                        w[name] = array
            if (k >= 1000 and len(seen) == 2) or any(task.done() for task in calls):
                break
        stop.set()
        for task in calls:
            task.result()


# ----------------------------- state_dict


class NoArray:
    """As a tensor whose numbers are not at hand."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no numbers here")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_state_dict_goes_around(dtype):
    layer, run = made(dtype=dtype)
    other = LSTM(4, 5, 2, **FULL, dtype=dtype, seed=1)
    other.load_state_dict(layer.state_dict())
    same(answers(Run(**{**vars(run), "layer": other}))[0], answers(run)[0])
    # Another's arrays can be loaded as they are.
    other.load_state_dict(made(seed=1, dtype=dtype)[0].weights)
    other.load_state_dict(layer.weights)
    same(answers(Run(**{**vars(run), "layer": other}))[0], answers(run)[0])


@pytest.mark.parametrize(("dtype", "given"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_state_dict_is_cast(dtype, given):
    layer, run = made(dtype=dtype)
    arrays = {name: array.astype(given) for name, array in layer.state_dict().items()}
    layer.load_state_dict(arrays)
    for name, array in layer.weights.items():
        assert_same_bits(array, arrays[name].astype(dtype), name)
    assert_like_fresh(run)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_biases_are_added(dtype):
    layer, _ = made(dtype=dtype)
    rng = np.random.default_rng(2)
    arrays = layer.state_dict()
    for name in [name for name in arrays if name.startswith("bias")]:
        del arrays[name]
        arrays |= {
            name.replace("bias", bias): rng.normal(size=20).astype(np.float32) for bias in ("bias_ih", "bias_hh")
        }
    layer.load_state_dict(arrays)
    for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        # In float64 nothing of the two is lost.
        total = arrays["bias_ih" + end].astype(dtype) + arrays["bias_hh" + end].astype(dtype)
        assert_same_bits(layer.weights["bias" + end], total, end)


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda d: without(d, "bias_l0", "peephole_l1"), KeyError, r"state_dict: missing: bias_l0, peephole_l1['\"]"),
        (lambda d: d | {"b": 1, 2: 2}, KeyError, r"state_dict: unexpected: b, 2['\"]"),
        (
            lambda d: without(d, "bias_l0") | {"extra": 1},
            KeyError,
            r"state_dict: missing: bias_l0; unexpected: extra['\"]",
        ),
        (
            lambda d: without(d, "bias_l0") | {"bias_ih_l0": d["bias_l0"]},
            KeyError,
            r"missing: bias_l0; unexpected: bias_ih_l0['\"]",
        ),
        (
            lambda d: d | {"bias_ih_l0": d["bias_l0"], "bias_hh_l0": d["bias_l0"]},
            KeyError,
            r"state_dict: unexpected: bias_ih_l0, bias_hh_l0['\"]",
        ),
        (
            lambda d: without(d, "bias_l0") | {"bias_ih_l0": d["bias_l0"], "bias_hh_l0": d["bias_l0"][:1]},
            ValueError,
            r"^bias_hh_l0: expected shape \(20,\), as bias_ih_l0, got \(1,\)",
        ),
        (
            lambda d: without(d, "bias_l0") | {"bias_ih_l0": d["bias_l0"], "bias_hh_l0": np.zeros(20, int)},
            TypeError,
            "^bias_hh_l0: expected float32 or float64, got int64",
        ),
        (
            lambda d: d | {"weight_hr_l1": d["weight_hr_l1"].T},
            ValueError,
            r"^weight_hr_l1: expected shape \(3, 5\), got \(5, 3\); transpose it\?",
        ),
        (lambda d: d | {"bias_l1": np.zeros(20, int)}, TypeError, "^bias_l1: expected float32 or float64, got int64"),
        (
            lambda d: d | {"bias_l1": d["bias_l1"].astype(np.float16)},
            TypeError,
            "^bias_l1: expected float32 or float64, got float16",
        ),
        (
            lambda d: d | {"bias_l0": [[1.0], 2.0]},
            ValueError,
            "^bias_l0: expected an array, got what makes none: ",
        ),
        (
            lambda d: d | {"bias_l0": np.full_like(d["bias_l0"], 1e39, dtype=np.float64)},
            ValueError,
            r"^bias_l0: expected at most 3.4e\+38, for float32, got 1e\+39",
        ),
        (
            # Beside an infinity, too, which is as large in either dtype.
            lambda d: d | {"bias_l0": np.r_[np.inf, 1e39, d["bias_l0"][2:].astype(np.float64)]},
            ValueError,
            r"^bias_l0: expected at most 3.4e\+38, for float32, got 1e\+39",
        ),
        (
            lambda d: d | {"bias_l0": NoArray()},
            TypeError,
            "^bias_l0: expected an array, got a NoArray that makes none: ",
        ),
        (lambda d: list(d.values()), TypeError, "^state_dict: expected a mapping of names to arrays, got list"),
    ],
)
def test_a_state_dict_is_taken_whole_or_not_at_all(change, error, text):
    layer, run = made()
    before, _ = answers(run)
    with pytest.raises(error, match=text):
        layer.load_state_dict(change({name: array + 1 for name, array in layer.state_dict().items()}))
    same(answers(run)[0], before)
