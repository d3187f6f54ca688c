"""Trained weights of the built-in models: files of this package, one for each address.

``retrievers/FAMILY/weights/RETRIEVER-NAME.safetensors`` holds those of ``RETRIEVER/NAME``, such as
``retrievers/clamr/weights/clamr-pooled-tiny.safetensors``. Without its file a built-in model is
drawn from a seed, and untrained. A folder of the same name beside it holds what `clamr-bench train`
wrote about the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import PluginError, UsageError
from harness.workspace import TRAINING_NAME
from retrievers.source import headers, listed, opened, sha256

if TYPE_CHECKING:
    import torch

#: What most built-in models are called.
TINY = "tiny"

#: Holds the families' packages.
ROOT = Path(__file__).parent


class _Built(Protocol):
    """An encoder of this package's families."""

    def state(self) -> dict[str, torch.Tensor]: ...


def place(family: str, retriever: str, weights: str) -> Path:
    """Return where the weights of an address lie, or would lie."""
    return ROOT / family / "weights" / f"{retriever}-{weights}.safetensors"


def card_of(file: Path | None) -> Path | None:
    """Return the folder beside shipped weights that says how they were trained."""
    folder = None if file is None else file.with_suffix("")
    return folder if folder is not None and (folder / TRAINING_NAME).is_file() else None


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The weights of a retriever that need no files of the user's.

    Attributes
    ----------
    family
        The package that holds the trained ones.
    retriever
        The name that these go by.
    names
        What an address calls them.
    """

    family: str
    retriever: str
    names: tuple[str, ...] = (TINY,)

    def check(self, weights: str | None, seed: int | None) -> None:
        """Check that what is drawn from a seed is built in.

        Raises
        ------
        UsageError
            If it is not.
        """
        if seed is not None and weights not in self.names:
            raise UsageError(
                f"initial_seed = {seed}: only built-in weights can be drawn anew "
                f"({', '.join(self.names)}); leave the setting out."
            )

    def shipped(self, weights: str | None, seed: int | None) -> Path | None:
        """Return the file of trained weights, if it is there and to be used."""
        if weights is None or weights not in self.names or seed is not None:
            return None
        file = place(self.family, self.retriever, weights)
        return file if file.is_file() else None


def identity_of(weights: str | None, shipped: Path | None) -> Any:
    """Return what names built-in weights: of trained ones the file's digest, too."""
    return weights if shipped is None else {str(weights): sha256(shipped)}


def write_builtin(encoder: _Built, path: Path) -> None:
    """Write a trained tiny model as weights that ship: float16, LoRA merged in.

    Parameters
    ----------
    encoder
        An encoder of a tiny model: CLaMR, ColQwen, CLIP or SigLIP.
    path
        The file (see `place`); its folder is made if missing.

    Raises
    ------
    PluginError
        If a value is too large for float16, or not finite.
    """
    import torch
    from safetensors.torch import save_file

    state = {name: tensor.to(torch.float16) for name, tensor in encoder.state().items()}
    strange = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if strange:
        raise PluginError(
            f"{listed(strange)} cannot be written in float16, whose largest value is 65,504: "
            "train with a lower learning rate, or with clipping."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def read(file: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return the tensors of a file in float32.

    Parameters
    ----------
    file
        As `write_builtin` writes it.
    expected
        Shapes of the tensors that it must hold, by name; no more and no fewer.

    Raises
    ------
    PluginError
        If it holds others; the message names them.
    """
    found = {name: shape for name, (_, shape) in headers([file]).items()}
    both = expected.keys() & found.keys()
    problems: dict[str, Iterable[str]] = {
        "missing": expected.keys() - found.keys(),
        "not part of the model": found.keys() - expected.keys(),
        "of another shape": [name for name in both if found[name] != expected[name]],
    }
    told = [f"tensors {what}: {listed(names)}" for what, names in problems.items() if names]
    if told:
        raise PluginError(
            f"{file} is of another version of the built-in model: {'; '.join(told)}. Install "
            "clamr-bench again, or set initial_seed=0 for weights drawn anew."
        )
    with opened(file) as tensors:
        return {name: tensors.get_tensor(name).float() for name in expected}
