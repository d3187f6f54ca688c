"""Which of CLaMR's findings hold at tiny size: trains, runs and compares (docs/findings.md).

``python benchmarks/findings.py --work DIR`` does everything, by the commands that a user gives, and
goes on where it was killed. It takes about two hours of one core, and leaves
the figures in ``results/findings/``, of which ``findings_report.py`` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from harness.progress import Progress
from harness.registry import make_task
from harness.results.per_query import read_per_query
from harness.results.schema import Result
from harness.results.store import PER_QUERY_NAME, RESULT_NAME

HERE = Path(__file__).parent
FIGURES = HERE.parent / "results" / "findings" / "figures.json"
VALUES = HERE.parent / "results" / "findings" / "values.parquet"

TASK = "multivent/sample"
TEST_VIDEOS = 300
SEEDS = (0, 1, 2)
MEASURES = ("nDCG@10", "Success@1")
SINGLE = ("video", "asr", "ocr", "description")

#: What each model is trained with, beside benchmarks/recipes/findings.yaml.
MODELS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "token_max": ("recipe.loss.aggregations=[token_max]",),
    "apart": ("clamr.contextualise=false",),
    "hard_positive": ("recipe.loss.name=hard_positive",),
    "hard_negative": ("recipe.loss.name=hard_negative",),
    "pairwise": ("recipe.loss.name=pairwise",),
}


class Experiment:
    """The commands of one folder of work."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.outcome: dict[tuple[str, int], Path] = {}

    def command(self, name: str, *words: str) -> str:
        """Give a command of clamr-bench; return what it printed."""
        program = Path(sys.executable).with_name("clamr-bench")
        task = ("--task", TASK, "--set", f"{TASK}.test_videos={TEST_VIDEOS}")
        place = ("--output", str(self.work / "results"))
        done = subprocess.run(
            [program, words[0], *task, *words[1:], *place],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "400"},
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {' '.join(words)}\n{done.stdout}\n{done.stderr}")
        print(f"{name}: done", flush=True)
        return done.stdout

    def train(self, name: str, start: str, recipe: str, seed: int, sets: Sequence[str]) -> str:
        """Train a model; return the address of what came of it."""
        given = [word for one in sets for word in ("--set", one)]
        printed = self.command(
            name, "train", "--retriever", start, "--recipe", str(HERE / "recipes" / recipe),
            "--seed", str(seed), "--to", str(self.work / "trained"), *given,
        )  # fmt: skip
        found = re.findall(r"^trained: (.+)$", printed, re.MULTILINE)
        return f"clamr/{found[-1]}"

    def run(self, row: str, seed: int, retriever: str, *sets: str) -> None:
        """Run a retriever; note where the result is."""
        given = [word for one in sets for word in ("--set", one)]
        printed = self.command(f"{row} {seed}", "run", "--retriever", retriever, *given)
        self.outcome[row, seed] = Path(re.findall(r"^saved: (.+)$", printed, re.MULTILINE)[-1])

    def do(self, jobs: int) -> None:
        """Do everything, several commands at a time."""
        self.run("bm25-text", 0, "bm25-text")
        for modality in SINGLE[1:]:
            self.run(f"bm25-{modality}", 0, f"bm25-{modality}")
        prototypes = self._prototypes()
        with ThreadPoolExecutor(jobs) as pool:
            starts = list(pool.map(self._backbone, SEEDS))
            for done in [
                pool.submit(self._model, name, seed, start, prototypes)
                for seed, start in zip(SEEDS, starts, strict=True)
                for name in MODELS
            ]:
                done.result()

    def _backbone(self, seed: int) -> str:
        return self.train(
            f"backbone {seed}", "clamr/tiny", "backbone.yaml", seed, [f"clamr.initial_seed={seed}"]
        )

    def _model(self, name: str, seed: int, start: str, prototypes: Path) -> None:
        address = self.train(f"train {name} {seed}", start, "findings.yaml", seed, MODELS[name])
        own = ["clamr.frames=4", *(s for s in MODELS[name] if s.startswith("clamr."))]
        for how in ("token_max", "modality_max"):
            self.run(f"{name}, {how}", seed, address, *own, f"clamr.aggregation={how}")
        if name == "joint":
            for modality in SINGLE:
                mask = f"clamr.score_modalities=[{modality}]"
                self.run(f"joint, {modality} tokens", seed, address, *own, mask)
        if name == "apart":
            for modality in SINGLE:
                only = f"clamr.encode_modalities=[{modality}]"
                self.run(f"apart, {modality}", seed, address, *own, only)
            self._fused(seed, address, prototypes)

    def _fused(self, seed: int, address: str, prototypes: Path) -> None:
        """Run the ways to make one list of those of single modalities."""
        inside = {"frames": 4, "contextualise": False}
        parts = [
            {"retriever": address, "modalities": [m], "settings": inside, "label": m}
            for m in SINGLE
        ]
        given = f"fused.parts={json.dumps(parts)}"
        for method in ("mean", "max", "rrf"):
            self.run(f"apart, {method}", seed, "fused", given, f"fused.method={method}")
        learned = {
            "kind": "prototypes",
            "encoder": address,
            "encoder_settings": inside,
            "prototypes": str(prototypes),
        }
        for kind, router in (("router", learned), ("oracle router", {"kind": "oracle"})):
            asked = f"fused.router={json.dumps(router)}"
            self.run(f"apart, {kind}", seed, "fused", given, "fused.method=mean", asked)

    def _prototypes(self) -> Path:
        """Write 200 training queries of each modality for the router."""
        task = make_task(TASK, {"test_videos": TEST_VIDEOS})
        queries = task.load("train", None, Progress()).queries
        examples = {
            m: [q.text for q in queries if q.attributes.get("target") == m][::10][:200]
            for m in SINGLE
        }
        path = self.work / "prototypes.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(examples, allow_unicode=True), encoding="utf-8")
        return path

    def save(self) -> None:
        """Write the figures of all runs, and their values by query."""
        figures: dict[str, Any] = {"task": TASK, "test_videos": TEST_VIDEOS, "runs": []}
        columns: dict[str, Any] = {}
        for (row, seed), folder in sorted(self.outcome.items()):
            result = Result.read(folder / RESULT_NAME)
            ids, values, measures = read_per_query(folder / PER_QUERY_NAME)
            columns.setdefault("query_id", ids)
            if columns["query_id"] != ids:
                raise RuntimeError(f"{folder} has other queries")
            for measure in MEASURES:
                made = values[:, measures.index(measure)].astype(np.float32)
                columns[f"{row}|{seed}|{measure}"] = made
            figures["data"] = result.data.fingerprint
            figures["runs"].append({"row": row, "seed": seed, **_figures(result)})
        pq.write_table(pa.table(columns), VALUES, compression="zstd")
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _figures(result: Result) -> dict[str, Any]:
    """Return what is kept of a run."""
    groups = result.breakdowns["query_type"]
    kept: dict[str, Any] = {
        "retriever": result.retriever.name,
        "fingerprint": result.fingerprint,
        "queries": {name: group.queries for name, group in groups.items()},
        "nDCG@10": {name: group.measures["nDCG@10"].mean for name, group in groups.items()},
    }
    if result.attribution is not None and result.attribution.relevant is not None:
        votes = result.attribution.relevant.accuracy["argmax"]
        kept["modality accuracy"] = {
            "all": votes.hits / votes.queries,
            **{name: one.hits / one.queries for name, one in votes.by_target.items()},
        }
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where models and runs go")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time, a core each")
    given = parser.parse_args()
    experiment = Experiment(given.work.absolute())
    experiment.do(given.jobs)
    experiment.save()
