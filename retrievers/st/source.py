"""Where a model's files lie, and what names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import PluginError
from harness.hub import snapshot
from retrievers.source import ADAPTER_CONFIG, Source, find

#: The organisation that the library looks in for a name without an owner.
ORGANISATION = "sentence-transformers"

#: What a model is made of beside JSON files and safetensors: vocabularies, chat templates.
_BESIDE = ["*.txt", "*.model", "*.jinja", "*.metadata"]
_CODE = "*.py"
#: The same model for other engines.
_OTHER_ENGINES = ("onnx", "openvino", "coreml")
_MEANT = {".json", ".safetensors", ".txt", ".model", ".jinja", ".metadata", ".py"}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The files of one model of the library.

    Attributes
    ----------
    source
        Its folder, and its commit on the hub if it comes from there.
    base
        The model that an adapter changes; None for a whole model.
    """

    source: Source
    base: Source | None = None

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self.source.name

    @property
    def folder(self) -> Path:
        """Where it lies on this machine."""
        return self.source.folder

    def identity(self) -> dict[str, Any]:
        """Return what names these files: the commit, or the sha256 of each."""
        mine = _identity(self.source)
        return mine if self.base is None else {"adapter": mine, "base": _identity(self.base)}

    def read_json(self, name: str) -> Any:
        """Return what is in a JSON file; None if there is no such file.

        Raises
        ------
        PluginError
            If it is broken.
        """
        return self.source.read_json(name) if (self.folder / name).is_file() else None


def find_model(name: str, revision: str | None, *, code: bool = False) -> ModelSource:
    """Return the model called `name`: an existing folder, else a hub id.

    Parameters
    ----------
    name
        A name without an owner is one of the library's own organisation.
    revision
        Of a hub id.
    code
        Whether Python files are fetched too.

    Raises
    ------
    UsageError
        If there is no such folder and it is no hub id.
    PluginError
        If it cannot be fetched; the message says why.
    """
    if "/" not in name and not Path(name).expanduser().is_dir():
        name = f"{ORGANISATION}/{name}"
    source = find(name, revision)
    if source.commit is not None:
        _fetch_rest(source, code=code)
    if not (source.folder / ADAPTER_CONFIG).is_file():
        return ModelSource(source)
    base = source.read_json(ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise PluginError(
            f"{name} is an adapter whose {ADAPTER_CONFIG} names no base_model_name_or_path: merge "
            "it into its base, or name the base there."
        )
    # The library looks for the base by itself, without a network: it must be here by then.
    found = find(str(base))
    if found.commit is not None:
        _fetch_rest(found, code=code)
    return ModelSource(source, found)


def model_files(folder: Path) -> list[Path]:
    """Return the files that make the model what it is, sorted by path."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _MEANT
        and not {part.lower() for part in path.relative_to(folder).parts[:-1]} & {*_OTHER_ENGINES}
        and path.is_file()
    )


def _fetch_rest(source: Source, *, code: bool) -> None:
    snapshot(
        source.name,
        source.commit,
        [*_BESIDE, _CODE] if code else _BESIDE,
        what="the tokeniser's files of",
        remedy="Fetch the whole model where there is a network "
        f"(`hf download {source.name}`) and give its folder.",
    )


def _identity(source: Source) -> dict[str, Any]:
    if source.commit:
        return {"hub": source.name, "commit": source.commit}
    return {
        path.relative_to(source.folder).as_posix(): _sha256(path)
        for path in model_files(source.folder)
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
