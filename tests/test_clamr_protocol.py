"""CLaMR's protocol in closed form, against enumeration, simulation, its library and real data."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.errors import DataError
from harness.types import Query, Ranking
from tasks.multivent import clamr_protocol as clamr
from tasks.multivent.clamr_protocol import MEASURES, REPEATED, Row

Qrels = dict[str, dict[str, int]]
Scores = dict[str, dict[str, float]]


def order_values(order: list[int], own: int) -> list[float]:
    """All measures of one row, for one order of the candidates, by their definitions."""
    rank = order.index(own) + 1
    gain = 1 / np.log2(rank + 1) if rank <= 10 else 0.0
    return [float(rank <= k) for k in (1, 5, 10)] + [gain]


def candidate_scores(rows: list[Row], row: Row, scores: Scores) -> list[float]:
    """The score of every candidate; what was not ranked comes after all that was."""
    given_scores = scores[row.query.id]
    last = min(given_scores.values(), default=0.0) - 1
    return [given_scores.get(candidate.document, last) for candidate in rows]


def enumerated(rows: list[Row], number: int, scores: Scores) -> list[float]:
    """Mean over every order of the candidates that the scores allow."""
    values = candidate_scores(rows, rows[number], scores)
    if not scores[rows[number].query.id]:
        return [0.0] * 4
    seen = [
        order_values(sorted(shuffled, key=lambda i: -values[i]), number)
        for shuffled in itertools.permutations(range(len(rows)))
    ]
    return [float(v) for v in np.mean(seen, axis=0)]


def queries_of(qrels: Qrels, repeated: dict[str, str] | None = None) -> list[Query]:
    found = repeated or {}
    return [Query(q, "words", attributes={REPEATED: found[q]} if q in found else {}) for q in qrels]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Qrels, dict[str, str], Scores]:
    """At most 6 judgments over 4 documents, few distinct scores, some documents not ranked."""
    documents = ["a", "b", "c", "d"]
    qrels: Qrels = {}
    left = draw(st.integers(1, 5))
    for number in range(left):
        names = draw(st.lists(st.sampled_from(documents), unique=True, min_size=1, max_size=left))
        qrels[f"q{number}"] = dict.fromkeys(names, 1)
        left -= len(names)
        if left <= 0:
            break
    first = next(iter(qrels))
    repeated = {first: next(iter(qrels[first]))} if draw(st.booleans()) else {}
    scores: Scores = {
        query: {
            d: float(draw(st.integers(-1, 2)))
            for d in draw(st.lists(st.sampled_from(documents), unique=True))
        }
        for query in qrels
    }
    return qrels, repeated, scores


@given(cases())
@settings(max_examples=60, deadline=None)
def test_figures_are_the_mean_over_every_order_of_ties(
    case: tuple[Qrels, dict[str, str], Scores],
) -> None:
    qrels, repeated, scores = case
    queries = queries_of(qrels, repeated)
    rows = clamr.judgment_rows(queries, qrels)
    found = clamr.evaluate_rows(Ranking.from_scores(scores), qrels, queries, queries)
    expected = [enumerated(rows, number, scores) for number in range(len(rows))]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.measures == MEASURES
    assert found.missing == sum(not scores[row.query.id] for row in rows)


def drawn(seed: int, *, positive: bool = False) -> tuple[Qrels, list[Query], Scores]:
    """30 queries of 1 to 4 videos among 15, scores of 5 values."""
    random = np.random.default_rng(seed)
    documents = [f"video{n}" for n in range(15)]
    qrels = {
        f"q{n}": dict.fromkeys(random.permutation(documents)[: random.integers(1, 5)].tolist(), 1)
        for n in range(30)
    }
    low = 1 if positive else -2
    scores = {
        query: {d: float(random.integers(low, low + 5)) for d in documents} for query in qrels
    }
    return qrels, queries_of(qrels), scores


def test_figures_are_what_random_orders_give_on_average() -> None:
    qrels, queries, scores = drawn(1)
    rows = clamr.judgment_rows(queries, qrels)
    found = clamr.evaluate_rows(Ranking.from_scores(scores), qrels, queries, queries)
    random = np.random.default_rng(2)
    matrix = np.array([candidate_scores(rows, row, scores) for row in rows])
    sums = np.zeros((len(rows), 4))
    trials = 2000
    for _ in range(trials):
        order = np.lexsort((random.random(matrix.shape), -matrix))
        ranks = np.argmax(order == np.arange(len(rows))[:, None], axis=1) + 1
        gain = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)
        sums += np.stack([ranks <= 1, ranks <= 5, ranks <= 10, gain], axis=1)
    # A mean of 0/1 over 2,000 trials has a standard error of at most 0.011.
    np.testing.assert_allclose(found.values, sums / trials, atol=0.06)
    np.testing.assert_allclose(found.values.mean(0), sums.mean(0) / trials, atol=0.005)


def test_ndcg_is_that_of_the_scripts_library() -> None:
    torch = pytest.importorskip("torch")
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    qrels, queries, scores = drawn(3, positive=True)
    rows = clamr.judgment_rows(queries, qrels)
    # As in the script: a score for every pair of rows, a target for every pair, 1 on the diagonal.
    matrix = np.array([candidate_scores(rows, row, scores) for row in rows])
    size = len(rows)
    metric = retrieval.RetrievalNormalizedDCG(top_k=10)
    theirs = metric(
        torch.tensor(matrix.ravel(), dtype=torch.float32),
        torch.eye(size, dtype=torch.long).ravel(),
        indexes=torch.arange(size).repeat_interleave(size),
    )
    found = clamr.evaluate_rows(Ranking.from_scores(scores), qrels, queries, queries)
    assert found.mean("nDCG@10 (row)") == pytest.approx(float(theirs), abs=1e-6)


def test_scores_of_any_scale_give_the_same_figures() -> None:
    """The library drops relevant documents with scores <= 0; here ranks alone count."""
    qrels, queries, scores = drawn(4)
    moved = {query: {d: s / 7 - 100 for d, s in row.items()} for query, row in scores.items()}
    one = clamr.evaluate_rows(Ranking.from_scores(scores), qrels, queries, queries)
    two = clamr.evaluate_rows(Ranking.from_scores(moved), qrels, queries, queries)
    np.testing.assert_array_equal(one.values, two.values)
    assert one.values.any()


@pytest.mark.parametrize("seed", range(5))
def test_ideals_bound_and_are_reached(seed: int) -> None:
    qrels, queries, scores = drawn(seed)
    rows = clamr.judgment_rows(queries, qrels)
    best = clamr.ideals(rows, qrels, clamr.copies(rows))
    found = clamr.evaluate_rows(Ranking.from_scores(scores), qrels, queries, queries)
    assert (found.values <= best["gold copies first"] + 1e-12).all()
    perfect = Ranking.from_scores({query: dict.fromkeys(row, 1.0) for query, row in qrels.items()})
    reached = clamr.evaluate_rows(perfect, qrels, queries, queries)
    np.testing.assert_allclose(reached.values, best["all relevant first"], atol=1e-12)
    means = clamr.ideal_means(qrels, queries, queries)["all relevant first"]
    assert means == pytest.approx(reached.means())


def test_some_queries_meet_all_candidates() -> None:
    qrels, queries, scores = drawn(5)
    ranking = Ranking.from_scores(scores)
    every = clamr.evaluate_rows(ranking, qrels, queries, queries)
    some = clamr.evaluate_rows(ranking, qrels, queries[:7], queries)
    np.testing.assert_array_equal(some.values, every.values[: len(some.values)])
    assert some.query_ids == every.query_ids[: len(some.query_ids)]


def test_rows_are_judgments_and_have_ids_of_their_own() -> None:
    queries = [Query("q", "x", attributes={REPEATED: "b b"}), Query("r", "y"), Query("s", "z")]
    rows = clamr.judgment_rows(queries, {"q": {"a": 1, "b": 2, "c": 0}, "r": {"a": 1}})
    assert [(row.id, row.document) for row in rows] == [
        ("q#1", "a"), ("q#2", "b"), ("q#3", "b"), ("q#4", "b"), ("r#1", "a"),
    ]  # fmt: skip
    assert clamr.copies(rows) == {"a": 2, "b": 3}


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        clamr.evaluate_rows(Ranking({}), {}, [Query("q", "x")], [Query("q", "x")])


# --- the real judgments ------------------------------------------------------------------------


def real(folder: Path) -> tuple[list[Query], Qrels]:
    """The human queries, read here without the code that prepares them."""
    source = folder / "multivent"
    qrels: Qrels = {}
    repeated: dict[str, list[str]] = {}
    with (source / "multivent_2_train_judgments.jsonl").open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            row = qrels.setdefault(line["query_id"], {})
            if line["doc_id"] in row:
                repeated.setdefault(line["query_id"], []).append(line["doc_id"])
            row[line["doc_id"]] = line["relevance"]
    with (source / "multivent_2_train_queries.csv").open(encoding="utf-8-sig", newline="") as file:
        queries = [
            Query(
                row["Query_id"],
                row["query"],
                attributes={REPEATED: " ".join(repeated.get(row["Query_id"], []))},
            )
            for row in csv.DictReader(file)
        ]
    return queries, qrels


def percent(values: NDArray[np.float64]) -> list[float]:
    return [round(float(v) * 100, 2) for v in values.mean(axis=0)]


@pytest.mark.realdata
def test_ideal_retrievers_on_the_real_judgments(real_data: Path) -> None:
    """What makes the published protocol saturated: nobody can get more than about 26 and 60."""
    queries, qrels = real(real_data)
    rows = clamr.judgment_rows(queries, qrels)
    copies = clamr.copies(rows)
    assert (len(rows), len(copies), copies.total()) == (1520, 417, 1520)
    best = clamr.ideals(rows, qrels, copies)
    assert percent(best["gold copies first"]) == [27.43, 93.62, 99.61, 64.81]
    assert percent(best["all relevant first"]) == [26.28, 88.23, 90.22, 60.29]
    base = np.array(["_base_" in row.query.id for row in rows])
    every = best["all relevant first"]
    assert base.sum() == 558
    assert percent(every[base])[2:] == [73.64, 50.35]
    many = {query for query, row in qrels.items() if len(row) == 19}
    assert len(many) == 8
    assert len({query.text for query in queries if query.id in many}) == 1
    rest = base & np.array([row.query.id not in many for row in rows])
    assert rest.sum() == 406 == 558 - 152
    assert percent(every[rest])[2:] == [99.26, 68.31]


@pytest.mark.realdata
def test_the_page_has_the_figures_of_the_real_judgments(real_data: Path) -> None:
    queries, qrels = real(real_data)
    rows = clamr.judgment_rows(queries, qrels)
    best = clamr.ideals(rows, qrels, clamr.copies(rows))
    base = np.array(["_base_" in row.query.id for row in rows])
    few = np.array([len(qrels[row.query.id]) <= 10 for row in rows])
    page = (Path(__file__).parents[1] / "docs/multivent.md").read_text(encoding="utf-8")
    every = best["all relevant first"]
    for values in (best["gold copies first"], every, every[base], every[base & few]):
        line = f"| {len(values):,} | " + " | ".join(f"{v:.2f}" for v in percent(values)) + " |"
        assert line in page
    sizes = [len(row) for row in qrels.values()]
    assert [sizes.count(1), sum(1 < size <= 10 for size in sizes), sizes.count(19)] == [1343, 10, 8]
    assert max(sizes) == 19
    counts = clamr.copies(rows).values()
    assert (min(counts), max(counts)) == (1, 11)


@pytest.mark.realdata
def test_one_wrong_video_costs_all_its_copies(real_data: Path) -> None:
    """A random wrong video before the right ones: R@5 falls to about 40%."""
    queries, qrels = real(real_data)
    documents = sorted({d for row in qrels.values() for d in row})
    random = np.random.default_rng(0)
    scores: Scores = {}
    for query, row in qrels.items():
        wrong = next(d for d in random.permutation(documents).tolist() if d not in row)
        scores[query] = {wrong: 2.0, **dict.fromkeys(row, 1.0)}
    found = clamr.evaluate_rows(Ranking.from_scores(scores), qrels, queries, queries)
    assert 0.38 < found.mean("R@5 (row)") < 0.42
    assert found.mean("R@1 (row)") == 0
