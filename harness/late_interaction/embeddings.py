"""Ragged multi-vectors: the tokens of many items, grouped by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.types import Modality

#: Vectors that are looked at together for NaN: at 128 dimensions the temporary is 2 MB.
_CHECK_ROWS = 16384


@dataclass(frozen=True, slots=True, eq=False)
class TokenEmbeddings:
    """Token vectors of a sequence of items (queries or documents), never padded.

    The tokens of an item lie together, and within it the tokens of each modality: an item is a few
    contiguous *segments*, at most one a modality, none of them empty. An item may have none at
    all.

    Attributes
    ----------
    vectors
        float32 or float16, shape ``(n_tokens, dim)``; finite.
    offsets
        int64, shape ``(n_items + 1,)``: item ``i`` has the rows ``offsets[i]:offsets[i + 1]``.
    modalities
        uint8, shape ``(n_segments,)``: number of each segment's `Modality`, or ``NO_MODALITY``
        (0) for tokens that never win a maximum.
    segment_offsets
        int64, shape ``(n_segments + 1,)``: segment ``j`` has the rows
        ``segment_offsets[j]:segment_offsets[j + 1]``.

    Raises
    ------
    PluginError
        At construction, if the arrays do not fit together or a vector is not finite.
    """

    vectors: NDArray[Any]
    offsets: NDArray[np.int64]
    modalities: NDArray[np.uint8]
    segment_offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        vectors = self.vectors
        if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float16):
            raise _broken(
                f"vectors are {vectors.dtype} of shape {vectors.shape}",
                "give float32 or float16 of shape (n_tokens, dim)",
            )
        _check_offsets("offsets", self.offsets, len(vectors), steps=0)
        _check_offsets("segment_offsets", self.segment_offsets, len(vectors), steps=1)
        if self.modalities.shape != (len(self.segment_offsets) - 1,):
            raise _broken(
                f"{len(self.segment_offsets) - 1} segments but {self.modalities.shape} modalities",
                "give one modality for each segment",
            )
        if self.modalities.dtype != np.uint8 or (self.modalities > max(Modality)).any():
            raise _broken(
                f"modalities are {self.modalities.dtype} up to {max(self.modalities, default=0)}",
                "give uint8 numbers of harness.types.Modality, or 0",
            )
        inside = ~np.isin(self.offsets, self.segment_offsets)
        if inside.any():
            raise _broken(
                f"item offset {self.offsets[inside][0]} lies inside a segment",
                "end a segment wherever an item ends",
            )
        self._check_repeats()
        self._check_finite()

    def _check_repeats(self) -> None:
        items = np.repeat(np.arange(len(self)), np.diff(self.item_segments))
        keys = np.sort(items * (max(Modality) + 1) + self.modalities)
        repeated = keys[1:][keys[1:] == keys[:-1]]
        if len(repeated):
            item, number = divmod(int(repeated[0]), max(Modality) + 1)
            raise _broken(
                f"item {item} has modality {number} twice",
                "put an item's tokens of one modality into one segment",
            )

    def _check_finite(self) -> None:
        for start in range(0, len(self.vectors), _CHECK_ROWS):
            finite = np.isfinite(self.vectors[start : start + _CHECK_ROWS]).all(axis=1)
            if not finite.all():
                token = start + int(np.argmin(finite))
                item = int(np.searchsorted(self.offsets, token, side="right")) - 1
                raise _broken(
                    f"vector {token} (of item {item}) has NaN or infinite values",
                    "look for a division by a zero norm or an overflow in half precision",
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
                    raise _broken(
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
    def concatenate(cls, parts: Sequence[TokenEmbeddings]) -> TokenEmbeddings:
        """Return the items of all `parts`, which have one dimension, as one.

        Raises
        ------
        PluginError
            If dimensions differ.
        """
        dims = sorted({part.dim for part in parts if len(part.vectors)})
        if len(dims) > 1:
            raise _broken(f"dimensions differ between batches: {dims}", "give one dimension")
        filled = [part.vectors for part in parts if len(part.vectors)] or [parts[0].vectors]
        starts = np.cumsum([0, *(len(part.vectors) for part in parts)])
        return cls(
            np.concatenate(filled),
            _joined([part.offsets for part in parts], starts),
            np.concatenate([part.modalities for part in parts]),
            _joined([part.segment_offsets for part in parts], starts),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def item_segments(self) -> NDArray[np.int64]:
        """int64, ``(n_items + 1,)``: item ``i`` has the segments ``[i]`` to ``[i + 1]``."""
        return np.searchsorted(self.segment_offsets, self.offsets).astype(np.int64)


def _joined(offsets: Sequence[NDArray[np.int64]], starts: NDArray[Any]) -> NDArray[np.int64]:
    shifted = [each[1:] + start for each, start in zip(offsets, starts, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *shifted])


def _check_offsets(name: str, offsets: NDArray[Any], tokens: int, steps: int) -> None:
    """Check that offsets run from 0 to `tokens` in steps of at least `steps`."""
    if offsets.ndim != 1 or offsets.dtype != np.int64 or not len(offsets):
        raise _broken(f"{name} are {offsets.dtype} of shape {offsets.shape}", "give int64 (n + 1,)")
    if offsets[0] != 0 or offsets[-1] != tokens or (np.diff(offsets) < steps).any():
        rule = "rise strictly" if steps else "never fall"
        raise _broken(
            f"{name} run from {offsets[0]} to {offsets[-1]} for {tokens} vectors, or out of order",
            f"they must begin at 0, end at the number of vectors and {rule}",
        )


def _broken(what: str, remedy: str) -> PluginError:
    return PluginError(f"token embeddings break their contract: {what}; {remedy}.")
