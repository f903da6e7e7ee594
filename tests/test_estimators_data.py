"""What estimators take as X and y: every form of it, and one clear sentence for what cannot be."""

import numpy as np
import pytest
from lstm_rs.estimators import LSTMClassifier, LSTMRegressor
from lstm_rs.estimators._data import Scaler, as_sequence, as_sequences, time_major

RNG = np.random.default_rng(0)
CUBE = RNG.normal(size=(12, 5, 2))
RAGGED = [RNG.normal(size=(steps, 2)) for steps in (3, 7, 1, 4)]
VALUES, LABELS = CUBE.sum(axis=(1, 2)), np.arange(12) % 3
SMALL = {"hidden_size": 4, "epochs": 2, "random_state": 0}


def regressor(**options):
    return LSTMRegressor(**(SMALL | options))


def classifier(**options):
    return LSTMClassifier(**(SMALL | options))


# Forms of X.


def test_an_array_a_list_and_nested_lists_are_the_same():
    expected = regressor().fit(CUBE, VALUES).predict(CUBE)
    for form in (list(CUBE), CUBE.tolist(), tuple(CUBE), np.asfortranarray(CUBE), np.repeat(CUBE, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(regressor().fit(form, VALUES).predict(form), expected)


def test_two_axes_are_univariate_sequences():
    flat = CUBE[:, :, 0]
    expected = regressor().fit(flat[:, :, None], VALUES)
    for form in (flat, list(flat), flat.tolist()):
        fitted = regressor().fit(form, VALUES)
        assert fitted.n_features_in_ == 1
        np.testing.assert_array_equal(fitted.predict(form), expected.predict(flat[:, :, None]))


def test_sequences_may_have_other_lengths_than_in_fit():
    fitted = regressor().fit(CUBE, VALUES)
    assert fitted.predict(np.zeros((3, 90, 2))).shape == (3,)
    assert fitted.predict(RAGGED).shape == (4,)


def test_a_prediction_has_the_same_bits_alone_and_in_any_company():
    fitted = regressor(hidden_size=9).fit(RAGGED, np.arange(4.0))
    many = [RAGGED[k] for k in RNG.integers(4, size=700)]
    expected = np.array([fitted.predict([sequence])[0] for sequence in many])
    np.testing.assert_array_equal(fitted.predict(many), expected)
    np.testing.assert_array_equal(fitted.predict(many[::-1]), expected[::-1])
    np.testing.assert_array_equal(fitted.predict(np.stack([RAGGED[1]] * 700)), fitted.predict(RAGGED[1:2])[0])


def test_an_object_array_of_sequences_is_a_list():
    ragged = np.empty(4, dtype=object)
    ragged[:] = RAGGED
    fitted = regressor().fit(ragged, np.arange(4.0))
    np.testing.assert_array_equal(fitted.predict(ragged), fitted.predict(RAGGED))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "float16", "float32", ">f8", "object"])
def test_numbers_of_all_kinds(dtype):
    numbers = np.round(3 * CUBE).astype(dtype)
    expected = regressor().fit(numbers.astype(np.float64), VALUES).predict(CUBE)
    np.testing.assert_array_equal(regressor().fit(numbers, VALUES).predict(CUBE), expected)


def test_what_is_given_is_left_as_it_was():
    x, y = CUBE.astype(np.float32), VALUES.copy()
    before = x.copy(), y.copy()
    x.flags.writeable = y.flags.writeable = False
    regressor(scale=False).fit(x, y).partial_fit(x, y).predict(x)
    assert np.array_equal(x, before[0]) and np.array_equal(y, before[1])


def test_a_data_frame_is_its_array():
    pandas = pytest.importorskip("pandas")
    flat = CUBE[:, :, 0]
    expected = regressor().fit(flat, VALUES).predict(flat)
    frame = pandas.DataFrame(flat, columns=list("abcde"))
    np.testing.assert_array_equal(regressor().fit(frame, pandas.Series(VALUES)).predict(frame), expected)


# What cannot be.


def with_hole(value):
    cube = CUBE.copy()
    cube[3, 4, 1] = value
    return cube


def ragged_hole():
    ragged = [sequence.copy() for sequence in RAGGED]
    ragged[1][6, 0] = np.nan
    return ragged


class Sparse:
    def toarray(self):
        raise AssertionError("asked for all zeros")


GAPS = "; lstm_rs does not fill gaps: interpolate or drop them first"
BAD_X = {
    "NaN": (with_hole(np.nan), ValueError, "X: sequence 3 contains NaN at step 4, feature 1" + GAPS),
    "infinity": (with_hole(-np.inf), ValueError, "X: sequence 3 contains infinity at step 4, feature 1" + GAPS),
    "ragged NaN": (ragged_hole(), ValueError, "X: sequence 1 contains NaN at step 6, feature 0" + GAPS),
    "no sequence": (CUBE[:0], ValueError, r"X: expected at least 1 sequence, got 0 sample\(s\) \(shape=\(0, 5, 2\)\)"),
    "empty list": ([], ValueError, "X: expected at least 1 sequence, got an empty list"),
    "no step": (CUBE[:, :0], ValueError, "X: expected at least 1 step and 1 feature, got "),
    "no feature": (CUBE[:, :, :0], ValueError, "X: expected at least 1 step and 1 feature, got "),
    "one without steps": ([*RAGGED, CUBE[0, :0]], ValueError, "X: sequence 4: expected at least 1 step and 1 feature"),
    "one axis": (CUBE[0, :, 0], ValueError, r"X: expected \(n, T, F\), .* got shape \(5,\); Reshape your data"),
    "list of numbers": ([1.0, 2.0], ValueError, r"got shape \(2,\); Reshape your data: one sequence is X\[None\]"),
    "number": (3.0, TypeError, r"X: expected an array \(n, T, F\) or \(n, T\), or a list of arrays, got float"),
    "four axes": (CUBE[None], ValueError, r"X: expected \(n, T, F\), .* got shape \(1, 12, 5, 2\)"),
    "sequence of three axes": ([CUBE], ValueError, r"X: sequence 0: expected shape \(T, F\), .* got \(12, 5, 2\)"),
    "features differ": ([*RAGGED, CUBE[0, :, :1]], ValueError, "X: expected 2 features in every sequence, .* got 1 in"),
    "text": (np.full((3, 4), "a"), TypeError, "X: expected numbers, got dtype <U1"),
    "None": (None, TypeError, r"X: expected an array \(n, T, F\) or .*, got NoneType"),
    "objects": (
        np.full((3, 4), {}, dtype=object),
        TypeError,
        "X: expected numbers, got dtype object with what is none",
    ),
    "dates": (np.zeros((3, 4), "datetime64[s]"), TypeError, "X: expected numbers, got dtype datetime64"),
    "complex": (CUBE * 1j, ValueError, "X: Complex data not supported: give real and imaginary part as two features"),
    "sparse": (Sparse(), TypeError, r"X: expected a dense array, got sparse data \(Sparse\); call its toarray\(\)"),
}


@pytest.mark.parametrize("name", BAD_X)
def test_bad_X(name):
    bad, error, match = BAD_X[name]
    for estimator, y in ((regressor(), VALUES), (classifier(), LABELS)):
        for method in (estimator.fit, estimator.partial_fit):
            with pytest.raises(error, match=match):
                method(bad, y)
        assert not hasattr(estimator, "model_")
        estimator.fit(CUBE, y)
        with pytest.raises(error, match=match):
            estimator.predict(bad)


def test_another_number_of_features():
    match = r"X: X has 3 features, but LSTM\w+ is expecting 2 features as input, as in fit"
    more = np.zeros((12, 5, 3))
    for estimator, y in ((regressor(), VALUES), (classifier(), LABELS)):
        estimator.fit(CUBE, y)
        for form in (more, list(more)):
            with pytest.raises(ValueError, match=match):
                estimator.predict(form)
            for method in (estimator.partial_fit, estimator.score):
                with pytest.raises(ValueError, match=match):
                    method(form, y)
        # `fit` begins anew.
        assert estimator.fit(more, y).n_features_in_ == 3


def test_what_float32_has_no_room_for():
    huge = CUBE * 1e300
    with pytest.raises(ValueError, match="X: sequence 0 has values that are too large for float32; give dtype='float"):
        regressor(scale=False).fit(huge, VALUES)
    # Scaled they have: in float64, before they are cast.
    np.testing.assert_allclose(regressor().fit(huge, VALUES).predict(huge), regressor().fit(CUBE, VALUES).predict(CUBE),
                               atol=1e-5)  # fmt: skip


# Scale.


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scaler_standardizes_all_steps(ragged, dtype):
    data = [RNG.normal(loc=(5, -1e3), scale=(0.1, 30), size=(steps, 2)).astype(dtype) for steps in (70_000, 3, 9_000)]
    rows = np.concatenate(data).astype(np.float64)
    scaler = Scaler.fit(data if ragged else rows.astype(dtype).reshape(79_003, 1, 2))
    np.testing.assert_allclose(scaler.mean, rows.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(scaler.deviation, rows.std(axis=0), rtol=1e-10)
    scaled = scaler.scale(data[0], np.float32)
    assert scaled.dtype == np.float32 and scaled.flags.c_contiguous
    np.testing.assert_allclose(scaler.unscale(scaled), data[0], rtol=1e-5)


def test_a_constant_feature_has_deviation_one():
    # 0.1 has a mean that is not itself, and so a deviation that is not quite 0.
    data = np.stack([np.full((7, 9), 0.1), np.zeros((7, 9)), RNG.normal(size=(7, 9))], axis=2)
    scaler = Scaler.fit(data)
    assert scaler.deviation[:2].tolist() == [1.0, 1.0] and scaler.deviation[2] != 1.0


def test_a_large_offset_loses_nothing():
    near, far = regressor().fit(CUBE, VALUES), regressor().fit(CUBE + 2.0**40, VALUES + 2.0**40)
    np.testing.assert_allclose(far.predict(CUBE + 2.0**40) - 2.0**40, near.predict(CUBE), atol=1e-2)


def test_without_scale_numbers_go_in_as_they_are():
    fitted = regressor(scale=False).fit(CUBE, VALUES)
    assert not fitted.scaler_.mean.any() and (fitted.scaler_.deviation == 1).all()
    x = CUBE.astype(np.float32).swapaxes(0, 1).copy()
    np.testing.assert_array_equal(fitted.predict(CUBE), fitted.model_(x)[:, 0])


def test_scaling_makes_units_irrelevant():
    one, other = regressor().fit(CUBE, VALUES), regressor().fit(1024 * CUBE + 4096, 8 * VALUES)
    np.testing.assert_allclose(other.predict(1024 * CUBE + 4096), 8 * one.predict(CUBE), rtol=1e-3, atol=1e-4)


# The pieces.


def test_groups_have_like_lengths_and_zeros_past_the_ends():
    groups = list(time_major([np.full((steps, 1), steps, np.float32) for steps in (5, 2, 9, 2)], 2))
    assert [group[0].tolist() for group in groups] == [[1, 3], [0, 2]]
    assert groups[0][2] is None and groups[1][2].tolist() == [5, 9]
    x = groups[1][1]
    assert x.shape == (9, 2, 1) and x.flags.c_contiguous
    assert (x[:5, 0] == 5).all() and not x[5:, 0].any() and (x[:, 1] == 9).all()


def test_as_sequence_gives_a_series_its_axis():
    assert as_sequence([1, 2, 3], name="X").tolist() == [[1.0], [2.0], [3.0]]
    assert as_sequence(np.zeros((4, 2), np.float32), name="X").dtype == np.float32
    with pytest.raises(ValueError, match="series contains NaN at step 1, feature 0"):
        as_sequence([1.0, np.nan], name="series")


def test_a_float32_array_is_not_copied():
    array = CUBE.astype(np.float32)
    assert np.shares_memory(as_sequences(array), array)
