"""Our evaluation against bare pytrec_eval, ir-measures on dictionaries and torchmetrics.

    python benchmarks/evaluation.py [--queries 2500] [--k 1000] [--rounds 5] [--save]

Five measures: nDCG@10, Success@1, R@10, RR and AP. All get what a retriever returns: document ids
and float32 scores for each query. "Ours" makes the canonical `Ranking` (checks, order, ties) and
evaluates it; pytrec_eval and ir-measures make the nested dictionaries that they need. torchmetrics
gets the flattened scores and, ready made, whether each ranked document is relevant, as a script
that holds the score matrix has it; one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import ir_measures
import numpy as np
import pytrec_eval
import torch
from _measure import Table, side_by_side, write_json
from ir_measures import AP, RR, R, Success, nDCG
from numpy.typing import NDArray
from torchmetrics import retrieval

from harness.evaluation import evaluate
from harness.types import RankedList, Ranking

MEASURES = ("nDCG@10", "Success@1", "R@10", "RR", "AP")
TREC_NAMES = ("ndcg_cut_10", "success_1", "recall_10", "recip_rank", "map")
BARE = "pytrec_eval bare"
COLLECTION = 20_000
INPUTS = ("best first", "in no order", "best first, a relevant document last")


@dataclass
class Data:
    """Ranked lists by query, with their judgments."""

    lists: dict[str, tuple[list[str], NDArray[np.float32]]]
    qrels: dict[str, dict[str, int]]


def sorted_lists(queries: int, k: int, *, deep: bool) -> Data:
    """Return lists without ties, best first, and 1 to 4 relevant documents a query.

    The best relevant document is ranked log-uniformly, the others anywhere in the collection.
    With `deep`, one more is always the last of the list, which our evaluation likes least.
    """
    rng = np.random.default_rng(5)
    ids = [f"video{i:06d}" for i in range(COLLECTION)]
    data = Data({}, {})
    for number in range(queries):
        order = rng.permutation(COLLECTION)
        # Steps of at least 1/2048 below 32: distinct in float32, so that no way sees a tie.
        scores = np.sort(rng.choice(2**15, k, replace=False))[::-1].astype(np.float32) / 2048
        relevant = {int(k ** rng.random()) - 1, *rng.integers(0, COLLECTION, rng.integers(0, 4))}
        if deep:
            relevant.add(k - 1)
        data.lists[f"q{number}"] = ([ids[i] for i in order[:k].tolist()], scores)
        data.qrels[f"q{number}"] = {ids[order[rank]]: 1 for rank in relevant}
    return data


def shuffled(data: Data) -> Data:
    """Return the same lists, each in random order."""
    rng = np.random.default_rng(6)
    lists = {}
    for query, (documents, scores) in data.lists.items():
        order = rng.permutation(len(documents))
        lists[query] = ([documents[i] for i in order.tolist()], scores[order])
    return Data(lists, data.qrels)


def ours(data: Data) -> NDArray[np.float64]:
    ranking = Ranking({query: RankedList(*row) for query, row in data.lists.items()})
    return evaluate(ranking, data.qrels, list(data.qrels), MEASURES).values


def dictionaries(data: Data) -> dict[str, dict[str, float]]:
    return {
        query: dict(zip(documents, scores.tolist(), strict=True))
        for query, (documents, scores) in data.lists.items()
    }


def bare(data: Data) -> dict[str, dict[str, float]]:
    evaluator = pytrec_eval.RelevanceEvaluator(data.qrels, set(TREC_NAMES))
    result: dict[str, dict[str, float]] = evaluator.evaluate(dictionaries(data))
    return result


def on_ir_measures(data: Data) -> object:
    measures = [nDCG @ 10, Success @ 1, R @ 10, RR, AP]
    return list(ir_measures.iter_calc(measures, data.qrels, dictionaries(data)))


def on_torchmetrics(data: Data) -> Callable[[], object]:
    relevance = np.array(
        [
            [document in data.qrels[query] for document in documents]
            for query, (documents, _) in data.lists.items()
        ]
    )
    scores = [scores for _, scores in data.lists.values()]

    def way() -> object:
        preds = torch.from_numpy(np.concatenate(scores))
        target = torch.from_numpy(relevance.ravel())
        indexes = torch.arange(len(scores)).repeat_interleave(len(scores[0]))
        metrics = [
            retrieval.RetrievalNormalizedDCG(top_k=10),
            retrieval.RetrievalHitRate(top_k=1),
            retrieval.RetrievalRecall(top_k=10),
            retrieval.RetrievalMRR(),
            retrieval.RetrievalMAP(),
        ]
        return [metric(preds, target, indexes=indexes) for metric in metrics]

    return way


def agree(data: Data) -> None:
    """Check that ours are pytrec_eval's figures, so that the comparison means something."""
    expected = bare(data)
    rows = [[expected[query][name] for name in TREC_NAMES] for query in data.qrels]
    np.testing.assert_array_equal(ours(data), rows)


def compare(name: str, queries: int, k: int, rounds: int) -> Table:
    """Return the table of one kind of input."""
    torch.set_num_threads(1)
    data = sorted_lists(queries, k, deep=name.endswith("last"))
    if name == "in no order":
        data = shuffled(data)
    ways = {
        BARE: lambda: bare(data),
        "ours": lambda: ours(data),
        "ir-measures on dictionaries": lambda: on_ir_measures(data),
        "torchmetrics, flattened": on_torchmetrics(data),
    }
    title = f"{queries:,} queries, top {k:,}, {name}"
    table = side_by_side(title, ways, baseline=BARE, rounds=rounds)
    agree(data)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=2_500)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    arguments = parser.parse_args()
    tables = []
    for name in INPUTS:
        # A process each: in one, the second table's memory would come from what the first left.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            sizes = (arguments.queries, arguments.k, arguments.rounds)
            tables.append(process.submit(compare, name, *sizes).result())
        print(tables[-1].markdown(), end="\n\n", flush=True)
    if arguments.save:
        packages = ("pytrec-eval-terrier", "ir-measures", "torchmetrics", "torch", "numpy")
        print(write_json("evaluation", tables, packages=packages, settings=vars(arguments)))


if __name__ == "__main__":
    main()
