"""An explained score in words and figures, as the terminal and the page show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.types import NO_MODALITY, Modality

if TYPE_CHECKING:
    from harness.late_interaction.attribution import Attribution
    from harness.runner.explain import Explanation
    from harness.types import Document

#: Characters of a text that are shown on either side of what matched.
AROUND = 16

CAVEAT = (
    "A modality here is that of the token whose vector matched; in a model that reads all "
    "modalities together that token can carry what another one showed"
)
NO_SHARES = (
    "no shares where a modality adds a negative part or the score is not above 0: parts of such a "
    "sum are no fractions of it."
)


def source(
    document: Document, number: int, span: Sequence[float] | None, *, words: bool = True
) -> str:
    """Return what a span points at: words of a text, or seconds and a box.

    Parameters
    ----------
    document
        The document.
    number
        The modality number of the token.
    span
        Its row of `TokenEmbeddings.spans`, or None.
    words
        Whether words may be shown; else the numbers of their characters are.
    """
    if number == NO_MODALITY or span is None:
        return "-"
    start, end, left, top, right, bottom, frame = span
    text = document.texts.get(Modality(number))
    if text is not None and start == start:  # NaN: of no part of it.
        first, last = int(start), int(end)
        if not words:
            return f"characters {first:,}-{last:,}"
        before, after = text[max(first - AROUND, 0) : first], text[last : last + AROUND]
        return " ".join(f"{before}[{text[first:last]}]{after}".split())
    parts = []
    if frame == frame:
        kind = "image" if number == Modality.IMAGE else "frame"
        parts.append(f"{kind} {int(frame)}")
    if start == start and text is None:
        parts.append(f"{start:.1f} s" if start == end else f"{start:.1f}-{end:.1f} s")
    if left == left:
        parts.append(f"x {left:.2f}-{right:.2f}, y {top:.2f}-{bottom:.2f}")
    return ", ".join(parts) or "-"


def variations(
    explained: Explanation, without: frozenset[Modality]
) -> list[tuple[str, Attribution]]:
    """Return the scores to compare by name: as it is, and without the modalities left out."""
    found = [("as it is", explained.full)]
    if explained.masked is not None and explained.left_out is not None:
        named = "+".join(modality.label for modality in sorted(without))
        found += [
            (f"{named} masked in scoring", explained.masked),
            (f"{named} left out of the encoding", explained.left_out),
        ]
    return found


def part_rows(scores: Sequence[tuple[str, Attribution]]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows: each score, its change from the first, and its parts."""
    from harness.late_interaction.attribution import label

    full = scores[0][1]
    numbers = sorted({number for _, one in scores for number in one.contributions})
    rows = [
        [name, _score(one), _change(full, one), *(_part(one, number) for number in numbers)]
        for name, one in scores
    ]
    return ["", "score", "change", *map(label, numbers)], rows


def lacks_shares(scores: Sequence[tuple[str, Attribution]]) -> bool:
    """Whether one of the scores has parts that are no fractions of it."""
    return any(one.found and one.shares is None for _, one in scores)


def _score(one: Attribution) -> str:
    return f"{one.score:.4f}" if one.found else "none"


def _change(full: Attribution, one: Attribution) -> str:
    if one is full or not (one.found and full.found):
        return "-"
    return f"{one.score - full.score:+.4f}"


def _part(one: Attribution, number: int) -> str:
    part = one.contributions.get(number)
    if part is None:
        return "-"
    shares = one.shares
    return f"{part:.4f}" if shares is None else f"{part:.4f} ({shares[number]:.1%})"
