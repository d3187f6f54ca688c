"""MaxSim with numpy: products in fixed tiles, reduced while they are in cache."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.packing import Packed
from harness.late_interaction.precision import Precision
from harness.late_interaction.products import (
    ROWS,
    product,
    row_counts,
    usable_columns,
    width_for,
)
from harness.late_interaction.scoring import Scoring
from harness.types import NO_MODALITY

#: Up to here sums of products of int8 stay below 2**24: exact in float32, in any order.
INTEGER_DIM = 1040
#: Rows summed together: the float64 copy of 64 rows of 2,048 query tokens takes 1 MB.
_SUM_ROWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Query tokens that fill one tile.

    Attributes
    ----------
    vectors
        float32 or int8, shape ``(width, dim)``; zeros where there is no token.
    columns
        Where in the tile the tokens are.
    offsets
        int64, shape ``(n_queries + 1,)``: each query's range among these tokens; it is empty for
        a query of another piece.
    scales
        float32, shape ``(width,)``: factors of int8 columns; else None.
    """

    vectors: NDArray[Any]
    columns: NDArray[np.intp]
    offsets: NDArray[np.int64]
    scales: NDArray[np.float32] | None


class TiledEngine:
    """Scores one block of queries; its methods may run in several threads at once.

    Parameters
    ----------
    queries
        The block.
    documents
        Embeddings of the dimension and precision of those to be scored.
    device
        ``cpu``.
    """

    #: Most tokens and segments of a call: the maxima of 480 segments take 4 MB.
    chunk = (75 * ROWS[-1], ROWS[-1])

    def __init__(self, queries: TokenEmbeddings, documents: TokenEmbeddings, device: str) -> None:
        self._tokens = tokens = len(queries.vectors)
        width = width_for(queries.dim, tokens)
        columns = usable_columns(queries.dim, width)
        self._heights = row_counts(queries.dim, width)
        self._queries = len(queries)
        self._integers = is_integer(queries, documents)
        by_torch = self._integers and _integer_torch(queries.dim)
        self._multiply = _integer_product if by_torch else product
        self._pieces: list[_Piece] = []
        for start in range(0, tokens, len(columns)):
            used = columns[: tokens - start]
            self._pieces.append(self._piece(queries, start, used, width))

    def _piece(
        self, queries: TokenEmbeddings, start: int, columns: NDArray[np.intp], width: int
    ) -> _Piece:
        stop = start + len(columns)
        offsets = np.clip(queries.offsets, start, stop) - start
        dtype = np.int8 if self._multiply is _integer_product else np.float32
        vectors, scales = np.zeros((width, queries.dim), dtype), None
        if self._integers and queries.scales is not None:
            vectors[columns] = queries.vectors[start:stop]
            scales = np.zeros(width, np.float32)
            scales[columns] = queries.scales[start:stop]
        else:
            vectors[columns] = queries.widen(start, stop)
        return _Piece(vectors, columns, offsets, scales)

    @staticmethod
    def query_tokens(queries: TokenEmbeddings) -> int:
        """Return how many query tokens one block should hold."""
        return len(usable_columns(queries.dim, width_for(queries.dim, len(queries.vectors))))

    def sums(
        self, documents: Packed, scoring: Scoring, together: bool, apart: bool
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """See `harness.late_interaction.maxsim.Engine`."""
        best = np.zeros((len(documents.owners), self._queries)) if together else None
        each = np.zeros((len(documents.modalities), self._queries)) if apart else None
        floor = scoring.padding == "zero"
        template = np.flatnonzero(documents.modalities == NO_MODALITY) if floor else ()
        # An overflow gives a score that is not finite, which whoever ranks refuses by name.
        with np.errstate(over="ignore", invalid="ignore"):
            for piece in self._pieces:
                maxima = self._maxima(documents, piece)
                _weigh(maxima, piece, scoring, documents.modalities)
                for row in template:
                    np.maximum(maxima[row], 0, out=maxima[row])
                if each is not None:
                    each += _token_sums(maxima, piece.columns, piece.offsets)
                if best is not None:
                    rows = _document_maxima(maxima, documents.bounds)
                    rows = np.maximum(rows, 0, out=rows) if floor else rows
                    best += _token_sums(rows, piece.columns, piece.offsets)
        return best, each

    def similarities(self, documents: Packed, scoring: Scoring) -> NDArray[np.float32]:
        """Return all weighted similarities: float32, ``(n_query_tokens, documents.tokens)``."""
        out = np.empty((self._tokens, documents.tokens), np.float32)
        modalities = np.repeat(documents.modalities, np.diff(documents.starts))
        with np.errstate(over="ignore", invalid="ignore"):
            for query, piece in self._places():
                found = np.empty((documents.tokens, len(piece.vectors)), np.float32)
                for start, tile in self._tiles(documents, piece):
                    found[start : start + len(tile)] = tile
                _weigh(found, piece, scoring, modalities)
                out[query] = found.T[piece.columns]
        return out

    def summed(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sum ``(n_rows, n_query_tokens)`` as `sums` does: float64, ``(n_rows, n_queries)``."""
        out = np.zeros((len(values), self._queries))
        with np.errstate(over="ignore", invalid="ignore"):
            for query, piece in self._places():
                out += _token_sums(values, np.arange(query.start, query.stop), piece.offsets)
        return out

    def _places(self) -> Iterator[tuple[slice, _Piece]]:
        """Yield each piece with the range of query tokens that it holds."""
        start = 0
        for piece in self._pieces:
            yield slice(start, start + len(piece.columns)), piece
            start += len(piece.columns)

    def _maxima(self, documents: Packed, piece: _Piece) -> NDArray[np.float32]:
        """Return the maximum over each segment: float32, ``(n_segments, width)``, overwritten."""
        maxima = _scratch("maxima", (len(documents.modalities), len(piece.vectors)))
        starts, segment = documents.starts.tolist(), 0
        for start, tile in self._tiles(documents, piece):
            segment = _reduce(tile, start, starts, segment, maxima)
        return maxima

    def _tiles(self, documents: Packed, piece: _Piece) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield ``(packed start, products)`` of as many tokens as a tile has rows, in order.

        The array is overwritten by the next.
        """
        embeddings, runs = documents.embeddings, documents.runs()
        width, dim = piece.vectors.shape
        vectors = np.zeros((ROWS[-1], dim), piece.vectors.dtype)
        scales = np.zeros((ROWS[-1], 1), np.float32)
        products = _scratch("products", (ROWS[-1], width))
        for start in range(0, documents.tokens, ROWS[-1]):
            stop = min(start + ROWS[-1], documents.tokens)
            for place, first, last in runs.between(start, stop):
                rows = slice(place - start, place - start + last - first)
                if not self._integers:
                    embeddings.widen(first, last, out=vectors[rows])
                elif embeddings.scales is not None:
                    vectors[rows] = embeddings.vectors[first:last]
                    scales[rows, 0] = embeddings.scales[first:last]
            height = next(each for each in self._heights if each >= stop - start)
            self._multiply(vectors[:height], piece.vectors, products[:height])
            found = products[: stop - start]
            if self._integers:
                _scale_rows(found, scales[: stop - start], dim)
            yield start, found


def _weigh(
    values: NDArray[np.float32],
    piece: _Piece,
    scoring: Scoring,
    modalities: NDArray[np.uint8],
) -> None:
    """Multiply columns by the scales of int8 queries and rows by the modalities' weights."""
    if piece.scales is not None:
        values *= piece.scales
    if scoring.weights:
        values *= scoring.factors[modalities][:, None]


def _document_maxima(maxima: NDArray[np.float32], bounds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the maximum over each document's rows, which begin at `bounds`; overwritten."""
    if len(bounds) == len(maxima):
        return maxima
    out = _scratch("documents", (len(bounds), maxima.shape[1]))
    ends = [*bounds[1:].tolist(), len(maxima)]
    for row, (start, stop) in enumerate(zip(bounds.tolist(), ends, strict=True)):
        np.maximum.reduce(maxima[start:stop], axis=0, out=out[row])
    return out


def _token_sums(
    values: NDArray[np.float32], columns: NDArray[np.intp], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum each query's columns: float64, shape ``(n_rows, n_queries)``; 0 without tokens.

    Parameters
    ----------
    values
        Shape ``(n_rows, width)``.
    columns
        Where the tokens are in a row.
    offsets
        Each query's range of `columns`.
    """
    out = np.zeros((len(values), len(offsets) - 1))
    # `reduceat` gives an empty range the next value: such queries are left out of it.
    filled = np.flatnonzero(np.diff(offsets))
    chosen = _as_slice(columns)
    wide = _scratch("sums", (_SUM_ROWS, len(columns)), np.float64)
    for start in range(0, len(values), _SUM_ROWS):
        rows = values[start : start + _SUM_ROWS, chosen]
        np.copyto(wide[: len(rows)], rows)
        sums = np.add.reduceat(wide[: len(rows)], offsets[filled], axis=1)
        out[start : start + _SUM_ROWS, filled] = sums
    return out


def _as_slice(columns: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return the slice of columns that lie together; numpy copies others."""
    if int(columns[-1]) - int(columns[0]) + 1 == len(columns):
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns


_buffers = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    """Return an array of any content that the thread's next call with this name overwrites.

    Fresh memory costs a page fault for each 4 KB, a tenth of the time of a small product.
    """
    size = shape[0] * shape[1]
    kept: NDArray[Any] | None = getattr(_buffers, name, None)
    if kept is None or len(kept) < size:
        kept = np.empty(size, dtype)
        setattr(_buffers, name, kept)
    return kept[:size].reshape(shape)


def is_integer(queries: TokenEmbeddings, documents: TokenEmbeddings) -> bool:
    """Return whether products are exact integers, scaled afterwards."""
    both = queries.precision is documents.precision is Precision.INT8
    return both and queries.dim <= INTEGER_DIM


def _reduce(
    tile: NDArray[np.float32],
    start: int,
    starts: list[int],
    segment: int,
    maxima: NDArray[np.float32],
) -> int:
    """Take the rows of a tile, packed tokens from `start` on, into the maxima of segments.

    Returns the first segment that goes on in, or begins with, the next tile. A plain maximum per
    slice: `np.maximum.reduceat` over the same rows takes five times as long.
    """
    stop = start + len(tile)
    if len(maxima) == starts[-1]:  # single vectors: every segment is one token
        maxima[start:stop] = tile
        return stop
    while segment < len(maxima) and starts[segment] < stop:
        begin, end = starts[segment], starts[segment + 1]
        rows = tile[max(begin - start, 0) : end - start]
        if begin >= start:
            np.maximum.reduce(rows, axis=0, out=maxima[segment])
        else:
            np.maximum(maxima[segment], np.maximum.reduce(rows, axis=0), out=maxima[segment])
        if end > stop:
            break
        segment += 1
    return segment


def _scale_rows(values: NDArray[np.float32], scales: NDArray[np.float32], dim: int) -> None:
    if _integer_torch(dim):
        import torch

        torch.from_numpy(values).mul_(torch.from_numpy(scales))  # three times as fast as numpy
    else:
        np.multiply(values, scales, out=values)


def _integer_product(
    documents: NDArray[np.int8], queries: NDArray[np.int8], out: NDArray[np.float32]
) -> None:
    """Write the exact products of int8 matrices to `out`, by torch: six times as fast as float."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        products = torch.from_numpy(_scratch("integers", out.shape, np.int32))
        torch._int_mm(torch.from_numpy(documents), torch.from_numpy(queries).T, out=products)
        torch.from_numpy(out).copy_(products)
    finally:
        torch.set_num_threads(threads)


@cache
def _integer_torch(dim: int) -> bool:
    """Return whether torch is there and multiplies int8 of this dimension exactly.

    The values are those of the float path, so it matters for speed alone. Kernels for processors
    without dot-product instructions are known to saturate, and torch 2.13 is wrong at dimension 1:
    hence the look at a product, with extreme values.
    """
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    if not hasattr(torch, "_int_mm"):
        return False
    values = np.random.default_rng(0).integers(-127, 128, (2, 64, dim))
    values[:, ::2] = np.where(values[:, ::2] < -100, -127, 127)
    one, other = values.astype(np.int8)
    out = np.empty((64, 64), np.float32)
    _integer_product(one, other, out)
    return bool((out == values[0] @ values[1].T).all())
