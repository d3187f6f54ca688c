"""`clamr-bench data enrich`: Whisper over the sound of a store's documents."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness.dataset.enrich
import harness.media.transcribe
from harness.dataset import DatasetStore, DatasetWriter
from harness.files import exclusive, lock_file
from harness.media import Waveform, read_audio
from harness.media.transcribe import Whisper
from harness.progress import Progress
from harness.registry import make_task
from harness.results import ResultsStore
from harness.types import Document, Media, Modality, Query
from tests.conftest import Command
from tests.media_files import media, plain, sine, write_sound, write_video
from tests.whisper_tiny import save_whisper

ROOT = Path(__file__).parents[1]
TASK = "multivent/sample"
#: A portion of test, and two of train.
VIDEOS = {"test_videos": 2, "train_videos": 3}
SOUNDS = 5
LISTEN = ("--workers", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.dataset.enrich, "PORTION", 2)


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("models") / "whisper-random")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """A small sample; its files lie beside it."""
    folder = tmp_path_factory.mktemp("sample") / "store"
    return DatasetStore(make_task(TASK, VIDEOS).prepare([], folder, Progress()))


def written(folder: Path, store: DatasetStore, *, asr: bool) -> Path:
    """Write the rows of `store` to `folder`, with or without ASR."""
    manifest = store.manifest
    channels = {k: v for k, v in manifest.channels.items() if asr or k != "asr"}
    kept = frozenset(Modality) if asr else frozenset(Modality) - {Modality.ASR}
    with DatasetWriter(
        folder, task=manifest.task, task_version=manifest.task_version,
        media_roots=store.media_roots, channels=channels,
    ) as writer:  # fmt: skip
        writer.carry_over(manifest)
        for name in manifest.splits:
            split = store.split(name)
            documents = [document.only(kept) for document in split.documents]
            writer.write_split(name, documents, split.queries, split.qrels)
    return folder


@pytest.fixture
def mute(sample: DatasetStore, tmp_path: Path) -> Path:
    """The sample without its ASR."""
    return written(tmp_path / "mute", sample, asr=False)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sounds the model was given at each call."""
    calls: list[int] = []
    plain_ = Whisper.transcribe

    def transcribe(self: Whisper, sounds: Sequence[Waveform]) -> list[str]:
        calls.append(len(sounds))
        return plain_(self, sounds)

    monkeypatch.setattr(Whisper, "transcribe", transcribe)
    return calls


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def speech(store: DatasetStore, split: str) -> dict[str, str | None]:
    return {d.id: d.texts.get(Modality.ASR) for d in store.documents(split)}


def without_speech(store: DatasetStore, split: str) -> list[Document]:
    return [d.only(frozenset(Modality) - {Modality.ASR}) for d in store.documents(split)]


def test_every_sound_is_written_down(bench: Command, mute: Path, whisper: Path) -> None:
    before = DatasetStore(mute)
    done = bench("data", "enrich", mute, "--asr", whisper, *LISTEN)
    assert done.status == 0, done.err
    assert "test: listening: 2/2" in done.err
    store = DatasetStore(mute)
    model = Whisper(str(whisper), device="cpu")
    for split in ("test", "train"):
        texts = speech(store, split)
        for document in before.documents(split):
            [file] = document.media[Modality.AUDIO]
            [text] = model.transcribe([read_audio(file, max_seconds=None)])
            assert texts[document.id] == text != ""
        assert without_speech(store, split) == without_speech(before, split)
        assert list(store.queries(split)) == list(before.queries(split))
        assert store.split(split).qrels == before.split(split).qrels
        assert store.manifest.fingerprint(split) != before.manifest.fingerprint(split)
    assert store.manifest.channels == {**before.manifest.channels, "asr": model.version}
    assert model.version.startswith("whisper-random@")
    assert store.manifest.media_roots == before.manifest.media_roots
    assert store.manifest.gaps == before.manifest.gaps
    assert store.manifest.counts["train asr: written down"] == 3
    assert store.manifest.splits["test"].coverage.modalities["asr"] == 2
    assert model.version in done.out
    assert bench("data", "check", mute, "--media").status == 0


def test_results_name_the_model(
    bench: Command, mute: Path, whisper: Path, tmp_path: Path, heard: list[int]
) -> None:
    assert bench("data", "enrich", mute, "--asr", whisper, *LISTEN).status == 0
    run = bench("run", "--task", TASK, "--retriever", "bm25-asr", "--data", mute)
    assert run.status == 0, run.err
    [saved] = ResultsStore(tmp_path / "results").runs()
    assert saved.result.data.channels["asr"].startswith("whisper-random@")
    heard.clear()
    again = bench("data", "enrich", mute, "--asr", whisper, *LISTEN)
    assert again.status == 0, again.err
    assert "this very ASR channel" in again.err
    assert heard == []


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(
    bench: Command, sample: DatasetStore, whisper: Path, tmp_path: Path
) -> None:
    folder = written(tmp_path / "store", sample, asr=True)
    before, new = content(folder), tmp_path / "new"
    command = ("data", "enrich", folder, "--asr", whisper, "--to", new, *LISTEN)
    bench(*command).fails("ASR channel already (generated, version 1)", "--replace")
    done = bench(*command, "--replace")
    assert done.status == 0, done.err
    assert content(folder) == before
    old, made = speech(sample, "train"), speech(DatasetStore(new), "train")
    assert old.keys() == made.keys()
    assert all(made[name] not in (None, old[name]) for name in made)
    assert "asr" in DatasetStore(new).manifest.channels
    again = bench(*command, "--replace")
    assert again.status == 0, again.err


def test_another_store_is_not_overwritten(
    bench: Command, mute: Path, sample: DatasetStore, whisper: Path, tmp_path: Path
) -> None:
    other = written(tmp_path / "other", sample, asr=True)
    before = content(other)
    bench("data", "enrich", mute, "--asr", whisper, "--to", other, *LISTEN).fails(
        "holds another store", "generated, version 1"
    )
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    bench("data", "enrich", mute, "--asr", whisper, "--to", foreign, *LISTEN).fails("no dataset")
    assert content(other) == before


@pytest.mark.parametrize("stop_after", [0, 2])
def test_an_interrupted_command_goes_on_and_ends_the_same(
    bench: Command, mute: Path, whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    heard: list[int], stop_after: int,
) -> None:  # fmt: skip
    before, command = content(mute), ("data", "enrich", mute, "--asr", whisper, *LISTEN)
    counted = Whisper.transcribe

    def stops(self: Whisper, sounds: Sequence[Waveform]) -> list[str]:
        if len(heard) == stop_after:
            raise KeyboardInterrupt
        return counted(self, sounds)

    with monkeypatch.context() as patch:
        patch.setattr(Whisper, "transcribe", stops)
        stopped = bench(*command)
    assert stopped.status == 130, stopped.err
    assert content(mute) == before
    done = bench(*command)
    assert done.status == 0, done.err
    assert sum(heard) == SOUNDS, "no sound is heard twice but that of the portion at hand"
    straight = tmp_path / "straight"
    monkeypatch.setenv("CLAMR_BENCH_CACHE", str(tmp_path / "another-cache"))
    undisturbed = written(tmp_path / "again", DatasetStore(mute), asr=False)
    assert bench(
        "data", "enrich", undisturbed, "--asr", whisper, "--to", straight, *LISTEN
    ).status == 0  # fmt: skip
    made, expected = content(mute), content(straight)
    card, same = json.loads(made.pop("dataset.json")), json.loads(expected.pop("dataset.json"))
    assert made == expected
    assert card == same


KILLED = """
import os, signal, sys
import harness.dataset.enrich as enrich
from harness.media.transcribe import Whisper
enrich.PORTION = 2
plain, calls = Whisper.transcribe, []
def transcribe(self, sounds):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, sounds)
Whisper.transcribe = transcribe
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_process(
    bench: Command, mute: Path, whisper: Path, tmp_path: Path, heard: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed in the second portion; its workers end with it, and the first is kept."""
    twin = tmp_path / "twin"
    assert bench("data", "enrich", mute, "--asr", whisper, "--to", twin, *LISTEN).status == 0
    heard.clear()
    monkeypatch.setenv("CLAMR_BENCH_CACHE", str(tmp_path / "second-cache"))
    command = ["data", "enrich", str(mute), "--asr", str(whisper), "--workers", "1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = bench(*command)
    assert done.status == 0, done.err
    assert "going on after" in done.err
    assert sum(heard) == SOUNDS - 2
    assert content(mute) == content(twin)


# --- what sounds are there ---------------------------------------------------------------------


def sounds(folder: Path) -> list[Document]:
    """Sound as a file and in a video, none, silence, damage; frames, and a text alone."""
    folder.mkdir()
    tone = np.stack([sine(440, 16_000, 1.5)])
    write_sound(folder / "a.wav", tone, 16_000, "pcm_s16le", "s16", "mono")
    write_sound(folder / "quiet.wav", tone * 0, 16_000, "pcm_s16le", "s16", "mono")
    write_sound(folder / "film.mp4", tone, 16_000, "aac", "fltp", "mono")
    write_video(folder / "dumb.mp4", plain(5))
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    (folder / "frame.jpg").write_bytes(b"never read")

    def of(name: str, modality: Modality) -> dict[Modality, tuple[Media, ...]]:
        return {modality: (media(folder / name),)}

    return [
        Document("sound", media=of("a.wav", Modality.AUDIO)),
        Document("film", media=of("film.mp4", Modality.VIDEO)),
        Document("dumb", media=of("dumb.mp4", Modality.VIDEO)),
        Document("quiet", media=of("quiet.wav", Modality.AUDIO)),
        Document("frames", media=of("frame.jpg", Modality.VIDEO)),
        Document("words", {Modality.OCR: "a text alone"}),
        Document("broken", {Modality.OCR: "and a text"}, of("broken.wav", Modality.AUDIO)),
    ]


def store_of(folder: Path, documents: Sequence[Document], root: Path) -> Path:
    with DatasetWriter(
        folder, task="some/task", task_version="1", media_roots=[root]
    ) as writer:  # fmt: skip
        queries, qrels = [Query("q", "which?")], {"q": {documents[0].id: 1}}
        writer.write_split("test", documents, queries, qrels)
        writer.write_split("train", (), queries, qrels, documents_of="test")
    return folder


def test_each_document_is_counted_once(bench: Command, whisper: Path, tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", sounds(tmp_path / "media"), tmp_path / "media")
    before = content(store)
    command = ("data", "enrich", store, "--asr", whisper, *LISTEN)
    bench(*command).fails("broken.wav", "--on-damaged skip-modality")
    assert content(store) == before
    done = bench(*command, "--on-damaged", "skip-modality")
    assert done.status == 0, done.err
    made = DatasetStore(store)
    assert {name for name, text in speech(made, "test").items() if text} == {"sound", "film"}
    assert made.manifest.counts == {
        "test asr: written down": 2,
        "test asr: no sound": 3,
        "test asr: silence": 1,
        "test asr: sound corrupt": 1,
    }
    assert made.manifest.splits["train"].documents_of == "test"
    assert made.manifest.gaps == {}


def test_counts_of_an_earlier_channel_go(bench: Command, whisper: Path, tmp_path: Path) -> None:
    documents = sounds(tmp_path / "media")
    store = store_of(tmp_path / "store", documents, tmp_path / "media")
    command = ("data", "enrich", store, "--asr", whisper, "--on-damaged", "skip-modality", *LISTEN)
    assert bench(*command).status == 0
    write_sound(
        tmp_path / "media/broken.wav", np.stack([sine(200, 16_000, 1.0)]), 16_000, "pcm_s16le",
        "s16", "mono",
    )  # fmt: skip
    assert bench(*command, "--replace").status == 0
    counts = DatasetStore(store).manifest.counts
    assert counts["test asr: written down"] == 3
    assert "test asr: sound corrupt" not in counts


@pytest.mark.parametrize("which", [("words", "frames"), ("words", "dumb", "quiet")])
def test_no_sound_anywhere(
    bench: Command, whisper: Path, tmp_path: Path, which: tuple[str, ...]
) -> None:
    documents = [d for d in sounds(tmp_path / "media") if d.id in which]
    store = store_of(tmp_path / "store", documents, tmp_path / "media")
    before = content(store)
    bench("data", "enrich", store, "--asr", whisper, *LISTEN).fails("not one document has sound")
    texts = [Document("words", {Modality.OCR: "a text alone"})]
    alone = store_of(tmp_path / "alone", texts, tmp_path / "media")
    bench("data", "enrich", alone, "--asr", whisper, *LISTEN).fails("nothing to listen to")
    assert content(store) == before


# --- the model ---------------------------------------------------------------------------------


def waves(*seconds: float) -> list[Waveform]:
    draw = np.random.default_rng(0)
    return [
        Waveform(draw.standard_normal(round(s * 16_000)).astype(np.float32) * 0.1, 16_000)
        for s in seconds
    ]


def test_a_text_does_not_depend_on_its_batch(whisper: Path) -> None:
    """Below the window, at it, just above, and several windows long."""
    made = waves(0.3, 1.0, 1.003, 1.02, 3.3, 2.0)
    whole = Whisper(str(whisper), device="cpu", batch_size=8).transcribe(made)
    alone = Whisper(str(whisper), device="cpu", batch_size=1)
    assert whole == [alone.transcribe([sound])[0] for sound in made]
    assert whole == Whisper(str(whisper), device="cpu", batch_size=2).transcribe(made)
    assert all(whole)
    assert not any("<|" in text for text in whole)


def test_long_sound_is_read_to_its_end(whisper: Path) -> None:
    """Both begin alike; only what comes after the first windows differs."""
    [long] = waves(6.0)
    model = Whisper(str(whisper), device="cpu")
    loud = long.samples.copy()
    loud[4 * 16_000 :] = sine(800, 16_000, 2.0, 0.9)
    first, other, cut = model.transcribe(
        [long, Waveform(loud, 16_000), Waveform(long.samples[:16_000], 16_000)]
    )
    assert first != other
    assert len(cut) < len(first)


def test_language_and_task_are_the_models(whisper: Path) -> None:
    made = waves(0.5, 2.5)
    plain_ = Whisper(str(whisper), device="cpu")
    spoken = {
        language: Whisper(str(whisper), device="cpu", language=language)
        for language in ("ru", "Russian", "en", "zh")
    }
    assert spoken["ru"].version == spoken["Russian"].version
    assert "language ru" in spoken["ru"].version
    assert "language detected" in plain_.version
    texts = {language: model.transcribe(made) for language, model in spoken.items()}
    assert texts["ru"] == texts["Russian"]
    assert len(set(map(tuple, texts.values()))) == 3
    translated = Whisper(str(whisper), device="cpu", language="ru", task="translate")
    assert translated.transcribe(made) != texts["ru"]
    for number, detected in enumerate(plain_.transcribe(made)):
        assert detected in {found[number] for found in texts.values()}


def test_a_model_of_english_alone(tmp_path: Path) -> None:
    from harness.errors import UsageError

    folder = str(save_whisper(tmp_path / "english", english=True))
    model = Whisper(folder, device="cpu")
    assert "language English" in model.version
    assert all(model.transcribe(waves(0.5, 2.5)))
    for options in ({"language": "en"}, {"task": "translate"}):
        with pytest.raises(UsageError, match="knows English alone"):
            Whisper(folder, device="cpu", **options)  # type: ignore[arg-type]


def test_a_gpu_gets_half_precision(whisper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are those of a GPU, on this processor."""
    monkeypatch.setattr(harness.media.transcribe, "_device", lambda device: ("cpu", True))
    model = Whisper(str(whisper))
    assert model.version.endswith("float16")
    assert model.batch_size == 16
    assert all(model.transcribe(waves(0.5, 2.5)))


def test_out_of_memory_says_what_to_do_and_goes_on(
    bench: Command, mute: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch, heard: list[int]
) -> None:
    import torch
    from transformers import WhisperForConditionalGeneration

    usual = WhisperForConditionalGeneration.generate

    def generate(self: Any, features: torch.Tensor, **options: Any) -> Any:
        if len(heard) > 1 and len(features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(self, features, **options)

    monkeypatch.setattr(WhisperForConditionalGeneration, "generate", generate)
    command = ("data", "enrich", mute, "--asr", whisper, *LISTEN)
    bench(*command).fails("2 sounds at once", "--batch-size")
    done = bench(*command, "--batch-size", "1")
    assert done.status == 0, done.err
    assert "going on after 2 documents" in done.err
    assert DatasetStore(mute).manifest.counts["train asr: written down"] == 3


def test_the_version_is_of_the_files(whisper: Path, tmp_path: Path) -> None:
    other = save_whisper(tmp_path / "whisper-random", seed=1)
    same = save_whisper(tmp_path / "copy/whisper-random")
    version = Whisper(str(whisper), device="cpu").version
    assert Whisper(str(same), device="cpu").version == version
    assert Whisper(str(other), device="cpu").version != version


# --- mistakes ----------------------------------------------------------------------------------


def test_no_dataset(bench: Command, whisper: Path) -> None:
    bench("data", "enrich", "multivnt", "--asr", whisper).fails("multivnt", "Did you mean")
    bench("data", "enrich", "multivent/v1", "--asr", whisper).fails("data prepare multivent/v1")
    bench("data", "enrich", TASK, "--asr", whisper).fails("data prepare multivent/sample")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").write_text('{"model_type": "qwen2_vl"}'),
         ("is no Whisper", "'qwen2_vl'")),
        (lambda f: (f / "config.json").write_text("{"), ("config.json cannot be read",)),
        (lambda f: (f / "config.json").unlink(), ("has no config.json",)),
        (lambda f: (f / "generation_config.json").unlink(), ("has no generation_config.json",)),
        (lambda f: (f / "generation_config.json").write_text("{}"), ("no_timestamps_token_id",)),
        (lambda f: (f / "model.safetensors").unlink(), ("weights cannot be loaded",)),
        (lambda f: os.truncate(f / "model.safetensors", 3000), ("weights cannot be loaded",)),
        (lambda f: (f / "preprocessor_config.json").unlink(), ("feature extractor",)),
        (lambda f: narrower(f), ("do not match",)),
        (lambda f: fewer(f), ("do not match", "conv1")),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_whisper(
    bench: Command, mute: Path, tmp_path: Path, change: Any, words: tuple[str, ...]
) -> None:
    before = content(mute)
    folder = save_whisper(tmp_path / "model")
    change(folder)
    bench("data", "enrich", mute, "--asr", folder, *LISTEN).fails(*words)
    assert content(mute) == before


def narrower(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_ffn_dim": 8}))


def fewer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder.conv1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_other_mistakes(bench: Command, mute: Path, whisper: Path) -> None:
    command = ("data", "enrich", mute, "--asr", whisper, "--workers", "0")
    bench(*command, "--language", "rusian").fails("--language rusian", "Did you mean 'russian'")
    bench(*command, "--device", "cuda:99").fails("--device cuda:99")
    bench(*command, "--revision", "main").fails("--revision main", "is a folder")
    bench("data", "enrich", mute, "--asr", "nowhere").fails("no such folder")
    bench("data", "enrich", mute, "--asr", "owner/name").fails("cannot be fetched", "hf download")
    assert bench("data", "enrich", mute).status != 0


def test_one_process_at_a_time(bench: Command, mute: Path, whisper: Path) -> None:
    before = content(mute)
    with exclusive(lock_file(mute)):
        bench("data", "enrich", mute, "--asr", whisper, *LISTEN).fails(
            "in use by another process", str(os.getpid())
        )
    assert content(mute) == before


@pytest.mark.parametrize("name", ["train-000001.json", "dataset.json"])
def test_a_full_disk(
    bench: Command, mute: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    heard: list[int],
) -> None:  # fmt: skip
    """What was written down before is kept."""
    before, usual = content(mute), Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        if name in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(self, *arguments, **options)

    command = ("data", "enrich", mute, "--asr", whisper, *LISTEN)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        bench(*command).fails("the disk is full", "same command again")
    assert content(mute) == before
    assert bench(*command).status == 0
    assert sum(heard) == SOUNDS + name.startswith("train")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
