"""A small made-up paper over MultiVENT 1.0's invented file, in which every verdict occurs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from harness.reporting.papers_jobs import Availability, Job

BY_EVENT = {"label": "nDCG@10", "benchmark": "events", "measure": "nDCG@10"}
BY_EXCERPT = {"label": "excerpt S@1", "benchmark": "excerpts", "measure": "Success@1"}
SOCIAL = {
    "label": "social S@1",
    "benchmark": "events",
    "measure": "Success@1",
    "group": {"event_category": "social"},
}

PAPER: dict[str, Any] = {
    "schema_version": 1,
    "name": "made-up",
    "title": "A paper on finding events",
    "citation": "Nobody, 2026.",
    "source": "our own invention",
    "tolerance": {"points": 1.0, "reason": "It is made up."},
    "reruns": {"someone": "a note of someone's"},
    "benchmarks": {
        "events": {"task": "multivent/v1", "size": 6},
        "excerpts": {"task": "multivent/v1", "settings": {"query": "excerpt"}},
    },
    "methods": {
        "words": {"retriever": "bm25-description", "settings": {"k1": 0.5}},
        "all": {"retriever": "bm25-text", "modalities": ["description"], "k": 5},
        "chance": {"retriever": "random"},
        "secret": {"verdict": "not comparable: protocol", "reason": "its queries are secret"},
        "answers": {"verdict": "out of scope", "reason": "it answers questions"},
    },
    "tables": [
        {
            "number": "1",
            "title": "Finding events",
            "place": "Table 1",
            "columns": [BY_EVENT, SOCIAL, BY_EXCERPT],
            "rows": [
                {
                    "label": "words",
                    "published": [50.0, 50.0, 50.0],
                    "ours": "words",
                    "reruns": {"someone": [49.87, None, None]},
                    "doubts": {"nDCG@10": "it may be 60.0"},
                },
                {"label": "all", "published": [50.0, None, None], "ours": "all"},
                {"label": "chance", "published": [99.9, None, 10.0], "ours": "chance"},
                {"label": "secret", "published": [1.0, None, None], "ours": "secret"},
            ],
            "notes": ["Table 1 is the first."],
        },
        {
            "number": "2",
            "title": "Answers",
            "place": "Table 2",
            "decimals": 2,
            "ours": "answers",
            "columns": [{"label": "accuracy"}],
            "rows": [{"label": "model", "published": [61.3]}],
        },
    ],
    "notes": ["Nothing of this is true."],
}


def paper() -> dict[str, Any]:
    """The paper's values, to be changed."""
    return copy.deepcopy(PAPER)


def write(tmp_path: Path, values: dict[str, Any] | None = None) -> Path:
    """Write a paper's file."""
    path = tmp_path / "paper.yaml"
    text = yaml.safe_dump(values or PAPER, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return path


class Lacking(Availability):
    """Asks nobody."""

    def lacks(self, job: Job) -> str:
        return "nothing"
