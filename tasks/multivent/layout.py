"""MultiVENT 2.0's official layout -> a dataset store.

::

    DIR/multivent_2_<split>_ids.csv, ..._queries.csv, ..._judgments.jsonl    (``tables``)
    DIR/<split>/<000001>/ or DIR/<split>/<000001>.tar                        (``shards``)
    DIR/features/<split>/.../speech_to_text/, .../icdar_ocr_max/             (``texts``)

Every video of the ids file becomes a document, in the order of the shards. What a video lacks is
absent from its document and shows in the store's coverage; a folder or file that concerns all
videos and is missing is an error. Videos that the ids file does not list are left out and counted.

The layout is that of the MultiVENT 2.0 release (Kriz et al., arXiv 2410.11619), as far as its
public parts and the scripts that read it show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.dataset import DatasetWriter
from harness.errors import DataError
from harness.progress import Progress
from harness.types import Document, Media, Modality
from tasks.multivent import texts
from tasks.multivent.shards import is_shard, shard_files, shard_names
from tasks.multivent.tables import read_ids, read_qrels, read_queries

_MEDIA = {Modality.VIDEO: ".mp4", Modality.AUDIO: ".m4a"}


class Layout:
    """One split of a folder in the official layout.

    Parameters
    ----------
    root
        The folder of the release.
    split
        ``train``, ``test``, ...

    Attributes
    ----------
    counts
        What was met: listed videos, videos without any file, files of unlisted videos, repeated
        judgments. Complete once `documents` has been read to its end.

    Raises
    ------
    DataError
        If a folder that all videos need is missing, or the ids file is.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root.absolute(), split
        self.videos = read_ids(self.root, split)
        self.media = self.root / split
        if not self.media.is_dir():
            raise DataError(
                f"{self.media} is missing: the videos of split {split!r} belong there, as tar "
                "files or unpacked. To go without media and metadata, make an empty folder."
            )
        self.asr = texts.feature_folder(self.root, split, texts.ASR_FOLDER)
        self.ocr = texts.feature_folder(self.root, split, texts.OCR_FOLDER)
        self.counts: dict[str, int] = {"videos": len(self.videos)}

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents, shard by shard; memory holds one shard and the ids.

        Raises
        ------
        DataError
            If a file is broken, or a video is in two shards; names the file.
        """
        shards = shard_names(self.media)
        for folder in (self.asr, self.ocr):
            shards |= {path.name for path in folder.iterdir() if is_shard(path.name)}
        left = dict.fromkeys(self.videos)
        seen: dict[str, str] = {}
        unlisted = 0
        with progress.stage(f"reading {self.split} videos", len(self.videos)) as advance:
            for name in sorted(shards):
                shard = self._shard(name)
                for video in shard.videos():
                    if video in seen:
                        raise DataError(
                            f"{self.root}: video {video!r} is in shard {seen[video]} and in shard "
                            f"{name}; ids must be unique."
                        )
                    seen[video] = name
                    if video not in left:
                        unlisted += 1
                        continue
                    del left[video]
                    yield shard.document(video)
                    advance()
            for video in left:
                yield Document(video)
                advance()
        self.counts |= {"videos_without_files": len(left), "videos_not_listed": unlisted}

    def _shard(self, name: str) -> _Shard:
        return _Shard(
            files=shard_files(self.media, name),
            speech=_entries(self.asr / name, texts.ASR_SUFFIX),
            frames=_entries(self.ocr / name, texts.OCR_SUFFIX),
        )


@dataclass(frozen=True, slots=True)
class _Shard:
    """What one shard holds: media by file name, feature files by video id."""

    files: dict[str, Media]
    speech: dict[str, Path]
    frames: dict[str, Path]

    def videos(self) -> list[str]:
        suffixes = (*_MEDIA.values(), ".json")
        names = [name.rpartition(".")[0] for name in self.files if name.endswith(suffixes)]
        return sorted({*names, *self.speech, *self.frames})

    def document(self, video: str) -> Document:
        described = self.files.get(f"{video}.json")
        metadata = texts.read_metadata(described) if described else texts.Metadata()
        speech, frames = self.speech.get(video), self.frames.get(video)
        found = {
            Modality.ASR: texts.asr_text(speech) if speech else None,
            Modality.OCR: texts.ocr_text(frames, video) if frames else None,
            Modality.DESCRIPTION: metadata.description,
        }
        names = {modality: video + suffix for modality, suffix in _MEDIA.items()}
        return Document(
            video,
            texts={modality: text for modality, text in found.items() if text},
            media={m: (self.files[name],) for m, name in names.items() if name in self.files},
            title=metadata.title,
            attributes={"language": metadata.language} if metadata.language else {},
        )


def write_split(root: Path, split: str, writer: DatasetWriter, progress: Progress) -> None:
    """Read one split of the official layout in `root` into a dataset store.

    Raises
    ------
    DataError
        If something is missing or broken; names file, line and remedy.
    """
    layout = Layout(root, split)
    queries = read_queries(layout.root, split)
    qrels, repeated = read_qrels(
        layout.root, split, {query.id for query in queries}, set(layout.videos)
    )
    writer.write_split(split, layout.documents(progress), queries, qrels)
    layout.counts["judgments_repeated"] = repeated
    writer.counts |= {f"{split}_{name}": count for name, count in layout.counts.items()}


def _entries(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the entries of a shard's feature folder by video id."""
    if not folder.is_dir():
        return {}
    return {
        path.name.removesuffix(suffix): path
        for path in folder.iterdir()
        if path.name.endswith(suffix) and not path.name.startswith(".")
    }
