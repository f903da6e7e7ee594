"""`LSTMClassifier`: speakers told apart, labels of every kind, probabilities, and a label for each step."""

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
from lstm_rs.estimators import LSTMClassifier

RNG = np.random.default_rng(0)
SMALL = {"hidden_size": 4, "epochs": 2, "random_state": 0}
CUBE = RNG.normal(size=(30, 6, 2))
RAGGED = [RNG.normal(size=(steps, 2)) for steps in RNG.integers(2, 9, size=30)]
CODES = np.argsort(np.argsort(CUBE[:, :, 0].sum(axis=1))) // 10


def japanese_vowels(part):
    """Utterances (T_i, 12) of 7 to 26 steps, and who spoke: Kudo, Toyama & Shimbo 1999."""
    try:
        path = distribution("aeon").locate_file(f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts")
    except PackageNotFoundError:
        pytest.skip("aeon, which has the data, is not installed")
    lines = path.read_text().split("@data")[1].split()
    rows = [line.split(":") for line in lines]
    X = [np.array([[float(value) for value in channel.split(",")] for channel in row[:-1]]).T for row in rows]
    return X, np.array([row[-1] for row in rows])


def test_speakers_of_japanese_vowels():
    X, y = japanese_vowels("TRAIN")
    fresh, truth = japanese_vowels("TEST")
    assert (len(X), len(fresh), X[0].shape[1], len(set(y))) == (270, 370, 12, 9)
    assert {min(map(len, X + fresh)), max(map(len, X + fresh))} <= {7, 26, 29}
    scores = [LSTMClassifier(hidden_size=64, random_state=seed).fit(X, y).score(fresh, truth) for seed in range(5)]
    assert np.median(scores) >= 0.97, scores


def test_a_label_for_each_step():
    # Is the sum so far above 0? The label of a step needs all those before it.
    X = [RNG.normal(size=(steps, 1)) for steps in RNG.integers(3, 12, size=300)]
    y = [np.where(x[:, 0].cumsum() > 0, "above", "below") for x in X]
    classifier = LSTMClassifier(per_step=True, epochs=30, random_state=0).fit(X[:250], y[:250])
    assert classifier.score(X[250:], y[250:]) > 0.95
    predicted, proba = classifier.predict(X[250:]), classifier.predict_proba(X[250:])
    assert isinstance(predicted, list) and [p.shape for p in predicted] == [t.shape for t in y[250:]]
    assert [p.shape for p in proba] == [(len(t), 2) for t in y[250:]]
    flat = np.concatenate([p == t for p, t in zip(predicted, y[250:], strict=True)])
    assert classifier.score(X[250:], y[250:]) == flat.mean()


def test_labels_per_step_of_an_array():
    y = np.where(CUBE[:, :, 0] > 0, 7, -7)
    classifier = LSTMClassifier(**SMALL, per_step=True).fit(CUBE, y)
    assert classifier.predict(CUBE).shape == (30, 6) and classifier.predict_proba(CUBE).shape == (30, 6, 2)
    assert classifier.classes_.tolist() == [-7, 7]
    assert 0.0 <= classifier.score(CUBE, list(y)) <= 1.0
    assert classifier.partial_fit(CUBE, y).predict(list(CUBE))[0].shape == (6,)


NAMES = np.array(["ant", "bee", "cricket"])
KINDS = {
    "int": np.array([-5, 0, 9]),
    "uint8": np.array([0, 1, 255], np.uint8),
    "whole floats": np.array([0.0, 1.0, 2.0]),
    "str": NAMES,
    "object": NAMES.astype(object),
    "bytes": NAMES.astype(bytes),
    "dates": np.array(["2001-01-01", "2002-02-02", "2003-03-03"], "datetime64[D]"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind(kind):
    labels = KINDS[kind]
    y = labels[::-1][CODES]
    classifier = LSTMClassifier(**(SMALL | {"epochs": 80, "hidden_size": 16})).fit(CUBE, y)
    assert classifier.classes_.dtype == labels.dtype and classifier.classes_.tolist() == labels.tolist()
    predicted = classifier.predict(CUBE)
    assert predicted.dtype == labels.dtype and predicted.shape == (30,)
    assert classifier.score(CUBE, y) == (predicted == y).mean() > 0.9


def test_bools_are_labels():
    classifier = LSTMClassifier(**SMALL).fit(CUBE, CODES > 0)
    assert classifier.classes_.tolist() == [False, True] and classifier.predict(CUBE).dtype == bool


def test_probabilities():
    classifier = LSTMClassifier(**SMALL).fit(CUBE, NAMES[CODES])
    proba, log_proba = classifier.predict_proba(CUBE), classifier.predict_log_proba(CUBE)
    assert proba.shape == (30, 3) and proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(np.exp(log_proba), proba)
    np.testing.assert_array_equal(classifier.classes_[proba.argmax(axis=1)], classifier.predict(CUBE))
    # They are the softmax of what the layers say.
    z = classifier.scaler_.scale(CUBE, np.float32).swapaxes(0, 1).copy()
    logits = classifier.model_(z).astype(np.float64)
    np.testing.assert_allclose(proba, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-12)


def test_probabilities_of_huge_logits_are_no_nan():
    classifier = LSTMClassifier(**SMALL).fit(CUBE, CODES)
    linear = classifier.model_.modules["linear"]
    linear.weights["bias"] = np.array([3e38, 0, -3e38], np.float32)
    assert classifier.predict_proba(CUBE)[0].tolist() == [1.0, 0.0, 0.0]
    assert np.isfinite(classifier.predict_log_proba(CUBE)).all()


def test_the_loss_is_the_cross_entropy():
    options = SMALL | {"epochs": 1, "learning_rate": 1e-30, "batch_size": 30, "dtype": "float64"}
    classifier = LSTMClassifier(**options).fit(CUBE, CODES)
    expected = -classifier.predict_log_proba(CUBE)[np.arange(30), CODES].mean()
    assert classifier.history_.loss[0] == pytest.approx(expected, rel=1e-12)


def test_what_is_held_out_has_its_part_of_each_label():
    held_out = []

    class Watched(LSTMClassifier):
        def _batches(self, data, rng):
            if rng is None:
                held_out.append(np.bincount(data.targets, minlength=3))
            return super()._batches(data, rng)

    y = np.repeat([0, 1, 2], [60, 30, 10])
    X = RNG.normal(size=(100, 3, 1))
    for seed in range(3):
        Watched(**(SMALL | {"random_state": seed}), validation_fraction=0.2).fit(X, y)
    assert [counts.tolist() for counts in held_out] == [[12, 6, 2]] * 3


def test_sequences_with_labels_per_step_are_held_out_whole():
    y = [np.where(x[:, 0] > 0, 1, 0) for x in RAGGED]
    options = SMALL | {"batch_size": 1, "validation_fraction": 0.4}
    history = LSTMClassifier(**options, per_step=True).fit(RAGGED, y).history_
    assert len(history.step_loss) == 2 * 18 and len(history.validation_loss) == 2


# Labels in parts.


def test_partial_fit_takes_all_labels_at_first():
    first = CODES < 2
    classifier = LSTMClassifier(**SMALL).partial_fit(CUBE[first], NAMES[CODES[first]], classes=NAMES)
    assert classifier.predict_proba(CUBE).shape == (30, 3)
    for _ in range(120):
        classifier.partial_fit(CUBE, NAMES[CODES])
    assert "cricket" in classifier.predict(CUBE)
    assert classifier.partial_fit(CUBE, NAMES[CODES], classes=NAMES[::-1]) is classifier
    with pytest.raises(
        ValueError, match=r"classes: expected those of the first call, \['ant', 'bee', 'cricket'\], got"
    ):
        classifier.partial_fit(CUBE, NAMES[CODES], classes=["ant", "bee"])


def test_unknown_labels_are_refused():
    match = r"y: expected labels out of \['ant', 'bee'\], got .*'cricket'.*; the first partial_fit takes all that will"
    classifier = LSTMClassifier(**SMALL)
    with pytest.raises(ValueError, match=match):
        classifier.partial_fit(CUBE, NAMES[CODES], classes=["ant", "bee"])
    assert not hasattr(classifier, "classes_")
    first = CODES < 2
    classifier.partial_fit(CUBE[first], NAMES[CODES[first]])
    with pytest.raises(ValueError, match=match):
        classifier.partial_fit(CUBE, NAMES[CODES])
    # A score takes any: what was never learnt is never right.
    assert classifier.score(CUBE, ["zebra"] * 30) == 0.0


PER_STEP = [np.arange(len(x)) % 2 for x in RAGGED]
ONE = r"y: expected labels of at least 2 classes, got 1 class only: "
BAD_Y = {
    "None": (CUBE, None, {}, ValueError, "y: LSTMClassifier requires y to be passed, but the target y is None"),
    "one label": (CUBE, ["a"] * 30, {}, ValueError, ONE + r"\['a'\]; there is nothing to tell apart"),
    "one label per step": (CUBE, np.zeros((30, 6), int), {"per_step": True}, ValueError, ONE + r"\[0\]"),
    "too few": (CUBE, CODES[:-1], {}, ValueError, "y: expected 30 targets, one a sequence of X, got 29"),
    "NaN": (CUBE, np.r_[np.nan, CODES[1:]], {}, ValueError, "y: Input y contains NaN: expected labels"),
    "infinity": (CUBE, np.r_[np.inf, CODES[1:]], {}, ValueError, "y: Input y contains infinity: expected labels"),
    "fractions": (
        CUBE,
        CODES + 0.5,
        {},
        ValueError,
        "y: Unknown label type: continuous: .*LSTMRegressor predicts those",
    ),
    "complex": (CUBE, 1j * CODES, {}, ValueError, "y: Complex data not supported"),
    "mixed": (
        CUBE,
        np.array(["a", 1] * 15, object),
        {},
        TypeError,
        "y: expected labels of one kind that can be sorted",
    ),
    "two columns": (
        CUBE,
        np.zeros((30, 2)),
        {},
        ValueError,
        r"y: expected one label a sequence, got shape \(30, 2\); f",
    ),
    "per step: short": (
        CUBE,
        np.zeros((30, 5)),
        {"per_step": True},
        ValueError,
        "y: expected 6 steps in sequence 0, as",
    ),
    "per step: values": (
        CUBE,
        CODES,
        {"per_step": True},
        ValueError,
        "y: .* a single value; per_step=True needs one a",
    ),
    "per step: ragged": (
        RAGGED,
        PER_STEP[::-1],
        {"per_step": True},
        ValueError,
        r"y: expected \d steps in sequence \d",
    ),
    "per step: columns": (
        CUBE,
        np.zeros((30, 6, 2)),
        {"per_step": True},
        ValueError,
        "y: expected one label a step, got",
    ),
}


@pytest.mark.parametrize("name", BAD_Y)
def test_bad_y(name):
    X, y, options, error, match = BAD_Y[name]
    classifier = LSTMClassifier(**SMALL, **options)
    for method in (classifier.fit, classifier.partial_fit):
        with pytest.raises(error, match=match):
            method(X, y)
    assert not hasattr(classifier, "model_") and not hasattr(classifier, "classes_")


def test_a_column_of_labels_is_taken_with_a_warning():
    expected = LSTMClassifier(**SMALL).fit(CUBE, CODES).predict_proba(CUBE)
    with pytest.warns(UserWarning, match="A column-vector y was passed when a 1d array was expected") as seen:
        classifier = LSTMClassifier(**SMALL).fit(CUBE, CODES[:, None])
    assert seen[0].filename == __file__
    np.testing.assert_array_equal(classifier.predict_proba(CUBE), expected)
