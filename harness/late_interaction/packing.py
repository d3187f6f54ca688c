"""Which tokens of documents take part in a scoring, and where they lie."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.late_interaction.embeddings import TokenEmbeddings


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The segments of some documents that count, as if they lay one after the other.

    Attributes
    ----------
    embeddings
        The documents.
    owners
        int64, shape ``(n_found,)``: the documents that have a segment that counts, in order.
    bounds
        int64, shape ``(n_found,)``: each one's first segment among those that count.
    modalities
        uint8, shape ``(n_segments,)``: modality numbers of the segments that count.
    starts
        int64, shape ``(n_segments + 1,)``: packed offsets of the segments that count.
    sources
        int64, shape ``(n_segments,)``: where each begins in the documents' vectors.
    """

    embeddings: TokenEmbeddings
    owners: NDArray[np.int64]
    bounds: NDArray[np.int64]
    modalities: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sources: NDArray[np.int64]

    @classmethod
    def of(cls, documents: TokenEmbeddings, competing: NDArray[np.bool_]) -> Packed:
        """Pack the segments whose modality number is marked in `competing`, shape ``(8,)``."""
        kept = np.flatnonzero(competing[documents.modalities])
        sources = documents.segment_offsets[kept]
        lengths = documents.segment_offsets[kept + 1] - sources
        owners = np.searchsorted(documents.offsets, sources, side="right") - 1
        bounds = np.flatnonzero(np.diff(owners, prepend=-1))
        return cls(
            documents,
            owners[bounds],
            bounds,
            documents.modalities[kept],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            sources,
        )

    @property
    def tokens(self) -> int:
        """Number of tokens that count."""
        return int(self.starts[-1])

    def segment_owners(self) -> NDArray[np.int64]:
        """Return the document of each segment that counts: int64, ``(n_segments,)``."""
        return np.repeat(self.owners, np.diff(self.bounds, append=len(self.modalities)))

    def runs(self) -> Runs:
        """Return the packed tokens as runs that lie together in the documents too."""
        ends = self.sources + np.diff(self.starts)
        first = np.flatnonzero(self.sources != np.concatenate([[-1], ends[:-1]]))
        return Runs(self.starts[:-1][first].tolist(), self.sources[first].tolist(), self.tokens)


@dataclass(frozen=True, slots=True)
class Runs:
    """Packed ranges and the rows of the documents' vectors that they stand for."""

    packed: list[int]
    sources: list[int]
    tokens: int

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield ``(packed start, first row, last row)`` of what lies in ``[start, stop)``."""
        run = bisect_right(self.packed, start) - 1
        while start < stop:
            end = self.packed[run + 1] if run + 1 < len(self.packed) else self.tokens
            end = min(end, stop)
            source = self.sources[run] + start - self.packed[run]
            yield start, source, source + end - start
            start, run = end, run + 1


def chunks(documents: TokenEmbeddings, tokens: int, segments: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of items with at most so many tokens and segments, or of one item."""
    counts, first = documents.item_segments, 0
    while first < len(documents):
        by_tokens = np.searchsorted(documents.offsets, documents.offsets[first] + tokens, "right")
        by_segments = np.searchsorted(counts, counts[first] + segments, "right")
        last = max(int(min(by_tokens, by_segments)) - 1, first + 1)
        yield first, last
        first = last
