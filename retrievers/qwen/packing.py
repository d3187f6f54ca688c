"""The vectors of sequences as the embeddings of items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.late_interaction import TokenEmbeddings
from harness.types import Modality
from retrievers.qwen.sequence import Tokens


def packed(
    items: Sequence[Sequence[Tokens]], vectors: Sequence[NDArray[np.float32]], *, pooled: bool
) -> TokenEmbeddings:
    """Join the vectors of each item's sequences, which follow one another.

    Parameters
    ----------
    items
        The sequences of each document or query; an item without any gets no tokens.
    vectors
        Of all sequences in their order, float32 ``(tokens, dim)``.
    pooled
        Whether a sequence is one vector, of all its modalities together.
    """
    parts, rest = [], iter(vectors)
    for sequences in items:
        found = [next(rest) for _ in sequences]
        if not found:
            parts.append(TokenEmbeddings.of([{}]))
        elif pooled:
            parts.append(TokenEmbeddings.of([{Modality.TEXT: np.concatenate(found)}]))
        else:
            numbers = np.concatenate([tokens.modalities for tokens in sequences])
            parts.append(
                TokenEmbeddings.from_padded(
                    np.concatenate(found)[None],
                    np.ones((1, len(numbers)), np.int64),
                    numbers[None],
                    spans=np.concatenate([tokens.spans for tokens in sequences])[None],
                    keep_unassigned=True,
                )
            )
    return TokenEmbeddings.concatenate(parts)
