"""Ragged multi-vectors: the tokens of many items, grouped by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.late_interaction import padded
from harness.late_interaction.checks import NonFiniteError, broken, check
from harness.late_interaction.precision import Precision, narrow, widen_into
from harness.types import Modality

__all__ = ["SPAN_FIELDS", "NonFiniteError", "TokenEmbeddings"]

#: Columns of `TokenEmbeddings.spans`.
SPAN_FIELDS = ("start", "end", "left", "top", "right", "bottom", "frame")

#: Vectors that are converted together: at 128 dimensions in float32 they take 8 MB.
_ROWS = 16384


@dataclass(frozen=True, slots=True, eq=False)
class TokenEmbeddings:
    """Token vectors of a sequence of items (queries or documents), never padded.

    The tokens of an item lie together, and within it the tokens of each modality: an item is a few
    contiguous *segments*, at most one a modality, none of them empty. An item may have none at
    all.

    Attributes
    ----------
    vectors
        Shape ``(n_tokens, dim)``: float32, float16, bfloat16 as its bits in uint16, or int8;
        finite.
    offsets
        int64, shape ``(n_items + 1,)``: item ``i`` has the rows ``offsets[i]:offsets[i + 1]``.
    modalities
        uint8, shape ``(n_segments,)``: number of each segment's `Modality`, or ``NO_MODALITY``
        (0) for tokens of none (templates), which win a maximum only where a scoring lets them.
    segment_offsets
        int64, shape ``(n_segments + 1,)``: segment ``j`` has the rows
        ``segment_offsets[j]:segment_offsets[j + 1]``.
    scales
        float32, shape ``(n_tokens,)``, for int8 vectors, whose values are ``int8 * scale``; else
        None.
    spans
        float32, shape ``(n_tokens, 7)``, or None: where in its source each token comes from, as
        `SPAN_FIELDS`. ``start`` and ``end`` are seconds of video or audio, or characters of a
        text; the next four are the box of an image patch as fractions of width and height;
        ``frame`` is the number of the frame in its video, or of the image among those of the
        document, from 0 (the first one, if a token covers several). NaN where it does not apply.

    Raises
    ------
    PluginError
        At construction, if the arrays do not fit together; `NonFiniteError` if a vector is not
        finite.
    """

    vectors: NDArray[Any]
    offsets: NDArray[np.int64]
    modalities: NDArray[np.uint8]
    segment_offsets: NDArray[np.int64]
    scales: NDArray[np.float32] | None = None
    spans: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def of(
        cls, items: Sequence[Mapping[Modality, NDArray[Any]]], dim: int | None = None
    ) -> TokenEmbeddings:
        """Make embeddings from the vectors of each item by modality.

        Parameters
        ----------
        items
            For each item ``{modality: vectors (n, dim)}``; ``n = 0`` is the same as absent. The
            result is float16 if all vectors are, else float32.
        dim
            Dimension; needed only where no item may have a token.

        Raises
        ------
        PluginError
            If dimensions differ, or as at construction.
        """
        parts: list[NDArray[Any]] = []
        modalities: list[int] = []
        tokens = [0]
        for index, item in enumerate(items):
            for modality in sorted(item):
                part = np.asarray(item[modality])
                if part.ndim != 2 or (dim is not None and part.shape[1] != dim):
                    raise broken(
                        f"item {index} has vectors of shape {part.shape} for {modality.label}",
                        f"give shape (n_tokens, {dim or 'dim'}), the same dim for every item",
                    )
                dim = part.shape[1]
                if len(part):
                    parts.append(part)
                    modalities.append(int(modality))
            tokens.append(tokens[-1] + sum(len(vectors) for vectors in item.values()))
        half = bool(parts) and all(part.dtype == np.float16 for part in parts)
        empty = np.zeros((0, dim or 0), np.float32)
        return cls(
            np.concatenate(parts or [empty]).astype(np.float16 if half else np.float32, copy=False),
            np.asarray(tokens, np.int64),
            np.asarray(modalities, np.uint8),
            np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64),
        )

    @classmethod
    def from_padded(
        cls,
        vectors: Any,
        mask: Any,
        modality_ids: Any,
        *,
        spans: NDArray[np.float32] | None = None,
        keep_unassigned: bool = False,
    ) -> TokenEmbeddings:
        """Make embeddings from a padded batch, as models give it.

        Padding is dropped. Each item's tokens are grouped by modality, in the order of modality
        numbers, and keep their order within each.

        Parameters
        ----------
        vectors
            numpy array or torch tensor on any device, shape ``(batch, length, dim)``: float16 and
            bfloat16 stay as they are, other floating types become float32.
        mask
            Shape ``(batch, length)``: 0 at padding.
        modality_ids
            Integers, shape ``(batch, length)``: modality numbers; 0 for tokens of none.
        spans
            float32, shape ``(batch, length, 7)``: see the class.
        keep_unassigned
            Keep tokens of number 0 as a segment ``NO_MODALITY``; else they are dropped.

        Raises
        ------
        PluginError
            If shapes or numbers do not fit, or as at construction.
        """
        return cls(*padded.pack(vectors, mask, modality_ids, spans, keep_unassigned))

    @classmethod
    def concatenate(cls, parts: Sequence[TokenEmbeddings]) -> TokenEmbeddings:
        """Return the items of all `parts`, at least one, as one.

        The precision stays where all parts with tokens share it; else it is fp32. Parts without
        spans get NaN where others have them.

        Raises
        ------
        PluginError
            If dimensions differ.
        """
        dims = sorted({part.dim for part in parts if len(part.vectors)})
        if len(dims) > 1:
            raise broken(f"dimensions differ between batches: {dims}", "give one dimension")
        filled = [part for part in parts if len(part.vectors)] or [parts[0]]
        if len({part.precision for part in filled}) > 1:
            filled = [part.astype(Precision.FP32) for part in filled]
        starts = np.cumsum([0, *(len(part.vectors) for part in parts)])
        return cls.trusted(
            np.concatenate([part.vectors for part in filled]),
            _joined([part.offsets for part in parts], starts),
            np.concatenate([part.modalities for part in parts]),
            _joined([part.segment_offsets for part in parts], starts),
            _companions([part.scales for part in filled], filled),
            _companions([part.spans for part in filled], filled),
        )

    @classmethod
    def trusted(
        cls,
        vectors: NDArray[Any],
        offsets: NDArray[np.int64],
        modalities: NDArray[np.uint8],
        segment_offsets: NDArray[np.int64],
        scales: NDArray[np.float32] | None = None,
        spans: NDArray[np.float32] | None = None,
    ) -> TokenEmbeddings:
        """Make embeddings of arrays that were checked before, without looking at them.

        For parts of checked embeddings, and for files whose checksum holds: the checks read every
        vector, which a memory-mapped shard should not pay for.
        """
        made = object.__new__(cls)
        values = (vectors, offsets, modalities, segment_offsets, scales, spans)
        for name, value in zip(cls.__slots__, values, strict=True):
            object.__setattr__(made, name, value)
        return made

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, items: slice) -> TokenEmbeddings:
        """Return a range of items, a slice of step 1 (see `items`)."""
        start, stop, step = items.indices(len(self))
        if step != 1:
            raise IndexError(f"token embeddings are cut in steps of 1, not {step}")
        return self.items(start, max(start, stop))

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def precision(self) -> Precision:
        """Number format of the vectors."""
        return Precision.of(self.vectors.dtype) or Precision.FP32

    @property
    def item_segments(self) -> NDArray[np.int64]:
        """int64, ``(n_items + 1,)``: item ``i`` has the segments ``[i]`` to ``[i + 1]``."""
        return np.searchsorted(self.segment_offsets, self.offsets).astype(np.int64)

    def items(self, start: int, stop: int) -> TokenEmbeddings:
        """Return the items `start` to `stop`, sharing the memory of their vectors."""
        first, last = (int(self.offsets[start]), int(self.offsets[stop]))
        low, high = np.searchsorted(self.segment_offsets, (first, last)).tolist()
        return TokenEmbeddings.trusted(
            self.vectors[first:last],
            self.offsets[start : stop + 1] - first,
            self.modalities[low:high],
            self.segment_offsets[low : high + 1] - first,
            None if self.scales is None else self.scales[first:last],
            None if self.spans is None else self.spans[first:last],
        )

    def widen(
        self, start: int, stop: int, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the tokens `start` to `stop` in float32, shape ``(stop - start, dim)``.

        The result may share the memory of float32 vectors, unless `out`, a contiguous array of
        that shape, is given to hold it.
        """
        vectors = self.vectors[start:stop]
        if out is None:
            if self.precision is Precision.FP32:
                return vectors
            out = np.empty(vectors.shape, np.float32)
        scales = None if self.scales is None else self.scales[start:stop]
        widen_into(out, vectors, scales, self.precision)
        return out

    def astype(self, precision: Precision) -> TokenEmbeddings:
        """Return the same items in another precision (see `harness.late_interaction.precision`).

        Raises
        ------
        PluginError
            If a value is too large for a half precision.
        """
        if precision is self.precision:
            return self
        vectors = np.empty(self.vectors.shape, precision.dtype)
        scales = np.empty(len(vectors), np.float32) if precision is Precision.INT8 else None
        for start in range(0, len(vectors), _ROWS):
            rows = slice(start, min(start + _ROWS, len(vectors)))
            vectors[rows], found = narrow(self.widen(rows.start, rows.stop), precision)
            if scales is not None and found is not None:
                scales[rows] = found
        arrays = (self.offsets, self.modalities, self.segment_offsets)
        return TokenEmbeddings.trusted(vectors, *arrays, scales, self.spans)


def _companions(
    arrays: Sequence[NDArray[np.float32] | None], parts: Sequence[TokenEmbeddings]
) -> NDArray[np.float32] | None:
    """Join scales or spans; where only some parts have spans, the others get NaN."""
    shapes = [array.shape[1:] for array in arrays if array is not None]
    if not shapes:
        return None
    nan = np.float32(np.nan)
    return np.concatenate(
        [
            np.full((len(part.vectors), *shapes[0]), nan) if array is None else array
            for array, part in zip(arrays, parts, strict=True)
        ]
    )


def _joined(offsets: Sequence[NDArray[np.int64]], starts: NDArray[Any]) -> NDArray[np.int64]:
    shifted = [each[1:] + start for each, start in zip(offsets, starts, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *shifted])
