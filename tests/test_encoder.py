"""The encoder contract: a model author writes two methods, the harness does the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import harness.encoder
from harness.documents import ListedDocuments
from harness.encoder import EncoderRetriever, Trainable
from harness.errors import PluginError, RankingError, StorageError
from harness.late_interaction import TokenEmbeddings
from harness.registry import make_retriever
from harness.types import Document, Modality, Query, Ranking
from harness.workspace import Workspace

PLUGIN = """\
import hashlib
import numpy as np
from harness.documents import ListedDocuments
from harness.encoder import Encoder
from harness.late_interaction import TokenEmbeddings
from harness.plugin import About
from harness.retriever import Capabilities
from harness.types import Modality

READS = frozenset({Modality.ASR, Modality.OCR})

def vectors(text):
    seeds = [int(hashlib.sha256(w.encode()).hexdigest()[:8], 16) for w in text.lower().split()]
    rows = [np.random.default_rng(seed).standard_normal(32) for seed in seeds]
    return np.array(rows or np.zeros((0, 32)), np.float32)

class Words(Encoder):
    about = About(title="A vector a word", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=READS)
    batch_size = 2

    def encode_queries(self, batch):
        return TokenEmbeddings.of([{Modality.TEXT: vectors(q.text)} for q in batch], 32)

    def encode_documents(self, batch):
        return TokenEmbeddings.of(
            [{m: vectors(d.texts[m]) for m in READS if m in d.texts} for d in batch], 32
        )
"""

WORDS = ["red", "green", "blue", "circle", "square", "star", "moon", "river", "stone", "cloud"]


def documents(number: int) -> ListedDocuments:
    rng = np.random.default_rng(7)
    made = [Document("empty")]
    for index in range(number):
        texts = {m: " ".join(rng.choice(WORDS, 4)) for m in (Modality.ASR, Modality.OCR)}
        if index % 3 == 0:
            del texts[Modality.OCR]
        made.append(Document(f"d{index:03d}", texts))
    return ListedDocuments(made)


QUERIES = [Query("q1", "red circle"), Query("q2", "stone river moon"), Query("q3", "")]


def plugin(folder: Path, source: str = PLUGIN) -> str:
    path = folder / "words.py"
    path.write_text(source)
    return f"{path}:Words"


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, {"test": 1})


def as_bytes(ranking: Ranking) -> dict[str, tuple[list[str], bytes]]:
    return {q: (list(row.documents), row.scores.tobytes()) for q, row in ranking.items()}


def test_an_encoder_of_thirty_lines_is_a_retriever(tmp_path: Path) -> None:
    assert len(PLUGIN.splitlines()) < 30
    retriever = make_retriever(plugin(tmp_path))
    assert isinstance(retriever, EncoderRetriever)
    assert retriever.name == "Words"
    assert retriever.about.title == "A vector a word"
    assert retriever.capabilities.modalities == {Modality.ASR, Modality.OCR}
    assert retriever.source_sha256 in str(retriever.identity())
    assert not isinstance(retriever.encoder, Trainable)
    retriever.index(documents(40), workspace(tmp_path / "w"))
    ranking = retriever.search(QUERIES, 10)
    assert set(ranking) == {"q1", "q2", "q3"}
    best = next(d for d in documents(40) if d.id == ranking["q1"].documents[0])
    words = " ".join(best.texts.values()).split()
    assert {"red", "circle"} <= set(words)
    assert [len(row) for row in ranking.values()] == [10, 10, 10]
    everything = retriever.search(QUERIES, 1000)
    assert all("empty" not in row.documents for row in everything.values())
    assert all(len(row) == 40 for row in everything.values())
    assert as_bytes(everything.top(10)) == as_bytes(ranking), "cut in canonical order, ties too"
    assert len(retriever.search([], 10)) == 0
    assert all(not len(row) for row in retriever.search(QUERIES, 0).values())


@pytest.mark.parametrize("k", [1, 3, 7, 39, 41])
def test_ties_at_the_cut_are_broken_by_document_id_across_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(harness.encoder, "SHARD_DOCUMENTS", 4)
    retriever = make_retriever(plugin(tmp_path))
    same = [Document(f"d{i * 17 % 40:02d}", {Modality.ASR: "red"}) for i in range(40)]
    retriever.index(ListedDocuments(same), workspace(tmp_path / "w"))
    ranked = retriever.search([Query("q", "red")], k)["q"]
    assert list(ranked.documents) == sorted((d.id for d in same), reverse=True)[:k]


def test_aggregation_is_the_encoders_choice_and_part_of_its_identity(tmp_path: Path) -> None:
    other = PLUGIN.replace("batch_size = 2", 'aggregation = "modality_max"')
    documents = [
        Document("split", {Modality.ASR: "red", Modality.OCR: "circle"}),
        Document("whole", {Modality.ASR: "red circle"}),
    ]
    scores = []
    for source in (PLUGIN, other):
        retriever = make_retriever(plugin(tmp_path, source))
        retriever.index(ListedDocuments(documents), workspace(tmp_path / retriever.fingerprint))
        ranked = retriever.search([Query("q", "red circle")], 2)["q"]
        scores.append(dict(zip(ranked.documents, ranked.scores.tolist(), strict=True)))
        assert retriever.identity()["aggregation"] in ("token_max", "modality_max")
    assert scores[0]["split"] == pytest.approx(scores[0]["whole"], rel=1e-6)
    assert scores[1]["split"] < scores[1]["whole"]


KILLED = """
import os, sys
import harness.encoder
from pathlib import Path
from harness.registry import make_retriever
sys.path.insert(0, {tests!r})
from test_encoder import documents, workspace
harness.encoder.SHARD_DOCUMENTS = 4
retriever = make_retriever({address!r})
encode = retriever.encoder.encode_documents
def killed(batch):
    if any(document.id == "d010" for document in batch):
        os.kill(os.getpid(), 9)
    return encode(batch)
killed.__qualname__ = "killed"
retriever.encoder.encode_documents = killed
retriever.index(documents(20), workspace(Path({folder!r})))
"""


def test_a_killed_index_goes_on_and_scores_are_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.encoder, "SHARD_DOCUMENTS", 4)
    address = plugin(tmp_path)
    whole = make_retriever(address)
    whole.index(documents(20), workspace(tmp_path / "whole"))

    script = KILLED.format(
        tests=str(Path(__file__).parent), address=address, folder=str(tmp_path / "killed")
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert done.returncode == -9
    shards = {p.name for p in (tmp_path / "killed").glob("shard-*")}
    assert shards == {"shard-00000", "shard-00001"}, "d010 is in the third shard"

    resumed = make_retriever(address)
    assert isinstance(resumed, EncoderRetriever)
    encoded: list[str] = []
    encode = resumed.encoder.encode_documents

    def watched(batch: Sequence[Document]) -> TokenEmbeddings:
        encoded.extend(document.id for document in batch)
        return encode(batch)

    monkeypatch.setattr(resumed.encoder, "encode_documents", watched)
    resumed.index(documents(20), workspace(tmp_path / "killed"))
    assert encoded == [document.id for document in documents(20)][8:]
    assert as_bytes(resumed.search(QUERIES, 100)) == as_bytes(whole.search(QUERIES, 100))


def test_shards_of_other_documents_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    retriever = make_retriever(plugin(tmp_path))
    retriever.index(documents(5), workspace(tmp_path / "w"))
    with pytest.raises(StorageError, match="embeddings of other documents: delete the folder"):
        retriever.index(documents(4), workspace(tmp_path / "w"))
    retriever.index(documents(5), workspace(tmp_path / "w"))
    file = tmp_path / "w" / "shard-00000" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match=r"shard-00000 is damaged .*: delete it"):
        retriever.search(QUERIES, 3)


@pytest.mark.parametrize(
    ("returned", "error", "says"),
    [
        ("TokenEmbeddings.of([{}], 32)", PluginError, "1 items for a batch of 2"),
        ("list(batch)", PluginError, "returned <class 'list'> for a batch of 2"),
        (
            "TokenEmbeddings.of([{Modality.ASR: 1e38 * vectors('red circle')} for _ in batch])",
            RankingError,
            "overflows float32",
        ),
        (
            "TokenEmbeddings.of([{Modality.ASR: np.ones((1, 3))} for _ in batch])",
            PluginError,
            "32 dimensions, document vectors 3",
        ),
    ],
)
def test_an_encoder_that_breaks_its_contract_is_named(
    tmp_path: Path, returned: str, error: type[Exception], says: str
) -> None:
    source = f"{PLUGIN}\n    def encode_documents(self, batch):\n        return {returned}\n"
    retriever = make_retriever(plugin(tmp_path, source))

    def work() -> None:
        retriever.index(documents(9), workspace(tmp_path / "w"))
        retriever.search(QUERIES, 3)

    with pytest.raises(error, match=says):
        work()
