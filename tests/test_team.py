"""Several processes that fill one store: each document once, whoever dies; the bytes of one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.index.filling
from harness.encoder import EncoderRetriever
from harness.errors import StorageError
from harness.index.filling import portions
from harness.late_interaction import TokenEmbeddings
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.team import Team, local_processes
from harness.types import Document
from tests.encoders import QUERIES, SMALL_SHARD, as_bytes, documents, plugin, workspace

NUMBER = 61


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", SMALL_SHARD)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return plugin(tmp_path)


def member(
    address: str, processes: int, seen: Callable[[str], None] = lambda _: None
) -> EncoderRetriever:
    """Return a retriever of a team, which tells of each document that it encodes."""
    made = make_retriever(address)
    assert isinstance(made, EncoderRetriever)
    made.processes = processes
    encode = made.encoder.encode_documents

    def told(batch: Sequence[Document]) -> TokenEmbeddings:
        for document in batch:
            seen(document.id)
        return encode(batch)

    made.encoder.encode_documents = told  # type: ignore[method-assign]
    return made


def alone(address: str, folder: Path) -> dict[str, tuple[list[str], bytes]]:
    retriever = make_retriever(address)
    retriever.index(documents(NUMBER), workspace(folder))
    return as_bytes(retriever.search(QUERIES, 100))


@given(st.integers(0, 3000), st.integers(1, 70), st.integers(1, 9))
def test_portions_are_whole_batches_and_cover_all(total: int, batch: int, processes: int) -> None:
    found = list(portions(total, batch, processes))
    assert [number for portion in found for number in portion] == list(range(total))
    assert all(portion.start % batch == 0 for portion in found)
    if processes > 1:
        assert all(len(portion) <= 16 * batch for portion in found)
        if total >= 8 * batch * processes:
            assert len(found) >= 8 * processes


def test_everyone_encodes_and_nobody_twice(tmp_path: Path, address: str) -> None:
    expected = alone(address, tmp_path / "alone")
    meet = threading.Barrier(3, timeout=60)
    encoded: list[list[str]] = [[], [], []]

    def note(number: int) -> Callable[[str], None]:
        def seen(id_: str) -> None:
            if not encoded[number]:  # Nobody goes on before everybody has begun.
                meet.wait()
            encoded[number].append(id_)

        return seen

    members = [member(address, 3, note(number)) for number in range(3)]
    place = workspace(tmp_path / "w")
    helpers = [
        threading.Thread(target=one.assist, args=(documents(NUMBER), place)) for one in members[1:]
    ]
    for helper in helpers:
        helper.start()
    members[0].index(documents(NUMBER), place)
    for helper in helpers:
        helper.join()
    assert all(encoded)
    ids = [document.id for document in documents(NUMBER)]
    assert sorted(id_ for row in encoded for id_ in row) == sorted(ids)
    assert as_bytes(members[0].search(QUERIES, 100)) == expected
    assert not list(place.path.glob("claim-*"))
    again = member(address, 1, lambda id_: pytest.fail(f"{id_} was encoded again"))
    again.index(documents(NUMBER), place)
    assert as_bytes(again.search(QUERIES, 100)) == expected


def test_the_first_one_waits_for_a_claim_and_takes_over_what_was_not_done(
    tmp_path: Path, address: str
) -> None:
    expected = alone(address, tmp_path / "alone")
    holds, dies = threading.Event(), threading.Event()

    def until_it_dies(_: str) -> None:
        holds.set()
        assert dies.wait(60)
        raise KeyboardInterrupt

    helper = member(address, 2, until_it_dies)

    def assisted() -> None:
        with pytest.raises(KeyboardInterrupt):
            helper.assist(documents(NUMBER), place)

    place = workspace(tmp_path / "w")
    thread = threading.Thread(target=assisted)
    thread.start()
    assert holds.wait(60)
    encoded: list[str] = []

    def noted(id_: str) -> None:
        encoded.append(id_)
        if len(encoded) == NUMBER - 1:  # Only the other one's portion is left.
            dies.set()

    leader = member(address, 2, noted)
    threading.Timer(5, dies.set).start()
    leader.index(documents(NUMBER), place)
    thread.join()
    assert encoded[-2:] == ["empty", "d000"], "the first portion, which the other one had claimed"
    assert len(encoded) == NUMBER + 1
    assert as_bytes(leader.search(QUERIES, 100)) == expected


KILLED = """
import os
from pathlib import Path
import harness.index.filling
from harness.registry import make_retriever
from tests.encoders import documents, workspace
harness.index.filling.SHARD_BYTES = {size}
retriever = make_retriever({address!r})
retriever.processes = {processes}
encode = retriever.encoder.encode_documents
def killed(batch):
    if any(document.id == "d030" for document in batch):
        os.kill(os.getpid(), 9)
    return encode(batch)
retriever.encoder.encode_documents = killed
retriever.index(documents({number}), workspace(Path({folder!r})))
"""


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_killed_index_goes_on_with_other_numbers_of_processes(
    tmp_path: Path, address: str, before: int, after: int
) -> None:
    expected = alone(address, tmp_path / "alone")
    script = KILLED.format(
        size=SMALL_SHARD, address=address, processes=before, number=NUMBER,
        folder=str(tmp_path / "w"),
    )  # fmt: skip
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, cwd=root, check=False)
    assert done.returncode == -9
    encoded: list[str] = []
    resumed = member(address, after, encoded.append)
    resumed.index(documents(NUMBER), workspace(tmp_path / "w"))
    assert encoded[0] < "d031"
    assert len(encoded) < NUMBER, "what was complete is not encoded again"
    assert as_bytes(resumed.search(QUERIES, 100)) == expected


@pytest.mark.parametrize("leads", [True, False])
def test_a_store_of_other_documents_is_refused(tmp_path: Path, address: str, leads: bool) -> None:
    alone(address, tmp_path / "w")
    one = member(address, 2)
    other = documents(NUMBER - 3)
    place = workspace(tmp_path / "w")
    if leads:
        with pytest.raises(StorageError, match="embeddings of other documents"):
            one.index(other, place)
    changed = list(documents(NUMBER))[::-1]
    with pytest.raises(StorageError, match="embeddings of other documents"):
        (one.index if leads else one.assist)(type(other)(changed), place)


def test_a_launcher_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Team.here() == Team(0, 1)
    assert local_processes() == 1
    assert Team.here().leads
    Team.here().tell(True)  # to nobody
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Team.here() == Team(3, 8)
    assert not Team.here().leads
    assert local_processes() == 4


@pytest.mark.slow
def test_a_launch_of_two_processes(tmp_path: Path) -> None:
    """As a user gives it: torchrun, which `accelerate launch` starts for several processes."""
    pytest.importorskip("torch")
    source = plugin(tmp_path)
    path = Path(source.rpartition(":")[0])
    path.write_text(
        path.read_text() + "\n\nclass Slow(Words):\n    def encode_documents(self, batch):\n"
        "        import os, pathlib, time\n"
        "        time.sleep(0.2)\n"
        "        name = pathlib.Path(__file__).with_name('rank' + os.environ['RANK'])\n"
        "        with name.open('a') as file:\n"
        "            file.writelines(document.id + '\\n' for document in batch)\n"
        "        return super().encode_documents(batch)\n"
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "--no-python", str(Path(sys.executable).with_name("clamr-bench")), "run", "--task",
        "multivent/sample", "--retriever", f"{path}:Slow", "--retriever", "bm25-asr",
        "--set", "multivent/sample.test_videos=40", "--set", "multivent/sample.train_videos=2",
    ]  # fmt: skip
    for number in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved: ") == 2, "only the first one shows results"
        assert done.stderr.count("complete already") == (2 if number else 0)
        encoded = [(tmp_path / f"rank{rank}").read_text().split() for rank in (0, 1)]
        assert all(encoded)
        assert len({*encoded[0], *encoded[1]}) == len(encoded[0]) + len(encoded[1]) == 40
    assert len(list(ResultsStore(tmp_path / "results").runs())) == 2
