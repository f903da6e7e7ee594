"""Our module in the place of PyTorch's, in a model that is there already."""

from __future__ import annotations

from typing import TypeVar

import torch

from lstm_rs.torch._module import LSTM

_Module = TypeVar("_Module")


def convert(module: _Module) -> _Module:
    """Make every ``torch.nn.LSTM`` of a model, or the model itself, an `lstm_rs.torch.LSTM`.

    Parameters
    ----------
    module : torch.nn.Module
        The model. It is changed in place: its LSTMs stay the objects that they are, and become of the other class. So
        an optimizer still has their parameters, hooks stay where they are, and a module that stands in several places
        still does.

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    TypeError
        If it is no module, or if an LSTM has parameters of another dtype than float32 and float64; nothing is changed
        then.

    Notes
    -----
    Left alone are subclasses of ``torch.nn.LSTM``, modules that a parametrization of ``torch.nn.utils.parametrize`` has
    made one, modules with a ``forward`` of their own, and quantized ones. Parametrize after the conversion.

    A whole model that is pickled then needs lstm_rs to be loaded; a state_dict does not.

    Examples
    --------
    >>> import torch
    >>> from lstm_rs.torch import convert
    >>> model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 8), "head": torch.nn.Linear(8, 1)})
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> type(convert(model)["lstm"]).__module__
    'lstm_rs.torch'
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    found = {
        name: child
        for name, child in module.named_modules()
        if type(child) is torch.nn.LSTM and "forward" not in vars(child)
    }
    for name, child in found.items():
        for own, parameter in child.named_parameters():
            if parameter.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"{name}{'.' * bool(name)}{own}: expected float32 or float64, got {parameter.dtype}; "
                    "cast the model with module.float()"
                )
    for child in found.values():
        child.__class__ = LSTM
    return module


convert.__module__ = "lstm_rs.torch"
