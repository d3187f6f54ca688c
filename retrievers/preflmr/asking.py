"""From queries to what the model is asked: their images decoded, and what they lack counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.types import Query
from retrievers.pictures import Pictures
from retrievers.preflmr.settings import PreFLMRSettings

if TYPE_CHECKING:
    from retrievers.preflmr.engine import Asked, Engine
    from retrievers.preflmr.questions import Question

log = logging.getLogger("clamr_bench.preflmr")


class Asking:
    """Reads queries.

    Parameters
    ----------
    settings
        What a query without a picture is shown.
    pictures
        Decodes the others.
    losses
        Where to count what queries lack, each query once.
    """

    def __init__(self, settings: PreFLMRSettings, pictures: Pictures, losses: Counter[str]) -> None:
        self._settings, self._pictures, self._losses = settings, pictures, losses
        self._noted: set[tuple[str, str]] = set()

    def asked(self, batch: Sequence[Query], engine: Engine) -> list[Asked]:
        """Return queries as the model takes them.

        A query whose image is damaged goes without it, unless the policy is ``fail``.

        Raises
        ------
        DamagedMediaError
            By the policy ``fail``, at the first damaged image.
        """
        from retrievers.preflmr.engine import Asked

        found = [
            None if picture is None else engine.cutter.prepared([picture])[0]
            for picture in self._pictures.of(batch)
        ]
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

    def _note(self, query: str, what: str, told: str) -> None:
        """Count what a query lacks, once; say it of the first one."""
        if (query, what) in self._noted:
            return
        self._noted.add((query, what))
        if not self._losses[what]:
            log.warning("query %s: %s. Others like it are counted.", query, told)
        self._losses[what] += 1
