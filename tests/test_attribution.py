"""What a score is made of, and what the attributions of a run come to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.index.filling
from harness.encoder import EncoderRetriever
from harness.errors import CapabilityError, PluginError, StorageError, UsageError
from harness.late_interaction import Precision, Scoring, TokenEmbeddings, max_sim
from harness.late_interaction.attribution import Attribution, attribute, label
from harness.registry import make_retriever
from harness.results import Result, ResultsStore, SavedRun
from harness.runner.attribution import Row, accuracy, shares, summary
from harness.types import NO_MODALITY, Modality, Query
from tests.conftest import Command
from tests.encoders import PLUGIN, QUERIES, SMALL_SHARD, documents, plugin, workspace
from tests.late_interaction_cases import PRECISIONS, collections, embed, item, reference, scorings

VIDEO, ASR, OCR, TEXT = Modality.VIDEO, Modality.ASR, Modality.OCR, Modality.TEXT


def rows_of(*rows: Sequence[float]) -> np.ndarray:
    return np.asarray(rows, np.float32)


def made(
    query: Sequence[Sequence[float]] | np.ndarray,
    parts: Mapping[int, Sequence[Sequence[float]] | np.ndarray],
    scoring: Scoring | None = None,
) -> Attribution:
    """Attribute a query of some vectors in a document of some vectors by modality number."""
    dim = len(query[0]) if len(query) else 2
    one = {m: rows_of(*vectors) for m, vectors in parts.items()}
    asked = {TEXT: rows_of(*query)} if len(query) else {}
    return attribute(embed([asked], dim), embed([one], dim), scoring)


@settings(deadline=None)
@given(
    queries=collections([TEXT, NO_MODALITY], 5),
    texts=collections([0, 1, 3, 4, 7], 5),
    scoring=scorings,
    precision=st.sampled_from(PRECISIONS),
)
def test_contributions_are_the_score(
    queries: list[dict[int, np.ndarray]],
    texts: list[dict[int, np.ndarray]],
    scoring: Scoring,
    precision: Precision,
) -> None:
    asked, given_ = embed(queries, 5, precision), embed(texts, 5, precision)
    query, document = asked[:1], given_[:1]
    found = attribute(query, document, scoring)
    total, by_modality, scale = reference(item(query, 0), item(document, 0), scoring)
    assert found.score == max_sim(query, document, scoring).total.item()
    if not found.found:
        assert total == -np.inf or not len(query.vectors)
        assert found.contributions == {}
        assert found.shares is None
        assert found.majority == found.strongest == frozenset()
        return
    assert sum(found.contributions.values()) == pytest.approx(total, abs=2e-5 * scale)
    counted = {m for m, count in enumerate(np.bincount(found.winners.modalities)) if count}
    assert set(found.contributions) == counted <= set(by_modality)
    for number, part in by_modality.items():
        assert found.by_modality[number] == pytest.approx(part, abs=2e-5 * scale)
    if scoring.aggregation == "modality_max":
        [only] = found.contributions
        assert by_modality[only] == pytest.approx(total, abs=2e-5 * scale)
    if found.shares is not None:
        assert sum(found.shares.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in found.shares.values())
        assert {m: s * found.score for m, s in found.shares.items()} == pytest.approx(
            found.contributions, abs=2e-5 * scale
        )
    else:
        parts = found.contributions.values()
        assert min(parts) < 0 or sum(parts) <= 0


def test_the_picture_of_the_page_is_right() -> None:
    page = (Path(__file__).parents[1] / "docs/late-interaction.md").read_text(encoding="utf-8")
    table = [[float(x) for x in re.findall(r"  (\.\d)", line)] for line in page.splitlines()]
    similarities = rows_of(*[row for row in table if len(row) == 12])
    assert similarities.shape == (3, 12)
    columns = {VIDEO: slice(0, 6), ASR: slice(6, 9), OCR: slice(9, 11), NO_MODALITY: slice(11, 12)}
    parts = {m: similarities[:, place].T for m, place in columns.items()}
    query = np.eye(3, dtype=np.float32)
    together = made(query, parts)
    assert together.score == pytest.approx(2.4)
    assert together.shares == pytest.approx({VIDEO: 0.9 / 2.4, ASR: 0.8 / 2.4, OCR: 0.7 / 2.4})
    assert together.by_modality[[VIDEO, ASR, OCR]] == pytest.approx([1.6, 1.8, 1.4])
    apart = made(query, parts, Scoring("modality_max"))
    assert apart.score == pytest.approx(1.8)
    assert apart.shares == {ASR: 1.0}


def test_negative_parts_are_told_and_never_made_into_shares() -> None:
    parts = {ASR: [[1, 0]], OCR: [[0, -0.25]]}
    mixed = made([[2, 9], [-9, 1]], parts)
    assert mixed.contributions == {ASR: 2.0, OCR: -0.25}
    assert mixed.shares is None
    assert mixed.score == 1.75
    single = made([[2, -9], [-9, 1], [-9, 0]], {ASR: [[1, 0]], OCR: [[0, 1]]})
    assert single.contributions == {ASR: 2.0, OCR: 1.0}, "one of a token is 0"
    assert single.shares == {ASR: 2 / 3, OCR: 1 / 3}
    assert made([[0, 0]], parts).shares is None, "a score of 0 cannot be divided"


def test_tokens_of_no_modality_are_counted_under_none() -> None:
    parts = {NO_MODALITY: [[1, 0]], OCR: [[0, 1]]}
    apart = made([[1, 0], [3, 1], [0, 4]], parts, Scoring(unassigned_tokens="compete"))
    assert apart.contributions == {NO_MODALITY: 4.0, OCR: 4.0}
    assert apart.majority == {NO_MODALITY}
    assert apart.strongest == {OCR}
    assert label(NO_MODALITY) == "none"
    without = made([[1, 0], [3, 1], [0, 4]], parts)
    assert without.contributions == {OCR: 5.0}


def test_spans_are_those_of_the_winners() -> None:
    spans = np.arange(21, dtype=np.float32).reshape(3, 7)
    plain = embed([{ASR: rows_of([1, 0], [0, 1]), OCR: rows_of([-1, -1])}], 2)
    arrays = (plain.vectors, plain.offsets, plain.modalities, plain.segment_offsets)
    document = TokenEmbeddings(*arrays, spans=spans)
    query = embed([{TEXT: rows_of([0, 2], [-1, -1], [2, 0])}], 2)
    found = attribute(query, document)
    assert found.spans is not None
    assert found.winners.tokens.tolist() == [1, 2, 0]
    assert found.spans.tolist() == spans[[1, 2, 0]].tolist()
    padded = attribute(query, document, Scoring(modalities=frozenset([ASR]), padding="zero"))
    assert padded.spans is not None
    assert np.isnan(padded.spans[1]).all(), "padding has no source"
    assert attribute(query, plain).spans is None
    masked = attribute(query, document, Scoring(modalities=frozenset([VIDEO])))
    assert not masked.found
    assert masked.spans is not None
    assert np.isnan(masked.spans).all()


AXES = np.eye(3, dtype=np.float32)


def votes(video: int, asr: int, none: int, target: str = "asr") -> Row:
    """A query with so many tokens won by each."""
    query = [AXES[0]] * video + [AXES[1]] * asr + [AXES[2]] * none
    parts = {VIDEO: [AXES[0]], ASR: [AXES[1]], NO_MODALITY: [AXES[2]]}
    found = made(query, parts, Scoring(unassigned_tokens="compete"))
    return Row(Query("q", "", attributes={"target": target}), found)


NOTHING = Row(Query("q", "", attributes={"target": "asr"}), None)
NO_TOKEN = Row(NOTHING.query, made([[1.0, 0.0]], {}))


@pytest.mark.parametrize(
    ("row", "majority", "reference_way"),
    [
        (votes(1, 2, 0), "hits", "hits"),
        (votes(2, 1, 0), "", ""),
        (votes(1, 1, 0), "ties", ""),  # the lower number, video, wins in the reference
        (votes(1, 1, 0, "video"), "ties", "hits"),
        (votes(0, 2, 3), "none", "hits"),  # tokens of no modality do not vote there
        (votes(0, 2, 2), "ties", "hits"),
        (votes(0, 0, 1), "none", "none"),
        (NOTHING, "missing", "missing"),
        (NO_TOKEN, "missing", "missing"),
    ],
)
def test_one_query_is_counted_as_what_it_is(row: Row, majority: str, reference_way: str) -> None:
    for way, expected in (("majority", majority), ("argmax", majority)):
        counts = accuracy([row], way).model_dump(exclude={"by_target"})
        assert counts.pop("queries") == 1, "every query counts"
        assert {name for name, count in counts.items() if count} == ({expected} - {""})
    counts = accuracy([row], "reference").model_dump(exclude={"by_target"})
    assert counts.pop("queries") == (reference_way not in ("none", "missing"))
    assert {name for name, count in counts.items() if count} == ({reference_way} - {""})


def test_majority_and_argmax_are_two_things() -> None:
    # Two weak matches against a strong one.
    found = made([[1, 0, 0], [1, 0, 0], [0, 9, 0]], {VIDEO: [[1, 0, 0]], ASR: [[0, 1, 0]]})
    row = Row(Query("q", "", attributes={"target": "asr"}), found)
    assert accuracy([row], "majority").hits == 0
    assert accuracy([row], "argmax").hits == 1


def test_accuracy_is_over_queries_that_aim_at_one_modality() -> None:
    rows = [
        votes(2, 1, 0, "video"),
        votes(1, 2, 0, "video"),
        votes(1, 2, 0),
        votes(1, 2, 0, "asr+video"),
        Row(Query("q", ""), votes(1, 2, 0).attribution),
        votes(0, 0, 2),
    ]
    record = summary(rows, None, ("majority", "reference"))
    assert record.queries == 6
    found = record.accuracy["majority"]
    assert (found.queries, found.hits, found.none) == (4, 2, 1)
    by_target = {t: (v.hits, v.queries) for t, v in found.by_target.items()}
    assert by_target == {"video": (1, 2), "asr": (1, 2)}
    found = record.accuracy["reference"]
    assert (found.queries, found.hits, found.none) == (3, 2, 1), "what has no vote is left out"
    assert summary(rows[3:5], None, ("majority",)).accuracy == {}


def test_shares_are_means_over_queries_that_have_them() -> None:
    negative = Row(Query("n", ""), made([[2, 9], [-9, 1]], {ASR: [[1, 0]], OCR: [[0, -0.25]]}))
    grouped = [
        Row(Query("a", "", attributes={"query_type": "x"}), votes(1, 3, 0).attribution),
        Row(Query("b", "", attributes={"query_type": "y"}), votes(1, 0, 0).attribution),
        Row(Query("c", "", attributes={"query_type": "y"}), None),
        negative,
    ]
    record = summary(grouped, "query_type", ())
    assert (record.queries, record.missing, record.undivided) == (4, 1, 1)
    assert record.share.queries == 2
    assert record.share.share == {"video": 0.625, "asr": 0.375}
    assert {v: (g.queries, g.share) for v, g in record.groups.items()} == {
        "x": (1, {"video": 0.25, "asr": 0.75}),
        "y": (1, {"video": 1.0}),
    }
    assert shares([negative]).share == {}


def test_an_encoder_explains_what_it_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", SMALL_SHARD)
    retriever = make_retriever(plugin(tmp_path))
    assert retriever.capabilities.explains
    assert isinstance(retriever, EncoderRetriever)
    assert not type(retriever.encoder).capabilities.explains, "the encoder's own card stays"
    retriever.index(documents(30), workspace(tmp_path / "w"))
    ranking = retriever.search(QUERIES, 40)
    asked = [list(ranking[query.id].documents[:5]) for query in QUERIES]
    found = retriever.explain(QUERIES, asked)
    for query, ids, row in zip(QUERIES, asked, found, strict=True):
        scores = dict(zip(ids, ranking[query.id].scores.tolist(), strict=False))
        assert [one.score for one in row] == [scores[id_] for id_ in ids], "the very scores"
    only = retriever.explain(QUERIES[:1], asked[:1], frozenset([ASR]))[0]
    assert {m for one in only for m in one.contributions} == {ASR}
    [[empty]] = retriever.explain(QUERIES[:1], [["empty"]])
    assert not empty.found
    assert retriever.explain(QUERIES, [[], [], []]) == [[], [], []]
    assert retriever.query_tokens(QUERIES[0]) is None
    with pytest.raises(UsageError, match="no document 'd999' was indexed"):
        retriever.explain(QUERIES[:1], [["d999"]])
    for tensors in (tmp_path / "w").glob("shard-*/embeddings.safetensors"):
        tensors.write_bytes(b"")
    with pytest.raises(StorageError, match="was damaged while it was in use"):
        retriever.explain(QUERIES, asked)


def test_only_the_shards_asked_for_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.index.filling, "SHARD_BYTES", SMALL_SHARD)
    retriever = make_retriever(plugin(tmp_path))
    retriever.index(documents(30), workspace(tmp_path / "w"))
    opened: list[Path] = []
    whole = harness.index.shards.Shard.embeddings

    def counted(shard: harness.index.shards.Shard) -> TokenEmbeddings:
        opened.append(shard.path)
        return whole(shard)

    monkeypatch.setattr(harness.index.shards.Shard, "embeddings", counted)
    retriever.explain(QUERIES[:2], [["d001", "d029"], ["d001", "d002"]])
    assert len(opened) == len(set(opened)) <= 3


def test_a_retriever_without_explanations_says_so() -> None:
    bm25 = make_retriever("bm25-asr")
    with pytest.raises(CapabilityError, match="'bm25-asr' cannot explain its scores"):
        bm25.explain([], [])


@pytest.fixture
def ran(bench: Command, v1: Path, tmp_path: Path) -> SavedRun:
    """A run of the small encoder on MultiVENT 1.0."""
    source = PLUGIN.replace("Modality.ASR, Modality.OCR", "Modality.DESCRIPTION")
    outcome = bench("run", "--task", "multivent/v1", "--retriever", plugin(tmp_path, source))
    assert outcome.status == 0, outcome.err
    [saved] = ResultsStore(tmp_path / "results").runs()
    return saved


def test_a_run_records_what_answered(ran: SavedRun, bench: Command) -> None:
    record = ran.result.attribution
    assert record is not None
    assert record.relevant is not None
    assert record.seconds > 0
    for one in (record.top, record.relevant):
        assert one.queries == ran.result.data.queries
        assert one.share.share == {"description": pytest.approx(1.0)}
        assert one.share.queries + one.missing + one.undivided == one.queries
        assert one.grouped_by == "event_category"
        assert set(one.groups) == {"political", "social"}
        assert one.accuracy == {}, "no query of this task aims at a modality"
    shown = bench("results", "show", ran.result.run_id)
    assert "shares of the score (%): best relevant" in shown.out
    assert "political" in shown.out
    again = bench("run", "--config", ran.folder / "config.yaml")
    assert "first ranked" in again.out
    assert "best relevant" in again.out


def test_an_older_result_without_attribution_is_read(ran: SavedRun) -> None:
    path = ran.folder / "result.json"
    values = json.loads(path.read_text())
    del values["attribution"]
    path.write_text(json.dumps(values))
    assert Result.read(path).attribution is None


def test_a_retriever_that_declares_what_it_lacks_is_refused(
    bench: Command, v1: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from harness.api import About, Capabilities, Modality, Ranking, Retriever\n"
        "class Mine(Retriever):\n"
        "    about = About(title='t', version='1', licence='l', citation='c')\n"
        "    capabilities = Capabilities(modalities=frozenset(Modality), explains=True)\n"
        "    def index(self, documents, workspace): ...\n"
        "    def search(self, queries, k): return Ranking({})\n"
    )
    outcome = bench("run", "--task", "multivent/v1", "--retriever", f"{tmp_path / 'mine.py'}:Mine")
    outcome.fails("declares `explains`, but does not implement")
    assert PluginError.exit_status == outcome.status
