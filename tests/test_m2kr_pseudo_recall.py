"""Pseudo recall: the published loop to the letter, and the corrected one by an independent rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.types import Ranking
from tasks.m2kr.pseudo_recall import pseudo_measures, pseudo_recall

CUTOFFS = (1, 2, 4)

Judge = Callable[[str, str], bool]


def published(answer: str, content: str) -> bool:
    """The authors' rule."""
    return answer.strip().lower() in content.lower()


def whole_words(answer: str, content: str) -> bool:
    """Words of their own, by a regular expression; for texts without marks and numbers in parts."""
    answer = answer.strip().casefold()
    if not answer:
        return False
    left = r"(?<!\w)" if re.match(r"\w", answer) else ""
    right = r"(?!\w)" if re.search(r"\w$", answer) else ""
    return re.search(left + re.escape(answer) + right, content.casefold()) is not None


def value(judge: Judge, contents: Sequence[str], answers: Sequence[str], k: int) -> float:
    """One query at one cutoff, as plainly as it can be said."""
    return float(any(judge(answer, content) for content in contents[:k] for answer in answers))


def one(answers: Sequence[str], content: str) -> list[float]:
    """The published and the corrected value of one query with one passage."""
    ranking = Ranking.from_scores({"q": {"p": 1.0}})
    found: list[float] = pseudo_recall(ranking, ["q"], {"q": answers}, [("p", content)], [1])[
        0
    ].tolist()
    return found


TEXT = st.text(alphabet="abAB1_ -é", max_size=6)


@given(
    passages=st.lists(TEXT, min_size=1, max_size=6),
    asked=st.lists(
        st.tuples(st.lists(TEXT, max_size=3), st.permutations(range(6)), st.integers(0, 6)),
        min_size=1,
        max_size=4,
    ),
)
def test_every_value_is_that_of_a_plain_loop(
    passages: list[str], asked: list[tuple[list[str], list[int], int]]
) -> None:
    lists = {
        f"q{number}": {f"p{p}": float(-place) for place, p in enumerate(order[:length])}
        for number, (_, order, length) in enumerate(asked)
        if length
    }
    answers = {f"q{number}": row for number, (row, _, _) in enumerate(asked)}
    # Ranked passages beyond the collection are there in runs of others: they are no hits.
    known = [(f"p{number}", text) for number, text in enumerate(passages)]
    found = pseudo_recall(Ranking.from_scores(lists), list(answers), answers, known, CUTOFFS)
    assert found.shape == (len(asked), 2 * len(CUTOFFS))
    for row, (query, wanted) in enumerate(answers.items()):
        ranked = [int(name[1:]) for name in lists.get(query, {})]
        for column, k in enumerate(CUTOFFS):
            seen = [passages[p] for p in ranked[:k] if p < len(passages)]
            assert found[row, 2 * column] == value(published, seen, wanted, k)
            assert found[row, 2 * column + 1] == value(whole_words, seen, wanted, k)


def test_names_are_in_the_order_of_the_columns() -> None:
    assert pseudo_measures([5, 10]) == (
        "PR@5 (published)",
        "PR@5",
        "PR@10 (published)",
        "PR@10",
    )


@pytest.mark.parametrize(
    ("answers", "content", "values"),
    [
        # What the published rule takes for a hit.
        (["1"], "built in 1912", [1, 0]),
        ([""], "anything", [1, 0]),
        ([" "], "anything", [1, 0]),
        (["car"], "a red carpet", [1, 0]),
        (["5"], "version 1.5 of it", [1, 0]),
        (["5"], "about 5,000 people", [1, 0]),
        (["1"], "costs 1.50", [1, 0]),
        (["000"], "about 5,000 people", [1, 0]),
        # What both do.
        (["1912"], "Built in 1912.", [1, 1]),
        (["5"], "they were 5, then 6", [1, 1]),
        (["5"], "there were 5.", [1, 1]),
        (["1.5"], "version 1.5 of it", [1, 1]),
        (["U.S."], "in the U.S. of old", [1, 1]),
        (["New York"], "in NEW YORK city", [1, 1]),
        (["carpet", "car"], "a red car", [1, 1]),
        (["car"], "a carpet in a car", [1, 1]),
        ([" car "], "the car", [1, 1]),
        (["(a)"], "see(a)b", [1, 1]),
        # Answers are only what is listed; none is no hit.
        ([], "anything", [0, 0]),
        (["lorry"], "a car", [0, 0]),
        # Unicode: forms are unified, marks belong to their letters.
        (["Straße"], "die STRASSE dort", [0, 1]),
        (["①"], "number 1 of it", [0, 1]),
        (["caf\u00e9"], "a cafe\u0301 here", [0, 1]),
        (["हिन्द"], "यह हिन्दी है", [1, 0]),
        (["дом"], "старый дом.", [1, 1]),
        (["дом"], "домовой", [1, 0]),
        # Scripts without spaces show no borders of words.
        (["東京"], "東京都は首都である", [1, 1]),
        (["1912"], "1912年に", [1, 1]),
        (["กรุงเทพ"], "อยู่ในกรุงเทพมหานคร", [1, 1]),
    ],
)
def test_the_two_rules(answers: list[str], content: str, values: list[int]) -> None:
    assert one(answers, content) == values


def test_the_first_hit_counts_wherever_its_passage_is_stored() -> None:
    ranking = Ranking.from_scores({"q": {"a": 3.0, "b": 2.0, "c": 1.0}})
    texts = {"a": "no", "b": "yes", "c": "yes"}
    for order in ("abc", "cba", "bac"):
        stored = [(name, texts[name]) for name in order]
        found = pseudo_recall(ranking, ["q"], {"q": ["yes"]}, stored, [1, 2, 3])
        np.testing.assert_array_equal(found, [[0, 0, 1, 1, 1, 1]])


def test_passages_beyond_the_last_cutoff_are_not_looked_into() -> None:
    ranking = Ranking.from_scores({"q": {"a": 2.0, "b": 1.0}})

    class Text(str):
        __slots__ = ()

        def lower(self) -> str:
            raise AssertionError("this passage is not among the first")

    found = pseudo_recall(ranking, ["q"], {"q": ["x"]}, [("a", "x"), ("b", Text("x"))], [1])
    np.testing.assert_array_equal(found, [[1, 1]])
