"""BM25 on the text of one modality or of all of them, by bm25s.

Lexical matching is the bar that every neural retriever has to clear, so what it matches is
written down: each choice of `BM25Settings` is part of the fingerprint.
"""

from __future__ import annotations

import json
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import bm25s
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.errors import DataError, PluginError
from harness.plugin import About
from harness.retriever import Capabilities, QueryKind, Retriever
from harness.settings import Settings
from harness.types import (
    TEXT_MODALITIES,
    Document,
    Modality,
    Query,
    RankedList,
    Ranking,
)
from harness.workspace import Workspace
from retrievers.tokenise import Tokeniser, TokeniserSettings

_FOLDER = "bm25"
_CARD = "collection.json"
_DELTA = 0.5  # of the bm25l and bm25+ variants

Method = Literal["lucene", "robertson", "atire", "bm25l", "bm25+"]


class BM25Settings(TokeniserSettings):
    """The formula, and how text is cut into terms."""

    k1: float = Field(
        1.2, gt=0, allow_inf_nan=False, description="How slowly a repeated term saturates."
    )
    b: float = Field(0.75, ge=0, le=1, description="How much long documents are discounted.")
    method: Method = Field(
        "lucene",
        description="Variant of the formula, as bm25s names them; bm25l and bm25+ with delta 0.5.",
    )


class TokenIndex:
    """BM25 over documents that are already terms.

    Scores are bm25s' float32 scores from its numpy backend, which are the same whether or not
    numba or JAX is installed.

    Parameters
    ----------
    documents
        Document ids, in the order of the scores.
    scorer
        The bm25s index; None if no document has a term.
    """

    def __init__(self, documents: list[str], scorer: Any) -> None:
        self.documents, self._scorer = documents, scorer
        # Place of each document when ids descend: the canonical order of ties.
        by_id = sorted(range(len(documents)), key=documents.__getitem__, reverse=True)
        self._place = np.empty(len(documents), np.int32)
        self._place[by_id] = np.arange(len(documents), dtype=np.int32)

    @classmethod
    def build(
        cls,
        documents: Iterable[tuple[str, Iterable[str]]],
        *,
        k1: float,
        b: float,
        method: Method,
    ) -> TokenIndex:
        """Index ``(document id, terms)`` pairs, read once.

        Terms become int32 ids as they come, so a collection takes 4 bytes a term before bm25s
        weighs it, rather than the 50 and more of a list of strings.
        """
        ids: list[str] = []
        vocabulary: defaultdict[str, int] = defaultdict()
        vocabulary.default_factory = vocabulary.__len__  # an unseen term gets the next number
        terms, bounds = array("i"), array("q", [0])
        for document, tokens in documents:
            ids.append(document)
            terms.extend(map(vocabulary.__getitem__, tokens))
            bounds.append(len(terms))
        if not vocabulary:
            return cls(ids, None)
        scorer = bm25s.BM25(
            k1=k1, b=b, delta=_DELTA, method=method, backend="numpy", csc_backend="numpy"
        )
        scorer.index(
            _TermIds(terms, bounds, dict(vocabulary)),
            create_empty_token=False,
            show_progress=False,
        )
        return cls(ids, scorer)

    def save(self, folder: Path) -> None:
        """Write the index into `folder`: bm25s' npy and JSON files, and ``collection.json``."""
        if self._scorer is not None:
            self._scorer.save(folder, show_progress=False)
        card = {
            "made_with": _made_with(),
            "has_terms": self._scorer is not None,
            "documents": self.documents,
        }
        (folder / _CARD).write_text(json.dumps(card))

    @classmethod
    def load(cls, folder: Path) -> TokenIndex | None:
        """Return the index in `folder`, its postings memory-mapped.

        None if other versions of the libraries that make terms and scores have written it: then
        its terms may not be those that queries get now.

        Raises
        ------
        DataError
            If a file is missing or damaged.
        """
        try:
            card = json.loads((folder / _CARD).read_text())
            if card["made_with"] != _made_with():
                return None
            scorer = None
            if card["has_terms"]:
                scorer = bm25s.BM25.load(folder, mmap=True, show_progress=False)
                # Plain views: slicing a memmap costs more than adding a short posting list.
                for part in ("data", "indices", "indptr"):
                    scorer.scores[part] = np.asarray(scorer.scores[part])
            return cls(card["documents"], scorer)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(
                f"the BM25 index in {folder} is damaged ({error}): remove that folder and give "
                "the same command again."
            ) from error

    def search(self, tokens: Sequence[str], k: int) -> RankedList:
        """Return the `k` best documents.

        A document to whose score the query adds nothing is not listed: it has none of the terms,
        or only terms that weigh 0 (in the ``robertson`` and ``atire`` variants those of very many
        documents). Where scores tie at the cut, the highest document ids stay, as in
        `harness.types.Ranking`: so ``search(tokens, k)`` is always a head of
        ``search(tokens, k + 1)``.
        """
        terms = self._scorer.get_tokens_ids(tokens) if self._scorer is not None else []
        if not terms:
            return RankedList([], np.empty(0))
        scores: NDArray[np.float32] = self._scorer.get_scores_from_ids(terms)
        # BM25L and BM25+ give every document a share for the terms that it lacks.
        absent = self._scorer.nonoccurrence_array
        floor = 0 if absent is None else absent[terms].sum()
        found = np.flatnonzero(scores > floor)
        values = scores[found]
        if len(found) > k:
            cut = np.partition(values, len(found) - k)[len(found) - k]
            kept = values >= cut  # more than k where scores tie at the cut
            found, values = found[kept], values[kept]
        best = np.lexsort((self._place[found], -values))[:k]
        documents = [self.documents[i] for i in found[best].tolist()]
        return RankedList(documents, values[best].astype(np.float64))


class _TermIds:
    """What bm25s takes as a tokenised corpus: `vocab`, and `ids` as a list of lists of int.

    The lists are cut from one flat array when bm25s asks for them (it goes through them three
    times), not held.
    """

    def __init__(self, terms: array[int], bounds: array[int], vocab: dict[str, int]) -> None:
        self.ids, self.vocab = self, vocab
        self._terms, self._bounds = terms, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[list[int]]:
        terms = np.frombuffer(self._terms, np.intc)
        start = 0
        for stop in self._bounds[1:]:
            yield terms[start:stop].tolist()
            start = stop


def _made_with() -> dict[str, str]:
    """Return the versions that terms and scores depend on beside our own code."""
    return {
        "bm25s": version("bm25s"),
        "PyStemmer": version("PyStemmer"),
        "unicode": unicodedata.unidata_version,
    }


class _BM25(Retriever):
    """BM25 over the joined text of `reads`.

    Documents without text are legal; they are never found. A query without terms finds nothing. Of
    a query with an image the text alone is read, never the image and never the instruction.
    """

    Settings: ClassVar[type[Settings]] = BM25Settings
    settings: BM25Settings
    reads: ClassVar[tuple[Modality, ...]]

    _index: TokenIndex | None = None
    _tokenise: Tokeniser | None = None

    @property
    def tokenise(self) -> Tokeniser:
        """The tokeniser of these settings."""
        if self._tokenise is None:
            self._tokenise = Tokeniser(self.settings)
        return self._tokenise

    def index(self, documents: Collection[Document], workspace: Workspace) -> None:
        """Tokenise and index the documents, unless the workspace has the complete index."""
        folder = workspace.path / _FOLDER
        self._index = TokenIndex.load(folder) if workspace.has(_FOLDER) else None
        if self._index is None:
            built = TokenIndex.build(
                ((document.id, self.tokenise(self._text(document))) for document in documents),
                k1=self.settings.k1,
                b=self.settings.b,
                method=self.settings.method,
            )
            with workspace.folder(_FOLDER) as unfinished:
                built.save(unfinished)
            # From disk, as a resumed run has it: one way to search, and the postings need no
            # memory of their own.
            self._index = TokenIndex.load(folder)

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Rank the documents that share a term with the query; others are left out."""
        if self._index is None:
            raise PluginError(f"{self.name}: search was called before index; call index first.")
        index = self._index
        return Ranking({query.id: index.search(self.tokenise(query.text), k) for query in queries})

    def _text(self, document: Document) -> str:
        return "\n".join(document.texts[m] for m in self.reads if m in document.texts)


def _capabilities(reads: Collection[Modality]) -> Capabilities:
    return Capabilities(
        modalities=frozenset(reads),
        query_kinds=frozenset({QueryKind.TEXT, QueryKind.IMAGE_TEXT}),
        ignores_images=True,
    )


def _about(what: str) -> About:
    return About(
        title=f"BM25 on {what}",
        version="1",
        licence="MIT (bm25s)",
        citation="Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, "
        "2009; Lù, BM25S: Orders of magnitude faster lexical search via eager sparse scoring, "
        "arXiv:2407.03618, 2024.",
        url="https://github.com/xhluca/bm25s",
    )


class BM25ASR(_BM25):
    """BM25 on speech transcripts."""

    about = _about("speech transcripts (ASR)")
    reads = (Modality.ASR,)
    capabilities = _capabilities(reads)


class BM25OCR(_BM25):
    """BM25 on on-screen text."""

    about = _about("on-screen text (OCR)")
    reads = (Modality.OCR,)
    capabilities = _capabilities(reads)


class BM25Description(_BM25):
    """BM25 on descriptions."""

    about = _about("descriptions")
    reads = (Modality.DESCRIPTION,)
    capabilities = _capabilities(reads)


class BM25Text(_BM25):
    """BM25 on all text modalities of a document, joined."""

    about = _about("all text joined")
    reads = TEXT_MODALITIES
    capabilities = _capabilities(reads)
