"""Exact search: the running top k against a full sort, under any budget and number of threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.index.exact
import harness.index.filling
import harness.index.topk
from harness.errors import PluginError, RankingError
from harness.index import EmbeddingStore, Encoded, ExactIndex
from harness.index.topk import TopK, places
from harness.late_interaction import Precision, Scoring, TokenEmbeddings, max_sim
from harness.types import Modality, RankedList
from harness.workspace import Workspace

MIB = 2**20


def canonical(row: dict[str, float], k: int) -> list[tuple[str, float]]:
    """The definition: sort everything by score, then by id, both descending."""
    by_id = sorted(row.items(), reverse=True)
    return sorted(by_id, key=lambda pair: pair[1], reverse=True)[:k]


def pairs(ranked: RankedList) -> list[tuple[str, float]]:
    return list(zip(ranked.documents, ranked.scores.tolist(), strict=True))


SCORES = st.sampled_from(
    [-np.inf, -2.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1.0000001, 3e38]
) | st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_running_top_k_is_the_head_of_a_full_sort(data: st.DataObject) -> None:
    """With ties, signed zeros, subnormal numbers, any cuts and any order of blocks."""
    number = data.draw(st.integers(0, 40))
    ids = data.draw(
        st.lists(
            st.text("ab\u00e9\u4e00", max_size=4), min_size=number, max_size=number, unique=True
        )
    )
    k = data.draw(st.integers(0, 45))
    queries = data.draw(st.integers(1, 3))
    rows = [data.draw(st.lists(SCORES, min_size=number, max_size=number)) for _ in range(queries)]
    scores = np.asarray(rows, np.float32).reshape(queries, number)
    cuts = sorted({0, number, *data.draw(st.lists(st.integers(0, number), max_size=6))})
    blocks = data.draw(st.permutations(list(pairwise(cuts))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.index.topk, "ROOM", data.draw(st.integers(1, 20)))
        best = TopK(queries, k, ids, places(ids))
        for start, stop in blocks:
            best.add(scores[:, start:stop], start)
    for row, ranked in zip(scores, best.ranked(), strict=True):
        given_ = {i: float(s) for i, s in zip(ids, row, strict=True) if s > -np.inf}
        assert pairs(ranked) == canonical(given_, k)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused(bad: float) -> None:
    best = TopK(1, 1, ["a", "b"], places(["a", "b"]))
    with pytest.raises(RankingError, match="overflows float32"):
        best.add(np.array([[0.0, bad]], np.float32), 0)


# --- The index --------------------------------------------------------------------------------


def collection(documents: int, dim: int = 8, seed: int = 0) -> list[dict[Modality, Any]]:
    """Documents of 0 to 12 tokens in up to three modalities; every tenth is empty."""
    rng = np.random.default_rng(seed)
    kinds = (Modality.VIDEO, Modality.ASR, Modality.OCR)
    return [
        {m: rng.standard_normal((rng.integers(0, 5), dim)) for m in kinds} if i % 10 else {}
        for i in range(documents)
    ]


def identifier(number: int) -> str:
    return f"d{number * 7919 % 1000:03d}"


def filled(
    folder: Path, items: Sequence[dict[Modality, Any]], precision: Precision = Precision.FP16
) -> EmbeddingStore:
    def encode(batch: Sequence[int]) -> Encoded:
        made = TokenEmbeddings.of([items[i] for i in batch], 8)
        return Encoded(made.astype(precision))

    store = EmbeddingStore(Workspace(folder, {}))
    store.fill(
        range(len(items)),
        lambda i: f"d{i * 7919 % 1000:03d}",
        encode,
        batch_size=5,
        total=len(items),
    )
    return store


def asked(number: int, dim: int = 8) -> TokenEmbeddings:
    rng = np.random.default_rng(99)
    return TokenEmbeddings.of(
        [{Modality.TEXT: rng.standard_normal((i % 6, dim))} for i in range(number)], dim
    )


def bits(lists: Sequence[RankedList]) -> list[tuple[list[str], bytes]]:
    return [(list(one.documents), one.scores.tobytes()) for one in lists]


@pytest.mark.parametrize("aggregation", ["token_max", "modality_max"])
def test_the_index_ranks_as_scoring_everything_at_once_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aggregation: Any
) -> None:
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", 1000)
    items = collection(120)
    store = filled(tmp_path / "w", items)
    assert len(store.shards) > 3
    scoring = Scoring(aggregation)
    queries = asked(9)
    everything = TokenEmbeddings.of(items, 8).astype(Precision.FP16)
    scores = max_sim(queries, everything, scoring).total
    for k in (1, 10, 107, 500):
        lists = ExactIndex(store, scoring, memory=64 * MIB).search(queries, k)
        for row, ranked in zip(scores, lists, strict=True):
            known = {i: float(s) for i, s in zip(store.ids, row, strict=True) if s > -np.inf}
            assert pairs(ranked) == canonical(known, k)
    listed = {d for ranked in lists for d in ranked.documents}
    empty = {identifier(i) for i in range(120) if not sum(map(len, items[i].values()))}
    assert len(empty) >= 12
    assert listed == set(store.ids) - empty


def test_scores_are_the_same_bits_for_any_budget_threads_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, queries = collection(150), asked(12)
    found = []
    for name, size in (("one", 2**30), ("many", 600)):
        monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", size)
        store = filled(tmp_path / name, items)
        for memory, threads, fewest in ((256 * MIB, 1, 512), (4 * MIB, 2, 512), (2000, 3, 1)):
            monkeypatch.setattr(harness.index.exact, "FEWEST_TOKENS", fewest)
            index = ExactIndex(store, Scoring(), memory=memory, threads=threads)
            found.append(bits(index.search(queries, 20)))
            assert bits([index.search(queries[i : i + 1], 20)[0] for i in range(12)]) == found[0]
    assert all(other == found[0] for other in found)


def test_blocks_keep_to_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is scored at once shrinks with the budget, in tokens and in queries."""
    store = filled(tmp_path / "w", [i for i in collection(400) if i])
    seen: list[tuple[int, int]] = []
    plain = harness.index.exact.max_sim
    guard = threading.Lock()

    def watched(
        queries: TokenEmbeddings, documents: TokenEmbeddings, *rest: Any, **more: Any
    ) -> Any:
        with guard:
            seen.append((len(queries.vectors), len(documents.vectors)))
        return plain(queries, documents, *rest, **more)

    monkeypatch.setattr(harness.index.exact, "max_sim", watched)
    monkeypatch.setattr(harness.index.topk, "ROOM", 1)
    monkeypatch.setattr(harness.index.exact, "FEWEST_TOKENS", 1)
    sizes = []
    for memory in (64 * MIB, 100_000, 20_000):
        seen.clear()
        ExactIndex(store, Scoring(), memory=memory, threads=2).search(asked(64), 10)
        sizes.append((max(q for q, _ in seen), max(d for _, d in seen)))
    assert sizes[0][0] > sizes[1][0] > sizes[2][0]
    assert sizes[0][1] > sizes[1][1] > sizes[2][1]


def test_other_dimensions_than_the_stores_are_refused(tmp_path: Path) -> None:
    store = filled(tmp_path / "w", collection(20))
    index = ExactIndex(store, Scoring(), memory=MIB)
    with pytest.raises(PluginError, match="query vectors have 3 dimensions, document vectors 8"):
        index.search(asked(4, dim=3), 5)


def test_queries_without_tokens_and_collections_without_documents(tmp_path: Path) -> None:
    store = filled(tmp_path / "w", collection(20))
    nothing = TokenEmbeddings.of([{}, {}], 8)
    lists = ExactIndex(store, Scoring(), memory=MIB).search(nothing, 30)
    assert [set(one.scores.tolist()) for one in lists] == [{0.0}, {0.0}]
    assert list(lists[0].documents) == sorted(lists[0].documents, reverse=True)
    none = filled(tmp_path / "none", [])
    lists = ExactIndex(none, Scoring(), memory=MIB).search(asked(3), 5)
    assert [len(one) for one in lists] == [0, 0, 0]
    assert ExactIndex(store, Scoring(), memory=MIB).search(asked(0), 5) == []
    assert [len(one) for one in ExactIndex(store, Scoring(), memory=MIB).search(asked(2), 0)] == [
        0,
        0,
    ]
