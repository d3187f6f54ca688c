"""The sample on disk: generated in the official layout, prepared, decoded; killed, damaged."""

from __future__ import annotations

import csv
import errno
import io
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from harness.dataset import DatasetStore
from harness.errors import StorageError, UsageError
from harness.progress import Progress
from harness.registry import make_task
from harness.types import Document, Modality
from harness.workspace import digest
from tasks.multivent.archives import read_bytes
from tasks.sample import encode, generate, render
from tasks.sample.facts import HELD_OUT, Scene, Thing
from tasks.sample.task import MultiVENTSample
from tasks.sample.videos import TEXTS
from tasks.sample.vocabulary import LANGUAGES, SHAPES, wordings

SMALL = {"test_videos": 12, "train_videos": 24, "audio_queries": True}
TINY = {"test_videos": 2, "train_videos": 2}


def task_of(settings: dict[str, Any]) -> MultiVENTSample:
    task = make_task("multivent/sample", settings)
    assert isinstance(task, MultiVENTSample)
    return task


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """A small sample."""
    folder = tmp_path_factory.mktemp("sample") / "store"
    return DatasetStore(task_of(SMALL).prepare([], folder, Progress()))


@pytest.fixture(scope="module")
def everything(prepared: DatasetStore) -> dict[str, list[Document]]:
    return {split: list(prepared.documents(split)) for split in ("test", "train")}


def facts_of(prepared: DatasetStore, split: str, document: Document) -> Any:
    """What the metadata JSON says that a video shows; read as it lies, not by the reader."""
    folder = prepared.media_roots[0] / split
    if split == "test":
        return json.loads((folder / "000001" / f"{document.id}.json").read_text("utf-8"))
    content = (folder / "000001.tar").read_bytes()
    start = content.index(f'{{"yt_meta_dict": {{"info": {{"id": "{document.id}"'.encode())
    return json.loads(content[start : content.index(b"\0", start)])


def decoded(document: Document) -> NDArray[np.uint8]:
    (media,) = document.media[Modality.VIDEO]
    with av.open(io.BytesIO(read_bytes(media))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == render.FRAMES_PER_SECOND
    return np.stack(frames)


def heard(document: Document, modality: Modality) -> NDArray[np.float32]:
    (media,) = document.media[modality]
    with av.open(io.BytesIO(read_bytes(media))) as container:
        assert container.streams.audio[0].rate == render.SAMPLE_RATE
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


# --- the prepared store ---------------------------------------------------------------------------


def test_every_document_has_every_modality(prepared: DatasetStore) -> None:
    for split, count in (("test", 12), ("train", 24)):
        coverage = prepared.split(split).coverage
        labels = ("video", "audio", "asr", "ocr", "description")
        assert coverage.modalities == dict.fromkeys(labels, count)
        assert set(coverage.languages) == set(LANGUAGES)
    assert prepared.check() == []
    assert prepared.check_media() == []


def test_queries_state_type_target_and_language(prepared: DatasetStore) -> None:
    split = prepared.split("test")
    assert {q.attributes["query_type"] for q in split.queries} == {
        "video",
        "asr",
        "ocr",
        "description",
        "joint",
        "audio",
    }
    for query in split.queries:
        assert query.attributes["language"] in LANGUAGES
        assert query.attributes["target"]
        assert set(split.qrels[query.id].values()) == {1}
    assert all(len(row) == 1 for row in split.qrels.values())
    train = prepared.split("train")
    assert len(train.queries) == len(train.qrels) == 24 * 4 * 6


def test_the_files_of_training_hold_nothing_of_test(
    prepared: DatasetStore, everything: dict[str, list[Document]]
) -> None:
    """Read from what lies on disk: scenes from the metadata, concepts from the texts."""
    combinations: dict[str, set[tuple[str, ...]]] = {}
    triples: dict[str, set[tuple[Modality, frozenset[int]]]] = {}
    for split, documents in everything.items():
        combinations[split], triples[split] = set(), set()
        for document in documents:
            scene = facts_of(prepared, split, document)["sample_facts"]["scene"]
            combinations[split] |= {
                (t["colour"], t["shape"], t["direction"], scene["background"])
                for t in scene["things"]
            }
            for modality in TEXTS:
                text = document.texts[modality].lower()
                known = wordings(modality, document.attributes["language"])
                spoken = {
                    concept
                    for concept, pair in known.items()
                    if any(re.search(rf"\b{word}\b", text) or _inside(word, text) for word in pair)
                }
                assert len(spoken) == 3
                triples[split].add((modality, frozenset(spoken)))
    assert not combinations["test"] & combinations["train"]
    assert not triples["test"] & triples["train"]
    assert not {(colour, shape) for colour, shape, *_ in combinations["train"]} & HELD_OUT


def _inside(word: str, text: str) -> bool:
    """Chinese and Korean texts put no space around each word."""
    return word[0] > "ᄀ" and word in text


def files_of(store: DatasetStore) -> dict[str, bytes]:
    (root,) = store.media_roots
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_the_same_settings_give_the_same_bytes_and_fingerprints(
    prepared: DatasetStore, tmp_path: Path
) -> None:
    again = DatasetStore(task_of(SMALL).prepare([], tmp_path / "again", Progress()))
    assert files_of(again) == files_of(prepared)
    other = DatasetStore(task_of({**TINY, "seed": 1}).prepare([], tmp_path / "o", Progress()))
    for split in ("test", "train"):
        assert again.manifest.fingerprint(split) == prepared.manifest.fingerprint(split)
        assert other.manifest.fingerprint(split) != prepared.manifest.fingerprint(split)


def test_what_is_generated_changes_only_with_its_version(
    prepared: DatasetStore, everything: dict[str, list[Document]]
) -> None:
    """Other texts than these need another `generate.VERSION`, and then another digest here."""
    content = [
        [
            split,
            [[d.id, [d.texts[m] for m in sorted(d.texts)]] for d in everything[split]],
            [[query.id, query.text] for query in prepared.queries(split)],
        ]
        for split in ("test", "train")
    ]
    assert (generate.VERSION, digest(content)[:16]) == (1, "3fa294197a162677")


def test_another_seed_gives_other_texts(tmp_path: Path) -> None:
    stores = [
        DatasetStore(task_of({**TINY, "seed": seed}).prepare([], tmp_path / str(seed), Progress()))
        for seed in (0, 1)
    ]
    texts = [{q.text for q in store.queries("train")} for store in stores]
    assert len(texts[0] & texts[1]) < len(texts[0]) / 2


# --- media ----------------------------------------------------------------------------------------


def test_videos_decode_with_their_sound(everything: dict[str, list[Document]]) -> None:
    for documents in everything.values():
        for document in documents:
            frames = decoded(document)
            assert frames.shape == (render.FRAMES, render.SIZE, render.SIZE, 3)
            for modality in (Modality.VIDEO, Modality.AUDIO):
                sound = heard(document, modality)
                # AAC works in frames of 1,024 samples.
                assert abs(len(sound) - render.SECONDS * render.SAMPLE_RATE) <= 2048
                assert np.abs(sound).max() > 0.1


def test_test_is_unpacked_and_train_lies_in_tars(everything: dict[str, list[Document]]) -> None:
    for split, packed in (("test", False), ("train", True)):
        for document in everything[split]:
            for files in document.media.values():
                assert (files[0].offset is not None) == packed
                assert (files[0].path.suffix == ".tar") == packed


def test_the_text_on_screen_is_what_ocr_reads(
    prepared: DatasetStore, everything: dict[str, list[Document]]
) -> None:
    for document in everything["test"]:
        lines = facts_of(prepared, "test", document)["sample_facts"]["screen"]
        band = render.text_band(lines).astype(int)
        shown = decoded(document)[:, render.SCENE_HEIGHT :].astype(int)
        background = band[-1, -1]
        ink = np.abs(band - background).sum(-1) > 200
        assert ink.sum() > 60
        for frame in shown:
            assert frame[ink].mean() - frame[~ink].mean() > 60  # H.264 blurs the letters a little
            assert np.abs(frame - band).mean() < 12
        folders = prepared.media_roots[0].rglob(f"{document.id}.mp4_frames")
        (frames,) = [sorted(folder.glob("*.png.csv")) for folder in folders]
        assert [path.name.rpartition("_")[2] for path in frames] == [
            f"{n}.png.csv" for n in (0, 3, 6)
        ]
        read = [[row["text"] for row in _csv(path)] for path in frames]
        assert read[0] == lines
        assert all(
            sum(said != line for said, line in zip(r, lines, strict=True)) <= 1 for r in read
        )
        words = " ".join(lines)
        assert document.texts[Modality.OCR].startswith(words)


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
@pytest.mark.parametrize("shape", sorted({shape for _, shape in HELD_OUT}))
def test_things_have_their_colour_and_move_their_way(direction: str, shape: str) -> None:
    scene = Scene((Thing("orange", shape, direction), Thing("cyan", "disc", "left")), "olive")
    for seed in range(5):
        frames = render.render_frames(scene, ["ab"], Random(seed)).astype(int)
        for thing in scene.things:
            places = []
            for frame in frames[:, : render.SCENE_HEIGHT]:
                close = np.abs(frame - render._COLOURS[thing.colour]).max(-1) < 25
                assert close.sum() > 50
                places.append(np.argwhere(close).mean(0))
            down, across = places[-1] - places[0]
            expected = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
            assert np.allclose((down, across), np.array(expected[thing.direction]) * 17.5, atol=1.5)


def test_padding_is_a_box_that_players_skip() -> None:
    for length in (0, 1, 90, 92, 93, 99, 100, 101, 192, 200):
        content = bytes(length)
        filled = encode.padded(content, 100)
        assert len(filled) % 100 == 0
        assert filled.startswith(content)
        box = filled[length:]
        if box:
            assert int.from_bytes(box[:4], "big") == len(box) >= 8
            assert box[4:8] == b"free"


def test_sizes_do_not_depend_on_the_encoder(everything: dict[str, list[Document]]) -> None:
    """One block has room for every file, with a margin for other FFmpeg builds."""
    for documents in everything.values():
        for document in documents:
            for files in document.media.values():
                content = read_bytes(files[0])
                assert len(content) == encode.BLOCK
                assert len(content.rstrip(b"\0")) < 0.75 * encode.BLOCK


def test_a_video_is_the_same_bytes_at_every_attempt_on_every_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left to itself x264 makes several files of these frames, with AVX-512 at least."""
    sound = encode._m4a(np.zeros(render.SAMPLE_RATE, np.float32))
    shown = [
        render.render_frames(
            Scene((Thing("orange", shape, "right"), Thing("cyan", "disc", "left")), "olive"),
            ["one line", "and another"],
            Random(seed),
        )
        for seed, shape in enumerate(SHAPES)
    ]

    def made() -> list[bytes]:
        return [encode._mp4(frames, sound) for frames in shown]

    with ThreadPoolExecutor(2) as threads:
        first, *others = threads.map(lambda _: made(), range(20))
    assert all(other == first for other in others)
    plain = encode._H264["x264-params"] + ":asm=0"
    monkeypatch.setitem(encode._H264, "x264-params", plain)
    assert made() == first


# --- generated when it is needed ------------------------------------------------------------------


def test_the_first_load_generates_and_the_next_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(TINY)
    first = task.load("test", None, Progress())
    monkeypatch.setattr(generate, "generate", None)
    again = task.load("train", None, Progress())
    assert first.dataset == again.dataset == task.default_store
    assert len(again.documents) == 2


def test_each_choice_of_settings_has_a_store_of_its_own() -> None:
    stores = {
        task_of(settings).default_store
        for settings in (TINY, SMALL, {**TINY, "seed": 1}, {**TINY, "audio_queries": True})
    }
    assert len(stores) == 4


@pytest.mark.parametrize("when", ["generating", "preparing"])
def test_a_killed_generation_is_done_again(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    task = task_of(TINY)
    store = task.default_store

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "generating":
            patch.setattr(generate, "_write_csv", killed)
        else:
            patch.setattr(MultiVENTSample, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            task.load("test", None, Progress())
    assert not store.exists()
    # What a process leaves that had no time to clean up.
    partial = store.with_name(f".{store.name}.source.partial")
    partial.mkdir()
    (partial / "half").write_text("a file")
    assert len(task.load("test", None, Progress()).documents) == 2
    assert not partial.exists()


@pytest.mark.parametrize("damage", ["truncated", "no manifest", "no media"])
def test_a_damaged_sample_is_generated_anew(damage: str) -> None:
    task = task_of(TINY)
    before = task.load("test", None, Progress())
    store = task.default_store
    if damage == "truncated":
        path = store / "test" / "documents-00000.parquet"
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "no manifest":
        shutil.rmtree(store)
    else:
        shutil.rmtree(store.with_name(f"{store.name}.source"))
    after = task.load("test", None, Progress())
    assert after.fingerprint == before.fingerprint
    assert DatasetStore(store).check_media() == []


def test_two_at_once_generate_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls, real = task_of(TINY), [], generate.generate
    begun = threading.Event()

    def counted(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        begun.set()
        real(*args, **kwargs)

    notes: list[str] = []

    class Noting(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr(generate, "generate", counted)
    first = threading.Thread(target=task.load, args=("test", None, Progress()))
    first.start()
    assert begun.wait(60)
    assert len(task.load("test", None, Noting()).documents) == 2
    first.join()
    assert len(calls) == 1
    assert "waiting for process" in notes[0]


def test_a_full_disk_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generate, "_write_csv", full)
    task = task_of(TINY)
    with pytest.raises(StorageError, match="disk is full"):
        task.load("test", None, Progress())
    assert not task.default_store.exists()


def test_a_folder_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "store.source" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(StorageError, match=r"store\.source is in the way"):
        task_of(TINY).prepare([], tmp_path / "store", Progress())
    assert mine.read_text() == "mine"


def test_a_generated_source_can_be_prepared_elsewhere(
    prepared: DatasetStore, tmp_path: Path
) -> None:
    task = task_of(SMALL)
    store = task.prepare(prepared.media_roots, tmp_path / "mine", Progress())
    loaded = task.load("test", store, Progress())
    assert loaded.fingerprint == prepared.manifest.fingerprint("test")


@pytest.mark.parametrize("settings", [{"test_videos": 1}, {"train_videos": 0}, {"seed": -1}])
def test_settings_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        task_of(settings)
