"""What ``clamr-bench run`` is asked to do: from flags, a YAML file and defaults, in that order."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.coverage import DamagePolicy
from harness.errors import UsageError
from harness.retriever import DEFAULT_MEMORY
from harness.settings import given_to, parse_model
from harness.types import Modality

#: Least ``--memory``: one document of 2,048 tokens takes 1 MB at 128 dimensions, in each thread.
LEAST_MEMORY = 2**24
_SIZE = re.compile(
    r"(?P<number>\d+(\.\d+)?|\.\d+)\s*(?P<prefix>[KMGTkmgt])?(?P<i>i)?(?P<unit>[bB])?"
)


class RunConfig(BaseModel):
    """Settings of one ``run`` command; the same keys in YAML as on the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[str] = Field(min_length=1, description="Addresses of tasks.")
    retrievers: list[str] = Field(min_length=1, description="Addresses of retrievers.")
    split: str = Field("test", description="Split to evaluate on.")
    k: int = Field(1000, ge=1, description="Documents returned for each query.")
    seed: int = Field(0, ge=0, description="Seed of retrievers that draw random numbers.")
    limit: int | None = Field(None, ge=1, description="Run only the first queries (never listed).")
    modalities: list[str] | None = Field(
        None,
        min_length=1,
        description="Score by these document modalities only: a mask for encoders, which see all; "
        "the other retrievers index no others.",
    )
    on_damaged: DamagePolicy | None = Field(
        None, description="What a damaged media file does, for all retrievers that read media."
    )
    memory: int = Field(
        DEFAULT_MEMORY,
        description="Bytes for blocks of data while indexing and searching, as in 2GiB.",
    )
    data: Path | None = Field(None, description="Dataset store, instead of the default place.")
    output: Path | None = Field(None, description="Results folder, instead of the default one.")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Settings by task or retriever name."
    )

    @field_validator("modalities")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        if names is None:
            return None
        try:
            return [modality.label for modality in sorted({Modality.parse(n) for n in names})]
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, size: Any) -> Any:
        size = parse_size(size) if isinstance(size, str) else size
        if isinstance(size, int) and size < LEAST_MEMORY:
            raise ValueError("give at least 16MiB")
        return size

    @property
    def modality_set(self) -> frozenset[Modality] | None:
        """The modalities to leave in, or None for all."""
        if self.modalities is None:
            return None
        return frozenset(Modality.parse(name) for name in self.modalities)

    def settings_of(
        self, address: str, name: str, known: Container[str] = frozenset()
    ) -> dict[str, Any]:
        """Return the settings given for a plugin, by its name or its whole address.

        `on_damaged` is one, unless it is given itself, of those that list it among the `known`.
        """
        shared = {"on_damaged": self.on_damaged}
        asked = {key: value for key, value in shared.items() if value and key in known}
        return {**asked, **given_to(self.settings, name, address)}

    @classmethod
    def make(cls, file: Path | None, flags: Mapping[str, Any]) -> RunConfig:
        """Combine a YAML file with flags; a flag that is None or empty was not given.

        Raises
        ------
        UsageError
            If the file cannot be read, or a key or value is wrong.
        """
        values: dict[str, Any] = {} if file is None else _read_yaml(file)
        for key, value in flags.items():
            if key == "settings":
                merged = dict(values.get("settings") or {})
                for name, given in value.items():
                    merged[name] = {**(merged.get(name) or {}), **given}
                values["settings"] = merged
            elif value not in (None, []):
                values[key] = value
        for key in ("tasks", "retrievers"):
            if not values.get(key):
                raise UsageError(
                    f"no {key} given: name at least one with --{key[:-1]}, or list them under "
                    f"`{key}:` in the file of --config."
                )
        return parse_model(cls, values, "option" if file is None else f"key of {file}")


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``2GiB``, ``500 MB`` or ``1.5G``.

    Units with an i, and single letters, are powers of 1024; the others are powers of 1000.

    Raises
    ------
    ValueError
        If it is no such size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("give a number and a unit, as in 2GiB or 500MB")
    power = " KMGT".index((match["prefix"] or " ").upper())
    base = 1000 if match["unit"] and not match["i"] and match["unit"] in "bB" else 1024
    return int(float(match["number"]) * base**power)


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no config file {file}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"config file {file} cannot be read as YAML: {reason}.") from None
    if not isinstance(values, dict):
        raise UsageError(
            f"config file {file} must hold keys and values (tasks:, retrievers:, ...)."
        )
    return values
