"""Saved runs as one retriever, and how they are to be fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from harness.documents import Documents
from harness.fusion import RRF_K, Method, check_weights, fuse
from harness.plugin import About
from harness.results.schema import Result
from harness.results.store import SavedRun
from harness.retriever import Capabilities, Retriever
from harness.runner.reopen import saved_ranking
from harness.settings import Settings
from harness.types import Modality, Query, Ranking
from harness.workspace import Workspace, digest

#: The name that results of fused runs go by.
NAME = "fuse"


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
        super().__init__(
            NAME,
            None,
            FuseSettings(
                method=plan.method,
                parts=labels_of(self._parts),
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


def _modalities(result: Result) -> list[str]:
    """Return the modalities that a run's retriever read."""
    reads, left_in = result.retriever.modalities, result.options.modalities
    return reads if left_in is None else [name for name in reads if name in left_in]


def labels_of(parts: Sequence[Result]) -> tuple[str, ...]:
    """Return what to call each run: its retriever, with the run's id where that is not enough."""
    names = []
    for part in parts:
        chosen = part.options.modalities
        names.append(part.retriever.address + (f"@{'+'.join(chosen)}" if chosen else ""))
    return tuple(
        name if names.count(name) == 1 else f"{name} {part.run_id}"
        for name, part in zip(names, parts, strict=True)
    )
