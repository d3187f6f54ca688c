"""Paired tests against scipy and against all permutations; `compare` as a user gives it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.results import ResultsStore
from harness.significance import holm, paired_test, permutation_p
from tests.conftest import Command
from tests.test_cli_fuse import TASK, edit, runs

DIFFERENCES = st.lists(
    st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.125, 0.5]), min_size=1, max_size=9
)


@settings(max_examples=60)
@given(DIFFERENCES)
def test_few_queries_are_permuted_in_all_ways(differences: list[float]) -> None:
    every = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([value >= abs(sum(differences)) - 1e-12 for value in every])
    assert permutation_p(np.array(differences), 0, 10) == pytest.approx(expected)


def test_many_queries_give_the_p_value_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    one, other = rng.random(60), rng.random(60) + 0.1
    ours = paired_test(other, one, seed=1, permutations=50_000)
    theirs = stats.permutation_test(
        (other, one), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples",
        n_resamples=50_000, vectorized=True, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.006)
    assert (ours.wins, ours.ties, ours.losses) == (
        int((other > one).sum()), 0, int((other < one).sum()),
    )  # fmt: skip
    differences = other - one
    assert ours.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert ours.difference.low < differences.mean() < ours.difference.high


def test_the_test_is_as_often_wrong_as_it_says_and_finds_what_is_detectable() -> None:
    rng = np.random.default_rng(5)
    nothing = [permutation_p(rng.standard_normal(40), seed, 400) <= 0.05 for seed in range(600)]
    assert 0.03 <= np.mean(nothing) <= 0.07
    found = []
    for seed in range(300):
        sample = rng.standard_normal(40)
        detectable = paired_test(sample, np.zeros(40), 0, 1).detectable
        assert detectable == pytest.approx(2.8016 * sample.std(ddof=1) / math.sqrt(40), rel=1e-3)
        found.append(permutation_p(sample + 2.8016 / math.sqrt(40), seed, 400) <= 0.05)
    assert 0.72 <= np.mean(found) <= 0.88


def test_nothing_differs() -> None:
    same = np.array([0.5, 0.25, 1.0])
    test = paired_test(same, same, 0)
    assert (test.p, test.effect, test.detectable, test.ties) == (1.0, 0.0, 0.0, 3)
    assert paired_test(same + 0.25, same, 0).effect == math.inf
    with pytest.raises(UsageError, match="cannot be paired"):
        paired_test(same, same[:2], 0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


# --- The command ------------------------------------------------------------------------------


@pytest.fixture
def pair(bench: Command, v1: Path, tmp_path: Path) -> tuple[str, str]:
    outcome = bench("run", *TASK, "--retriever", "random", "--retriever", "bm25-description")
    assert outcome.status == 0, outcome.err
    names = ("random", "bm25-description")
    first, second = (runs(tmp_path, name)[0].result.run_id for name in names)
    return first, second


def test_two_runs(bench: Command, pair: tuple[str, str], tmp_path: Path) -> None:
    outcome = bench("compare", *pair, "--json")
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    store = ResultsStore(tmp_path / "results")
    first, second = (store.find(run).result for run in pair)
    assert [row["measure"] for row in found["rows"]] == first.task.protocol.measures
    for row in found["rows"]:
        difference = second.measures[row["measure"]].mean - first.measures[row["measure"]].mean
        assert row["test"]["difference"]["mean"] == pytest.approx(difference)
        test = row["test"]
        assert test["wins"] + test["ties"] + test["losses"] == first.evaluation.queries
        assert row["p"] >= test["p"]
    moved = found["moves"][pair[1]]
    changes = [abs(move["value"] - move["baseline"]) for move in moved]
    assert changes == sorted(changes, reverse=True)
    shown = bench("compare", *pair, "--measure", "nDCG@10", "--moves", "2")
    assert "bm25-description" in shown.out
    assert "Success@1" not in shown.out


def test_groups_are_tested_apart(bench: Command, pair: tuple[str, str]) -> None:
    outcome = bench("compare", *pair, "--json", "--by", "event_category", "--measure", "RR")
    assert outcome.status == 0, outcome.err
    rows = json.loads(outcome.out)["rows"]
    assert [row["group"] for row in rows] == [
        None, "event_category=political", "event_category=social",
    ]  # fmt: skip
    assert [row["test"]["difference"]["n"] for row in rows] == [6, 3, 3]
    bench("compare", *pair, "--by", "event_categroy").fails("Did you mean 'event_category'")


def test_what_is_not_to_be_compared(bench: Command, pair: tuple[str, str], tmp_path: Path) -> None:
    bench("compare", pair[0]).fails("two runs or more")
    bench("compare", *pair, "--measure", "MAP").fails("'MAP' is none of these runs'")
    store = ResultsStore(tmp_path / "results")
    run = store.find(pair[1])
    whole = (run.folder / "result.json").read_text()
    for change, words in [
        ({"data__fingerprint": "0" * 64}, "data fingerprint differs"),
        ({"task__protocol__name": "other"}, "protocol differs (v1, and other)"),
        ({"task__version": "9"}, "task differs"),
        ({"options__limit": 3}, "limit differs"),
        ({"task__protocol__measures": ["RR"]}, "measures differs"),
    ]:
        edit(run, **change)
        bench("compare", *pair).fails(words)
        (run.folder / "result.json").write_text(whole)
    (run.folder / "per_query.parquet").write_bytes(b"no")
    bench("compare", *pair).fails("per_query.parquet cannot be read")
