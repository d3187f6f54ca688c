"""Files of the Hugging Face hub: fetched once, then used without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import PluginError

#: ``owner/name``.
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def snapshot(
    name: str, revision: str | None, patterns: Sequence[str], *, what: str, remedy: str
) -> Path:
    """Return the folder of a model on the hub; the folder is called by its commit.

    Parameters
    ----------
    name
        Hub id.
    revision
        Branch, tag or commit; None for the main branch.
    patterns
        Names of the files to fetch.
    what, remedy
        What the message calls the files, and what it says is to be done without a network.

    Raises
    ------
    PluginError
        If the files are not here and cannot be fetched; the message says why.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(
            f"{what} {name!r} are not on this machine and cannot be fetched from the hub "
            f"({type(error).__name__}: {reason}). {remedy}"
        ) from None
