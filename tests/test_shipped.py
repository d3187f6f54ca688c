"""The tiny models that ship are trained: every modality answers, the frames by themselves too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.results.schema import Result
from harness.training import recipes
from harness.training.recipe import Recipe
from retrievers.shipped import ROOT
from tests.conftest import Command

pytest.importorskip("torch")

SAMPLE = ("--task", "multivent/sample")
#: Of the four types of queries that aim at one modality.
TYPES = ("video", "asr", "ocr", "description")


def newest(tmp_path: Path) -> Result:
    runs = ResultsStore(tmp_path / "results").runs()
    return max(runs, key=lambda run: (run.folder / "result.json").stat().st_mtime_ns).result


def ndcg(result: Result, kind: str) -> float:
    return result.breakdowns["query_type"][kind].measures["nDCG@10"].mean


def accuracy(result: Result, way: str = "argmax") -> float:
    assert result.attribution is not None
    assert result.attribution.relevant is not None
    found = result.attribution.relevant.accuracy[way]
    return found.hits / found.queries


@pytest.fixture
def small(tmp_path: Path) -> tuple[str, ...]:
    """The sample's own test videos, and few of its training videos, which take time to draw."""
    return (*SAMPLE, "--set", "multivent/sample.train_videos=2")


def test_what_ships_says_how_it_was_trained() -> None:
    files = sorted(ROOT.glob("*/weights/*.safetensors"))
    named = ["clamr-pooled-tiny", "clamr-tiny", "clip-tiny", "colqwen-tiny", "preflmr-tiny"]
    assert [file.stem for file in files] == named
    assert sum(file.stat().st_size for file in files) < 14e6
    for file in files:
        name = file.stem.removesuffix("-tiny")
        retriever = make_retriever(f"{name}/tiny")
        assert not retriever.untrained
        assert retriever.training == file.with_suffix("")
        drawn = make_retriever(f"{name}/tiny", {"initial_seed": 0})
        assert drawn.untrained
        assert drawn.training is None
        assert drawn.fingerprint != retriever.fingerprint


def test_what_ships_was_trained_by_the_recipes_that_ship() -> None:
    for file in sorted(ROOT.glob("*/weights/*.safetensors")):
        card = json.loads((file.with_suffix("") / "training.json").read_text())
        used = yaml.safe_load((file.with_suffix("") / "recipe.yaml").read_text())
        address = file.stem.replace("-tiny", "/tiny")
        recipe = "cpu-tiny-preflmr" if address == "preflmr/tiny" else "cpu-tiny"
        assert Recipe.model_validate(used) == recipes.load(recipe), address
        assert (card["started_from"], card["seed"]) == (address, 0)
        assert card["steps"] == sum(phase["steps"] for phase in used["phases"])


def test_every_modality_answers(bench: Command, tmp_path: Path, small: tuple[str, ...]) -> None:
    run = ("run", *small, "--retriever", "clamr/tiny")
    assert bench(*run).status == 0
    joint = newest(tmp_path)
    assert joint.retriever.overlap is not None
    assert (joint.retriever.overlap.documents, joint.retriever.overlap.queries) == (0, 0)
    for kind in TYPES:
        assert ndcg(joint, kind) > 0.55, kind
    # A joint query needs two modalities at once; by each alone one finds half of it.
    assert ndcg(joint, "joint") > 0.5
    assert accuracy(joint) > 0.9

    # The frames' own tokens know what is seen: they are not answered for by texts that saw it.
    assert bench(*run, "--set", "clamr.encode_modalities=[video]").status == 0
    alone = newest(tmp_path)
    assert ndcg(alone, "video") > 0.5
    assert all(ndcg(alone, kind) < 0.2 for kind in TYPES[1:])


@pytest.mark.parametrize("name", ["clamr-pooled", "clip", "colqwen"])
def test_the_baselines_have_learned(
    bench: Command, tmp_path: Path, small: tuple[str, ...], name: str
) -> None:
    assert bench("run", *small, "--retriever", f"{name}/tiny").status == 0
    found = newest(tmp_path)
    if name == "clamr-pooled":  # One vector holds little of four kinds of things at this size.
        assert found.measures["nDCG@10"].mean > 0.25
        assert ndcg(found, "video") > 0.5
        assert found.attribution is None
        return
    for kind in TYPES:
        assert ndcg(found, kind) > 0.5, kind
    assert accuracy(found) > 0.8


def test_preflmr_reads_what_it_is_shown_and_asked(bench: Command, tmp_path: Path) -> None:
    """Pictures alone, questions alone, and both: by chance it would find 5 of 360 in 1.4%."""
    assert bench("run", "--task", "m2kr/sample", "--retriever", "preflmr/tiny").status == 0
    found = newest(tmp_path)
    assert found.retriever.overlap is not None
    assert (found.retriever.overlap.documents, found.retriever.overlap.queries) == (0, 0)
    kinds = found.breakdowns["subset"]
    for kind, least in {"wit": 0.45, "msmarco": 0.65, "okvqa": 0.5}.items():
        assert kinds[kind].measures["Success@5"].mean > least, kind


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_training_again_gives_what_ships(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the card, on the sample from its seed: the same measures within intervals."""
    monkeypatch.chdir(tmp_path)
    assert bench("run", *SAMPLE, "--retriever", "clip/tiny").status == 0
    shipped = newest(tmp_path).measures["nDCG@10"]
    outcome = bench("train", *SAMPLE, "--retriever", "clip/tiny", "--recipe", "cpu-tiny")
    assert outcome.status == 0, outcome.err
    trained = newest(tmp_path).measures["nDCG@10"]
    assert shipped.low <= trained.mean <= shipped.high
