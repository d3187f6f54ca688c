"""The variants of MultiVENT 2.0 on one small store: pools, protocols, training data, figures."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contamination import Shared, normalised, relevant_documents, shared, without
from harness.dataset import DatasetWriter
from harness.errors import ClamrBenchError
from harness.progress import Progress
from harness.registry import make_task
from harness.results import Result, ResultsStore
from harness.results.per_query import read_per_query
from harness.task import Split
from harness.types import Document, Modality, Qrels, Query
from tasks.multivent.clamr_protocol import REPEATED
from tasks.multivent.tables import query_attributes
from tests.conftest import Command

VARIANTS = ("", "/pool", "/clamr", "/synthetic", "/official")
Writes = Callable[[DatasetWriter], None]


def video(number: int, *, text: str | None = None) -> Document:
    """A video with words of its own; number 5 has no data at all."""
    if number == 5:
        return Document("v05")
    words = text or f"film{number} about matter{number}"
    return Document(f"v{number:02}", {Modality.ASR: words, Modality.DESCRIPTION: words})


def human(name: str, text: str, **extra: str) -> Query:
    return Query(name, text, attributes={**query_attributes(name), **extra})


MANY = "internvid_russian_other_edited_base_0"
HUMAN = [
    human("internvid_english_political_pov_base_0", "film0 matter0"),
    human("internvid_english_political_pov_speech_0", "film1"),
    human("internvid_korean_sports_edited_ocr_0", "matter1", **{REPEATED: "v01"}),
    human(MANY, "film1 film2 film3"),
    human("internvid_arabic_sports_edited_description_0", "film0 matter0"),
    human("internvid_arabic_sports_edited_description_1", "nothing", source="x"),
]
HUMAN_QRELS = {
    HUMAN[0].id: {"v00": 1},
    HUMAN[1].id: {"v01": 1},
    HUMAN[2].id: {"v01": 1},
    HUMAN[3].id: {f"v{n:02}": 1 for n in range(11)},
    HUMAN[4].id: {"v00": 1, "v02": 1},
    HUMAN[5].id: {"v05": 1},
}


def train(writer: DatasetWriter, videos: int = 20) -> None:
    writer.write_split("train", map(video, range(videos)), HUMAN, HUMAN_QRELS)


def synthetic(name: str, rows: Sequence[tuple[str, str, str]]) -> Writes:
    """A split of synthetic queries: (video, query type, text)."""

    def write(writer: DatasetWriter) -> None:
        queries = [
            Query(f"{name}-{n}", text, attributes={"query_type": kind})
            for n, (_, kind, text) in enumerate(rows)
        ]
        qrels = {query.id: {row[0]: 1} for query, row in zip(queries, rows, strict=True)}
        writer.write_split(name, [], queries, qrels, documents_of="train")

    return write


SYNTHETIC_TRAIN = synthetic(
    "synthetic-train",
    [
        ("v12", "speech", "film12"),
        ("v00", "ocr", "matter0"),  # a judged video
        ("v13", "base", "  FILM0, matter0! "),  # the text of a human query
        ("v14", "description", "film14 about"),  # a video of the validation queries
        ("v15", "base", "film15"),
        ("v15", "ocr", "matter16"),  # the text of a validation query
    ],
)
VALIDATION = synthetic(
    "synthetic-validation",
    [("v14", "speech", "matter14"), ("v16", "ocr", "Matter16"), ("v01", "speech", "about film1")],
)

TEST_QUERIES = [
    human("internvid_english_political_pov_base_7", "lake1 shore1"),
    human("internvid_korean_political_pov_ocr_7", "lake2"),
    human("internvid_korean_political_pov_ocr_8", "nowhere"),
]
GRADED = {TEST_QUERIES[0].id: {"-w1": 3, "w2": 1, "w3": 0}, TEST_QUERIES[1].id: {"w2": 2}}


def official(qrels: Qrels) -> Writes:
    def write(writer: DatasetWriter) -> None:
        names = ["w0", "-w1", "w2", "w3", "w4"]
        documents = [
            Document(name, {Modality.ASR: f"lake{n} shore{n}"}) for n, name in enumerate(names)
        ]
        writer.write_split("test", documents, TEST_QUERIES, qrels)

    return write


def prepared(folder: Path, *writes: Writes) -> Path:
    store = folder / "data/multivent/default"
    with DatasetWriter(store, task="multivent", task_version="1") as writer:
        for write in writes:
            write(writer)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Everything, with graded test judgments."""
    return prepared(tmp_path, train, SYNTHETIC_TRAIN, VALIDATION, official(GRADED))


def load(address: str, split: str = "test") -> Split:
    return make_task(address).load(split, None, Progress())


def ids(split: Split) -> list[str]:
    return [document.id for document in split.documents]


def table_lines(out: str) -> list[list[str]]:
    """The cells of every line of the tables in what a command printed."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]


def saved(tmp_path: Path) -> dict[str, Result]:
    runs = ResultsStore(tmp_path / "results").runs()
    return {run.result.task.address: run.result for run in runs}


# --- what is evaluated ---------------------------------------------------------------------------


def test_candidates_are_the_distinct_judged_videos(store: Path) -> None:
    split = load("multivent")
    assert ids(split) == [f"v{n:02}" for n in range(11)]
    assert len(split.documents) == split.coverage.documents == 11
    assert split.documents.attributes().keys() == set(ids(split))
    assert split.coverage.modalities == {"asr": 10, "description": 10}, "v05 has no data and stays"
    assert [query.id for query in split.queries] == [query.id for query in HUMAN]
    assert split.qrels == HUMAN_QRELS
    relevant = {query.id: query.attributes["relevant"] for query in split.queries}
    assert relevant == {
        **dict.fromkeys(HUMAN_QRELS, "one"), MANY: "many", HUMAN[4].id: "few",
    }  # fmt: skip


def test_the_pool_is_every_training_video(store: Path) -> None:
    split = load("multivent/pool")
    assert len(ids(split)) == 20
    assert split.qrels == HUMAN_QRELS
    assert split.queries == load("multivent").queries


def test_synthetic_queries_are_a_task_of_their_own(store: Path) -> None:
    for name in ("test", "validation"):
        split = load("multivent/synthetic", name)
        assert ids(split) == ["v01", "v14", "v16"]
        assert len(split.queries) == 3
        assert split.name == name


def test_a_fingerprint_is_of_what_competes(tmp_path: Path) -> None:
    """More unjudged videos change the pool's data, not those of the judged videos."""
    first = {a: prepared(tmp_path, train) and load(a).fingerprint for a in TWO}
    prepared(tmp_path, lambda writer: train(writer, 25))
    more = {a: load(a).fingerprint for a in TWO}
    assert first["multivent"] == more["multivent"]
    assert first["multivent/pool"] != more["multivent/pool"]

    def other_text(writer: DatasetWriter) -> None:
        documents = [video(n, text="changed" if n == 3 else None) for n in range(20)]
        writer.write_split("train", documents, HUMAN, HUMAN_QRELS)

    def other_judgment(writer: DatasetWriter) -> None:
        qrels = HUMAN_QRELS | {HUMAN[0].id: {"v01": 1}}
        writer.write_split("train", map(video, range(20)), HUMAN, qrels)

    def other_query(writer: DatasetWriter) -> None:
        queries = [Query(HUMAN[0].id, "other words"), *HUMAN[1:]]
        writer.write_split("train", map(video, range(20)), queries, HUMAN_QRELS)

    for change in (other_text, other_judgment, other_query):
        prepared(tmp_path, change)
        assert load("multivent").fingerprint != first["multivent"], change


TWO = ("multivent", "multivent/pool")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_and_has_a_protocol_of_its_own(
    bench: Command, store: Path, tmp_path: Path, variant: str
) -> None:
    address = f"multivent{variant}"
    outcome = bench("run", "--task", address, "--retriever", "bm25-text")
    assert outcome.status == 0, outcome.err
    result = saved(tmp_path)[address]
    assert result.task.protocol.name == (variant[1:] or "corrected")
    assert result.task.family == "multivent"
    assert result.measures.keys() == set(result.task.protocol.measures)
    assert "query_type" in result.breakdowns
    assert bool(result.references) == (variant == "/clamr")
    assert bench("results", "check").status == 0
    assert bench("results", "show", result.run_id).status == 0
    assert bench("data", "stats", address).status == 0
    tasks = bench("tasks", address)
    assert result.task.protocol.candidates[:20] in " ".join(tasks.out.split())


def test_queries_with_many_relevant_videos_stand_apart(
    bench: Command, store: Path, tmp_path: Path
) -> None:
    bench("run", "--task", "multivent", "--retriever", "bm25-text")
    result = saved(tmp_path)["multivent"]
    groups = {value: group.queries for value, group in result.breakdowns["relevant"].items()}
    assert groups == {"one": 4, "few": 1, "many": 1}
    assert result.evaluation.queries == 6
    assert result.breakdowns["relevant"]["many"].measures["R@10"].mean <= 10 / 11
    assert set(result.breakdowns) == {"query_type", "language", "event", "style", "relevant"}


def test_graded_judgments_count_in_ndcg_alone(bench: Command, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    rows = {
        "best": {"-w1": 3, "w2": 2, "w3": 1},
        "turned": {"w2": 3, "-w1": 2, "w3": 1},
    }
    shown = {}
    for name, row in rows.items():
        run.write_text(json.dumps({TEST_QUERIES[0].id: row, TEST_QUERIES[1].id: {"w2": 1}}))
        outcome = bench("evaluate", run, "--task", "multivent/official")
        assert outcome.status == 0, outcome.err
        assert "1 queries have no relevant document; dropped" in outcome.out
        shown[name] = next(line for line in outcome.out.splitlines() if "100.00" in line).split("│")
    assert shown["best"][1].split()[0] == "100.00"
    assert float(shown["turned"][1].split()[0]) < 100
    assert shown["best"][2:] == shown["turned"][2:]


# --- CLaMR's protocol ----------------------------------------------------------------------------


def test_the_row_protocol_says_what_ideal_retrievers_get(
    bench: Command, store: Path, tmp_path: Path
) -> None:
    outcome = bench("run", "--task", "multivent/clamr", "--retriever", "bm25-text")
    run = next(ResultsStore(tmp_path / "results").runs())
    result = run.result
    rows, values, measures = read_per_query(run.folder / "per_query.parquet")
    assert result.evaluation.queries == len(rows) == values.shape[0] == 18
    assert f"{HUMAN[2].id}#2" in rows, "a repeated judgment is a row"
    assert measures == ["R@1 (row)", "R@5 (row)", "R@10 (row)", "nDCG@10 (row)"]
    assert set(result.references) == {"gold copies first", "all relevant first"}
    gold = result.references["gold copies first"]
    assert all(result.measures[measure].mean <= gold[measure] for measure in measures)
    assert sum(group.queries for group in result.breakdowns["query_type"].values()) == 18
    bench("leaderboard")
    figure = f"{gold['nDCG@10 (row)'] * 100:.2f}"
    shown = [
        outcome.out,
        bench("results", "show", result.run_id).out,
        bench("evaluate", run.folder / "run.trec.gz", "--task", "multivent/clamr").out,
        (tmp_path / "leaderboard.md").read_text(),
    ]
    for text in shown:
        assert "gold copies first" in text
        assert "all relevant first" in text
        assert figure in text
        assert "18 rows" in text or "18 evaluated" in text
        assert f"{result.measures['nDCG@10 (row)'].mean * 100:.2f} [" in text.replace("*", "")


def test_a_query_without_documents_counts_nothing_in_any_row(
    bench: Command, store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps({HUMAN[0].id: {"v00": 1.0}}))
    outcome = bench("evaluate", run, "--task", "multivent/clamr")
    assert outcome.status == 0, outcome.err
    assert "17 rows have no documents in the run" in outcome.out


def test_limited_rows_keep_all_candidates(bench: Command, store: Path, tmp_path: Path) -> None:
    command = ("run", "--task", "multivent/clamr", "--retriever", "bm25-text")
    bench(*command)
    bench(*command, "--limit", "3")
    whole, part = sorted(
        ResultsStore(tmp_path / "results").runs(), key=lambda run: -run.result.evaluation.queries
    )
    some_ids, some, _ = read_per_query(part.folder / "per_query.parquet")
    all_ids, every, _ = read_per_query(whole.folder / "per_query.parquet")
    assert some_ids == all_ids[: len(some_ids)]
    assert len(some_ids) == 4
    assert (some == every[: len(some)]).all()


# --- training data -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_data_share_nothing_with_what_is_evaluated(store: Path, variant: str) -> None:
    split = load(f"multivent{variant}", "train")
    assert [query.id for query in split.queries] == ["synthetic-train-0", "synthetic-train-4"]
    assert split.qrels == {"synthetic-train-0": {"v12": 1}, "synthetic-train-4": {"v15": 1}}
    assert ids(split) == ["v12", "v15"]
    for name in ("", "/synthetic", "/official"):
        assert shared(split, load(f"multivent{name}")) == Shared()


def test_validation_holds_no_judged_video(store: Path) -> None:
    split = load("multivent", "validation")
    assert ids(split) == ["v14", "v16"]
    assert not relevant_documents(split.qrels) & relevant_documents(HUMAN_QRELS)
    assert len(load("multivent/synthetic", "validation").queries) == 3


def test_what_is_shared_is_counted(bench: Command, store: Path) -> None:
    out = bench("data", "stats", "multivent").out
    lines = table_lines(out)
    assert ["synthetic-train and human queries", "1", "1"] in lines
    assert ["synthetic-train and synthetic-validation", "1", "1"] in lines
    assert ["synthetic-validation and human queries", "1", "0"] in lines
    assert ["of these, with the text of an earlier one", "1"] in lines
    assert ["judgments", "18"] in lines
    assert ["of these, repeating another", "1"] in lines
    assert ["distinct videos named in judgments", "11"] in lines
    assert ["of these, with many relevant", "1"] in lines


TEXTS = st.sampled_from(["a b", "A  B!", "c", "ｃ", "Straße", "STRASSE", "!!", "??", "д"])
ROWS = st.lists(st.tuples(TEXTS, st.lists(st.sampled_from("uvwxyz"), unique=True, max_size=3)))


def split_of(rows: list[tuple[str, list[str]]], prefix: str) -> Split:
    queries = [Query(f"{prefix}{n}", text) for n, (text, _) in enumerate(rows)]
    qrels = {query.id: dict.fromkeys(row[1], 1) for query, row in zip(queries, rows, strict=True)}
    return Split.of("any", [Document(d) for d in "uvwxyz"], queries, qrels)


@given(ROWS, ROWS.filter(lambda rows: any(documents for _, documents in rows)))
def test_without_what_is_shared_nothing_is_shared(
    train_rows: list[tuple[str, list[str]]], test_rows: list[tuple[str, list[str]]]
) -> None:
    train_split, test_split = split_of(train_rows, "s"), split_of(test_rows, "t")
    found = shared(train_split, test_split)
    queries, qrels = without(train_split.queries, train_split.qrels, found)
    documents = [Document(d) for d in "uvwxyz"]
    assert shared(Split.of("clean", documents, queries, qrels), test_split) == Shared()
    # Nothing else goes: every dropped query had a shared text, or only shared documents.
    test_texts = {normalised(query.text) for query in test_split.queries}
    for query in [query for query in train_split.queries if query not in queries]:
        left = set(train_split.qrels[query.id]) - relevant_documents(test_split.qrels)
        assert normalised(query.text) in test_texts or not left


@given(st.text())
def test_a_text_is_the_same_in_any_letter_case_and_form(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(f"  {text} \n") == normalised(text)
    assert normalised(unicodedata.normalize("NFKC", text)) == normalised(text)


def test_of_a_split_without_judgments_every_document_is_held_out() -> None:
    hidden = Split.of("test", [Document("u")], [Query("t0", "other")], {})
    assert shared(split_of([("a", ["u"]), ("b", ["v"])], "s"), hidden).documents == {"u"}


# --- what is not there ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "split", "word"),
    [
        ("multivent", "test", "judgments.jsonl"),
        ("multivent/pool", "test", "judgments.jsonl"),
        ("multivent/clamr", "test", "judgments.jsonl"),
        ("multivent/synthetic", "test", "synthetic_validation"),
        ("multivent", "train", "synthetic training"),
        ("multivent", "validation", "synthetic_validation"),
    ],
)
def test_a_store_without_the_files_says_which(
    bench: Command, tmp_path: Path, address: str, split: str, word: str
) -> None:
    prepared(tmp_path, official(GRADED))
    command = ("run", "--task", address, "--retriever", "random", "--split", split)
    bench(*command).fails("has no split", word, "data prepare multivent")


def test_a_store_without_the_test_set(bench: Command, tmp_path: Path) -> None:
    prepared(tmp_path, train)
    command = ("run", "--task", "multivent/official", "--retriever", "random")
    bench(*command).fails("'test'", "multivent_2_test_queries.csv")
    assert bench("data", "stats", "multivent").status == 0
    assert "shared by" not in bench("data", "stats", "multivent").out


def test_names_that_are_not_there(bench: Command, store: Path) -> None:
    run = ("run", "--retriever", "random", "--task")
    bench(*run, "multivent/offical").fails("'multivent/official'")
    bench(*run, "multivent", "--split", "tset").fails("no split 'tset'", "Did you mean 'test'")


def test_nothing_prepared(bench: Command) -> None:
    for variant in VARIANTS:
        command = ("run", "--task", f"multivent{variant}", "--retriever", "random")
        bench(*command).fails("data prepare multivent --source DIR", "multivent/sample")


def test_no_judgments_where_there_must_be_some(tmp_path: Path, bench: Command) -> None:
    """Only the official test set may lack judgments: elsewhere the source is broken."""
    prepared(tmp_path, lambda w: w.write_split("train", map(video, range(3)), HUMAN, {}))
    for address in ("multivent/pool", "multivent", "multivent/clamr"):
        bench("run", "--task", address, "--retriever", "random").fails(
            "no judgments", "multivent_2_train_judgments.jsonl"
        )
    assert bench("data", "stats", "multivent").status == 0
    assert saved(tmp_path) == {}


def test_errors_are_the_harness_errors(store: Path) -> None:
    with pytest.raises(ClamrBenchError, match="no split 'dev'"):
        load("multivent", "dev")


# --- the official layout ------------------------------------------------------------------------


def test_the_variants_run_on_files_in_the_official_layout(bench: Command, tmp_path: Path) -> None:
    """The generated sample has the release's form: queries, judgments, speech, screen text."""
    sizes = ("--set", "multivent/sample.test_videos=12", "--set", "multivent/sample.train_videos=8")
    assert bench("data", "prepare", "multivent/sample", *sizes).status == 0
    [source] = (tmp_path / "data/multivent").glob("sample-*.source")
    rows = {"train_000001_nowhere": {"query": "a train", "query_type": "speech"}}
    first = json.loads((source / "multivent_2_train_judgments.jsonl").read_text().split("\n")[0])
    rows[f"train_000001_{first['doc_id']}"] = {"query": "some words", "query_type": "video"}
    (source / "synthetic_validation_queries.json").write_text(json.dumps(rows))
    outcome = bench("data", "prepare", "multivent", "--source", source)
    assert outcome.status == 0, outcome.err
    for variant in VARIANTS:
        outcome = bench("run", "--task", f"multivent{variant}", "--retriever", "bm25-text")
        assert outcome.status == 0, outcome.err
    results = saved(tmp_path)
    assert results["multivent"].measures["nDCG@10"].mean > 0.2
    assert results["multivent"].data.coverage.documents == 8
    assert results["multivent/synthetic"].evaluation.queries == 1
    assert results["multivent/official"].data.coverage.documents == 12
    ideal = results["multivent/clamr"].references["all relevant first"]["nDCG@10 (row)"]
    # Each of the 8 videos answers dozens of queries: copies upon copies.
    assert 0 < results["multivent/clamr"].measures["nDCG@10 (row)"].mean < ideal < 0.5


# --- the real queries ----------------------------------------------------------------------------


@pytest.mark.realdata
def test_public_training_and_evaluation_queries_share_nothing(real_data: Path) -> None:
    from tests.test_clamr_protocol import real

    queries, qrels = real(real_data)
    path = real_data / "clamr/multivent_synthetic_validation_queries.json"
    rows = [
        (row["query"], [name.split("_", 2)[2]])
        for name, row in json.loads(path.read_text(encoding="utf-8")).items()
    ]
    assert len(rows) == 1000
    held_out = Split.of("test", [], queries, qrels)
    assert shared(split_of(rows, "s"), held_out) == Shared()
    assert len(relevant_documents(qrels)) == 417
    stolen = [
        *rows,
        (queries[0].text.upper(), ["new"]),
        ("new", [next(iter(qrels[queries[0].id]))]),
    ]
    found = shared(split_of(stolen, "s"), held_out)
    assert (len(found.documents), found.queries) == (1, frozenset({"s1000"}))


@pytest.mark.realdata
def test_statistics_and_figures_of_the_real_files(
    bench: Command, real_data: Path, tmp_path: Path
) -> None:
    """From the public files through the commands; the documents have no data, and stay."""
    sources = ("--source", real_data / "multivent", "--source", real_data / "clamr")
    outcome = bench("data", "prepare", "multivent", *sources)
    assert outcome.status == 0, outcome.err
    lines = table_lines(bench("data", "stats", "multivent").out)
    for line in (
        ["queries", "1,361"],
        ["of these, with one relevant", "1,343"],
        ["of these, with few relevant", "10"],
        ["of these, with many relevant", "8"],
        ["of these, with the text of an earlier one", "12"],
        ["judgments", "1,520"],
        ["of these, repeating another", "2"],
        ["distinct videos named in judgments", "417"],
        ["queries by query_type", "base 404, description 358, speech 322, ocr 277"],
        ["queries by language",
         "korean 326, chinese 283, russian 268, english 266, arabic 218"],
        ["queries by label", "description 405, speech 371, ocr 119, video 105"],
        ["queries by target", "description 405, asr 371, ocr 119"],
        ["synthetic-validation and human queries", "0", "0"],
    ):  # fmt: skip
        assert line in lines
    lines = table_lines(bench("data", "stats", "multivent/clamr").out)
    few = "base rows of queries with up to 10 relevant videos"
    for line in (
        ["gold copies first: all rows", "1,520", "27.43", "93.62", "99.61", "64.81"],
        ["all relevant first: all rows", "1,520", "26.28", "88.23", "90.22", "60.29"],
        ["all relevant first: base rows", "558", "23.31", "71.98", "73.64", "50.35"],
        [f"all relevant first: {few}", "406", "31.84", "97.95", "99.26", "68.31"],
    ):
        assert line in lines
    split = load("multivent")
    assert len(ids(split)) == len(split.documents) == 417
    assert ids(load("multivent/clamr")) == ids(split)
    assert len(load("multivent/pool").documents) == 108_432
    assert len(load("multivent/synthetic").documents) == 1000
    perfect = tmp_path / "perfect.json"
    perfect.write_text(json.dumps(split.qrels))
    whole = bench("evaluate", perfect, "--task", "multivent").out
    assert "1,361 queries" in whole
    assert "100.00" in whole
    assert "99.72" in whole, "R@10: the eight queries have 19 relevant videos"
    rows = bench("evaluate", perfect, "--task", "multivent/clamr").out
    assert "1,520 rows" in rows
    assert ["all relevant first", "26.28", "88.23", "90.22", "60.29"] in table_lines(rows)
    assert "60.29 [" in rows
