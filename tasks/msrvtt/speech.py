"""What is said in the videos, as speech recognition wrote it down.

::

    *whisper*.csv, *asr*.csv       columns video_id,text; several rows of a video are joined
    *whisper*.json, *asr*.json     {"video0": "text", ...} or [{"video_id": ..., "text": ...}, ...]
    *whisper*.jsonl, *asr*.jsonl   {"video_id": ..., "text": ...} a line
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import DataError
from tasks.msrvtt.files import check_video
from tasks.multivent.csvfile import csv_rows

_FORMS = (
    "a CSV with the columns video_id and text, a JSON object of texts by video, or JSON (a list, "
    "or a line each) of objects with video_id and text"
)


def read_speech(path: Path) -> dict[str, str]:
    """Return the words of each video; the empty string where nothing is said.

    Raises
    ------
    DataError
        If the file is none of the forms, or names what is no video of MSR-VTT.
    """
    found: dict[str, str] = {}
    for where, video, text in _rows(path):
        words = " ".join(text.split())
        before = found.get(check_video(video, where), "")
        found[video] = f"{before} {words}".strip()
    return found


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, video and text of every row."""
    if path.suffix.lower() == ".csv":
        for number, (video, text) in csv_rows(path, "video_id", "text"):
            yield f"{path}, line {number}", video, text
        return
    content = path.read_bytes()
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield (where, *_pair(where, _parsed(where, line)))
        return
    whole = _parsed(str(path), content)
    if isinstance(whole, dict):
        whole = [{"video_id": video, "text": text} for video, text in whole.items()]
    if not isinstance(whole, list):
        raise DataError(f"{path} is no file of transcripts: give {_FORMS}.")
    for place, entry in enumerate(whole):
        where = f"{path}, entry {place}"
        yield (where, *_pair(where, entry))


def _parsed(where: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}): give {_FORMS}.") from error


def _pair(where: str, entry: Any) -> tuple[str, str]:
    video, text = (entry.get(k) if isinstance(entry, dict) else None for k in ("video_id", "text"))
    if not isinstance(video, str) or not isinstance(text, str):
        raise DataError(f"{where} holds {str(entry)[:80]}: give {_FORMS}.")
    return video, text
