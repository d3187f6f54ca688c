"""`m2kr` as a user gives it: all subsets or one, their measures, and the table of the paper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.groups import prepared, to_prepare, to_run
from harness.progress import Progress
from harness.registry import make_task
from harness.results import ResultsStore, SavedRun
from harness.task import Column, Group
from harness.types import Ranking
from harness.workspace import data_folder
from tasks.m2kr.sample import generate
from tasks.m2kr.subsets import SUBSETS
from tasks.m2kr.task import M2KR
from tests.conftest import Command
from tests.m2kr_release import passage, query, release
from tests.test_m2kr_pseudo_recall import published, value, whole_words

RUN = ("run", "--task", "m2kr", "--retriever")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the temporary folder: addresses of files are short, and tables are not folded."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WIT, MSMARCO and OKVQA in the official layout, generated."""
    folder = tmp_path_factory.mktemp("m2kr") / "source"
    folder.mkdir()
    generate.generate(folder, seed=0, test_queries=12, train_queries=8, progress=Progress())
    return folder


@pytest.fixture(scope="module")
def stores(source: Path) -> Path:
    """The same, prepared."""
    folder = source.with_name("stores")
    for task in to_prepare(make_task("m2kr"), [source], None, make_task):
        task.prepare([source], folder / task.variant, Progress())
    return folder


@pytest.fixture
def ready(source: Path, stores: Path) -> Path:
    """The same, in the default places."""
    shutil.copytree(stores, data_folder() / "m2kr")
    return source


def plugin(folder: Path, *kinds: str) -> str:
    """A retriever in `folder` that takes some kinds of queries and ranks by ids; its address."""
    path = folder / "mine.py"
    path.write_text(
        f"""
from harness.api import About, Capabilities, Modality, QueryKind, Ranking, Retriever

class Mine(Retriever):
    about = About(title="Mine", version="1", licence="MIT", citation="Mine")
    capabilities = Capabilities(
        modalities=frozenset({{Modality.TEXT}}),
        query_kinds=frozenset(QueryKind(kind) for kind in {kinds!r}),
    )

    def index(self, documents, workspace):
        self.ids = sorted(d.id for d in documents)

    def search(self, queries, k):
        scores = {{d: float(-place) for place, d in enumerate(self.ids[:k])}}
        assert not any(q.attributes for q in queries)
        return Ranking.from_scores({{q.id: scores for q in queries}})
"""
    )
    return "mine.py:Mine"


def saved(tmp_path: Path) -> list[SavedRun]:
    return list(ResultsStore(tmp_path / "results").runs())


def last_table(out: str) -> list[list[str]]:
    """The cells of the last table that was shown, without its heading."""
    lines = [line for line in out.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return [row for row in rows if len(row) == len(rows[-1])]


# --- all subsets ----------------------------------------------------------------------------------


def test_prepare_all_that_is_there(bench: Command, source: Path) -> None:
    outcome = bench("data", "prepare", "m2kr", "--source", source)
    assert outcome.status == 0, outcome.err
    stores = sorted(path.parent.name for path in data_folder().glob("m2kr/*/dataset.json"))
    assert stores == ["msmarco", "okvqa", "wit"]
    checked = bench("data", "check", "m2kr", "--media")
    assert checked.status == 0, checked.err
    assert checked.out.count("as it was prepared") == 3
    assert bench("data", "stats", "m2kr").out.count("(version 1)") == 3
    listed = bench("data", "list").out
    for name in ("m2kr/wit", "m2kr/msmarco", "m2kr/okvqa"):
        assert name in listed


def test_run_all_that_is_prepared_and_show_the_papers_table(
    bench: Command, ready: Path, tmp_path: Path
) -> None:
    address = plugin(tmp_path, "text", "image", "image+text")
    outcome = bench(*RUN, address, "--retriever", "random")
    assert outcome.status == 0, outcome.err
    runs = saved(tmp_path)
    assert {(r.result.task.address, r.result.task.protocol.name) for r in runs} == {
        (f"m2kr/{name}", name) for name in ("wit", "msmarco", "okvqa")
    }
    headings = [column.heading for column in make_task("m2kr").group.columns]  # type: ignore[union-attr]
    assert headings == [
        "WIT R@10", "IGLUE R@1", "KVQA R@5", "MSMARCO R@5", "OVEN R@5", "LLaVA R@1", "EVQA R@5",
        "EVQA PR@5", "OKVQA R@5", "OKVQA PR@5", "Infoseek R@5", "Infoseek PR@5",
    ]  # fmt: skip
    for heading in headings:
        assert heading in outcome.out
    mine, random = last_table(outcome.out)
    assert (mine[0], random[0]) == (address, "random")
    means = {
        run.result.task.address: {
            name: f"{estimate.mean * 100:.2f}" for name, estimate in run.result.measures.items()
        }
        for run in runs
        if run.result.retriever.address == address
    }
    wit, msmarco, okvqa = (means[f"m2kr/{name}"] for name in ("wit", "msmarco", "okvqa"))
    assert mine[1:] == [
        wit["Success@10"], "", "", msmarco["Success@5"], "", "", "", "",
        okvqa["Success@5"], okvqa["PR@5 (published)"], "", "",
    ]  # fmt: skip


def test_what_a_retriever_cannot_do_of_a_group_is_left_out(
    bench: Command, ready: Path, tmp_path: Path
) -> None:
    outcome = bench(*RUN, plugin(tmp_path, "text"), "--retriever", "random")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("left out: ") == 2
    assert "takes no image queries, which 'm2kr/wit' has" in outcome.err
    mine, _ = last_table(outcome.out)
    assert [bool(cell) for cell in mine[1:]].count(True) == 1
    bench("run", "--task", "m2kr/wit", *RUN[3:], plugin(tmp_path, "text")).fails("no image queries")


def test_a_retriever_that_can_do_none(bench: Command, source: Path, tmp_path: Path) -> None:
    bench("data", "prepare", "m2kr/wit", "--source", source)
    bench(*RUN, plugin(tmp_path, "text")).fails("there is nothing to run", "no image queries")


def test_bm25_reads_the_passages(bench: Command, ready: Path, tmp_path: Path) -> None:
    outcome = bench("run", "--task", "m2kr/msmarco", "--retriever", "bm25-text")
    assert outcome.status == 0, outcome.err
    [run] = saved(tmp_path)
    assert run.result.measures["Success@5"].mean > 0.5


def test_a_subset_that_is_named_too_runs_once(bench: Command, ready: Path, tmp_path: Path) -> None:
    bench(*RUN, "random", "--task", "m2kr/okvqa")
    assert len(saved(tmp_path)) == 3


def test_nothing_is_prepared(bench: Command, tmp_path: Path) -> None:
    sample = "`clamr-bench run --task m2kr/sample --retriever random` works without any data"
    bench(*RUN, "random").fails("no task of 'm2kr' has data", "data prepare m2kr --source", sample)
    bench("run", "--task", "m2kr/evqa", "--retriever", "random").fails(
        "'m2kr/evqa' has no data yet", "data prepare m2kr/evqa --source", sample
    )
    for command in ("check", "stats"):
        bench("data", command, "m2kr").fails("data prepare m2kr --source")
    (tmp_path / "empty").mkdir()
    bench("data", "prepare", "m2kr", "--source", tmp_path / "empty").fails("OKVQA_data")
    bench("data", "prepare", "m2kr").fails("--source DIR")


def test_the_sample_that_the_messages_name_works(bench: Command, tmp_path: Path) -> None:
    small = ("--set", "m2kr/sample.test_queries=4", "--set", "m2kr/sample.train_queries=2")
    outcome = bench("run", "--task", "m2kr/sample", "--retriever", "random", *small)
    assert outcome.status == 0, outcome.err
    [run] = saved(tmp_path)
    assert set(run.result.breakdowns["subset"]) == {"wit", "msmarco", "okvqa"}


def test_an_address_of_several_tasks_where_one_is_needed(
    bench: Command, ready: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps({"q": {"d": 1.0}}))
    bench("evaluate", run, "--task", "m2kr").fails("stands for several tasks", "m2kr/okvqa")
    for split in ("test", "train", "validation"):
        with pytest.raises(UsageError, match="stands for several tasks"):
            make_task("m2kr").load(split, None, Progress())
    bench(*RUN, "random", "--data", tmp_path).fails("--data", "several tasks", "CLAMR_BENCH_DATA")
    bench("data", "prepare", "m2kr", "--source", ready, "--data", tmp_path / "d").fails("--data")
    bench("run", "--task", "m2kr/okvqua", "--retriever", "random").fails(
        "Did you mean 'm2kr/okvqa'"
    )
    bench(*RUN, "random", "--set", "m2kr/ocvqa.x=1").fails("'m2kr/ocvqa'", "'m2kr/okvqa'")
    shown = bench("tasks", "m2kr")
    assert shown.status == 0, shown.err
    assert "m2kr/wit, m2kr/msmarco, m2kr/okvqa" in shown.out


def test_cc_is_for_training_only(bench: Command, tmp_path: Path) -> None:
    source = release(tmp_path / "source", [query(0, question=None)], subset="cc", split="train")
    assert bench("data", "prepare", "m2kr/cc", "--source", source).status == 0
    bench("run", "--task", "m2kr/cc", "--retriever", "random").fails("no evaluated split")
    task = make_task("m2kr/cc")
    assert len(task.load("train", None, Progress()).queries) == 1
    group = make_task("m2kr").group
    assert group is not None
    assert "m2kr/cc" in group.members
    assert "m2kr/cc" not in group.evaluated


# --- a group --------------------------------------------------------------------------------------


def test_the_layout_takes_figures_and_gives_rows() -> None:
    group = Group(
        ("t/a", "t/b", "t/c"),
        (Column("A", "t/a", "M@1"), Column("B", "t/b", "M@1"), Column("B2", "t/b", "N@5")),
        "",
    )
    assert group.evaluated == ("t/a", "t/b")
    figures = {"x": {"t/b": {"M@1": 0.5, "N@5": 0.25}}, "y": {"t/a": {"N@5": 1.0}}, "z": {}}
    assert group.layout(figures) == [
        ("x", [None, 0.5, 0.25]),
        ("y", [None, None, None]),
        ("z", [None, None, None]),
    ]


def test_a_task_that_is_no_group_stands_for_itself(tmp_path: Path) -> None:
    task = make_task("multivent/v1")
    assert not task.is_prepared
    assert to_run(task, tmp_path, make_task) == [task]
    assert to_prepare(task, [], tmp_path, make_task) == [task]
    assert prepared(task, make_task) == [task]


# --- one subset -----------------------------------------------------------------------------------


def test_prepare_one_with_its_images_elsewhere(
    bench: Command, source: Path, tmp_path: Path
) -> None:
    images, parquet = tmp_path / "images", tmp_path / "parquet"
    parquet.mkdir()
    for folder in ("OKVQA_data", "OKVQA_passages"):
        (parquet / folder).symlink_to(source / folder)
    images.symlink_to(source / "OKVQA")
    command = ("data", "prepare", "m2kr/okvqa", "--source", parquet)
    bench(*command, "--strict").fails("images that are missing", "val2014")
    outcome = bench(*command, "--source", images, "--strict")
    assert outcome.status == 0, outcome.err
    assert "test_images: 12" in outcome.out
    outcome = bench(*command)
    assert "missing: test: images that are missing: 12" in outcome.out


def test_measures_of_a_subset_with_answers(bench: Command, tmp_path: Path) -> None:
    """Every value, against plain loops over the published rule and the corrected one."""
    rows = [
        query(0, answers=["answer0"]),
        query(1, answers=["swer"], pos_item_ids=["Thing 4"]),
        query(2, answers=["", "nothing"]),
        query(3, answers=[]),
        query(4, answers=["answer4"], pos_item_ids=["Thing 99"]),
    ]
    source = release(tmp_path / "source", rows, [passage(number) for number in range(7)])
    assert bench("data", "prepare", "m2kr/okvqa", "--source", source).status == 0
    lists = {
        "q0": ["Thing%206", "Thing%205", "Thing%200"],
        "q1": ["Thing%203"],
        "q2": ["Thing%201", "Thing%202"],
        "q3": ["Thing%203"],
        "q4": ["Thing%204"],
    }
    ranking = Ranking.from_scores(
        {q: {d: float(-place) for place, d in enumerate(row)} for q, row in lists.items()}
    )
    task = make_task("m2kr/okvqa")
    assert isinstance(task, M2KR)
    split = task.load("test", None, Progress())
    assert list(task.rows(split, split.queries)) == list(split.queries)
    found = task.measure(ranking, split, split.queries)
    assert found.measures == task.protocol.measures
    assert found.query_ids == ("q0", "q1", "q2", "q3"), "q4 has no relevant passage"
    assert found.without_positives == 1
    texts = {d.id: next(iter(d.texts.values())) for d in split.documents}
    answers: Sequence[list[str]] = [row["answers"] for row in rows]
    for number, name in enumerate(found.query_ids):
        seen = [texts[d] for d in lists[name]]
        for measure, judge in (("PR@5 (published)", published), ("PR@5", whole_words)):
            expected = value(judge, seen, answers[number], 5)
            assert found.of(measure)[number] == expected, (name, measure)
    assert found.of("PR@5 (published)").tolist() == [1, 1, 1, 0]
    assert found.of("PR@5").tolist() == [1, 0, 0, 0]
    assert found.of("Success@1").tolist() == [0, 0, 0, 1]
    assert found.of("Success@5").tolist() == [1, 0, 1, 1]


def test_a_saved_run_evaluates_to_the_same_figures(
    bench: Command, ready: Path, tmp_path: Path
) -> None:
    bench("run", "--task", "m2kr/okvqa", "--retriever", "random")
    [run] = saved(tmp_path)
    assert run.check() == []
    outcome = bench("evaluate", run.folder / "run.trec.gz", "--task", "m2kr/okvqa")
    assert outcome.status == 0, outcome.err
    for estimate in run.result.measures.values():
        assert f"{estimate.mean * 100:.2f}" in outcome.out


@pytest.mark.parametrize("name", sorted(SUBSETS))
def test_protocols(name: str) -> None:
    subset, protocol = SUBSETS[name], SUBSETS[name].protocol
    assert protocol.name == name
    assert protocol.main in protocol.measures
    assert all(measure in protocol.measures for _, measure in subset.columns)
    assert subset.answers == any(measure.startswith("PR@") for measure in protocol.measures)
