"""What produces the cells of a paper's tables: runs, and the commands for them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from harness.config import RunConfig
from harness.encoder import EncoderRetriever
from harness.errors import ClamrBenchError, PluginError, UsageError
from harness.registry import RETRIEVERS, make_retriever, make_task
from harness.reporting.papers_schema import Benchmark, Column, Method, Paper, Row, Table
from harness.results.schema import Result, TrainingRecord
from harness.results.store import SavedRun
from harness.retriever import Retriever
from harness.runner.record import changed
from harness.task import Task
from harness.training import recipes
from harness.training.recipe import Recipe
from harness.types import Modality
from harness.workspace import digest

#: What a damaged media file does may differ from run to run; a result counts what was lost.
_IGNORED = "on_damaged"


@dataclass(frozen=True)
class Job:
    """A run that gives figures of some cells."""

    benchmark: Benchmark
    method: Method

    @cached_property
    def task(self) -> Task:
        """The task."""
        return make_task(self.benchmark.task, self.benchmark.settings)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the retriever: those of the recipe that made its weights, then its own."""
        if self._start is None:
            return self.method.settings
        # What says where a training starts says nothing of the weights that came of it.
        started_by = self._start.encoder.weight_settings
        trained_with = {k: v for k, v in self._recipe_settings.items() if k not in started_by}
        return {**trained_with, **self.method.settings}

    @cached_property
    def retriever(self) -> Retriever:
        """The retriever; of one that is to be trained, its plugin without weights."""
        return make_retriever(self.method.retriever or "", self.settings)

    @cached_property
    def _asked(self) -> tuple[dict[str, Any], dict[str, Any], list[str] | None]:
        return (
            changed(self.task.settings),
            _without(changed(self.retriever.settings)),
            _sorted(self.method.modalities),
        )

    @cached_property
    def _recipe(self) -> Recipe | None:
        training = self.method.training
        return None if training is None else recipes.load(training.recipe, training.changes)

    @property
    def _recipe_settings(self) -> Mapping[str, Any]:
        """What the recipe says of the retriever that is trained."""
        if self._recipe is None or self.method.training is None:
            return {}
        return self._recipe.settings.get(RETRIEVERS.find(self.method.training.start).name, {})

    @cached_property
    def _start(self) -> EncoderRetriever | None:
        """What the training starts from."""
        training = self.method.training
        if training is None:
            return None
        settings = {**self._recipe_settings, **training.settings}
        start = make_retriever(training.start, settings)
        if not isinstance(start, EncoderRetriever) or not start.capabilities.trainable:
            raise UsageError(f"retriever {training.start!r} cannot be trained.")
        return start

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """What the record of its weights' training says; None for weights that are published."""
        training = self.method.training
        if training is None or self._start is None or self._recipe is None:
            return None
        return {
            "task": training.task,
            "started_from": self._start.address,
            "settings": _without(changed(self._start.settings)),
            "recipe_sha256": digest(self._recipe.model_dump(mode="json")),
        }

    def is_that_of(self, result: Result) -> bool:
        """Whether a result is one of this job: same task, protocol, retriever and settings.

        Runs of some queries only, without judgments, or of weights that were never trained, are
        of none.
        """
        task, retriever, options = result.task, result.retriever, result.options
        if options.limit is not None or retriever.untrained or not result.measures:
            return False
        if options.k < self.method.k:
            return False
        settings = _without(retriever.changed_settings)
        if self._asked != (task.changed_settings, settings, options.modalities):
            return False
        return (
            (task.address, task.version) == (self.task.address, self.task.about.version)
            and task.protocol.name == self.task.protocol.name
            and task.split == self.benchmark.split
            and self._has_the_weights(result)
        )

    def _has_the_weights(self, result: Result) -> bool:
        if self.trained is None:
            return result.retriever.address == self.retriever.address
        record = result.retriever.training
        return result.retriever.name == self.retriever.name and _facts(record) == self.trained

    def newest(self, runs: Iterable[SavedRun]) -> SavedRun | None:
        """Return the newest of the runs that are this job's, or None."""
        mine = [run for run in runs if self.is_that_of(run.result)]
        return max(mine, key=lambda run: (run.result.created, run.result.run_id), default=None)

    def config(self, **options: Any) -> RunConfig:
        """Return the configuration of its run; `options` are further ones, None for defaults."""
        address = self.method.retriever or ""
        values = {
            "tasks": [self.benchmark.task],
            "retrievers": [address],
            "split": self.benchmark.split,
            "k": self.method.k,
            "modalities": self.method.modalities,
            "settings": {address: self.settings},
            **options,
        }
        return RunConfig.make(None, values)

    def made(self, **options: Any) -> Retriever:
        """Return the retriever with what the options say of retrievers that know them."""
        address, asked = self.method.retriever or "", self.retriever
        known = type(asked.settings).model_fields
        settings = self.config(**options).settings_of(address, asked.name, known)
        return make_retriever(address, settings)

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """The commands that make it: of the training, if there is one, and of the run.

        There are none if a plugin does not load.
        """
        try:
            return tuple(self._commands())
        except PluginError:
            return ()

    def _commands(self) -> list[str]:
        method, training = self.method, self.method.training
        address = method.retriever or ""
        name = self.retriever.name
        words = ["run", "--task", self.benchmark.task]
        words += ["--retriever", f"{address}/FOLDER" if training else address]
        if self.benchmark.split != "test":
            words += ["--split", self.benchmark.split]
        if method.k != RunConfig.model_fields["k"].default:
            words += ["--k", str(method.k)]
        if method.modalities:
            words += ["--modalities", ",".join(method.modalities)]
        words += _assignments(self.task.name, self.benchmark.settings)
        other = changed(self.retriever.settings)  # A recipe states defaults, too.
        words += _assignments(name, {k: v for k, v in self.settings.items() if k in other})
        found = [_command(words)]
        if training is not None:
            words = ["train", "--task", training.task, "--retriever", training.start]
            words += ["--recipe", training.recipe, *_assignments("recipe", training.changes)]
            words += _assignments(name, training.settings)
            found.insert(0, _command(words))
        return found


class Availability:
    """Whether jobs can be run with what is on this machine; each question is asked once."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}

    def lacks(self, job: Job) -> str:
        """Return why a job cannot be run; empty if it can."""
        if job.method.training is not None:
            return "their weights are to be trained first; FOLDER is what the training names"
        try:
            prepared = job.task.is_prepared
            address = job.retriever.address
        except ClamrBenchError as error:  # A plugin that does not load.
            return str(error)
        if not prepared:
            task = job.task.address
            return f"no data of {task} yet (`clamr-bench data prepare {task} --source DIR`)"
        key = digest([address, job.settings])
        if key not in self._answers:
            try:
                job.retriever.identity()
                self._answers[key] = ""
            except ClamrBenchError as error:
                self._answers[key] = str(error)
            except Exception:  # noqa: BLE001 - a plugin's own fault, which running it shows
                self._answers[key] = ""
        return self._answers[key]


def jobs_of(paper: Paper, tables: Sequence[Table]) -> dict[tuple[str, str], Job]:
    """Return the jobs of all cells that something here can produce, in the order of the cells.

    They go by what `place_of` says of a cell.
    """
    found: dict[tuple[str, str], Job] = {}
    for table in tables:
        for row, column, _ in table.cells():
            benchmark, name = place = place_of(table, row, column)
            method = paper.methods[name]
            if place not in found and method.verdict is None:
                found[place] = Job(paper.benchmarks[benchmark], method)
    return found


def place_of(table: Table, row: Row, column: Column) -> tuple[str, str]:
    """Return the names of the benchmark and of the method behind a cell."""
    return column.benchmark or "", table.method_of(row, column) or ""


def _facts(record: TrainingRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "task": record.task,
        "started_from": record.started_from,
        "settings": _without(record.settings),
        "recipe_sha256": record.recipe_sha256,
    }


def _without(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != _IGNORED}


def _sorted(modalities: Sequence[str] | None) -> list[str] | None:
    """Return modalities as a run's options have them."""
    if modalities is None:
        return None
    return [modality.label for modality in sorted({Modality.parse(name) for name in modalities})]


def _assignments(name: str, settings: Mapping[str, Any]) -> list[str]:
    words = []
    for key, value in settings.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
        text = text.removesuffix("\n").removesuffix("\n...")
        words += ["--set", f"{name}.{key}={text}"]
    return words


def _command(words: Sequence[str]) -> str:
    return shlex.join(["clamr-bench", *words])
