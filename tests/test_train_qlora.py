"""The recipe of the paper, all of it, on the tiny model: 4-bit base, LoRA, paged 8-bit AdamW."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from harness.encoder import EncoderRetriever, Trainable
from harness.registry import make_retriever
from harness.results import ResultsStore
from tests.conftest import Command

pytest.importorskip("bitsandbytes")

SAMPLE = (
    "--task", "multivent/sample", "--set", "multivent/sample.test_videos=8",
    "--set", "multivent/sample.train_videos=24",
)  # fmt: skip


@pytest.mark.slow
def test_the_papers_recipe_trains_saves_and_reloads(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = make_retriever("clamr/tiny", {"initial_seed": 0})
    assert isinstance(tiny, EncoderRetriever)
    assert isinstance(tiny.encoder, Trainable)
    base = tmp_path / "base"
    base.mkdir()
    tiny.encoder.save(base)
    before = {path.name: path.read_bytes() for path in base.iterdir()}

    outcome = bench(
        "train", *SAMPLE, "--retriever", f"clamr/{base}", "--recipe", "a100-qlora",
        "--set", "recipe.phases=[{steps: 20}]", "--set", "clamr.workers=0",
        "--set", "recipe.validation.every=10",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (log,) = (tmp_path / "trained").rglob("log.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))
    model = log.parent / "model"
    config = json.loads((model / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (128, 128, 0.1)
    assert config["base_model_name_or_path"] == str(base)
    with safe_open(model / "adapter_model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
        changed = [tensors.get_tensor(name).abs().max() for name in names if "lora_B" in name]
    # Seven layers in each of three blocks, and the projection; an A and a B of each.
    assert len(names) == 2 * (7 * 3 + 1)
    assert not any("visual" in name for name in names)
    assert all(value > 0 for value in changed), "every adapter has learned something"
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    (run,) = ResultsStore(tmp_path / "results").runs()
    assert run.result.retriever.settings["quantise"] == "4bit"
    assert not run.result.retriever.untrained
    assert run.result.retriever.training is not None

    again = bench("run", *SAMPLE, "--retriever", f"clamr/{model}", "--set", "clamr.workers=0")
    assert again.status == 0, again.err  # the same adapter on the base as it is
