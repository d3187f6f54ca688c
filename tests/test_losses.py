"""What could not be used is counted in the result, and modalities are masked, not taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.results.schema import Result
from harness.results.store import RESULT_NAME, RUN_NAME, SavedRun
from harness.runfile import read_ranking
from harness.types import Ranking
from tests.conftest import Command
from tests.encoders import PLUGIN, SMALL_SHARD, documents, plugin, workspace

SAMPLE = (
    "--task", "multivent/sample", "--set", "multivent/sample.test_videos=8",
    "--set", "multivent/sample.train_videos=2",
)  # fmt: skip

#: Counts a document's texts, as one that cuts them would.
COUNTING = PLUGIN.replace(
    "    def encode_documents(self, batch):\n",
    "    def encode_documents(self, batch):\n"
    "        for document in batch:\n"
    "            self.losses.update(f'{m.label} cut' for m in document.texts)\n",
)


def saved(tmp_path: Path) -> list[SavedRun]:
    """Runs in the order in which they were made; ids tell no times below a second."""
    runs = ResultsStore(tmp_path / "results").runs()
    return sorted(runs, key=lambda run: (run.folder / RESULT_NAME).stat().st_mtime_ns)


def newest(tmp_path: Path) -> Result:
    return saved(tmp_path)[-1].result


def ranking(tmp_path: Path, run_id: str) -> Ranking:
    (folder,) = (f for f in ResultsStore(tmp_path / "results").folders() if f.name == run_id)
    return read_ranking(folder / RUN_NAME)


KILLED = """
import os
from pathlib import Path
import harness.index.filling
from harness.registry import make_retriever
from tests.encoders import documents, workspace
harness.index.filling.SHARD_BYTES = {size}
retriever = make_retriever({address!r})
encode = retriever.encoder.encode_documents
def killed(batch):
    made = encode(batch)
    if any(document.id == "d010" for document in batch):
        os.kill(os.getpid(), 9)
    return made
retriever.encoder.encode_documents = killed
retriever.index(documents(20), workspace(Path({folder!r})))
"""


def test_losses_survive_a_kill_and_count_each_document_once(tmp_path: Path) -> None:
    address = plugin(tmp_path, COUNTING)
    expected = Counter(f"{m.label} cut" for document in documents(20) for m in document.texts)
    script = KILLED.format(size=SMALL_SHARD, address=address, folder=str(tmp_path / "w"))
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, cwd=root, check=False)
    assert done.returncode == -9
    assert list((tmp_path / "w").glob("shard-*")), "something was complete"
    retriever = make_retriever(address)
    assert retriever.losses == {}
    retriever.index(documents(20), workspace(tmp_path / "w"))
    assert retriever.losses == expected


def test_documents_left_out_for_nan_are_counted_and_their_losses_once(tmp_path: Path) -> None:
    source = COUNTING.replace(
        "        return TokenEmbeddings.of(\n            [{m: vectors(d.texts[m])",
        "        return TokenEmbeddings.of(\n            [{m: vectors(d.texts[m])"
        " * (np.nan if d.id == 'd003' else 1)",
    )
    retriever = make_retriever(plugin(tmp_path, source), {"on_invalid": "skip"})
    retriever.index(documents(8), workspace(tmp_path / "w"))
    plain = Counter(f"{m.label} cut" for document in documents(8) for m in document.texts)
    assert retriever.losses == plain + Counter({"documents invalid": 1})


@pytest.fixture
def damaged(bench: Command, tmp_path: Path) -> str:
    """A sample in which one document's video is garbage of the same size; its id."""
    assert bench("run", *SAMPLE, "--retriever", "bm25-asr").status == 0
    video = min((tmp_path / "data").rglob("*.mp4"))
    video.write_bytes(b"\0" * video.stat().st_size)
    return video.stem


def test_damage_policy_and_its_counts(bench: Command, tmp_path: Path, damaged: str) -> None:
    pytest.importorskip("torch")
    run = ("run", *SAMPLE, "--retriever", "clamr/tiny", "--k", "10", "--set", "clamr.workers=0")
    bench(*run).fails(damaged, "mp4")

    shown = bench(*run, "--on-damaged", "skip-modality")
    assert shown.status == 0, shown.err
    result = newest(tmp_path)
    assert result.data.losses == {"video corrupt": 1}
    assert "video corrupt 1" in shown.out
    assert damaged in shown.err
    assert damaged in {
        d for row in ranking(tmp_path, result.run_id).values() for d in row.documents
    }
    assert "video corrupt 1" in bench("results", "show", result.run_id).out

    config = tmp_path / "run.yaml"
    config.write_text("on_damaged: skip-document\n")
    # BM25 reads no media: the flag is for the others.
    done = bench(*run, "--retriever", "bm25-asr", "--config", config)
    assert done.status == 0, done.err
    found = {run.result.retriever.address: run.result for run in saved(tmp_path)}
    result = found["clamr/tiny"]
    assert result.data.losses == {"documents skipped": 1, "video corrupt": 1}
    assert result.retriever.settings["on_damaged"] == "skip-document"
    listed = {d for row in ranking(tmp_path, result.run_id).values() for d in row.documents}
    assert damaged not in listed
    assert found["bm25-asr"].data.losses == {}

    again = bench(*run, "--on-damaged", "skip-modality", "--again")
    assert "are encoded already" in again.err
    assert newest(tmp_path).data.losses == {"video corrupt": 1}, "kept with the embeddings"


def test_the_flag_is_refused_where_nothing_takes_it(bench: Command) -> None:
    run = ("run", *SAMPLE, "--retriever", "bm25-asr", "--on-damaged")
    bench(*run, "skip-document").fails("--on-damaged skip-document", "bm25-asr reads none")
    bench(*run, "ignore").fails("on_damaged", "'ignore'", "skip-modality")


def test_modalities_mask_an_encoder_and_restrict_the_others(bench: Command, tmp_path: Path) -> None:
    # Each vector of a document has seen all its modalities.
    source = COUNTING.replace(
        "{m: vectors(d.texts[m]) for m in READS if m in d.texts}",
        "{m: vectors(d.texts[m]) + vectors(' '.join(d.texts.values())).mean(0) for m in READS"
        " if m in d.texts}",
    )
    address = plugin(tmp_path, source)
    run = ("run", *SAMPLE, "--retriever", address)
    assert bench(*run).status == 0
    masked = bench(*run, "--modalities", "asr")
    assert masked.status == 0, masked.err
    assert "8 documents are encoded already" in masked.err
    assert "encode 8" not in masked.err
    assert "scored on asr, encoded with all" in masked.out
    result = newest(tmp_path)
    assert result.options.modalities == ["asr"]
    assert result.options.masked
    assert result.attribution is not None
    assert set(result.attribution.top.share.share) == {"asr"}
    by_flag = ranking(tmp_path, result.run_id)

    assert bench(*run, "--set", "Words.score_modalities=[asr]").status == 0
    by_setting = ranking(tmp_path, newest(tmp_path).run_id)
    assert {q: list(row.documents) for q, row in by_flag.items()} == {
        q: list(row.documents) for q, row in by_setting.items()
    }
    bench(*run, "--modalities", "ocr", "--set", "Words.score_modalities=[asr]").fails(
        "only asr is scored", "ocr is asked for"
    )
    bench(*run, "--modalities", "video").fails("reads asr, ocr")

    bm25 = bench("run", *SAMPLE, "--retriever", "bm25-text", "--modalities", "asr")
    assert bm25.status == 0, bm25.err
    assert "only asr" in bm25.out
    assert not newest(tmp_path).options.masked


def test_one_vector_of_everything_is_not_masked(bench: Command, tmp_path: Path) -> None:
    source = PLUGIN.replace("class Words(Encoder):\n", "class Words(Encoder):\n    masks = False\n")
    run = ("run", *SAMPLE, "--retriever", plugin(tmp_path, source), "--modalities", "asr")
    assert bench(*run).status == 0
    assert not newest(tmp_path).options.masked
    assert not make_retriever("clamr-pooled/tiny").masks
    assert make_retriever("clamr/tiny").masks
