"""A query as the model is asked it: instruction, question, and which of its positions count."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.types import Query
from retrievers.preflmr.wordpieces import WordPieces


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The text of a query, always of one length.

    Attributes
    ----------
    ids
        int64, shape ``(length,)``: padded with ``[MASK]``.
    attended
        int64, the same shape: 0 for the padding.
    kept
        bool, the same shape: positions whose vectors count. Not those of the instruction; those of
        the padding do.
    cut
        Whether the text is longer.
    unmasked
        Whether the instruction is, so that its end is not seen and it counts.
    """

    ids: NDArray[np.int64]
    attended: NDArray[np.int64]
    kept: NDArray[np.bool_]
    cut: bool
    unmasked: bool


class Questions:
    """Makes questions.

    Parameters
    ----------
    pieces
        The tokeniser of queries.
    instruction_end
        Token that ends an instruction; None where none is masked.
    skipped
        Tokens whose vectors do not count.
    """

    def __init__(
        self, pieces: WordPieces, instruction_end: str | None, skipped: Collection[int] = ()
    ) -> None:
        self.pieces, self._end, self._skipped = pieces, instruction_end, list(skipped)
        self._end_id = None if instruction_end is None else pieces.id(instruction_end)

    def text(self, query: Query) -> str:
        """Return a query as one text, as M2KR's evaluation script joins it.

        An instruction ends with a colon, which is written as the token that ends instructions.
        """
        instruction = (query.instruction or "").strip()
        if not instruction:
            return query.text
        if self._end is not None:
            if not instruction.endswith(":"):
                instruction += ":"
            instruction = instruction.replace(":", self._end)
        return f"{instruction}  {query.text} "

    def read(self, query: Query) -> Question:
        """Return the question of a query."""
        read = self.pieces.read(self.text(query))
        length, filled = self.pieces.length, len(read.ids)
        ids = np.full(length, self.pieces.mask, np.int64)
        ids[:filled] = read.ids
        attended = np.zeros(length, np.int64)
        attended[:filled] = 1
        kept = ~np.isin(ids, self._skipped)
        unmasked = False
        if self._end_id is not None and (query.instruction or "").strip():
            ends = np.flatnonzero(ids == self._end_id)
            unmasked = not len(ends)
            if len(ends):
                # ``[CLS]`` and the mark stay.
                kept[2 : ends[0] + 1] = False
        return Question(ids, attended, kept, read.cut, unmasked)
