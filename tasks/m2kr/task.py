"""The tasks ``m2kr/<subset>``, and ``m2kr``, which stands for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.dataset import DatasetWriter
from harness.dataset.task import StoredTask
from harness.errors import DataError, NotPreparedError, UsageError
from harness.evaluation import Evaluation, evaluate
from harness.plugin import About
from harness.policy import OwnPolicy
from harness.progress import Progress
from harness.task import Column, Group, Protocol, Split
from harness.types import Modality, Query, Ranking
from tasks.m2kr.prepare import write_subsets
from tasks.m2kr.pseudo_recall import pseudo_measures, pseudo_recall
from tasks.m2kr.queries import ANSWERS
from tasks.m2kr.subsets import PSEUDO_CUTOFFS, SUBSETS, Subset

_SAMPLE = "`clamr-bench run --task m2kr/sample --retriever random` works without any data."


class M2KR(StoredTask, OwnPolicy):
    """One subset of M2KR, each with a store of its own; without a variant, all of them.

    The policy is that of `harness.evaluation.evaluate`, with pseudo recall beside it where rows
    have answers.
    """

    about = About(
        title="M2KR: passages that answer a question, go with an image, or both",
        version="1",
        licence="MIT (texts); images are their owners'",
        citation=(
            "Weizhe Lin, Jingbiao Mei, Jinghong Chen, Bill Byrne. PreFLMR: Scaling Up Fine-Grained "
            "Late-Interaction Multi-modal Retrievers. ACL 2024. arXiv:2402.08327"
        ),
        url=(
            "https://huggingface.co/datasets/BByrneLab/"
            "multi_task_multi_modal_knowledge_retrieval_benchmark_M2KR"
        ),
    )
    variants: ClassVar[Mapping[str, str]] = {
        "": "all subsets",
        **{name: subset.asks for name, subset in SUBSETS.items()},
    }
    common_documents = True

    @property
    def subset(self) -> Subset:
        """The subset of this variant.

        Raises
        ------
        UsageError
            If the address names all of them.
        """
        if not self.variant:
            raise UsageError(
                f"{self.address!r} stands for several tasks: name one of "
                f"{', '.join(f'{self.name}/{name}' for name in SUBSETS)}."
            )
        return SUBSETS[self.variant]

    @property
    def group(self) -> Group | None:
        """All subsets, and the table of the paper; for the address without a variant."""
        if self.variant:
            return None
        return Group(
            members=tuple(f"{self.name}/{name}" for name in SUBSETS),
            columns=tuple(
                Column(heading, f"{self.name}/{subset.name}", measure)
                for subset in SUBSETS.values()
                for heading, measure in subset.columns
            ),
            remedy=(
                f"Prepare them with `clamr-bench data prepare {self.name} --source DIR --source "
                "IMAGES`, where DIR holds Parquet folders such as OKVQA_data and OKVQA_passages. "
                f"{_SAMPLE}"
            ),
        )

    @property
    def protocol(self) -> Protocol:
        """All passages of the split; hit rates, and pseudo recall where there are answers."""
        if self.group is not None:
            headings = tuple(column.heading for column in self.group.columns)
            return Protocol(
                name="all",
                candidates="those of each subset",
                relevance="that of each subset",
                measures=headings,
                main=headings[0],
            )
        return self.subset.protocol

    def found_in(self, sources: Sequence[Path]) -> bool:
        """Whether `sources` hold the subset's folder of queries."""
        return any((source / f"{self.subset.folder}_data").is_dir() for source in sources)

    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split (see `Task.load`)."""
        subset = self.subset  # an address of several tasks has none, whatever the split
        if split == "test" and subset.published is None:
            raise DataError(
                f"{self.address} has no evaluated split: it is for training only "
                f"(`clamr-bench train --task {self.address}`)."
            )
        return super().load(split, data, progress)

    def not_prepared(self, folder: Path) -> NotPreparedError:
        """Return the error for data that are not in `folder`."""
        return NotPreparedError(
            f"task {self.address!r} has no data yet: looked in {folder}. Prepare it with "
            f"`clamr-bench data prepare {self.dataset} --source DIR --source IMAGES`, or point at "
            f"a prepared store with --data DIR. {_SAMPLE}"
        )

    def write(self, sources: Sequence[Path], writer: DatasetWriter, progress: Progress) -> None:
        """Read the subset's Parquet folders and images (see `tasks.m2kr.prepare`)."""
        write_subsets(sources, [self.subset], writer, progress)

    def rows(self, split: Split, queries: Sequence[Query]) -> Sequence[Query]:
        """Return the queries."""
        return queries

    def measure(self, ranking: Ranking, split: Split, queries: Sequence[Query]) -> Evaluation:
        """Return hit rates, and pseudo recall beside them (see `harness.policy.OwnPolicy`).

        Raises
        ------
        DataError
            If no query has a relevant passage.
        """
        names = self.protocol.measures
        pseudo = pseudo_measures(PSEUDO_CUTOFFS) if self.subset.answers else ()
        ids = [query.id for query in queries]
        hits = evaluate(ranking, split.qrels, ids, names[: len(names) - len(pseudo)])
        if not pseudo:
            return hits
        answers = {query.id: json.loads(query.attributes[ANSWERS]) for query in queries}
        texts = ((d.id, d.texts.get(Modality.TEXT, "")) for d in split.documents)
        found = pseudo_recall(ranking, hits.query_ids, answers, texts, PSEUDO_CUTOFFS)
        values = np.concatenate([hits.values, found], axis=1)
        return replace(hits, measures=names, values=values)
