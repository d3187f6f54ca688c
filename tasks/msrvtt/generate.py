"""Writes the sample's source files: MSR-VTT in small, of videos as ``multivent/sample`` has them.

::

    MSRVTT_JSFUSION_test.csv   key,vid_key,video_id,sentence,target: a caption a test video
    MSRVTT_train.9k.csv        ids of the training videos
    MSRVTT_data.json           several captions of every training video
    MSRVTT_whisper.csv         what is said, in English
    videos/all/video0.mp4      moving shapes with on-screen text and sound

Most captions are about what is seen, some about what is said; the column and key ``target`` say
which. Two captions of the test set are equal, as some of the real one are.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

from harness.progress import Progress
from harness.types import Modality
from tasks.msrvtt.captions import Caption
from tasks.msrvtt.files import TEST, TRAIN
from tasks.msrvtt.prepare import FIRST_TEST
from tasks.sample.encode import encode
from tasks.sample.facts import QueryFacts, VideoFacts
from tasks.sample.phrases import asked, screen_lines, spoken
from tasks.sample.render import render_frames, render_sound
from tasks.sample.videos import draw_videos

#: Raised whenever the same settings would give other files.
VERSION = 1

SPEECH = "MSRVTT_whisper.csv"
_JSON = "MSRVTT_data.json"
#: Every third caption is about what is said.
_SAID = 3


def generate(
    folder: Path,
    *,
    seed: int,
    test_videos: int,
    train_videos: int,
    captions: int,
    progress: Progress,
) -> None:
    """Fill `folder` with both splits.

    Texts and pixels depend on the parameters alone; the bytes of videos also on the FFmpeg build,
    their sizes not.

    Parameters
    ----------
    folder
        An empty folder.
    seed
        Another seed, other videos.
    test_videos, train_videos
        How many.
    captions
        Captions of each training video.
    progress
        Where to report.
    """
    drawn = draw_videos(seed, test_videos, train_videos)
    test = _renamed(drawn["test"], FIRST_TEST)
    train = _renamed(drawn["train"], 0)
    random = Random(f"msrvtt sample captions {seed}")  # noqa: S311 (not for secrets)
    _write_test(folder / TEST, _equal_pair(test, _captions(test, 1, random), random))
    _write_rows(folder / TRAIN["9k"], ["video_id"], ([video.id] for video in train))
    content = {
        "videos": [{"video_id": video.id, "split": "train"} for video in train],
        "sentences": [
            {"video_id": caption.video, "caption": caption.text, "target": caption.target}
            for caption in _captions(train, captions, random)
        ],
    }
    (folder / _JSON).write_text(json.dumps(content), encoding="utf-8")
    videos = folder / "videos" / "all"
    videos.mkdir(parents=True)
    words = []
    with (
        progress.stage("generating sample videos", test_videos + train_videos) as advance,
        # FFmpeg works outside of Python's lock: two threads take half the time of one.
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads,
    ):
        for video, mp4, text in threads.map(lambda facts: _film(facts, seed), [*train, *test]):
            (videos / f"{video}.mp4").write_bytes(mp4)
            words.append([video, text])
            advance()
    _write_rows(folder / SPEECH, ["video_id", "text"], words)


def _renamed(videos: Sequence[VideoFacts], first: int) -> list[VideoFacts]:
    """Return the videos with ids of MSR-VTT, all in English."""
    return [
        replace(video, id=f"video{number}", language="english")
        for number, video in enumerate(videos, first)
    ]


def _film(facts: VideoFacts, seed: int) -> tuple[str, bytes, str]:
    """Return the id, the mp4 and the spoken words of a video."""
    # A stream of its own for each video, so that threads do not matter.
    random = Random(f"msrvtt sample {seed} {facts.id}")  # noqa: S311 (not for secrets)
    frames = render_frames(facts.scene, screen_lines(facts, random), random)
    mp4, _ = encode(frames, render_sound(facts.sound))
    return facts.id, mp4, " ".join(spoken(facts, random))


def _captions(videos: Sequence[VideoFacts], each: int, random: Random) -> list[Caption]:
    found: list[Caption] = []
    for video in videos:
        for _ in range(each):
            said = len(found) % _SAID == _SAID - 1
            facts = _said(video) if said else _seen(video)
            target = Modality.ASR if said else Modality.VIDEO
            text = asked(facts, video, "english", random)
            found.append(Caption(video.id, text, target.label))
    return found


def _seen(video: VideoFacts) -> QueryFacts:
    """All that moves, and the background: no two test videos share that."""
    things = tuple((thing.colour, thing.shape, thing.direction) for thing in video.scene.things)
    return QueryFacts(things=things, background=video.scene.background)


def _said(video: VideoFacts) -> QueryFacts:
    """All that is talked about; no two test videos share that either."""
    return QueryFacts(concepts={Modality.ASR: video.concepts[Modality.ASR]})


def _equal_pair(
    videos: Sequence[VideoFacts], captions: list[Caption], random: Random
) -> list[Caption]:
    """Give the first two neighbours that show one thing the same caption, of that thing alone."""
    for place, (one, two) in enumerate(pairwise(videos)):
        shared = sorted(_things(one) & _things(two))
        if shared:
            facts = QueryFacts(things=((*shared[0], None),))
            text = asked(facts, one, "english", random)
            pair = [Caption(video.id, text, Modality.VIDEO.label) for video in (one, two)]
            return [*captions[:place], *pair, *captions[place + 2 :]]
    return captions


def _things(video: VideoFacts) -> set[tuple[str, str]]:
    return {(thing.colour, thing.shape) for thing in video.scene.things}


def _write_test(path: Path, captions: Sequence[Caption]) -> None:
    rows = (
        [f"ret{place}", f"msr{caption.video[5:]}", caption.video, caption.text, caption.target]
        for place, caption in enumerate(captions)
    )
    _write_rows(path, ["key", "vid_key", "video_id", "sentence", "target"], rows)


def _write_rows(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
