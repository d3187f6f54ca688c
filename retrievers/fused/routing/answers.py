"""What an endpoint answered, kept as it arrives."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence

from harness.files import storage_error
from harness.types import Modality
from harness.workspace import Workspace

log = logging.getLogger("clamr_bench.routing")

_NAME = "answers.jsonl"
_LABELS = {modality.label: modality for modality in Modality}


class Answers:
    """The modalities that were answered, by key, in an append-only file of a workspace.

    An answer is on disk (fsync) before `add` returns: it was paid for. A line that a killed
    process wrote in part, or that is damaged otherwise, is passed over with a warning, and its
    query is asked again. Neither queries nor the words of answers are kept.

    Whoever adds holds the workspace's lock.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._path = workspace.path / _NAME
        self._known: dict[str, tuple[Modality, ...]] = {}
        self._warned = False
        self.load()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> tuple[Modality, ...]:
        return self._known[key]

    def load(self) -> None:
        """Read what is on disk, of other processes too; the first answer to a query counts."""
        if not self._path.exists():
            return
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise storage_error(error, "file", self._path) from error
        damaged = 0
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                key, labels = entry["query"], entry["modalities"]
                self._known.setdefault(str(key), tuple(_LABELS[label] for label in labels))
            except (ValueError, LookupError, TypeError, RecursionError):
                damaged += bool(line.strip())
        if damaged and not self._warned:
            self._warned = True
            log.warning(
                "router: %s has %d damaged lines; their queries are asked again",
                self._path,
                damaged,
            )

    def add(self, key: str, modalities: Sequence[Modality]) -> None:
        """Keep an answer.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        entry = {"query": key, "modalities": [modality.label for modality in modalities]}
        try:
            with self._path.open("ab+") as file:
                torn = b""
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    torn = b"" if file.read(1) == b"\n" else b"\n"
                file.write(torn + json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, "file", self._path) from error
        self._known[key] = tuple(modalities)
