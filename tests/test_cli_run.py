"""`clamr-bench run` as a user gives it: what it writes, shows, refuses, survives."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from harness.environment import source_sha256
from harness.files import exclusive
from harness.results import ResultsStore, SavedRun
from harness.runfile import read_ranking
from tests.conftest import Command

BM25 = ("run", "--task", "multivent/v1", "--retriever", "bm25-description")


def saved(tmp_path: Path) -> list[SavedRun]:
    return list(ResultsStore(tmp_path / "results").runs())


def plugin(tmp_path: Path, body: str, name: str = "Mine") -> str:
    """Write a retriever plugin; `body` is its search method's body."""
    path = tmp_path / "mine.py"
    path.write_text(
        f"""
from pathlib import Path
from harness.api import About, Capabilities, Modality, Ranking, Retriever

class {name}(Retriever):
    about = About(title="Mine", version="1", licence="MIT", citation="Mine")
    capabilities = Capabilities(modalities=frozenset({{Modality.DESCRIPTION}}))

    def index(self, documents, workspace):
        self.ids = [d.id for d in documents]

    def search(self, queries, k):
{body}
""",
        encoding="utf-8",
    )
    return f"{path}:{name}"


ALL = "        return Ranking.from_scores({q.id: {d: 1.0 for d in self.ids} for q in queries})"


def test_a_run_writes_a_complete_folder(bench: Command, v1: Path, tmp_path: Path) -> None:
    outcome = bench(*BM25)
    assert outcome.status == 0, outcome.err
    assert "nDCG@10" in outcome.out
    [run] = saved(tmp_path)
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"result.json", "run.trec.gz", "per_query.parquet", "config.yaml"}
    assert run.folder.parent == tmp_path / "results/runs/multivent/v1/bm25-description"
    result = run.result
    assert result.task.citation
    assert result.retriever.citation
    assert result.task.licence
    assert result.retriever.licence
    assert result.environment.source_sha256 == source_sha256()
    assert result.environment.packages["bm25s"]
    assert result.environment.blas is None or "(" in result.environment.blas
    assert result.efficiency.peak_memory_bytes > 10_000_000
    assert result.efficiency.query_p95_ms is not None
    assert result.data.coverage.modalities == {"description": 18}
    assert result.evaluation.queries == 6
    assert set(result.breakdowns) == {"event_category", "document language"}
    assert run.check() == []
    assert len(read_ranking(run.folder / "run.trec.gz")) == 6


def test_the_figures_are_those_of_the_saved_files(bench: Command, v1: Path, tmp_path: Path) -> None:
    """Evaluating the written run file gives what the run said, interval included."""
    bench(*BM25)
    [run] = saved(tmp_path)
    outcome = bench("evaluate", run.folder / "run.trec.gz", "--task", "multivent/v1")
    assert outcome.status == 0, outcome.err
    e = run.result.measures["nDCG@10"]
    assert f"{e.mean * 100:.2f} [{e.low * 100:.1f}, {e.high * 100:.1f}]" in outcome.out


def test_the_saved_config_repeats_the_run(bench: Command, v1: Path, tmp_path: Path) -> None:
    bench(*BM25, "--set", "bm25-description.k1=0.5", "--k", "7", "--modalities", "description")
    [run] = saved(tmp_path)
    bench("run", "--config", run.folder / "config.yaml", "--output", tmp_path / "again")
    [again] = ResultsStore(tmp_path / "again").runs()
    assert again.result.fingerprint == run.result.fingerprint
    assert again.result.files["run.trec.gz"] == run.result.files["run.trec.gz"]
    assert again.result.files["config.yaml"] == run.result.files["config.yaml"]


def test_flags_go_before_the_file_and_the_file_before_defaults(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "tasks": ["multivent/v1"],
                "retrievers": ["bm25-description"],
                "k": 5,
                "seed": 3,
                "settings": {"bm25-description": {"k1": 0.9, "b": 0.1}},
            }
        )
    )
    outcome = bench("run", "--config", file, "--k", "4", "--set", "bm25-description.k1=2")
    assert outcome.status == 0, outcome.err
    [run] = saved(tmp_path)
    assert run.result.options.k == 4
    assert run.result.options.seed == 3
    assert run.result.retriever.changed_settings == {"k1": 2.0, "b": 0.1}
    lists = read_ranking(run.folder / "run.trec.gz")
    assert max(len(ranked) for ranked in lists.values()) <= 4


def test_a_complete_run_is_shown_again_and_again_reruns(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(*BM25)
    second = bench(*BM25)
    assert "complete already" in second.err
    assert len(saved(tmp_path)) == 1
    time.sleep(1.1)  # Run ids have seconds.
    bench(*BM25, "--again")
    first, again = saved(tmp_path)
    assert first.result.run_id != again.result.run_id
    assert first.result.files["run.trec.gz"] == again.result.files["run.trec.gz"]
    time.sleep(1.1)
    monkeypatch.setattr("harness.runner.folder.source_sha256", lambda: "other code")
    bench(*BM25)
    assert len(saved(tmp_path)) == 3, "other code must not be taken for the same run"


def test_several_retrievers_and_tasks_in_one_command(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    outcome = bench(*BM25, "--retriever", "bm25-text", "--retriever", "random", "--limit", "4")
    assert outcome.status == 0, outcome.err
    assert {run.result.retriever.name for run in saved(tmp_path)} == {
        "bm25-description",
        "bm25-text",
        "random",
    }
    assert all(run.result.evaluation.queries == 4 for run in saved(tmp_path))


def test_gold_attributes_are_hidden_unless_the_retriever_is_an_oracle(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    body = "        assert not any(q.attributes for q in queries), 'gold attributes leaked'\n" + ALL
    assert bench("run", "--task", "multivent/v1", "--retriever", plugin(tmp_path, body)).status == 0
    path = tmp_path / "mine.py"
    path.write_text(
        path.read_text()
        .replace("not any(q", "all(q")
        .replace("{Modality.DESCRIPTION})", "{Modality.DESCRIPTION}), oracle=True")
    )
    outcome = bench("run", "--task", "multivent/v1", "--retriever", f"{path}:Mine")
    assert outcome.status == 0, outcome.err
    assert sorted(run.result.retriever.oracle for run in saved(tmp_path)) == [False, True]


# --- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "multivent/v2", "--retriever", "random"), ("Did you mean 'multivent/v1'",)),
        (("--task", "multivent/v1", "--retriever", "bm25-descripton"), ("'bm25-description'",)),
        (("--task", "multivent/v1"), ("no retrievers given", "--retriever")),
        (("--retriever", "random"), ("no tasks given",)),
        (("--task", "multivent/v1", "--retriever", "random/big"), ("takes no weights",)),
        (("--task", "multivent/v1", "--retriever", "random", "--k", "0"), ("'k'",)),
        (("--task", "multivent/v1", "--retriever", "random", "--modalities", "asr,smell"),
         ("unknown modality 'smell'",)),
        (("--task", "multivent/v1", "--retriever", "bm25-text", "--set", "bm25-text.K1=3"),
         ("'K1'", "Did you mean 'k1'")),
        (("--task", "multivent/v1", "--retriever", "bm25-text", "--set", "bm25-txt.k1=3"),
         ("does not run", "Did you mean 'bm25-text'")),
        (("--task", "multivent/v1", "--retriever", "bm25-text", "--set", "k1=3"),
         ("NAME.KEY=VALUE",)),
        (("--task", "multivent/v1", "--retriever", "random", "--split", "tset"),
         ("no split 'tset'", "Did you mean 'test'")),
        (("--task", "multivent/v1", "--retriever", "bm25-asr"), ("reads asr", "description")),
        (("--task", "multivent/v1", "--retriever", "random", "--modalities", "asr"),
         ("other --modalities",)),
        (("--task", "multivent/v1", "--retriever", "nowhere.py:Mine"), ("no file nowhere.py",)),
        (("--config", "nowhere.yaml",), ("no config file",)),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(
    bench: Command, v1: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    bench("run", *arguments).fails(*words)
    assert saved(tmp_path) == []


@pytest.mark.parametrize("text", ["tasks: [", "- a", "tasks: multivent/v1\nretrievers: [random]"])
def test_a_bad_config_file_is_one_clear_line(bench: Command, tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    bench("run", "--config", file).fails(str(file))


def test_an_unknown_config_key_gets_did_you_mean(bench: Command, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("tasks: [multivent/v1]\nretriever: [random]\nretrievers: [random]\n")
    bench("run", "--config", file).fails("'retriever'", "Did you mean 'retrievers'")


def test_data_that_are_not_there(bench: Command) -> None:
    bench(*BM25).fails("data prepare multivent/v1 --source DIR", "multivent/sample", "looked in")


def test_a_store_of_another_task(bench: Command, v1: Path, tmp_path: Path) -> None:
    store = tmp_path / "data/multivent/v1"
    manifest = json.loads((store / "dataset.json").read_text())
    (store / "dataset.json").write_text(json.dumps(manifest | {"task": "msrvtt/1k-a"}))
    bench(*BM25, "--data", store).fails("prepared for task 'msrvtt/1k-a'")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("        return {}", ("not a Ranking",)),
        ("        return Ranking.from_scores({'nobody': {}})", ("1 unknown queries",)),
        ("        return Ranking.from_scores({q.id: {'nothing': 1} for q in queries})",
         ("1 unknown documents", "'nothing'")),
        ("        return Ranking.from_scores({q.id: {'video00': float('nan')} for q in queries})",
         ("score nan",)),
    ],
)  # fmt: skip
def test_a_retriever_is_held_to_its_contract(
    bench: Command, v1: Path, tmp_path: Path, body: str, words: tuple[str, ...]
) -> None:
    address = plugin(tmp_path, body)
    bench("run", "--task", "multivent/v1", "--retriever", address).fails(*words)
    assert saved(tmp_path) == []


def test_ids_that_a_run_file_cannot_hold_are_refused_before_any_work(
    bench: Command, tmp_path: Path
) -> None:
    path = tmp_path / "spaced.py"
    path.write_text(
        """
from harness.api import About, Document, Modality, Protocol, Query, Split, Task

class Spaced(Task):
    about = About(title="Spaced", version="1", licence="MIT", citation="None")
    protocol = Protocol(name="p", candidates="all", relevance="one")

    def load(self, split, data, progress):
        documents = [Document("two words", {Modality.DESCRIPTION: "two words"})]
        return Split.of(split, documents, [Query("q", "two")], {"q": {"two words": 1}})
"""
    )
    outcome = bench("run", "--task", f"{path}:Spaced", "--retriever", "bm25-text")
    outcome.fails("'two words'", "white space")
    assert "index" not in outcome.err


def test_a_search_that_finds_nothing_can_be_resumed(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runner.search.CHECKPOINT_SECONDS", 0.0)
    log = tmp_path / "log.txt"
    body = f"""
        log = Path({str(log)!r})
        log.write_text((log.read_text() if log.exists() else "") + "x")
        if len(log.read_text()) == 4:
            raise KeyboardInterrupt
        return Ranking.from_scores({{q.id: {{}} for q in queries}})
"""
    command = ("run", "--task", "multivent/v1", "--retriever", plugin(tmp_path, body))
    assert bench(*command).status == 130
    outcome = bench(*command)
    assert outcome.status == 0, outcome.err
    [run] = saved(tmp_path)
    assert run.result.evaluation.missing == 6


def test_a_bug_in_a_plugin_keeps_its_traceback(bench: Command, v1: Path, tmp_path: Path) -> None:
    """A bug is no user mistake: hiding where it is would help nobody."""
    address = plugin(tmp_path, "        return 1 / 0")
    with pytest.raises(ZeroDivisionError):
        bench("run", "--task", "multivent/v1", "--retriever", address)


# --- what it survives ------------------------------------------------------------------------


def test_the_results_folder_is_tested_before_any_work(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    """A file where the folder should be: the command stops before it indexes anything."""
    (tmp_path / "taken").write_text("")
    outcome = bench(*BM25, "--output", tmp_path / "taken")
    outcome.fails("results folder", str(tmp_path / "taken"), "choose another folder")
    assert "index" not in outcome.err


def test_a_read_only_results_folder(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def refuse(self: Path, data: bytes) -> int:
        if ".write-test" in self.name and "results" in str(self):
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    outcome = bench(*BM25)
    outcome.fails("results folder", "read-only", "choose another folder")
    assert "index" not in outcome.err


def test_a_full_disk_while_saving_loses_nothing(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(*BM25, "--retriever", "random")
    before = {run.result.run_id: run.result.files for run in saved(tmp_path)}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("harness.runner.folder.write_per_query", full)
        bench("run", "--task", "multivent/v1", "--retriever", "bm25-text").fails(
            "the disk is full", "give the same command again"
        )
    assert {run.result.run_id: run.result.files for run in saved(tmp_path)} == before
    assert bench("results", "check").status == 0
    assert bench("run", "--task", "multivent/v1", "--retriever", "bm25-text").status == 0
    folders = list((tmp_path / "results/runs/multivent/v1/bm25-text").iterdir())
    assert len(folders) == 1, "the interrupted run must go on in its own folder"
    assert not list((tmp_path / "results").rglob("*.tmp"))


def test_two_runs_into_one_folder(bench: Command, v1: Path, tmp_path: Path) -> None:
    bench(*BM25)
    [run] = saved(tmp_path)
    (run.folder / "result.json").unlink()  # As if it were still being written ...
    with exclusive(run.folder / ".lock"):  # ... by a process that is alive.
        bench(*BM25).fails("in use by another process", str(os.getpid()), "choose another folder")
    assert bench(*BM25).status == 0


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after three queries; the second time only the others are searched."""
    monkeypatch.setattr("harness.runner.search.CHECKPOINT_SECONDS", 0.0)
    log = tmp_path / "searched.txt"
    body = f"""
        log = Path({str(log)!r})
        seen = log.read_text().splitlines() if log.exists() else []
        log.write_text("\\n".join([*seen, *(q.id for q in queries)]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return Ranking.from_scores({{q.id: {{d: 1.0 for d in self.ids}} for q in queries}})
"""
    command = ("run", "--task", "multivent/v1", "--retriever", plugin(tmp_path, body))
    outcome = bench(*command)
    assert outcome.status == 130
    outcome.fails("interrupted", "the same command goes on")
    assert saved(tmp_path) == []
    outcome = bench(*command)
    assert outcome.status == 0, outcome.err
    searched = log.read_text().splitlines()
    assert len(searched) == 7, "6 queries, of which the interrupted one twice"
    [run] = saved(tmp_path)
    assert run.result.efficiency.search_seconds is None, "a resumed search has no honest time"
    assert len(read_ranking(run.folder / "run.trec.gz")) == 6


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(bench: Command, v1: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the search; the process is the point, so it is a real one."""
    body = f"""
        import time
        marker = Path({str(tmp_path / "killed")!r})
        if not marker.exists():
            time.sleep(0.4)
        return Ranking.from_scores(
            {{q.id: {{d: len(q.text) / (i + 3) for i, d in enumerate(self.ids)}} for q in queries}}
        )
"""
    address = plugin(tmp_path, body)
    script = (
        "import sys, harness.runner.search as s; s.CHECKPOINT_SECONDS = 0.0; "
        "from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        script,
        "run",
        "--task",
        "multivent/v1",
        "--retriever",
        address,
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    workspaces = tmp_path / "cache/workspaces"
    deadline = time.monotonic() + 60
    while len(list(workspaces.rglob("*.trec.gz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert saved(tmp_path) == []
    (tmp_path / "killed").touch()
    assert bench(*command[3:]).status == 0
    [resumed] = saved(tmp_path)
    assert bench(*command[3:], "--output", tmp_path / "straight").status == 0
    [straight] = ResultsStore(tmp_path / "straight").runs()
    assert resumed.result.efficiency.search_seconds is None
    assert straight.result.efficiency.search_seconds is not None
    assert resumed.result.files["run.trec.gz"] == straight.result.files["run.trec.gz"]
    per_query = "per_query.parquet"
    assert resumed.result.files[per_query] == straight.result.files[per_query]


def test_secrets_of_the_environment_are_never_written(
    bench: Command, v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-value")
    monkeypatch.setenv("HF_TOKEN", "hf-secret-value")
    bench(*BM25)
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            assert b"secret-value" not in data
