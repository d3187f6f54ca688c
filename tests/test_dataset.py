"""The dataset store: what goes in comes out, damage is named, and nothing is ever half there."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.dataset.parts
import harness.dataset.portions
import harness.dataset.tables
from harness.dataset import SCHEMA_VERSION, DatasetStore, DatasetWriter
from harness.errors import DataError, NotPreparedError, StorageError
from harness.types import Document, Media, Modality, Qrels, Query

DOCUMENTS = [Document("d1", {Modality.ASR: "one"}), Document("d2"), Document("d3")]
QUERIES = [Query("q1", "one?"), Query("q2", "two?")]
QRELS = {"q1": {"d1": 1, "d2": 2}, "q2": {"d3": 1}}


def write(folder: Path, documents: Any = DOCUMENTS, **options: Any) -> DatasetStore:
    with DatasetWriter(folder, task="some/task", task_version="1", **options) as writer:
        writer.write_split("test", documents, QUERIES, QRELS)
    return DatasetStore(folder)


def ids(folder: Path) -> list[str]:
    return [document.id for document in DatasetStore(folder).documents("test")]


def leftovers(folder: Path) -> set[str]:
    """What lies beside the store, without its lock file."""
    return {path.name for path in folder.parent.iterdir()} - {f".{folder.name}.lock", folder.name}


# --- What goes in comes out -------------------------------------------------------------------


def test_everything_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (root / "frame.jpg").write_bytes(b"jpeg bytes")
    with tarfile.open(root / "000001.tar", "w") as tar:
        for name, content in {"a.mp4": b"video of a", "a.m4a": b"sound"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    with tarfile.open(root / "000001.tar") as tar:
        inside = {
            member.name: Media(root / "000001.tar", member.name, member.size, member.offset_data)
            for member in tar
        }
    frame = Media(root / "frame.jpg", "frame.jpg", 10)
    document = Document(
        "full",
        {m: f"{m.label} ñ 文 \u0600" for m in Modality if m.is_text},
        {
            Modality.VIDEO: (inside["a.mp4"],),
            Modality.AUDIO: (inside["a.m4a"],),
            Modality.IMAGE: (frame, frame),
        },
        "A title",
        {"language": "arabic", "b": "2", "a": "1"},
    )
    query = Query("q1", "text", frame, "find it", {"type": "video"})
    with DatasetWriter(
        tmp_path / "store", task="t/v", task_version="3", media_roots=[root], channels={"asr": "w1"}
    ) as writer:
        writer.notes.append("a note")
        writer.write_split("test", [document, Document("bare")], [query], {"q1": {"bare": 3}})
        writer.write_split("train", DOCUMENTS, QUERIES, QRELS)

    store = DatasetStore(tmp_path / "store")
    split = store.split("test")
    assert list(split.documents) == list(split.documents) == [document, Document("bare")]
    assert len(split.documents) == 2
    assert document in split.documents
    assert split.queries == (query,)
    assert split.qrels == {"q1": {"bare": 3}}
    assert split.channels == {"asr": "w1"}
    assert split.coverage.modalities == dict.fromkeys((m.label for m in Modality), 1)
    assert split.coverage.languages["arabic"]["documents"] == 1
    assert store.split("train").qrels == QRELS
    assert store.manifest.notes == ["a note"]
    assert store.check() == store.check_media() == []
    video = next(iter(split.documents)).media[Modality.VIDEO][0]
    with video.path.open("rb") as file:
        file.seek(video.offset or 0)
        assert file.read(video.size) == b"video of a"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            Document,
            TEXTS,
            st.dictionaries(st.sampled_from([m for m in Modality if m.is_text]), TEXTS),
            title=st.none() | TEXTS,
            attributes=st.dictionaries(TEXTS, TEXTS, max_size=3),
        ),
        max_size=8,
        unique_by=lambda document: document.id,
    )
)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document]
) -> None:
    folder = tmp_path_factory.mktemp("any") / "store"
    with DatasetWriter(folder, task="t", task_version="1") as writer:
        writer.write_split("test", documents, [], {})
    assert list(DatasetStore(folder).split("test").documents) == documents


def test_media_below_a_linked_or_relative_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "v.mp4").write_bytes(b"1234")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path)
    for root in (Path("disk"), Path("link"), tmp_path / "link"):
        media = Media(root / "v.mp4", "v.mp4", 4)
        store = write(tmp_path / "s", with_media(media), media_roots=[root])
        assert store.check_media() == []
        assert next(store.documents("test")).media[Modality.VIDEO][0].path.is_absolute()


def with_media(media: Media) -> list[Document]:
    return [Document("d1", media={Modality.VIDEO: (media,)}), *DOCUMENTS[1:]]


def test_media_outside_the_root_are_refused(tmp_path: Path) -> None:
    media = Media(tmp_path / "elsewhere" / "v.mp4", "v.mp4", 4)
    with pytest.raises(DataError, match=r"elsewhere/v\.mp4 does not lie under a media root"):
        write(tmp_path / "store", with_media(media), media_roots=[tmp_path / "media"])


def test_media_that_went_or_shrank_are_named(tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    file.write_bytes(b"12345678")
    plain = write(tmp_path / "plain", with_media(Media(file, "v.mp4", 8)), media_roots=[tmp_path])
    in_tar = with_media(Media(file, "v.mp4", 4, offset=2))
    tar = write(tmp_path / "tar", in_tar, media_roots=[tmp_path])
    assert plain.check_media() == tar.check_media() == []
    file.write_bytes(b"1234567")
    assert "'d1': " in plain.check_media()[0]
    assert "7 bytes, 8" in plain.check_media()[0]
    assert tar.check_media() == [], "the member is still whole"
    file.write_bytes(b"12345")
    assert len(tar.check_media()) == 1
    file.unlink()
    assert "v.mp4 is missing" in plain.check_media()[0]


def test_the_fingerprint_is_of_the_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the encoding by Parquet, nor where store and media lie, nor the notes change it."""
    roots = tmp_path / "one", tmp_path / "two"
    for root in roots:
        root.mkdir()
        (root / "v.mp4").write_bytes(b"1234")
    first = write(
        tmp_path / "a", with_media(Media(roots[0] / "v.mp4", "v.mp4", 4)), media_roots=[roots[0]]
    )
    monkeypatch.setattr(harness.dataset.parts, "ROW_GROUP", 1)
    for module in (harness.dataset.portions, harness.dataset.tables):
        monkeypatch.setattr(module, "PART_ROWS", 2)
    plain = pq.ParquetWriter
    monkeypatch.setattr(
        pq, "ParquetWriter", lambda path, schema, **_: plain(path, schema, compression="none")
    )
    media = Media(roots[1] / "v.mp4", "v.mp4", 4)
    second = write(tmp_path / "b", with_media(media), media_roots=[roots[1]])
    parts = [s.manifest.splits["test"].tables()["documents"].parts for s in (first, second)]
    assert list(map(len, parts)) == [1, 2]
    assert parts[0][0].sha256 != parts[1][0].sha256
    assert first.manifest.fingerprint("test") == second.manifest.fingerprint("test")
    larger = Media(roots[1] / "v.mp4", "v.mp4", 5)
    third = write(tmp_path / "c", with_media(larger), media_roots=[roots[1]])
    other = write(tmp_path / "d", with_media(media), media_roots=[roots[1]], channels={"asr": "w2"})
    prints = {s.manifest.fingerprint("test") for s in (first, second, third, other)}
    assert len(prints) == 3, "the media's size and the channels' versions do change it"


def test_memory_does_not_grow_with_the_collection(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        text = "word " * 400
        stream = (Document(f"d{i}", {Modality.ASR: f"{i} {text}"}) for i in range(number))
        gc.collect()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        with DatasetWriter(tmp_path / f"s{number}", task="t", task_version="1") as writer:
            writer.write_split("test", stream, [], {})
        store, arrow = DatasetStore(tmp_path / f"s{number}"), 0
        for index, _ in enumerate(store.split("test").documents):
            if index % 1000 == 0:
                arrow = max(arrow, pa.total_allocated_bytes() - before)
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return traced + arrow

    few, many = peak(4_000), peak(16_000)
    texts = 16_000 * 2_000
    assert many < 1.4 * few
    assert many < texts, "less than the texts of the collection"


# --- Rows that do not fit ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("documents", "queries", "qrels", "says"),
    [
        ([*DOCUMENTS, Document("d2")], QUERIES, QRELS, "document id 'd2' occurs twice"),
        ([*DOCUMENTS, Document("")], QUERIES, QRELS, "a document has an empty id"),
        (DOCUMENTS, [*QUERIES, Query("q1", "again")], QRELS, "query id 'q1' occurs twice"),
        (DOCUMENTS, QUERIES, {"q3": {"d1": 1}}, "a judgment names the unknown query 'q3'"),
        (DOCUMENTS, QUERIES, {"q1": {"d9": 1}}, "of query 'q1' names the unknown document 'd9'"),
    ],
)
def test_parts_must_fit_together(
    tmp_path: Path, documents: list[Document], queries: list[Query], qrels: Qrels, says: str
) -> None:
    folder = tmp_path / "store"
    write(folder)
    with (
        pytest.raises(DataError, match=f"split 'test': .*{says}"),
        DatasetWriter(folder, task="t", task_version="2") as writer,
    ):
        writer.write_split("test", documents, queries, qrels)
    assert DatasetStore(folder).manifest.task_version == "1", "the former store is still there"
    assert leftovers(folder) == set()


def test_a_text_that_is_no_unicode_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"documents-00000\.parquet: the text .half .* surrogate"):
        write(tmp_path / "store", [Document("d1", {Modality.ASR: "half \ud83d"})])


def test_a_source_that_cannot_be_read_is_not_taken_for_the_store(tmp_path: Path) -> None:
    missing = tmp_path / "asr.csv"
    documents = (Document(line) for path in [missing] for line in path.read_text().splitlines())
    with pytest.raises(DataError, match=r"the source cannot be read: .*asr\.csv"):
        write(tmp_path / "store", documents)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'tset'; it has test\. Did you mean 'test'\?"):
        write(tmp_path / "store").split("tset")


# --- Damage -----------------------------------------------------------------------------------


def test_every_changed_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    """Reading a damaged store never fails otherwise than by one error that names the file."""
    write(tmp_path, [Document(f"d{i}", {Modality.ASR: f"текст {i} " * 9}) for i in range(1, 200)])
    for name in ("test/documents-00000.parquet", "test/qrels.parquet", "dataset.json"):
        path = tmp_path / name
        original = path.read_bytes()
        for position in range(0, len(original), max(1, len(original) // 150)):
            damaged = bytearray(original)
            damaged[position] ^= 0x55
            path.write_bytes(damaged)
            try:
                store = DatasetStore(tmp_path)
                problems = store.check()
                list(store.split("test").documents)
            except DataError as error:
                problems = [str(error)]
            said = " ".join(problems)
            assert str(tmp_path) in said, f"byte {position} of {name} went unnoticed"
            assert "again" in said or "update" in said, said
        path.write_bytes(original)
    assert DatasetStore(tmp_path).check() == []


def test_a_changed_byte_in_a_page_is_named_by_check(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    path = tmp_path / "store" / "test" / "queries.parquet"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    problems = store.check()
    assert len(problems) == 1
    assert f"{path} was changed" in problems[0]
    with pytest.raises(DataError, match=r"queries\.parquet is damaged .*data check"):
        list(DatasetStore(tmp_path / "store").queries("test"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def garbage(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def other_columns(path: Path) -> None:
    """Put a Parquet file of the recorded size there: its footer is found from the end."""
    size = path.stat().st_size
    pq.write_table(pa.table({"id": ["d1"]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\0" * (size - len(content)) + content[4:])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, r"documents-00000\.parquet has .* bytes, .* were written: it is truncated"),
        (Path.unlink, r"documents-00000\.parquet is missing"),
        (garbage, r"documents-00000\.parquet cannot be read as Parquet"),
        (other_columns, r"documents-00000\.parquet has other columns or rows"),
    ],
)
def test_a_damaged_part_is_one_error_at_open(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    write(tmp_path / "store")
    damage(tmp_path / "store" / "test" / "documents-00000.parquet")
    with pytest.raises(DataError, match=says) as caught:
        DatasetStore(tmp_path / "store")
    assert "prepare the dataset again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"schema_version": 1, "task": "t"', "is damaged"),
        ("[1, 2]", "is damaged"),
        ("{}", "is damaged"),
        ('{"schema_version": "x"}', "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (
            json.dumps({"schema_version": SCHEMA_VERSION + 1, "new": 1}),
            f"schema version {SCHEMA_VERSION + 1}, .* up to {SCHEMA_VERSION}: update clamr-bench",
        ),
    ],
)
def test_a_damaged_or_newer_manifest_is_one_error_at_open(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    write(tmp_path)
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "dataset.json").write_bytes(raw)
    with pytest.raises(DataError, match=f"dataset.json.* {says}") as caught:
        DatasetStore(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_store(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotPreparedError, match="holds no prepared dataset"):
            DatasetStore(folder)


def test_media_may_move(tmp_path: Path) -> None:
    """`media_roots` in dataset.json is the user's to edit; everything else is not."""
    file = tmp_path / "old" / "v.mp4"
    file.parent.mkdir()
    file.write_bytes(b"1234")
    media = with_media(Media(file, "v.mp4", 4))
    before = write(tmp_path / "s", media, media_roots=[file.parent]).manifest.fingerprint("test")
    file.parent.rename(tmp_path / "new")
    card = tmp_path / "s" / "dataset.json"
    card.write_text(card.read_text().replace(str(file.parent), str(tmp_path / "new")))
    store = DatasetStore(tmp_path / "s")
    assert store.check() == store.check_media() == []
    assert store.manifest.fingerprint("test") == before


# --- Writers that fail, are killed, or meet ---------------------------------------------------


def test_an_error_midway_leaves_the_former_store(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder)

    def broken() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(folder, broken())
    assert ids(folder) == ["d1", "d2", "d3"]
    assert leftovers(folder) == set()


KILLED = """
import os, sys
from pathlib import Path
import harness.workspace
sys.path.insert(0, {tests!r})
from test_dataset import DOCUMENTS, write

def documents():
    yield DOCUMENTS[0]
    if {where!r} == "rows":
        os.kill(os.getpid(), 9)
    yield from DOCUMENTS[1:]

rename = Path.rename
def killed(self, target):
    # The swap renames twice: the former store aside, then the new one into its place.
    if {where!r} == "before" or ({where!r} == "between" and self.name.endswith(".partial")):
        os._exit(7)
    result = rename(self, target)
    if {where!r} == "after" and self.name.endswith(".partial"):
        os._exit(7)
    return result
Path.rename = killed
write(Path({folder!r}), documents(), channels={{"asr": "new"}})
"""


@pytest.mark.parametrize("where", ["rows", "before", "between", "after"])
def test_a_killed_writer_leaves_a_whole_store(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "store"
    write(folder)
    script = KILLED.format(tests=str(Path(__file__).parent), where=where, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert done.returncode == (-signal.SIGKILL if where == "rows" else 7)
    store = DatasetStore(folder)
    assert store.check() == []
    assert [d.id for d in store.documents("test")] == ["d1", "d2", "d3"]
    assert store.manifest.channels == ({"asr": "new"} if where == "after" else {})
    write(folder)
    assert leftovers(folder) == set(), "the next writer clears what the killed one left"


def test_a_killed_swap_is_undone_by_the_next_writer_too(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder)
    folder.rename(tmp_path / ".store.old")
    with pytest.raises(DataError, match="occurs twice"):
        write(folder, [*DOCUMENTS, DOCUMENTS[0]])
    assert ids(folder) == ["d1", "d2", "d3"]


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "the disk is full: free some space"), (errno.EDQUOT, "quota is used up")],
)
@pytest.mark.parametrize("method", ["write_table", "close"])
def test_a_full_disk_is_one_error_and_the_former_store_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str, method: str
) -> None:
    folder = tmp_path / "store"
    write(folder)
    plain = getattr(pq.ParquetWriter, method)

    def full(self: Any, *arguments: Any) -> None:
        if self.is_open and method == "close":
            plain(self)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, method, full)
        with pytest.raises(StorageError, match=says) as caught:
            write(folder)
    assert str(folder) in str(caught.value)
    assert ids(folder) == ["d1", "d2", "d3"]
    assert leftovers(folder) == set()


@pytest.mark.parametrize("name", ["dataset.json", "identity.json"])
def test_a_full_disk_while_a_card_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "store"
    write(folder)

    plain = Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        if name in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StorageError, match="the disk is full"):
            write(folder)
    assert ids(folder) == ["d1", "d2", "d3"]
    assert leftovers(folder) == set()


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "permission denied")],
)
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    read: list[str] = []

    def documents() -> Iterator[Document]:
        read.append("read")
        yield from DOCUMENTS

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(StorageError, match=f"cannot write dataset folder .*: {says}"):
        write(tmp_path / "store", documents())
    assert read == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        write(tmp_path / "file")
    with pytest.raises(StorageError, match=r"a part of the path is a file|a file of that name"):
        write(tmp_path / "file" / "store")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_the_users_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("precious")
    with pytest.raises(StorageError, match="holds files that are no dataset store"):
        write(tmp_path / "photos")
    assert (tmp_path / "photos" / "me.jpg").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert ids(tmp_path / "empty") == ["d1", "d2", "d3"]


def test_two_writers_into_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with DatasetWriter(folder, task="some/task", task_version="1") as first:
        with pytest.raises(StorageError, match=f"in use by another process .pid {os.getpid()}"):
            write(folder)
        first.write_split("test", DOCUMENTS, QUERIES, QRELS)
    assert ids(folder) == ["d1", "d2", "d3"]
    write(folder)


def test_recorded_digests_are_of_the_files(tmp_path: Path) -> None:
    store = write(tmp_path)
    (part,) = store.manifest.splits["test"].tables()["documents"].parts
    content = (tmp_path / "test" / "documents-00000.parquet").read_bytes()
    assert (part.bytes, part.rows) == (len(content), 3)
    assert part.sha256 == hashlib.sha256(content).hexdigest()
