"""`clamr-bench retrievers` and `tasks`: what there is, and what can run on what."""

from __future__ import annotations

from pathlib import Path

from harness.registry import RETRIEVERS
from tests.conftest import Command


def cells(out: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0]}


def test_which_retrievers_can_run_on_a_task(bench: Command, v1: Path) -> None:
    shown = bench("retrievers", "--task", "multivent/v1")
    assert shown.status == 0, shown.err
    rows = cells(shown.out)
    assert set(rows) == set(RETRIEVERS.names())
    assert rows["bm25-description"] == ["yes", "reads description"]
    assert rows["clip"][0] == "yes"
    runs, why = rows["bm25-asr"]
    assert runs == "no"
    assert "reads asr" in why
    assert "have description" in why
    one = cells(bench("retrievers", "bm25-ocr", "--task", "multivent/v1").out)
    assert list(one) == ["bm25-ocr"]


def test_a_task_without_data_says_how_to_prepare_it(bench: Command) -> None:
    bench("retrievers", "--task", "multivent/v1").fails("data prepare multivent/v1 --source DIR")
    bench("retrievers", "--task", "multivnt").fails("Did you mean 'multivent'")


def test_settings_are_shown_as_they_are_written(bench: Command) -> None:
    out = bench("retrievers", "fused").out
    assert "mean | max | zscore | minmax | rrf" in out
    assert "fail | skip-modality | skip-document | none" in out
    assert "FieldInfo" not in out


def test_settings_of_what_a_command_does_not_run_are_refused(bench: Command, v1: Path) -> None:
    for command in (
        ("retrievers", "--task", "multivent/v1"),
        ("data", "prepare", "multivent/v1", "--source", str(v1)),
        ("run", "--task", "multivent/v1", "--retriever", "random"),
    ):
        bench(*command, "--set", "bm25-asr.k1=2").fails("settings are given for 'bm25-asr'")
