"""Draws the facts of the videos of both splits.

Each video shares a fact of every modality with the video before it of its language: whoever
answers a query from another modality than the one asked about has a wrong video to fall for.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from harness.types import Modality
from tasks.sample.facts import HELD_OUT, Scene, Thing, Tone, VideoFacts
from tasks.sample.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    CONTOURS,
    DIRECTIONS,
    EVENTS,
    PITCHES,
    SHAPES,
    STYLES,
    TIMBRES,
    wordings,
)

TEXTS = (Modality.ASR, Modality.OCR, Modality.DESCRIPTION)

#: Languages of ten videos in a row: 60% English, 10% each other language.
_LANGUAGES = (
    "english",
    "arabic",
    "english",
    "chinese",
    "english",
    "english",
    "korean",
    "english",
    "russian",
    "english",
)


@dataclass(slots=True)
class _Used:
    """What videos drawn so far have taken, so that others do not have it too."""

    combinations: set[tuple[str, str, str, str]] = field(default_factory=set)
    sounds: set[tuple[Tone, Tone]] = field(default_factory=set)
    triples: set[tuple[Modality, frozenset[int]]] = field(default_factory=set)

    def add(self, video: VideoFacts) -> None:
        self.combinations |= video.scene.combinations()
        self.sounds.add(video.sound)
        self.triples |= {(m, frozenset(concepts)) for m, concepts in video.concepts.items()}


def draw_videos(seed: int, test: int, train: int) -> dict[str, tuple[VideoFacts, ...]]:
    """Draw the videos of both splits.

    No two test videos share a whole scene, sound track or set of concepts, and no training video
    has one that a test video has; pairs of colour and shape in `HELD_OUT` are in test videos only.

    Parameters
    ----------
    seed
        Same seed and sizes, same videos.
    test, train
        How many videos.
    """
    used = _Used()
    splits: dict[str, tuple[VideoFacts, ...]] = {}
    for split, count in (("test", test), ("train", train)):
        random = Random(f"sample videos {split} {seed}")  # noqa: S311 (not for secrets)
        before: dict[str, VideoFacts] = {}
        videos = []
        for number in range(count):
            language = _LANGUAGES[number % len(_LANGUAGES)]
            video = _video(
                _identifier(seed, split, number),
                language,
                random,
                before.get(language),
                used,
                held_out=split == "test",
            )
            before[language] = video
            videos.append(video)
            if split == "test":
                used.add(video)
        splits[split] = tuple(videos)
    return splits


def _identifier(seed: int, split: str, number: int) -> str:
    """Return an id like YouTube's: 11 characters, ``-`` and ``_`` among them."""
    name = f"sample {seed} {split} {number}"
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest())[:11].decode()


def _video(
    identifier: str,
    language: str,
    random: Random,
    before: VideoFacts | None,
    used: _Used,
    *,
    held_out: bool,
) -> VideoFacts:
    concepts = {m: _concepts(m, language, random, before, used) for m in TEXTS}
    return VideoFacts(
        identifier,
        language,
        random.choice(EVENTS),
        random.choice(STYLES),
        _scene(random, before, used, held_out=held_out),
        _sound(random, before, used),
        concepts,
        {m: tuple(random.randrange(2) for _ in concepts[m]) for m in TEXTS},
    )


def _sharing(before: VideoFacts | None) -> Iterator[VideoFacts | None]:
    """Return the video to share a fact with for each attempt, without end.

    What it could share may be used up: after 50 attempts nothing is shared.
    """
    return itertools.chain(itertools.repeat(before, 50), itertools.repeat(None))


def _concepts(
    modality: Modality, language: str, random: Random, before: VideoFacts | None, used: _Used
) -> tuple[int, ...]:
    known = sorted(wordings(modality, language))
    sharing = _sharing(before)
    while True:
        near = next(sharing)
        shared = [] if near is None else [random.choice(near.concepts[modality])]
        free = random.sample([c for c in known if c not in shared], 3 - len(shared))
        if (modality, frozenset([*shared, *free])) not in used.triples:
            drawn = [*shared, *free]
            random.shuffle(drawn)
            return tuple(drawn)


def _scene(random: Random, before: VideoFacts | None, used: _Used, *, held_out: bool) -> Scene:
    sharing = _sharing(before)
    while True:
        near = next(sharing)
        things: list[Thing] = []
        if near is not None:
            shared = random.choice(near.scene.things)
            things.append(Thing(shared.colour, shared.shape, random.choice(tuple(DIRECTIONS))))
        wanted = random.choice((1, 2))
        while len(things) < wanted:
            colours = [c for c in COLOURS if c not in {thing.colour for thing in things}]
            colour, shape = random.choice(colours), random.choice(tuple(SHAPES))
            if held_out or (colour, shape) not in HELD_OUT:
                things.append(Thing(colour, shape, random.choice(tuple(DIRECTIONS))))
        random.shuffle(things)
        scene = Scene(tuple(things), random.choice(tuple(BACKGROUNDS)))
        if not scene.combinations() & used.combinations:
            return scene


def _sound(random: Random, before: VideoFacts | None, used: _Used) -> tuple[Tone, Tone]:
    sharing = _sharing(before)
    while True:
        near = next(sharing)
        first, second = _tone(random), _tone(random)
        if near is not None:
            first, second = random.choice(((near.sound[0], second), (first, near.sound[1])))
        if (first, second) not in used.sounds:
            return first, second


def _tone(random: Random) -> Tone:
    return Tone(
        random.choice(tuple(TIMBRES)), random.choice(tuple(PITCHES)), random.choice(tuple(CONTOURS))
    )
