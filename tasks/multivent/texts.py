"""The texts of MultiVENT 2.0: Whisper speech, ICDAR on-screen text, metadata.

Features lie deep below ``features/<split>/`` and not always at the same depth. They are found by
the name of the folder that holds the shards::

    .../speech_to_text/<000001>/<id>.m4a.csv                           column ``text``
    .../icdar_ocr_max/<000001>/<id>.mp4_frames/<id>_frame_<n>.png.csv  column ``text``

Blank text is absent text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.types import Media
from tasks.multivent.shards import is_shard, read_bytes
from tasks.multivent.tables import csv_rows

ASR_FOLDER = "speech_to_text"
OCR_FOLDER = "icdar_ocr_max"
ASR_SUFFIX = ".m4a.csv"
OCR_SUFFIX = ".mp4_frames"

#: The official release has the shards 9 folders below ``features/<split>``.
_MAX_DEPTH = 12

_FRAME = re.compile(r"_frame_(\d+)\.png\.csv")

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


def feature_folder(root: Path, split: str, name: str) -> Path:
    """Return the folder called `name` below ``features/<split>``: the innermost of nested ones.

    Raises
    ------
    DataError
        If there is none, or there are two beside each other.
    """
    top = root / "features" / split
    if not top.is_dir():
        raise DataError(
            f"{top} is missing: the features of split {split!r} belong there, as in the official "
            "release."
        )
    found = [folder for folder in _folders(top, _MAX_DEPTH) if folder.name == name]
    inner = [folder for folder in found if not any(folder in other.parents for other in found)]
    if not inner:
        raise DataError(
            f"no folder {name!r} below {top}: unpack it there. To go without this modality, make "
            "an empty folder of that name."
        )
    if len(inner) > 1:
        raise DataError(
            f"{name!r} is ambiguous: both {inner[0]} and {inner[1]} are below {top}; keep one."
        )
    return inner[0]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield all folders below `folder` but the shards, of which there are thousands."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_shard(path.name):
            yield path
            if depth > 1:
                yield from _folders(path, depth - 1)


def asr_text(path: Path) -> str | None:
    """Return the speech of one video: its rows, joined by spaces.

    Raises
    ------
    DataError
        If the file is not CSV or lacks the column ``text``.
    """
    return _joined(cell.strip() for _, (cell,) in csv_rows(path, "text"))


def ocr_text(folder: Path, video: str) -> str | None:
    """Return the on-screen text of one video.

    Frames are read in the order of their numbers (``frame_2`` before ``frame_10``). A line that
    the frame before showed too, or that repeats the line just before it, is left out: a caption
    stays on screen for many frames.

    Raises
    ------
    DataError
        If a frame's file has another name, is not CSV or lacks the column ``text``.
    """
    frames = []
    for path in folder.iterdir():
        if path.suffix == ".csv":
            number = _FRAME.fullmatch(path.name.removeprefix(video))
            if number is None:
                raise DataError(
                    f"{path} is not named {video}_frame_<number>.png.csv, so its place among the "
                    "frames is unknown: rename or remove it."
                )
            frames.append((int(number[1]), path))
    kept: list[str] = []
    before: set[str] = set()
    for _, path in sorted(frames):
        lines = [cell.strip() for _, (cell,) in csv_rows(path, "text")]
        for line in lines:
            if line not in before and line not in kept[-1:]:
                kept.append(line)
        before = set(lines)
    return _joined(kept)


def read_metadata(media: Media) -> Metadata:
    """Return title, description and language of a metadata JSON (``yt_meta_dict.info``).

    Raises
    ------
    DataError
        If the file is not a JSON object, or one of the three is not a string.
    """
    where = f"{media.path}" if media.offset is None else f"{media.path}: {media.name}"
    try:
        value: Any = json.loads(read_bytes(media))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}, line {error.lineno}: not JSON ({error.msg}); fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error.reason}): fetch it again.") from error
    for key in ("yt_meta_dict", "info"):
        if not isinstance(value, dict):
            raise DataError(f"{where}: no JSON object where {key!r} belongs; fetch it again.")
        value = value.get(key) or {}
    texts: dict[str, str | None] = {}
    for key in ("title", "description", "language"):
        text = value.get(key)
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: yt_meta_dict.info.{key} is {text!r}, it must be a string.")
        texts[key] = (text or "").strip() or None
    code = (texts["language"] or "").partition("-")[0].lower()
    texts["language"] = _LANGUAGES.get(code, texts["language"])
    return Metadata(**texts)


def _joined(lines: Iterator[str] | list[str]) -> str | None:
    return " ".join(line for line in lines if line) or None
