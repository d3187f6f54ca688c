"""Figures in words, on the terminal and on pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.results.schema import Result


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def losses(counts: Mapping[str, int]) -> str:
    """Return what of the documents could not be used as one line; empty if nothing."""
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items())


def seconds(value: float | None) -> str:
    """Return seconds of a stage."""
    return "not measured (resumed)" if value is None else f"{value:.2f} s"


def milliseconds(value: float | None) -> str:
    """Return a latency."""
    return "-" if value is None else f"{value:.2f} ms"


def facts_of(result: Result) -> dict[str, str]:
    """Return what a run is of and what it took, line by line."""
    task, retriever, cost = result.task, result.retriever, result.efficiency
    data, environment = result.data, result.environment
    coverage = ", ".join(f"{key} {n:,}" for key, n in data.coverage.modalities.items())
    return {
        "task": f"{task.address}@{task.version}, {task.split}, protocol {task.protocol.name}",
        "retriever": f"{retriever.address} (version {retriever.version})",
        "settings": str(retriever.settings),
        "options": str(result.options.model_dump(exclude_none=True)),
        "data": f"{data.fingerprint[:12]}: {data.coverage.documents:,} documents ({coverage}), "
        f"{data.judgments:,} judgments",
        "not used": losses(data.losses) or "-",
        task.protocol.unit: f"{result.evaluation.queries:,} evaluated, "
        f"{result.evaluation.missing:,} without a list, "
        f"{result.evaluation.without_positives:,} dropped",
        "made": f"{result.created} by clamr-bench {environment.clamr_bench}, Python "
        f"{environment.python}, {environment.processor}",
        "index": f"{seconds(cost.index_seconds)}, {size(cost.index_bytes)}",
        "search": f"{seconds(cost.search_seconds)}; one query p50 "
        f"{milliseconds(cost.query_p50_ms)}, p95 {milliseconds(cost.query_p95_ms)}",
        "peak memory": size(cost.peak_memory_bytes),
        "licences": f"data: {task.licence}; retriever: {retriever.licence}",
    }
