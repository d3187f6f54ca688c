"""Draws the queries of a split.

Test queries are drawn again until exactly one video of the pool satisfies them. Training queries
may be satisfied by several videos; all of them are judged relevant.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from harness.types import Modality
from tasks.sample.facts import Pool, QueryFacts, VideoFacts
from tasks.sample.phrases import asked

#: Modalities that queries are written for, in the order of their ids.
TYPES = (Modality.VIDEO, Modality.ASR, Modality.OCR, Modality.DESCRIPTION)

#: Pairs of modalities that a joint query may need.
PAIRS = tuple(itertools.combinations(TYPES, 2))

#: Speech and descriptions are asked about in their own language, all else in English.
_OWN_LANGUAGE = (Modality.ASR, Modality.DESCRIPTION)

#: Attempts at a test query before the video goes without one of that type.
_ATTEMPTS = 60


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """A query with what it asks and the videos that satisfy it."""

    id: str
    text: str
    facts: QueryFacts
    relevant: tuple[str, ...]


def draw_queries(
    seed: int,
    split: str,
    videos: tuple[VideoFacts, ...],
    *,
    per_type: int,
    unambiguous: bool,
    audio: bool,
    first: int = 0,
) -> list[SampleQuery]:
    """Draw the queries of a split.

    Parameters
    ----------
    seed, split
        Seed of the draw.
    videos
        The pool.
    per_type
        Queries of each type for each video.
    unambiguous
        Keep only queries that exactly one video satisfies, and joint queries whose halves each
        fit another video too, so that both are needed.
    audio
        Write queries about the sound as well.
    first
        Number that the ids begin with.
    """
    pool = Pool(videos)
    found: list[SampleQuery] = []
    kinds: list[str] = [*(m.label for m in TYPES), "joint", *(["audio"] if audio else [])]
    for kind in kinds:
        # One stream of random numbers a type: audio queries change no other query.
        random = Random(f"sample queries {split} {seed} {kind}")  # noqa: S311 (not for secrets)
        for video, _ in itertools.product(videos, range(per_type)):
            for facts in itertools.islice(_drawn(kind, video, random), _ATTEMPTS):
                relevant = pool.satisfying(facts)
                if unambiguous and (len(relevant) > 1 or not _needs_all(facts, pool)):
                    continue
                language = _language(facts, video)
                found.append(
                    SampleQuery(
                        _identifier(facts, video, language, first + len(found)),
                        asked(facts, video, language, random),
                        facts,
                        tuple(other.id for other in relevant),
                    )
                )
                break
    return found


def _drawn(kind: str, video: VideoFacts, random: Random) -> Iterator[QueryFacts]:
    if kind != "joint":
        while True:
            yield _facts(Modality.parse(kind), video, random)
    pairs = [pair for pair in PAIRS if _one_language(pair, video)]
    random.shuffle(pairs)
    # Ten attempts with each pair: pairs that often fail would be rare otherwise.
    for pair in itertools.cycle(pairs):
        for _ in range(10):
            one, two = (_one_fact(modality, video, random) for modality in pair)
            yield one.both(two)


def _one_language(pair: tuple[Modality, Modality], video: VideoFacts) -> bool:
    """Whether both halves are asked in one language."""
    return video.language == "english" or len({m in _OWN_LANGUAGE for m in pair}) == 1


def _needs_all(facts: QueryFacts, pool: Pool) -> bool:
    """Whether each half of a joint query fits several videos, so that neither is enough."""
    modalities = facts.modalities
    return len(modalities) == 1 or all(
        len(pool.satisfying(facts.only(modality))) > 1 for modality in modalities
    )


def _facts(modality: Modality, video: VideoFacts, random: Random) -> QueryFacts:
    """Draw what a query of one modality asks: a scene, two sounds, two or three concepts."""
    if modality is Modality.VIDEO:
        things = video.scene.things
        if len(things) == 2 and random.random() < 0.5:
            return QueryFacts(
                things=tuple((thing.colour, thing.shape, None) for thing in things),
                background=video.scene.background if random.random() < 0.5 else None,
            )
        thing = random.choice(things)
        return QueryFacts(
            things=(
                (thing.colour, thing.shape, thing.direction if random.random() < 0.5 else None),
            ),
            background=video.scene.background if random.random() < 0.8 else None,
        )
    if modality is Modality.AUDIO:
        return QueryFacts(
            sound=tuple(
                (tone.timbre, tone.pitch, tone.contour if random.random() < 0.7 else None)
                for tone in video.sound
            )
        )
    concepts = random.sample(video.concepts[modality], random.choice((2, 3)))
    return QueryFacts(concepts={modality: tuple(concepts)})


def _one_fact(modality: Modality, video: VideoFacts, random: Random) -> QueryFacts:
    """Draw one fact: a coloured shape, or a concept."""
    if modality is Modality.VIDEO:
        thing = random.choice(video.scene.things)
        return QueryFacts(things=((thing.colour, thing.shape, None),))
    return QueryFacts(concepts={modality: (random.choice(video.concepts[modality]),)})


def _language(facts: QueryFacts, video: VideoFacts) -> str:
    own = all(modality in _OWN_LANGUAGE for modality in facts.modalities)
    return video.language if own else "english"


def _identifier(facts: QueryFacts, video: VideoFacts, language: str, number: int) -> str:
    labels = [modality.label for modality in facts.modalities]
    kind = labels[0] if len(labels) == 1 else "-".join(["joint", *labels])
    return f"sample_{language}_{video.event}_{video.style}_{kind}_{number}"
