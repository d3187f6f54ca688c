"""Which weights are trained: LoRA on named layers, over quantised bases too, or all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.errors import PluginError, UsageError
from harness.training import recipes
from harness.training.lora import add_lora, trainable
from harness.training.optimise import make_optimiser, schedule
from harness.training.recipe import Recipe
from retrievers.clip.family import CLIP
from retrievers.clip.tiny import tiny_towers
from tests.clamr_cases import ADAPTER, VL, clamr, documents, queries


def recipe(**adapter: Any) -> Recipe:
    checkpointing = adapter.pop("gradient_checkpointing", False)
    values = {"rank": 4, "alpha": 4, "dropout": 0.0, **adapter}
    return Recipe.model_validate(
        {"adapter": values, "gradient_checkpointing": checkpointing, "seed": 3}
    )


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def toy_loss(encoder: Any, folder: Path) -> torch.Tensor:
    """InfoNCE over token_max, by the obvious einsum."""
    vectors, _ = encoder.forward_documents(documents(folder)[:3])
    asked, _ = encoder.forward_queries(queries()[:3])
    scores = torch.einsum("qid,cjd->qcij", asked, vectors).amax(-1).mean(-1) / 0.02
    return nn.functional.cross_entropy(scores.float(), torch.arange(3))


# ---------------------------------------------------------- the recipe's pieces together


@pytest.mark.parametrize("name", ["a100-qlora", "a100-lora"])
def test_the_published_recipe_trains_its_adapter_alone(name: str, tmp_path: Path) -> None:
    """4 bits (or bf16), LoRA, the paged optimiser, autocast, recomputation: on a CPU."""
    pytest.importorskip("bitsandbytes")
    chosen = recipes.load(name, {"optimiser.warmup": 0})
    # The pixels and texts of the small checkpoint's documents; precision is the recipe's.
    keys = ("quantise", "dtype", "frames")
    settings = {key: chosen.settings["clamr"].get(key) for key in keys}
    encoder = clamr(VL, **settings)
    module = encoder.module
    kinds = {type(layer).__name__ for layer in module.backbone.modules()}
    assert ("Linear4bit" in kinds) == (name == "a100-qlora")
    names = add_lora(module, encoder.lora_targets(), chosen)
    assert len(names) == 2 * len(encoder.lora_targets())
    assert names == list(trainable(module))
    assert {parameter.dtype for parameter in trainable(module).values()} == {torch.float32}
    assert not any("visual" in n for n in names)
    before = copies(module)
    optimiser = make_optimiser(chosen.optimiser, trainable(module).items())
    factor = schedule(chosen, 3)
    module.train()
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = toy_loss(encoder, tmp_path)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable(module).values(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = chosen.optimiser.lr * factor(step)
        optimiser.step()
        losses.append(loss.item())
    assert all(torch.isfinite(torch.tensor(losses)))
    changed = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(names)


@pytest.mark.parametrize("settings", [{}, {"quantise": "4bit"}, {"quantise": "8bit"}])
def test_training_lowers_the_loss(settings: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    encoder = clamr(VL, **settings)
    add_lora(encoder.module, encoder.lora_targets(), recipe(rank=8))
    optimiser = torch.optim.Adam(trainable(encoder.module).values(), lr=0.01)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = toy_loss(encoder, tmp_path)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_recomputed_activations_give_the_same_gradients(tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        encoder = clamr(VL)
        chosen = recipe(dropout=0.2, gradient_checkpointing=checkpointing)
        add_lora(encoder.module, encoder.lora_targets(), chosen)
        encoder.module.train()
        torch.manual_seed(0)
        toy_loss(encoder, tmp_path).backward()
        found.append({n: p.grad for n, p in trainable(encoder.module).items()})
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
    assert any(bool(g.any()) for n, g in found[1].items() if ".layers.0." in n and "lora_B" in n)


# ------------------------------------------------------------------------ LoRA


def test_new_layers_change_nothing_at_first_and_are_drawn_from_the_seed() -> None:
    plain = clamr(VL).encode_queries(queries()).vectors
    drawn = []
    for number in (1, 2):
        encoder = clamr(VL)
        targets = encoder.lora_targets()
        torch.manual_seed(number)
        state = torch.random.get_rng_state()
        add_lora(encoder.module, targets, recipe())
        assert torch.equal(torch.random.get_rng_state(), state)
        drawn.append(copies(encoder.module))
        assert (encoder.encode_queries(queries()).vectors == plain).all()
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_gaussian_layers_have_the_reference_s_deviation() -> None:
    module = nn.Sequential(nn.Linear(4000, 8))
    add_lora(module, ["0"], recipe(rank=16))
    a, b = module[0].lora_A["default"].weight, module[0].lora_B["default"].weight
    assert a.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert not b.any()
    module = nn.Sequential(nn.Linear(4000, 8))
    add_lora(module, ["0"], recipe(rank=16, init="kaiming"))
    assert module[0].lora_A["default"].weight.abs().max().item() <= 4000**-0.5


def test_the_scale_is_alpha_over_rank() -> None:
    module = nn.Sequential(nn.Linear(8, 8))
    add_lora(module, ["0"], recipe(rank=4, alpha=6))
    assert module[0].scaling["default"] == 1.5


def test_a_module_of_anyone_takes_it() -> None:
    """Without what peft asks of modules that contain a model of transformers."""

    class Wrapper(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = clamr(VL).module.backbone

    module = Wrapper()
    target = "model.language_model.layers.0.self_attn.q_proj"
    assert add_lora(module, [target], recipe()) == [
        f"{target}.lora_{half}.default.weight" for half in "AB"
    ]


def test_clip_takes_it_too() -> None:
    towers = tiny_towers(CLIP)
    targets = towers.lora_targets()
    assert len(add_lora(towers.model, targets, recipe())) == 2 * len(targets)


def test_the_layers_of_a_loaded_adapter_are_trained_on() -> None:
    encoder = clamr(ADAPTER, base=str(VL))
    before = copies(encoder.module)
    names = add_lora(encoder.module, encoder.lora_targets(), recipe(dropout=0.25))
    assert names
    after = copies(encoder.module)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    dropouts = {
        m.lora_dropout["default"].p for m in encoder.module.modules() if hasattr(m, "lora_dropout")
    }
    assert dropouts == {0.25}


@pytest.mark.parametrize("other", [{"rank": 8}, {"alpha": 99.0}])
def test_an_adapter_of_another_rank_or_scale_is_refused(other: dict[str, float]) -> None:
    encoder = clamr(ADAPTER, base=str(VL))
    with pytest.raises(UsageError, match=r"adapter of rank 4 and alpha 4.*recipe\.adapter\.rank"):
        add_lora(encoder.module, encoder.lora_targets(), recipe(**other))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([], "names no layer of Sequential"),
        (["0", "9"], "9 of lora_targets names no layer"),
        (["1"], "cannot take LoRA"),
    ],
)
def test_targets_that_cannot_be(targets: list[str], words: str) -> None:
    with pytest.raises(PluginError, match=words):
        add_lora(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), targets, recipe())


def test_a_target_that_is_the_end_of_another_layer_s_name() -> None:
    module = nn.ModuleDict(
        {"proj": nn.Linear(4, 4), "in": nn.ModuleDict({"proj": nn.Linear(4, 4)})}
    )
    with pytest.raises(PluginError, match=r"would change in\.proj"):
        add_lora(module, ["proj"], recipe())


# ------------------------------------------------------------------------- all


def test_all_weights() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to(torch.bfloat16)
    module.requires_grad_(requires_grad=False)
    names = add_lora(module, [], recipe(kind="full"))
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_parts_that_keep_their_weights() -> None:
    module = nn.ModuleDict({"text": nn.Linear(4, 4), "vision": nn.Linear(4, 4)})
    assert add_lora(module, [], recipe(kind="full", frozen=["vision."])) == [
        "text.weight", "text.bias",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no weights that begin with 'sound'; there are text, vis"):
        add_lora(module, [], recipe(kind="full", frozen=["sound"]))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_all_weights_of_a_quantised_base_are_refused(bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    encoder = clamr(VL, quantise=bits)
    with pytest.raises(UsageError, match=r"is quantised.*adapter\.kind: lora"):
        add_lora(encoder.module, encoder.lora_targets(), recipe(kind="full"))


def test_a_model_that_cannot_recompute() -> None:
    with pytest.raises(UsageError, match="cannot recompute"):
        add_lora(nn.Sequential(nn.Linear(4, 4)), ["0"], recipe(gradient_checkpointing=True))
