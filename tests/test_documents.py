"""What the documents promise: schemas as published, tutorial code as written, a true surface."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import harness.api
from harness.results import ResultsStore
from harness.runfile import read_ranking
from tests.conftest import Command

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def load(path: Path) -> Any:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_published_schemas_are_those_of_the_models() -> None:
    script = load(DOCS / "write_schemas.py")
    for name, model in script.SCHEMAS.items():
        text = script.text(model)
        assert (DOCS / name).read_text() == text, f"{name} is out of date: make docs"


def test_the_page_of_the_commands_is_what_they_say() -> None:
    script = load(DOCS / "write_cli.py")
    assert script.page() == script.PAGE.read_text(encoding="utf-8"), "cli.md: make docs"


def test_the_benchmark_report_is_made_of_the_saved_figures() -> None:
    script = load(ROOT / "benchmarks/write_report.py")
    assert (ROOT / "benchmarks/README.md").read_text(encoding="utf-8") == script.report()


def test_the_tables_of_the_findings_are_made_of_the_saved_figures() -> None:
    script = load(ROOT / "benchmarks/findings_report.py")
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.page(text, script.Findings.read()) == text


def test_a_saved_result_satisfies_the_published_schema(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    bench("run", "--task", "multivent/v1", "--retriever", "bm25-text")
    bench("leaderboard")
    [run] = ResultsStore(tmp_path / "results").runs()
    written = {
        "result.schema.json": run.folder / "result.json",
        "table.schema.json": tmp_path / "results/tables/multivent@1/v1.json",
        "dataset.schema.json": tmp_path / "data/multivent/v1/dataset.json",
    }
    for name, path in written.items():
        schema = json.loads((DOCS / name).read_text())
        values = json.loads(path.read_text())
        jsonschema.validate(values, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values | {"surprise": 1}, schema)


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


SAMPLE = (
    "run", "--task", "multivent/sample",
    "--set", "multivent/sample.test_videos=60", "--set", "multivent/sample.train_videos=2",
)  # fmt: skip


def test_the_tutorials_retrievers_run_as_written(bench: Command, tmp_path: Path) -> None:
    retriever, settings, encoder, _ = python_blocks(DOCS / "add-a-retriever.md")
    for code, name in ((retriever, "WordOverlap"), (encoder, "Letters")):
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) < 30, f"{name} takes {len(lines)} lines"
        path = tmp_path / f"{name.lower()}.py"
        path.write_text(code)
        outcome = bench(*SAMPLE, "--retriever", f"{path}:{name}")
        assert outcome.status == 0, outcome.err
    runs = ResultsStore(tmp_path / "results").runs()
    results = {run.result.retriever.name: run.result for run in runs}
    assert set(results) == {"WordOverlap", "Letters"}
    for result in results.values():
        # A random order of 60 videos gives nDCG@10 = 0.08 in expectation.
        assert result.breakdowns["query_type"]["asr"].measures["nDCG@10"].mean > 0.2
        assert result.retriever.citation == "Yours, 2026."
    with_settings = retriever.replace(
        "    about = About(", "    Settings = OverlapSettings\n    about = About("
    )
    path = tmp_path / "with_settings.py"
    path.write_text(f"{settings}\n\n{with_settings}")
    mistaken = ("--set", "WordOverlap.min_length=0")
    bench(*SAMPLE, "--retriever", f"{path}:WordOverlap", *mistaken).fails(
        "min_length", "greater than or equal to 1"
    )


def test_the_tutorials_encoder_learns(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    *_, encoder, learned = python_blocks(DOCS / "add-a-retriever.md")
    (tmp_path / "letters.py").write_text(encoder)
    (tmp_path / "learned.py").write_text(learned)
    sample = (
        *SAMPLE[1:4],
        "multivent/sample.test_videos=60",
        "--set",
        "multivent/sample.train_videos=60",
    )
    phases = "recipe.phases=[{steps: 60}]"
    outcome = bench(
        "train", *sample, "--retriever", "learned.py:Learned", "--recipe", "cpu-tiny",
        "--set", phases, "--set", "recipe.optimiser.warmup=5",
    )  # fmt: skip
    monkeypatch.delitem(sys.modules, "letters")
    assert outcome.status == 0, outcome.err
    (run,) = ResultsStore(tmp_path / "results").runs()
    assert not run.result.retriever.untrained
    (log,) = (tmp_path / "trained").rglob("log.jsonl")
    losses = [row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
    assert sum(losses[-10:]) < sum(losses[:10]) * 0.9


def console_blocks(page: Path) -> list[list[str]]:
    """The commands of a page that readers are to give, one list of words each."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def test_the_tutorials_task_runs_as_written(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (task,) = python_blocks(DOCS / "add-a-task.md")
    (tmp_path / "proverbs.py").write_text(task)
    rows = [
        ("a stitch in time saves nine", "mending early in time saves work", "english"),
        ("many hands make light work", "work is light for many helpers", "english"),
        ("el que madruga encuentra", "who rises early finds, as el que does", "spanish"),
    ]
    (tmp_path / "proverbs.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    for command in console_blocks(DOCS / "add-a-task.md"):
        outcome = bench(*command[1:])
        assert outcome.status == 0, outcome.err
    runs = {r.result.retriever.name: r.result for r in ResultsStore(tmp_path / "results").runs()}
    assert runs["bm25-text"].measures["RR"].mean == 1.0
    assert set(runs["bm25-text"].breakdowns["language"]) == {"english", "spanish"}
    (tmp_path / "proverbs.tsv").unlink()
    bench("data", "prepare", "proverbs.py:Proverbs", "--source", ".").fails("give its folder")


@pytest.mark.slow
def test_getting_started_runs_as_written(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    ids: dict[str, str] = {}
    commands = console_blocks(DOCS / "start.md")
    assert len(commands) > 12
    for command in commands:
        assert command[0] == "clamr-bench"
        outcome = bench(*(ids.get(word, word) for word in command[1:]))
        assert outcome.status == 0, f"{' '.join(command)}: {outcome.err}"
        for run in ResultsStore(tmp_path / "results").runs():
            name = {"clamr": "CLAMR_RUN", "bm25-text": "BM25_RUN"}.get(run.result.retriever.name)
            if name is not None:
                ids.setdefault(name, run.result.run_id)
                ids.setdefault("QUERY", next(iter(read_ranking(run.folder / "run.trec.gz"))))


def test_pages_lead_to_pages_that_exist() -> None:
    for page in sorted(DOCS.glob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (DOCS / target).exists(), f"{page.name} leads to {target}"


def test_every_page_is_on_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([a-z0-9-]+\.md)$", text, re.MULTILINE))
    hook = (DOCS / "site_pages.py").read_text(encoding="utf-8")
    outside = set(re.findall(r'^    "([a-z]+\.md)": ROOT', hook, re.MULTILINE))
    assert listed - outside == {page.name for page in DOCS.glob("*.md")}
    assert outside <= listed


def test_readme_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / target).exists(), target
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= verbs


def test_the_public_surface_is_what_it_says() -> None:
    names = harness.api.__all__
    assert names == sorted(names)
    assert all(hasattr(harness.api, name) for name in names)


def test_help_imports_nothing_heavy() -> None:
    """A real process: this is about what a new interpreter loads."""
    heavy = ("torch", "scipy", "pyarrow", "numpy", "transformers", "bm25s", "ir_measures", "av")
    code = (
        "import sys, harness.cli.main as m; status = m.main(['--help']); "
        "from harness.cli.options import complete_tasks, complete_retrievers; "
        "assert 'random' in complete_retrievers('r') and complete_tasks('multi'); "
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    assert "leaderboard" in done.stdout


def test_a_shadowing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/__init__.py").write_text("")
    code = "import sys; from harness.cli.main import main; sys.exit(main(['tasks']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "'tasks'" in done.stderr
    assert "shadowed" in done.stderr
    assert "Traceback" not in done.stderr
