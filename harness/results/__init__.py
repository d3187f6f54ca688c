"""Results: the small, versioned, validated record of each run, and the folders they live in."""

from __future__ import annotations

from harness.results.schema import SCHEMA_VERSION, Result
from harness.results.store import ResultsStore, SavedRun

__all__ = ["SCHEMA_VERSION", "Result", "ResultsStore", "SavedRun"]
