"""MaxSim on a GPU, checked against the processor, beside a bare product and flash-maxsim.

    python benchmarks/gpu.py [--device cuda] [--documents 2000] [--rounds 5] [--save]
    python benchmarks/gpu.py train ...      (steps of QLoRA on the 3B architecture: gpu_train.py)

Our documents come from host memory, block by block, as from a store; so the transfer alone is
timed too. flash-maxsim (peers/flash-maxsim.txt, installed beside torch) is timed with its documents
on the device already, and with their transfer. Scores of fp32 vectors must agree with the
processor's to 1e-5 relative, those of halves with the processor's on the same halves; the command
fails otherwise. Peak memory is the device's, beyond what was held before.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _measure import Table, write_json
from maxsim import BASELINE, Measured, show
from maxsim_inputs import QUERIES, make_documents, make_queries
from numpy.typing import NDArray

from harness.late_interaction import Precision, Scoring, TokenEmbeddings, max_sim
from harness.types import Modality

TOLERANCE = 1e-5
#: Tokens of a block of the bare product, as of ours.
BLOCK = 16384
HALVES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


def ways(
    device: str, queries: TokenEmbeddings, documents: TokenEmbeddings
) -> dict[str, Callable[[], Any]]:
    """Return functions without arguments by name; those that give scores give arrays."""
    place = torch.device(device.removeprefix("torch:"))
    vectors = torch.from_numpy(documents.vectors)
    made: dict[str, Callable[[], Any]] = {
        BASELINE: partial(product, vectors.to(place), torch.from_numpy(queries.vectors).to(place)),
        "transfer of fp32 documents alone": lambda: vectors.to(place),
    }
    for precision in Precision:
        pair = (queries.astype(precision), documents.astype(precision))
        if precision is Precision.INT8:
            pair = (queries, pair[1])
        made[f"ours, {precision}"] = partial(scores, *pair, Scoring(), device)
    made["ours, fp32, modality_max"] = partial(
        scores, queries, documents, Scoring("modality_max"), device
    )
    if place.type == "cuda" and importlib.util.find_spec("flash_maxsim") is not None:
        for precision, dtype in HALVES.items():
            host = vectors.to(dtype)
            flash = partial(flash_maxsim, queries, documents.offsets, place)
            made[f"flash-maxsim, {precision}"] = partial(flash, host.to(place))
            made[f"flash-maxsim, {precision}, with the transfer"] = partial(flash, host)
    return made


def product(documents: torch.Tensor, queries: torch.Tensor) -> None:
    """The products alone, of fp32 on the device."""
    for start in range(0, len(documents), BLOCK):
        documents[start : start + BLOCK] @ queries.T


def scores(
    queries: TokenEmbeddings, documents: TokenEmbeddings, scoring: Scoring, device: str
) -> NDArray[np.float32]:
    """Return our scores."""
    return max_sim(queries, documents, scoring, device=device).total


def flash_maxsim(
    queries: TokenEmbeddings,
    offsets: NDArray[np.int64],
    place: torch.device,
    documents: torch.Tensor,
) -> NDArray[np.float32]:
    """Return flash-maxsim's scores of packed documents, one query after the other."""
    from flash_maxsim import flash_maxsim_packed

    vectors = documents.to(place)
    bounds = torch.from_numpy(offsets).to(place, torch.int32)
    asked = torch.from_numpy(queries.vectors).to(place, vectors.dtype).chunk(QUERIES)
    longest = int(np.diff(offsets).max())
    rows = [flash_maxsim_packed(query, vectors, bounds, longest) for query in asked]
    return np.asarray(torch.stack(rows).float().cpu().numpy())


def measure(
    made: dict[str, Callable[[], Any]], rounds: int, exact: dict[str, NDArray[np.float32]]
) -> Table:
    """Time all ways in alternating rounds; compare with the processor."""
    cuda = torch.cuda.is_available()
    peaks, found = {}, {}
    for name, way in made.items():  # this run compiles kernels, too
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        found[name] = way()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else 0.0
    seconds: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            made[name]()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for name in names:
        expected = exact.get(name.removesuffix(", with the transfer"))
        error = None
        if expected is not None:
            error = float((np.abs(found[name] - expected) / np.abs(expected)).max())
        measured = (tuple(seconds[name]), medians[name], medians[name] / medians[BASELINE])
        rows.append(Measured(name, *measured, peaks[name], error, None))
    title = f"64 queries x 32 tokens, {len(found['ours, fp32'][0]):,} documents, relative errors"
    return Table(title, BASELINE, tuple(rows))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/gpu.json")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(2, "no CUDA device; --device torch:cpu runs the same code on the processor.\n")
    documents = make_documents(arguments.documents)
    vectors = make_queries(documents)
    queries = TokenEmbeddings.of([{Modality.TEXT: query} for query in vectors])
    exact = {}
    for precision in Precision:
        asked = queries if precision is Precision.INT8 else queries.astype(precision)
        exact[f"ours, {precision}"] = max_sim(asked, documents.astype(precision)).total
    for precision in HALVES:
        exact[f"flash-maxsim, {precision}"] = exact[f"ours, {precision}"]
    one = Scoring("modality_max")
    exact["ours, fp32, modality_max"] = max_sim(queries, documents, one).total
    table = measure(ways(arguments.device, queries, documents), arguments.rounds, exact)
    print(show(table))
    if arguments.save:
        on_cuda = torch.cuda.is_available()
        settings = {
            "documents": arguments.documents,
            "rounds": arguments.rounds,
            "device": torch.cuda.get_device_name() if on_cuda else arguments.device,
        }
        packages = ["torch", "numpy"]
        if importlib.util.find_spec("flash_maxsim") is not None:
            packages.append("flash-maxsim")
        print(write_json("gpu", [table], packages=packages, settings=settings))
    wrong = [
        f"{row.name} {row.error:.1e}"
        for row in table.rows
        if isinstance(row, Measured)
        and row.name.startswith("ours")
        and row.error is not None
        and row.error > TOLERANCE
    ]
    if wrong:
        parser.exit(1, f"beyond {TOLERANCE:g} of the processor's scores: {', '.join(wrong)}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        import gpu_train

        del sys.argv[1]
        gpu_train.main()
    else:
        main()
