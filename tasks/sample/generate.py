"""Writes the sample's source files, in MultiVENT 2.0's official layout.

The test split is unpacked, the train split lies in tar files as released; so both forms are read
whenever the sample is prepared. Facts that texts do not show (scene, sound, drawn lines) are kept
in each metadata JSON under ``sample_facts``, which no reader of the layout looks at.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from harness.progress import Advance, Progress
from tasks.multivent.texts import ASR_FOLDER, ASR_SUFFIX, OCR_FOLDER, OCR_SUFFIX
from tasks.sample.encode import encode
from tasks.sample.facts import VideoFacts
from tasks.sample.phrases import described, read_off, screen_lines, spoken
from tasks.sample.queries import SampleQuery, draw_queries
from tasks.sample.render import FRAMES, FRAMES_PER_SECOND, SECONDS, render_frames, render_sound
from tasks.sample.videos import draw_videos
from tasks.sample.vocabulary import LANGUAGES

#: Raised whenever the same settings would give other files.
VERSION = 1

#: Videos a shard, as in the release.
_SHARD = 100

#: Every third frame is read by OCR.
_OCR_FRAMES = range(0, FRAMES, 3)

#: Queries of each type for a training video.
_TRAIN_QUERIES = 4


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one video, by what follows its id in their names."""

    facts: VideoFacts
    media: dict[str, bytes]
    speech: list[str]
    frames: dict[int, list[str]]


def generate(
    folder: Path,
    *,
    seed: int,
    test_videos: int,
    train_videos: int,
    audio_queries: bool,
    progress: Progress,
) -> None:
    """Fill `folder` with both splits.

    Texts, queries, judgments and pixels depend on the parameters alone; the bytes of media files
    also on the FFmpeg build, their sizes not.
    """
    videos = draw_videos(seed, test_videos, train_videos)
    test = draw_queries(
        seed, "test", videos["test"], per_type=1, unambiguous=True, audio=audio_queries
    )
    train = draw_queries(
        seed,
        "train",
        videos["train"],
        per_type=_TRAIN_QUERIES,
        unambiguous=False,
        audio=audio_queries,
        first=len(test),
    )
    for split, queries in (("test", test), ("train", train)):
        _write_tables(folder, split, videos[split], queries)
    total = test_videos + train_videos
    with (
        progress.stage("generating sample videos", total) as advance,
        # FFmpeg works outside of Python's lock: two threads take half the time of one.
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads,
    ):
        for split, facts in videos.items():
            for number, start in enumerate(range(0, len(facts), _SHARD), start=1):
                # One shard at a time: its files are held in memory, about 5 MB.
                made = threads.map(_files, facts[start : start + _SHARD])
                _write_shard(folder, split, f"{number:06}", _counted(made, advance))


def _files(facts: VideoFacts) -> _Files:
    # A stream of its own for each video, so that threads do not matter.
    random = Random(f"sample files {facts.id}")  # noqa: S311 (not for secrets)
    lines = screen_lines(facts, random)
    mp4, m4a = encode(render_frames(facts.scene, lines, random), render_sound(facts.sound))
    read = read_off(lines, len(_OCR_FRAMES), random)
    info = {
        "id": facts.id,
        "title": f"Sample clip {facts.id} ({facts.event})",
        "description": described(facts, random),
        "language": LANGUAGES[facts.language],
        "duration": SECONDS,
        "fps": FRAMES_PER_SECOND,
    }
    metadata = {
        "yt_meta_dict": {"info": info},
        "sample_facts": {
            "scene": asdict(facts.scene),
            "sound": [asdict(tone) for tone in facts.sound],
            "screen": lines,
        },
    }
    return _Files(
        facts,
        {
            ".mp4": mp4,
            ".m4a": m4a,
            ".json": json.dumps(metadata, ensure_ascii=False).encode(),
        },
        spoken(facts, random),
        dict(zip(_OCR_FRAMES, read, strict=True)),
    )


def _counted(files: Iterable[_Files], advance: Advance) -> Iterator[_Files]:
    for file in files:
        yield file
        advance()


def _write_tables(
    folder: Path, split: str, videos: Sequence[VideoFacts], queries: Sequence[SampleQuery]
) -> None:
    stem = f"multivent_2_{split}"
    _write_csv(folder / f"{stem}_ids.csv", ["id"], ([video.id] for video in videos))
    rows = ([query.id, query.text] for query in queries)
    _write_csv(folder / f"{stem}_queries.csv", ["Query_id", "query"], rows)
    with (folder / f"{stem}_judgments.jsonl").open("w", encoding="utf-8") as file:
        for query in queries:
            for video in query.relevant:
                judgment = {"query_id": query.id, "doc_id": video, "relevance": 1}
                file.write(json.dumps(judgment) + "\n")


def _write_shard(folder: Path, split: str, shard: str, videos: Iterable[_Files]) -> None:
    features = folder / "features" / split / "exp" / "scale24"
    speech = features / "data" / "video" / "baseline" / split / ASR_FOLDER / ASR_FOLDER / shard
    screen = features / "features" / split / "ocr" / OCR_FOLDER / shard
    media = folder / split
    for needed in (speech, screen, media if split == "train" else media / shard):
        needed.mkdir(parents=True, exist_ok=True)
    path = media / f"{shard}.tar"
    with tarfile.open(path, "w") if split == "train" else nullcontext() as archive:
        for video in videos:
            name = video.facts.id
            for suffix, content in video.media.items():
                if archive is None:
                    (media / shard / f"{name}{suffix}").write_bytes(content)
                else:
                    member = tarfile.TarInfo(f"{name}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            _write_csv(speech / f"{name}{ASR_SUFFIX}", ["text"], ([row] for row in video.speech))
            frames = screen / f"{name}{OCR_SUFFIX}"
            frames.mkdir()
            for number, lines in video.frames.items():
                read = frames / f"{name}_frame_{number}.png.csv"
                _write_csv(read, ["text"], ([line] for line in lines))


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
