"""The pictures of queries, decoded as those of documents are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.media import LoadedDocument, MediaLoader, MediaSettings
from harness.types import Document, Modality, Query
from retrievers.kept import Kept

log = logging.getLogger("clamr_bench.models")

#: uint8 RGB, shape ``(height, width, 3)``; None where a query has none, or a damaged one.
Picture = NDArray[np.uint8] | None


class Pictures:
    """Decodes the pictures of queries, and keeps them: the same queries are asked again.

    A damaged one is an error by the policy ``fail``. By the others the query is asked without it.

    Parameters
    ----------
    settings
        How media are read.
    losses
        Where to count damaged ones (``query image missing``), each query once.
    """

    def __init__(self, settings: MediaSettings, losses: Counter[str]) -> None:
        self._settings, self._losses = settings, losses
        self._kept: Kept[Picture] = Kept(lambda picture: 0 if picture is None else picture.nbytes)
        self._damaged: set[str] = set()

    def of(self, queries: Sequence[Query]) -> list[Picture]:
        """Return the picture of each query."""
        shown = [
            Document(query.id, media={Modality.IMAGE: (query.image,)})
            for query in queries
            if query.image is not None
        ]
        if not shown:
            return [None] * len(queries)
        found = iter(self._kept.of(shown, self._decoded))
        return [None if query.image is None else next(found) for query in queries]

    def close(self) -> None:
        """End the processes that decode; they are started again when needed."""
        if "_loader" in self.__dict__:
            self._loader.close()
        self._kept.clear()

    @cached_property
    def _loader(self) -> MediaLoader:
        # What it counts is of documents.
        return self._settings.loader(video=False, images=True, losses=Counter())

    def _decoded(self, shown: Sequence[Document]) -> Iterator[Picture]:
        return map(self._picture, self._loader.load(shown))

    def _picture(self, loaded: LoadedDocument) -> Picture:
        for damage in loaded.damaged:
            if loaded.document.id not in self._damaged:
                self._damaged.add(loaded.document.id)
                if not self._losses[f"query image {damage.kind}"]:
                    log.warning(
                        "query %s is asked without its picture. Others like it are counted.",
                        loaded.document.id,
                    )
                self._losses[f"query image {damage.kind}"] += 1
        return loaded.images[0] if loaded.images else None
