"""MultiVENT 1.0: what is read, what is refused, and the counts of the real file."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.dataset import DatasetStore
from harness.errors import ClamrBenchError, DataError, NotPreparedError, UsageError
from harness.progress import Progress
from harness.registry import make_task
from harness.task import Split, Task
from harness.types import Modality
from tasks.multivent.v1 import COLUMNS, FILE, video_id

Row = dict[str, str]


def row(url: str, event: str = "big_flood", **values: str) -> Row:
    base = {
        "video_URL": url,
        "video_description": 'Вода, "много" воды,\nочень',
        "language": "russian",
        "event_category": "disasters",
        "event_name": event,
        "en_article_excerpt": f"An article on {event}.",
    }
    return dict.fromkeys(COLUMNS, "x") | base | values


ROWS = [
    row("http://youtube.com/watch?v=AAAAAAAAAAA"),
    row("https://www.youtube.com/watch?v=AAAAAAAAAAA"),
    row("http://twitter.com/i/status/1556640821054787588", language="english"),
    row("https://www.fontanka.ru/2022/11/19/71830379/", "chang’e_4", event_category="technology"),
    row("https://nabd.com/s/%D8%A7", "chang’e_4", event_category="technology"),
]
ROWS[4]["video_description"] = "  "


def write(folder: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def task(**settings: Any) -> Task:
    return make_task("multivent/v1", settings)


def load(source: Path, store: Path, **settings: Any) -> Split:
    if not store.exists():
        task().prepare([source], store, Progress())
    return task(**settings).load("test", store, Progress())


def test_rows_become_documents_queries_and_judgments(tmp_path: Path) -> None:
    split = load(write(tmp_path / "source", ROWS), tmp_path / "store")
    documents = {document.id: document for document in split.documents}
    assert list(documents) == ["AAAAAAAAAAA", "1556640821054787588", "71830379", "%D8%A7"]
    assert documents["AAAAAAAAAAA"].texts == {Modality.DESCRIPTION: 'Вода, "много" воды,\nочень'}
    assert documents["%D8%A7"].modalities == frozenset(), "a blank description is absent"
    assert documents["1556640821054787588"].attributes["language"] == "english"
    assert [(query.id, query.text) for query in split.queries] == [
        ("big_flood", "big flood"),
        ("chang’e_4", "chang’e 4"),
    ]
    assert dict(split.queries[1].attributes) == {"event_category": "technology"}
    assert split.qrels == {
        "big_flood": {"AAAAAAAAAAA": 1, "1556640821054787588": 1},
        "chang’e_4": {"71830379": 1, "%D8%A7": 1},
    }
    counts = DatasetStore(tmp_path / "store").manifest.counts
    assert counts == {
        "rows": 5,
        "videos": 4,
        "repeated_rows_merged": 1,
        "videos_without_description": 1,
        "events": 2,
        "events_without_excerpt": 0,
        "events_sharing_an_excerpt": 0,
    }


def test_one_store_serves_both_query_texts(tmp_path: Path) -> None:
    source = write(tmp_path / "source", ROWS)
    names = load(source, tmp_path / "store")
    excerpts = load(source, tmp_path / "store", query="excerpt")
    assert [query.text for query in excerpts.queries] == [
        "An article on big_flood.",
        "An article on chang’e_4.",
    ]
    assert [q.id for q in excerpts.queries] == [q.id for q in names.queries]
    assert excerpts.qrels == names.qrels
    assert all("excerpt" not in q.attributes for q in (*names.queries, *excerpts.queries))
    assert excerpts.fingerprint != names.fingerprint
    assert task().protocol.name == "v1"
    assert task(query="excerpt").protocol.name == "v1-excerpt"


class Notes(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_an_event_without_an_excerpt_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    rows = [*ROWS[:3], *(r | {"en_article_excerpt": " "} for r in ROWS[3:])]
    load(write(tmp_path / "source", rows), tmp_path / "store")
    assert DatasetStore(tmp_path / "store").manifest.counts["events_without_excerpt"] == 1
    notes = Notes()
    split = task(query="excerpt").load("test", tmp_path / "store", notes)
    assert [query.id for query in split.queries] == ["big_flood"]
    assert list(split.qrels) == ["big_flood"]
    assert "1 events without an English excerpt" in notes.said[0]
    assert len(load(tmp_path, tmp_path / "store").queries) == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://youtube.com/watch?v=t8lY-rjy7-Y", "t8lY-rjy7-Y"),
        ("https://www.youtube.com/watch?t=3&v=t8lY-rjy7-Y&list=x", "t8lY-rjy7-Y"),
        ("https://youtu.be/t8lY-rjy7-Y?t=10", "t8lY-rjy7-Y"),
        ("http://twitter.com/i/status/%E9%A6%99", "%E9%A6%99"),
        ("https://www.fontanka.ru/2022/71830379/?v=2", "71830379"),
        ("https://www.fontanka.ru/", None),
        ("not a url", None),
        ("http://[broken/x", None),
    ],
)
def test_document_ids_come_from_urls(url: str, expected: str | None) -> None:
    assert video_id(url) == expected


def changed(index: int, **values: str) -> list[Row]:
    return [r | values if number == index else r for number, r in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (changed(3, video_URL="https://x.org/"), ["line 9", "'https://x.org/'", "no video id"]),
        (changed(2, video_URL=" "), ["line 7", "video_URL is blank"]),
        (changed(4, event_name=" "), ["line 10", "event_name is blank"]),
        (changed(2, language="englisch"), ["line 7", "'englisch'", "Did you mean 'english'?"]),
        (
            changed(1, video_description="other"),
            ["line 4", "'AAAAAAAAAAA'", "description", "'other'"],
        ),
        (changed(1, event_name="other"), ["line 5", "'AAAAAAAAAAA'", "event", "'big_flood'"]),
        (changed(2, event_category="social"), ["line 7", "'big_flood'", "category", "'social'"]),
        ([], ["has no rows"]),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    tmp_path: Path, rows: list[Row], says: list[str]
) -> None:
    source = write(tmp_path / "source", rows)
    with pytest.raises(DataError) as caught:
        load(source, tmp_path / "store")
    for part in [*says, str(source / FILE)]:
        assert part in str(caught.value)
    assert not (tmp_path / "store").exists(), "nothing half-made is left"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column 'video_URL'"),
        (b"a,b\n1,2\n", "no column 'video_URL'"),
        (",".join(COLUMNS).encode() + b"\nonly,three,fields\n", "line 2: the row has not the 8"),
        (",".join(COLUMNS).encode() + b"\n" + b"x," * 8 + b"x\n", "line 2: the row has not the 8"),
        (",".join(COLUMNS).encode() + b'\n"never closed', "unexpected end of data"),
        (",".join(COLUMNS).encode() + b"\n\xff\xfe\n", "is not UTF-8"),
    ],
)
def test_files_of_another_form_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match=says):
        load(tmp_path, tmp_path / "store")


def test_a_renamed_column_is_guessed(tmp_path: Path) -> None:
    columns = tuple("video_url" if c == "video_URL" else c for c in COLUMNS)
    with pytest.raises(DataError, match=r"no column 'video_URL'.*Did you mean 'video_url'\?"):
        load(write(tmp_path, [], columns), tmp_path / "store")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    source = write(tmp_path / "source", ROWS)
    path = source / FILE
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load(source, tmp_path / "store").documents) == 4


def test_missing_data_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"multivent_base\.csv is missing: give with --source"):
        load(tmp_path, tmp_path / "store")
    with pytest.raises(NotPreparedError, match="data prepare multivent/v1 --source DIR"):
        task().load("test", None, Progress())
    with pytest.raises(ClamrBenchError, match="is not a folder"):
        task().prepare([tmp_path / "nowhere"], tmp_path / "store", Progress())
    with pytest.raises(UsageError, match="'event' or 'excerpt'"):
        task(query="title")


@pytest.mark.realdata
def test_counts_of_the_published_file(tmp_path: Path, real_data: Path) -> None:
    split = load(real_data / "multivent", tmp_path / "store")
    store = DatasetStore(tmp_path / "store")
    assert store.check() == []
    assert store.manifest.counts == {
        "rows": 2396,
        "videos": 2395,
        "repeated_rows_merged": 1,
        "videos_without_description": 0,
        "events": 260,
        "events_without_excerpt": 0,
        "events_sharing_an_excerpt": 2,
    }
    documents = {document.id: document for document in split.documents}
    languages = {"arabic": 449, "chinese": 484, "english": 496, "korean": 496, "russian": 470}
    assert Counter(d.attributes["language"] for d in documents.values()) == languages
    assert split.coverage.modalities == {"description": 2395}
    assert Counter(q.attributes["event_category"] for q in split.queries).total() == 260
    assert sum(map(len, split.qrels.values())) == 2395, "every video is of exactly one event"
    assert Counter(map(len, split.qrels.values())) == {
        10: 149, 9: 57, 8: 30, 7: 15, 6: 4, 5: 3, 4: 2,
    }  # fmt: skip
    of_event = {
        q: {documents[d].attributes["language"] for d in row} for q, row in split.qrels.items()
    }
    assert set(map(len, of_event.values())) == {1}, "every event's videos are in one language"
    excerpts = load(real_data / "multivent", tmp_path / "store", query="excerpt")
    assert len({q.text for q in excerpts.queries}) == 259
    assert all(not any(c.isspace() for c in d) for d in (*documents, *split.qrels))
