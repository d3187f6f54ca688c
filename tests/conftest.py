"""What every test relies on: no network, folders of its own, the real-data gate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep data, caches and results of a test inside its temporary folder."""
    monkeypatch.setenv("CLAMR_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CLAMR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLAMR_BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real public data, or a skip that says how to give one."""
    folder = os.environ.get("CLAMR_BENCH_REAL_DATA")
    if not folder:
        pytest.skip("CLAMR_BENCH_REAL_DATA does not point at a folder of real data")
    return Path(folder)
