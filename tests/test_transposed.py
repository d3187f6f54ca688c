"""The reverse direction: against the transposed matrix, ties, blocks, kills, and who may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import harness.runner.transposed as module
from harness.documents import Documents
from harness.errors import PluginError, RankingError
from harness.plugin import About, Direction
from harness.progress import Progress
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.retriever import Capabilities, Retriever
from harness.runfile import read_ranking
from harness.runner.transposed import search_transposed, turned_around
from harness.settings import Settings
from harness.task import Split
from harness.types import Document, Modality, Query, RankedList, Ranking
from harness.workspace import Workspace
from tests import encoders
from tests.conftest import Command

TASK = """
from typing import Literal
from harness.api import *

WORDS = ["red", "green", "blue", "circle", "square", "star", "moon", "river"]

class TurnedSettings(Settings):
    turned: bool = False

class Turned(Task):
    about = About(title="Turned", version="1", licence="MIT", citation="none")
    Settings = TurnedSettings

    @property
    def direction(self):
        return Direction.REVERSE if self.settings.turned else Direction.FORWARD

    @property
    def protocol(self):
        turned = self.settings.turned
        return Protocol(
            name="turned" if turned else "plain", candidates="all", relevance="one",
            measures=("Success@1", "MnR"), main="Success@1",
            unit="documents" if turned else "queries",
            query_breakdowns=("colour",), document_breakdowns=("length",),
        )

    def load(self, split, data, progress):
        documents, queries, qrels = [], [], {}
        for i, word in enumerate(WORDS):
            text = f"{word} {WORDS[(i + 1) % 8]}"
            attributes = {"colour": "rb"[i % 2]}
            documents.append(Document(f"d{i}", {Modality.ASR: text}, attributes=attributes))
            for length in (1, 2):
                query = Query(
                    f"q{i}-{length}", " ".join(text.split()[:length]),
                    attributes={"length": str(length)},
                )
                queries.append(query)
                qrels[query.id] = {f"d{i}": 1}
        return Split.of(split, documents, queries, qrels)
"""


class Fixed(Retriever):
    """Gives the scores of a matrix, (queries x documents); NaN leaves a document out."""

    about = About(title="Fixed", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(
        modalities=frozenset({Modality.TEXT}), directions=frozenset(Direction)
    )

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        super().__init__("fixed", None, Settings())
        self.matrix = matrix
        self.asked: list[str] = []
        self.fail_at: int | None = None
        self.direction = Direction.REVERSE

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Nothing to do."""

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        if self.fail_at is not None and len(self.asked) >= self.fail_at:
            raise KeyboardInterrupt
        self.asked += [query.id for query in queries]
        lists = {}
        for query in queries:
            row = self.matrix[int(query.text)]
            there = np.flatnonzero(~np.isnan(row))[:k]
            lists[query.id] = RankedList([f"d{i:02d}" for i in there], row[there])
        return Ranking(lists)


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, {"test": 1})


def transposed(
    retriever: Retriever, queries: Sequence[Query], documents: int, k: int, folder: Path
) -> Ranking:
    ids = [f"d{i:02d}" for i in range(documents)]
    return search_transposed(retriever, queries, ids, k, workspace(folder), Progress()).ranking


def expected(matrix: NDArray[np.float64], queries: Sequence[Query], k: int) -> dict[str, list[str]]:
    """For each document the queries, best first, ties by id, descending."""
    found = {}
    for column in range(matrix.shape[1]):
        pairs = [
            (float(np.float32(matrix[int(query.text), column])), query.id)
            for query in queries
            if not np.isnan(matrix[int(query.text), column])
        ]
        found[f"d{column:02d}"] = [query for _, query in sorted(pairs, reverse=True)[:k]]
    return found


def ids_of(ranking: Ranking) -> dict[str, list[str]]:
    return {document: list(row.documents) for document, row in ranking.items()}


@settings(deadline=None)
@given(
    values=st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("nan")]), min_size=3, max_size=3),
        min_size=1,
        max_size=7,
    ),
    texts=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    k=st.integers(1, 13),
    block=st.integers(1, 5),
)
def test_it_is_the_transposed_matrix(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[list[float]],
    texts: list[int],
    k: int,
    block: int,
) -> None:
    matrix = np.array(values)
    queries = [Query(f"q{i % 5}{i}", str(text % len(values))) for i, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        made = transposed(Fixed(matrix), queries, 3, k, tmp_path_factory.mktemp("work"))
    assert ids_of(made) == expected(matrix, queries, k)


def test_equal_queries_are_searched_once_and_tie(tmp_path: Path) -> None:
    retriever = Fixed(np.array([[1.0, 2.0], [3.0, 1.0]]))
    queries = [Query("a", "0"), Query("b", "1"), Query("c", "0"), Query("d", "1", instruction="x")]
    made = transposed(retriever, queries, 2, 9, tmp_path)
    assert retriever.asked == ["a", "b", "d"]
    assert ids_of(made) == {"d00": ["d", "b", "c", "a"], "d01": ["c", "a", "d", "b"]}
    assert made["d01"].scores.tolist() == [2.0, 2.0, 1.0, 1.0]


def test_a_killed_search_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = np.random.default_rng(3).random((40, 6)).round(1)  # With ties.
    queries = [Query(f"q{i:02d}", str(i)) for i in range(40)]
    whole = transposed(Fixed(matrix), queries, 6, 5, tmp_path / "whole")
    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    killed = Fixed(matrix)
    killed.fail_at = 24
    with pytest.raises(KeyboardInterrupt):
        transposed(killed, queries, 6, 5, tmp_path / "killed")
    again = Fixed(matrix)
    made = transposed(again, queries, 6, 5, tmp_path / "killed")
    assert again.asked == [f"q{i:02d}" for i in range(24, 40)], "what was done is not done again"
    assert encoders.as_bytes(made) == encoders.as_bytes(whole)
    [kept] = (tmp_path / "killed").glob("search-*/*")
    assert kept.name == "00000040.npy", "older checkpoints are deleted"


def test_what_was_not_given_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RankingError, match=r"unknown document 'd01'.*only rank what it was given"):
        transposed(Fixed(np.array([[np.nan, 1.0]])), [Query("q", "0")], 1, 5, tmp_path)
    broken = Fixed(np.ones((1, 1)))
    broken.search = lambda queries, k: {}  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(PluginError, match="returned dict, not a Ranking"):
        transposed(broken, [Query("q", "0")], 1, 5, tmp_path)


def test_a_split_turned_around() -> None:
    documents = [Document("v1", {Modality.ASR: "x"}, attributes={"language": "english"})]
    documents.append(Document("v2"))
    queries = [Query("a", "one", attributes={"target": "asr"}), Query("b", "two"), Query("c", "3")]
    split = Split.of("test", documents, queries, {"a": {"v1": 1}, "b": {"v1": 2, "v2": 0}})
    turned = turned_around(split)
    assert [(q.id, q.text, q.attributes) for q in turned.queries] == [
        ("v1", "", {"language": "english"}),
        ("v2", "", {}),
    ]
    assert [(d.id, d.texts[Modality.TEXT], d.attributes) for d in turned.documents] == [
        ("a", "one", {"target": "asr"}),
        ("b", "two", {}),
        ("c", "3", {}),
    ]
    assert turned.qrels == {"v1": {"a": 1, "b": 2}, "v2": {"b": 0}}
    assert turned.fingerprint == split.fingerprint, "the data are the same"


def test_long_queries_do_not_win_by_their_length(tmp_path: Path) -> None:
    """Sums over query tokens are divided by their number, in the reverse direction alone."""
    words = make_retriever(encoders.plugin(tmp_path))
    documents = [Document("d00", {Modality.ASR: "red circle"})]
    split = Split.of("test", documents, [], {})
    queries = [Query("long", "red circle stone"), Query("short", "red")]
    words.direction = Direction.REVERSE
    words.index(split.documents, workspace(tmp_path / "a"))
    made = transposed(words, queries, 1, 5, tmp_path / "a")
    assert list(made["d00"].documents) == ["short", "long"]
    words.direction = Direction.FORWARD
    words.index(split.documents, workspace(tmp_path / "a"))
    forward = words.search(queries, 5)
    assert forward["long"].scores[0] > forward["short"].scores[0]
    assert made["d00"].scores[0] == pytest.approx(forward["short"].scores[0])
    assert made["d00"].scores[1] == pytest.approx(forward["long"].scores[0] / 3)


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def plugins(tmp_path: Path) -> tuple[str, str]:
    """A task that can be turned around, and an encoder that may."""
    path = tmp_path / "turned.py"
    path.write_text(TASK)
    source = encoders.PLUGIN.replace(
        "Capabilities(modalities=READS)",
        "Capabilities(modalities=READS, directions=frozenset(Direction))",
    ).replace("Capabilities, Encoder", "Capabilities, Direction, Encoder")
    return f"{path}:Turned", encoders.plugin(tmp_path, source)


def test_a_run_in_both_directions(bench: Command, plugins: tuple[str, str], tmp_path: Path) -> None:
    task, words = plugins
    for turned in ("false", "true"):
        setting = ("--set", f"Turned.turned={turned}")
        outcome = bench("run", "--task", task, "--retriever", words, *setting)
        assert outcome.status == 0, outcome.err
    runs = {run.result.task.protocol.name: run for run in ResultsStore(tmp_path / "results").runs()}
    plain, turned_run = runs["plain"], runs["turned"]
    assert plain.result.fingerprint != turned_run.result.fingerprint
    assert plain.result.data == turned_run.result.data.model_copy(update={"queries": 16})
    assert turned_run.result.evaluation.queries == 8
    assert turned_run.result.efficiency.query_p50_ms is None
    assert plain.result.attribution is not None
    assert turned_run.result.attribution is None
    assert set(turned_run.result.breakdowns) == {"colour", "document length"}
    ranking = read_ranking(turned_run.folder / "run.trec.gz")
    # Query q3-2 is of document d3.
    hits = [row.documents[0][1] == document[1] for document, row in ranking.items()]
    assert turned_run.result.measures["Success@1"].mean == np.mean(hits) > 0
    assert len(ranking) == 8
    assert {len(row) for row in ranking.values()} == {16}
    # The matrix is that of the forward run, each row divided by the number of query tokens.
    forward = read_ranking(plain.folder / "run.trec.gz")
    for query, row in forward.items():
        for document, score in zip(row.documents, row.scores.tolist(), strict=True):
            theirs = ranking[document]
            place = list(theirs.documents).index(query)
            assert theirs.scores[place] == pytest.approx(score / int(query[-1]), abs=1e-5)
    indexes = list((tmp_path / "cache").rglob("index.json"))
    assert len(indexes) == 1, "both directions share one index"
    bench("leaderboard")
    names = {path.name for path in (tmp_path / "results/tables").glob("*/*.json")}
    assert names == {"plain.json", "turned.json"}

    outcome = bench("evaluate", turned_run.folder / "run.trec.gz", "--task", task,
                    "--set", "Turned.turned=true")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "8 documents" in outcome.out
    bench("evaluate", turned_run.folder / "run.trec.gz", "--task", task).fails("unknown queries")
    bench("explain", turned_run.result.run_id, "--query", "q0-1").fails(
        "ranks queries for documents", "other direction"
    )


def test_some_of_what_asks(bench: Command, plugins: tuple[str, str], tmp_path: Path) -> None:
    task, words = plugins
    options = ("--limit", "3", "--k", "4", "--set", "Turned.turned=true")
    outcome = bench("run", "--task", task, "--retriever", words, "--retriever", "random", *options)
    assert outcome.status == 0, outcome.err
    for run in ResultsStore(tmp_path / "results").runs():
        ranking = read_ranking(run.folder / "run.trec.gz")
        assert sorted(ranking) == ["d0", "d1", "d2"]
        assert {len(row) for row in ranking.values()} == {4}
        assert run.result.evaluation.queries == 3


@pytest.mark.parametrize(
    "retriever",
    [("bm25-asr",), ("sentence-transformers-sparse/tiny",), ("fused", "rrf"), ("fused", "zscore")],
)
def test_scores_on_no_common_scale_are_refused(
    bench: Command, plugins: tuple[str, str], retriever: tuple[str, ...], tmp_path: Path
) -> None:
    task, words = plugins
    options = ["--set", "Turned.turned=true"]
    if retriever[0] == "fused":
        options += ["--set", f"fused.parts=[{words}, random]"]
        options += ["--set", f"fused.method={retriever[1]}"]
    bench("run", "--task", task, "--retriever", retriever[0], *options).fails(
        retriever[0], "'reverse'", "on one scale"
    )
    assert not (tmp_path / "cache").exists(), "nothing was indexed"


def test_means_of_comparable_parts_may(
    bench: Command, plugins: tuple[str, str], tmp_path: Path
) -> None:
    task, words = plugins
    options = ("--set", "Turned.turned=true", "--set", "fused.method=mean")
    parts = (
        f"fused.parts=[{words}, {{retriever: '{words}', settings: {{precision: fp32}}, label: b}}]"
    )
    outcome = bench("run", "--task", task, "--retriever", words, "--retriever", "fused", *options,
                    "--set", parts)  # fmt: skip
    assert outcome.status == 0, outcome.err
    runs = {r.result.retriever.name: r for r in ResultsStore(tmp_path / "results").runs()}
    alone, fused = (read_ranking(runs[n].folder / "run.trec.gz") for n in ("Words", "fused"))
    for document, row in alone.items():
        theirs = dict(zip(fused[document].documents, fused[document].scores.tolist(), strict=True))
        for query, score in zip(row.documents, row.scores.tolist(), strict=True):
            assert theirs[query] == pytest.approx(score, abs=0.01), "parts are normalised too"
    bench("run", "--task", task, "--retriever", "fused", *options, "--set",
          f"fused.parts=[{words}, bm25-asr]").fails("'reverse'")  # fmt: skip


def test_saved_runs_of_the_reverse_direction_are_compared_and_fused(
    bench: Command, plugins: tuple[str, str], tmp_path: Path
) -> None:
    task, words = plugins
    options = ("--set", "Turned.turned=true")
    bench("run", "--task", task, "--retriever", words, "--retriever", "random", *options)
    ids = [run.result.run_id for run in ResultsStore(tmp_path / "results").runs()]
    outcome = bench("compare", *ids, "--by", "colour")
    assert outcome.status == 0, outcome.err
    assert "colour=b" in outcome.out
    outcome = bench("fuse", *ids)
    assert outcome.status == 0, outcome.err
    fused = next(r for r in ResultsStore(tmp_path / "results").runs() if r.result.run_id not in ids)
    assert fused.result.evaluation.queries == 8
    assert fused.result.data.coverage.documents == 8


def test_training_is_forward(bench: Command, plugins: tuple[str, str]) -> None:
    task, words = plugins
    bench("train", "--task", task, "--retriever", words, "--recipe", "cpu-tiny",
          "--set", "Turned.turned=true").fails("forward")  # fmt: skip
