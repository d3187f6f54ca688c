"""MSR-VTT's files as they circulate -> a store: every form, what is missing, what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.types import Document, Modality
from tasks.msrvtt.files import Files
from tasks.msrvtt.speech import read_speech
from tests import msrvtt_release as made
from tests.msrvtt_release import prepared, release, rows, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return release(tmp_path / "source")


def documents(store: object, split: str) -> dict[str, Document]:
    return {document.id: document for document in store.documents(split)}  # type: ignore[attr-defined]


def test_a_release_has_four_splits(source: Path) -> None:
    store = prepared(source)
    assert list(store.manifest.splits) == ["1k-a", "full", "train-9k", "train-7k"]
    assert [query.text for query in store.queries("1k-a")] == list(made.SENTENCES.values())
    one = store.split("1k-a")
    assert one.qrels["ret1"] == {"video9000": 1}
    assert [document.id for document in one.documents] == list(made.SENTENCES)
    full = store.split("full")
    assert [document.id for document in full.documents] == list(made.OFFICIAL)
    assert len(full.queries) == 15
    assert full.qrels["video7010-2"] == {"video7010": 1}
    train = store.split("train-9k")
    assert [query.id for query in train.queries][:3] == ["video0-0", "video0-1", "video3-0"]
    assert train.queries[1].text == "video0 does that", "white space is folded"
    assert len(store.split("train-7k").documents) == 2
    assert store.manifest.counts == {
        "videos_without_sound": 1,
        "1k-a_distinct_captions": 3,
        "full_distinct_captions": 15,
        "train-9k_distinct_captions": 6,
        "train-7k_distinct_captions": 4,
    }
    assert store.check() == store.check_media() == []


def test_what_a_video_has(source: Path) -> None:
    found = documents(prepared(source), "1k-a")
    seen = found["video7020"]
    assert seen.texts == {Modality.ASR: "so this is a bench"}
    path = source / "MSRVTT/videos/all/video7020.mp4"
    assert [media.path for media in seen.media[Modality.VIDEO]] == [path]
    assert seen.media[Modality.AUDIO] == seen.media[Modality.VIDEO], "sound is in the video file"
    silent = found["video7021"]
    assert silent.modalities == {Modality.VIDEO}
    assert found["video9975"].modalities == frozenset()


def test_what_is_missing_is_counted(source: Path) -> None:
    gaps = {kind: gap.count for kind, gap in prepared(source).manifest.gaps.items()}
    assert gaps == {
        "1k-a: fewer videos than the 1,000 published": 1,
        "1k-a: videos without a file": 2,
        "1k-a: videos without a transcript": 3,
        "full: fewer videos than the 2,990 published": 1,
        "full: videos without a file": 3,
        "full: videos without a transcript": 4,
        "train-9k: fewer videos than the 9,000 published": 1,
        "train-9k: videos without a file": 2,
        "train-9k: videos without a transcript": 2,
        "train-7k: fewer videos than the 7,010 published": 1,
        "train-7k: videos without a file": 1,
        "train-7k: videos without a transcript": 1,
    }
    with pytest.raises(DataError, match="fewer videos than"):
        prepared(source, strict=True)


def test_both_forms_of_captions_are_the_same_data(source: Path, tmp_path: Path) -> None:
    first = prepared(source).split("full")
    (source / "annotation" / made.JSON).unlink()
    write(source / "annotation" / made.FROZEN, made.frozen_json())
    second = prepared(source).split("full")
    assert second.queries == first.queries
    assert second.fingerprint == first.fingerprint


def test_several_sources_are_searched_in_order(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "videos"
    write(other / "TrainValVideo/video9975.mp4", made.sounding())
    write(other / "TrainValVideo/video7020.mp4", b"not looked at")
    found = documents(prepared(source, other), "1k-a")
    assert found["video9975"].media[Modality.VIDEO][0].path.is_relative_to(other)
    assert found["video7020"].media[Modality.VIDEO][0].path.is_relative_to(source)


def test_frames_stand_for_a_video_without_a_file(source: Path) -> None:
    made.frame_folder(source / "frames", "video9975", [10, 2, 1])
    made.frame_folder(source / "frames", "video7020", [1])
    found = documents(prepared(source), "1k-a")
    frames = found["video9975"].media[Modality.VIDEO]
    assert [media.name for media in frames] == ["frame_1.jpg", "frame_2.jpg", "frame_10.jpg"]
    assert Modality.AUDIO not in found["video9975"].media
    assert found["video7020"].media[Modality.VIDEO][0].name == "video7020.mp4"


def test_captions_alone_are_enough(tmp_path: Path, source: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / made.TEST).write_bytes((source / made.TEST).read_bytes())
    store = prepared(alone)
    assert list(store.manifest.splits) == ["1k-a"]
    assert set(store.manifest.gaps) == {
        "no file of all captions", "no list of training videos", "no file of transcripts",
        "no videos and no frames", "1k-a: fewer videos than the 1,000 published",
    }  # fmt: skip


def test_the_list_of_mtebs_copy(source: Path) -> None:
    rows(source / "MSRVTT_mteb.csv", ["video_id"], [["video9975"], ["video7020"]])
    store = prepared(source)
    split = store.split("mteb")
    assert [(q.id, q.text) for q in split.queries] == [
        ("ret3", "someone cooks"), ("ret0", "a man, sitting on a bench"),
    ]  # fmt: skip
    assert len(split.documents) == 2
    (source / "MSRVTT_mteb.csv").unlink()
    write(source / "MSRVTT_mteb.txt", "video9975\n\nvideo7020\n")
    assert prepared(source).split("mteb").fingerprint == split.fingerprint
    write(source / "MSRVTT_mteb.txt", "video1\n")
    with pytest.raises(DataError, match="'video1' is none of the videos of"):
        prepared(source)


ONE = '{"video_id": "video0", "text": "one"}'
TWO = '{"video_id": "video0", "text": " two "}'
NOTHING = '{"video_id": "video1", "text": ""}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a_whisper.json", '{"video0": "one  two", "video1": ""}'),
        ("a_asr.json", f"[{ONE}, {TWO}, {NOTHING}]"),
        ("ASR.jsonl", f"{ONE}\n\n{TWO}\n{NOTHING}"),
        ("x-Whisper.csv", "video_id,start,text\nvideo0,0,one\nvideo0,2,two\nvideo1,0,\n"),
    ],
)
def test_transcripts_in_every_form(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / name, content)
    assert Files.find([tmp_path]).speech == [path]
    assert read_speech(path) == {"video0": "one two", "video1": ""}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", '"text"', "no file of transcripts"),
        ("a.json", '{"video0": 3}', r"entry 0 holds .*give a CSV"),
        ("a.jsonl", '{"video_id": "video0"}', "line 1 holds"),
        ("a.csv", "video,text\nvideo0,x\n", "no column 'video_id'"),
        ("a.csv", "video_id,text\nvideo10000,x\n", "line 2: 'video10000' is no video of MSR-VTT"),
    ],
)
def test_broken_transcripts_are_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_speech(write(tmp_path / name, content))


def drop_column(source: Path) -> None:
    rows(source / made.TEST, ["key", "video_id", "sentences"], [["ret0", "video7020", "a"]])


def cut_off(source: Path) -> None:
    path = source / made.TEST
    path.write_bytes(path.read_bytes()[:-15])


def not_utf8(source: Path) -> None:
    path = source / made.TEST
    path.write_bytes(path.read_bytes() + b"ret9,msr1,video9001,caf\xe9\n")


def twice(source: Path) -> None:
    path = source / made.TEST
    path.write_bytes(path.read_bytes() + b"ret9,msr7020,video7020,again\n")


def empty(source: Path) -> None:
    write(source / made.TEST, "")


def other_ids(source: Path) -> None:
    rows(source / made.TEST, ["key", "video_id", "sentence"], [["a", "msr7020", "b"]])


def other_schema(source: Path) -> None:
    write(source / "annotation" / made.JSON, json.dumps({"database": [], "version": 1}))


def other_entry(source: Path) -> None:
    entries = {"sentences": [{"video_id": "video0", "captions": "a"}]}
    write(source / "annotation" / made.JSON, json.dumps(entries))


def other_video(source: Path) -> None:
    entries = {"sentences": [{"video_id": "vid1", "caption": "a"}]}
    write(source / "annotation" / made.JSON, json.dumps(entries))


def no_json(source: Path) -> None:
    write(source / "annotation" / made.JSON, "{")


def overlap(source: Path) -> None:
    rows(source / "lists/MSRVTT_train.9k.csv", ["video_id"], [["video0"], ["video7021"]])


def listed_twice(source: Path) -> None:
    rows(source / "lists/MSRVTT_train.7k.csv", ["video_id"], [["video0"], ["video0"]])


def two_transcripts(source: Path) -> None:
    write(source / "other_asr.json", "{}")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop_column, r"line 1: no column 'sentence'.*Did you mean 'sentences'"),
        (cut_off, "line 5: sentence is blank; the row is cut off"),
        (not_utf8, "is not UTF-8"),
        (twice, "line 6: video 'video7020' is listed twice"),
        (empty, "has no rows"),
        (other_ids, "line 2: 'msr7020' is no video of MSR-VTT"),
        (other_schema, r"holds no list 'sentences' .*it has 'database', 'version'"),
        (other_entry, r"sentences\[0\] has no text 'caption'.*Did you mean 'captions'"),
        (other_video, r"sentences\[0\]: 'vid1' is no video of MSR-VTT"),
        (no_json, "is not JSON"),
        (overlap, r"names 1 videos that .* has too \(first: video7021\)"),
        (listed_twice, "line 3: 'video0' is listed twice"),
        (two_transcripts, "are both transcripts"),
    ],
)
def test_broken_files_are_named(
    source: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(source)
    with pytest.raises(DataError, match=says):
        prepared(source)
    assert not (tmp_path / "data/msrvtt/default").exists(), "nothing half-made is left"


def test_a_folder_without_any_of_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"nothing of MSR-VTT is there.*MSRVTT_JSFUSION_test\.csv"):
        prepared(tmp_path / "empty")


@pytest.mark.realdata
def test_the_published_lists_load(real_data: Path) -> None:
    store = prepared(real_data / "msrvtt")
    split = store.split("1k-a")
    assert len(split.queries) == len(split.documents) == 1_000
    assert len({query.text for query in split.queries}) == 995
    assert store.manifest.counts["1k-a_distinct_captions"] == 995
    assert len(store.split("train-9k").documents) == 9_000
    assert len(store.split("train-7k").documents) == 7_010
    assert not any("fewer videos" in kind for kind in store.manifest.gaps)
    assert store.check() == []
