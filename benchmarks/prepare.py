"""Preparing MultiVENT 2.0's official test set, at its full size, from generated files.

    python benchmarks/prepare.py [--documents 110000] [--loose-ocr] [--save] [--folder DIR]

The files are laid out as released: a tar of 100 videos each (their media are a few made-up bytes),
with metadata of about 1 kB; Whisper's speech in a .tar.gz a shard; on-screen text of 10 frames a
video in a .tar.gz a shard, or as 10 CSV files a video. "Plain read" reads every byte of the same
files and does nothing with it. "Bare parse" does what nobody can spare who reads these files with
Python's library (tar headers, gunzip, csv, json), and keeps nothing. All read from the page cache.
"In parts again" is the same command after all parts were written by one that was killed at the end.
Memory is the largest RssAnon of the process and its workers together, sampled every 50 ms: what
files mapped into memory and the interpreter's code take is not in it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from _measure import Row, Table, write_json

SHARD = 100
ASR = "features/test/whisper_asr/exp/scale24/data/video/baseline/test/speech_to_text"
OCR = "features/test/exp/scale24/features/test/ocr/icdar_ocr_max"
TEXT = (
    "election rally flood bridge market museum летний мост река башня "
    "홍수 지진 시장 다리 洪水 地震 市场 桥梁 فيضان زلزال سوق "
    "جسر stadium parade launch protest harbour desert winter engine "
)
WORDS = TEXT.split()
LANGUAGES = ("en", "ar", "zh-CN", "ko", "ru")

PREPARE = """
import sys
from pathlib import Path
from harness.dataset import DatasetWriter
from harness.progress import Progress
from tasks.multivent.prepare import write_multivent
source, store, killed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "killed"
with DatasetWriter(store, task="multivent", task_version="1", media_roots=[source]) as writer:
    write_multivent([source], writer, Progress())
    if killed:
        import os
        os._exit(0)
"""


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_shard(root: Path, documents: int, loose: bool, number: int) -> list[str]:
    """Write one shard; return the ids of its videos."""
    rng = random.Random(number)  # noqa: S311 - made-up texts
    name = f"{number:06d}"
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    first = (number - 1) * SHARD
    ids = [
        "".join(rng.choices(alphabet, k=5)) + f"{index:06d}"
        for index in range(first, min(first + SHARD, documents))
    ]
    with tarfile.open(root / f"test/{name}.tar", "w") as tar:
        for video in ids:
            info = {
                "title": text(rng, 8),
                "description": text(rng, 60),
                "language": rng.choice(LANGUAGES),
                "upload_date": "20220101",
            }
            metadata = json.dumps({"yt_meta_dict": {"info": info}, "status": "success"})
            add(tar, f"{name}/{video}.mp4", rng.randbytes(512))
            add(tar, f"{name}/{video}.m4a", rng.randbytes(256))
            add(tar, f"{name}/{video}.json", metadata.encode())
    with tarfile.open(root / ASR / f"test-{name}-whisperv3-large.tar.gz", "w:gz") as tar:
        for video in ids:
            rows = "".join(f'{name}/{video}.m4a,"{text(rng, 12)}, "\n' for _ in range(8))
            add(tar, f"{name}/{video}.m4a.csv", f"video_id,text\n{rows}".encode())
    frames = {
        f"{video}.mp4_frames/{video}_frame_{frame}.png.csv": "text,score\n"
        + "".join(f"{text(rng, 2)},0.9\n" for _ in range(3))
        for video in ids
        for frame in range(0, 300, 30)
    }
    if loose:
        for path, content in frames.items():
            target = root / OCR / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
    else:
        with tarfile.open(root / OCR / f"{name}.tar.gz", "w:gz", compresslevel=1) as tar:
            for path, content in frames.items():
                add(tar, f"{name}/{path}", content.encode())
    return ids


def generate(root: Path, documents: int, loose: bool) -> None:
    for folder in ("test", ASR, OCR):
        (root / folder).mkdir(parents=True)
    shards = range(1, (documents + SHARD - 1) // SHARD + 1)
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(partial(write_shard, root, documents, loose), shards, chunksize=8))
    with (root / "multivent_2_test_ids.csv").open("w") as file:
        file.write("id\n" + "".join(f"{video}\n" for ids in made for video in ids))
    with (root / "multivent_2_test_queries.csv").open("w") as file:
        rng = random.Random(0)  # noqa: S311 - made-up texts
        file.write("Query_id,query\n")
        file.writelines(
            f"test_english_political_pov_base_{i},{text(rng, 6)}\n" for i in range(2_546)
        )


def plain_read(root: Path) -> int:
    read = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with Path(folder, name).open("rb", buffering=0) as file:
                while chunk := file.read(1 << 20):
                    read += len(chunk)
    return read


def bare_parse(root: Path) -> int:
    """Parse everything, keep nothing."""
    cells = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if name.endswith((".tar", ".tar.gz")):
                with tarfile.open(path, "r:*") as tar:
                    for member in tar:
                        if member.name.endswith(".json"):
                            json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
                        elif member.name.endswith(".csv"):
                            content = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
                            cells += sum(map(len, csv.reader(io.StringIO(content, newline=""))))
            elif name.endswith(".csv"):
                with path.open(newline="", encoding="utf-8") as file:
                    cells += sum(map(len, csv.reader(file)))
    return cells


def watched(arguments: list[str]) -> tuple[float, float]:
    """Run Python with `arguments`; return its seconds and the largest RssAnon in MiB."""
    start, peak = time.perf_counter(), 0
    with psutil.Popen([sys.executable, *arguments]) as process:
        while process.poll() is None:
            with suppress(psutil.Error):
                tree = [process.pid, *(child.pid for child in process.children(recursive=True))]
                peak = max(peak, sum(map(anonymous, tree)))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"preparation failed with status {process.returncode}")
    return time.perf_counter() - start, peak / 1024


def anonymous(pid: int) -> int:
    """Return the RssAnon of a process in KiB; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=110_000)
    parser.add_argument("--loose-ocr", action="store_true")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/prepare.json")
    parser.add_argument("--folder", type=Path, help="where to generate; kept if it is given")
    arguments = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    root = arguments.folder or Path(scratch.name) / "source"
    if not root.exists():
        root.mkdir()
        generate(root, arguments.documents, arguments.loose_ocr)
    store = Path(scratch.name) / "store"
    start = time.perf_counter()
    size = plain_read(root)
    read_s = time.perf_counter() - start
    start = time.perf_counter()
    bare_parse(root)
    parse_s = time.perf_counter() - start
    prepare_s, prepare_mib = watched(["-c", PREPARE, str(root), str(store), "whole"])
    again = Path(scratch.name) / "again"
    watched(["-c", PREPARE, str(root), str(again), "killed"])
    again_s, again_mib = watched(["-c", PREPARE, str(root), str(again), "whole"])

    from harness.dataset import DatasetStore

    stores = [DatasetStore(folder).manifest for folder in (store, again)]
    prints = {manifest.fingerprint("test") for manifest in stores}
    assert len(prints) == 1, "a preparation that went on has another fingerprint"
    assert stores[0].splits["test"].coverage.modalities["ocr"] == arguments.documents
    assert prepare_mib < 2048, f"{prepare_mib:.0f} MiB"

    def row(name: str, seconds: float, mib: float) -> Row:
        return Row(name, (seconds,), seconds, seconds / parse_s, mib)

    table = Table(
        f"Official test set, {arguments.documents:,} documents, {size / 1e6:,.0f} MB of files",
        "bare parse",
        (
            row("plain read", read_s, 0),
            row("bare parse", parse_s, 0),
            row("ours", prepare_s, prepare_mib),
            row("ours, in parts again", again_s, again_mib),
        ),
    )
    print(table.markdown())
    speed = {
        "documents_per_s": arguments.documents / prepare_s,
        "source_mb_per_s": size / 1e6 / prepare_s,
    }
    print({name: round(value, 1) for name, value in speed.items()})
    if arguments.save:
        settings = {"documents": arguments.documents, "loose_ocr": arguments.loose_ocr, **speed}
        print(write_json("prepare", [table], packages=["pyarrow"], settings=settings))


if __name__ == "__main__":
    main()
