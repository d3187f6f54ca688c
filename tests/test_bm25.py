from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retrievers.bm25 as bm25_module
from harness.errors import DataError, PluginError, UsageError
from harness.registry import make_retriever
from harness.retriever import Retriever
from harness.types import Document, Modality, Query, RankedList, Ranking
from harness.workspace import Workspace
from retrievers.bm25 import BM25Settings, Method, TokenIndex

METHODS: tuple[Method, ...] = ("lucene", "robertson", "atire", "bm25l", "bm25+")
CORPUS = {
    "en": "Thousands of protesters marched in Hong Kong",
    "ru": "После землетрясений в Турции обрушились здания",
    "ar": "ضرب زلزال قوي البلاد",
    "zh": "土耳其南部发生强烈地震",
    "ko": "강한 지진이 발생했다",
}


def documents_of(texts: dict[str, str], modality: Modality = Modality.ASR) -> list[Document]:
    return [Document(name, {modality: text} if text else {}) for name, text in texts.items()]


def workspace_at(path: Path) -> Workspace:
    return Workspace(path / "workspace", {"test": True})


def found(retriever: Retriever, text: str, k: int = 10) -> list[str]:
    return list(retriever.search([Query("q", text)], k)["q"].documents)


def build(corpus: dict[str, list[str]], method: Method = "lucene", **formula: float) -> TokenIndex:
    return TokenIndex.build(corpus.items(), method=method, **({"k1": 1.2, "b": 0.75} | formula))


# --- against a float64 reference, term by term ------------------------------------------------


def reference(
    corpus: dict[str, list[str]], query: list[str], method: Method, k1: float, b: float
) -> dict[str, float]:
    """What the query's terms add to each document (Kamphuis et al., ECIR 2020, table 1)."""
    n, delta = len(corpus), 0.5
    average = sum(map(len, corpus.values())) / n
    frequency = Counter(term for tokens in corpus.values() for term in set(tokens))
    added = {}
    for document, tokens in corpus.items():
        total = 0.0
        for term in query:
            df, tf = frequency[term], tokens.count(term)
            if tf == 0:
                continue
            length = 1 - b + b * len(tokens) / average
            saturated = tf / (tf + k1 * length)
            if method == "lucene":
                total += math.log(1 + (n - df + 0.5) / (df + 0.5)) * saturated
            elif method == "robertson":
                total += max(0.0, math.log((n - df + 0.5) / (df + 0.5))) * saturated
            elif method == "atire":
                total += math.log(n / df) * saturated * (k1 + 1)
            elif method == "bm25l":
                c = tf / length + delta
                without = (k1 + 1) * delta / (k1 + delta)
                total += math.log((n + 1) / (df + 0.5)) * ((k1 + 1) * c / (k1 + c) - without)
            else:
                total += math.log((n + 1) / df) * (k1 + 1) * saturated
        added[document] = total
    return added


def shared(corpus: dict[str, list[str]], query: list[str], method: Method, k1: float) -> float:
    """What BM25L and BM25+ add to every document for the terms of the query."""
    n, delta = len(corpus), 0.5
    frequency = Counter(term for tokens in corpus.values() for term in set(tokens))
    known = [frequency[term] for term in query if frequency[term]]
    if method == "bm25l":
        weight = (k1 + 1) * delta / (k1 + delta)
        return sum(math.log((n + 1) / (df + 0.5)) * weight for df in known)
    return sum(math.log((n + 1) / df) * delta for df in known) if method == "bm25+" else 0.0


# Few terms and short documents: most scores tie.
TOKENS = st.lists(st.sampled_from("abcde"), max_size=6)
CORPORA = st.dictionaries(
    st.one_of(st.text("abÄ北-9", min_size=1, max_size=3), st.uuids().map(str)),
    TOKENS,
    min_size=1,
    max_size=14,
)


@settings(deadline=None)
@given(
    CORPORA,
    st.lists(st.sampled_from("abcdez"), max_size=5),
    st.sampled_from(METHODS),
    st.sampled_from([1e-6, 0.9, 1.2, 3.0]),
    st.sampled_from([0.0, 0.4, 0.75, 1.0]),
)
def test_scores_are_those_of_the_formula_and_every_cut_is_canonical(
    corpus: dict[str, list[str]], query: list[str], method: Method, k1: float, b: float
) -> None:
    index = build(corpus, method, k1=k1, b=b)
    every = index.search(query, len(corpus) + 3)
    expected = reference(corpus, query, method, k1, b) if any(corpus.values()) else {}
    assert set(every.documents) == {d for d, score in expected.items() if score > 1e-9}
    base = shared(corpus, query, method, k1)
    np.testing.assert_allclose(
        every.scores, [expected[d] + base for d in every.documents], rtol=2e-6, atol=1e-6
    )
    canonical = Ranking({"q": every})["q"]
    for k in range(1, len(corpus) + 2):
        head = index.search(query, k)
        assert list(head.documents) == list(canonical.documents)[:k]
        assert head.scores.tolist() == canonical.scores.tolist()[:k]


@settings(deadline=None)
@given(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=40), st.data())
def test_documents_of_the_same_terms_tie_and_the_highest_ids_are_kept(
    ids: set[str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(sorted(ids)))
    corpus = {d: data.draw(st.permutations(["a", "b", "b", "c"])) for d in shuffled} | {"": ["z"]}
    k = data.draw(st.integers(1, len(ids)))
    ranked = build(corpus).search(["b", "c"], k)
    assert list(ranked.documents) == sorted(ids, reverse=True)[:k]
    assert len(set(ranked.scores.tolist())) == 1


def test_ties_across_the_cut_in_a_large_collection() -> None:
    rng = np.random.default_rng(3)
    ids = [f"d{i}" for i in rng.permutation(5_000)]
    corpus = {d: ["x"] * int(n) + ["y"] * 4 for d, n in zip(ids, rng.integers(0, 4, len(ids)))}
    index = build(corpus)
    every = Ranking({"q": index.search(["x", "y"], len(ids))})["q"]
    assert len(every) == len(ids)
    assert len(set(every.scores.tolist())) == 4
    for k in (1, 10, 1_249, 1_250, 2_500, 4_999, 5_000):
        assert list(index.search(["x", "y"], k).documents) == list(every.documents)[:k]


def test_a_repeated_query_term_counts_each_time() -> None:
    index = build({"d": ["a", "b"], "e": ["b"], "f": ["c"]})
    once, twice = index.search(["a"], 1).scores, index.search(["a", "a"], 1).scores
    assert twice.tolist() == pytest.approx((2 * once).tolist())


# --- nothing to find ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "corpus", [{}, {"d": []}, {"d": [], "e": []}], ids=["none", "one empty", "all empty"]
)
def test_collections_without_terms(corpus: dict[str, list[str]], tmp_path: Path) -> None:
    index = build(corpus)
    index.save(tmp_path)
    for one in (index, TokenIndex.load(tmp_path)):
        assert one is not None
        assert len(one.search(["a"], 5)) == 0
        assert one.documents == list(corpus)


def test_empty_documents_and_queries_are_legal(tmp_path: Path) -> None:
    retriever = make_retriever("bm25-asr")
    retriever.index(
        documents_of({**CORPUS, "empty": "", "symbols": "!? 🔥"}), workspace_at(tmp_path)
    )
    queries = [Query("none", ""), Query("symbols", "🔥 !?"), Query("unknown", "xyzzy")]
    ranking = retriever.search([*queries, Query("known", "protest")], 5)
    assert [list(ranking[query.id].documents) for query in queries] == [[], [], []]
    assert list(ranking["known"].documents) == ["en"]


def test_k_larger_than_the_collection(tmp_path: Path) -> None:
    retriever = make_retriever("bm25-asr")
    retriever.index(documents_of(CORPUS), workspace_at(tmp_path))
    assert set(found(retriever, "地震 지진 protests", 1_000)) == {"zh", "ko", "en"}


# --- the retrievers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("protest", "en"),
        ("ЗЕМЛЕТРЯСЕНИЕ", "ru"),
        ("الزلزال", "ar"),
        ("地震", "zh"),
        ("지진", "ko"),
    ],
)
def test_each_language_finds_its_document(query: str, document: str, tmp_path: Path) -> None:
    retriever = make_retriever("bm25-description")
    retriever.index(documents_of(CORPUS, Modality.DESCRIPTION), workspace_at(tmp_path))
    assert found(retriever, query) == [document]


def test_each_retriever_reads_its_modality(tmp_path: Path) -> None:
    document = Document(
        "d",
        {
            Modality.ASR: "spoken 北",
            Modality.OCR: "京 drawn",
            Modality.DESCRIPTION: "described",
            Modality.TEXT: "passage",
        },
        title="title",
    )
    words = ["spoken", "drawn", "described", "passage", "title", "北京"]
    reads = {
        "bm25-asr": ["spoken"],
        "bm25-ocr": ["drawn"],
        "bm25-description": ["described"],
        "bm25-text": ["spoken", "drawn", "described", "passage"],
    }
    for name, expected in reads.items():
        retriever = make_retriever(name)
        assert not retriever.capabilities.explains
        assert all(modality.is_text for modality in retriever.capabilities.modalities)
        retriever.index([document], workspace_at(tmp_path / name))
        assert [word for word in words if found(retriever, word)] == expected


def test_every_setting_enters_the_fingerprint() -> None:
    changes: dict[str, Any] = {
        "k1": 0.9,
        "b": 0.4,
        "method": "bm25+",
        "normalise": False,
        "stemmers": {"latin": "spanish"},
        "unspaced": "characters",
        "hangul": "words",
        "stopwords": ["the"],
    }
    assert set(changes) == set(BM25Settings.model_fields)
    prints = [
        make_retriever("bm25-asr", {key: value}).fingerprint for key, value in changes.items()
    ]
    prints += [make_retriever(name).fingerprint for name in ("bm25-asr", "bm25-text")]
    assert len(set(prints)) == len(prints)
    assert make_retriever("bm25-asr").identity()["version"] == "1"
    assert all(info.description for info in BM25Settings.model_fields.values())


@pytest.mark.parametrize(
    "values",
    [{"k1": 0}, {"k1": math.inf}, {"b": math.nan}, {"b": 1.5}, {"method": "bm26"}, {"k2": 1}],
)
def test_wrong_settings_are_usage_errors(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        make_retriever("bm25-asr", values)


def test_settings_reach_the_scores(tmp_path: Path) -> None:
    texts = {"short": "storm", "long": "storm storm " + "other " * 20}
    order = {}
    for b in (0.0, 1.0):
        retriever = make_retriever("bm25-asr", {"b": b})
        retriever.index(documents_of(texts), workspace_at(tmp_path / str(b)))
        order[b] = found(retriever, "storms")
    assert order == {0.0: ["long", "short"], 1.0: ["short", "long"]}


def test_search_before_index_says_so() -> None:
    with pytest.raises(PluginError, match="index first"):
        make_retriever("bm25-asr").search([Query("q", "x")], 5)


# --- the workspace ------------------------------------------------------------------------------


class Collection(list[Document]):
    """Counts how often it is read; fails after `stop` documents."""

    def __init__(self, documents: list[Document], stop: int | None = None) -> None:
        super().__init__(documents)
        self.reads, self.stop = 0, stop

    def __iter__(self) -> Iterator[Document]:
        self.reads += 1
        for position, document in enumerate(super().__iter__()):
            if position == self.stop:
                raise KeyboardInterrupt
            yield document


def test_a_complete_index_is_used_again_and_a_killed_one_is_not(tmp_path: Path) -> None:
    workspace = workspace_at(tmp_path)
    killed = Collection(documents_of(CORPUS), stop=3)
    with pytest.raises(KeyboardInterrupt):
        make_retriever("bm25-asr").index(killed, workspace)
    assert not workspace.has("bm25")

    first, again = make_retriever("bm25-asr"), make_retriever("bm25-asr")
    collection = Collection(documents_of(CORPUS))
    first.index(collection, workspace)
    files = {path.name: path.read_bytes() for path in (workspace.path / "bm25").iterdir()}
    again.index(collection, workspace)
    assert collection.reads == 1
    assert files == {path.name: path.read_bytes() for path in (workspace.path / "bm25").iterdir()}
    queries = [Query(name, text) for name, text in CORPUS.items()]
    assert lists(first.search(queries, 3)) == lists(again.search(queries, 3))
    assert not any(b"pickle" in content for content in files.values())


def lists(ranking: Ranking) -> dict[str, tuple[list[str], list[float]]]:
    return {q: (list(ranked.documents), ranked.scores.tolist()) for q, ranked in ranking.items()}


def test_the_same_collection_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        workspace = workspace_at(tmp_path / name)
        make_retriever("bm25-asr").index(documents_of(CORPUS), workspace)
        made.append({p.name: p.read_bytes() for p in (workspace.path / "bm25").iterdir()})
    assert made[0] == made[1]


def test_an_index_of_other_library_versions_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, collection = workspace_at(tmp_path), Collection(documents_of(CORPUS))
    make_retriever("bm25-asr").index(collection, workspace)
    newer = {**bm25_module._made_with(), "PyStemmer": "99.0"}
    monkeypatch.setattr(bm25_module, "_made_with", lambda: newer)
    retriever = make_retriever("bm25-asr")
    retriever.index(collection, workspace)
    assert collection.reads == 2
    assert (
        json.loads((workspace.path / "bm25" / "collection.json").read_text())["made_with"] == newer
    )
    assert found(retriever, "protests") == ["en"]


@pytest.mark.parametrize(
    "name", ["collection.json", "params.index.json", "vocab.index.json", "data.csc.index.npy"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_index_is_named(name: str, damage: str, tmp_path: Path) -> None:
    workspace = workspace_at(tmp_path)
    make_retriever("bm25-asr").index(documents_of(CORPUS), workspace)
    path = workspace.path / "bm25" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"bm25 is damaged .* remove that folder"):
        make_retriever("bm25-asr").index(documents_of(CORPUS), workspace)


def test_numba_and_scipy_change_nothing_and_nothing_is_printed(tmp_path: Path) -> None:
    """bm25s uses both where it finds them; and it must import with warnings as errors."""
    program = """
import json, sys
for name in sys.argv[2:]:
    sys.modules[name] = None
from pathlib import Path
from retrievers.bm25 import TokenIndex
corpus = [(f"d{i}", [f"w{i % j}" for j in range(1, 12)]) for i in range(300)]
TokenIndex.build(corpus, k1=1.2, b=0.75, method="lucene").save(Path(sys.argv[1]))
index = TokenIndex.load(Path(sys.argv[1]))
ranked = index.search(["w0", "w3", "w7"], 50)
print(json.dumps([ranked.documents, [score.hex() for score in ranked.scores.tolist()]]))
"""
    outputs = []
    for blocked in ([], ["numba", "scipy", "jax", "tqdm"]):
        folder = tmp_path / f"without-{len(blocked)}"
        folder.mkdir()
        outcome = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(folder), *blocked],
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome.stderr == ""
        outputs.append(json.loads(outcome.stdout))
    assert outputs[0] == outputs[1]
    assert len(outputs[0][0]) == 50


def test_ranked_lists_are_canonical_already() -> None:
    ranked = build({"b": ["x"], "c": ["x"], "a": ["x"]}).search(["x"], 2)
    assert isinstance(ranked, RankedList)
    assert ranked.documents == ["c", "b"]
    assert ranked.scores.dtype == np.float64
