"""Weights and optimiser on disk, whole or not there, without pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.errors import StorageError
from harness.files import atomic_folder

_WEIGHTS, _OPTIMISER, _STATE = "weights.safetensors", "optimiser.safetensors", "state.json"
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes
    ----------
    path
        Its folder.
    step
        Steps done.
    state
        What else was kept, as JSON values.
    """

    path: Path
    step: int
    state: Mapping[str, Any]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the trained tensors by name."""
        return read_weights(self.path)

    def restore(
        self, trained: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer
    ) -> None:
        """Put weights and optimiser back to where they were.

        Raises
        ------
        StorageError
            If the checkpoint holds other tensors.
        """
        put(trained, self.weights(), self.path)
        tensors = _read(self.path / _OPTIMISER)
        values = self.state["optimiser"]
        optimiser.load_state_dict({
            "state": {
                int(number): {
                    name: tensors[f"{number}.{name}"] if value is None else value
                    for name, value in row.items()
                }
                for number, row in values["state"].items()
            },
            "param_groups": values["param_groups"],
        })  # fmt: skip


def put(
    trained: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], origin: Path
) -> None:
    """Copy `values` into the tensors that are trained, which must be the same ones.

    Raises
    ------
    StorageError
        If they are others.
    """
    if {n: t.shape for n, t in trained.items()} != {n: t.shape for n, t in values.items()}:
        raise StorageError(
            f"{origin} holds other tensors than are trained now: it is of another recipe or "
            "model. Choose another --to, or remove that folder."
        )
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(values[name])


def save(
    folder: Path,
    step: int,
    trained: Mapping[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> Checkpoint:
    """Write the checkpoint of `step`; then remove the ones before it.

    Raises
    ------
    StorageError
        If the disk is full; the previous checkpoint is as it was.
    """
    path = folder / f"{_PREFIX}{step:08d}"
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    kept = optimiser.state_dict()
    for number, row in kept["state"].items():
        values[str(number)] = {}
        for name, value in row.items():
            is_tensor = isinstance(value, torch.Tensor)
            values[str(number)][name] = None if is_tensor else value
            if is_tensor:
                tensors[f"{number}.{name}"] = _plain(value)
    written = {
        "step": step,
        **state,
        "optimiser": {"state": values, "param_groups": kept["param_groups"]},
    }
    with atomic_folder(path) as temporary:
        write_weights(temporary, trained)
        save_file(tensors, temporary / _OPTIMISER)
        (temporary / _STATE).write_text(json.dumps(written), encoding="utf-8")
    for older in folder.glob(f"{_PREFIX}*"):
        if older.name < path.name:
            shutil.rmtree(older, ignore_errors=True)
    return Checkpoint(path, step, written)


def write_weights(folder: Path, trained: Mapping[str, torch.Tensor]) -> None:
    """Write the trained tensors into `folder`."""
    save_file({name: _plain(tensor) for name, tensor in trained.items()}, folder / _WEIGHTS)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return what `write_weights` wrote."""
    return _read(folder / _WEIGHTS)


def newest(folder: Path) -> Checkpoint | None:
    """Return the last complete checkpoint, or None."""
    for path in sorted(folder.glob(f"{_PREFIX}*"), reverse=True):
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return Checkpoint(path, int(state["step"]), state)
    return None


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{path} cannot be read ({error}): remove {path.parent}, and training begins at the "
            "checkpoint before it, or anew."
        ) from error
