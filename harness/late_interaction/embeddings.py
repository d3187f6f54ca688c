"""Ragged multi-vectors: the tokens of many items, grouped by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.late_interaction import padded
from harness.late_interaction.precision import Precision, finite_rows, narrow, widen_into
from harness.types import NO_MODALITY, Modality

#: Columns of `TokenEmbeddings.spans`.
SPAN_FIELDS = ("start", "end", "left", "top", "right", "bottom")

#: Vectors that are looked at or converted together: at 128 dimensions in float32 they take 8 MB.
_ROWS = 16384


class NonFiniteError(PluginError):
    """A vector with NaN or infinite values.

    Attributes
    ----------
    item
        Number of its item.
    modality
        Its modality's number; 0 for none.
    """

    def __init__(self, message: str, item: int, modality: int) -> None:
        super().__init__(message)
        self.item, self.modality = item, modality


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
        float32, shape ``(n_tokens, 6)``, or None: where in its source each token comes from, as
        `SPAN_FIELDS`. ``start`` and ``end`` are seconds of video or audio, or characters of a
        text; the others are the box of an image patch as fractions of width and height. NaN where
        it does not apply.

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
        vectors = self.vectors
        if vectors.ndim != 2 or Precision.of(vectors.dtype) is None:
            raise broken(
                f"vectors are {vectors.dtype} of shape {vectors.shape}",
                "give float32, float16, uint16 (bfloat16 bits) or int8 of shape (n_tokens, dim)",
            )
        _check_offsets("offsets", self.offsets, len(vectors), steps=0)
        _check_offsets("segment_offsets", self.segment_offsets, len(vectors), steps=1)
        if self.modalities.shape != (len(self.segment_offsets) - 1,):
            raise broken(
                f"{len(self.segment_offsets) - 1} segments but {self.modalities.shape} modalities",
                "give one modality for each segment",
            )
        if self.modalities.dtype != np.uint8 or (self.modalities > max(Modality)).any():
            raise broken(
                f"modalities are {self.modalities.dtype} up to {max(self.modalities, default=0)}",
                "give uint8 numbers of harness.types.Modality, or 0",
            )
        inside = ~np.isin(self.offsets, self.segment_offsets)
        if inside.any():
            raise broken(
                f"item offset {self.offsets[inside][0]} lies inside a segment",
                "end a segment wherever an item ends",
            )
        self._check_repeats()
        self._check_companions()
        self._check_finite()

    def _check_repeats(self) -> None:
        items = np.repeat(np.arange(len(self)), np.diff(self.item_segments))
        keys = np.sort(items * (max(Modality) + 1) + self.modalities)
        repeated = keys[1:][keys[1:] == keys[:-1]]
        if len(repeated):
            item, number = divmod(int(repeated[0]), max(Modality) + 1)
            raise broken(
                f"item {item} has modality {number} twice",
                "put an item's tokens of one modality into one segment",
            )

    def _check_companions(self) -> None:
        tokens, scales, spans = len(self.vectors), self.scales, self.spans
        if (scales is not None) != (self.precision is Precision.INT8):
            raise broken(
                f"vectors are {self.vectors.dtype} {'with' if scales is not None else 'without'} "
                "scales",
                "give scales with int8 vectors and only with them",
            )
        if scales is not None and (
            scales.dtype != np.float32
            or scales.shape != (tokens,)
            or not ((scales >= 0) & (scales < np.inf)).all()
        ):
            raise broken(
                f"scales are {scales.dtype} of shape {scales.shape} for {tokens} vectors, or one "
                "is negative or not finite",
                "give one finite float32 scale for each vector",
            )
        if spans is not None and (spans.dtype != np.float32 or spans.shape != (tokens, 6)):
            raise broken(
                f"spans are {spans.dtype} of shape {spans.shape} for {tokens} vectors",
                f"give float32 of shape ({tokens}, {len(SPAN_FIELDS)})",
            )

    def _check_finite(self) -> None:
        for start in range(0, len(self.vectors), _ROWS):
            finite = finite_rows(self.vectors[start : start + _ROWS], self.precision)
            if not finite.all():
                token = start + int(np.argmin(finite))
                item = int(np.searchsorted(self.offsets, token, side="right")) - 1
                segment = int(np.searchsorted(self.segment_offsets, token, side="right")) - 1
                number = int(self.modalities[segment])
                label = "no modality" if number == NO_MODALITY else Modality(number).label
                raise NonFiniteError(
                    f"token embeddings break their contract: vector {token} (of item {item}, "
                    f"{label}) has NaN or infinite values; look for a division by a zero norm or "
                    "an overflow in half precision.",
                    item,
                    number,
                )

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
            float32, shape ``(batch, length, 6)``: see the class.
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


def _check_offsets(name: str, offsets: NDArray[Any], tokens: int, steps: int) -> None:
    """Check that offsets run from 0 to `tokens` in steps of at least `steps`."""
    if offsets.ndim != 1 or offsets.dtype != np.int64 or not len(offsets):
        raise broken(f"{name} are {offsets.dtype} of shape {offsets.shape}", "give int64 (n + 1,)")
    if offsets[0] != 0 or offsets[-1] != tokens or (np.diff(offsets) < steps).any():
        rule = "rise strictly" if steps else "never fall"
        raise broken(
            f"{name} run from {offsets[0]} to {offsets[-1]} for {tokens} vectors, or out of order",
            f"they must begin at 0, end at the number of vectors and {rule}",
        )


def broken(what: str, remedy: str) -> PluginError:
    """Return the error of embeddings that break their contract."""
    return PluginError(f"token embeddings break their contract: {what}; {remedy}.")
