"""Search of a store on disk through the exact index: time, and memory by collection size."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import Table

sys.path.insert(0, str(Path(__file__).parent / "peers"))

#: Documents that are made, and encoded, at a time.
BATCH = 100
MEMORY = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Streamed:
    """A row of the table, as `_measure.Row`."""

    name: str
    seconds: tuple[float, ...]
    median_s: float
    ratio: float
    peak_mib: float


def stream_table(sizes: Sequence[int], threads: int, gemm_s: float) -> Table:
    """Return the search of fp16 stores of each size; peaks are of a process of its own.

    `gemm_s` is the time that the bare product takes for one document token.
    """
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, folder, str(size), str(threads)]
            for step in ("fill", "search"):
                done = subprocess.run([*command, step], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        name = f"exact index, {size:,} documents on disk, fp16, 64 queries, top 100"
        rows.append(
            Streamed(
                name,
                (found["s"],),
                found["s"],
                found["s"] / (gemm_s * found["tokens"]),
                found["mib"],
            )
        )
    title = "Streamed from disk under a budget of 512 MiB"
    return Table(title, "bare GEMM", tuple(rows))  # type: ignore[arg-type]


def main() -> None:
    """Fill a store, or search it and print what was measured."""
    from maxsim_inputs import make_documents, make_queries
    from worker import peak_mib

    from harness.index import EmbeddingStore, Encoded, ExactIndex
    from harness.late_interaction import Precision, Scoring, TokenEmbeddings
    from harness.types import Modality
    from harness.workspace import Workspace

    folder, size, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = EmbeddingStore(Workspace(folder / "store", {"benchmark": "maxsim"}))

    def encode(batch: Sequence[str]) -> Encoded:
        return Encoded(make_documents(len(batch), seed=int(batch[0])).astype(Precision.FP16))

    names = [f"{number:06d}" for number in range(size)]
    store.fill(names, str, encode, batch_size=BATCH, total=size)
    if sys.argv[4] == "fill":
        return
    sample = make_documents(BATCH)
    vectors = make_queries(sample)
    queries = TokenEmbeddings.of([{Modality.TEXT: query} for query in vectors])
    index = ExactIndex(store, Scoring(), memory=MEMORY, threads=threads)
    index.search(queries[:1], 100)
    peak = peak_mib(lambda: index.search(queries, 100))
    start = time.perf_counter()
    index.search(queries, 100)
    seconds = time.perf_counter() - start
    tokens = sum(sum(shard.manifest.tokens.values()) for shard in store.shards)
    print(json.dumps({"s": seconds, "tokens": tokens, "mib": peak}))


if __name__ == "__main__":
    main()
