"""An estimator in a file: predictions with the same bits, learning that goes on, and files that make nothing."""

import json
import struct
import warnings

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec
from lstm_rs.estimators import LSTMAutoencoder, LSTMClassifier, LSTMForecaster, LSTMRegressor

pytest.importorskip("safetensors", reason="safetensors is not installed")

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(steps, 2)) for steps in RNG.integers(3, 9, size=40)]
SUMS = np.array([x[:, 0].sum() for x in X])
NAMES = np.where(SUMS > 0, "plus", "minus")
STEPS = [x.cumsum(axis=0) for x in X]
SMALL = {"hidden_size": 6, "epochs": 3, "random_state": 0}

CASES = {
    "regressor": (LSTMRegressor(**SMALL), SUMS),
    "two columns": (LSTMRegressor(**SMALL, loss="huber"), np.stack([SUMS, -SUMS], axis=1)),
    "per step": (LSTMRegressor(**SMALL, per_step=True, dtype="float64"), STEPS),
    "not scaled": (LSTMRegressor(**SMALL, scale=False, weight_decay=0.1), SUMS),
    "classifier": (LSTMClassifier(**SMALL), NAMES),
    "objects": (LSTMClassifier(**SMALL), NAMES.astype(object)),
    "ints": (LSTMClassifier(**SMALL), (SUMS > 0).astype(np.int16)),
    "bools": (LSTMClassifier(**SMALL), SUMS > 0),
    "all options": (
        LSTMClassifier(
            **SMALL,
            num_layers=2,
            bidirectional=True,
            dropout=0.25,
            cell=CellSpec(peephole=True, gate_activation=("hard_sigmoid", 1 / 6, 0.5), cell_clip=3.0),
            validation_fraction=0.2,
            patience=2,
            dtype=np.float64,
            clip_norm=None,
            learning_rate=np.float32(0.01),
        ),
        NAMES,
    ),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture(params=CASES)
def fitted(request):
    estimator, y = CASES[request.param]
    return type(estimator)(**estimator.get_params()).fit(X, y), y


def outputs(estimator):
    proba = isinstance(estimator, LSTMClassifier)
    made = estimator.predict_proba(X) if proba else estimator.predict(X)
    return np.concatenate(made) if isinstance(made, list) else made


def test_all_comes_back(fitted, path):
    estimator, y = fitted
    estimator.save(path)
    again = type(estimator).load(path)
    np.testing.assert_array_equal(outputs(again), outputs(estimator))
    params, before = again.get_params(), estimator.get_params()
    assert np.dtype(params.pop("dtype")) == np.dtype(before.pop("dtype")) and params == before
    assert again.history_ == estimator.history_
    assert again.score(X, y) == estimator.score(X, y)
    for name in estimator._fitted:
        one, two = getattr(again, name), getattr(estimator, name)
        if isinstance(two, np.ndarray):
            assert np.array_equal(one, two) and one.dtype.kind == two.dtype.kind
    # And it learns on as the other does: moments, order of batches and dropout have come along.
    np.testing.assert_array_equal(outputs(again.partial_fit(X, y)), outputs(estimator.partial_fit(X, y)))


def test_parameters_that_were_set_after_the_fit_come_back_too(path):
    regressor = LSTMRegressor(**SMALL).fit(X, SUMS)
    regressor.set_params(hidden_size=50, per_step=True)
    regressor.save(path)
    again = LSTMRegressor.load(path)
    assert again.get_params() == regressor.get_params()
    np.testing.assert_array_equal(again.predict(X), regressor.predict(X))


@pytest.mark.parametrize("state", [np.random.default_rng(0), np.random.RandomState(0)])
def test_a_generator_is_left_out(path, state):
    LSTMRegressor(**(SMALL | {"random_state": state})).fit(X, SUMS).save(path)
    assert LSTMRegressor.load(path).random_state is None


def test_a_file_has_no_pickle_and_replaces_what_was_there(path):
    path.write_text("old")
    LSTMClassifier(**SMALL).fit(X, NAMES.astype(object)).save(path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert json.loads(data[8 : 8 + length])["__metadata__"].keys() == {"lstm_rs.estimators"}
    assert b"numpy" not in data and b"pickle" not in data
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_labels_that_have_no_place_in_a_file(path):
    dates = np.where(SUMS > 0, np.datetime64("2001-01-01"), np.datetime64("2002-02-02"))
    with pytest.raises(ValueError, match="save: classes_: expected numbers or str, got dtype datetime64"):
        LSTMClassifier(**SMALL).fit(X, dates).save(path)
    assert not path.exists()


def test_weights_that_are_no_numbers(path):
    regressor = LSTMRegressor(**SMALL).fit(X, SUMS)
    regressor.model_.modules["linear"].weights["bias"] = np.array([np.nan], np.float32)
    with pytest.raises(ValueError, match=r"save: weights linear\.bias are NaN or infinite"):
        regressor.save(path)
    assert not path.exists()


# Files that make nothing.


def rewrite(path, change=lambda said: None, tensors=lambda header: None):
    """A file whose header was changed."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    said = json.loads(header["__metadata__"]["lstm_rs.estimators"])
    change(said)
    header["__metadata__"]["lstm_rs.estimators"] = json.dumps(said)
    tensors(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


@pytest.fixture
def saved(path):
    LSTMRegressor(**SMALL).fit(X, SUMS).save(path)
    return path


def test_rewriting_changes_nothing_by_itself(saved):
    rewrite(saved)
    assert LSTMRegressor.load(saved).predict(X).shape == (40,)


def test_another_class(saved):
    with pytest.raises(ValueError, match=r"expected a file of LSTMClassifier\.save, got one of LSTMRegressor"):
        LSTMClassifier.load(saved)


def test_a_file_of_a_layer(path):
    LSTM(2, 3).save(path)
    with pytest.raises(
        ValueError, match=r"expected 'lstm_rs\.estimators' in its metadata, as LSTMRegressor\.save writes"
    ):
        LSTMRegressor.load(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        LSTMRegressor.load(path)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_part_of_a_file(saved, part):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match="expected a whole safetensors file, got"):
        LSTMRegressor.load(saved)


def test_a_long_history_fits_into_a_file(path):
    """A loss for each of a million steps: it must not be in the header, which may not have so much."""
    estimator = LSTMRegressor(hidden_size=2, epochs=1, random_state=0).fit(np.ones((3, 4)), [1.0, 2.0, 3.0])
    estimator.history_.step_loss = [0.123456789012345] * 1_000_000
    estimator.save(path)
    assert LSTMRegressor.load(path).history_ == estimator.history_


def test_what_cannot_be_read_is_not_written(path):
    estimator = LSTMRegressor(hidden_size=2, epochs=1, random_state=0).fit(np.ones((3, 4)), [1.0, 2.0, 3.0])
    estimator.save(path)
    with pytest.raises(ValueError, match="epochs: expected at least 1"):
        estimator.set_params(epochs=0).save(path)
    assert LSTMRegressor.load(path).epochs == 1


def test_noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ValueError, match="expected a whole safetensors file, got"):
        LSTMRegressor.load(path)


def put(*names, value):
    def change(said):
        for name in names[:-1]:
            said = said[name]
        said[names[-1]] = value

    return change


BROKEN = {
    "newer": (put("format_version", value=2), "expected format_version 1, got 2, written by lstm_rs"),
    "no params": (lambda said: said.pop("as_fitted"), "as_fitted"),
    "unknown param": (put("as_fitted", "attention", value=True), "attention"),
    "bad param": (put("as_fitted", "dropout", value=7), "dropout: expected at least 0"),
    "bad later param": (put("params", "epochs", value="many"), "epochs: expected an int"),
    # NumPy has a DeprecationWarning for this one.
    "odd dtype": (put("as_fitted", "dtype", value="a"), "dtype: expected one of 'float32', 'float64', got 'a'"),
    "odd later dtype": (put("params", "dtype", value=None), "dtype: expected one of 'float32', 'float64', got None"),
    "bad cell": (put("as_fitted", "cell", value={"gates": 9}), "gates"),
    "hidden_size": (put("as_fitted", "hidden_size", value=7), "shape"),
    "huge hidden_size": (put("as_fitted", "hidden_size", value=10**9), "hidden_size: expected from 1 to"),
    "large hidden_size": (put("as_fitted", "hidden_size", value=100), "hidden_size: expected fewer than 100 units for"),
    "huge layers": (put("as_fitted", "num_layers", value=10**9), "num_layers: expected from 1 to"),
    "huge input": (put("fitted", "n_features_in_", value=10**9), "n_features_in_: expected from 1 to"),
    "no integer": (put("fitted", "n_outputs_", value="1"), "n_outputs_: expected from 1 to"),
    "another input": (put("fitted", "n_features_in_", value=3), "scaler_: expected 3 values, as n_features_in_ says"),
    "more layers": (put("as_fitted", "num_layers", value=2), "weight_ih_l1"),
    "other attributes": (put("fitted", "extra_", value=1), "expected n_features_in_, scaler_, .* got .*extra_"),
    "no attribute": (lambda said: said["fitted"].pop("y_scaler_"), "expected n_features_in_, scaler_"),
    "scaler elsewhere": (put("fitted", "scaler_", "scaler", value="nowhere"), "nowhere"),
    "no best epoch": (lambda said: said.pop("best_epoch"), "best_epoch"),
    "generator": (put("shuffle", "bit_generator", value="Dice"), "PCG64"),
    "another best epoch": (put("best_epoch", value=3), "best_epoch: expected an epoch from 0 to 2, or none, got 3"),
    "a best epoch of text": (
        put("best_epoch", value="1"),
        "best_epoch: expected an epoch from 0 to 2, or none, got '1'",
    ),
    "no flag": (put("fitted", "single_output_", value="yes"), "single_output_: expected a bool, got 'yes'"),
    "no scaler": (
        put("fitted", "y_scaler_", value={"array": "fitted.y_scaler_.mean"}),
        "y_scaler_: expected a mean and a",
    ),
    "a size that is a bool": (put("fitted", "n_outputs_", value=True), "n_outputs_: expected from 1 to .*, got True"),
    "a clip beyond float64": (put("as_fitted", "cell", value={"gate_clip": 10**400}), "gate_clip must be finite"),
    "not an object": (lambda said: said.update(as_fitted=[]), "header and tensors do not make a fitted LSTMRegressor"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_headers_that_do_not_fit(saved, name):
    change, match = BROKEN[name]
    rewrite(saved, change)
    with pytest.raises(ValueError, match=match) as caught:
        LSTMRegressor.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_header_that_is_no_object(saved, text):
    rewrite(saved, tensors=lambda header: header["__metadata__"].update({"lstm_rs.estimators": text}))
    with pytest.raises(ValueError, match=r"expected (a )?JSON"):
        LSTMRegressor.load(saved)


@pytest.mark.parametrize(
    "old", ["model.linear.bias", "model.lstm.weight_hh_l0", "optimizer.mean", "fitted.scaler_.mean", "history.loss"]
)
def test_a_tensor_by_another_name(saved, old):
    rewrite(saved, tensors=lambda header: header.update({old + "x": header.pop(old)}))
    with pytest.raises(ValueError, match="header and tensors do not make a fitted LSTMRegressor: "):
        LSTMRegressor.load(saved)


def test_a_tensor_that_is_no_number(saved):
    data = bytearray(saved.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    begin, _ = header["model.lstm.weight_hh_l0"]["data_offsets"]
    data[8 + length + begin : 8 + length + begin + 4] = np.float32(np.nan).tobytes()
    saved.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights lstm\.weight_hh_l0 are NaN or infinite"):
        LSTMRegressor.load(saved)


def cast(name, kind, width):
    """Another dtype for the same bytes."""

    def change(header):
        tensor = header[name]
        (first, last), rows = tensor["data_offsets"], tensor["shape"][1:]
        tensor |= {"dtype": kind, "shape": [(last - first) // (width * max(1, int(np.prod(rows)))), *rows]}

    return change


@pytest.mark.parametrize(
    ("name", "kind", "width", "text"),
    [
        ("model.linear.bias", "BF16", 2, r"model\.linear\.bias: expected numbers of F64, .*, got BF16$"),
        ("history.loss", "F32", 4, r"history\.loss: expected a list of float64, got float32 of shape \(6,\)"),
        ("fitted.scaler_.mean", "F32", 4, "expected a mean and a deviation above 0 for each feature in fitted.scaler_"),
    ],
)
def test_numbers_of_another_kind(saved, name, kind, width, text):
    rewrite(saved, tensors=lambda header: cast(name, kind, width)(header))
    with pytest.raises(ValueError, match=text):
        LSTMRegressor.load(saved)


@pytest.mark.parametrize("shape", [[1 << 62, 0], [0, 1 << 31, 1 << 31], [0] + [1] * 32])
def test_a_tensor_without_numbers_and_with_more_than_numpy_counts(saved, shape):
    empty = {"dtype": "F64", "shape": shape, "data_offsets": [0, 0]}
    rewrite(saved, tensors=lambda header: header.update(empty=empty))
    with pytest.raises(ValueError, match=r"model.safetensors: empty: expected the shape of an array, got \["):
        LSTMRegressor.load(saved)


def test_dropout_that_does_nothing_gives_no_warning_again(path):
    with pytest.warns(UserWarning, match="dropout acts between layers"):
        regressor = LSTMRegressor(**SMALL, dropout=0.5).fit(X, SUMS)
    regressor.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = LSTMRegressor.load(path)
    assert again.model_.modules["lstm"].dropout == 0.5


# Attributes that only a prediction would have stumbled over.


FITTED = {
    "classifier": LSTMClassifier(**SMALL).fit(X, NAMES),
    "forecaster": LSTMForecaster(window=4, **SMALL).fit(np.arange(40.0)),
    "autoencoder": LSTMAutoencoder(window=4, **SMALL).fit(np.arange(40.0)),
}
ODD = {
    "a label twice": (
        "classifier",
        "classes_",
        {"strings": ["minus"] * 2, "object": False},
        "classes_: expected a list",
    ),
    "no label": ("classifier", "classes_", {"strings": [], "object": False}, "expected a list of texts as labels"),
    "numbers": ("classifier", "classes_", {"strings": [1, 2], "object": True}, "expected a list of texts as labels"),
    "one number": ("classifier", "classes_", 2, "object of type 'int' has no len|classes_: expected a list"),
    # Of 100 kB, NumPy would make 20 GB.
    "one long label": (
        "classifier",
        "classes_",
        {"strings": ["x" * 100_000] + [""] * 50_000, "object": False},
        "expected labels that take at most 16777216 characters in all, got 5000100000",
    ),
    "no threshold": ("autoencoder", "threshold_", "high", "threshold_: expected a float, got 'high'"),
    "nan": ("autoencoder", "threshold_", float("nan"), "threshold_: expected at least 0 and finite, got nan"),
    "no state": ("forecaster", "past_h_", 3, r"past_h_: expected float32 of shape \(1, 1, 1, 6\)"),
    "another state": ("forecaster", "past_c_", {"array": "fitted.past_values_"}, r"past_c_: expected float32 of shape"),
    "no series": ("forecaster", "past_values_", None, r"past_values_: expected float32 of shape \(1, 1, 1\)"),
    "another form": (
        "forecaster",
        "past_flat_",
        {"array": "history.loss"},
        "past_flat_: expected a bool for each series",
    ),
    "no form": ("forecaster", "past_many_", 1, "past_many_: expected a bool, got 1"),
}


@pytest.mark.parametrize("name", ODD)
def test_attributes_that_are_none_of_a_fit(path, name):
    kind, attribute, value, text = ODD[name]
    FITTED[kind].save(path)
    type(FITTED[kind]).load(path)
    rewrite(path, put("fitted", attribute, value=value))
    with pytest.raises(ValueError, match=f"do not make a fitted {type(FITTED[kind]).__name__}: .*{text}"):
        type(FITTED[kind]).load(path)
