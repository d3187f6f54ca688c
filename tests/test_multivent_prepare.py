"""Preparing MultiVENT 2.0 from whatever is there: gaps are counted, or refused with --strict."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.dataset import DatasetStore
from harness.errors import DataError
from harness.types import Modality
from tasks.multivent.archives import HALF_COPIED, read_bytes
from tests.conftest import Command
from tests.multivent_release import (
    ASR,
    FRAMES,
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
    pack,
    prepare,
    release,
    tar_gz,
    write,
)

RELEASED_ASR = Path("features/test/whisper_asr/exp/scale24/data/video/baseline/test/speech_to_text")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return release(tmp_path / "source")


def complete(source: Path) -> Path:
    """Give the second video what it lacks, so that nothing is missing."""
    write(source / "test/000002/_b.m4a", b"sound")
    write(source / ASR / "000002/_b.m4a.csv", "text\nspoken\n")
    write(source / OCR / "000002/_b.mp4_frames/_b_frame_1.png.csv", "text\nSHOWN\n")
    return source


def test_a_complete_release_has_no_gap_and_is_prepared_strictly(source: Path) -> None:
    store = prepare(complete(source), strict=True)
    assert gaps(store) == {}
    assert list(store.manifest.splits) == ["test"]
    assert store.manifest.channels == {
        "asr": "Whisper large v3, as released",
        "ocr": "ICDAR, as released",
    }


def test_tables_alone_make_documents_without_modalities(source: Path) -> None:
    for name in ("test", "features"):
        shutil.rmtree(source / name)
    store = prepare(source)
    split = store.split("test")
    assert [(d.id, d.modalities) for d in split.documents] == [("-a_1", set()), ("_b", set())]
    assert split.qrels == {QUERY: {"-a_1": 2}}
    assert gaps(store) == {
        "test: no folder of videos": 1,
        "test: no folder of speech": 1,
        "test: no folder of screen text": 1,
        "test: videos without any file": 2,
    }


def no_yt_meta_dict(source: Path) -> None:
    write(source / INFO, '{"status": "success"}')


GAPS: dict[str, tuple[Callable[[Path], object], dict[str, int]]] = {
    "no ids file": (lambda s: (s / IDS).unlink(), {"test: no ids file": 1}),
    "no queries": (
        lambda s: ((s / QUERIES).unlink(), (s / JUDGMENTS).unlink()),
        {"test: no queries file": 1},
    ),
    "no media folder": (lambda s: shutil.rmtree(s / "test"), {"test: no folder of videos": 1}),
    "no speech": (
        lambda s: shutil.rmtree((s / ASR).parent),
        {"test: no folder of speech": 1},
    ),
    "no screen text": (lambda s: shutil.rmtree(s / OCR), {"test: no folder of screen text": 1}),
    "a video without a file": (
        lambda s: write(s / IDS, "id\n-a_1\n_b\n--c\n"),
        {"test: videos without any file": 1},
    ),
    "an unlisted video": (
        lambda s: write(s / IDS, "id\n-a_1\n"),
        {"test: videos that the ids file does not list": 1},
    ),
    "no video file": (
        lambda s: (s / "test/000002/_b.mp4").unlink(),
        {"test: videos without a video file": 1},
    ),
    "no sound file": (
        lambda s: (s / "test/000002/_b.m4a").unlink(),
        {"test: videos without a sound file": 1},
    ),
    "no metadata": (lambda s: (s / INFO).unlink(), {"test: videos without metadata": 1}),
    "no speech of a video": (
        lambda s: (s / SPEECH).unlink(),
        {"test: videos without speech": 1},
    ),
    "no screen text of a video": (
        lambda s: shutil.rmtree(s / FRAMES),
        {"test: videos without screen text": 1},
    ),
    "no yt_meta_dict": (no_yt_meta_dict, {"test: metadata without yt_meta_dict.info": 1}),
}


@pytest.mark.parametrize("case", GAPS)
def test_what_is_missing_is_counted_and_refused_when_strict(source: Path, case: str) -> None:
    spoil, expected = GAPS[case]
    spoil(complete(source))
    store = prepare(source)
    assert gaps(store) == expected
    assert store.check() == []
    (kind,) = expected
    with pytest.raises(DataError) as caught:
        prepare(source, strict=True, store=source.parent / "strict")
    assert str(caught.value).startswith(kind)
    assert store.manifest.gaps[kind].example in str(caught.value)
    assert not (source.parent / "strict").exists()


def test_a_blank_text_is_no_gap(source: Path) -> None:
    write(complete(source) / SPEECH, "")
    write(source / OCR / "000002/_b.mp4_frames/_b_frame_1.png.csv", "text\n")
    store = prepare(source, strict=True)
    assert store.split("test").coverage.modalities["asr"] == 1


def test_test_judgments_are_not_public(source: Path) -> None:
    (complete(source) / JUDGMENTS).unlink()
    assert prepare(source, strict=True).split("test").qrels == {}


def test_without_an_ids_file_judged_videos_are_documents(source: Path) -> None:
    (source / IDS).unlink()
    write(source / JUDGMENTS, judged(doc_id="-elsewhere"))
    split = prepare(source).split("test")
    assert [document.id for document in split.documents] == ["-a_1", "_b", "-elsewhere"]


def test_nothing_of_multivent_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "source/readme.txt", "hello")
    with pytest.raises(DataError, match=r"nothing of MultiVENT 2\.0 is there"):
        prepare(tmp_path / "source")
    assert {path.name for path in tmp_path.iterdir()} == {"source", ".store.lock"}


# --- Several sources --------------------------------------------------------------------------


def test_pieces_may_lie_in_several_folders(source: Path, tmp_path: Path) -> None:
    whole = prepare(source)
    before = list(whole.documents("test"))
    (tmp_path / "more/features").parent.mkdir()
    (source / "features").rename(tmp_path / "more/features")
    (source / "test/000002").rename(tmp_path / "more/000002")
    (tmp_path / "more/test").mkdir()
    (tmp_path / "more/000002").rename(tmp_path / "more/test/000002")
    store = prepare(source, tmp_path / "more")
    after = list(store.documents("test"))
    assert [d.texts for d in after] == [d.texts for d in before]
    assert after[1].media[Modality.VIDEO][0].path == tmp_path / "more/test/000002/_b.mp4"
    assert store.check_media() == []
    assert store.manifest.fingerprint("test") == whole.manifest.fingerprint("test")


def test_the_first_source_that_has_a_file_counts(source: Path, tmp_path: Path) -> None:
    write(tmp_path / "more" / QUERIES, f"Query_id,query\n{QUERY},another text\n")
    write(tmp_path / "more/test/000001/-a_1.mp4", b"another video")
    for sources, text, size in (
        ((source, tmp_path / "more"), "Kyiv, at night", 6),
        ((tmp_path / "more", source), "another text", 13),
    ):
        split = prepare(*sources).split("test")
        assert split.queries[0].text == text
        assert next(iter(split.documents)).media[Modality.VIDEO][0].size == size


# --- Archives ---------------------------------------------------------------------------------


def released(source: Path) -> Path:
    """Put the features into archives, as they are released."""
    loose = (source / ASR).parent
    shutil.rmtree(loose)
    tar_gz(
        source / RELEASED_ASR / "test-000001-whisperv3-large.tar.gz",
        {
            "test/000001.csv": 'video_id,text\n000001/-a_1.m4a,"so, hello"\n'
            "000001/other.m4a,elsewhere\n000001/-a_1.m4a, world \n"
        },
    )
    shard = source / OCR / "000001"
    members = {
        f"000001/-a_1.mp4_frames/{path.name}": path.read_bytes()
        for path in sorted((shard / "-a_1.mp4_frames").iterdir())
    }
    shutil.rmtree(shard)
    tar_gz(source / OCR / "test-000001-icdar.tar.gz", members)
    return source


def test_released_archives_say_the_same_as_loose_files(source: Path) -> None:
    loose = documents(source)
    packed = documents(released(source))
    assert packed == loose
    assert packed["-a_1"].texts[Modality.ASR] == "so, hello world"


def test_an_archive_may_hold_a_file_for_each_video(source: Path) -> None:
    released(source)
    archive = source / RELEASED_ASR / "test-000001-whisperv3-large.tar.gz"
    tar_gz(
        archive,
        {"000001/-a_1.m4a.csv": "text\nso\n", "000001/_b.m4a.csv": "", "000001/._b.csv": "x"},
    )
    assert documents(source)["-a_1"].texts[Modality.ASR] == "so"


def test_loose_files_come_before_an_archive(source: Path) -> None:
    tar_gz(source / ASR / "a-000001.tar.gz", {"x.csv": "video_id,text\n000001/-a_1.m4a,old\n"})
    tar_gz(source / ASR / "a-000002.tar.gz", {"x.csv": "video_id,text\n000002/_b.m4a,only\n"})
    found = documents(source)
    assert found["-a_1"].texts[Modality.ASR] == "so, hello world"
    assert found["_b"].texts[Modality.ASR] == "only"


@pytest.mark.parametrize("kept", [0, 300, 0.4, 0.7, 0.95, -1])
def test_of_a_half_copied_shard_whole_members_are_used(source: Path, kept: float) -> None:
    whole = documents(source)["-a_1"]
    archive = pack(complete(source))
    with tarfile.open(archive) as tar:
        end = max(member.offset_data + member.size for member in tar)
    content = archive.read_bytes()
    # -1: cut right before the zeros at the end.
    size = (end + 511) // 512 * 512 if kept == -1 else int(kept * end) if kept < 1 else int(kept)
    archive.write_bytes(content[:size])
    store = prepare(source)
    assert gaps(store)[f"test: {HALF_COPIED}"] == 1
    video = next(iter(store.documents("test")))
    assert video.id == "-a_1"
    assert video.modalities <= whole.modalities
    for files in video.media.values():
        assert read_bytes(files[0]) in (b"moving", b"sounding")
    if kept == -1:
        assert video.texts == whole.texts
        assert video.modalities == whole.modalities
    with pytest.raises(DataError, match=f"{HALF_COPIED}: .*000001.tar"):
        prepare(source, strict=True, store=source.parent / "strict")


@pytest.mark.parametrize("kept", [0, 5, 0.3, 0.6, 0.9])
def test_of_a_half_copied_archive_whole_members_are_used(source: Path, kept: float) -> None:
    archive = source / RELEASED_ASR / "test-000001-whisperv3-large.tar.gz"
    shutil.rmtree((source / ASR).parent)
    lines = "".join(f"000001/-a_1.m4a,word{i * 7919 % 1000}\n" for i in range(40))
    tar_gz(archive, {f"{i}.csv": f"video_id,text\n{lines}" for i in range(40)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    store = prepare(source)
    assert gaps(store)[f"test: {HALF_COPIED}"] == 1
    said = next(iter(store.documents("test"))).texts.get(Modality.ASR, "")
    assert len(said.split()) % 40 == 0
    if kept == 0.9:
        assert said


def bad_archive(content: bytes) -> Callable[[Path], object]:
    return lambda s: write(s / ASR / "a-000002.tar.gz", content)


def members(**files: str) -> Callable[[Path], object]:
    return lambda s: tar_gz(s / ASR / "a-000002.tar.gz", files)


def damaged_gzip(source: Path) -> None:
    path = tar_gz(source / ASR / "a-000002.tar.gz", {"x.csv": "video_id,text\n" + "a,b\n" * 999})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def linked(source: Path) -> None:
    with tarfile.open(source / ASR / "a-000002.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("x.csv")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no gzip": (bad_archive(b"hello " * 200), ("a-000002.tar.gz", "fetch it again")),
    "gzip of no tar": (bad_archive(gzip.compress(b"hello " * 200)), ("a-000002.tar.gz", "tar")),
    "a damaged gzip": (damaged_gzip, ("a-000002.tar.gz",)),
    "a member outside": (members(**{"../x.csv": "text\n"}), ("a-000002.tar.gz", "'../x.csv'")),
    "a link in an archive": (linked, ("a-000002.tar.gz", "'x.csv'", "link")),
    "a column is missing": (
        members(**{"x.csv": "video_id,txt\na,b\n"}),
        ("a-000002.tar.gz: x.csv, line 1", "'text'"),
    ),
    "an archive of no shard": (
        lambda s: tar_gz(s / ASR / "whisper.tar.gz", {}),
        ("whisper.tar.gz", "number of one shard"),
    ),
    "an archive of two shards": (
        lambda s: tar_gz(s / ASR / "000001-000002.tar.gz", {}),
        ("000001-000002.tar.gz", "number of one shard"),
    ),
    "a frame of an archive without a number": (
        lambda s: tar_gz(s / OCR / "000002.tar.gz", {"_b.mp4_frames/_b_first.png.csv": "text\n"}),
        ("_b_first.png.csv", "frame"),
    ),
    "a grade of 4": (lambda s: write(s / JUDGMENTS, judged(relevance=4)), ("line 1", "0, 1, 2, 3")),
    "a grade of -1": (lambda s: write(s / JUDGMENTS, judged(relevance=-1)), ("line 1", "-1")),
    "two judgments files": (
        lambda s: write(s / "multivent_2_test_qrels.txt", f"{QUERY} 0 -a_1 1\n"),
        (JUDGMENTS, "multivent_2_test_qrels.txt", "keep one"),
    ),
    "a video in shards of two sources": (
        lambda s: write(s / "test/000003/_b.m4a", b"again"),
        ("'_b'", "000002", "000003"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_broken_input_is_one_clear_error_strict_or_not(source: Path, case: str) -> None:
    spoil, said = BAD[case]
    spoil(source)
    with pytest.raises(DataError) as caught:
        prepare(source)
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- Tables -----------------------------------------------------------------------------------

TABLES: dict[str, bytes] = {
    "a byte order mark": "\ufeffQuery_id,query\nq,Kyiv\n".encode(),
    "mixed line ends": b"Query_id,query\r\nq,Kyiv\nq2,b\rq3,c\r\n",
    "quotes and line ends in a field": b'Query_id,query\nq,"Ky\niv, ""at\r\nnight"""\n',
    "more columns in another order": b"n,query,Query_id\n1,Kyiv,q\n",
    "blank lines": b"Query_id,query\n\nq,Kyiv\n\n\n",
    "no line end at the end": b"Query_id,query\nq,Kyiv",
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_as_people_save_them(source: Path, case: str) -> None:
    (source / JUDGMENTS).unlink()
    write(source / QUERIES, TABLES[case])
    queries = {query.id: query.text for query in prepare(source).split("test").queries}
    expected = 'Ky\niv, "at\r\nnight"' if "quotes" in case else "Kyiv"
    assert queries["q"] == expected
    assert len(queries) == (3 if "mixed" in case else 1)


@pytest.mark.parametrize("suffix", [".txt", ".qrels", ".trec", ".tsv"])
def test_judgments_may_be_trec_qrels(source: Path, suffix: str) -> None:
    (source / JUDGMENTS).unlink()
    write(
        source / f"multivent_2_test_qrels{suffix}",
        f"\ufeff{QUERY} 0 -a_1 3\r\n\n{QUERY}\t0\t_b\t0\n",
    )
    assert prepare(source).split("test").qrels == {QUERY: {"-a_1": 3, "_b": 0}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{QUERY} 0 -a_1", "line 1: 3 fields"),
        (f"{QUERY} 0 -a_1 1.5", "line 1: the grade '1.5'"),
        (f"{QUERY} 0 -a_1 7", "line 1: relevance 7"),
        (f"{QUERY} 0 nowhere 1", "line 1: unknown video 'nowhere'"),
    ],
)
def test_bad_trec_qrels(source: Path, line: str, said: str) -> None:
    (source / JUDGMENTS).unlink()
    write(source / "multivent_2_test_qrels.txt", line)
    with pytest.raises(DataError, match=said):
        prepare(source)


def test_unknown_fields_of_judgments_are_ignored_and_counted(source: Path) -> None:
    line = judged(video_language="english", video_type="edited")
    write(source / JUDGMENTS, line + "\n" + judged(doc_id="_b") + "\n")
    store = prepare(source)
    assert store.split("test").qrels == {QUERY: {"-a_1": 2, "_b": 2}}
    assert store.manifest.counts["test_judgment_lines_with_unknown_fields"] == 1


# --- An interrupted preparation ---------------------------------------------------------------


@pytest.fixture
def shards(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six shards of one video; every second one ends a part."""
    monkeypatch.setattr("harness.dataset.tables.PART_ROWS", 2)
    write(source / IDS, "id\n-a_1\n_b\n" + "".join(f"v{i}\n" for i in range(3, 7)) + "nowhere\n")
    for i in range(3, 7):
        write(source / f"test/00000{i}/v{i}.mp4", b"video")
        write(source / ASR / f"00000{i}/v{i}.m4a.csv", f"text\nspoken {i}\n")
    return source


def test_a_broken_file_is_repaired_and_the_rest_goes_on(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.multivent import texts

    whole = prepare(shards, store=shards.parent / "whole")
    path = shards / ASR / "000005/v5.m4a.csv"
    content = path.read_bytes()
    path.write_bytes(b"nonsense\n1\n")
    with pytest.raises(DataError, match="v5"):
        prepare(shards)
    path.write_bytes(content)
    read: list[str] = []
    plain = texts.read_speech

    def watched(place: Path, gap: Callable[[str, str], None]) -> dict[str, str | None]:
        read.append(place.name)
        return plain(place, gap)

    monkeypatch.setattr(texts, "read_speech", watched)
    store = prepare(shards)
    assert read == ["000005", "000006"]
    assert store.manifest.model_dump() == whole.manifest.model_dump()
    assert [document.id for document in store.documents("test")][-1] == "nowhere"


def test_what_was_read_of_a_file_that_changed_is_read_again(shards: Path) -> None:
    path = shards / ASR / "000006/v6.m4a.csv"
    path.write_bytes(b"nonsense\n1\n")
    with pytest.raises(DataError, match="v6"):
        prepare(shards)
    write(path, "text\nspoken 6\n")
    write(shards / SPEECH, "text\nsaid anew\n")
    store = prepare(shards)
    assert next(iter(store.documents("test"))).texts[Modality.ASR] == "said anew"
    assert store.manifest.fingerprint("test") == prepare(shards).manifest.fingerprint("test")


# --- The command line -------------------------------------------------------------------------


def test_the_command_reads_several_sources_and_says_what_is_missing(
    bench: Command, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    (source / "features").rename(tmp_path / "more/features")
    command = ("data", "prepare", "multivent", "--source", source, "--source", tmp_path / "more")
    outcome = bench(*command)
    assert outcome.status == 0, outcome.err
    assert "missing: test: videos without speech: 1 (first: _b)" in outcome.out
    assert "test: videos without" in bench("data", "stats", "multivent").out
    assert bench("data", "check", "multivent").status == 0
    bench(*command, "--strict").fails("videos without", "_b", "--strict")
    assert bench("data", "check", "multivent").status == 0, "the former store is still there"


# --- Real data --------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_public_files(bench: Command, real_data: Path, tmp_path: Path) -> None:
    sources = (real_data / "multivent", real_data / "clamr")
    outcome = bench("data", "prepare", "multivent", "--source", sources[0], "--source", sources[1])
    assert outcome.status == 0, outcome.err
    store = DatasetStore(tmp_path / "data/multivent/default")
    train, validation = (store.manifest.splits[n] for n in ("train", "synthetic-validation"))
    assert list(store.manifest.splits) == ["train", "synthetic-validation"]
    assert (train.coverage.documents, train.queries.rows) == (108_432, 1_361)
    assert (train.qrels.rows, train.judged_documents) == (1_518, 417)
    counts = store.manifest.counts
    assert (counts["train_judgment_lines"], counts["train_judgments_repeated"]) == (1_520, 2)
    assert train.query_attributes["query_type"] == {
        "base": 404, "description": 358, "speech": 322, "ocr": 277
    }  # fmt: skip
    assert train.query_attributes["language"] == {
        "korean": 326, "chinese": 283, "russian": 268, "english": 266, "arabic": 218
    }  # fmt: skip
    assert (validation.documents_of, validation.queries.rows) == ("train", 1_000)
    assert validation.query_attributes["label"] == {
        "description": 405, "speech": 371, "ocr": 119, "video": 105
    }  # fmt: skip
    assert validation.query_attributes["target"] == {"description": 405, "asr": 371, "ocr": 119}
    assert validation.judged_documents == 1_000
    shown = bench("data", "stats", "multivent").out
    for words in ("108,432", "1,361", "1,520", "417", "korean 326", "description 405"):
        assert words in shown
    assert (
        json.loads((store.folder / "dataset.json").read_text())["gaps"][
            "train: videos without any file"
        ]["count"]
        == 108_432
    )
