"""Where training stood at the end of its last whole epoch: in memory, and in a file to go on from.

The file is safetensors: tensors ``model/MODULE/NAME``, ``best/MODULE/NAME``, ``optimizer/NAME`` and ``history/NAME``,
and JSON under ``lstm_rs.train`` in the metadata: the classes that it belongs to and the states of the generators of
random numbers. No part of it is run. A run that goes on from it ends in the bits of one that was never stopped, on the
same machine.

It is written as a whole beside the old one and put in its place, so a crash leaves the old one or the new one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_rs import _files
from lstm_rs._core import __version__
from lstm_rs._optional import need
from lstm_rs.train._history import LISTS, History
from lstm_rs.train._models import Model
from lstm_rs.train._modules import Module
from lstm_rs.train._optimizer import Optimizer

_KEY = "lstm_rs.train"
_VERSION = 1
_EVERY = 10.0
"""Seconds from one writing to the next: what a crash can cost at most, besides the epoch that is running."""

Weights = dict[str, dict[str, np.ndarray]]


@dataclass
class Snapshot:
    """All that training goes on from.

    Attributes
    ----------
    epochs, steps : int
        How many are done.
    best_epoch : int or None
        As in the history.
    weights, best : dict
        By module and name: at the end of the epoch, and of the best one so far if there is validation.
    optimizer : dict
        What it keeps.
    generators : dict
        The states of the generators of random numbers.
    """

    epochs: int
    steps: int
    best_epoch: int | None
    weights: Weights
    best: Weights | None
    optimizer: dict[str, np.ndarray]
    generators: dict[str, Mapping[str, Any]]


def copy_weights(model: Model) -> Weights:
    """Copies of all weights."""
    return {
        name: {key: array.copy() for key, array in module.weights.items()} for name, module in model.modules.items()
    }


def put_weights(model: Model, weights: Weights) -> None:
    """Give a model weights that were copied from it."""
    for name, module in model.modules.items():
        with module.edit() as arrays:
            for key, array in weights[name].items():
                arrays[key][...] = array


class Keeper:
    """Takes snapshots of a run, and writes the newest to its file."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        model: Model,
        batches: Iterable[Any],
        optimizer: Optimizer,
        history: History,
        run: Mapping[str, str] | None = None,
        validation: Iterable[Any] | None = None,
    ) -> None:
        self._path = None if path is None else os.fspath(path)
        self._validation = validation
        self._model, self._batches, self._optimizer, self._history = model, batches, optimizer, history
        self._run = {} if run is None else dict(run)
        self._written = time.monotonic()
        self._on_disk: Snapshot | None = None
        if self._path is not None:
            # Asked for now: after an hour of training would be late.
            folder = os.path.dirname(os.path.realpath(self._path))
            if not os.access(folder, os.W_OK) or os.path.isdir(self._path):
                raise ValueError(f"checkpoint: expected a file in a folder that can be written to, got {self._path!r}")
            self._safetensors = need("safetensors", "fit with a checkpoint", "safetensors")
            need("safetensors.numpy", "fit with a checkpoint", "safetensors")
            for module in model.modules.values():
                # A layer from a file takes its dropout from chance: that has to be known too.
                if getattr(module, "dropout", 0.0) and getattr(module, "_rng", False) is None:
                    module._rng = np.random.default_rng()  # type: ignore[attr-defined]
        self.last = self._snapshot(copy_weights(model), None)

    def take(self) -> None:
        """Note where training stands at the end of an epoch."""
        weights, history = copy_weights(self._model), self._history
        is_best = history.best_epoch == len(history.loss) - 1
        self.last = self._snapshot(weights, weights if is_best else self.last.best)

    def _snapshot(self, weights: Weights, best: Weights | None) -> Snapshot:
        kept, history = self._path is not None, self._history
        return Snapshot(
            epochs=len(history.loss),
            steps=len(history.step_loss),
            best_epoch=history.best_epoch,
            weights=weights,
            best=best,
            optimizer=self._optimizer.state_dict(),
            generators={name: rng.bit_generator.state for name, rng in self._generators().items()} if kept else {},
        )

    def _generators(self) -> dict[str, np.random.Generator]:
        """Where the order of the batches and the dropout come from."""
        sources = {name: getattr(given, "rng", None) for name, given in self._given()}
        sources |= {f"module {name}": getattr(module, "_rng", None) for name, module in self._model.modules.items()}
        return {name: rng for name, rng in sources.items() if isinstance(rng, np.random.Generator)}

    def _given(self) -> tuple[tuple[str, Any], ...]:
        return ("batches", self._batches), ("validation", self._validation)

    def write_now_and_then(self) -> None:
        """Write the newest snapshot if the last writing is long ago."""
        if self._path is not None and time.monotonic() - self._written >= _EVERY:
            self.write()

    def write(self) -> None:
        """Write the newest snapshot, if it has not been."""
        if self._path is None or self._on_disk is self.last:
            return
        last, history = self.last, self._history
        tensors = {f"optimizer/{name}": array for name, array in last.optimizer.items()}
        for what, weights in (("model", last.weights), ("best", last.best)):
            for module, arrays in (weights or {}).items():
                tensors |= {f"{what}/{module}/{name}": array for name, array in arrays.items()}
        for name in LISTS:
            count = last.steps if name == "step_loss" else last.epochs
            tensors[f"history/{name}"] = np.array(getattr(history, name)[:count], np.float64)
        said = {
            "format_version": _VERSION,
            "library": f"lstm_rs {__version__}",
            **self._described(),
            "run": self._run,
            "best_epoch": last.best_epoch,
            "generators": last.generators,
        }
        text = json.dumps(said, allow_nan=False, default=lambda value: value.tolist())
        data = need("safetensors.numpy", "fit", "safetensors").save(tensors, metadata={_KEY: text})
        _files._replace(os.path.realpath(self._path), data)
        self._written = time.monotonic()
        self._on_disk = last

    def _described(self) -> dict[str, Any]:
        """What a file belongs to, besides the run."""
        modules = self._model.modules
        return {
            "model": type(self._model).__name__,
            "modules": {name: _described(module) for name, module in modules.items()},
            "optimizer": type(self._optimizer).__name__,
        }

    def resume(self, validation: bool) -> bool:
        """Go on from the file; whether there is one."""
        assert self._path is not None
        if not os.path.exists(self._path):
            return False
        said, tensors = self._read(self._path)
        self._check(said, tensors, validation)
        states = self._states(said.get("generators"))
        optimizer = {name.partition("/")[2]: a for name, a in tensors.items() if name.startswith("optimizer/")}
        try:
            self._optimizer.load_state_dict(optimizer)
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{self._path}: optimizer: {error.args[0]}") from error
        put_weights(self._model, self._grouped("model", tensors))
        for name, rng in self._generators().items():
            rng.bit_generator.state = states[name]
        for name in LISTS:
            getattr(self._history, name)[:] = tensors[f"history/{name}"].tolist()
        self._history.best_epoch = said["best_epoch"]
        best = None if said["best_epoch"] is None else self._grouped("best", tensors)
        self.last = self._on_disk = self._snapshot(copy_weights(self._model), best)
        return True

    def _read(self, path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file says, and its tensors."""
        _files._check_header(path)
        try:
            with self._safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if _KEY not in metadata:
                    raise ValueError(f"{path}: expected {_KEY!r} in its metadata, as fit writes it for a checkpoint")
                tensors = _files.read_tensors(path, file)
        except self._safetensors.SafetensorError as error:
            raise ValueError(
                f"{path}: expected a whole safetensors file, got one that cannot be read: {error}"
            ) from error
        try:
            said = json.loads(metadata[_KEY])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected JSON under {_KEY!r} in its metadata: {error}") from error
        if not isinstance(said, dict) or said.get("format_version") != _VERSION:
            version = said.get("format_version") if isinstance(said, dict) else said
            raise ValueError(f"{path}: expected format_version {_VERSION}, got {version!r}")
        return said, tensors

    def _check(self, said: dict[str, Any], tensors: Mapping[str, np.ndarray], validation: bool) -> None:
        """Refuse the file of another run."""
        path = self._path
        for what, expected in self._described().items():
            if said.get(what) != expected:
                raise ValueError(
                    f"{path}: expected the checkpoint of {what} {_listed(expected)}, got {_listed(said.get(what))}; "
                    f"remove it, or give another path"
                )
        before = said.get("run")
        before = before if isinstance(before, dict) else {}
        for name in {**self._run, **before}:
            if self._run.get(name) != before.get(name):
                raise ValueError(
                    f"{path}: expected the checkpoint of a run with {name} {self._run.get(name)}, got one with "
                    f"{before.get(name)}; remove it, or give another path"
                )
        if "best_epoch" not in said:
            raise ValueError(f"{path}: expected best_epoch, an epoch or null, got none")
        best, epochs = said["best_epoch"], tensors.get("history/loss", np.zeros(0)).size
        if epochs > 0 and validation != (best is not None):
            with_it, now = ("without", "some") if best is None else ("with", "none")
            raise ValueError(f"{path}: validation: expected as before, {with_it} it, got {now}")
        if best is not None and (type(best) is not int or not 0 <= best < epochs):
            raise ValueError(f"{path}: best_epoch: expected an epoch from 0 to {epochs - 1}, got {best!r}")
        wanted: dict[str, tuple[tuple[int, ...], Any]] = {
            f"history/{name}": ((epochs if name != "validation_loss" or best is not None else 0,), np.dtype(np.float64))
            for name in LISTS
            if name != "step_loss"
        }
        for group in ("model", "best")[: 1 if best is None else 2]:
            for module, owner in self._model.modules.items():
                wanted |= {f"{group}/{module}/{name}": (a.shape, a.dtype) for name, a in owner.weights.items()}
        wanted["history/step_loss"] = ((tensors.get("history/step_loss", np.zeros(0)).size,), np.dtype(np.float64))
        for name, (shape, dtype) in wanted.items():
            if name not in tensors:
                raise ValueError(f"{path}: expected a tensor {name!r}, got none")
            given = tensors[name]
            if given.shape != shape or given.dtype != dtype:
                raise ValueError(
                    f"{path}: {name}: expected {dtype} of shape {shape}, got {given.dtype} of shape {given.shape}"
                )
            if not name.startswith("history/") and np.isnan(given).any():
                raise ValueError(f"{path}: {name}: {np.count_nonzero(np.isnan(given))} of {given.size} weights are NaN")

    def _states(self, given: Any) -> dict[str, Any]:
        """The states of the generators of random numbers, each tried on another generator."""
        generators, states = self._generators(), {}
        if not isinstance(given, dict) or given.keys() != generators.keys():
            raise ValueError(
                f"{self._path}: expected random numbers for {_listed(list(generators))}, "
                f"got {_listed(list(given) if isinstance(given, dict) else given)}; "
                f"give batches of the kind that it was written with"
            )
        for name, rng in generators.items():
            kind, said = type(rng.bit_generator), given[name]
            other = said.get("bit_generator") if isinstance(said, dict) else said
            if other != kind.__name__:
                raise ValueError(f"{self._path}: {name}: expected a {kind.__name__}, got {other}")
            try:
                states[name] = _as_before(rng.bit_generator.state, said)
                kind().state = states[name]
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"{self._path}: {name}: expected the state of a {kind.__name__}: {error!r}") from error
        return states

    def _grouped(self, group: str, tensors: Mapping[str, np.ndarray]) -> Weights:
        """The weights of a group, by module and name."""
        return {
            module: {name: tensors[f"{group}/{module}/{name}"] for name in owner.weights}
            for module, owner in self._model.modules.items()
        }


def _described(module: Module) -> str:
    """A module in words: its repr, if it has one that says what it is."""
    plain = type(module).__repr__ is object.__repr__
    return type(module).__name__ if plain else repr(module)


def _as_before(like: Any, said: Any) -> Any:
    """A state that JSON has turned into lists, with the arrays that it had."""
    if isinstance(like, Mapping):
        return {name: _as_before(value, said[name]) for name, value in like.items()}
    return np.array(said, like.dtype) if isinstance(like, np.ndarray) else said


def _listed(said: Any) -> str:
    if isinstance(said, Mapping):
        return ", ".join(f"{name} {value}" for name, value in said.items())
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)
