"""The tensors of a checkpoint, held against the model's before anything is read.

None can stay at random, and none is left over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from harness.errors import PluginError
from retrievers.source import CONFIG, Source, headers, listed, opened


def fitting(
    source: Source,
    model: nn.Module,
    dtype: torch.dtype,
    here: Callable[[str], str | None] = lambda name: name,
) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, which are exactly those of the model.

    Parameters
    ----------
    source
        The checkpoint.
    model
        On any device, the meta device too.
    dtype
        What floating tensors become.
    here
        Returns the name that a tensor of the files has in the model; None for one that it makes
        itself. Tensors of one name must be equal.

    Raises
    ------
    PluginError
        If a tensor is missing, unknown, of another shape, or there twice with other values; each is
        named, and nothing is loaded.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files = {
        name: (target, *found)
        for name, found in headers(source.weight_files()).items()
        if (target := here(name)) is not None
    }
    problems = {
        "missing": expected.keys() - {target for target, _, _ in files.values()},
        "not part of the model": [
            n for n, (target, _, _) in files.items() if target not in expected
        ],
        "of another shape": [
            f"{name} {shape} for {expected[target]}"
            for name, (target, _, shape) in files.items()
            if target in expected and shape != expected[target]
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"tensors {what}: {listed(n)}" for what, n in problems.items() if n)
        raise _refused(source, told)
    return _read(source, files, dtype)


def _read(
    source: Source, files: dict[str, tuple[str, Path, tuple[int, ...]]], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    for file in {file for _, file, _ in files.values()}:
        with opened(file) as tensors:
            for name, (target, own, _) in files.items():
                if own != file:
                    continue
                # A copy: what is read lies in the mapped file, which may be written anew.
                tensor = tensors.get_tensor(name).to(dtype, copy=True)
                if target in found and not torch.equal(found[target], tensor):
                    raise _refused(
                        source, f"{origin[target]} and {name} are one tensor, and differ"
                    )
                found[target] = tensor
                origin[target] = name
    return found


def _refused(source: Source, told: str) -> PluginError:
    return PluginError(
        f"{source.name} does not fit the model that its {CONFIG} describes: {told}. Nothing "
        "was loaded: fetch the checkpoint again."
    )
