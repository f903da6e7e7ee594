"""Flax's LSTM cells, of linen and of nnx: the same outputs, and what is refused."""

import numpy as np
import pytest
from converted import refused, same_weights
from lstm_rs import CellSpec
from lstm_rs.convert import from_flax
from oracle import assert_close, make_input

flax = pytest.importorskip("flax", reason="Flax is not installed")
jax = pytest.importorskip("jax")
jnp, linen, nnx = (pytest.importorskip(name) for name in ("jax.numpy", "flax.linen", "flax.nnx"))

INPUT, HIDDEN = 4, 7
STEPS, BATCH = 9, 5
LINEN = {"LSTMCell": linen.LSTMCell, "OptimizedLSTMCell": linen.OptimizedLSTMCell}
NNX = {"LSTMCell": nnx.LSTMCell, "OptimizedLSTMCell": nnx.OptimizedLSTMCell}
FUNCTIONS = {
    "sigmoid": (nnx.sigmoid, "sigmoid"),
    "tanh": (nnx.tanh, "tanh"),
    "jnp.tanh": (jnp.tanh, "tanh"),
    "identity": (jax.nn.identity, "identity"),
    "relu": (nnx.relu, "relu"),
    "leaky_relu": (nnx.leaky_relu, "leaky_relu"),
    "elu": (nnx.elu, "elu"),
    "soft_sign": (nnx.soft_sign, "softsign"),
    "softplus": (nnx.softplus, "softplus"),
    "hard_sigmoid": (nnx.hard_sigmoid, ("hard_sigmoid", 1 / 6, 0.5)),
}


def drawn(tree, seed=0, scale=0.5):
    """The same tree of random arrays, with biases that are not zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda array: jnp.asarray((scale * rng.normal(size=array.shape)).astype(array.dtype)), tree)


def data(batch_first=False, dtype=np.float32):
    """An input, and a state that is not zero."""
    rng = np.random.default_rng(3)
    x = make_input(rng, STEPS, BATCH, INPUT, dtype)
    h, c = ((0.5 * rng.normal(size=(BATCH, HIDDEN))).astype(dtype) for _ in range(2))
    return (np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x), h, c


def same_outputs(ours, run):
    """Hold our layer against `run(x, (c, h))`, which gives the carry and the outputs."""
    x, h, c = data(ours.batch_first)
    (wanted_c, wanted_h), wanted = run(jnp.asarray(x), (jnp.asarray(c), jnp.asarray(h)))
    y, final = ours(x, (h[None], c[None]))
    sizes = {"steps": STEPS, "batch": BATCH, "input_size": INPUT, "hidden_size": HIDDEN}
    for name, array, expected in (("y", y, wanted), ("h", final.h[0], wanted_h), ("c", final.c[0], wanted_c)):
        assert_close(array, np.asarray(expected), **sizes, name=name)


def linen_params(cell):
    carry = cell.initialize_carry(jax.random.key(0), (BATCH, INPUT))
    return drawn(cell.init(jax.random.key(0), carry, jnp.zeros((BATCH, INPUT))))


def stepped(step):
    """A cell's steps, one by one, time first."""

    def run(x, carry):
        outputs = []
        for x_t in x:
            carry, y = step(carry, x_t)
            outputs.append(y)
        return carry, jnp.stack(outputs)

    return run


def nnx_cell(kind="LSTMCell", scale=0.5, **how):
    cell = NNX[kind](INPUT, HIDDEN, rngs=nnx.Rngs(0), **how)
    nnx.update(cell, drawn(nnx.state(cell, nnx.Param), scale=scale))
    return cell


# ----------------------------- in


@pytest.mark.parametrize("kind", LINEN)
def test_parameters_of_linen(kind):
    cell = LINEN[kind](HIDDEN)
    params = linen_params(cell)
    ours = from_flax(params)
    assert repr(ours) == f"LSTM({INPUT}, {HIDDEN})"
    same_outputs(ours, stepped(lambda carry, x: cell.apply(params, carry, x)))
    for same in (params["params"], {"params": {"cell": params["params"]}}, flax.core.freeze(params)):
        same_weights(from_flax(same), ours)
    same_weights(from_flax(jax.tree.map(np.asarray, params)), ours)
    assert from_flax(params, dtype=np.float64).dtype == np.float64
    assert from_flax(params, cell=CellSpec(gate_activation="hard_sigmoid")).cell.gate_activation == "hard_sigmoid"


def test_parameters_of_an_rnn_of_linen():
    rnn = linen.RNN(linen.LSTMCell(HIDDEN), return_carry=True)
    params = drawn(rnn.init(jax.random.key(0), jnp.zeros((BATCH, STEPS, INPUT))))
    ours = from_flax(params, batch_first=True)
    assert ours.batch_first
    same_outputs(ours, lambda x, carry: rnn.apply(params, x, initial_carry=carry))


@pytest.mark.parametrize("kind", NNX)
def test_cells_of_nnx(kind):
    cell = nnx_cell(kind)
    ours = from_flax(cell)
    assert repr(ours) == f"LSTM({INPUT}, {HIDDEN})"
    same_outputs(ours, stepped(cell))
    state = nnx.state(cell)
    for same in (state, nnx.to_pure_dict(state), {"params": nnx.to_pure_dict(state)}, nnx.state(nnx.RNN(cell))):
        same_weights(from_flax(same), ours)


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("kind", NNX)
def test_an_rnn_of_nnx(kind, time_major):
    rnn = nnx.RNN(nnx_cell(kind), time_major=time_major, return_carry=True)
    ours = from_flax(rnn)
    assert ours.batch_first is not time_major
    same_outputs(ours, lambda x, carry: rnn(x, initial_carry=carry))
    assert from_flax(rnn, batch_first=time_major).batch_first is time_major


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("field", ["activation_fn", "gate_fn"])
@pytest.mark.parametrize("kind", NNX)
def test_functions_of_nnx(kind, field, name):
    function, said = FUNCTIONS[name]
    # Small weights, for with some of these nothing holds the state in bounds.
    cell = nnx_cell(kind, scale=0.2, **{field: function})
    ours = from_flax(cell)
    if field == "activation_fn":
        assert ours.cell == CellSpec(input_activation=said, output_activation=said)
    else:
        assert ours.cell == CellSpec(gate_activation=said)
    same_outputs(ours, stepped(cell))


# ----------------------------- refused


def test_what_an_nnx_cell_has_that_we_have_not_is_refused():
    cell = nnx.LSTMCell(INPUT, HIDDEN, gate_fn=lambda x: x, rngs=nnx.Rngs(0))
    refused(
        ValueError,
        "^gate_fn: expected one of the functions of jax.nn that we have, sigmoid, tanh, .*got <function",
        lambda: from_flax(cell),
    )
    cell = nnx.OptimizedLSTMCell(INPUT, HIDDEN, activation_fn=jax.nn.gelu, rngs=nnx.Rngs(0))
    refused(ValueError, "^activation_fn: expected one of .*gelu", lambda: from_flax(nnx.RNN(cell)))
    for keep_order in (False, True):
        rnn = nnx.RNN(nnx_cell(), reverse=True, keep_order=keep_order)
        refused(ValueError, "^params: the RNN runs in reverse: set reverse=False", lambda rnn=rnn: from_flax(rnn))
    refused(
        ValueError,
        "^cell: leave it out: LSTMCell says itself which activations it has$",
        lambda: from_flax(nnx_cell(), cell=CellSpec()),
    )


def test_what_is_no_lstm_is_refused():
    names = "^params: expected a mapping of parameters, an nnx.LSTMCell, an nnx.OptimizedLSTMCell or an nnx.RNN"
    for source, kind in (
        (nnx.GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0)), "GRUCell"),
        (nnx.Bidirectional(nnx.RNN(nnx_cell()), nnx.RNN(nnx_cell())), "Bidirectional"),
        (nnx.RNN(nnx.GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0))), "GRUCell"),
        ([1.0], "list"),
    ):
        refused(TypeError, f"{names} around one, got {kind}$", lambda source=source: from_flax(source))
    refused(
        TypeError,
        "got LSTMCell; a module of linen has no parameters: pass what its init gave$",
        lambda: from_flax(linen.LSTMCell(HIDDEN)),
    )
    gru = linen_params(linen.GRUCell(HIDDEN))
    refused(KeyError, "^params: expected the parameters of one LSTM cell, .*, got params.hn, ", lambda: from_flax(gru))
    gru = nnx.state(nnx.GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0)))
    refused(KeyError, "^params: missing: dense_h.bias; .*dropped: dense_i.bias$", lambda: from_flax(gru))


def test_of_several_cells_one_has_to_be_chosen():
    params = linen_params(linen.LSTMCell(HIDDEN))["params"]
    refused(
        KeyError,
        "^params: expected the parameters of one LSTM cell, ii, .*, got params.first, params.second; pass those of one",
        lambda: from_flax({"params": {"first": params, "second": params}}),
    )
    refused(KeyError, "^params: expected the parameters of one LSTM cell, .*, got nothing;", lambda: from_flax({}))
    refused(KeyError, "got kernel; pass those of one cell$", lambda: from_flax({"kernel": np.ones((2, 2))}))


def change(name, field, value):
    """Change one array, or leave it out."""

    def changed(params):
        given = params[name].get(field)
        made = value(np.asarray(given)) if callable(value) else value
        return params | {name: {k: v for k, v in (params[name] | {field: made}).items() if v is not None}}

    return changed


@pytest.mark.parametrize(
    ("kind", "changed", "error", "text"),
    [
        ("LSTMCell", change("hf", "bias", None), KeyError, "^params: missing: params.hf.bias$"),
        (
            "LSTMCell",
            lambda p: {k: v for k, v in p.items() if k != "io"},
            KeyError,
            "^params: missing: params.io.kernel$",
        ),
        (
            "LSTMCell",
            change("ii", "bias", np.zeros(7, "f4")),
            KeyError,
            "^params: no weights of an LSTM, which would be dropped: params.ii.bias$",
        ),
        ("LSTMCell", lambda p: p | {"norm": np.ones(3)}, KeyError, "which would be dropped: params.norm$"),
        (
            "LSTMCell",
            change("if", "kernel", lambda a: a[:3]),
            ValueError,
            r"^params.if.kernel: expected shape \(4, 7\), for hidden_size 7 as params.hi.kernel has.*got \(3, 7\)$",
        ),
        (
            "LSTMCell",
            change("ho", "kernel", lambda a: a[:, :6]),
            ValueError,
            r"^params.ho.kernel: expected shape \(7, 7\), .* got \(7, 6\)$",
        ),
        (
            "LSTMCell",
            change("hg", "bias", lambda a: a[None]),
            ValueError,
            r"^params.hg.bias: expected 1 axes, got shape \(1, 7\)$",
        ),
        (
            "LSTMCell",
            change("hg", "kernel", lambda a: a * np.nan),
            ValueError,
            "^params.hg.kernel: 49 of 49 weights are NaN or infinite$",
        ),
        (
            "LSTMCell",
            change("hg", "bias", lambda a: jnp.asarray(a, jnp.bfloat16)),
            TypeError,
            "^params.hg.bias: expected float32 or float64, got bfloat16; cast it",
        ),
        (
            "OptimizedLSTMCell",
            change("dense_i", "kernel", lambda a: a[:, :27]),
            ValueError,
            r"^params.dense_i.kernel: expected shape \(4, 28\), for 4 gates of 7 as params.dense_h.kernel has rows",
        ),
        (
            "OptimizedLSTMCell",
            change("dense_h", "kernel", lambda a: a.T),
            ValueError,
            r"^params.dense_i.kernel: expected shape \(4, 112\)",
        ),
        (
            "OptimizedLSTMCell",
            change("dense_h", "bias", lambda a: a[:1]),
            ValueError,
            r"^params.dense_h.bias: expected shape \(28,\), .* got \(1,\)$",
        ),
        ("OptimizedLSTMCell", change("dense_h", "bias", None), KeyError, "^params: missing: params.dense_h.bias$"),
        ("OptimizedLSTMCell", lambda p: p | {"ii": {}}, KeyError, None),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(kind, changed, error, text):
    if kind == "LSTMCell":
        params = dict(linen_params(linen.LSTMCell(HIDDEN))["params"])
    else:
        params = nnx.to_pure_dict(nnx.state(nnx_cell(kind)))
    from_flax({"params": params})
    if text is None:
        # An empty mapping drops nothing.
        from_flax({"params": changed(params)})
        return
    refused(error, text, lambda: from_flax({"params": changed(params)}))


def test_names_that_are_odd_or_there_twice_are_refused():
    params = dict(linen_params(linen.LSTMCell(HIDDEN))["params"])
    refused(
        KeyError,
        "^params: no weights of an LSTM, which would be dropped: 7$",
        lambda: from_flax(params | {7: np.ones(2)}),
    )
    refused(
        KeyError,
        "^params: expected each once, got two of if.kernel$",
        lambda: from_flax(params | {"if_": params["if"]}),
    )
    both = params | {"ii.kernel": params["ii"]["kernel"]}
    refused(KeyError, "^params: expected each once, got two of ii.kernel$", lambda: from_flax(both))
    refused(ValueError, "^hi.bias: expected an array, got what makes none: ",
            lambda: from_flax(params | {"hi": {**params["hi"], "bias": [[1.0], 2.0]}}))  # fmt: skip
