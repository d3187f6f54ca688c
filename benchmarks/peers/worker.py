"""One way of scoring, in a process and an environment of its own.

    python worker.py WAY FOLDER DOCUMENTS THREADS

Loads the inputs in FOLDER, memory-mapped, and then answers each line of its standard input with a
line of JSON: ``time`` with the seconds of one run, ``peak`` with the anonymous memory that a run
takes beyond what was held before, in MiB, ``scores`` with the path of its scores. It needs nothing
but numpy and the peer, so that it runs in every peer's environment.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Way = Callable[[], Any]


def load(folder: Path, documents: int) -> Arrays:
    """Return the arrays of a folder, cut to its first documents."""
    arrays: Arrays = {
        path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))
    }
    arrays["offsets"] = np.array(arrays["offsets"][: documents + 1])
    tokens = int(arrays["offsets"][-1])
    segments = int(np.searchsorted(arrays["segment_offsets"], tokens)) + 1
    arrays["segment_offsets"] = np.array(arrays["segment_offsets"][:segments])
    arrays["modalities"] = np.array(arrays["modalities"][: segments - 1])
    for name in [name for name in arrays if name.startswith(("documents", "scales"))]:
        arrays[name] = arrays[name][:tokens]
    arrays["queries"] = np.array(arrays["queries"])
    return arrays


def gemm(arrays: Arrays, threads: int) -> Way:
    """The bare product of all tokens, in blocks that fit the cache level that suits it best."""
    queries = arrays["queries"].reshape(-1, arrays["queries"].shape[-1])
    documents = arrays["documents_fp32"]
    out = np.empty((8192, len(queries)), np.float32)

    def run() -> None:
        for start in range(0, len(documents), len(out)):
            rows = documents[start : start + len(out)]
            np.matmul(rows, queries.T, out=out[: len(rows)])

    return run


def padded(arrays: Arrays, size: int, torch: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield documents in batches as models give them: vectors, mask, modality ids."""
    offsets, dim = arrays["offsets"], arrays["documents_fp32"].shape[1]
    numbers = np.repeat(arrays["modalities"], np.diff(arrays["segment_offsets"]))
    for first in range(0, len(offsets) - 1, size):
        bounds = offsets[first : first + size + 1].tolist()
        longest = max(np.diff(bounds).tolist())
        vectors = torch.zeros((len(bounds) - 1, longest, dim))
        ids = torch.zeros((len(bounds) - 1, longest), dtype=torch.int64)
        for row, (start, stop) in enumerate(pairwise(bounds)):
            vectors[row, : stop - start] = torch.tensor(arrays["documents_fp32"][start:stop])
            ids[row, : stop - start] = torch.tensor(numbers[start:stop].astype(np.int64))
        yield vectors, ids > 0, ids


def formula_token_max(arrays: Arrays, threads: int) -> Way:
    """All inner products of a batch of 64 documents, their maximum, the sum; nothing masked."""
    torch = single_torch(threads)
    queries = torch.tensor(arrays["queries"])

    def run() -> Any:
        parts = [
            torch.einsum("bqd,csd->bcqs", queries, vectors).amax(-1).sum(-1)
            for vectors, _, _ in padded(arrays, 64, torch)
        ]
        return torch.cat(parts, 1).numpy()

    return run


def formula_modality_max(arrays: Arrays, threads: int) -> Way:
    """The same for each modality, others masked: a tensor (modality, query, document, q, s)."""
    torch = single_torch(threads)
    queries = torch.tensor(arrays["queries"])

    def run() -> Any:
        parts = []
        for vectors, _, ids in padded(arrays, 16, torch):
            products = torch.einsum("bqd,csd->bcqs", queries, vectors)
            member = torch.nn.functional.one_hot(ids).permute(2, 0, 1).bool()
            each = products.masked_fill(~member[:, None, :, None, :], -torch.inf)
            parts.append(each.amax(-1).sum(-1).amax(0))
        return torch.cat(parts, 1).numpy()

    return run


def sentence_transformers(arrays: Arrays, threads: int) -> Way:
    """Its `maxsim` of two lists."""
    torch = single_torch(threads)
    from sentence_transformers.util import maxsim

    queries = list(torch.tensor(arrays["queries"]))
    documents = tensors(arrays, torch)
    return lambda: maxsim(queries, documents).numpy()


def colpali_engine(arrays: Arrays, threads: int) -> Way:
    """Its `score_multi_vector` of two lists."""
    torch = single_torch(threads)
    from colpali_engine.utils.processing_utils import BaseVisualRetrieverProcessor

    queries = list(torch.tensor(arrays["queries"]))
    documents = tensors(arrays, torch)
    score = BaseVisualRetrieverProcessor.score_multi_vector
    return lambda: score(queries, documents, device="cpu").numpy()


def pylate(arrays: Arrays, threads: int) -> Way:
    """Its `colbert_scores` of batches of 64 padded documents and their mask."""
    torch = single_torch(threads)
    from pylate.scores import colbert_scores

    queries = torch.tensor(arrays["queries"])

    def run() -> Any:
        parts = [
            colbert_scores(queries, vectors, documents_mask=mask)
            for vectors, mask, _ in padded(arrays, 64, torch)
        ]
        return torch.cat(parts, 1).numpy()

    return run


def maxsim_cpu(arrays: Arrays, threads: int) -> Way:
    """Its `maxsim_scores_variable` of each query and a list of documents."""
    import maxsim_cpu as peer

    offsets = arrays["offsets"]
    documents = np.split(np.asarray(arrays["documents_fp32"]), offsets[1:-1])
    return lambda: np.stack(
        [peer.maxsim_scores_variable(query, documents) for query in arrays["queries"]]
    )


def ours(
    arrays: Arrays,
    threads: int,
    *,
    precision: str = "fp32",
    aggregation: str = "token_max",
    by_modality: bool = False,
    top: int = 0,
) -> Way:
    """`harness.late_interaction`, from arrays on disk; winners of the `top` of each query."""
    from concurrent.futures import ThreadPoolExecutor

    from harness.late_interaction import Precision, Scoring, TokenEmbeddings, max_sim, winners

    count, length, dim = arrays["queries"].shape
    queries = TokenEmbeddings(
        arrays["queries"].reshape(-1, dim),
        np.arange(count + 1, dtype=np.int64) * length,
        np.full(count, 7, np.uint8),
        np.arange(count + 1, dtype=np.int64) * length,
    )
    if precision == "int8":
        queries = queries.astype(Precision.INT8)
    documents = TokenEmbeddings.trusted(
        arrays[f"documents_{precision}"],
        arrays["offsets"],
        arrays["modalities"],
        arrays["segment_offsets"],
        arrays["scales_int8"] if precision == "int8" else None,
    )
    scoring = Scoring(aggregation)  # type: ignore[arg-type]

    def run() -> Any:
        found = max_sim(queries, documents, scoring, by_modality=by_modality, threads=threads)

        def show(query: int) -> None:
            for document in np.argsort(-found.total[query])[:top].tolist():
                one = (queries[query : query + 1], documents[document : document + 1])
                winners(*one, scoring)

        if top:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(show, range(count)))
        return found.total

    return run


WAYS: dict[str, Callable[[Arrays, int], Way]] = {
    "gemm": gemm,
    "formula token_max": formula_token_max,
    "formula modality_max": formula_modality_max,
    "sentence-transformers": sentence_transformers,
    "colpali-engine": colpali_engine,
    "pylate": pylate,
    "maxsim-cpu": maxsim_cpu,
    "token_max": ours,
    "modality_max": lambda a, t: ours(a, t, aggregation="modality_max"),
    "both": lambda a, t: ours(a, t, by_modality=True),
    "winners": lambda a, t: ours(a, t, top=100),
    "fp16": lambda a, t: ours(a, t, precision="fp16"),
    "bf16": lambda a, t: ours(a, t, precision="bf16"),
    "int8": lambda a, t: ours(a, t, precision="int8"),
}


def single_torch(threads: int) -> Any:
    """Return torch, set to so many threads, without gradients."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def tensors(arrays: Arrays, torch: Any) -> list[Any]:
    """Return the documents as a list of tensors, as encoders give them."""
    offsets = arrays["offsets"].tolist()
    vectors = arrays["documents_fp32"]
    return [torch.tensor(vectors[a:b]) for a, b in pairwise(offsets)]


def anonymous_kib() -> int:
    """Return this process's anonymous resident memory (page cache apart)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def peak_mib(run: Way) -> float:
    """Return what a run adds to the anonymous memory, sampled every 2 ms."""
    before = largest = anonymous_kib()
    done = threading.Event()

    def sample() -> None:
        nonlocal largest
        while not done.wait(0.002):
            largest = max(largest, anonymous_kib())

    thread = threading.Thread(target=sample)
    thread.start()
    run()
    done.set()
    thread.join()
    return (largest - before) / 1024


def main() -> None:
    way, folder, documents, threads = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    run = WAYS[way](load(Path(folder), int(documents)), int(threads))
    run()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "time":
            start = time.perf_counter()
            run()
            print(json.dumps(time.perf_counter() - start), file=answers, flush=True)
        elif line.strip() == "peak":
            print(json.dumps(peak_mib(run)), file=answers, flush=True)
        else:
            path = Path(folder) / "scores" / f"{way} {os.getpid()}.npy"
            path.parent.mkdir(exist_ok=True)
            np.save(path, np.asarray(run(), np.float32))
            print(json.dumps(str(path)), file=answers, flush=True)


if __name__ == "__main__":
    main()
