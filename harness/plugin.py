"""What tasks and retrievers have in common: a card of facts, and typed settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from harness import API_VERSION
from harness.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a task or retriever declares about itself; carried in every result.

    Attributes
    ----------
    title
        One line for people.
    version
        Raised whenever the same input would give another output; starts new tables.
    licence
        Licence of the data or the model, as an SPDX id or in words.
    citation
        How to cite it.
    url
        Where it comes from.
    """

    title: str
    version: str
    licence: str
    citation: str
    url: str = ""


class Direction(StrEnum):
    """Which side asks: the queries (text-to-video) or the documents (video-to-text)."""

    FORWARD = "forward"
    REVERSE = "reverse"


class Plugin:
    """Base of `Task` and `Retriever`.

    Attributes
    ----------
    about
        The plugin's card.
    Settings
        The settings it takes; a subclass of `harness.settings.Settings`.
    file, source_sha256
        Address and sha256 of the file of a ``file.py:Class`` plugin; set by the registry.
    api_version
        The plugin contract it was written for. State it (``api_version = 1``) and an
        incompatible harness refuses the plugin in one clear line.
    """

    about: ClassVar[About]
    Settings: ClassVar[type[Settings]] = Settings
    file: str | None = None
    source_sha256: str | None = None
    api_version: ClassVar[int] = API_VERSION
