"""What a worker process does: decode the media of one document."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.media.audio import read_audio
from harness.media.cache import FrameCache
from harness.media.damage import DamagedMediaError, describe
from harness.media.image import read_image
from harness.media.values import AudioSampling, Frames, FrameSampling, Waveform
from harness.media.video import read_frames
from harness.types import Media, Modality
from harness.workers import Workers

log = logging.getLogger("clamr_bench.media")

T = TypeVar("T")

#: What was logged while a worker decoded a document: the consumer's process logs it.
_records: list[logging.LogRecord] = []


@dataclass(frozen=True, slots=True)
class Job:
    """The media of one document, and what is to be made of them (see `MediaLoader`)."""

    media: Mapping[Modality, tuple[Media, ...]]
    frames: FrameSampling | None
    key_frames: Sequence[int] | None
    audio: AudioSampling | None
    images: bool
    cache: FrameCache | None


@dataclass(slots=True)
class Decoded:
    """What was made of them."""

    frames: Frames | None = None
    waveform: Waveform | None = None
    images: tuple[NDArray[np.uint8], ...] = ()
    errors: dict[Modality, DamagedMediaError] = field(default_factory=dict)
    records: list[logging.LogRecord] = field(default_factory=list)
    seconds: float = 0.0

    def attempt(self, modality: Modality, read: Callable[[], T]) -> T | None:
        """Return what `read` returns; None, and the error kept, if the file is damaged."""
        try:
            return read()
        except DamagedMediaError as error:
            self.errors[modality] = error
            return None


def decode(job: Job) -> Decoded:
    """Decode what the job asks for."""
    begun = time.perf_counter()
    decoded, media = Decoded(), job.media
    if job.frames is not None and Modality.VIDEO in media:
        decoded.frames = decoded.attempt(Modality.VIDEO, lambda: _video(job))
    if job.audio is not None and Modality.AUDIO in media:
        decoded.waveform = decoded.attempt(Modality.AUDIO, lambda: _sound(job))
    if job.images and Modality.IMAGE in media:
        pictures = media[Modality.IMAGE]
        read = decoded.attempt(Modality.IMAGE, lambda: tuple(map(read_image, pictures)))
        decoded.images = read or ()
    decoded.seconds = time.perf_counter() - begun
    decoded.records = _records.copy()
    _records.clear()
    return decoded


def start_workers(count: int) -> Workers:
    """Return processes that decode."""
    return Workers(count, _start_worker, log.getEffectiveLevel())


def _video(job: Job) -> Frames:
    files, sampling = job.media[Modality.VIDEO], job.frames or FrameSampling()
    if job.cache is None or not all(file.path.exists() for file in files):
        return read_frames(files, sampling, job.key_frames)
    path = job.cache.path(files, sampling, job.key_frames)
    frames = job.cache.load(path)
    if frames is None:
        frames = read_frames(files, sampling, job.key_frames)
        job.cache.save(path, frames)
    return frames


def _sound(job: Job) -> Waveform:
    files, sampling = job.media[Modality.AUDIO], job.audio or AudioSampling()
    if len(files) > 1:
        raise DataError(
            f"a document's sound is {len(files)} files, {describe(files[0])} and on: give one."
        )
    return read_audio(files[0], sampling.rate, sampling.max_seconds)


class _Keep(QueueHandler):
    """Keeps records, made fit to travel, until the document is done."""

    def enqueue(self, record: logging.LogRecord) -> None:
        _records.append(record)


def _start_worker(level: int) -> None:
    log.setLevel(level)
    log.propagate = False
    log.addHandler(_Keep(None))  # type: ignore[arg-type]
