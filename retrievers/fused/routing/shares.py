"""From the modalities that a query is meant for to weights of the fused parts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from harness.types import Modality

log = logging.getLogger("clamr_bench.routing")


class Shares:
    """Gives weights to parts.

    The weight of a modality is shared equally by all parts that score it. Weights on modalities
    that no part scores are dropped; if none is left, every part gets the same weight, and the
    case is counted and told once.

    Parameters
    ----------
    labels
        Labels of the parts, at least one.
    modalities
        The modalities that each part scores, by its label.

    Attributes
    ----------
    scored
        Modalities that some part scores.
    fallbacks
        How many queries got the same weight for every part, by reason.
    """

    def __init__(
        self, labels: Sequence[str], modalities: Mapping[str, frozenset[Modality]]
    ) -> None:
        self.modalities = {label: modalities[label] for label in labels}
        self.scored: frozenset[Modality] = frozenset().union(*self.modalities.values())
        self.fallbacks: Counter[str] = Counter()

    def identity(self) -> dict[str, list[str]]:
        """Return the parts with their modalities, as JSON values."""
        return {label: [m.label for m in sorted(own)] for label, own in self.modalities.items()}

    def of(self, wanted: Mapping[Modality, float], query: str) -> dict[str, float]:
        """Return the weight of every part; they sum to 1.

        Parameters
        ----------
        wanted
            Weights above 0 by modality, at least one; any scale.
        query
            Id of the query, for messages.
        """
        weights = dict.fromkeys(self.modalities, 0.0)
        for modality in wanted.keys() & self.scored:
            sharing = [label for label, own in self.modalities.items() if modality in own]
            for label in sharing:
                weights[label] += wanted[modality] / len(sharing)
        total = sum(weights.values())
        if not total:
            names = "+".join(modality.label for modality in sorted(wanted))
            return self.uniform(f"no part scores {names}", query)
        return {label: weight / total for label, weight in weights.items()}

    def uniform(self, reason: str, query: str) -> dict[str, float]:
        """Return the same weight for every part, and count why."""
        if not self.fallbacks[reason]:
            log.warning(
                "router: %s (query %s): such queries get the same weight for every part; they are "
                "counted, and this is said once",
                reason,
                query,
            )
        self.fallbacks[reason] += 1
        return dict.fromkeys(self.modalities, 1 / len(self.modalities))
