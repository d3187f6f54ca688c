"""Vectors made elsewhere: three forms of files, one ranking, clear words about what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import retrievers.vector_files
from harness.documents import ListedDocuments
from harness.errors import ClamrBenchError, DataError, PluginError, UsageError
from harness.progress import Progress
from harness.registry import make_retriever, make_task
from harness.results import ResultsStore
from harness.types import Document, Modality, Query, Ranking
from harness.workspace import Workspace
from tests.conftest import Command

Items = Mapping[str, NDArray[Any]]
Write = Callable[..., None]

DOCS = Path(__file__).parents[1] / "docs"


def packed(items: Items) -> tuple[list[str], NDArray[Any], NDArray[np.int64]]:
    rows = [np.atleast_2d(item) for item in items.values()]
    return list(items), np.concatenate(rows), np.cumsum([0, *map(len, rows)])


def safetensors_file(
    path: Path, items: Items, modalities: Sequence[int] | None = None, *, single: bool = False
) -> None:
    ids, vectors, offsets = packed(items)
    arrays = {"vectors": vectors}
    if not single:
        arrays["offsets"] = offsets
    if modalities is not None:
        arrays["modalities"] = np.asarray(modalities, np.uint8)
    save_file(arrays, path.with_suffix(".safetensors"), metadata={"ids": json.dumps(ids)})


def npz_file(
    path: Path, items: Items, modalities: Sequence[int] | None = None, *, single: bool = False
) -> None:
    ids, vectors, offsets = packed(items)
    arrays: dict[str, Any] = {"ids": np.asarray(ids), "vectors": vectors}
    if not single:
        arrays["offsets"] = offsets
    if modalities is not None:
        arrays["modalities"] = np.asarray(modalities)
    np.savez(path.with_suffix(".npz"), **arrays)


def parquet_file(
    path: Path, items: Items, modalities: Sequence[int] | None = None, *, single: bool = False
) -> None:
    ids, vectors, offsets = packed(items)
    columns: dict[str, Any] = {
        "id": np.repeat(ids, np.diff(offsets)),
        "vector": pa.array(list(vectors), pa.list_(pa.from_numpy_dtype(vectors.dtype))),
    }
    if modalities is not None:
        columns["modality"] = [Modality(number).label for number in modalities]
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"), row_group_size=3)


FORMS = [safetensors_file, npz_file, parquet_file]
rng = np.random.default_rng(5)
DOCUMENTS = {f"d{i}": rng.standard_normal((i % 3 + 1, 4)).astype(np.float32) for i in range(9)}
QUERY_VECTORS = {f"q{i}": rng.standard_normal((2, 4)).astype(np.float32) for i in range(3)}
QUERIES = [Query(id_, "text") for id_ in QUERY_VECTORS]


def ranked(
    folder: Path, settings: Mapping[str, Any] | None = None, ids: Sequence[str] = tuple(DOCUMENTS)
) -> Ranking:
    retriever = make_retriever(f"embeddings/{folder}", settings)
    place = Workspace(folder / f"workspace-{retriever.fingerprint[:8]}", {})
    retriever.index(ListedDocuments([Document(id_) for id_ in ids]), place)
    return retriever.search(QUERIES, 100)


def expected(
    documents: Items = DOCUMENTS, queries: Items = QUERY_VECTORS, *, cosine: bool = False
) -> dict[str, dict[str, float]]:
    """Every score by loops in float64."""

    def unit(rows: NDArray[Any]) -> NDArray[Any]:
        rows = np.atleast_2d(rows).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if cosine else rows

    return {
        q: {d: float((unit(a) @ unit(b).T).max(axis=1).sum()) for d, b in documents.items()}
        for q, a in queries.items()
    }


def agree(found: Ranking, wanted: Mapping[str, Mapping[str, float]]) -> None:
    assert set(found) == set(wanted)
    for query, row in found.items():
        assert set(row.documents) == set(wanted[query])
        for document, score in zip(row.documents, row.scores.tolist(), strict=True):
            assert score == pytest.approx(wanted[query][document], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("rows", [1, 2, 8192])
def test_every_form_gives_the_same_ranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, rows: int
) -> None:
    monkeypatch.setattr(retrievers.vector_files, "READ_ROWS", rows)
    write(tmp_path / "documents", DOCUMENTS)
    write(tmp_path / "queries", QUERY_VECTORS)
    agree(ranked(tmp_path), expected())


@pytest.mark.parametrize("write", FORMS)
def test_single_vectors_and_cosine(tmp_path: Path, write: Write) -> None:
    documents = {id_: rows[:1] for id_, rows in DOCUMENTS.items()}
    queries = {id_: rows[:1] for id_, rows in QUERY_VECTORS.items()}
    write(tmp_path / "documents", documents, single=True)
    write(tmp_path / "queries", queries, single=True)
    agree(ranked(tmp_path), expected(documents, queries))
    agree(ranked(tmp_path, {"similarity": "cosine"}), expected(documents, queries, cosine=True))


@pytest.mark.parametrize("write", FORMS)
def test_modalities_are_grouped_wherever_their_vectors_lie(tmp_path: Path, write: Write) -> None:
    tokens = sum(map(len, DOCUMENTS.values()))
    numbers = [(3, 4, 3)[i % 3] for i in range(tokens)]
    write(tmp_path / "documents", DOCUMENTS, numbers)
    write(tmp_path / "queries", QUERY_VECTORS)
    agree(ranked(tmp_path), expected())
    place, wanted = 0, {q: dict[str, float]() for q in QUERY_VECTORS}
    for id_, rows in DOCUMENTS.items():
        kinds = np.asarray(numbers[place : place + len(rows)])
        place += len(rows)
        parts = [expected({id_: rows[kinds == kind]}) for kind in set(kinds.tolist())]
        for query in wanted:
            wanted[query][id_] = max(part[query][id_] for part in parts)
    agree(ranked(tmp_path, {"aggregation": "modality_max"}), wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("write", FORMS)
def test_number_formats_are_kept(tmp_path: Path, write: Write, dtype: Any) -> None:
    documents = {id_: rows.astype(dtype) for id_, rows in DOCUMENTS.items()}
    write(tmp_path / "documents", documents)
    write(tmp_path / "queries", QUERY_VECTORS)
    agree(ranked(tmp_path), expected(documents))
    [manifest] = tmp_path.rglob("shard.json")
    kept = "fp16" if dtype is np.float16 else "fp32"
    assert json.loads(manifest.read_text())["precision"] == kept


def test_bfloat16_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    ids, vectors, offsets = packed(DOCUMENTS)
    half = torch.from_numpy(vectors).to(torch.bfloat16)
    arrays = {"vectors": half, "offsets": torch.from_numpy(offsets)}
    save_torch(arrays, tmp_path / "documents.safetensors", metadata={"ids": json.dumps(ids)})
    npz_file(tmp_path / "queries", QUERY_VECTORS)
    plain = half.float().numpy()
    documents = {i: plain[a:b] for i, a, b in zip(ids, offsets[:-1], offsets[1:], strict=True)}
    agree(ranked(tmp_path), expected(documents))


def test_identity_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    fingerprints = []
    for name in ("one", "two", "other"):
        folder = tmp_path / name
        folder.mkdir()
        documents = {**DOCUMENTS, "d0": DOCUMENTS["d0"] * 2} if name == "other" else DOCUMENTS
        npz_file(folder / "queries", QUERY_VECTORS)
        if name == "two":
            shutil.copy(tmp_path / "one/documents.safetensors", folder)
        else:
            safetensors_file(folder / "documents", documents)
        retriever = make_retriever(f"embeddings/{folder}")
        assert str(tmp_path) not in json.dumps(retriever.identity())
        fingerprints.append(retriever.fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_workspace_is_resumed(tmp_path: Path) -> None:
    npz_file(tmp_path / "documents", DOCUMENTS)
    npz_file(tmp_path / "queries", QUERY_VECTORS)
    first = ranked(tmp_path)
    again = ranked(tmp_path)
    assert {q: row.scores.tobytes() for q, row in first.items()} == {
        q: row.scores.tobytes() for q, row in again.items()
    }


# --- What is refused --------------------------------------------------------------------------


def raw(path: Path, **arrays: Any) -> None:
    np.savez(path.with_suffix(".npz"), **arrays)


V = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"vectors": V}, "no `ids`"),
        ({"ids": np.array(["a", "b"])}, "there are none"),
        ({"ids": np.array(["a", "b"]), "vectors": V.astype(int)}, "there are int64"),
        ({"ids": np.array(["a", "b"]), "vectors": V[0]}, r"of shape \(4,\)"),
        ({"ids": np.array(["a", "a"]), "vectors": V}, "'a' is there twice"),
        ({"ids": np.array([1, 2]), "vectors": V}, "no list of strings"),
        ({"ids": np.array(["a"]), "vectors": V}, "1 ids but 2 vectors: multi-vectors need"),
        ({"ids": np.array(["a", "b"]), "vectors": V, "offsets": np.array([0, 2])}, "3 integers"),
        ({"ids": np.array(["a", "b"]), "vectors": V, "offsets": np.array([0, 3, 2])}, "rise from"),
        ({"ids": np.array(["a", "b"]), "vectors": V, "modalities": np.array([1])}, "2 vectors but"),
        ({"ids": np.array(["a", "b"]), "vectors": V, "modalities": np.array([1, 9])}, "number 9"),
        ({"ids": np.array(["a", "b"]), "vectors": V, "modalities": V[:, 0]}, "not integers"),
        ({"ids": np.array(["a", {}], object), "vectors": V}, "cannot be read"),
    ],
)
def test_files_of_another_form_are_refused(
    tmp_path: Path, arrays: Mapping[str, Any], says: str
) -> None:
    raw(tmp_path / "documents", **arrays)
    npz_file(tmp_path / "queries", QUERY_VECTORS)
    with pytest.raises(DataError, match=says) as found:
        make_retriever(f"embeddings/{tmp_path}")
    assert "documents.npz" in str(found.value)
    assert "docs/embeddings.md" in str(found.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"id": ["a"], "vectors": [[1.0]]}, "has the columns id, vectors, not `id` and `vector`"),
        ({"id": [1], "vector": [[1.0]]}, "id 1 is no string"),
        ({"id": ["a"], "vector": ["x"]}, "`vector` is string, not a list of floats"),
        ({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}, "dimension"),
        ({"id": ["a", "b"], "vector": [[1.0], None]}, "a vector is missing"),
        ({"id": ["a", "b", "a"], "vector": [[1.0]] * 3}, "'a' is there twice, or its rows"),
        ({"id": ["a"], "vector": [[1.0]], "modality": ["smell"]}, "unknown modality 'smell'"),
        ({"id": ["a"], "vector": [[1.0]], "modality": [None]}, "a modality is missing"),
        ({"id": ["a"], "vector": [[float("nan")]]}, r"'a' has NaN or infinite values \(text\)"),
    ],
)
def test_parquet_files_of_another_form_are_refused(
    tmp_path: Path, columns: Mapping[str, Any], says: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "documents.parquet")
    npz_file(tmp_path / "queries", {"q": np.ones((1, 1), np.float32)})
    with pytest.raises(DataError, match=says):
        ranked(tmp_path, ids=["a", "b"][: len(set(columns["id"]))])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".parquet"])
def test_a_file_that_is_something_else(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"documents{suffix}").write_text("no such file")
    npz_file(tmp_path / "queries", QUERY_VECTORS)
    with pytest.raises(DataError, match=f"documents{suffix}: it cannot be read"):
        make_retriever(f"embeddings/{tmp_path}")


def test_a_folder_that_is_missing_or_holds_none_or_two(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a folder: embeddings/DIR"):
        make_retriever("embeddings").identity()
    with pytest.raises(UsageError, match="there is no folder"):
        make_retriever(f"embeddings/{tmp_path}/nowhere")
    with pytest.raises(UsageError, match=r"documents\.parquet; it has none of them"):
        make_retriever(f"embeddings/{tmp_path}")
    npz_file(tmp_path / "documents", DOCUMENTS)
    parquet_file(tmp_path / "documents", DOCUMENTS)
    with pytest.raises(UsageError, match=r"it has documents\.npz and documents\.parquet"):
        make_retriever(f"embeddings/{tmp_path}")


def test_ids_that_do_not_match_the_task(tmp_path: Path) -> None:
    npz_file(tmp_path / "documents", DOCUMENTS)
    npz_file(tmp_path / "queries", QUERY_VECTORS)
    with pytest.raises(DataError, match=r"1 documents are only in the task, for instance 'new'"):
        ranked(tmp_path, ids=[*DOCUMENTS, "new"])
    with pytest.raises(DataError, match=r"8 documents are not in the task, for instance 'd1'"):
        ranked(tmp_path, ids=["d0"])
    found = ranked(tmp_path, {"on_mismatch": "skip"}, ids=["d1", "d0", "new"])
    agree(found, expected({i: DOCUMENTS[i] for i in ("d0", "d1")}))


def test_a_query_without_vectors_is_an_error(tmp_path: Path) -> None:
    npz_file(tmp_path / "documents", DOCUMENTS)
    npz_file(tmp_path / "queries", {"q1": QUERY_VECTORS["q1"]})
    with pytest.raises(DataError, match=r"no vectors for 2 of these 3 queries, for instance 'q0'"):
        ranked(tmp_path)


@pytest.mark.parametrize(
    ("documents", "queries", "settings", "says"),
    [
        (DOCUMENTS, {"q0": np.ones((1, 5), np.float32)}, {}, "vectors of 5 dimensions"),
        ({**DOCUMENTS, "d4": np.full((2, 4), np.inf, np.float32)}, QUERY_VECTORS, {},
         r"'d4' has NaN or infinite values \(text\)"),
        ({**DOCUMENTS, "d4": np.full((1, 4), 1e6, np.float32)}, QUERY_VECTORS,
         {"precision": "fp16"}, r"document 'd4' \(text\) has a vector .* overflows fp16"),
        ({**DOCUMENTS, "d4": np.zeros((1, 4), np.float32)}, QUERY_VECTORS,
         {"similarity": "cosine"}, "'d4' has a vector of zeros, which has no cosine"),
    ],
)  # fmt: skip
def test_vectors_that_cannot_be(
    tmp_path: Path, documents: Items, queries: Items, settings: Mapping[str, Any], says: str
) -> None:
    npz_file(tmp_path / "documents", documents)
    npz_file(tmp_path / "queries", queries)
    with pytest.raises((DataError, PluginError), match=says) as found:
        ranked(tmp_path, settings)
    assert isinstance(found.value, ClamrBenchError)


# --- As users do it ---------------------------------------------------------------------------


def test_the_pages_example_runs_as_written(bench: Command, tmp_path: Path) -> None:
    page = (DOCS / "embeddings.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [command] = re.findall(r"```console\nclamr-bench (run .*?)\n```", page, re.DOTALL)
    sample = (
        "--set",
        "multivent/sample.test_videos=60",
        "--set",
        "multivent/sample.train_videos=2",
    )
    assert bench("run", "--task", "multivent/sample", "--retriever", "random", *sample).status == 0
    code = code.replace(
        'make_task("multivent/sample")',
        'make_task("multivent/sample", {"test_videos": 60, "train_videos": 2})',
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    arguments = command.replace("embeddings/letters", f"embeddings/{tmp_path}/letters").split()
    outcome = bench(*arguments, *sample)
    assert outcome.status == 0, outcome.err
    runs = ResultsStore(tmp_path / "results").runs()
    [run] = [run for run in runs if run.result.retriever.name == "embeddings"]
    # A random order of 60 videos gives nDCG@10 = 0.08 in expectation.
    assert run.result.breakdowns["query_type"]["asr"].measures["nDCG@10"].mean > 0.2


def test_features_that_a_dataset_provides(bench: Command, tmp_path: Path) -> None:
    """The page's recipe, with a tiny model and drawn arrays in the features' shape."""
    pytest.importorskip("torch")
    sample = ("--set", "multivent/sample.test_videos=8", "--set", "multivent/sample.train_videos=2")
    assert bench("run", "--task", "multivent/sample", "--retriever", "random", *sample).status == 0
    [code] = re.findall(
        r"```python features\n(.*?)```", (DOCS / "embeddings.md").read_text(), re.DOTALL
    )
    code = (
        code.replace('"multivent/pool"', '"multivent/sample"')
        .replace('"siglip/google/siglip-so400m-patch14-384"', '"siglip/tiny"')
        .replace("make_task(TASK)", 'make_task(TASK, {"test_videos": 8, "train_videos": 2})')
    )
    task = make_task("multivent/sample", {"test_videos": 8, "train_videos": 2})
    dim = make_retriever("siglip/tiny").encoder.encode_queries([Query("q", "a")]).dim  # type: ignore[attr-defined]
    (tmp_path / "features").mkdir()
    rng = np.random.default_rng(0)
    for document in task.load("test", None, Progress()).documents:
        np.save(tmp_path / f"features/{document.id}.npy", rng.standard_normal((16, dim)))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = ("run", "--task", "multivent/sample", *sample, "--retriever")
    outcome = bench(*run, f"embeddings/{tmp_path}/provided")
    assert outcome.status == 0, outcome.err
    # Every score is of a frame: masked to video it is the same, to speech there is none.
    found = [r for r in ResultsStore(tmp_path / "results").runs()
             if r.result.retriever.name == "embeddings"]  # fmt: skip
    assert found[0].result.attribution is not None
    assert set(found[0].result.attribution.top.share.share) <= {"video"}
    masked = bench(*run, f"embeddings/{tmp_path}/provided", "--modalities", "asr")
    assert masked.status == 0, masked.err
    assert "scored on asr, encoded with all" in masked.out
