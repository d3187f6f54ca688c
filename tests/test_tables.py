"""Versioned tables and the leaderboard: what shares a table, what is listed, what is bold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.reporting.leaderboard import render
from harness.reporting.tables import Table, read_tables, update_tables
from harness.results import Result, ResultsStore, SavedRun
from harness.results.per_query import read_per_query
from tests.conftest import Command

ROOT = Path(__file__).parent.parent


def tables(folder: Path) -> list[Table]:
    return [table for file in read_tables(folder) for table in file.tables]


def edit(run: SavedRun, **changes: object) -> None:
    """Rewrite parts of a saved result: what another data version, task version ... would give."""
    values = json.loads((run.folder / "result.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = values
        for parent in parents:
            target = target[parent]
        target[last] = value
    (run.folder / "result.json").write_text(json.dumps(values))


def copy(run: SavedRun, suffix: str) -> SavedRun:
    """Copy a run folder, as a repeated run would leave it."""
    folder = run.folder.with_name(f"{run.folder.name[:-4]}{suffix}")
    shutil.copytree(run.folder, folder)
    copied = SavedRun(folder, run.result)
    edit(copied, run_id=folder.name)
    return copied


@pytest.fixture
def results(bench: Command, v1: Path, tmp_path: Path) -> Path:
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-description")
    return tmp_path / "results"


def test_each_cell_names_its_run(bench: Command, results: Path) -> None:
    assert bench("leaderboard").status == 0
    [table] = tables(results)
    [run] = ResultsStore(results).runs()
    [row] = table.rows
    for measure, cell in row.cells.items():
        assert cell.runs == [run.result.run_id]
        assert cell.mean == run.result.measures[measure].mean
    assert (results / "tables/multivent@1/v1.json").is_file()
    text = (results.parent / "leaderboard.md").read_text()
    assert text == render(read_tables(results))
    assert "bm25-description" in text


def test_tables_and_leaderboard_are_deterministic(bench: Command, results: Path) -> None:
    bench("run", "--task", "multivent/v1", "--retriever", "random", "--retriever", "bm25-text")
    bench("leaderboard")
    path = results / "tables/multivent@1/v1.json"
    first = path.read_bytes(), (results.parent / "leaderboard.md").read_bytes()
    runs = list(ResultsStore(results).runs())
    update_tables(results, reversed(runs))
    bench("leaderboard")
    assert (path.read_bytes(), (results.parent / "leaderboard.md").read_bytes()) == first


def test_limited_and_untrained_runs_are_not_listed(bench: Command, results: Path) -> None:
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-text", "--limit", "3")
    bench("run", "--task", "multivent/v1", "--retriever", "random")
    untrained = next(r for r in ResultsStore(results).runs() if r.result.retriever.name == "random")
    edit(untrained, retriever__untrained=True)
    bench("leaderboard")
    [table] = tables(results)
    assert [row.retriever for row in table.rows] == ["bm25-description"]


def test_several_seeds_are_one_row_averaged_by_query(bench: Command, results: Path) -> None:
    for seed in ("0", "1", "2"):
        bench("run", "--task", "multivent/v1", "--retriever", "random", "--seed", seed)
    bench("leaderboard")
    [table] = tables(results)
    row = next(row for row in table.rows if row.retriever == "random")
    assert row.seeds == [0, 1, 2]
    runs = [r for r in ResultsStore(results).runs() if r.result.retriever.name == "random"]
    assert len({r.result.retriever.fingerprint for r in runs}) == 1
    assert len({r.result.fingerprint for r in runs}) == 3
    means = [run.result.measures["nDCG@10"].mean for run in runs]
    assert len(set(means)) > 1, "seeds that change nothing would prove nothing"
    cell = row.cells["nDCG@10"]
    assert cell.mean == pytest.approx(np.mean(means))
    assert cell.low <= cell.mean <= cell.high
    assert len(cell.runs) == 3
    assert "mean of 3 seeds" in (results.parent / "leaderboard.md").read_text()


def test_of_repeats_the_newest_stays(bench: Command, results: Path) -> None:
    [run] = ResultsStore(results).runs()
    newer = copy(run, "aaaa")
    edit(newer, created="2999-01-01T00:00:00+00:00", measures__AP__mean=0.123)
    bench("leaderboard")
    [table] = tables(results)
    assert table.rows[0].cells["AP"].runs == [newer.folder.name]
    assert table.rows[0].cells["AP"].mean == 0.123


@pytest.mark.parametrize(
    "change",
    [
        {"data__fingerprint": "f" * 64},
        {"task__protocol__measures": ["nDCG@10", "AP"]},
        {"task__version": "2"},
    ],
)
def test_other_data_measures_or_versions_start_a_new_table(
    bench: Command, results: Path, change: dict[str, object]
) -> None:
    bench("leaderboard")
    [run] = ResultsStore(results).runs()
    newer = copy(run, "bbbb")
    if "task__protocol__measures" in change:
        kept = {m: e.model_dump() for m, e in run.result.measures.items() if m in ("nDCG@10", "AP")}
        change = {**change, "measures": kept}
    edit(newer, created="2999-01-01T00:00:00+00:00", **change)
    bench("leaderboard")
    found = {table.superseded: table for table in tables(results)}
    assert len(tables(results)) == 2
    assert found[True].identity.data_fingerprint == run.result.data.fingerprint
    assert found[False].rows[0].cells["AP"].runs == [newer.folder.name]
    text = (results.parent / "leaderboard.md").read_text()
    assert text.index("## multivent/v1") < text.index("## Superseded")


def test_another_setting_or_split_of_the_task_is_a_table_beside_it(
    bench: Command, results: Path
) -> None:
    [run] = ResultsStore(results).runs()
    edit(copy(run, "cccc"), task__changed_settings={"seed": 1}, data__fingerprint="e" * 64)
    edit(copy(run, "dddd"), task__split="validation", data__fingerprint="d" * 64)
    bench("leaderboard")
    assert [table.superseded for table in tables(results)] == [False, False, False]


def test_an_old_table_outlives_its_runs(bench: Command, results: Path) -> None:
    bench("leaderboard")
    [run] = ResultsStore(results).runs()
    edit(run, data__fingerprint="f" * 64, created="2999-01-01T00:00:00+00:00")
    bench("leaderboard")
    old = [table for table in tables(results) if table.superseded]
    assert [table.identity.data_fingerprint for table in old] == [run.result.data.fingerprint]


def test_ties_are_bold_together_and_oracles_never(bench: Command, results: Path) -> None:
    [run] = ResultsStore(results).runs()
    same = copy(run, "eeee")
    edit(same, retriever__fingerprint="1" * 64, retriever__address="twin")
    oracle = copy(run, "ffff")
    edit(
        oracle,
        retriever__fingerprint="2" * 64,
        retriever__address="seer",
        retriever__oracle=True,
        measures__AP={"mean": 1.0, "low": 1.0, "high": 1.0},
    )
    bench("leaderboard")
    lines = (results.parent / "leaderboard.md").read_text().splitlines()
    rows = {line.split()[1]: line for line in lines if line.startswith("| ")}
    measures = len(run.result.measures)
    assert rows["bm25-description"].count("**") == 2 * measures
    assert rows["twin"].count("**") == 2 * measures
    assert rows["seer"].count("**") == 0
    assert "(oracle)" in rows["seer"]


def test_a_table_of_a_newer_schema_is_refused(bench: Command, results: Path) -> None:
    bench("leaderboard")
    path = results / "tables/multivent@1/v1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    bench("leaderboard").fails("schema version 99", "update")


def test_the_committed_leaderboard_is_made_of_the_committed_tables() -> None:
    files = read_tables(ROOT / "results")
    assert files, "results/tables is committed"
    assert (ROOT / "leaderboard.md").read_text(encoding="utf-8") == render(files)


def test_the_committed_tables_are_made_of_the_committed_runs(tmp_path: Path) -> None:
    """Each cell of a current table is the figure of the run that it names; runs are unharmed."""
    runs = {run.result.run_id: run for run in ResultsStore(ROOT / "results").runs()}
    assert all(run.check() == [] for run in runs.values())
    checked = 0
    for table in tables(ROOT / "results"):
        for row in table.rows:
            for measure, cell in row.cells.items():
                values = []
                for run_id in cell.runs:
                    _, per_query, measures = read_per_query(
                        runs[run_id].folder / "per_query.parquet"
                    )
                    values.append(per_query[:, measures.index(measure)])
                # Several seeds are averaged query by query; MdR is a median.
                together = np.median if measure == "MdR" else np.mean
                found = together(np.mean(values, axis=0))
                assert cell.mean == pytest.approx(found, abs=1e-12)
                checked += 1
    assert checked


def test_every_committed_result_is_readable() -> None:
    """Older schema versions stay readable: none of these files may ever stop to load."""
    paths = list((ROOT / "results/runs").rglob("result.json"))
    assert paths
    for path in paths:
        assert Result.read(path).run_id == path.parent.name
