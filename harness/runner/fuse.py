"""Fuses saved runs into a run of its own, without indexing, searching or encoding anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.config import RunConfig
from harness.environment import peak_memory, reset_peak_memory
from harness.errors import ResultError, UsageError
from harness.evaluation import evaluate
from harness.files import atomic_write, writable_folder
from harness.fusion import check_weights, tune
from harness.policy import OwnPolicy
from harness.progress import Progress
from harness.rank_measures import goodness, written
from harness.results.schema import Efficiency, Result
from harness.results.store import CONFIG_NAME, ResultsStore, SavedRun
from harness.runner.folder import RunFolder
from harness.runner.fused_runs import NAME, FusedRuns, Plan, labels_of
from harness.runner.record import build_result, run_identity
from harness.runner.reopen import same_split, saved_ranking
from harness.runner.scoring import score
from harness.runner.transposed import as_asked
from harness.task import Split, Task
from harness.types import Query, Ranking
from harness.workspace import digest

#: What runs must have in common: how to call it, and where a result has it.
_COMMON: tuple[tuple[str, Callable[[Result], Any]], ...] = (
    ("task", lambda result: result.task.address),
    ("task version", lambda result: result.task.version),
    ("protocol", lambda result: result.task.protocol.name),
    ("rules of the protocol", lambda result: result.task.protocol.model_dump()),
    ("split", lambda result: result.task.split),
    ("task settings", lambda result: result.task.settings),
    ("data fingerprint", lambda result: result.data.fingerprint),
    ("--limit", lambda result: result.options.limit),
    ("number of queries", lambda result: result.data.queries),
)


def fuse_runs(
    parts: Sequence[SavedRun],
    task: Task,
    plan: Plan,
    results: Path,
    data: Path | None,
    progress: Progress,
    *,
    again: bool = False,
) -> tuple[SavedRun, bool]:
    """Fuse saved runs of one task, evaluate by its protocol and save the result.

    Parameters
    ----------
    parts
        At least two runs.
    task
        What they are of, made with their settings.
    plan
        How to fuse.
    results
        Results folder; with ``tune_on``, also where the runs on that split are.
    data
        The dataset store that they ran on, if not the default one.
    progress
        Where to report.
    again
        Fuse even if the same fusion is complete already.

    Returns
    -------
    SavedRun, bool
        The saved run, and whether it was there already.

    Raises
    ------
    ResultError
        If the runs are not comparable, or they or the data were changed since.
    UsageError
        If there are fewer than two different runs, or weights or tuning make no sense.
    """
    _check_parts(parts)
    check_weights(plan.weights, len(parts), plan.method)
    writable_folder(results, "results folder")
    first = parts[0].result
    if task.about.version != first.task.version:
        raise ResultError(
            f"run {first.run_id} is of version {first.task.version} of task {task.address!r}, "
            f"which is now {task.about.version}: run the parts again."
        )
    split = same_split(parts[0], task, data, progress)
    asked = as_asked(task, split)
    if plan.tune_on is not None:
        plan = _tuned(parts, task, asked, plan, ResultsStore(results), data, progress)
    retriever = FusedRuns(parts, plan)
    seeds = {part.result.options.seed for part in parts}
    config = RunConfig(
        tasks=[task.address],
        retrievers=[NAME],
        split=split.name,
        k=plan.k,
        seed=seeds.pop() if len(seeds) == 1 else 0,
        limit=first.options.limit,
    )
    runs = {part.result.run_id: part.result.fingerprint for part in parts}
    identity = {
        **run_identity(task, retriever, split, config),
        "runs": sorted(runs.values()),
    }
    fingerprint = digest(identity)
    with RunFolder.open(results, task, retriever, fingerprint, again=again) as folder:
        if folder.complete is not None:
            return folder.complete, True
        reset_peak_memory()
        queries = asked.queries if config.limit is None else asked.queries[: config.limit]
        with progress.stage(f"fuse {len(parts)} runs"):
            ranking = retriever.search(queries, plan.k)
        with progress.stage("evaluate"):
            scores = score(task, ranking, asked, queries)
        with atomic_write(folder.path / CONFIG_NAME) as temporary:
            made_of = retriever.settings.model_dump(mode="json")
            text = yaml.safe_dump({NAME: {**made_of, "k": plan.k}}, sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
        result = build_result(
            folder.run_id,
            fingerprint,
            task,
            retriever,
            split,
            config,
            scores,
            None,
            Efficiency(
                # Nothing was indexed or searched here; the index is what those of the parts take.
                index_seconds=None,
                search_seconds=None,
                query_p50_ms=None,
                query_p95_ms=None,
                index_bytes=sum(part.result.efficiency.index_bytes for part in parts),
                peak_memory_bytes=peak_memory(),
            ),
            queries=len(queries),
        )
        return folder.save(_for_tables(result), ranking, scores.evaluation), False


def _check_parts(parts: Sequence[SavedRun]) -> None:
    """Refuse runs that cannot be fused; the message names both and what differs."""
    if len(parts) < 2:
        raise UsageError("fusing takes at least two runs: name another one.")
    first = parts[0].result
    seen: set[str] = set()
    for part in parts:
        result = part.result
        if result.run_id in seen:
            raise UsageError(f"run {result.run_id} is named twice: fuse different runs.")
        seen.add(result.run_id)
        for what, value in _COMMON:
            if value(result) != value(first):
                raise ResultError(
                    f"runs {first.run_id} ({first.retriever.address}) and {result.run_id} "
                    f"({result.retriever.address}) cannot be fused, for they differ in {what}: "
                    f"{_short(value(first))} and {_short(value(result))}. Run one of them again "
                    "as the other."
                )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _tuned(
    parts: Sequence[SavedRun],
    task: Task,
    split: Split,
    plan: Plan,
    store: ResultsStore,
    data: Path | None,
    progress: Progress,
) -> Plan:
    """Return the plan with the weights that are best on the split to tune on."""
    if plan.weights is not None:
        raise UsageError("weights are either given or tuned: leave one of the two out.")
    if plan.tune_on == split.name:
        raise UsageError(
            f"the runs are evaluated on split {split.name!r}, so weights cannot be tuned on it: "
            "name another split, such as validation."
        )
    found = [_counterpart(part, plan.tune_on or "", store) for part in parts]
    _check_parts(found)
    other = as_asked(task, same_split(found[0], task, data, progress))
    shared = {query.id for query in split.queries} & {query.id for query in other.queries}
    if shared:
        raise UsageError(
            f"splits {split.name!r} and {other.name!r} of {task.address!r} share {len(shared):,} "
            f"queries (such as {min(shared)!r}): weights tuned on the one cannot be judged on the "
            "other."
        )
    limit = found[0].result.options.limit
    queries = other.queries if limit is None else other.queries[:limit]
    rankings = [saved_ranking(run) for run in found]
    with progress.stage(f"tune weights on {other.name}"):
        best = tune(
            rankings, _quality(task, other, queries), plan.method, rrf_k=plan.rrf_k, k=plan.k
        )
    labels = labels_of([part.result for part in parts])
    shown = ", ".join(f"{x} {w:g}" for x, w in zip(labels, best.weights, strict=True))
    main = task.protocol.main
    tuned, equal = (written(main, goodness(main, value)) for value in (best.value, best.equal))
    progress.note(
        f"weights: {shown} ({main} on {other.name} {tuned}, with equal weights {equal}; "
        f"{best.tried} tried)"
    )
    return replace(plan, weights=best.weights)


def _counterpart(part: SavedRun, split: str, store: ResultsStore) -> SavedRun:
    """Return the newest run of the part's retriever, with its options, on another split."""
    result = part.result

    def key(one: Result) -> tuple[object, ...]:
        options = one.options.model_dump(exclude={"limit"})
        return one.task.address, one.task.settings, one.retriever.fingerprint, options

    found = [
        run
        for run in store.runs()
        if run.result.task.split == split and key(run.result) == key(result)
    ]
    if not found:
        raise ResultError(
            f"run {result.run_id} has no counterpart on split {split!r} in {store.folder}: run "
            f"{result.retriever.address} there with the same settings and options (`clamr-bench "
            f"run --config {part.folder / CONFIG_NAME} --split {split}`)."
        )
    return max(found, key=lambda run: (run.result.created, run.result.run_id))


def _quality(task: Task, split: Split, queries: Sequence[Query]) -> Callable[[Ranking], float]:
    """Return what measures a ranking of a split by the task's main measure: more is better."""
    main, ids = task.protocol.main, [query.id for query in queries]

    def measure(ranking: Ranking) -> float:
        if isinstance(task, OwnPolicy):
            return task.measure(ranking, split, queries).mean(main)
        size = len(split.documents)
        found = evaluate(ranking, split.qrels, ids, (main,), documents=size).mean(main)
        return goodness(main, found)

    return measure


def _for_tables(result: Result) -> Result:
    """Shorten what tables show of the row: the parts in a line, without the ids of their runs."""
    shown = dict(result.retriever.changed_settings)
    del shown["runs"]
    shown["parts"] = " + ".join(shown["parts"])
    record = result.retriever.model_copy(update={"changed_settings": shown})
    return result.model_copy(update={"retriever": record})
