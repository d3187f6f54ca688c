"""MaxSim against loops in float64, and against the numbers of the CLaMR reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import PluginError, UsageError
from harness.late_interaction import Precision, Scoring, TokenEmbeddings, max_sim, tiled, winners
from harness.types import NO_MODALITY, Modality
from tests.late_interaction_cases import (
    PRECISIONS,
    as_bits,
    collections,
    corpus,
    embed,
    item,
    reference,
    scorings,
    unit,
)

NUMBERS = [NO_MODALITY, *map(int, Modality)]
PARITY = Path(__file__).parent / "fixtures" / "clamr_vl_scores.npz"


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 7), scorings, st.sampled_from(PRECISIONS))
def test_scores_agree_with_loops_in_float64(
    data: st.DataObject, dim: int, scoring: Scoring, precision: Precision
) -> None:
    made = data.draw(collections(NUMBERS, dim))
    asked = data.draw(collections([int(Modality.TEXT), int(Modality.IMAGE)], dim))
    queries = embed(asked, dim, data.draw(st.sampled_from([precision, Precision.FP32])))
    documents = embed(made, dim, precision)
    found = max_sim(queries, documents, scoring, by_modality=True)
    assert found.by_modality is not None
    assert found.total.dtype == found.by_modality.dtype == np.float32
    for q in range(len(queries)):
        for d in range(len(documents)):
            total, by_modality, scale = reference(item(queries, q), item(documents, d), scoring)
            close = {"rel": 1e-5, "abs": 1e-5 * scale}
            assert found.total[q, d] == pytest.approx(total, **close)
            for number in NUMBERS:
                expected = by_modality.get(number, -np.inf)
                assert found.by_modality[q, d, number] == pytest.approx(expected, **close)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 7), scorings, st.sampled_from(PRECISIONS))
def test_winners_are_the_exact_parts_of_the_score(
    data: st.DataObject, dim: int, scoring: Scoring, precision: Precision
) -> None:
    queries = embed(data.draw(collections([int(Modality.TEXT)], dim)), dim, precision)
    documents = embed(data.draw(collections(NUMBERS, dim)), dim, precision)
    scores = max_sim(queries, documents, scoring).total
    weights = {int(m): w for m, w in (scoring.weights or {}).items()}
    for q in range(len(queries)):
        for d in range(len(documents)):
            query, document = queries[q : q + 1], documents[d : d + 1]
            won = winners(query, document, scoring)
            assert won.score == scores[q, d]
            if len(won.tokens) and won.score > -np.inf:
                # Each part is divided by itself: a sum at the border of two float32 may go over it.
                assert abs(won.score - won.parts.sum()) <= np.spacing(np.float32(abs(won.score)))
            wide = document.widen(0, len(document.vectors)).astype(np.float64)
            asked = query.widen(0, len(query.vectors)).astype(np.float64)
            for vector, token, number, similarity in zip(
                asked, won.tokens, won.modalities, won.similarities, strict=True
            ):
                if token < 0:
                    assert number == NO_MODALITY
                    assert similarity == (0 if won.score > -np.inf else -np.inf)
                    continue
                segment = np.searchsorted(document.segment_offsets, token, side="right") - 1
                assert document.modalities[segment] == number
                expected = weights.get(int(number), 1.0) * (vector @ wide[token])
                assert similarity == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_of_tokens_that_tie_the_first_wins_and_subsets_keep_their_numbers() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: np.eye(2, dtype=np.float32)}])
    document = TokenEmbeddings.of(
        [
            {
                Modality.VIDEO: np.array([[5, 5]], np.float32),
                Modality.ASR: np.array([[1, 0], [1, 0], [0, 2]], np.float32),
            }
        ]
    )
    won = winners(query, document, Scoring(modalities=frozenset({Modality.ASR}), normalise=True))
    assert won.tokens.tolist() == [1, 3]
    assert won.modalities.tolist() == [int(Modality.ASR)] * 2
    assert won.similarities.tolist() == [1, 2]
    assert won.parts.tolist() == [0.5, 1]
    assert won.score == 1.5


def test_padding_wins_where_everything_is_negative() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: np.array([[1], [-1]], np.float32)}])
    document = TokenEmbeddings.of([{Modality.ASR: np.array([[-2]], np.float32)}])
    won = winners(query, document, Scoring(padding="zero"))
    assert (won.tokens.tolist(), won.modalities.tolist()) == ([-1, 0], [0, int(Modality.ASR)])
    assert won.score == 2
    document = TokenEmbeddings.of([{Modality.ASR: np.array([[-2], [-1]], np.float32)}])
    query = TokenEmbeddings.of([{Modality.TEXT: np.array([[1], [1]], np.float32)}])
    scoring = Scoring("modality_max", padding="zero")
    won = winners(query, document, scoring)
    assert (won.tokens.tolist(), won.score) == ([-1, -1], 0)
    assert max_sim(query, document, scoring).total.item() == 0
    assert max_sim(query, document, Scoring("modality_max")).total.item() == -2


def test_what_is_missing_never_wins_and_negative_scores_are_right() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: np.eye(2, dtype=np.float32)}, {}])
    documents = TokenEmbeddings.of(
        [
            {Modality.ASR: np.array([[-1, -2]], np.float32)},
            {},
            {
                Modality.ASR: np.array([[-3, -1], [-1, -3]], np.float32),
                Modality.OCR: np.array([[-2, -2]], np.float32),
            },
        ]
    )
    for aggregation in ("token_max", "modality_max"):
        total = max_sim(query, documents, Scoring(aggregation)).total
        assert total.tolist() == [[-3.0, -np.inf, -2.0], [0, -np.inf, 0]]


def test_the_two_aggregations_differ_where_modalities_complete_each_other() -> None:
    query = TokenEmbeddings.of([{Modality.TEXT: np.eye(2, dtype=np.float32)}])
    document = TokenEmbeddings.of(
        [{Modality.ASR: np.float32([[1, 0]]), Modality.OCR: np.float32([[0, 1]])}]
    )
    assert max_sim(query, document).total.item() == 2
    assert max_sim(query, document, Scoring("modality_max")).total.item() == 1
    weighted = Scoring("modality_max", weights={Modality.OCR: 3.0})
    assert max_sim(query, document, weighted).total.item() == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_long_queries_and_documents_span_tiles(threads: int) -> None:
    queries = embed([{7: unit(2300, 4, 1)}, {7: unit(3, 4, 2)}, {}, {7: unit(40, 4, 3)}], 4)
    documents = embed([{1: unit(3, 4, 4), 3: unit(1000, 4, 5)}, {}, {4: unit(500, 4, 6)}], 4)
    found = max_sim(queries, documents, Scoring("modality_max"), threads=threads).total
    for q in range(4):
        for d in range(3):
            one, other = queries[q : q + 1], documents[d : d + 1]
            products = one.vectors.astype(np.float64) @ other.vectors.astype(np.float64).T
            bounds = other.segment_offsets[:-1]
            sums = (
                [
                    part.max(axis=1).sum()
                    for part in np.split(products, bounds[1:], axis=1)
                    if part.size or not len(one.vectors)
                ]
                if len(bounds)
                else []
            )
            assert found[q, d] == pytest.approx(max(sums, default=-np.inf), rel=1e-5)


def test_single_vectors_are_inner_products() -> None:
    queries = embed([{7: unit(1, 64, i)} for i in range(20)], 64)
    documents = embed([{7: unit(1, 64, 100 + i)} for i in range(1300)], 64)
    expected = queries.vectors.astype(np.float64) @ documents.vectors.astype(np.float64).T
    assert np.allclose(max_sim(queries, documents).total, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
def test_parity_with_the_reference_whose_padding_and_template_compete(normalised: bool) -> None:
    saved = np.load(PARITY)
    mask = saved["query_attention_mask"]
    queries = TokenEmbeddings.from_padded(saved["query_embeddings"], mask, mask * Modality.TEXT)
    documents = TokenEmbeddings.from_padded(
        saved["doc_embeddings"],
        saved["doc_attention_mask"],
        saved["doc_modality_numbers"],
        keep_unassigned=True,
    )
    end = "_norm" if normalised else ""
    for aggregation in ("token_max", "modality_max"):
        scoring = Scoring(
            aggregation, normalise=normalised, unassigned_tokens="compete", padding="zero"
        )
        found = max_sim(queries, documents, scoring, by_modality=True)
        assert np.allclose(found.total, saved[f"sim_{aggregation}{end}"], rtol=1e-5, atol=0)
        if normalised and found.by_modality is not None:
            order = [NO_MODALITY, Modality.VIDEO, Modality.OCR, Modality.ASR, Modality.DESCRIPTION]
            expected = saved["sim_all_modalities_norm"]
            assert np.allclose(found.by_modality[:, :, order], expected, rtol=1e-5, atol=1e-7)


def test_int8_gives_the_same_bits_with_and_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    queries = corpus(5, 128, 12, 1).astype(Precision.INT8)
    documents = corpus(30, 128, 90, 2).astype(Precision.INT8)
    with_torch = max_sim(queries, documents, by_modality=True)
    monkeypatch.setattr(tiled, "_integer_torch", lambda dim: False)
    without = max_sim(queries, documents, by_modality=True)
    assert as_bits(with_torch.total) == as_bits(without.total)
    assert as_bits(with_torch.by_modality) == as_bits(without.by_modality)


def test_int8_ranks_nearly_as_float32() -> None:
    queries, documents = corpus(20, 128, 16, 3), corpus(300, 128, 30, 4)
    exact = max_sim(queries, documents).total
    small = max_sim(queries.astype(Precision.INT8), documents.astype(Precision.INT8)).total
    best, found = np.argsort(-exact)[:, :10], np.argsort(-small)[:, :10]
    kept = [len(set(a) & set(b)) / 10 for a, b in zip(best, found, strict=True)]
    assert np.mean(kept) >= 0.95


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"aggregation": "max"}, "aggregation is 'max': choose from token_max, modality_max"),
        ({"padding": "none"}, "padding is 'none'"),
        ({"unassigned_tokens": "keep"}, "unassigned_tokens is 'keep'"),
        ({"modalities": frozenset()}, "modalities is empty"),
        ({"weights": {Modality.OCR: 0.0}}, "the weight of ocr is 0.0"),
        ({"weights": {Modality.OCR: float("nan")}}, "the weight of ocr is nan"),
    ],
)
def test_a_scoring_that_cannot_be_is_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Scoring(**values)  # type: ignore[arg-type]


def test_dimensions_must_agree() -> None:
    one = TokenEmbeddings.of([{Modality.TEXT: np.ones((1, 2), np.float32)}])
    other = TokenEmbeddings.of([{Modality.TEXT: np.ones((1, 3), np.float32)}])
    for score in (max_sim, winners):
        with pytest.raises(PluginError, match="2 dimensions, document vectors 3"):
            score(one, other)
    with pytest.raises(UsageError, match="not of 2 and 1"):
        winners(TokenEmbeddings.concatenate([one, one]), one)


def test_an_overflow_is_infinite_and_no_warning() -> None:
    large = TokenEmbeddings.of([{Modality.TEXT: np.full((2, 4), 1e30, np.float32)}])
    assert max_sim(large, large, threads=2).total.item() == np.inf
