"""The exceptions that users meet.

::

    ClamrBenchError
    ├── UsageError           an argument, an address or a setting that cannot be right
    ├── PluginError          a task or retriever that cannot be loaded or breaks its contract
    ├── CapabilityError      a retriever that cannot do what the task asks of it
    ├── DataError            source files, dataset stores and media
    │   └── NotPreparedError a dataset that is not there yet
    ├── RankingError         a ranking or a run file that cannot be evaluated
    ├── ResultError          a saved result or table that cannot be read or mixed
    ├── TrainingError        a training that cannot go on
    └── StorageError         folders that cannot be written: full, read-only, in use

Every message says what is wrong, which value it is and what to do about it. The command line
prints it as one line and exits with the class's status; nothing else is caught there.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClamrBenchError(Exception):
    """Base of every error that a user can act on."""

    exit_status = 1


class UsageError(ClamrBenchError):
    """An argument, address or setting that cannot be right."""

    exit_status = 2


class PluginError(ClamrBenchError):
    """A task or retriever that cannot be loaded, or that breaks its contract."""


class CapabilityError(ClamrBenchError):
    """A retriever that cannot do what the task asks of it."""


class DataError(ClamrBenchError):
    """Source files, dataset stores or media that cannot be used as they are."""


class NotPreparedError(DataError):
    """A dataset that has not been prepared on this machine."""


class RankingError(ClamrBenchError):
    """A ranking or run file that cannot be evaluated."""


class ResultError(ClamrBenchError):
    """A saved result or table that cannot be read or must not be mixed with others."""


class TrainingError(ClamrBenchError):
    """A training that cannot go on; what it has is kept."""


class StorageError(ClamrBenchError):
    """A folder that cannot be written: full, read-only, missing or in use."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or an empty string."""
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""
