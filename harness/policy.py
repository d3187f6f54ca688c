"""Tasks that measure rankings by a policy of their own, not by `harness.evaluation.evaluate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from harness.evaluation import Evaluation
from harness.task import Split
from harness.types import Query, Ranking


class OwnPolicy(ABC):
    """What a task adds to measure in its own way, under a protocol of its own name.

    The retriever ranks distinct documents for distinct queries as ever; the policy makes values
    of that ranking. The protocol's measures then carry any names that `measure` gives them. A name
    with a remark, such as ``R@1 (row)``, cannot be taken for a measure of ir-measures.
    """

    @abstractmethod
    def rows(self, split: Split, queries: Sequence[Query]) -> Sequence[Query]:
        """Return what the means are over: queries, or parts of them with ids of their own.

        Their attributes are what results are broken down by.
        """

    @abstractmethod
    def measure(self, ranking: Ranking, split: Split, queries: Sequence[Query]) -> Evaluation:
        """Measure `ranking`.

        Parameters
        ----------
        ranking
            Ranked lists of `queries`.
        split
            Documents and judgments.
        queries
            Those that were asked; perhaps only some of the split's.

        Returns
        -------
        Evaluation
            Values of the protocol's measures, one row for each of `rows`, in that order.
        """
