"""`clamr-bench data`, `tasks`, `retrievers`, `evaluate`, `results` as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.registry import RETRIEVERS, TASKS
from harness.results import ResultsStore
from tests.conftest import Command


def test_prepare_check_stats_list(bench: Command, v1_source: Path, tmp_path: Path) -> None:
    prepared = bench("data", "prepare", "multivent/v1", "--source", v1_source)
    assert prepared.status == 0, prepared.err
    assert "18" in prepared.out
    assert bench("data", "check", "multivent/v1").status == 0
    stats = bench("data", "stats", "multivent/v1").out
    assert "with description" in stats
    assert "russian" in stats
    assert "multivent/v1" in bench("data", "list").out


def test_prepare_elsewhere_and_point_at_it(bench: Command, v1_source: Path, tmp_path: Path) -> None:
    store = tmp_path / "elsewhere"
    assert (
        bench("data", "prepare", "multivent/v1", "--source", v1_source, "--data", store).status == 0
    )
    command = ("run", "--task", "multivent/v1", "--retriever", "bm25-text", "--data", store)
    assert bench(*command).status == 0
    assert bench("data", "check", store).status == 0


def test_nothing_prepared_yet(bench: Command) -> None:
    assert "no prepared datasets" in bench("data", "list").out
    bench("data", "check", "multivent/v1").fails("no data yet", "data prepare multivent/v1")


def test_prepare_mistakes(bench: Command, tmp_path: Path) -> None:
    bench("data", "prepare", "multivent/v1").fails("--source DIR")
    bench("data", "prepare", "multivent/v1", "--source", tmp_path / "no").fails("not a folder")
    (tmp_path / "empty").mkdir()
    bench("data", "prepare", "multivent/v1", "--source", tmp_path / "empty").fails(
        "multivent_base.csv"
    )


def test_a_changed_byte_is_named(bench: Command, v1: Path, tmp_path: Path) -> None:
    part = tmp_path / "data/multivent/v1/test/documents-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    bench("data", "check", "multivent/v1").fails("test/documents-00000.parquet", "prepare")


def test_a_truncated_part_is_named_by_every_command(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    part = tmp_path / "data/multivent/v1/test/queries.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    for command in (
        ("data", "stats", "multivent/v1"),
        ("run", "--task", "multivent/v1", "--retriever", "random"),
    ):
        bench(*command).fails("queries.parquet", "truncated")


def test_every_plugin_shows_its_licence_and_citation(bench: Command) -> None:
    for registry, command in ((TASKS, "tasks"), (RETRIEVERS, "retrievers")):
        listing = bench(command).out
        for name in registry.names():
            assert name in listing
            about = registry.find(name).plugin.about
            shown = " ".join(bench(command, name).out.split())
            assert about.licence.split()[0] in shown
            assert about.citation.split()[0] in shown


def test_a_broken_plugin_is_an_error_that_names_it(
    bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    import harness.registry

    real = harness.registry.entry_points
    group = "clamr_bench.retrievers"
    broken = EntryPoint("broken", "no_such_module:Thing", group)

    def more(**given: str) -> object:
        found = list(real(**given))
        return [*found, broken] if given.get("group") == group else found

    monkeypatch.setattr(harness.registry, "entry_points", more)
    outcome = bench("retrievers")
    outcome.fails("'broken'", "no_such_module")
    assert "bm25-text" in outcome.out, "the others are still listed"


# --- evaluate --------------------------------------------------------------------------------


@pytest.fixture
def run_file(bench: Command, v1: Path, tmp_path: Path) -> Path:
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-text")
    [run] = ResultsStore(tmp_path / "results").runs()
    return run.folder / "run.trec.gz"


def test_a_run_of_another_task(bench: Command, v1: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"no_event": {"video00": 1.0}}))
    bench("evaluate", path, "--task", "multivent/v1", "--ignore-unknown").fails("none of the 6")


def test_evaluate_json(bench: Command, v1: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"river_tower": {"video00": 2.0, "video01": 1.5}}))
    outcome = bench("evaluate", path, "--task", "multivent/v1")
    assert outcome.status == 0, outcome.err
    assert "5 queries have no documents in the run; they count 0" in outcome.out
    # One of six queries has a hit at rank 1: Success@1 = 16.67.
    assert "16.67" in outcome.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"river_tower": {"video99": 1.0}}, ("1 unknown documents", "--ignore-unknown")),
        (
            {"river_tower": {"video00": 1.0}, "no_event": {"video00": 1.0}},
            ("1 unknown queries (first 'no_event')", "--ignore-unknown"),
        ),
    ],
)
def test_evaluate_refuses_unknown_ids_unless_told(
    bench: Command, v1: Path, tmp_path: Path, content: object, words: tuple[str, ...]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    bench("evaluate", path, "--task", "multivent/v1").fails(*words)
    outcome = bench("evaluate", path, "--task", "multivent/v1", "--ignore-unknown")
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no",)),
        (b"", ("empty",)),
        (b'{"river_tower": {"video00": NaN}}', ("nan",)),
        (b'{"river_tower": 3}', ("river_tower",)),
        (b"river_tower Q0 video00 1 inf tag\n", ("inf",)),
        (b"river_tower Q0 video00 1 2.0\n", ("1",)),
        (b"\x1f\x8b\x08\x00truncated", ()),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ()),
    ],
)
def test_evaluate_bad_files(
    bench: Command, v1: Path, tmp_path: Path, content: bytes | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / "run.txt"
    if content is not None:
        path.write_bytes(content)
    bench("evaluate", path, "--task", "multivent/v1").fails("run.txt", *words)


def test_evaluate_truncated_gz(bench: Command, run_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.trec.gz"
    path.write_bytes(run_file.read_bytes()[:-20])
    bench("evaluate", path, "--task", "multivent/v1").fails("cut.trec.gz")


# --- results ---------------------------------------------------------------------------------


def test_results_list_show_check(bench: Command, run_file: Path) -> None:
    run_id = run_file.parent.name
    assert run_id in bench("results", "list").out
    shown = bench("results", "show", run_id[:17])
    assert shown.status == 0, shown.err
    assert "nDCG@10" in shown.out
    assert "event_category" in shown.out
    assert bench("results", "show", run_file.parent).status == 0
    assert "as they were written" in bench("results", "check").out


def test_results_mistakes(bench: Command, run_file: Path, tmp_path: Path) -> None:
    bench("results", "show", "1999").fails("no single run '1999'")
    result = run_file.parent / "result.json"
    values = json.loads(result.read_text())
    result.write_text(json.dumps(values | {"schema_version": 99}))
    bench("results", "list").fails("schema version 99", "update")
    result.write_text(json.dumps({key: v for key, v in values.items() if key != "measures"}))
    bench("results", "check").fails("result.json", "measures")
    result.write_text(json.dumps(values)[:-30])
    bench("leaderboard").fails("result.json")
    values["measures"]["nDCG@10"]["mean"] += 0.1
    result.write_text(json.dumps(values))
    bench("results", "check").fails("nDCG@10", "per-query")
    result.unlink()
    bench("results", "show", run_file.parent).fails("no complete run")


def test_results_check_finds_a_changed_file(bench: Command, run_file: Path) -> None:
    run_file.write_bytes(run_file.read_bytes() + b" ")
    bench("results", "check").fails("run.trec.gz", "changed")
