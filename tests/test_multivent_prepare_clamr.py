"""Preparing from CLaMR's own files: synthetic queries, dataset folders, key frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness.dataset import DatasetStore
from harness.errors import DataError
from harness.types import Modality
from tests.multivent_release import FRAMES, documents, gaps, prepare, release, tar_gz, write

#: Ids may begin with a dash, an underscore or digits.
KEYS = ("train_000340_V_P-s8", "train_000341_-dash", "train_000001__under", "train_000002_12_34")
VIDEOS = ("V_P-s8", "-dash", "_under", "12_34")
KINDS = ("speech", "ocr", "video", "description")
EMBEDDED = "images that are embedded in a dataset folder"
HUMAN = "internvid_korean_sports_edited_ocr_7"


def synthetic(folder: Path, name: str = "multivent_synthetic_validation_queries.json") -> Path:
    rows = {
        key: {"query": f"query {kind}", "query_type": kind}
        for key, kind in zip(KEYS, KINDS, strict=True)
    }
    return write(folder / name, json.dumps(rows))


def train(folder: Path, videos: Sequence[str] = VIDEOS) -> Path:
    """Tables of the train split."""
    write(folder / "multivent_2_ids.csv", "id\n" + "".join(f"{video}\n" for video in videos))
    write(folder / "multivent_2_train_queries.csv", f'Query_id,query\n{HUMAN},"a, b"\n')
    line = {"query_id": HUMAN, "doc_id": videos[0], "relevance": 1}
    write(folder / "multivent_2_train_judgments.jsonl", json.dumps(line))
    return folder


def dataset(
    folder: Path, rows: list[dict[str, Any]], split: str = "train", files: int = 1, batch: int = 9
) -> Path:
    """Write rows as ``datasets.DatasetDict.save_to_disk`` does."""
    write(folder / "dataset_dict.json", json.dumps({"splits": [split]}))
    write(folder / split / "dataset_info.json", "{}")
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    write(folder / split / "state.json", json.dumps(state))
    table = pa.Table.from_pylist(rows)
    size = -(-len(rows) // files)
    for number, name in enumerate(names):
        with pa.ipc.new_stream(str(folder / split / name), table.schema) as stream:
            stream.write_table(table.slice(number * size, size), max_chunksize=batch)
    return folder


def human_row(video: str, query_id: str, **more: Any) -> dict[str, Any]:
    return {
        "video_id": f"000001_{video}",
        "images": [],
        "query": f"text of {query_id}",
        "query_id": query_id,
        "query_type": "ocr",
        "ocr": f"shown in {video}",
        "description": "",
        "title": f"Title of {video}",
        "asr": None,
        **more,
    }


# --- Synthetic queries ------------------------------------------------------------------------


def test_synthetic_queries_stand_over_the_documents_of_train(tmp_path: Path) -> None:
    source = train(tmp_path / "source", [*VIDEOS, "more"])
    synthetic(tmp_path / "clamr")
    store = prepare(source, tmp_path / "clamr")
    assert list(store.manifest.splits) == ["train", "synthetic-validation"]
    split = store.split("synthetic-validation")
    assert [query.id for query in split.queries] == [
        f"synthetic_{key}_{kind}"
        for key, kind in zip(KEYS, ("speech", "ocr", "base", "description"), strict=True)
    ]
    assert [dict(query.attributes) for query in split.queries] == [
        {"query_type": "speech", "label": "speech", "target": "asr"},
        {"query_type": "ocr", "label": "ocr", "target": "ocr"},
        {"query_type": "base", "label": "video"},
        {"query_type": "description", "label": "description", "target": "description"},
    ]
    relevant = [next(iter(split.qrels[query.id])) for query in split.queries]
    assert tuple(relevant) == VIDEOS
    assert len(split.documents) == 5


def test_synthetic_queries_alone_are_a_store(tmp_path: Path) -> None:
    synthetic(tmp_path / "clamr")
    synthetic(tmp_path / "clamr", "synthetic_train.json")
    store = prepare(tmp_path / "clamr")
    assert list(store.manifest.splits) == ["train", "synthetic-train", "synthetic-validation"]
    assert {document.id for document in store.documents("train")} == set(VIDEOS)
    assert store.manifest.splits["synthetic-train"].documents_of == "train"


def test_synthetic_queries_about_unlisted_videos_are_gaps(tmp_path: Path) -> None:
    source = train(tmp_path / "source", VIDEOS[:3])
    synthetic(source)
    store = prepare(source)
    assert len(store.split("synthetic-validation").queries) == 3
    assert gaps(store)[
        "synthetic-validation: queries about videos that the ids file does not list"
    ] == 1  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("synthetic.json", "{}", "must say 'train' or 'validation'"),
        ("synthetic_train_val.json", "{}", "must say 'train' or 'validation'"),
        ("synthetic_train.json", "{", "is not JSON"),
        ("synthetic_train.json", "[]", "must be a JSON object"),
        ("synthetic_train.json", '{"train_000001_a": "q"}', "'query' and 'query_type'"),
        ("synthetic_train.json", '{"train_000001_a": {"query": "q"}}', "'query' and 'query_type'"),
        ("synthetic_train.json", '{"a": {"query": "q", "query_type": "ocr"}}', "not of the form"),
        (
            "synthetic_train.json",
            '{"train_000001_a": {"query": "q", "query_type": "smell"}}',
            "query_type 'smell'",
        ),
    ],
)
def test_bad_synthetic_queries(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = write(tmp_path / "clamr" / name, content)
    with pytest.raises(DataError, match=said) as caught:
        prepare(tmp_path / "clamr")
    assert str(path) in str(caught.value)


def test_a_synthetic_query_without_text_is_a_gap(tmp_path: Path) -> None:
    rows = {
        KEYS[0]: {"query": " ", "query_type": "ocr"},
        KEYS[1]: {"query": "q", "query_type": "ocr"},
    }
    write(tmp_path / "clamr/synthetic_train.json", json.dumps(rows))  # fmt: skip
    store = prepare(tmp_path / "clamr")
    assert len(store.split("synthetic-train").queries) == 1
    assert gaps(store)["synthetic-train: queries without text"] == 1


# --- Dataset folders --------------------------------------------------------------------------


def test_a_dataset_folder_of_human_queries_is_a_store(tmp_path: Path) -> None:
    other = HUMAN.replace("_7", "_8")
    rows = [
        human_row("-dash", HUMAN, asr="said"),
        human_row("_under", other),
        human_row("-dash", other, asr="said"),
    ]
    dataset(tmp_path / "source/multivent_hf", rows, files=2, batch=1)
    store = prepare(tmp_path / "source")
    split = store.split("train")
    assert split.qrels == {HUMAN: {"-dash": 1}, other: {"_under": 1, "-dash": 1}}
    assert [query.text for query in split.queries] == [f"text of {HUMAN}", f"text of {other}"]
    assert split.queries[0].attributes["query_type"] == "ocr"
    dash, under = split.documents
    assert (dash.id, dash.title) == ("-dash", "Title of -dash")
    assert dash.texts == {Modality.ASR: "said", Modality.OCR: "shown in -dash"}
    assert under.texts == {Modality.OCR: "shown in _under"}
    assert "first comma" in store.manifest.notes[0]


def test_the_source_may_be_the_dataset_folder_itself(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "multivent_hf", [human_row("a", HUMAN)])
    assert [document.id for document in prepare(folder).documents("train")] == ["a"]


def test_released_tables_come_before_a_dataset_folder(tmp_path: Path) -> None:
    source = train(tmp_path / "source")
    dataset(source / "hf", [human_row(VIDEOS[0], HUMAN), human_row("unlisted", HUMAN)])
    store = prepare(source)
    split = store.split("train")
    assert split.queries[0].text == "a, b", "which the dataset's script cuts at the comma"
    assert split.qrels == {HUMAN: {VIDEOS[0]: 1}}
    texts = {document.id: document.texts for document in split.documents}
    assert texts == {VIDEOS[0]: {Modality.OCR: f"shown in {VIDEOS[0]}"}} | {
        v: {} for v in VIDEOS[1:]
    }


def test_a_dataset_folder_adds_what_the_release_lacks(tmp_path: Path) -> None:
    source = train(tmp_path / "source")
    write(source / f"train/000340/{VIDEOS[0]}.mp4", b"video")
    speech = source / "features/train/speech_to_text"
    tar_gz(
        speech / "train-000340-x.tar.gz",
        {"x.csv": f"video_id,text\n000340/{VIDEOS[0]}.m4a,spoken\n"},
    )
    dataset(source / "hf", [human_row(VIDEOS[0], HUMAN, asr="another speech")])  # fmt: skip
    first = next(iter(prepare(source).documents("train")))
    assert first.texts == {Modality.ASR: "spoken", Modality.OCR: f"shown in {VIDEOS[0]}"}
    assert set(first.media) == {Modality.VIDEO}


def test_a_dataset_folder_of_synthetic_queries(tmp_path: Path) -> None:
    rows = [
        {"video_id": "000340_V_P-s8", "query": f"q {kind}", "query_type": kind, "images": [],
         "ocr": "shown", "description": "told", "asr": "said"}
        for kind in ("asr", "ocr", "video", "description")
    ]  # fmt: skip
    dataset(tmp_path / "source/hf", rows)
    write(
        tmp_path / "source/synthetic_train.json",
        json.dumps({"train_000340_V_P-s8": {"query": "of the JSON", "query_type": "ocr"}}),
    )
    store = prepare(tmp_path / "source")
    split = store.split("synthetic-train")
    assert {query.attributes["query_type"]: query.text for query in split.queries} == {
        "ocr": "of the JSON",
        "speech": "q asr",
        "base": "q video",
        "description": "q description",
    }
    assert len(store.split("train").queries) == 0
    (document,) = split.documents
    assert document.modalities == {Modality.ASR, Modality.OCR, Modality.DESCRIPTION}


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (["/elsewhere/frames/train_000001_a_frame_5.jpg"], {}),
        ([{"bytes": None, "path": "train_000001_a_frame_5.jpg"}], {}),
        ([{"bytes": b"jpeg", "path": None}], {f"train: {EMBEDDED}": 1}),
        (["gone.jpg"], {"train: key frames without a file": 1}),
    ],
)  # fmt: skip
def test_images_of_a_dataset_folder(
    tmp_path: Path, images: list[Any], count: dict[str, int]
) -> None:
    write(tmp_path / "source/frames/train_000001_a_frame_5.jpg", b"jpeg")
    write(tmp_path / "source/key_frames.json", "{}")
    dataset(tmp_path / "source/hf", [human_row("a", HUMAN, images=images)])
    store = prepare(tmp_path / "source")
    found = {k: n for k, n in gaps(store).items() if "images" in k or "key frames" in k}
    assert found == count
    (document,) = store.documents("train")
    names = [media.name for media in document.media.get(Modality.VIDEO, ())]
    assert names == ([] if count else ["train_000001_a_frame_5.jpg"])


def spoiled(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        dataset(source / "hf", [human_row("a", HUMAN)])
        change(source / "hf")

    return spoil


def cut(folder: Path) -> None:
    path = folder / "train/data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoiled(lambda f: (f / "train/state.json").unlink()), "state.json is missing"),
        (spoiled(lambda f: write(f / "train/state.json", "{")), "state.json is not JSON"),
        (spoiled(lambda f: write(f / "dataset_dict.json", "[]")), "dataset_dict.json is no JSON"),
        (spoiled(cut), "cannot be read as an Arrow stream"),
        (
            spoiled(lambda f: (f / "train/data-00000-of-00001.arrow").unlink()),
            "cannot be read as an Arrow stream",
        ),
        (spoiled(lambda f: dataset(f, [{"video_id": "1_a", "query": "q"}])), "no column"),
        (spoiled(lambda f: dataset(f, [human_row("a", HUMAN, video_id="a")])), "not of the form"),
        (
            spoiled(
                lambda f: dataset(f, [human_row("a", HUMAN), human_row("b", HUMAN, query="x")])
            ),
            "one id must mean one query",
        ),
        (
            spoiled(
                lambda f: dataset(
                    f, [{"video_id": "1_a", "query": "q", "query_type": "ocr"}], split="test"
                )
            ),
            "'test' is none of them",
        ),
    ],
)
def test_bad_dataset_folders(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(tmp_path / "source")
    with pytest.raises(DataError, match=said) as caught:
        prepare(tmp_path / "source")
    assert "\n" not in str(caught.value)


# --- Key frames -------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return release(tmp_path / "source")


def mapping(source: Path, numbers: list[int], key: str = "000001/-a_1.mp4", **more: Any) -> Path:
    return write(source / "key_frames_mapping.json", json.dumps({key: numbers, **more}))


def frames(source: Path, *numbers: int) -> None:
    for number in numbers:
        write(source / f"frames/test_000001_-a_1_frame_{number}.jpg", f"jpeg {number}")


def test_numbers_alone_are_kept_beside_the_video(source: Path) -> None:
    mapping(source, [2, 9, 10, 11, 12, 100])
    store = prepare(source)
    video = next(iter(store.documents("test")))
    assert [media.name for media in video.media[Modality.VIDEO]] == ["-a_1.mp4"]
    assert video.attributes["key_frames"] == "2,9,10,11,12,100"
    assert not any("frame" in kind for kind in gaps(store))


def test_extracted_frames_stand_for_the_video_in_numeric_order(source: Path) -> None:
    # The first ten as listed, then in the order of their numbers: 1000 is listed eleventh.
    mapping(source, [90, 100, 9, 2, 10, 11, 12, 13, 14, 15, 1000])
    frames(source, 90, 100, 9, 2, 10, 11, 12, 13, 14, 15, 1000)
    video = documents(source)["-a_1"]
    names = [media.name for media in video.media[Modality.VIDEO]]
    assert names == [
        f"test_000001_-a_1_frame_{n}.jpg" for n in (2, 9, 10, 11, 12, 13, 14, 15, 90, 100)
    ]
    assert video.media[Modality.VIDEO][0].size == len("jpeg 2")
    assert "key_frames" not in video.attributes


def test_frames_that_are_not_there_are_gaps(source: Path) -> None:
    mapping(source, [2, 9, 10, 11, 12])
    frames(source, 10)
    store = prepare(source)
    assert gaps(store)["test: key frames without a file"] == 4
    video = next(iter(store.documents("test")))
    assert [media.name for media in video.media[Modality.VIDEO]] == [
        "test_000001_-a_1_frame_10.jpg"
    ]


def test_frames_may_be_a_source_of_their_own(source: Path, tmp_path: Path) -> None:
    mapping(source, [10])
    frames(source, 10)
    (source / "frames").rename(tmp_path / "elsewhere")
    store = prepare(source, tmp_path / "elsewhere")
    video = next(iter(store.documents("test")))
    assert (
        video.media[Modality.VIDEO][0].path == tmp_path / "elsewhere/test_000001_-a_1_frame_10.jpg"
    )
    assert store.check_media() == []


def test_frames_without_a_mapping_are_a_gap(source: Path) -> None:
    frames(source, 10)
    store = prepare(source)
    assert gaps(store)["test: extracted frames without a key-frame mapping"] == 1
    assert next(iter(store.documents("test"))).media[Modality.VIDEO][0].name == "-a_1.mp4"


def test_screen_text_of_frames_that_are_not_listed_is_kept_and_counted(source: Path) -> None:
    before = documents(source)["-a_1"].texts
    mapping(source, [2, 9])
    store = prepare(source)
    kind = "test: screen text of frames that the key-frame mapping does not list"
    assert gaps(store)[kind] == 3
    assert store.manifest.gaps[kind].example == "-a_1, frame 10"
    assert next(iter(store.documents("test"))).texts == before
    assert len(list((source / FRAMES).iterdir())) == 5


@pytest.mark.parametrize("key", ["000001/zz.mp4", "train/000001/-a_1.mp4"])
def test_a_mapping_of_another_split_is_not_used(source: Path, key: str) -> None:
    mapping(source, [2, 9], key=key)
    store = prepare(source)
    assert "key_frames" not in next(iter(store.documents("test"))).attributes
    assert store.manifest.counts["test_key_frame_entries_of_other_videos"] == 1
    assert not any("frame" in kind for kind in gaps(store))


def test_a_mapping_may_name_its_split(source: Path) -> None:
    mapping(source, [2, 9, 10, 11, 12], key="some/folder/test/000001/-a_1.mp4")
    assert documents(source)["-a_1"].attributes["key_frames"] == "2,9,10,11,12"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"-a_1.mp4": [1]}', "must read '<shard>/<video>.mp4'"),
        ('{"000001/-a_1.mp4": 1}', "list of whole numbers"),
        ('{"000001/-a_1.mp4": [1.5]}', "list of whole numbers"),
        ('{"000001/-a_1.mp4": [-1]}', "list of whole numbers"),
        ('{"000001/-a_1.mp4": [1], "000002/-a_1.mp4": [1]}', "differ from what was said"),
    ],
)
def test_bad_mappings(source: Path, content: str, said: str) -> None:
    write(source / "mapping.json", content)
    with pytest.raises(DataError, match=said):
        prepare(source)


def test_a_mapping_that_changed_is_read_again(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared() -> DatasetStore:
        return prepare(source)

    monkeypatch.setattr("harness.dataset.tables.PART_ROWS", 1)
    mapping(source, [2])
    path = source / "test/000002/_b.json"
    content = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(DataError, match="_b"):
        prepared()
    path.write_bytes(content)
    mapping(source, [2, 9, 10])
    assert next(iter(prepared().documents("test"))).attributes["key_frames"] == "2,9,10"
