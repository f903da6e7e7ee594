"""Pictures of forecasts, anomalies and trainings."""

import numpy as np
import pytest
from lstm_rs import plot
from lstm_rs.train import History

WAVE = np.sin(np.arange(40) / 3)


def axes():
    return pytest.importorskip("matplotlib.figure").Figure(layout="constrained").subplots()


def lines(drawn):
    return {line.get_label(): line for line in drawn.get_lines()}


def legend(drawn):
    return [text.get_text() for text in drawn.get_legend().get_texts()]


def spans(drawn):
    """From where to where each span reaches, in the units of the time axis."""
    to_data = drawn.transData.inverted()
    boxes = [patch.get_window_extent().transformed(to_data) for patch in drawn.patches]
    return [(box.x0, box.x1) for box in boxes]


def test_a_forecast_follows_its_history():
    drawn = plot.forecast(WAVE[:30], WAVE[30:] + 0.1, truth=WAVE[30:38], ax=axes())
    shown = lines(drawn)
    np.testing.assert_array_equal(shown["true value"].get_xdata(), np.arange(38))
    np.testing.assert_array_equal(shown["true value"].get_ydata(), WAVE[:38])
    np.testing.assert_array_equal(shown["forecast"].get_xdata(), np.arange(30, 40))
    np.testing.assert_array_equal(shown["forecast"].get_ydata(), WAVE[30:] + 0.1)
    assert shown["_end of history"].get_xdata()[0] == 29.5
    assert legend(drawn) == ["true value", "forecast"]
    assert drawn.get_xlabel() == "step $t$"
    assert drawn.get_xlim() == pytest.approx((-0.5, 39.5))


def test_forecasts_of_known_steps():
    guess = np.full(39, 0.5)
    guess[:3] = np.nan
    drawn = plot.forecast(WAVE[:30, None], guess, truth=WAVE[30:], start=1, times=1900 + np.arange(40), ax=axes())
    shown = lines(drawn)
    np.testing.assert_array_equal(shown["forecast"].get_xdata(), np.arange(1901, 1940))
    np.testing.assert_array_equal(shown["forecast"].get_ydata(), guess)
    assert shown["_end of history"].get_xdata()[0] == 1929.5


def test_without_truth_the_history_is_called_so():
    drawn = plot.forecast(WAVE, WAVE[:5], sides=("seen", "to come"), ax=axes())
    assert legend(drawn) == ["history", "forecast"]
    assert [text.get_text() for text in drawn.texts] == ["seen", "to come"]
    drawn.figure.draw_without_rendering()
    left, right = (text.get_window_extent() for text in drawn.texts)
    line = drawn.transData.transform((39.5, 0))[0]
    assert left.x1 < line < right.x0
    # Above the lines, not over them.
    assert min(left.y0, right.y0) > drawn.transData.transform((0, WAVE.max()))[1]


def test_a_forecast_over_dates():
    days = np.datetime64("2024-01-30") + np.arange(45)
    drawn = plot.forecast(WAVE, WAVE[:5], times=days, ax=axes())
    drawn.figure.draw_without_rendering()
    assert any("2024" in label.get_text() for label in drawn.get_xticklabels())


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((np.zeros((9, 2)), WAVE), {}, ValueError, r"history: expected one column, \(T,\), got shape \(9, 2\)"),
        ((WAVE, np.zeros((9, 2))), {}, ValueError, "prediction: expected one column"),
        ((WAVE, WAVE), {"truth": np.zeros((9, 2))}, ValueError, "truth: expected one column"),
        ((WAVE, WAVE), {"times": np.arange(40)}, ValueError, r"times: expected \(80,\), one for each step"),
        (
            (WAVE, WAVE),
            {"start": 41},
            ValueError,
            "start: expected 0 to 40, a step of history or the one after it, got 41",
        ),
        ((WAVE, WAVE), {"start": 1.5}, TypeError, "start: expected an int, got float"),
        ((WAVE, WAVE), {"sides": "ab"}, TypeError, "sides: expected two strings, got 'ab'"),
        (([], []), {}, ValueError, "history: expected at least one step"),
    ],
)
def test_wrong_forecasts_get_a_sentence(arguments, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        plot.forecast(*arguments, ax=axes(), **options)


def test_scores_stand_below_their_series():
    score = np.abs(WAVE)
    score[:5] = np.nan
    top, below = plot.anomaly(WAVE, score, threshold=0.9, spans=[(10, 12), (30, 30)], ax=axes())
    np.testing.assert_array_equal(top.get_lines()[0].get_ydata(), WAVE)
    np.testing.assert_array_equal(lines(below)["score"].get_ydata(), score)
    assert lines(below)["threshold"].get_ydata() == [0.9, 0.9]
    assert legend(below) == ["score", "threshold", "alarm", "known anomaly"]
    for panel in (top, below):
        # Both ends belong to a span.
        assert spans(panel) == [pytest.approx((9.5, 12.5)), pytest.approx((29.5, 30.5))]
        assert panel.get_xlim() == (-0.5, 39.5)
    # Alarms are where the score is above the threshold, and nowhere else.
    (alarm,) = below.collections
    vertices = np.concatenate([path.vertices for path in alarm.get_paths()])
    assert vertices[:, 1].min() == pytest.approx(0.9)
    steps = np.flatnonzero(np.nan_to_num(score) > 0.9)
    assert set(steps) <= {round(x) for x in vertices[:, 0]}
    assert all(np.min(np.abs(steps - x)) < 1 for x in vertices[:, 0])


def test_spans_are_in_the_times_given():
    times = np.arange(4000, 4040)
    top, _ = plot.anomaly(WAVE, WAVE, spans=np.array([[4010, 4011]]), times=times, ax=axes())
    assert spans(top) == [pytest.approx((4009.5, 4011.5))]
    days = np.datetime64("2024-01-30") + np.arange(40)
    top, below = plot.anomaly(WAVE, WAVE, spans=[(days[3], days[4])], times=days, ax=axes())
    ((first, last),) = spans(top)
    assert last - first == pytest.approx(2.0)
    assert legend(below) == ["score", "known anomaly"]


def test_many_columns_are_a_map():
    many = np.stack([WAVE * k for k in range(9)], axis=1)
    top, _ = plot.anomaly(many, WAVE, ax=axes())
    np.testing.assert_array_equal(top.get_images()[0].get_array().T, many)
    top, _ = plot.anomaly(many[:, :4], WAVE, ax=axes())
    assert len(top.get_lines()) == 4


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((WAVE, WAVE[1:]), {}, "scores: expected 40, one for each step of the series, got 39"),
        ((WAVE, np.zeros((40, 2))), {}, r"scores: expected one column, \(T,\), got shape \(40, 2\)"),
        ((np.zeros((3, 4, 5)), WAVE), {}, r"series: expected \(T,\) or \(T, F\) with at least one step, got shape"),
        (([], []), {}, r"series: expected \(T,\) or \(T, F\) with at least one step, got shape \(0,\)"),
        ((WAVE, WAVE), {"spans": [(5, 3)]}, r"spans: expected pairs of a first and a last step, got \(5, 3\)"),
        ((WAVE, WAVE), {"spans": [(1, 2, 3)]}, "spans: expected pairs of a first and a last step"),
    ],
)
def test_wrong_anomalies_get_a_sentence(arguments, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plot.anomaly(*arguments, ax=axes(), **options)


def test_losses_by_epoch():
    history = History(loss=[9.0, 3.0, 0.5], validation_loss=[9.5, 4.0, 4.5], best_epoch=1)
    drawn = plot.history(history, ax=axes())
    shown = lines(drawn)
    np.testing.assert_array_equal(shown["training"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(shown["training"].get_ydata(), history.loss)
    np.testing.assert_array_equal(shown["validation"].get_ydata(), history.validation_loss)
    # Epochs count from 1 in a picture, from 0 in a history.
    assert shown["best: epoch 2"].get_xdata()[0] == 2
    assert drawn.get_yscale() == "log"
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("epoch", "loss")


def test_losses_without_validation_on_a_plain_scale():
    drawn = plot.history(type("Fitted", (), {"history_": History(loss=[2.0, 1.0])})(), ax=axes())
    assert legend(drawn) == ["training"]
    assert drawn.get_yscale() == "linear"
    drawn.figure.draw_without_rendering()
    assert all(float(label.get_text()).is_integer() for label in drawn.get_xticklabels())


def test_wrong_histories_get_a_sentence():
    with pytest.raises(
        TypeError, match=r"^history: expected a History of lstm_rs.train or a fitted estimator, got list$"
    ):
        plot.history([1.0, 2.0], ax=axes())
    with pytest.raises(ValueError, match=r"^history: expected at least one epoch, got none$"):
        plot.history(History(), ax=axes())


def test_spans_and_times_are_of_one_kind():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    days = np.datetime64("2024-01-01") + np.arange(20)
    wrong = [
        ({"times": days, "spans": [(3, 5)]}, "spans: expected datetime64, as the times are, got int64"),
        ({"spans": [(days[3], days[5])]}, "spans: expected numbers, as the times are, got datetime64"),
    ]
    for options, message in wrong:
        with pytest.raises(TypeError, match=message):
            plot.anomaly(np.arange(20.0), np.arange(20.0), ax=Figure(), **options)


def test_a_figure_without_a_layout_gets_one():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    bare, own = Figure(), Figure(layout="tight")
    for figure in (bare, own):
        plot.anomaly(np.arange(20.0), np.arange(20.0), ax=figure)
    assert type(bare.get_layout_engine()).__name__ == "ConstrainedLayoutEngine"
    assert type(own.get_layout_engine()).__name__ == "TightLayoutEngine"
