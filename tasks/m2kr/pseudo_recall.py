"""Pseudo recall: whether one of the first K passages contains an answer.

``PR@K (published)`` is the measure of the authors' script (github.com/LinWeizheDragon/FLMR, commit
be4b748, examples/example_use_preflmr.py, lines 137 to 156): a passage is a hit if an answer,
stripped and in lower case, is a substring of it in lower case. So an empty answer hits every
passage, and "1" hits "1912".

``PR@K`` is corrected: an answer must stand in the passage as words of its own. Letter case and
compatibility forms are unified (Unicode NFKC and case folding), an empty answer is none, and "5"
is not in "1.5". Scripts without spaces between words (Han, Kana, Thai, ...) show no borders of
words: there a substring counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.types import Ranking

_PUBLISHED = " (published)"

#: How the Unicode names of characters begin whose script has no spaces between words.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def pseudo_measures(cutoffs: Iterable[int]) -> tuple[str, ...]:
    """Return the names of both measures at every cutoff, the published one first."""
    return tuple(name for k in cutoffs for name in (f"PR@{k}{_PUBLISHED}", f"PR@{k}"))


def pseudo_recall(
    ranking: Ranking,
    query_ids: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    passages: Iterable[tuple[str, str]],
    cutoffs: Sequence[int],
) -> NDArray[np.float64]:
    """Return 1 where one of the first K passages contains an answer, else 0.

    Parameters
    ----------
    ranking
        Ranked lists; a query without one counts 0.
    query_ids
        Queries, one for each row.
    answers
        Answers by query id; a query without any counts 0.
    passages
        Ids and texts of all passages, streamed once; one that is not there is no hit.
    cutoffs
        Values of K.

    Returns
    -------
    ndarray
        float64, shape ``(n_queries, 2 * n_cutoffs)``; columns as `pseudo_measures` names them.
    """
    asking = _Asking(ranking, query_ids, max(cutoffs))
    published, corrected = [], []
    for query in query_ids:
        given = answers.get(query, ())
        published.append(tuple(dict.fromkeys(a.strip().lower() for a in given)))
        corrected.append(tuple(dict.fromkeys(filter(None, (_folded(a).strip() for a in given)))))
    alike = [one == other for one, other in zip(published, corrected, strict=True)]
    # Places of the first hits, from 0. Only a passage that is placed before is looked into.
    nowhere = max(cutoffs)
    first, whole = [nowhere] * len(query_ids), [nowhere] * len(query_ids)
    for identifier, text in passages:
        queries, places = asking.about(identifier)
        if not queries:
            continue
        lowered, folded = text.lower(), _folded(text)
        same_text = lowered == folded
        for row, place in zip(queries, places, strict=True):
            if place < first[row]:
                for answer in published[row]:
                    if answer in lowered:
                        first[row] = place
                        break
                else:
                    if same_text and alike[row]:
                        continue  # What is nowhere in the text stands nowhere by itself.
            if place < whole[row]:
                for answer in corrected[row]:
                    if answer in folded and _stands_in(answer, folded):
                        whole[row] = place
                        break
    hits = [np.array(found) < k for k in cutoffs for found in (first, whole)]
    return np.stack(hits, axis=1).astype(np.float64)


class _Asking:
    """Which queries rank a passage, and where: 12 bytes for each of 2.5 million places."""

    def __init__(self, ranking: Ranking, query_ids: Sequence[str], depth: int) -> None:
        self._numbers: dict[str, int] = {}
        rows = [
            list(ranking[query].documents[:depth]) if query in ranking else []
            for query in query_ids
        ]
        numbers = self._numbers
        passages = np.array(
            [numbers.setdefault(d, len(numbers)) for row in rows for d in row], dtype=np.int32
        )
        lengths = [len(row) for row in rows]
        order = np.argsort(passages, kind="stable")
        starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        self._queries = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)[order]
        self._places = (np.arange(len(passages)) - starts).astype(np.int32)[order]
        self._starts = np.searchsorted(passages[order], np.arange(len(numbers) + 1))

    def about(self, passage: str) -> tuple[list[int], list[int]]:
        """Return the queries that rank a passage, and its place in each list, from 0."""
        number = self._numbers.get(passage)
        if number is None:
            return [], []
        part = slice(self._starts[number], self._starts[number + 1])
        return self._queries[part].tolist(), self._places[part].tolist()


def _folded(text: str) -> str:
    """Return a text with letter case and compatibility forms unified."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _stands_in(answer: str, text: str) -> bool:
    """Whether an answer stands somewhere in a text as words of its own; both are folded."""
    start = text.find(answer)
    while start >= 0:
        if not (_is_inside(text, start) or _is_inside(text, start + len(answer))):
            return True
        start = text.find(answer, start + 1)
    return False


def _is_inside(text: str, at: int) -> bool:
    """Whether the border before the character `at` is inside of a word or a number."""
    before, after = text[at - 1 : at] if at else "", text[at : at + 1]
    if not before or not after:
        return False
    if _is_word(before) and _is_word(after):
        return not (_is_unspaced(before) or _is_unspaced(after))
    if after in ".,":
        return before.isdigit() and text[at + 1 : at + 2].isdigit()
    if before in ".,":
        return after.isdigit() and at > 1 and text[at - 2].isdigit()
    return False


@lru_cache(maxsize=4096)
def _is_word(character: str) -> bool:
    return (
        character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
    )


@lru_cache(maxsize=4096)
def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
