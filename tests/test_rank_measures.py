"""MdR and MnR: against an independent computation, their intervals, and where lower is better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.statistics as module
from harness.breakdowns import breakdown_by_document, breakdown_by_query
from harness.errors import UsageError
from harness.evaluation import evaluate
from harness.measures import parse_measures
from harness.rank_measures import goodness, lower_is_better, statistic_of
from harness.reporting.tables import read_tables
from harness.results import ResultsStore
from harness.runner.scoring import estimates
from harness.statistics import averages, bootstrap_interval
from harness.types import Query, Ranking
from tests.conftest import Command

RANKS = ("MdR", "MnR")

#: A task in a file whose main measure is a rank.
TASK = """
from harness.api import *

class Ranked(Task):
    about = About(title="Ranked", version="1", licence="MIT", citation="none")

    @property
    def protocol(self):
        return Protocol(
            name="ranked", candidates="all", relevance="one", measures=("MnR", "MdR", "Success@1"),
            main="MnR", query_breakdowns=("kind",), document_breakdowns=("colour",),
        )

    def load(self, split, data, progress):
        words = ["river", "tower", "market", "bridge", "garden", "winter", "engine"]
        documents = [
            Document(f"d{i}", {Modality.TEXT: word}, attributes={"colour": "rb"[i % 2]})
            for i, word in enumerate(words)
        ]
        queries = [
            Query(f"q{i}", word if i % 3 else "harbour", attributes={"kind": "ab"[i % 2]})
            for i, word in enumerate(words)
        ]
        return Split.of(split, documents, queries, {f"q{i}": {f"d{i}": 1} for i in range(7)})
"""


def theirs(scores: Mapping[str, Mapping[str, float]], qrels: Mapping[str, str], size: int):
    """The ranks by counting: documents that score higher, or tie and have the larger id."""
    return [
        size
        if wanted not in scores.get(query, {})
        else 1
        + sum(
            (score, document) > (scores[query][wanted], wanted)
            for document, score in scores[query].items()
        )
        for query, wanted in qrels.items()
    ]


@settings(deadline=None)
@given(st.data())
def test_ranks_are_those_of_an_independent_count(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    documents = [f"d{i}" for i in range(size)]
    few = st.integers(-2, 2).map(float)  # Few values: many ties.
    scores = {
        f"q{i}": data.draw(st.dictionaries(st.sampled_from(documents), few))
        for i in range(data.draw(st.integers(1, 6)))
    }
    wanted = {query: data.draw(st.sampled_from(documents)) for query in scores}
    expected = theirs(scores, wanted, size)
    qrels = {query: {document: 1} for query, document in wanted.items()}
    found = evaluate(Ranking.from_scores(scores), qrels, list(qrels), RANKS, documents=size)
    assert found.of("MdR").tolist() == found.of("MnR").tolist() == expected
    assert found.mean("MdR") == np.median(expected)
    assert found.mean("MnR") == pytest.approx(np.mean(expected))


def test_the_first_of_several_relevant_documents_counts_and_grade_0_does_not() -> None:
    ranking = Ranking.from_scores({"q": {"a": 3.0, "b": 2.0, "c": 1.0}})
    found = evaluate(ranking, {"q": {"a": 0, "c": 2, "b": 1}}, ["q"], RANKS, documents=9)
    assert found.values.tolist() == [[2, 2]]


def test_what_is_not_ranked_has_the_last_rank_and_a_query_without_a_list_too() -> None:
    ranking = Ranking.from_scores({"q1": {"a": 1.0}, "q2": {}})
    qrels = {query: {"b": 1} for query in ("q1", "q2", "q3")}
    found = evaluate(ranking, qrels, list(qrels), ["MnR", "RR", "MdR"], documents=50)
    assert found.values.tolist() == [[50, 0, 50]] * 3
    assert found.missing_ids == ("q2", "q3")


def test_ranks_need_the_number_of_documents() -> None:
    with pytest.raises(UsageError, match="say how many there are"):
        evaluate(Ranking.from_scores({"q": {"a": 1.0}}), {"q": {"a": 1}}, ["q"], ["MdR"])


def test_names_are_read_like_the_others() -> None:
    assert [measure.name for measure in parse_measures(["MdR", "MnR"])] == ["MdR", "MnR"]
    with pytest.raises(UsageError, match="are the same"):
        parse_measures(["MdR", "MdR"])
    with pytest.raises(UsageError, match=r"Did you mean 'MdR'"):
        parse_measures(["MedR"])
    assert [statistic_of(name) for name in (*RANKS, "RR")] == ["median", "mean", "mean"]
    assert [lower_is_better(name) for name in (*RANKS, "RR")] == [True, True, False]
    assert goodness("MnR", 2.0) > goodness("MnR", 3.0)
    assert goodness("RR", 0.2) < goodness("RR", 0.3)


@pytest.mark.parametrize("n", [1, 2, 7, 60, 901])
def test_the_interval_of_a_median_is_that_of_resampled_medians(n: int) -> None:
    values = np.random.default_rng(n).integers(1, 30, (n, 2)).astype(float)
    both = bootstrap_interval(values, seed=3, resamples=4_000, statistics=["median", "mean"])
    # By gathering every resample, from another stream of random numbers.
    drawn = np.random.default_rng(99).integers(0, n, (4_000, n))
    medians = np.median(values[drawn, 0], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    assert both[0].mean == np.median(values[:, 0])
    assert abs(both[0].low - low) <= 1
    assert abs(both[0].high - high) <= 1
    assert both[1] == bootstrap_interval(values, seed=3, resamples=4_000)[1]
    assert averages(values, ["median", "mean"]).tolist() == [both[0].mean, both[1].mean]


@pytest.mark.parametrize("n", [1, 2, 5, 400, 5_000, 5_001])
def test_resampled_medians_are_exact(n: int) -> None:
    """Only values near the middle are looked at where there are many."""
    generator = np.random.default_rng(n)
    values = generator.integers(0, n, n).astype(float)
    drawn = generator.integers(0, n, (50, n))
    counts = np.array([np.bincount(row, minlength=n) for row in drawn], float)
    found = module._resampled_medians(values, np.argsort(values), counts)
    assert found.tolist() == np.median(values[drawn], axis=1).tolist()


def test_the_interval_of_a_median_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(5).normal(size=(81, 1))
    [ours] = bootstrap_interval(values, seed=1, resamples=20_000, statistics=["median"])
    theirs = stats.bootstrap(
        (values[:, 0],), np.median, n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_chunks_do_not_change_the_resampled_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).random((51, 1))
    whole = bootstrap_interval(values, seed=7, resamples=1_001, statistics=["median"])
    monkeypatch.setattr("harness.statistics._DRAWS", 700)
    assert bootstrap_interval(values, seed=7, resamples=1_001, statistics=["median"]) == whole


def test_estimates_and_groups_use_the_median() -> None:
    queries = [
        Query(f"q{i}", "", attributes={"kind": "odd" if i % 2 else "even"}) for i in range(5)
    ]
    documents = [f"d{i}" for i in range(9)]
    # The relevant document of query i is at rank 1, 2, 3, 4, 9.
    ranks = [1, 2, 3, 4, 9]
    scores = {q.id: {d: -float(i) for i, d in enumerate(documents)} for q in queries}
    qrels = {q.id: {documents[rank - 1]: 1} for q, rank in zip(queries, ranks, strict=True)}
    found = evaluate(Ranking.from_scores(scores), qrels, list(qrels), RANKS, documents=9)
    made = estimates(found)
    assert (made["MdR"].mean, made["MnR"].mean) == (3.0, 3.8)
    assert made["MdR"].low >= 1.0
    assert made["MdR"].high <= 9.0
    groups = breakdown_by_query(found, queries, ["kind"])["kind"]
    assert groups["even"].mean("MdR") == 3.0
    assert groups["odd"].mean("MdR") == 3.0
    colour = {d: "red" if i < 3 else "blue" for i, d in enumerate(documents)}
    parts = breakdown_by_document(
        Ranking.from_scores(scores), qrels, list(qrels), RANKS, colour, documents=9
    )
    assert parts["red"].of("MdR").tolist() == [1, 2, 3]
    assert parts["blue"].of("MdR").tolist() == [4, 9]


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "ranked.py"
    path.write_text(TASK)
    return f"{path}:Ranked"


def test_a_task_may_be_ordered_by_a_rank(bench: Command, task: str, tmp_path: Path) -> None:
    outcome = bench("run", "--task", task, "--retriever", "bm25-text", "--retriever", "random")
    assert outcome.status == 0, outcome.err
    runs = {r.result.retriever.name: r for r in ResultsStore(tmp_path / "results").runs()}
    # Of seven queries three ask for a word that no document has: those have the last rank.
    bm25 = runs["bm25-text"].result.measures
    assert bm25["MnR"].mean == pytest.approx((4 * 1 + 3 * 7) / 7)
    assert bm25["MdR"].mean == 1.0
    assert all(run.check() == [] for run in runs.values())
    assert "3.6 [" in outcome.out, "ranks are no percentages"
    assert "MnR by kind" in outcome.out
    bench("leaderboard")
    [file] = read_tables(tmp_path / "results")
    [table] = file.tables
    means = [row.cells["MnR"].mean for row in table.rows]
    assert means == sorted(means), "the lowest rank is first"
    assert table.best("MdR") == min(row.cells["MdR"].mean for row in table.rows)
    assert table.best("Success@1") == max(round(r.cells["Success@1"].mean, 4) for r in table.rows)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "**1.0** [" in text
    assert "the lower the better" in text


def test_a_median_that_was_changed_is_found(bench: Command, task: str, tmp_path: Path) -> None:
    bench("run", "--task", task, "--retriever", "bm25-text")
    [run] = ResultsStore(tmp_path / "results").runs()
    path = run.folder / "result.json"
    path.write_text(path.read_text().replace('"mean": 1.0', '"mean": 2.0', 1))
    bench("results", "check").fails("MdR is 2.0")


def test_seeds_are_averaged_by_query_before_the_median(
    bench: Command, task: str, tmp_path: Path
) -> None:
    for seed in ("0", "1"):
        bench("run", "--task", task, "--retriever", "random", "--seed", seed)
    bench("leaderboard")
    [file] = read_tables(tmp_path / "results")
    [row] = file.tables[0].rows
    from harness.results.per_query import read_per_query

    runs = ResultsStore(tmp_path / "results").runs()
    values = [read_per_query(run.folder / "per_query.parquet")[1] for run in runs]
    by_query = np.mean(values, axis=0)
    assert row.cells["MnR"].mean == pytest.approx(by_query[:, 0].mean())
    assert row.cells["MdR"].mean == np.median(by_query[:, 1])
