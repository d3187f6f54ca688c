"""Loading documents: in order, ahead, by a damage policy that counts and names what it skips."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from harness.errors import DataError, UsageError
from harness.media import (
    AudioSampling,
    DamagedMediaError,
    DamagePolicy,
    FrameCache,
    FrameSampling,
    MediaLoader,
    read_frames,
    video,
    worker,
)
from harness.types import Document, Media, Modality
from tests.media_files import media, plain, sine, write_sound, write_video

SAMPLING = FrameSampling(count=3)


def collection(folder: Path, count: int = 6) -> list[Document]:
    """Documents of a video of `n + 1` frames, a sound, an image and a text."""
    documents = []
    for n in range(count):
        clip = write_video(folder / f"{n}.mp4", plain(n + 1))
        sound = write_sound(
            folder / f"{n}.m4a", sine(300 + n, 16_000, 1)[None], 16_000, "aac", "fltp", "mono"
        )
        Image.new("RGB", (4, n + 1)).save(folder / f"{n}.png")
        files = {
            Modality.VIDEO: (media(clip),),
            Modality.AUDIO: (media(sound),),
            Modality.IMAGE: (media(folder / f"{n}.png"),),
        }
        documents.append(Document(f"d{n}", {Modality.ASR: "words"}, files))
    return documents


def loader(workers: int, on_damaged: DamagePolicy = "fail") -> MediaLoader:
    return MediaLoader(
        frames=SAMPLING, audio=AudioSampling(), images=True, on_damaged=on_damaged, workers=workers
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_documents_come_in_order_with_their_media(tmp_path: Path, workers: int) -> None:
    documents = collection(tmp_path)
    with loader(workers) as media_loader:
        for _ in range(2):  # the workers stay for the next batch
            loaded = list(media_loader.load(documents))
            assert [item.document for item in loaded] == documents
            for n, item in enumerate(loaded):
                assert item.frames is not None
                assert item.waveform is not None
                expected = read_frames(documents[n].media[Modality.VIDEO], SAMPLING)
                np.testing.assert_array_equal(item.frames.pixels, expected.pixels)
                assert item.waveform.seconds == pytest.approx(1, abs=0.1)
                assert [picture.shape for picture in item.images] == [(n + 1, 4, 3)]
                assert item.damaged == ()
    assert media_loader.losses == {}
    assert media_loader.decoding > 0


def test_workers_begin_on_what_is_expected(tmp_path: Path) -> None:
    documents = collection(tmp_path, 12)
    with loader(1) as media_loader:
        media_loader.expect(documents[4:])
        assert [item.document.id for item in media_loader.load(documents[:4])] == [
            "d0", "d1", "d2", "d3",
        ]  # fmt: skip
        assert [document.id for document, _ in media_loader._begun] == ["d4", "d5"]
        # The files of what was begun may go: it is decoded, and is not decoded twice.
        for _, future in media_loader._begun:
            future.result()
        for name in ("4.mp4", "5.mp4"):
            (tmp_path / name).unlink()
        loaded = list(media_loader.load(documents[4:8]))
        assert [item.document for item in loaded] == documents[4:8]
        assert all(item.frames is not None for item in loaded)


def test_what_was_expected_in_vain_is_dropped(tmp_path: Path) -> None:
    documents = collection(tmp_path, 8)
    with loader(1) as media_loader:
        media_loader.expect(documents[2:4])
        list(media_loader.load(documents[:2]))
        loaded = list(media_loader.load(documents[5:]))
        assert [item.document for item in loaded] == documents[5:]
        media_loader.expect(documents[:1])
        list(media_loader.load([]))
        assert media_loader.losses == {}


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    gone = Media(tmp_path / "gone.mp4", "gone.mp4", 5)
    document = Document("d", media=dict.fromkeys((Modality.VIDEO, Modality.AUDIO), (gone,)))
    (loaded,) = MediaLoader(workers=0).load([document])
    assert (loaded.frames, loaded.waveform, loaded.document) == (None, None, document)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_by_policy(tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    documents = collection(tmp_path, 4)
    (tmp_path / "1.mp4").write_bytes(b"")
    (tmp_path / "2.m4a").unlink()
    (tmp_path / "2.png").write_text("no image")
    caplog.set_level(logging.WARNING)

    with loader(workers, "skip-modality") as media_loader:
        loaded = list(media_loader.load(documents))
    assert [item.document.id for item in loaded] == ["d0", "d1", "d2", "d3"]
    assert loaded[1].document.modalities == documents[1].modalities - {Modality.VIDEO}
    assert loaded[1].waveform is not None
    assert [(d.modality, d.kind) for d in loaded[2].damaged] == [
        (Modality.AUDIO, "missing"),
        (Modality.IMAGE, "corrupt"),
    ]
    assert media_loader.losses == {"audio missing": 1, "image corrupt": 1, "video empty": 1}
    for name in ("1.mp4", "2.m4a", "2.png", "d1", "d2"):
        assert name in caplog.text

    with loader(workers, "skip-document") as media_loader:
        loaded = list(media_loader.load(documents))
    assert [item.document.modalities == frozenset() for item in loaded] == [
        False,
        True,
        True,
        False,
    ]
    assert [item.frames is None for item in loaded] == [False, True, True, False]
    assert media_loader.losses["documents skipped"] == 2

    with loader(workers) as media_loader:
        arriving = media_loader.load(documents)
        assert next(arriving).document.id == "d0"
        with pytest.raises(DamagedMediaError, match=r"1\.mp4"):
            next(arriving)


@pytest.mark.parametrize("workers", [0, 1])
def test_lost_frames_and_silence_are_counted(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clip = write_video(tmp_path / "v.mp4", plain(5))
    sound = write_sound(
        tmp_path / "v.wav", np.zeros((1, 800), np.float32), 16_000, "pcm_s16le", "s16", "mono"
    )
    document = Document(
        "d", media={Modality.VIDEO: (media(clip),), Modality.AUDIO: (media(sound),)}
    )
    with MediaLoader(
        frames=FrameSampling("key_frames"),
        audio=AudioSampling(),
        workers=workers,
        key_frames=lambda document: [1, 99] if document.id == "d" else None,
    ) as media_loader:
        (loaded,) = media_loader.load([document])
    assert loaded.frames is not None
    assert loaded.frames.numbers.tolist() == [1]
    assert loaded.document == document
    assert media_loader.losses == {"frames lost": 1, "sounds silent": 1}
    assert "1 of 2 chosen frames are lost" in caplog.text  # said in a worker, logged here
    assert "silence" in caplog.text


def test_no_more_is_decoded_than_is_ahead(tmp_path: Path) -> None:
    documents = collection(tmp_path, 1) * 40
    taken = 0

    def counted() -> Iterator[Document]:
        nonlocal taken
        for document in documents:
            taken += 1
            yield document

    with MediaLoader(frames=SAMPLING, workers=2) as media_loader:
        arriving = media_loader.load(counted())
        for consumed in range(1, 6):
            next(arriving)
            assert taken <= consumed + 2 * 2
        arriving.close()  # what was not begun is dropped
    assert taken < 12


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="skip-modality"):
        MediaLoader(on_damaged="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="workers = -1"):
        MediaLoader(workers=-1)
    file = Media(tmp_path / "a.wav", "a.wav", 1)
    with pytest.raises(DataError, match="2 files"):
        list(
            MediaLoader(audio=AudioSampling(), workers=0).load(
                [Document("d", media={Modality.AUDIO: (file, file)})]
            )
        )


def test_identity_names_all_that_matters() -> None:
    base = MediaLoader(workers=0).identity()
    others = (
        MediaLoader(frames=SAMPLING, workers=0),
        MediaLoader(audio=AudioSampling(), workers=0),
        MediaLoader(images=True, workers=0),
        MediaLoader(on_damaged="skip-modality", workers=0),
    )
    assert all(other.identity() != base for other in others)
    assert MediaLoader(workers=5).identity() == base


def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    documents = collection(tmp_path, 1) * 30
    with MediaLoader(frames=SAMPLING, workers=1) as media_loader:
        arriving = media_loader.load(documents)
        next(arriving)
        (child,) = [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
        child.kill()
        with pytest.raises(DataError, match="ended abruptly"):
            list(arriving)
        assert len(list(media_loader.load(documents[:2]))) == 2  # and it can go on


SCRIPT = """
import sys, time
from pathlib import Path
from harness.media import FrameSampling, MediaLoader
from harness.types import Document, Media, Modality

if __name__ == "__main__":
    path = Path(sys.argv[1])
    file = Media(path, path.name, path.stat().st_size)
    documents = (Document(str(n), media={Modality.VIDEO: (file,)}) for n in range(10**6))
    with MediaLoader(frames=FrameSampling(), workers=2) as loader:
        for loaded in loader.load(documents):
            if loaded.document.id == "0":
                print("started", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_consumer(tmp_path: Path, how: signal.Signals) -> None:
    clip = write_video(tmp_path / "v.mp4", plain(5))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, clip],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        # Whatever runs in a shell's background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    if how == signal.SIGINT:  # a terminal sends it to every process of the group
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1, errors  # the consumer's own, no worker's


def test_frames_are_kept_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = collection(tmp_path, 2)
    cache = FrameCache()
    assert cache.folder.is_relative_to(tmp_path / "cache")

    def frames_of(sampling: FrameSampling = SAMPLING) -> list[np.ndarray]:
        loaded = MediaLoader(frames=sampling, workers=0, cache=cache).load(documents)
        return [item.frames.pixels for item in loaded if item.frames is not None]

    fresh = frames_of()
    assert cache.size() > 0

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(worker, "read_frames", never)
        for kept, made in zip(frames_of(), fresh, strict=True):
            np.testing.assert_array_equal(kept, made)
        with pytest.raises(AssertionError):
            frames_of(FrameSampling(count=2))
    # A file that was written again is another one, whatever its size.
    clip = tmp_path / "1.mp4"
    os.utime(clip, ns=(time.time_ns(), clip.stat().st_mtime_ns + 10**9))
    with monkeypatch.context() as patched:
        patched.setattr(worker, "read_frames", never)
        with pytest.raises(AssertionError):
            frames_of()
    # A kept file that is damaged is made again.
    for kept_file in cache.folder.glob("*/*.npz"):
        kept_file.write_bytes(kept_file.read_bytes()[:200])
    np.testing.assert_array_equal(frames_of()[0], fresh[0])
    frames = read_frames(documents[1].media[Modality.VIDEO], SAMPLING)
    found = cache.load(cache.path(documents[1].media[Modality.VIDEO], SAMPLING, None))
    assert found is not None
    np.testing.assert_array_equal(found.pixels, frames.pixels)
    np.testing.assert_array_equal(found.seconds, frames.seconds)
    np.testing.assert_array_equal(found.numbers, frames.numbers)


def test_a_missing_file_is_damage_with_a_cache_too(tmp_path: Path) -> None:
    gone = Media(tmp_path / "gone.mp4", "gone.mp4", 5)
    media_loader = MediaLoader(
        frames=SAMPLING, workers=0, cache=FrameCache(tmp_path / "kept"), on_damaged="skip-modality"
    )
    (loaded,) = media_loader.load([Document("d", media={Modality.VIDEO: (gone,)})])
    assert [damage.kind for damage in loaded.damaged] == ["missing"]


def test_the_logger_is_the_documented_one() -> None:
    assert video.log.name == worker.log.name == "clamr_bench.media"
