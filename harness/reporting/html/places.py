"""Where in a document the answers lie: frames with boxes, stretches of sound, words of a text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.reporting.html.pictures import Picture

#: The numbers of query tokens, each with the span of its answer (see `TokenEmbeddings.spans`).
Answers = Sequence[tuple[int, Sequence[float] | None]]

#: Most frames of a strip; those with an answer come first.
MOST_FRAMES = 24
#: A text of at most so many characters is shown whole; else so many around each answer.
_WHOLE, _CONTEXT = 600, 80


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a frame, in percent of its width and height, and the query tokens it answered."""

    left: float
    top: float
    width: float
    height: float
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame or image with the parts that answered; `caption` says when or which it is."""

    picture: Picture
    caption: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """The frames of a video, or images.

    It answered so many query tokens; `whole` are those that it did at no known place.
    """

    modality: str
    answers: int
    frames: tuple[Frame, ...]
    whole: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a sound, in percent of its duration; `caption` says when."""

    left: float
    width: float
    caption: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """A sound: its outline as the points of an SVG polygon 100 wide and 20 high, and answers."""

    modality: str
    answers: int
    seconds: float
    outline: str
    stretches: tuple[Stretch, ...]
    whole: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of a text and the query tokens it answered; `left_out` characters come before it."""

    text: str
    tokens: tuple[int, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A text in pieces; `left_out` characters come after them."""

    modality: str
    answers: int
    words: tuple[Words, ...]
    left_out: int
    whole: tuple[int, ...]


def strip_of(modality: str, pictures: Sequence[Picture], answers: Answers) -> Strip:
    """Light the parts of frames that answered.

    Without pictures the frames that are known from the answers stand as empty ones.
    """
    whole: list[int] = []
    places: list[tuple[int, float, Sequence[float]]] = []
    for token, span in answers:
        if span is None or not (span[0] == span[0] or span[6] == span[6]):
            whole.append(token)
        else:
            places.append((token, span[0], span))
    shown = list(pictures) or _placeholders(places)
    lit: dict[int, dict[tuple[float, ...], list[int]]] = {}
    for token, second, span in places:
        boxes = lit.setdefault(_nearest(shown, second, span[6]), {})
        edges = span[2:6] if span[2] == span[2] else (0.0, 0.0, 1.0, 1.0)
        boxes.setdefault(tuple(edges), []).append(token)
    frames = tuple(
        Frame(shown[place], _caption(shown[place], modality), _boxes(lit.get(place, {})))
        for place in _chosen(len(shown), lit.keys())
    )
    return Strip(modality, len(answers), frames, tuple(whole))


def lane_of(modality: str, outline: Sequence[float], seconds: float, answers: Answers) -> Lane:
    """Light the stretches of a sound that answered."""
    placed = [(token, span) for token, span in answers if span is not None and span[0] == span[0]]
    whole = tuple(token for token, span in answers if span is None or span[0] != span[0])
    end = max([seconds, *(span[1] for _, span in placed)], default=0.0) or 1.0
    lit: dict[tuple[float, float], list[int]] = {}
    for token, span in placed:
        lit.setdefault((span[0], span[1]), []).append(token)
    stretches = tuple(
        Stretch(
            left=100 * first / end,
            width=max(100 * (last - first) / end, 0.5),
            caption=f"{first:.1f}-{last:.1f} s",
            tokens=tuple(tokens),
        )
        for (first, last), tokens in sorted(lit.items())
    )
    return Lane(modality, len(answers), end, _polygon(outline, seconds / end), stretches, whole)


def text_of(modality: str, text: str, answers: Answers) -> Text:
    """Cut a text at the answers; of a long one, what lies far from them is left out."""
    placed = [
        (int(span[0]), min(int(span[1]), len(text)), token)
        for token, span in answers
        if span is not None and span[0] == span[0]
    ]
    whole = tuple(token for token, span in answers if span is None or span[0] != span[0])
    edges = sorted({0, len(text), *(e for first, last, _ in placed for e in (first, last))})
    pieces: list[Words] = []
    dropped = 0
    for first, last in pairwise(edges):
        tokens = tuple(t for start, end, t in placed if start <= first and last <= end)
        if tokens or len(text) <= _WHOLE:
            pieces.append(Words(text[first:last], tokens, dropped))
            dropped = 0
            continue
        head = text[first : min(first + _CONTEXT, last)] if first or not placed else ""
        tail = text[max(last - _CONTEXT, first) : last] if last < len(text) else ""
        if len(head) + len(tail) >= last - first:
            head, tail = text[first:last], ""
        if head:
            pieces.append(Words(head, (), dropped))
            dropped = 0
        dropped += last - first - len(head) - len(tail)
        if tail:
            pieces.append(Words(tail, (), dropped))
            dropped = 0
    return Text(modality, len(answers), tuple(pieces), dropped, whole)


def _placeholders(places: Sequence[tuple[int, float, Sequence[float]]]) -> list[Picture]:
    known = {(span[6] if span[6] == span[6] else -1.0, second) for _, second, span in places}
    unique: dict[tuple[float, str], float] = {}
    for number, second in sorted(known):
        unique.setdefault((number, f"{second:.3f}"), second)
    return [Picture("", int(number), second) for (number, _), second in unique.items()]


def _nearest(shown: Sequence[Picture], second: float, number: float) -> int:
    """Return which frame an answer lies in: of its number, else nearest in time or number."""

    def distance(picture: Picture) -> tuple[bool, float]:
        if number == number and picture.number == int(number):
            return False, 0.0
        if second == second and picture.seconds == picture.seconds:
            return True, abs(picture.seconds - second)
        return True, abs(picture.number - number) if number == number else 0.0

    return min(range(len(shown)), key=lambda place: distance(shown[place]))


def _chosen(count: int, lit: Collection[int]) -> list[int]:
    """Return which of `count` frames are shown: those that are lit, and others spread evenly."""
    others = [place for place in range(count) if place not in lit]
    room = max(min(MOST_FRAMES, count) - len(lit), 0)
    spread = [others[(2 * i + 1) * len(others) // (2 * room)] for i in range(room)]
    return sorted([*lit, *spread])


def _boxes(found: dict[tuple[float, ...], list[int]]) -> tuple[Box, ...]:
    return tuple(
        Box(100 * left, 100 * top, 100 * (right - left), 100 * (bottom - top), tuple(tokens))
        for (left, top, right, bottom), tokens in found.items()
    )


def _caption(picture: Picture, modality: str) -> str:
    if picture.seconds == picture.seconds:
        return f"{picture.seconds:.1f} s"
    return f"{'image' if modality == 'image' else 'frame'} {picture.number}"


def _polygon(outline: Sequence[float], width: float) -> str:
    """Return the points of a polygon around a line at height 10, `width` of 100 long."""
    if not outline:
        return ""
    step = 100 * width / max(len(outline) - 1, 1)
    top = [f"{i * step:.2f},{10 - 9 * height:.2f}" for i, height in enumerate(outline)]
    bottom = [f"{i * step:.2f},{10 + 9 * height:.2f}" for i, height in enumerate(outline)]
    return " ".join([*top, *reversed(bottom)])
