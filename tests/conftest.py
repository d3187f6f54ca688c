"""What every test relies on: no network, folders of its own, the command line, the data gate."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time: what fails here fails everywhere.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep data, caches and results of a test inside its temporary folder."""
    monkeypatch.setenv("CLAMR_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CLAMR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLAMR_BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("CLAMR_BENCH_TRACEBACK", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real public data, or a skip that says how to give one."""
    folder = os.environ.get("CLAMR_BENCH_REAL_DATA")
    if not folder:
        pytest.skip("CLAMR_BENCH_REAL_DATA does not point at a folder of real data")
    return Path(folder)


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    def fails(self, *words: str) -> None:
        """Hold the contract of a user's mistake: one clear message, no traceback, status != 0."""
        assert self.status != 0, self.out
        assert "Traceback" not in self.err + self.out
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        for word in words:
            assert word in self.err, (word, self.err)


Command = Callable[..., Outcome]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a clamr-bench command in this process, as a user gives it."""
    from harness.cli.main import main

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


WORDS = (
    "river tower market bridge garden winter engine harbour violin desert",
    "летний мост река башня рынок",
    "홍수 지진 시장 다리",
    "洪水 地震 市场 桥梁",
    "فيضان زلزال سوق جسر",
)
LANGUAGES = ("english", "russian", "korean", "chinese", "arabic")


@pytest.fixture
def v1_source(tmp_path: Path) -> Path:
    """A small file in the layout of MultiVENT 1.0: 6 events of 3 videos, invented texts."""
    folder = tmp_path / "source"
    folder.mkdir()
    with (folder / "multivent_base.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["video_URL", "video_description", "language", "event_category", "event_name",
             "article_url", "en_article_url", "en_article_excerpt"]
        )  # fmt: skip
        names = WORDS[0].split()
        for event in range(6):
            for video in range(3):
                language = event % len(LANGUAGES)
                text = f"{names[event]} {WORDS[language]}" if video < 2 else WORDS[language]
                writer.writerow(
                    [f"http://youtube.com/watch?v=video{event}{video}", text,
                     LANGUAGES[language], ("social", "political")[event % 2],
                     f"{names[event]}_{names[event + 1]}", "http://a", "http://b",
                     f"An article about the {names[event]}."]
                )  # fmt: skip
    return folder


@pytest.fixture
def v1(bench: Command, v1_source: Path) -> Path:
    """The same, prepared in the default place."""
    outcome = bench("data", "prepare", "multivent/v1", "--source", v1_source)
    assert outcome.status == 0, outcome.err
    return v1_source
