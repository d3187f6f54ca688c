"""From queries to what the model is asked: their images decoded, and what they lack counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from harness.media import LoadedDocument, MediaLoader
from harness.types import Document, Modality, Query
from retrievers.preflmr.settings import PreFLMRSettings
from retrievers.qwen.kept import Kept

if TYPE_CHECKING:
    import torch

    from retrievers.preflmr.engine import Asked, Engine
    from retrievers.preflmr.questions import Question

log = logging.getLogger("clamr_bench.preflmr")


class Asking:
    """Reads queries; images that were decoded are kept for the next time.

    Parameters
    ----------
    settings
        How images are read, and what a query without one is shown.
    losses
        Where to count what queries lack, each query once.
    """

    def __init__(self, settings: PreFLMRSettings, losses: Counter[str]) -> None:
        self._settings, self._losses = settings, losses
        self._images: Kept[torch.Tensor | None] = Kept(_bytes)
        self._noted: set[tuple[str, str]] = set()

    @cached_property
    def loader(self) -> MediaLoader:
        """What decodes the images of queries."""
        # Its own counts are of documents.
        return self._settings.loader(video=False, images=True, losses=Counter())

    def close(self) -> None:
        """End the processes that decode; they are started again when needed."""
        self.loader.close()
        self._images.clear()

    def asked(self, batch: Sequence[Query], engine: Engine) -> list[Asked]:
        """Return queries as the model takes them.

        A query whose image is damaged goes without it, unless the policy is ``fail``.

        Raises
        ------
        DamagedMediaError
            By the policy ``fail``, at the first damaged image.
        """
        from retrievers.preflmr.engine import Asked

        shown = [
            Document(query.id, media={Modality.IMAGE: (query.image,)})
            for query in batch
            if query.image is not None
        ]

        def prepared(documents: Sequence[Document]) -> Iterator[torch.Tensor | None]:
            return (self._image(loaded, engine) for loaded in self.loader.load(documents))

        images = iter(self._images.of(shown, prepared))
        found = [None if query.image is None else next(images) for query in batch]
        if self._settings.blank_images:
            found = [engine.blank_image if each is None else each for each in found]
        questions = [self._question(query, engine) for query in batch]
        return [Asked(*each) for each in zip(questions, found, strict=True)]

    def _question(self, query: Query, engine: Engine) -> Question:
        question = engine.questions.read(query)
        if question.unmasked:
            self._note(
                query.id,
                "query instruction cut",
                f"its instruction is longer than query_length = {len(question.ids)} tokens: its "
                "question is not read, and nothing of the instruction is masked",
            )
        elif question.cut:
            self._note(
                query.id,
                "query cut",
                f"it is longer than query_length = {len(question.ids)} tokens, its instruction "
                "included",
            )
        return question

    def _image(self, loaded: LoadedDocument, engine: Engine) -> torch.Tensor | None:
        for damage in loaded.damaged:
            what = f"query image {damage.kind}"
            self._note(loaded.document.id, what, "it is asked without its image")
        return engine.cutter.prepared(loaded.images)[0] if loaded.images else None

    def _note(self, query: str, what: str, told: str) -> None:
        """Count what a query lacks, once; say it of the first one."""
        if (query, what) in self._noted:
            return
        self._noted.add((query, what))
        if not self._losses[what]:
            log.warning("query %s: %s. Others like it are counted.", query, told)
        self._losses[what] += 1


def _bytes(image: torch.Tensor | None) -> int:
    return 0 if image is None else int(image.nbytes)
