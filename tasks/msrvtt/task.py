"""The task ``msrvtt`` in its variants, which read one store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from harness.dataset import DatasetWriter
from harness.dataset.task import StoredTask
from harness.errors import DataError, NotPreparedError, UsageError, did_you_mean
from harness.evaluation import evaluate
from harness.plugin import About, Direction
from harness.progress import Progress
from harness.settings import Settings
from harness.task import Protocol, Split
from harness.types import Modality, Query
from tasks.msrvtt import ideal, protocols
from tasks.msrvtt.files import CAPTIONS, MTEB, TEST, TRAIN

#: The variant that the bare name stands for.
DEFAULT = "1k-a"

#: What each split of the store is made of, for those who did not have it.
_SOURCES = {
    "1k-a": TEST,
    "full": f"{' or '.join(CAPTIONS)}, all 20 captions of every video,",
    "mteb": f"{' or '.join(MTEB)}, the ids of the 879 clips of MTEB's copy (a column video_id, or "
    f"a line each), beside {TEST}",
    "train-9k": TRAIN["9k"],
    "train-7k": TRAIN["7k"],
}

_PROTOCOLS = {
    "1k-a": protocols.ONE_K_A,
    "full": protocols.FULL,
    "clamr": protocols.CLAMR,
    "mteb": protocols.MTEB,
}


class DirectionSettings(Settings):
    """Settings of every task on captioned videos."""

    direction: Literal["text-to-video", "video-to-text"] = Field(
        "text-to-video",
        description="What asks: captions for videos, or videos for captions, by the same scores "
        "(a protocol of its own, NAME-v2t)",
    )


class MSRVTTSettings(DirectionSettings):
    """Settings of ``msrvtt``."""

    train: Literal["9k", "7k"] | None = Field(
        None,
        description="Videos of the split train; default 9k, for msrvtt/full 7k, since 9k holds "
        "1,990 of its test videos",
    )


class CaptionedVideos(StoredTask):
    """What the tasks of MSR-VTT share: splits of a store, two directions, an ideal retriever."""

    settings: DirectionSettings

    @property
    def direction(self) -> Direction:
        """Captions ask, or videos do."""
        turned = self.settings.direction == "video-to-text"
        return Direction.REVERSE if turned else Direction.FORWARD

    @property
    def protocol(self) -> Protocol:
        """The protocol of the variant, in the direction that is asked for."""
        forward = self.forward
        return protocols.turned(forward) if self.direction is Direction.REVERSE else forward

    @property
    @abstractmethod
    def forward(self) -> Protocol:
        """The protocol from text to video."""

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, str]:
        """The split of the store that each split of the task is."""

    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split (see `harness.task.Task.load`)."""
        if split not in self.splits:
            raise DataError(
                f"task {self.address!r} has no split {split!r}; it has {', '.join(self.splits)}."
                + did_you_mean(split, self.splits)
            )
        store, name = self.open_store(data), self.splits[split]
        again = (
            "among the sources (`clamr-bench data prepare msrvtt --source DIR`, repeated for "
            "several folders)."
        )
        if name not in store.manifest.splits:
            raise NotPreparedError(
                f"{store.folder} has no split {name!r} (it has {', '.join(store.manifest.splits)}):"
                f" prepare it again with {_SOURCES[name]} {again}"
            )
        found = store.split(name)
        if not found.queries:
            raise NotPreparedError(
                f"{store.folder} has the {len(found.documents):,} videos of {name!r}, but no "
                f"captions of them: prepare it again with {' or '.join(CAPTIONS)} {again}"
            )
        return replace(found, name=split)

    def references(
        self, split: Split, queries: Sequence[Query]
    ) -> Mapping[str, Mapping[str, float]]:
        """Return what a retriever that is never wrong gets: equal captions limit it."""
        measures, size = self.protocol.measures, len(split.documents)
        if self.direction is Direction.REVERSE:
            texts = {document.id: document.texts[Modality.TEXT] for document in split.documents}
            ranking, distinct = ideal.by_video(split.qrels, texts, queries), set(texts.values())
            count = len(texts)
        else:
            ranking = ideal.by_text(split.qrels, split.queries, queries)
            distinct, count = {query.text for query in split.queries}, len(split.queries)
        ids = [query.id for query in queries]
        best = evaluate(ranking, split.qrels, ids, measures, documents=size)
        name = f"an ideal retriever ({len(distinct):,} of {count:,} captions are distinct)"
        return {name: best.means()}


class MSRVTT(CaptionedVideos):
    """The task ``msrvtt``: four protocols over one store."""

    about = About(
        title="MSR-VTT: short web videos and captions of them",
        version="1",
        licence="none stated with the captions; the videos are their owners'",
        citation=(
            "Jun Xu, Tao Mei, Ting Yao, Yong Rui. MSR-VTT: A Large Video Description Dataset for "
            "Bridging Video and Language. CVPR 2016. 1k-A test set: Youngjae Yu, Jongseok Kim, "
            "Gunhee Kim. A Joint Sequence Fusion Model for Video Question Answering and Retrieval. "
            "ECCV 2018. arXiv:1808.02559"
        ),
        url="https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/",
    )
    Settings = MSRVTTSettings
    settings: MSRVTTSettings
    variants: ClassVar[Mapping[str, str]] = {
        "": "msrvtt/1k-a",
        "1k-a": "one caption for each of 1,000 videos",
        "full": "20 captions for each of the 2,990 official test videos",
        "clamr": "1k-A with the measures of CLaMR's Table 1",
        "mteb": "the 879 clips of MTEB's copy",
    }

    def __init__(self, name: str, variant: str, settings: MSRVTTSettings) -> None:
        super().__init__(name, variant, settings)
        self.variant = variant or DEFAULT
        if self.variant == "full" and settings.train == "9k":
            raise UsageError(
                f"{self.address} with train=9k: 1,990 videos of that list are its test videos; use "
                "train=7k, which is its default."
            )
        if self.variant == "clamr" and self.direction is Direction.REVERSE:
            raise UsageError(
                f"{self.address} is what CLaMR reports, and that is text-to-video alone: use "
                f"{name}/{DEFAULT} for video-to-text."
            )

    @property
    def dataset(self) -> str:
        """All variants read the store of ``msrvtt``."""
        return "msrvtt"

    @property
    def forward(self) -> Protocol:
        """The protocol of the variant from text to video."""
        return _PROTOCOLS[self.variant]

    @property
    def splits(self) -> Mapping[str, str]:
        """``test`` is the variant's, ``train`` one of the two training lists."""
        test = DEFAULT if self.variant == "clamr" else self.variant
        train = self.settings.train or ("7k" if self.variant == "full" else "9k")
        return {"test": test, "train": f"train-{train}"}

    def write(self, sources: Sequence[Path], writer: DatasetWriter, progress: Progress) -> None:
        """Read whatever of MSR-VTT the sources hold (see `tasks.msrvtt.prepare`)."""
        from tasks.msrvtt.prepare import write_msrvtt

        write_msrvtt(sources, writer, progress)
