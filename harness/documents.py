"""Collections of documents: sized, iterable more than once, not necessarily in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.types import Document, Modality


class Documents(Collection[Document]):
    """The documents of a split."""

    @abstractmethod
    def __iter__(self) -> Iterator[Document]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def __contains__(self, document: object) -> bool:
        return any(document == mine for mine in self)

    def attributes(self) -> dict[str, Mapping[str, str]]:
        """Return the attributes of every document by its id."""
        return {document.id: document.attributes for document in self}


class ListedDocuments(Documents):
    """Documents held in memory."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)


class RestrictedDocuments(Documents):
    """Documents with only some modalities left in: an ablation of the input."""

    def __init__(self, documents: Documents, modalities: frozenset[Modality]) -> None:
        self._documents, self._modalities = documents, modalities

    def __iter__(self) -> Iterator[Document]:
        return (document.only(self._modalities) for document in self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def attributes(self) -> dict[str, Mapping[str, str]]:
        """Return the attributes of every document by its id."""
        return self._documents.attributes()
