"""Which rows of a table are tied for first: not told apart from the best, query by query.

The best row and another answered the same queries. If the bootstrap interval of the mean of their
differences includes 0, the queries do not tell which of the two is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import ResultError
from harness.rank_measures import statistic_of
from harness.results.per_query import read_per_query
from harness.results.store import PER_QUERY_NAME, SavedRun
from harness.runner.scoring import BOOTSTRAP_SEED
from harness.statistics import bootstrap_interval


def tied_for_first(
    best: str, rows: Mapping[str, Sequence[SavedRun]], measure: str
) -> dict[str, bool]:
    """Return which rows are tied for first, the best one among them if another is.

    Parameters
    ----------
    best
        The key of the best row.
    rows
        The runs of each row, one a seed: values are averaged over these first.
    measure
        The measure. Of one that is no mean over queries nothing is said.

    Returns
    -------
    dict
        By key; rows whose values cannot be paired with the best one's are left out.
    """
    if statistic_of(measure) != "mean" or len(rows) < 2:
        return {}
    values = {key: _values(runs, measure) for key, runs in rows.items()}
    first = values.pop(best)
    if first is None:
        return {}
    pairs = {
        key: mine[1] - first[1]
        for key, mine in values.items()
        if mine is not None and mine[0] == first[0]
    }
    if not pairs:
        return {}
    differences = np.stack(list(pairs.values()), axis=1)
    intervals = bootstrap_interval(differences, BOOTSTRAP_SEED)
    found = {k: i.low <= 0 <= i.high for k, i in zip(pairs, intervals, strict=True)}
    return {best: any(found.values()), **found}


def _values(runs: Sequence[SavedRun], measure: str) -> tuple[list[str], NDArray[np.float64]] | None:
    """Return the queries and the values of a row; None if they are not there."""
    columns: list[NDArray[np.float64]] = []
    first: list[str] = []
    for run in runs:
        try:
            queries, values, measures = read_per_query(run.folder / PER_QUERY_NAME)
        except ResultError:
            return None
        if measure not in measures or (columns and queries != first):
            return None
        first = queries
        columns.append(values[:, measures.index(measure)])
    return first, np.mean(columns, axis=0)
