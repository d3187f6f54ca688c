"""Papers' files: what the shipped ones hold, what is refused, and what a verdict means."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.registry import RETRIEVERS, TASKS, make_task
from harness.reporting import papers
from harness.reporting.papers_fill import Verdict, fill, judge
from harness.reporting.papers_jobs import Job, jobs_of
from harness.reporting.papers_schema import Benchmark, Method, Paper, Row, Training
from harness.reporting.papers_text import missing
from harness.results.schema import Estimate
from harness.training import recipes
from harness.workspace import digest
from tests.papers_cases import Lacking, paper, write

Values = dict[str, Any]


@cache
def shipped(name: str) -> Paper:
    return papers.load(name)


# --- The shipped files ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clamr", "preflmr"])
def test_a_shipped_file_names_only_what_exists(name: str) -> None:
    """`load` excuses plugins that do not load; here every one must."""
    found = shipped(name)
    for benchmark in found.benchmarks.values():
        task = make_task(benchmark.task, benchmark.settings)
        assert benchmark.split == "test"
        assert task.address == benchmark.task
    for job in jobs_of(found, found.tables).values():
        assert RETRIEVERS.find(job.method.retriever or "")
        *train, run = job.commands
        assert run.startswith("clamr-bench run --task ")
        assert bool(train) == (job.method.training is not None)
        for command in train:
            assert command.startswith("clamr-bench train --task ")
    assert name in papers.names()


def row(found: Paper, number: str, label: str) -> Row:
    (table,) = papers.chosen(found, [number])
    (one,) = [row for row in table.rows if row.label.startswith(label)]
    return one


def test_the_tables_of_clamr_agree_where_they_show_the_same_models() -> None:
    found = shipped("clamr")
    assert [sum(1 for _ in table.cells()) for table in found.tables] == [100, 44, 15, 16, 20, 10]
    vlm = row(found, "1", "CLaMR (VLM)").published[:4]
    assert [round(value or 0, 1) for value in row(found, "2", "(A)").published] == vlm
    assert row(found, "5", "(a)").published == vlm
    assert row(found, "5", "(b)").published == row(found, "1", "Qwen VL").published[:4]
    assert row(found, "5", "(c)").published == row(found, "1", "CLaMR (Omni)").published[:4]
    by_type = row(found, "6", "CLaMR").published
    assert [by_type[4], by_type[9]] == [vlm[2], vlm[3]]


def test_what_is_doubtful_in_clamr_is_so() -> None:
    """Weighted by the numbers of each type, the types do not give what is published for all."""
    types = {"base": 548, "asr": 322, "ocr": 277, "description": 357}
    published = row(shipped("clamr"), "6", "CLaMR").published
    recall = dict(zip(types, published[:4], strict=True))
    weighted = sum(types[k] * (v or 0) for k, v in recall.items()) / sum(types.values())
    assert weighted == pytest.approx(86.1, abs=0.1)
    recall["ocr"] = 96.4
    weighted = sum(types[k] * (v or 0) for k, v in recall.items()) / sum(types.values())
    assert weighted == pytest.approx(88.0, abs=0.15)
    three = papers.chosen(shipped("clamr"), ["3"])[0]
    for one in three.rows:
        four = [value for value in one.published[:4] if value is not None]
        assert abs(sum(four) / 4 - (one.published[4] or 0)) > 0.5


def test_the_conversion_of_preflmr_is_within_the_tolerance() -> None:
    found = shipped("preflmr")
    largest = 0.0
    released, paper_ = papers.chosen(found, ["released", "paper"])
    for model in ("ViT-G", "ViT-L", "ViT-B"):
        (one,) = [row for row in released.rows if model in row.label]
        (other,) = [row for row in paper_.rows if model in row.label]
        ours = {c.label: v for c, v in zip(released.columns, one.published, strict=True)}
        for column, value in zip(paper_.columns, other.published, strict=True):
            largest = max(largest, abs((ours[column.label] or 0) - (value or 0)))
    assert largest == pytest.approx(1.9)
    assert largest <= found.tolerance.points


# --- What is refused --------------------------------------------------------------------------


def at(values: Values, *place: Any) -> Any:
    for part in place:
        values = values[part]
    return values


def change(*place: Any, value: Any) -> Callable[[Values], None]:
    def made(values: Values) -> None:
        at(values, *place[:-1])[place[-1]] = value

    return made


ROW = ("tables", 0, "rows", 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (change(*ROW, "publishd", value=[1]), ["tables.0.rows.0.publishd", "published"]),
        (change("tolerance", "points", value=-1), ["tolerance.points = -1"]),
        (change("schema_version", value=2), ["schema_version"]),
        (change(*ROW, "published", value=[1.0]), ["table 1, words: 1 figures", "3 columns"]),
        (change(*ROW, "reruns", value={"someone": [1.0]}), ["1 figures (someone)"]),
        (change(*ROW, "reruns", value={"sombody": [1.0] * 3}), ["'sombody'", "someone"]),
        (change(*ROW, "doubts", value={"nDCG": "?"}), ["'nDCG'", "Did you mean 'nDCG@10'"]),
        (change(*ROW, "ours", value="wrds"), ["'wrds'", "Did you mean 'words'"]),
        (change(*ROW, "ours", value={"events": "words"}), ["excerpt S@1", "no method"]),
        (change("methods", "idle", value={"retriever": "random"}), ["'idle' is used by no cell"]),
        (change("benchmarks", "idle", value={"task": "multivent"}), ["'idle' is used by no cell"]),
        (change("methods", "words", "retriever", value="bm25-asrr"), ["'words'", "bm25-asr"]),
        (change("methods", "words", "settings", value={"k": 1}), ["'words'", "k1"]),
        (change("methods", "all", "modalities", value=["ocrr"]), ["'all'", "Did you mean 'ocr'"]),
        (change("methods", "words", "verdict", value="out of scope"), ["methods.words"]),
        (change("methods", "secret", value={}), ["methods.secret", "either a retriever"]),
        (change("benchmarks", "events", "task", value="multivent/v9"), ["multivent/v1"]),
        (change("benchmarks", "excerpts", "settings", value={"query": 1}), ["'excerpts'", "query"]),
        (change("tables", 0, "columns", 0, "measure", value="nDCG@1"), ["'nDCG@1'", "nDCG@10"]),
        (change("tables", 0, "columns", 0, "benchmark", value="event"), ["'event'", "'events'"]),
        (change("tables", 0, "columns", 0, "benchmark", value=None), ["needs a benchmark"]),
        (
            change("tables", 0, "columns", 1, "group", value={"category": "social"}),
            ["'category'", "event_category"],
        ),
        (change("tables", 1, "number", value="1"), ["table '1' is there more than once"]),
        (change("tables", 0, "rows", 1, "label", value="words"), ["row 'words'", "more than once"]),
        (change("name", value="../made up"), ["name"]),
    ],
)  # fmt: skip
def test_a_wrong_file_says_where(
    tmp_path: Path, changed: Callable[[Values], None], words: list[str]
) -> None:
    values = paper()
    changed(values)
    path = write(tmp_path, values)
    with pytest.raises(UsageError) as caught:
        papers.load(str(path))
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_training_is_held_against_its_recipe(tmp_path: Path) -> None:
    values = paper()
    training = {"task": "multivent/sample", "start": "clamr/tiny", "recipe": "cpu-tiny"}
    method = {"retriever": "clamr", "training": training}
    values["methods"]["words"] = method
    papers.load(str(write(tmp_path, values)))
    for wrong, word in (
        ({"recipe": "cpu-tny"}, "cpu-tiny"),
        ({"changes": {"loss.nam": "pairwise"}}, "loss.name"),
        ({"task": "multivent/sampel"}, "multivent/sample"),
        ({"settings": {"contextualize": False}}, "contextualise"),
        ({"start": "bm25-text"}, "cannot be trained"),
    ):
        values["methods"]["words"] = method | {"training": training | wrong}
        with pytest.raises(UsageError, match=word):
            papers.load(str(write(tmp_path, values)))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'clamr'"):
        papers.load("clmr")
    path = tmp_path / "paper.yaml"
    for text, word in (("a: [", "not YAML"), ("- 1", "not a mapping"), ("name: x", "tables")):
        path.write_text(text)
        with pytest.raises(UsageError, match=word):
            papers.load(str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        papers.load(str(tmp_path))


# --- Verdicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "verdict"),
    [
        (50.0, "reproduced"), (51.5, "reproduced"), (48.5, "reproduced"),
        (51.6, "close"), (55.5, "close"), (43.5, "close"),
        (55.6, "off"), (43.4, "off"), (0.0, "off"),
    ],
)  # fmt: skip
def test_verdicts_by_hand(published: float, verdict: str) -> None:
    assert judge(published, Estimate(mean=50.0, low=45.0, high=54.0), 1.5) == verdict


def test_figures_with_a_digit_are_compared_as_written() -> None:
    """26.7 - 25.2 is above 1.5 in binary."""
    assert judge(26.7, Estimate(mean=25.2, low=25.2, high=25.2), 1.5) is Verdict.REPRODUCED


FIGURE = st.floats(0, 100)


@given(FIGURE, st.tuples(FIGURE, FIGURE, FIGURE).map(sorted), st.floats(0.1, 5))
def test_verdicts_know_no_direction_and_widen_with_the_tolerance(
    published: float, ends: list[float], tolerance: float
) -> None:
    low, mean, high = ends
    ours = Estimate(mean=mean, low=low, high=high)
    mirrored = Estimate(mean=100 - mean, low=100 - high, high=100 - low)
    verdict = judge(published, ours, tolerance)
    order = [Verdict.REPRODUCED, Verdict.CLOSE, Verdict.OFF]
    if min(abs(abs(published - end) - tolerance) for end in ends) > 1e-6:
        assert judge(100 - published, mirrored, tolerance) is verdict
    assert order.index(judge(published, ours, tolerance * 2)) <= order.index(verdict)
    if low <= published <= high:
        assert verdict is not Verdict.OFF


# --- Jobs -------------------------------------------------------------------------------------


def test_the_same_run_of_several_tables_is_one_job() -> None:
    found = shipped("clamr")
    jobs = jobs_of(found, found.tables).values()
    assert len({digest([job.benchmark.task, job.method.model_dump()]) for job in jobs}) == 26
    assert len(jobs) == 26
    assert len(jobs_of(found, papers.chosen(found, ["3", "4"]))) == 0


def test_weights_to_be_trained_name_both_commands() -> None:
    found = shipped("clamr")
    method = found.methods["video-video"]
    train, run = Job(found.benchmarks["multivent"], method).commands
    assert train == (
        "clamr-bench train --task multivent --retriever clamr/Qwen/Qwen2.5-VL-3B-Instruct "
        "--recipe a100-qlora --set 'clamr.encode_modalities=[video]'"
    )
    assert "--retriever clamr/FOLDER" in run
    assert "--set clamr.ocr_length=256" in run, "what the recipe trained with"
    assert "clamr.frames" not in run, "what is the default anyway"
    assert "--set 'clamr.encode_modalities=[video]'" in run


def test_a_training_stands_once_before_its_runs() -> None:
    found = shipped("clamr")
    filled = fill(found, papers.chosen(found, ["2"]), [], Lacking())
    [(lacks, count, commands)] = missing(filled)
    assert (lacks, count) == ("nothing", 44)
    trains = [place for place, c in enumerate(commands) if c.startswith("clamr-bench train")]
    assert len(trains) == len({commands[place] for place in trains}) == 6
    (video,) = (p for p in trains if "encode_modalities=[video]" in commands[p])
    assert "encode_modalities=[video]" in commands[video + 1]
    assert "encode_modalities" not in commands[video + 2], "searched in all"
    assert video + 3 in trains


def test_the_recipe_of_a_training_is_known_by_its_digest() -> None:
    training = Training(task="multivent", start="clamr/tiny", recipe="cpu-tiny", settings={})
    job = Job(Benchmark(task="multivent/clamr"), Method(retriever="clamr", training=training))
    asked = job.trained
    assert asked is not None
    assert asked["recipe_sha256"] == digest(recipes.load("cpu-tiny").model_dump(mode="json"))
    changed = training.model_copy(update={"changes": {"seed": 9}})
    other = Job(job.benchmark, Method(retriever="clamr", training=changed)).trained
    assert other is not None
    assert other["recipe_sha256"] != asked["recipe_sha256"]


LIGHT = """
import contextlib, io, sys
from harness.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as shown:
    assert main(["tables", "clamr"]) == 0
assert "of 205 cells" in shown.getvalue()
assert not {"torch", "transformers"} & sys.modules.keys()
"""


def test_tables_need_no_models(tmp_path: Path) -> None:
    """The extra `models` may not be installed, and nothing is prepared here."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_task_family_of_the_papers_is_registered() -> None:
    families = {"multivent/clamr", "msrvtt", "m2kr"}
    assert families <= set(TASKS.names())
