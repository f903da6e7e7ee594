"""A fitted estimator in a file, and out of it again: safetensors, and no pickle.

Tensors: ``model.MODULE.WEIGHT``, ``fitted.NAME``, ``optimizer.NAME``, ``history.NAME``. All else is JSON in the header,
under ``lstm_rs.estimators``: version, class, parameters as they are and as they were in `fit`, fitted attributes that
are no tensors, and the states of the generators.

A file is believed only as far as it has been checked, as one of `lstm_rs.LSTM.save` is: the class has to be the one
that is asked for, parameters are checked as those of a fit, sizes against the number of weights that are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lstm_rs import _files
from lstm_rs._core import __version__
from lstm_rs._optional import need
from lstm_rs.cell import CellSpec
from lstm_rs.estimators import _params
from lstm_rs.estimators._data import Scaler
from lstm_rs.train import History
from lstm_rs.train._history import LISTS

if TYPE_CHECKING:
    from lstm_rs.estimators._base import SequenceEstimator

_KEY = "lstm_rs.estimators"
_VERSION = 1
_SIZES = ("hidden_size", "num_layers", "latent_size")
"""Parameters of which no model has more than it has weights; fitted attributes that begin with ``n_`` are such too."""

_LONGEST_LABELS = 1 << 24

E = TypeVar("E", bound="SequenceEstimator")


def write(estimator: SequenceEstimator, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator; see `SequenceEstimator.save`."""
    estimator._check_params()
    tensors: dict[str, np.ndarray] = {}
    for module, owner in estimator.model_.modules.items():
        for name, array in owner.weights.items():
            if not np.isfinite(array).all():
                raise ValueError(f"save: weights {module}.{name} are NaN or infinite")
            tensors[f"model.{module}.{name}"] = array
    # Not in the header: there is a loss for each step.
    tensors |= {f"history.{name}": np.array(getattr(estimator.history_, name), np.float64) for name in LISTS}
    tensors |= {f"optimizer.{name}": array for name, array in estimator._moments.items()}
    said = {
        "format_version": _VERSION,
        "library": f"lstm_rs {__version__}",
        "class": type(estimator).__name__,
        "params": plain_params(estimator.get_params()),
        "as_fitted": plain_params(estimator._as_fitted),
        "fitted": {name: _plain(name, getattr(estimator, name), tensors) for name in estimator._fitted},
        "best_epoch": estimator.history_.best_epoch,
        "shuffle": estimator._shuffle.bit_generator.state,
        "dropout": {name: rng.bit_generator.state for name, rng in _generators(estimator).items()},
    }
    safetensors = need("safetensors.numpy", f"{type(estimator).__name__}.save", "safetensors")
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    data = safetensors.save(contiguous, metadata={_KEY: json.dumps(said, allow_nan=False)})
    _files.check_header_size(data)
    _files._replace(os.path.realpath(os.fspath(path)), data)


def read(cls: type[E], path: str | os.PathLike[str]) -> E:
    """Make an estimator of a file; see `SequenceEstimator.load`."""
    path = os.fspath(path)
    _files._check_header(path)
    safetensors = need("safetensors", f"{cls.__name__}.load", "safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError(f"{path}: expected {_KEY!r} in its metadata, as {cls.__name__}.save writes it")
            said = _header(path, metadata[_KEY], cls)
            tensors = _files.read_tensors(path, file)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: expected a whole safetensors file, got one that cannot be read: {error}") from error
    try:
        return _restored(cls, said, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        message = error.args[0] if error.args else error
        raise ValueError(f"{path}: header and tensors do not make a fitted {cls.__name__}: {message}") from error


def _header(path: str, text: str, cls: type) -> dict[str, Any]:
    """What the header says, if it is of this class and of a version that is known."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON under {_KEY!r} in its metadata: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path}: expected a JSON object under {_KEY!r}, got {type(said).__name__}")
    version = said.get("format_version")
    if version != _VERSION:
        raise ValueError(
            f"{path}: expected format_version {_VERSION}, got {version!r}, written by {said.get('library')}; "
            "the lstm_rs that wrote it reads it"
        )
    if said.get("class") != cls.__name__:
        raise ValueError(f"{path}: expected a file of {cls.__name__}.save, got one of {said.get('class')}")
    return said


def _restored(cls: type[E], said: dict[str, Any], tensors: dict[str, np.ndarray]) -> E:
    estimator = cls(**_from_plain(said["as_fitted"]))
    estimator._check_params()
    estimator._as_fitted = estimator.get_params()
    if set(said["fitted"]) != set(cls._fitted):
        raise ValueError(f"expected {', '.join(cls._fitted)}, got {', '.join(said['fitted'])}")
    for name, plain in said["fitted"].items():
        setattr(estimator, name, _value(plain, tensors))
    _check_sizes(estimator, sum(array.size for name, array in tensors.items() if name.startswith("model.")))
    estimator._check_fitted_values()
    estimator.model_ = estimator._build(np.random.default_rng(0))
    for module, owner in estimator.model_.modules.items():
        prefix = f"model.{module}."
        weights = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        for name, array in weights.items():
            if not np.isfinite(array).all():
                raise ValueError(f"weights {module}.{name} are NaN or infinite")
        owner.load_state_dict(weights)
    estimator.history_ = _history(said["best_epoch"], {name: tensors[f"history.{name}"] for name in LISTS})
    estimator._shuffle = _generator(said["shuffle"])
    for name, rng in _generators(estimator).items():
        rng.bit_generator.state = said["dropout"][name]
    prefix = "optimizer."
    estimator._moments = {n.removeprefix(prefix): array for n, array in tensors.items() if n.startswith(prefix)}
    estimator._optimizer(float(estimator.learning_rate))  # refuses what does not fit
    estimator.set_params(**_from_plain(said["params"]))
    estimator._check_params()
    return estimator


def _history(best: Any, lists: dict[str, np.ndarray]) -> History:
    for name, array in lists.items():
        if array.ndim != 1 or array.dtype != np.float64:
            raise ValueError(f"history.{name}: expected a list of float64, got {array.dtype} of shape {array.shape}")
    epochs = len(lists["loss"])
    if best is not None and (type(best) is not int or not 0 <= best < epochs):
        raise ValueError(f"best_epoch: expected an epoch from 0 to {epochs - 1}, or none, got {best!r}")
    return History(**{name: array.tolist() for name, array in lists.items()}, best_epoch=best)


def _check_sizes(estimator: Any, weights: int) -> None:
    """Refuse sizes of which there would be more weights than the file has, before anything of that size is made."""
    sizes = {name: getattr(estimator, name) for name in _SIZES if hasattr(estimator, name)}
    sizes |= {name: getattr(estimator, name) for name in estimator._fitted if name.startswith("n_")}
    for name, size in sizes.items():
        if type(size) is not int or size < 1 or size > weights:
            raise ValueError(f"{name}: expected from 1 to {weights}, the number of weights, got {size!r}")
    for name in estimator._fitted:
        if name.endswith(("scaler_", "changes_")) and not isinstance(getattr(estimator, name), Scaler):
            raise ValueError(f"{name}: expected a mean and a deviation for each feature")
    for scaler, size in (("scaler_", "n_features_in_"), ("y_scaler_", "n_outputs_")):
        if hasattr(estimator, scaler) and getattr(estimator, scaler).mean.shape != (getattr(estimator, size),):
            raise ValueError(f"{scaler}: expected {getattr(estimator, size)} values, as {size} says")
    if estimator.hidden_size * (estimator.num_layers * estimator.hidden_size + estimator.n_features_in_) > weights:
        raise ValueError(f"hidden_size: expected fewer than {estimator.hidden_size} units for {weights} weights")


def _generators(estimator: SequenceEstimator) -> dict[str, np.random.Generator]:
    """Where the dropout of each module comes from."""
    found = {name: getattr(module, "_rng", None) for name, module in estimator.model_.modules.items()}
    return {name: rng for name, rng in found.items() if rng is not None}


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    rng = np.random.default_rng(0)
    rng.bit_generator.state = state
    return rng


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them."""
    plain: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, CellSpec):
            default = CellSpec()
            parts = {field.name: getattr(value, field.name) for field in fields(CellSpec)}
            plain[name] = {part: v for part, v in parts.items() if v != getattr(default, part)}
        elif name == "dtype":
            plain[name] = np.dtype(value).name
        elif isinstance(value, os.PathLike):
            plain[name] = os.fspath(value)
        elif isinstance(value, np.random.Generator | np.random.RandomState):
            plain[name] = None
        else:
            plain[name] = value.item() if isinstance(value, np.generic) else value
    return plain


def _from_plain(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `plain_params`."""
    params = dict(plain)
    # Not whatever NumPy takes for a dtype, some of it with a warning.
    _params.choice("dtype", params.get("dtype"), ("float32", "float64"))
    if isinstance(params.get("cell"), dict):
        cell: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in params["cell"].items()
        }
        params["cell"] = CellSpec(**cell)
    return params


def _plain(name: str, value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """A fitted attribute as JSON has it; its arrays go to the tensors."""
    if isinstance(value, Scaler):
        tensors[f"fitted.{name}.mean"], tensors[f"fitted.{name}.deviation"] = value.mean, value.deviation
        return {"scaler": f"fitted.{name}"}
    if isinstance(value, list):
        for k, array in enumerate(value):
            tensors[f"fitted.{name}.{k}"] = array
        return {"list": f"fitted.{name}", "count": len(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            tensors[f"fitted.{name}"] = value.astype(value.dtype.newbyteorder("="), copy=False)
            return {"array": f"fitted.{name}"}
        if value.dtype.kind == "U" or (value.dtype == object and all(isinstance(text, str) for text in value.flat)):
            return {"strings": value.tolist(), "object": value.dtype == object}
        raise ValueError(f"save: {name}: expected numbers or str, got dtype {value.dtype}")
    return value.item() if isinstance(value, np.generic) else value


def _value(plain: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """The attribute of `_plain`."""
    if not isinstance(plain, dict):
        return plain
    if "scaler" in plain:
        mean, deviation = tensors[f"{plain['scaler']}.mean"], tensors[f"{plain['scaler']}.deviation"]
        floats = mean.dtype == deviation.dtype == np.float64
        if not floats or mean.ndim != 1 or mean.shape != deviation.shape or not _scales(mean, deviation):
            raise ValueError(f"expected a mean and a deviation above 0 for each feature in {plain['scaler']}")
        return Scaler(mean, deviation)
    if "list" in plain:
        return [tensors[f"{plain['list']}.{k}"] for k in range(plain["count"])]
    if "strings" in plain:
        return _labels(plain["strings"], plain["object"])
    return tensors[plain["array"]]


def _scales(mean: np.ndarray, deviation: np.ndarray) -> bool:
    return bool((np.isfinite(mean) & (deviation > 0.0) & np.isfinite(deviation)).all())


def _labels(texts: Any, as_objects: Any) -> np.ndarray:
    """Labels that are texts."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("expected a list of texts as labels")
    if as_objects:
        return np.array(texts, dtype=object)
    # NumPy gives each the room of the longest.
    size = len(texts) * max(map(len, texts), default=0)
    if size > _LONGEST_LABELS:
        raise ValueError(f"expected labels that take at most {_LONGEST_LABELS} characters in all, got {size}")
    return np.array(texts, dtype=np.str_)
