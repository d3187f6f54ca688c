"""Evaluation: the known traps, an independent reference, invariances, breakdowns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.evaluation as module
from harness.breakdowns import breakdown_by_document, breakdown_by_query, query_groups
from harness.errors import DataError, RankingError, UsageError
from harness.evaluation import evaluate, parse_measures
from harness.types import Qrels, Query, Ranking

Scores = Mapping[str, Mapping[str, float]]
MEASURES = ("nDCG@10", "nDCG@3", "Success@1", "Success@5", "R@3", "P@5", "RR", "RR@2", "AP")


def one(scores: Mapping[str, float], grades: Mapping[str, int], *measures: str) -> list[float]:
    """Values of one query."""
    result = evaluate(Ranking.from_scores({"q": scores}), {"q": grades}, ["q"], measures)
    values: list[float] = result.values[0].tolist()
    return values


# The traps, by their numbers in the project's list of confirmed ones.


def test_trap_1_measures_agree_on_ties() -> None:
    tied = {"a": 1.0, "b": 1.0}
    assert one(tied, {"a": 1}, "RR", "RR@10", "Success@1") == [0.5, 0.5, 0.0]
    assert one(tied, {"b": 1}, "RR", "RR@10", "Success@1") == [1.0, 1.0, 1.0]


def test_trap_2_scores_beyond_float32_are_told_apart() -> None:
    assert np.float32(20 + 1e-7) == np.float32(20)
    assert one({"a": 20 + 1e-7, "b": 20.0}, {"a": 1}, "RR", "RR@10", "AP") == [1.0, 1.0, 1.0]


def test_trap_5_a_constant_scorer_counts_each_query_once() -> None:
    documents = [f"d{i}" for i in range(4)]
    ranking = Ranking.from_scores({f"q{i}": dict.fromkeys(documents, 0.5) for i in range(4)})
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(4)}
    result = evaluate(ranking, qrels, list(qrels), ["Success@1", "RR"])
    assert result.values.tolist() == [[0, 1 / 4], [0, 1 / 3], [0, 1 / 2], [1, 1]]
    assert result.mean("Success@1") == 0.25


def test_trap_6_missing_queries_count_zero_and_are_counted() -> None:
    ranking = Ranking.from_scores({"q1": {"a": 1.0}, "q3": {}})
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"a": 0}, "q5": {}}
    result = evaluate(ranking, qrels, ["q1", "q2", "q3", "q4", "q5", "q6"], ["RR"])
    assert result.query_ids == ("q1", "q2", "q3")
    assert result.of("RR").tolist() == [1.0, 0.0, 0.0]
    assert result.mean("RR") == pytest.approx(1 / 3)
    assert (result.missing, result.missing_ids) == (2, ("q2", "q3"))
    assert result.without_positives == 3


def test_a_query_without_judgments_does_not_spoil_the_next() -> None:
    scores = {"q1": {"a": 1.0}, "q2": {"a": 1.0, "b": 2.0}}
    result = evaluate(
        Ranking.from_scores(scores), {"q1": {}, "q2": {"a": 1}}, ["q1", "q2"], ["RR", "AP"]
    )
    assert result.values.tolist() == [[0.5, 0.5]]


# An independent reference.


def reference(scores: Mapping[str, float], grades: Mapping[str, int], name: str) -> float:
    order = [d for _, d in sorted(((s, d) for d, s in scores.items()), reverse=True)]
    kind, _, cutoff = name.partition("@")
    k = int(cutoff) if cutoff else len(order)
    top = [grades.get(document, 0) for document in order[:k]]
    hits = [rank for rank, grade in enumerate(top, 1) if grade > 0]
    relevant = [grade for grade in grades.values() if grade > 0]
    if kind == "nDCG":
        best = sorted(relevant, reverse=True)[: int(cutoff)]
        return _dcg(top) / _dcg(best)
    return {
        "Success": float(bool(hits)),
        "R": len(hits) / len(relevant),
        "P": len(hits) / k if k else 0.0,
        "RR": 1 / hits[0] if hits else 0.0,
        "AP": sum(number / rank for number, rank in enumerate(hits, 1)) / len(relevant),
    }[kind]


def _dcg(gains: list[int]) -> float:
    return math.fsum(max(gain, 0) / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


DOCUMENTS = [f"d{i}" for i in range(12)]
# Whole numbers, so that a monotone function of them keeps ties and makes none.
ROW = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-3, 3).map(float), max_size=12)
GRADES = st.dictionaries(st.sampled_from([*DOCUMENTS, "never found"]), st.integers(0, 3))
POSITIVE = GRADES.filter(lambda grades: any(grade > 0 for grade in grades.values()))


@st.composite
def runs(draw: st.DrawFn) -> tuple[Scores, Qrels]:
    queries = [f"q{i}" for i in range(draw(st.integers(1, 5)))]
    scores = {query: draw(ROW) for query in queries}
    return scores, {query: draw(POSITIVE) for query in queries}


@given(runs())
def test_values_are_those_of_the_reference(run: tuple[Scores, Qrels]) -> None:
    scores, qrels = run
    result = evaluate(Ranking.from_scores(scores), qrels, list(qrels), MEASURES)
    for row, query in enumerate(result.query_ids):
        expected = [reference(scores[query], qrels[query], name) for name in MEASURES]
        np.testing.assert_allclose(result.values[row], expected, rtol=1e-9, atol=1e-12)


@given(runs(), st.randoms())
def test_input_order_and_monotone_transforms_change_nothing(
    run: tuple[Scores, Qrels], random: object
) -> None:
    scores, qrels = run
    before = evaluate(Ranking.from_scores(scores), qrels, list(qrels), MEASURES)
    changed = {}
    for query in sorted(scores, reverse=True):
        row = list(scores[query].items())
        random.shuffle(row)  # type: ignore[attr-defined]
        changed[query] = {document: 1e-8 * score**3 + 50 for document, score in row}
    after = evaluate(Ranking.from_scores(changed), qrels, list(qrels), MEASURES)
    np.testing.assert_array_equal(before.values, after.values)


TAIL = (
    *("nDCG@10", "nDCG", "AP", "AP@3", "RR", "RR@3", "R@5", "P@5", "Success@5", "Rprec", "Bpref"),
    *("IPrec@0.2", "infAP", "AP(rel=2)", "nDCG(judged_only=True)@5", "nDCG(gains={1:5,2:0})@5"),
    *("Judged@4", "Judged", "SetP", "SetR", "SetF", "SetAP"),
)


@settings(deadline=None)
@given(runs())
def test_cutting_the_unjudged_tail_and_chunks_change_nothing(run: tuple[Scores, Qrels]) -> None:
    scores, qrels = run
    ranking = Ranking.from_scores(scores)
    values = evaluate(ranking, qrels, list(qrels), TAIL).values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLIND_TO_TAIL", frozenset())
        patch.setattr(module, "_CHUNK", 2)
        np.testing.assert_array_equal(
            values, evaluate(ranking, qrels, list(qrels), TAIL).values, strict=True
        )


def test_a_run_of_many_chunks_keeps_its_rows_apart() -> None:
    n = 3 * module._CHUNK + 1
    queries = [f"q{i}" for i in range(n)]
    # The relevant document of query i is at rank i % 5 + 1.
    scores = {q: {f"d{rank}": -float(rank) for rank in range(1, 6)} for q in queries}
    qrels = {q: {f"d{i % 5 + 1}": 1} for i, q in enumerate(queries)}
    result = evaluate(Ranking.from_scores(scores), qrels, queries, ["RR@10", "RR"])
    expected = [1 / (i % 5 + 1) for i in range(n)]
    assert result.of("RR").tolist() == result.of("RR@10").tolist() == expected


# What is counted, and what cannot be evaluated.


def test_unknown_queries_and_documents_are_counted() -> None:
    scores = {"q1": {"x": 3.0, "a": 2.0, "y": 1.0}, "q2": {"x": 1.0}, "other": {"z": 1.0}}
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    ranking = Ranking.from_scores(scores)
    result = evaluate(ranking, qrels, ["q1", "q2"], ["RR"], known_documents={"a", "b"})
    assert result.unknown_queries == 1
    assert result.unknown_documents == 2
    assert result.of("RR").tolist() == [0.5, 0.0]
    assert evaluate(ranking, qrels, ["q1", "q2"], ["RR"]).unknown_documents is None


def test_a_query_asked_without_positives_is_not_unknown() -> None:
    ranking = Ranking.from_scores({"q1": {"a": 1.0}, "q2": {"a": 1.0}})
    result = evaluate(ranking, {"q1": {"a": 1}}, ["q1", "q2"], ["RR"])
    assert (result.unknown_queries, result.without_positives, result.missing) == (0, 1, 0)


def test_a_ranking_of_another_task_is_refused() -> None:
    ranking = Ranking.from_scores({"other": {"a": 1.0}})
    with pytest.raises(RankingError, match=r"none of the 1 queries.*'other'.*'q'"):
        evaluate(ranking, {"q": {"a": 1}}, ["q"], ["RR"])
    with pytest.raises(RankingError, match="it is empty"):
        evaluate(Ranking({}), {"q": {"a": 1}}, ["q"], ["RR"])


def test_a_ranking_of_another_collection_is_refused() -> None:
    ranking = Ranking.from_scores({"q": {"x1": 1.0, "x0": 2.0}})
    with pytest.raises(RankingError, match=r"none of the 2 ranked documents.*'x0'.*'a'"):
        evaluate(ranking, {"q": {"a": 1}}, ["q"], ["RR"], known_documents={"a", "b"})


def test_lists_that_are_all_empty_score_zero() -> None:
    ranking = Ranking.from_scores({"q": {}})
    result = evaluate(ranking, {"q": {"a": 1}}, ["q"], MEASURES, known_documents={"a"})
    assert result.missing == 1
    assert not result.values.any()


@pytest.mark.parametrize("qrels", [{}, {"q": {}}, {"q": {"a": 0, "b": -1}}])
def test_no_relevant_document_anywhere_is_an_error(qrels: Qrels) -> None:
    with pytest.raises(DataError, match=r"none of the 1 queries has a relevant document"):
        evaluate(Ranking.from_scores({"q": {"a": 1.0}}), qrels, ["q"], ["RR"])


def test_a_measure_that_was_not_evaluated_is_named() -> None:
    result = evaluate(Ranking.from_scores({"q": {"a": 1.0}}), {"q": {"a": 1}}, ["q"], ["nDCG@10"])
    assert result.means() == {"nDCG@10": 1.0}
    with pytest.raises(UsageError, match=r"'nDCG@5' was not evaluated.*Did you mean 'nDCG@10'"):
        result.mean("nDCG@5")


# Measures by name.


def test_measures_are_read_without_warnings_and_print_as_written() -> None:
    names = ["nDCG@10", "Success@1", "R@10", "RR", "RR@10", "AP", "P@5", "Judged@10", "Rprec"]
    names += ["Success(rel=2)@1", "AP(rel=2)@100", "IPrec@0.1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [str(measure) for measure in parse_measures(names)] == names


def test_hit_rate_and_share_of_the_relevant_differ() -> None:
    assert one({"a": 2.0, "b": 1.0}, {"a": 1, "c": 1}, "Success@1", "R@1") == [1.0, 0.5]


def test_relevance_threshold() -> None:
    found = one({"a": 2.0, "b": 1.0}, {"a": 1, "b": 2}, "RR", "RR(rel=2)", "RR(rel=3)")
    assert found == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndcg@10", "unknown measure 'ndcg@10'.*Did you mean 'nDCG'"),
        ("Sucess@1", "Did you mean 'Success'"),
        ("Hit@1", r"Success@1 \(the hit rate"),
        ("P", "needs a cutoff, as in P@10"),
        ("IPrec", "needs a recall, as in IPrec@0.1"),
        ("nDCG@0", "cutoff cannot be 0; it is a whole number above 0"),
        ("nDCG@1.5", "cutoff cannot be 1.5"),
        ("R@-1", "cutoff cannot be -1"),
        ("RR(rel=True)", "rel cannot be True"),
        ("AP(grade=2)", "no parameter 'grade'"),
        ("AP(2)", "cannot be read"),
        ("AP@", "cannot be read"),
        ("AP@k", "cannot be read"),
        ("", "cannot be read"),
        ("recip rank", "cannot be read"),
        ("AP; RR", "cannot be read"),
        ("NumRet", "is a count"),
        ("ERR@10", "not computed here"),
        ("nDCG(dcg='exp-log2')@10", "not computed here"),
    ],
)
def test_a_wrong_measure_is_one_clear_message(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_measures([name])


def test_measures_are_given_once() -> None:
    with pytest.raises(UsageError, match="'NDCG@10' are the same"):
        parse_measures(["nDCG@10", "NDCG@10"])
    with pytest.raises(UsageError, match="no measure given"):
        parse_measures([])


# Breakdowns.

QUERIES = [
    Query("q1", "", attributes={"language": "ko", "target": "asr"}),
    Query("q2", "", attributes={"language": "ar"}),
    Query("q3", "", attributes={"language": "ko", "target": "ocr"}),
    Query("q4", "", attributes={"language": "en"}),
]


def test_query_groups() -> None:
    assert query_groups(QUERIES, ["language", "target", "event"]) == {
        "language": {"ar": [1], "en": [3], "ko": [0, 2]},
        "target": {"asr": [0], "ocr": [2]},
        "event": {},
    }


def test_breakdown_by_query_takes_the_values_of_each_group() -> None:
    ranking = Ranking.from_scores({"q1": {"a": 2.0, "b": 1.0}, "q2": {"a": 2.0, "b": 1.0}})
    # Evaluated in another order than the queries; q4 has no relevant document.
    qrels = {"q1": {"b": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {}}
    whole = evaluate(ranking, qrels, ["q3", "q2", "q1", "q4"], ["RR", "Success@1"])
    parts = breakdown_by_query(whole, QUERIES, ["language", "target"])
    assert list(parts["language"]) == ["ar", "ko"]
    korean = parts["language"]["ko"]
    assert korean.query_ids == ("q1", "q3")
    assert korean.values.tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert korean.missing_ids == ("q3",)
    assert parts["language"]["ar"].missing == 0
    assert parts["language"]["ar"].means() == {"RR": 1.0, "Success@1": 1.0}
    assert parts["target"]["ocr"].mean("RR") == 0.0


def test_breakdown_by_document_neither_rewards_nor_punishes_other_values() -> None:
    # Ranked: k1, e1, x, k2, e2. Relevant: all but x. The Korean ones alone: k1, x, k2.
    scores = {"q": {"k1": 5.0, "e1": 4.0, "x": 3.0, "k2": 2.0, "e2": 1.0}}
    qrels = {"q": {"k1": 1, "k2": 1, "e1": 1, "e2": 1, "x": 0}}
    language = {"k1": "ko", "k2": "ko", "e1": "en", "e2": "en", "x": "ar"}
    parts = breakdown_by_document(
        Ranking.from_scores(scores), qrels, ["q"], ["AP", "RR", "R@2"], language
    )
    assert list(parts) == ["en", "ko"]
    np.testing.assert_allclose(parts["ko"].values, [[(1 + 2 / 3) / 2, 1, 1 / 2]])
    np.testing.assert_allclose(parts["en"].values, [[(1 + 2 / 3) / 2, 1, 1 / 2]])


def test_breakdown_by_document_drops_queries_without_such_a_document() -> None:
    scores = {"q1": {"a": 1.0}, "q2": {"b": 2.0}, "q3": {"a": 1.0}}
    qrels = {"q1": {"a": 1}, "q2": {"a": 1, "b": 1}, "q3": {"u": 1}, "q4": {"a": 1}, "q5": {}}
    parts = breakdown_by_document(
        Ranking.from_scores(scores), qrels, list(qrels), ["RR"], {"a": "ko", "b": "ar"}
    )
    korean, arabic = parts["ko"], parts["ar"]
    assert korean.query_ids == ("q1", "q2", "q4")
    # In q2 the Arabic b is taken out and nothing is left, but it was ranked; q4 never was.
    assert korean.of("RR").tolist() == [1.0, 0.0, 0.0]
    assert korean.missing_ids == ("q4",)
    assert korean.without_positives == 2
    assert (arabic.query_ids, arabic.mean("RR")) == (("q2",), 1.0)


@given(runs())
def test_one_value_for_all_documents_is_the_whole_evaluation(run: tuple[Scores, Qrels]) -> None:
    scores, qrels = run
    ranking = Ranking.from_scores(scores)
    same = dict.fromkeys([*DOCUMENTS, "never found"], "ko")
    parts = breakdown_by_document(ranking, qrels, list(qrels), MEASURES, same)
    whole = evaluate(ranking, qrels, list(qrels), MEASURES)
    assert list(parts) == ["ko"]
    assert parts["ko"].query_ids == whole.query_ids
    assert parts["ko"].missing_ids == whole.missing_ids
    np.testing.assert_array_equal(parts["ko"].values, whole.values)
