"""What a training leaves: the model's folder, which `run` takes as weights, and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from harness.contamination import query_digest
from harness.encoder import Trainable
from harness.environment import environment
from harness.files import atomic_folder
from harness.results.schema import TrainingRecord
from harness.retriever import Retriever
from harness.runner.record import changed
from harness.task import Task
from harness.training.data import TrainingData
from harness.training.recipe import Recipe
from harness.workspace import TRAINED_ON_NAME, TRAINING_NAME, digest

_CARD = """\
# {address}, trained on {task}

Trained by clamr-bench {version} with

```console
{command}
```

| | |
|---|---|
| steps | {steps:,}, the best weights by validation from step {best:,} |
| trained on | {documents:,} documents and {queries:,} queries of `{task}` (data {fingerprint}) |
| left out: in evaluated splits | {dropped_documents:,} documents, {dropped_queries:,} queries |
| licence of the data | {licence} |
| licence of the model it started from | {model_licence} |

{measures}
`recipe.yaml` is the recipe, `training.json` this table for programs, `trained_on.json` the ids of
all documents and digests of all queries that were seen: `clamr-bench run` counts from it what an
evaluated split shares with them.

To use it: `clamr-bench run --task TASK --retriever {name}/FOLDER`
"""


def record(
    task: Task,
    retriever: Retriever,
    recipe: Recipe,
    data: TrainingData,
    *,
    steps: int,
    best: Mapping[str, Any] | None,
) -> TrainingRecord:
    """Return what results say about how the weights came about."""
    return TrainingRecord(
        task=task.address,
        task_version=task.about.version,
        data_fingerprint=data.fingerprint,
        documents=len(data.documents),
        queries=len({query.id for row in data.queries.values() for query in row}),
        dropped_documents=len(data.dropped.documents),
        dropped_queries=len(data.dropped.queries),
        started_from=retriever.address,
        settings=changed(retriever.settings),
        recipe_sha256=digest(recipe.model_dump(mode="json")),
        seed=recipe.seed,
        steps=steps,
        best_step=best["step"] if best else steps,
        validation=dict(best["measures"]) if best else {},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        clamr_bench=environment().clamr_bench,
    )


def export(
    folder: Path,
    encoder: Trainable,
    task: Task,
    retriever: Retriever,
    recipe: Recipe,
    data: TrainingData,
    trained: TrainingRecord,
    command: str,
) -> None:
    """Write the model's folder, whole or not at all.

    Parameters
    ----------
    folder
        Where; replaced if it is there.
    encoder
        With the weights to keep.
    task, retriever, recipe, data, trained
        What they came from.
    command
        The command that repeats the training.
    """
    with atomic_folder(folder) as temporary:
        encoder.save(temporary)
        values = recipe.model_dump(mode="json")
        (temporary / "recipe.yaml").write_text(
            yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        (temporary / TRAINING_NAME).write_text(
            json.dumps(trained.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8"
        )
        (temporary / TRAINED_ON_NAME).write_text(json.dumps(_seen(data)), encoding="utf-8")
        measures = "".join(
            f"{name} on held-out training queries: {value * 100:.2f}\n\n"
            for name, value in list(trained.validation.items())[:1]
        )
        card = _CARD.format(
            address=retriever.address,
            name=retriever.name,
            task=task.address,
            version=trained.clamr_bench,
            command=command,
            steps=trained.steps,
            best=trained.best_step,
            documents=trained.documents,
            queries=trained.queries,
            fingerprint=trained.data_fingerprint[:12],
            dropped_documents=trained.dropped_documents,
            dropped_queries=trained.dropped_queries,
            licence=task.about.licence,
            model_licence=retriever.about.licence,
            measures=measures,
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _seen(data: TrainingData) -> dict[str, list[str]]:
    """Return ids of the documents and digests of the queries' words."""
    return {
        "documents": sorted(data.documents),
        "queries": sorted({query_digest(q) for row in data.queries.values() for q in row}),
    }
