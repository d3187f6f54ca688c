"""The evaluation of weights in training: what ``run`` does, on weights that change."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.encoder import EncoderRetriever
from harness.runner.scoring import score
from harness.task import Split, Task
from harness.training.data import draw
from harness.training.recipe import ValidationRecipe
from harness.types import Query
from harness.workspace import Workspace


def validate(
    retriever: EncoderRetriever, task: Task, split: Split, recipe: ValidationRecipe
) -> dict[str, float]:
    """Return the task's measures of a retriever as it is now, over a split; the main one first.

    Parameters
    ----------
    retriever
        With the weights to evaluate.
    task
        Whose protocol it is.
    split
        Documents, queries and judgments.
    recipe
        How many queries and documents.
    """
    # Queries of a kind often stand together: a part of them is drawn, the same each time.
    drawn = sorted(split.queries, key=lambda query: draw(query.id))[: recipe.queries]
    queries: tuple[Query, ...] = tuple(drawn)
    # The embeddings are of no use once the weights have changed.
    with tempfile.TemporaryDirectory(prefix="clamr-bench-") as folder:
        retriever.index(split.documents, Workspace(Path(folder), {"for": "validation"}))
        shown = [query.without_gold() for query in queries]
        ranking = retriever.search(shown, recipe.k)
    measures = score(task, ranking, split, queries).measures
    names = dict.fromkeys([task.protocol.main, *measures])
    return {name: measures[name].mean for name in names}
