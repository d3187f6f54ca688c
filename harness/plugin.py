"""What tasks and retrievers have in common: a card of facts, and typed settings."""

from __future__ import annotations

from dataclasses import dataclass
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


class Plugin:
    """Base of `Task` and `Retriever`.

    Attributes
    ----------
    about
        The plugin's card.
    Settings
        The settings it takes; a subclass of `harness.settings.Settings`.
    api_version
        The plugin contract it was written for. State it (``api_version = 1``) and an
        incompatible harness refuses the plugin in one clear line.
    """

    about: ClassVar[About]
    Settings: ClassVar[type[Settings]] = Settings
    api_version: ClassVar[int] = API_VERSION
