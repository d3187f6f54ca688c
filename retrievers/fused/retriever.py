"""The retriever `fused`: several retrievers, or one by modality, as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import and_, or_
from typing import Any

import numpy as np

from harness.documents import Documents
from harness.errors import UsageError
from harness.fusion import Method, fuse_lists
from harness.plugin import About, Direction
from harness.retriever import Capabilities, Retriever
from harness.types import Modality, Query, RankedList, Ranking
from harness.workspace import Workspace
from retrievers.fused.parts import Part, make_parts, note_seconds
from retrievers.fused.routing import make_router
from retrievers.fused.settings import FusedSettings

#: Least documents taken from each part, if `depth` is not set.
DEPTH = 1000
_EMPTY = RankedList((), np.empty(0))


class Fused(Retriever):
    """Ranks by fusing the lists of its parts (see `harness.fusion`).

    Each part indexes in the workspace that its own runs use, so that nothing is indexed twice. A
    part may be fused itself. With a router each query has weights of its own; where it chooses one
    part, that part's list is the result as it is.
    """

    about = About(
        title="Fusion of several retrievers, or of one retriever's modalities",
        version="1",
        licence="Apache-2.0",
        citation="See the retrievers that are fused, and docs/fusion.md for the methods.",
    )
    # Of one without parts; each object has those of its parts.
    capabilities = Capabilities(modalities=frozenset(Modality))
    Settings = FusedSettings
    settings: FusedSettings

    def __init__(self, name: str, weights: str | None, settings: FusedSettings) -> None:
        super().__init__(name, weights, settings)
        self.parts = make_parts(settings.parts, settings.on_damaged)
        self._indexed: tuple[Part, ...] = ()
        self.router = None
        if not self.parts:
            return
        if settings.router is not None:
            names = [part.label for part in self.parts]
            scored = {part.label: part.modalities for part in self.parts}
            self.router = make_router(settings.router, names, scored)
        retrievers = self.retrievers
        self.masks = all(retriever.masks for retriever in retrievers)
        able = [retriever.capabilities for retriever in retrievers]
        self.capabilities = Capabilities(  # type: ignore[misc]
            modalities=reduce(or_, (part.modalities for part in self.parts)),
            query_kinds=reduce(and_, (one.query_kinds for one in able)),
            directions=reduce(and_, (one.directions for one in able)) & self._directions,
            oracle=any(one.oracle for one in able)
            or (self.router is not None and self.router.oracle),
            ignores_images=any(one.ignores_images for one in able),
        )
        cards = [retriever.about for retriever in retrievers]
        self.about = replace(  # type: ignore[misc]
            Fused.about,
            licence="; ".join(dict.fromkeys(card.licence for card in cards)),
            citation="; ".join(dict.fromkeys(card.citation for card in cards)),
        )

    @property
    def _directions(self) -> frozenset[Direction]:
        """Directions that the method leaves possible: ranks and spreads are those of one query."""
        comparable = self.settings.method in (Method.MEAN, Method.MAX) and self.router is None
        return frozenset(Direction) if comparable else frozenset({Direction.FORWARD})

    @property
    def retrievers(self) -> tuple[Retriever, ...]:
        """The retrievers of the parts, each once."""
        return tuple({id(part.retriever): part.retriever for part in self.parts}.values())

    @property
    def untrained(self) -> bool:
        """Whether weights that a part or the router uses were never trained."""
        routed = self.router is not None and self.router.untrained
        return routed or any(retriever.untrained for retriever in self.retrievers)

    @property
    def losses(self) -> Mapping[str, int]:
        """What the parts could not use, added up; and queries that the router could not route."""
        total: Counter[str] = Counter()
        for retriever in self.retrievers:
            total.update(retriever.losses)
        if self.router is not None:
            total.update({f"routed evenly: {why}": n for why, n in self.router.fallbacks.items()})
        return total

    def close(self) -> None:
        """Close the parts and the router, all of them even if one fails."""
        with ExitStack() as stack:
            for retriever in self.retrievers:
                stack.callback(retriever.close)
            if self.router is not None:
                stack.callback(self.router.close)

    def identity(self) -> dict[str, Any]:
        """Return the retriever's identity and those of parts and router.

        Raises
        ------
        UsageError
            If there are no parts: this is asked for before any work.
        """
        if not self.parts:
            raise UsageError(
                f"{self.name} has no parts: name some, as in --set '{self.name}.parts=[bm25-asr, "
                "bm25-ocr]' or --set 'fused.parts=[clip@video, clip@asr]'."
            )
        identity = {**super().identity(), "parts": [part.identity() for part in self.parts]}
        if self.router is not None:
            identity["router"] = self.router.identity()
        return identity

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Have every part index what it scores (see `Retriever.index`).

        A part that scores none of the modalities that the run leaves in finds nothing.
        """
        if self.router is not None:
            self.router.prepare(workspace)
        left_in = workspace.identity.get("modalities")
        visible = None if left_in is None else frozenset(map(Modality.parse, left_in))
        self._indexed = tuple(part.within(visible) for part in self.parts)
        taken: dict[int, float | None] = {}
        for part in self._indexed:
            retriever = part.retriever
            if part.modalities and id(retriever) not in taken:
                retriever.seed, retriever.memory = self.seed, self.memory
                retriever.progress, retriever.direction = self.progress, self.direction
                taken[id(retriever)] = part.index(documents, workspace)
        note_seconds(list(taken.values()), workspace)

    def index_bytes(self, workspace: Workspace) -> int:
        """Return the bytes of the parts' indexes, each once."""
        own = {id(part.retriever): part for part in self._indexed if part.modalities}
        return sum(part.index_bytes(workspace) for part in own.values())

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Search with every part and fuse their lists (see `Retriever.search`)."""
        settings, weights = self.settings, self._weights(queries)
        depth = settings.depth or max(k, DEPTH)
        lists = []
        for place, part in enumerate(self._indexed):
            asked = [query for query, row in zip(queries, weights, strict=True) if row[place]]
            lists.append(part.within(self.modalities).search(asked, depth))
        fused = {}
        for query, row in zip(queries, weights, strict=True):
            found = [ranked.get(query.id, _EMPTY) for ranked in lists]
            chosen = [ranked for ranked, weight in zip(found, row, strict=True) if weight]
            if self.router is not None and len(chosen) == 1:
                fused[query.id] = chosen[0]
            else:
                fused[query.id] = fuse_lists(found, settings.method, row, settings.rrf_k, k)
        return Ranking(fused).top(k)

    def _weights(self, queries: Sequence[Query]) -> list[tuple[float, ...]]:
        """Return the weights of the parts for each query."""
        if self.router is None:
            return [self.settings.part_weights] * len(queries)
        shown = queries if self.router.oracle else [query.without_gold() for query in queries]
        routed = [
            tuple(row.get(part.label, 0.0) for part in self.parts)
            for row in self.router.route(shown)
        ]
        if self.settings.method is not Method.MAX:
            return routed
        # A maximum takes no weights: those that the router gives any take part.
        return [tuple(float(weight > 0) for weight in row) for row in routed]
