"""A hundred steps here and in PyTorch: from the same weights over the same batches, the same losses and weights."""

import numpy as np
import pytest
from lstm_rs import LSTM, to_torch, train

torch = pytest.importorskip("torch")
pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence

STEPS = 100
OPTIMIZERS = {
    "adam": (train.Adam, torch.optim.Adam, 0.02, {}),
    "adamw": (train.AdamW, torch.optim.AdamW, 0.02, {"weight_decay": 0.1}),
    "sgd": (train.SGD, torch.optim.SGD, 0.3, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
}


def data(seed, width):
    """Ragged sequences, a running sum for each step and the last of it for each sequence."""
    rng = np.random.default_rng(seed)
    sequences = [rng.normal(size=(steps, 3)) for steps in rng.integers(2, 13, size=40)]
    sums = [np.tanh(np.cumsum(sequence @ rng.normal(size=(3, width)), axis=0)) for sequence in sequences]
    return sequences, sums


def twins(model):
    made = {}
    for name, module in model.modules.items():
        if isinstance(module, LSTM):
            made[name] = to_torch(module)
            for key, parameter in made[name].named_parameters():
                # Two biases would take two steps.
                parameter.requires_grad_(not key.startswith("bias_hh"))
        else:
            made[name] = torch.nn.Linear(module.in_features, module.out_features, dtype=torch.float64)
            made[name].load_state_dict({key: torch.tensor(array) for key, array in module.weights.items()})
    return made


def run(lstm, x, lengths, state=None):
    """All outputs, the last layer's final hidden state, and the state."""
    y, state = lstm(pack(x, torch.tensor(lengths), enforce_sorted=False), state)
    return pad(y, total_length=len(x))[0], torch.cat(list(state[0][-2 if lstm.bidirectional else -1 :]), dim=1), state


def losses_in_torch(modules, given, make, rate, options, forward, max_norm):
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = make(parameters, lr=rate, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: max(0.0, 1 - k / (2 * STEPS)))
    losses = []
    for batch in given:
        loss = forward(modules, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def compare(model, batches, name, forward, max_norm=0.3):
    """Train both, and compare all losses and the last weights."""
    make, twin, rate, options = OPTIMIZERS[name]
    modules, given = twins(model), []

    class Kept:
        def __iter__(self):
            for batch in batches:
                given.append(batch)
                yield batch

    optimizer = make(list(model.modules.values()), train.linear(rate, 2 * STEPS), **options)
    history = train.fit(model, Kept(), optimizer, epochs=-(-STEPS // len(batches)), clip_norm=max_norm)
    expected = losses_in_torch(modules, given, twin, rate, options, forward, max_norm)
    assert len(expected) >= STEPS
    assert min(expected) < 0.7 * expected[0]
    np.testing.assert_allclose(history.step_loss, expected, rtol=0, atol=1e-9)
    for key, module in model.modules.items():
        for weight, array in module.weights.items():
            parameters = dict(modules[key].named_parameters())
            other = weight if weight in parameters else weight.replace("bias_", "bias_ih_")
            np.testing.assert_allclose(array, parameters[other].detach().numpy(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(
    ("layers", "name"),
    [
        *(({}, name) for name in OPTIMIZERS),
        ({"num_layers": 2, "bidirectional": True}, "adam"),
        ({"proj_size": 4}, "sgd"),
    ],
)
def test_predictor(per_step, layers, name):
    sequences, sums = data(0, 2)
    lstm = LSTM(3, 7, **layers, dtype=np.float64, seed=1)
    width = (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)
    model = train.Predictor(lstm, train.Linear(width, 2, dtype=np.float64, seed=2), train.mse, per_step=per_step)
    targets = sums if per_step else np.array([each[-1] for each in sums])
    batches = train.Batches(sequences, targets, per_step=per_step, batch_size=8, rng=3)

    def forward(modules, batch):
        lengths = np.full(batch.x.shape[1], len(batch.x)) if batch.lengths is None else batch.lengths
        y, h, _ = run(modules["lstm"], torch.tensor(batch.x), lengths)
        out, target = modules["linear"](y if per_step else h), torch.tensor(batch.target)
        if per_step:
            counted = torch.tensor(np.arange(len(batch.x))[:, None] < lengths)
            out, target = out[counted], target[counted]
        return torch.nn.functional.mse_loss(out, target)

    compare(model, batches, name, forward)


def test_classifier():
    sequences, sums = data(1, 3)
    labels = np.array([each[-1].argmax() for each in sums])
    model = train.Predictor(
        LSTM(3, 7, dtype=np.float64, seed=1), train.Linear(7, 3, dtype=np.float64, seed=2), train.cross_entropy
    )

    def forward(modules, batch):
        lengths = np.full(batch.x.shape[1], len(batch.x)) if batch.lengths is None else batch.lengths
        _, h, _ = run(modules["lstm"], torch.tensor(batch.x), lengths)
        return torch.nn.functional.cross_entropy(modules["linear"](h), torch.tensor(batch.target))

    compare(model, train.Batches(sequences, labels, batch_size=8, rng=3), "adam", forward)


@pytest.mark.parametrize(
    ("layers", "name"), [*(({}, name) for name in OPTIMIZERS), ({"num_layers": 2, "bidirectional": True}, "adam")]
)
def test_autoencoder(layers, name):
    rng = np.random.default_rng(4)
    angles = rng.uniform(0, 6, (40, 1)) + np.arange(12) * rng.uniform(0.2, 0.8, (40, 1))
    sequences = [np.stack([np.sin(angle), np.cos(angle)], axis=1)[: rng.integers(5, 13)] for angle in angles]
    options = {"dtype": np.float64, "seed": np.random.default_rng(0)}
    encoder, decoder = LSTM(2, 8, **layers, **options), LSTM(3, 8, **layers, **options)
    width = 16 if encoder.bidirectional else 8
    model = train.Autoencoder(encoder, train.Linear(width, 3, **options), decoder, train.Linear(width, 2, **options))

    def forward(modules, batch):
        lengths = np.full(batch.x.shape[1], len(batch.x)) if batch.lengths is None else batch.lengths
        x = torch.tensor(batch.x)
        latent = modules["to_latent"](run(modules["encoder"], x, lengths)[1])
        y, _, _ = run(modules["decoder"], latent.expand(len(x), *latent.shape), lengths)
        counted = torch.tensor(np.arange(len(x))[:, None] < lengths)
        return torch.nn.functional.mse_loss(modules["to_output"](y)[counted], x[counted])

    compare(model, train.Batches(sequences, None, batch_size=8, rng=3), name, forward)


def test_stretches_with_the_state_carried_over():
    sequences, sums = data(2, 1)
    sequences = [np.concatenate(sequences[k::4])[:50] for k in range(4)]
    sums = [np.concatenate(sums[k::4])[:50] for k in range(4)]
    model = train.Predictor(
        LSTM(3, 7, num_layers=2, dtype=np.float64, seed=1),
        train.Linear(7, 1, dtype=np.float64, seed=2),
        train.mse,
        per_step=True,
    )
    state = None

    def forward(modules, batch):
        nonlocal state
        assert batch.lengths is None
        y, state = modules["lstm"](torch.tensor(batch.x), state if batch.carry else None)
        state = tuple(part.detach() for part in state)
        return torch.nn.functional.mse_loss(modules["linear"](y), torch.tensor(batch.target))

    compare(model, train.TruncatedBatches(sequences, sums, steps=10), "adam", forward)
