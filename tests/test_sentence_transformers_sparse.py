"""Sparse models: the library's own scores, nothing densified, killed and damaged indexes."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

from harness.documents import ListedDocuments
from harness.errors import PluginError, StorageError, UsageError
from harness.index.shards import TENSORS_NAME
from harness.progress import Progress
from harness.registry import make_retriever
from harness.types import Document, Modality, Query
from harness.workspace import Workspace
from retrievers.st import postings
from retrievers.st.postings import Postings, Row, Sparse
from retrievers.st.sparse import SparseTransformers
from retrievers.st.tiny import tiny_dense, tiny_sparse
from tests.test_sentence_transformers import QUERIES, TEXTS, best, documents, queries, save

ADDRESS = f"{Path(__file__).parents[1]}/retrievers/st/sparse.py:SparseTransformers"


def retriever(weights: Path | str, **values: Any) -> SparseTransformers:
    made = make_retriever(f"{ADDRESS}/{weights}", {"device": "cpu", **values})
    assert type(made).__name__ == "SparseTransformers"
    return made  # type: ignore[return-value]


def ranked(mine: SparseTransformers, folder: Path, k: int = 100) -> list[dict[str, float]]:
    mine.index(ListedDocuments(documents()), Workspace(folder, mine.index_identity()))
    ranking = mine.search(queries(), k)
    return [
        dict(zip(found.documents, found.scores.tolist(), strict=True))
        for found in (ranking[query.id] for query in queries())
    ]


@pytest.mark.filterwarnings("ignore:Sparse")  # torch's, of the library's own similarity
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_sparse_model_scores_as_the_library_does(tmp_path: Path, similarity: Any) -> None:
    made = tiny_sparse(3)
    made.prompts = {"query": "find: ", "document": "text: "}
    made.similarity_fn_name = similarity
    folder = save(made, tmp_path / "model")
    library = SparseEncoder(str(folder), device="cpu")
    scores = library.similarity(
        library.encode_query(list(QUERIES)), library.encode_document(list(TEXTS))
    ).to_dense()
    mine = retriever(folder)
    for found, expected in zip(
        ranked(mine, tmp_path / "index"), best(scores.numpy(), TEXTS), strict=True
    ):
        shared = {document: score for document, score in expected.items() if score}
        assert found == pytest.approx(shared, rel=1e-5, abs=1e-5)
    assert mine.losses == {"asr cut": 1}
    assert not mine.untrained


@pytest.mark.filterwarnings("ignore:Sparse")
def test_queries_and_documents_may_have_models_of_their_own(tmp_path: Path) -> None:
    """A query's words are looked up and a document's are expanded, as OpenSearch's models do."""
    whole = tiny_sparse(3)
    router = Router.for_query_document(
        [SparseStaticEmbedding(tokenizer=whole.tokenizer)], [whole[0], whole[1]]
    )
    made = SparseEncoder(modules=[router], device="cpu", similarity_fn_name="dot")
    folder = save(made, tmp_path / "model")
    library = SparseEncoder(str(folder), device="cpu")
    scores = library.similarity(
        library.encode_query(list(QUERIES)), library.encode_document(list(TEXTS))
    )
    mine = retriever(folder)
    for found, expected in zip(
        ranked(mine, tmp_path / "index"), best(scores.numpy(), TEXTS), strict=True
    ):
        shared = {document: score for document, score in expected.items() if score}
        assert found == pytest.approx(shared, rel=1e-5)
    assert mine.losses == {"asr cut": 1}


def test_a_masked_language_model_is_one_of_splade(tmp_path: Path) -> None:
    made = tiny_sparse(3)
    made[0].model.save_pretrained(tmp_path / "bare")
    made.tokenizer.save_pretrained(tmp_path / "bare")
    found = retriever(tmp_path / "bare", max_active_dims=32)
    expected = made.encode_query([QUERIES[0]]).to_dense().numpy()[0]
    (dimensions, values) = found._model.encode([QUERIES[0]], "query")[0]
    np.testing.assert_allclose(values, expected[dimensions], rtol=1e-5)
    assert len(dimensions) == np.count_nonzero(expected) <= 32


def test_dense_models_are_sent_to_their_retriever(tmp_path: Path) -> None:
    folder = save(tiny_dense(3), tmp_path / "model")
    with pytest.raises(UsageError, match=r"dense model: use sentence-transformers/"):
        retriever(folder).identity()
    tiny_dense(3)[0].model.save_pretrained(tmp_path / "bare")
    with pytest.raises(PluginError, match=r"drawn at random"):
        ranked(retriever(tmp_path / "bare"), tmp_path / "index")


def test_modalities_are_masked_at_search(tmp_path: Path) -> None:
    mine = retriever("tiny")
    assert mine.masks
    assert mine.untrained
    ranked(mine, tmp_path / "index")
    mine.modalities = frozenset({Modality.OCR})
    found = mine.search(queries(), 100)
    listed = {document for ranking in found.values() for document in ranking.documents}
    assert "both" in listed
    assert not listed & {f"d{n}" for n in range(0, len(TEXTS), 2)}
    only = retriever("tiny", encode_modalities=["ocr"])
    ranked(only, tmp_path / "only")
    again = only.search(queries(), 100)
    for query in found:
        assert list(again[query].documents) == list(found[query].documents)
        np.testing.assert_array_equal(again[query].scores, found[query].scores)


DIM = 50


def sparse(pairs: dict[int, float]) -> Sparse:
    return (
        np.asarray(sorted(pairs), np.int32),
        np.asarray([pairs[d] for d in sorted(pairs)], np.float32),
    )


vectors = st.dictionaries(st.integers(0, DIM - 1), st.floats(0.25, 4, width=16), max_size=6)
rows = st.dictionaries(st.sampled_from([Modality.ASR, Modality.OCR, Modality.TEXT]), vectors)


def filled(folder: Path, made: Sequence[Row], batch: int = 2, **options: Any) -> Postings:
    found = Postings(Workspace(folder, {}), DIM)
    items = [Document(f"d{n:03d}") for n in range(len(made))]
    by_id = dict(zip((item.id for item in items), made, strict=True))

    def encode(documents: Sequence[Document]) -> tuple[list[Row], Counter[str]]:
        return [by_id[each.id] for each in documents], Counter({"asr cut": len(documents)})

    found.fill(
        items, options.get("encode", encode), batch_size=batch, total=len(items),
        progress=Progress(),
    )  # fmt: skip
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(rows, max_size=9),
    st.lists(vectors, min_size=1, max_size=4),
    st.sampled_from([None, frozenset({Modality.ASR}), frozenset({Modality.OCR, Modality.TEXT})]),
    st.sampled_from([1, 10**4, 2**30]),
    st.integers(1, 5),
)
def test_scores_are_those_of_dense_loops(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[dict[Modality, dict[int, float]]],
    asked: list[dict[int, float]],
    mask: frozenset[Modality] | None,
    memory: int,
    k: int,
) -> None:
    stored = [{m: sparse(v) for m, v in row.items()} for row in made]
    index = filled(tmp_path_factory.mktemp("index"), stored)
    found = index.search([sparse(q) for q in asked], k, modalities=mask, memory=memory)
    for query, ranking in zip(asked, found, strict=True):
        scores = {}
        for number, row in enumerate(made):
            each = [
                sum(np.float64(v) * query[d] for d, v in vector.items() if d in query)
                for modality, vector in row.items()
                if (mask is None or modality in mask) and vector.keys() & query.keys()
            ]
            if each:
                scores[f"d{number:03d}"] = max(each)
        best = sorted(scores, key=lambda d: (scores[d], d), reverse=True)[:k]
        told = dict(zip(ranking.documents, ranking.scores.tolist(), strict=True))
        assert told == pytest.approx({d: scores[d] for d in best}, rel=1e-6)


def some(number: int) -> list[Row]:
    draw = np.random.default_rng(7)
    return [
        {Modality.ASR: sparse({int(d): 1.5 for d in draw.integers(0, DIM, 8)})}
        for _ in range(number)
    ]


def test_a_killed_index_goes_on_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postings, "SHARD_BYTES", 1)
    made = some(11)
    query = [sparse(dict.fromkeys(range(DIM), 0.7))]
    whole = filled(tmp_path / "whole", made)
    assert len(whole.shards) == 6
    expected = whole.search(query, 11, modalities=None, memory=2**20)[0]
    encoded: list[str] = []

    def encode(documents: Sequence[Document]) -> tuple[list[Row], Counter[str]]:
        encoded.extend(document.id for document in documents)
        if len(encoded) == 6:
            raise KeyboardInterrupt
        return [made[int(each.id[1:])] for each in documents], Counter()

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "killed", made, encode=encode)
    encoded.append("after the kill")
    # A shard that is damaged is encoded anew, and the others are not.
    first = min((tmp_path / "killed").glob("shard-*"))
    (first / TENSORS_NAME).write_bytes(b"x" * 99)
    again = filled(tmp_path / "killed", made, encode=encode)
    assert encoded[7:] == ["d000", "d001", *(f"d{n:03d}" for n in range(4, 11))]
    found = again.search(query, 11, modalities=None, memory=2**20)[0]
    assert list(found.documents) == list(expected.documents)
    assert found.scores.tobytes() == expected.scores.tobytes()
    third = filled(tmp_path / "killed", made, encode=lambda documents: pytest.fail("encoded"))
    assert third.losses == again.losses


def test_nothing_is_made_dense(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    documents = [Document(f"d{n}") for n in range(400)]
    index = Postings(Workspace(tmp_path / "index", {}), 10**6)

    def encode(batch: Sequence[Document]) -> tuple[list[Row], Counter[str]]:
        found = [sparse(dict.fromkeys(draw.integers(0, 10**6, 50).tolist(), 1.0)) for _ in batch]
        return [{Modality.ASR: each} for each in found], Counter()

    tracemalloc.start()
    index.fill(documents, encode, batch_size=16, total=400, progress=Progress())
    query = sparse(dict.fromkeys(range(0, 10**6, 100), 1.0))
    found = index.search([query] * 20, 5, modalities=None, memory=2**24)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20  # dense, the documents alone are 1.6 GB
    assert len(found) == 20


def test_another_collection_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "index", some(4))
    index = Postings(Workspace(tmp_path / "index", {}), DIM)
    with pytest.raises(StorageError, match="other documents"):
        index.fill(
            [Document("x")] * 4, lambda batch: pytest.fail("encoded"),
            batch_size=2, total=4, progress=Progress(),
        )  # fmt: skip


def test_losses_are_kept_with_the_index(tmp_path: Path) -> None:
    assert filled(tmp_path / "index", some(5)).losses == {"asr cut": 5}
    assert filled(tmp_path / "index", some(5)).losses == {"asr cut": 5}


def test_vectors_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="NaN or infinite"):
        filled(tmp_path / "a", [{Modality.ASR: sparse({3: float("nan")})}])
    with pytest.raises(PluginError, match="dimension 50, of 50"):
        filled(tmp_path / "b", [{Modality.ASR: sparse({DIM: 1.0})}])


def test_a_search_before_an_index() -> None:
    with pytest.raises(PluginError, match="before index"):
        retriever("tiny").search([Query("q", "a")], 3)
