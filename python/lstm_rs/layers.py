"""The layer: any number of layers and directions, with parameters of its own.

A running call, a tape and a stream finish on the weights that they took; see `lstm_rs._parameters`.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_rs import _core
from lstm_rs._parameters import LayerWeights, Layout, Store, as_array, float_dtype
from lstm_rs._passes import Dropout, LSTMGradients, LSTMTape
from lstm_rs._stream import Stream
from lstm_rs.cell import CellSpec
from lstm_rs.functional import Lengths, State, StateLike, as_lengths, new_state

_DROPOUT_OF_ONE = "dropout acts between layers: with num_layers=1 it does nothing"

__doctest_requires__ = {"LSTM.save": ["safetensors"], "LSTM.load": ["safetensors"]}


class LSTM:
    """Layers of LSTM cells, in one direction or both, that own their weights.

    Shapes and names are those of ``torch.nn.LSTM``, but for one bias in the place of two.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
        L. Each layer runs over the outputs of the one below.
    bias : bool, default True
        Do the gates have a bias?
    batch_first : bool, default False
        Are `x` and `y` (N, T, ...)? It does not concern the state.
    bidirectional : bool, default False
        A second set of weights in each layer runs from the last step to the first; the outputs stand side by side.
        Then D = 2, else 1.
    proj_size : int, default 0
        P, less than H: the hidden state is projected to so many outputs. 0 means no projection, P = H.
    dropout : float, default 0.0
        The probability that an output of any layer but the last is set to 0, in `forward_train` only.
    cell : CellSpec, optional
        The cell; by default the LSTM of Gers et al. 1999.
    dtype : dtype, default float32
        float32 or float64: of the weights, and of all that comes in and goes out.
    seed : int, numpy.random.Generator or None
        Where the initial weights, and later the dropout, come from.

    Raises
    ------
    ValueError
        If a size does not make sense.
    TypeError
        If an argument is of another type.

    Attributes
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, proj_size, cell, dtype
        As they were given; fixed.
    dropout : float
        As it was given; may be set.
    weights
        The weights by name.

    Notes
    -----
    Initial weights are uniform on (-1/sqrt(H), 1/sqrt(H)), peepholes too; then 1 is added to the bias of a forget gate
    that has one, so that the cell remembers before it has learnt to [1]_ [2]_.

    Calls from several threads at once are safe. Each runs on the weights as they were when it began.

    References
    ----------
    .. [1] F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", 1999.
    .. [2] R. Jozefowicz, W. Zaremba, I. Sutskever, "An empirical exploration of recurrent network architectures", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import lstm_rs
    >>> lstm = lstm_rs.LSTM(3, 8, num_layers=2, bidirectional=True, seed=0)
    >>> y, (h, c) = lstm(np.zeros((5, 4, 3), dtype=np.float32))
    >>> y.shape, h.shape, c.shape
    ((5, 4, 16), (4, 4, 8), (4, 4, 8))
    >>> lstm.weights["weight_ih_l1_reverse"].shape
    (32, 16)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        proj_size: int = 0,
        dropout: float = 0.0,
        cell: CellSpec | None = None,
        dtype: npt.DTypeLike = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self._configure(
            input_size, hidden_size, num_layers, bias, batch_first, bidirectional, proj_size, dropout, cell, dtype
        )
        if dropout > 0.0 and num_layers == 1:
            warnings.warn(_DROPOUT_OF_ONE, UserWarning, stacklevel=2)
        self._rng: np.random.Generator | None = np.random.default_rng(seed)
        layout = self._layout()
        self._store = Store(layout, layout.initial(self._rng))

    @classmethod
    def _of(cls, arrays: Mapping[str, np.ndarray], **options: Any) -> LSTM:
        """Make a layer of these weights, given all options but the seed; `numpy.random`, slow to import, can wait."""
        lstm = cls.__new__(cls)
        lstm._configure(**options)
        lstm._rng = None
        layout = lstm._layout()
        lstm._store = Store(layout, {name: layout.check(name, arrays[name]) for name in layout.shapes})
        return lstm

    def _configure(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        bidirectional: bool,
        proj_size: int,
        dropout: float,
        cell: CellSpec | None,
        dtype: npt.DTypeLike,
    ) -> None:
        """Check the options, and set them."""
        self.input_size = _size("input_size", input_size, 0)
        self.hidden_size = _size("hidden_size", hidden_size, 1)
        self.num_layers = _size("num_layers", num_layers, 1)
        self.proj_size = _size("proj_size", proj_size, 0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size: expected less than hidden_size {hidden_size} (0 for no projection), got {proj_size}"
            )
        for name, flag in (("bias", bias), ("batch_first", batch_first), ("bidirectional", bidirectional)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}: expected a bool, got {flag!r}")
        if isinstance(dropout, bool) or not isinstance(dropout, float | int | np.floating):
            raise TypeError(f"dropout: expected a float, got {dropout!r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a probability from 0 to less than 1, got {dropout!r}")
        if not isinstance(cell, CellSpec | None):
            raise TypeError(f"cell: expected a CellSpec, got {type(cell).__name__}")
        self.dtype = float_dtype(dtype)
        self.bias = bias
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.dropout = float(dropout)
        self.cell = CellSpec() if cell is None else cell

    def _layout(self) -> Layout:
        return Layout(
            self.cell,
            self.dtype,
            input_size=self.input_size,
            hidden_size=self.hidden_size,
            output_size=self.proj_size or self.hidden_size,
            num_layers=self.num_layers,
            directions=2 if self.bidirectional else 1,
            bias=self.bias,
            batch_first=self.batch_first,
        )

    def __setattr__(self, name: str, value: object) -> None:
        # What the weights were made for. `dropout` may change.
        if not name.startswith("_") and name != "dropout" and name in self.__dict__:
            raise AttributeError(f"LSTM.{name} is fixed: make another layer")
        super().__setattr__(name, value)

    def __call__(self, x: npt.ArrayLike, state: StateLike = None, lengths: Lengths = None) -> tuple[np.ndarray, State]:
        """Run forward.

        Parameters
        ----------
        x : (T, N, I) array, or (T, I) for one sequence
            The input, of the layer's dtype; (N, T, I) with ``batch_first``.
        state : State or tuple (h, c), optional
            The initial state, (L*D, N, P) and (L*D, N, H); without N for one sequence. Zeros if there is none.
        lengths : (N,) ints, or int for one sequence, optional
            The valid steps of each sequence, from 0 to T; past them `y` is 0 and `x` is never read.

        Returns
        -------
        y : (T, N, D*P) array
            The last layer's output of every step.
        state : State
            The final state, shaped as the initial one.

        Raises
        ------
        ValueError, TypeError
            If a shape, a length or a dtype does not fit; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(3, 8, seed=0)
        >>> y, state = lstm(np.ones((5, 3), dtype=np.float32))
        >>> y.shape, state.h.shape
        ((5, 8), (1, 8))
        """
        if lengths is not None:
            lengths = as_lengths(lengths)
        y, h, c = self._store.snapshot.layers.forward(x, state, lengths)
        return y, new_state((h, c))

    def forward_train(
        self,
        x: npt.ArrayLike,
        state: StateLike = None,
        lengths: Lengths = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, State, LSTMTape]:
        """Run forward with dropout, and record what `backward` needs.

        Parameters
        ----------
        x, state, lengths
            As in a call.
        rng : numpy.random.Generator, optional
            Where the dropout comes from; the layer's own if there is none.

        Returns
        -------
        y, state
            As from a call: the same bits where there is no dropout.
        tape : LSTMTape
            The gates and states of every layer, direction and step. Keep `x`, `y` and the initial state as they are
            until `backward`: the tape refers to them.

        Raises
        ------
        ValueError, TypeError
            As in a call.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(3, 8, num_layers=2, seed=0)
        >>> y, state, tape = lstm.forward_train(np.ones((5, 2, 3), dtype=np.float32))
        >>> tape.layers[1].gates.shape
        (5, 2, 4, 8)
        """
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"rng: expected a numpy.random.Generator, got {type(rng).__name__}; make one with np.random.default_rng"
            )
        snapshot = self._store.snapshot
        if lengths is not None:
            lengths = as_lengths(lengths)
        mask = None
        if self.dropout > 0.0:
            if rng is None:
                if self._rng is None:
                    self._rng = np.random.default_rng()
                rng = self._rng
            mask = Dropout(self.dropout, rng, self.dtype).mask
        y, h, c, records, masks = snapshot.layers.forward_train(x, state, lengths, mask)
        return y, new_state((h, c)), LSTMTape._of(snapshot, records, masks)

    def backward(
        self,
        tape: LSTMTape,
        dy: npt.ArrayLike | None = None,
        dstate: StateLike = None,
        *,
        need_dx: bool = True,
    ) -> LSTMGradients:
        """Run backward over what a tape has recorded, with the weights and the dropout that it ran with.

        Parameters
        ----------
        tape : LSTMTape
            From `forward_train`; it can be used again.
        dy : array, optional
            The gradient of the loss with respect to `y`, shaped as `y`. None means zeros.
        dstate : State or tuple (h, c), optional
            The gradient with respect to the final state. None means zeros.
        need_dx : bool, default True
            Without it the gradient of `x` is None, and its product is saved.

        Returns
        -------
        LSTMGradients
            ``x``, ``weights`` (by name) and ``state``.

        Raises
        ------
        ValueError, TypeError
            If a shape or a dtype does not fit, or if the tape is of another kind of layer.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(3, 8, seed=0)
        >>> y, state, tape = lstm.forward_train(np.ones((5, 2, 3), dtype=np.float32))
        >>> grads = lstm.backward(tape, dy=np.ones_like(y))
        >>> sorted(grads.weights), grads.x.shape
        (['bias_l0', 'weight_hh_l0', 'weight_ih_l0'], (5, 2, 3))
        """
        if not isinstance(tape, LSTMTape):
            raise TypeError(f"tape: expected the LSTMTape of forward_train, got {type(tape).__name__}")
        layout = self._store.layout
        packed = tape._packed(layout)
        if packed is None:
            raise ValueError(f"tape: expected one of {self!r}, got one of a layer of another kind: {tape!r}")
        _, records, masks = tape._recorded
        dx, weights, h, c = _core.backward_layers(packed, records, masks, dy, dstate, need_dx)
        return LSTMGradients(dx, dict(zip(layout.shapes, weights, strict=True)), new_state((h, c)))

    @property
    def weights(self) -> LayerWeights:
        """The weights by name: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_l0``, ``peephole_l0``, ``weight_hr_l0``, ...

        A second direction's end in ``_reverse``. The arrays are read-only; assign to a name to set one, which copies,
        checks and packs it. To change several, or in place, use `edit`.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(3, 8, seed=0)
        >>> lstm.weights["bias_l0"] = np.zeros(32, dtype=np.float32)
        >>> float(lstm.weights["bias_l0"].sum())
        0.0
        """
        return LayerWeights(self._store)

    def edit(self) -> AbstractContextManager[dict[str, np.ndarray]]:
        """Writable weights inside, packed once at the end: for optimisers.

        Returns
        -------
        context manager of dict of str to array
            Copies of the weights. They become the layer's when the block ends without an exception, and not before.

        Raises
        ------
        RuntimeError
            At the end, if the weights were changed by others meanwhile: nothing of the edit is taken then.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(3, 8, seed=0)
        >>> y, state, tape = lstm.forward_train(np.ones((5, 2, 3), dtype=np.float32))
        >>> grads = lstm.backward(tape, dy=y)
        >>> with lstm.edit() as w:
        ...     for name, gradient in grads.weights.items():
        ...         w[name] -= 0.1 * gradient
        """
        return self._store.edit()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the weights, by name.

        Examples
        --------
        >>> list(LSTM(3, 8, bias=False).state_dict())
        ['weight_ih_l0', 'weight_hh_l0']
        """
        return {name: array.copy() for name, array in self._store.snapshot.arrays.items()}

    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Take all weights from a dict, or none where something is wrong.

        Parameters
        ----------
        state_dict : mapping of str to array
            By our names; the two biases of PyTorch, ``bias_ih_*`` and ``bias_hh_*``, are added. float32 and float64 are
            cast to the layer's dtype.

        Raises
        ------
        KeyError
            If names are missing or unexpected; it lists them.
        ValueError, TypeError
            If a shape or a dtype does not fit.

        Examples
        --------
        >>> one, two = LSTM(3, 8, seed=1), LSTM(3, 8, seed=2)
        >>> two.load_state_dict(one.state_dict())
        >>> bool((one.weights["weight_hh_l0"] == two.weights["weight_hh_l0"]).all())
        True
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        given: dict[str, Any] = {name: as_array(str(name), array) for name, array in state_dict.items()}
        layout = self._store.layout
        for names in layout.parts:
            if names.b is not None:
                suffix = names.b.removeprefix("bias")
                pair = ("bias_ih" + suffix, "bias_hh" + suffix)
                if names.b not in given and all(name in given for name in pair):
                    input_bias, hidden_bias = (given.pop(name) for name in pair)
                    if input_bias.shape != hidden_bias.shape:
                        raise ValueError(f"{pair[1]}: expected shape {input_bias.shape}, as {pair[0]}, "
                                         f"got {hidden_bias.shape}")  # fmt: skip
                    # Added before they are cast: a float64 layer then loses nothing of float32 biases.
                    with np.errstate(over="ignore"):
                        given[names.b] = _floats(pair[0], input_bias) + _floats(pair[1], hidden_bias)
        missing = [name for name in layout.shapes if name not in given]
        unexpected = [name for name in given if name not in layout.shapes]
        if missing or unexpected:
            lists = (("missing", missing), ("unexpected", unexpected))
            raise KeyError("state_dict: " + "; ".join(f"{what}: {', '.join(map(str, n))}" for what, n in lists if n))
        self._store.assign(
            {name: layout.check(name, _cast(name, _floats(name, array), self.dtype)) for name, array in given.items()}
        )

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write the layer to a safetensors file: weights, cell, options and dtype.

        Parameters
        ----------
        path : path
            Where to. What is there is replaced as a whole when all has been written, and not before.
        metadata : mapping of str to str, optional
            What else to keep in the file's header, by any name but "lstm_rs".

        Raises
        ------
        TypeError
            If `metadata` has what is not a str.
        ValueError
            If a weight is NaN or infinite, if `metadata` has the name "lstm_rs", or is larger than a header may be.
        OSError
            If the file cannot be written.
        ImportError
            If safetensors is not installed.

        Examples
        --------
        >>> import os, tempfile
        >>> lstm = LSTM(3, 8, num_layers=2, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     lstm.save(path, metadata={"trained on": "tides"})
        ...     LSTM.load(path)
        LSTM(3, 8, num_layers=2)
        """
        # Imported when it is needed: who does not use files does not wait for it.
        from lstm_rs import _files

        options = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size",
                   "dropout", "cell", "dtype")  # fmt: skip
        _files.write(path, {name: getattr(self, name) for name in options}, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LSTM:
        """Make a layer of a file that `save` wrote: the same to the bit.

        Parameters
        ----------
        path : path
            Where from.

        Returns
        -------
        LSTM
            With the weights, cell, options and dtype that were saved. Dropout starts from chance.

        Raises
        ------
        ValueError
            If the file is broken, is another kind of file, was written by a newer version, or if its header, its
            tensors and their shapes do not fit together, or a weight is NaN or infinite. Nothing is made then.
        OSError
            If the file cannot be opened.
        ImportError
            If safetensors is not installed.

        Examples
        --------
        >>> import os, tempfile
        >>> lstm = LSTM(3, 8, cell=CellSpec.peephole_lstm(), seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     lstm.save(path)
        ...     again = LSTM.load(path)
        >>> again.cell.peephole, bool((again.weights["peephole_l0"] == lstm.weights["peephole_l0"]).all())
        (True, True)
        """
        from lstm_rs import _files

        options, arrays = _files.read(path)
        return cls._of(arrays, **options)

    def stream(self, batch_size: int = 1) -> Stream:
        """Run step by step, the state being kept.

        Parameters
        ----------
        batch_size : int, default 1
            How many sequences run side by side.

        Returns
        -------
        Stream
            Of the weights as they are now; any number of streams share them.

        Raises
        ------
        ValueError
            If the layer is bidirectional: the second direction starts from the end.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(3, 8, seed=0)
        >>> x = np.ones((5, 3), dtype=np.float32)
        >>> stream = lstm.stream()
        >>> steps = [stream.step(x_t) for x_t in x]
        >>> bool((np.stack(steps) == lstm(x)[0]).all())
        True
        """
        if self.bidirectional:
            raise ValueError("stream: a bidirectional layer starts from both ends; use one with bidirectional=False")
        return Stream(self._store, _size("batch_size", batch_size, 1))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_store"] = dict(self._store.snapshot.arrays)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("_store")
        self.__dict__.update(state)
        self._store = Store(self._layout(), arrays)

    def __repr__(self) -> str:
        options = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "bidirectional": (self.bidirectional, False),
            "proj_size": (self.proj_size, 0),
            "dropout": (self.dropout, 0.0),
            "cell": (self.cell, CellSpec()),
            "dtype": (self.dtype, np.dtype(np.float32)),
        }
        said = [f"{name}={value}" for name, (value, default) in options.items() if value != default]
        return f"LSTM({', '.join([str(self.input_size), str(self.hidden_size), *said])})"


def _floats(name: str, array: np.ndarray) -> np.ndarray:
    """An array of float32 or float64 as float64."""
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}")
    return array.astype(np.float64)


def _cast(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A float64 array as one of another dtype that has all of its numbers."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    lost = np.isinf(cast) & np.isfinite(array)
    if lost.any():
        raise ValueError(
            f"{name}: expected at most {np.finfo(dtype).max:.3g}, for {dtype}, got {np.abs(array[lost]).max():.3g}"
        )
    return cast


def _size(name: str, value: int, least: int) -> int:
    """A size as an int."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}") from None
    if size < least:
        raise ValueError(f"{name}: expected at least {least}, got {size}")
    return size
