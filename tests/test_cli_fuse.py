"""`clamr-bench fuse` as a user gives it: what it writes, where that shows, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from harness.fusion import Method, fuse
from harness.reporting.tables import read_tables
from harness.results import ResultsStore, SavedRun
from harness.runfile import read_ranking
from harness.types import Ranking
from tests.conftest import Command

TASK = ("--task", "multivent/v1")
SAMPLE = (
    "--task", "multivent/sample", "--set", "multivent/sample.test_videos=12",
    "--set", "multivent/sample.train_videos=12",
)  # fmt: skip


def runs(tmp_path: Path, retriever: str = "") -> list[SavedRun]:
    """The saved runs of a retriever, oldest first; of all without a name."""
    found = ResultsStore(tmp_path / "results").runs()
    kept = [run for run in found if retriever in ("", run.result.retriever.address)]
    return sorted(kept, key=lambda run: (run.result.created, run.result.run_id))


def edit(run: SavedRun, **changes: object) -> None:
    """Rewrite parts of a saved result: what another task, version ... would give."""
    path = run.folder / "result.json"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        target = values
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(values))


def as_dict(ranking: Ranking) -> dict[str, dict[str, float]]:
    return {
        query: dict(zip(row.documents, row.scores.tolist(), strict=True))
        for query, row in ranking.items()
    }


@pytest.fixture
def parts(bench: Command, v1: Path, tmp_path: Path) -> tuple[str, str]:
    """Two runs on one task: their ids."""
    outcome = bench("run", *TASK, "--retriever", "bm25-description", "--retriever", "random")
    assert outcome.status == 0, outcome.err
    return (
        runs(tmp_path, "bm25-description")[0].result.run_id,
        runs(tmp_path, "random")[0].result.run_id,
    )


def test_a_fused_run_is_a_run_like_any(
    bench: Command, parts: tuple[str, str], tmp_path: Path
) -> None:
    outcome = bench("fuse", *parts, "--weights", "2,1")
    assert outcome.status == 0, outcome.err
    [fused] = runs(tmp_path, "fuse")
    assert fused.folder.parent == tmp_path / "results/runs/multivent/v1/fuse"
    assert fused.check() == []
    first, second = (ResultsStore(tmp_path / "results").find(run) for run in parts)
    result, of_first = fused.result, first.result
    assert (result.task, result.data) == (of_first.task, of_first.data)
    assert result.options.k == 1000
    assert result.options.limit is None
    record = result.retriever
    assert record.settings["method"] == "rrf"
    assert record.settings["weights"] == [2.0, 1.0]
    assert record.settings["parts"] == ["bm25-description", "random"]
    assert record.settings["runs"] == list(parts)
    assert record.changed_settings == {
        "method": "rrf",
        "parts": "bm25-description + random",
        "weights": [2.0, 1.0],
    }
    assert record.modalities == [
        m for m in second.result.retriever.modalities if m in record.modalities
    ]
    assert "description" in record.modalities
    assert not record.oracle
    assert not record.untrained
    assert result.efficiency.search_seconds is None
    rankings = [read_ranking(run.folder / "run.trec.gz") for run in (first, second)]
    expected = fuse(rankings, Method.RRF, weights=(2, 1))
    assert as_dict(read_ranking(fused.folder / "run.trec.gz")) == as_dict(expected)
    config = yaml.safe_load((fused.folder / "config.yaml").read_text())
    assert config["fuse"]["runs"] == list(parts)


def test_it_shows_where_runs_show(bench: Command, parts: tuple[str, str], tmp_path: Path) -> None:
    bench("fuse", *parts)
    [fused] = runs(tmp_path, "fuse")
    assert fused.result.run_id in bench("results", "list").out
    assert "bm25-description" in bench("results", "show", fused.result.run_id).out
    assert bench("results", "check").status == 0
    assert bench("leaderboard").status == 0
    [file] = read_tables(tmp_path / "results")
    [table] = file.tables
    notes = {row.retriever: row.note for row in table.rows}
    assert notes["fuse"] == "method=rrf, parts=bm25-description + random"
    estimate = fused.result.measures["nDCG@10"]
    shown = f"{estimate.mean * 100:.2f} [{estimate.low * 100:.1f}, {estimate.high * 100:.1f}]"
    assert shown in bench("evaluate", fused.folder / "run.trec.gz", *TASK).out


def test_the_same_fusion_is_not_done_again(
    bench: Command, parts: tuple[str, str], tmp_path: Path
) -> None:
    bench("fuse", *parts)
    assert "complete already" in bench("fuse", *reversed(parts)).err
    assert len(runs(tmp_path, "fuse")) == 1
    bench("fuse", *parts, "--weights", "2,1")
    assert "complete already" in bench("fuse", *reversed(parts), "--weights", "1,2").err
    bench("fuse", *parts, "--rrf-k", "5")
    bench("fuse", *parts, "--method", "mean", "--k", "3")
    made = runs(tmp_path, "fuse")
    assert len({run.result.fingerprint for run in made}) == len(made) == 4
    [cut] = [run for run in made if run.result.options.k == 3]
    assert {len(row) for row in read_ranking(cut.folder / "run.trec.gz").values()} == {3}


def test_seeds_of_one_fusion_are_one_row(bench: Command, v1: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        bench("run", *TASK, "--retriever", "random", "--retriever", "bm25-description",
              "--seed", seed)  # fmt: skip
        found = [
            run.result.run_id for run in runs(tmp_path) if run.result.options.seed == int(seed)
        ]
        assert bench("fuse", *found).status == 0
    by_name = {r: runs(tmp_path, r) for r in ("random", "bm25-description")}
    mixed = by_name["random"][0], by_name["bm25-description"][1]
    assert bench("fuse", *(run.folder for run in mixed)).status == 0
    bench("leaderboard")
    [file] = read_tables(tmp_path / "results")
    seeds = sorted(row.seeds for row in file.tables[0].rows if row.retriever == "fuse")
    assert seeds == [[0], [0, 1]]


def test_a_fused_run_can_be_fused(bench: Command, parts: tuple[str, str], tmp_path: Path) -> None:
    bench("fuse", *parts)
    [fused] = runs(tmp_path, "fuse")
    assert bench("fuse", fused.folder, parts[0]).status == 0
    assert len(runs(tmp_path, "fuse")) == 2


@pytest.mark.parametrize("flag", ["untrained", "oracle"])
def test_what_holds_of_a_part_holds_of_the_whole(
    bench: Command, parts: tuple[str, str], tmp_path: Path, flag: str
) -> None:
    edit(runs(tmp_path, "random")[0], **{f"retriever__{flag}": True})
    assert bench("fuse", *parts).status == 0
    [fused] = runs(tmp_path, "fuse")
    assert getattr(fused.result.retriever, flag)
    bench("leaderboard")
    rows = {row.retriever: row for row in read_tables(tmp_path / "results")[0].tables[0].rows}
    assert ("fuse" in rows) == (flag != "untrained")


def test_runs_of_the_first_queries_are_fused_as_such(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    bench("run", *TASK, "--retriever", "bm25-description", "--retriever", "random",
          "--limit", "4")  # fmt: skip
    assert bench("fuse", *(run.folder for run in runs(tmp_path))).status == 0
    [fused] = runs(tmp_path, "fuse")
    assert fused.result.options.limit == 4
    assert fused.result.evaluation.queries == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task__address": "multivent/sample"}, ("task", "multivent/v1", "multivent/sample")),
        ({"task__version": "9"}, ("task version", "9")),
        ({"task__protocol__name": "other"}, ("protocol", "v1", "other")),
        ({"task__protocol__measures": ["AP"]}, ("rules of the protocol",)),
        ({"task__split": "train"}, ("split", "test", "train")),
        ({"task__settings": {"seed": 4}}, ("task settings", "seed")),
        ({"data__fingerprint": "0" * 64}, ("data fingerprint", "0000")),
        ({"options__limit": 3}, ("--limit", "none", "3")),
        ({"data__queries": 5}, ("number of queries", "5")),
    ],
)
def test_runs_that_are_not_comparable_are_refused(
    bench: Command,
    parts: tuple[str, str],
    tmp_path: Path,
    change: dict[str, object],
    words: tuple[str, ...],
) -> None:
    edit(runs(tmp_path, "random")[0], **change)
    bench("fuse", *parts).fails(*parts, "bm25-description", "random", *words)
    assert runs(tmp_path, "fuse") == []


def test_files_that_are_not_what_they_were_are_refused(
    bench: Command, parts: tuple[str, str], v1: Path, tmp_path: Path
) -> None:
    [part] = runs(tmp_path, "random")
    path = part.folder / "run.trec.gz"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    bench("fuse", *parts).fails(str(path), "changed")
    path.unlink()
    bench("fuse", *parts).fails(str(path), "missing")
    path.write_bytes(kept)
    store = tmp_path / "data/multivent/v1"
    shutil.rmtree(store)
    source = v1 / "multivent_base.csv"
    source.write_text(source.read_text().replace("river", "brook"))
    bench("data", "prepare", "multivent/v1", "--source", v1)
    bench("fuse", *parts).fails("other data")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "rff"), ("rff", "'rrf'")),
        (("--weights", "1"), ("1 weights",)),
        (("--weights", "1,x"), ("1,x", "numbers")),
        (("--weights", "0,0"), ("above 0",)),
        (("--weights", "1,-1"), ("at least 0",)),
        (("--method", "max", "--weights", "1,2"), ("max takes none",)),
        (("--weights", "1,2", "--tune-on", "validation"), ("given or tuned",)),
        (("--tune-on", "test"), ("evaluated on split 'test'",)),
        (("--tune-on", "validation"), ("no counterpart", "--split validation")),
    ],
)
def test_arguments_that_cannot_be_right(
    bench: Command, parts: tuple[str, str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    bench("fuse", *parts, *arguments).fails(*words)


def test_one_run_alone_or_twice_is_refused(bench: Command, parts: tuple[str, str]) -> None:
    bench("fuse", parts[0]).fails("at least two")
    bench("fuse", parts[0], parts[0]).fails("named twice", parts[0])
    bench("fuse", parts[0], "2099").fails("2099")


def test_weights_are_tuned_on_another_split(bench: Command, tmp_path: Path) -> None:
    retrievers = ("--retriever", "random", "--retriever", "bm25-description")
    assert bench("run", *SAMPLE, *retrievers).status == 0
    test = [run.folder for run in runs(tmp_path)]
    bench("fuse", *test, "--tune-on", "train").fails("no counterpart", "--split train")
    assert bench("run", *SAMPLE, *retrievers, "--split", "train").status == 0
    outcome = bench("fuse", *test, "--tune-on", "train")
    assert outcome.status == 0, outcome.err
    assert "nDCG@10 on train" in outcome.err
    [fused] = runs(tmp_path, "fuse")
    settings = fused.result.retriever.settings
    weights = dict(zip(settings["parts"], settings["weights"], strict=True))
    assert settings["tuned_on"] == "train"
    assert weights["bm25-description"] > weights["random"]
    assert fused.result.task.split == "test"
    given = ",".join(str(weight) for weight in settings["weights"])
    assert "complete already" in bench("fuse", *test, "--weights", given).err
