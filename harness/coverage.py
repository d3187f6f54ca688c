"""How many documents have which modality, overall and by language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.types import Document, Modality

DamagePolicy = Literal["fail", "skip-modality", "skip-document"]
"""What a damaged media file does. ``fail``: the error is raised. ``skip-modality``: the document
goes on without that modality. ``skip-document``: it goes on without any, so that nothing ranks it.
"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts of documents.

    Attributes
    ----------
    documents
        All documents.
    modalities
        Documents that have each modality, by its label.
    languages
        ``{language: {"documents": n, modality label: n}}`` for documents that state a language.
    """

    documents: int
    modalities: dict[str, int]
    languages: dict[str, dict[str, int]]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Coverage:
        """Count `documents` in one pass."""
        counter = CoverageCounter()
        for document in documents:
            counter.add(document)
        return counter.coverage()


class CoverageCounter:
    """Counts documents one by one, as they stream past."""

    def __init__(self) -> None:
        self._documents = 0
        self._modalities: Counter[Modality] = Counter()
        self._languages: dict[str, Counter[str]] = {}

    def add(self, document: Document) -> None:
        """Count one document."""
        self._documents += 1
        self._modalities.update(document.modalities)
        language = document.attributes.get("language")
        if language:
            row = self._languages.setdefault(language, Counter())
            row["documents"] += 1
            row.update(modality.label for modality in sorted(document.modalities))

    def coverage(self) -> Coverage:
        """Return the counts so far."""
        return Coverage(
            self._documents,
            {m.label: self._modalities[m] for m in Modality if self._modalities[m]},
            {language: dict(row) for language, row in sorted(self._languages.items())},
        )
