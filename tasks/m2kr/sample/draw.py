"""Draws passages and queries of three kinds, after the three kinds of M2KR.

=======  ================  ==========================================================
part     query             relevant passage
=======  ================  ==========================================================
WIT      a picture         the one that describes its shapes and its ground
MSMARCO  a question        the one that has all that is asked about
OKVQA    both              the one that states what the question asks of the shape shown
=======  ================  ==========================================================

Words of a question and of its passage differ in part, so that no method has it easy. The kinds
share no vocabulary but the names of shapes, and answers of OKVQA occur in several passages.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from harness.types import Modality
from tasks.sample.facts import HELD_OUT, Scene, Thing
from tasks.sample.vocabulary import BACKGROUNDS, COLOURS, ENGLISH, SHAPES, Pair

_T = TypeVar("_T")

#: What is told of a shape: two wordings each.
RELATIONS: tuple[Pair, ...] = (
    ("guard", "protect"),
    ("sell", "trade"),
    ("fear", "dread"),
    ("build", "construct"),
    ("hate", "loathe"),
    ("hide", "conceal"),
    ("clean", "scrub"),
    ("carry", "haul"),
    ("want", "desire"),
    ("break", "smash"),
    ("find", "discover"),
    ("fix", "repair"),
    ("rent", "lease"),
    ("watch", "observe"),
)

#: The fifth part of all passages answers no query.
_SPARE = 5

#: Share of words in a question that its passage has in the other wording.
_REWORDED = 0.3

_INSTRUCTIONS = {
    "WIT": ("Find the text that belongs to this picture:", "Which text describes the picture?:"),
    "MSMARCO": ("Find the text that answers the question:",),
    "OKVQA": (
        "Find the text that answers the question about the picture:",
        "Look at the picture and find the text that answers:",
    ),
}
_PICTURES = (
    "The picture shows {} on {} ground. It was taken on the day of the {}.",
    "A photograph from the time of the {2}: {0}, and the ground is {1}.",
    "Seen here on {1} ground: {0}. In the archive it is filed under {2}.",
)
_STORIES = (
    "In this story the {} meets a {} and both look for the {}.",
    "Near the {} there was a {}, and nobody had seen the {} before.",
    "First came the {}, then the {}, and at last the {}.",
)
_FACTS = (
    "The {} is known to {} the {}. People talked of it at the {}.",
    "Since the {3} everyone knows that the {0} will {1} the {2}.",
)
_ASKED_OF_STORIES = ("what happened to the {}", "where can I read of the {}", "{}")
_ASKED_OF_FACTS = ("What does it {}?", "What is this known to {}?", "It will {} what?")


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of the pool."""

    id: str
    text: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A query with its passage."""

    id: str
    question: str
    instruction: str
    scene: Scene | None
    relevant: Passage
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Passages and queries of one kind, in one split."""

    folder: str
    split: str
    passages: tuple[Passage, ...]
    rows: tuple[Row, ...]


def draw_parts(seed: int, test: int, train: int) -> list[Part]:
    """Draw the three parts of both splits.

    No picture, set of concepts or fact of the test split occurs in training, and neither do the
    pairs of colour and shape in `HELD_OUT`.

    Parameters
    ----------
    seed
        Same seed and sizes, same parts.
    test, train
        Queries of each part.
    """
    parts = []
    scenes: set[_SceneKey] = set()
    stories: set[frozenset[int]] = set()
    facts: set[tuple[object, ...]] = set()
    for split, queries in (("test", test), ("train", train)):
        for folder in ("WIT", "MSMARCO", "OKVQA"):
            random = Random(f"m2kr sample {folder} {split} {seed}")  # noqa: S311 (no secrets)
            count = queries + queries // _SPARE
            draw = _Draw(folder, split, random)
            if folder == "WIT":
                drawn = draw.pictures(count, scenes)
            elif folder == "MSMARCO":
                drawn = draw.stories(count, stories)
            else:
                drawn = draw.facts(count, facts)
            rows = drawn[:queries]
            passages = [row.relevant for row in drawn]
            random.shuffle(passages)
            parts.append(Part(folder, split, tuple(passages), tuple(rows)))
    return parts


_SceneKey = tuple[frozenset[tuple[str, str]], str]


class _Draw:
    """Draws rows of one part, one for every passage."""

    def __init__(self, folder: str, split: str, random: Random) -> None:
        self._folder, self._split, self._random = folder, split, random
        self._things = [
            (colour, shape)
            for colour, shape in itertools.product(COLOURS, SHAPES)
            if split == "test" or (colour, shape) not in HELD_OUT
        ]

    def pictures(self, count: int, used: set[_SceneKey]) -> list[Row]:
        """Pictures of one or two shapes; every second one shares a shape with the one before."""
        rows: list[Row] = []
        before: list[tuple[str, str]] = []
        while len(rows) < count:
            wanted = self._random.choice((1, 2))
            things = [self._random.choice(before)] if before and len(rows) % 2 else []
            while len(things) < wanted:
                one = self._random.choice(self._things)
                if one[0] not in {colour for colour, _ in things}:
                    things.append(one)
            self._random.shuffle(things)
            ground = self._random.choice(tuple(BACKGROUNDS))
            if any(ground == g and _nested(frozenset(things), t) for t, g in used):
                continue
            used.add((frozenset(things), ground))
            before = things
            text = self._either(_PICTURES).format(
                " and ".join(f"the {self._named(thing)}" for thing in things),
                self._either(BACKGROUNDS[ground]),
                self._concept(Modality.DESCRIPTION),
            )
            rows.append(self._row(len(rows), text, "", _scene(things, ground)))
        return rows

    def stories(self, count: int, used: set[frozenset[int]]) -> list[Row]:
        """Passages with three concepts each; the question asks for some that one passage has."""
        known = ENGLISH[Modality.ASR]
        told: list[tuple[int, ...]] = []
        while len(told) < count:
            concepts = tuple(self._random.sample(range(len(known)), 3))
            if frozenset(concepts) not in used:
                used.add(frozenset(concepts))
                told.append(concepts)
        pairs = Counter(
            frozenset(pair) for three in told for pair in itertools.combinations(three, 2)
        )
        rows: list[Row] = []
        for three in told:
            words = {concept: self._random.randrange(2) for concept in three}
            text = self._either(_STORIES).format(*(known[c][w] for c, w in words.items()))
            asked = self._random.sample(three, self._random.choice((2, 3)))
            if pairs[frozenset(asked)] > 1:
                asked = list(three)
            reworded = self._random.choice(asked)
            terms = [
                known[c][words[c] ^ (c == reworded or self._random.random() < _REWORDED)]
                for c in asked
            ]
            question = self._either(_ASKED_OF_STORIES).format(" and the ".join(terms))
            rows.append(self._row(len(rows), text, question, None))
        return rows

    def facts(self, count: int, used: set[tuple[object, ...]]) -> list[Row]:
        """Passages that state a fact of a shape; the query shows the shape and asks for it."""
        rows: list[Row] = []
        pairs = list(itertools.product(self._things, range(len(RELATIONS))))
        for thing, relation in self._random.sample(pairs, len(pairs)):
            if len(rows) == count:
                break
            concept = self._random.randrange(len(ENGLISH[Modality.OCR]))
            if (thing, relation, concept) in used:
                continue
            used.add((thing, relation, concept))
            words = ENGLISH[Modality.OCR][concept]
            told = self._random.randrange(2)
            named = self._named(thing)
            text = self._either(_FACTS).format(
                named,
                self._either(RELATIONS[relation]),
                words[told],
                self._concept(Modality.DESCRIPTION),
            )
            question = self._either(_ASKED_OF_FACTS).format(self._either(RELATIONS[relation]))
            scene = _scene([thing], self._random.choice(tuple(BACKGROUNDS)))
            answers = (words[told], words[told], words[1 - told])
            rows.append(self._row(len(rows), text, question, scene, named, answers))
        return rows

    def _row(
        self,
        number: int,
        text: str,
        question: str,
        scene: Scene | None,
        title: str | None = None,
        answers: tuple[str, ...] = (),
    ) -> Row:
        name = f"{self._folder}_{self._split}"
        instruction = self._either(_INSTRUCTIONS[self._folder])
        passage = Passage(f"{name}_passage_{number}", text, title)
        return Row(f"{name}_{number}", question, instruction, scene, passage, answers)

    def _named(self, thing: tuple[str, str]) -> str:
        return f"{self._either(COLOURS[thing[0]])} {self._either(SHAPES[thing[1]])}"

    def _concept(self, modality: Modality) -> str:
        return self._either(self._either(ENGLISH[modality]))

    def _either(self, options: Sequence[_T]) -> _T:
        return self._random.choice(options)


def _nested(one: frozenset[tuple[str, str]], other: frozenset[tuple[str, str]]) -> bool:
    """Whether one picture shows all that the other shows: then the other's passage fits it too."""
    return one <= other or other <= one


def _scene(things: Sequence[tuple[str, str]], ground: str) -> Scene:
    return Scene(tuple(Thing(colour, shape, "left") for colour, shape in things), ground)
