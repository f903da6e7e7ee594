"""HDF5 files of Keras: valid HDF5 whose groups, attributes, arrays and configurations are fuzzed.

Never the bytes of a file: the HDF5 library itself crashes on some that are damaged.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import h5py
import lstm_rs
import numpy as np
from choices import Choices, Skip, as_json, mutated
from contract import Attempt, check_lstm, documented

_WORDS = ["layer_names", "weight_names", "layer_names0", "weight_names0", "weight_names1", "keras_version", "name",
          "model_config", "model_weights", "lstm", "lstm/kernel:0", "lstm/recurrent_kernel:0", "lstm/bias:0",
          "forward_lstm", "backward_lstm", "forward_lstm/kernel:0", "lstm_cell", "cell", "vars", "layers", "1.2.2",
          "2.2.4", "3.1.0", "shape", "dtype", "options", "f4", "f8", "f2", ">f4", "i4", "S3", "gzip", "empty",
          "virtual", "external", "soft", "null", "chunked", "attrs", "groups", "arrays", "@null"]  # fmt: skip
_CONFIG_WORDS = ["LSTM", "CuDNNLSTM", "Bidirectional", "GRU", "lstm", "name", "class_name", "config", "layer",
                 "backward_layer", "merge_mode", "concat", "sum", "go_backwards", "time_major", "activation",
                 "recurrent_activation", "tanh", "sigmoid", "relu", "elu", "softsign", "softplus", "linear",
                 "leaky_relu", "hard_sigmoid", "LeakyReLU", "ELU", "alpha", "negative_slope", "value", "module",
                 "keras.layers", "registered_name"]  # fmt: skip
_LARGEST = 1 << 14


def _arrays(input_size: int, hidden_size: int, names: str, bias: int = 4) -> dict[str, Any]:
    shapes = ([input_size, 4 * hidden_size], [hidden_size, 4 * hidden_size], [bias * hidden_size])
    return {
        name: {"shape": shape, "dtype": "f4", "options": ""} for name, shape in zip(names.split(), shapes, strict=True)
    }


_NAMES = "kernel:0 recurrent_kernel:0 bias:0"


def _layer(name: str, owners: list[str], **sizes: int) -> dict[str, Any]:
    """The group of a layer in the layout of Keras 1 and 2."""
    arrays = _arrays(3, 2, _NAMES, **sizes)
    return {
        "attrs": {"weight_names": [f"{owner}/{array}" for owner in owners for array in arrays]},
        "groups": {owner: {"arrays": arrays} for owner in owners},
    }


def _config(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": "lstm", **config}}


def _files() -> list[tuple[dict[str, Any], Any]]:
    """Files as trees, each with its configuration."""
    old = {"attrs": {"layer_names": ["lstm"], "keras_version": "2.15.0"}, "groups": {"lstm": _layer("lstm", ["lstm"])}}
    both = _layer("lstm", ["lstm/forward_lstm", "lstm/backward_lstm"])
    both["groups"] = {"lstm": {"groups": {k.partition("/")[2]: group for k, group in both["groups"].items()}}}
    whole = {"groups": {"model_weights": {"attrs": old["attrs"], "groups": {"lstm": both}}}}
    cudnn = {"groups": {"model_weights": {"attrs": old["attrs"], "groups": {"lstm": _layer("lstm", ["lstm"], bias=8)}}}}
    numbered = {
        "groups": {
            "cell": {"groups": {"vars": {"arrays": _arrays(3, 2, "0 1 2")}}},
            "vars": {"attrs": {"name": "lstm"}},
        }
    }
    new = {"groups": {"layers": {"groups": {"lstm": numbered}}}}
    ways = {"groups": {"forward_layer": numbered, "backward_layer": numbered}}
    leaky = {"class_name": "LeakyReLU", "config": {"negative_slope": 0.25}, "module": "keras.layers"}
    plain = _config("LSTM", activation="tanh", recurrent_activation="hard_sigmoid", go_backwards=False)
    pair = _config(
        "Bidirectional",
        merge_mode="concat",
        layer=_config("LSTM", activation=leaky),
        backward_layer=_config("LSTM", activation=leaky, go_backwards=True),
    )
    sequential = {"class_name": "Sequential", "config": {"layers": [pair]}}
    return [
        (old, None),
        (whole, sequential),
        (cudnn, {"config": {"layers": [_config("CuDNNLSTM")]}}),
        (new, None),
        ({"groups": {"layers": {"groups": {"both": ways}}}}, None),
        ({"groups": {"model_weights": old}}, {"config": {"layers": [plain]}}),
    ]


class KerasH5:
    """`lstm_rs.from_keras_h5`."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "model.h5")
        self._files = _files()
        # Refused: a gigabyte that the file does not have.
        hollow = copy.deepcopy(self._files[0][0])
        hollow["groups"]["lstm"]["groups"]["lstm"]["arrays"]["kernel:0"] |= {"shape": [1 << 25, 8], "options": "empty"}
        self._starts = [*self._files, (hollow, None)]

    def seeds(self) -> list[bytes]:
        """Each file as it is."""
        return [bytes([k]) for k in range(len(self._files))]

    def attempt(self, choices: Choices) -> Attempt:
        """A file, the name of a layer, and a cell."""
        file, config = choices.pick(self._starts)
        file = mutated(file, choices, _WORDS)
        text = None if config is None else as_json(mutated(config, choices, _CONFIG_WORDS), choices)
        layer = choices.pick([None, "lstm", "lstm/lstm", ""])
        cell = choices.pick([None, None, lstm_rs.CellSpec(), lstm_rs.CellSpec(peephole=True)])
        with h5py.File(self._path, "w") as root:
            try:
                if text is not None:
                    root.attrs["model_config"] = text
                _write(root, file)
            except (TypeError, ValueError, OSError, KeyError, RuntimeError, AttributeError, OverflowError,
                    RecursionError, MemoryError, UnicodeError, IndexError, SystemError) as error:  # fmt: skip
                raise Skip from error
        return Attempt(
            lambda: lstm_rs.from_keras_h5(self._path, layer, cell=cell),
            check_lstm,
            errors=documented(lstm_rs.from_keras_h5),
            shown=f"layer={layer!r} cell={cell} {file!r} {text}",
        )


def _write(group: Any, said: Any) -> None:
    """A group, and all in it, as far as the tree makes sense."""
    for name, value in _items(said, "attrs"):
        group.attrs[name] = _attribute(value)
    for name, array in _items(said, "arrays"):
        if isinstance(array, dict):
            _dataset(group, name, array)
    for name, inner in _items(said, "groups"):
        _write(group.require_group(name), inner)


def _items(said: Any, kind: str) -> Iterator[tuple[str, Any]]:
    items = said.get(kind) if isinstance(said, dict) else None
    for name, value in items.items() if isinstance(items, dict) else ():
        if isinstance(name, str) and name:
            yield name, value


def _attribute(value: Any) -> Any:
    if value == "@null" or value is None:
        return h5py.Empty("f4")
    if value == "ä":
        return np.bytes_(b"\xff\xfe")
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return np.array([text.encode() for text in value])
    return value


def _dataset(group: Any, name: str, said: dict[str, Any]) -> None:
    """An array of tenths, or one whose numbers are not where they should be."""
    shape, dtype, how = said.get("shape"), said.get("dtype", "f4"), said.get("options", "")
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise Skip
    if how == "null":
        group[name] = h5py.Empty(dtype)
    elif how == "soft":
        group[name] = h5py.SoftLink("/" + name)
    elif how == "empty":
        group.create_dataset(name, shape, dtype)
    elif how == "chunked":
        group.create_dataset(name, shape, dtype, chunks=tuple(min(size, 4) for size in shape), compression="gzip")
    elif how == "external":
        group.create_dataset(name, shape, dtype, external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])
    elif how == "virtual":
        layout = h5py.VirtualLayout(tuple(shape), dtype)
        layout[...] = h5py.VirtualSource("/dev/zero", "x", tuple(shape))
        group.create_virtual_dataset(name, layout)
    elif np.prod(shape, dtype=object) > _LARGEST:
        raise Skip
    else:
        data = np.full(shape, 0.1).astype(dtype)
        group.create_dataset(name, data=data, **({"compression": "gzip"} if how == "gzip" else {}))
