"""What a retriever that is never wrong gets, where different captions have the same words.

Equal captions are one question: they get one ranking, and it can begin with one video only. In the
other direction they are several candidates with one score, whose order is the protocol's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.types import Qrels, Query, Ranking


def by_text(qrels: Qrels, queries: Sequence[Query], asked: Sequence[Query]) -> Ranking:
    """Return the best ranking of videos that equal captions can share.

    It begins with the videos that one of them is about: first those of most of them.

    Parameters
    ----------
    qrels
        Judgments of `queries`.
    queries
        All captions.
    asked
        The captions to rank for.
    """
    wanted: dict[str, Counter[str]] = {}
    for query in queries:
        row = qrels.get(query.id, {})
        wanted.setdefault(query.text, Counter()).update(d for d in row if row[d] > 0)
    return Ranking.from_scores({query.id: _as_floats(wanted[query.text]) for query in asked})


def by_video(qrels: Qrels, texts: Mapping[str, str], asked: Sequence[Query]) -> Ranking:
    """Return the best ranking of captions for each video, in which equal captions tie.

    It begins with texts that are of no other video; then come those of which the order of ties puts
    one of the video's own nearest to the front.

    Parameters
    ----------
    qrels
        For each video its captions.
    texts
        Words of every caption.
    asked
        The videos to rank for.
    """
    equal: dict[str, list[str]] = {}
    for caption in sorted(texts, reverse=True):
        equal.setdefault(texts[caption], []).append(caption)
    scores: dict[str, dict[str, float]] = {}
    for video in asked:
        own = {caption for caption, grade in qrels.get(video.id, {}).items() if grade > 0}
        groups = [equal[text] for text in {texts[caption] for caption in own}]
        groups.sort(key=lambda group: (_first(group, own), -len(own & set(group)), group))
        scores[video.id] = {c: -float(place) for place, group in enumerate(groups) for c in group}
    return Ranking.from_scores(scores)


def _as_floats(counts: Mapping[str, int]) -> dict[str, float]:
    return {document: float(count) for document, count in counts.items()}


def _first(group: Sequence[str], own: set[str]) -> int:
    return next(place for place, caption in enumerate(group) if caption in own)
