"""What an LSTM cell is made of, and the cells of the literature by name.

A `CellSpec` is a description, not a module: it holds no weights. It says which gates there are, and with that
how many rows the weights have. Gate rows stand in the order i, f, g, o, peephole rows in the order i, f, o;
what a cell does not have takes no rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from lstm_rs._core import activations, check_cell

Activation: TypeAlias = str | tuple[str, float] | tuple[str, float, float]
"""An activation: its name, or a tuple of its name and its parameters alpha and beta."""

_FLAGS = ("input_gate", "forget_gate", "output_gate", "coupled", "peephole")
_ACTIVATED = ("input_activation", "output_activation", "gate_activation")
_CLIPS = ("gate_clip", "cell_clip")
_DEFAULTS: dict[str, tuple[Any, ...]] = {name: tuple(defaults) for name, defaults in activations().items()}
# Greff et al. start from the peephole LSTM and change one thing.
_GREFF: dict[str, dict[str, Any]] = {
    "V": {},
    "NIG": {"input_gate": False},
    "NFG": {"forget_gate": False},
    "NOG": {"output_gate": False},
    "NIAF": {"input_activation": "identity"},
    "NOAF": {"output_activation": "identity"},
    "NP": {"peephole": False},
    "CIFG": {"coupled": True},
}


@dataclass(frozen=True)
class CellSpec:
    """A description of an LSTM cell.

    The cell in full is the one of Graves, Mohamed & Hinton [1]_. With ``*`` elementwise, ``r`` the output of
    a step (``h``, or its projection) and ``p_*`` the peepholes::

        i_t = sigmoid(W_i x_t + R_i r_{t-1} + p_i*c_{t-1} + b_i)
        f_t = sigmoid(W_f x_t + R_f r_{t-1} + p_f*c_{t-1} + b_f)
        g_t = tanh   (W_g x_t + R_g r_{t-1}               + b_g)
        c_t = f_t*c_{t-1} + i_t*g_t
        o_t = sigmoid(W_o x_t + R_o r_{t-1} + p_o*c_t     + b_o)
        h_t = o_t*tanh(c_t)

    Everything below takes a part away. The default is the LSTM of today's libraries, without peepholes.

    Parameters
    ----------
    input_gate, forget_gate, output_gate : bool, default True
        Is there such a gate? One that is not there is the constant 1.
    coupled : bool, default False
        ``f = 1 - i`` in the place of a forget gate with weights of its own. Leave `forget_gate` as it is.
    peephole : bool, default False
        Do the gates see the cell's state, through one weight for each unit?
    input_activation : str or tuple, default "tanh"
        What makes ``g``: one of the activations below, by name, or a tuple of the name and its parameters.
    output_activation : str or tuple, default "tanh"
        What is applied to ``c`` on its way to ``h``.
    gate_activation : str or tuple, default "sigmoid"
        What makes ``i``, ``f`` and ``o``.
    gate_clip : float or None, default None
        What goes into the activation of a gate or of the input, peephole and bias included, is cut to within this of 0.
        Where it is cut, no gradient flows. This is what ONNX Runtime does for the operator's attribute ``clip``.
    cell_clip : float or None, default None
        The new state ``c`` is cut to within this of 0, before the output gate sees it. Where it is cut, no gradient
        flows. This is what TensorFlow and Tesseract call clip.

    Raises
    ------
    TypeError
        If a flag is not a bool, or a parameter or a clip not a number.
    ValueError
        If there is no such activation, if one lacks a parameter or has one too many, if a clip is not positive, or if
        the parts contradict each other: `coupled` without an input gate or with ``forget_gate=False``, `peephole`
        without any gate.

    Notes
    -----
    The activations, with the parameters that they take, are those of the ONNX operators of the same names [2]_, and the
    identity; a default is taken where no parameter is given:

    ======================================== =========================================
    ``"sigmoid"``                            1 / (1 + exp(-x))
    ``"tanh"``                               tanh(x)
    ``"identity"``                           x
    ``"relu"``                               max(0, x)
    ``("affine", alpha, beta)``              alpha*x + beta
    ``("leaky_relu", alpha=0.01)``           x, below 0 alpha*x
    ``("thresholded_relu", alpha=1)``        x where x > alpha, else 0
    ``("scaled_tanh", alpha, beta)``         alpha * tanh(beta*x)
    ``("hard_sigmoid", alpha=0.2, beta=0.5)``  alpha*x + beta, between 0 and 1
    ``("elu", alpha=1)``                     x, below 0 alpha * (exp(x) - 1)
    ``"softsign"``                           x / (1 + abs(x))
    ``"softplus"``                           log(1 + exp(x))
    ======================================== =========================================

    An activation is kept as its name alone where all its parameters are the defaults, else as a tuple of floats. A
    leaky or a thresholded relu or an elu with a negative alpha runs forward only: its slope does not follow from its
    value.

    References
    ----------
    .. [1] A. Graves, A. Mohamed, G. Hinton, "Speech recognition with deep recurrent neural networks",
       ICASSP 2013.
    .. [2] ONNX operators, version 22: LSTM, and those that its activations are named after.

    Examples
    --------
    >>> from lstm_rs.cell import CellSpec
    >>> CellSpec().gates
    ('i', 'f', 'g', 'o')
    >>> coupled = CellSpec(coupled=True, peephole=True)
    >>> coupled.gates, coupled.peepholes
    (('i', 'g', 'o'), ('i', 'o'))
    >>> CellSpec(gate_activation=("hard_sigmoid", 0.2, 0.5)) == CellSpec(gate_activation="hard_sigmoid")
    True
    >>> CellSpec(coupled=True, input_gate=False)
    Traceback (most recent call last):
    ...
    ValueError: cell: coupled=True needs the input gate, since f = 1 - i, but input_gate is False
    """

    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    coupled: bool = False
    peephole: bool = False
    input_activation: Activation = "tanh"
    output_activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    gate_clip: float | None = None
    cell_clip: float | None = None

    def __post_init__(self) -> None:
        for name in _FLAGS:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"cell: {name} must be a bool, got {value!r} of type {type(value).__name__}")
        for name in _ACTIVATED:
            value = getattr(self, name)
            parts = value if isinstance(value, tuple) and value else (value,)
            object.__setattr__(self, name, normal_activation(*parts, field=name))
        for name in _CLIPS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _number(name, value))
        # The contradictions are refused in one place, for Python and Rust alike.
        check_cell(self)

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates that have rows in the weights, in order: the axis G.

        The cell input ``g`` is always there; a coupled forget gate has no rows.

        Returns
        -------
        tuple of str
            Out of "i", "f", "g", "o".

        Examples
        --------
        >>> CellSpec.hochreiter_1997().gates
        ('i', 'g', 'o')
        """
        forget = self.forget_gate and not self.coupled
        present = {"i": self.input_gate, "f": forget, "g": True, "o": self.output_gate}
        return tuple(gate for gate, here in present.items() if here)

    @property
    def peepholes(self) -> tuple[str, ...]:
        """The gates that have a row in the peephole array, in order.

        Returns
        -------
        tuple of str
            Out of "i", "f", "o"; empty without peepholes.

        Examples
        --------
        >>> CellSpec.peephole_lstm().peepholes
        ('i', 'f', 'o')
        >>> CellSpec().peepholes
        ()
        """
        return tuple(gate for gate in self.gates if gate != "g") if self.peephole else ()

    @classmethod
    def hochreiter_1997(cls) -> CellSpec:
        """Make the LSTM of 1997: input and output gate around a memory that never forgets.

        Hochreiter & Schmidhuber [1]_ gave the network a cell state that is carried on unchanged (``f = 1``),
        so that errors neither vanish nor explode on their way back through time. Two gates learn what is let
        into the memory and what is let out.

        Returns
        -------
        CellSpec
            Without a forget gate and without peepholes.

        Notes
        -----
        Different from the paper: there g is squashed into [-2, 2] and the state into [-1, 1] by scaled
        logistic functions, where here both are tanh; and it is trained with a truncated gradient in the
        manner of RTRL, where here the gradient is full backpropagation through time.

        References
        ----------
        .. [1] S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997,
           1735-1780.

        Examples
        --------
        >>> CellSpec.hochreiter_1997().forget_gate
        False
        """
        return cls(forget_gate=False)

    @classmethod
    def gers_1999(cls) -> CellSpec:
        """Make the LSTM of 1999, with a forget gate: today's default.

        Gers, Schmidhuber & Cummins [1]_ saw that on a stream without end the state of the 1997 cell grows
        until the network breaks down. Their forget gate multiplies the state of the step before, and learns
        when to let go.

        Returns
        -------
        CellSpec
            Equal to ``CellSpec()``: three gates, no peepholes.

        Notes
        -----
        Different from the paper: there g is squashed into [-2, 2] and the state into [-1, 1] by scaled
        logistic functions, where here both are tanh; and its gradient is truncated, where here it is full
        backpropagation through time.

        References
        ----------
        .. [1] F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM",
           ICANN 1999; Neural Computation 12(10), 2000, 2451-2471.

        Examples
        --------
        >>> CellSpec.gers_1999() == CellSpec()
        True
        """
        return cls()

    @classmethod
    def peephole_lstm(cls) -> CellSpec:
        """Make the LSTM whose gates see the cell's state.

        Gers & Schmidhuber [1]_ gave each gate a view into the memory it guards, through one weight for each
        unit, so that the cell can count and keep time. In the form of Graves, Mohamed & Hinton [2]_, made
        here, the input and the forget gate see the state of the step before and the output gate sees the new
        one.

        Returns
        -------
        CellSpec
            Three gates, each with a peephole.

        Notes
        -----
        Different from the paper of 2000: there no error flows back through a peephole into the state, where
        here the gradient is full backpropagation through time.

        References
        ----------
        .. [1] F. Gers, J. Schmidhuber, "Recurrent nets that time and count", IJCNN 2000.
        .. [2] A. Graves, A. Mohamed, G. Hinton, "Speech recognition with deep recurrent neural networks",
           ICASSP 2013.

        Examples
        --------
        >>> CellSpec.peephole_lstm().peephole
        True
        """
        return cls(peephole=True)

    @classmethod
    def greff(cls, name: str) -> CellSpec:
        """Make a variant from the comparison of Greff et al.

        Greff, Srivastava, Koutník, Steunebrink & Schmidhuber [1]_ took the peephole LSTM apart to see what
        each piece is worth. No variant was much better than the whole; the forget gate and the output
        activation were the pieces that could not be spared.

        Parameters
        ----------
        name : {"V", "NIG", "NFG", "NOG", "NIAF", "NOAF", "NP", "CIFG"}
            The name in the paper: V is the peephole LSTM itself, and each other changes one thing in it. No
            input gate, no forget gate, no output gate, no input activation function, no output activation
            function, no peepholes, coupled input and forget gate.

        Returns
        -------
        CellSpec
            All but NP have peepholes, for those gates that have rows.

        Raises
        ------
        ValueError
            If the paper has no such variant, or for "FGR" (full gate recurrence), which is not there yet.

        References
        ----------
        .. [1] K. Greff, R. K. Srivastava, J. Koutník, B. R. Steunebrink, J. Schmidhuber, "LSTM: a search
           space odyssey", arXiv:1503.04069, 2015; IEEE TNNLS 28(10), 2017.

        Examples
        --------
        >>> CellSpec.greff("CIFG").peepholes
        ('i', 'o')
        >>> CellSpec.greff("NIG").peepholes
        ('f', 'o')
        """
        if name == "FGR":
            raise ValueError(
                "name: 'FGR' (gates that also see the gates of the step before) is not there yet; "
                f"there are {', '.join(_GREFF)}"
            )
        if not (isinstance(name, str) and name in _GREFF):
            raise ValueError(f"name: expected {_one_of(tuple(_GREFF))}, got {name!r}")
        return cls(**({"peephole": True} | _GREFF[name]))


def activation_parameters(activation: Activation) -> tuple[str, tuple[float, ...]]:
    """Give the name of an activation in normal form, and all its parameters.

    Examples
    --------
    >>> activation_parameters("hard_sigmoid")
    ('hard_sigmoid', (0.2, 0.5))
    """
    if isinstance(activation, str):
        return activation, _DEFAULTS[activation]
    return activation[0], activation[1:]


def normal_activation(name: str, *parameters: float, field: str = "activation") -> Activation:
    """Give an activation as a cell keeps it: by its name alone where all its parameters are the defaults.

    Examples
    --------
    >>> normal_activation("elu", 1), normal_activation("hard_sigmoid", 1)
    ('elu', ('hard_sigmoid', 1.0, 0.5))
    """
    given = (name, *parameters) if parameters else name
    # Not `name in`: an array would answer with an array.
    if not (isinstance(name, str) and name in _DEFAULTS):
        raise ValueError(
            f"cell: {field} must be {_one_of(tuple(_DEFAULTS))}, or a tuple of such a name and its parameters, "
            f"got {given!r}"
        )
    defaults = _DEFAULTS[name]
    called = " and ".join(("alpha", "beta")[: len(defaults)])
    if len(parameters) > len(defaults):
        takes = f"takes {called}" if defaults else "takes no parameters"
        raise ValueError(f"cell: {field} {name!r} {takes}, got {given!r}")
    numbers: Any = (*(_number(f"{field} {name!r}", p) for p in parameters), *defaults[len(parameters) :])
    if None in numbers:
        raise ValueError(f"cell: {field} {name!r} needs {called}, as in ({name!r}, 1.0, 0.5), got {given!r}")
    return name if numbers == defaults else (name, *numbers)


def _number(what: str, value: Any) -> float:
    """A finite float."""
    if isinstance(value, bool):
        raise TypeError(f"cell: {what} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"cell: {what} must be a number, got {value!r} of type {type(value).__name__}") from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"cell: {what} must be finite, got {value!r}")
    return number


def _one_of(choices: tuple[str, ...]) -> str:
    """Write out what can be chosen: 'a' or 'b'."""
    return " or ".join(filter(None, (", ".join(map(repr, choices[:-1])), repr(choices[-1]))))
