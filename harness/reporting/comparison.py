"""Saved runs of one table, compared query by query with the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.rank_measures import lower_is_better, statistic_of
from harness.reporting.tables import identity_of
from harness.results.per_query import read_per_query
from harness.results.store import PER_QUERY_NAME, SavedRun
from harness.runner.scoring import BOOTSTRAP_SEED
from harness.significance import PairedTest, holm, paired_test


@dataclass(frozen=True, slots=True)
class Move:
    """A query whose value changed: its id and both values."""

    query: str
    baseline: float
    value: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure of one run against the first run, over all queries or a group of them.

    Attributes
    ----------
    run
        Id of the run.
    measure
        Name of the measure.
    group
        ``attribute=value``; None for all queries.
    test
        The paired test. Differences are the run's value less the first run's; wins are queries
        that the run does better on, whichever way the measure goes.
    p
        The p-value, corrected by Holm for all tests of the comparison.
    """

    run: str
    measure: str
    group: str | None
    test: PairedTest
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tests of some runs, and the queries that moved most.

    Attributes
    ----------
    rows
        By run, group and measure.
    moves
        For each run but the first, queries by how much their main measure changed, most first.
    untested
        Measures that are no means over queries.
    """

    rows: tuple[Compared, ...]
    moves: Mapping[str, tuple[Move, ...]]
    untested: tuple[str, ...]


def require_comparable(runs: Sequence[SavedRun]) -> None:
    """Refuse runs whose figures cannot stand in one table.

    Raises
    ------
    UsageError
        Naming the first difference.
    """
    first = runs[0].result
    if not first.measures:
        raise UsageError(f"run {first.run_id} has no figures: its judgments are not public.")
    mine = _facts(runs[0])
    for run in runs[1:]:
        for name, value in _facts(run).items():
            if value != mine[name]:
                raise UsageError(
                    f"runs {first.run_id} and {run.result.run_id} are not to be compared: their "
                    f"{name} differs ({_short(mine[name])}, and {_short(value)})."
                )


def comparable(run: SavedRun, other: SavedRun) -> bool:
    """Whether the figures of two runs can stand in one table."""
    judged = bool(run.result.measures and other.result.measures)
    return judged and _facts(run) == _facts(other)


def _facts(run: SavedRun) -> dict[str, object]:
    """Return what must be the same, by its name."""
    task, options = run.result.task, run.result.options
    identity = identity_of(run.result).model_dump()
    return {
        "task": f"{task.address}@{task.version}",
        "protocol": task.protocol.name,
        "limit": options.limit,
        **{name.replace("_", " "): value for name, value in identity.items()},
    }


def compare(
    runs: Sequence[SavedRun],
    groups: Mapping[str, frozenset[str]] | None = None,
    measures: Sequence[str] | None = None,
    moves: int = 10,
) -> Comparison:
    """Compare runs with the first one.

    Parameters
    ----------
    runs
        At least two.
    groups
        Query ids by the name of a group, to be tested apart, too.
    measures
        Which; None for all of the protocol that are means over queries.
    moves
        How many queries to list that moved most.

    Raises
    ------
    UsageError
        If the runs cannot be compared, or a measure is not one of theirs.
    ResultError
        If a run's values cannot be read.
    """
    if len(runs) < 2:
        raise UsageError("a comparison takes two runs or more.")
    require_comparable(runs)
    protocol = runs[0].result.task.protocol
    chosen = list(protocol.measures if measures is None else measures)
    strange = [name for name in chosen if name not in protocol.measures]
    if strange:
        raise UsageError(
            f"measure {strange[0]!r} is none of these runs' ({', '.join(protocol.measures)})."
        )
    tested = [name for name in chosen if statistic_of(name) == "mean"]
    ids, first = _values(runs[0])
    parts: dict[str | None, NDArray[np.intp]] = {None: np.arange(len(ids))}
    for name, members in (groups or {}).items():
        parts[name] = np.flatnonzero([query in members for query in ids])
    found: list[tuple[str, str, str | None, PairedTest]] = []
    listed: dict[str, tuple[Move, ...]] = {}
    for run in runs[1:]:
        other_ids, values = _values(run)
        if other_ids != ids:
            raise UsageError(
                f"runs {runs[0].result.run_id} and {run.result.run_id} were measured on other "
                "queries: run them again."
            )
        name = run.result.run_id
        for group, rows in parts.items():
            for measure in tested if len(rows) else ():
                better = -1.0 if lower_is_better(measure) else 1.0
                pair = better * values[measure][rows], better * first[measure][rows]
                found.append((name, measure, group, paired_test(*pair, BOOTSTRAP_SEED)))
        listed[name] = _moves(ids, first[protocol.main], values[protocol.main], moves)
    corrected = holm([test.p for *_, test in found])
    rows_ = tuple(Compared(*row, p=p) for row, p in zip(found, corrected, strict=True))
    return Comparison(rows_, listed, tuple(name for name in chosen if name not in tested))


def _values(run: SavedRun) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    ids, values, measures = read_per_query(run.folder / PER_QUERY_NAME)
    return ids, {measure: values[:, place] for place, measure in enumerate(measures)}


def _moves(
    ids: Sequence[str],
    baseline: NDArray[np.float64],
    values: NDArray[np.float64],
    count: int,
) -> tuple[Move, ...]:
    change = np.abs(values - baseline)
    order = np.argsort(-change, kind="stable")[:count]
    return tuple(
        Move(ids[place], float(baseline[place]), float(values[place]))
        for place in order.tolist()
        if change[place] > 0
    )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
