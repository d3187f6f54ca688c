"""Late interaction and the encoder contract, against references that are slow and plain."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import harness.encoder
from harness.documents import ListedDocuments
from harness.encoder import EncoderRetriever, Trainable
from harness.errors import PluginError, RankingError, StorageError
from harness.late_interaction import TokenEmbeddings, max_sim, maxsim
from harness.registry import make_retriever
from harness.types import NO_MODALITY, Document, Modality, Query, Ranking
from harness.workspace import Workspace

Item = dict[Modality, NDArray[Any]]


@st.composite
def collections(draw: st.DrawFn, modalities: Sequence[Modality]) -> tuple[list[Item], int]:
    """Items with 0 to 5 tokens for each of some modalities; values of either sign."""
    dim = draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shift = draw(st.sampled_from([0.0, 3.0, -3.0]))
    lengths = st.lists(
        st.dictionaries(st.sampled_from(modalities), st.integers(0, 5)), min_size=1, max_size=8
    )
    items = [
        {m: (rng.standard_normal((n, dim)) + shift).astype(np.float32) for m, n in item.items()}
        for item in draw(lengths)
    ]
    return items, dim


def reference(query: Item, document: Item) -> tuple[float, float, float]:
    """Token_max, modality_max and the size of their terms, by loops in float64."""
    tokens = [token.astype(np.float64) for m in sorted(query) for token in query[m]]
    segments = [vectors.astype(np.float64) for vectors in document.values() if len(vectors)]
    if not segments:
        return -np.inf, -np.inf, 1.0
    token_max = sum(max(float(t @ v) for s in segments for v in s) for t in tokens)
    modality_max = max(sum(max(float(t @ v) for v in s) for t in tokens) for s in segments)
    lengths = [float(np.linalg.norm(v)) for s in segments for v in s]
    return token_max, modality_max, sum(float(np.linalg.norm(t)) for t in tokens) * max(lengths)


@settings(max_examples=150, deadline=None)
@given(
    collections([Modality.TEXT, Modality.IMAGE]),
    collections(list(Modality)),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_scores_agree_with_loops_in_float64(
    query_side: tuple[list[Item], int],
    document_side: tuple[list[Item], int],
    query_tokens: int,
    document_tokens: int,
) -> None:
    (queries, dim), (documents, other) = query_side, document_side
    dim = min(dim, other)
    queries = [{m: v[:, :dim] for m, v in item.items()} for item in queries]
    documents = [{m: v[:, :dim] for m, v in item.items()} for item in documents]
    with pytest.MonkeyPatch.context() as patch:  # blocks so small that they end everywhere
        patch.setattr(maxsim, "QUERY_TOKENS", query_tokens)
        patch.setattr(maxsim, "DOCUMENT_TOKENS", document_tokens)
        found = max_sim(TokenEmbeddings.of(queries, dim), TokenEmbeddings.of(documents, dim))
    assert found.token_max.dtype == found.modality_max.dtype == np.float32
    for q, query in enumerate(queries):
        for d, document in enumerate(documents):
            token_max, modality_max, scale = reference(query, document)
            tolerance = 1e-5 * scale
            assert found.token_max[q, d] == pytest.approx(token_max, rel=1e-5, abs=tolerance)
            assert found.modality_max[q, d] == pytest.approx(modality_max, rel=1e-5, abs=tolerance)


def vectors(*rows: Sequence[float], dtype: Any = np.float32) -> NDArray[Any]:
    return np.asarray(rows, dtype)


def test_what_is_missing_never_wins_and_negative_scores_are_right() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: vectors([1, 0], [0, 1])}])
    documents = TokenEmbeddings.of(
        [
            {Modality.ASR: vectors([-1, -2])},
            {},
            {Modality.ASR: vectors([-3, -1], [-1, -3]), Modality.OCR: vectors([-2, -2])},
        ]
    )
    found = max_sim(query, documents)
    assert found.token_max.tolist() == [[-3.0, -np.inf, -2.0]]
    assert found.modality_max.tolist() == [[-3.0, -np.inf, -2.0]]


def test_the_two_aggregations_differ_where_modalities_complete_each_other() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: vectors([1, 0], [0, 1])}])
    document = {Modality.ASR: vectors([1, 0]), Modality.OCR: vectors([0, 1])}
    found = max_sim(query, TokenEmbeddings.of([document]))
    assert (found.token_max.item(), found.modality_max.item()) == (2.0, 1.0)


def test_tokens_of_no_modality_never_win() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: vectors([1, 0])}])
    asr = int(Modality.ASR)
    documents = TokenEmbeddings(
        vectors([9, 0], [-1, 0], [9, 0]),
        np.array([0, 2, 3]),
        np.array([NO_MODALITY, asr, NO_MODALITY], np.uint8),
        np.array([0, 1, 2, 3]),
    )
    assert max_sim(query, documents).token_max.tolist() == [[-1.0, -np.inf]]


def test_half_precision_is_summed_in_single() -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((64, 128)).astype(np.float16)
    document = rng.standard_normal((50, 128)).astype(np.float16)
    found = max_sim(
        TokenEmbeddings.of([{Modality.TEXT: query}]), TokenEmbeddings.of([{Modality.ASR: document}])
    )
    expected = (query.astype(np.float64) @ document.astype(np.float64).T).max(axis=1).sum()
    assert found.token_max.item() == pytest.approx(expected, rel=1e-5)


def test_dimensions_must_agree() -> None:
    one = TokenEmbeddings.of([{Modality.TEXT: np.ones((1, 2), np.float32)}])
    other = TokenEmbeddings.of([{Modality.TEXT: np.ones((1, 3), np.float32)}])
    with pytest.raises(PluginError, match="2 dimensions, document vectors 3"):
        max_sim(one, other)
    with pytest.raises(PluginError, match=r"dimensions differ between batches: \[2, 3\]"):
        TokenEmbeddings.concatenate([one, other])


def test_helper_groups_by_modality_and_keeps_halves() -> None:
    half = np.ones((2, 3), np.float16)
    made = TokenEmbeddings.of([{Modality.OCR: half, Modality.ASR: half[:1]}, {}])
    assert made.vectors.dtype == np.float16
    assert made.offsets.tolist() == [0, 3, 3]
    assert made.modalities.tolist() == [int(Modality.ASR), int(Modality.OCR)]
    assert made.segment_offsets.tolist() == [0, 1, 3]
    assert made.item_segments.tolist() == [0, 2, 2]
    mixed = TokenEmbeddings.of([{Modality.OCR: half, Modality.ASR: np.ones((1, 3))}])
    assert mixed.vectors.dtype == np.float32
    joined = TokenEmbeddings.concatenate([made, made])
    assert joined.offsets.tolist() == [0, 3, 3, 6, 6]
    assert joined.segment_offsets.tolist() == [0, 1, 3, 4, 6]
    assert len(TokenEmbeddings.of([{}, {}])) == 2


GOOD: dict[str, NDArray[Any]] = {
    "vectors": np.ones((3, 2), np.float32),
    "offsets": np.array([0, 2, 3]),
    "modalities": np.array([3, 4, 3], np.uint8),
    "segment_offsets": np.array([0, 1, 2, 3]),
}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vectors", np.ones((3, 2)), "float64 of shape"),
        ("vectors", np.ones((3, 2, 1), np.float32), "of shape"),
        ("vectors", np.array([[1, 1], [1, np.nan], [1, 1]], np.float32), r"vector 1 \(of item 0\)"),
        ("vectors", np.array([[1, 1], [1, 1], [-np.inf, 1]], np.float16), r"vector 2 \(of item 1"),
        ("offsets", np.array([0, 3, 2, 3]), "out of order"),
        ("offsets", np.array([1, 3]), "from 1 to 3"),
        ("offsets", np.array([0, 2]), "from 0 to 2 for 3 vectors"),
        ("offsets", np.array([0.0, 3.0]), "float64"),
        ("segment_offsets", np.array([0, 1, 1, 3]), "rise strictly"),
        ("segment_offsets", np.array([0, 1, 3]), "2 segments"),
        ("modalities", np.array([3, 3, 3], np.uint8), "item 0 has modality 3 twice"),
        ("modalities", np.array([3, 99, 3], np.uint8), "up to 99"),
        ("modalities", np.array([3, 4, 3]), "int64"),
    ],
)
def test_broken_embeddings_are_refused(field: str, value: NDArray[Any], says: str) -> None:
    TokenEmbeddings(**GOOD)
    with pytest.raises(PluginError, match=says):
        TokenEmbeddings(**GOOD | {field: value})


def test_an_item_ends_where_a_segment_ends() -> None:
    arrays = GOOD | {"segment_offsets": np.array([0, 3]), "modalities": np.array([3], np.uint8)}
    with pytest.raises(PluginError, match="item offset 2 lies inside a segment"):
        TokenEmbeddings(**arrays)


def test_helper_names_the_item_of_another_dimension() -> None:
    with pytest.raises(PluginError, match=r"item 1 has vectors of shape \(1, 3\) for ocr"):
        TokenEmbeddings.of([{Modality.ASR: np.ones((1, 2))}, {Modality.OCR: np.ones((1, 3))}])


PLUGIN = """\
import hashlib
import numpy as np
from harness.documents import ListedDocuments
from harness.encoder import Encoder
from harness.late_interaction import TokenEmbeddings
from harness.plugin import About
from harness.retriever import Capabilities
from harness.types import Modality

READS = frozenset({Modality.ASR, Modality.OCR})

def vectors(text):
    seeds = [int(hashlib.sha256(w.encode()).hexdigest()[:8], 16) for w in text.lower().split()]
    rows = [np.random.default_rng(seed).standard_normal(32) for seed in seeds]
    return np.array(rows or np.zeros((0, 32)), np.float32)

class Words(Encoder):
    about = About(title="A vector a word", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=READS)
    batch_size = 2

    def encode_queries(self, batch):
        return TokenEmbeddings.of([{Modality.TEXT: vectors(q.text)} for q in batch], 32)

    def encode_documents(self, batch):
        return TokenEmbeddings.of(
            [{m: vectors(d.texts[m]) for m in READS if m in d.texts} for d in batch], 32
        )
"""

WORDS = ["red", "green", "blue", "circle", "square", "star", "moon", "river", "stone", "cloud"]


def documents(number: int) -> ListedDocuments:
    rng = np.random.default_rng(7)
    made = [Document("empty")]
    for index in range(number):
        texts = {m: " ".join(rng.choice(WORDS, 4)) for m in (Modality.ASR, Modality.OCR)}
        if index % 3 == 0:
            del texts[Modality.OCR]
        made.append(Document(f"d{index:03d}", texts))
    return ListedDocuments(made)


QUERIES = [Query("q1", "red circle"), Query("q2", "stone river moon"), Query("q3", "")]


def plugin(folder: Path, source: str = PLUGIN) -> str:
    path = folder / "words.py"
    path.write_text(source)
    return f"{path}:Words"


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, {"test": 1})


def as_bytes(ranking: Ranking) -> dict[str, tuple[list[str], bytes]]:
    return {q: (list(row.documents), row.scores.tobytes()) for q, row in ranking.items()}


def test_an_encoder_of_thirty_lines_is_a_retriever(tmp_path: Path) -> None:
    assert len(PLUGIN.splitlines()) < 30
    retriever = make_retriever(plugin(tmp_path))
    assert isinstance(retriever, EncoderRetriever)
    assert retriever.name == "Words"
    assert retriever.about.title == "A vector a word"
    assert retriever.capabilities.modalities == {Modality.ASR, Modality.OCR}
    assert retriever.source_sha256 in str(retriever.identity())
    assert not isinstance(retriever.encoder, Trainable)
    retriever.index(documents(40), workspace(tmp_path / "w"))
    ranking = retriever.search(QUERIES, 10)
    assert set(ranking) == {"q1", "q2", "q3"}
    best = next(d for d in documents(40) if d.id == ranking["q1"].documents[0])
    words = " ".join(best.texts.values()).split()
    assert {"red", "circle"} <= set(words)
    assert [len(row) for row in ranking.values()] == [10, 10, 10]
    everything = retriever.search(QUERIES, 1000)
    assert all("empty" not in row.documents for row in everything.values())
    assert all(len(row) == 40 for row in everything.values())
    assert as_bytes(everything.top(10)) == as_bytes(ranking), "cut in canonical order, ties too"
    assert len(retriever.search([], 10)) == 0
    assert all(not len(row) for row in retriever.search(QUERIES, 0).values())


@pytest.mark.parametrize("k", [1, 3, 7, 39, 41])
def test_ties_at_the_cut_are_broken_by_document_id_across_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(harness.encoder, "SHARD_DOCUMENTS", 4)
    retriever = make_retriever(plugin(tmp_path))
    same = [Document(f"d{i * 17 % 40:02d}", {Modality.ASR: "red"}) for i in range(40)]
    retriever.index(ListedDocuments(same), workspace(tmp_path / "w"))
    ranked = retriever.search([Query("q", "red")], k)["q"]
    assert list(ranked.documents) == sorted((d.id for d in same), reverse=True)[:k]


def test_aggregation_is_the_encoders_choice_and_part_of_its_identity(tmp_path: Path) -> None:
    other = PLUGIN.replace("batch_size = 2", 'aggregation = "modality_max"')
    documents = [
        Document("split", {Modality.ASR: "red", Modality.OCR: "circle"}),
        Document("whole", {Modality.ASR: "red circle"}),
    ]
    scores = []
    for source in (PLUGIN, other):
        retriever = make_retriever(plugin(tmp_path, source))
        retriever.index(ListedDocuments(documents), workspace(tmp_path / retriever.fingerprint))
        ranked = retriever.search([Query("q", "red circle")], 2)["q"]
        scores.append(dict(zip(ranked.documents, ranked.scores.tolist(), strict=True)))
        assert retriever.identity()["aggregation"] in ("token_max", "modality_max")
    assert scores[0]["split"] == pytest.approx(scores[0]["whole"], rel=1e-6)
    assert scores[1]["split"] < scores[1]["whole"]


KILLED = """
import os, sys
import harness.encoder
from pathlib import Path
from harness.registry import make_retriever
sys.path.insert(0, {tests!r})
from test_encoder import documents, workspace
harness.encoder.SHARD_DOCUMENTS = 4
retriever = make_retriever({address!r})
encode = retriever.encoder.encode_documents
def killed(batch):
    if any(document.id == "d010" for document in batch):
        os.kill(os.getpid(), 9)
    return encode(batch)
killed.__qualname__ = "killed"
retriever.encoder.encode_documents = killed
retriever.index(documents(20), workspace(Path({folder!r})))
"""


def test_a_killed_index_goes_on_and_scores_are_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.encoder, "SHARD_DOCUMENTS", 4)
    address = plugin(tmp_path)
    whole = make_retriever(address)
    whole.index(documents(20), workspace(tmp_path / "whole"))

    script = KILLED.format(
        tests=str(Path(__file__).parent), address=address, folder=str(tmp_path / "killed")
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert done.returncode == -9
    shards = {p.name for p in (tmp_path / "killed").glob("shard-*")}
    assert shards == {"shard-00000", "shard-00001"}, "d010 is in the third shard"

    resumed = make_retriever(address)
    assert isinstance(resumed, EncoderRetriever)
    encoded: list[str] = []
    encode = resumed.encoder.encode_documents

    def watched(batch: Sequence[Document]) -> TokenEmbeddings:
        encoded.extend(document.id for document in batch)
        return encode(batch)

    monkeypatch.setattr(resumed.encoder, "encode_documents", watched)
    resumed.index(documents(20), workspace(tmp_path / "killed"))
    assert encoded == [document.id for document in documents(20)][8:]
    assert as_bytes(resumed.search(QUERIES, 100)) == as_bytes(whole.search(QUERIES, 100))


def test_shards_of_other_documents_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    retriever = make_retriever(plugin(tmp_path))
    retriever.index(documents(5), workspace(tmp_path / "w"))
    with pytest.raises(StorageError, match="embeddings of other documents: delete the folder"):
        retriever.index(documents(4), workspace(tmp_path / "w"))
    retriever.index(documents(5), workspace(tmp_path / "w"))
    file = tmp_path / "w" / "shard-00000" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match=r"shard-00000 is damaged .*: delete it"):
        retriever.search(QUERIES, 3)


@pytest.mark.parametrize(
    ("returned", "error", "says"),
    [
        ("TokenEmbeddings.of([{}], 32)", PluginError, "1 items for a batch of 2"),
        ("list(batch)", PluginError, "returned <class 'list'> for a batch of 2"),
        (
            "TokenEmbeddings.of([{Modality.ASR: 1e38 * vectors('red circle')} for _ in batch])",
            RankingError,
            "overflows float32",
        ),
        (
            "TokenEmbeddings.of([{Modality.ASR: np.ones((1, 3))} for _ in batch])",
            PluginError,
            "32 dimensions, document vectors 3",
        ),
    ],
)
def test_an_encoder_that_breaks_its_contract_is_named(
    tmp_path: Path, returned: str, error: type[Exception], says: str
) -> None:
    source = f"{PLUGIN}\n    def encode_documents(self, batch):\n        return {returned}\n"
    retriever = make_retriever(plugin(tmp_path, source))

    def work() -> None:
        retriever.index(documents(9), workspace(tmp_path / "w"))
        retriever.search(QUERIES, 3)

    with pytest.raises(error, match=says):
        work()
