"""Shards read ahead in worker processes are what this process would have read."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import DataError
from tasks.multivent.reading import ReadAhead, read_shard
from tasks.multivent.shards import Shard, Shards
from tests.multivent_release import ASR, release, write


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    source = release(tmp_path / "source")
    for number in range(3, 9):
        write(source / f"test/00000{number}/v{number}.mp4", b"video")
        write(source / f"test/00000{number}/v{number}.json", "{}")  # a gap: no yt_meta_dict
        write(source / ASR / f"00000{number}/v{number}.m4a.csv", f"text\nspoken {number}\n")
    return list(Shards.find([source], "test").by_name.values())


def test_workers_read_what_this_process_reads_gaps_and_all(shards: list[Shard]) -> None:
    expected = [read_shard(shard) for shard in shards]
    assert any(files.gaps for files in expected)
    with ReadAhead(shards, workers=2) as files:
        assert [files(number) for number in range(len(shards))] == expected


def test_shards_may_be_left_out(shards: list[Shard]) -> None:
    """A preparation that goes on asks for the shards that are not done."""
    with ReadAhead(shards, workers=1) as files:
        for number in (2, 3, 6):
            assert files(number) == read_shard(shards[number])


def test_an_error_of_a_worker_is_the_error_of_its_shard(shards: list[Shard]) -> None:
    (shards[3].speech[0] / "v4.m4a.csv").write_text("nonsense\n1\n")
    with ReadAhead(shards, workers=1) as files:
        assert files(2) == read_shard(shards[2])
        with pytest.raises(DataError, match=r"v4\.m4a\.csv"):
            files(3)


def test_few_shards_start_no_process(shards: list[Shard]) -> None:
    with ReadAhead(shards) as files:
        files(0)
        assert files._pool is None
