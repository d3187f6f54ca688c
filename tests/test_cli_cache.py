"""``clamr-bench cache``: what lies there, whether it is sound, and what may go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.cache import cached, prune
from harness.files import exclusive
from harness.workspace import Workspace
from tests.conftest import Command
from tests.encoders import plugin

DAY = 86400


@pytest.fixture
def ran(bench: Command, v1: Path, tmp_path: Path) -> Path:
    """Two complete workspaces: of BM25, and of an encoder."""
    source = plugin(tmp_path)
    text = (
        (tmp_path / "words.py")
        .read_text()
        .replace("Modality.ASR, Modality.OCR", "Modality.DESCRIPTION")
    )
    (tmp_path / "words.py").write_text(text)
    for retriever in ("bm25-description", source):
        outcome = bench("run", "--task", "multivent/v1", "--retriever", retriever)
        assert outcome.status == 0, outcome.err
    return tmp_path / "cache/workspaces"


def folder_of(root: Path, name: str) -> Path:
    [path] = [one.path for one in cached(root) if one.retriever == name]
    return path


def incomplete(root: Path) -> Path:
    """A workspace in which a process was killed in the middle of its index."""
    space = Workspace.of({"retriever": {"name": "slow", "weights": "big"}, "data": "0" * 64}, root)
    (space.path / ".shard-000000000.4242.tmp").mkdir()
    (space.path / ".shard-000000000.4242.tmp/embeddings.safetensors").write_bytes(b"x" * 5000)
    (space.path / ".lock").write_text("4242")
    return space.path


@contextmanager
def living_process(lock: Path) -> Iterator[int]:
    """Hold a lock in another process, which is alive."""
    script = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX); "
        "file.truncate(0); file.write(str(os.getpid())); file.flush(); print('held', flush=True); "
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.communicate()


def test_list_says_what_lies_there(bench: Command, ran: Path) -> None:
    incomplete(ran)
    out = bench("cache", "list").out
    assert "bm25-description" in out
    assert "Words" in out
    assert "slow/big" in out
    assert out.count("incomplete") == 1
    assert "3 workspaces" in out
    with living_process(folder_of(ran, "Words") / ".lock") as pid:
        assert f"in use by {pid}" in bench("cache", "list").out


def test_an_empty_cache_is_no_error(bench: Command, tmp_path: Path) -> None:
    assert "no workspaces in" in bench("cache", "list").out
    assert "0 shards" in bench("cache", "check").out
    assert "removed 0 workspaces" in bench("cache", "prune", "--all").out


def test_a_workspace_whose_identity_is_unreadable_is_listed(bench: Command, ran: Path) -> None:
    (folder_of(ran, "Words") / "identity.json").write_text("{")
    assert "unknown" in bench("cache", "list").out


def test_check_names_what_is_damaged(bench: Command, ran: Path) -> None:
    assert "1 shards" in bench("cache", "check").out
    [file] = ran.rglob("embeddings.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)
    bench("cache", "check").fails(
        "sha256 differs", str(file.parent), "encodes what is damaged anew"
    )


def test_a_damaged_shard_is_repaired_by_the_next_run(
    bench: Command, ran: Path, tmp_path: Path
) -> None:
    [file] = ran.rglob("embeddings.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    address = f"{tmp_path}/words.py:Words"
    outcome = bench("run", "--task", "multivent/v1", "--retriever", address, "--again")
    assert outcome.status == 0, outcome.err
    notes = [line for line in outcome.err.splitlines() if "is damaged" in line]
    assert len(notes) == 1
    assert "encoded anew" in notes[0]
    assert file.read_bytes() == whole
    assert bench("cache", "check").status == 0


def test_prune_alone_removes_only_what_killed_processes_left(bench: Command, ran: Path) -> None:
    slow = incomplete(ran)
    (ran / ".0123.99.tmp").mkdir()  # of a prune that was killed
    os.utime(slow / ".lock", (1e9, 1e9))
    out = bench("cache", "prune").out
    assert "removed 0 workspaces and 2 leftovers: 5.0 kB freed" in out
    assert len(cached(ran)) == 3
    assert sorted(p.name for p in slow.iterdir()) == [".lock", "identity.json"]
    assert (slow / ".lock").stat().st_mtime == 1e9, "tidying is no use of a workspace"
    assert not list(ran.glob(".*"))


def test_prune_by_age_by_state_and_all(bench: Command, ran: Path) -> None:
    slow = incomplete(ran)
    words = folder_of(ran, "Words")
    then = (words / ".lock").stat().st_mtime - 10 * DAY
    os.utime(words / ".lock", (then, then))
    assert "removed 0 workspaces" in bench("cache", "prune", "--older-than", "11").out
    assert "removed 1 workspaces" in bench("cache", "prune", "--older-than", "9").out
    assert not words.exists()
    assert "removed 1 workspaces" in bench("cache", "prune", "--incomplete").out
    assert not slow.exists()
    assert "removed 1 workspaces" in bench("cache", "prune", "--all").out
    assert list(ran.iterdir()) == []


def test_prune_leaves_alone_what_a_living_process_uses(bench: Command, ran: Path) -> None:
    words = folder_of(ran, "Words")
    with living_process(words / ".lock") as pid:
        outcome = bench("cache", "prune", "--all")
        assert f"left alone: {words} is in use by {pid}" in outcome.err
        assert "removed 1 workspaces" in outcome.out
    assert (words / "identity.json").exists()
    assert "removed 1 workspaces" in bench("cache", "prune", "--all").out


def test_a_process_that_waits_gets_a_new_workspace_when_the_old_one_is_pruned(
    tmp_path: Path,
) -> None:
    """It opened the lock before the folder went: it must not work in a folder without a name."""
    space = Workspace.of({"retriever": {"name": "x"}}, tmp_path)
    waiting, inside = threading.Event(), threading.Event()

    def work() -> None:
        with space.locked(lambda holder: waiting.set()), space.file("made") as temporary:
            temporary.write_text("whole")
        inside.set()

    with exclusive(space.path / ".lock"):
        worker = threading.Thread(target=work)
        worker.start()
        assert waiting.wait(10)
        space.path.rename(tmp_path / ".aside.tmp")
    worker.join(10)
    assert inside.is_set()
    assert (space.path / "made").read_text() == "whole"
    assert json.loads((space.path / "identity.json").read_text()) == {"retriever": {"name": "x"}}
    assert prune(tmp_path).leftovers == 1
