"""An LSTM in a file of its own, and out of it again: safetensors.

The tensors have the names and the layout of `LSTM.weights`. What makes a layer of them is in the file's header, under
``lstm_rs`` in its metadata, as JSON: the version of this format, the arguments of `LSTM`, and what of its cell is not
as in ``CellSpec()``. Beside it there is room for what the caller wants to keep.

A file is believed only as far as it has been checked: sizes against the shapes in the header, before anything of that
size is made. No part of it is run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np

from lstm_rs._core import __version__
from lstm_rs._optional import need
from lstm_rs._parameters import Layout
from lstm_rs.cell import CellSpec

_KEY = "lstm_rs"
_VERSION = 1
# The header of 10000 tensors has about 1 MB; the rest is room for metadata.
_LONGEST_HEADER = 16 << 20
# So that what sizes are multiplied to can be written out.
_TOO_LARGE = 1 << 62
# NumPy 1 has no more.
_MOST_AXES = 32
_SIZES = {"input_size": 0, "hidden_size": 1, "num_layers": 1, "proj_size": 0}
_FLAGS = ("bias", "batch_first", "bidirectional")
_DTYPES = {"float32": "F32", "float64": "F64"}
# What there is in a file of an estimator or a checkpoint, by the names of safetensors.
_NUMBERS = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def write(
    path: str | os.PathLike[str],
    options: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None,
) -> None:
    """Write a layer of these arguments and weights; see `LSTM.save`."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: expected a mapping of str to str, got {type(metadata).__name__}")
    kept = {} if metadata is None else dict(metadata)
    for name, text in kept.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError(f"metadata: expected a mapping of str to str, got {name!r}: {text!r}")
    if _KEY in kept:
        raise ValueError(f"metadata: expected any name but {_KEY!r}, which has the layer's own")
    _check_finite("lstm", arrays)
    safetensors = need("safetensors.numpy", "LSTM.save", "safetensors")
    kept[_KEY] = json.dumps(_described(options), allow_nan=False)
    data = safetensors.save(dict(arrays), metadata=kept)
    check_header_size(data)
    _replace(os.path.realpath(os.fspath(path)), data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the arguments and the weights of a layer, which fit each other; see `LSTM.load`."""
    path = os.fspath(path)
    _check_header(path)
    safetensors = need("safetensors", "LSTM.load", "safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError(
                    f"{path}: expected {_KEY!r} in its metadata, as LSTM.save writes it; tensors of PyTorch can be "
                    f"given to lstm_rs.from_torch"
                )
            slices = {name: file.get_slice(name) for name in file.keys()}
            tensors = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            options = _options(path, metadata[_KEY], tensors)
            arrays = {name: file.get_tensor(name) for name in tensors}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: expected a whole safetensors file, got one that cannot be read: {error}") from error
    _check_finite(path, arrays)
    return options, arrays


def read_tensors(path: str, file: Any) -> dict[str, np.ndarray]:
    """All tensors of an open file, if NumPy has such numbers."""
    tensors = {}
    for name in file.keys():
        part = file.get_slice(name)
        kind, shape = part.get_dtype(), part.get_shape()
        if kind not in _NUMBERS:
            raise ValueError(f"{path}: {name}: expected numbers of {', '.join(_NUMBERS)}, got {kind}")
        # Of no bytes, where one size is 0, and still more than NumPy can count.
        if len(shape) > _MOST_AXES or 8 * math.prod(size for size in shape if size) > _TOO_LARGE:
            raise ValueError(f"{path}: {name}: expected the shape of an array, got {shape}")
        tensors[name] = file.get_tensor(name)
    return tensors


def check_header_size(data: bytes) -> None:
    """Refuse to write what would not be read."""
    header = int.from_bytes(data[:8], "little")
    if header > _LONGEST_HEADER:
        raise ValueError(f"metadata: expected a header of at most {_LONGEST_HEADER} bytes, got {header}")


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the header says of a layer."""
    default, cell = CellSpec(), options["cell"]
    return {
        "format_version": _VERSION,
        "library": f"lstm_rs {__version__}",
        **options,
        "dtype": options["dtype"].name,
        # What is as in the default is left out: an older version can then read all that it can make.
        "cell": {
            field.name: getattr(cell, field.name)
            for field in fields(CellSpec)
            if getattr(cell, field.name) != getattr(default, field.name)
        },
    }


def _check_finite(source: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse weights that are no numbers."""
    for name, array in arrays.items():
        wrong = int(np.count_nonzero(~np.isfinite(array)))
        if wrong:
            raise ValueError(f"{source}: {name}: {wrong} of {array.size} weights are NaN or infinite")


def _replace(path: str, data: bytes) -> None:
    """Write a file, so that there is the old one or the new one, and never a part."""
    folder, name = os.path.split(path)
    # In the same folder: to put one file in another's place they have to be on one disk.
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        # Not tempfile: its files are for their owner alone, and this one stays.
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _check_header(path: str) -> None:
    """Refuse what cannot be a header by its length, before anyone reads it."""
    with open(path, "rb") as file:
        first = file.read(8)
        size = file.seek(0, os.SEEK_END)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > size - 8:
        raise ValueError(
            f"{path}: expected a whole safetensors file, got {size} bytes"
            + (f" and a header of {length}" if len(first) == 8 else "")
        )
    if length > _LONGEST_HEADER:
        raise ValueError(f"{path}: expected a header of at most {_LONGEST_HEADER} bytes, got {length}")


def _options(path: str, text: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """The arguments of the `LSTM` that the tensors fit, or an error."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON under {_KEY!r} in its metadata: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path}: expected a JSON object under {_KEY!r} in its metadata, got {type(said).__name__}")
    version, library = said.pop("format_version", None), said.pop("library", "an unknown version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: expected a format_version of {_VERSION}, got {version!r}")
    if version > _VERSION:
        raise ValueError(
            f"{path}: expected format_version {_VERSION} at most, got {version}, written by {library}: a newer lstm_rs "
            f"reads it"
        )
    known = (*_SIZES, *_FLAGS, "dropout", "dtype", "cell")
    missing = [name for name in known if name not in said]
    unknown = [name for name in said if name not in known]
    if missing or unknown:
        lists = (("missing", missing), ("unknown", unknown))
        raise ValueError(
            f"{path}: header: " + "; ".join(f"{what}: {', '.join(names)}" for what, names in lists if names)
        )
    for name, least in _SIZES.items():
        if type(said[name]) is not int or said[name] < least:
            raise ValueError(f"{path}: header: expected an int from {least} on for {name}, got {said[name]!r}")
        if said[name] >= _TOO_LARGE:
            raise ValueError(f"{path}: header: expected less than {_TOO_LARGE} for {name}, got {said[name]}")
    for name in _FLAGS:
        if type(said[name]) is not bool:
            raise ValueError(f"{path}: header: expected true or false for {name}, got {said[name]!r}")
    if said["proj_size"] >= said["hidden_size"]:
        raise ValueError(
            f"{path}: header: expected proj_size less than hidden_size {said['hidden_size']}, got {said['proj_size']}"
        )
    if type(said["dropout"]) not in (int, float) or not 0.0 <= said["dropout"] < 1.0:
        raise ValueError(f"{path}: header: expected a dropout from 0 to less than 1, got {said['dropout']!r}")
    if not isinstance(said["dtype"], str) or said["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: header: expected dtype float32 or float64, got {said['dtype']!r}")
    said["cell"] = _cell(path, said["cell"], library)
    said["dropout"] = float(said["dropout"])
    _check_tensors(path, said, tensors)
    return said


def _cell(path: str, said: Any, library: str) -> CellSpec:
    """The cell that the header says."""
    if not isinstance(said, dict):
        raise ValueError(f"{path}: header: expected a JSON object for cell, got {said!r}")
    known = [field.name for field in fields(CellSpec)]
    unknown = [name for name in said if name not in known]
    if unknown:
        raise ValueError(
            f"{path}: header: cell: unknown: {', '.join(unknown)}, written by {library}; this version knows "
            f"{', '.join(known)}"
        )
    try:
        parts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
        }
        return CellSpec(**parts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: header: {error}") from error


def _check_tensors(path: str, said: Mapping[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """The tensors are those of such a layer, by name, dtype and shape."""
    directions = 2 if said["bidirectional"] else 1
    each = 2 + said["bias"] + bool(said["cell"].peepholes) + bool(said["proj_size"])
    # Counted first: there may be more layers in the header than names fit into memory.
    count = said["num_layers"] * directions * each
    if count > len(tensors):
        raise ValueError(
            f"{path}: expected {count} tensors, {each} for each of {said['num_layers']} layers in {directions} "
            f"directions, got {len(tensors)}"
        )
    layout = Layout(
        said["cell"],
        np.dtype(said["dtype"]),
        input_size=said["input_size"],
        hidden_size=said["hidden_size"],
        output_size=said["proj_size"] or said["hidden_size"],
        num_layers=said["num_layers"],
        directions=directions,
        bias=said["bias"],
        batch_first=said["batch_first"],
    )
    missing = [name for name in layout.shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in layout.shapes]
    if missing or unexpected:
        lists = (("missing", missing), ("unexpected", unexpected))
        raise ValueError(
            f"{path}: tensors: " + "; ".join(f"{what}: {', '.join(names)}" for what, names in lists if names)
        )
    for name, shape in layout.shapes.items():
        dtype, given = tensors[name]
        if dtype != _DTYPES[said["dtype"]]:
            raise ValueError(f"{path}: {name}: expected {_DTYPES[said['dtype']]}, as the header has it, got {dtype}")
        if given != shape:
            raise ValueError(f"{path}: {name}: expected shape {shape}, for the sizes in the header, got {given}")
