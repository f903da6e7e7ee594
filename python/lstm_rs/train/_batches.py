"""Mini-batches of sequences, time-major: shuffled and bucketed by length, or stretches of long ones.

Sequences lie end to end in one array of rows, with a row of zeros at the end. A batch is one ``take`` of rows: row
``starts[n] + t`` where sequence n has a step t, the row of zeros where it has ended. So padding costs nothing of its
own, and a batch (T, N, F) comes out contiguous whatever the sequences were.

It loads nothing in the background: taking a batch is a few microseconds beside the passes over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lstm_rs.layers import _size
from lstm_rs.train._modules import refuse_masked

Sequences: TypeAlias = np.ndarray | Sequence[npt.ArrayLike]

_CHUNK = 8
"""Batches among whose sequences those of like lengths are put together."""


class Batch(NamedTuple):
    """Some sequences side by side.

    Attributes
    ----------
    x : (T, N, F) array
        The input, contiguous; 0 past the end of a sequence.
    target : array or None
        (N, ...), or (T, N, ...) for a target for each step.
    lengths : (N,) int64 array or None
        The valid steps of each; None if all have T.
    carry : bool
        Does the state of the batch before go on? The model has to keep it.
    """

    x: np.ndarray
    target: np.ndarray | None = None
    lengths: np.ndarray | None = None
    carry: bool = False


class _Rows:
    """Sequences end to end, and what belongs to each of their steps."""

    def __init__(self, sequences: Sequences, targets: Any, per_step: bool) -> None:
        if isinstance(sequences, np.ndarray):
            if sequences.ndim != 3:
                raise ValueError(f"sequences: expected an array (n, T, F) or a list of (T, F), got {sequences.shape}")
            parts: np.ndarray | list[np.ndarray] = sequences
        else:
            parts = [np.asarray(part) for part in sequences]
            for k, part in enumerate(parts):
                if part.ndim != 2:
                    raise ValueError(f"sequences: expected a list of (T, F), got {part.shape} for sequence {k}")
        for given in [sequences] if isinstance(sequences, np.ndarray) else sequences:
            refuse_masked("sequences", given)
        for given in targets if isinstance(targets, list | tuple) else [targets]:
            refuse_masked("targets", given)
        self.count = len(parts)
        if self.count == 0:
            raise ValueError("sequences: expected at least one, got none")
        self.lengths = np.array([len(part) for part in parts], dtype=np.int64)
        if self.lengths.min() < 1:
            raise ValueError(f"sequences: expected at least 1 step, got 0 for sequence {self.lengths.argmin()}")
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.end = int(self.lengths.sum())
        self.x = self._join("sequences", parts)
        if self.x.dtype not in (np.float32, np.float64):
            raise TypeError(f"sequences: expected float32 or float64, got {self.x.dtype}; cast them with .astype")
        self.per_step = per_step
        self.target = None
        if targets is None:
            return
        if len(targets) != self.count:
            raise ValueError(f"targets: expected {self.count}, one for each sequence, got {len(targets)}")
        if not per_step:
            try:
                self.target = np.asarray(targets)
            except ValueError:  # of several lengths
                raise ValueError(
                    "targets: expected one of the same shape for each sequence, got several shapes; "
                    "with a target for each step set per_step=True"
                ) from None
            return
        if isinstance(targets, np.ndarray) and targets.ndim >= 2 and isinstance(parts, np.ndarray):
            wanted: np.ndarray | list[np.ndarray] = targets
        else:
            wanted = [np.asarray(target) for target in targets]
        for k, target in enumerate(wanted):
            if target.ndim < 1 or len(target) != self.lengths[k]:
                raise ValueError(
                    f"targets: expected {self.lengths[k]} steps for sequence {k}, as it has, got shape {target.shape}"
                )
        self.target = self._join("targets", wanted)

    def _join(self, name: str, parts: np.ndarray | list[np.ndarray]) -> np.ndarray:
        """All steps as rows of one array, and a row of zeros; (n, T, ...) needs none, as none of its ends early."""
        if isinstance(parts, np.ndarray):
            return np.ascontiguousarray(parts).reshape(self.end, *parts.shape[2:])
        first = parts[0]
        for k, part in enumerate(parts):
            if part.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"{name}: expected {first.shape[1:]} in each step, as in sequence 0, "
                    f"got {part.shape[1:]} in sequence {k}"
                )
            if part.dtype != first.dtype:
                raise TypeError(f"{name}: expected {first.dtype}, as sequence 0 is, got {part.dtype} in sequence {k}")
        return np.concatenate([*parts, np.zeros((1, *first.shape[1:]), first.dtype)])

    def batch(self, index: np.ndarray, first: int = 0, steps: int | None = None, carry: bool = False) -> Batch:
        """The sequences of these indices, from step `first` on, `steps` at most."""
        lengths = self.lengths[index] - first
        longest = int(lengths.max())
        if steps is not None and longest > steps:
            longest = steps
            lengths = np.minimum(lengths, steps)
        t = np.arange(longest)[:, None]
        rows = t + (self.starts[index] + first)
        ragged = int(lengths.min()) < longest
        if ragged:
            lengths = np.maximum(lengths, 0)
            rows = np.where(t < lengths, rows, self.end)
        x = self.x.take(rows, axis=0)
        target = self.target
        if target is not None:
            target = target.take(rows if self.per_step else index, axis=0)
        return Batch(x, target, lengths if ragged else None, carry)


class Batches:
    """Mini-batches of sequences: each iteration is an epoch.

    Parameters
    ----------
    sequences : (n, T, F) array, or list of (T_i, F) arrays
        The inputs, of one dtype, float32 or float64. A contiguous array is not copied.
    targets : array, list or None
        One for each sequence, (n, ...); with `per_step` one for each step, (n, T, ...) or a list of (T_i, ...).
    per_step : bool, default False
        Is there a target for each step?
    batch_size : int, default 32
        N; the last batch may be smaller.
    shuffle : bool, default True
        A new order for each epoch? Without it the order is that of `sequences`.
    rng : int, numpy.random.Generator or None
        Where the order comes from.
    bucket : bool, default True
        When shuffling, put sequences of like lengths together: among those of some batches they are sorted by length,
        and the batches shuffled again.

    Raises
    ------
    ValueError, TypeError
        If there is no sequence, one without steps, or shapes or dtypes do not fit.

    Attributes
    ----------
    rng : numpy.random.Generator
        Where the order comes from.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import Batches
    >>> sequences = [np.ones((steps, 3)) for steps in (4, 2, 5)]
    >>> for batch in Batches(sequences, np.arange(3), batch_size=2, shuffle=False):
    ...     print(batch.x.shape, batch.target, batch.lengths)
    (4, 2, 3) [0 1] [4 2]
    (5, 1, 3) [2] None
    """

    def __init__(
        self,
        sequences: Sequences,
        targets: Sequences | None,
        *,
        per_step: bool = False,
        batch_size: int = 32,
        shuffle: bool = True,
        rng: int | np.random.Generator | None = None,
        bucket: bool = True,
    ) -> None:
        self._rows = _Rows(sequences, targets, per_step)
        self.batch_size = _size("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.bucket = bucket
        self.rng = np.random.default_rng(rng)

    def __len__(self) -> int:
        return -(-self._rows.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # Drawn before the first batch: a generator's state between epochs does not depend on how far one got.
        for index in self._order():
            yield self._rows.batch(index)

    def _order(self) -> list[np.ndarray]:
        """The sequences of each batch of an epoch."""
        count, size = self._rows.count, self.batch_size
        if not self.shuffle:
            return [np.arange(k, min(k + size, count)) for k in range(0, count, size)]
        order = self.rng.permutation(count)
        if not self.bucket:
            return [order[k : k + size] for k in range(0, count, size)]
        batches = []
        for first in range(0, count, _CHUNK * size):
            chunk = order[first : first + _CHUNK * size]
            chunk = chunk[np.argsort(self._rows.lengths[chunk], kind="stable")]
            batches += [chunk[k : k + size] for k in range(0, len(chunk), size)]
        return [batches[k] for k in self.rng.permutation(len(batches))]


class TruncatedBatches:
    """Long sequences in stretches, for truncated BPTT: ``carry`` says where the state of the one before goes on.

    The state is the model's to keep: `Predictor` does.

    Parameters
    ----------
    sequences : (n, T, F) array, or list of (T_i, F) arrays
        As in `Batches`.
    targets : (n, T, ...) array, list of (T_i, ...), or None
        A target for each step.
    steps : int
        The steps of a stretch; the last of a sequence may be shorter.
    batch_size : int, default 32
        N: so many sequences run side by side, in the order in which they come.

    Raises
    ------
    ValueError, TypeError
        As in `Batches`.

    Notes
    -----
    The outputs of all stretches are those of one long pass, to the bit. The gradients are not: those of a stretch take
    the state that comes in as given [1]_.

    References
    ----------
    .. [1] R. J. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
       trajectories", Neural Computation 2 (1990).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_rs.train import TruncatedBatches
    >>> for batch in TruncatedBatches(np.ones((1, 25, 3)), np.ones((1, 25, 1)), steps=10):
    ...     print(batch.x.shape, batch.carry)
    (10, 1, 3) False
    (10, 1, 3) True
    (5, 1, 3) True
    """

    def __init__(self, sequences: Sequences, targets: Sequences | None, *, steps: int, batch_size: int = 32) -> None:
        self._rows = _Rows(sequences, targets, per_step=True)
        self.steps = _size("steps", steps, 1)
        self.batch_size = _size("batch_size", batch_size, 1)
        count = self._rows.count
        self._groups = [
            np.arange(first, min(first + self.batch_size, count)) for first in range(0, count, self.batch_size)
        ]

    def __len__(self) -> int:
        return sum(len(self._firsts(group)) for group in self._groups)

    def __iter__(self) -> Iterator[Batch]:
        for group in self._groups:
            for first in self._firsts(group):
                yield self._rows.batch(group, first, self.steps, carry=first > 0)

    def _firsts(self, group: np.ndarray) -> range:
        """Where the stretches of these sequences begin."""
        return range(0, int(self._rows.lengths[group].max()), self.steps)
