"""MSR-VTT's protocols, what equal captions cost, the sample, and runs in both directions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.errors import DataError, NotPreparedError, UsageError
from harness.evaluation import evaluate
from harness.plugin import Direction
from harness.progress import Progress
from harness.registry import make_task
from harness.reporting.tables import read_tables
from harness.results import ResultsStore, SavedRun
from harness.runfile import read_ranking
from harness.types import Modality, Query, Ranking
from tasks.msrvtt import ideal
from tests import msrvtt_release as made
from tests.conftest import Command

MEASURES = ("Success@1", "Success@5", "MnR", "nDCG@10")
SAMPLE = (
    "--set", "msrvtt/sample.test_videos=12", "--set", "msrvtt/sample.train_videos=6",
)  # fmt: skip
REVERSE = ("--set", "msrvtt/sample.direction=video-to-text")


def saved(tmp_path: Path) -> dict[tuple[str, str], SavedRun]:
    """The saved runs by protocol and retriever."""
    runs = ResultsStore(tmp_path / "results").runs()
    return {(r.result.task.protocol.name, r.result.retriever.address): r for r in runs}


# --- protocols ------------------------------------------------------------------------------------


def test_no_two_protocols_have_one_name() -> None:
    names = []
    for address in ("msrvtt", "msrvtt/full", "msrvtt/mteb", "msrvtt/sample"):
        for direction in ("text-to-video", "video-to-text"):
            task = make_task(address, {"direction": direction})
            names.append(task.protocol.name)
            assert (task.direction is Direction.REVERSE) == (direction == "video-to-text")
            assert task.protocol.name.endswith("-v2t") == (direction == "video-to-text")
            assert task.protocol.main in task.protocol.measures
    assert len(set(names)) == len(names)
    assert make_task("msrvtt/clamr").protocol.main == "nDCG@10"


def test_the_bare_name_is_1k_a() -> None:
    assert make_task("msrvtt").address == make_task("msrvtt/1k-a").address == "msrvtt/1k-a"
    assert make_task("msrvtt").protocol == make_task("msrvtt/1k-a").protocol
    with pytest.raises(UsageError, match=r"no variant '1ka'.*Did you mean 'msrvtt/1k-a'"):
        make_task("msrvtt/1ka")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1,990 videos .*train=7k"):
        make_task("msrvtt/full", {"train": "9k"})
    with pytest.raises(UsageError, match="text-to-video alone"):
        make_task("msrvtt/clamr", {"direction": "video-to-text"})
    with pytest.raises(UsageError, match="'text-to-video' or 'video-to-text'"):
        make_task("msrvtt", {"direction": "t2v"})


def test_splits_of_the_variants(tmp_path: Path) -> None:
    made.prepared(made.release(tmp_path / "source"))

    def loaded(address: str, split: str, **chosen: str) -> list[str]:
        found = make_task(address, chosen).load(split, None, Progress())
        assert found.name == split
        return [document.id for document in found.documents]

    assert loaded("msrvtt", "test") == loaded("msrvtt/clamr", "test") == list(made.SENTENCES)
    assert loaded("msrvtt/full", "test") == list(made.OFFICIAL)
    assert loaded("msrvtt", "train") == list(made.TRAIN)
    assert loaded("msrvtt", "train", train="7k") == list(made.TRAIN[:2])
    assert loaded("msrvtt/full", "train") == list(made.TRAIN[:2])
    with pytest.raises(DataError, match="no split 'validation'; it has test, train"):
        loaded("msrvtt", "validation")
    with pytest.raises(NotPreparedError, match=r"MSRVTT_mteb\.csv or MSRVTT_mteb\.txt, the ids"):
        loaded("msrvtt/mteb", "test")


def test_missing_data_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotPreparedError, match="data prepare msrvtt --source DIR"):
        make_task("msrvtt/full").load("test", None, Progress())
    source = made.release(tmp_path / "source")
    (source / "annotation" / made.JSON).unlink()
    made.prepared(source)
    with pytest.raises(NotPreparedError, match=r"3 videos of 'train-9k', but no captions"):
        make_task("msrvtt").load("train", None, Progress())
    with pytest.raises(NotPreparedError, match=r"no split 'full'.*all 20 captions"):
        make_task("msrvtt/full").load("test", None, Progress())


# --- equal captions, and ties ---------------------------------------------------------------------


def usual_script(similarity: NDArray[np.float64]) -> tuple[float, int]:
    """R@1 as the scripts that go around compute it, and the number of rows they divide by.

    They sort each row, look for the places whose value is that of the diagonal, and take the
    columns of all places found: a tied row is found at several.
    """
    ordered = np.sort(-similarity, axis=1)
    found = np.where(ordered - np.diag(-similarity)[:, None] == 0)[1]
    return float((found == 0).mean()), len(found)


def ours(similarity: NDArray[np.float64]) -> float:
    size = len(similarity)
    scores = {f"q{i}": {f"d{j}": similarity[i, j] for j in range(size)} for i in range(size)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(size)}
    return evaluate(Ranking.from_scores(scores), qrels, list(qrels), ["Success@1"]).mean(
        "Success@1"
    )


def test_the_usual_scripts_count_a_tied_row_several_times() -> None:
    distinct = np.random.default_rng(0).permutation(16).reshape(4, 4).astype(float)
    assert usual_script(distinct) == (ours(distinct), 4), "without ties they agree"
    constant = np.zeros((4, 4))
    assert usual_script(constant) == (0.25, 16), "16 rows of 4 captions"
    # Three captions find their video; the fourth ties its video with all others.
    tied = np.eye(4)
    tied[3] = 0.0
    assert usual_script(tied) == (pytest.approx(4 / 7), 7)
    # One caption in four is decided by the order of ties: d3 is the last id, hence the first.
    assert ours(tied) == 1.0
    tied = np.roll(tied, 1, axis=(0, 1))
    assert usual_script(tied)[0] == pytest.approx(4 / 7), "whichever caption it is"
    assert ours(tied) == 0.75


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_no_ranking_that_equal_captions_share_is_better(texts: list[str]) -> None:
    """By trying all: each distinct caption has one order of the videos."""
    size = len(texts)
    queries = [Query(f"q{i}", text) for i, text in enumerate(texts)]
    documents = [f"v{(i * 3) % 7}" for i in range(size)]
    qrels = {q.id: {d: 1} for q, d in zip(queries, documents, strict=True)}
    best = dict.fromkeys(MEASURES, 0.0) | {"MnR": 0.0}
    for text in set(texts):
        asked = [query for query in queries if query.text == text]
        tried = [
            of_order(dict.fromkeys([q.id for q in asked], order), qrels, size)
            for order in itertools.permutations(documents)
        ]
        for measure in MEASURES:
            choose = min if measure == "MnR" else max
            best[measure] += choose(one[measure] for one in tried) * len(asked) / size
    found = evaluate(
        ideal.by_text(qrels, queries, queries), qrels, list(qrels), MEASURES, documents=size
    )
    assert found.means() == pytest.approx(best)


def of_order(
    orders: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]], size: int
) -> dict[str, float]:
    scores = {
        query: {document: -float(place) for place, document in enumerate(order)}
        for query, order in orders.items()
    }
    found = evaluate(Ranking.from_scores(scores), qrels, list(orders), MEASURES, documents=size)
    return found.means()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcd")), min_size=1, max_size=6))
def test_no_scores_of_texts_find_captions_earlier(pairs: list[tuple[int, str]]) -> None:
    """By trying every order of the texts, equal ones next to each other by id."""
    texts = {f"c{i}": text for i, (_, text) in enumerate(pairs)}
    qrels: dict[str, dict[str, int]] = {}
    for i, (video, _) in enumerate(pairs):
        qrels.setdefault(f"v{video}", {})[f"c{i}"] = 1
    videos = [Query(video, "") for video in qrels]
    found = evaluate(
        ideal.by_video(qrels, texts, videos), qrels, list(qrels), ["MnR"], documents=len(texts)
    )
    for row, video in enumerate(videos):
        firsts = []
        for order in itertools.permutations(set(texts.values())):
            ranked = [
                caption
                for text in order
                for caption in sorted((c for c in texts if texts[c] == text), reverse=True)
            ]
            firsts.append(1 + min(ranked.index(caption) for caption in qrels[video.id]))
        assert found.of("MnR")[row] == min(firsts)


@pytest.mark.parametrize("direction", ["text-to-video", "video-to-text"])
def test_what_is_ideal_stands_beside_the_score(
    bench: Command, tmp_path: Path, direction: str
) -> None:
    """Four captions of which two are equal: one in four is lost, in either direction."""
    source = made.release(tmp_path / "source")
    assert bench("data", "prepare", "msrvtt", "--source", source).status == 0
    setting = ("--set", f"msrvtt.direction={direction}")
    outcome = bench("run", "--task", "msrvtt", "--retriever", "random", *setting)
    assert outcome.status == 0, outcome.err
    assert "an ideal retriever (3 of 4 captions are distinct)" in outcome.out
    [run] = ResultsStore(tmp_path / "results").runs()
    [best] = run.result.references.values()
    assert best["Success@1"] == 0.75
    assert (best["MdR"], best["MnR"]) == (1.0, 1.25)


@pytest.mark.realdata
def test_the_real_test_set_has_995_captions(
    bench: Command, tmp_path: Path, real_data: Path
) -> None:
    made.prepared(real_data / "msrvtt")
    run = tmp_path / "run.trec"
    split = make_task("msrvtt").load("test", None, Progress())
    found = "".join(f"{q} Q0 {next(iter(row))} 1 1.0 x\n" for q, row in split.qrels.items())
    run.write_text(found)
    outcome = bench("evaluate", run, "--task", "msrvtt")
    assert outcome.status == 0, outcome.err
    assert "an ideal retriever (995 of 1,000 captions are distinct)" in outcome.out
    assert "99.50" in outcome.out
    assert "100.00 [100.0, 100.0]" in outcome.out, "a run file may tell equal captions apart"


# --- the sample -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample, generated once: a folder of data."""
    folder = tmp_path_factory.mktemp("msrvtt-sample")
    task = make_task("msrvtt/sample", {"test_videos": 12, "train_videos": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAMR_BENCH_DATA", str(folder))
        task.load("test", None, Progress())
    return folder


@pytest.fixture
def data(sample: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLAMR_BENCH_DATA", str(sample))
    return sample


def test_the_sample_is_msrvtt_in_small(data: Path) -> None:
    chosen = {"test_videos": 12, "train_videos": 6}
    task = make_task("msrvtt/sample", chosen)
    test = task.load("test", None, Progress())
    assert test.coverage.modalities == {"video": 12, "audio": 12, "asr": 12}
    assert all(len(row) == 1 for row in test.qrels.values())
    texts = [query.text for query in test.queries]
    assert (len(texts), len(set(texts))) == (12, 11)
    targets = [query.attributes["target"] for query in test.queries]
    assert set(targets) == {"video", "asr"}
    assert targets.count("video") > targets.count("asr")
    train = task.load("train", None, Progress())
    assert (len(train.documents), len(train.queries)) == (6, 24)
    assert {len(row) for row in train.qrels.values()} == {1}
    assert not {d.id for d in train.documents} & {d.id for d in test.documents}
    # What is said is what captions of that kind ask for.
    said = {document.id: document.texts[Modality.ASR] for document in test.documents}
    assert len(set(said.values())) == 12
    turned = make_task("msrvtt/sample", {**chosen, "direction": "video-to-text"})
    assert turned.default_store == task.default_store
    [source] = (data / "msrvtt").glob("*.source")
    assert {path.name for path in source.iterdir()} == {
        "MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv", "MSRVTT_data.json",
        "MSRVTT_whisper.csv", "videos",
    }  # fmt: skip
    # The same files are read as those of the real task.
    store = made.prepared(source)
    assert store.split("1k-a").queries == test.queries
    assert json.loads((source / "MSRVTT_data.json").read_text())["sentences"][0]["target"]


def test_the_sample_depends_on_its_settings_alone(data: Path, tmp_path: Path) -> None:
    chosen = {"test_videos": 12, "train_videos": 6}
    first = make_task("msrvtt/sample", chosen).load("test", None, Progress())
    task = make_task("msrvtt/sample", chosen)
    again = task.prepare([], tmp_path / "again", Progress())
    assert task.load("test", again, Progress()).fingerprint == first.fingerprint
    other = make_task("msrvtt/sample", {**chosen, "seed": 1})
    assert other.default_store != task.default_store


def test_the_sample_by_words(bench: Command, data: Path, tmp_path: Path) -> None:
    outcome = bench("run", "--task", "msrvtt/sample", "--retriever", "bm25-asr", *SAMPLE)
    assert outcome.status == 0, outcome.err
    assert "Success@1 by target" in outcome.out
    [run] = saved(tmp_path).values()
    by_target = run.result.breakdowns["target"]
    measure = {value: group.measures["Success@1"].mean for value, group in by_target.items()}
    assert measure["asr"] > measure["video"], "words that are said are found by words"
    assert run.result.measures["MdR"].mean >= 1
    bench("run", "--task", "msrvtt/sample", "--retriever", "bm25-asr", *SAMPLE, *REVERSE).fails(
        "bm25-asr", "'reverse'", "on one scale"
    )


def test_the_sample_in_both_directions(bench: Command, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for direction in ((), REVERSE):
        outcome = bench(
            "run", "--task", "msrvtt/sample", "--retriever", "clip/tiny", *SAMPLE, *direction,
            "--set", "clip.workers=0",
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
    runs = saved(tmp_path)
    forward, reverse = runs["sample", "clip/tiny"], runs["sample-v2t", "clip/tiny"]
    assert reverse.result.task.protocol.unit == "videos"
    assert reverse.result.data.fingerprint == forward.result.data.fingerprint
    assert set(reverse.result.breakdowns) == {"document target"}
    assert forward.result.attribution is not None
    matrix = read_ranking(forward.folder / "run.trec.gz")
    transposed = read_ranking(reverse.folder / "run.trec.gz")
    for video, row in transposed.items():
        column = {
            caption: dict(zip(ranked.documents, ranked.scores.tolist(), strict=True))[video]
            for caption, ranked in matrix.items()
        }
        for caption, score in zip(row.documents, row.scores.tolist(), strict=True):
            assert score == pytest.approx(column[caption], abs=1e-5)
    assert len(list((tmp_path / "cache").rglob("index.json"))) == 1, "encoded once for both"
    outcome = bench("evaluate", reverse.folder / "run.trec.gz", "--task", "msrvtt/sample",
                    *SAMPLE, *REVERSE)  # fmt: skip
    assert outcome.status == 0, outcome.err
    e = reverse.result.measures["Success@1"]
    assert f"{e.mean * 100:.2f} [{e.low * 100:.1f}, {e.high * 100:.1f}]" in outcome.out
    bench("leaderboard")
    files = read_tables(tmp_path / "results")
    assert sorted(file.protocol for file in files) == ["sample", "sample-v2t"]
    text = (tmp_path / "leaderboard.md").read_text()
    assert "direction=video-to-text" in text
    assert "an ideal retriever (11 of 12 captions are distinct)" in text
    bench("explain", reverse.result.run_id, "--query", "video7010").fails("other direction")


def test_mistakes_are_told_in_one_line(bench: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bench("data", "prepare", "msrvtt", "--source", tmp_path / "empty").fails("nothing of MSR-VTT")
    bench("run", "--task", "msrvtt", "--retriever", "random").fails(
        "msrvtt/1k-a", "data prepare msrvtt --source DIR"
    )
    source = made.release(tmp_path / "source")
    bench("data", "prepare", "msrvtt", "--source", source, "--strict").fails("fewer videos")
    path = source / made.TEST
    path.write_bytes(path.read_bytes()[:-15])
    bench("data", "prepare", "msrvtt", "--source", source).fails("line 5", "cut off or damaged")
    bench("run", "--task", "msrvtt", "--retriever", "random", "--set",
          "msrvtt.direction=t2v").fails("direction")  # fmt: skip
