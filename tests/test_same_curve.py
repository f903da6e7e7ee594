"""Training here and in PyTorch: from the same weights, over the same batches, the same losses.

What `train.fit` runs, for itself or for an estimator, is recorded: the weights before the first batch, and each batch.
PyTorch then goes over the same batches in a loop of its own, with its own LSTM, loss, clipping and Adam, and its losses
are compared with those of the history, in float64. Its second bias stays 0: with two of them, the sum would take two of
Adam's steps.
"""

import numpy as np
import pytest
from lstm_rs import LSTM, estimators, to_torch, train
from lstm_rs.datasets import load_sunspots

torch = pytest.importorskip("torch")

STEPS, TOLERANCE = 100, 1e-6
RATE, NORM = 0.01, 0.5
LOSSES = {
    "mse": torch.nn.functional.mse_loss,
    "mae": torch.nn.functional.l1_loss,
    "huber": torch.nn.functional.huber_loss,
    "cross_entropy": torch.nn.functional.cross_entropy,
}


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads wait for each other longer than such small products take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Recorded:
    """Batches that remember what they gave, and the modules' twins in PyTorch from before the first."""

    def __init__(self, model, batches):
        self.batches, self.given = batches, []
        self.twins = {name: twin(module) for name, module in model.modules.items()}

    def __iter__(self):
        for batch in self.batches:
            self.given.append(batch)
            yield batch

    def __len__(self):
        return len(self.batches)

    @property
    def rng(self):
        return self.batches.rng


def twin(module):
    """The module in PyTorch, in float64."""
    if isinstance(module, LSTM):
        made = to_torch(module)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(not name.startswith("bias_hh"))
        assert made.weight_ih_l0.dtype == torch.float64
        return made
    made = torch.nn.Linear(module.in_features, module.out_features, dtype=torch.float64)
    made.load_state_dict({name: torch.from_numpy(array) for name, array in module.state_dict().items()})
    return made


def run(lstm, x, lengths, state=None):
    """All outputs (T, N, P), and the last layer's final hidden state (N, D*P)."""
    if lengths is None:
        y, (h, c) = lstm(x, state)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
        y, (h, c) = lstm(packed, state)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(x))
    directions = 2 if lstm.bidirectional else 1
    return y, torch.cat(list(h[-directions:]), dim=1), (h.detach(), c.detach())


def constant(step):
    return RATE


def cosine(steps):
    return lambda step: RATE * (1 + np.cos(np.pi * step / steps)) / 2


def curve(recorded, loss, *, per_step, skipped=0, rate=constant, weight_decay=None):
    """The losses of PyTorch over the recorded batches."""
    twins, state, losses = recorded.twins, None, []
    parameters = [
        parameter for module in twins.values() for parameter in module.parameters() if parameter.requires_grad
    ]
    adam = (
        torch.optim.Adam(parameters)
        if weight_decay is None
        else torch.optim.AdamW(parameters, weight_decay=weight_decay)
    )
    for step, batch in enumerate(recorded.given[:STEPS]):
        x = torch.from_numpy(batch.x)
        if "encoder" in twins:
            _, h, _ = run(twins["encoder"], x, batch.lengths)
            latent = twins["to_latent"](h)
            y, _, _ = run(twins["decoder"], latent.expand(len(x), *latent.shape), batch.lengths)
            out, target = twins["to_output"](y), x
        else:
            y, h, state = run(twins["lstm"], x, batch.lengths, state if batch.carry else None)
            out, target = twins["linear"](y if per_step else h), torch.from_numpy(np.asarray(batch.target))
        if per_step:
            # The steps that count, one after the other.
            t = np.arange(len(x))[:, None]
            counted = torch.from_numpy((t >= skipped) & (t < (len(x) if batch.lengths is None else batch.lengths)))
            counted = counted.expand(-1, x.shape[1])
            out, target = out[counted], target[counted]
        value = LOSSES[loss](out, target.reshape(out.shape) if loss != "cross_entropy" else target)
        losses.append(value.item())
        adam.param_groups[0]["lr"] = rate(step)
        adam.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, NORM)
        adam.step()
    return np.array(losses)


def check(ours, theirs):
    assert len(theirs) == STEPS and len(ours) >= STEPS
    # A curve that goes nowhere would prove little.
    assert np.ptp(theirs) > 0.1 * theirs[0]
    assert np.abs(np.array(ours[:STEPS]) - theirs).max() <= TOLERANCE


# ----------------------------- models


def ragged(rng, count, features, width, *, classes=False, per_step=False):
    """Sequences with something to learn in them, and targets: sums over the past, or which of them is largest."""
    sequences = [rng.normal(size=(steps, features)) for steps in rng.integers(3, 15, size=count)]
    mixed = rng.normal(size=(features, width))
    targets = []
    for sequence in sequences:
        sums = np.cumsum(sequence @ mixed, axis=0)
        values = sums.argmax(axis=1) if classes else 0.3 * sums
        targets.append(values if per_step else values[-1])
    return sequences, targets if per_step else np.array(targets)


def train_recorded(model, batches, rate=RATE):
    recorded, history = Recorded(model, batches), train.History()
    optimizer = train.Adam(list(model.modules.values()), rate)
    train.fit(model, recorded, optimizer, epochs=-(-STEPS // len(batches)), clip_norm=NORM, history=history)
    return recorded, history.step_loss


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("layers", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 5}])
def test_a_predictor(loss, per_step, layers):
    rng = np.random.default_rng(7)
    sequences, targets = ragged(rng, 60, 3, 4, classes=loss == "cross_entropy", per_step=per_step)
    lstm = LSTM(3, 9, **layers, dtype=np.float64, seed=rng)
    width = (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)
    function = {"huber": train.huber, "cross_entropy": train.cross_entropy}.get(loss) or getattr(train, loss)
    model = train.Predictor(lstm, train.Linear(width, 4, dtype=np.float64, seed=rng), function, per_step=per_step)
    batches = train.Batches(sequences, targets, batch_size=8, per_step=per_step, rng=rng)
    recorded, ours = train_recorded(model, batches)
    assert any(batch.lengths is not None for batch in recorded.given)
    check(ours, curve(recorded, loss, per_step=per_step))


def test_a_predictor_with_truncated_batches_and_a_schedule():
    rng = np.random.default_rng(7)
    x = np.cumsum(rng.normal(size=(6, 251, 2)), axis=1) / 10
    model = train.Predictor(
        LSTM(2, 8, dtype=np.float64, seed=rng), train.Linear(8, 2, dtype=np.float64, seed=rng), train.mse, per_step=True
    )
    schedule = train.cosine(RATE, STEPS)
    batches = train.TruncatedBatches(x[:, :-1], x[:, 1:], steps=10, batch_size=3)
    recorded, ours = Recorded(model, batches), train.History()
    train.fit(
        model, recorded, train.Adam(list(model.modules.values()), schedule), epochs=2, clip_norm=NORM, history=ours
    )
    assert sum(batch.carry for batch in recorded.given) == 96
    check(ours.step_loss, curve(recorded, "mse", per_step=True, rate=cosine(STEPS)))


def test_an_autoencoder():
    rng = np.random.default_rng(7)
    sequences, _ = ragged(rng, 60, 3, 1)
    sequences = [np.cumsum(sequence, axis=0) / 3 for sequence in sequences]
    model = train.Autoencoder(
        LSTM(3, 9, dtype=np.float64, seed=rng),
        train.Linear(9, 4, dtype=np.float64, seed=rng),
        LSTM(4, 7, dtype=np.float64, seed=rng),
        train.Linear(7, 3, dtype=np.float64, seed=rng),
    )
    recorded, ours = train_recorded(model, train.Batches(sequences, None, batch_size=8, rng=rng))
    check(ours, curve(recorded, "mse", per_step=True))


# ----------------------------- estimators


@pytest.fixture
def fits(monkeypatch):
    """What `train.fit` is called with while the test runs, recorded."""
    found, real = [], train.fit

    def fit(model, batches, optimizer, **options):
        found.append(Recorded(model, batches))
        return real(model, found[-1], optimizer, **options)

    monkeypatch.setattr(train, "fit", fit)
    return found


OPTIONS = {
    "hidden_size": 12, "batch_size": 16, "learning_rate": RATE, "weight_decay": 0.0, "schedule": "constant",
    "clip_norm": NORM, "dtype": "float64", "random_state": 7,
}  # fmt: skip


def sunspots():
    years, numbers = load_sunspots()
    return numbers[years < 1920]


def test_the_regressor(fits):
    every = np.lib.stride_tricks.sliding_window_view(sunspots(), 23)
    model = estimators.LSTMRegressor(epochs=8, **OPTIONS).fit(every[:, :-1], every[:, -1])
    (recorded,) = fits
    check(model.history_.step_loss, curve(recorded, "mse", per_step=False))


@pytest.mark.parametrize("decay", [None, 0.1])
def test_the_classifier(fits, decay):
    sequences, labels = ragged(np.random.default_rng(7), 150, 3, 4, classes=True)
    options = OPTIONS if decay is None else OPTIONS | {"weight_decay": decay, "schedule": "cosine"}
    model = estimators.LSTMClassifier(epochs=10, **options).fit(sequences, np.array(list("acdb"))[labels])
    (recorded,) = fits
    rate = constant if decay is None else cosine(10 * 10)
    check(model.history_.step_loss, curve(recorded, "cross_entropy", per_step=False, rate=rate, weight_decay=decay))


@pytest.mark.parametrize(
    "options",
    [{"horizon": 3, "strategy": "direct"}, {"horizon": 1, "strategy": "recursive"}],
    ids=lambda o: o["strategy"],
)
def test_the_forecaster(fits, options):
    model = estimators.LSTMForecaster(window=24, epochs=10, **options, **OPTIONS).fit(sunspots())
    (recorded,) = fits
    check(model.history_.step_loss, curve(recorded, "mse", per_step=True, skipped=6))


def test_the_autoencoder_estimator(fits):
    model = estimators.LSTMAutoencoder(16, latent_size=5, epochs=9, **OPTIONS).fit(sunspots())
    (recorded,) = fits
    assert {len(batch.x) for batch in recorded.given} == {16}
    check(model.history_.step_loss, curve(recorded, "mse", per_step=True))
