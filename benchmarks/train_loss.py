"""A step of the modality-aware loss, forward and backward, against the formula as one writes it.

    python benchmarks/train_loss.py [--quick] [--rounds 3] [--save]

Batches of 8, 16 and 32 queries of 64 tokens and as many documents of 1,024 tokens in five
modalities, 128 dimensions, float32; 1 and 2 threads. Each way is a process of its own; rounds
alternate. Peak memory is what the first step adds to the resident memory of a process that holds
the inputs. The error is that of our gradients against the formula's, relative to their norm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _measure import Table, write_json
from peers.clamr_loss import modality_max_loss

from harness.training.losses import contrastive
from harness.training.pairs import pair_scores
from harness.types import Modality

FORMULA, OURS = "the formula", "ours"
QUERY_TOKENS, TOKENS, DIM, MODALITIES = 64, 1_024, 128, 5
TEMPERATURE = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of the table, as `_measure.Row`, with the relative error of the gradients."""

    name: str
    seconds: tuple[float, ...]
    median_s: float
    ratio: float
    peak_mib: float
    error: float | None


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, documents and modality numbers from 0; each modality is one run."""
    seed = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    queries = unit(torch.randn((batch, QUERY_TOKENS, DIM), generator=seed), dim=-1)
    documents = unit(torch.randn((batch, TOKENS, DIM), generator=seed), dim=-1)
    numbers = torch.randint(0, MODALITIES, (batch, TOKENS), generator=seed).sort(dim=1).values
    return queries.requires_grad_(), documents.requires_grad_(), numbers


def step(way: str, batch: int) -> Callable[[], list[torch.Tensor]]:
    """Return a function that computes the gradients of a batch."""
    queries, documents, numbers = inputs(batch)
    asked = torch.full((batch, QUERY_TOKENS), int(Modality.TEXT))
    positives = torch.arange(batch)
    allowed = torch.ones((batch, batch), dtype=torch.bool)

    def run() -> list[torch.Tensor]:
        if way == FORMULA:
            loss = modality_max_loss(queries, documents, numbers, MODALITIES, TEMPERATURE)
        else:
            scores = pair_scores(queries, asked, documents, numbers + 1)
            loss = contrastive(scores, positives, allowed, positives, TEMPERATURE).mean()
        return list(torch.autograd.grad(loss, (queries, documents)))

    return run


def work(way: str, batch: int, threads: int, folder: Path) -> None:
    """Measure the memory of the first step; then answer each line of input with a step's time."""
    torch.set_num_threads(threads)
    run = step(way, batch)
    step(way, 2)()  # what the libraries take once, whatever is computed
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = resident("VmRSS")
    gradients = run()
    print(json.dumps((resident("VmHWM") - before) / 1024), flush=True)
    torch.save(gradients, folder / f"{way}.pt")
    del gradients
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps(time.perf_counter() - start), flush=True)


def resident(mark: str) -> int:
    """Return a figure of this process's memory, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(mark))


class Worker:
    """A process that runs one way."""

    def __init__(self, way: str, batch: int, threads: int, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--work", way, str(batch), str(threads), str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.peak_mib = self._answer()

    def time(self) -> float:
        """Return the seconds of one step."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError("a process ended; its last words are above.")
        return float(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def measure(batch: int, threads: int, rounds: int) -> Table:
    """Compare the ways on a batch."""
    workers: dict[str, Worker] = {}
    seconds: dict[str, list[float]] = {FORMULA: [], OURS: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            for way in seconds:
                workers[way] = Worker(way, batch, threads, folder)
            for turn in range(rounds):
                for way in sorted(seconds, reverse=bool(turn % 2)):
                    seconds[way].append(workers[way].time())
        finally:
            for worker in workers.values():
                worker.close()
        right, ours = (torch.load(folder / f"{way}.pt") for way in (FORMULA, OURS))
    error = max(
        float((one - other).norm() / other.norm()) for one, other in zip(ours, right, strict=True)
    )
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    rows = tuple(
        Measured(
            way,
            tuple(values),
            medians[way],
            medians[way] / medians[FORMULA],
            workers[way].peak_mib,
            error if way == OURS else None,
        )
        for way, values in seconds.items()
    )
    title = f"Batch of {batch}, {threads} thread" + ("s" if threads > 1 else "")
    return Table(title, FORMULA, rows)  # type: ignore[arg-type]


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        way, batch, threads, folder = sys.argv[2:]
        work(way, int(batch), int(threads), Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a batch of 8, 1 thread")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write results/train_loss.json")
    arguments = parser.parse_args()
    cases = [(8, 1)] if arguments.quick else [(b, t) for t in (1, 2) for b in (8, 16, 32)]
    tables = []
    for batch, threads in cases:
        tables.append(measure(batch, threads, arguments.rounds))
        print(tables[-1].markdown(), end="\n\n", flush=True)
    if arguments.save:
        print(write_json("train_loss", tables, packages=("torch",), settings=vars(arguments)))


if __name__ == "__main__":
    main()
