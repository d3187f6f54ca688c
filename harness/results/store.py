"""Finds, reads and checks saved runs.

A run lives in ``runs/<task>/<protocol>/<retriever>/<run-id>/`` under the results folder and is
complete when it has a ``result.json``, which is written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ResultError, UsageError, did_you_mean
from harness.results.schema import Result

RESULT_NAME = "result.json"
RUN_NAME = "run.trec.gz"
PER_QUERY_NAME = "per_query.parquet"
CONFIG_NAME = "config.yaml"


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One complete run on disk."""

    folder: Path
    result: Result

    def check(self) -> list[str]:
        """Return a line about everything in the folder that is not as it was written."""
        problems = []
        for name, written in self.result.files.items():
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{path} is missing.")
            elif sha256_of(path) != written:
                problems.append(f"{path} was changed since the run.")
        if not problems:
            problems += self._check_means()
        return problems

    def _check_means(self) -> list[str]:
        from harness.rank_measures import statistic_of
        from harness.results.per_query import read_per_query
        from harness.statistics import averages

        if not self.result.measures:
            return []
        _, values, measures = read_per_query(self.folder / PER_QUERY_NAME)
        found = averages(values, [statistic_of(measure) for measure in measures])
        means = dict(zip(measures, found.tolist(), strict=True))
        return [
            f"{self.folder / RESULT_NAME}: {measure} is {estimate.mean}, but the per-query values "
            f"average {means.get(measure)}."
            for measure, estimate in self.result.measures.items()
            if abs(means.get(measure, float("inf")) - estimate.mean) > 1e-9
        ]


class ResultsStore:
    """The runs under a results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def folders(self) -> Iterator[Path]:
        """Yield the folders of complete runs, in the order of their paths."""
        for path in sorted((self.folder / "runs").glob(f"*/*/*/*/{RESULT_NAME}")):
            yield path.parent

    def runs(self) -> Iterator[SavedRun]:
        """Yield every complete run.

        Raises
        ------
        ResultError
            If one cannot be read; the message names it.
        """
        for folder in self.folders():
            yield SavedRun(folder, Result.read(folder / RESULT_NAME))

    def find(self, run: str) -> SavedRun:
        """Return the run that `run` names: a run folder, or a unique prefix of a run id.

        Raises
        ------
        UsageError
            If no run or several match.
        ResultError
            If it cannot be read or is not complete.
        """
        folder = Path(run)
        if folder.is_dir():
            if not (folder / RESULT_NAME).is_file():
                raise ResultError(
                    f"{folder} holds no complete run (no {RESULT_NAME}): give the command that "
                    "made it again to go on."
                )
            return SavedRun(folder, Result.read(folder / RESULT_NAME))
        folders = list(self.folders())
        matches = [folder for folder in folders if folder.name.startswith(run)]
        if len(matches) != 1:
            found = ", ".join(match.name for match in matches[:5])
            why = f"several match: {found}" if matches else f"there is none in {self.folder}"
            raise UsageError(
                f"no single run {run!r}: {why}. `clamr-bench results list` shows all."
                + did_you_mean(run, [folder.name for folder in folders])
            )
        return SavedRun(matches[0], Result.read(matches[0] / RESULT_NAME))


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
