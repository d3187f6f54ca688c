"""MaxSim with torch, for accelerators: the blocks are computed and reduced on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.packing import Packed
from harness.late_interaction.precision import Precision
from harness.late_interaction.products import WhileUsed
from harness.late_interaction.scoring import Scoring
from harness.types import NO_MODALITY

#: Document tokens of a product: with 2,048 query tokens it takes 134 MB.
_TOKENS = 16384
_HALVES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


class TorchEngine:
    """Scores one block of queries; see `harness.late_interaction.maxsim.Engine`.

    Products of halves are made as such with float32 sums where the device can; all others are
    float32. Nothing is rounded to TF32 or bfloat16, whatever the process allows elsewhere.

    Parameters
    ----------
    queries
        The block.
    documents
        Embeddings of the precision of those to be scored.
    device
        A torch device, or ``torch:`` and one.

    Raises
    ------
    UsageError
        If the device is not there.
    """

    chunk = (_TOKENS, _TOKENS)

    def __init__(self, queries: TokenEmbeddings, documents: TokenEmbeddings, device: str) -> None:
        self._device = _device(device)
        both = queries.precision if queries.precision is documents.precision else None
        half = _HALVES.get(both) if both else None
        self._half = half if half and _multiplies_halves(self._device, half) else None
        self._queries = self._tensor(queries, [(0, len(queries.vectors))])
        self._lengths = self._on_device(np.diff(queries.offsets))

    @staticmethod
    def query_tokens(queries: TokenEmbeddings) -> int:
        """Return how many query tokens one block should hold."""
        return 2048

    def sums(
        self, documents: Packed, scoring: Scoring, together: bool, apart: bool
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """See `harness.late_interaction.maxsim.Engine`."""
        if not len(self._queries):
            zeros = np.zeros((len(documents.modalities), len(self._lengths)))
            return zeros[: len(documents.owners)] if together else None, zeros if apart else None
        maxima = self._maxima(documents)
        if scoring.weights:
            maxima *= self._on_device(scoring.factors[documents.modalities])[:, None]
        floor = scoring.padding == "zero"
        if floor:
            template = np.flatnonzero(documents.modalities == NO_MODALITY)
            maxima[self._on_device(template)] = maxima[self._on_device(template)].clamp(min=0)
        best = None
        if together:
            counts = np.diff(documents.bounds, append=len(documents.modalities))
            rows = torch.segment_reduce(maxima, "max", lengths=self._on_device(counts), axis=0)
            best = self._token_sums(rows.clamp(min=0) if floor else rows)
        return best, self._token_sums(maxima) if apart else None

    def _maxima(self, documents: Packed) -> torch.Tensor:
        """Return the maximum over each segment: float32, ``(n_segments, n_query_tokens)``."""
        shape = (len(documents.modalities), len(self._queries))
        maxima = torch.full(shape, -torch.inf, device=self._device)
        runs = documents.runs()
        for start in range(0, documents.tokens, _TOKENS):
            stop = min(start + _TOKENS, documents.tokens)
            rows = [(first, last) for _, first, last in runs.between(start, stop)]
            products = self._product(self._tensor(documents.embeddings, rows))
            # The first and the last segment may go on in another product.
            low = int(np.searchsorted(documents.starts, start, side="right")) - 1
            high = int(np.searchsorted(documents.starts, stop, side="left"))
            lengths = np.diff(np.clip(documents.starts[low : high + 1], start, stop))
            found = torch.segment_reduce(products, "max", lengths=self._on_device(lengths), axis=0)
            torch.maximum(maxima[low:high], found, out=maxima[low:high])
        return maxima

    def _product(self, vectors: torch.Tensor) -> torch.Tensor:
        if self._half is not None:
            return torch.mm(vectors, self._queries.T, out_dtype=torch.float32)
        with _plain_float32:
            return vectors @ self._queries.T

    def _token_sums(self, values: torch.Tensor) -> NDArray[np.float64]:
        """Sum each query's tokens: float64, shape ``(n_rows, n_queries)``."""
        columns = values.T.to(torch.float64).contiguous()
        sums = torch.segment_reduce(columns, "sum", lengths=self._lengths, axis=0, initial=0)
        return np.asarray(sums.T.cpu().numpy())

    def _tensor(self, embeddings: TokenEmbeddings, rows: list[tuple[int, int]]) -> torch.Tensor:
        """Return ranges of tokens on the device, as halves or float32."""
        empty = embeddings.vectors[:0]
        host = np.concatenate([empty, *(embeddings.vectors[a:b] for a, b in rows)])
        if embeddings.precision is Precision.BF16:
            stored = self._on_device(host.view(np.int16)).view(torch.bfloat16)
        else:
            stored = self._on_device(host)
        if self._half is not None:
            return stored
        wide = stored.to(torch.float32)
        scales = embeddings.scales
        if scales is not None:
            joined = np.concatenate([scales[:0], *(scales[a:b] for a, b in rows)])
            wide *= self._on_device(joined)[:, None]
        return wide

    def _on_device(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name.removeprefix("torch:"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"no device {name!r}: {str(error).splitlines()[0]} Choose cpu, or a device of torch."
        ) from error
    return device


@cache
def _multiplies_halves(device: torch.device, half: torch.dtype) -> bool:
    """Return whether halves are multiplied with float32 results: torch 2.8 and later, on CUDA."""
    square = torch.ones((16, 16), dtype=half, device=device)
    try:
        return torch.mm(square, square, out_dtype=torch.float32).dtype is torch.float32
    except (RuntimeError, TypeError):
        return False


@contextmanager
def _highest_precision() -> Iterator[None]:
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


_plain_float32 = WhileUsed(_highest_precision)
