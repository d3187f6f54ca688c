"""The pages: what they hold, that figures add up, that nothing of the data is markup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reporting.html.choice import choose
from harness.reporting.html.explained import adding_up
from harness.reporting.html.pictures import Picture
from harness.reporting.html.places import MOST_FRAMES, lane_of, strip_of, text_of
from harness.results import ResultsStore, SavedRun
from harness.runfile import read_ranking
from harness.types import Document, Modality, Query
from tests.conftest import Command
from tests.report_cases import Page, folders, page, small_run
from tests.test_explain import PLUGIN, QUERY, ran
from tests.test_multivent_tasks import prepared

NAN = float("nan")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SavedRun]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        folders(patch, folder)
        yield small_run(folder)


@pytest.fixture
def saved(made: SavedRun, monkeypatch: pytest.MonkeyPatch) -> SavedRun:
    folders(monkeypatch, made.folder.parents[5])
    return made


def written(bench: Command, run: SavedRun, target: Path, *options: str) -> Page:
    outcome = bench("report", run.folder, "--to", target, *options)
    assert outcome.status == 0, outcome.err
    assert str(target) in outcome.out
    return page(target)


def sums(found: Page) -> list[tuple[float, float]]:
    """Of each explanation: the score, and the sum of its exact parts."""
    pairs: list[tuple[float, float]] = []
    for _, attributes in found.tags:
        if "data-score" in attributes:
            pairs.append((float(attributes["data-score"] or "nan"), 0.0))
        elif "data-part" in attributes:
            score, total = pairs[-1]
            pairs[-1] = score, total + float(attributes["data-part"] or "nan")
    return pairs


def test_a_report_of_a_run(bench: Command, saved: SavedRun, tmp_path: Path) -> None:
    found = written(bench, saved, tmp_path / "r.html", "--queries", "7")
    result = saved.result
    for fact in (
        result.task.licence,
        result.fingerprint,
        result.data.fingerprint,
        result.retriever.fingerprint,
        result.environment.platform,
        "This page holds content of the dataset",
        "7 of",
        "bm25-text",
    ):
        assert fact in found.words, fact
    for measure, estimate in result.measures.items():
        assert f"{measure} {estimate.mean * 100:.2f}" in found.words
    data = found.data
    ranking = read_ranking(saved.folder / "run.trec.gz")
    assert len(data["queries"]) == result.evaluation.queries
    why = [query["why"] for query in data["queries"] if "why" in query]
    assert {word: why.count(word) for word in set(why)} == {"worst": 2, "typical": 3, "best": 2}
    for query in data["queries"]:
        rows = query["documents"]
        ranked = ranking[query["id"]]
        assert [data["documents"][row[0]]["id"] for row in rows[:5]] == list(ranked.documents[:5])
        assert [row[2] for row in rows[:5]] == [f"{s:.4f}" for s in ranked.scores[:5]]
        assert sum(row[3] > 0 for row in rows) == query["relevant"] - query["unlisted"] == 1
    detailed = [one for one in data["documents"] if "texts" in one]
    assert all(one["pictures"][0].startswith("data:image/jpeg;base64,") for one in detailed)


def test_parts_add_up_to_the_score(bench: Command, saved: SavedRun, tmp_path: Path) -> None:
    found = written(bench, saved, tmp_path / "r.html", "--queries", "all")
    pairs = sums(found)
    assert len(pairs) >= saved.result.evaluation.queries
    ranking = read_ranking(saved.folder / "run.trec.gz")
    tops = {round(float(row.scores[0]), 5) for row in ranking.values()}
    for score, total in pairs:
        assert total == pytest.approx(score, rel=1e-6)
    assert tops <= {round(score, 5) for score, _ in pairs}, "scores are those of the run"


@given(st.lists(st.floats(-1e4, 1e4), max_size=40), st.integers(-1, 1))
def test_rounded_parts_add_up(values: list[float], off: int) -> None:
    total = round(sum(values)) + off
    rounded = adding_up(values, total)
    if values:
        assert sum(rounded) == total
        slack = 1 + 2 / len(values)
        assert all(abs(a - b) <= slack for a, b in zip(values, rounded, strict=True))


def test_what_is_lit_is_where_the_answer_lies(
    bench: Command, saved: SavedRun, tmp_path: Path
) -> None:
    found = written(bench, saved, tmp_path / "r.html", "--queries", "all")
    boxes = {a["style"] for a in found.with_attribute("style") if a.get("class") == "box"}
    assert "left:0.00%;top:0.00%;width:50.00%;height:50.00%" in boxes
    assert "left:0.00%;top:0.00%;width:100.00%;height:100.00%" in boxes, "a frame as a whole"
    assert any(a.get("class") == "stretch" for a in found.with_attribute("style"))
    assert any(tag == "polygon" for tag, _ in found.tags), "the outline of the sound"
    assert "stand for no place in it" in found.words
    marks = [tag for tag, a in found.tags if tag == "mark" and a.get("data-tokens")]
    assert marks


def test_without_media_and_text_nothing_of_the_dataset_is_left(
    bench: Command, saved: SavedRun, tmp_path: Path
) -> None:
    plain = written(bench, saved, tmp_path / "r.html", "--queries", "all")
    bare = written(bench, saved, tmp_path / "b.html", "--queries", "all", "--no-media", "--no-text")
    assert "data:image" in plain.text
    assert "data:image" not in bare.text
    assert "no pictures or texts of the dataset" in bare.words
    texts = {query["text"] for query in plain.data["queries"]}
    texts |= {text for one in plain.data["documents"] for text in one["texts"].values()}
    texts |= {one["title"] for one in plain.data["documents"]}
    assert len(texts) > 20
    assert [text for text in texts if text in bare.text] == []
    assert not any(tag == "mark" for tag, _ in bare.tags)
    assert sums(bare) == sums(plain)
    assert any(a.get("class") == "box" for a in bare.with_attribute("style")), "places stay"
    no_media = written(bench, saved, tmp_path / "m.html", "--no-media")
    assert "data:image" not in no_media.text
    assert "queries and texts of" in no_media.words


def test_nothing_is_loaded_and_only_the_pages_own_script_runs(
    bench: Command, saved: SavedRun, tmp_path: Path
) -> None:
    bench("leaderboard", "--html")
    bench("explain", saved.folder, "--query", first_query(saved), "--html", tmp_path / "e.html")
    written(bench, saved, tmp_path / "r.html")
    table = saved.folder.parents[5] / "leaderboard.html"
    for path in (tmp_path / "r.html", tmp_path / "e.html", table):
        found = page(path)
        assert found.loads == []
        kinds = [a.get("type") for tag, a in found.tags if tag == "script"]
        assert kinds in ([None], ["application/json", None])
        assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]
        policies = [a["content"] for _, a in found.tags if a.get("http-equiv")]
        assert len(policies) == 1
        assert "default-src 'none'" in (policies[0] or "")
        assert "script-src 'sha256-" in (policies[0] or "")


def first_query(run: SavedRun) -> str:
    return next(iter(read_ranking(run.folder / "run.trec.gz")))


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_hostile_text_stays_text(bench: Command, tmp_path: Path) -> None:
    id_ = "v<script>alert(3)</script>"
    documents = [
        Document(id_, {Modality.OCR: HOSTILE, Modality.ASR: f"film {HOSTILE}"}, title=HOSTILE),
        Document("plain", {Modality.ASR: "another film"}),
    ]
    queries = [Query("q'\"&1", f"film {HOSTILE}", attributes={"query_type": HOSTILE})]
    prepared(
        tmp_path,
        lambda writer: writer.write_split("train", documents, queries, {queries[0].id: {id_: 1}}),
    )
    path = tmp_path / "mixing.py"
    path.write_text(PLUGIN.replace("READS = frozenset({", "READS = frozenset({Modality.OCR, "))
    outcome = bench("run", "--task", "multivent", "--retriever", f"{path}:Mixing")
    assert outcome.status == 0, outcome.err
    [run] = ResultsStore(tmp_path / "results").runs()
    found = written(bench, run, tmp_path / "r.html")
    bench(
        "explain", run.folder, "--query", queries[0].id, "--document", id_,
        "--html", tmp_path / "e.html",
    )  # fmt: skip
    explained = page(tmp_path / "e.html")
    for one in (found, explained):
        scripts = [tag for tag, _ in one.tags if tag == "script"]
        assert len(scripts) == 1 + (one is found), "only our own"
        assert [a for _, a in one.tags if "onerror" in a] == []
        assert "alert(1)" in one.words, "it is shown, as text"
        assert id_ in one.words
    assert found.data["queries"][0]["text"] == queries[0].text
    assert found.data["documents"][0]["id"] == id_
    assert "<script>alert" not in found.text
    assert "<script>alert" not in explained.text


def test_the_page_says_why_there_are_no_explanations(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    found = written(bench, saved, tmp_path / "gone.html")
    assert "No explanations: the index of run" in found.words
    assert sums(found) == []
    assert not list((tmp_path / "cache").rglob("shard-*")), "nothing is encoded for it"
    assert any(query["text"] for query in found.data["queries"])
    bench("run", "--task", "multivent", "--retriever", "bm25-asr")
    plain = next(r for r in ResultsStore(tmp_path / "results").runs() if "bm25" in str(r.folder))
    assert (
        "'bm25-asr' cannot explain its scores" in written(bench, plain, tmp_path / "p.html").words
    )
    bench("fuse", saved.folder, plain.folder)
    fused = next(
        r for r in ResultsStore(tmp_path / "results").runs() if r.result.retriever.name == "fuse"
    )
    assert "fuses saved runs" in written(bench, fused, tmp_path / "f.html").words


def test_a_run_whose_data_are_gone_keeps_its_figures(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    shutil.rmtree(tmp_path / "data")
    found = written(bench, saved, tmp_path / "r.html")
    assert "Without the data there are no texts" in found.words
    assert "nDCG@10" in found.words
    assert "holds ids, counts and scores" in found.words
    assert len(found.data["queries"]) == len(read_ranking(saved.folder / "run.trec.gz"))


def test_other_words_than_a_number_are_refused(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path)
    bench("report", saved.folder, "--queries", "some").fails("--queries some", "or all")
    none = written(bench, saved, tmp_path / "r.html", "--queries", "0")
    assert not any("why" in query for query in none.data["queries"])


def test_explain_as_a_page_says_what_the_terminal_says(bench: Command, tmp_path: Path) -> None:
    saved = ran(bench, tmp_path, 0.25)
    command = ("explain", saved.folder, "--query", QUERY, "--without", "asr")
    terminal = bench(*command).out
    target = tmp_path / "e.html"
    outcome = bench(*command, "--html", target)
    assert outcome.out.startswith(terminal.rstrip()), "the terminal shows what it showed"
    found = page(target)
    cells = [
        cell.strip()
        for line in terminal.splitlines()
        if line.startswith("│")
        for cell in line.strip("│ ").split("│")
    ]
    assert [cell for cell in cells if " ".join(cell.split()) not in found.words] == []
    [(score, total)] = sums(found)
    assert total == pytest.approx(score, rel=1e-6)


# --- where answers lie ------------------------------------------------------------------------


def span(*values: float) -> list[float]:
    return [*values, *[NAN] * (7 - len(values))]


TEXTS = st.text(st.characters(codec="utf-8"), max_size=1500)


@given(TEXTS, st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 30)), max_size=6))
def test_a_text_is_cut_without_loss(text: str, places: list[tuple[int, int]]) -> None:
    answers = [(n, span(start, start + more)) for n, (start, more) in enumerate(places, 1)]
    cut = text_of("asr", text, answers)
    length = sum(len(piece.text) + piece.left_out for piece in cut.words) + cut.left_out
    assert length == len(text)
    if len(text) <= 600:
        assert "".join(piece.text for piece in cut.words) == text
    at = 0
    for piece in cut.words:
        at += piece.left_out
        assert text[at : at + len(piece.text)] == piece.text
        held = {
            n
            for n, (start, more) in enumerate(places, 1)
            if start <= at and at + len(piece.text) <= min(start + more, len(text))
        }
        assert set(piece.tokens) == held if piece.text else True
        at += len(piece.text)


def test_frames_are_found_by_number_and_else_by_time() -> None:
    pictures = [Picture("data:", n, n / 10) for n in range(0, 100, 2)]
    answers = [
        (1, span(0.4, 0.4, 0, 0, 0.5, 0.5, 4)),
        (2, span(5.13, 5.3, 0, 0, 1, 1, 51)),
        (3, None),
        (4, span(*[NAN] * 7)),
    ]
    strip = strip_of("video", pictures, answers)
    assert len(strip.frames) == MOST_FRAMES
    lit = {frame.picture.number: frame.boxes[0].tokens for frame in strip.frames if frame.boxes}
    assert lit == {4: (1,), 52: (2,)}
    assert strip.whole == (3, 4)
    bare = strip_of("video", [], answers)
    assert [frame.caption for frame in bare.frames] == ["0.4 s", "5.1 s"]


def test_stretches_lie_within_the_sound() -> None:
    lane = lane_of("audio", [0.5, 1.0], 2.0, [(1, span(0.5, 1.0)), (2, span(0.5, 1.0)), (3, None)])
    [stretch] = lane.stretches
    assert (stretch.left, stretch.width, stretch.tokens) == (25, 25, (1, 2))
    assert lane.whole == (3,)
    assert lane_of("audio", [], 0.0, [(1, span(3.0, 4.0))]).seconds == 4.0


@given(st.integers(0, 40), st.dictionaries(st.text(max_size=3), st.sampled_from([0.0, 0.5, 1.0])))
def test_the_worst_and_the_best_are_among_the_chosen(count: int, good: dict[str, float]) -> None:
    ids = list(good)
    chosen = choose(ids, good, count)
    assert len(chosen) == min(count, len(ids))
    assert choose(ids[::-1], good, count) == chosen, "whatever the order"
    if 3 <= count < len(ids):
        assert min(good.values()) in {good[id_] for id_, why in chosen.items() if why == "worst"}
        assert max(good.values()) in {good[id_] for id_, why in chosen.items() if why == "best"}
        mean = sum(good.values()) / len(good)
        far = [abs(good[id_] - mean) for id_, why in chosen.items() if why == "typical"]
        left = [abs(good[id_] - mean) for id_ in ids if id_ not in chosen]
        assert max(far) <= min(left)


# --- the leaderboard --------------------------------------------------------------------------


def test_the_leaderboard_as_a_page(bench: Command, v1: Path, tmp_path: Path) -> None:
    bench(
        "run", "--task", "multivent/v1", "--retriever", "bm25-description", "--retriever", "random"
    )
    outcome = bench("leaderboard", "--html")
    assert outcome.status == 0, outcome.err
    found = page(tmp_path / "leaderboard.html")
    text = (tmp_path / "leaderboard.md").read_text()
    for run in ResultsStore(tmp_path / "results").runs():
        for estimate in run.result.measures.values():
            figure = f"{estimate.mean * 100:.2f}"
            assert figure in found.words
            assert figure in text
    assert len([a for tag, a in found.tags if a.get("class") == "sort"]) == 8
    path = tmp_path / "results/tables/multivent@1/v1.json"
    values = json.loads(path.read_text())
    values["tables"].append(values["tables"][0] | {"superseded": True, "title": "An old one"})
    path.write_text(json.dumps(values))
    from harness.reporting.html.leaderboard import leaderboard
    from harness.reporting.tables import read_tables

    old = Page(leaderboard(read_tables(tmp_path / "results")))
    assert old.words.index("Superseded: 1 tables") < old.words.index("An old one")


def test_pages_take_jinja2(bench: Command, v1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from harness.reporting.html import page as pages

    bench("run", "--task", "multivent/v1", "--retriever", "bm25-description")
    pages._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    bench("leaderboard", "--html").fails("jinja2", "clamr-bench[report]")
    assert bench("leaderboard").status == 0, "the text needs none"
