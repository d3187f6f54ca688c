"""Plans: the real architectures' figures, and a memory formula held against what autograd keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from harness.errors import UsageError
from harness.training import recipes
from harness.training.lora import add_lora, trainable
from harness.training.plan import Blueprint, Decoder, Plan, layer_bytes, plan
from harness.training.recipe import Recipe
from retrievers.clamr.encoder import Clamr
from retrievers.clamr.settings import ClamrSettings
from retrievers.clip.encoder import Clip
from retrievers.clip.settings import ClipSettings
from retrievers.colqwen.encoder import ColQwen
from retrievers.qwen.adapter import lora_targets
from retrievers.qwen.backbone import Batch, LateInteraction
from retrievers.qwen.form import VL as VL_FORM
from retrievers.qwen.published import OMNI_3B, VL_3B, blueprint
from tests.clamr_cases import ADAPTER, FIXTURES, VL


class Planned(Clamr):
    """CLaMR with its architecture known before it is loaded."""

    def blueprint(self) -> Blueprint:
        return blueprint(self.weights, self.settings, self.family)


def planned(
    name: str, weights: str | None = None, processes: int = 1, **settings: Any
) -> tuple[Plan, Recipe]:
    recipe = recipes.load(name)
    values = {**recipe.settings["clamr"], **settings}
    values.pop("initial_seed", None)
    encoder = Planned("clamr", weights, ClamrSettings(workers=0, **values))
    return plan(encoder, recipe, processes=processes), recipe


@pytest.mark.parametrize(("name", "values"), [("vl", VL_3B), ("omni", OMNI_3B)])
def test_the_published_architectures_are_those_of_the_loading_tests(
    name: str, values: dict[str, Any]
) -> None:
    assert json.loads((FIXTURES / f"clamr_{name}_3b.json").read_text("utf-8")) == values


def test_the_published_training_of_the_real_model() -> None:
    found, _ = planned("a100-qlora", processes=8)
    assert found.tensors == 506
    assert found.parameters == 239_747_072
    assert found.total - found.parameters == 3_754_622_976 + 2048 * 128 + 128
    # The released file: its tensors, and a header of names.
    assert found.saved == 958_988_288
    assert 0 < 959_057_112 - found.saved < 100_000
    parts = {name: part.bytes for name, part in found.memory.items()}
    assert parts["frozen weights, quantised"] == pytest.approx(3_441_197_056 * 0.516, rel=1e-3)
    assert parts["trained weights"] == parts["gradients"] == found.saved
    assert parts["optimiser"] == 2 * (found.parameters + 4 * found.parameters // 256)
    # 10 frames at 224 x 224 are 5 x 64 tokens, the texts 256 each.
    assert "2 documents of 1,140 and 2 queries of 64" in found.memory["inputs of layers"].formula
    assert sum(parts.values()) == pytest.approx(6.1e9, rel=0.02)


def test_its_vision_tower_is_not_touched() -> None:
    recipe = recipes.load("a100-qlora")
    made = blueprint(None, ClamrSettings(quantise="4bit"), Clamr.family)
    add_lora(made.module, made.targets, recipe)
    assert all(parameter.is_meta for parameter in made.module.parameters())
    names = list(trainable(made.module))
    places = {name.split(".lora_")[0].split(".layers.")[0] for name in names}
    assert places == {"backbone.language_model", "custom_text_proj"}
    assert sum(".layers." in name for name in names) == 36 * 7 * 2


def test_the_other_recipes_and_forms() -> None:
    plain, _ = planned("a100-lora")
    assert plain.memory["frozen weights"].bytes == 2 * (plain.total - plain.parameters)
    omni, _ = planned("a100-qlora", "Qwen/Qwen2.5-Omni-3B")
    assert (omni.tensors, omni.parameters) == (506, 239_747_072)
    assert "1,890" in omni.memory["inputs of layers"].formula  # 30 s of sound: 750 tokens more
    everything, _ = planned("cpu-tiny", "tiny")
    assert everything.parameters == everything.total
    assert everything.saved == 4 * everything.total
    assert everything.memory["optimiser"].bytes == 8 * everything.total


def test_a_folder_and_an_adapter_s_base(tmp_path: Path) -> None:
    for weights, base in ((VL, None), (ADAPTER, str(VL))):
        found, _ = planned("a100-lora", str(weights), base=base)
        assert found.tensors == 2 * (2 * 7 + 1)


def test_an_architecture_that_nobody_said() -> None:
    with pytest.raises(UsageError, match=r"'some/model' is in its config\.json.*Qwen2\.5-VL-3B"):
        planned("a100-lora", "some/model")


def test_pages_of_colqwen_are_counted_one_by_one() -> None:
    settings = ColQwen.Settings(frames=3)
    decoder = blueprint(None, settings, ColQwen.family).decoder
    assert decoder is not None
    assert decoder.document_tokens == 52 + 3 * 768 + 3 * 512


def test_an_encoder_without_a_blueprint_is_planned_from_its_module() -> None:
    recipe = recipes.load("cpu-tiny")
    encoder = Clip("clip", "tiny", ClipSettings(workers=0))
    found = plan(encoder, recipe)
    assert found.parameters == sum(p.numel() for p in encoder.module.parameters())
    text = "\n".join(found.lines())
    assert "not included: activations, which depend on the model" in text


def test_what_is_printed() -> None:
    found, _ = planned("a100-qlora", processes=8)
    text = "\n".join(found.lines())
    for words in (
        "239,747,072 parameters in 506 tensors (6.0% of 3,994,632,320)",
        "saved: 959.0 MB",
        "frozen weights, quantised: 1.8 GB = 0.516 B x 3,441,197,056",
        "optimiser: 487.0 MB = 2 x (1 B + 4 B / 256) x 239,747,072",
        "36 layers x 4,096 B x 2,408",
        "no logits",
    ):
        assert words in text
    assert "steps" not in text


def test_steps_are_those_of_the_batches() -> None:
    class Ten:
        total = 10

    recipe = recipes.load("cpu-tiny")
    encoder = Planned("clamr", "tiny", ClamrSettings(workers=0))
    found = plan(encoder, recipe, Ten())  # type: ignore[arg-type]
    assert (found.steps, found.documents, found.queries) == (10, 320, 640)
    assert "steps: 10, with 320 documents and at most 640 queries" in "\n".join(found.lines())


def test_chunks_and_processes_share_the_documents() -> None:
    whole, recipe = planned("a100-lora")
    eighth, _ = planned("a100-lora", processes=8)
    assert "16 documents" in whole.memory["inputs of layers"].formula
    assert "2 documents" in eighth.memory["inputs of layers"].formula
    encoder = Planned("clamr", None, ClamrSettings())
    chunked = plan(encoder, recipe.model_copy(update={"batch": recipe.batch.model_copy(
        update={"chunk": 3})}))  # fmt: skip
    assert "3 documents" in chunked.memory["inputs of layers"].formula


# -------------------------------------------------- the formula, against autograd


def model_of(layers: int, recipe: Recipe, hidden: int, inner: int) -> LateInteraction:
    config = Qwen2_5_VLConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_scaling={
            "type": "default",
            "rope_type": "default",
            "mrope_section": [hidden // 32, 3 * hidden // 64, 3 * hidden // 64],
        },
        bos_token_id=None,
        eos_token_id=None,
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [0],
        },
    )
    model = LateInteraction(VL_FORM, Qwen2_5_VLModel(config).to(torch.bfloat16))
    add_lora(model, lora_targets(model), recipe)
    return model.train()


def kept(model: nn.Module, tokens: int) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes(), tensor  # alive: no address twice
        return tensor

    ids = torch.zeros((2, tokens // 2), dtype=torch.int64)
    positions = torch.arange(tokens // 2).expand(3, 2, -1).contiguous()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(Batch(ids, torch.ones_like(ids), positions))
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize(
    ("hidden", "inner", "rank", "dropout"),
    [(256, 1024, 16, 0.1), (512, 1024, 16, 0.1), (256, 2048, 64, 0.1), (256, 1024, 16, 0.0)],
)
def test_a_layer_keeps_what_the_formula_says(
    hidden: int, inner: int, rank: int, dropout: float
) -> None:
    recipe = recipes.load("a100-lora", {
        "adapter.rank": rank, "adapter.dropout": dropout, "gradient_checkpointing": False,
    })  # fmt: skip
    tokens = 256
    one, two = (model_of(layers, recipe, hidden, inner) for layers in (1, 2))
    found = kept(two, tokens) - kept(one, tokens)
    sizes = [sum(p.numel() for p in trainable(model).values()) for model in (one, two)]
    copies = 2 * (sizes[1] - sizes[0])
    decoder = Decoder(
        layers=1, hidden=hidden, intermediate=inner, document_tokens=0, query_tokens=0
    )
    said = layer_bytes(decoder, recipe, mask=4) * tokens + copies
    assert found == pytest.approx(said, rel=0.03)


def test_recomputing_keeps_the_inputs_of_layers() -> None:
    recipe = recipes.load("a100-lora", {"adapter.rank": 4})
    hidden, tokens = 256, 256
    one, three = (kept(model_of(n, recipe, hidden, 512), tokens) for n in (1, 3))
    assert (three - one) / 2 == pytest.approx(2 * hidden * tokens, rel=0.05)
