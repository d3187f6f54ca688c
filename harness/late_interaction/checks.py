"""What token embeddings must be, checked once when they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.late_interaction.precision import Precision, finite_rows
from harness.types import NO_MODALITY, Modality

if TYPE_CHECKING:
    from harness.late_interaction.embeddings import TokenEmbeddings

#: Vectors that are looked at together: at 128 dimensions in float32 they take 8 MB.
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


def check(embeddings: TokenEmbeddings) -> None:
    """Check what `TokenEmbeddings` says of its arrays.

    Raises
    ------
    PluginError
        If the arrays do not fit together; `NonFiniteError` if a vector is not finite.
    """
    vectors = embeddings.vectors
    if vectors.ndim != 2 or Precision.of(vectors.dtype) is None:
        raise broken(
            f"vectors are {vectors.dtype} of shape {vectors.shape}",
            "give float32, float16, uint16 (bfloat16 bits) or int8 of shape (n_tokens, dim)",
        )
    _check_offsets("offsets", embeddings.offsets, len(vectors), steps=0)
    _check_offsets("segment_offsets", embeddings.segment_offsets, len(vectors), steps=1)
    segments, modalities = len(embeddings.segment_offsets) - 1, embeddings.modalities
    if modalities.shape != (segments,):
        raise broken(
            f"{segments} segments but {modalities.shape} modalities",
            "give one modality for each segment",
        )
    if modalities.dtype != np.uint8 or (modalities > max(Modality)).any():
        raise broken(
            f"modalities are {modalities.dtype} up to {max(modalities, default=0)}",
            "give uint8 numbers of harness.types.Modality, or 0",
        )
    inside = ~np.isin(embeddings.offsets, embeddings.segment_offsets)
    if inside.any():
        raise broken(
            f"item offset {embeddings.offsets[inside][0]} lies inside a segment",
            "end a segment wherever an item ends",
        )
    _check_repeats(embeddings)
    _check_companions(embeddings)
    _check_finite(embeddings)


def _check_repeats(embeddings: TokenEmbeddings) -> None:
    items = np.repeat(np.arange(len(embeddings)), np.diff(embeddings.item_segments))
    keys = np.sort(items * (max(Modality) + 1) + embeddings.modalities)
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        item, number = divmod(int(repeated[0]), max(Modality) + 1)
        raise broken(
            f"item {item} has modality {number} twice",
            "put an item's tokens of one modality into one segment",
        )


def _check_companions(embeddings: TokenEmbeddings) -> None:
    tokens, scales, spans = len(embeddings.vectors), embeddings.scales, embeddings.spans
    if (scales is not None) != (embeddings.precision is Precision.INT8):
        raise broken(
            f"vectors are {embeddings.vectors.dtype} {'with' if scales is not None else 'without'} "
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
    if spans is not None and (spans.dtype != np.float32 or spans.shape != (tokens, 7)):
        raise broken(
            f"spans are {spans.dtype} of shape {spans.shape} for {tokens} vectors",
            f"give float32 of shape ({tokens}, 7)",
        )


def _check_finite(embeddings: TokenEmbeddings) -> None:
    for start in range(0, len(embeddings.vectors), _ROWS):
        finite = finite_rows(embeddings.vectors[start : start + _ROWS], embeddings.precision)
        if not finite.all():
            token = start + int(np.argmin(finite))
            item = int(np.searchsorted(embeddings.offsets, token, side="right")) - 1
            segment = int(np.searchsorted(embeddings.segment_offsets, token, side="right")) - 1
            number = int(embeddings.modalities[segment])
            label = "no modality" if number == NO_MODALITY else Modality(number).label
            raise NonFiniteError(
                f"token embeddings break their contract: vector {token} (of item {item}, "
                f"{label}) has NaN or infinite values; look for a division by a zero norm or "
                "an overflow in half precision.",
                item,
                number,
            )


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
