"""The ten parts of M2KR.

Source of folders, image paths and reported measures: github.com/LinWeizheDragon/FLMR, commit
be4b748 (docs/Datasets.md, examples/report.py, README.md), and the cards of the two data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.task import Protocol
from tasks.m2kr.pseudo_recall import pseudo_measures

#: Cutoffs of the hit rate. The script reports 1, 5, 10, 20, 50, 100 and 500.
CUTOFFS = (1, 5, 10, 100, 500)
#: Cutoffs of pseudo recall: the published one.
PSEUDO_CUTOFFS = (5,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """One part of M2KR.

    Attributes
    ----------
    name
        As in addresses: ``m2kr/<name>``.
    folder
        Parquet folders are ``<folder>_data`` and ``<folder>_passages``.
    asks
        What its queries are made of, and where they come from.
    published
        Cutoff of the published recall; None if no split is evaluated.
    answers
        Whether rows have answers, so that pseudo recall is published too.
    images
        Folders below a source that image paths may be relative to, beside the source itself.
    image_prefixes
        What may have to be put before an image path.
    breakdowns
        Columns that results are broken down by.
    """

    name: str
    folder: str
    asks: str
    published: int | None
    answers: bool = False
    images: tuple[str, ...] = ()
    image_prefixes: tuple[str, ...] = ("",)
    breakdowns: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """The published measures: as the paper's table heads them, and as they are called here."""
        if self.published is None:
            return ()
        k = self.published
        hit_rate = (f"{self.folder} R@{k}", f"Success@{k}")
        if not self.answers:
            return (hit_rate,)
        return hit_rate, (f"{self.folder} PR@{k}", pseudo_measures([k])[0])

    @property
    def protocol(self) -> Protocol:
        """All passages of the split compete; the measure of the paper's table leads."""
        hit_rates = tuple(f"Success@{k}" for k in CUTOFFS)
        pseudo = pseudo_measures(PSEUDO_CUTOFFS) if self.answers else ()
        return Protocol(
            name=self.name,
            candidates="all passages of the split",
            relevance="the row's pos_item_ids, grade 1",
            measures=hit_rates + pseudo,
            main=self.columns[-1][1] if self.columns else "Success@5",
            query_breakdowns=self.breakdowns,
        )


#: Images of Infoseek are OVEN's; the shard's folder, such as ``00/``, is not in their paths.
_SHARDS = ("", *(f"{number:02}/" for number in range(6)))

SUBSETS: Mapping[str, Subset] = {
    subset.name: subset
    for subset in (
        Subset(
            name="wit",
            folder="WIT",
            asks="images of Wikipedia; the passage that goes with one",
            published=10,
            images=("WIT",),
        ),
        Subset(
            name="iglue",
            folder="IGLUE",
            asks="WIT's English test images of IGLUE",
            published=1,
            images=("IGLUE", "WIT"),
        ),
        Subset(
            name="kvqa",
            folder="KVQA",
            asks="images of people; who and what they show",
            published=5,
            images=("KVQA",),
        ),
        Subset(
            name="cc",
            folder="CC",
            asks="images of CC3M and their captions; for training only",
            published=None,
            images=("CC3M", "CC"),
        ),
        Subset(
            name="msmarco",
            folder="MSMARCO",
            asks="questions without an image, web passages",
            published=5,
        ),
        Subset(
            name="oven",
            folder="OVEN",
            asks="what an image shows, asked of Wikipedia",
            published=5,
            images=("OVEN",),
        ),
        Subset(
            name="llava",
            folder="LLaVA",
            asks="questions about an image, and their generated answers",
            published=1,
            images=("LLAVA", "LLaVA"),
        ),
        Subset(
            name="evqa",
            folder="EVQA",
            asks="questions about species and landmarks",
            published=5,
            answers=True,
            images=("EVQA",),
            breakdowns=("question_type",),
        ),
        Subset(
            name="okvqa",
            folder="OKVQA",
            asks="questions about an image that take outside knowledge",
            published=5,
            answers=True,
            images=("OKVQA",),
        ),
        Subset(
            name="infoseek",
            folder="Infoseek",
            asks="questions about what an image shows, asked of Wikipedia",
            published=5,
            answers=True,
            images=("Infoseek", "OVEN"),
            image_prefixes=_SHARDS,
            breakdowns=("question_type", "data_split"),
        ),
    )
}
