"""The media of documents, decoded ahead of whoever uses them; what is damaged, by a policy."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from harness.coverage import DamagePolicy
from harness.errors import DataError, UsageError
from harness.media.cache import FrameCache
from harness.media.damage import DamageKind, describe
from harness.media.values import AudioSampling, Frames, FrameSampling, Waveform
from harness.media.worker import Decoded, Job, decode, start_workers
from harness.team import local_processes
from harness.types import Document, Media, Modality
from harness.workers import Workers, usable_cores

log = logging.getLogger("clamr_bench.media")

_Pending = deque[tuple[Document, Future[Decoded]]]

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


def default_workers() -> int:
    """Return this process's share of the usable cores, at most 8 and at least 1."""
    return max(1, min(usable_cores() // local_processes(), 8))


class MediaLoader:
    """Decodes the media of documents in worker processes, ahead of the consumer and in order.

    Threads would decode as quickly while the consumer is idle, for FFmpeg works without Python's
    lock; but they must take it back after each packet. Beside a consumer that runs Python they took
    2.3 times as long as processes for 720p videos, and 4.7 times for small ones (2 workers).

    Workers are started by ``spawn``, at the first document, and stay until `close`. So a script of
    one's own must guard its work by ``if __name__ == "__main__":``, or ask for no workers.

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
        Processes; 0 decodes in this one, when a document is due. None: see `default_workers`.
    cache
        Where decoded frames are kept; None keeps none.
    key_frames
        Returns the numbers of a document's key frames, for sampling by them.
    losses
        Where to count what could not be used; None makes a counter.

    Attributes
    ----------
    losses
        Files by modality and kind of damage (``video missing``); ``documents skipped``, which
        lost every modality by the policy ``skip-document``; ``frames lost``, which could not be
        decoded, of videos that were used; ``sounds silent``, which were used.
    decoding, waiting
        Seconds that the workers decoded, all together, and that the consumer waited for them.
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
        losses: Counter[str] | None = None,
    ) -> None:
        if on_damaged not in ("fail", "skip-modality", "skip-document"):
            raise UsageError(
                f"on_damaged = {on_damaged!r}: choose fail, skip-modality or skip-document."
            )
        if workers is not None and workers < 0:
            raise UsageError(f"workers = {workers}: it must be 0 or more.")
        self._frames, self._audio, self._images = frames, audio, images
        self._policy, self._cache, self._key_frames = on_damaged, cache, key_frames
        self._workers = default_workers() if workers is None else workers
        self._pool: Workers | None = None
        self._expected: deque[Document] = deque()
        self._begun: _Pending = deque()
        self.losses: Counter[str] = Counter() if losses is None else losses
        self.decoding = self.waiting = 0.0

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what determines the output: for fingerprints."""
        return {
            "frames": self._frames and self._frames.identity(),
            "audio": self._audio and self._audio.identity(),
            "images": self._images,
            "on_damaged": self._policy,
        }

    def expect(self, documents: Iterable[Document]) -> None:
        """Say what comes after the next `load`, so that workers begin on it when they are free."""
        self._expected = deque(documents if self._workers else ())

    def load(self, documents: Iterable[Document]) -> Iterator[LoadedDocument]:
        """Yield the documents in their order, their media decoded.

        At most ``2 * workers`` documents are held decoded, those that are expected included.
        Closing the iterator, or Ctrl-C, drops what was not begun.

        Raises
        ------
        DamagedMediaError
            By the policy ``fail``, at the first document with a damaged file.
        DataError
            If a worker process ends abruptly.
        """
        if not self._workers:
            for document in documents:
                begun = time.perf_counter()
                decoded = decode(self._job(document))
                self.waiting += time.perf_counter() - begun
                yield self._settled(document, decoded)
            return
        pending: _Pending = deque()
        most = _AHEAD * self._workers
        try:
            for document in documents:
                pending.append((document, self._future(document)))
                if len(pending) > most:
                    yield self._settled(*self._awaited(pending))
            while pending:
                while self._expected and len(pending) + len(self._begun) <= most:
                    expected = self._expected.popleft()
                    self._begun.append((expected, self._submitted(expected)))
                yield self._settled(*self._awaited(pending))
        except BaseException:
            self._drop(pending)
            self._drop(self._begun)
            raise

    def close(self) -> None:
        """End the workers; what they are decoding comes to its end first."""
        self._expected.clear()
        self._begun.clear()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _job(self, document: Document) -> Job:
        return Job(
            media=dict(document.media),
            frames=self._frames,
            key_frames=self._key_frames(document) if self._key_frames else None,
            audio=self._audio,
            images=self._images,
            cache=self._cache,
        )

    def _future(self, document: Document) -> Future[Decoded]:
        """Return what a worker makes of a document; perhaps it began when that was expected."""
        if self._begun:
            expected, future = self._begun.popleft()
            if expected.id == document.id and expected.media == document.media:
                return future
            future.cancel()
            self._drop(self._begun)
        return self._submitted(document)

    def _submitted(self, document: Document) -> Future[Decoded]:
        if self._pool is None:
            self._pool = start_workers(self._workers)
        return self._pool.submit(decode, self._job(document))

    def _drop(self, pending: _Pending) -> None:
        for _, future in pending:
            future.cancel()
        pending.clear()

    def _awaited(self, pending: _Pending) -> tuple[Document, Decoded]:
        """Return the next document with what a worker made of it."""
        begun = time.perf_counter()
        document, future = pending[0]
        try:
            decoded = future.result()
        except BrokenProcessPool as error:
            self._pool = None
            self._begun.clear()
            due = ", ".join(document.id for document, _ in list(pending)[: self._workers])
            raise DataError(
                "a worker process that decodes media ended abruptly: out of memory, or a file that "
                f"FFmpeg cannot bear, of one of the documents {due}. Choose fewer workers, or "
                "remove that file."
            ) from error
        pending.popleft()
        self.waiting += time.perf_counter() - begun
        for record in decoded.records:
            if log.isEnabledFor(record.levelno):
                log.handle(record)
        return document, decoded

    def _settled(self, document: Document, decoded: Decoded) -> LoadedDocument:
        """Apply the policy, count and log; done in the order of the documents."""
        self.decoding += decoded.seconds
        damaged = []
        for modality, error in decoded.errors.items():
            damaged.append(Damage(modality, error.file, error.kind, error.reason))
            self.losses[f"{modality.label} {error.kind}"] += 1
            if self._policy == "fail":
                raise error
            log.warning(
                "document %s: %s is damaged (%s): %s: %s",
                document.id, modality.label, error.kind, describe(error.file), error.reason,
            )  # fmt: skip
        if damaged and self._policy == "skip-document":
            self.losses["documents skipped"] += 1
            return LoadedDocument(document.only(frozenset()), damaged=tuple(damaged))
        if decoded.frames is not None and decoded.frames.lost:
            self.losses["frames lost"] += decoded.frames.lost
        if decoded.waveform is not None and decoded.waveform.silent:
            self.losses["sounds silent"] += 1
            log.info("document %s: its sound is silence", document.id)
        return LoadedDocument(
            document.only(document.modalities - decoded.errors.keys()),
            decoded.frames, decoded.waveform, decoded.images, tuple(damaged),
        )  # fmt: skip
