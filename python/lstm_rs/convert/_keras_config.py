"""What a Keras layer's configuration says of its cell, and the other way round.

A configuration is what ``layer.get_config()`` gives and what a file has as JSON: both are read here alike.

Keras has one ``activation`` for the cell input and for the output, and one ``recurrent_activation`` for the gates. Two
names have changed their meaning. ``hard_sigmoid`` was ``clip(0.2*x + 0.5, 0, 1)`` up to Keras 2 and is
``clip(x/6 + 0.5, 0, 1)`` since Keras 3. ``leaky_relu`` as a name has a slope of 0.2, as a layer one of 0.3 unless it
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lstm_rs.cell import CellSpec

# Those that mean the same by the same name, and need no parameters.
_SAME = ("tanh", "sigmoid", "relu", "elu", "softsign", "softplus")
# The slope by a name; 0.01 is our own.
_LEAKY_RELU = ("leaky_relu", 0.2)


class Described(NamedTuple):
    """What a configuration says."""

    cell: CellSpec
    directions: int
    batch_first: bool


def hard_sigmoid(major: int) -> tuple[str, float, float]:
    """What Keras of that major version means by it."""
    return ("hard_sigmoid", 0.2, 0.5) if major < 3 else ("hard_sigmoid", 1 / 6, 0.5)


def major_version(version: str) -> int:
    """The first number of a version; 0 if there is none."""
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() and len(first) < 4 else 0


def describe(kind: str, config: Mapping[str, Any], *, major: int, name: str) -> Described:
    """Read a configuration, or refuse what we do not have.

    Parameters
    ----------
    kind : str
        The class: "LSTM", "CuDNNLSTM", or "Bidirectional" around one.
    config : mapping
        Its configuration.
    major : int
        Of the Keras that wrote it.
    name : str
        Of the layer, for messages.
    """
    if kind == "Bidirectional":
        mode = config.get("merge_mode", "concat")
        if mode != "concat":
            raise ValueError(
                f"{name}: expected merge_mode 'concat', which puts the two outputs side by side as our layer does, "
                f"got {mode!r}: make one LSTM of each of its two layers and merge their outputs"
            )
        parts = [_inner(config.get("layer"), name)]
        if config.get("backward_layer"):
            parts.append(_inner(config["backward_layer"], name))
        ran_backwards = [bool(part.get("go_backwards")) for _, part in parts]
        if ran_backwards != [False, True][: len(parts)]:
            raise ValueError(
                f"{name}: expected its first layer to run forwards and its second backwards, got otherwise"
            )
        ways = [describe(kind, {**part, "go_backwards": False}, major=major, name=name) for kind, part in parts]
        if ways[0].cell != ways[-1].cell:
            raise ValueError(
                f"{name}: expected the same activations in both directions, got {ways[0].cell} and {ways[-1].cell}"
            )
        return ways[0]._replace(directions=2)
    if kind not in ("LSTM", "CuDNNLSTM"):
        raise ValueError(f"{name}: expected an LSTM layer, or a Bidirectional around one, got {kind}")
    if config.get("go_backwards"):
        raise ValueError(
            f"{name}: expected go_backwards=False, got True: its outputs run from the last step to the first; a layer "
            f"without it, of the same weights, gives these for x[:, ::-1]"
        )
    # CuDNNLSTM has no choice.
    activation = _activation(config.get("activation", "tanh"), major, f"{name}: activation")
    gates = _activation(config.get("recurrent_activation", "sigmoid"), major, f"{name}: recurrent_activation")
    cell = CellSpec(input_activation=activation, output_activation=activation, gate_activation=gates)
    # `time_major` went with Keras 2.
    return Described(cell, directions=1, batch_first=not config.get("time_major", False))


def _inner(layer: Any, name: str) -> tuple[str, Mapping[str, Any]]:
    """The class and the configuration of one of the layers that a Bidirectional wraps."""
    if not (isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping)):
        raise ValueError(f"{name}: expected the configuration of the layer inside the Bidirectional, got {layer!r}")
    return str(layer.get("class_name")), layer["config"]


def _activation(given: Any, major: int, name: str) -> str | tuple[Any, ...]:
    """Our name and parameters of a Keras activation."""
    if given is None or given == "linear":
        return "identity"
    if isinstance(given, str):
        if given in _SAME:
            return given
        if given == "leaky_relu":
            return _LEAKY_RELU
        if given == "hard_sigmoid":
            return hard_sigmoid(major)
    elif isinstance(given, Mapping) and isinstance(given.get("config"), Mapping):
        # A layer in the place of a function, if it is Keras' own and not one that is registered under such a name.
        kind, config = given.get("class_name"), given["config"]
        if str(given.get("module", "keras")).startswith("keras") and given.get("registered_name") in (None, kind):
            if kind == "LeakyReLU":
                return ("leaky_relu", _number(config.get("negative_slope", config.get("alpha", 0.3)), name))
            if kind == "ELU":
                return ("elu", _number(config.get("alpha", 1.0), name))
        given = given.get("class_name")
    elif isinstance(given, Mapping):
        given = given.get("config") or given.get("class_name")
    raise ValueError(
        f"{name}: no such activation here: {given!r}; there are {', '.join(_SAME)}, linear, leaky_relu, hard_sigmoid "
        f"and the layers LeakyReLU and ELU"
    )


def _number(value: Any, name: str) -> float:
    """A parameter of an activation; of Keras 2 it may come as an array of one, written out."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: expected a number for its parameter, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a parameter that fits into float64, got {value!r}") from None


def keras_activation(keras: Any, given: str | tuple[Any, ...], name: str) -> Any:
    """What Keras has for one of our activations: its name, or a layer where it takes a parameter."""
    if isinstance(given, str) and given in _SAME:
        return given
    if given == "identity":
        return "linear"
    if given == _LEAKY_RELU:
        return "leaky_relu"
    if given == hard_sigmoid(major_version(keras.__version__)):
        return "hard_sigmoid"
    kind, parameters = (given, ()) if isinstance(given, str) else (given[0], given[1:])
    if kind == "leaky_relu":
        return keras.layers.LeakyReLU(negative_slope=parameters[0] if parameters else 0.01)
    if kind == "elu":
        return keras.layers.ELU(alpha=parameters[0])
    raise ValueError(f"lstm: Keras has no {name} {given!r}")
