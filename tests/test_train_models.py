"""Models: their gradients by differences, what they predict, and what they refuse."""

from functools import partial

import numpy as np
import pytest
from lstm_rs import LSTM, CellSpec, train

STEPS, BATCH, FEATURES = 5, 3, 2
LENGTHS = np.array([5, 2, 4])
LAYERS = {
    "plain": {},
    "stacked": {"num_layers": 2},
    "both ways": {"num_layers": 2, "bidirectional": True},
    "projected": {"proj_size": 3, "bidirectional": True},
    "peephole": {"cell": CellSpec.peephole_lstm()},
    "no bias": {"bias": False},
}


def width(lstm):
    return (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)


def predictor(layers, loss=train.mse, per_step=False, outputs=2, dtype=np.float64, seed=0):
    options = LAYERS[layers] if isinstance(layers, str) else layers
    lstm = LSTM(FEATURES, 4, **options, dtype=dtype, seed=seed)
    return train.Predictor(lstm, train.Linear(width(lstm), outputs, dtype=dtype, seed=seed), loss, per_step=per_step)


def autoencoder(layers, dtype=np.float64, **options):
    rng = np.random.default_rng(0)
    encoder = LSTM(FEATURES, 4, **LAYERS[layers], dtype=dtype, seed=rng)
    to_latent = train.Linear(width(encoder), 3, dtype=dtype, seed=rng)
    decoder = LSTM(3, 5, **LAYERS[layers], dtype=dtype, seed=rng)
    to_output = train.Linear(width(decoder), FEATURES, dtype=dtype, seed=rng)
    return train.Autoencoder(encoder, to_latent, decoder, to_output, **options)


def batch(per_step=False, ragged=True, classes=False, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS, BATCH, FEATURES)).astype(dtype)
    shape = (STEPS, BATCH) if per_step else (BATCH,)
    target = rng.integers(0, 2, shape) if classes else rng.normal(size=(*shape, 2))
    if ragged:
        ended = np.arange(STEPS)[:, None] >= LENGTHS
        x[ended] = np.nan
        if per_step and not classes:
            target[ended] = np.nan
    return train.Batch(x, target, LENGTHS if ragged else None)


def check_gradients(model, given, run=None):
    """The gradients of all weights, each by differences; `run` is the loss that they are of."""
    run = run or model.loss
    value, gradients = model.loss_and_gradients(given)
    assert list(gradients) == list(model.modules)
    assert value == run(given)
    step = 1e-6
    for name, module in model.modules.items():
        assert gradients[name].keys() == module.weights.keys()
        for key, array in module.weights.items():
            estimate = np.zeros(array.shape)
            for index in np.ndindex(array.shape):
                values = []
                for sign in (1, -1):
                    with module.edit() as w:
                        w[key][index] += sign * step
                    values.append(run(given))
                    with module.edit() as w:
                        w[key][index] = array[index]
                estimate[index] = (values[0] - values[1]) / (2 * step)
            assert np.abs(estimate).max() > 1e-5
            np.testing.assert_allclose(gradients[name][key], estimate, atol=1e-8, err_msg=f"{name} {key}")


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
def test_predictor_gradients(layers, per_step, ragged):
    check_gradients(predictor(layers, per_step=per_step), batch(per_step, ragged))


@pytest.mark.parametrize("per_step", [False, True])
def test_classifier_gradients(per_step):
    loss = partial(train.cross_entropy, label_smoothing=0.1)
    check_gradients(predictor("stacked", loss, per_step), batch(per_step, classes=True))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
def test_autoencoder_gradients(layers, ragged):
    check_gradients(autoencoder(layers), batch(ragged=ragged))


def test_gradients_of_a_stretch_hold_the_state_that_comes_in():
    model = predictor("stacked", per_step=True)
    first, second = batch(per_step=True), batch(per_step=True, seed=1)._replace(carry=True)
    model.loss(first)
    before = model._state

    def run(given):
        model._state = before
        return model.loss(given)

    whole = predictor("stacked", per_step=True)
    whole.loss(second._replace(carry=False))
    assert whole._state.h.tolist() != (run(second), model._state.h.tolist())[1]
    model._state = before
    check_gradients(model, second, run)


def test_dropout_in_training_alone():
    model = predictor({"num_layers": 2, "dropout": 0.5})
    given = batch()
    assert model.loss(given) == model.loss(given)
    losses = {model.loss_and_gradients(given)[0] for _ in range(5)}
    assert len(losses) > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
def test_what_a_predictor_says(layers, per_step, dtype):
    model = predictor(layers, per_step=per_step, dtype=dtype)
    given = batch(per_step, dtype=dtype)
    out = model(given.x, LENGTHS)
    assert out.shape == ((STEPS, BATCH, 2) if per_step else (BATCH, 2))
    assert out.dtype == dtype
    for n, length in enumerate(LENGTHS):
        y, state = model.lstm(given.x[:length, n])
        if per_step:
            assert np.array_equal(out[:length, n], model.linear(y))
        else:
            directions = 2 if model.lstm.bidirectional else 1
            assert np.array_equal(out[n], model.linear(np.concatenate(state.h[-directions:])))
    loss, gradients = model.loss_and_gradients(given)
    assert loss == model.loss(given)
    assert {array.dtype for arrays in gradients.values() for array in arrays.values()} == {np.dtype(dtype)}
    assert loss == model.loss_function(out, given.target, **({"lengths": LENGTHS} if per_step else {})).value


@pytest.mark.parametrize("layers", LAYERS)
def test_what_an_autoencoder_says(layers):
    model, given = autoencoder(layers, np.float32), batch(dtype=np.float32)
    latent, again = model.encode(given.x, LENGTHS), model(given.x, LENGTHS)
    assert latent.shape == (BATCH, 3)
    assert again.shape == given.x.shape
    assert np.array_equal(again, model.decode(latent, STEPS, LENGTHS))
    for n, length in enumerate(LENGTHS):
        alone = given.x[:length, n : n + 1]
        assert np.array_equal(model.encode(alone)[0], latent[n])
        assert np.array_equal(model(alone)[:, 0], again[:length, n])
    # It says them from the latent alone.
    y, _ = model.decoder(np.repeat(latent[None], STEPS, axis=0), None, LENGTHS)
    assert np.array_equal(model.to_output(y), again)
    assert model.loss(given) == train.mse(again, given.x, lengths=LENGTHS).value
    assert autoencoder(layers, np.float32, loss=train.mae).loss(given) == train.mae(again, given.x, lengths=LENGTHS)[0]


def test_order_of_modules():
    assert list(predictor("plain").modules) == ["lstm", "linear"]
    assert list(autoencoder("plain").modules) == ["encoder", "to_latent", "decoder", "to_output"]


LSTM4, LINEAR4 = LSTM(2, 4, seed=0), train.Linear(4, 2, seed=0)


def parts(**changed):
    given = {"encoder": LSTM4, "to_latent": train.Linear(4, 3), "decoder": LSTM(3, 4), "to_output": LINEAR4}
    return train.Autoencoder(**{**given, **changed})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.Predictor(LINEAR4, LINEAR4, train.mse), TypeError, "lstm: expected an lstm_rs.LSTM, got Linear"),
        (lambda: train.Predictor(LSTM4, LSTM4, train.mse), TypeError, "linear: expected a Linear, got LSTM"),
        (lambda: train.Predictor(LSTM4, LINEAR4, "mse"), TypeError, "loss: expected a function.*got 'mse'"),
        (
            lambda: train.Predictor(LSTM(2, 4, batch_first=True), LINEAR4, train.mse),
            ValueError,
            "lstm: expected batch_first=False",
        ),
        (
            lambda: train.Predictor(LSTM(2, 4, bidirectional=True), LINEAR4, train.mse),
            ValueError,
            "linear: expected in_features 8, as lstm gives, got 4",
        ),
        (
            lambda: train.Predictor(LSTM4, train.Linear(4, 2, dtype=np.float64), train.mse),
            TypeError,
            "linear: expected float32, as lstm is, got float64",
        ),
        (lambda: parts(decoder=LSTM(5, 4)), ValueError, "decoder: expected input_size 3, as to_latent gives, got 5"),
        (
            lambda: parts(to_output=train.Linear(4, 5)),
            ValueError,
            "to_output: expected out_features 2, as encoder reads, got 5",
        ),
        (lambda: parts(to_latent=train.Linear(5, 3)), ValueError, "to_latent: expected in_features 4"),
        (
            lambda: parts().loss(batch(dtype=np.float32)._replace(carry=True)),
            ValueError,
            "batch.carry: an autoencoder needs whole sequences",
        ),
        (
            lambda: predictor("plain").loss(batch()._replace(carry=True)),
            ValueError,
            "batch.carry: expected False for the first batch",
        ),
        (
            lambda: predictor("both ways").loss(batch()._replace(carry=True)),
            ValueError,
            "batch.carry: the second direction starts from the end",
        ),
        (lambda: predictor("plain").loss(batch()._replace(target=None)), ValueError, "batch.target: expected an array"),
        (lambda: predictor("plain")(batch(ragged=False).x.astype(np.float32)), TypeError, "x: expected float64"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
