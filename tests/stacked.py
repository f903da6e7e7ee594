"""Layers of the reference on top of each other: what an `LSTM` is held against, and what it is run on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from lstm_rs import LSTM, CellSpec, State, Weights, reference
from oracle import assert_close, assert_same_bits, make_input, make_lengths, make_state, make_weights


def names_of(layer):
    """The names of the weights, part by part, in the order of `Weights`; spelled out, not asked of the layer."""
    ends = [f"_l{k}{way}" for k in range(layer.num_layers) for way in ("", "_reverse")[: 1 + layer.bidirectional]]
    return [
        Weights(*(stem + end for stem in ("weight_ih", "weight_hh", "bias", "peephole", "weight_hr"))) for end in ends
    ]


def make_layer(rng, *sizes, **options):
    """A layer whose gates move: with the oracle's weights, not its own."""
    layer = LSTM(*sizes, seed=0, **options)
    out, arrays = layer.proj_size or layer.hidden_size, {}
    for k, names in enumerate(names_of(layer)):
        directions = 1 + layer.bidirectional
        inputs = layer.input_size if k < directions else out * directions
        weights = make_weights(
            rng, layer.cell, inputs, layer.hidden_size, layer.proj_size or None, layer.bias, layer.dtype
        )
        arrays |= {name: array for name, array in zip(names, weights, strict=True) if array is not None}
    layer.load_state_dict(arrays)
    return layer


@dataclass
class Run:
    """A layer, and all that a pass forward and a pass backward take."""

    layer: LSTM
    x: Any
    state: Any = None
    lengths: Any = None
    dy: Any = None
    dstate: Any = None
    rng: Any = None
    need_dx: bool = True
    masks: tuple = ()


def make_run(layer, rng, steps, batch, lengths=True, states=True):
    """All there is, or nothing but x and dy; `batch` is None for one sequence."""
    inputs, hidden, out, dtype = layer.input_size, layer.hidden_size, layer.proj_size or layer.hidden_size, layer.dtype
    directions = 1 + layer.bidirectional
    x = make_input(rng, steps, batch, inputs, dtype)
    dy = make_input(rng, steps, batch, directions * out, dtype)
    if layer.batch_first and batch is not None:
        x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1)
    run = Run(layer, x, dy=dy)
    if states:
        run.state, run.dstate = (
            State(*(np.stack(parts) for parts in zip(*drawn, strict=True)))
            for drawn in (
                [make_state(rng, batch, hidden, out, dtype) for _ in range(layer.num_layers * directions)]
                for _ in range(2)
            )
        )
    if lengths:
        run.lengths = max(steps - 1, 0) if batch is None else make_lengths(rng, steps, batch)
    return run


# All there is but dropout, so that a layer has every kind of weight.
FULL = {"bidirectional": True, "proj_size": 3, "cell": CellSpec.peephole_lstm()}


def made(seed=0, **options):
    """A layer of two with every kind of weight, and a run of it."""
    rng = np.random.default_rng(seed)
    layer = make_layer(rng, 4, 5, 2, **(FULL | options))
    return layer, make_run(layer, rng, 6, 3)


def answers(run):
    """What the layer gives, by name, and its tape."""
    y, final, tape = run.layer.forward_train(run.x, run.state, run.lengths, run.rng)
    grads = run.layer.backward(tape, run.dy, run.dstate, need_dx=run.need_dx)
    given = {"y": y, "h": final.h, "c": final.c, "d_h": grads.state.h, "d_c": grads.state.c}
    given |= {f"d_{name}": array for name, array in grads.weights.items()}
    return given | ({"d_x": grads.x} if run.need_dx else {}), tape


def expected(run):
    """The same from the reference, in float64: layer on layer, the directions side by side, masks by hand."""
    layer, x, dy = run.layer, np.asarray(run.x, np.float64), run.dy
    directions = 1 + layer.bidirectional
    weights = [Weights(*(layer.weights.get(name) for name in names)) for names in names_of(layer)]

    def part(state, k):
        return None if state is None else State(state[0][k], state[1][k])

    finals, tapes, starts, given, sides, dx = [], [], [None] * len(weights), {}, [], 0.0
    for k in range(len(weights)):
        d = k % directions
        how = {"cell": layer.cell, "lengths": run.lengths, "reverse": d == 1, "batch_first": layer.batch_first}
        y, final, tape = reference.forward_train(x, weights[k], part(run.state, k), **how)
        sides = [y] if d == 0 else [*sides, y]
        finals.append(final)
        tapes.append(tape)
        if d == directions - 1:
            x = np.concatenate(sides, axis=-1)
            if k < len(weights) - 1 and run.masks:
                x = x * run.masks[k // directions]
    given["y"] = x
    for k in reversed(range(len(weights))):
        d = k % directions
        side = None if dy is None else np.split(dy, directions, axis=-1)[d]
        grads = reference.backward(tapes[k], side, part(run.dstate, k))
        starts[k] = grads.state
        dx = grads.x if d == directions - 1 else dx + grads.x
        pairs = zip(names_of(layer)[k], grads.weights, strict=True)
        given |= {f"d_{name}": array for name, array in pairs if array is not None}
        if d == 0:
            dy = dx * run.masks[k // directions - 1] if k > 0 and run.masks else dx
    for prefix, states in (("", finals), ("d_", starts)):
        given |= {f"{prefix}h": np.stack([s.h for s in states]), f"{prefix}c": np.stack([s.c for s in states])}
    return given | ({"d_x": dy} if run.need_dx else {})


def check(run):
    """Hold every array of a run against the reference; give the tape.

    An error of the first layer goes through all layers, and back: they deepen the sum as more steps would, so that
    `steps` is T times the layers, and `input_size` that of the widest. In arrays of four elements or fewer a sum may
    cancel, and where P = 1 all that goes from layer to layer and from step to step is such a sum: there the scale is
    at least 0.5, what goes in being of the order of 1. So held, 30,000 draws of `test_any_layer` came to 0.57 of the
    tolerance at most.
    """
    layer = run.layer
    actual, tape = answers(run)
    wanted = expected(run)
    assert actual.keys() == wanted.keys()
    single = np.ndim(run.x) == 2
    steps, batch = np.shape(run.x)[:2] if not layer.batch_first else np.shape(run.x)[1::-1]
    steps, batch = (len(run.x), 1) if single else (steps, batch)
    out = layer.proj_size or layer.hidden_size
    width = (1 + layer.bidirectional) * out if layer.num_layers > 1 else 0
    for name, array in actual.items():
        assert array.dtype == layer.dtype
        assert_close(
            array,
            wanted[name],
            steps=steps * layer.num_layers,
            batch=batch,
            input_size=max(layer.input_size, width),
            hidden_size=layer.hidden_size,
            backward=name.startswith("d_"),
            over_batch=name.startswith(("d_weight", "d_bias", "d_peephole")),
            at_least=0.5 if array.size <= 4 or out == 1 else 0.0,
            name=name,
        )
    return tape


def same(actual, wanted):
    assert actual.keys() == wanted.keys()
    for name, array in actual.items():
        assert_same_bits(array, wanted[name], name)
