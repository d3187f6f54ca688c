"""What all commands have in common: JSON, examples, plain text, exit codes; and `doctor`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from harness import diagnosis
from harness.cli.main import app
from tests.conftest import Command


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from commands(one, (*path, name))


EVERY = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_help_has_an_example_of_the_command(words: tuple[str, ...]) -> None:
    text = EVERY[words].help or ""
    assert re.search(rf"`clamr-bench {' '.join(words)}\b[^`]*`", text), text


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_says_what_it_is(words: tuple[str, ...]) -> None:
    for parameter in EVERY[words].params:
        assert parameter.help, f"{' '.join(words)} {parameter.name}"


@pytest.mark.parametrize(
    "words",
    [("tasks",), ("retrievers",), ("results", "list"), ("data", "list"), ("cache", "list")],
    ids=" ".join,
)
def test_what_lists_lists_as_json(bench: Command, words: tuple[str, ...], v1: Path) -> None:
    empty = json.loads(bench(*words, "--json").out)
    run = bench("run", "--task", "multivent/v1", "--retriever", "bm25-description")
    assert run.status == 0, run.err
    found = json.loads(bench(*words, "--json").out)
    assert found
    assert all(isinstance(row, dict) and all(row.values()) for row in found)
    if words in {("results", "list"), ("cache", "list")}:
        assert empty == []
        assert len(found) == 1


def test_one_thing_whole_as_json(bench: Command, v1: Path) -> None:
    task = json.loads(bench("tasks", "multivent/v1", "--json").out)
    assert task["address"] == "multivent/v1"
    assert [row["setting"] for row in task["settings"]] == ["query"]
    retriever = json.loads(bench("retrievers", "bm25-asr", "--json").out)
    assert "asr" in retriever["reads"]
    able = json.loads(bench("retrievers", "--task", "multivent/v1", "--json").out)
    assert {row["retriever"]: row["runs"] for row in able}["bm25-asr"] == "no"
    bench("run", "--task", "multivent/v1", "--retriever", "random")
    (run,) = json.loads(bench("results", "list", "--json").out)
    whole = json.loads(bench("results", "show", run["run"], "--json").out)
    assert whole["run_id"] == run["run"]


def test_plain_text_where_colour_is_not_wanted(
    bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in bench("tasks").out
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = bench("tasks").out
    assert "multivent/sample" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_names(shell: str, tmp_path: Path) -> None:
    def completed(*words: str) -> str:
        line = " ".join(["clamr-bench", *words])
        environment = {
            **os.environ,
            "_CLAMR_BENCH_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        program = Path(sys.executable).with_name("clamr-bench")
        done = subprocess.run(
            [program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.stdout

    assert "multivent/sample" in completed("run", "--task", "multi")
    names = completed("run", "--retriever", "bm25-")
    assert "bm25-asr" in names
    assert "clamr" not in names.replace("clamr-bench", "")


def test_exit_codes(bench: Command) -> None:
    assert bench("tasks").status == 0
    assert bench("tasks", "nothing").status == 2, "what cannot be right"
    assert bench("run", "--no-such-option").status == 2
    assert bench("data", "stats", "multivent/v1").status == 1, "what is not there"


# --- doctor -----------------------------------------------------------------------------------


def found(outcome_out: str) -> dict[str, dict[str, str]]:
    return {row["what"]: row for row in json.loads(outcome_out)}


def test_the_doctor_looks_at_what_is_there(bench: Command, v1: Path, tmp_path: Path) -> None:
    outcome = bench("doctor", "--json")
    assert outcome.status == 0, outcome.err
    rows = found(outcome.out)
    assert rows["Python"]["state"] == "ok"
    assert rows["datasets"]["detail"] == "multivent/v1"
    assert str(tmp_path / "data") in rows["data folder"]["detail"]
    assert "offline" in rows["model hub"]["detail"]
    assert "Python" in bench("doctor").out


def test_what_is_lacking_says_what_to_install(
    bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(diagnosis.PACKAGES, "train", ("no-such-package",))
    rows = found(bench("doctor", "--json").out)
    assert rows["packages: train"]["state"] == "lacking"
    assert "pip install 'clamr-bench[train]'" in rows["packages: train"]["detail"]
    assert rows["datasets"]["state"] == "lacking"
    monkeypatch.setitem(diagnosis.PACKAGES, "core", ("no-such-package",))
    outcome = bench("doctor", "--json")
    outcome.fails("broken: packages: core")
    assert outcome.status == 1


def test_a_folder_that_cannot_be_written_is_broken(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLAMR_BENCH_RESULTS", str(tmp_path / "file"))
    outcome = bench("doctor", "--json")
    outcome.fails("broken: results folder")


def test_a_hub_that_does_not_answer(bench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    rows = found(bench("doctor", "--json").out)
    assert rows["model hub"]["state"] == "lacking"
    assert "127.0.0.1:9 does not answer" in rows["model hub"]["detail"]
    assert "as asked" in found(bench("doctor", "--json", "--offline").out)["model hub"]["detail"]


def test_typer_is_what_the_commands_are_made_with() -> None:
    assert isinstance(app, typer.Typer)
