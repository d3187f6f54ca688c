"""Preparations that stop: what is done is kept, and the store at the end is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import harness.dataset.tables
from harness.dataset import DatasetStore, DatasetWriter, Portion
from harness.errors import DataError
from harness.types import Document, Media, Modality, Query

QUERIES = [Query("q1", "one?", attributes={"type": "speech"}), Query("q2", "two?")]
QRELS = {"q1": {"a0": 1, "b1": 2}}
ROWS = 3


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two portions of two documents each: a part ends with a portion."""
    monkeypatch.setattr(harness.dataset.tables, "PART_ROWS", ROWS)


class Source:
    """Five portions of two documents; the first of each is a gap."""

    def __init__(self, stop_at: str = "", keys: str = "abcde") -> None:
        self.read: list[str] = []
        self.stop_at, self.keys = stop_at, keys

    def documents(self, name: str, writer: DatasetWriter) -> Iterator[Document]:
        self.read.append(name)
        writer.gap("without speech", f"{name}0")
        yield Document(f"{name}0", attributes={"language": "english"})
        if name == self.stop_at:
            raise KeyboardInterrupt
        yield Document(f"{name}1", {Modality.ASR: f"{name} 言"})

    def portions(self, writer: DatasetWriter) -> Iterator[Portion]:
        for name, key in zip("abcde", self.keys, strict=True):
            yield Portion(name, key, lambda name=name: self.documents(name, writer))  # type: ignore[misc]


def write(folder: Path, source: Source, **options: Any) -> DatasetStore:
    options = {"task_version": "1", **options}
    with DatasetWriter(folder, task="some/task", **options) as writer:
        writer.write_split("train", source.portions(writer), QUERIES, QRELS)
    return DatasetStore(folder)


def interrupted(folder: Path, stop_at: str, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(folder, Source(stop_at), **options)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(store: DatasetStore) -> list[int]:
    return [part.rows for part in store.manifest.splits["train"].tables()["documents"].parts]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir() if path.name != ".store.lock")


def test_parts_end_with_a_portion_and_read_as_one(tmp_path: Path) -> None:
    store = write(tmp_path / "store", Source())
    parts = store.manifest.splits["train"].tables()["documents"].parts
    assert [part.rows for part in parts] == [4, 4, 2]
    split = store.split("train")
    assert [document.id for document in split.documents] == [
        f"{x}{i}" for x in "abcde" for i in "01"
    ]
    assert len(split.documents) == 10
    assert len(split.documents.attributes()) == 10
    assert split.coverage.languages == {"english": {"documents": 5}}
    assert store.manifest.gaps["without speech"].model_dump() == {"count": 5, "example": "a0"}
    assert store.check() == []


@pytest.mark.parametrize(
    ("stop_at", "read"), [("b", "abcde"), ("c", "cde"), ("d", "cde"), ("e", "e")]
)
def test_an_interrupted_preparation_goes_on_and_ends_the_same(
    tmp_path: Path, stop_at: str, read: str
) -> None:
    whole = write(tmp_path / "whole", Source())
    interrupted(tmp_path / "store", stop_at)
    assert not (tmp_path / "store").exists()
    source = Source()
    store = write(tmp_path / "store", source)
    assert "".join(source.read) == read
    assert content(tmp_path / "store") == content(tmp_path / "whole")
    assert store.manifest == whole.manifest
    assert store.manifest.gaps["without speech"].count == 5
    assert names(tmp_path / "store") == [".whole.lock", "store", "whole"]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_dataset_portions as tests
tests.harness.dataset.tables.PART_ROWS = tests.ROWS
class Killed(tests.Source):
    def documents(self, name, writer):
        if name == "d":
            os.kill(os.getpid(), 9)
        return super().documents(name, writer)
tests.write(Path({folder!r}), Killed())
"""


def test_a_killed_preparation_goes_on(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    source = Source()
    store = write(tmp_path / "store", source)
    assert "".join(source.read) == "cde"
    whole = write(tmp_path / "whole", Source())
    assert store.manifest.fingerprint("train") == whole.manifest.fingerprint("train")


def test_the_former_store_stays_meanwhile(tmp_path: Path) -> None:
    write(tmp_path / "store", Source())
    before = content(tmp_path / "store")
    interrupted(tmp_path / "store", "d", task_version="2")
    assert content(tmp_path / "store") == before
    assert write(tmp_path / "store", Source(), task_version="2").manifest.task_version == "2"


@pytest.mark.parametrize("change", [{"task_version": "2"}, {"media_roots": [Path("/elsewhere")]}])
def test_another_command_starts_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    interrupted(tmp_path / "store", "e")
    source = Source()
    write(tmp_path / "store", source, **change)
    assert "".join(source.read) == "abcde"


def test_the_same_command_but_strict_starts_anew(tmp_path: Path) -> None:
    interrupted(tmp_path / "store", "e")
    with pytest.raises(DataError, match="without speech: a0"):
        write(tmp_path / "store", Source(), strict=True)


def test_other_code_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "store", "e")
    monkeypatch.setattr(harness.dataset.writer, "source_sha256", lambda: "other")
    source = Source()
    write(tmp_path / "store", source)
    assert "".join(source.read) == "abcde"


def test_portions_that_went_are_not_taken_over(tmp_path: Path) -> None:
    interrupted(tmp_path / "store", "e")
    source = Source()
    with DatasetWriter(tmp_path / "store", task="some/task", task_version="1") as writer:
        writer.write_split("train", list(source.portions(writer))[:3], QUERIES, QRELS)
    assert "".join(source.read) == "c", "the second part held c and d"
    store = DatasetStore(tmp_path / "store")
    assert rows(store) == [4, 2]
    assert store.check() == []


@pytest.mark.parametrize(("keys", "read"), [("Xbcde", "abcde"), ("abXde", "cde")])
def test_what_follows_a_changed_file_is_read_again(tmp_path: Path, keys: str, read: str) -> None:
    interrupted(tmp_path / "store", "e")
    source = Source(keys=keys)
    write(tmp_path / "store", source)
    assert "".join(source.read) == read


def test_a_part_that_was_damaged_meanwhile_is_written_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "store", "e")
    part = tmp_path / ".store.partial/train/documents-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    source = Source()
    store = write(tmp_path / "store", source)
    assert "".join(source.read) == "cde"
    assert store.check() == []


def test_a_damaged_record_is_written_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "store", "e")
    record = tmp_path / ".store.partial/.progress/train-00001.json"
    record.write_text(record.read_text()[:-5])
    source = Source()
    write(tmp_path / "store", source)
    assert "".join(source.read) == "cde"


def test_what_another_attempt_left_does_not_get_into_the_store(tmp_path: Path) -> None:
    interrupted(tmp_path / "store", "e")
    partial = tmp_path / ".store.partial"
    (partial / "test").mkdir()
    (partial / "test" / "documents-00000.parquet").write_bytes(b"old")
    (partial / "train" / "documents-00009.parquet").write_bytes(b"old")
    write(tmp_path / "store", Source())
    assert set(content(tmp_path / "store")) == {
        "dataset.json",
        *(f"train/documents-0000{i}.parquet" for i in range(3)),
        "train/qrels.parquet",
        "train/queries.parquet",
    }


def test_a_repeated_id_names_both_portions_across_a_restart(tmp_path: Path) -> None:
    interrupted(tmp_path / "store", "d")

    def portions(writer: DatasetWriter) -> list[Portion]:
        first = list(Source().portions(writer))
        return [*first[:2], Portion("z", "z", lambda: [Document("a1")])]

    with (
        pytest.raises(DataError, match=r"'a1' occurs twice, in a and in z"),
        DatasetWriter(tmp_path / "store", task="some/task", task_version="1") as writer,
    ):
        writer.write_split("train", portions(writer), QUERIES, QRELS)


def test_strict_stops_at_the_first_gap(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"without speech: a0.*--strict"):
        write(tmp_path / "store", Source(), strict=True)
    assert names(tmp_path / "store") == []


def test_check_names_a_changed_byte_in_any_part(tmp_path: Path) -> None:
    write(tmp_path / "store", Source())
    for path in sorted((tmp_path / "store/train").iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
        (problem,) = DatasetStore(tmp_path / "store").check()
        assert f"{path} was changed" in problem
        path.write_bytes(content)


def test_media_of_several_roots(tmp_path: Path) -> None:
    """The fingerprint does not depend on which root a file lies under."""
    prints = set()
    for number, (first, second) in enumerate([("r0", "r0"), ("r0", "r1"), ("r1", "r0")]):
        documents = []
        for name, root in {"a.mp4": first, "b.mp4": second}.items():
            path = tmp_path / root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"1234")
            documents.append(Document(name, media={Modality.VIDEO: (Media(path, name, 4),)}))
        roots = [tmp_path / "r0", tmp_path / "r1"]
        folder = tmp_path / f"store{number}"
        with DatasetWriter(folder, task="t", task_version="1", media_roots=roots) as writer:
            writer.write_split("test", documents, [], {})
        store = DatasetStore(folder)
        assert list(store.documents("test")) == documents
        assert store.check_media() == []
        prints.add(store.manifest.fingerprint("test"))
    assert len(prints) == 1
    card = folder / "dataset.json"
    values = json.loads(card.read_text())
    values["media_roots"] = values["media_roots"][:1]
    card.write_text(json.dumps(values))
    with pytest.raises(DataError, match="media root 2, but the store's"):
        list(DatasetStore(folder).documents("test"))


# --- Splits that share documents --------------------------------------------------------------


def shared(folder: Path, documents: Sequence[str] = ("a", "b"), of: str = "train") -> DatasetStore:
    with DatasetWriter(folder, task="some/task", task_version="1") as writer:
        writer.write_split("train", [Document(name) for name in documents], [], {})
        writer.write_split("more", (), QUERIES, {"q1": {"b": 1}}, documents_of=of)
    return DatasetStore(folder)


def test_a_split_may_have_the_documents_of_another(tmp_path: Path) -> None:
    store = shared(tmp_path / "store")
    split = store.split("more")
    assert [document.id for document in split.documents] == ["a", "b"]
    assert len(split.documents) == split.coverage.documents == 2
    assert set(split.documents.attributes()) == {"a", "b"}
    assert split.qrels == {"q1": {"b": 1}}
    assert set(content(tmp_path / "store/more")) == {"queries.parquet", "qrels.parquet"}
    assert store.check() == store.check_media() == []


def test_its_fingerprint_is_of_those_documents_too(tmp_path: Path) -> None:
    prints = [
        shared(tmp_path / "store", documents).manifest.fingerprint("more")
        for documents in (("a", "b"), ("a", "b"), ("a", "b", "c"))
    ]
    assert prints[0] == prints[1] != prints[2]
    with DatasetWriter(tmp_path / "store", task="some/task", task_version="1") as writer:
        writer.write_split("more", map(Document, "ab"), QUERIES, {"q1": {"b": 1}})
    alone = DatasetStore(tmp_path / "store").manifest.fingerprint("more")
    assert alone == prints[0], "wherever the rows lie"


def test_its_judgments_name_those_documents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown document 'b'"):
        shared(tmp_path / "store", ["a"])


def test_a_manifest_without_those_documents_is_damaged(tmp_path: Path) -> None:
    shared(tmp_path / "store")
    card = tmp_path / "store/dataset.json"
    card.write_text(card.read_text().replace('"documents_of": "train"', '"documents_of": "tarin"'))
    with pytest.raises(DataError, match=r"dataset\.json is damaged"):
        DatasetStore(tmp_path / "store")


def test_query_attributes_are_counted(tmp_path: Path) -> None:
    queries = [
        Query(f"q{i}", "?", attributes={"type": "ab"[i % 2], "own": str(i)}) for i in range(40)
    ]
    queries.append(Query("q", "?", attributes={"type": "a", "few": "x"}))
    with DatasetWriter(tmp_path / "store", task="some/task", task_version="1") as writer:
        writer.write_split("test", [Document("d")], queries, {"q1": {"d": 1}, "q2": {"d": 0}})
    split = DatasetStore(tmp_path / "store").manifest.splits["test"]
    assert split.query_attributes == {"type": {"a": 21, "b": 20}}
    assert split.judged_documents == 1
