"""What comes from a model, checked and made ready for the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from harness.errors import PluginError
from harness.index.filling import Encoded
from harness.late_interaction import NonFiniteError, Precision, TokenEmbeddings
from harness.types import NO_MODALITY, Modality

T = TypeVar("T")

#: Vectors looked at together.
_ROWS = 16384
#: Values from here on are rounded to infinity.
_LIMITS = {Precision.FP16: 65520.0, Precision.BF16: 2.0**128 - 2.0**119}


class Intake:
    """Calls an encoder's method and holds it to its contract.

    Parameters
    ----------
    method
        ``encode_documents`` or ``encode_queries``.
    precision
        How the vectors are to be kept.
    on_invalid
        For an item whose vectors are NaN or infinite: ``fail``, or ``skip`` to leave it without
        tokens.
    kind
        What an item is, for messages.
    losses
        The encoder's count of what it could not use.
    """

    def __init__(
        self,
        method: Callable[[Sequence[T]], TokenEmbeddings],
        precision: Precision,
        on_invalid: Literal["fail", "skip"],
        kind: str = "document",
        losses: Counter[str] | None = None,
    ) -> None:
        self._losses: Counter[str] = Counter() if losses is None else losses
        self._method: Callable[[Sequence[Any]], Any] = method
        self._precision, self._on_invalid, self._kind = precision, on_invalid, kind

    def encode(self, batch: Sequence[T], key: Callable[[T], str]) -> Encoded:
        """Encode a batch.

        Raises
        ------
        PluginError
            If the method gives no `TokenEmbeddings` of as many items, NaN (under ``fail``), or
            values that the precision cannot hold.
        """
        ids = [key(item) for item in batch]
        before = self._losses.copy()
        try:
            made = self._call(batch)
        except NonFiniteError as error:
            if self._on_invalid == "fail":
                raise self._not_finite(ids[error.item], error.modality) from error
            return self._one_by_one(batch, ids)
        check_range(made, ids, self._precision, self._kind)
        return Encoded(made.astype(self._precision), losses=self._losses - before)

    def _one_by_one(self, batch: Sequence[T], ids: Sequence[str]) -> Encoded:
        """Encode each item by itself, to keep those whose vectors are finite.

        The same batch comes here whenever it is encoded, so what was resumed is the same.
        """
        before = self._losses.copy()
        parts, invalid = [], []
        for item, id_ in zip(batch, ids, strict=True):
            try:
                parts.append(self._call([item]))
            except NonFiniteError:
                parts.append(TokenEmbeddings.of([{}]))
                invalid.append(id_)
        made = TokenEmbeddings.concatenate(parts)
        check_range(made, ids, self._precision, self._kind)
        return Encoded(made.astype(self._precision), invalid, self._losses - before)

    def _call(self, batch: Sequence[T]) -> TokenEmbeddings:
        made = self._method(batch)
        if not isinstance(made, TokenEmbeddings) or len(made) != len(batch):
            given = f"{len(made)} items" if isinstance(made, TokenEmbeddings) else repr(type(made))
            raise PluginError(
                f"{self._name} returned {given} for a batch of {len(batch)}: it must return "
                "TokenEmbeddings of as many items, in their order."
            )
        return made

    @property
    def _name(self) -> str:
        return str(getattr(self._method, "__qualname__", self._method))

    def _not_finite(self, id_: str, modality: int) -> PluginError:
        skip = "; on_invalid=skip ranks without it" if self._kind == "document" else ""
        return PluginError(
            f"{self._name} returned NaN or infinite values for {self._kind} {id_!r} "
            f"({modality_label(modality)}): look for a division by a zero norm or an overflow in "
            f"half precision{skip}."
        )


def check_range(
    embeddings: TokenEmbeddings, ids: Sequence[str], precision: Precision, kind: str = "document"
) -> None:
    """Make sure that `precision` can hold every value.

    Raises
    ------
    PluginError
        Naming the item and the modality of a vector that it cannot hold.
    """
    limit = _LIMITS.get(precision)
    if limit is None or embeddings.precision is precision:
        return
    for start in range(0, len(embeddings.vectors), _ROWS):
        largest = np.abs(embeddings.widen(start, min(start + _ROWS, len(embeddings.vectors))))
        beyond = np.flatnonzero((largest >= limit).any(axis=1))
        if len(beyond):
            token = start + int(beyond[0])
            item = int(np.searchsorted(embeddings.offsets, token, side="right")) - 1
            segment = int(np.searchsorted(embeddings.segment_offsets, token, side="right")) - 1
            raise PluginError(
                f"{kind} {ids[item]!r} ({modality_label(int(embeddings.modalities[segment]))}) has "
                f"a vector with the value {largest[beyond[0]].max():.3g}, which overflows "
                f"{precision}: normalise the vectors, or set precision to fp32."
            )


def modality_label(number: int) -> str:
    """Return the name of a modality number as messages have it."""
    return "no modality" if number == NO_MODALITY else Modality(number).label
