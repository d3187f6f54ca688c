"""Preparing M2KR from Parquet and image folders as they were released, and as they go wrong."""

from __future__ import annotations

import json
import tarfile
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.dataset import DatasetStore, DatasetWriter
from harness.errors import DataError
from harness.progress import Progress
from harness.retriever import QueryKind
from harness.runfile import check_ids
from harness.types import Modality
from tasks.m2kr import tables
from tasks.m2kr.prepare import write_subsets
from tasks.m2kr.queries import Positives
from tasks.m2kr.subsets import SUBSETS
from tasks.m2kr.tables import trec_id
from tests.m2kr_release import (
    DATA,
    EXTRA,
    PASSAGES,
    TEXT,
    gaps,
    image,
    passage,
    prepare,
    query,
    release,
    table,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "source"


def test_a_row_is_kept_to_the_letter(root: Path) -> None:
    rows = [query(0, question=" what: is it ?\n", instruction="Look: and find: ")]
    store = prepare(release(root, rows), strict=True)
    split = store.split("test")
    [asked] = split.queries
    assert asked.id == "q0"
    assert asked.text == " what: is it ?\n"
    assert asked.instruction == "Look: and find: "
    assert asked.image is not None
    assert asked.image.path == (root / "OKVQA/val2014/0.jpg").absolute()
    assert asked.image.size == len(b"picture of 0.jpg")
    assert json.loads(asked.attributes["answers"]) == ["answer0"]
    assert asked.without_gold().attributes == {}
    assert QueryKind.of(asked) is QueryKind.IMAGE_TEXT
    documents = list(split.documents)
    assert [d.id for d in documents] == [f"Thing%20{number}" for number in range(5)]
    assert documents[1].texts == {Modality.TEXT: "Thing 1 is answer1."}
    assert documents[1].title == "T1"
    assert split.qrels == {"q0": {"Thing%200": 1}}
    assert gaps(store) == {}
    assert store.manifest.counts == {"test_rows": 1, "test_images": 1}
    assert store.check() == []
    assert store.check_media() == []


def test_every_split_that_is_there_is_written_and_valid_is_called_validation(root: Path) -> None:
    for split in ("train", "valid", "test"):
        release(root, split=split)
    store = prepare(root, strict=True)
    assert list(store.manifest.splits) == ["test", "validation", "train"]


def test_passages_keep_their_order_over_several_files_and_row_groups(root: Path) -> None:
    release(root)
    passages = [passage(number) for number in (7, 3, 9, 0, 2, 8, 1)]
    for path in (root / "OKVQA_passages").iterdir():
        path.unlink()
    table(root / "OKVQA_passages", "test_passages", passages, PASSAGES, files=3, row_group=1)
    ids = [d.id for d in prepare(root).documents("test")]
    assert ids == [trec_id(row["passage_id"]) for row in passages]


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_every_id_can_stand_in_a_run_and_be_read_back(text: str) -> None:
    made = trec_id(text)
    check_ids([], [made])
    assert urllib.parse.unquote(made) == text


def test_ids_that_need_no_change_are_as_they_were() -> None:
    assert trec_id("WikiWeb_Juglans_1") == "WikiWeb_Juglans_1"
    assert trec_id("WikiWeb_Juglans regia_1") == "WikiWeb_Juglans%20regia_1"
    assert trec_id("a%20b") != trec_id("a b")


def test_a_subset_without_images_or_questions(root: Path) -> None:
    """The columns of MSMARCO's images and of CC's question have the type null."""
    schema = {**DATA, "img_path": pa.null()}
    rows = [query(0, img_path=None)]
    store = prepare(release(root, rows, subset="msmarco", schema=schema), subset="msmarco")
    [asked] = store.queries("test")
    assert asked.image is None
    assert QueryKind.of(asked) is QueryKind.TEXT
    assert "answers" not in asked.attributes
    schema = {**DATA, "question": pa.null()}
    rows = [query(0, question=None)]
    other = prepare(
        release(root, rows, subset="cc", split="train", schema=schema), subset="cc", strict=True
    )
    [asked] = other.queries("train")
    assert asked.text == ""
    assert QueryKind.of(asked) is QueryKind.IMAGE


def test_attributes_to_break_down_by(root: Path) -> None:
    schema = {**DATA, "question_type": TEXT, "data_split": TEXT}
    rows = [query(n, question_type=f"type{n % 2}", data_split="seen") for n in range(3)]
    store = prepare(release(root, rows, subset="infoseek", schema=schema), subset="infoseek")
    assert store.manifest.splits["test"].query_attributes["question_type"] == {
        "type0": 2,
        "type1": 1,
    }
    assert SUBSETS["infoseek"].protocol.query_breakdowns == ("question_type", "data_split")


def test_large_strings_and_lists_are_read_too(root: Path) -> None:
    schema = {
        name: {TEXT: pa.large_string()}.get(kind, pa.large_list(pa.large_string()))
        for name, kind in DATA.items()
        if name not in EXTRA
    }
    assert len(list(prepare(release(root, schema=schema)).queries("test"))) == 3


# --- bad input ------------------------------------------------------------------------------------


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in DATA.items() if key != name}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (without("pos_item_ids"), ("no column 'pos_item_ids'", "list<string>", "question_id")),
        (without("answers"), ("no column 'answers'",)),
        (without("img_path"), ("no column 'img_path'", "string")),
        ({**DATA, "pos_item_ids": TEXT}, ("'pos_item_ids' has type string", "list<string>")),
        (
            {**DATA, "answers": pa.list_(pa.int64())},
            ("'answers' has type list<", "expected list<string>"),
        ),
    ],
)
def test_another_schema_names_file_column_and_what_was_expected(
    root: Path, schema: dict[str, Any], words: Iterable[str]
) -> None:
    rows = [query(0)]
    if schema.get("pos_item_ids") is TEXT:
        rows = [query(0, pos_item_ids="one")]
    if schema.get("answers") == pa.list_(pa.int64()):
        rows = [query(0, answers=[1])]
    with pytest.raises(DataError) as raised:
        prepare(release(root, rows, schema=schema))
    for word in (*words, "OKVQA_data/test-00000-of-00001.parquet"):
        assert word in str(raised.value)


def test_passages_with_ids_that_are_numbers(root: Path) -> None:
    release(root)
    table(
        root / "OKVQA_passages",
        "test_passages",
        [passage(0, passage_id=1)],
        {**PASSAGES, "passage_id": pa.int64()},
    )
    with pytest.raises(DataError, match=r"'passage_id' has type int64, expected string"):
        prepare(root)


def test_missing_images_are_gaps_and_their_queries_stay(root: Path) -> None:
    release(root)
    (root / "OKVQA/val2014/1.jpg").unlink()
    store = prepare(root)
    assert gaps(store) == {"test: images that are missing": 1}
    example = store.manifest.gaps["test: images that are missing"].example
    assert "val2014/1.jpg" in example
    assert str(root) in example
    assert [query.image is None for query in store.queries("test")] == [False, True, False]
    with pytest.raises(DataError, match=r"images that are missing: val2014/1\.jpg.*--strict"):
        prepare(root, strict=True)


def test_an_archive_that_is_not_unpacked_is_named(root: Path) -> None:
    release(root)
    (root / "OKVQA/val2014/1.jpg").unlink()
    (root / "OKVQA/val2014.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"must be unpacked: .*val2014\.zip"):
        prepare(root, strict=True)


@pytest.mark.parametrize("ending", [".JPEG", ".jpeg", ".JPG", ".png"])
def test_the_other_ending_is_tried_and_counted(root: Path, ending: str) -> None:
    release(root)
    for path in (root / "OKVQA/val2014").iterdir():
        path.rename(path.with_suffix(ending))
    store = prepare(root, strict=True)
    names = [query.image.name for query in store.queries("test") if query.image]
    assert names == [f"{number}{ending}" for number in range(3)]
    assert store.manifest.counts["test_images_with_another_ending"] == 3


def test_the_name_that_a_row_gives_goes_before_other_endings(root: Path) -> None:
    release(root)
    (root / "OKVQA/val2014/0.jpg").rename(root / "OKVQA/val2014/0.JPEG")
    image(root / "OKVQA/val2014/1.JPEG")
    names = [query.image.name for query in prepare(root).queries("test") if query.image]
    assert names == ["0.JPEG", "1.jpg", "2.jpg"]


def test_infoseek_images_lie_in_the_shard_folders_of_oven(root: Path, tmp_path: Path) -> None:
    rows = [query(0, img_path="oven_00000001.jpg"), query(1, img_path="oven_00000002.jpg")]
    release(root, [query(2, img_path=None)], subset="infoseek")
    table(root / "Infoseek_data", "test", rows, DATA)
    images = tmp_path / "images"
    image(images / "OVEN/00/oven_00000001.JPEG")
    image(images / "OVEN/04/oven_00000002.jpg")
    store = prepare(root, images, subset="infoseek", strict=True)
    assert store.manifest.counts["test_images_in_a_shard_folder"] == 2
    assert store.manifest.counts["test_images_with_another_ending"] == 1
    found = [query.image.path for query in store.queries("test") if query.image]
    assert found == [
        images / "OVEN/00/oven_00000001.JPEG",
        images / "OVEN/04/oven_00000002.jpg",
    ]


def test_members_of_a_plain_tar_are_read_in_place(root: Path) -> None:
    release(root)
    folder = root / "OKVQA/val2014"
    with tarfile.open(root / "OKVQA/images.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"val2014/{path.stem}.JPEG")
            path.unlink()
    store = prepare(root, strict=True)
    assert store.manifest.counts["test_images_in_a_tar"] == 3
    for number, asked in enumerate(store.queries("test")):
        media = asked.image
        assert media is not None
        assert media.offset is not None
        content = media.path.read_bytes()[media.offset : media.offset + media.size]
        assert content == f"picture of {number}.jpg".encode()


@pytest.mark.parametrize("path", ["/etc/hosts.jpg", "../outside.jpg"])
def test_image_paths_that_point_outside(root: Path, path: str) -> None:
    release(root, [query(0, img_path=None)])
    table(root / "OKVQA_data", "test", [query(0, img_path=path)], DATA)
    with pytest.raises(DataError, match="points outside"):
        prepare(root)


def test_relevant_passages_that_are_not_there(root: Path) -> None:
    rows = [query(0), query(1, pos_item_ids=["Thing 1", "Thing 99"]), query(2, pos_item_ids=["x"])]
    store = prepare(release(root, rows))
    assert gaps(store) == {
        "test: relevant passages that are no passage of the split": 2,
        "test: queries without a relevant passage": 1,
    }
    split = store.split("test")
    assert len(split.queries) == 3
    assert split.qrels == {"q0": {"Thing%200": 1}, "q1": {"Thing%201": 1}}
    with pytest.raises(DataError, match="'Thing 99'"):
        prepare(root, strict=True)


def test_equal_rows_of_one_query_are_merged_and_different_ones_are_an_error(root: Path) -> None:
    store = prepare(release(root, [query(0), query(1), query(0)]))
    assert [asked.id for asked in store.queries("test")] == ["q0", "q1"]
    assert store.manifest.counts["test_repeated_rows_merged"] == 1
    release(root, [query(0), query(1), query(2), query(0, question="another one")])
    with pytest.raises(DataError) as raised:
        prepare(root)
    message = str(raised.value)
    for word in ("row 3:", "'q0'", "row 0,", "OKVQA_data/test-00000-of-00001.parquet"):
        assert word in message


def test_passages_that_share_an_id(root: Path) -> None:
    release(root, passages=[passage(0), passage(1), passage(0)])
    with pytest.raises(DataError, match=r"'Thing%200' occurs twice"):
        prepare(root)


@pytest.mark.parametrize("answers", [[], None, [None]])
def test_rows_without_answers(root: Path, answers: Any) -> None:
    store = prepare(release(root, [query(0), query(1, answers=answers)]))
    assert gaps(store) == {"test: queries without answers": 1}
    assert [json.loads(q.attributes["answers"]) for q in store.queries("test")] == [["answer0"], []]
    with pytest.raises(DataError, match=r"queries without answers: .*row 1"):
        prepare(root, strict=True)


def test_blank_answers_are_counted(root: Path) -> None:
    store = prepare(release(root, [query(0, answers=["", "yes"]), query(1)]), strict=True)
    assert store.manifest.counts["test_queries_with_a_blank_answer"] == 1


def test_an_instruction_without_a_colon(root: Path) -> None:
    store = prepare(release(root, [query(0, instruction="Find it"), query(1, instruction=None)]))
    assert gaps(store) == {"test: instructions without a colon": 1}
    assert [asked.instruction for asked in store.queries("test")] == ["Find it", None]
    with pytest.raises(DataError, match=r"row 0: 'Find it'"):
        prepare(root, strict=True)


def test_passages_without_text_have_no_modality(root: Path) -> None:
    rows = [passage(0), passage(1, passage_content=" "), passage(2, passage_content=None)]
    store = prepare(release(root, [query(0)], rows))
    assert gaps(store) == {"test: passages without text": 2}
    assert [len(d.texts) for d in store.documents("test")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("column", "value"), [("question_id", None), ("question_id", ""), ("passage_id", None)]
)
def test_rows_without_an_id(root: Path, column: str, value: str | None) -> None:
    if column == "question_id":
        release(root, [query(0), query(1, question_id=value)])
    else:
        release(root, passages=[passage(0), passage(1, passage_id=value)])
    with pytest.raises(DataError, match=f"row 1: {column} is {value!r}"):
        prepare(root)


def test_rows_are_numbered_through_all_blocks_of_a_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK_ROWS", 2)
    release(root, [query(number) for number in range(7)])
    table(root / "OKVQA_data", "test", [query(n) for n in range(6)] + [query(6, question_id="")],
          DATA)  # fmt: skip
    with pytest.raises(DataError, match=r"row 6: question_id"):
        prepare(root)


def test_files_that_are_missing_or_of_two_downloads(root: Path) -> None:
    release(root)
    table(root / "OKVQA_passages", "test_passages", [passage(n) for n in range(6)], PASSAGES,
          files=3)  # fmt: skip
    with pytest.raises(DataError, match="different downloads"):
        prepare(root)
    (root / "OKVQA_passages/test_passages-00000-of-00001.parquet").unlink()
    (root / "OKVQA_passages/test_passages-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"test_passages-00001-of-00003\.parquet is missing"):
        prepare(root)


def test_queries_without_passages_and_nothing_at_all(root: Path) -> None:
    release(root)
    (root / "OKVQA_passages/test_passages-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"test_passages-\*\.parquet is missing"):
        prepare(root)
    with pytest.raises(DataError, match="there is no KVQA_data"):
        prepare(root, subset="kvqa")


def test_a_file_that_is_no_parquet_or_is_cut_off(root: Path) -> None:
    release(root)
    path = root / "OKVQA_data/test-00000-of-00001.parquet"
    content = path.read_bytes()
    for damaged in (b"no parquet", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet cannot be read"):
            prepare(root)


# --- long preparations ----------------------------------------------------------------------------


class _KilledError(Exception):
    """Stands for the end of the process."""


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """Count the blocks of passages that are read; stop before one of them."""
    read: list[str] = []
    real: Callable[..., Any] = tables.Block.read

    def reading(block: tables.Block, columns: Any) -> Any:
        if columns[0].name == "passage_id":
            read.append(block.name)
            if len(read) == stop_at:
                raise _KilledError
        return real(block, columns)

    monkeypatch.setattr(tables.Block, "read", reading)
    return read


def test_a_killed_preparation_goes_on_where_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK_ROWS", 2)
    monkeypatch.setattr("harness.dataset.tables.PART_ROWS", 2)
    release(root, passages=[passage(number) for number in range(9)])
    whole = prepare(root).manifest.fingerprint("test")
    target = root.parent / "again"

    def again() -> DatasetStore:
        with DatasetWriter(target, task="t", task_version="1", media_roots=[root]) as writer:
            write_subsets([root], [SUBSETS["okvqa"]], writer, Progress())
        return DatasetStore(target)

    with monkeypatch.context() as patch:
        counted(patch, stop_at=4)
        with pytest.raises(_KilledError):
            again()
    with monkeypatch.context() as patch:
        read = counted(patch)
        store = again()
    assert len(read) == 2, "three of five blocks were complete"
    assert store.manifest.fingerprint("test") == whole
    changed = root / "OKVQA_passages/test_passages-00000-of-00001.parquet"
    assert pq.ParquetFile(changed).metadata.num_row_groups == 5


def test_judgments_are_a_mapping_that_keeps_tuples() -> None:
    positives = Positives()
    positives.add("q", ["b", "a"])
    positives.add("none", [])
    assert dict(positives) == {"q": {"b": 1, "a": 1}}
    assert len(positives) == 1
