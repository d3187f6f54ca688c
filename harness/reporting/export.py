"""Saved runs in the forms of others: model-index YAML of the Hugging Face hub, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import yaml

from harness.errors import UsageError
from harness.rank_measures import statistic_of
from harness.results.schema import Estimate, Result
from harness.results.store import SavedRun

#: The hub's word for what all tasks here are.
_TASK_TYPE = "retrieval"

_CSV = (
    "run", "created", "task", "task_version", "protocol", "split", "task_settings",
    "data_fingerprint", "retriever", "retriever_version", "retriever_settings", "modalities", "k",
    "seed", "limit", "untrained", "oracle", "unit", "count", "missing", "measure", "statistic",
    "value", "low", "high",
)  # fmt: skip


def card(runs: Sequence[SavedRun]) -> str:
    """Return the front matter of a model card, with the evaluations of runs as its model-index.

    Values are as in ``result.json``: shares of 1, and ranks as they are. A dataset's revision is
    its fingerprint, the sha256 of its rows. Nothing is marked as verified: nobody did.

    Raises
    ------
    UsageError
        If a run is not to be listed: of some queries only, of untrained weights, without judgments.
    """
    models: dict[str, dict[str, Any]] = {}
    for run in runs:
        result = run.result
        why = unlisted(result)
        if why:
            raise UsageError(f"run {result.run_id} is not for a card: {why}.")
        name = _name(result)
        model = models.setdefault(name, {"name": name, "results": []})
        model["results"].append(_evaluation(result))
    index = {"model-index": list(models.values())}
    return f"---\n{yaml.safe_dump(index, sort_keys=False, allow_unicode=True)}---\n"


def unlisted(result: Result) -> str:
    """Return why a result is in no table; empty if it may be."""
    if result.options.limit is not None:
        return f"it is of the first {result.options.limit} queries only (--limit)"
    if result.retriever.untrained:
        return "its weights were never trained"
    if not result.measures:
        return "its judgments are not public"
    return ""


def to_csv(runs: Sequence[SavedRun]) -> str:
    """Return a line for each measure of each run as CSV, with a heading."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV)
    for run in runs:
        for measure, value in run.result.measures.items():
            writer.writerow([*_facts(run.result), measure, statistic_of(measure), *_ends(value)])
    return stream.getvalue()


def _name(result: Result) -> str:
    """Return what a model is called: its address, with what differs from its defaults."""
    parts = [f"{key}={value}" for key, value in result.retriever.changed_settings.items()]
    if result.options.restriction is not None:
        parts.append(result.options.restriction)
    if result.retriever.oracle:
        parts.append("oracle")
    return f"{result.retriever.address} ({', '.join(parts)})" if parts else result.retriever.address


def _evaluation(result: Result) -> dict[str, Any]:
    task = result.task
    return {
        "task": {"type": _TASK_TYPE, "name": f"{task.title}, protocol {task.protocol.name}"},
        "dataset": {
            "type": task.address,
            "name": task.title,
            "config": f"version {task.version}",
            "split": task.split,
            "revision": result.data.fingerprint,
            "args": {
                **task.changed_settings,
                task.protocol.unit: result.evaluation.queries,
                "k": result.options.k,
                "run": result.run_id,
                "clamr_bench": result.environment.clamr_bench,
            },
        },
        "metrics": [
            {
                "type": measure,
                "name": f"{measure} ({statistic_of(measure)})",
                "value": value.mean,
                "args": {"interval_95": _ends(value)[1:]},
            }
            for measure, value in result.measures.items()
        ],
    }


def _facts(result: Result) -> list[Any]:
    task, retriever, options = result.task, result.retriever, result.options
    return [
        result.run_id,
        result.created,
        task.address,
        task.version,
        task.protocol.name,
        task.split,
        json.dumps(task.changed_settings, ensure_ascii=False),
        result.data.fingerprint,
        retriever.address,
        retriever.version,
        json.dumps(retriever.changed_settings, ensure_ascii=False),
        "" if options.modalities is None else "+".join(options.modalities),
        options.k,
        options.seed,
        "" if options.limit is None else options.limit,
        retriever.untrained,
        retriever.oracle,
        task.protocol.unit,
        result.evaluation.queries,
        result.evaluation.missing,
    ]


def _ends(value: Estimate) -> list[float]:
    return [value.mean, value.low, value.high]
