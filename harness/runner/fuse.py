"""Fuses saved runs into a run of its own, without indexing, searching or encoding anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from harness.config import RunConfig
from harness.documents import Documents
from harness.environment import peak_memory, reset_peak_memory
from harness.errors import ResultError, UsageError
from harness.evaluation import evaluate
from harness.fusion import RRF_K, Method, check_weights, fuse, tune
from harness.plugin import About
from harness.policy import OwnPolicy
from harness.progress import Progress
from harness.results.schema import Efficiency, Result
from harness.results.store import CONFIG_NAME, ResultsStore, SavedRun
from harness.retriever import Capabilities, Retriever
from harness.runner.folder import RunFolder
from harness.runner.record import build_result, run_identity
from harness.runner.reopen import same_split, saved_ranking
from harness.runner.scoring import score
from harness.settings import Settings
from harness.task import Split, Task
from harness.types import Modality, Query, Ranking
from harness.workspace import Workspace, atomic_write, digest, writable_folder

#: The name that results of fused runs go by.
NAME = "fuse"

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


class FuseSettings(Settings):
    """What a fused run is made of, as its result says."""

    method: Method | None = Field(None, description="How scores are fused.")
    parts: tuple[str, ...] = Field((), description="The retrievers of the runs.")
    weights: tuple[float, ...] | None = Field(None, description="Of each part; none for 1 each.")
    rrf_k: int = Field(RRF_K, description="Constant of method rrf.")
    tuned_on: str | None = Field(None, description="Split that the weights were tuned on.")
    runs: tuple[str, ...] = Field((), description="Ids of the runs.")


@dataclass(frozen=True, slots=True)
class Plan:
    """How to fuse.

    Attributes
    ----------
    method, weights, rrf_k, k
        As for `harness.fusion.fuse`.
    tune_on
        A split on which to find the weights: the parts must have been run on it too.
    """

    method: Method = Method.RRF
    weights: tuple[float, ...] | None = None
    rrf_k: int = RRF_K
    k: int = 1000
    tune_on: str | None = None


class FusedRuns(Retriever):
    """Saved runs as one retriever: it ranks by fusing what they ranked.

    Parameters
    ----------
    parts
        The runs.
    plan
        How to fuse them.
    """

    about = About(
        title="Fusion of saved runs",
        version="1",
        licence="Apache-2.0",
        citation="See the runs that were fused.",
    )
    capabilities = Capabilities(modalities=frozenset(Modality))

    def __init__(self, parts: Sequence[SavedRun], plan: Plan) -> None:
        self._runs, self._plan = tuple(parts), plan
        self._parts = [part.result for part in parts]
        retrievers = [part.retriever for part in self._parts]
        labels = _labels(self._parts)
        super().__init__(
            NAME,
            None,
            FuseSettings(
                method=plan.method,
                parts=labels,
                weights=plan.weights,
                rrf_k=plan.rrf_k,
                tuned_on=plan.tune_on,
                runs=tuple(part.run_id for part in self._parts),
            ),
        )
        # Of this object, not of the class: they are those of the parts.
        self.about = replace(  # type: ignore[misc]
            FusedRuns.about,
            licence="; ".join(dict.fromkeys(part.licence for part in retrievers)),
            citation="; ".join(dict.fromkeys(part.citation for part in retrievers)),
        )
        seen = {Modality.parse(name) for part in self._parts for name in _modalities(part)}
        self.capabilities = Capabilities(  # type: ignore[misc]
            modalities=frozenset(seen), oracle=any(part.oracle for part in retrievers)
        )

    @property
    def untrained(self) -> bool:
        """Whether the weights of a part were never trained."""
        return any(part.retriever.untrained for part in self._parts)

    @property
    def losses(self) -> Mapping[str, int]:
        """What the parts could not use, added up."""
        total: Counter[str] = Counter()
        for part in self._parts:
            total.update(part.data.losses)
        return total

    def identity(self) -> dict[str, Any]:
        """Return method, weights and parts, whose order does not matter."""
        plan = self._plan
        weights = check_weights(plan.weights, len(self._parts), plan.method)
        one_seed = len({part.options.seed for part in self._parts}) == 1
        left_out = {"limit", "seed"} if one_seed else {"limit"}
        parts = [
            {
                "retriever": part.retriever.fingerprint,
                "options": part.options.model_dump(mode="json", exclude=left_out),
                "weight": weight,
            }
            for part, weight in zip(self._parts, weights, strict=True)
        ]
        return {
            "name": NAME,
            "version": self.about.version,
            "method": plan.method.value,
            "rrf_k": plan.rrf_k if plan.method is Method.RRF else None,
            "parts": sorted(parts, key=digest),
        }

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Do nothing: the parts have done it."""

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Fuse what the parts ranked.

        Raises
        ------
        ResultError
            If the run file of a part was changed since.
        """
        plan, asked = self._plan, {query.id for query in queries}
        rankings = [saved_ranking(run) for run in self._runs]
        fused = fuse(rankings, plan.method, weights=plan.weights, rrf_k=plan.rrf_k, k=k)
        return Ranking({query: ranked for query, ranked in fused.items() if query in asked})


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
    if plan.tune_on is not None:
        plan = _tuned(parts, task, split, plan, ResultsStore(results), data, progress)
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
        queries = split.queries if config.limit is None else split.queries[: config.limit]
        with progress.stage(f"fuse {len(parts)} runs"):
            ranking = retriever.search(queries, plan.k)
        with progress.stage("evaluate"):
            scores = score(task, ranking, split, queries)
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
    other = same_split(found[0], task, data, progress)
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
    labels = _labels([part.result for part in parts])
    shown = ", ".join(f"{x} {w:g}" for x, w in zip(labels, best.weights, strict=True))
    progress.note(
        f"weights: {shown} ({task.protocol.main} on {other.name} {best.value * 100:.2f}, with "
        f"equal weights {best.equal * 100:.2f}; {best.tried} tried)"
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
    """Return what measures a ranking of a split by the task's main measure."""
    main, ids = task.protocol.main, [query.id for query in queries]

    def measure(ranking: Ranking) -> float:
        if isinstance(task, OwnPolicy):
            return task.measure(ranking, split, queries).mean(main)
        return evaluate(ranking, split.qrels, ids, (main,)).mean(main)

    return measure


def _modalities(result: Result) -> list[str]:
    """Return the modalities that a run's retriever read."""
    reads, left_in = result.retriever.modalities, result.options.modalities
    return reads if left_in is None else [name for name in reads if name in left_in]


def _labels(parts: Sequence[Result]) -> tuple[str, ...]:
    """Return what to call each run: its retriever, with the run's id where that is not enough."""
    names = []
    for part in parts:
        chosen = part.options.modalities
        names.append(part.retriever.address + (f"@{'+'.join(chosen)}" if chosen else ""))
    return tuple(
        name if names.count(name) == 1 else f"{name} {part.run_id}"
        for name, part in zip(names, parts, strict=True)
    )


def _for_tables(result: Result) -> Result:
    """Shorten what tables show of the row: the parts in a line, without the ids of their runs."""
    shown = dict(result.retriever.changed_settings)
    del shown["runs"]
    shown["parts"] = " + ".join(shown["parts"])
    record = result.retriever.model_copy(update={"changed_settings": shown})
    return result.model_copy(update={"retriever": record})
