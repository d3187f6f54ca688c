"""From a padded batch, as models give it, to ragged arrays grouped by modality."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.late_interaction.precision import Precision
from harness.types import NO_MODALITY, Modality

#: vectors, offsets, modalities, segment_offsets, scales, spans of `TokenEmbeddings`.
Arrays = tuple[
    NDArray[Any],
    NDArray[np.int64],
    NDArray[np.uint8],
    NDArray[np.int64],
    None,
    NDArray[np.float32] | None,
]


def pack(
    vectors: Any,
    mask: Any,
    modality_ids: Any,
    spans: NDArray[np.float32] | None,
    keep_unassigned: bool,
) -> Arrays:
    """Return the arrays of `TokenEmbeddings`; see `TokenEmbeddings.from_padded`."""
    values = _floats(vectors)
    present, numbers = _plain(mask) != 0, _plain(modality_ids)
    shapes = [values.shape[:2], present.shape, numbers.shape]
    if spans is not None:
        shapes.append(spans.shape[:2])
    if values.ndim != 3 or len(set(shapes)) > 1 or numbers.dtype.kind not in "iu":
        raise PluginError(
            f"a padded batch has vectors of shape {values.shape}, a mask of {present.shape} and "
            f"modality numbers, {numbers.dtype}, of {numbers.shape}"
            + (f", spans of {spans.shape}" if spans is not None else "")
            + ": give (batch, length, dim), and (batch, length) of integers for the others."
        )
    strange = present & ((numbers < NO_MODALITY) | (numbers > max(Modality)))
    if strange.any():
        item, place = (int(each[0]) for each in np.nonzero(strange))
        raise PluginError(
            f"token {place} of item {item} of a padded batch has the modality number "
            f"{numbers[item, place]}: give numbers of harness.types.Modality, 1 to "
            f"{max(Modality)}, or 0."
        )
    kept = present if keep_unassigned else present & (numbers != NO_MODALITY)
    items, places = np.nonzero(kept)
    found = numbers[items, places]
    order = np.lexsort((found, items))
    items, places, found = items[order], places[order], found[order]
    starts = np.flatnonzero(
        np.diff(items, prepend=-1).astype(bool) | np.diff(found, prepend=-1).astype(bool)
    )
    counts = np.bincount(items, minlength=len(values))
    return (
        values[items, places],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        found[starts].astype(np.uint8),
        np.append(starts, len(items)).astype(np.int64),
        None,
        None if spans is None else np.asarray(spans, np.float32)[items, places],
    )


def _floats(vectors: Any) -> NDArray[Any]:
    """Return vectors as float32, float16 or the bits of bfloat16."""
    if _is_tensor(vectors) and str(vectors.dtype) == "torch.bfloat16":
        import torch

        bits: NDArray[Any] = vectors.detach().cpu().contiguous().view(torch.int16).numpy()
        return bits.view(Precision.BF16.dtype)
    plain = _plain(vectors)
    if plain.dtype.kind != "f":
        raise PluginError(f"the vectors of a padded batch are {plain.dtype}: give a floating type.")
    return plain if plain.dtype == np.float16 else plain.astype(np.float32, copy=False)


def _plain(array: Any) -> NDArray[Any]:
    """Return a numpy array of what is one, or a torch tensor."""
    return np.asarray(array.detach().cpu() if _is_tensor(array) else array)


def _is_tensor(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"
