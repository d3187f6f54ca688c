"""Tables of a run's attribution, for `run` and `results show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from harness.cli import show

if TYPE_CHECKING:
    from harness.results.schema import (
        AttributedRecord,
        AttributionRecord,
        ShareRecord,
        VotesRecord,
    )

#: What the two documents of a query are called.
TOP, RELEVANT = "first ranked", "best relevant"


def show_summary(records: Sequence[tuple[str, AttributionRecord]]) -> None:
    """Print one table of runs: shares of the score, and modality accuracy.

    Parameters
    ----------
    records
        What the table calls each run, and its record.
    """
    rows = [
        (name, document, one) for name, record in records for document, one in _documents(record)
    ]
    modalities = _modalities([one.share for *_, one in rows])
    ways = [way for way in ("majority", "argmax") if any(way in one.accuracy for *_, one in rows)]
    show.table(
        ["retriever", "document", *modalities, *(f"accuracy ({way})" for way in ways)],
        [
            [
                name,
                document,
                *_shares(one.share, modalities),
                *(_rate(one.accuracy.get(way)) for way in ways),
            ]
            for name, document, one in rows
        ],
        title="share of the score by modality of the matched tokens (%), modality accuracy (%)",
        numeric=True,
    )


def show_details(record: AttributionRecord) -> None:
    """Print shares and modality accuracy of one run, by group and by modality aimed at."""
    for document, one in _documents(record):
        modalities = _modalities([one.share, *one.groups.values()])
        rows = [["all", f"{one.share.queries:,}", *_shares(one.share, modalities)]]
        rows += [
            [value, f"{group.queries:,}", *_shares(group, modalities)]
            for value, group in one.groups.items()
        ]
        show.table(
            [one.grouped_by or "", "queries", *modalities],
            rows,
            title=f"shares of the score (%): {document}",
            numeric=True,
        )
        if one.missing or one.undivided:
            typer.echo(
                f"of {one.queries:,} queries, {one.missing:,} have no such document or no token; "
                f"the scores of {one.undivided:,} have negative parts and so no shares."
            )
        if one.accuracy:
            _show_accuracy(document, one)


def _show_accuracy(document: str, one: AttributedRecord) -> None:
    targets = list(next(iter(one.accuracy.values())).by_target)
    names = ["queries", "hits", "ties", "none", "missing"]
    rows = []
    for way, found in one.accuracy.items():
        counts = [f"{getattr(found, name):,}" for name in names]
        rows.append([way, _rate(found), *(_rate(found.by_target.get(t)) for t in targets), *counts])
    show.table(
        ["winner by", "accuracy", *targets, *names],
        rows,
        title=f"modality accuracy (%): {document}",
        numeric=True,
    )


def _documents(record: AttributionRecord) -> list[tuple[str, AttributedRecord]]:
    found = [(TOP, record.top)]
    return found if record.relevant is None else [*found, (RELEVANT, record.relevant)]


def _modalities(records: Sequence[ShareRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.share))


def _shares(record: ShareRecord, modalities: Sequence[str]) -> list[str]:
    return [f"{record.share[m] * 100:.1f}" if m in record.share else "-" for m in modalities]


def _rate(votes: VotesRecord | None) -> str:
    if votes is None or not votes.queries:
        return "-"
    return f"{votes.hits / votes.queries * 100:.1f}"
