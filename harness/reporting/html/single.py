"""One explained score as a page: what the terminal shows, and where the answers lie."""

from __future__ import annotations

from harness.reporting.explanation import CAVEAT, NO_SHARES, lacks_shares, part_rows, variations
from harness.reporting.html.explained import explained
from harness.reporting.html.grid import Cell, Column, Table
from harness.reporting.html.page import render
from harness.reporting.html.pictures import image_of, sampling_of, seen
from harness.results.store import SavedRun
from harness.retriever import Retriever
from harness.runner.explain import Explanation
from harness.types import Modality


def single(
    saved: SavedRun,
    retriever: Retriever,
    explanation: Explanation,
    without: frozenset[Modality],
) -> str:
    """Return the page of one explained score.

    Parameters
    ----------
    saved, retriever
        The run, and what made it.
    explanation, without
        The score, and the modalities left out for the causal check.

    Raises
    ------
    UsageError
        If jinja2 is not installed.
    """
    document, query = explanation.document, explanation.query
    sound = Modality.AUDIO in document.media
    [(_, pictures)] = seen([document], sampling_of(retriever.settings), sound=sound)
    place = "not in the query's list"
    if explanation.rank is not None:
        place = f"rank {explanation.rank:,}"
    scores = variations(explanation, without)
    headers, rows = part_rows(scores)
    notes = [CAVEAT + ("." if without else ": check with --without.")]
    if lacks_shares(scores):
        notes.append(NO_SHARES)
    return render(
        "explain.html.j2",
        title=f"{query.id}: {document.id}",
        result=saved.result,
        query=query,
        image=image_of(query.image),
        one=explained(document, explanation.full, explanation.tokens, place, pictures),
        parts=Table(
            "The score by modality (share)",
            (Column("variation", figures=False), *map(Column, headers[1:])),
            tuple(tuple(Cell(text, _number(text)) for text in row) for row in rows),
        ),
        notes=notes,
    )


def _number(text: str) -> float | None:
    """Return the figure that a cell begins with, to sort by."""
    first = text.split(" ")[0]
    try:
        return float(first)
    except ValueError:
        return None
