"""Ranking: canonical order, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RankingError
from harness.types import RankedList, Ranking

# Few distinct values, so that ties are common; -0.0 and 0.0 are equal.
SCORES = st.sampled_from([-1.5, -0.0, 0.0, 1.0, 1.0 + 1e-9, 20.0, 20.0 + 1e-7])
ROWS = st.dictionaries(st.text(max_size=4), SCORES, max_size=12)


def ranking(documents: list[str], scores: list[float]) -> Ranking:
    return Ranking({"q": RankedList(documents, np.array(scores))})


@given(ROWS, st.randoms())
def test_order_is_score_then_id_descending_whatever_the_input_order(
    row: dict[str, float], random: object
) -> None:
    items = list(row.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    ranked = Ranking.from_scores({"q": dict(items)})["q"]
    expected = sorted(row.items(), key=lambda item: (item[1], item[0]), reverse=True)
    assert list(ranked.documents) == [document for document, _ in expected]
    assert ranked.scores.tolist() == [score for _, score in expected]


def test_ties_are_broken_by_id_as_a_string() -> None:
    ranked = ranking(["10", "9", "é", "z"], [1.0, 1.0, 1.0, 1.0])["q"]
    assert list(ranked.documents) == ["é", "z", "9", "10"]


def test_ties_within_an_ordered_list_are_broken_too() -> None:
    ranked = ranking(["a", "b", "c", "d"], [2.0, 1.0, 1.0, 0.5])["q"]
    assert list(ranked.documents) == ["a", "c", "b", "d"]


def test_float32_scores_are_kept_exactly() -> None:
    scores = np.array([0.1, 0.3], dtype=np.float32)
    ranked = Ranking({"q": RankedList(["a", "b"], scores)})["q"]  # type: ignore[arg-type]
    assert ranked.scores.dtype == np.float64
    assert ranked.scores.tolist() == [float(np.float32(0.3)), float(np.float32(0.1))]


def test_top_cuts_each_list() -> None:
    cut = ranking(["a", "b", "c"], [1.0, 3.0, 2.0]).top(2)
    assert list(cut["q"].documents) == ["b", "c"]
    assert cut["q"].scores.tolist() == [3.0, 2.0]


def test_an_empty_list_is_legal() -> None:
    assert len(ranking([], [])["q"]) == 0


@pytest.mark.parametrize(
    ("documents", "scores", "message"),
    [
        (["a", "b"], [1.0, float("nan")], "'b' has score nan"),
        (["a", "b"], [float("inf"), 1.0], "'a' has score inf"),
        (["a", "b"], [1.0, float("-inf")], "'b' has score -inf"),
        (["a", "b", "a"], [3.0, 2.0, 1.0], "'a' is listed twice"),
        (["a", "b"], [1.0], "2 document ids but scores of shape"),
        (["a"], [[1.0]], "1 document ids but scores of shape"),
        ([7, 8], [1.0, 2.0], "document id 7 is a int"),
    ],
)
def test_what_cannot_be_ranked_is_named(
    documents: list[str], scores: list[float], message: str
) -> None:
    with pytest.raises(RankingError, match="query 'q'") as error:
        ranking(documents, scores)
    assert message in str(error.value)
