"""The texts of MultiVENT 2.0: Whisper's speech, ICDAR on-screen text, metadata.

::

    speech_to_text/<000001>/<id>.m4a.csv                               column ``text``, or
    speech_to_text/train-<000001>-whisperv3-large.tar.gz               ``video_id,text``
    icdar_ocr_max/<000001>/<id>.mp4_frames/<id>_frame_<n>.png.csv      column ``text``, or the same
    icdar_ocr_max/*<000001>*.tar.gz                                    in an archive

Blank text is absent text, and no gap: the file says that nobody speaks.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.types import Media
from tasks.multivent.archives import Gap, members_unpacked
from tasks.multivent.csvfile import csv_columns, csv_rows, parse_csv

ASR_FOLDER = "speech_to_text"
OCR_FOLDER = "icdar_ocr_max"
ASR_SUFFIX = ".m4a.csv"
OCR_SUFFIX = ".mp4_frames"
_FRAME = re.compile(r"_frame_(\d+)\.png\.csv")

#: Lines of on-screen text by the number of their frame.
Frames = Mapping[int, list[str]]

#: ISO 639-1 codes in metadata, as the names that MultiVENT's query ids use.
_LANGUAGES = {
    "ar": "arabic",
    "en": "english",
    "ko": "korean",
    "ru": "russian",
    "zh": "chinese",
}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a video's uploader says about it."""

    title: str | None = None
    description: str | None = None
    language: str | None = None


def read_speech(place: Path, gap: Gap) -> dict[str, str | None]:
    """Return the speech of each video of a shard's folder or archive: its rows, joined by spaces.

    Raises
    ------
    DataError
        If a file is not CSV or lacks a column.
    """
    if place.is_dir():
        return {
            name.removesuffix(ASR_SUFFIX): joined(row[0] for _, row in csv_rows(path, "text"))
            for name, path in _entries(place, ASR_SUFFIX)
        }
    rows: dict[str, list[str]] = {}
    for name, content in members_unpacked(place, gap):
        where = f"{place}: {name}"
        if not name.endswith(".csv") or not content.strip():
            continue
        if "video_id" in csv_columns(content):
            for _, (video, text) in parse_csv(content, where, "video_id", "text"):
                rows.setdefault(_video(video), []).append(text)
        else:
            lines = [text for _, (text,) in parse_csv(content, where, "text")]
            rows.setdefault(_video(name.removesuffix(".csv")), []).extend(lines)
    return {video: joined(lines) for video, lines in rows.items()}


def _video(name: str) -> str:
    """Return the id of ``000001/<id>.m4a``."""
    return name.rpartition("/")[2].removesuffix(".m4a").removesuffix(".mp4")


def frame_folders(place: Path) -> dict[str, Path]:
    """Return the folders of on-screen text in a shard's folder, by video."""
    return {name.removesuffix(OCR_SUFFIX): path for name, path in _entries(place, OCR_SUFFIX)}


def _entries(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the entries that end in `suffix`; hidden ones are not meant."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(suffix)]
    return ((name, folder / name) for name in sorted(names) if not name.startswith("."))


def read_frames(folder: Path, video: str) -> Frames:
    """Return the on-screen text of one video, frame by frame.

    Raises
    ------
    DataError
        If a frame's file has another name, is not CSV or lacks the column ``text``.
    """
    return {
        _frame(name, video, str(path)): [row[0] for _, row in csv_rows(path, "text")]
        for name, path in _entries(folder, ".csv")
    }


def read_frame_archive(archive: Path, gap: Gap) -> dict[str, Frames]:
    """Return the on-screen text of every video of an archive, frame by frame.

    Raises
    ------
    DataError
        If a frame's file has another name, is not CSV or lacks the column ``text``.
    """
    videos: dict[str, dict[int, list[str]]] = {}
    for name, content in members_unpacked(archive, gap):
        folder, _, file = name.rpartition("/")
        if not name.endswith(".csv") or not folder.endswith(OCR_SUFFIX):
            continue
        video, where = _video(folder.removesuffix(OCR_SUFFIX)), f"{archive}: {name}"
        lines = [cell for _, (cell,) in parse_csv(content, where, "text")]
        videos.setdefault(video, {})[_frame(file, video, where)] = lines
    return dict(videos)


def _frame(name: str, video: str, where: str) -> int:
    number = _FRAME.fullmatch(name.removeprefix(video))
    if number is None:
        raise DataError(
            f"{where} is not named {video}_frame_<number>.png.csv, so its place among the frames "
            "is unknown: rename or remove it."
        )
    return int(number[1])


def screen_text(frames: Frames) -> str | None:
    """Return the on-screen text of one video.

    Frames are read in the order of their numbers (``frame_2`` before ``frame_10``). A line that
    the frame before showed too, or that repeats the line just before it, is left out: a caption
    stays on screen for many frames.
    """
    kept: list[str] = []
    before: set[str] = set()
    for _, cells in sorted(frames.items()):
        lines = [cell.strip() for cell in cells]
        for line in lines:
            if line not in before and line not in kept[-1:]:
                kept.append(line)
        before = set(lines)
    return joined(kept)


def read_metadata(content: bytes, media: Media, gap: Gap) -> Metadata:
    """Return title, description and language of a metadata JSON (``yt_meta_dict.info``).

    Raises
    ------
    DataError
        If the file is not a JSON object, or one of the three is not a string.
    """
    where = f"{media.path}" if media.offset is None else f"{media.path}: {media.name}"
    try:
        value: Any = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}, line {error.lineno}: not JSON ({error.msg}); fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error.reason}): fetch it again.") from error
    for key in ("yt_meta_dict", "info"):
        if not isinstance(value, dict):
            raise DataError(f"{where}: no JSON object where {key!r} belongs; fetch it again.")
        if not value.get(key):
            gap("metadata without yt_meta_dict.info", where)
            return Metadata()
        value = value[key]
    if not isinstance(value, dict):
        raise DataError(f"{where}: yt_meta_dict.info is no JSON object; fetch it again.")
    texts: dict[str, str | None] = {}
    for key in ("title", "description", "language"):
        text = value.get(key)
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: yt_meta_dict.info.{key} is {text!r}, it must be a string.")
        texts[key] = (text or "").strip() or None
    code = (texts["language"] or "").partition("-")[0].lower()
    texts["language"] = _LANGUAGES.get(code, texts["language"])
    return Metadata(**texts)


def joined(lines: Iterable[str]) -> str | None:
    """Return the lines that say something, joined by spaces; None if none does."""
    return " ".join(filter(None, map(str.strip, lines))) or None
