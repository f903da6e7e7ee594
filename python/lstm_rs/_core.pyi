"""Types of the compiled module. What its parts do is told by the parts themselves: `help(lstm_rs._core)`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from lstm_rs.cell import CellSpec

# Names of this stub alone: the module does not have them.
_State: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike] | None
_Lengths: TypeAlias = np.ndarray[Any, np.dtype[np.int64]] | None
# (x, state, lengths, reverse, batch_first, y, gates, c)
_Record: TypeAlias = tuple[npt.ArrayLike, _State, _Lengths, bool, bool, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]

__all__ = [
    "Backward",
    "Forward",
    "Layers",
    "Stream",
    "__version__",
    "activations",
    "available_isas",
    "backward",
    "backward_layers",
    "check_cell",
    "find_openmp",
    "fma_peak",
    "forward",
    "get_num_threads",
    "isa",
    "linear",
    "linear_backward",
    "read_bandwidth",
    "set_isa",
    "set_num_threads",
    "swap_lent_threads",
    "swap_own_threads",
]

__version__: str

@final
class Forward:
    def __new__(
        cls,
        cell: CellSpec,
        w_ih: npt.ArrayLike,
        w_hh: npt.ArrayLike,
        b: npt.ArrayLike | None = None,
        peephole: npt.ArrayLike | None = None,
        w_hr: npt.ArrayLike | None = None,
    ) -> Forward: ...

@final
class Backward:
    def __new__(
        cls,
        cell: CellSpec,
        w_ih: npt.ArrayLike,
        w_hh: npt.ArrayLike,
        b: npt.ArrayLike | None = None,
        peephole: npt.ArrayLike | None = None,
        w_hr: npt.ArrayLike | None = None,
    ) -> Backward: ...

@final
class Layers:
    def __new__(cls, parts: list[Forward], directions: int, batch_first: bool) -> Layers: ...
    def forward(
        self, x: npt.ArrayLike, state: _State = None, lengths: _Lengths = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
    # (y, h, c, records, masks)
    def forward_train(
        self,
        x: npt.ArrayLike,
        state: _State,
        lengths: _Lengths,
        mask: Callable[[tuple[int, ...]], np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[_Record, ...], tuple[np.ndarray | None, ...]]: ...

@final
class Stream:
    def __new__(cls, layers: Layers, batch_size: int) -> Stream: ...
    def step(self, x_t: npt.ArrayLike, out: np.ndarray | None = None) -> np.ndarray: ...
    def state(self) -> tuple[np.ndarray, np.ndarray]: ...
    def set_state(self, state: tuple[npt.ArrayLike, npt.ArrayLike]) -> None: ...

# (y, h, c, gates, c of the tape), the last two None without a tape
_Forwarded: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, Any, Any]

def forward(
    weights: Forward,
    x: npt.ArrayLike,
    state: _State,
    lengths: _Lengths,
    reverse: bool,
    batch_first: bool,
    tape: bool,
) -> _Forwarded: ...

# (dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, d_h, d_c)
_Backwarded: TypeAlias = tuple[
    np.ndarray | None,
    np.ndarray,
    np.ndarray,
    np.ndarray | None,
    np.ndarray | None,
    np.ndarray | None,
    np.ndarray,
    np.ndarray,
]

def backward(
    weights: Backward,
    record: _Record,
    dy: npt.ArrayLike | None,
    dstate: _State,
    need_dx: bool,
) -> _Backwarded: ...

# (dx, gradients of all weights, d_h, d_c)
def backward_layers(
    parts: Sequence[Backward],
    records: Sequence[_Record],
    masks: Sequence[np.ndarray | None],
    dy: npt.ArrayLike | None,
    dstate: _State,
    need_dx: bool,
) -> tuple[np.ndarray | None, tuple[np.ndarray, ...], np.ndarray, np.ndarray]: ...
def activations() -> dict[str, list[float | None]]: ...
def check_cell(cell: CellSpec) -> None: ...
def available_isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str, source: str = "isa") -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def find_openmp(library: str) -> bool: ...
def swap_lent_threads(n: int) -> int: ...
def swap_own_threads(n: int) -> int: ...
def linear(weight: npt.ArrayLike, bias: npt.ArrayLike | None, x: npt.ArrayLike) -> np.ndarray: ...
def linear_backward(
    weight: npt.ArrayLike, x: npt.ArrayLike, dy: npt.ArrayLike, bias: bool, need_dx: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]: ...
def fma_peak(dtype: str, seconds: float) -> float: ...
def read_bandwidth(bytes: int, seconds: float) -> float: ...
