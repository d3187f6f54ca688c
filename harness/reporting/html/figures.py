"""The figures of a run as tables and plots of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.rank_measures import written
from harness.reporting.comparison import comparable
from harness.reporting.html.grid import (
    Bar,
    Cell,
    Column,
    Table,
    by_measure,
    columns_of,
    counted,
    measured,
)
from harness.reporting.html.plots import Plot, Spot, scatter
from harness.reporting.words import milliseconds, size
from harness.results.schema import AttributedRecord, Result, ShareRecord, VotesRecord
from harness.results.store import SavedRun

#: What the two documents of a query are called.
TOP, RELEVANT = "first ranked document", "best relevant document"


@dataclass(frozen=True, slots=True)
class Shares:
    """A bar of shares: what it is of, how many queries, and ``(modality, percent)``."""

    name: str
    queries: int
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Attributed:
    """Shares and modality accuracy of one document for each query."""

    title: str
    bars: tuple[Shares, ...]
    grouped_by: str | None
    accuracy: Table | None
    missing: int
    undivided: int


def tables_of(result: Result) -> list[Table]:
    """Return the measures of a run, and its breakdowns; none without judgments."""
    if not result.measures:
        return []
    protocol = result.task.protocol
    tables = [by_measure(result.measures, result.references)]
    for attribute, groups in result.breakdowns.items():
        rows = tuple(
            (
                Cell(value),
                counted(group.queries),
                *(
                    measured(name, group.measures[name], drawn=name == protocol.main)
                    for name in protocol.measures
                ),
            )
            for value, group in groups.items()
        )
        columns = (Column(attribute, figures=False), Column(protocol.unit))
        caption = f"By {attribute.replace('_', ' ')}"
        tables.append(Table(caption, (*columns, *columns_of(protocol.measures)), rows))
    return tables


def attributed(result: Result) -> list[Attributed]:
    """Return which modalities answered, of the first ranked and the best relevant document."""
    record = result.attribution
    if record is None:
        return []
    found = [(TOP, record.top)]
    if record.relevant is not None:
        found.append((RELEVANT, record.relevant))
    return [
        Attributed(
            title,
            (
                _shares("all", one.share),
                *(_shares(value, group) for value, group in one.groups.items()),
            ),
            one.grouped_by,
            _accuracy(one),
            one.missing,
            one.undivided,
        )
        for title, one in found
    ]


def cost_plots(saved: SavedRun, others: Iterable[SavedRun]) -> tuple[Table, list[Plot]] | None:
    """Return quality against index size and latency, of this run and the others of its table.

    Of runs of the same retriever and options the newest counts. None without judgments.
    """
    if not saved.result.measures:
        return None
    mine = saved.result
    main, ways = mine.task.protocol.main, {_way(mine): mine}
    for run in sorted(others, key=lambda run: run.result.created):
        if _way(run.result) != _way(mine) and comparable(saved, run):
            ways[_way(run.result)] = run.result
    results = [mine, *(result for result in ways.values() if result is not mine)]
    names = [name_of(result) for result in results]
    rows = tuple(
        (
            Cell(f"{number}", number),
            Cell(name, note="this run" if result is mine else ""),
            measured(main, result.measures[main]),
            Cell(size(result.efficiency.index_bytes), result.efficiency.index_bytes),
            Cell(milliseconds(p50 := result.efficiency.query_p50_ms), p50),
            Cell(milliseconds(p95 := result.efficiency.query_p95_ms), p95),
        )
        for number, (name, result) in enumerate(zip(names, results, strict=True), 1)
    )
    columns = (
        Column("no.", ascending=True),
        Column("retriever", figures=False),
        *columns_of([main]),
        Column("index", ascending=True),
        Column("query p50", ascending=True),
        Column("query p95", ascending=True),
    )

    def spots(costs: Sequence[float | None]) -> list[Spot]:
        return [
            Spot(number, name, cost, result.measures[main])
            for number, (name, result, cost) in enumerate(
                zip(names, results, costs, strict=True), 1
            )
            if cost
        ]

    bytes_ = scatter(main, "index size", _bytes, spots([r.efficiency.index_bytes for r in results]))
    latency = scatter(
        main, "latency of one query (p50)", _ms, spots([r.efficiency.query_p50_ms for r in results])
    )
    table = Table("This run and the other saved runs of its table", columns, rows)
    return table, [plot for plot in (bytes_, latency) if plot is not None]


def name_of(result: Result) -> str:
    """Return a retriever with what differs from its defaults."""
    parts = [f"{key}={value}" for key, value in result.retriever.changed_settings.items()]
    if result.options.restriction is not None:
        parts.append(result.options.restriction)
    return result.retriever.address + (f" ({', '.join(parts)})" if parts else "")


def _way(result: Result) -> tuple[str, str]:
    return result.retriever.fingerprint, result.options.model_dump_json(exclude={"seed"})


def _bytes(value: float) -> str:
    return size(round(value))


def _ms(value: float) -> str:
    return f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"


def _shares(name: str, record: ShareRecord) -> Shares:
    shares = tuple((modality, 100 * share) for modality, share in record.share.items())
    return Shares(name, record.queries, shares)


def _accuracy(one: AttributedRecord) -> Table | None:
    if not one.accuracy:
        return None
    targets = list(dict.fromkeys(t for votes in one.accuracy.values() for t in votes.by_target))
    rows: list[tuple[str, Mapping[str, VotesRecord]]] = [("all", one.accuracy)]
    rows += [
        (t, {way: v.by_target[t] for way, v in one.accuracy.items() if t in v.by_target})
        for t in targets
    ]
    first = next(iter(one.accuracy))
    return Table(
        "Modality accuracy (%): how often the modality that a query aims at answered it, by how "
        "the winner is found",
        (
            Column("query aims at", figures=False),
            Column("queries"),
            *(Column(way) for way in one.accuracy),
        ),
        tuple(
            (Cell(name), counted(votes[first].queries), *(_rate(votes[way]) for way in votes))
            for name, votes in rows
        ),
    )


def _rate(votes: VotesRecord) -> Cell:
    if not votes.queries:
        return Cell("-")
    rate = votes.hits / votes.queries
    return Cell(written("rate", rate, 1), rate, bar=Bar(100 * rate))
