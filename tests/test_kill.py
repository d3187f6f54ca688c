"""Runs that are killed at random moments, and a search whose memory does not grow."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.results import ResultsStore
from harness.results.store import SavedRun
from tests.conftest import Command
from tests.encoders import plugin

ROOT = Path(__file__).parents[1]
KILLS = 20

#: Slow enough to be killed in the middle; short shards and checkpoints, so that much is written.
SLOW = """
import sys, time
import harness.index.filling as filling, harness.runner.search as search
filling.SHARD_BYTES, search.CHECKPOINT_SECONDS = 1500, 0.0
from harness.encoder import EncoderRetriever
plain = EncoderRetriever.search
def slowly(self, queries, k):
    time.sleep(0.02)
    return plain(self, queries, k)
EncoderRetriever.search = slowly
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def only(results: Path) -> SavedRun:
    [run] = ResultsStore(results).runs()
    return run


@pytest.mark.slow
def test_twenty_runs_killed_at_random_moments(bench: Command, v1: Path, tmp_path: Path) -> None:
    """Each is killed a few times, then ends with the bytes of a run that nobody disturbed."""
    plugin(tmp_path)
    words = tmp_path / "words.py"
    text = words.read_text().replace("Modality.ASR, Modality.OCR", "Modality.DESCRIPTION")
    words.write_text(
        text
        + "\n\nclass Slow(Words):\n    def encode_documents(self, batch):\n"
        + "        import time\n        time.sleep(0.02)\n"
        + "        return super().encode_documents(batch)\n"
    )
    address = f"{words}:Slow"
    arguments = ["run", "--task", "multivent/v1", "--retriever", address]
    assert bench(*arguments, "--output", tmp_path / "straight").status == 0
    straight = only(tmp_path / "straight")

    start = time.monotonic()
    script = [sys.executable, "-c", SLOW, *arguments]
    environment = {**os.environ, "CLAMR_BENCH_CACHE": str(tmp_path / "timing")}
    subprocess.run(
        [*script, "--output", tmp_path / "timing"], env=environment, cwd=ROOT, check=True
    )
    whole = time.monotonic() - start

    draw = random.Random(20)
    killed = 0
    for number in range(KILLS):
        results = tmp_path / f"results-{number}"
        environment["CLAMR_BENCH_CACHE"] = str(tmp_path / f"cache-{number}")
        command = [*script, "--output", str(results)]
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        resumed = only(results)
        for name in ("run.trec.gz", "per_query.parquet"):
            assert resumed.result.files[name] == straight.result.files[name], (number, name)
        assert not [p for p in (tmp_path / f"cache-{number}").rglob(".*") if p.name != ".lock"]
    assert killed >= KILLS // 2, "most kills must hit a living process"
    assert bench("results", "check", "--output", tmp_path / "straight").status == 0


MEMORY = """
import re, sys, threading, time
from pathlib import Path
import numpy as np
import harness.index.filling
import harness.runner  # what every run has in memory
from harness.index import EmbeddingStore, Encoded, ExactIndex
from harness.late_interaction import Precision, Scoring, TokenEmbeddings
from harness.types import Modality
from harness.workspace import Workspace
harness.index.filling.SHARD_BYTES = 2**22
number, peak, done = int(sys.argv[1]), [0], threading.Event()
def sample():
    while not done.is_set():
        text = Path("/proc/self/status").read_text()
        peak[0] = max(peak[0], int(re.search(r"RssAnon:\\s+(\\d+)", text).group(1)))
        done.wait(0.002)
rng = np.random.default_rng(0)
pool = rng.standard_normal((4096, 64)).astype(np.float32)
def encode(batch):
    items = [{Modality.ASR: pool[i % 4000 : i % 4000 + 40]} for i in batch]
    return Encoded(TokenEmbeddings.of(items).astype(Precision.FP16))
threading.Thread(target=sample, daemon=True).start()
store = EmbeddingStore(Workspace(Path(sys.argv[2]), {}))
store.fill(range(number), str, encode, batch_size=64, total=number)
queries = TokenEmbeddings.of([{Modality.TEXT: pool[i : i + 16]} for i in range(32)])
for _ in range(2):
    lists = ExactIndex(store, Scoring(), memory=2**26, threads=2).search(queries, 1000)
done.set()
print(peak[0], len(lists), len(lists[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_ten_times_the_documents_take_no_more_memory(tmp_path: Path) -> None:
    """Anonymous memory at its peak; the pages of the mapped shards are the page cache's.

    Ids are kept in memory, and Python's allocator rounds them up: 200 bytes a document are let
    through, 4 MB of the 92 MB of vectors that come in addition.
    """
    peaks = {}
    for number in (2_000, 20_000):
        command = [sys.executable, "-c", MEMORY, str(number), str(tmp_path / str(number))]
        found = [
            int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
                .stdout.split()[0])
            for _ in range(3)
        ]  # fmt: skip
        peaks[number] = float(np.median(found))
    ids = 18_000 * 200 / 1024
    assert peaks[20_000] <= 1.1 * peaks[2_000] + ids, peaks
