"""Pseudo recall of M2KR against a plain restatement of the published loop.

    python benchmarks/pseudo_recall.py [--queries 5000] [--k 500] [--passages 114809] [--save]

114,809 passages of some 100 words, as OKVQA has; each query has ten answers, of which four differ,
and ranks 500 passages. "Published loop" looks into the first K passages of each query with every
answer, all texts in memory; ours streams the passages once, and computes the corrected measure
too. Both give the same published values, which is checked.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from _measure import side_by_side, write_json
from numpy.typing import NDArray

from harness.types import RankedList, Ranking
from tasks.m2kr.pseudo_recall import pseudo_recall

PLAIN = "published loop"
CUTOFFS = (1, 5, 10, 20, 50, 100, 500)
WORDS = 20_000


@dataclass
class Data:
    """A ranking with answers and passages."""

    ranking: Ranking
    answers: dict[str, list[str]]
    passages: dict[str, str]


def made(queries: int, k: int, passages: int) -> Data:
    """Return texts of words that are as frequent as in a language, and answers of rarer ones."""
    rng = np.random.default_rng(7)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(WORDS)])
    frequency = 1 / np.arange(1, WORDS + 1)
    drawn = rng.choice(WORDS, (passages, 100), p=frequency / frequency.sum())
    texts = {f"passage{i}": " ".join(words[row]).capitalize() for i, row in enumerate(drawn)}
    ids = list(texts)
    lists, answers = {}, {}
    for number in range(queries):
        order = rng.choice(passages, k, replace=False).tolist()
        lists[f"q{number}"] = RankedList([ids[i] for i in order], np.arange(k, 0, -1.0))
        distinct = words[rng.integers(500, WORDS, 4)]
        answers[f"q{number}"] = distinct[rng.integers(0, 4, 10)].tolist()
    return Data(Ranking(lists), answers, texts)


def plain(data: Data) -> NDArray[np.float64]:
    """The published measure, query by query."""
    rows = []
    for query, ranked in data.ranking.items():
        hits = []
        for document in ranked.documents:
            content = data.passages[document]
            hit = 0
            for answer in data.answers[query]:
                if answer.strip().lower() in content.lower():
                    hit = 1
                    break
            hits.append(hit)
        rows.append([np.max(np.array(hits[:k])) for k in CUTOFFS])
    return np.array(rows, dtype=np.float64)


def ours(data: Data) -> NDArray[np.float64]:
    return pseudo_recall(
        data.ranking, list(data.answers), data.answers, data.passages.items(), CUTOFFS
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--passages", type=int, default=114_809)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    arguments = parser.parse_args()
    data = made(arguments.queries, arguments.k, arguments.passages)
    np.testing.assert_array_equal(ours(data)[:, ::2], plain(data))
    ways = {PLAIN: lambda: plain(data), "ours, both measures": lambda: ours(data)}
    title = f"{arguments.queries:,} queries, top {arguments.k:,} of {arguments.passages:,} passages"
    table = side_by_side(title, ways, baseline=PLAIN, rounds=arguments.rounds)
    print(table.markdown())
    if arguments.save:
        packages = ("numpy",)
        print(write_json("pseudo_recall", [table], packages=packages, settings=vars(arguments)))


if __name__ == "__main__":
    main()
