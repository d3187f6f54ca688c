"""Scores are the same bits whatever is scored with them, in whatever order and threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.late_interaction import Precision, Scoring, TokenEmbeddings, max_sim, winners
from harness.late_interaction.products import (
    WIDTHS,
    is_stable,
    product,
    row_counts,
    single_threaded_blas,
    usable_columns,
    width_for,
)
from tests.late_interaction_cases import PRECISIONS, as_bits, corpus

QUERIES = corpus(40, 128, 12, 1)
DOCUMENTS = corpus(60, 128, 200, 2)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(PRECISIONS),
    st.sampled_from(["token_max", "modality_max"]),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
    st.data(),
)
def test_order_batches_blocks_and_threads_change_no_bit(
    precision: Precision, aggregation: str, random: object, threads: int, data: st.DataObject
) -> None:
    scoring = Scoring(aggregation)  # type: ignore[arg-type]
    documents = DOCUMENTS.astype(precision)
    whole = max_sim(QUERIES, documents, scoring).total
    order = data.draw(st.permutations(range(len(documents))))
    mixed = TokenEmbeddings.concatenate([documents[d : d + 1] for d in order])
    first = data.draw(st.integers(0, len(QUERIES) - 1))
    last = data.draw(st.integers(first + 1, len(QUERIES)))
    cut = data.draw(st.integers(0, len(documents)))
    some = QUERIES[first:last]
    parts = [
        max_sim(some, part, scoring, threads=threads, by_modality=True).total
        for part in (mixed[:cut], mixed[cut:])
    ]
    found = np.concatenate(parts, axis=1)
    assert as_bits(found) == as_bits(whole[first:last, order])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("aggregation", ["token_max", "modality_max"])
def test_winners_add_up_to_the_bits_of_the_score(precision: Precision, aggregation: str) -> None:
    scoring = Scoring(aggregation, normalise=True)  # type: ignore[arg-type]
    queries, documents = QUERIES.astype(precision), DOCUMENTS.astype(precision)
    scores = max_sim(queries, documents, scoring).total
    for q in range(0, len(queries), 7):
        for d in range(0, len(documents), 7):
            won = winners(queries[q : q + 1], documents[d : d + 1], scoring)
            assert won.score == scores[q, d]
            if len(won.parts):
                assert np.float32(won.parts.sum()) == pytest.approx(scores[q, d], rel=1e-7)


def test_a_subset_of_modalities_has_the_bits_of_the_whole_pass() -> None:
    whole = max_sim(QUERIES, DOCUMENTS, by_modality=True).by_modality
    assert whole is not None
    for number in (1, 3, 4, 5):
        alone = max_sim(QUERIES, DOCUMENTS, Scoring(modalities=frozenset({number}))).total  # type: ignore[arg-type]
        assert as_bits(alone) == as_bits(whole[:, :, number])


@pytest.mark.parametrize("dim", [1, 100, 128, 500])
def test_tiles_compute_alike_at_every_usable_place(dim: int) -> None:
    assert is_stable(dim)
    rng = np.random.default_rng(dim)
    document, query = rng.standard_normal((2, 480, dim), dtype=np.float32)
    wanted = None
    for tokens in (1, 32, 300, 1900):
        width = width_for(dim, tokens)
        columns = usable_columns(dim, width)
        assert tokens <= len(columns) <= width
        for rows in row_counts(dim, width):
            for _ in range(3):  # the same vectors at other places
                order, places = rng.permutation(rows), rng.permutation(columns)
                left, right = np.zeros((rows, dim), np.float32), np.zeros((width, dim), np.float32)
                left[order] = document[:rows]
                count = min(len(query), len(places))
                right[places[:count]] = query[:count]
                found = np.empty((rows, width), np.float32)
                with single_threaded_blas:
                    product(left, right, found)
                found = found[order][:, places[:count]]
                if wanted is None or wanted.shape[0] < rows or wanted.shape[1] < count:
                    wanted = found
                same = (
                    wanted[: len(found), : found.shape[1]]
                    == found[: len(wanted), : wanted.shape[1]]
                )
                assert same.all()
    assert width_for(dim, 10**6) == max(WIDTHS)
