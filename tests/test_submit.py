"""Runs whose judgments are not public: saved without figures, written as a submission."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

import harness.files
from harness.results import ResultsStore, SavedRun
from harness.runfile import read_ranking
from tests.conftest import Command
from tests.test_cli_run import plugin
from tests.test_multivent_tasks import GRADED, TEST_QUERIES, official, prepared, train

RUN = ("run", "--task", "multivent/official", "--retriever")


@pytest.fixture
def unjudged(bench: Command, tmp_path: Path) -> SavedRun:
    """A run on the test set without judgments."""
    prepared(tmp_path, train, official({}))
    outcome = bench(*RUN, "bm25-text")
    assert outcome.status == 0, outcome.err
    [run] = ResultsStore(tmp_path / "results").runs()
    return run


def test_a_run_without_judgments_is_saved_without_figures(
    bench: Command, unjudged: SavedRun, tmp_path: Path
) -> None:
    result = unjudged.result
    assert (result.measures, result.breakdowns, result.references) == ({}, {}, {})
    assert (result.evaluation.queries, result.evaluation.without_positives) == (0, 3)
    shown = bench(*RUN, "bm25-text")
    assert f"clamr-bench submit {result.run_id}" in shown.out
    assert "complete already" in shown.err
    assert "not judged" in bench("results", "list").out
    assert f"submit {result.run_id}" in bench("results", "show", result.run_id).out
    assert bench("results", "check").status == 0
    run = unjudged.folder / "run.trec.gz"
    bench("evaluate", run, "--task", "multivent/official").fails("no judgments", "leaderboard")


def test_a_run_without_figures_is_in_no_table(
    bench: Command, unjudged: SavedRun, tmp_path: Path
) -> None:
    bench("run", "--task", "multivent", "--retriever", "random")
    assert bench("leaderboard").status == 0
    text = (tmp_path / "leaderboard.md").read_text()
    assert "## multivent (test)" in text
    assert "official" not in text


def test_a_changed_run_without_figures_is_found(bench: Command, unjudged: SavedRun) -> None:
    run = unjudged.folder / "run.trec.gz"
    run.write_bytes(run.read_bytes() + b" ")
    bench("results", "check").fails("was changed since the run")
    bench("submit", unjudged.result.run_id).fails("was changed since the run", "again")


def test_the_submission_is_the_run(bench: Command, unjudged: SavedRun, tmp_path: Path) -> None:
    outcome = bench("submit", unjudged.result.run_id)
    assert outcome.status == 0, outcome.err
    assert "eval.ai" in outcome.out
    path = unjudged.folder / "submission.json"
    submission = json.loads(path.read_text(encoding="utf-8"))
    ranking = read_ranking(unjudged.folder / "run.trec.gz")
    assert list(submission) == [query.id for query in TEST_QUERIES], "every query, in order"
    for query, row in submission.items():
        ranked = ranking.get(query)
        assert list(row) == (list(ranked.documents) if ranked else [])
        assert list(row.values()) == (ranked.scores.tolist() if ranked else [])
    assert submission[TEST_QUERIES[2].id] == {}
    assert "1 queries have no documents" in outcome.out
    assert "-w1" in submission[TEST_QUERIES[0].id], "ids may begin with a dash"
    assert bench("results", "check").status == 0, "the submission changes nothing of the run"


def test_what_is_submitted_scores_as_the_run_does(
    bench: Command, unjudged: SavedRun, tmp_path: Path
) -> None:
    """Whoever holds the judgments gets from the file what we get from the run."""
    file = tmp_path / "mine.json"
    assert bench("submit", unjudged.folder, "--output", file).status == 0
    prepared(tmp_path, official(GRADED))
    shown = [
        bench("evaluate", path, "--task", "multivent/official").out.splitlines()[2:]
        for path in (file, unjudged.folder / "run.trec.gz")
    ]
    assert shown[0] == shown[1]
    assert "nDCG@10" in "".join(shown[0])


def test_only_the_first_k_documents(bench: Command, tmp_path: Path) -> None:
    prepared(tmp_path, official({}))
    body = """
        return Ranking.from_scores(
            {q.id: {d: 0.1 + 1 / (i + 3) for i, d in enumerate(self.ids)} for q in queries}
        )"""
    path = plugin(tmp_path, body)
    code = Path(path.rpartition(":")[0])
    code.write_text(code.read_text().replace("Modality.DESCRIPTION", "Modality.ASR"))
    assert bench(*RUN, path).status == 0
    [run] = ResultsStore(tmp_path / "results").runs()
    assert bench("submit", run.folder, "--k", "2").status == 0
    rows = json.loads((run.folder / "submission.json").read_text()).values()
    assert [list(row) for row in rows] == [["w0", "-w1"]] * 3
    assert [row["-w1"] for row in rows] == [0.1 + 1 / 4] * 3, "scores are not rounded"
    assert bench("submit", run.folder, "--k", "0").status != 0


# --- what it refuses -----------------------------------------------------------------------------


def test_runs_of_other_tasks(bench: Command, unjudged: SavedRun, tmp_path: Path) -> None:
    bench("run", "--task", "multivent", "--retriever", "random")
    other = next(
        run
        for run in ResultsStore(tmp_path / "results").runs()
        if run.result.task.address == "multivent"
    )
    bench("submit", other.result.run_id).fails("'multivent'", "takes no submissions", "official")
    assert not (other.folder / "submission.json").exists()
    bench("submit", "nothing").fails("no single run 'nothing'")
    bench("submit", tmp_path).fails("no complete run")


def test_a_part_of_the_queries(bench: Command, tmp_path: Path) -> None:
    prepared(tmp_path, official({}))
    bench(*RUN, "random", "--limit", "2")
    [run] = ResultsStore(tmp_path / "results").runs()
    bench("submit", run.folder).fails("first 2 queries only", "without --limit")


def test_data_that_changed_since(bench: Command, unjudged: SavedRun, tmp_path: Path) -> None:
    prepared(tmp_path, lambda w: w.write_split("test", [], TEST_QUERIES, {}))
    bench("submit", unjudged.folder).fails("other data", "--data")


def test_data_elsewhere(bench: Command, unjudged: SavedRun, tmp_path: Path) -> None:
    store = tmp_path / "data/multivent/default"
    store.rename(tmp_path / "moved")
    bench("submit", unjudged.folder).fails("no data yet")
    assert bench("submit", unjudged.folder, "--data", tmp_path / "moved").status == 0


def test_a_full_disk_leaves_the_earlier_file(
    bench: Command, unjudged: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mine.json"
    target.write_text("earlier")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(harness.files.os, "replace", full)
    bench("submit", unjudged.folder, "--output", target).fails("disk is full")
    assert target.read_text() == "earlier"
    assert list(tmp_path.glob("*mine.json*")) == [target], "nothing half written is left"


def test_with_judgments_a_run_can_be_submitted_too(bench: Command, tmp_path: Path) -> None:
    prepared(tmp_path, official(GRADED))
    bench(*RUN, "bm25-text")
    [run] = ResultsStore(tmp_path / "results").runs()
    assert np.isfinite(run.result.measures["nDCG@10"].mean)
    assert bench("submit", run.folder).status == 0
