"""A small release of MultiVENT 2.0 in its official layout, for tests to use and to spoil."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from harness.dataset import DatasetStore, DatasetWriter
from harness.progress import Progress
from harness.types import Document
from tasks.multivent.prepare import write_multivent

ASR = Path("features/test/exp/scale24/data/video/baseline/test/speech_to_text/speech_to_text")
OCR = Path("features/test/exp/scale24/features/test/ocr/icdar_ocr_max")
QUERY = "sample_english_political_pov_speech_0"
JUDGMENTS = "multivent_2_test_judgments.jsonl"
QUERIES = "multivent_2_test_queries.csv"
IDS = "multivent_2_test_ids.csv"
SPEECH = str(ASR / "000001/-a_1.m4a.csv")
FRAMES = OCR / "000001/-a_1.mp4_frames"
FRAME = str(FRAMES / "-a_1_frame_2.png.csv")
INFO = "test/000001/-a_1.json"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def metadata(**info: object) -> str:
    return json.dumps({"yt_meta_dict": {"info": info, "subtitles": None}, "status": "success"})


def judged(**changes: object) -> str:
    return json.dumps({"query_id": QUERY, "doc_id": "-a_1", "relevance": 2, **changes})


def release(root: Path) -> Path:
    """Two videos: ``-a_1`` has everything, ``_b`` a video file and its metadata alone."""
    write(root / IDS, "id\n-a_1\n_b\n")
    write(root / QUERIES, f'Query_id,query\n{QUERY},"Kyiv, at night"\n')
    write(root / JUDGMENTS, judged() + "\n\n")
    write(root / "test/000001/-a_1.mp4", b"moving")
    write(root / "test/000001/-a_1.m4a", b"sounding")
    write(root / INFO, metadata(title=" A title ", description="What\nit shows", language="ru-RU"))
    write(root / "test/000002/_b.mp4", b"other")
    write(root / "test/000002/_b.json", metadata(title="B"))
    write(root / SPEECH, 'start,text\n0,"so, hello"\n1,\n2, world \n')
    for number, text in {
        10: "text,score\nEXIT,1\nGATE 4,1\n",
        2: "text,score\nEXIT,1\nEXIT,1\nTAXI,1\n",
        9: "text,score\nEXIT,1\nTAXI,1\n",
        11: "text,score\n",
        12: "text,score\nTAXI,1\n",
    }.items():
        write(root / FRAMES / f"-a_1_frame_{number}.png.csv", text)
    return root


def prepare(*sources: Path, strict: bool = False, store: Path | None = None) -> DatasetStore:
    folder = store or sources[0].parent / "store"
    with DatasetWriter(
        folder, task="multivent", task_version="1", media_roots=sources, strict=strict
    ) as writer:
        write_multivent(sources, writer, Progress())
    return DatasetStore(folder)


def documents(*sources: Path, split: str = "test") -> dict[str, Document]:
    return {document.id: document for document in prepare(*sources).documents(split)}


def gaps(store: DatasetStore) -> dict[str, int]:
    return {kind: gap.count for kind, gap in store.manifest.gaps.items()}


def pack(root: Path, mode: str = "w", suffix: str = ".tar") -> Path:
    """Put shard 000001 into a tar, with the folder names that some tars have."""
    archive = root / f"test/000001{suffix}"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for path in sorted((root / "test/000001").iterdir()):
            tar.add(path, f"./000001/{path.name}")
            path.unlink()
    (root / "test/000001").rmdir()
    return archive


def tar_gz(path: Path, members: Mapping[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
