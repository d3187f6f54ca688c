"""The generated miniature of M2KR: what it asks, that one passage answers, what pictures show."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import Stemmer

from harness.dataset import DatasetStore
from harness.media.image import read_image
from harness.progress import Progress
from harness.registry import make_task
from harness.retriever import QueryKind
from harness.training import data as training
from harness.training.recipe import ValidationRecipe
from harness.types import Modality, Query
from harness.workspace import digest
from tasks.m2kr.sample import generate
from tasks.m2kr.sample.draw import RELATIONS, Part, Row, draw_parts
from tasks.sample.facts import HELD_OUT
from tasks.sample.render import _BACKGROUNDS, _COLOURS, SIZE
from tasks.sample.vocabulary import BACKGROUNDS, COLOURS, ENGLISH, SHAPES, Pair
from tests.conftest import Command

SMALL = {"test_queries": 6, "train_queries": 8}
FOLDERS = ("WIT", "MSMARCO", "OKVQA")


@pytest.fixture(scope="module")
def parts() -> dict[tuple[str, str], Part]:
    """The parts of the default sample."""
    return {(part.folder, part.split): part for part in draw_parts(0, 100, 400)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """The default sample."""
    store = tmp_path_factory.mktemp("m2kr") / "store"
    return DatasetStore(make_task("m2kr/sample").prepare([], store, Progress()))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def said(text: str, vocabulary: Mapping[object, Pair]) -> set[object]:
    """What of a vocabulary a text says, in either wording."""
    return {key for key, pair in vocabulary.items() if words(text) & set(pair)}


def concepts(text: str, modality: Modality) -> set[object]:
    return said(text, dict(enumerate(ENGLISH[modality])))


def shown(row: Row) -> tuple[set[object], object]:
    """The coloured shapes of a row's picture, and its ground."""
    assert row.scene is not None
    return {(t.colour, t.shape) for t in row.scene.things}, row.scene.background


# --- texts ----------------------------------------------------------------------------------------


def test_words_of_relations_are_like_no_others() -> None:
    vocabularies = [*(ENGLISH[m] for m in ENGLISH), COLOURS.values(), SHAPES.values(), RELATIONS]
    vocabularies.append(BACKGROUNDS.values())
    flat = [word for pairs in vocabularies for pair in pairs for word in pair]
    stems = Counter(Stemmer.Stemmer("english").stemWords(flat))
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_sizes_and_kinds(prepared: DatasetStore) -> None:
    for split, queries, passages in (("test", 300, 360), ("train", 1200, 1440)):
        loaded = prepared.split(split)
        assert (len(loaded.queries), len(loaded.documents)) == (queries, passages)
        kinds = Counter((q.attributes["subset"], QueryKind.of(q)) for q in loaded.queries)
        assert kinds == {
            ("wit", QueryKind.IMAGE): queries // 3,
            ("msmarco", QueryKind.TEXT): queries // 3,
            ("okvqa", QueryKind.IMAGE_TEXT): queries // 3,
        }
        assert all(q.instruction and q.instruction.endswith(":") for q in loaded.queries)
        assert all(d.modalities == {Modality.TEXT} for d in loaded.documents)
        assert all(list(row.values()) == [1] for row in loaded.qrels.values())
    assert prepared.manifest.gaps == {}


def test_exactly_one_passage_fits_each_picture(parts: dict[tuple[str, str], Part]) -> None:
    """Read off the texts: colours and shapes side by side, and the ground."""
    for split in ("test", "train"):
        part = parts["WIT", split]
        told = {}
        for passage in part.passages:
            pairs = re.findall(r"the (\w+) (\w+)", passage.text)
            named = {
                (colour, shape)
                for a, b in pairs
                for colour in said(a, COLOURS)
                for shape in said(b, SHAPES)
            }
            ground = re.search(r"(?:on (\w+) ground|ground is (\w+))", passage.text)
            assert ground is not None
            told[passage.id] = (named, said(ground[1] or ground[2], BACKGROUNDS).pop())
        for row in part.rows:
            things, ground_shown = shown(row)
            fitting = [
                identifier
                for identifier, (named, ground) in told.items()
                if ground == ground_shown and named and named <= things
            ]
            assert fitting == [row.relevant.id]


def test_exactly_one_passage_has_all_that_a_question_asks(
    parts: dict[tuple[str, str], Part],
) -> None:
    spoken = {word for pair in ENGLISH[Modality.ASR] for word in pair}
    for split in ("test", "train"):
        part = parts["MSMARCO", split]
        told = {p.id: concepts(p.text, Modality.ASR) for p in part.passages}
        assert {len(found) for found in told.values()} == {3}
        for row in part.rows:
            asked = concepts(row.question, Modality.ASR)
            assert [p for p, found in told.items() if asked <= found] == [row.relevant.id]
            asked_words = words(row.question) & spoken
            assert asked_words - words(row.relevant.text), "a word is in the other wording"


def test_exactly_one_passage_states_what_is_asked_of_a_shape(
    parts: dict[tuple[str, str], Part],
) -> None:
    relations = dict(enumerate(RELATIONS))
    for split in ("test", "train"):
        part = parts["OKVQA", split]
        told = {
            p.id: (said(p.text, COLOURS), said(p.text, SHAPES), said(p.text, relations))
            for p in part.passages
        }
        for row in part.rows:
            [(colour, shape)] = shown(row)[0]
            facts = ({colour}, {shape}, said(row.question, relations))
            assert len(facts[2]) == 1
            assert [p for p, found in told.items() if found == facts] == [row.relevant.id]
            assert row.answers[0] in words(row.relevant.text)
            assert not said(row.question, COLOURS) | said(row.question, SHAPES)
    answers = Counter(row.answers[0] for row in parts["OKVQA", "test"].rows)
    assert max(answers.values()) > 1, "answers occur in several passages"


def test_nothing_of_test_occurs_in_training(parts: dict[tuple[str, str], Part]) -> None:
    for folder in FOLDERS:
        test, train = parts[folder, "test"], parts[folder, "train"]
        assert not {p.text for p in test.passages} & {p.text for p in train.passages}
        assert not {p.id for p in test.passages} & {p.id for p in train.passages}
    pictures = [
        {(frozenset(things), ground) for things, ground in map(shown, parts["WIT", split].rows)}
        for split in ("test", "train")
    ]
    assert not pictures[0] & pictures[1]
    pairs = [
        {pair for f in ("WIT", "OKVQA") for row in parts[f, split].rows for pair in shown(row)[0]}
        for split in ("test", "train")
    ]
    assert HELD_OUT & pairs[0]
    assert not HELD_OUT & pairs[1]


def test_training_keeps_all_its_passages(prepared: DatasetStore) -> None:
    splits = training.load(
        make_task("m2kr/sample"), ValidationRecipe(), prepared.folder, Progress()
    )
    assert splits.train.dropped.documents == frozenset()
    assert len(splits.train.dropped.queries) < 20
    targets = itertools.chain.from_iterable(splits.train.queries.values())
    assert {QueryKind.of(query) for query in targets} == set(QueryKind)


# --- files ----------------------------------------------------------------------------------------


def test_the_layout_is_the_official_one(tmp_path: Path) -> None:
    generate.generate(tmp_path, seed=0, **SMALL, progress=Progress())
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.parquet")}
    assert names == {
        f"{folder}_{kind}/{split}{suffix}-{number:05}-of-{total:05}.parquet"
        for folder in FOLDERS
        for kind, suffix in (("data", ""), ("passages", "_passages"))
        for split, total in (("test", 1), ("train", 2))
        for number in range(total)
    }
    schema = pq.read_schema(tmp_path / "MSMARCO_data/test-00000-of-00001.parquet")
    assert str(schema.field("img_path").type) == "null"
    schema = pq.read_schema(tmp_path / "OKVQA_data/train-00001-of-00002.parquet")
    assert str(schema.field("answers").type) == "list<element: string>"
    assert (tmp_path / "OKVQA/val2014/COCO_val2014_OKVQA_test_0.jpg").is_file()
    sizes = {path.stat().st_size for path in tmp_path.rglob("*.jpg")}
    assert sizes == {generate.JPEG_BYTES}


def test_pictures_show_their_things_on_their_ground(
    prepared: DatasetStore, parts: dict[tuple[str, str], Part]
) -> None:
    images: dict[str, Query] = {query.id: query for query in prepared.queries("test")}
    for folder in ("WIT", "OKVQA"):
        for row in parts[folder, "test"].rows[:40]:
            media = images[row.id].image
            assert media is not None
            picture = read_image(media).astype(int)
            assert picture.shape == (SIZE, SIZE, 3)
            things, ground = shown(row)
            seen = {_COLOURS[t[0]] for t in things} | {_BACKGROUNDS[str(ground)]}  # type: ignore[index]
            for colour in seen:
                near = (np.abs(picture - np.array(colour)).max(axis=2) < 40).sum()
                assert near > 60, (row.id, colour)


def test_the_same_seed_gives_the_same_sample(tmp_path: Path) -> None:
    one, again, other = (
        DatasetStore(
            make_task("m2kr/sample", {**SMALL, "seed": seed}).prepare(
                [], tmp_path / name, Progress()
            )
        )
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    for split in ("test", "train"):
        assert again.manifest.fingerprint(split) == one.manifest.fingerprint(split)
        texts = [{q.text for q in store.queries(split)} for store in (one, other)]
        assert len(texts[0] & texts[1]) < len(texts[0]) / 2
        pixels = [
            [read_image(q.image) for q in store.queries(split) if q.image] for store in (one, other)
        ]
        assert not any(np.array_equal(*pair) for pair in zip(*pixels, strict=True))


def test_what_is_generated_changes_only_with_its_version(prepared: DatasetStore) -> None:
    """Other texts or sizes than these need another `generate.VERSION`, and another digest here."""
    found = digest([prepared.manifest.fingerprint(split) for split in ("test", "train")])
    assert (generate.VERSION, found[:16]) == (1, "b945707907784052")


def test_the_first_load_generates_and_the_next_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("m2kr/sample", SMALL)
    assert task.is_prepared
    assert len(task.load("test", None, Progress()).queries) == 18
    monkeypatch.setattr(generate, "generate", None)
    assert len(task.load("train", None, Progress()).queries) == 24


def test_queries_of_one_kind_against_all_passages(bench: Command) -> None:
    """For retrievers that cannot take all three; the files are the same."""
    whole = make_task("m2kr/sample", SMALL).load("test", None, Progress())
    kinds = {"wit": QueryKind.IMAGE, "msmarco": QueryKind.TEXT, "okvqa": QueryKind.IMAGE_TEXT}
    seen: list[str] = []
    for subset, kind in kinds.items():
        task = make_task("m2kr/sample", {**SMALL, "subset": subset})
        part = task.load("test", None, Progress())
        assert part.dataset == whole.dataset
        assert len(part.documents) == len(whole.documents)
        assert {QueryKind.of(query) for query in part.queries} == {kind}
        assert set(part.qrels) == {query.id for query in part.queries}
        assert part.fingerprint != whole.fingerprint
        seen += part.qrels
    assert sorted(seen) == sorted(whole.qrels)
    sizes = [f"--set=m2kr/sample.{name}={value}" for name, value in SMALL.items()]
    run = ("run", "--task", "m2kr/sample", *sizes, "--set")
    bench(*run, "m2kr/sample.subset=wit", "--retriever", "bm25-text").fails("takes no image")
    outcome = bench(*run, "m2kr/sample.subset=okvqa", "--retriever", "bm25-text")
    assert outcome.status == 0, outcome.err
