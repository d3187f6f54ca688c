"""Fills the ASR channel of a dataset store from the sound of its documents.

What was said is kept portion by portion in a workspace of the cache. So whoever is killed loses
the portion at hand, and the store, which is written at the end, has the bytes of an undisturbed
run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.coverage import DamagePolicy
from harness.dataset.manifest import MANIFEST_NAME, Manifest
from harness.dataset.store import DatasetStore
from harness.dataset.writer import DatasetWriter
from harness.errors import DataError, StorageError, UsageError
from harness.media import VERSION, AudioSampling, DamagedMediaError, MediaLoader, Waveform
from harness.media.video import IMAGE_SUFFIXES
from harness.progress import Advance, Progress
from harness.types import Document, Media, Modality, Qrels
from harness.workspace import Workspace

#: Documents whose texts are written down together: what a killed process does again at most.
PORTION = 64

CHANNEL = Modality.ASR.label

#: What a document is counted as.
HEARD, WORDLESS, SILENT, NO_SOUND = "written down", "no words", "silence", "no sound"


class Transcriber(Protocol):
    """Writes down speech (see `harness.media.transcribe.Whisper`)."""

    version: str
    batch_size: int

    def transcribe(self, sounds: Sequence[Waveform]) -> list[str]:
        """Return the text of each sound, at 16,000 samples a second."""


class _Portion(BaseModel):
    """What came of a portion: its documents, the text of those that have one, counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: list[str]
    texts: dict[str, str]
    counts: dict[str, int]


def enrich(
    store: DatasetStore,
    transcriber: Transcriber,
    to: Path | None = None,
    *,
    again: bool = False,
    on_damaged: DamagePolicy = "fail",
    workers: int | None = None,
    progress: Progress,
) -> DatasetStore:
    """Return a store with the ASR channel filled.

    Parameters
    ----------
    store
        What is read.
    transcriber
        Writes down speech.
    to
        Where the new store goes, whole, once it is complete; None for the place of `store`. Without
        `again`, a `store` whose channel has this very version is then returned as it is.
    again
        Whether ASR that is there is dropped, of every document, and made anew.
    on_damaged
        ``fail`` or ``skip-modality``: a document whose sound is damaged stays without ASR.
    workers
        Processes that decode; None for the machine's default.
    progress
        Where to report.

    Raises
    ------
    UsageError
        If `store` has an ASR channel and `again` is false.
    DamagedMediaError
        By the policy ``fail``, at the first damaged sound.
    DataError
        If not one document has sound.
    StorageError
        If the disk is full, another process writes the same store, or `to` holds another one.
    """
    manifest = store.manifest
    counts = [model.coverage.modalities for model in manifest.splits.values() if model.documents]
    if not any(row.get(m.label) for row in counts for m in (Modality.AUDIO, Modality.VIDEO)):
        raise DataError(
            f"{store.folder}: no document has sound or a video, so there is nothing to listen to."
        )
    there = manifest.channels.get(CHANNEL)
    if not again and there == transcriber.version and to is None:
        progress.note(f"{store.folder} has this very ASR channel; --replace makes it anew.")
        return store
    if not again and (there is not None or any(row.get(CHANNEL) for row in counts)):
        raise UsageError(
            f"{store.folder} has an ASR channel already ({there or 'of unknown version'}): "
            "--replace drops it and makes a new one."
        )
    loader = MediaLoader(
        audio=AudioSampling(max_seconds=None), on_damaged="skip-modality", workers=workers
    )
    with loader:
        return _Enrichment(
            store, transcriber, to or store.folder, on_damaged, loader, progress
        ).run()


class _Enrichment:
    """One store, one transcriber, one place (see `enrich`)."""

    def __init__(
        self,
        store: DatasetStore,
        transcriber: Transcriber,
        to: Path,
        on_damaged: DamagePolicy,
        loader: MediaLoader,
        progress: Progress,
    ) -> None:
        self._store, self._transcriber, self._to = store, transcriber, to
        self._policy, self._loader, self._progress = on_damaged, loader, progress
        self._counts: dict[str, Counter[str]] = {}

    def run(self) -> DatasetStore:
        """Make the store and return it."""
        manifest = self._store.manifest
        self._refuse_another_store()
        version = self._transcriber.version
        with DatasetWriter(
            self._to,
            task=manifest.task,
            task_version=manifest.task_version,
            media_roots=self._store.media_roots,
            channels={**manifest.channels, CHANNEL: version},
        ) as writer:
            writer.carry_over(manifest)
            workspace = Workspace.of(self._identity(manifest, version))
            with workspace.locked(self._wait):
                homes = [name for name, model in manifest.splits.items() if model.documents]
                for split in homes:
                    self._listen(split, workspace)
                self._refuse_silence()
                with self._progress.stage("writing the store"):
                    for split in manifest.splits:
                        self._write(split, writer, workspace)
        return DatasetStore(self._to)

    def _identity(self, manifest: Manifest, version: str) -> dict[str, object]:
        """Return what texts depend on beside the number of their portion."""
        tables = {
            name: model.documents.content_sha256
            for name, model in manifest.splits.items()
            if model.documents
        }
        # `clamr-bench cache list` shows name and weights.
        return {
            "retriever": {"name": CHANNEL, "weights": version.partition(",")[0]},
            "transcripts": {"by": version, "media": VERSION, "portion": PORTION},
            "on_damaged": self._policy,
            "documents": tables,
        }

    def _refuse_another_store(self) -> None:
        """Never replace a store that an earlier, equal command has not made."""
        if self._to.resolve() == self._store.folder.resolve():
            return
        if (self._to / MANIFEST_NAME).is_file():
            there = Manifest.read(self._to)
            mine = self._store.manifest
            if (there.task, there.channels.get(CHANNEL)) != (mine.task, self._transcriber.version):
                raise StorageError(
                    f"--to {self._to} holds another store ({there.task}, ASR: "
                    f"{there.channels.get(CHANNEL, 'none')}): choose a new folder."
                )

    def _wait(self, holder: str) -> None:
        self._progress.note(f"waiting for process {holder}, which listens to the same documents.")

    def _listen(self, split: str, workspace: Workspace) -> None:
        """Write down every portion of a split that is not there yet."""
        total = self._store.manifest.splits[split].coverage.documents
        counts = self._counts.setdefault(split, Counter())
        done = sum(len(p.documents) for p in self._there(split, total, workspace))
        if done:
            self._progress.note(f"{split}: going on after {done:,} documents of an earlier run.")
        with self._progress.stage(f"{split}: listening", total, done) as advance:
            for number, documents in enumerate(_portions(self._store.documents(split))):
                found = _read(workspace, split, number)
                if found is None or found.documents != [one.id for one in documents]:
                    found = self._portion(documents, advance)
                    with workspace.file(_name(split, number)) as temporary:
                        temporary.write_text(found.model_dump_json(), encoding="utf-8")
                counts.update(found.counts)

    def _there(self, split: str, total: int, workspace: Workspace) -> Iterator[_Portion]:
        for number in range(-(-total // PORTION)):
            if (found := _read(workspace, split, number)) is not None:
                yield found

    def _portion(self, documents: Sequence[Document], advance: Advance) -> _Portion:
        texts: dict[str, str] = {}
        counts: Counter[str] = Counter()
        heard: list[tuple[str, Waveform]] = []

        def write_down() -> None:
            made = self._transcriber.transcribe([sound for _, sound in heard])
            for (name, _), text in zip(heard, made, strict=True):
                if text:
                    texts[name] = text
                counts[HEARD if text else WORDLESS] += 1
            advance(len(heard))
            heard.clear()

        sounds = [Document(one.id, media={Modality.AUDIO: sound}) for one in documents
                  if (sound := sound_of(one))]  # fmt: skip
        if silent := len(documents) - len(sounds):
            counts[NO_SOUND] += silent
            advance(silent)
        for loaded in self._loader.load(sounds):
            kind = loaded.damaged[0].kind if loaded.damaged else None
            if loaded.waveform is not None and not loaded.waveform.silent:
                heard.append((loaded.document.id, loaded.waveform))
                if len(heard) == self._transcriber.batch_size:
                    write_down()
                continue
            if kind is None:
                counts[SILENT] += 1
            elif kind == "no-stream":  # the file is whole: a video without sound
                counts[NO_SOUND] += 1
            elif self._policy == "fail":
                wrong = loaded.damaged[0]
                raise DamagedMediaError(wrong.file, wrong.kind, wrong.reason)
            else:
                counts[f"sound {kind}"] += 1
            advance()
        if heard:
            write_down()
        return _Portion(documents=[d.id for d in documents], texts=texts, counts=dict(counts))

    def _refuse_silence(self) -> None:
        everything = sum(self._counts.values(), Counter[str]())
        if not everything[HEARD] + everything[WORDLESS]:
            told = ", ".join(f"{kind}: {number:,}" for kind, number in everything.items())
            raise DataError(
                f"{self._store.folder}: not one document has sound that can be heard ({told}); no "
                "store was written."
            )

    def _write(self, split: str, writer: DatasetWriter, workspace: Workspace) -> None:
        store, model = self._store, self._store.manifest.splits[split]
        writer.write_split(
            split,
            () if model.documents is None else self._with_texts(split, workspace),
            store.queries(split),
            _qrels(store, split),
            documents_of=model.documents_of,
        )
        own = f"{split} asr: "
        kept = {key: count for key, count in writer.counts.items() if not key.startswith(own)}
        found = {own + kind: number for kind, number in sorted(self._counts.get(split, {}).items())}
        writer.counts = {**kept, **found}

    def _with_texts(self, split: str, workspace: Workspace) -> Iterator[Document]:
        for number, documents in enumerate(_portions(self._store.documents(split))):
            found = _read(workspace, split, number)
            said: Mapping[str, str] = {} if found is None else found.texts
            for document in documents:
                texts = dict(document.texts)
                texts.pop(Modality.ASR, None)
                if document.id in said:
                    texts[Modality.ASR] = said[document.id]
                yield replace(document, texts=texts)


def sound_of(document: Document) -> tuple[Media, ...]:
    """Return the file that holds a document's sound: its sound, else its video; or nothing."""
    if files := document.media.get(Modality.AUDIO):
        return files
    files = document.media.get(Modality.VIDEO, ())
    pictures = any(PurePath(file.name).suffix.lower() in IMAGE_SUFFIXES for file in files)
    return () if pictures else files


def _portions(documents: Iterable[Document]) -> Iterator[list[Document]]:
    stream = iter(documents)
    while portion := list(islice(stream, PORTION)):
        yield portion


def _name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.json"


def _read(workspace: Workspace, split: str, number: int) -> _Portion | None:
    """Return a portion that was written down; None if it was not, or its file is damaged."""
    try:
        text = (workspace.path / _name(split, number)).read_text(encoding="utf-8")
        return _Portion.model_validate_json(text)
    except (FileNotFoundError, ValidationError):
        return None


def _qrels(store: DatasetStore, split: str) -> Qrels:
    return store.split(split).qrels
