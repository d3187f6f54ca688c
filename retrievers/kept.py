"""What documents were made into, kept between epochs so that media are decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from harness.types import Document, Modality

T = TypeVar("T")

#: Bytes kept by default. The sample's 600 training videos take 150 KB each at four frames, and half
#: of them once more while a document holds one modality alone.
BUDGET = 256 * 2**20

_Key = tuple[str, frozenset[Modality]]


class Kept(Generic[T]):
    """Prepared documents, the least recently used of which give way.

    Parameters
    ----------
    size
        Returns the bytes that a prepared document takes.
    budget
        Most bytes; a document that is larger alone is not kept.
    """

    def __init__(self, size: Callable[[T], int], budget: int = BUDGET) -> None:
        self._size, self._budget, self._used = size, budget, 0
        self._found: OrderedDict[_Key, tuple[Document, T]] = OrderedDict()

    def missing(self, documents: Iterable[Document]) -> list[Document]:
        """Return the documents that are not kept."""
        return [document for document in documents if self._get(document) is None]

    def of(
        self, documents: Sequence[Document], make: Callable[[Sequence[Document]], Iterator[T]]
    ) -> list[T]:
        """Return what each document is made into.

        Parameters
        ----------
        documents
            Any.
        make
            Makes those that are not kept, in their order.
        """
        held = [self._get(document) for document in documents]
        made = make([d for d, one in zip(documents, held, strict=True) if one is None])
        found = []
        for document, one in zip(documents, held, strict=True):
            value = next(made) if one is None else one[1]
            self._put(document, value)
            found.append(value)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self._used = 0

    def _get(self, document: Document) -> tuple[Document, T] | None:
        found = self._found.get((document.id, document.modalities))
        # An id alone does not say that it is the same document.
        return found if found is not None and found[0] == document else None

    def _put(self, document: Document, value: T) -> None:
        key = (document.id, document.modalities)
        older = self._found.pop(key, None)
        if older is not None:
            self._used -= self._size(older[1])
        size = self._size(value)
        if size > self._budget:
            return
        self._found[key] = document, value
        self._used += size
        while self._used > self._budget:
            _, (_, dropped) = self._found.popitem(last=False)
            self._used -= self._size(dropped)
