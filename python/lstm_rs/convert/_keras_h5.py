"""Weights of a Keras LSTM out of an HDF5 file, without Keras.

Three layouts are read:

- weights of Keras 1 and 2 (``model.save_weights("x.h5")``): the attribute ``layer_names`` of the root, and in each
  layer's group the attribute ``weight_names``, which are paths of arrays;
- whole models of Keras 2 and 3 (``model.save("x.h5")``): the same under ``model_weights``, and the configuration of all
  layers as JSON in the attribute ``model_config``;
- weights of Keras 3 (``model.save_weights("x.weights.h5")``): a group for each layer, its arrays under ``cell/vars`` by
  number, its name in the attribute ``name`` of ``vars``.

A file is data here and nothing else: no object is made of what it says, and links out of it are not followed.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_rs._optional import need
from lstm_rs.cell import CellSpec
from lstm_rs.convert._keras import assemble
from lstm_rs.convert._keras_config import Described, describe, major_version
from lstm_rs.layers import LSTM

__doctest_requires__ = {"from_keras_h5": ["h5py"]}

_ARRAYS = ("kernel", "recurrent_kernel", "bias")
# What no compression of HDF5 goes beyond: deflate packs 1032 bytes into one.
_DENSEST = 1032


class _Layer(NamedTuple):
    """A recurrent layer of the file: its name, and the arrays of its directions, that are datasets still."""

    name: str
    groups: list[list[Any]]

    @property
    def gates(self) -> int:
        """How many: 4 in an LSTM."""
        shape = self.groups[0][1].shape
        return int(shape[1] // shape[0]) if shape[0] and shape[1] % shape[0] == 0 else 0


def from_keras_h5(
    path: str | os.PathLike[str],
    layer: str | None = None,
    *,
    cell: CellSpec | None = None,
    dtype: npt.DTypeLike | None = None,
) -> LSTM:
    """Make a layer of the weights of a Keras LSTM in an HDF5 file.

    Parameters
    ----------
    path : path
        A file of weights or a whole model: ``.h5``, ``.hdf5``, or ``.weights.h5`` of Keras 3.
    layer : str, optional
        The layer's name; an LSTM, CuDNNLSTM, or a Bidirectional around one. It may be left out if there is only one.
    cell : CellSpec, optional
        Which activations the weights were trained with, for a file of weights alone, which does not say; by default
        tanh, and sigmoid for the gates. A whole model says this itself.
    dtype : float32 or float64, optional
        Of the layer; by default that of the weights.

    Returns
    -------
    LSTM
        With ``batch_first=True``, as Keras has its sequences.

    Raises
    ------
    ValueError
        If the file is broken or is none of these; if there are several LSTMs to choose from, or `layer` is of another
        kind; if it has what we have not; if a shape does not fit, or a weight is NaN or infinite; or if `cell` is
        missing for weights of before Keras 2.3, where the gates may be hard_sigmoid.
    KeyError
        If there is no such layer.
    TypeError
        If a weight is not of float32 or float64.
    OSError
        If the file cannot be opened.
    ImportError
        If h5py is not installed.

    See Also
    --------
    from_keras : The same from a layer; its notes hold here.

    Notes
    -----
    A file of weights alone says neither the activations nor ``go_backwards`` nor a ``merge_mode``: those are for the
    caller to know.

    What the file says is checked before it is used: no size in it takes memory that the file does not bear out. But it
    is the HDF5 library that reads it, and that has been seen to crash on files whose lists of names were damaged on
    purpose: read a stranger's file in a process of its own.

    Examples
    --------
    >>> import h5py, numpy, os, tempfile
    >>> import lstm_rs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.h5")
    ...     with h5py.File(path, "w") as file:
    ...         file.attrs["layer_names"], file.attrs["keras_version"] = ["memory"], "2.15.0"
    ...         group = file.create_group("memory")
    ...         group.attrs["weight_names"] = ["memory/kernel:0", "memory/recurrent_kernel:0"]
    ...         group["memory/kernel:0"] = numpy.ones((3, 32), dtype="f4")
    ...         group["memory/recurrent_kernel:0"] = numpy.ones((8, 32), dtype="f4")
    ...     lstm_rs.from_keras_h5(path)
    LSTM(3, 8, bias=False, batch_first=True)
    """
    h5py = need("h5py", "from_keras_h5", "keras")
    path = os.fspath(path)
    with open(path, "rb") as file:
        # What is wrong with the path itself is an OSError, as anywhere.
        if file.read(4) == b"PK\x03\x04":
            raise ValueError(
                f"{path}: expected an HDF5 file, got a zip archive, as .keras is: unpack model.weights.h5 from it"
            )
    with _named(path):
        file = h5py.File(path, "r")
    with file:
        with _named(path):
            layers, root = _read(h5py, file)
            model = _text(file.attrs["model_config"]) if "model_config" in file.attrs else None
            versions = [_text(group.attrs["keras_version"]) for group in (file, root) if "keras_version" in group.attrs]
        found = _chosen(layers, layer, path)
        for array in (array for group in found.groups for array in group):
            _check_stored(array, path)
        with _named(path):
            groups = [[np.asarray(array[()]) for array in group] for group in found.groups]
    config = None if model is None else _config(model, found.name, path)
    version = versions[0] if versions else ""
    described = _described(found, config, cell, version, groups, path)
    ways = [""] if len(groups) == 1 else ["forward ", "backward "]
    return assemble(
        groups,
        [f"{path}: {found.name}: {way}" for way in ways],
        cell=described.cell,
        batch_first=described.batch_first,
        dtype=dtype,
    )


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Whatever HDF5 says of a broken file, with the file's name."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, AttributeError, UnicodeError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a whole HDF5 file of Keras, got one that cannot be read: {error}"
        ) from error


def _read(h5py: Any, file: Any) -> tuple[list[_Layer], Any]:
    """All recurrent layers, and the group that they stand in."""
    arrays: dict[str, Any] = {}
    groups: dict[str, Any] = {"": file}

    def visit(name: str, item: Any) -> None:
        (arrays if isinstance(item, h5py.Dataset) else groups)[name] = item

    # Along hard links only, and to each object once.
    file.visititems(visit)
    root = "model_weights" if "model_weights" in groups else ""
    if _has_texts(groups[root], "layer_names"):
        return list(_by_names(groups, arrays, root)), groups[root]
    return list(_by_numbers(groups, arrays)), file


def _by_names(groups: Mapping[str, Any], arrays: Mapping[str, Any], root: str) -> Iterator[_Layer]:
    """Layers of Keras 1 and 2, and of whole models."""
    for layer in _texts(groups[root], "layer_names"):
        place = f"{root}/{layer}".lstrip("/")
        if place not in groups:
            raise ValueError(f"{groups[''].filename}: missing the group {place!r}, which layer_names lists")
        cells: dict[tuple[str, ...], dict[str, Any]] = {}
        for name in _texts(groups[place], "weight_names"):
            if f"{place}/{name}" not in arrays:
                raise ValueError(f"{groups[''].filename}: missing the array {place}/{name}, which weight_names lists")
            *owner, last = name.split("/")
            # A cell's own group says nothing: first/lstm_cell/kernel is the kernel of first.
            if len(owner) > 1 and re.fullmatch(r"(lstm|gru|simple_rnn)_cell(_\d+)?", owner[-1]):
                owner.pop()
            cells.setdefault(tuple(owner), {})[last.partition(":")[0]] = arrays[f"{place}/{name}"]
        yield from _paired(layer, cells)


def _paired(layer: str, cells: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Iterator[_Layer]:
    """The recurrent ones among the owners of weights within a layer, the two directions of one together."""
    found: dict[tuple[str, ...], list[list[Any]]] = {}
    for owner, weights in cells.items():
        if not _recurrent(weights):
            continue
        arrays = [weights[name] for name in _ARRAYS if name in weights]
        way = re.match(r"(forward|backward)_", owner[-1]) if owner else None
        other = {"forward": "backward_", "backward": "forward_"}[way[1]] if way else ""
        pair = way and [
            one for one in cells if one[:-1] == owner[:-1] and one[-1].startswith(other) and _recurrent(cells[one])
        ]
        if not pair:
            found[owner] = [arrays]
        elif way and way[1] == "forward":
            found[owner[:-1]] = [arrays, [cells[pair[0]][name] for name in _ARRAYS if name in cells[pair[0]]]]
    alone = len(found) == 1 and sum(map(len, found.values())) == len(cells)
    for owner, groups in found.items():
        # Of a model inside a model, the path.
        inner = owner[1:] if owner[:1] == (layer,) else owner
        yield _Layer(layer if alone or not inner else "/".join((layer, *inner)), groups)


def _by_numbers(groups: Mapping[str, Any], arrays: Mapping[str, Any]) -> Iterator[_Layer]:
    """Layers of a weights file of Keras 3."""
    cells: dict[str, list[Any]] = {}
    for place in groups:
        if place.endswith("/cell/vars"):
            numbered = [arrays[f"{place}/{k}"] for k in range(3) if f"{place}/{k}" in arrays]
            if _recurrent(dict(zip(_ARRAYS, numbered, strict=False))):
                cells[place.removesuffix("/cell/vars")] = numbered
    # The first versions of Keras 3 did not write the name.
    own = {place: group.attrs for place, group in groups.items() if place.endswith("/vars")}
    names = {place: _text(attributes["name"]) for place, attributes in own.items() if "name" in attributes}
    counts = Counter(names.values())
    for place, found in cells.items():
        owner, _, way = place.rpartition("/")
        if way == "backward_layer" and f"{owner}/forward_layer" in cells:
            continue
        both = way == "forward_layer" and f"{owner}/backward_layer" in cells
        directions = [found, cells[f"{owner}/backward_layer"]] if both else [found]
        place = owner if both else place
        name = names.get(place + "/vars", place.rpartition("/")[2])
        yield _Layer(name if counts[name] < 2 else place, directions)


def _recurrent(weights: Mapping[str, Any]) -> bool:
    """Say whether it is a layer of matrices, with a recurrent one."""
    return all(len(getattr(weights.get(name), "shape", None) or ()) == 2 for name in _ARRAYS[:2])


def _chosen(layers: list[_Layer], name: str | None, path: str) -> _Layer:
    """The layer of that name, or the only LSTM."""
    lstms = [layer.name for layer in layers if layer.gates == 4]
    listed = ", ".join(map(repr, lstms)) or "none"
    chosen = [layer for layer in layers if (layer.name == name if name is not None else layer.gates == 4)]
    if not chosen:
        if name is None:
            raise ValueError(f"{path}: expected an LSTM layer of Keras, got a file without one")
        raise KeyError(f"layer: no recurrent layer {name!r} in {path}; its LSTM layers: {listed}")
    if len(chosen) > 1:
        raise ValueError(f"layer: expected the name of one of the LSTM layers in {path}: {listed}")
    if chosen[0].gates != 4:
        kind = {3: "a GRU", 1: "a SimpleRNN"}.get(chosen[0].gates, "something else")
        raise ValueError(f"layer: {name!r} in {path} is {kind}, by its {chosen[0].gates} gates; LSTM layers: {listed}")
    return chosen[0]


def _config(model: str, name: str, path: str) -> tuple[str, Mapping[str, Any]]:
    """The class and the configuration of a layer, from the JSON of the model's."""
    try:
        found = list(_configs(json.loads(model), name.rpartition("/")[2]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON in its model_config: {error}") from error
    if not found or any(one != found[0] for one in found):
        raise ValueError(
            f"{path}: expected one configuration of the layer {name!r} in its model_config, got {len(found)}"
        )
    return found[0]


def _configs(item: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each configuration of a layer of that name, in models inside of models too."""
    if isinstance(item, dict):
        config = item.get("config")
        kind = item.get("class_name")
        if isinstance(config, dict) and kind in ("LSTM", "CuDNNLSTM", "Bidirectional") and config.get("name") == name:
            yield kind, config
        else:
            for inner in item.values():
                yield from _configs(inner, name)
    elif isinstance(item, list):
        for inner in item:
            yield from _configs(inner, name)


def _described(
    found: _Layer,
    config: tuple[str, Mapping[str, Any]] | None,
    cell: CellSpec | None,
    version: str,
    groups: list[list[np.ndarray]],
    path: str,
) -> Described:
    """Which cell it is: by the file, or by the caller where the file does not say."""
    if config is not None:
        if cell is not None:
            raise ValueError(f"cell: leave it out: {path} says itself which activations {found.name!r} has")
        described = describe(*config, major=major_version(version), name=f"{path}: {found.name}")
        if described.directions != len(groups):
            raise ValueError(
                f"{path}: {found.name}: expected weights of {described.directions} directions, as the model_config has "
                f"it, got {len(groups)}"
            )
        return described
    legacy = all(len(group) == 3 and group[2].shape == (8 * group[1].shape[0],) for group in groups)
    # Keras 2.3 changed the default for the gates; weights that have no version are older still. Keras 3 writes none
    # into its weights files, which have no attributes at the root.
    numbers = re.match(r"(\d{1,3})\.(\d{1,3})", version)
    if cell is None and not legacy and numbers and (int(numbers[1]), int(numbers[2])) < (2, 3):
        raise ValueError(
            f"cell: expected one for {found.name!r} in {path}: up to Keras 2.2, which wrote it ({version}), the gates "
            f"were hard_sigmoid unless the model said otherwise, and a file of weights does not tell: "
            f"CellSpec(gate_activation='hard_sigmoid') or CellSpec()"
        )
    return Described(CellSpec() if cell is None else cell, len(groups), True)


def _check_stored(array: Any, path: str) -> None:
    """Refuse a dataset whose numbers are not in this file, or not all of them, before memory is taken for them."""
    name = f"{path}: {array.name.lstrip('/')}"
    if array.shape is None or array.dtype.kind != "f":
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype if array.shape is not None else None}")
    if array.external or array.is_virtual:
        raise ValueError(f"{name}: expected its numbers in the file itself, got a reference to another file")
    stored = array.id.get_storage_size()
    packed = array.compression is not None or array.scaleoffset is not None
    if stored * (_DENSEST if packed else 1) < array.nbytes:
        raise ValueError(f"{name}: expected {array.nbytes} bytes for shape {array.shape}, the file has {stored}")


def _has_texts(group: Any, name: str) -> bool:
    """Say whether there is an attribute that `_texts` reads."""
    return name in group.attrs or name + "0" in group.attrs


def _texts(group: Any, name: str) -> list[str]:
    """An attribute that is a list of names; one that is too long for HDF5 is in pieces, name0, name1, ..."""
    if name in group.attrs:
        return [_text(text) for text in group.attrs[name]]
    texts: list[str] = []
    k = 0
    while f"{name}{k}" in group.attrs:
        texts += [_text(text) for text in group.attrs[f"{name}{k}"]]
        k += 1
    return texts


def _text(value: Any) -> str:
    """A text, which HDF5 has in two forms."""
    return value.decode() if isinstance(value, bytes) else str(value)
