"""``clamr-bench explain``: one score taken apart, the causal check, and what can be wrong."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness.cli.explain import source
from harness.results import ResultsStore, SavedRun
from harness.runfile import read_ranking
from harness.types import NO_MODALITY, Document, Modality
from tests.conftest import Command, Outcome
from tests.test_multivent_tasks import HUMAN, HUMAN_QRELS, prepared, train, video

#: A vector a word. `MIX` of what the document's other modalities hold is added to every vector, as
#: context does in a real model; query "film1" matches "film1" and nothing else.
PLUGIN = """\
import hashlib
import re
import numpy as np
from harness.api import About, Capabilities, Encoder, Modality, TokenEmbeddings

READS = frozenset({Modality.ASR, Modality.DESCRIPTION})
MIX = 0.0
NAN = float("nan")

def words(text):
    return [(m.group(), m.start(), m.end()) for m in re.finditer(r"\\w+", text.lower())]

def vector(word):
    seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
    made = np.random.default_rng(seed).standard_normal(64)
    return (made / np.linalg.norm(made)).astype(np.float32)

class Mixing(Encoder):
    about = About(title="Words in context", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=READS)

    def query_tokens(self, query):
        return ["<query>", *(word for word, *_ in words(query.text))]

    def encode_queries(self, batch):
        made = [[vector("<query>"), *(vector(w) for w, *_ in words(q.text))] for q in batch]
        return TokenEmbeddings.of([{Modality.TEXT: np.array(rows)} for rows in made])

    def encode_documents(self, batch):
        return TokenEmbeddings.concatenate([self.one(document) for document in batch])

    def one(self, document):
        found = [(m, *word) for m in READS if m in document.texts
                 for word in words(document.texts[m])]
        if not found:
            return TokenEmbeddings.of([{}], 64)
        plain = np.array([vector(word) for _, word, *_ in found])
        numbers = np.array([int(m) for m, *_ in found])
        context = np.array([plain[numbers != n].sum(axis=0) for n in numbers], np.float32)
        spans = np.array([[start, end, *[NAN] * 5] for *_, start, end in found], np.float32)
        return TokenEmbeddings.from_padded(
            (plain + MIX * context)[None], np.ones((1, len(numbers))), numbers[None],
            spans=spans[None])
"""

QUERY = HUMAN[1].id  # "film1", aims at asr; v01 says "film1 about matter1" in both modalities


def ran(bench: Command, folder: Path, mix: float = 0.0, *flags: str) -> SavedRun:
    """Run the plugin on a small MultiVENT."""
    prepared(folder, train)
    path = folder / "mixing.py"
    path.write_text(PLUGIN.replace("MIX = 0.0", f"MIX = {mix}"))
    outcome = bench("run", "--task", "multivent", "--retriever", f"{path}:Mixing", *flags)
    assert outcome.status == 0, outcome.err
    [saved] = ResultsStore(folder / "results").runs()
    return saved


def rows(outcome: Outcome, *names: str) -> dict[str, list[str]]:
    """The cells of the table rows that begin with one of `names`."""
    assert outcome.status == 0, outcome.err
    cells = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in outcome.out.splitlines()
        if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in cells if row[0] in names}


def test_modality_accuracy_of_a_run(bench: Command, tmp_path: Path) -> None:
    record = ran(bench, tmp_path).result.attribution
    assert record is not None
    assert record.relevant is not None
    assert record.relevant.queries == len(HUMAN)
    assert record.relevant.missing == 1, "v05, the relevant document of one query, has no data"
    assert record.relevant.grouped_by == "query_type"
    assert set(record.relevant.groups) == {"base", "speech", "ocr", "description"}
    # Both modalities have the same words: the first wins each token, and their sums tie.
    majority, argmax = (record.relevant.accuracy[way] for way in ("majority", "argmax"))
    assert (majority.queries, majority.hits, majority.ties, majority.missing) == (4, 1, 0, 1)
    assert (argmax.queries, argmax.hits, argmax.ties, argmax.missing) == (4, 0, 3, 1)
    reference = record.relevant.accuracy["reference"]
    assert (reference.queries, reference.hits, reference.missing) == (3, 1, 1)
    assert {t: (v.hits, v.queries) for t, v in majority.by_target.items()} == {
        "asr": (1, 1),
        "ocr": (0, 1),
        "description": (0, 2),
    }
    assert "reference" not in record.top.accuracy, "that is of the relevant document alone"
    shown = bench("results", "show", next(ResultsStore(tmp_path / "results").folders()).name)
    assert rows(shown, "majority")["majority"][:1] == ["25.0"]
    assert "1 have no such document or no token" in shown.out


def test_each_query_token_has_its_answer(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    outcome = bench("explain", saved.result.run_id, "--query", QUERY)
    table = rows(outcome, "1", "2", "as it is")
    *place, similarity, part = table["2"]
    assert place == ["film1", "asr", "1", "[film1] about matter1"]
    assert similarity == part
    assert float(part) == pytest.approx(1, abs=1e-3), "a vector with itself, in fp16"
    assert table["1"][0] == "<query>"
    score = read_ranking(saved.folder / "run.trec.gz")[QUERY].scores[0]
    assert float(table["as it is"][0]) == pytest.approx(score, abs=1e-4)
    assert f"document v01: score {score:.4f}" in outcome.out
    assert f"rank 1, score {score:.4f}" in outcome.out
    assert "check with --without" in outcome.out
    other = bench("explain", saved.folder, "--query", QUERY, "--document", "v07")
    assert "document v07" in other.out
    assert re.search(r"rank \d+, score", other.out)
    empty = bench("explain", saved.folder, "--query", QUERY, "--document", "v05")
    assert "not in the query's list" in empty.out
    assert rows(empty, "as it is")["as it is"][0] == "none"


def test_it_needs_no_workspace(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    before = bench("explain", saved.folder, "--query", QUERY).out
    shutil.rmtree(tmp_path / "cache")
    assert bench("explain", saved.folder, "--query", QUERY).out == before
    assert not list((tmp_path / "cache").rglob("shard-*")), "and leaves none"


@pytest.mark.parametrize("mix", [0.0, 0.25])
def test_without_tells_what_context_carried(bench: Command, tmp_path: Path, mix: float) -> None:
    """What is masked may still speak through the others; what was not encoded may not."""
    saved = ran(bench, tmp_path, mix)
    shown = bench("explain", saved.folder, "--query", QUERY, "--without", "asr")
    masked, left_out = "asr masked in scoring", "asr left out of the encoding"
    table = rows(shown, "as it is", masked, left_out)
    scores = {name: float(row[0]) for name, row in table.items()}
    if mix:
        assert scores[masked] > scores[left_out] + 0.1
        assert float(table[left_out][1]) == pytest.approx(
            scores[left_out] - scores["as it is"], abs=2e-4
        )
    else:
        assert scores[masked] == scores[left_out]
    assert table[masked][2] == "-", "asr has no part where it may not win"


def test_modalities_of_the_run_stay(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path, 0.0, "--modalities", "description")
    outcome = bench("explain", saved.folder, "--query", QUERY)
    assert rows(outcome, "2")["2"][1] == "description"
    without = ("explain", saved.folder, "--query", QUERY, "--without")
    shown = bench(*without, "asr")
    scores = rows(shown, "as it is", "asr masked in scoring")
    assert scores["as it is"][0] == scores["asr masked in scoring"][0], "it did not score anyway"
    bench(*without, "description").fails("only description is scored", "nothing is left to score")


def test_mistakes_are_told(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    run = saved.result.run_id
    bench("explain", run, "--query", QUERY + "0").fails("has no query", "Did you mean", QUERY)
    bench("explain", "2000", "--query", QUERY).fails("no single run '2000'")
    command = ("explain", run, "--query", QUERY)
    bench(*command, "--document", "v1").fails("no document 'v1'", "Did you mean 'v1")
    bench(*command, "--without", "speech").fails("unknown modality 'speech'")
    bench(*command, "--without", "ocr").fails("has no ocr to leave out: it has asr, description")
    bench(*command, "--without", "asr,description").fails("leave at least one of them in")
    incomplete = tmp_path / "results/runs/a/b/c/20000101-000000-00000000"
    incomplete.mkdir(parents=True)
    bench("explain", incomplete, "--query", QUERY).fails("holds no complete run")
    path = tmp_path / "mixing.py"
    path.write_text(PLUGIN.replace('["<query>", *', "[*"))
    bench(*command).fails("was made by another", "Run it again")
    bench("run", "--task", "multivent", "--retriever", f"{path}:Mixing")
    names = {folder.name for folder in ResultsStore(tmp_path / "results").folders()}
    [newest] = names - {run}
    bench("explain", newest, "--query", QUERY).fails("gave 1 texts for 2 query vectors")
    ranking = saved.folder / "run.trec.gz"
    ranking.write_bytes(ranking.read_bytes() + b" ")
    path.write_text(PLUGIN)
    bench(*command).fails("was changed since the run")


def test_other_data_are_refused(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    shutil.rmtree(tmp_path / "data")
    changed = [video(0, text="another film"), *map(video, range(1, 20))]
    prepared(tmp_path, lambda writer: writer.write_split("train", changed, HUMAN, HUMAN_QRELS))
    bench("explain", saved.folder, "--query", QUERY).fails("is of other data")


def test_a_retriever_without_token_embeddings_cannot_explain(
    bench: Command, tmp_path: Path
) -> None:
    prepared(tmp_path, train)
    bench("run", "--task", "multivent", "--retriever", "bm25-asr")
    [saved] = ResultsStore(tmp_path / "results").runs()
    assert saved.result.attribution is None
    bench("explain", saved.folder, "--query", QUERY).fails("'bm25-asr' cannot explain its scores")


def test_a_query_without_documents_needs_one_named(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path, 0.0, "--limit", "1")
    bench("explain", saved.folder, "--query", QUERY).fails("--document")
    shown = bench("explain", saved.folder, "--query", QUERY, "--document", "v01")
    assert "not in the query's list" in shown.out


NAN, BOX = float("nan"), (0, 0.25, 0.5, 1)


@pytest.mark.parametrize(
    ("modality", "span", "shown"),
    [
        (Modality.OCR, [16, 20, *[NAN] * 5], "a very long sto[p th]e presses now to"),
        (Modality.OCR, [NAN] * 7, "-"),
        (Modality.OCR, None, "-"),
        (NO_MODALITY, [1, 2, *[NAN] * 5], "-"),
        (Modality.VIDEO, [1.5, 2, *BOX, 12], "frame 12, 1.5-2.0 s, x 0.00-0.50, y 0.25-1.00"),
        (Modality.VIDEO, [NAN, NAN, *BOX, 3], "frame 3, x 0.00-0.50, y 0.25-1.00"),
        (Modality.IMAGE, [NAN, NAN, *BOX, 0], "image 0, x 0.00-0.50, y 0.25-1.00"),
        (Modality.AUDIO, [3, 3.04, *[NAN] * 5], "3.0-3.0 s"),
        (Modality.VIDEO, [3, 3, *[NAN] * 5], "3.0 s"),
    ],
)
def test_a_source_is_shown_for_people(modality: int, span: list[float] | None, shown: str) -> None:
    document = Document("d", {Modality.OCR: "a very long\n stop the presses now to"})
    assert source(document, modality, span) == shown
