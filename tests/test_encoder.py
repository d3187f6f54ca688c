"""The encoder contract: what an author writes, and what the harness does with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import harness.index.filling
from harness.documents import ListedDocuments
from harness.encoder import EncoderRetriever, Trainable
from harness.errors import PluginError, RankingError, UsageError
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.types import Document, Modality, Query
from tests.conftest import Command
from tests.encoders import (
    PLUGIN,
    QUERIES,
    SMALL_SHARD,
    as_bytes,
    documents,
    plugin,
    workspace,
)


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
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", SMALL_SHARD)
    retriever = make_retriever(plugin(tmp_path))
    same = [Document(f"d{i * 17 % 40:02d}", {Modality.ASR: "red"}) for i in range(40)]
    retriever.index(ListedDocuments(same), workspace(tmp_path / "w"))
    ranked = retriever.search([Query("q", "red")], k)["q"]
    assert list(ranked.documents) == sorted((d.id for d in same), reverse=True)[:k]


def test_aggregation_is_a_setting_that_encodes_nothing_anew(tmp_path: Path) -> None:
    address = plugin(tmp_path)
    documents = [
        Document("split", {Modality.ASR: "red", Modality.OCR: "circle"}),
        Document("whole", {Modality.ASR: "red circle"}),
    ]
    scores: list[dict[str, float]] = []
    identities: list[dict[str, Any]] = []
    stored: list[dict[str, Any]] = []
    for aggregation in ("token_max", "modality_max"):
        retriever = make_retriever(address, {"aggregation": aggregation})
        retriever.index(ListedDocuments(documents), workspace(tmp_path / "w"))
        ranked = retriever.search([Query("q", "red circle")], 2)["q"]
        scores.append(dict(zip(ranked.documents, ranked.scores.tolist(), strict=True)))
        identities.append(retriever.identity())
        stored.append(retriever.index_identity())
    assert scores[0]["split"] == pytest.approx(scores[0]["whole"], rel=1e-6)
    assert scores[1]["split"] < scores[1]["whole"]
    assert identities[0] != identities[1]
    assert stored[0] == stored[1], "the same embeddings serve both: nothing is encoded anew"


@pytest.mark.parametrize(
    ("returned", "error", "says"),
    [
        ("TokenEmbeddings.of([{}], 32)", PluginError, "1 items for a batch of 2"),
        ("list(batch)", PluginError, "returned <class 'list'> for a batch of 2"),
        (
            "TokenEmbeddings.of([{Modality.ASR: 1e38 * vectors('red circle')} for _ in batch])",
            PluginError,
            r"document 'empty' \(asr\) has a vector with the value .* which overflows fp16",
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


@pytest.mark.parametrize(
    ("precision", "tolerance", "bytes_"),
    [("fp32", 0.0, 128), ("fp16", 1e-2, 64), ("bf16", 1e-1, 64), ("int8", 3e-1, 32)],
)
def test_storage_precision_is_a_setting_and_part_of_the_identity(
    tmp_path: Path, precision: str, tolerance: float, bytes_: int
) -> None:
    address = plugin(tmp_path)
    exact = make_retriever(address, {"precision": "fp32"})
    exact.index(documents(30), workspace(tmp_path / "exact"))
    stored = make_retriever(address, {"precision": precision})
    stored.index(documents(30), workspace(tmp_path / precision))
    assert (stored.fingerprint == exact.fingerprint) == (precision == "fp32")
    assert stored.index_identity()["settings"]["precision"] == precision
    [shard] = (tmp_path / precision).glob("shard-*")
    manifest = json.loads((shard / "shard.json").read_text())
    assert manifest["precision"] == precision
    words = sum(manifest["tokens"].values())
    assert words == 200
    assert manifest["bytes"] >= words * bytes_
    wanted, found = exact.search(QUERIES, 30)["q1"], stored.search(QUERIES, 30)["q1"]
    scores = dict(zip(wanted.documents, wanted.scores.tolist(), strict=True))
    for document, value in zip(found.documents, found.scores.tolist(), strict=True):
        assert value == pytest.approx(scores[document], abs=tolerance)


NOT_A_NUMBER = """
    def encode_documents(self, batch):
        rows = [{m: vectors(d.texts[m]) for m in READS if m in d.texts} for d in batch]
        for document, row in zip(batch, rows):
            if document.id in ("d003", "d008"):
                row[Modality.ASR][1, 2] = np.nan
        return TokenEmbeddings.of(rows, 32)
"""


def test_nan_from_a_model_names_document_and_modality(tmp_path: Path) -> None:
    retriever = make_retriever(plugin(tmp_path, PLUGIN + NOT_A_NUMBER))
    with pytest.raises(PluginError, match=r"for document 'd003' \(asr\).*on_invalid=skip"):
        retriever.index(documents(12), workspace(tmp_path / "w"))


def test_documents_with_nan_can_be_skipped_counted_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", SMALL_SHARD)
    whole = make_retriever(plugin(tmp_path), {"on_invalid": "skip"})
    whole.index(documents(12), workspace(tmp_path / "whole"))
    expected = whole.search(QUERIES, 100)
    address = plugin(tmp_path, PLUGIN + NOT_A_NUMBER)
    for _ in range(2):  # the second one finds all shards there, and says the same
        caplog.clear()
        retriever = make_retriever(address, {"on_invalid": "skip"})
        retriever.index(documents(12), workspace(tmp_path / "w"))
        assert "2 documents have no embeddings" in caplog.text
        assert "'d003', 'd008'" in caplog.text
    for query, found in retriever.search(QUERIES, 100).items():
        pairs = zip(expected[query].documents, expected[query].scores.tolist(), strict=True)
        kept = [(d, score) for d, score in pairs if d not in ("d003", "d008")]
        assert list(zip(found.documents, found.scores.tolist(), strict=True)) == kept


def test_nan_in_a_query_is_an_error_whatever_the_policy(tmp_path: Path) -> None:
    source = PLUGIN + (
        "\n    def encode_queries(self, batch):\n"
        "        rows = [np.full((1, 32), np.nan if q.id == 'q2' else 1) for q in batch]\n"
        "        return TokenEmbeddings.of([{Modality.TEXT: row} for row in rows])\n"
    )
    retriever = make_retriever(plugin(tmp_path, source), {"on_invalid": "skip"})
    retriever.index(documents(3), workspace(tmp_path / "w"))
    with pytest.raises(PluginError, match=r"for query 'q2' \(text\)"):
        retriever.search(QUERIES, 3)


def test_a_score_that_overflows_is_refused(tmp_path: Path) -> None:
    source = PLUGIN.replace("standard_normal(32)", "standard_normal(32) * 1e25")
    retriever = make_retriever(plugin(tmp_path, source), {"precision": "fp32"})
    retriever.index(documents(3), workspace(tmp_path / "w"))
    with pytest.raises(RankingError, match="overflows float32"):
        retriever.search(QUERIES, 3)


def test_settings_that_lack_the_shared_ones_are_refused(tmp_path: Path) -> None:
    source = PLUGIN.replace("(EncoderSettings)", "(Settings)").replace(
        "EncoderSettings, ", "Settings, "
    )
    with pytest.raises(PluginError, match=r"class WordsSettings\(EncoderSettings\)"):
        make_retriever(plugin(tmp_path, source))


def test_shared_settings_are_shown_and_checked(tmp_path: Path) -> None:
    address = plugin(tmp_path)
    with pytest.raises(UsageError, match=r"'precision' = 'fp8'"):
        make_retriever(address, {"precision": "fp8"})
    with pytest.raises(UsageError, match=r"Did you mean 'precision'"):
        make_retriever(address, {"precison": "fp32"})


def test_a_token_of_no_modality_and_padding_count_only_if_asked(tmp_path: Path) -> None:
    """The two habits of the reference are settings of any encoder."""
    source = PLUGIN + (
        "\n    def encode_documents(self, batch):\n"
        "        sign = -np.ones((1, 32), np.float32)\n"
        "        vectors = np.concatenate([np.concatenate([sign, -3 * sign]) for _ in batch])\n"
        "        n = len(batch)\n"
        "        return TokenEmbeddings(vectors, np.arange(n + 1) * 2,\n"
        "            np.tile(np.array([3, 0], np.uint8), n), np.arange(2 * n + 1))\n"
        "\n    def encode_queries(self, batch):\n"
        "        return TokenEmbeddings.of([{Modality.TEXT: np.ones((1, 32))} for q in batch])\n"
    )
    address, found = plugin(tmp_path, source), []
    for settings_ in ({}, {"unassigned_tokens": "compete"}, {"padding": "zero"}):
        retriever = make_retriever(address, settings_)
        retriever.index(documents(2), workspace(tmp_path / "w"))
        found.append(retriever.search(QUERIES[:1], 1)["q1"].scores.item())
    assert found == [-32.0, 96.0, 0.0]


# --- Through the command line -----------------------------------------------------------------


@pytest.fixture
def reads_descriptions(v1: Path, tmp_path: Path) -> str:
    source = PLUGIN.replace("Modality.ASR, Modality.OCR", "Modality.DESCRIPTION")
    return plugin(tmp_path, source)


def test_another_aggregation_uses_the_same_embeddings(
    bench: Command, reads_descriptions: str, tmp_path: Path
) -> None:
    command = ("run", "--task", "multivent/v1", "--retriever", reads_descriptions)
    assert "encode 18 documents: 18/18 in" in bench(*command).err
    second = bench(*command, "--set", "Words.aggregation=modality_max")
    assert "18 documents are encoded already" in second.err
    assert "encode 18" not in second.err
    assert len(list((tmp_path / "cache/workspaces").iterdir())) == 1
    runs = list(ResultsStore(tmp_path / "results").runs())
    assert len({run.result.retriever.fingerprint for run in runs}) == 2
    assert len({run.result.efficiency.index_seconds for run in runs}) == 1, "measured once"


def test_the_memory_budget_reaches_the_retriever_and_changes_nothing(
    bench: Command, reads_descriptions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    plain = EncoderRetriever.index

    def watched(self: EncoderRetriever, *rest: Any) -> None:
        given.append(self.memory)
        plain(self, *rest)

    monkeypatch.setattr(EncoderRetriever, "index", watched)
    command = ("run", "--task", "multivent/v1", "--retriever", reads_descriptions, "--again")
    for size in (("--memory", "64MiB"), (), ("--memory", "1.5 GB")):
        assert bench(*command, *size, "--output", tmp_path / "-".join(("r", *size))).status == 0
    assert given == [64 * 2**20, 2 * 2**30, 1_500_000_000]
    found = [run.result for path in tmp_path.glob("r*") for run in ResultsStore(path).runs()]
    assert len(found) == 3
    assert len({result.fingerprint for result in found}) == 1
    assert len({result.files["run.trec.gz"] for result in found}) == 1


@pytest.mark.parametrize("size", ["lots", "2XB", "-1GB", "1MB", "0"])
def test_a_memory_budget_that_cannot_be(bench: Command, v1: Path, size: str) -> None:
    bench("run", "--task", "multivent/v1", "--retriever", "random", f"--memory={size}").fails(
        "'memory'", repr(size)
    )
