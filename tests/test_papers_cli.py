"""`tables`, `reproduce` and `results export` as a user gives them, on a made-up paper."""

from __future__ import annotations

import csv
import io
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.reporting import papers
from harness.reporting.papers_jobs import Job, jobs_of
from harness.results import Result, ResultsStore, SavedRun
from harness.results.schema import TrainingRecord
from tests.conftest import Command
from tests.papers_cases import paper, write
from tests.test_cli_run import ALL, plugin
from tests.test_multivent_tasks import prepared, train
from tests.training_cases import write as write_training

Values = dict[str, Any]
BROKEN = "        raise RuntimeError('no <GPU> & no luck')"


def saved(tmp_path: Path) -> list[SavedRun]:
    return list(ResultsStore(tmp_path / "results").runs())


def cells(bench: Command, path: Path, *options: str) -> dict[tuple[str, str], dict[str, str]]:
    """The cells of the CSV form, by row and column."""
    outcome = bench("tables", path, "--format", "csv", *options)
    assert outcome.status == 0, outcome.err
    rows = csv.DictReader(io.StringIO(outcome.out))
    return {(row["method"], row["column"]): row for row in rows}


def verdicts(bench: Command, path: Path) -> dict[tuple[str, str], str]:
    return {place: cell["verdict"] for place, cell in cells(bench, path).items()}


def published(values: Values, row: int, *figures: float | None) -> None:
    values["tables"][0]["rows"][row]["published"] = list(figures)


def test_without_data_nothing_can_be_run_and_the_commands_say_what_would(
    bench: Command, tmp_path: Path
) -> None:
    outcome = bench("tables", write(tmp_path))
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith("0 of 8 cells can be run here")
    assert "data prepare multivent/v1 --source DIR" in outcome.out
    assert "--retriever bm25-description --set bm25-description.k1=0.5" in outcome.out
    assert "its queries are secret" in outcome.out
    assert "out of scope, 1 cells: it answers questions" in outcome.out
    assert "It is made up." in outcome.out, "the tolerance's reason"
    assert "†1 words, nDCG@10: it may be 60.0" in outcome.out
    assert "49.87" in outcome.out
    assert not saved(tmp_path)


def test_every_verdict_occurs(bench: Command, v1: Path, tmp_path: Path) -> None:
    values = paper()
    path = write(tmp_path, values)
    assert bench("tables", path).out.startswith("6 of 8 cells can be run here; 0 have a result")
    set_ = ("--set", "bm25-description.k1=0.5")
    run = bench("run", "--task", "multivent/v1", "--retriever", "bm25-description", *set_)
    assert run.status == 0, run.err
    (one,) = saved(tmp_path)
    ndcg = one.result.measures["nDCG@10"]
    social = one.result.breakdowns["event_category"]["social"].measures["Success@1"]
    assert ndcg.mean - ndcg.low > 0.01
    published(values, 0, round(ndcg.mean * 100 + 0.9, 1), social.mean * 100, 50.0)
    published(values, 1, 50.0, None, None)
    found = verdicts(bench, write(tmp_path, values))
    assert found == {
        ("words", "nDCG@10"): "reproduced",
        ("words", "social S@1"): "reproduced",
        ("words", "excerpt S@1"): "not run",
        ("all", "nDCG@10"): "not run",
        ("chance", "nDCG@10"): "not run",
        ("chance", "excerpt S@1"): "not run",
        ("secret", "nDCG@10"): "not comparable: protocol",
        ("model", "accuracy"): "out of scope",
    }
    published(values, 0, ndcg.low * 100 - 0.5, ndcg.low * 100 - 1.5, 50.0)
    values["tables"][0]["columns"][1].pop("group")
    values["tables"][0]["columns"][1]["measure"] = "nDCG@10"
    path = write(tmp_path, values)
    found = verdicts(bench, path)
    assert found["words", "nDCG@10"] == "close"
    assert found["words", "social S@1"] == "off"
    shown = cells(bench, path)["words", "nDCG@10"]
    assert float(shown["ours"]) == pytest.approx(ndcg.mean * 100, abs=1e-3)
    assert float(shown["difference"]) == pytest.approx((ndcg.mean - ndcg.low) * 100 + 0.5, abs=0.01)
    assert shown["run"] == one.result.run_id
    assert bench("tables", path).out.startswith("6 of 8 cells can be run here; 2 have a result")


def test_figures_over_other_queries_are_not_compared(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    values = paper()
    values["benchmarks"]["events"]["size"] = 1504
    values["tables"][0]["columns"][1]["group"]["event_category"] = "sports"
    assert bench("reproduce", write(tmp_path, values)).status == 0
    found = cells(bench, write(tmp_path, values))
    one = found["words", "nDCG@10"]
    assert one["verdict"] == "not comparable: protocol"
    assert "over 6 queries, the published figure over 1,504" in one["reason"]
    assert "event_category=sports" in found["words", "social S@1"]["reason"]
    assert found["words", "excerpt S@1"]["verdict"] != "not comparable: protocol"


def test_the_newest_complete_run_that_matches_is_ours(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    path = write(tmp_path)
    base = ("run", "--task", "multivent/v1", "--retriever", "bm25-description")
    for other in (
        (),
        ("--set", "bm25-description.k1=0.5", "--limit", "3"),
        ("--set", "bm25-description.k1=0.5", "--k", "3"),
        ("--set", "bm25-description.k1=0.5", "--modalities", "description"),
        ("--set", "bm25-description.k1=0.5", "--set", "multivent/v1.query=excerpt"),
    ):
        assert bench(*base, *other).status == 0
    found = cells(bench, path)
    assert found["words", "nDCG@10"]["run"] == ""
    assert found["words", "excerpt S@1"]["run"] != "", "the last one is of the other column"
    assert bench(*base, "--set", "bm25-description.k1=0.5").status == 0
    first = cells(bench, path)["words", "nDCG@10"]["run"]
    time.sleep(1.1)  # Run ids have seconds.
    assert bench(*base, "--set", "bm25-description.k1=0.5", "--again").status == 0
    second = cells(bench, path)["words", "nDCG@10"]["run"]
    assert "" < first < second


def test_the_commands_make_what_is_missing(bench: Command, v1: Path, tmp_path: Path) -> None:
    """Each command, given as it is shown, fills its cell."""
    values = paper()
    values["methods"]["chance"] = {
        "retriever": "fused",
        "settings": {"parts": ["bm25-text@description", "random"], "method": "rrf"},
    }
    path = write(tmp_path, values)
    missing = {c["command"] for c in cells(bench, path).values() if c["verdict"] == "not run"}
    assert len(missing) == 5
    for command in missing:
        program, *words = shlex.split(command)
        assert program == "clamr-bench"
        assert bench(*words).status == 0
    assert "not run" not in verdicts(bench, path).values()
    assert len(saved(tmp_path)) == 5


def test_the_page_s_example_is_filled_by_the_committed_results(
    bench: Command, tmp_path: Path
) -> None:
    root = Path(__file__).parents[1]
    (example,) = re.findall(
        r"```yaml\n(.*?)```", (root / "docs/papers.md").read_text(encoding="utf-8"), re.DOTALL
    )
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    found = cells(bench, path, "--output", str(root / "results"))
    assert found["BM25", "nDCG@10"]["verdict"] == "reproduced"
    assert found["BM25", "nDCG@10"]["run"] in {
        run.result.run_id for run in ResultsStore(root / "results").runs()
    }


# --- reproduce --------------------------------------------------------------------------------


def test_reproduce_runs_fills_and_writes(bench: Command, v1: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    plan = bench("reproduce", path, "--dry-run")
    assert plan.status == 0, plan.err
    assert plan.out.count("would be run") == 5
    assert not (tmp_path / "results").exists()
    outcome = bench("reproduce", path, "--table", "1")
    assert outcome.status == 0, outcome.err
    assert "7 cells can be run here; 6 have a result" in outcome.out
    runs = saved(tmp_path)
    assert len(runs) == 5
    text = (tmp_path / "results/papers/made-up.md").read_text(encoding="utf-8")
    assert "## 2. Answers" in text, "all tables, whichever were asked for"
    assert "| words | nDCG@10 | 50.0†1 | 49.87 |" in text
    assert "published figure is within 1 points of our 95% interval. It is made up." in text
    latex = (tmp_path / "results/papers/made-up.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{tabular}") == 2
    again = bench("reproduce", path)
    assert again.status == 0
    assert again.out.count("complete already") == 5
    assert [run.result.run_id for run in saved(tmp_path)] == [run.result.run_id for run in runs]


def test_what_is_complete_stays_when_the_source_changes(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    bench("reproduce", path)
    monkeypatch.setattr("harness.runner.folder.source_sha256", lambda: "other code")
    time.sleep(1.1)
    assert bench("reproduce", path).out.count("complete already") == 5
    assert len(saved(tmp_path)) == 5
    assert bench("reproduce", path, "--again").out.count("done: ") == 5
    assert len(saved(tmp_path)) == 10


def test_what_fails_does_not_stop_the_rest(bench: Command, v1: Path, tmp_path: Path) -> None:
    values = paper()
    values["methods"]["all"] = {"retriever": plugin(tmp_path, BROKEN)}
    path = write(tmp_path, values)
    outcome = bench("reproduce", path)
    outcome.fails("1 of 5 runs failed", "Mine", "RuntimeError: no <GPU> & no luck")
    assert outcome.status == 1
    assert outcome.out.count("done: ") == 4
    assert len(saved(tmp_path)) == 4
    assert verdicts(bench, path)["all", "nDCG@10"] == "not run"
    assert (tmp_path / "results/papers/made-up.tex").is_file()
    # Mended, it alone is run.
    plugin(
        tmp_path, "        return Ranking.from_scores({q.id: {self.ids[0]: 1.0} for q in queries})"
    )
    mended = bench("reproduce", path)
    assert mended.status == 0, mended.err
    assert (mended.out.count("complete already"), mended.out.count("done: ")) == (4, 1)


ABSENT = """
    def identity(self):
        raise PluginError("weights 'mine' are not on this machine. Fetch them.")
"""


def test_what_is_not_here_is_skipped(bench: Command, v1: Path, tmp_path: Path) -> None:
    values = paper()
    address = plugin(tmp_path, BROKEN + ABSENT)
    file = Path(address.rpartition(":")[0])
    file.write_text(f"from harness.api import PluginError\n{file.read_text()}")
    values["methods"]["words"] = {"retriever": address}
    values["methods"]["all"] = {
        "retriever": "clamr",
        "training": {"task": "multivent/sample", "start": "clamr/tiny", "recipe": "cpu-tiny"},
    }
    path = write(tmp_path, values)
    outcome = bench("reproduce", path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("skipped: weights 'mine' are not on this machine") == 2
    assert "clamr-bench train --task multivent/sample --retriever clamr/tiny" in outcome.out
    found = cells(bench, path)
    assert "Fetch them" in found["words", "nDCG@10"]["reason"]
    assert found["all", "nDCG@10"]["reason"].startswith("their weights are to be trained")
    assert found["chance", "nDCG@10"]["verdict"] == "off"
    assert bench("tables", path).out.startswith("2 of 8 cells can be run here; 2 have a result")


def test_a_plugin_that_breaks_before_it_runs_has_failed(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    values = paper()
    broken = "\n    def identity(self):\n        raise KeyError('weights')\n"
    values["methods"]["all"] = {"retriever": plugin(tmp_path, ALL + broken)}
    path = write(tmp_path, values)
    assert bench("tables", path).status == 0
    outcome = bench("reproduce", path)
    outcome.fails("1 of 5 runs failed", "KeyError: 'weights'")
    assert outcome.out.count("done: ") == 4


@pytest.mark.slow
def test_weights_of_the_hub_are_looked_for_here(bench: Command, v1: Path, tmp_path: Path) -> None:
    values = paper()
    values["methods"]["words"] = {"retriever": "clip/nobody/nothing"}
    reason = cells(bench, write(tmp_path, values))["words", "nDCG@10"]["reason"]
    assert "nobody/nothing" in reason
    assert "not on this machine" in reason


def test_a_plugin_that_does_not_load_takes_its_cells_alone(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    values = paper()
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    values["methods"]["all"] = {"retriever": f"{broken}:Mine"}
    path = write(tmp_path, values)
    assert "no_such_module" in cells(bench, path)["all", "nDCG@10"]["reason"]
    outcome = bench("reproduce", path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("done: ") == 4


def test_mistakes_are_told_before_anything_runs(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    bench("tables", "clmr").fails("Did you mean 'clamr'")
    bench("tables", path, "--table", "3").fails("no table '3'", "1, 2")
    bench("reproduce", path, "--memory", "much").fails("memory")
    bench("reproduce", path, "--on-damaged", "weep").fails("on_damaged")
    assert bench("tables", path, "--format", "pdf").status == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    bench("reproduce", path).fails("one process")
    assert not saved(tmp_path)


def test_markdown_is_what_reproduce_writes(bench: Command, v1: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    bench("reproduce", path)
    written = tmp_path / "results/papers"
    assert bench("tables", path, "--format", "md").out == (written / "made-up.md").read_text()
    assert bench("tables", path, "--format", "latex").out == (written / "made-up.tex").read_text()


def test_an_ideal_retriever_stands_beside_rows(bench: Command, tmp_path: Path) -> None:
    """The protocol of CLaMR's script: measures of its own, rows, groups of rows, references."""
    prepared(tmp_path, train)
    values = paper()
    values["benchmarks"] = {"rows": {"task": "multivent/clamr", "size": 18}}
    values["methods"] = {"words": {"retriever": "bm25-text"}}
    values["reruns"] = {}
    column = {"benchmark": "rows", "measure": "R@1 (row)"}
    speech = {"label": "speech", **column, "group": {"query_type": "speech"}}
    values["tables"] = [
        {
            "number": "1", "title": "Rows", "place": "Table 1", "ours": "words",
            "columns": [{"label": "R@1", **column}, speech],
            "rows": [{"label": "words", "published": [20.0, 50.0]}],
        }
    ]  # fmt: skip
    path = write(tmp_path, values)
    assert bench("reproduce", path).status == 0
    (run,) = saved(tmp_path)
    ideal = run.result.references["all relevant first"]["R@1 (row)"] * 100
    line = f"For reference, all relevant first (multivent/clamr): R@1 {ideal:.2f}."
    for form in ("terminal", "md"):
        assert line in bench("tables", path, "--format", form).out
    assert f"{ideal:.2f}" in bench("tables", path, "--format", "latex").out
    group = run.result.breakdowns["query_type"]["speech"].measures["R@1 (row)"]
    found = cells(bench, path)["words", "speech"]
    assert float(found["ours"]) == pytest.approx(group.mean * 100, abs=1e-3)
    assert found["verdict"] in ("reproduced", "close", "off")


# --- Trained weights --------------------------------------------------------------------------


def test_a_run_of_trained_weights_is_known_by_its_training(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    values = paper()
    values["methods"]["words"] = {
        "retriever": "clamr",
        "settings": {"contextualise": False},
        "training": {
            "task": "multivent/sample",
            "start": "clamr/tiny",
            "recipe": "cpu-tiny",
            "changes": {"loss.name": "pairwise"},
            "settings": {"contextualise": False},
        },
    }
    found = papers.load(str(write(tmp_path, values)))
    job = next(job for job in jobs_of(found, found.tables).values() if job.method.training)
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-description")
    (run,) = saved(tmp_path)
    result = as_trained(run.result, job)
    assert job.is_that_of(result)
    record = result.retriever.training
    assert record is not None
    for changed in (
        {"task": "multivent"},
        {"started_from": "clamr/other"},
        {"recipe_sha256": "0"},
        {"settings": {}},
    ):
        other = record.model_copy(update=changed)
        assert not job.is_that_of(with_retriever(result, training=other)), changed
    assert not job.is_that_of(with_retriever(result, training=None))
    assert not job.is_that_of(with_retriever(result, name="clamr-pooled"))
    assert not job.is_that_of(with_retriever(result, untrained=True))
    assert not job.is_that_of(with_retriever(result, changed_settings={}))
    damaged = {**result.retriever.changed_settings, "on_damaged": "skip-modality"}
    assert job.is_that_of(with_retriever(result, changed_settings=damaged))
    assert not job.is_that_of(result.model_copy(update={"measures": {}}))


@pytest.mark.slow
def test_training_and_running_as_told_fills_the_cell(bench: Command, tmp_path: Path) -> None:
    """The commands of weights that are to be trained, given as they are shown."""
    task, retriever, recipe = write_training(tmp_path)
    values = paper()
    training = {"task": task, "start": retriever, "recipe": recipe, "changes": {"seed": 3}}
    values["benchmarks"] = {"made": {"task": task}}
    values["methods"] = {"trained": {"retriever": retriever, "training": training}}
    values["reruns"] = {}
    values["tables"] = [
        {
            "number": "1", "title": "Trained", "place": "Table 1", "ours": "trained",
            "columns": [{"label": "nDCG@10", "benchmark": "made", "measure": "nDCG@10"}],
            "rows": [{"label": "trained", "published": [50.0]}],
        }
    ]  # fmt: skip
    path = write(tmp_path, values)
    assert bench("run", "--task", task, "--retriever", retriever).status == 0
    train_, run_ = cells(bench, path)["trained", "nDCG@10"]["command"].split(" && ")
    to = ("--to", str(tmp_path / "trained"))
    assert bench(*shlex.split(train_)[1:], "--set", "recipe.seed=4", *to).status == 0
    assert cells(bench, path)["trained", "nDCG@10"]["run"] == "", "of another seed"
    assert bench(*shlex.split(train_)[1:], *to).status == 0
    first = cells(bench, path)["trained", "nDCG@10"]["run"]
    assert first != "", "a training ends with a run"
    newest = ResultsStore(tmp_path / "results").find(first).result.retriever.address
    folder = newest.removeprefix(f"{retriever}/")
    again = bench(*shlex.split(run_.replace("FOLDER", folder))[1:])
    assert again.status == 0, again.err
    assert "complete already" in again.err


def with_retriever(result: Result, **changed: Any) -> Result:
    retriever = result.retriever.model_copy(update=changed)
    return result.model_copy(update={"retriever": retriever})


def as_trained(result: Result, job: Job) -> Result:
    """The result of other weights, as if they had been trained for a job."""
    assert job.trained is not None
    record = TrainingRecord(
        **job.trained, task_version="1", data_fingerprint="0", documents=1, queries=1,
        dropped_documents=0, dropped_queries=0, seed=0, steps=1, best_step=1, validation={},
        created="2026-01-01", clamr_bench="0",
    )  # fmt: skip
    asked = job.retriever.settings.model_dump(mode="json")
    assert asked["contextualise"] is False
    changed = {key: value for key, value in asked.items() if key in job.settings}
    defaults = type(job.retriever.settings)().model_dump(mode="json")
    changed = {key: value for key, value in changed.items() if value != defaults[key]}
    return with_retriever(
        result, name="clamr", address="clamr/trained/x", training=record, changed_settings=changed
    )


# --- results export ---------------------------------------------------------------------------


def test_a_card_holds_what_the_results_hold(bench: Command, v1: Path, tmp_path: Path) -> None:
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-description", "--retriever",
          "random", "--set", "bm25-description.k1=0.5")  # fmt: skip
    runs = {run.result.retriever.address: run.result for run in saved(tmp_path)}
    outcome = bench("results", "export", "all", "--format", "card")
    assert outcome.status == 0, outcome.err
    index = yaml.safe_load(outcome.out.strip().strip("-"))["model-index"]
    assert [model["name"] for model in index] == ["bm25-description (k1=0.5)", "random"]
    ((one,), (chance,)) = (model["results"] for model in index)
    result = runs["random"]
    assert chance["dataset"]["revision"] == result.data.fingerprint
    assert (chance["dataset"]["type"], chance["dataset"]["split"]) == ("multivent/v1", "test")
    assert {m["type"]: m["value"] for m in one["metrics"]} == {
        name: value.mean for name, value in runs["bm25-description"].measures.items()
    }
    assert "verif" not in outcome.out
    cards = pytest.importorskip("huggingface_hub.repocard_data")
    name, evaluations = cards.model_index_to_eval_results(index)
    assert name == "random"
    assert len(evaluations) == 2 * len(result.measures)


def test_a_card_of_one_run_goes_to_a_file(bench: Command, v1: Path, tmp_path: Path) -> None:
    bench("run", "--task", "multivent/v1", "--retriever", "random")
    (run,) = saved(tmp_path)
    name = run.result.run_id
    outcome = bench("results", "export", name, "--to", tmp_path / "cards")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / f"cards/{name}.md").read_text().startswith("---\nmodel-index:\n")


def test_runs_that_no_table_has_are_on_no_card(bench: Command, v1: Path, tmp_path: Path) -> None:
    bench("results", "export", "all").fails("no run")
    bench("run", "--task", "multivent/v1", "--retriever", "random", "--limit", "2")
    (run,) = saved(tmp_path)
    bench("results", "export", run.result.run_id).fails("first 2 queries", "--limit")
    bench("results", "export", "all").fails("no run")
    outcome = bench("results", "export", "all", "--format", "csv", "--to", tmp_path / "out")
    assert outcome.status == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/results.csv").read_text())))
    assert [row["measure"] for row in rows] == list(run.result.measures)
    assert {row["limit"] for row in rows} == {"2"}
    for row in rows:
        assert float(row["value"]) == run.result.measures[row["measure"]].mean
    assert re.fullmatch(r"[0-9a-f]{64}", rows[0]["data_fingerprint"])
