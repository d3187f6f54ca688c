"""What a training sees: clean of what is evaluated, the same at each step whatever came before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contamination import Shared
from harness.errors import DataError, UsageError
from harness.progress import Progress
from harness.registry import make_task
from harness.task import Split, Task
from harness.training.batches import Batches
from harness.training.data import TrainingData, load
from harness.training.recipe import BatchRecipe, PhaseRecipe, Recipe, ValidationRecipe
from harness.types import Document, Media, Modality, Query
from tests.training_cases import write

NUMBERS = {"asr": int(Modality.ASR), "ocr": int(Modality.OCR)}


def data(number: int = 10, shared: bool = True) -> TrainingData:
    """Documents with speech and screen text, and two queries that aim at each; two share one."""
    documents, queries, relevant = {}, {}, {}
    for place in range(number):
        id_ = f"d{place}"
        texts = {Modality.ASR: "a"} if place == 0 else {Modality.ASR: "a", Modality.OCR: "b"}
        documents[id_] = Document(id_, texts)
        queries[id_] = tuple(
            Query(f"q{place}-{target}-{n}", "x", attributes={"target": target})
            for target in ("asr", "ocr")
            for n in range(2)
        )
        relevant |= {query.id: frozenset({id_}) for query in queries[id_]}
    if shared:
        both = Query("both", "x")
        queries["d1"] += (both,)
        queries["d2"] += (both,)
        relevant["both"] = frozenset({"d1", "d2"})
    return TrainingData(documents, queries, relevant, "f", Shared())


def recipe(**values: object) -> Recipe:
    return Recipe.model_validate(values)


@settings(max_examples=40)
@given(
    documents=st.integers(2, 12),
    queries=st.integers(1, 5),
    accumulate=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_batch_is_what_it_says(documents: int, queries: int, accumulate: int, seed: int) -> None:
    given_data = data()
    made = Batches(
        given_data,
        recipe(
            batch={"documents": documents, "queries": queries, "accumulate": accumulate},
            phases=[{"steps": 3, "modality": {"asr": 1, "ocr": 2}}, {"steps": 3}],
            seed=seed,
        ),
    )
    assert made.total == 6
    for step in range(made.total):
        parts = made.batch(step)
        assert len(parts) <= accumulate
        for part in parts:
            ids = [document.id for document in part.documents]
            assert len(set(ids)) == len(ids)
            assert (
                len(part.queries) == len(part.positives) == len(part.targets) == len(part.allowed)
            )
            assert len({query.id for query in part.queries}) == len(part.queries) or any(
                query.id == "both" for query in part.queries
            )
            for row, query in enumerate(part.queries):
                positive = ids[part.positives[row]]
                assert positive in given_data.relevant[query.id]
                assert NUMBERS.get(query.attributes.get("target", ""), 0) == part.targets[row]
                for place, id_ in enumerate(ids):
                    negative = id_ not in given_data.relevant[query.id]
                    assert part.allowed[row, place] == (negative or place == part.positives[row])
            if step < 3:
                (shown,) = {frozenset(document.modalities) for document in part.documents}
                assert len(shown) == 1
                (modality,) = shown
                assert {query.attributes["target"] for query in part.queries} == {modality.label}
        total = [len(part.documents) for part in parts]
        shares = [parts[0].share(rank, 2) for rank in range(2)]
        assert sorted(p for _, own in shares for p in own.tolist()) == list(
            range(len(parts[0].queries))
        )
        assert [len(parts[0].documents[part]) for part, _ in shares] == [
            total[0] // 2, total[0] - total[0] // 2,
        ]  # fmt: skip


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    made = [Batches(data(), recipe(batch={"documents": 4}, phases=[{"epochs": 3}])) for _ in "ab"]
    assert made[0].total == 3 * 42 / 4 + 0.5  # 10 documents with 4 queries each, one twice
    in_order = [made[0].batch(step)[0] for step in range(made[0].total)]
    for step in reversed(range(made[1].total)):
        again = made[1].batch(step)[0]
        assert again.documents == in_order[step].documents
        assert again.queries == in_order[step].queries
        assert np.array_equal(again.allowed, in_order[step].allowed)
    other = Batches(data(), recipe(batch={"documents": 4}, phases=[{"epochs": 3}], seed=1))
    assert [other.batch(n)[0].queries for n in range(5)] != [b.queries for b in in_order[:5]]


def test_a_pass_sees_every_pair_once() -> None:
    given_data = data()
    made = Batches(given_data, recipe(batch={"documents": 6, "queries": 1}, phases=[{"epochs": 1}]))
    pairs = Counter(
        (part.documents[place].id, query.id)
        for step in range(made.total)
        for part in made.batch(step)
        for query, place in zip(part.queries, part.positives.tolist(), strict=True)
    )
    assert made.total == 7
    assert sum(pairs.values()) == 42
    assert set(pairs) == {(d, given_data.queries[d][place].id) for d, place in given_data.pairs}


def test_the_first_query_aims_where_it_is_told_to() -> None:
    made = Batches(
        data(shared=False),
        recipe(batch={"documents": 5, "queries": 2}, phases=[{"steps": 9, "targets": ["ocr"]}]),
    )
    others = set()
    for step in range(9):
        (part,) = made.batch(step)
        assert part.targets[::2].tolist() == [NUMBERS["ocr"]] * 5
        others |= set(part.targets[1::2].tolist())
    assert others == set(NUMBERS.values())


# --- Negatives --------------------------------------------------------------------------------


def with_pool(number: int = 10, against: frozenset[str] = frozenset()) -> TrainingData:
    """The data, further documents to draw from, and one query with documents judged against it."""
    made = data(number)
    more = {f"n{n}": Document(f"n{n}", {Modality.ASR: "c"}) for n in range(6)}
    judged = {"q1-asr-0": against} if against else {}
    return replace(made, pool={**made.documents, **more}, judged_against=judged)


@settings(max_examples=40)
@given(
    documents=st.integers(2, 9),
    queries=st.integers(1, 3),
    negatives=st.integers(1, 5),
    in_batch=st.booleans(),
    seed=st.integers(0, 99),
)
def test_negatives_answer_nothing(
    documents: int, queries: int, negatives: int, in_batch: bool, seed: int
) -> None:
    given_data = with_pool()
    size = {
        "documents": documents, "queries": queries, "negatives": negatives, "in_batch": in_batch,
    }  # fmt: skip
    made = Batches(given_data, recipe(batch=size, phases=[{"steps": 3}], seed=seed))
    plain = Batches(
        data(),
        recipe(
            batch={"documents": documents, "queries": queries}, phases=[{"steps": 3}], seed=seed
        ),
    )
    for step in range(3):
        (part,), (without,) = made.batch(step), plain.batch(step)
        assert part.queries == without.queries
        ids = [document.id for document in part.documents]
        assert len(set(ids)) == len(ids)
        asked = {ids[place] for place in part.positives}
        assert asked == {document.id for document in without.documents}
        for row, query in enumerate(part.queries):
            own = {id_ for id_, allowed in zip(ids, part.allowed[row], strict=True) if allowed}
            positive = ids[part.positives[row]]
            against = own - {positive}
            assert not against & given_data.relevant[query.id]
            if in_batch:
                assert against == set(ids) - given_data.relevant[query.id] - {positive}
                assert len(against - asked) >= min(negatives, 6)
            else:
                assert not against & asked
                # There are 6 documents that no one asks about, and 10 that some batch may not have.
                assert min(negatives, 6) <= len(against) <= negatives
        for size_ in range(1, part.divisible + 1):
            shares = [part.share(rank, size_) for rank in range(size_)]
            assert [place for one, _ in shares for place in range(len(ids))[one]] == list(
                range(len(ids))
            )
            assert all(len(own) for _, own in shares), "every process has queries"


def test_what_is_judged_against_a_query_is_drawn_first() -> None:
    against = frozenset({"n0", "n4"})
    made = Batches(
        with_pool(against=against),
        recipe(batch={"documents": 2, "negatives": 3, "in_batch": False}, phases=[{"steps": 120}]),
    )
    found = 0
    for step in range(made.total):
        (part,) = made.batch(step)
        for row, query in enumerate(part.queries):
            if query.id == "q1-asr-0":
                own = {d.id for d, a in zip(part.documents, part.allowed[row], strict=True) if a}
                assert against < own
                found += 1
    assert found


def test_documents_of_one_modality_have_negatives_of_one_modality() -> None:
    made = Batches(
        with_pool(),
        recipe(
            batch={"documents": 3, "negatives": 2}, phases=[{"steps": 9, "modality": {"ocr": 1}}]
        ),
    )
    for step in range(made.total):
        (part,) = made.batch(step)
        assert {frozenset({Modality.OCR})} == {d.modalities for d in part.documents}


def test_own_negatives_alone_are_none_without_any() -> None:
    with pytest.raises(ValueError, match="draw negatives"):
        recipe(batch={"in_batch": False})


def test_data_that_cannot_fill_a_batch_are_refused() -> None:
    with pytest.raises(UsageError, match="one training document"):
        Batches(data(1, shared=False), recipe())
    with pytest.raises(UsageError, match="fewer than two training documents have audio"):
        Batches(data(), recipe(phases=[{"steps": 1, "modality": {"audio": 1}}]))


# --- From a task ------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(write(tmp_path)[0])


def test_training_data_of_a_task(task: Task) -> None:
    splits = load(task, ValidationRecipe(share=0.2), None, Progress())
    train, validation = splits.train, splits.validation
    assert validation is not None
    held_out = set(validation.documents.attributes())
    assert 12 <= len(held_out) <= 36, "about a fifth of 120"
    assert len(train.documents) + len(held_out) == 120
    assert not held_out & set(train.documents)
    assert not {q.id for row in train.queries.values() for q in row} & set(validation.qrels)
    assert {d for row in validation.qrels.values() for d in row} == held_out
    again = load(task, ValidationRecipe(share=0.2), None, Progress())
    assert again.validation is not None
    assert again.validation.fingerprint == validation.fingerprint
    whole = load(task, ValidationRecipe(share=0), None, Progress())
    assert whole.validation is None
    assert len(whole.train.documents) == 120


def test_what_is_evaluated_is_not_trained_on(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = task.load

    def leaking(name: str, data: Path | None, progress: Progress) -> Split:
        if name != "test":
            return plain(name, data, progress)
        train = plain("train", data, progress)
        documents = list(train.documents)
        queries = [
            Query("of a training document", "text"),
            Query("same text", train.queries[50].text.upper() + "!"),
        ]
        qrels = {"of a training document": {documents[3].id: 1}, "same text": {"other": 1}}
        return Split.of("test", [*documents[:5], Document("other")], queries, qrels)

    monkeypatch.setattr(task, "load", leaking)
    splits = load(task, ValidationRecipe(share=0), None, Progress())
    assert splits.train.dropped.documents == {"d103"}
    assert len(splits.train.dropped.queries) == 1
    assert "d103" not in splits.train.documents
    seen = [query for row in splits.train.queries.values() for query in row]
    assert len(seen) == 240 - 2 - 1


def test_negatives_of_a_task(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade 0 is judged against; all other documents are in the pool, but for evaluated ones."""
    plain = task.load

    def judged(name: str, data: Path | None, progress: Progress) -> Split:
        split = plain(name, data, progress)
        if name == "test":
            return split
        ids = [document.id for document in split.documents]
        qrels = {
            query: {**row, ids[0]: 0} for query, row in split.qrels.items() if ids[0] not in row
        }
        asked = {document for row in qrels.values() for document in row}
        extra = [Document("extra", {Modality.ASR: "x"}), Document("d0", {Modality.ASR: "x"})]
        assert "d0" in plain("test", data, progress).qrels["q0-asr"]
        queries = [query for query in split.queries if query.id in qrels]
        assert ids[0] in asked
        return Split.of("train", [*split.documents, *extra], queries, qrels)

    monkeypatch.setattr(task, "load", judged)
    train = load(task, ValidationRecipe(share=0.2), None, Progress(), negatives=True).train
    assert {"extra", "d100"} <= train.pool.keys()
    assert set(train.documents) < set(train.pool)
    assert all(row == {"d100"} for row in train.judged_against.values())
    held_out = load(task, ValidationRecipe(share=0.2), None, Progress()).validation
    assert held_out is not None
    assert not {d.id for d in held_out.documents} & train.pool.keys()
    assert not load(task, ValidationRecipe(share=0.2), None, Progress()).train.pool


def test_a_question_about_another_image_is_another_query(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question is asked about many images; splits may share an encyclopedia."""
    documents = [Document(f"d{n}", {Modality.TEXT: "x"}) for n in range(4)]

    def asked(name: str, *images: str) -> list[Query]:
        media = [Media(Path("folder") / name / image, image, 7) for image in images]
        return [Query(f"{name}-{m.name}", "What is it?", m) for m in media]

    def loaded(name: str, data: Path | None, progress: Progress) -> Split:
        if name == "validation":
            raise DataError("there is none")
        images = ("a.jpg", "b.jpg") if name == "test" else ("b.jpg", "c.jpg", "d.jpg")
        queries = asked(name, *images)
        qrels = {query.id: {f"d{n}": 1} for n, query in enumerate(queries)}
        return Split.of(name, documents, queries, qrels)

    monkeypatch.setattr(task, "load", loaded)
    monkeypatch.setattr(type(task), "common_documents", True)
    train = load(task, ValidationRecipe(share=0), None, Progress()).train
    assert train.dropped == Shared(frozenset(), frozenset({"train-b.jpg"}))
    assert set(train.documents) == {"d1", "d2"}
    monkeypatch.setattr(type(task), "common_documents", False)
    train = load(task, ValidationRecipe(share=0), None, Progress()).train
    assert train.dropped.documents == {"d0", "d1"}


def test_recipes_say_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="either steps or epochs"):
        PhaseRecipe()
    assert BatchRecipe().documents >= 1
