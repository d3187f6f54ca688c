"""The media of documents, decoded ahead of whoever uses them; what is damaged, by a policy."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, UsageError
from harness.media.audio import read_audio
from harness.media.cache import FrameCache
from harness.media.damage import DamagedMediaError, DamageKind, describe
from harness.media.image import read_image
from harness.media.values import AudioSampling, Frames, FrameSampling, Waveform
from harness.media.video import read_frames
from harness.types import Document, Media, Modality

log = logging.getLogger("clamr_bench.media")

T = TypeVar("T")

DamagePolicy = Literal["fail", "skip-modality", "skip-document"]
"""What a damaged file does. ``fail``: the error is raised. ``skip-modality``: the document goes on
without that modality. ``skip-document``: it goes on without any, so that nothing ranks it."""

#: Documents decoded ahead, for each worker.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a document that could not be used."""

    modality: Modality
    file: Media
    kind: DamageKind
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class LoadedDocument:
    """A document with its media decoded.

    Attributes
    ----------
    document
        The document, without what the policy took away.
    frames, waveform, images
        Its video, sound and images; None or empty where it has none, or they were not asked for.
    damaged
        What could not be used.
    """

    document: Document
    frames: Frames | None = None
    waveform: Waveform | None = None
    images: tuple[NDArray[np.uint8], ...] = ()
    damaged: tuple[Damage, ...] = ()


@dataclass(slots=True)
class DamageReport:
    """Counts over the documents loaded so far.

    Attributes
    ----------
    damaged
        ``{modality: {kind: files}}``.
    skipped
        Documents that lost every modality by the policy ``skip-document``.
    lost_frames
        Chosen frames that could not be decoded, of videos that were used.
    silent
        Sounds that were used and hold silence.
    decoding, waiting
        Seconds that the workers decoded, all together, and that the consumer waited for them.
    """

    damaged: dict[str, Counter[DamageKind]] = field(default_factory=dict)
    skipped: int = 0
    lost_frames: int = 0
    silent: int = 0
    decoding: float = 0.0
    waiting: float = 0.0

    def counts(self) -> dict[str, Any]:
        """Return what does not depend on the machine, as JSON values."""
        return {
            "damaged": {
                name: dict(sorted(row.items())) for name, row in sorted(self.damaged.items())
            },
            "skipped_documents": self.skipped,
            "lost_frames": self.lost_frames,
            "silent": self.silent,
        }


class MediaLoader:
    """Decodes the media of documents in threads, ahead of the consumer and in order.

    FFmpeg decodes without holding Python's lock, so threads do as well as processes (1.9 times one
    thread on two cores) and need neither pickling nor copying.

    Parameters
    ----------
    frames
        How videos are sampled; None leaves them unread.
    audio
        How sound is read; None leaves it unread.
    images
        Whether images are read.
    on_damaged
        What a damaged file does.
    workers
        Threads; the number of usable cores if None.
    cache
        Where decoded frames are kept; None keeps none.
    key_frames
        Returns the numbers of a document's key frames, for sampling by them.

    Attributes
    ----------
    report
        What was found so far.
    """

    def __init__(
        self,
        *,
        frames: FrameSampling | None = None,
        audio: AudioSampling | None = None,
        images: bool = False,
        on_damaged: DamagePolicy = "fail",
        workers: int | None = None,
        cache: FrameCache | None = None,
        key_frames: Callable[[Document], Sequence[int] | None] | None = None,
    ) -> None:
        if on_damaged not in ("fail", "skip-modality", "skip-document"):
            raise UsageError(
                f"on_damaged = {on_damaged!r}: choose fail, skip-modality or skip-document."
            )
        if workers is not None and workers < 1:
            raise UsageError(f"workers = {workers}: it must be 1 or more.")
        self._frames, self._audio, self._images = frames, audio, images
        self._policy, self._cache, self._key_frames = on_damaged, cache, key_frames
        self._workers = workers or _cores()
        self.report = DamageReport()

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what determines the output: for fingerprints."""
        return {
            "frames": self._frames and self._frames.identity(),
            "audio": self._audio and self._audio.identity(),
            "images": self._images,
            "on_damaged": self._policy,
        }

    def load(self, documents: Iterable[Document]) -> Iterator[LoadedDocument]:
        """Yield the documents in their order, their media decoded.

        At most ``2 * workers`` documents are held decoded. Closing the iterator, or Ctrl-C, drops
        what was not begun; what is being decoded comes to its end first.

        Raises
        ------
        DamagedMediaError
            By the policy ``fail``, at the first document with a damaged file.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="media")
        pending: deque[Future[_Decoded]] = deque()
        try:
            for document in documents:
                pending.append(pool.submit(self._decode, document))
                if len(pending) > _AHEAD * self._workers:
                    yield self._settled(pending.popleft())
            while pending:
                yield self._settled(pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, document: Document) -> _Decoded:
        """Read what was asked for; runs in a worker."""
        begun = time.perf_counter()
        decoded = _Decoded(document)
        media = document.media
        if self._frames is not None and (files := media.get(Modality.VIDEO)):
            decoded.frames = decoded.attempt(Modality.VIDEO, lambda: self._video(document, files))
        if self._audio is not None and (sounds := media.get(Modality.AUDIO)):
            decoded.waveform = decoded.attempt(Modality.AUDIO, lambda: self._sound(sounds))
        if self._images and (pictures := media.get(Modality.IMAGE)):
            read = decoded.attempt(Modality.IMAGE, lambda: tuple(map(read_image, pictures)))
            decoded.images = read or ()
        decoded.seconds = time.perf_counter() - begun
        return decoded

    def _video(self, document: Document, files: Sequence[Media]) -> Frames:
        sampling = self._frames or FrameSampling()
        key_frames = self._key_frames(document) if self._key_frames else None
        if self._cache is None or not all(file.path.exists() for file in files):
            return read_frames(files, sampling, key_frames)
        path = self._cache.path(files, sampling, key_frames)
        frames = self._cache.load(path)
        if frames is None:
            frames = read_frames(files, sampling, key_frames)
            self._cache.save(path, frames)
        return frames

    def _sound(self, files: Sequence[Media]) -> Waveform:
        if len(files) > 1:
            raise DataError(
                f"a document's sound is {len(files)} files, {describe(files[0])} and on: give one."
            )
        sampling = self._audio or AudioSampling()
        return read_audio(files[0], sampling.rate, sampling.max_seconds)

    def _settled(self, future: Future[_Decoded]) -> LoadedDocument:
        """Apply the policy, count and log; runs where the documents are used, in their order."""
        begun = time.perf_counter()
        decoded = future.result()
        self.report.waiting += time.perf_counter() - begun
        self.report.decoding += decoded.seconds
        for modality, error in decoded.errors.items():
            self.report.damaged.setdefault(modality.label, Counter())[error.kind] += 1
            log.warning(
                "document %s: %s is damaged (%s): %s: %s",
                decoded.document.id, modality.label, error.kind, describe(error.file), error.reason,
            )  # fmt: skip
        if decoded.errors and self._policy == "fail":
            raise next(iter(decoded.errors.values()))
        document, damaged = decoded.document, decoded.damaged()
        if decoded.errors and self._policy == "skip-document":
            self.report.skipped += 1
            return LoadedDocument(document.only(frozenset()), damaged=damaged)
        if decoded.frames is not None:
            self.report.lost_frames += decoded.frames.lost
        if decoded.waveform is not None and decoded.waveform.silent:
            self.report.silent += 1
            log.info("document %s: its sound is silence", document.id)
        return LoadedDocument(
            document.only(document.modalities - decoded.errors.keys()),
            decoded.frames, decoded.waveform, decoded.images, damaged,
        )  # fmt: skip


class _Decoded:
    """What a worker made of a document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.frames: Frames | None = None
        self.waveform: Waveform | None = None
        self.images: tuple[NDArray[np.uint8], ...] = ()
        self.errors: dict[Modality, DamagedMediaError] = {}
        self.seconds = 0.0

    def attempt(self, modality: Modality, read: Callable[[], T]) -> T | None:
        """Return what `read` returns; None, and the error kept, if the file is damaged."""
        try:
            return read()
        except DamagedMediaError as error:
            self.errors[modality] = error
            return None

    def damaged(self) -> tuple[Damage, ...]:
        """Return the errors as values."""
        return tuple(
            Damage(modality, error.file, error.kind, error.reason)
            for modality, error in self.errors.items()
        )


def _cores() -> int:
    """Return the cores that this process may use, which in a container are fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
