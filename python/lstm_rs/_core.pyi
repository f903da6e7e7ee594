"""Types of the compiled module. What its parts do is told by the parts themselves: `help(lstm_rs._core)`."""

from typing import Any, Literal, TypeAlias, final, overload

import numpy as np
import numpy.typing as npt

from lstm_rs.cell import CellSpec

# Names of this stub alone: the module does not have them.
_State: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike] | None
_Lengths: TypeAlias = np.ndarray[Any, np.dtype[np.int64]] | None

__all__ = [
    "Backward",
    "Forward",
    "__version__",
    "available_isas",
    "backward",
    "check_cell",
    "fma_peak",
    "forward",
    "get_num_threads",
    "isa",
    "read_bandwidth",
    "set_isa",
    "set_num_threads",
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

# (y, h, c, gates, c of the tape)
@overload
def forward(
    weights: Forward,
    x: npt.ArrayLike,
    state: _State,
    lengths: _Lengths,
    reverse: bool,
    batch_first: bool,
    tape: Literal[True],
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
@overload
def forward(
    weights: Forward,
    x: npt.ArrayLike,
    state: _State,
    lengths: _Lengths,
    reverse: bool,
    batch_first: bool,
    tape: bool,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]: ...

# (dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, d_h, d_c)
def backward(
    weights: Backward,
    x: npt.ArrayLike,
    state: _State,
    lengths: _Lengths,
    reverse: bool,
    batch_first: bool,
    y: npt.ArrayLike,
    gates: npt.ArrayLike,
    c: npt.ArrayLike,
    dy: npt.ArrayLike | None,
    dstate: _State,
    need_dx: bool,
) -> tuple[
    np.ndarray | None,
    np.ndarray,
    np.ndarray,
    np.ndarray | None,
    np.ndarray | None,
    np.ndarray | None,
    np.ndarray,
    np.ndarray,
]: ...
def check_cell(cell: CellSpec) -> None: ...
def available_isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str, source: str = "isa") -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def swap_own_threads(n: int) -> int: ...
def fma_peak(dtype: str, seconds: float) -> float: ...
def read_bandwidth(bytes: int, seconds: float) -> float: ...
