"""Which queries of a run are shown in detail: the worst, the best, and typical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.workspace import digest

#: How many, if nobody says.
DEFAULT = 20


def choose(ids: Sequence[str], good: Mapping[str, float], count: int | None) -> dict[str, str]:
    """Return the chosen queries and why: ``{query id: why}``.

    A third are the worst, a third the best, the others those nearest to the mean (the median is
    often as good as the best). Of queries that are as good as each other, which are many where a
    measure is 0 or 1, those with the least digest of their id are taken: always the same, and of
    all kinds.

    Parameters
    ----------
    ids
        All queries.
    good
        How good the retriever was, the larger the better; of some queries, or none.
    count
        How many; None for all.
    """
    if count is None or count >= len(ids):
        return dict.fromkeys(ids, "")
    if not good:
        return dict.fromkeys(sorted(ids, key=digest)[:count], "drawn")
    order = sorted((id_ for id_ in ids if id_ in good), key=lambda id_: (good[id_], digest(id_)))
    each = min(count, len(order)) // 3
    rest = min(count, len(order)) - 2 * each
    worst, best = order[:each], order[len(order) - each :]
    mean = sum(good[id_] for id_ in order) / max(len(order), 1)
    middle = order[each : len(order) - each]
    typical = sorted(middle, key=lambda id_: (abs(good[id_] - mean), digest(id_)))[:rest]
    return {
        **dict.fromkeys(worst, "worst"),
        **dict.fromkeys(typical, "typical"),
        **dict.fromkeys(best, "best"),
    }
