"""MultiVENT 2.0 in five variants, which read one store: queries about events, videos to find."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.dataset import DatasetStore, DatasetWriter
from harness.dataset.task import Statistics, StoredTask
from harness.errors import DataError, did_you_mean
from harness.evaluation import Evaluation
from harness.plugin import About
from harness.policy import OwnPolicy
from harness.progress import Progress
from harness.task import Protocol, Split
from harness.types import Query, Ranking
from tasks.multivent import clamr_protocol, protocols, selection, statistics

_CITATION = (
    "Reno Kriz et al. MultiVENT 2.0: A Massive Multilingual Benchmark for Event-Centric Video "
    "Retrieval. CVPR 2025. arXiv:2410.11619"
)
_CLAMR = (
    "David Wan et al. CLaMR: Contextualized Late-Interaction for Multimodal Content Retrieval. "
    "arXiv:2506.06144"
)
_LICENCE = "Apache-2.0 according to CLaMR's paper; the videos are their owners'"


def _about(title: str, citation: str = _CITATION) -> About:
    return About(
        title=title,
        version="1",
        licence=_LICENCE,
        citation=citation,
        url="https://huggingface.co/datasets/hltcoe/MultiVENT2.0",
    )


class MultiVENT2(StoredTask):
    """What the variants share: the store, and the splits ``train`` and ``validation``.

    The split ``train`` of all of them is CLaMR's synthetic training queries without what they share
    with any evaluated split (see `harness.contamination`); ``validation`` is the public synthetic
    validation queries without what they share with the human ones.
    """

    @property
    def dataset(self) -> str:
        """All variants read the store of ``multivent``."""
        return "multivent"

    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split (see `harness.task.Task.load`)."""
        loaders = {
            "test": self.test_split,
            "validation": self.validation_split,
            "train": selection.training,
        }
        if split not in loaders:
            raise DataError(
                f"task {self.address!r} has no split {split!r}; it has {', '.join(loaders)}."
                + did_you_mean(split, loaders)
            )
        return loaders[split](self.open_store(data))

    @abstractmethod
    def test_split(self, store: DatasetStore) -> Split:
        """Return what is evaluated."""

    def validation_split(self, store: DatasetStore) -> Split:
        """Return the split ``validation``."""
        return selection.validation(store)

    def write(self, sources: Sequence[Path], writer: DatasetWriter, progress: Progress) -> None:
        """Read whatever of MultiVENT 2.0 the sources hold (see `tasks.multivent.prepare`)."""
        from tasks.multivent.prepare import write_multivent

        write_multivent(sources, writer, progress)


class Corrected(MultiVENT2):
    """``multivent``: the human queries over the distinct videos that their judgments name."""

    about = _about(
        "MultiVENT 2.0++, corrected: human queries over the distinct judged videos",
        f"{_CITATION}. Evaluation set after: {_CLAMR}",
    )

    @property
    def protocol(self) -> Protocol:
        """Distinct videos, one query a query id, set-valued relevance."""
        return protocols.CORRECTED

    def test_split(self, store: DatasetStore) -> Split:
        """Return the human queries over the videos that their judgments name."""
        return selection.judged(store)

    def statistics(self, store: DatasetStore) -> Sequence[Statistics]:
        """Count queries, judgments, labels, and what training and evaluated splits share."""
        return statistics.of_store(store)


class Pool(MultiVENT2):
    """``multivent/pool``: the human queries over every prepared training video."""

    about = _about("MultiVENT 2.0: human training queries over every prepared training video")

    @property
    def protocol(self) -> Protocol:
        """As `multivent`, but against every training video."""
        return protocols.POOL

    def test_split(self, store: DatasetStore) -> Split:
        """Return the human queries over every prepared training video."""
        return selection.pool(store)


class Clamr(MultiVENT2, OwnPolicy):
    """``multivent/clamr``: the protocol of CLaMR's script (see `tasks.multivent.clamr_protocol`).

    Retrievers rank distinct videos for distinct queries, as in ``multivent``; the rows of the
    script are made of that ranking.
    """

    about = _about(
        "MultiVENT 2.0++ by the protocol of CLaMR's script: duplicate candidates, diagonal "
        "relevance",
        f"{_CLAMR}. Data: {_CITATION}",
    )

    @property
    def protocol(self) -> Protocol:
        """One row a judgment, of which the diagonal is relevant."""
        return protocols.CLAMR

    def test_split(self, store: DatasetStore) -> Split:
        """Return the human queries over the videos that their judgments name."""
        return selection.judged(store)

    def rows(self, split: Split, queries: Sequence[Query]) -> Sequence[Query]:
        """Return a query for every judgment."""
        rows = clamr_protocol.judgment_rows(queries, split.qrels)
        return [row.as_query() for row in rows]

    def measure(self, ranking: Ranking, split: Split, queries: Sequence[Query]) -> Evaluation:
        """Expand `ranking` to rows and candidates (see `harness.policy.OwnPolicy.measure`).

        Raises
        ------
        DataError
            If no query has a judgment.
        """
        return clamr_protocol.evaluate_rows(ranking, split.qrels, queries, split.queries)

    def references(
        self, split: Split, queries: Sequence[Query]
    ) -> Mapping[str, Mapping[str, float]]:
        """Return what the two ideal retrievers get in expectation."""
        return clamr_protocol.ideal_means(split.qrels, queries, split.queries)

    def statistics(self, store: DatasetStore) -> Sequence[Statistics]:
        """Give the ideal retrievers' figures over all rows and over base rows."""
        return statistics.of_rows(selection.judged(store))


class Official(MultiVENT2):
    """``multivent/official``: the official test set, whose judgments are mostly not at hand."""

    about = _about("MultiVENT 2.0: the official test set")
    submit_to = "the MultiVENT 2.0 leaderboard (eval.ai challenge 2507)"

    @property
    def protocol(self) -> Protocol:
        """All test videos, graded judgments."""
        return protocols.OFFICIAL

    def test_split(self, store: DatasetStore) -> Split:
        """Return the test queries over all test videos; judgments where the sources had them."""
        return selection.stored(store, selection.TEST)


class Synthetic(MultiVENT2):
    """``multivent/synthetic``: CLaMR's public synthetic validation queries as a task."""

    about = _about(
        "MultiVENT 2.0++ synthetic validation queries over the videos they were made from",
        f"{_CLAMR}. Videos: {_CITATION}",
    )

    @property
    def protocol(self) -> Protocol:
        """The videos of the queries, one relevant to each."""
        return protocols.SYNTHETIC

    def test_split(self, store: DatasetStore) -> Split:
        """Return all synthetic validation queries."""
        return selection.synthetic(store, "test")

    def validation_split(self, store: DatasetStore) -> Split:
        """Return the same queries as ``test``."""
        return selection.synthetic(store, "validation")
