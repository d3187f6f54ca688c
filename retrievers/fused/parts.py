"""The parts of a fused retriever: made, indexed and searched one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.coverage import DamagePolicy
from harness.documents import Documents, RestrictedDocuments
from harness.errors import ClamrBenchError, PluginError, UsageError
from harness.registry import RETRIEVERS, make_retriever
from harness.retriever import INDEX_NAME, Retriever
from harness.types import Modality, Query, RankedList, Ranking
from harness.workspace import Workspace, digest
from retrievers.fused.settings import PartSettings


@dataclass(frozen=True, slots=True)
class Part:
    """A retriever with the modalities that it scores.

    Attributes
    ----------
    label
        What messages and routers call it.
    retriever
        Parts that differ in their modalities alone share one if it can mask them.
    mask
        The only modalities that it scores; None for all that it reads.
    """

    label: str
    retriever: Retriever
    mask: frozenset[Modality] | None

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that it scores."""
        reads = self.retriever.capabilities.modalities
        return reads if self.mask is None else reads & self.mask

    def identity(self) -> dict[str, Any]:
        """Return what determines its lists."""
        with told_by(self.label):
            return {"retriever": self.retriever.identity(), "modalities": labels(self.mask)}

    def within(self, others: frozenset[Modality] | None) -> Part:
        """Return the part with its modalities limited to `others` too."""
        if others is None:
            return self
        mask = others if self.mask is None else others & self.mask
        return Part(self.label, self.retriever, mask)

    def index(self, documents: Documents, fused: Workspace) -> float | None:
        """Index in the workspace that a run of this retriever alone has.

        Parameters
        ----------
        documents
            What the fused retriever was given.
        fused
            Its workspace, which says what these documents are.

        Returns
        -------
        float or None
            Seconds that it took the process that did all of it; None if several did.
        """
        retriever = self.retriever
        if not retriever.masks and self.mask is not None:
            documents = RestrictedDocuments(documents, self.mask)
        with told_by(self.label):
            workspace = self._workspace(fused)

            def busy(holder: str) -> None:
                retriever.progress.note(
                    f"part {self.label}: waiting for process {holder}, which works in "
                    f"{workspace.path}"
                )

            with workspace.locked(busy):
                return retriever.timed_index(documents, workspace)

    def index_bytes(self, fused: Workspace) -> int:
        """Return the bytes of the index."""
        return self.retriever.index_bytes(self._workspace(fused))

    def _workspace(self, fused: Workspace) -> Workspace:
        left_in = fused.identity.get("modalities")
        if not self.retriever.masks and self.mask is not None:
            left_in = labels(self.mask)
        identity = {"modalities": left_in, "retriever": self.retriever.index_identity()}
        return Workspace.of({**fused.identity, **identity}, fused.path.parent)

    def search(self, queries: Sequence[Query], depth: int) -> Mapping[str, RankedList]:
        """Return the part's lists of `depth` documents.

        Raises
        ------
        PluginError
            If the retriever returns no ranking.
        """
        retriever = self.retriever
        if not self.modalities or not queries:
            return {}
        if retriever.masks:
            retriever.modalities = self.mask
        if not retriever.capabilities.oracle:
            queries = [query.without_gold() for query in queries]
        with told_by(self.label):
            ranking = retriever.search(queries, depth)
            if not isinstance(ranking, Ranking):
                raise PluginError(
                    f"retriever {retriever.address!r}: search returned {type(ranking).__name__}, "
                    "not a Ranking."
                )
        return ranking.top(depth)


def make_parts(
    settings: Sequence[PartSettings], on_damaged: DamagePolicy | None = None
) -> tuple[Part, ...]:
    """Make the parts; `on_damaged` is a setting of those that know it and do not say otherwise.

    A model is loaded once for all parts that are the same retriever with the same settings, if
    its modalities can be masked; else each choice of modalities is an index of its own.

    Raises
    ------
    UsageError
        If a retriever reads none of the modalities that it is to score, or cannot be made.
    """
    made: dict[str, Retriever] = {}
    parts = []
    for chosen in settings:
        with told_by(chosen.name):
            asked = chosen.settings
            if on_damaged is not None:
                known = RETRIEVERS.find(chosen.retriever).plugin.Settings.model_fields
                if "on_damaged" in known:
                    asked = {"on_damaged": on_damaged, **asked}
            key = digest([chosen.retriever, asked])
            retriever = made.get(key)
            if retriever is None or not retriever.masks:
                retriever = make_retriever(chosen.retriever, asked)
            made[key] = retriever
            part = Part(chosen.name, retriever, chosen.mask)
            if not part.modalities:
                reads = ", ".join(m.label for m in sorted(retriever.capabilities.modalities))
                raise UsageError(
                    f"{chosen.retriever!r} does not read {', '.join(chosen.modalities or ())}; it "
                    f"reads {reads}."
                )
        parts.append(part)
    return tuple(parts)


@contextmanager
def told_by(label: str) -> Iterator[None]:
    """Name the part in the errors of a block."""
    try:
        yield
    except ClamrBenchError as error:
        raise type(error)(f"part {label!r} of fused: {error}") from error


def labels(modalities: frozenset[Modality] | None) -> list[str] | None:
    """Return modalities as run options and workspaces have them."""
    return None if modalities is None else [modality.label for modality in sorted(modalities)]


def note_seconds(seconds: Sequence[float | None], workspace: Workspace) -> None:
    """Leave in a fused retriever's workspace how long indexing its parts took in all.

    Most parts are indexed by earlier runs: the time of this one would be next to nothing.
    """
    known = [took for took in seconds if took is not None]
    with workspace.file(INDEX_NAME) as temporary:
        total = sum(known) if len(known) == len(seconds) else None
        temporary.write_text(json.dumps({"seconds": total}))
