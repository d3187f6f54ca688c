"""Whatever a user has of MSR-VTT -> a dataset store.

Splits of the store, each with documents of its own: ``1k-a``, ``full``, ``mteb``, ``train-9k`` and
``train-7k``. One is there if the file that lists its videos is: ``full`` if there are captions of
its videos. Videos and transcripts are taken where they are; captions alone are enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.dataset import DatasetWriter
from harness.errors import DataError
from harness.progress import Progress
from harness.types import Document, Media, Modality, Query
from tasks.msrvtt.captions import Caption, read_captions, read_list, read_test
from tasks.msrvtt.files import CAPTIONS, MTEB, TEST, TRAIN, Files, number
from tasks.msrvtt.speech import read_speech

#: Videos of each split, as published.
SIZES = {"1k-a": 1_000, "full": 2_990, "mteb": 879, "train-9k": 9_000, "train-7k": 7_010}
#: The first test video of the official split.
FIRST_TEST = 7_010

Captions = Mapping[str, Caption]


def write_msrvtt(
    sources: Sequence[Path],
    writer: DatasetWriter,
    progress: Progress,
    *,
    sizes: Mapping[str, int] = SIZES,
    speech: str = "Whisper, as given",
) -> None:
    """Write every split that `sources` hold.

    Parameters
    ----------
    sources
        Folders, searched in this order.
    writer
        Where the splits go; its media roots are the sources.
    progress
        Where to report.
    sizes
        How many videos a split has; fewer are counted as a gap.
    speech
        What made the transcripts.

    Raises
    ------
    DataError
        If there is no split, or a file is broken; names file, line and remedy.
    """
    sources = [source.absolute() for source in sources]
    files = Files.find(sources)
    splits = _splits(files, writer)
    if not splits:
        raise DataError(
            f"{', '.join(map(str, sources))}: nothing of MSR-VTT is there. Give with --source a "
            f"folder that holds {TEST} (the 1k-A test set) or {' or '.join(CAPTIONS)} (all "
            "captions), and the folder of the videos."
        )
    ids = dict.fromkeys(video for videos, _ in splits.values() for video in videos)
    documents = _Documents(files, ids, writer, progress, speech)
    for name, (videos, captions) in splits.items():
        if len(videos) < sizes.get(name, 0):
            writer.gap(f"{name}: fewer videos than the {sizes[name]:,} published", str(len(videos)))
        queries: list[Query] = [caption.query(key) for key, caption in captions.items()]
        qrels = {key: {caption.video: 1} for key, caption in captions.items()}
        described = {caption.video for caption in captions.values()}
        for video in videos:
            if captions and video not in described:
                writer.gap(f"{name}: videos without captions", video)
        writer.write_split(name, documents.of(name, videos), queries, qrels)
        if queries:
            writer.counts[f"{name}_distinct_captions"] = len({query.text for query in queries})
    for path in (*files.named.values(), *documents.files):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        writer.notes.append(f"{path.name}: sha256 {digest}")


def _splits(files: Files, writer: DatasetWriter) -> dict[str, tuple[list[str], Captions]]:
    """Return the videos of each split, and their captions by id."""
    splits: dict[str, tuple[list[str], Captions]] = {}
    path = files.first(CAPTIONS)
    everything = {} if path is None else read_captions(path)
    if path is None:
        writer.gap("no file of all captions", " or ".join(CAPTIONS))
    if TEST in files.named:
        test = read_test(files.named[TEST])
        splits["1k-a"] = [caption.video for caption in test.values()], test
        splits |= _mteb(files, test)
    else:
        writer.gap("no file of the 1k-A test set", TEST)
    full = sorted((video for video in everything if number(video) >= FIRST_TEST), key=number)
    if full:
        splits["full"] = full, _numbered(full, everything)
    if files.first(list(TRAIN.values())) is None:
        writer.gap("no list of training videos", " or ".join(TRAIN.values()))
    for length, name in TRAIN.items():
        if name not in files.named:
            continue
        videos = read_list(files.named[name])
        _check_apart(files, videos, name, splits)
        splits[f"train-{length}"] = videos, _numbered(videos, everything)
    return splits


def _mteb(files: Files, test: Captions) -> dict[str, tuple[list[str], Captions]]:
    path = files.first(MTEB)
    if path is None:
        return {}
    videos = read_list(path)
    known = {caption.video: (key, caption) for key, caption in test.items()}
    for video in videos:
        if video not in known:
            raise DataError(
                f"{path}: {video!r} is none of the videos of {files.named[TEST]}, of which it "
                "should list some."
            )
    return {"mteb": (videos, dict(known[video] for video in videos))}


def _check_apart(
    files: Files, videos: Sequence[str], name: str, splits: Mapping[str, tuple[list[str], Captions]]
) -> None:
    """Refuse a training list that names a video of the 1k-A test set."""
    shared = set(videos) & set(splits["1k-a"][0] if "1k-a" in splits else ())
    if shared:
        raise DataError(
            f"{files.named[name]} names {len(shared):,} videos that {files.named[TEST]} has too "
            f"(first: {min(shared, key=number)}): the files are not of one version."
        )


def _numbered(videos: Iterable[str], captions: Mapping[str, Sequence[Caption]]) -> Captions:
    """Return the captions of some videos, by the video's id and their number."""
    return {
        f"{video}-{place}": caption
        for video in videos
        for place, caption in enumerate(captions.get(video, ()))
    }


class _Documents:
    """What is there of the videos.

    Parameters
    ----------
    files
        Where it lies.
    videos
        Ids of all videos of all splits.
    writer, progress, speech
        As for `write_msrvtt`.
    """

    def __init__(
        self,
        files: Files,
        videos: Iterable[str],
        writer: DatasetWriter,
        progress: Progress,
        speech: str,
    ) -> None:
        self._writer = writer
        self.files = list(files.speech[:1])
        if len(files.speech) > 1:
            raise DataError(
                f"{files.speech[0]} and {files.speech[1]} are both transcripts by their names: "
                "keep one in the source folders."
            )
        self._words = {} if not self.files else read_speech(self.files[0])
        if self.files:
            writer.channels["asr"] = speech
        else:
            writer.gap("no file of transcripts", "*whisper*.csv, .json or .jsonl")
        self._any = bool(files.videos or files.frames)
        if not self._any:
            writer.gap("no videos and no frames", "video0.mp4, or a folder video0 of frames")
        found = {video: files.video(video) for video in videos}
        self._media = {video: media for video, media in found.items() if media}
        whole = {video: media[0] for video, media in self._media.items() if video in files.videos}
        self._heard = _heard(whole, progress)
        if whole:
            writer.counts["videos_without_sound"] = len(whole) - len(self._heard)

    def of(self, split: str, videos: Iterable[str]) -> Iterable[Document]:
        """Yield the documents of a split."""
        for video in videos:
            media = {}
            if video in self._media:
                media[Modality.VIDEO] = self._media[video]
            elif self._any:
                self._writer.gap(f"{split}: videos without a file", video)
            if video in self._heard:
                media[Modality.AUDIO] = self._media[video]
            if self._words and video not in self._words:
                self._writer.gap(f"{split}: videos without a transcript", video)
            words = self._words.get(video)
            yield Document(video, {Modality.ASR: words} if words else {}, media)


def _heard(videos: Mapping[str, Media], progress: Progress) -> set[str]:
    """Return which of the files have sound; what cannot be opened may have, and shows in a run."""
    if not videos:
        return set()
    from harness.media.audio import has_sound

    with (
        progress.stage("looking for sound", len(videos)) as advance,
        ThreadPoolExecutor(8) as threads,
    ):
        found = set()
        for video, heard in zip(videos, threads.map(has_sound, videos.values()), strict=True):
            advance()
            if heard:
                found.add(video)
    return found
