"""Which documents and queries each step sees: a function of the seed and the step alone.

So nothing has to be kept to resume, and every process of a launch knows the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.training.data import TARGET, TrainingData
from harness.training.recipe import PhaseRecipe, Recipe
from harness.types import Document, Modality, Query

_NUMBERS = {modality.label: int(modality) for modality in Modality}

#: Draws for each negative, before a query goes with fewer.
_ATTEMPTS = 20

_Row = tuple[Document, list[Query]]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Documents and queries of a step, or of a part of one.

    Attributes
    ----------
    documents
        Distinct documents, with what of them is shown: each that answers queries, followed by those
        that were drawn as negatives of these.
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
        starts = [*np.unique(self.positives).tolist(), len(self.documents)]
        count = len(starts) - 1
        part = slice(starts[number * count // of], starts[(number + 1) * count // of])
        return part, np.flatnonzero((self.positives >= part.start) & (self.positives < part.stop))

    @property
    def divisible(self) -> int:
        """Among how many processes it can be shared."""
        return len(np.unique(self.positives))


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
        self._pool = list(data.pool)
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
        chosen, only = self._drawn(phase, step - phase.first, rng)
        parts = np.array_split(np.arange(len(chosen)), self._size.accumulate)
        return [
            self._made([chosen[place] for place in part], only, rng) for part in parts if len(part)
        ]

    def _drawn(
        self, phase: _Phase, step: int, rng: np.random.Generator
    ) -> tuple[list[_Row], frozenset[Modality] | None]:
        """Draw documents with queries; say which modalities alone are shown, or None for all."""
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
            ], only  # fmt: skip
        if self._size.queries == 1 and recipe.targets is None:
            rows: dict[str, list[Query]] = {}
            for place in self._stretch(phase.first, step, size, len(self._pairs)):
                id_, number = self._pairs[place]
                rows.setdefault(id_, []).append(self._data.queries[id_][number])
            return [(self._data.documents[id_], asked) for id_, asked in rows.items()], None
        ids = [self._ids[place] for place in self._stretch(phase.first, step, size, len(self._ids))]
        return [
            (self._data.documents[id_], self._asked(id_, rng, recipe.targets, None))
            for id_ in dict.fromkeys(ids)
        ], None

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

    def _against(
        self,
        query: Query,
        taken: Container[str],
        only: frozenset[Modality] | None,
        rng: np.random.Generator,
    ) -> list[Document]:
        """Draw negatives of a query: what is judged not to answer it, then any documents."""
        relevant, pool = self._data.relevant[query.id], self._data.pool
        judged = sorted(self._data.judged_against.get(query.id, frozenset()) & pool.keys())
        first = [judged[place] for place in rng.permutation(len(judged)).tolist()]
        # A small pool may not hold as many: then fewer are drawn.
        others = rng.integers(len(self._pool), size=_ATTEMPTS * self._size.negatives)
        drawn: dict[str, Document] = {}
        for id_ in (*first, *(self._pool[place] for place in others.tolist())):
            if len(drawn) == self._size.negatives:
                break
            if id_ in relevant or id_ in taken or id_ in drawn:
                continue
            document = pool[id_] if only is None else pool[id_].only(only)
            if document.modalities:
                drawn[id_] = document
        return list(drawn.values())

    def _made(
        self, rows: Sequence[_Row], only: frozenset[Modality] | None, rng: np.random.Generator
    ) -> Batch:
        asked = {document.id for document, _ in rows}
        shown: dict[str, Document] = {}
        own: list[set[str]] = []
        for document, queries in rows:
            shown[document.id] = document
            for query in queries:
                drawn = self._against(query, asked, only, rng) if self._size.negatives else []
                for negative in drawn:
                    shown.setdefault(negative.id, negative)
                own.append({document.id, *(negative.id for negative in drawn)})
        places = {id_: place for place, id_ in enumerate(shown)}
        queries = [query for _, row in rows for query in row]
        positives = [places[document.id] for document, row in rows for _ in row]
        answers = [self._data.relevant[query.id] for query in queries]
        allowed = np.array(
            [
                [id_ not in found and (self._size.in_batch or id_ in mine) for id_ in shown]
                for found, mine in zip(answers, own, strict=True)
            ],
            bool,
        ).reshape(len(queries), len(shown))
        allowed[np.arange(len(queries)), positives] = True
        targets = [_NUMBERS.get(query.attributes.get(TARGET, ""), 0) for query in queries]
        return Batch(
            tuple(shown.values()),
            tuple(queries),
            np.array(positives, np.int64),
            allowed,
            np.array(targets, np.int64),
        )
