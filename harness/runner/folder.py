"""The folder of one run: made and write-tested first, complete when ``result.json`` is there."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from harness.config import RunConfig
from harness.environment import source_sha256
from harness.evaluation import Evaluation
from harness.files import atomic_write, exclusive, writable_folder
from harness.results.per_query import write_per_query
from harness.results.schema import Result
from harness.results.store import (
    CONFIG_NAME,
    PER_QUERY_NAME,
    RESULT_NAME,
    RUN_NAME,
    SavedRun,
    sha256_of,
)
from harness.retriever import Retriever
from harness.runfile import write_ranking
from harness.task import Task
from harness.types import Ranking


class RunFolder:
    """``runs/<task>/<protocol>/<retriever>/<run-id>/`` while it is written.

    The run id is the UTC time and the first 8 digits of the run's fingerprint. A run that was
    killed goes on in its own folder. A complete run of the same fingerprint, made by the same
    source code, is given back instead of being run again.
    """

    def __init__(self, path: Path, complete: SavedRun | None) -> None:
        self.path, self.complete = path, complete
        self._stack = ExitStack()

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.path.name

    @classmethod
    def open(
        cls, results: Path, task: Task, retriever: Retriever, fingerprint: str, *, again: bool
    ) -> RunFolder:
        """Find the folder to use."""
        parent = results / "runs" / task.family / task.protocol.name / slug(retriever.address)
        partial: Path | None = None
        for folder in sorted(parent.glob(f"*-{fingerprint[:8]}"), reverse=True):
            if not (folder / RESULT_NAME).is_file():
                partial = partial or folder
                continue
            if again:
                continue
            result = Result.read(folder / RESULT_NAME)
            same_code = result.environment.source_sha256 == source_sha256()
            if result.fingerprint == fingerprint and same_code:
                return cls(folder, SavedRun(folder, result))
        if partial is not None:
            return cls(partial, None)
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return cls(parent / f"{now}-{fingerprint[:8]}", None)

    def __enter__(self) -> Self:
        if self.complete is None:
            writable_folder(self.path, "run folder")
            self._stack.enter_context(exclusive(self.path / ".lock"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def write_config(self, task: Task, retriever: Retriever, config: RunConfig) -> None:
        """Write the effective configuration: ``run --config`` of this file repeats the run."""
        chosen = config.model_dump(mode="json", include={"k", "seed", "limit", "modalities"})
        effective = {
            "tasks": [task.address],
            "retrievers": [retriever.address],
            "split": config.split,
            **{key: value for key, value in chosen.items() if value is not None},
            "settings": {
                task.address: task.settings.model_dump(mode="json"),
                retriever.address: retriever.settings.model_dump(mode="json"),
            },
        }
        with atomic_write(self.path / CONFIG_NAME) as temporary:
            text = yaml.safe_dump(effective, sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")

    def save(self, result: Result, ranking: Ranking, evaluation: Evaluation) -> SavedRun:
        """Write the ranking, the per-query values and, last, the result."""
        write_ranking(ranking, self.path / RUN_NAME, result.retriever.address.replace(" ", "_"))
        with atomic_write(self.path / PER_QUERY_NAME) as temporary:
            write_per_query(temporary, evaluation.query_ids, evaluation.values, evaluation.measures)
        names = (CONFIG_NAME, RUN_NAME, PER_QUERY_NAME)
        files = {name: sha256_of(self.path / name) for name in names}
        result = result.model_copy(update={"files": files})
        with atomic_write(self.path / RESULT_NAME) as temporary:
            temporary.write_text(result.dump(), encoding="utf-8")
        (self.path / ".lock").unlink(missing_ok=True)
        return SavedRun(self.path, result)


def slug(address: str) -> str:
    """Return an address as one folder name: a file plugin goes by its class."""
    address = address.rpartition(":")[2] if ".py:" in address else address
    return re.sub(r"[^\w.+-]+", "_", address).strip("._") or "retriever"
