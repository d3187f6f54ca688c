"""Lists of videos and captions, as they circulate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError, did_you_mean
from harness.types import Modality, Query
from tasks.msrvtt.files import check_video
from tasks.multivent.csvfile import csv_columns, csv_rows

#: By the key of their list: which key names the video.
_FORMS = {"sentences": "video_id", "annotations": "image_id"}
#: Column or key that names the modality a caption is about; the sample's files have it.
TARGET = "target"


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about a video, and the modality that it is about, if that is known."""

    video: str
    text: str
    target: str = ""

    def query(self, identifier: str) -> Query:
        """Return the caption as a query."""
        attributes = {TARGET: self.target} if self.target else {}
        return Query(identifier, self.text, attributes=attributes)


def read_test(path: Path) -> dict[str, Caption]:
    """Return the captions of the 1k-A test set by their key, one a video.

    Raises
    ------
    DataError
        If the file is no CSV of these columns, a sentence is blank, or a key or video repeats.
    """
    columns = ["key", "video_id", "sentence"]
    if TARGET in csv_columns(path.read_bytes()):
        columns.append(TARGET)
    found: dict[str, Caption] = {}
    videos: set[str] = set()
    for line, (key, video, sentence, *target) in csv_rows(path, *columns):
        where = f"{path}, line {line}"
        caption = _caption(where, video, sentence, *target)
        if not key or not caption.text:
            raise DataError(
                f"{where}: {'key' if not key else 'sentence'} is blank; the row is cut off or "
                "damaged: fetch the file again."
            )
        if key in found or caption.video in videos:
            what = f"key {key!r}" if key in found else f"video {caption.video!r}"
            raise DataError(f"{where}: {what} is listed twice; fetch the file again.")
        found[key] = caption
        videos.add(caption.video)
    if not found:
        raise DataError(f"{path} has no rows: fetch the file again.")
    return found


def read_list(path: Path) -> list[str]:
    """Return the ids of a list of videos: a CSV with the column ``video_id``, or a line each.

    Raises
    ------
    DataError
        If an id is none of MSR-VTT or is listed twice, or there are none.
    """
    rows: Iterable[tuple[int, str]]
    if path.suffix == ".txt":
        rows = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    else:
        rows = ((line, video) for line, (video,) in csv_rows(path, "video_id"))
    found: dict[str, int] = {}
    for line, text in rows:
        video = text.strip()
        if video:
            check_video(video, f"{path}, line {line}")
            if found.setdefault(video, line) != line:
                raise DataError(
                    f"{path}, line {line}: {video!r} is listed twice (first in line "
                    f"{found[video]}); fetch the file again."
                )
    if not found:
        raise DataError(f"{path} lists no videos: fetch the file again.")
    return list(found)


def read_captions(path: Path) -> dict[str, list[Caption]]:
    """Return the captions of every video, in the order of the file; blank ones are left out.

    Two forms are read: ``{"sentences": [{"video_id", "caption"}]}``, which is CLIP4Clip's, and
    ``{"annotations": [{"image_id", "caption"}]}``, which is Frozen-in-Time's.

    Raises
    ------
    DataError
        If the file is no JSON, or of another form.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again.") from error
    listed = next((key for key in _FORMS if isinstance(content, dict) and key in content), None)
    if listed is None or not isinstance(content[listed], list):
        keys = ", ".join(map(repr, content)) if isinstance(content, dict) else "no keys at all"
        raise DataError(
            f"{path} holds no list 'sentences' (as MSRVTT_data.json does) and none 'annotations' "
            f"(as MSR_VTT.json does); it has {keys[:200]}."
        )
    found: dict[str, list[Caption]] = {}
    for caption in _entries(path, listed, content[listed]):
        if caption.text:
            found.setdefault(caption.video, []).append(caption)
    return found


def _entries(path: Path, listed: str, entries: list[Any]) -> Iterator[Caption]:
    named = _FORMS[listed]
    for place, entry in enumerate(entries):
        where = f"{path}, {listed}[{place}]"
        for key in (named, "caption"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                keys = list(entry) if isinstance(entry, dict) else []
                raise DataError(
                    f"{where} has no text {key!r}: it is {str(entry)[:80]}."
                    + did_you_mean(key, keys)
                )
        yield _caption(where, entry[named], entry["caption"], entry.get(TARGET, ""))


def _caption(where: str, video: str, text: str, target: str = "") -> Caption:
    labels = [modality.label for modality in Modality]
    if target and target not in labels:
        raise DataError(f"{where}: {TARGET} {target!r} is no modality ({', '.join(labels)}).")
    return Caption(check_video(video, where), " ".join(text.split()), target)
