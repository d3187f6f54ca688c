"""Which tokens of a padded batch count, ordered so that each modality of a document is one run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harness.errors import PluginError
from harness.late_interaction.scoring import MODALITY_NUMBERS
from harness.types import NO_MODALITY

#: Fewest rows of a product that are worth their call: below, the product runs at half speed.
_ROWS = 128


class Segment(NamedTuple):
    """The tokens of one modality of a document: a range of the ordered tokens."""

    document: int
    column: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """What counts in a batch of queries and documents.

    Attributes
    ----------
    query_places, places
        int64, shapes ``(query tokens,)`` and ``(tokens,)``: places in the flattened batch, queries
        in their order, documents by document, modality and position.
    query_lengths
        int64, shape ``(queries,)``.
    modalities
        Numbers of the columns, ascending.
    present
        bool, shape ``(documents, columns + 1)``: what each document has; the last says anything.
    padded
        Whether column 0 has a zero vector too, in every document that has anything.
    runs
        The segments, in order of `places`.
    """

    query_places: Tensor
    places: Tensor
    query_lengths: Tensor
    modalities: tuple[int, ...]
    present: Tensor
    padded: bool
    runs: Sequence[Segment]

    def of(self, first: int, last: int) -> Sequence[Segment]:
        """Return the segments of a range of documents."""
        low, high = (bisect_left(self.runs, (document,)) for document in (first, last))
        return self.runs[low:high]

    def groups(self, block: int, query_tokens: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of documents to be scored together.

        A range has tokens for a block of a good shape, and no more maxima than a block has
        similarities; or it is one document.
        """
        documents = len(self.present)
        tokens = max(1, block // min(_ROWS, max(1, query_tokens)))
        most = max(1, block // max(1, query_tokens * (len(self.modalities) + 1)))
        lengths = [0] * documents
        for segment in self.runs:
            lengths[segment.document] += segment.stop - segment.start
        first = held = 0
        for document, length in enumerate(lengths):
            if document > first and (held + length > tokens or document - first == most):
                yield first, document
                first, held = document, 0
            held += length
        if documents:
            yield first, documents


def segments(
    query_modalities: Tensor, document_modalities: Tensor, filled: Tensor | None, *, padded: bool
) -> Segments:
    """Order the tokens that count.

    Parameters
    ----------
    query_modalities, document_modalities
        Integers, shapes ``(queries, tokens)`` and ``(documents, tokens)``.
    filled
        bool, shape ``(documents, tokens)``: whether a token of no modality counts; None: none does.
    padded
        Whether documents have zero vectors of no modality.

    Raises
    ------
    PluginError
        If a number is no modality's.
    """
    asked = query_modalities != NO_MODALITY
    counting = document_modalities != NO_MODALITY
    if filled is not None:
        counting = counting | filled
    documents, positions = counting.nonzero(as_tuple=True)
    numbers = document_modalities[documents, positions].long()
    strange = numbers[(numbers < 0) | (numbers >= MODALITY_NUMBERS)]
    if len(strange):
        raise PluginError(
            f"document tokens have the modality number {int(strange[0])}: give numbers of "
            f"harness.types.Modality, 1 to {MODALITY_NUMBERS - 1}, or 0."
        )
    kinds, order = (documents * MODALITY_NUMBERS + numbers).sort(stable=True)
    kinds, lengths = kinds.unique_consecutive(return_counts=True)
    found = [
        (*divmod(kind, MODALITY_NUMBERS), length)
        for kind, length in zip(kinds.tolist(), lengths.tolist(), strict=True)
    ]
    present = {number for _, number, _ in found} | ({NO_MODALITY} if padded and found else set())
    modalities = tuple(sorted(present))
    column = {number: place for place, number in enumerate(modalities)}
    runs, start = [], 0
    has = torch.zeros((len(document_modalities), len(modalities) + 1), dtype=torch.bool)
    for document, number, length in found:
        runs.append(Segment(document, column[number], start, start + length))
        start += length
        has[document, [column[number], -1]] = True
        if padded:
            has[document, 0] = True
    return Segments(
        asked.flatten().nonzero()[:, 0],
        (documents * document_modalities.shape[1] + positions)[order],
        asked.sum(1),
        modalities,
        has.to(document_modalities.device),
        padded,
        runs,
    )
