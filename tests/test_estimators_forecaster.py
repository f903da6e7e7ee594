"""`LSTMForecaster`: what it reads and says, from every step and from the end, and how well it forecasts."""

import signal

import lstm_rs
import numpy as np
import pytest
from lstm_rs.datasets import load_sunspots
from lstm_rs.estimators import LSTMForecaster
from lstm_rs.estimators._windows import WindowBatches

RNG = np.random.default_rng(0)
WALK = np.cumsum(RNG.normal(size=(120, 2)), axis=0)
KNOWN = RNG.normal(size=(140, 3))
SMALL = {"window": 12, "hidden_size": 5, "epochs": 2, "random_state": 0, "dtype": "float64"}
STRATEGIES = ("direct", "recursive")

both = pytest.mark.parametrize("strategy", STRATEGIES)


def small(horizon=4, **options):
    return LSTMForecaster(horizon, **{**SMALL, **options})


# What it says, against a plain loop.


def plain(model, values, known, steps):
    """Forecast from the end of a series: the whole past anew for each step, in the units of the network."""
    lstm, linear = model.model_.lstm, model.model_.linear.weights
    columns, ahead = values.shape[1], model.horizon if model.strategy == "direct" else 1
    values = list((values - model.scaler_.mean) / model.scaler_.deviation)
    known = (known - model.exogenous_scaler_.mean) / model.exogenous_scaler_.deviation
    said = []
    while len(said) < steps:
        x = [np.concatenate([v, *(known[t + j] for j in range(1, ahead + 1))]) for t, v in enumerate(values)]
        y, _ = lstm(np.array(x))
        out = linear["weight"] @ y[-1] + linear["bias"]
        out = out * model.changes_.deviation + model.changes_.mean
        new = out.reshape(ahead, columns) + (values[-1] if model.difference else 0)
        said.extend(new)
        values.extend(new)
    return np.array(said[:steps]) * model.scaler_.deviation + model.scaler_.mean


@both
@pytest.mark.parametrize("difference", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"cell": lstm_rs.CellSpec.peephole_lstm()}])
def test_forecasts_are_those_of_a_plain_loop(strategy, difference, options):
    model = small(strategy=strategy, difference=difference, **options).fit(WALK, exogenous=KNOWN[:120])
    said = model.predict_all(WALK[:40], exogenous=KNOWN[:44])
    assert said.shape == (40, 4, 2)
    for t in (0, 1, 17, 39):
        expected = plain(model, WALK[: t + 1], KNOWN, 4)
        np.testing.assert_allclose(said[t], expected, rtol=1e-11, atol=1e-11)


@both
def test_without_exogenous_columns_too(strategy):
    model = small(strategy=strategy).fit(WALK)
    np.testing.assert_allclose(model.predict(), plain(model, WALK, np.empty((200, 0)), 4), rtol=1e-11)


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_same_bits_whichever_way_a_forecast_is_made(strategy, dtype, layers):
    options = {"num_layers": layers, "dropout": 0.3 if layers > 1 else 0.0}
    model = small(strategy=strategy, dtype=dtype, **options).fit(WALK, exogenous=KNOWN[:120])
    said = model.predict_all(WALK, exogenous=KNOWN[:124])
    assert np.array_equal(model.predict(future_exogenous=KNOWN[120:124]), said[-1])
    for t in (0, 1, 30, 119):
        given = {"exogenous": KNOWN[: t + 1], "future_exogenous": KNOWN[t + 1 : t + 5]}
        assert np.array_equal(model.predict(WALK[: t + 1], **given), said[t])


@both
def test_series_longer_than_what_runs_at_once(strategy, monkeypatch):
    model = small(strategy=strategy).fit(WALK, exogenous=KNOWN[:120])
    whole = model.predict_all(WALK, exogenous=KNOWN[:124])
    last = model.predict(WALK, exogenous=KNOWN[:120], future_exogenous=KNOWN[120:])
    monkeypatch.setattr("lstm_rs.estimators._rollout._ROWS", 7)
    assert np.array_equal(model.predict_all(WALK, exogenous=KNOWN[:124]), whole)
    assert np.array_equal(model.predict(WALK, exogenous=KNOWN[:120], future_exogenous=KNOWN[120:]), last)


@both
def test_later_values_do_not_matter(strategy):
    model = small(strategy=strategy, num_layers=2).fit(WALK, exogenous=KNOWN[:120])
    said = model.predict_all(WALK, exogenous=KNOWN[:124])
    for t in (0, 50, 118):
        changed = WALK.copy()
        changed[t + 1 :] = 9.0
        again = model.predict_all(changed, exogenous=KNOWN[:124])
        assert np.array_equal(again[: t + 1], said[: t + 1])
        assert not np.array_equal(again[t + 1], said[t + 1])


def test_one_step_ahead_both_strategies_are_one():
    direct, recursive = (small(1, strategy=strategy).fit(WALK, exogenous=KNOWN[:120]) for strategy in STRATEGIES)
    for name, weight in direct.model_.lstm.weights.items():
        assert np.array_equal(recursive.model_.lstm.weights[name], weight)
    a, b = (model.predict_all(WALK, exogenous=KNOWN[:121]) for model in (direct, recursive))
    assert a.shape == (120, 1, 2)
    assert np.array_equal(a, b)


def test_recursive_goes_on_for_any_number_of_steps():
    model = small(strategy="recursive").fit(WALK)
    far = model.predict(steps=300)
    assert far.shape == (300, 2)
    assert np.array_equal(far[:4], model.predict())


def test_direct_gives_fewer_steps_but_not_more():
    model = small().fit(WALK)
    assert np.array_equal(model.predict(steps=2), model.predict()[:2])
    with pytest.raises(ValueError, match="steps: expected at most 4, the horizon, with strategy='direct', got 5"):
        model.predict(steps=5)
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        model.predict(steps=0)


def test_steps_ahead_do_not_read_the_past_again(monkeypatch):
    model = small(strategy="recursive").fit(WALK)
    expected, read, stepped = model.predict(WALK, steps=50), [], []
    call, step = lstm_rs.LSTM.__call__, type(model.model_.lstm.stream()).step
    monkeypatch.setattr(lstm_rs.LSTM, "__call__", lambda self, x, *rest: (read.append(len(x)), call(self, x, *rest))[1])
    monkeypatch.setattr(
        type(model.model_.lstm.stream()), "step", lambda self, x, *rest: (stepped.append(1), step(self, x, *rest))[1]
    )
    assert np.array_equal(model.predict(WALK, steps=50), expected)
    assert sum(read) == 120
    assert len(stepped) == 49
    model.predict(steps=50)
    assert sum(read) == 121  # of the series of fit, the state before its last step is kept


# What it learns from.


@both
@pytest.mark.parametrize("stride", [1, 5])
def test_windows_have_what_comes_as_targets(strategy, stride):
    ahead = 3 if strategy == "direct" else 1
    series, known = [WALK[:40], WALK[40:60]], [KNOWN[:40], KNOWN[40:60]]
    model = small(3, strategy=strategy, stride=stride, batch_size=4).fit(series, exogenous=known)
    seen = []
    for batch in model._batches(model._data(*_prepared(model, series, known)), None):
        assert batch.x.shape[0] == 12
        assert batch.x.flags.c_contiguous
        assert batch.lengths is None
        assert not batch.carry
        seen.extend(zip(batch.x.swapaxes(0, 1), batch.target.swapaxes(0, 1), strict=True))
    expected = []
    for one, other in zip(series, known, strict=True):
        v = (one - model.scaler_.mean) / model.scaler_.deviation
        e = (other - model.exogenous_scaler_.mean) / model.exogenous_scaler_.deviation
        for first in range(0, len(one) - 12 - ahead + 1, stride):
            steps = range(first, first + 12)
            x = [np.concatenate([v[t], *e[t + 1 : t + 1 + ahead]]) for t in steps]
            target = [(v[t + 1 : t + 1 + ahead] - v[t]).ravel() for t in steps]
            expected.append((np.array(x), (np.array(target) - model.changes_.mean) / model.changes_.deviation))
    assert len(seen) == len(expected) > 5
    for (x, target), (wanted_x, wanted_target) in zip(seen, expected, strict=True):
        assert np.array_equal(x, wanted_x)
        np.testing.assert_allclose(target, wanted_target, rtol=1e-13, atol=1e-13)


def _prepared(model, series, known):
    checked, found, form = model._checked(series, known, 0)
    return checked, found, form


def test_differences_are_scaled_for_each_step_ahead():
    model = small(3, scale=True).fit(WALK)
    v = (WALK - WALK.mean(axis=0)) / WALK.std(axis=0)
    for j in (1, 2, 3):
        change = v[j:] - v[:-j]
        np.testing.assert_allclose(model.changes_.mean[2 * j - 2 : 2 * j], change.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(model.changes_.deviation[2 * j - 2 : 2 * j], change.std(axis=0), rtol=1e-12)
    plain = small(3, scale=False).fit(WALK)
    assert (plain.changes_.deviation == 1).all()
    assert (plain.scaler_.deviation == 1).all()


def test_the_first_quarter_of_a_window_does_not_count():
    model = small(1).fit(WALK)
    loss = model.model_.loss_function
    prediction, target = RNG.normal(size=(2, 12, 3, 2))
    value, gradient = loss(prediction, target)
    assert value == pytest.approx(np.mean((prediction - target)[3:] ** 2))
    assert not gradient[:3].any()
    assert gradient[3:].all()
    target[:3] = np.nan
    assert loss(prediction, target).value == value


def test_validation_leaves_out_what_it_judges():
    model = small(2, validation_fraction=0.25, patience=1, epochs=3).fit(WALK)
    assert len(model.history_.validation_loss) == len(model.history_.loss)
    data = model._data(*_prepared(model, WALK, None))
    training, held_out = model._split(data, 0.25, None)
    # The first step that is judged is the one after the warm-up of 3 and one more to forecast from.
    judged = held_out.windows.starts[0] + 3 + 1
    assert training.windows.starts[-1] + 12 + 2 - 1 == judged - 1
    assert held_out.windows.starts[-1] == 120 - 14
    with pytest.raises(ValueError, match="validation_fraction: expected one that leaves a window of 14 steps before"):
        small(2, validation_fraction=0.9).fit(WALK[:30])


def test_an_epoch_has_every_window_once_in_batches_of_one_size():
    model = small(1).fit(WALK)
    data = model._data(*_prepared(model, WALK, None))
    batches = WindowBatches(data.windows, 12, 32, np.random.default_rng(0))
    sizes, firsts = [], []
    for batch in batches:
        sizes.append(batch.x.shape[1])
        firsts.extend(batch.x[0, :, 0])
    assert len(sizes) == len(batches) == 4
    assert max(sizes) - min(sizes) <= 1
    scaled = model.scaler_.scale(WALK, np.float64)[: 120 - 12, 0]
    assert sorted(firsts) == sorted(scaled)
    assert firsts != list(scaled)


# Forms, scales, parameters.


@both
def test_units_come_back(strategy):
    model = small(strategy=strategy).fit(WALK)
    shifted = small(strategy=strategy).fit(1000.0 * WALK - 7e4)
    np.testing.assert_allclose(shifted.predict(), 1000.0 * model.predict() - 7e4, rtol=1e-9)


@both
def test_forms(strategy):
    flat = small(strategy=strategy).fit(WALK[:, 0])
    column = small(strategy=strategy).fit(WALK[:, :1])
    assert flat.predict().shape == (4,)
    assert column.predict().shape == (4, 1)
    assert np.array_equal(flat.predict(), column.predict()[:, 0])
    assert flat.predict_all(WALK[:, 0]).shape == (120, 4)
    assert flat.predict_all(WALK[:, :1]).shape == (120, 4, 1)
    assert flat.predict(list(WALK[:9, 0])).shape == (4,)  # a list of numbers is one series
    assert flat.predict(WALK[:9, 0].astype(np.float32)).dtype == np.float64
    integers = small(strategy=strategy).fit(np.arange(60) % 7)
    assert integers.predict().shape == (4,)


@both
def test_a_list_of_series(strategy):
    series, known = [WALK[:50], WALK[50:80], WALK[80:]], [KNOWN[:50], KNOWN[50:80], KNOWN[80:120]]
    model = small(strategy=strategy).fit(series, exogenous=known)
    ahead = [KNOWN[50:54], KNOWN[80:84], KNOWN[120:124]]
    said = model.predict(future_exogenous=ahead)
    assert isinstance(said, list)
    assert [one.shape for one in said] == [(4, 2)] * 3
    for one, other, later, forecast in zip(series, known, ahead, said, strict=True):
        assert np.array_equal(model.predict(one, exogenous=other, future_exogenous=later), forecast)
    everywhere = model.predict_all(series, exogenous=known)
    assert [one.shape for one in everywhere] == [(50, 4, 2), (30, 4, 2), (40, 4, 2)]
    assert 0 < model.score(series, exogenous=known) <= 1
    mixed = small(strategy=strategy).fit([WALK[:50, 0], WALK[50:, :1]])
    assert [one.shape for one in mixed.predict()] == [(4,), (4, 1)]


@both
def test_forecasts_that_are_not_known_are_nan(strategy):
    model = small(strategy=strategy).fit(WALK, exogenous=KNOWN[:120])
    whole = model.predict_all(WALK, exogenous=KNOWN[:124])
    assert np.isfinite(whole).all()
    for more in (0, 2):
        said = model.predict_all(WALK, exogenous=KNOWN[: 120 + more])
        read = np.arange(120)[:, None] + (np.arange(1, 5) if strategy == "recursive" else np.full(4, 4))
        missing = read >= 120 + more
        assert np.array_equal(np.isnan(said), np.repeat(missing[:, :, None], 2, axis=2))
        assert np.array_equal(said[~missing], whole[~missing])


def test_what_is_set_after_a_fit_counts_from_the_next_one_on():
    model = small().fit(WALK)
    said, everywhere, score = model.predict(), model.predict_all(WALK), model.score(WALK)
    model.set_params(horizon=2, strategy="recursive", window=40, difference=False, scale=False, dtype="float32")
    assert np.array_equal(model.predict(), said)
    assert np.array_equal(model.predict_all(WALK), everywhere)
    assert model.score(WALK) == score
    assert model.fit(WALK).predict().shape == (2, 2)


def test_the_same_seed_gives_the_same_bits():
    one, two, other = (small(random_state=seed).fit(WALK).predict() for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_score_is_r2_after_the_warm_up():
    metrics = pytest.importorskip("sklearn.metrics")
    model = small(3).fit(WALK)
    said = model.predict_all(WALK)
    pairs = [(WALK[t + j], said[t, j - 1]) for t in range(3, 120) for j in (1, 2, 3) if t + j < 120]
    came, forecast = (np.array(part) for part in zip(*pairs, strict=True))
    assert model.score(WALK) == pytest.approx(metrics.r2_score(came, forecast), rel=1e-12)
    # A constant that is not forecast exactly counts 0, as in scikit-learn.
    flat = WALK.copy()
    flat[:, 1] = 5.0
    first = model.predict_all(flat)
    assert not np.array_equal(first[50, 0, 1], 5.0)
    only = [(flat[t + j, 0], first[t, j - 1, 0]) for t in range(3, 120) for j in (1, 2, 3) if t + j < 120]
    assert model.score(flat) == pytest.approx(metrics.r2_score(*zip(*only, strict=True)) / 2, rel=1e-9)


def test_partial_fit_goes_on_epoch_by_epoch():
    parts = WALK[:60], WALK[60:]
    one, two = small(), small()
    for part in parts:
        one.partial_fit(part)
        assert np.array_equal(one.predict(), one.predict(part))
    for part in parts:
        two.partial_fit(part)
    assert np.array_equal(one.predict(), two.predict())
    assert len(one.history_.loss) == 2
    np.testing.assert_array_equal(one.scaler_.mean, parts[0].mean(axis=0))
    with pytest.raises(ValueError, match="has 1 features, but LSTMForecaster is expecting 2"):
        one.partial_fit(WALK[:, :1])
    assert len(one.history_.loss) == 2


# What it refuses.


def test_too_short():
    with pytest.raises(ValueError, match=r"X: expected at least 16 steps \(a window of 12 and 4 ahead of it\), got 15"):
        small().fit(WALK[:15])
    small().fit(WALK[:16])
    with pytest.raises(ValueError, match=r"X: expected at least 13 steps \(a window of 12 and 1 ahead of it\), got 12"):
        small(strategy="recursive").fit(WALK[:12])
    small(strategy="recursive").fit(WALK[:13])
    with pytest.raises(ValueError, match=r"X: expected at least 16 steps .* got 10 in series 1"):
        small().fit([WALK, WALK[:10]])
    model = small().fit(WALK)
    assert model.predict(WALK[:1]).shape == (4, 2)
    with pytest.raises(ValueError, match=r"X: expected at least 5 steps \(3 of a warm-up, .*\), got 4"):
        model.score(WALK[:4])
    assert model.score(WALK[:5]) <= 1
    known = small().fit(WALK, exogenous=KNOWN[:120])
    with pytest.raises(ValueError, match=r"X: expected at least 8 steps \(3 of a warm-up, .*\), got 7"):
        known.score(WALK[:7], exogenous=KNOWN[:7])
    assert known.score(WALK[:8], exogenous=KNOWN[:8]) <= 1
    with pytest.raises(ValueError, match=r"X: expected at least 16 steps"):
        model.partial_fit(WALK[:15])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gaps(value):
    broken, gap = WALK.copy(), KNOWN[:120].copy()
    broken[17, 1] = gap[5, 2] = value
    what = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(ValueError, match=f"X contains {what} at step 17, feature 1; lstm_rs does not fill gaps"):
        small().fit(broken)
    with pytest.raises(ValueError, match=f"X: series 1 contains {what} at step 17, feature 1"):
        small().fit([WALK, broken])
    with pytest.raises(ValueError, match=f"exogenous contains {what} at step 5, feature 2"):
        small().fit(WALK, exogenous=gap)
    model = small().fit(WALK)
    for method in (model.predict, model.predict_all, model.score):
        with pytest.raises(ValueError, match=f"X contains {what} at step 17, feature 1"):
            method(broken)


def test_other_columns_than_in_fit():
    model = small().fit(WALK)
    for method in (model.predict, model.predict_all, model.score):
        with pytest.raises(ValueError, match="X has 3 features, but LSTMForecaster is expecting 2 features"):
            method(np.zeros((20, 3)))
        with pytest.raises(ValueError, match=r"X: expected 2 features, as in fit, got shape \(20,\)"):
            method(np.zeros(20))
    with pytest.raises(ValueError, match="X: expected 2 features in every series, as in the first, got 1 in series 1"):
        small().fit([WALK, WALK[:, :1]])
    with pytest.raises(ValueError, match=r"give list\(X\)"):
        small().fit(WALK[None])
    with pytest.raises(ValueError, match="X: expected at least 1 series, got an empty list"):
        small().fit([])
    with pytest.raises(TypeError, match="X: expected numbers"):
        small().fit(np.array(["a"] * 50))


@both
def test_exogenous_columns_that_do_not_fit(strategy):
    with pytest.raises(ValueError, match="exogenous: expected 120 rows, one for each step, got 119"):
        small(strategy=strategy).fit(WALK, exogenous=KNOWN[:119])
    with pytest.raises(ValueError, match="exogenous: expected 120 rows, one for each step, got 140"):
        small(strategy=strategy).fit(WALK, exogenous=KNOWN)
    with pytest.raises(ValueError, match="exogenous: expected one array, as X is one series, got a list of 1"):
        small(strategy=strategy).fit(WALK, exogenous=[KNOWN[:120]])
    with pytest.raises(ValueError, match="exogenous: expected a list of 2, one for each series, got a list of 1"):
        small(strategy=strategy).fit([WALK, WALK], exogenous=[KNOWN[:120]])
    with pytest.raises(ValueError, match="exogenous: expected 60 rows for series 1, one for each step, got 50"):
        small(strategy=strategy).fit([WALK, WALK[:60]], exogenous=[KNOWN[:120], KNOWN[:50]])
    model = small(strategy=strategy).fit(WALK, exogenous=KNOWN[:120])
    assert model.n_exogenous_ == 3
    with pytest.raises(ValueError, match=r"future_exogenous: expected 3 columns for 4 steps, as fit had .* got None"):
        model.predict()
    with pytest.raises(ValueError, match="future_exogenous: expected at least 4 rows"):
        model.predict(future_exogenous=KNOWN[:3])
    assert np.array_equal(model.predict(future_exogenous=KNOWN[:4]), model.predict(future_exogenous=KNOWN[:9]))
    with pytest.raises(ValueError, match="future_exogenous has 2 features, but LSTMForecaster is expecting 3"):
        model.predict(future_exogenous=KNOWN[:4, :2])
    with pytest.raises(ValueError, match=r"exogenous: expected 3 columns for 120 steps, as fit had .* got None"):
        model.predict(WALK, future_exogenous=KNOWN[:4])
    with pytest.raises(ValueError, match="exogenous: expected 120 rows, one for each step, got 121"):
        model.predict(WALK, exogenous=KNOWN[:121], future_exogenous=KNOWN[:4])
    with pytest.raises(ValueError, match="exogenous: expected it with X"):
        model.predict(exogenous=KNOWN[:120], future_exogenous=KNOWN[:4])
    with pytest.raises(ValueError, match="exogenous: expected 120 to 124 rows, one for each step, got 125"):
        model.predict_all(WALK, exogenous=KNOWN[:125])
    with pytest.raises(ValueError, match="exogenous: expected 120 to 124 rows, one for each step, got 119"):
        model.score(WALK, exogenous=KNOWN[:119])
    none = small(strategy=strategy).fit(WALK)
    with pytest.raises(ValueError, match="future_exogenous: expected None, as there were no exogenous columns in fit"):
        none.predict(future_exogenous=KNOWN[:4])
    with pytest.raises(ValueError, match="exogenous: values that are too large for float32"):
        small(strategy=strategy, dtype="float32", scale=False).fit(WALK, exogenous=KNOWN[:120] * 1e300)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"horizon": 0}, ValueError, "horizon: expected at least 1, got 0"),
        ({"horizon": 2.5}, TypeError, "horizon: expected an int, got 2.5"),
        ({"strategy": "both"}, ValueError, "strategy: expected one of 'direct', 'recursive', got 'both'"),
        ({"window": 1}, ValueError, "window: expected at least 2, got 1"),
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"difference": 1}, TypeError, "difference: expected a bool, got 1"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
    ],
)
def test_parameters_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        LSTMForecaster(**options).fit(WALK)


@pytest.mark.parametrize("method", ["predict", "predict_all", "score"])
def test_not_fitted(method):
    with pytest.raises(ValueError, match=f"LSTMForecaster.{method}: this estimator is not fitted yet"):
        getattr(small(), method)(WALK)


# Files, Ctrl-C.


@both
@pytest.mark.parametrize("known", [None, KNOWN[:120]])
def test_files(strategy, known, tmp_path):
    pytest.importorskip("safetensors")
    given = {} if known is None else {"exogenous": [known, known[:80]]}
    model = small(strategy=strategy, dtype="float32").fit([WALK, WALK[:80]], **given)
    model.save(tmp_path / "model.safetensors")
    again = LSTMForecaster.load(tmp_path / "model.safetensors")
    ahead = None if known is None else [KNOWN[:4], KNOWN[4:8]]
    for one, two in zip(again.predict(future_exogenous=ahead), model.predict(future_exogenous=ahead), strict=True):
        assert np.array_equal(one, two)
    assert again.get_params() == model.get_params()
    given = {} if known is None else {"exogenous": known}
    assert np.array_equal(again.predict_all(WALK, **given), model.predict_all(WALK, **given), equal_nan=True)
    again.partial_fit(WALK, **given)
    model.partial_fit(WALK, **given)
    assert np.array_equal(again.predict_all(WALK, **given), model.predict_all(WALK, **given), equal_nan=True)


def test_a_resumed_fit_ends_in_the_same_bits(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    path = tmp_path / "checkpoint.safetensors"
    options = {"epochs": 6, "num_layers": 2, "dropout": 0.2, "validation_fraction": 0.2}
    whole = small(**options).fit(WALK)
    stopped = small(**options, checkpoint=path)
    iterate, epochs = WindowBatches.__iter__, []

    def interrupted(self):
        epochs.append(self.rng is not None)
        for k, batch in enumerate(iterate(self)):
            if sum(epochs) == 4 and self.rng is not None and k == 1:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(WindowBatches, "__iter__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(WALK)
    assert len(stopped.history_.loss) == 3
    assert stopped.predict().shape == (4, 2)
    assert not np.array_equal(stopped.predict(), whole.predict())
    resumed = small(epochs=6, num_layers=2, dropout=0.2, validation_fraction=0.2, checkpoint=path, resume=True).fit(
        WALK
    )
    assert np.array_equal(resumed.predict(), whole.predict())
    assert resumed.history_.step_loss == whole.history_.step_loss


# scikit-learn.


def test_searches_over_time():
    selection = pytest.importorskip("sklearn.model_selection")
    series = np.sin(np.arange(200) / 4)
    folds = selection.TimeSeriesSplit(3)
    options = {"window": 16, "hidden_size": 8, "epochs": 15, "learning_rate": 0.02, "random_state": 0}
    scores = selection.cross_val_score(LSTMForecaster(2, **options), series, cv=folds)
    assert scores.shape == (3,)
    assert scores.min() > 0.9
    search = selection.GridSearchCV(LSTMForecaster(2, **options), {"epochs": [1, 15], "window": [16]}, cv=folds)
    search.fit(series)
    assert search.best_params_ == {"epochs": 15, "window": 16}
    assert search.predict(series).shape == (2,)


APART = {
    "check_methods_sample_order_invariance": "the order of steps is what a forecast is made of",
    "check_methods_subset_invariance": "a forecast goes on from the last step alone",
    "check_fit2d_1sample": "it wants '1 sample'; a row is a step, and the message has how many are needed",
    "check_fit1d": "a series may have one axis",
}
"""Checks of scikit-learn that cannot apply to one series, and why."""


def sklearn_checks():
    checks = pytest.importorskip("sklearn.utils.estimator_checks", minversion=None)
    model = LSTMForecaster(window=4, hidden_size=4, epochs=1)
    with pytest.warns(UserWarning, match="does not inherit from `sklearn.base.BaseEstimator`"):
        return list(checks.estimator_checks_generator(model, legacy=True))


def test_sklearn_checks():
    from unittest import SkipTest

    passed = set()
    for estimator, check in sklearn_checks():
        name = getattr(check.func, "func", check.func).__name__
        if name in APART:
            with pytest.raises((AssertionError, ValueError, IndexError)):
                check(estimator)
            continue
        try:
            check(estimator)
            passed.add(name)
        except SkipTest as reason:
            assert name == "check_array_api_input", reason
    assert len(passed) > 25
    assert passed.isdisjoint(APART)


# How well.


@both
def test_what_is_known_ahead_is_used(strategy):
    rng = np.random.default_rng(1)
    known, noise = rng.normal(size=604), 0.1 * rng.normal(size=600)
    series = np.zeros(600)
    for t in range(1, 600):
        series[t] = 0.6 * series[t - 1] + known[t] + noise[t]
    options = {"strategy": strategy, "window": 16, "hidden_size": 16, "learning_rate": 0.01, "random_state": 0}
    with_it = LSTMForecaster(4, **options).fit(series[:450], exogenous=known[:450])
    without = LSTMForecaster(4, **options).fit(series[:450])
    good = with_it.score(series[450:], exogenous=known[450:600])
    poor = without.score(series[450:])
    assert good > 0.9
    assert poor < 0.4
    # A row too early, and most of it is lost.
    assert with_it.score(series[450:], exogenous=known[449:599]) < 0.4


def test_a_drift_needs_differences():
    rng = np.random.default_rng(2)
    series = 0.05 * np.arange(400) + np.sin(np.arange(400) / 5) + 0.1 * rng.normal(size=400)
    errors = []
    for difference in (True, False):
        model = LSTMForecaster(window=32, difference=difference, epochs=10, random_state=0).fit(series[:300])
        errors.append(np.abs(model.predict_all(series)[299:-1, 0] - series[300:]).mean())
    assert errors[0] < 0.2
    assert errors[1] > 1.0


YEARS, NUMBERS = load_sunspots()
ROOTS = np.sqrt(NUMBERS)
END = int(np.searchsorted(YEARS, 1920))
DEMO = {"window": 44, "difference": False, "epochs": 8, "batch_size": 16, "learning_rate": 0.01, "schedule": "linear"}
"""The recipe of ``python -m lstm_rs demo``."""


def rmse(forecast, rows, horizon):
    came = np.stack([NUMBERS[rows + j] for j in range(1, horizon + 1)], axis=1)
    return float(np.sqrt(np.mean((forecast - came) ** 2)))


@pytest.mark.parametrize("seed", range(5))
def test_sunspots_one_year_ahead(seed):
    model = LSTMForecaster(**DEMO, random_state=seed).fit(ROOTS[:END])
    rows = np.arange(END - 1, len(NUMBERS) - 1)
    forecast = np.maximum(model.predict_all(ROOTS), 0) ** 2
    assert rmse(forecast[rows], rows, 1) <= 0.65 * rmse(NUMBERS[rows, None], rows, 1)


@both
@pytest.mark.parametrize("seed", range(5))
def test_sunspots_eleven_years_ahead(strategy, seed):
    model = LSTMForecaster(11, strategy=strategy, **DEMO, random_state=seed).fit(ROOTS[:END])
    rows = np.arange(END - 1, len(NUMBERS) - 11)
    forecast = np.maximum(model.predict_all(ROOTS), 0) ** 2
    assert forecast.shape == (len(NUMBERS), 11)
    assert rmse(forecast[rows], rows, 11) <= 0.8 * rmse(NUMBERS[rows, None], rows, 11)
