"""An explained score as a page shows it: every figure adds up, every token has its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.late_interaction.attribution import Attribution, label
from harness.reporting.explanation import source
from harness.reporting.html.pictures import NOTHING, Seen
from harness.reporting.html.places import Lane, Strip, Text, lane_of, strip_of, text_of
from harness.types import MEDIA_MODALITIES, NO_MODALITY, Document, Modality

#: Figures have four decimals, as in the terminal.
_UNIT = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """What a modality adds to a score.

    Attributes
    ----------
    modality
        Its label, or ``none``.
    value
        As it is.
    shown
        With four decimals, rounded so that the parts shown add up to the score shown.
    share
        In percent; None where parts are no fractions.
    width
        Percent of the bar: by size, negative parts included.
    """

    modality: str
    value: float
    shown: str
    share: float | None
    width: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the query and what answered it; numbers count from 1.

    `adds` is rounded so that the tokens of a modality add up to its part; `value` is as it is.
    """

    number: int
    text: str | None
    modality: str
    place: str
    source: str
    similarity: str
    adds: str
    value: float


@dataclass(frozen=True, slots=True)
class Explained:
    """One score of one document for one query.

    Attributes
    ----------
    document, title
        Of the document; the title is None where it has none or may not be shown.
    place
        Where the document stands in the query's list, in words.
    score
        As it is; -inf if nothing of the document counts.
    shown
        The score with four decimals, or "none".
    parts, tokens
        The score by modality, and by token of the query.
    strips, lanes, texts
        Where in video and images, in sound and in texts the answers lie.
    """

    document: str
    title: str | None
    place: str
    score: float
    shown: str
    parts: tuple[Part, ...]
    tokens: tuple[Token, ...]
    strips: tuple[Strip, ...]
    lanes: tuple[Lane, ...]
    texts: tuple[Text, ...]


def explained(
    document: Document,
    attribution: Attribution,
    tokens: Sequence[str] | None,
    place: str,
    pictures: Seen = NOTHING,
    *,
    words: bool = True,
) -> Explained:
    """Return an attribution as a page shows it.

    Parameters
    ----------
    document
        The document.
    attribution
        Its score for the query.
    tokens
        A text for each token of the query, or None.
    place
        Where it stands in the query's list, in words.
    pictures
        Of the document.
    words
        Whether words of query and document may be shown.
    """
    found = _tokens(document, attribution, tokens if words else None, words)
    answers = _answers(attribution)
    media = [m for m in sorted(document.modalities | answers.keys()) if m in MEDIA_MODALITIES]
    pictured = {Modality.VIDEO: pictures.frames, Modality.IMAGE: pictures.images}
    return Explained(
        document=document.id,
        title=document.title if words else None,
        place=place,
        score=attribution.score,
        shown=f"{attribution.score:.4f}" if attribution.found else "none",
        parts=_parts(attribution),
        tokens=found,
        strips=tuple(
            strip_of(m.label, pictured[m], answers.get(m, ())) for m in media if m in pictured
        ),
        lanes=tuple(
            lane_of(m.label, pictures.outline, pictures.seconds, answers.get(m, ()))
            for m in media
            if m not in pictured
        ),
        texts=tuple(
            text_of(m.label, document.texts[m], answers.get(m, ()))
            for m in sorted(document.texts)
            if words
        ),
    )


def adding_up(values: Sequence[float], total: int) -> list[int]:
    """Round values, in units, down or up so that they add up to `total`.

    Those with the largest fractions are rounded up (the method of largest remainders).
    """
    if not values:
        return []
    rounded = [math.floor(value) for value in values]
    each, rest = divmod(total - sum(rounded), len(values))
    order = sorted(range(len(values)), key=lambda i: rounded[i] - values[i])
    for rank, place in enumerate(order):
        rounded[place] += each + (rank < rest)
    return rounded


def in_units(attribution: Attribution) -> tuple[dict[int, int], list[int]]:
    """Return the parts by modality number, and of each token, in ten-thousandths.

    Both add up to the score, rounded.
    """
    parts = attribution.contributions
    total = round(attribution.score * _UNIT)
    by_modality = dict(
        zip(parts, adding_up([part * _UNIT for part in parts.values()], total), strict=True)
    )
    numbers = attribution.winners.modalities.tolist()
    values = attribution.winners.parts.tolist()
    by_token = [0] * len(numbers)
    for number, units in by_modality.items():
        places = [place for place, mine in enumerate(numbers) if mine == number]
        rounded = adding_up([values[place] * _UNIT for place in places], units)
        for place, one in zip(places, rounded, strict=True):
            by_token[place] = one
    return by_modality, by_token


def _parts(attribution: Attribution) -> tuple[Part, ...]:
    if not attribution.found:
        return ()
    parts, shares = attribution.contributions, attribution.shares
    units, _ = in_units(attribution)
    whole = sum(map(abs, parts.values())) or 1.0
    return tuple(
        Part(
            modality=label(number),
            value=value,
            shown=_written(units[number]),
            share=None if shares is None else shares[number] * 100,
            width=abs(value) / whole * 100,
        )
        for number, value in parts.items()
    )


def _tokens(
    document: Document, attribution: Attribution, texts: Sequence[str] | None, words: bool
) -> tuple[Token, ...]:
    won, spans = attribution.winners, attribution.spans
    adds = in_units(attribution)[1] if attribution.found else None
    return tuple(
        Token(
            number=place + 1,
            text=None if texts is None else texts[place],
            modality=label(number),
            place=str(int(won.tokens[place]) + 1) if won.tokens[place] >= 0 else "-",
            source=source(
                document, number, None if spans is None else spans[place].tolist(), words=words
            ),
            similarity=f"{similarity:.4f}" if math.isfinite(similarity) else "none",
            adds="none" if adds is None else _written(adds[place]),
            value=float(won.parts[place]),
        )
        for place, (number, similarity) in enumerate(
            zip(won.modalities.tolist(), won.similarities.tolist(), strict=True)
        )
    )


def _answers(
    attribution: Attribution,
) -> Mapping[Modality, Sequence[tuple[int, Sequence[float] | None]]]:
    """Return, by modality, the numbers of the query tokens that it answered, with the spans."""
    found: dict[Modality, list[tuple[int, Sequence[float] | None]]] = {}
    spans = attribution.spans
    for place, number in enumerate(attribution.winners.modalities.tolist()):
        if number != NO_MODALITY:
            span = None if spans is None else spans[place].tolist()
            found.setdefault(Modality(number), []).append((place + 1, span))
    return found


def _written(units: int) -> str:
    return f"{units / _UNIT:.4f}"
