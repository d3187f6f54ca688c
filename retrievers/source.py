"""Where weights lie: a folder, or a hub id that is fetched once and then used without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.errors import PluginError, UsageError
from harness.hub import HUB_ID, snapshot

TOKENIZER = "tokenizer.json"
CONFIG, WEIGHTS, WEIGHTS_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_FETCHED = ["*.json", "*.safetensors", TOKENIZER]


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of weights.

    Attributes
    ----------
    name
        As the user gave it.
    folder
        Where it lies on this machine.
    commit
        Commit of a hub id; None for a folder.
    """

    name: str
    folder: Path
    commit: str | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter and not a whole model."""
        return (self.folder / ADAPTER_CONFIG).is_file()

    def identity(self) -> dict[str, Any]:
        """Return what names these weights: the commit, or the sha256 of the files."""
        if self.commit:
            return {"hub": self.name, "commit": self.commit}
        files = sorted(self.folder.glob("*.safetensors"))
        told = [self.folder / name for name in (CONFIG, ADAPTER_CONFIG, TOKENIZER)]
        return {file.name: sha256(file) for file in [*told, *files] if file.is_file()}

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file's object.

        Raises
        ------
        PluginError
            If the file is missing or broken.
        """
        missing = f"{self.name}: there is no {name} in {self.folder}: fetch the whole checkpoint."
        return read_object(self.folder / name, missing)

    def weight_files(self) -> list[Path]:
        """Return the checkpoint's safetensors files.

        Raises
        ------
        PluginError
            If one is missing; the message names it.
        """
        if (self.folder / WEIGHTS_INDEX).is_file():
            index = self.read_json(WEIGHTS_INDEX)
            names = sorted(set(index.get("weight_map", {}).values()))
        else:
            names = [WEIGHTS]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise PluginError(
                f"{self.name}: {', '.join(missing)} is missing in {self.folder}: fetch the whole "
                "checkpoint (weights must be safetensors, not .bin)."
            )
        return [self.folder / name for name in names]


def read_object(path: Path, missing: str) -> dict[str, Any]:
    """Return the object of a JSON file of a checkpoint.

    Parameters
    ----------
    path
        The file.
    missing
        What to say if it is not there.

    Raises
    ------
    PluginError
        If it is missing or broken.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PluginError(missing) from None
    except ValueError as error:
        raise PluginError(f"{path} is not JSON ({error}): fetch it again.") from None
    return found


def find(name: str, revision: str | None = None, *, also: Sequence[str] = ()) -> Source:
    """Return the source called `name`: an existing folder, else a hub id.

    Parameters
    ----------
    name, revision
        What to find, and which commit, tag or branch of a hub id.
    also
        Patterns of files that are fetched beside JSON, safetensors and the tokeniser.

    Raises
    ------
    UsageError
        If `name` is neither.
    PluginError
        If a hub id cannot be fetched; the message says why.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(name, folder)
    if not HUB_ID.match(name):
        raise UsageError(
            f"weights {name!r}: there is no such folder, and it is no hub id (owner/name)."
        )
    fetched = snapshot(
        name,
        revision,
        [*_FETCHED, *also],
        what="weights",
        remedy=f"Fetch them where there is a network (`hf download {name}`) and give the folder "
        "as weights or as the setting base; or use the built-in weights `tiny`, which need no "
        "network.",
    )
    # A snapshot's folder is called by its commit.
    return Source(name, fetched, fetched.name)


def headers(files: list[Path]) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Return ``{tensor: (file, shape)}`` without reading a tensor.

    Raises
    ------
    PluginError
        If a file is no safetensors file, or two files have the same tensor.
    """
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        with opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping: it cannot be iterated)
                if name in found:
                    raise PluginError(
                        f"tensor {name} is in {file.name} and in {found[name][0].name}: fetch the "
                        "checkpoint again."
                    )
                found[name] = (file, tuple(tensors.get_slice(name).get_shape()))
    return found


def opened(file: Path) -> Any:
    """Open a safetensors file for torch.

    Raises
    ------
    PluginError
        If it is missing or broken.
    """
    try:
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise PluginError(
            f"{file} is no complete safetensors file ({error}): fetch it again."
        ) from None


def metadata(file: Path) -> Mapping[str, str]:
    """Return what is written in a file's head beside the tensors."""
    with opened(file) as tensors:
        return tensors.metadata() or {}


def sha256(file: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the names for a message: the first few, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
