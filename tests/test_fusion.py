"""Fusion of rankings: formulas, properties, edges, tuning, and agreement with ranx."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RankingError, UsageError
from harness.fusion import GRID, Method, check_weights, fuse, fuse_lists, tune
from harness.types import RankedList, Ranking
from tests.fixtures.fusion_make import RRF_K, WEIGHTS, Lists, by_ranx, made

RANX = Path(__file__).parent / "fixtures" / "fusion_ranx.json"
METHODS = list(Method)
WEIGHTED = [method for method in Method if method is not Method.MAX]

#: Scores with many ties, whose sums and scalings lose little.
SCORES = st.integers(-8, 8).map(lambda number: number / 4)
ROWS = st.dictionaries(st.sampled_from("abcdefgh"), SCORES, max_size=8)
ROW_LISTS = st.lists(ROWS, min_size=1, max_size=4)


def ranking(row: Mapping[str, float]) -> Ranking:
    return Ranking.from_scores({"q": row})


def fused(
    rows: Sequence[Mapping[str, float]],
    method: Method,
    weights: Sequence[float] | None = None,
    **options: int,
) -> dict[str, float]:
    """Fuse rows of one query: scores by document, best first."""
    result = fuse([ranking(row) for row in rows], method, weights=weights, **options)
    found = result.get("q", RankedList((), np.empty(0)))
    return dict(zip(found.documents, found.scores.tolist(), strict=True))


ROWS_OF_TWO = ({"a": 3.0, "b": 1.0, "c": 2.0}, {"b": 10.0, "d": 30.0})


@pytest.mark.parametrize(
    ("method", "weights", "expected"),
    [
        (Method.MEAN, None, {"d": 30, "b": 5.5, "a": 3, "c": 2}),
        (Method.MEAN, (3, 1), {"d": 30, "b": 13 / 4, "a": 3, "c": 2}),
        (Method.MAX, None, {"d": 30, "b": 10, "a": 3, "c": 2}),
        (Method.MINMAX, None, {"d": 1, "a": 1, "c": 0.5, "b": 0}),
        (Method.MINMAX, (2, 1), {"a": 2, "d": 1, "c": 1, "b": 0}),
        (Method.RRF, None, {"b": 1 / 63 + 1 / 62, "d": 1 / 61, "a": 1 / 61, "c": 1 / 62}),
        (Method.RRF, (1, 2), {"b": 1 / 63 + 2 / 62, "d": 2 / 61, "a": 1 / 61, "c": 1 / 62}),
    ],
)
def test_formulas(
    method: Method, weights: tuple[float, ...] | None, expected: dict[str, float]
) -> None:
    found = fused(ROWS_OF_TWO, method, weights)
    assert list(found) == list(expected)  # Ties by document id, descending.
    assert found == pytest.approx(expected)


def test_z_scores_count_an_absent_document_as_the_last_of_the_list() -> None:
    unit = math.sqrt(1.5)  # (1, 2, 3) has mean 2 and deviation sqrt(2/3).
    expected = {"d": 1 - unit, "a": unit - 1, "c": -1.0, "b": -unit - 1}
    assert fused(ROWS_OF_TWO, Method.ZSCORE) == pytest.approx(expected)


def test_rrf_has_the_constant_of_the_paper_by_default_and_takes_others() -> None:
    assert fused([{"a": 1.0}], Method.RRF) == {"a": 1 / 61}
    assert fused([{"a": 1.0}], Method.RRF, rrf_k=0) == {"a": 1.0}


@pytest.mark.parametrize("method", METHODS)
@given(rows=ROW_LISTS, random=st.randoms(use_true_random=False))
def test_the_order_of_the_lists_does_not_matter_to_the_bit(
    method: Method, rows: list[dict[str, float]], random: object
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(fused(shuffled, method).items()) == list(fused(rows, method).items())


def test_documents_with_the_same_ranks_in_other_lists_tie() -> None:
    """1/61 + 1/62 + 1/63 is another float in another order of addition."""
    rows = [dict(zip(order, (3.0, 2.0, 1.0), strict=True)) for order in ("abc", "bca", "cab")]
    assert list(fused(rows, Method.RRF)) == ["c", "b", "a"]
    assert len(set(fused(rows, Method.RRF).values())) == 1


@pytest.mark.parametrize("method", [Method.ZSCORE, Method.MINMAX])
@given(
    rows=ROW_LISTS,
    scale=st.sampled_from([2.0**-20, 0.5, 3.0, 2.0**20]),
    shift=st.sampled_from([-100.0, 0.0, 7.0]),
)
def test_normalised_sums_do_not_depend_on_scale_and_shift(
    method: Method, rows: list[dict[str, float]], scale: float, shift: float
) -> None:
    first = {document: scale * score + shift for document, score in rows[0].items()}
    assert fused([first, *rows[1:]], method) == pytest.approx(fused(rows, method), abs=1e-6)


@given(rows=ROW_LISTS)
def test_rrf_depends_on_ranks_alone(rows: list[dict[str, float]]) -> None:
    bent = [{document: math.exp(score) for document, score in row.items()} for row in rows]
    assert fused(bent, Method.RRF) == fused(rows, Method.RRF)


@pytest.mark.parametrize("method", METHODS)
@given(row=ROWS, copies=st.integers(1, 4))
def test_a_list_fused_with_itself_keeps_its_order(
    method: Method, row: dict[str, float], copies: int
) -> None:
    assert list(fused([row] * copies, method)) == list(ranking(row)["q"].documents)


@pytest.mark.parametrize("method", [Method.MEAN, Method.MAX])
@given(row=ROWS, copies=st.integers(1, 4))
def test_mean_and_max_of_equal_lists_are_the_list(
    method: Method, row: dict[str, float], copies: int
) -> None:
    assert fused([row] * copies, method) == row


@pytest.mark.parametrize("method", WEIGHTED)
@given(rows=ROW_LISTS, weight=st.sampled_from([0.25, 1 / 3, 7.0]))
def test_only_the_ratios_of_weights_matter_to_the_order(
    method: Method, rows: list[dict[str, float]], weight: float
) -> None:
    alike = fused(rows, method, [weight] * len(rows))
    plain = fused(rows, method)
    assert alike.keys() == plain.keys()
    factor = 1 if method is Method.MEAN else weight
    assert alike == pytest.approx({d: factor * score for d, score in plain.items()}, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@given(rows=ROW_LISTS, k=st.integers(1, 9))
def test_k_documents_are_the_head_of_all(
    method: Method, rows: list[dict[str, float]], k: int
) -> None:
    everything = list(fused(rows, method).items())
    assert list(fused(rows, method, k=k).items()) == everything[:k]


@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_weight_0_takes_no_part(method: Method) -> None:
    rows = [*ROWS_OF_TWO, {"x": 99.0, "a": -5.0}]
    assert fused(rows, method, (1, 1, 0)) == fused(ROWS_OF_TWO, method)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_list_takes_no_part(method: Method) -> None:
    assert fused([*ROWS_OF_TWO, {}], method) == fused(ROWS_OF_TWO, method)
    assert fused([{}, {}], method) == {}


@pytest.mark.parametrize("method", METHODS)
def test_queries_are_those_of_any_ranking(method: Method) -> None:
    one = Ranking.from_scores({"q1": {"a": 1.0}, "q2": {"a": 1.0}})
    two = Ranking.from_scores({"q2": {"b": 1.0}, "q3": {"b": 1.0}})
    both = fuse([one, two], method)
    assert {q: set(row.documents) for q, row in both.items()} == {
        "q1": {"a"},
        "q2": {"a", "b"},
        "q3": {"b"},
    }


def test_a_list_that_scores_all_alike() -> None:
    """Found is more than not found; that some are nearer than others nobody says."""
    flat = {"a": 7.0, "b": 7.0}
    assert fused([flat, {"c": 1.0}], Method.MINMAX) == {"c": 1.0, "b": 1.0, "a": 1.0}
    assert fused([flat, {"c": 1.0, "d": 0.0}], Method.ZSCORE) == {
        "c": 1.0, "d": -1.0, "b": -1.0, "a": -1.0
    }  # fmt: skip


def test_scores_near_the_ends_of_what_floats_hold() -> None:
    tiny = {"a": 3e-320, "b": 2e-320, "c": 1e-320}
    assert list(fused([tiny], Method.ZSCORE)) == ["a", "b", "c"]
    for method in (Method.ZSCORE, Method.MINMAX, Method.MEAN):
        with pytest.raises(RankingError, match="too large"):
            fused([{"a": 1.7e308, "b": -1.7e308}, {"a": 1.7e308, "b": -1.7e308}], method)


def test_what_no_ranking_may_hold_is_refused_before() -> None:
    for scores in ([1.0, math.nan], [1.0, math.inf]):
        with pytest.raises(RankingError, match="finite"):
            Ranking({"q": RankedList(["a", "b"], np.array(scores))})
    with pytest.raises(RankingError, match="twice"):
        Ranking({"q": RankedList(["a", "a"], np.array([1.0, 2.0]))})


@pytest.mark.parametrize(
    ("weights", "method", "words"),
    [
        ((1.0,), Method.RRF, "1 weights"),
        ((1.0, -1.0), Method.RRF, "at least 0"),
        ((1.0, math.nan), Method.MEAN, "finite"),
        ((1.0, math.inf), Method.MEAN, "finite"),
        ((0.0, 0.0), Method.RRF, "one above 0"),
        ((2.0, 1.0), Method.MAX, "max takes none"),
    ],
)
def test_weights_that_cannot_be_right(
    weights: tuple[float, ...], method: Method, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_weights(weights, 2, method)


def test_a_negative_constant_is_refused() -> None:
    with pytest.raises(UsageError, match="rrf_k"):
        fused([{"a": 1.0}], Method.RRF, rrf_k=-1)


def test_the_cut_waits_for_ties_to_be_broken() -> None:
    row = ranking({"a": 1.0, "b": 1.0, "c": 0.0})["q"]
    assert set(fuse_lists([row], Method.MEAN, (1.0,), k=1).documents) == {"a", "b"}
    assert fused([{"a": 1.0, "b": 1.0, "c": 0.0}], Method.MEAN, k=1) == {"b": 1.0}


# Agreement with ranx, an independent implementation.

CASES: Mapping[str, tuple[Method, list[float] | None]] = {
    "mean": (Method.MEAN, None),
    "max": (Method.MAX, None),
    "minmax": (Method.MINMAX, None),
    "minmax weighted": (Method.MINMAX, WEIGHTS),
    "rrf": (Method.RRF, None),
    "rrf weighted": (Method.RRF, WEIGHTS),
    "zscore": (Method.ZSCORE, None),
    "zscore weighted": (Method.ZSCORE, WEIGHTS),
}


def agree(lists: Lists, expected: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    rankings = [Ranking.from_scores(one) for one in lists]
    for case, by_query in expected.items():
        method, weights = CASES[case]
        found = fuse(rankings, method, weights=weights, rrf_k=RRF_K)
        assert found.keys() == by_query.keys()
        for query, row in by_query.items():
            ours = dict(zip(found[query].documents, found[query].scores.tolist(), strict=True))
            assert ours == pytest.approx(row, rel=1e-12, abs=1e-12), (case, query)


def test_scores_are_those_of_ranx() -> None:
    stored = json.loads(RANX.read_text())
    incomplete, complete = stored["groups"]
    assert set(complete["fused"]) == set(CASES)
    assert set(CASES) - set(incomplete["fused"]) == {"zscore", "zscore weighted"}
    for group in (incomplete, complete):
        agree(group["lists"], group["fused"])


@pytest.mark.slow
@pytest.mark.parametrize("complete", [False, True])
def test_scores_are_those_of_ranx_if_it_is_installed(complete: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba remarks on ranx's integer types.
        pytest.importorskip("ranx")
        for seed in range(20):
            lists = made(seed, complete=complete)
            agree(lists, by_ranx(lists, complete=complete))


# Tuning.


def first_is(wanted: Mapping[str, str]) -> Callable[[Ranking], float]:
    """Return a measure: the share of queries whose first document is the wanted one."""

    def measure(found: Ranking) -> float:
        hits = sum(found[query].documents[0] == document for query, document in wanted.items())
        return hits / len(wanted)

    return measure


GOOD = Ranking.from_scores({"q1": {"a": 2.0, "b": 1.0}, "q2": {"b": 2.0, "a": 1.0}})
BAD = Ranking.from_scores({"q1": {"b": 9.0, "a": 1.0}, "q2": {"a": 9.0, "b": 1.0}})
WANTED = first_is({"q1": "a", "q2": "b"})


@pytest.mark.parametrize("method", WEIGHTED)
def test_tuning_finds_the_list_that_is_right(method: Method) -> None:
    found = tune([BAD, GOOD], WANTED, method)
    assert found.value == 1.0
    assert found.value > found.equal
    assert WANTED(fuse([BAD, GOOD], method, weights=found.weights)) == found.value
    assert set(found.weights) <= set(GRID)
    assert tune([BAD, GOOD], WANTED, method) == found


def test_equal_weights_stay_where_nothing_is_better() -> None:
    found = tune([GOOD, GOOD, GOOD], WANTED, Method.RRF)
    assert found.weights == (1.0, 1.0, 1.0)
    assert found.value == found.equal == 1.0


def test_no_weights_are_measured_twice() -> None:
    calls = []

    def measure(found: Ranking) -> float:
        calls.append(found)
        return 0.0

    found = tune([GOOD, BAD], measure, Method.RRF)
    # 6 weights of the one with 1 of the other, and the reverse; 1:1, 1:2, 2:1, ... are of both.
    assert len(calls) == found.tried == len(GRID) + 1


def test_tuning_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no weights"):
        tune([GOOD, BAD], WANTED, Method.MAX)
    with pytest.raises(UsageError, match="at least two"):
        tune([GOOD], WANTED, Method.RRF)
