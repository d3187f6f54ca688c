"""The reader of MultiVENT 2.0's official layout."""

from __future__ import annotations

import csv
import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.types import Modality
from tasks.multivent.archives import read_bytes
from tasks.multivent.judgments import read_judgments
from tasks.multivent.tables import find_ids, query_attributes, read_ids, read_queries
from tests.multivent_release import (
    ASR,
    FRAME,
    IDS,
    INFO,
    JUDGMENTS,
    OCR,
    QUERIES,
    QUERY,
    SPEECH,
    documents,
    gaps,
    judged,
    metadata,
    pack,
    prepare,
    release,
    write,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return release(tmp_path / "source")


def test_every_piece_of_a_video_is_read(source: Path) -> None:
    found = documents(source)
    video = found["-a_1"]
    assert video.texts[Modality.ASR] == "so, hello world"
    assert video.texts[Modality.DESCRIPTION] == "What\nit shows"
    assert video.title == "A title"
    assert video.attributes == {"language": "russian"}
    (mp4,), (m4a,) = video.media[Modality.VIDEO], video.media[Modality.AUDIO]
    assert (mp4.name, mp4.size, mp4.offset) == ("-a_1.mp4", 6, None)
    assert read_bytes(m4a) == b"sounding"
    assert found["_b"].modalities == {Modality.VIDEO}
    assert found["_b"].title == "B"


def test_frames_are_read_by_number_and_standing_lines_once(source: Path) -> None:
    # Frames 2, 9, 10, 11 (nothing), 12: TAXI comes back after a frame without it.
    assert documents(source)["-a_1"].texts[Modality.OCR] == "EXIT TAXI GATE 4 TAXI"


def test_a_store_holds_queries_and_graded_judgments(source: Path) -> None:
    store = prepare(source)
    split = store.split("test")
    (query,) = split.queries
    assert query.text == "Kyiv, at night"
    assert query.attributes == {
        "language": "english",
        "event": "political",
        "style": "pov",
        "query_type": "speech",
        "target": "asr",
    }
    assert split.qrels == {QUERY: {"-a_1": 2}}
    assert split.coverage.modalities == {
        "video": 2,
        "audio": 1,
        "asr": 1,
        "ocr": 1,
        "description": 1,
    }
    assert store.manifest.counts["test_judgment_lines"] == 1


@pytest.mark.parametrize(
    ("query", "kind", "target"),
    [
        ("internvid_korean_sports_edited_base_12", "base", None),
        ("internvid_korean_sports_edited_speech_12", "speech", "asr"),
        ("sample_korean_natural_disaster_edited_joint-video-ocr_0", "joint", "video+ocr"),
        ("sample_korean_sports_edited_audio_0", "audio", "audio"),
    ],
)
def test_query_ids_state_what_is_asked(query: str, kind: str, target: str | None) -> None:
    attributes = query_attributes(query)
    assert attributes["language"] == "korean"
    assert attributes["style"] == "edited"
    assert attributes["query_type"] == kind
    assert attributes.get("target") == target


def test_query_ids_of_another_form_state_nothing() -> None:
    assert query_attributes("q17") == {}


@pytest.mark.parametrize(
    "piece",
    [
        "test/000001/-a_1.mp4",
        "test/000001/-a_1.m4a",
        "test/000001/-a_1.json",
        str(ASR / "000001/-a_1.m4a.csv"),
        str(OCR / "000001/-a_1.mp4_frames/-a_1_frame_10.png.csv"),
    ],
)
def test_a_missing_piece_of_one_video_takes_away_one_modality_at_most(
    source: Path, piece: str
) -> None:
    whole = documents(source)["-a_1"]
    (source / piece).unlink()
    left = documents(source)["-a_1"]
    assert len(whole.modalities - left.modalities) <= 1
    assert left != whole


@pytest.mark.parametrize("content", ["", "\n", '""\n', "text\n", 'text\n"  "\n'])
def test_blank_text_is_absent(source: Path, content: str) -> None:
    write(source / ASR / "000001/-a_1.m4a.csv", content)
    assert Modality.ASR not in documents(source)["-a_1"].texts


@pytest.mark.parametrize(
    "content",
    ['{"yt_meta_dict": null}', "{}", metadata(), metadata(description=" ", title=None)],
)
def test_metadata_may_be_empty(source: Path, content: str) -> None:
    write(source / "test/000001/-a_1.json", content)
    video = documents(source)["-a_1"]
    assert Modality.DESCRIPTION not in video.texts
    assert video.title is None


def test_videos_without_files_stay_candidates_and_unlisted_ones_do_not(source: Path) -> None:
    write(source / "multivent_2_test_ids.csv", "id\nzz\n-a_1\n")
    store = prepare(source)
    assert [document.id for document in store.split("test").documents] == ["-a_1", "zz"]
    assert gaps(store)["test: videos without any file"] == 1
    assert gaps(store)["test: videos that the ids file does not list"] == 1


def test_features_without_media_make_documents(source: Path) -> None:
    for path in sorted((source / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    video = documents(source)["-a_1"]
    assert video.modalities == {Modality.ASR, Modality.OCR}


def test_tar_members_are_read_in_place(source: Path) -> None:
    unpacked = documents(source)["-a_1"]
    archive = pack(source)
    packed = documents(source)["-a_1"]
    assert packed.texts == unpacked.texts
    (media,) = packed.media[Modality.AUDIO]
    assert (media.path, media.size) == (archive.absolute(), 8)
    assert media.offset is not None
    assert read_bytes(media) == b"sounding"


def test_an_unpacked_file_comes_before_the_tar(source: Path) -> None:
    pack(source)
    write(source / "test/000001/-a_1.m4a", b"newer")
    video = documents(source)["-a_1"]
    assert read_bytes(video.media[Modality.AUDIO][0]) == b"newer"
    assert video.media[Modality.VIDEO][0].offset is not None


def tar_with(source: Path, name: str, **fields: object) -> None:
    with tarfile.open(source / "test/000003.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        member.size = 0 if fields else 3
        tar.addfile(member, io.BytesIO(b"abc"))


def twice_in_tar(source: Path) -> None:
    with tarfile.open(source / "test/000003.tar", "w") as tar:
        for folder in ("one", "two"):
            tar.addfile(tarfile.TarInfo(f"{folder}/c.mp4"))


def damage(path: Path) -> None:
    """Spoil the header of the second member of a tar."""
    with tarfile.open(path) as tar:
        start = tar.getmembers()[1].offset_data - 512
    content = bytearray(path.read_bytes())
    content[start : start + 512] = b"x" * 512
    path.write_bytes(content)


def same_video_in_two_shards(source: Path) -> None:
    write(source / "test/000002/-a_1.mp4", b"copy")


def append(source: Path, name: str, text: str) -> None:
    with (source / name).open("a", encoding="utf-8") as file:
        file.write(text)


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "judgments without queries": (lambda s: (s / QUERIES).unlink(), (QUERIES, "missing")),
    "two OCR folders": (
        lambda s: (s / "features/test/icdar_ocr_max").mkdir(),
        ("icdar_ocr_max", "ambiguous"),
    ),
    "ids without the column": (lambda s: write(s / IDS, "ids\na\n"), (IDS, "line 1", "'id'")),
    "no ids": (lambda s: write(s / IDS, "id\n"), (IDS, "no videos")),
    "id twice": (lambda s: append(s, IDS, "_b\n"), (IDS, "line 4", "'_b'", "line 3")),
    "empty id": (lambda s: append(s, IDS, '""\n'), (IDS, "line 4", "empty")),
    "ids not UTF-8": (lambda s: write(s / IDS, b"id\n\xff\n"), (IDS, "UTF-8")),
    "queries without the column": (
        lambda s: write(s / QUERIES, "Query_id,text\nq,x\n"),
        (QUERIES, "line 1", "'query'"),
    ),
    "query twice": (lambda s: append(s, QUERIES, f"{QUERY},x\n"), (QUERIES, "line 3", QUERY)),
    "query without text": (lambda s: append(s, QUERIES, "q2, \n"), (QUERIES, "line 3", "q2")),
    "no queries": (lambda s: write(s / QUERIES, "Query_id,query\n"), (QUERIES, "no queries")),
    "broken JSON line": (
        lambda s: append(s, JUDGMENTS, '{"query_id": \n'),
        (JUDGMENTS, "line 3", "not JSON"),
    ),
    "JSON line of another kind": (lambda s: append(s, JUDGMENTS, "[1]\n"), (JUDGMENTS, "line 3")),
    "judgment without a key": (
        lambda s: append(s, JUDGMENTS, '{"query_id": "q"}\n'),
        (JUDGMENTS, "line 3", "doc_id"),
    ),
    "unknown query": (
        lambda s: append(s, JUDGMENTS, judged(query_id="nope")),
        (JUDGMENTS, "line 3", "query 'nope'"),
    ),
    "unknown video": (
        lambda s: append(s, JUDGMENTS, judged(doc_id="nope")),
        (JUDGMENTS, "line 3", "video 'nope'"),
    ),
    "relevance is a string": (
        lambda s: append(s, JUDGMENTS, judged(relevance="1")),
        (JUDGMENTS, "line 3", "'1'", "whole number"),
    ),
    "relevance is a boolean": (
        lambda s: append(s, JUDGMENTS, judged(relevance=True)),
        (JUDGMENTS, "line 3", "True"),
    ),
    "relevance is a fraction": (
        lambda s: append(s, JUDGMENTS, judged(relevance=0.5)),
        (JUDGMENTS, "line 3", "0.5"),
    ),
    "judgments that disagree": (
        lambda s: append(s, JUDGMENTS, judged(relevance=1)),
        (JUDGMENTS, "line 3", "relevance 1", "2"),
    ),
    "speech without the column": (
        lambda s: write(s / SPEECH, "txt\nhello\n"),
        ("-a_1.m4a.csv", "line 1", "'text'"),
    ),
    "OCR without the column": (
        lambda s: write(s / FRAME, "words\nhello\n"),
        ("-a_1_frame_2.png.csv", "line 1", "'text'"),
    ),
    "a cell beyond the limit": (
        lambda s: write(s / SPEECH, "text\n" + "x" * (csv.field_size_limit() + 1)),
        ("-a_1.m4a.csv", "line 2", "field larger"),
    ),
    "a frame without a number": (
        lambda s: (s / FRAME).rename((s / FRAME).with_name("-a_1_first.png.csv")),
        ("-a_1_first.png.csv", "frame"),
    ),
    "broken metadata": (lambda s: write(s / INFO, '{"a":\n\n'), ("-a_1.json", "line 3")),
    "metadata of another kind": (lambda s: write(s / INFO, "[]"), ("-a_1.json", "yt_meta_dict")),
    "metadata not UTF-8": (lambda s: write(s / INFO, b'{"a": "\xff"}'), ("-a_1.json", "UTF-8")),
    "description is a number": (
        lambda s: write(s / INFO, metadata(description=7)),
        ("-a_1.json", "description", "7"),
    ),
    "broken metadata in a tar": (
        lambda s: (write(s / INFO, "{"), pack(s)),
        ("000001.tar", "-a_1.json", "line 1"),
    ),
    "a video in two shards": (same_video_in_two_shards, ("'-a_1'", "000001", "000002")),
    "a compressed shard": (lambda s: pack(s, "w:gz", ".tar.gz"), ("000001.tar.gz", "compressed")),
    "a compressed shard in disguise": (lambda s: pack(s, "w:gz"), ("000001.tar", "uncompressed")),
    "a shard damaged in the middle": (lambda s: damage(pack(s)), ("000001.tar", "damaged at byte")),
    "a member outside": (lambda s: tar_with(s, "../c.mp4"), ("000003.tar", "'../c.mp4'")),
    "an absolute member": (lambda s: tar_with(s, "/c.mp4"), ("000003.tar", "'/c.mp4'")),
    "a link": (
        lambda s: tar_with(s, "c.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        ("000003.tar", "'c.mp4'", "link"),
    ),
    "a member twice": (twice_in_tar, ("000003.tar", "'c.mp4'", "twice")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(source: Path, tmp_path: Path, case: str) -> None:
    spoil, said = BAD[case]
    spoil(source)
    with pytest.raises(DataError) as caught:
        prepare(source)
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message
    assert not (tmp_path / "store").exists()


def test_an_empty_folder_states_that_a_modality_is_left_out(source: Path) -> None:
    (source / OCR).rename(source / "elsewhere")
    (source / OCR).mkdir()
    assert Modality.OCR not in documents(source)["-a_1"].texts


def test_repeated_judgments_are_counted_and_named(source: Path) -> None:
    append(source, JUDGMENTS, judged() + "\n" + judged())
    store = prepare(source)
    assert store.manifest.counts["test_judgments_repeated"] == 2
    assert store.manifest.counts["test_judgment_lines"] == 3
    split = store.split("test")
    assert split.queries[0].attributes["repeated"] == "-a_1 -a_1"
    assert split.qrels == {QUERY: {"-a_1": 2}}


def test_train_ids_may_lie_in_the_file_without_a_split(tmp_path: Path) -> None:
    path = write(tmp_path / "multivent_2_ids.csv", "id\na\n")
    assert find_ids([tmp_path / "elsewhere", tmp_path], "train") == path
    assert find_ids([tmp_path], "test") is None
    assert read_ids(path) == ["a"]


@pytest.mark.realdata
def test_the_released_train_tables(real_data: Path) -> None:
    root = real_data / "multivent"
    videos = read_ids(root / "multivent_2_ids.csv")
    queries = read_queries(root / "multivent_2_train_queries.csv")
    judgments = read_judgments(
        root / "multivent_2_train_judgments.jsonl",
        {query.id for query in queries},
        dict.fromkeys(videos),
    )
    qrels = judgments.qrels
    assert (len(videos), len(queries), len(qrels)) == (108_432, 1_361, 1_361)
    assert (sum(map(len, qrels.values())), judgments.lines) == (1_518, 1_520)
    assert sum(map(len, judgments.repeated.values())) == 2
    assert len({video for row in qrels.values() for video in row}) == 417
    # A reader that splits lines on commas cuts these short.
    assert sum("," in query.text for query in queries) == 14
    kinds = Counter(query.attributes["query_type"] for query in queries)
    assert kinds == {"base": 404, "description": 358, "speech": 322, "ocr": 277}
    assert {query.attributes.get("target") for query in queries} == {
        None,
        "asr",
        "ocr",
        "description",
    }
