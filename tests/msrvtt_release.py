"""Small files in the layouts that MSR-VTT circulates in, with invented captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from harness.dataset import DatasetStore
from harness.progress import Progress
from harness.registry import make_task
from tasks.sample.encode import encode
from tasks.sample.facts import Scene, Thing, Tone
from tasks.sample.render import render_frames, render_sound
from tests.media_files import plain, write_video

TEST = "MSRVTT_JSFUSION_test.csv"
JSON = "MSRVTT_data.json"
FROZEN = "MSR_VTT.json"
#: Of the 1k-A test set; the first two have the same caption.
SENTENCES = {
    "video7020": "a man, sitting on a bench",
    "video9000": "a man, sitting on a bench",
    "video7021": "a dog runs",
    "video9975": "someone cooks",
}
TRAIN = ("video0", "video3", "video12")
OFFICIAL = ("video7010", "video7020", "video7021", "video9000", "video9975")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, header: Sequence[str], lines: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def captions() -> dict[str, list[str]]:
    """Two captions of each training video, three of each official test video."""
    found = {video: [f"{video} does this", f"{video}  does\nthat"] for video in TRAIN}
    return found | {video: [f"{video} in words {n}" for n in range(3)] for video in OFFICIAL}


def data_json() -> str:
    """CLIP4Clip's form."""
    sentences = [
        {"video_id": video, "caption": text, "sen_id": n}
        for n, (video, texts) in enumerate(captions().items())
        for text in texts
    ]
    videos = [{"video_id": video, "category": 3, "url": "x"} for video in captions()]
    return json.dumps({"info": {}, "videos": videos, "sentences": sentences})


def frozen_json() -> str:
    """Frozen-in-Time's form."""
    entries = [
        {"image_id": video, "caption": text, "id": n}
        for n, (video, texts) in enumerate(captions().items())
        for text in texts
    ]
    return json.dumps({"images": [], "annotations": entries})


def release(root: Path) -> Path:
    """Lists, captions, transcripts, and videos with and without sound."""
    lines = [
        [f"ret{n}", f"msr{video[5:]}", video, text]
        for n, (video, text) in enumerate(SENTENCES.items())
    ]
    rows(root / TEST, ["key", "vid_key", "video_id", "sentence"], lines)
    rows(root / "lists/MSRVTT_train.9k.csv", ["video_id"], [[video] for video in TRAIN])
    rows(root / "lists/MSRVTT_train.7k.csv", ["video_id"], [[video] for video in TRAIN[:2]])
    write(root / "annotation" / JSON, data_json())
    words = [["video7020", "so this"], ["video7020", "is  a bench"], ["video0", ""]]
    rows(root / "msrvtt_whisper_large.csv", ["video_id", "text"], words)
    videos = root / "MSRVTT/videos/all"
    videos.mkdir(parents=True)
    for video in ("video7020", "video0"):
        write(videos / f"{video}.mp4", sounding())
    write_video(videos / "video7021.mp4", plain(4))
    return root


def sounding() -> bytes:
    """A video with sound."""
    from random import Random

    tone = Tone("bell", "low", "steady")
    frames = render_frames(Scene((Thing("red", "disc", "left"),), "black"), ["a"], Random(0))
    return encode(frames, render_sound((tone, tone)))[0]


def frame_folder(root: Path, video: str, numbers: Sequence[int]) -> None:
    """Frames of a video as images."""
    folder = root / video
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"frame_{number}.jpg")


def prepared(source: Path, *more: Path, strict: bool = False) -> DatasetStore:
    """Prepare sources in the default place; return the store."""
    task = make_task("msrvtt")
    return DatasetStore(task.prepare([source, *more], None, Progress(), strict=strict))
