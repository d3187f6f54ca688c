"""Our BM25 against bm25s called bare, on the same token lists.

    python benchmarks/bm25.py [--documents 200000] [--queries 1000] [--k 1000] [--rounds 5]

The tokens come from a Zipf distribution, 15 to 45 a document: short documents, as titles and
on-screen text are. "Ours" is what the retrievers run: building, writing to the workspace folder
(atomically, with fsync), opening it memory-mapped, searching with ties cut by document id.
"Bare" indexes and searches in memory and leaves ties to chance. Tokenising is timed apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from _measure import side_by_side, write_json

from harness.files import atomic_folder
from harness.types import Ranking
from retrievers.bm25 import TokenIndex
from retrievers.tokenise import Tokeniser, TokeniserSettings

BARE = "bm25s bare"
SETTINGS: dict[str, Any] = {"k1": 1.2, "b": 0.75, "method": "lucene"}


def corpus(n_documents: int, n_queries: int) -> tuple[list[list[str]], list[list[str]]]:
    """Return token lists of documents and of queries (3 to 8 tokens of one document each)."""
    rng = np.random.default_rng(7)
    # The word of rank r is drawn in proportion to 1 / (r + 10): frequent words in a third of the
    # documents, a long tail, 100,000 words.
    weights = 1 / (np.arange(100_000) + 10)
    words = [f"w{i}" for i in range(len(weights))]
    lengths = rng.integers(15, 46, n_documents)
    drawn = rng.choice(len(words), lengths.sum(), p=weights / weights.sum())
    documents = [
        [words[i] for i in part.tolist()] for part in np.split(drawn, np.cumsum(lengths)[:-1])
    ]
    queries = []
    for document in rng.choice(n_documents, n_queries).tolist():
        tokens = documents[document]
        chosen = rng.choice(len(tokens), min(len(tokens), int(rng.integers(3, 9))), replace=False)
        queries.append([tokens[i] for i in chosen.tolist()])
    return documents, queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/bm25.json")
    arguments = parser.parse_args()
    documents, queries = corpus(arguments.documents, arguments.queries)
    ids = [f"document-{i}" for i in range(len(documents))]
    k = min(arguments.k, len(documents))
    scratch = tempfile.TemporaryDirectory()
    folder = Path(scratch.name) / "bm25"

    def bare_index() -> bm25s.BM25:
        bare = bm25s.BM25(**SETTINGS)
        bare.index(documents, show_progress=False)
        return bare

    def bare_search(bare: bm25s.BM25) -> object:
        return bare.retrieve(queries, k=k, show_progress=False)

    def build() -> TokenIndex:
        return TokenIndex.build(zip(ids, documents, strict=True), **SETTINGS)

    def index() -> TokenIndex:
        with atomic_folder(folder) as unfinished:
            build().save(unfinished)
        ours = TokenIndex.load(folder)
        assert ours is not None
        return ours

    def search(ours: TokenIndex) -> Ranking:
        return Ranking({str(i): ours.search(query, k) for i, query in enumerate(queries)})

    rounds = arguments.rounds
    tables = [
        side_by_side(
            f"Index, {len(documents):,} documents",
            {BARE: bare_index, "ours, in memory": build, "ours, kept on disk": index},
            baseline=BARE,
            rounds=rounds,
        ),
        side_by_side(
            "Index and search",
            {BARE: lambda: bare_search(bare_index()), "ours": lambda: search(index())},
            baseline=BARE,
            rounds=rounds,
        ),
    ]
    bare, ours = bare_index(), index()
    agree(bare, ours, queries[:50], k)
    tables.append(
        side_by_side(
            f"Search, {len(queries):,} queries, top {k:,}",
            {BARE: lambda: bare_search(bare), "ours": lambda: search(ours)},
            baseline=BARE,
            rounds=rounds,
        )
    )
    for table in tables:
        print(table.markdown(), end="\n\n")
    texts = [" ".join(tokens) for tokens in documents]
    start = time.perf_counter()
    tokenise = Tokeniser(TokeniserSettings())
    for text in texts:
        tokenise(text)
    seconds = time.perf_counter() - start
    print(f"Tokenising the same documents as text, apart: {seconds:.2f} s")
    if arguments.save:
        settings = vars(arguments) | {"tokenise_s": seconds}
        print(write_json("bm25", tables, packages=("bm25s", "numpy"), settings=settings))


def agree(bare: bm25s.BM25, ours: TokenIndex, queries: list[list[str]], k: int) -> None:
    """Check that both ways give the same scores, so that the comparison means something."""
    _, scores = bare.retrieve(queries, k=k, show_progress=False)
    for query, expected in zip(queries, scores, strict=True):
        got = ours.search(query, k).scores
        np.testing.assert_allclose(got, expected[: len(got)], rtol=1e-5)
        assert not expected[len(got) :].any()


if __name__ == "__main__":
    main()
