"""The module: ``torch.nn.LSTM`` whose passes run here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lstm_rs.cell import CellSpec
from lstm_rs.torch._pass import Packing, Pass, Plan, run, to_host

_FIELDS = {
    "weight_ih": "w_ih",
    "weight_hh": "w_hh",
    "bias_ih": "b_ih",
    "bias_hh": "b_hh",
    "weight_hr": "w_hr",
    "peephole": "peephole",
}
"""What a parameter is, by the beginning of its name."""

_DTYPES = (torch.float32, torch.float64)

_USUAL = CellSpec()
"""The cell of ``torch.nn.LSTM``."""

# It came with PyTorch 2.7; without it an export stops where it meets a call that it cannot follow.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


class LSTM(torch.nn.LSTM):  # type: ignore[misc]
    """``torch.nn.LSTM`` whose passes forward and backward run in lstm_rs.

    It is a ``torch.nn.LSTM``: the same arguments, parameters and files, the same initial weights and dropout of a seed,
    the same shapes and packed sequences in and out, and the same answers, up to rounding.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
        L. Each layer runs over the outputs of the one below.
    bias : bool, default True
        Do the gates have biases? There are two, which are added.
    batch_first : bool, default False
        Are input and output (N, T, ...)?
    dropout : float, default 0.0
        The probability that an output of any layer but the last is set to 0, in training.
    bidirectional : bool, default False
        A second set of weights in each layer runs from the last step to the first.
    proj_size : int, default 0
        P, less than H: the hidden state is projected to so many outputs. 0 means no projection, P = H.
    device, dtype : optional
        Of the parameters; float32 or float64.
    cell : CellSpec, optional
        The cell; by default that of PyTorch. With another one the weights have G*H rows, for the gates that it has, and
        ``peephole_l{k}``, ``peephole_l{k}_reverse`` (k, H) are parameters besides.

    Raises
    ------
    TypeError
        If `cell` is no CellSpec; else as ``torch.nn.LSTM``.

    Notes
    -----
    The passes work on the memory of the tensors, without copies. Where autograd does not follow, under
    ``torch.no_grad()`` or ``torch.inference_mode()`` or where nothing requires a gradient, nothing is recorded, and the
    weights stay packed from call to call. A call compares the parameters with what was packed, bit for bit, so it sees
    any change, however it was made; that takes twice more memory of the weights' size. In training every call packs.

    A call uses as many threads as ``torch.get_num_threads()``, whatever `lstm_rs.set_num_threads` says.

    It computes on the CPU: from another device tensors are copied there, and the answers back, which is right but slow;
    dropout is that of the CPU's generator. It computes in float32 and float64, and under ``torch.autocast`` in the
    parameters' dtype.

    There are no second derivatives: to differentiate a gradient raises a RuntimeError, and so do the transforms of
    ``torch.func``. ``torch.compile`` leaves a call as it is and compiles what is around it. ``torch.jit.trace`` and
    ``torch.export`` see PyTorch's own LSTM with these parameters, so that what is exported does not need lstm_rs; of
    another cell they are refused, and so is ``torch.jit.script``.

    Examples
    --------
    >>> import torch
    >>> from lstm_rs.torch import LSTM
    >>> lstm = LSTM(3, 8, num_layers=2, batch_first=True)
    >>> y, (h, c) = lstm(torch.ones(4, 5, 3))
    >>> y.shape, h.shape
    (torch.Size([4, 5, 8]), torch.Size([2, 4, 8]))
    >>> y[:, -1].sum().backward()
    >>> lstm.weight_hh_l0.grad.shape
    torch.Size([32, 8])
    >>> torch.nn.LSTM(3, 8, num_layers=2).load_state_dict(lstm.state_dict())
    <All keys matched successfully>

    A cell whose gates see the state:

    >>> from lstm_rs import CellSpec
    >>> LSTM(3, 8, cell=CellSpec.peephole_lstm()).peephole_l0.shape
    torch.Size([3, 8])
    """

    # Of the class: a module that `convert` has made has none of its own.
    cell: CellSpec = _USUAL
    _packed: Any = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        cell: CellSpec | None = None,
    ) -> None:
        if not isinstance(cell, CellSpec | None):
            raise TypeError(f"cell: expected a CellSpec, got {type(cell).__name__}")
        usual = cell is None or (len(cell.gates) == 4 and not cell.peepholes)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device if usual else "meta",
            dtype,
        )
        if cell is not None:
            self.cell = cell
        if not usual:
            self._make_parameters(device, dtype)

    def _make_parameters(self, device: Any, dtype: Any) -> None:
        """Parameters of as many rows as the cell has, in the place of those that PyTorch has made."""
        rows, peepholes = len(self.cell.gates) * self.hidden_size, len(self.cell.peepholes)
        shapes = {}
        for names in self._all_weights:
            for name in names:
                shape = self._parameters[name].shape
                shapes[name] = shape if name.startswith("weight_hr") else (rows, *shape[1:])
            if peepholes:
                names.append(names[0].replace("weight_ih", "peephole"))
                shapes[names[-1]] = (peepholes, self.hidden_size)
        self._parameters.clear()
        self._flat_weights_names = []
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._flat_weights_names = list(shapes)
        self._init_flat_weights()
        self.reset_parameters()

    def flatten_parameters(self) -> None:
        """Do nothing: in ``torch.nn.LSTM`` it is for cuDNN."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run all layers.

        Parameters
        ----------
        input : (T, N, I) tensor, (T, I) for one sequence, or PackedSequence
            Of the parameters' dtype; (N, T, I) with ``batch_first``.
        hx : tuple (h, c) of tensors, optional
            The initial state, (L*D, N, P) and (L*D, N, H); without N for one sequence. Zeros if there is none.

        Returns
        -------
        output : (T, N, D*P) tensor, or PackedSequence
            The last layer's output of every step.
        (h, c) : tuple of tensors
            The final state, shaped as the initial one.

        Raises
        ------
        TypeError
            If a dtype is not float32 or float64, or not that of the parameters; it names the cast to make.
        RuntimeError, ValueError
            If a shape or a device does not fit; as ``torch.nn.LSTM``.
        """
        if torch.jit.is_tracing() or _is_exporting():
            self._check_exported()
            return super().forward(input, hx)
        if torch.compiler.is_compiling():
            # Not a decorator: it would import the compiler with this module, which takes a second.
            return torch.compiler.disable(LSTM._run)(self, input, hx)
        return self._run(input, hx)

    def _run(self, input: Any, hx: Any) -> Any:
        self._update_flat_weights()
        weights = self._flat_weights
        packed = isinstance(input, torch.nn.utils.rnn.PackedSequence)
        x, hx = self._checked(input.data if packed else input, hx, input.batch_sizes if packed else None)
        if packed and hx is not None:
            hx = self.permute_hidden(hx, input.sorted_indices)
        h, c = (None, None) if hx is None else hx
        plan = Plan(
            cell=self.cell,
            fields=tuple(_FIELDS[name.partition("_l")[0]] for name in self._all_weights[0]),
            directions=2 if self.bidirectional else 1,
            batch_first=self.batch_first and not packed,
            packing=Packing(input.batch_sizes) if packed else None,
            dropout=self.dropout if self.training and self.num_layers > 1 else 0.0,
        )
        if _watched(x, h, c, *weights):
            if self._packed is not None:
                self._packed = None
            y, h, c = Pass.apply(plan, x, h, c, *weights)
        else:
            y, h, c = run(plan, self._pack(plan, weights), x, h, c)
        if not packed:
            return y, (h, c)
        return input._replace(data=y), self.permute_hidden((h, c), input.unsorted_indices)

    def _checked(self, x: Any, hx: Any, batch_sizes: Any) -> tuple[Any, Any]:
        """The input and the initial state, if they fit the parameters; under autocast in their dtype."""
        like = self._flat_weights[0]
        tensors = (x,) if hx is None else (x, *hx)
        if like.dtype not in _DTYPES or not all(t.is_cpu and t.dtype == like.dtype for t in (like, *tensors)):
            tensors = _fit(tensors, like)
        x, *state = tensors
        if batch_sizes is None and x.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
        # PyTorch's own checks, for its own errors, which know batches only.
        one = batch_sizes is None and x.dim() == 2
        batch = x.detach().unsqueeze(0 if self.batch_first else 1) if one else x
        if state:
            parts = tuple(part.detach().unsqueeze(1) for part in state) if one else tuple(state)
            self.check_forward_args(batch, parts, batch_sizes)
        else:
            self.check_input(batch, batch_sizes)
        return x, tuple(state) or None

    def _pack(self, plan: Plan, weights: Any) -> Any:
        """The weights as the kernels read them: those of the last call, if not a bit of the parameters has changed.

        To compare 100,000 of them takes 9 us and to pack them 60, measured.
        """
        arrays = [np.ascontiguousarray(to_host(weight)) for weight in weights]
        kept = self._packed
        if kept is not None and kept[0] is plan.cell and all(map(_same, kept[1], arrays)):
            return kept[2]
        # Packed from the copies: another thread may write to the parameters meanwhile.
        copies = [(array.shape, bytearray(array)) for array in arrays]
        packed = plan.forward(
            [np.frombuffer(raw, a.dtype).reshape(shape) for a, (shape, raw) in zip(arrays, copies, strict=True)]
        )
        self._packed = (plan.cell, copies, packed)
        return packed

    def _check_exported(self) -> None:
        if self.cell is not _USUAL and self.cell != _USUAL:
            raise RuntimeError(f"lstm_rs.torch.LSTM: only the cell of torch.nn.LSTM can be exported, not {self.cell}")

    def __prepare_scriptable__(self) -> Any:
        """Refuse: torch.jit.script asks this of a module before it compiles it."""
        raise RuntimeError(
            "lstm_rs.torch.LSTM cannot be scripted: give its state_dict to a torch.nn.LSTM, or use torch.jit.trace"
        )

    def extra_repr(self) -> str:
        """What the module's repr says between its brackets."""
        return f"{super().extra_repr()}{'' if self.cell == _USUAL else f', cell={self.cell}'}"

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state.pop("_packed", None)
        return state


# Where it is imported from, also by a pickle.
LSTM.__module__ = "lstm_rs.torch"


def _fit(tensors: tuple[torch.Tensor, ...], like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Input and state where the parameters are and in their dtype: cast under autocast, else refused by name."""
    if like.dtype not in _DTYPES:
        raise TypeError(
            f"lstm_rs.torch.LSTM: expected parameters of float32 or float64, got {like.dtype}; "
            "cast them with module.float()"
        )
    if like.is_meta:
        raise RuntimeError(
            "lstm_rs.torch.LSTM: the parameters are on the meta device, which holds no numbers; "
            "give them memory with module.to_empty(device='cpu')"
        )
    for name, tensor in zip(("input", "hx[0]", "hx[1]"), tensors, strict=False):
        if tensor.device != like.device:
            raise RuntimeError(
                f"{name}: expected a tensor on {like.device}, as the parameters are, got one on {tensor.device}; "
                f"move it with .to('{like.device}')"
            )
        if tensor.dtype != like.dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise TypeError(
                f"{name}: expected {like.dtype}, as the parameters are, got {tensor.dtype}; "
                f"cast it with .to({like.dtype})"
            )
    return tuple(tensor.to(like.dtype) for tensor in tensors)


def _same(copy: tuple[tuple[int, ...], bytearray], array: np.ndarray) -> bool:
    """Whether the array has the very bytes of the copy."""
    shape, raw = copy
    # A bytearray compares itself with any buffer, by memcmp.
    return shape == array.shape and raw == array


def _watched(*tensors: Any) -> bool:
    """Whether autograd follows any of them."""
    if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
        # It refuses forward derivatives by name, which would be lost else.
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
