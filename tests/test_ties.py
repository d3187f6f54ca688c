"""Rows tied for first: those that the queries do not tell from the best."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.reporting.leaderboard import render
from harness.reporting.tables import Table, read_tables
from harness.results import ResultsStore, SavedRun
from harness.results.per_query import read_per_query, write_per_query
from tests.conftest import Command
from tests.test_tables import copy, edit


@pytest.fixture
def run(bench: Command, v1: Path, tmp_path: Path) -> SavedRun:
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-description")
    [saved] = ResultsStore(tmp_path / "results").runs()
    return saved


def twin(run: SavedRun, name: str, change: list[float]) -> SavedRun:
    """A run of another retriever whose values differ by `change` from the given run's."""
    made = copy(run, name)
    path = made.folder / "per_query.parquet"
    ids, values, measures = read_per_query(path)
    values = values + np.resize(change, len(ids))[:, None]
    write_per_query(path, ids, values, measures)
    means = dict(zip(measures, values.mean(axis=0).tolist(), strict=True))
    estimates = {m: {"mean": mean, "low": mean, "high": mean} for m, mean in means.items()}
    edit(
        made,
        retriever__fingerprint=name * 16,
        retriever__address=f"twin-{name}",
        measures=estimates,
    )
    return made


def table(bench: Command, folder: Path) -> Table:
    assert bench("leaderboard").status == 0
    [file] = read_tables(folder)
    return file.tables[0]


def test_a_row_is_tied_where_the_interval_of_its_differences_holds_0(
    bench: Command, run: SavedRun, tmp_path: Path
) -> None:
    twin(run, "aaaa", [-0.2, 0.15])  # Worse on average, but not on every query.
    twin(run, "bbbb", [-0.2, -0.15])  # Worse on every one.
    found = table(bench, tmp_path / "results")
    tied = {row.retriever: row.tied for row in found.rows}
    assert tied == {"bm25-description": True, "twin-aaaa": True, "twin-bbbb": False}
    text = (tmp_path / "leaderboard.md").read_text()
    assert text == render(read_tables(tmp_path / "results"))
    assert "| twin-aaaa (tied for first) |" in text
    assert "| bm25-description (tied for first) |" in text
    assert "| twin-bbbb |" in text
    assert "query by query on nDCG@10, includes 0" in text
    bench("leaderboard", "--html")
    assert (tmp_path / "leaderboard.html").read_text().count(">tied for first<") == 2


def test_the_best_alone_is_tied_with_nobody(bench: Command, run: SavedRun, tmp_path: Path) -> None:
    found = table(bench, tmp_path / "results")
    assert found.rows[0].tied is None, "there is nothing to compare it with"
    twin(run, "bbbb", [-0.2, -0.15])
    found = table(bench, tmp_path / "results")
    assert [row.tied for row in found.rows] == [False, False]
    assert "tied for first" not in (tmp_path / "leaderboard.md").read_text()


def test_oracles_and_values_that_cannot_be_paired_are_left_out(
    bench: Command, run: SavedRun, tmp_path: Path
) -> None:
    oracle = twin(run, "aaaa", [0.3])
    edit(oracle, retriever__oracle=True)
    gone = twin(run, "bbbb", [-0.01, 0.01])
    (gone.folder / "per_query.parquet").unlink()
    others = twin(run, "cccc", [-0.01])
    path = others.folder / "per_query.parquet"
    ids, values, measures = read_per_query(path)
    write_per_query(path, [f"other-{id_}" for id_ in ids], values, measures)
    twin(run, "dddd", [-0.02, 0.01])
    found = table(bench, tmp_path / "results")
    assert {row.retriever: row.tied for row in found.rows} == {
        "twin-aaaa": None,
        "bm25-description": True,
        "twin-bbbb": None,
        "twin-cccc": None,
        "twin-dddd": True,
    }


def test_older_table_files_stay_readable(bench: Command, run: SavedRun, tmp_path: Path) -> None:
    table(bench, tmp_path / "results")
    path = tmp_path / "results/tables/multivent@1/v1.json"
    values = json.loads(path.read_text())
    for row in values["tables"][0]["rows"]:
        del row["tied"]
    path.write_text(json.dumps(values))
    [file] = read_tables(tmp_path / "results")
    assert file.tables[0].rows[0].tied is None
