"""Matrix products whose every element is computed in one and the same way.

An inner product in float32 depends on the order of its additions. A BLAS takes another order for
another shape of the product, for another number of threads, and even within one product: OpenBLAS
for processors with AVX2 computes the outer eight columns of each panel of 320 in another order than
the rest. Then a score would depend on which documents and queries happen to lie next to each other.

So products are made in tiles of a few fixed shapes, by one thread each, and these shapes are tried
out once: a tile of one vector repeated, times a tile of another, shows which places of the tile
compute the very bits that the middle of a reference tile computes. Only such columns are used. The
vectors that are tried are made to be sensitive: their terms differ by orders of magnitude.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

#: Rows of a tile, document tokens: the smallest that holds what is left is taken.
ROWS = (48, 240, 480)
#: Columns of a tile, query tokens. The wider, the faster: at 2,048 columns the maximum over rows
#: adds 3 % to the product, at 320 it adds 8 %.
WIDTHS: tuple[int, ...] = (48, 64, 96, 128, 192, 256, 320, 384, 512, 640, *range(768, 2177, 128))
#: The tile whose middle is the reference.
_REFERENCE = (480, 320)
#: Two orders of addition agree on one such pair of vectors in less than half of the cases.
_PAIRS = 16


def product(
    documents: NDArray[np.float32], queries: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Write ``documents @ queries.T`` to `out`; all are contiguous and have a tile's shape.

    To be called within `single_threaded_blas`.
    """
    np.matmul(documents, queries.T, out=out)


@cache
def usable_columns(dim: int, width: int, rows: int = ROWS[-1]) -> NDArray[np.intp]:
    """Return the columns of a tile that compute as the reference does, in every row.

    Where a BLAS has none, all columns are returned: scores are then right, but their last bits
    may depend on the neighbours (see `is_stable`).
    """
    same = _same_columns(dim, width, rows)
    return np.flatnonzero(same if same.any() else np.ones(width, bool))


@cache
def row_counts(dim: int, width: int) -> tuple[int, ...]:
    """Return the tile heights in which all usable columns of a width compute alike."""
    columns = usable_columns(dim, width)
    shorter = (rows for rows in ROWS[:-1] if _same_columns(dim, width, rows)[columns].all())
    return (*shorter, ROWS[-1])


def width_for(dim: int, tokens: int) -> int:
    """Return the smallest width with `tokens` usable columns, or the widest there is."""
    wide_enough = (width for width in WIDTHS if width >= tokens)
    fits = (width for width in wide_enough if len(usable_columns(dim, width)) >= tokens)
    return next(fits, max(WIDTHS))


def is_stable(dim: int) -> bool:
    """Return whether scores of this dimension are the same bits whatever their neighbours.

    They are with every BLAS tried so far: OpenBLAS's kernels for AVX2, AVX-512 and SSE.
    """
    return bool(_same_columns(dim, WIDTHS[-1], ROWS[-1]).any())


def _same_columns(dim: int, width: int, rows: int) -> NDArray[np.bool_]:
    same = np.ones((rows, width), bool)
    for document, query, expected in _reference(dim):
        same &= _tile(document, query, rows, width) == expected
    return np.asarray(same.all(axis=0))


@cache
def _reference(dim: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32], np.float32]]:
    rng = np.random.default_rng(0)
    shape = (2, _PAIRS, dim)
    # Terms from 2**-16 to 2**16 times a normal variate: sums lose other bits in another order.
    values = rng.standard_normal(shape) * np.exp2(rng.uniform(-8, 8, shape))
    rows, width = _REFERENCE
    return [
        (document, query, _tile(document, query, rows, width)[rows // 2, width // 2])
        for document, query in zip(*values.astype(np.float32), strict=True)
    ]


def _tile(
    document: NDArray[np.float32], query: NDArray[np.float32], rows: int, width: int
) -> NDArray[np.float32]:
    out = np.empty((rows, width), np.float32)
    with single_threaded_blas:
        product(np.tile(document, (rows, 1)), np.tile(query, (width, 1)), out)
    return out


class WhileUsed:
    """A context that holds a state of the whole process from its first user to its last.

    Parameters
    ----------
    hold
        Makes the context that the first user enters and the last one leaves.
    """

    def __init__(self, hold: Callable[[], AbstractContextManager[object]]) -> None:
        self._hold, self._lock, self._users = hold, threading.Lock(), 0
        self._held = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._held.enter_context(self._hold())
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._held.close()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


#: Keeps BLAS to one thread a call: other numbers give other bits. Parallelism is above it.
single_threaded_blas = WhileUsed(lambda: _controller().limit(limits=1, user_api="blas"))
