"""The store of embeddings: whole shards, resumed, repaired, and never of other documents."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness.index.filling
from harness.documents import ListedDocuments
from harness.encoder import EncoderRetriever
from harness.errors import PluginError, StorageError
from harness.index import EmbeddingStore, Encoded
from harness.index.shards import DamageError, Shard, ShardManifest, write_shard
from harness.index.store import check_shards
from harness.index.tensors import map_tensors, tensor_bytes
from harness.late_interaction import Precision, TokenEmbeddings
from harness.registry import make_retriever
from harness.types import Document, Modality
from harness.workspace import Workspace
from tests.encoders import (
    QUERIES,
    SMALL_SHARD,
    as_bytes,
    documents,
    plugin,
    workspace,
)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", SMALL_SHARD)


class Watched:
    """A retriever that writes down which documents it encodes."""

    def __init__(self, address: str) -> None:
        made = make_retriever(address)
        assert isinstance(made, EncoderRetriever)
        self.retriever, self.encoded = made, list[str]()
        encode = made.encoder.encode_documents

        def watched(batch: Sequence[Document]) -> TokenEmbeddings:
            self.encoded.extend(document.id for document in batch)
            return encode(batch)

        made.encoder.encode_documents = watched  # type: ignore[method-assign]

    def run(self, folder: Path, number: int = 20) -> dict[str, tuple[list[str], bytes]]:
        self.retriever.index(documents(number), workspace(folder))
        return as_bytes(self.retriever.search(QUERIES, 100))


@pytest.fixture
def address(tmp_path: Path) -> str:
    return plugin(tmp_path)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*"))


# --- What is on disk --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", list(Precision))
def test_a_shard_gives_back_what_was_put_in(tmp_path: Path, precision: Precision) -> None:
    rng = np.random.default_rng(0)
    plain = TokenEmbeddings.of(
        [{Modality.ASR: rng.standard_normal((3, 4)), Modality.OCR: rng.standard_normal((2, 4))}, {}]
    )
    spans = rng.random((5, 7)).astype(np.float32)
    made = TokenEmbeddings(
        plain.vectors, plain.offsets, plain.modalities, plain.segment_offsets, spans=spans
    ).astype(precision)
    folder = tmp_path / "shard-000000007"
    folder.mkdir()
    write_shard(folder, 7, ["a", "b"], made, ["b"])
    shard = Shard(folder)
    shard.verify()
    assert (shard.manifest.first, shard.last, shard.manifest.ids) == (7, 9, ("a", "b"))
    assert shard.manifest.tokens == {"asr": 3, "ocr": 2}
    assert shard.manifest.invalid == ("b",)
    read = shard.embeddings()
    for name in ("vectors", "offsets", "modalities", "segment_offsets", "scales", "spans"):
        wanted, found = getattr(made, name), getattr(read, name)
        assert (wanted is None) == (found is None), name
        if wanted is not None:
            assert wanted.dtype == found.dtype, name
            assert np.array_equal(wanted, found), name
    assert not read.vectors.flags.writeable


def test_tensors_that_numpy_lacks_or_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    data = tensor_bytes({"v": np.ones((2, 3), np.float32)}, {"a": "b"})
    path.write_bytes(data)
    arrays, metadata = map_tensors(path)
    assert arrays["v"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert metadata == {"a": "b"}
    path.write_bytes(data.replace(b'"F32"', b'"F8X"'))
    with pytest.raises(ValueError, match="element type F8X"):
        map_tensors(path)
    for cut in (0, 4, 30, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"cut short|no safetensors"):
            map_tensors(path)


def test_a_store_is_never_padded_and_knows_its_size(tmp_path: Path, address: str) -> None:
    watched = Watched(address)
    watched.run(tmp_path / "w")
    found = [Shard(path).manifest for path in shards(tmp_path / "w")]
    assert sum(len(manifest.ids) for manifest in found) == 21
    tokens = sum(sum(manifest.tokens.values()) for manifest in found)
    vectors = sum(Shard(p).embeddings().vectors.nbytes for p in shards(tmp_path / "w"))
    assert vectors == tokens * 32 * 2


def test_a_shard_ends_by_bytes_or_by_age(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Watched(address).run(tmp_path / "bytes")
    assert len(shards(tmp_path / "bytes")) > 3
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", 2**30)
    assert Watched(address).run(tmp_path / "one") == expected
    assert len(shards(tmp_path / "one")) == 1
    monkeypatch.setattr(harness.index.filling, "SHARD_SECONDS", 0.0)
    assert Watched(address).run(tmp_path / "age") == expected
    assert len(shards(tmp_path / "age")) == 11, "every batch of two is a shard of its own"


def test_the_dimension_may_not_change(tmp_path: Path) -> None:
    store = EmbeddingStore(workspace(tmp_path / "w"))

    def encode(batch: Sequence[int]) -> Encoded:
        dim = 3 if 4 in batch else 2
        return Encoded(
            TokenEmbeddings.of([{Modality.ASR: np.ones((200, dim), np.float32)} for _ in batch])
        )

    with pytest.raises(PluginError, match="2 before, 3 from document '4' on"):
        store.fill(range(6), str, encode, batch_size=2, total=6)


def test_a_collection_without_documents_or_without_tokens(tmp_path: Path, address: str) -> None:
    retriever = make_retriever(address)
    retriever.index(ListedDocuments([]), workspace(tmp_path / "none"))
    assert all(not len(row) for row in retriever.search(QUERIES, 5).values())
    empty = ListedDocuments([Document("a"), Document("b")])
    retriever.index(empty, workspace(tmp_path / "empty"))
    assert all(not len(row) for row in retriever.search(QUERIES, 5).values())
    retriever.index(empty, workspace(tmp_path / "empty"))


# --- Resumed and repaired ---------------------------------------------------------------------


KILLED = """
import os, sys
from pathlib import Path
import harness.index.filling
from harness.registry import make_retriever
from tests.encoders import documents, workspace
harness.index.filling.SHARD_BYTES = {size}
retriever = make_retriever({address!r})
encode = retriever.encoder.encode_documents
def killed(batch):
    if any(document.id == "d010" for document in batch):
        os.kill(os.getpid(), 9)
    return encode(batch)
retriever.encoder.encode_documents = killed
with workspace(Path({folder!r})).locked(print):
    retriever.index(documents(20), workspace(Path({folder!r})))
"""


def killed(folder: Path, address: str) -> None:
    """Index in a process that dies by SIGKILL when it comes to document d010."""
    script = KILLED.format(address=address, folder=str(folder), size=SMALL_SHARD)
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, cwd=root, check=False)
    assert done.returncode == -9


def test_a_killed_index_goes_on_at_the_first_missing_shard(tmp_path: Path, address: str) -> None:
    expected = Watched(address).run(tmp_path / "whole")
    killed(tmp_path / "killed", address)
    there = [i for p in shards(tmp_path / "killed") for i in Shard(p).manifest.ids]
    assert 0 < len(there) < 11
    resumed = Watched(address)
    assert resumed.run(tmp_path / "killed") == expected
    assert resumed.encoded == [document.id for document in documents(20)][len(there) :]


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path, address: str) -> None:
    killed(tmp_path / "w", address)
    assert (tmp_path / "w/.lock").read_text().isdigit(), "it died while it held the lock"
    waited: list[str] = []
    with workspace(tmp_path / "w").locked(waited.append):
        pass
    assert waited == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (lambda s: flip(s / "embeddings.safetensors"), "its sha256 differs"),
    "cut short": (lambda s: cut(s / "embeddings.safetensors"), "bytes of"),
    "no vectors": (lambda s: (s / "embeddings.safetensors").unlink(), "is missing"),
    "no manifest": (lambda s: (s / "shard.json").unlink(), "shard.json cannot be read"),
    "manifest cut short": (lambda s: cut(s / "shard.json"), "shard.json"),
    "manifest of another": (
        lambda s: (s / "shard.json").write_text(
            (s / "shard.json").read_text().replace('"first": ', '"first": 1')
        ),
        "shard.json is not as it was written",
    ),
    "manifest no object": (lambda s: (s / "shard.json").write_text("[]"), "cannot be read"),
    "renamed": (
        lambda s: s.rename(s.with_name("shard-000000099")).touch(),
        "it is the shard of document number",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("which", [0, 2, -1])
def test_a_damaged_shard_is_named_and_encoded_anew(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture, kind: str, which: int
) -> None:
    expected = Watched(address).run(tmp_path / "w")
    whole = {p.name: (p / "shard.json").read_text() for p in shards(tmp_path / "w")}
    shard = shards(tmp_path / "w")[which]
    ids = list(Shard(shard).manifest.ids)
    damage, says = DAMAGE[kind]
    damage(shard)
    repaired = Watched(address)
    assert repaired.run(tmp_path / "w") == expected
    assert repaired.encoded == ids, "only the documents of the damaged shard"
    [note] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert says in note.getMessage()
    assert "encoded anew" in note.getMessage()
    assert {p.name: (p / "shard.json").read_text() for p in shards(tmp_path / "w")} == whole
    untouched = Watched(address)
    assert untouched.run(tmp_path / "w") == expected
    assert untouched.encoded == []


def test_several_damaged_shards_side_by_side(tmp_path: Path, address: str) -> None:
    expected = Watched(address).run(tmp_path / "w")
    for shard in shards(tmp_path / "w")[1:4]:
        flip(shard / "embeddings.safetensors")
    assert Watched(address).run(tmp_path / "w") == expected
    assert all(isinstance(found, Shard) for _, found in check_shards(tmp_path / "w"))


def test_a_shard_that_shrinks_while_it_is_used_is_an_error(tmp_path: Path, address: str) -> None:
    """Reading beyond the end of a mapped file would end the process by SIGBUS."""
    watched = Watched(address)
    watched.run(tmp_path / "w")
    cut(shards(tmp_path / "w")[1] / "embeddings.safetensors")
    with pytest.raises(StorageError, match=r"damaged while it was in use .* same command again"):
        watched.retriever.search(QUERIES, 3)


@pytest.mark.parametrize("number", [4, 30])
def test_a_store_of_other_documents_is_refused(tmp_path: Path, address: str, number: int) -> None:
    Watched(address).run(tmp_path / "w", 20)
    other = ListedDocuments([*documents(number)][1:])
    with pytest.raises(StorageError, match="embeddings of other documents: delete the folder"):
        make_retriever(address).index(other, workspace(tmp_path / "w"))


def test_a_workspace_of_another_identity_is_refused(tmp_path: Path) -> None:
    Workspace(tmp_path / "w", {"retriever": "one"})
    Workspace(tmp_path / "w", {"retriever": "one"})
    with pytest.raises(StorageError, match="belongs to something else"):
        Workspace(tmp_path / "w", {"retriever": "other"})


def test_a_manifest_of_a_later_version_is_encoded_anew(tmp_path: Path, address: str) -> None:
    Watched(address).run(tmp_path / "w")
    path = shards(tmp_path / "w")[0] / "shard.json"
    later = ShardManifest.read(path).model_copy(update={"schema_version": 99})
    path.write_text(later.dump())
    with pytest.raises(DamageError, match="version 99"):
        Shard(path.parent)
    assert json.loads(path.read_text())["schema_version"] == 99


# --- Faults at every write --------------------------------------------------------------------


class Faults:
    """Counts the steps of writing, and raises at the n-th."""

    STEPS = (
        (Path, "mkdir"),
        (Path, "write_bytes"),
        (Path, "write_text"),
        (Path, "rename"),
        (Path, "replace"),
        (os, "fsync"),
    )

    def __init__(self) -> None:
        self.count, self.at = 0, -1
        self.error: BaseException = OSError()

    @contextmanager
    def injected(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for owner, name in self.STEPS:
                patch.setattr(owner, name, self._wrapped(getattr(owner, name)))
            yield

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at + 1:
                if isinstance(self.error, OSError) and real.__name__.startswith("write_"):
                    arguments[0].write_bytes_plain(b"half")  # a full disk takes a part of a file
                raise self.error
            return real(*arguments, **options)

        return step


@pytest.mark.parametrize("kind", ["full disk", "interrupted"])
def test_faults_at_every_write(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """After a fault at any step, the same command gives the same bytes and leaves nothing over."""
    monkeypatch.setattr(Path, "write_bytes_plain", Path.write_bytes, raising=False)
    expected = Watched(address).run(tmp_path / "whole", 8)
    clean = Faults()
    with clean.injected(monkeypatch):
        Watched(address).run(tmp_path / "clean", 8)
    assert clean.count > 20
    for number in range(clean.count):
        folder = tmp_path / f"{number:03d}"
        faults = Faults()
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        faults.at, faults.error = number, full if kind == "full disk" else KeyboardInterrupt()
        with faults.injected(monkeypatch):
            if kind == "full disk":
                with pytest.raises(StorageError, match="disk is full: free some space"):
                    Watched(address).run(folder, 8)
            else:
                with suppress(KeyboardInterrupt):
                    Watched(address).run(folder, 8)
        assert faults.count >= number + 1
        complete = [found for _, found in check_shards(folder)]
        assert all(isinstance(found, Shard) for found in complete), "whole or not there"
        kept = [i for found in complete if isinstance(found, Shard) for i in found.manifest.ids]
        resumed = Watched(address)
        with workspace(folder).locked(print):
            assert resumed.run(folder, 8) == expected
        assert len(resumed.encoded) == 9 - len(kept), "what was complete is not encoded again"
        assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


# --- Two processes ----------------------------------------------------------------------------


BOTH = """
import sys, time
from pathlib import Path
import harness.index.filling
from harness.registry import make_retriever
from tests.encoders import QUERIES, as_bytes, documents, workspace
harness.index.filling.SHARD_BYTES = {size}
retriever = make_retriever({address!r})
encode = retriever.encoder.encode_documents
count = []
def slow(batch):
    count.extend(batch)
    time.sleep(0.05)
    return encode(batch)
retriever.encoder.encode_documents = slow
place = workspace(Path({folder!r}))
with place.locked(lambda holder: None):
    retriever.index(documents(20), place)
    print(len(count), repr(as_bytes(retriever.search(QUERIES, 100))))
"""


def test_two_processes_on_one_workspace_share_the_work(tmp_path: Path, address: str) -> None:
    expected = Watched(address).run(tmp_path / "whole")
    script = BOTH.format(address=address, folder=str(tmp_path / "w"), size=SMALL_SHARD)
    root = Path(__file__).parents[1]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(2)
    ]
    results = [process.communicate()[0].split(" ", 1) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(int(count) for count, _ in results) == [0, 21]
    assert {text.strip() for _, text in results} == {repr(expected)}
