"""How ONNX lays out an LSTM: gate order, biases, peepholes and activations, to ours and back.

ONNX has the gates in the order i, o, f, c, in ``W`` (4*H, I) and ``R`` (4*H, H); the biases of both side by side in
``B`` (8*H,); the peepholes i, o, f in ``P`` (3*H,). With ``input_forget`` the rows of the forget gate are there, and
unused. Ours are in `lstm_rs.Weights`. Everything here is of one direction but `take_activations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lstm_rs.cell import Activation, CellSpec, activation_parameters, normal_activation
from lstm_rs.functional import Weights

# ONNX's names in lower case, as ONNX Runtime compares them: as ONNX writes them, our names, and what ONNX Runtime takes
# for alpha and beta where none are left in the lists. Affine and ScaledTanh have no default: ONNX Runtime's would be 0,
# which makes a constant of the gate.
_ACTIVATIONS: dict[str, tuple[str, str, tuple[float | None, ...]]] = {
    "relu": ("Relu", "relu", ()),
    "tanh": ("Tanh", "tanh", ()),
    "sigmoid": ("Sigmoid", "sigmoid", ()),
    "softsign": ("Softsign", "softsign", ()),
    "softplus": ("Softplus", "softplus", ()),
    "affine": ("Affine", "affine", (None, None)),
    "leakyrelu": ("LeakyRelu", "leaky_relu", (0.01,)),
    # ONNX's own ThresholdedRelu has 1 for it.
    "thresholdedrelu": ("ThresholdedRelu", "thresholded_relu", (0.0,)),
    "scaledtanh": ("ScaledTanh", "scaled_tanh", (None, None)),
    "hardsigmoid": ("HardSigmoid", "hard_sigmoid", (0.2, 0.5)),
    "elu": ("Elu", "elu", (1.0,)),
}
_SPELLED = {ours: spelled for spelled, ours, _ in _ACTIVATIONS.values()}


def weights_of(W: np.ndarray, R: np.ndarray, B: np.ndarray | None, P: np.ndarray | None, *, coupled: bool) -> Weights:
    """Weights of ONNX in our order, as copies; their shapes are for the caller to check.

    Parameters
    ----------
    W : (4*H, I) array
        Weights of the input, gates i, o, f, c.
    R : (4*H, H) array
        Weights of the recurrence.
    B : (8*H,) array or None
        The bias of `W`, then that of `R`; they are added.
    P : (3*H,) array or None
        Peepholes, gates i, o, f.
    coupled : bool
        Leave out the rows of the forget gate (``input_forget=1``).
    """
    order = [0, 3, 1] if coupled else [0, 2, 3, 1]
    looks = [0, 1] if coupled else [0, 2, 1]
    hidden_size = R.shape[0] // 4

    def ours(array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(4, hidden_size, *array.shape[1:])[order]
        return blocks.reshape(len(order) * hidden_size, *array.shape[1:])

    # A sum beyond all numbers is told of by who takes it, by the weight's own name.
    with np.errstate(over="ignore", invalid="ignore"):
        b = None if B is None else ours(B[: 4 * hidden_size] + B[4 * hidden_size :])
    return Weights(
        ours(W),
        ours(R),
        b,
        None if P is None else P.reshape(3, hidden_size)[looks],
    )


def onnx_of(weights: Weights, cell: CellSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Our weights as ``W, R, B, P`` of ONNX: `weights_of` gives the same bits back.

    Raises
    ------
    ValueError
        If the cell lacks a gate or the weights have a projection: ONNX's operator has neither.
    """
    missing = [gate for gate in "io" if gate not in cell.gates] + ["f"] * (not (cell.forget_gate or cell.coupled))
    if missing:
        raise ValueError(f"cell: ONNX's LSTM has all of the gates i, f, o; this cell has no {' and no '.join(missing)}")
    if weights.w_hr is not None:
        raise ValueError(f"w_hr: ONNX's LSTM has no projection; these weights have one of shape {weights.w_hr.shape}")
    order = [0, 2, 1] if cell.coupled else [0, 3, 1, 2]
    looks = [0, 1] if cell.coupled else [0, 2, 1]

    def spread(array: np.ndarray, rows: int, order: list[int]) -> np.ndarray:
        # Not -1: without inputs an array has no elements to count.
        blocks = array.reshape(rows, array.shape[0] // rows, *array.shape[1:])[order]
        if cell.coupled:
            # The forget gate is the third, in gates and peepholes alike.
            blocks = np.insert(blocks, 2, 0, axis=0)
        return np.ascontiguousarray(blocks.reshape(len(blocks) * blocks.shape[1], *array.shape[1:]))

    rows = len(cell.gates)
    b, p = weights.b, weights.peephole
    if b is not None:
        b = spread(b, rows, order)
        # -0 and not 0: with -0 added, a bias of -0 keeps its sign.
        b = np.concatenate([b, np.full_like(b, -0.0)])
    return (
        spread(weights.w_ih, rows, order),
        spread(weights.w_hh, rows, order),
        b,
        None if p is None else spread(p.ravel(), len(cell.peepholes), looks),
    )


def activation_of(name: str, alpha: float | None = None, beta: float | None = None) -> Activation:
    """Our spelling of an activation of ONNX, in the normal form of a `CellSpec`.

    `name` is taken in upper or lower case, as ONNX Runtime does. An `alpha` or `beta` that is None, or that the
    function does not have, is the default or nothing.

    Raises
    ------
    ValueError
        If there is no such activation, or for Affine and ScaledTanh without both parameters: they have no default.
    """
    if name.lower() not in _ACTIVATIONS:
        raise ValueError(f"activations: expected some of {', '.join(sorted(_SPELLED.values()))}, got {name!r}")
    spelled, ours, defaults = _ACTIVATIONS[name.lower()]
    given = (alpha, beta)[: len(defaults)]
    values: Any = [default if value is None else value for value, default in zip(given, defaults, strict=True)]
    if None in values:
        raise ValueError(
            f"activations: {spelled} has no default parameters: give both its alpha and its beta, "
            "in activation_alpha and activation_beta"
        )
    if ours == "affine" and values == [1.0, 0.0]:
        return "identity"
    return normal_activation(ours, *values)


def onnx_activation(activation: Activation) -> tuple[str, list[float], list[float]]:
    """ONNX's name of one of our activations, its alpha and its beta: empty lists for what it does not have."""
    name, parameters = activation_parameters(activation)
    if name == "identity":
        name, parameters = "affine", (1.0, 0.0)
    return _SPELLED[name], list(parameters[:1]), list(parameters[1:])


def take_activations(
    activations: Sequence[str] | None,
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    directions: int,
) -> list[tuple[Activation, Activation, Activation]]:
    """The activations f (gates), g (cell input) and h (output) of each direction, in our spelling.

    Parameters
    ----------
    activations : sequence of str or None
        Three names for each direction, forward first. None or none at all: Sigmoid, Tanh, Tanh.
    alphas, betas : sequence of float or None
        Handed out in the order of `activations` to those functions that have an alpha or a beta, and to no others. The
        ones that get none take the default of `activation_of`. What is left over in the end is not used, as in ONNX
        Runtime.
    directions : int
        1 or 2.

    Raises
    ------
    ValueError
        If the names are not three for each direction, or as in `activation_of`.

    Notes
    -----
    This is how ONNX Runtime 1.32 reads the lists, but that an Affine or ScaledTanh that lacks a parameter is an error.
    """
    names = list(activations or ("Sigmoid", "Tanh", "Tanh") * directions)
    if len(names) != 3 * directions:
        raise ValueError(
            f"activations: expected {3 * directions} names, which are f, g and h for {directions} "
            f"direction{'s' * (directions > 1)}, got {len(names)}: {', '.join(map(repr, names))}"
        )
    alpha, beta = iter(alphas or ()), iter(betas or ())
    taken = []
    for name in names:
        has = len(_ACTIVATIONS.get(name.lower(), ("", "", ()))[2])
        taken.append(activation_of(name, next(alpha, None) if has else None, next(beta, None) if has > 1 else None))
    return [(taken[k], taken[k + 1], taken[k + 2]) for k in range(0, len(taken), 3)]


def decimals(values: Sequence[float]) -> list[float]:
    """The shortest decimals that are these numbers in float32, as attributes of ONNX are: 0.01, and not 0.0099999998.

    A default that was written to a file is then the default again, and a float64 layer gets the number that was meant.
    """
    return [float(str(np.float32(value))) for value in values]
