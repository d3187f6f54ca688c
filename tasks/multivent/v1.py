"""MultiVENT 1.0: find the videos of an event by its name, among videos in five languages.

Source: ``multivent_base.csv`` of the authors' repository, one row a video. Its 2,396 rows are 2,395
videos of 260 events; one video is listed twice, under two spellings of its URL. Every event's
videos are in one language (the columns of the file say so), while event names and article excerpts
are English: four fifths of the judgments are cross-lingual.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from harness.dataset import DatasetWriter
from harness.dataset.task import StoredTask
from harness.errors import DataError, did_you_mean
from harness.plugin import About
from harness.progress import Progress
from harness.settings import Settings
from harness.task import Protocol, Split
from harness.types import Document, Modality, Query
from harness.workspace import digest

FILE = "multivent_base.csv"
COLUMNS = (
    "video_URL",
    "video_description",
    "language",
    "event_category",
    "event_name",
    "article_url",
    "en_article_url",
    "en_article_excerpt",
)
LANGUAGES = ("arabic", "chinese", "english", "korean", "russian")

#: Query attribute that carries the excerpt in the store; `MultiVENT1.load` takes it away.
EXCERPT = "excerpt"

_REMEDY = (
    "compare the file with the published one (katesanders9/multiVENT, data/multivent_base.csv)"
)


class MultiVENT1Settings(Settings):
    """Settings of ``multivent/v1``."""

    query: Literal["event", "excerpt"] = Field(
        "event",
        description="query text: the event's name, or the excerpt of its English article (which "
        "is a protocol of its own, v1-excerpt)",
    )


class MultiVENT1(StoredTask):
    """The task ``multivent/v1``.

    One store serves both settings of `query`: it holds the event's name as the query's text, and
    the excerpt beside it.
    """

    about = About(
        title="MultiVENT 1.0: videos of news events in five languages, by event",
        version="1",
        licence="none stated with the file (katesanders9/multiVENT); the videos are their owners'",
        citation=(
            "Kate Sanders, David Etter, Reno Kriz, Benjamin Van Durme. MultiVENT: Multilingual "
            "Videos of Events with Aligned Natural Text. NeurIPS 2023 Datasets and Benchmarks. "
            "arXiv:2307.03153"
        ),
        url="https://github.com/katesanders9/multiVENT",
    )
    Settings = MultiVENT1Settings
    settings: MultiVENT1Settings

    @property
    def protocol(self) -> Protocol:
        """One pool of all videos; every video of the event is relevant."""
        excerpt = self.settings.query == "excerpt"
        return Protocol(
            name="v1-excerpt" if excerpt else "v1",
            candidates="all videos of the file, in every language, each once",
            relevance="the event's videos in any language, grade 1",
            query_breakdowns=("event_category",),
            document_breakdowns=("language",),
        )

    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split, its query texts as the setting `query` says (see `Task.load`).

        With ``query=excerpt`` an event without an excerpt is left out, and that is said.
        """
        stored = super().load(split, data, progress)
        if self.settings.query == "event":
            return replace(stored, queries=tuple(map(_plain, stored.queries)))
        queries = tuple(
            replace(_plain(query), text=query.attributes[EXCERPT])
            for query in stored.queries
            if query.attributes.get(EXCERPT)
        )
        left_out = len(stored.queries) - len(queries)
        if left_out:
            progress.note(f"{self.address}: {left_out} events without an English excerpt left out.")
        kept = {query.id for query in queries}
        return replace(
            stored,
            queries=queries,
            qrels={query: row for query, row in stored.qrels.items() if query in kept},
            fingerprint=digest({"store": stored.fingerprint, "query": "excerpt"}),
        )

    def writer(self, sources: Sequence[Path], store: Path, *, strict: bool) -> DatasetWriter:
        """Return the writer; the file points at no media on disk, so there is no media root."""
        return DatasetWriter(
            store, task=self.dataset, task_version=self.about.version, strict=strict
        )

    def write(self, sources: Sequence[Path], writer: DatasetWriter, progress: Progress) -> None:
        """Read ``multivent_base.csv`` of the first source that has it; write the split ``test``.

        Raises
        ------
        DataError
            If the file is missing, is not UTF-8 CSV with the published columns, or holds a row
            that cannot be used. The message names file, line, value and remedy.
        """
        paths = [source / FILE for source in sources]
        path = next((path for path in paths if path.is_file()), paths[0])
        videos: dict[str, _Video] = {}
        events: dict[str, _Event] = {}
        qrels: dict[str, dict[str, int]] = {}
        rows = 0
        with progress.stage("reading MultiVENT 1.0") as advance:
            for line, row in _rows(path):
                rows += 1
                advance()
                video, event = _video(path, line, row), _event(path, line, row)
                known = videos.setdefault(video.id, video)
                _same(path, line, f"video {video.id!r}", known, video)
                _same(
                    path, line, f"event {event.name!r}", events.setdefault(event.name, event), event
                )
                qrels.setdefault(video.event, {})[video.id] = 1
        if not rows:
            raise DataError(f"{path} has no rows: {_REMEDY}.")
        writer.write_split(
            "test",
            (video.document() for video in videos.values()),
            (event.query() for event in events.values()),
            qrels,
        )
        excerpts = [event.excerpt for event in events.values() if event.excerpt]
        writer.counts.update(
            rows=rows,
            videos=len(videos),
            repeated_rows_merged=rows - len(videos),
            videos_without_description=sum(not video.description for video in videos.values()),
            events=len(events),
            events_without_excerpt=len(events) - len(excerpts),
            events_sharing_an_excerpt=sum(excerpts.count(excerpt) > 1 for excerpt in excerpts),
        )
        writer.notes.append(f"{FILE}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
        writer.notes.append("Rows of one video are merged if they agree in all but the URL.")


@dataclass(frozen=True, slots=True)
class _Video:
    """What a row says about its video."""

    id: str
    description: str
    language: str
    category: str
    event: str

    def document(self) -> Document:
        return Document(
            self.id,
            {Modality.DESCRIPTION: self.description} if self.description else {},
            attributes={"language": self.language, "event_category": self.category},
        )


@dataclass(frozen=True, slots=True)
class _Event:
    """What a row says about its event."""

    name: str
    category: str
    excerpt: str

    def query(self) -> Query:
        attributes = {"event_category": self.category}
        if self.excerpt:
            attributes[EXCERPT] = self.excerpt
        return Query(self.name, self.name.replace("_", " "), attributes=attributes)


def video_id(url: str) -> str | None:
    """Return YouTube's ``v`` parameter, else the last non-empty part of the URL's path.

    The part stays as it is written, percent-encoded: ids go into TREC runs, which know no spaces.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if not parts.netloc:
        return None
    host = parts.netloc.lower()
    if host == "youtube.com" or host.endswith(".youtube.com"):
        values = parse_qs(parts.query).get("v", [])
        if values:
            return values[0]
    return next((part for part in reversed(parts.path.split("/")) if part), None)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with the number of its last line; check that it has every column."""
    if not path.is_file():
        raise DataError(
            f"{path} is missing: give with --source the folder that holds {FILE} "
            "(github.com/katesanders9/multiVENT, folder data)."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            header = reader.fieldnames or []
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise DataError(
                    f"{path}, line 1: no column {missing[0]!r} (there are {', '.join(header)})."
                    f"{did_you_mean(missing[0], header)} {_REMEDY.capitalize()}."
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}, line {reader.line_num}: the row has not the {len(header)} fields "
                        f"of the header: {_REMEDY}."
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}: {_REMEDY}.") from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 (after line {reader.line_num}): {_REMEDY}."
            ) from error


def _video(path: Path, line: int, row: dict[str, str]) -> _Video:
    url = _required(path, line, row, "video_URL")
    identifier = video_id(url)
    if identifier is None:
        raise DataError(f"{path}, line {line}: video_URL {url!r} holds no video id: {_REMEDY}.")
    language = _required(path, line, row, "language")
    if language not in LANGUAGES:
        raise DataError(
            f"{path}, line {line}: unknown language {language!r}; MultiVENT 1.0 has "
            f"{', '.join(LANGUAGES)}.{did_you_mean(language, LANGUAGES)}"
        )
    return _Video(
        identifier,
        row["video_description"].strip(),
        language,
        _required(path, line, row, "event_category"),
        _required(path, line, row, "event_name"),
    )


def _event(path: Path, line: int, row: dict[str, str]) -> _Event:
    return _Event(
        _required(path, line, row, "event_name"),
        _required(path, line, row, "event_category"),
        row["en_article_excerpt"].strip(),
    )


def _required(path: Path, line: int, row: dict[str, str], column: str) -> str:
    value = row[column].strip()
    if not value:
        raise DataError(f"{path}, line {line}: {column} is blank: {_REMEDY}.")
    return value


def _same(path: Path, line: int, what: str, first: object, now: object) -> None:
    """Check that two rows say the same of one video or event."""
    for name in first.__slots__:  # type: ignore[attr-defined]
        before, here = getattr(first, name), getattr(now, name)
        if before != here:
            raise DataError(
                f"{path}, line {line}: {what} has {name} {here[:60]!r} here and {before[:60]!r} in "
                f"an earlier row; one id must mean one thing: {_REMEDY}."
            )


def _plain(query: Query) -> Query:
    """Return the query without the excerpt that the store keeps beside it."""
    return replace(query, attributes={k: v for k, v in query.attributes.items() if k != EXCERPT})
