"""Exact MaxSim against its peers, each in an environment and a process of its own.

    python benchmarks/maxsim.py [--quick] [--peers] [--stream] [--rounds 3] [--save]

64 queries of 32 tokens, 2,000 documents of 200 to 2,048 tokens in four modalities, 128 dimensions.
All processes read the same files; rounds alternate. Ratios are to the bare matrix product of the
same tokens, by numpy, in the same run. The error is the largest, against float64, on a score of
about 20. Peak memory is anonymous memory beyond the inputs. `--peers` makes the environments of
peers/*.txt first; a peer that cannot be installed or imported is listed with the reason. Slow ways
score a part of the documents, and their time is scaled by the tokens. `--stream` searches 20,000
documents on disk through the exact index.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _measure import Table, write_json
from maxsim_inputs import reference, write_inputs
from maxsim_stream import stream_table
from numpy.typing import NDArray
from platformdirs import user_cache_path
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent
BASELINE = "bare GEMM"
#: In an environment that is complete, its requirements.
STAMP = "requirements.txt"
AVX512 = (("OPENBLAS_CORETYPE", "SkylakeX"),)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of scoring: its name in the table, in worker.py, its environment, its share."""

    title: str
    name: str
    peer: str | None = None
    share: int = 1
    environment: tuple[tuple[str, str], ...] = ()


OURS = [
    Way("ours, token_max", "token_max"),
    Way("ours, modality_max", "modality_max"),
    Way("ours, both and every modality", "both"),
    Way("ours, token_max + winners of the top 100", "winners"),
    Way("ours, fp16 store", "fp16"),
    Way("ours, bf16 store", "bf16"),
    Way("ours, int8", "int8"),
]
PEERS = [
    Way("formula token_max (einsum)", "formula token_max", "formulas", 4),
    Way("formula modality_max (masked)", "formula modality_max", "formulas", 16),
    Way("sentence-transformers maxsim", "sentence-transformers", "sentence-transformers", 4),
    Way("maxsim-cpu", "maxsim-cpu", "maxsim-cpu", 4),
    Way("colpali-engine score_multi_vector", "colpali-engine", "colpali-engine", 4),
    Way("pylate colbert_scores", "pylate", "pylate", 4),
]


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of the table, as `_measure.Row`, with the error of scores and the recall."""

    name: str
    seconds: tuple[float, ...]
    median_s: float
    ratio: float
    peak_mib: float
    error: float | None
    recall: float | None


class Worker:
    """A process of worker.py.

    Raises
    ------
    RuntimeError
        With the last line of its standard error, if it ends before it is ready.
    """

    def __init__(self, way: Way, python: Path, folder: Path, documents: int, threads: int) -> None:
        environment = {**os.environ, **dict(way.environment), "HF_HUB_OFFLINE": "1"}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
            environment[name] = str(threads)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        command = [python, HERE / "peers" / "worker.py", way.name, folder, documents, threads]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._answer()

    def ask(self, what: str) -> float | str:
        """Send a request and return its answer."""
        if self._process.stdin is not None:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> float | str:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if line:
            answer: float | str = json.loads(line)
            return answer
        self._process.wait()
        self._log.seek(0)
        lines = [each for each in self._log.read().splitlines() if each.strip()]
        raise RuntimeError(lines[-1] if lines else "it ended without a word")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def install(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Make an environment of each peers/NAME.txt; return why for those that failed."""
    failed = {}
    for name in names:
        place = folder / name
        wanted = HERE / "peers" / f"{name}.txt"
        stamp = place / STAMP
        if stamp.exists() and stamp.read_text() == wanted.read_text():
            continue
        print(f"installing {name} in {place}", flush=True)
        venv.create(place, with_pip=True, clear=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(wanted)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            failed[name] = errors[-1] if errors else "pip failed"
        else:
            stamp.write_text(wanted.read_text())
    return failed


def start(
    ways: Sequence[Way], venvs: Path, folder: Path, documents: int, threads: int
) -> tuple[dict[Way, Worker], dict[str, str]]:
    """Start a worker for each way; return those that run, and why the others do not."""
    workers, failed = {}, {}
    for way in ways:
        python = Path(sys.executable)
        if way.peer:
            python = venvs / way.peer / "bin" / "python"
            if not (venvs / way.peer / STAMP).exists():
                failed[way.title] = "not installed: run with --peers"
                continue
        try:
            workers[way] = Worker(way, python, folder, documents // way.share, threads)
        except RuntimeError as error:
            failed[way.title] = str(error)
    return workers, failed


def measure(
    workers: dict[Way, Worker], baseline: Way, folder: Path, documents: int, rounds: int
) -> Table:
    """Run all workers in turn and compare their scores with float64."""
    offsets = np.load(folder / "offsets.npy")
    ways = list(workers)
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        first = turn % len(ways)
        for way in ways[first:] + ways[:first]:
            seconds[way].append(float(workers[way].ask("time")))
    medians = {
        way: statistics.median(values) * offsets[documents] / offsets[documents // way.share]
        for way, values in seconds.items()
    }
    exact = {name: reference(folder, name) for name in ("token_max", "modality_max")}
    whole: NDArray[np.float32] | None = None
    rows = []
    for way in ways:
        error = recall = None
        if way.name != baseline.name:
            scores = np.load(str(workers[way].ask("scores")))
            kind = "modality_max" if "modality_max" in way.name else "token_max"
            columns = min(scores.shape[1], exact[kind].shape[1])
            error = float(np.abs(scores[:, :columns] - exact[kind][:, :columns]).max())
            whole = scores if way.name == "token_max" and whole is None else whole
            if kind == "token_max" and whole is not None and scores.shape == whole.shape:
                recall = overlap(scores, whole)
        title = way.title + (f" (1/{way.share} of the documents)" if way.share > 1 else "")
        peak = float(workers[way].ask("peak"))
        ratio = float(medians[way] / medians[baseline])
        measured = (tuple(seconds[way]), float(medians[way]), ratio)
        rows.append(Measured(title, *measured, peak, error, recall))
    title = f"64 queries x 32 tokens, {documents:,} documents of 200 to 2,048 tokens"
    return Table(title, baseline.title, tuple(rows))  # type: ignore[arg-type]


def overlap(scores: NDArray[np.float32], exact: NDArray[np.float32], k: int = 10) -> float:
    """Return which share of the best `k` documents is among the best of `scores`."""
    best, found = (np.argsort(-each, axis=1)[:, :k] for each in (exact, scores))
    kept = [len(set(a) & set(b)) / k for a, b in zip(best.tolist(), found.tolist(), strict=True)]
    return float(np.mean(kept))


def kernels() -> list[Way]:
    """Return ways with AVX-512 kernels, where numpy's BLAS has them but took others."""
    chosen = {each.get("architecture") for each in threadpool_info()}
    info = Path("/proc/cpuinfo")
    if not info.exists() or "avx512f" not in info.read_text() or not chosen & {"Haswell", "Zen"}:
        return []
    return [
        Way(f"{BASELINE}, AVX-512 kernels", "gemm", environment=AVX512),
        Way("ours, token_max, AVX-512 kernels", "token_max", environment=AVX512),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--quick", action="store_true", help="200 documents")
    parser.add_argument("--peers", action="store_true", help="install what is missing of the peers")
    parser.add_argument("--venvs", type=Path, default=user_cache_path("clamr-bench") / "peers")
    parser.add_argument("--stream", action="store_true", help="and 20,000 documents from disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/maxsim.json")
    arguments = parser.parse_args()
    documents = 200 if arguments.quick else arguments.documents
    baseline = Way(BASELINE, "gemm")
    peers = {way.title: str(way.peer) for way in PEERS}
    failed = {}
    if arguments.peers:
        names = sorted({way.peer for way in PEERS if way.peer})
        failed = install(names, arguments.venvs)
    tables = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder, documents)
        tokens = int(np.load(folder / "offsets.npy", mmap_mode="r")[-1])
        ways = [baseline, *OURS, *kernels(), *PEERS]
        workers, reasons = start(ways, arguments.venvs, folder, documents, arguments.threads)
        failed = {title: failed.get(peers[title], why) for title, why in reasons.items()}
        try:
            tables.append(measure(workers, baseline, folder, documents, arguments.rounds))
        finally:
            for worker in workers.values():
                worker.close()
    print(show(tables[0]))
    for name, reason in failed.items():
        print(f"- {name}: {reason}")
    if arguments.stream:
        sizes = (200, 2_000) if arguments.quick else (2_000, 20_000)
        # The bare product of the same run: a product of a sample alone was off by a factor of 2.
        gemm_s = tables[0][BASELINE].median_s / tokens
        tables.append(stream_table(sizes, arguments.threads, gemm_s))
        print(show(tables[-1]))
    if arguments.save:
        settings = {
            "documents": documents,
            "rounds": arguments.rounds,
            "threads": arguments.threads,
            "not measured": "; ".join(f"{name}: {why}" for name, why in failed.items()) or "none",
        }
        packages = ("numpy", "torch", "threadpoolctl")
        print(write_json("maxsim", tables, packages=packages, settings=settings))


def show(table: Table) -> str:
    """Return the table as text."""
    lines = [table.title]
    for row in table.rows:
        error = getattr(row, "error", None)
        recall = getattr(row, "recall", None)
        lines.append(
            f"{row.name:60} {row.median_s:9.3f} s {row.ratio:7.2f} {row.peak_mib:8.0f} MiB"
            + ("" if error is None else f"  error {error:.1e}")
            + ("" if recall is None else f"  recall@10 {recall:.3f}")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
