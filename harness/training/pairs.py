"""Late-interaction scores of every query with every document, with gradients.

The formula as one writes it needs the tensor (modality, query, document, query token, document
token). Here the similarities are made block by block and only each maximum's place is kept. A
maximum passes its gradient to one product alone, so the backward pass needs no similarities: it
gathers the winners' vectors, one for each query token, document and modality.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from harness.errors import PluginError
from harness.training.segments import Segments, segments


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """Scores of every query with every document.

    Attributes
    ----------
    token_max
        Floating, shape ``(queries, documents)``: for each query token its best document token; the
        sum (LI_context, Eq. 1 of CLaMR, arXiv:2506.06144). -inf where no token of the document
        counts.
    by_modality
        Floating, shape ``(queries, documents, modalities)``: the same with the document's tokens of
        one modality; -inf where it has none.
    modalities
        Modality numbers of the last axis, ascending.
    """

    token_max: Tensor
    by_modality: Tensor
    modalities: tuple[int, ...]

    @property
    def modality_max(self) -> Tensor:
        """The best modality's score, shape ``(queries, documents)`` (LI_mw, Eq. 3 of CLaMR).

        Where modalities tie, the gradient goes to the lowest number.
        """
        if not self.modalities:
            return self.token_max
        # Not amax, which shares the gradient among those that tie.
        return self.by_modality.max(-1).values


def pair_scores(
    queries: Tensor,
    query_modalities: Tensor,
    documents: Tensor,
    document_modalities: Tensor,
    *,
    normalise: bool = True,
    unassigned: Literal["exclude", "compete"] = "exclude",
    padding: Literal["exclude", "zero"] = "exclude",
    block: int | None = None,
) -> PairScores:
    """Score every query with every document.

    Products are float32, or float64 if either side is, whatever autocast and the process's matmul
    precision say; scores have that type. Gradients have the types of the inputs. Where document
    tokens tie, the first one gets the gradient; between modalities, the lowest number. Both passes
    are deterministic on one device. What is -inf passes no gradient.

    Parameters
    ----------
    queries, documents
        Floating, shapes ``(queries, tokens, dim)`` and ``(documents, tokens, dim)``, padded
        anywhere. Where unassigned tokens compete, padding is zero vectors.
    query_modalities, document_modalities
        Integers, shapes ``(queries, tokens)`` and ``(documents, tokens)``: numbers of
        `harness.types.Modality`; 0 for padding and tokens of no modality. Query tokens of 0 do not
        count.
    normalise
        Divide by the query's number of tokens that count, as CLaMR does in training.
    unassigned, padding
        As `unassigned_tokens` and `padding` of `harness.late_interaction.Scoring`: ``compete`` and
        ``zero`` are the reference's treatment. Then one modality has the number 0.
    block
        Most similarities in memory at once, but for one document longer than that. Default: 2**20
        on a processor (4 MiB: with one thread a quarter of that is as fast, with several threads
        fewer and larger operations wait less for one another), 2**26 elsewhere.

    Raises
    ------
    PluginError
        If shapes or modality numbers cannot be.
    """
    _check("query", queries, query_modalities)
    _check("document", documents, document_modalities)
    if queries.shape[-1] != documents.shape[-1]:
        raise PluginError(
            f"queries have {queries.shape[-1]} dimensions and documents {documents.shape[-1]}: "
            "give both as many."
        )
    layout = segments(
        query_modalities,
        document_modalities,
        (documents != 0).any(-1) if unassigned == "compete" else None,
        padded=padding == "zero",
    )
    if block is None:
        block = 2**20 if documents.device.type == "cpu" else 2**26
    scores = _Maxima.apply(queries, documents, layout, block)
    if normalise:
        scores = scores / layout.query_lengths.clamp(min=1).to(scores.dtype)[:, None, None]
    return PairScores(scores[..., -1], scores[..., :-1], layout.modalities)


class _Maxima(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """Sums of maxima: shape ``(queries, documents, modalities + 1)``; the last is of all tokens."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor, layout: Segments, block: int) -> Any:
        dtype = torch.promote_types(queries.dtype, documents.dtype)
        dtype = dtype if dtype == torch.float64 else torch.float32
        asked = queries.flatten(0, 1)[layout.query_places].to(dtype)
        tokens = documents.flatten(0, 1)[layout.places].to(dtype)
        shape = (len(asked), len(documents), len(layout.modalities) + 1)
        winners = torch.full(shape, -1, dtype=torch.int32, device=asked.device)
        scores = torch.full((len(queries), *shape[1:]), -torch.inf, dtype=dtype).to(asked.device)
        with _plain_products(asked.device):
            for first, last in layout.groups(block, len(asked)):
                found = winners[:, first:last]
                maxima = torch.full(found.shape, -torch.inf, dtype=dtype, device=asked.device)
                _segment_maxima(asked, tokens, layout, (first, last), block, maxima, found)
                _overall(layout, maxima, found)
                sums = torch.segment_reduce(
                    maxima.flatten(1), "sum", lengths=layout.query_lengths, axis=0, initial=0
                )
                scores[:, first:last] = sums.unflatten(1, found.shape[1:])
        # A query without tokens sums up to 0, but what a document lacks is lacking there too.
        scores.masked_fill_(~layout.present, -torch.inf)
        ctx.save_for_backward(asked, tokens, winners)
        ctx.layout, ctx.block = layout, block
        ctx.shapes = (queries.shape, queries.dtype), (documents.shape, documents.dtype)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        asked, tokens, winners = ctx.saved_tensors
        layout: Segments = ctx.layout
        of_queries, of_documents = torch.zeros_like(asked), torch.zeros_like(tokens)
        owners = torch.arange(len(layout.query_lengths), device=asked.device)
        owners = owners.repeat_interleave(layout.query_lengths)
        # Ten numbers are held for each winner, against one for each similarity.
        step = max(1, ctx.block // max(1, winners[:, :1].numel()))
        for first in range(0, winners.shape[1], step):
            won = winners[:, first : first + step].flatten(1)
            weights = gradient[:, first : first + step].flatten(1)[owners]
            counts = (won >= 0) & (weights != 0)
            rows, columns = counts.nonzero(as_tuple=True)
            places, weights = won[rows, columns], weights[rows, columns]
            if ctx.needs_input_grad[0]:
                of_queries += _weighted_sums(tokens, places, weights, counts.sum(1))
            if ctx.needs_input_grad[1]:
                places, order = places.sort(stable=True)
                lengths = torch.bincount(places, minlength=len(tokens))
                sums = _weighted_sums(asked, rows[order].int(), weights[order], lengths)
                of_documents += sums
        (query_shape, query_type), (document_shape, document_type) = ctx.shapes
        return (
            _spread(of_queries, layout.query_places, query_shape, query_type)
            if ctx.needs_input_grad[0]
            else None,
            _spread(of_documents, layout.places, document_shape, document_type)
            if ctx.needs_input_grad[1]
            else None,
            None,
            None,
        )


def _segment_maxima(
    asked: Tensor,
    tokens: Tensor,
    layout: Segments,
    documents: tuple[int, int],
    block: int,
    maxima: Tensor,
    winners: Tensor,
) -> None:
    """Write the maximum over each segment of a range of documents, and the winner's place."""
    segments_ = layout.of(*documents)
    if not segments_:
        return
    start, stop = segments_[0].start, segments_[-1].stop
    rows = max(1, block // (stop - start))
    vectors = tokens[start:stop].T
    for row in range(0, len(asked), rows):
        products = asked[row : row + rows] @ vectors
        for segment in segments_:
            best = products[:, segment.start - start : segment.stop - start].max(1)
            place = segment.document - documents[0], segment.column
            maxima[row : row + rows, *place] = best.values
            winners[row : row + rows, *place] = best.indices + segment.start


def _overall(layout: Segments, maxima: Tensor, winners: Tensor) -> None:
    """Fill the last column with the best of the others; zero vectors win without a place."""
    if not layout.modalities:
        return
    if layout.padded:
        # Only what counts has padding; the others are set to -inf in the sums.
        floored = maxima[..., 0] < 0
        maxima[..., 0].masked_fill_(floored, 0)
        winners[..., 0].masked_fill_(floored, -1)
    best = maxima[..., :-1].max(-1)
    maxima[..., -1] = best.values
    winners[..., -1] = winners[..., :-1].gather(-1, best.indices[..., None])[..., 0]


def _weighted_sums(vectors: Tensor, places: Tensor, weights: Tensor, lengths: Tensor) -> Tensor:
    """Return the weighted sum of each run of vectors, added up in order: no atomic additions."""
    ends = lengths.cumsum(0, dtype=torch.int32)
    offsets = torch.cat([ends.new_zeros(1), ends])
    if not len(vectors):
        return vectors.new_zeros((len(lengths), vectors.shape[1]))
    sums: Tensor = embedding_bag(
        places,
        vectors,
        offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    return sums


def _spread(rows: Tensor, places: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return rows at their places of a padded batch, zeros elsewhere."""
    padded = torch.zeros((shape[0] * shape[1], shape[2]), dtype=dtype, device=rows.device)
    padded[places] = rows.to(dtype)
    return padded.view(shape)


@contextmanager
def _plain_products(device: torch.device) -> Iterator[None]:
    """Make products as wide as their factors: no autocast, no TF32, no bfloat16."""
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(previous)


def _check(what: str, vectors: Tensor, modalities: Tensor) -> None:
    if (
        vectors.ndim == 3
        and vectors.is_floating_point()
        and not modalities.is_floating_point()
        and modalities.shape == vectors.shape[:2]
    ):
        return
    raise PluginError(
        f"{what} vectors are {vectors.dtype} of shape {tuple(vectors.shape)} and their modality "
        f"numbers {modalities.dtype} of {tuple(modalities.shape)}: give floating (batch, tokens, "
        "dim) and integers (batch, tokens)."
    )
