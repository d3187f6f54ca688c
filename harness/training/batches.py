"""Which documents and queries each step sees: a function of the seed and the step alone.

So nothing has to be kept to resume, and every process of a launch knows the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.training.data import TARGET, TrainingData
from harness.training.recipe import PhaseRecipe, Recipe
from harness.types import Document, Modality, Query

_NUMBERS = {modality.label: int(modality) for modality in Modality}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Documents and queries of a step, or of a part of one.

    Attributes
    ----------
    documents
        Distinct documents, with what of them is shown.
    queries
        Queries, those of a document together.
    positives
        int64, shape ``(queries,)``: the place of the document that answers each.
    allowed
        bool, shape ``(queries, documents)``: the positive, and the documents that do not answer
        the query: its negatives.
    targets
        int64, shape ``(queries,)``: number of the modality that each aims at; 0 if it says none.
    """

    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    positives: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    targets: NDArray[np.int64]

    def share(self, number: int, of: int) -> tuple[slice, NDArray[np.int64]]:
        """Return the documents of one of several processes, and the places of their queries."""
        count = len(self.documents)
        part = slice(number * count // of, (number + 1) * count // of)
        return part, np.flatnonzero((self.positives >= part.start) & (self.positives < part.stop))


@dataclass(frozen=True, slots=True)
class _Phase:
    recipe: PhaseRecipe
    first: int
    steps: int


class Batches:
    """The batches of a training, by step.

    Parameters
    ----------
    data
        What to draw from.
    recipe
        Sizes, phases and the seed.

    Raises
    ------
    UsageError
        If the data cannot fill a batch.
    """

    def __init__(self, data: TrainingData, recipe: Recipe) -> None:
        self._data, self._seed, self._size = data, recipe.seed, recipe.batch
        self._ids = list(data.documents)
        self._pairs = data.pairs
        self._phases: list[_Phase] = []
        if len(self._ids) < 2:
            raise UsageError("there is one training document: a batch needs negatives.")
        first = 0
        for phase in recipe.phases:
            steps = phase.steps or max(1, math.ceil((phase.epochs or 0) * self._steps_of_pass))
            self._phases.append(_Phase(phase, first, steps))
            first += steps
            for name in phase.modality or ():
                if len(self._aimed(name)) < 2:
                    raise UsageError(
                        f"the recipe has a phase of {name} alone, but fewer than two training "
                        f"documents have {name} and a query whose attribute `{TARGET}` is {name}."
                    )
        self.total = first
        self._order = lru_cache(maxsize=4)(self._permuted)

    @property
    def _steps_of_pass(self) -> float:
        """Steps of one pass: over all pairs of one query each, else over all documents."""
        items = len(self._pairs) if self._size.queries == 1 else len(self._ids)
        return items / self._size.documents

    @lru_cache(maxsize=2)  # noqa: B019 - a step is asked for twice: ahead, and when it comes
    def batch(self, step: int) -> list[Batch]:
        """Return the parts of a step, whose documents are negatives of one another."""
        phase = next(one for one in reversed(self._phases) if one.first <= step)
        rng = np.random.default_rng([self._seed, step])
        chosen = self._drawn(phase, step - phase.first, rng)
        parts = np.array_split(np.arange(len(chosen)), self._size.accumulate)
        return [self._made([chosen[place] for place in part]) for part in parts if len(part)]

    def _drawn(
        self, phase: _Phase, step: int, rng: np.random.Generator
    ) -> list[tuple[Document, list[Query]]]:
        recipe, size = phase.recipe, self._size.documents
        if recipe.modality is not None:
            names = list(recipe.modality)
            weights = np.array([recipe.modality[name] for name in names], float)
            name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
            aimed = self._aimed(name)
            found = rng.choice(len(aimed), size=min(size, len(aimed)), replace=False)
            only = frozenset({Modality.parse(name)})
            return [
                (self._data.documents[aimed[place]].only(only),
                 self._asked(aimed[place], rng, (name,), (name,)))
                for place in found.tolist()
            ]  # fmt: skip
        if self._size.queries == 1 and recipe.targets is None:
            rows: dict[str, list[Query]] = {}
            for place in self._stretch(phase.first, step, size, len(self._pairs)):
                id_, number = self._pairs[place]
                rows.setdefault(id_, []).append(self._data.queries[id_][number])
            return [(self._data.documents[id_], asked) for id_, asked in rows.items()]
        ids = [self._ids[place] for place in self._stretch(phase.first, step, size, len(self._ids))]
        return [
            (self._data.documents[id_], self._asked(id_, rng, recipe.targets, None))
            for id_ in dict.fromkeys(ids)
        ]

    def _asked(
        self,
        id_: str,
        rng: np.random.Generator,
        first: Sequence[str] | None,
        rest: Sequence[str] | None,
    ) -> list[Query]:
        """Draw queries of a document: the first of some targets, the others of some or any."""
        left = list(self._data.queries[id_])
        drawn: list[Query] = []
        for allowed in (first, *[rest] * (self._size.queries - 1)):
            fit = [q for q in left if allowed is None or q.attributes.get(TARGET) in allowed]
            fit = fit or (left if allowed is first and rest is None else [])
            if fit:
                drawn.append(fit[int(rng.integers(len(fit)))])
                left.remove(drawn[-1])
        return drawn

    def _stretch(self, phase: int, step: int, size: int, length: int) -> list[int]:
        """Return the places of a step in an endless row of shuffled passes."""
        return [
            int(self._order(phase, place // length, length)[place % length])
            for place in range(step * size, (step + 1) * size)
        ]

    def _permuted(self, phase: int, number: int, length: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, phase, number, length]).permutation(length)

    @lru_cache(maxsize=8)  # noqa: B019 - lives as long as the training
    def _aimed(self, name: str) -> list[str]:
        """Return the documents that have a modality and a query that aims at it."""
        modality = Modality.parse(name)
        return [
            id_
            for id_, document in self._data.documents.items()
            if modality in document.modalities
            and any(q.attributes.get(TARGET) == name for q in self._data.queries[id_])
        ]

    def _made(self, rows: Sequence[tuple[Document, list[Query]]]) -> Batch:
        documents = tuple(document for document, _ in rows)
        queries = tuple(query for _, asked in rows for query in asked)
        positives = np.repeat(np.arange(len(rows)), [len(asked) for _, asked in rows])
        ids = [document.id for document in documents]
        answers = [self._data.relevant[query.id] for query in queries]
        allowed = np.array([[id_ not in found for id_ in ids] for found in answers], bool)
        allowed = allowed.reshape(len(queries), len(ids))
        allowed[np.arange(len(queries)), positives] = True
        targets = [_NUMBERS.get(query.attributes.get(TARGET, ""), 0) for query in queries]
        return Batch(
            documents, queries, positives.astype(np.int64), allowed, np.array(targets, np.int64)
        )
