"""Training: what is trained, what is saved, plans of the published models, a short training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.encoder import Trainable
from harness.errors import UsageError
from harness.training import recipes
from harness.training.lora import add_lora, trainable
from harness.training.plan import plan
from harness.training.recipe import AdapterRecipe, Recipe
from harness.types import Modality
from retrievers.preflmr.encoder import PreFLMR
from retrievers.preflmr.published import blueprint
from retrievers.preflmr.settings import PreFLMRSettings
from tests.conftest import Command
from tests.preflmr_cases import CHECKPOINT, documents, preflmr, queries

FROZEN = AdapterRecipe(kind="full", frozen=("query_vision_encoder",))
LORA = AdapterRecipe(rank=4, alpha=8, dropout=0.0)


def vectors(made: PreFLMR, folder: Path) -> Any:
    found = made.encode_documents(documents(folder)).vectors
    return np.concatenate([found, made.encode_queries(queries(folder)).vectors])


@pytest.mark.parametrize("adapter", [FROZEN, LORA], ids=["full", "lora"])
def test_all_but_the_image_tower_learns_from_images_and_texts(
    adapter: AdapterRecipe, tmp_path: Path
) -> None:
    made = preflmr(CHECKPOINT)
    assert isinstance(made, Trainable)
    add_lora(made.module, made.lora_targets(), Recipe(adapter=adapter))
    names = list(trainable(made.module))
    assert not any(name.startswith("query_vision_encoder.") for name in names)
    parts = ("query_text_encoder.", "context_text_encoder.", "query_vision_projection.",
             "transformer_mapping_network.", "transformer_mapping_input_linear.",
             "transformer_mapping_output_linear.")  # fmt: skip
    assert all(any(name.startswith(part) for name in names) for part in parts)
    asked, asked_kinds = made.forward_queries(queries(tmp_path))
    read, kinds = made.forward_documents(documents(tmp_path))
    assert asked_kinds.unique().tolist() == [0, Modality.IMAGE, Modality.TEXT]
    # Masked rows are of no modality, and zero.
    assert not asked[asked_kinds == 0].any()
    scores = torch.einsum("qtd,bsd->qbts", asked, read)
    scores = scores.masked_fill(kinds[None, :, None] == 0, -30).logsumexp(-1).mean(-1)
    scores[:, [0, 2, 3, 4]].log_softmax(-1)[range(5), [0, 1, 2, 3, 0]].sum().backward()
    for name, parameter in trainable(made.module).items():
        if ".pooler." in name:
            assert parameter.grad is None
        elif ".lora_A." not in name:  # LoRA's B begins at 0, so A has no gradient yet.
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_masked_rows_and_padding_count_for_nothing_in_training_as_in_search(
    tmp_path: Path,
) -> None:
    made, batch = preflmr(CHECKPOINT), queries(tmp_path)
    found = made.encode_queries(batch)
    rows, kinds = made.forward_queries(batch)
    for number in range(len(batch)):
        counts = kinds[number] > 0
        order = torch.argsort(kinds[number][counts], stable=True)
        mine = rows[number][counts][order].detach().numpy()
        own = found[number : number + 1].vectors
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", [CHECKPOINT, "tiny"], ids=["folder", "tiny"])
@pytest.mark.parametrize("adapter", [FROZEN, LORA], ids=["full", "lora"])
def test_what_is_saved_loads_again_under_the_published_names(
    weights: Any, adapter: AdapterRecipe, tmp_path: Path
) -> None:
    made = preflmr(weights)
    before = {name: tensor.clone() for name, tensor in made.module.state_dict().items()}
    add_lora(made.module, made.lora_targets(), Recipe(adapter=adapter))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(made.module).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    made.module.eval()
    made.save(tmp_path / "saved")
    again = preflmr(tmp_path / "saved")
    assert not again.untrained
    np.testing.assert_allclose(vectors(again, tmp_path), vectors(made, tmp_path), rtol=0, atol=2e-5)
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    assert tensors.keys() == before.keys()
    tower = [name for name in tensors if name.startswith("query_vision_encoder.")]
    assert all(torch.equal(tensors[name], before[name]) for name in tower)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == "flmr"
    kept = preflmr(CHECKPOINT).identity()["preparation"]
    found = again.identity()["preparation"]
    assert found.keys() == kept.keys()
    assert (found == kept) == (weights == CHECKPOINT)


@pytest.mark.parametrize(
    ("name", "trained", "total"),
    [
        ("PreFLMR_ViT-B", 239_269_504, 326_725_504),
        ("PreFLMR_ViT-L", 239_990_400, 543_170_176),
        ("PreFLMR_ViT-G", 241_792_640, 2_084_569_984),
        ("FLMR", 119_555_072, 207_011_072),
    ],
)
def test_a_plan_of_the_published_training(name: str, trained: int, total: int) -> None:
    recipe = recipes.load("a100-preflmr")
    settings = PreFLMRSettings(workers=0, **recipe.settings["preflmr"])
    made = PreFLMR("preflmr", f"LinWeizheDragon/{name}", settings)
    found = plan(made, recipe, processes=4)
    assert (found.parameters, found.total) == (trained, total)
    assert found.memory["frozen weights"].bytes == 4 * (total - trained)
    assert "activations, which depend on the model" in "\n".join(found.lines())


def test_plans_of_what_is_here() -> None:
    settings = PreFLMRSettings(workers=0)
    for weights, made in ((str(CHECKPOINT), preflmr(CHECKPOINT)), ("tiny", preflmr())):
        drawn = blueprint(weights, settings)
        shapes = {name: tensor.shape for name, tensor in drawn.module.state_dict().items()}
        assert shapes == {name: t.shape for name, t in made.module.state_dict().items()}
        assert list(drawn.targets) == list(made.lora_targets())
    with pytest.raises(UsageError, match="'some/model' is in its config"):
        blueprint("some/model", settings)


def test_the_recipe_is_the_published_loss() -> None:
    recipe = recipes.load("a100-preflmr")
    assert recipe.batch.documents * recipe.batch.queries == 256
    assert (recipe.batch.negatives, recipe.batch.in_batch) == (4, True)
    loss = recipe.loss
    assert (loss.name, loss.aggregations, loss.temperature) == ("contrastive", ("token_max",), 1.0)
    assert not loss.normalise


def test_every_value_has_its_source_beside_it() -> None:
    said = recipes.show("a100-preflmr").split("adapter:")[1].split("settings:")[0]
    values = [line for line in said.splitlines() if ": " in line.partition("#")[0].strip()]
    assert len(values) > 25
    for line in values:
        sources = ("paper", "code", "readme", "not published")
        assert any(word in line.partition("#")[2] for word in sources), line


def test_a_short_training_by_the_recipe(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sample = ("--task", "m2kr/sample", "--set", "m2kr/sample.train_queries=12",
              "--set", "m2kr/sample.test_queries=4")  # fmt: skip
    small = {
        "batch.documents": 8, "batch.accumulate": 2, "batch.negatives": 2, "phases": "[{steps: 2}]",
        "precision": "fp32", "optimiser.lr": 1e-3, "optimiser.warmup": 1, "validation.share": 0.2,
    }  # fmt: skip
    chosen = [part for key, value in small.items() for part in ("--set", f"recipe.{key}={value}")]
    started = ("--set", "preflmr.initial_seed=0", "--set", "preflmr.workers=0")
    outcome = bench(
        "train", *sample, "--retriever", "preflmr/tiny", "--recipe", "a100-preflmr", *chosen,
        *started,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (model,) = (tmp_path / "trained").rglob("model/model.safetensors")
    drawn = preflmr("tiny", initial_seed=0).module.state_dict()
    moved = {
        name.split(".")[0]
        for name, tensor in load_file(model).items()
        if not torch.equal(tensor, drawn[name])
    }
    assert moved == {name.split(".")[0] for name in drawn} - {"query_vision_encoder"}
    shown = bench("run", *sample, "--retriever", f"preflmr/{model.parent}")
    assert shown.status == 0, shown.err
