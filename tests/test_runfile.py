"""Run files: round trip, formats found by content, and one clear message for each fault."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness.runfile as module
from harness.errors import RankingError, StorageError
from harness.runfile import read_ranking, write_ranking
from harness.types import RankedList, Ranking

# Ids of every script; what separates columns, and what UTF-8 cannot say, is tested apart.
ID = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8).filter(
    lambda name: not name.startswith("{")
)
SCORE = st.floats(allow_nan=False, allow_infinity=False)
RANKING = st.dictionaries(ID, st.dictionaries(ID, SCORE, min_size=1, max_size=6), min_size=1)
LINES = "q1 Q0 a 1 2.5 x\nq1 Q0 b 2 1.5 x\nq2 Q0 a 1 0.5 x\n"
ROWS = {"q1": {"a": 2.5, "b": 1.5}, "q2": {"a": 0.5}}


def rows(ranking: Ranking) -> dict[str, list[tuple[str, float]]]:
    return {
        query: list(zip(ranked.documents, ranked.scores.tolist(), strict=True))
        for query, ranked in ranking.items()
    }


def given_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(RANKING, st.sampled_from(["run.trec", "run.trec.gz"]))
def test_what_is_written_is_read_back_exactly(
    tmp_path: Path, scores: dict[str, dict[str, float]], name: str
) -> None:
    ranking = Ranking.from_scores(scores)
    write_ranking(ranking, tmp_path / name, "ours")
    assert rows(read_ranking(tmp_path / name)) == rows(ranking)


def test_lines_of_a_written_run(tmp_path: Path) -> None:
    scores = {"q2": {"a": 1.0, "b": 1.0}, "q1": {"视频": 0.1, "c": 1e-9}, "none": {}}
    write_ranking(Ranking.from_scores(scores), tmp_path / "run.txt", "bm25 text")
    assert (tmp_path / "run.txt").read_text(encoding="utf-8").splitlines() == [
        "q2 Q0 b 1 1.0 bm25_text",
        "q2 Q0 a 2 1.0 bm25_text",
        "q1 Q0 视频 1 0.1 bm25_text",
        "q1 Q0 c 2 1e-09 bm25_text",
    ]


def test_the_same_ranking_gives_the_same_bytes(tmp_path: Path) -> None:
    ranking = Ranking.from_scores(ROWS)
    for name in ("one.gz", "two.gz"):
        write_ranking(ranking, tmp_path / name, "x")
    content = (tmp_path / "one.gz").read_bytes()
    assert content == (tmp_path / "two.gz").read_bytes()
    assert content[4:8] == bytes(4)  # the time in the gzip header
    assert gzip.decompress(content).decode() == LINES


def test_lines_in_any_order_and_any_white_space_are_read(tmp_path: Path) -> None:
    text = "q2\tQ0\ta\t1\t.5\tx\r\n\n  q1 Q0 b  9 1.5e0 x\nq2 Q0 c 1 -1 x \n q1 Q0 a 9 +2.50 x"
    ranking = read_ranking(given_file(tmp_path / "run", text))
    assert rows(ranking) == {"q2": [("a", 0.5), ("c", -1.0)], "q1": [("a", 2.5), ("b", 1.5)]}


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = given_file(tmp_path / "run", LINES * 1)
    expected = rows(read_ranking(path))
    monkeypatch.setattr(module, "_BLOCK", 5)
    assert rows(read_ranking(path)) == expected
    given_file(path, LINES + "q2 Q0 z\n")
    with pytest.raises(RankingError, match=r"line 4: 3 columns"):
        read_ranking(path)


@pytest.mark.parametrize("name", ["run.trec", "run.json", "run.gz", "no suffix"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("content", [LINES, json.dumps(ROWS), "\n " + json.dumps(ROWS, indent=1)])
def test_the_format_is_found_by_content_not_by_name(
    tmp_path: Path, name: str, zipped: bool, content: str
) -> None:
    data = gzip.compress(content.encode()) if zipped else content.encode()
    ranking = read_ranking(given_file(tmp_path / name, data))
    assert rows(ranking) == rows(Ranking.from_scores(ROWS))


def test_ids_with_unicode_spaces_of_other_tools_are_read_whole(tmp_path: Path) -> None:
    path = given_file(tmp_path / "run", "q Q0 a\u00a0b 1 1.0 x\n")
    assert rows(read_ranking(path)) == {"q": [("a\u00a0b", 1.0)]}


TREC_FAULTS = {
    "columns": ("q1 Q0 a 1 2.5 x\nq1 a 1\n", "line 2: 3 columns, not 6"),
    "columns that balance": ("q1 Q0 a 1 2.5\nq1 Q0 b 2 1.5 x y\n", "line 1: 5 columns"),
    "a space in an id": ("q1 Q0 a b 1 2.5 x\n", "line 1: 7 columns"),
    "qrels": ("q1 0 a 1\n", "line 1: 4 columns"),
    "prose": ("Hello.\n", "line 1: 1 column, not 6"),
    "NaN": ("q1 Q0 a 1 nan x\n", "line 1: score 'nan' of document 'a'.*finite"),
    "infinite": ("\nq1 Q0 a 1 2 x\nq1 Q0 b 1 -inf x\n", "line 3: score '-inf' of document 'b'"),
    "overflow": ("q1 Q0 a 1 1e999 x\n", "line 1: score '1e999'.*finite"),
    "no number": ("q1 Q0 a 1 2.5 x\nq1 Q0 b 2 high x\n", "line 2: score 'high' is not a number"),
    "repeated": (
        LINES + "\nq1 Q0 a 3 0.1 x\n",
        r"line 5 lists document 'a' for query 'q1' again \(first on line 1\)",
    ),
    "not UTF-8": ("q1 Q0 a 1 2.5 x\nq1 Q0 é 2 1 x\n".encode("latin-1"), "line 2: .*not UTF-8"),
    "binary": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "is not a text file"),
    "binary without zeros": (bytes(range(128, 256)) * 3, "line 1: .*not UTF-8"),
    "empty": ("", "is empty"),
    "blank": (" \n\t\n" * 2_000, "is empty"),
}
JSON_FAULTS = {
    "array": ("[1, 2]", "line 1: 2 columns"),
    "list of rows": ('{"q1": ["a", "b"]}', "'q1' is not {document: score}"),
    "text score": ('{"q1": {"a": "2.5"}}', "'q1' is not {document: score}"),
    "true score": ('{"q1": {"a": true}}', "'q1' is not {document: score}"),
    "no score": ('{"q1": {"a": null}}', "'q1' is not {document: score}"),
    "one level": ('{"a": 2.5}', "'a' is not {document: score}"),
    "cut off": ('{"q1": {"a": 2.5', "is no JSON run"),
    "two documents": ('{"q1": {}}\n{"q2": {}}', "is no JSON run: Extra data"),
    "repeated": ('{"q1": {"a": 1, "b": 2, "a": 3}}', "'a' occurs twice"),
    "repeated query": ('{"q1": {}, "q1": {}}', "'q1' occurs twice"),
    "NaN": ('{"q1": {"a": 1, "b": NaN}}', "document 'b' has score nan"),
    "huge": ('{"q1": {"a": 1' + "0" * 400 + "}}", "is no JSON run"),
    "deep": ('{"a":' * 200_000, "is no JSON run"),
    "empty": ("{}", "is empty"),
    "not UTF-8": ('{"é": {}}'.encode("latin-1"), "is no JSON run"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [*TREC_FAULTS.values(), *JSON_FAULTS.values()],
    ids=[*TREC_FAULTS, *("JSON " + name for name in JSON_FAULTS)],
)
def test_a_fault_is_one_message_with_file_and_place(
    tmp_path: Path, content: str | bytes, message: str, zipped: bool
) -> None:
    path = given_file(tmp_path / "run", content)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(RankingError, match=message) as error:
        read_ranking(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [5, 40, -4, -1])
def test_a_truncated_gzip_is_named(tmp_path: Path, keep: int) -> None:
    random = np.random.default_rng(0).random((2, 500)).tolist()
    scores = {f"q{i}": {f"d{j}": score for j, score in enumerate(r)} for i, r in enumerate(random)}
    path = tmp_path / "run.gz"
    write_ranking(Ranking.from_scores(scores), path, "x")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RankingError, match=r"run\.gz is a damaged or cut off gzip file"):
        read_ranking(path)


def test_a_changed_byte_in_a_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.gz"
    write_ranking(Ranking.from_scores(ROWS), path, "x")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(RankingError, match="damaged or cut off gzip file"):
        read_ranking(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RankingError, match=r"nowhere\.trec cannot be read: No such file"):
        read_ranking(tmp_path / "nowhere.trec")
    with pytest.raises(RankingError, match="cannot be read: Is a directory"):
        read_ranking(tmp_path)


@pytest.mark.parametrize("name", ["two words", "tab\tbed", "line\nbreak", "", "a\u3000b", "\ud800"])
@pytest.mark.parametrize("kind", ["query", "document"])
def test_an_id_that_a_trec_run_cannot_hold_is_named(tmp_path: Path, name: str, kind: str) -> None:
    scores = {name: {"a": 1.0}} if kind == "query" else {"q": {"a": 2.0, name: 1.0}}
    with pytest.raises(RankingError, match=f"{kind} id .* cannot be written") as error:
        write_ranking(Ranking.from_scores(scores), tmp_path / "run.trec", "x")
    assert repr(name) in str(error.value)
    assert list(tmp_path.glob("*run.trec*")) == []


def test_a_query_id_that_would_be_read_as_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RankingError, match="is read as JSON"):
        write_ranking(Ranking.from_scores({"{q}": {"a": 1.0}}), tmp_path / "run.trec", "x")


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = given_file(tmp_path / "run.trec", LINES)
    many = {"q": {f"d{i}": float(i) for i in range(50)}, "q 2": {"a": 1.0}}
    with pytest.raises(RankingError):
        write_ranking(Ranking.from_scores(many), path, "x")
    assert path.read_text() == LINES
    assert list(tmp_path.glob(".run*")) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.trec").mkdir()
    with pytest.raises(StorageError, match=r"cannot write file .*run\.trec: a folder of that name"):
        write_ranking(Ranking({}), tmp_path / "run.trec", "x")


def test_documents_of_many_queries_share_their_ids(tmp_path: Path) -> None:
    ranking = read_ranking(given_file(tmp_path / "run", LINES))
    assert ranking["q1"].documents[0] is ranking["q2"].documents[0]


def test_float32_scores_survive(tmp_path: Path) -> None:
    scores = np.array([0.3, 0.1], dtype=np.float32).astype(np.float64)
    write_ranking(Ranking({"q": RankedList(["a", "b"], scores)}), tmp_path / "run", "x")
    assert read_ranking(tmp_path / "run")["q"].scores.tolist() == scores.tolist()
