"""The documents of one split of MultiVENT 2.0, shard by shard.

Every video of the ids file becomes a document; without an ids file, every video that is found or
that a query is about. What a video lacks is absent from its document and counted as a gap, and so
is a folder that concerns all videos. Texts that the release's files lack come from CLaMR's dataset
folders where there are some.

The layout is that of the MultiVENT 2.0 release (Kriz et al., arXiv 2410.11619), as far as its
public parts and the scripts that read it show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from harness.dataset import Portion
from harness.types import Document, Media, Modality
from harness.workspace import digest
from tasks.multivent import texts
from tasks.multivent.archives import Gap
from tasks.multivent.clamr_forms import ClamrForms
from tasks.multivent.frames import KeyFrames
from tasks.multivent.reading import INFO, ReadAhead, ShardFiles
from tasks.multivent.shards import Shards

#: Videos without a shard that are written together.
_PORTION = 2048

_MEDIA = {Modality.VIDEO: ".mp4", Modality.AUDIO: ".m4a"}
_SUFFIXES = (*_MEDIA.values(), INFO)
_WANTED = {
    Modality.VIDEO: "videos without a video file",
    Modality.AUDIO: "videos without a sound file",
    Modality.ASR: "videos without speech",
    Modality.OCR: "videos without screen text",
}


class Videos:
    """The videos of one split.

    Parameters
    ----------
    shards
        Where the release's files lie.
    split
        ``train`` or ``test``.
    listed
        Ids of the split's videos; None if there is no ids file.
    named
        Ids that queries and judgments name.
    key_frames, clamr
        Other files about the same videos.
    gap
        Counts what is missing.
    """

    def __init__(
        self,
        shards: Shards,
        split: str,
        *,
        listed: Sequence[str] | None,
        named: Sequence[str],
        key_frames: KeyFrames,
        clamr: ClamrForms,
        gap: Gap,
    ) -> None:
        self._shards, self._gap = shards, gap
        self._listed = None if listed is None else frozenset(listed)
        self._expected = list(dict.fromkeys(named if listed is None else listed))
        self._key_frames, self._clamr = key_frames, clamr
        folders = {
            "no folder of videos": (shards.media, f"{split}/"),
            "no folder of speech": (shards.speech, f"features/{split}/.../{texts.ASR_FOLDER}/"),
            "no folder of screen text": (
                shards.frames,
                f"features/{split}/.../{texts.OCR_FOLDER}/",
            ),
        }
        for kind, (found, name) in folders.items():
            if not found:
                gap(kind, name)
        if listed is None:
            gap("no ids file", f"multivent_2_{split}_ids.csv")
        if key_frames.folders and not key_frames.numbers:
            gap("extracted frames without a key-frame mapping", str(key_frames.folders[0]))
        # Whether a video can be expected to have a modality at all.
        self._kinds = {
            Modality.VIDEO: bool(shards.media),
            Modality.AUDIO: bool(shards.media),
            Modality.ASR: bool(shards.speech),
            Modality.OCR: bool(shards.frames),
        }

    def portions(
        self, written: Callable[[], Collection[str]], advance: Callable[[], None]
    ) -> Iterator[Portion]:
        """Yield the shards, and then the videos that no shard has.

        Parameters
        ----------
        written
            Returns the ids of the documents that are written so far.
        advance
            Called after every document.
        """
        other = (*self._key_frames.mappings, *self._key_frames.folders, *self._clamr.files)
        stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in other]
        about = digest([self._listed is None, self._expected, stamps])

        def counted(documents: Iterator[Document]) -> Iterator[Document]:
            for document in documents:
                yield document
                advance()

        shards = list(self._shards.by_name.items())
        with ReadAhead([shard for _, shard in shards]) as files:
            for number, (name, shard) in enumerate(shards):
                read = partial(self._of_shard, name, partial(files, number))
                yield Portion(name, digest([about, shard.key()]), lambda read=read: counted(read()))  # type: ignore[misc]
        for start in range(0, len(self._expected), _PORTION):
            videos = self._expected[start : start + _PORTION]
            read = partial(self._without_shard, videos, written)
            name = f"videos without a shard from {start:,}"
            yield Portion(name, digest([about, start]), lambda read=read: counted(read()))  # type: ignore[misc]

    def _of_shard(self, shard: str, read: Callable[[], ShardFiles]) -> Iterator[Document]:
        files = read()
        for kind, example in files.gaps:
            self._gap(kind, example)
        names = [name.rpartition(".")[0] for name in files.media if name.endswith(_SUFFIXES)]
        for video in sorted({*names, *files.speech, *files.screen}):
            if self._listed is not None and video not in self._listed:
                self._gap("videos that the ids file does not list", f"{video} in {shard}")
            else:
                yield self._document(video, files)

    def _without_shard(
        self, videos: Sequence[str], written: Callable[[], Collection[str]]
    ) -> Iterator[Document]:
        there = written()
        for video in videos:
            if video not in there:
                if self._clamr.row(video) is None:
                    self._gap("videos without any file", video)
                    yield Document(video, attributes=self._numbers(video))
                else:
                    yield self._document(video, ShardFiles())

    def _document(self, video: str, files: ShardFiles) -> Document:
        metadata = files.metadata.get(video, texts.Metadata())
        row = self._clamr.row(video)
        found = {
            Modality.ASR: files.speech.get(video),
            Modality.OCR: self._screen_text(video, files),
            Modality.DESCRIPTION: metadata.description,
        }
        media: dict[Modality, tuple[Media, ...]] = {
            modality: (files.media[video + suffix],)
            for modality, suffix in _MEDIA.items()
            if video + suffix in files.media
        }
        frames = self._frames(video, row.images if row else ())
        if frames:
            media[Modality.VIDEO] = frames
        if row is not None:
            found = {modality: found[modality] or row.texts.get(modality) for modality in found}
            if row.embedded:
                self._gap("images that are embedded in a dataset folder", video)
        has = {
            Modality.ASR: video in files.speech or bool(found[Modality.ASR]),
            Modality.OCR: video in files.screen or bool(found[Modality.OCR]),
        }
        for modality, kind in _WANTED.items():
            if self._kinds[modality] and not has.get(modality, modality in media):
                self._gap(kind, video)
        if self._shards.media and video not in files.metadata:
            self._gap("videos without metadata", video)
        attributes = {"language": metadata.language} if metadata.language else {}
        return Document(
            video,
            texts={modality: text for modality, text in found.items() if text},
            media=media,
            title=metadata.title or (row.title if row else None),
            attributes=attributes | ({} if frames else self._numbers(video)),
        )

    def _screen_text(self, video: str, files: ShardFiles) -> str | None:
        screen = files.screen.get(video)
        if screen is None:
            return None
        listed = self._key_frames.listed(video)
        if listed is not None:
            known = frozenset(listed)
            for number in screen.frames:
                if number not in known:
                    self._gap(
                        "screen text of frames that the key-frame mapping does not list",
                        f"{video}, frame {number}",
                    )
        return screen.text

    def _frames(self, video: str, images: Sequence[str]) -> tuple[Media, ...]:
        """Return the extracted frames of a video: by the mapping, else as a dataset lists them."""
        frames, missing = self._key_frames.frames(video)
        if not frames and not missing:
            for image in images:
                media = self._key_frames.frame(Path(image).name)
                if media is None:
                    missing.append(image)
                else:
                    frames.append(media)
        for name in missing:
            self._gap("key frames without a file", name)
        return tuple(frames)

    def _numbers(self, video: str) -> dict[str, str]:
        numbers = self._key_frames.numbers.get(video)
        return {"key_frames": numbers[1]} if numbers and numbers[1] else {}
