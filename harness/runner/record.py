"""Builds the `Result` of a run, and the identity that its fingerprint is made of."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.contamination import seen_of
from harness.environment import environment
from harness.errors import ResultError
from harness.plugin import Direction
from harness.results.schema import (
    AttributionRecord,
    CoverageRecord,
    DataRecord,
    Efficiency,
    EvaluationRecord,
    Options,
    OverlapRecord,
    ProtocolRecord,
    Result,
    RetrieverRecord,
    TaskRecord,
    TrainingRecord,
)
from harness.retriever import Retriever
from harness.runner.scoring import Scores
from harness.settings import Settings
from harness.task import Split, Task
from harness.workspace import TRAINING_NAME

#: Counts queries whose image a retriever that takes them does not read.
UNREAD = "query images not read"


def run_identity(
    task: Task, retriever: Retriever, split: Split, config: RunConfig
) -> dict[str, Any]:
    """Return all that determines the output of a run."""
    return {
        "task": {
            "address": task.address,
            "version": task.about.version,
            "settings": task.settings.model_dump(mode="json"),
            "protocol": asdict(task.protocol),
            "split": split.name,
        },
        "data": split.fingerprint,
        "retriever": retriever.identity(),
        "options": options(retriever, config).model_dump(mode="json"),
    }


def workspace_identity(retriever: Retriever, split: Split, options: Options) -> dict[str, Any]:
    """Return all that determines what a run's retriever puts into its workspace."""
    return {
        "data": split.fingerprint,
        "modalities": None if options.masked else options.modalities,
        "retriever": retriever.index_identity(),
    }


def options(retriever: Retriever, config: RunConfig) -> Options:
    """Return the options of the configuration that change a run's output."""
    return Options(
        k=config.k,
        seed=config.seed,
        limit=config.limit,
        modalities=config.modalities,
        masked=masked(retriever, config),
    )


def masked(retriever: Retriever, config: RunConfig) -> bool:
    """Whether modalities are left out of the scores alone, documents being encoded with all."""
    return config.modality_set is not None and retriever.masks


def build_result(
    run_id: str,
    fingerprint: str,
    task: Task,
    retriever: Retriever,
    split: Split,
    config: RunConfig,
    scores: Scores,
    attribution: AttributionRecord | None,
    efficiency: Efficiency,
    *,
    queries: int,
) -> Result:
    """Put everything together; `files` is filled in by the run folder."""
    about, protocol = task.about, task.protocol
    evaluation = scores.evaluation
    return Result(
        run_id=run_id,
        fingerprint=fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=TaskRecord(
            address=task.address,
            family=task.family,
            version=about.version,
            title=about.title,
            licence=about.licence,
            citation=about.citation,
            url=about.url,
            split=split.name,
            settings=task.settings.model_dump(mode="json"),
            changed_settings=changed(task.settings),
            protocol=ProtocolRecord(
                name=protocol.name,
                candidates=protocol.candidates,
                relevance=protocol.relevance,
                ties=protocol.ties,
                measures=list(protocol.measures),
                main=protocol.main,
                unit=protocol.unit,
            ),
        ),
        data=DataRecord(
            fingerprint=split.fingerprint,
            queries=queries,
            judgments=sum(len(row) for row in split.qrels.values()),
            coverage=CoverageRecord(**asdict(split.coverage)),
            channels=dict(split.channels),
            losses=_losses(task, retriever, split, queries),
        ),
        retriever=RetrieverRecord(
            address=retriever.address,
            name=retriever.name,
            weights=retriever.weights,
            version=retriever.about.version,
            title=retriever.about.title,
            licence=retriever.about.licence,
            citation=retriever.about.citation,
            url=retriever.about.url,
            settings=retriever.settings.model_dump(mode="json"),
            changed_settings=changed(retriever.settings),
            fingerprint=retriever.fingerprint,
            modalities=[m.label for m in sorted(retriever.capabilities.modalities)],
            oracle=retriever.capabilities.oracle,
            untrained=retriever.untrained,
            training=_training(retriever.training),
            overlap=_overlap(retriever.training, split),
        ),
        options=options(retriever, config),
        evaluation=EvaluationRecord(
            queries=len(evaluation.query_ids),
            missing=evaluation.missing,
            without_positives=evaluation.without_positives,
        ),
        measures=scores.measures,
        breakdowns=scores.breakdowns,
        references=scores.references,
        attribution=attribution,
        efficiency=efficiency,
        environment=environment(),
        files={},
    )


def _losses(task: Task, retriever: Retriever, split: Split, queries: int) -> dict[str, int]:
    """Return what was not used, sorted by kind."""
    found = dict(retriever.losses)
    if retriever.capabilities.ignores_images:
        # Counted here, so that it is whole even if a killed process asked some of them.
        asked = split.queries if task.direction is Direction.REVERSE else split.queries[:queries]
        if unread := sum(query.image is not None for query in asked):
            found[UNREAD] = unread
    return dict(sorted(found.items()))


def _training(folder: Path | None) -> TrainingRecord | None:
    if folder is None:
        return None
    try:
        return TrainingRecord.model_validate_json((folder / TRAINING_NAME).read_bytes())
    except ValueError as error:
        raise ResultError(
            f"{folder / TRAINING_NAME} is damaged ({str(error).splitlines()[0]}): restore it."
        ) from error


def _overlap(folder: Path | None, split: Split) -> OverlapRecord | None:
    if folder is None:
        return None
    documents, queries = seen_of(folder, split)
    return OverlapRecord(documents=documents, queries=queries)


def changed(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    defaults = type(settings)().model_dump(mode="json")
    values = settings.model_dump(mode="json")
    return {key: value for key, value in values.items() if value != defaults[key]}
