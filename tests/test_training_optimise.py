"""Optimisers and schedules: against transformers' own, and states that come back bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    Trainer,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from harness.errors import UsageError
from harness.training import checkpoint
from harness.training.optimise import make_optimiser, schedule
from harness.training.recipe import OptimiserRecipe, Recipe
from retrievers.clip.family import CLIP
from retrievers.clip.tiny import tiny_towers
from retrievers.qwen.tiny import tiny_model

NAMES = ("adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit")

torch.set_num_threads(1)


class Small(nn.Module):  # type: ignore[misc]
    """A matrix whose state is quantised, one that is too small for it, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(80, 96)
        self.norm = nn.LayerNorm(96)
        self.last = nn.Linear(96, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.norm(self.first(inputs))))


def optimiser_of(model: nn.Module, name: str, **values: Any) -> torch.optim.Optimizer:
    if name != "adamw":
        pytest.importorskip("bitsandbytes")
    recipe = OptimiserRecipe.model_validate({"name": name, "lr": 0.01, **values})
    return make_optimiser(recipe, model.named_parameters())


def steps(model: nn.Module, optimiser: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        inputs = torch.randn(8, 80, generator=torch.Generator().manual_seed(number))
        optimiser.zero_grad()
        model(inputs).square().mean().backward()
        for group in optimiser.param_groups:
            group["lr"] = 0.01 / (1 + number)
        optimiser.step()


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_plain_tensors_and_json_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = Small()
    optimiser = optimiser_of(whole, name)
    steps(whole, optimiser, range(3))
    saved = checkpoint.save(tmp_path, 3, dict(whole.named_parameters()), optimiser, {})
    steps(whole, optimiser, range(3, 6))

    resumed = Small()
    again = optimiser_of(resumed, name)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.path == saved.path
    found.restore(dict(resumed.named_parameters()), again)
    steps(resumed, again, range(3, 6))
    for (label, mine), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, other), label
    for mine, other in zip(_tensors(optimiser), _tensors(again), strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


def _tensors(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    rows = optimiser.state_dict()["state"].values()
    return [torch.as_tensor(value) for row in rows for value in row.values()]


@pytest.mark.parametrize("name", NAMES)
def test_they_all_are_adam(name: str) -> None:
    """The same first steps as torch's AdamW, up to the rounding of 8-bit states."""
    reference, model = Small(), Small()
    steps(reference, optimiser_of(reference, "adamw"), range(3))
    steps(model, optimiser_of(model, name), range(3))
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        moved = (other - mine).abs().max()
        assert moved <= (1e-6 if name in ("adamw", "paged_adamw_32bit") else 5e-3)
    optimiser = optimiser_of(model, name)
    steps(model, optimiser, range(1))
    packed = [t for t in _tensors(optimiser) if t.dtype == torch.uint8]
    assert bool(packed) == name.endswith("8bit")


def test_only_matrices_decay() -> None:
    optimiser = optimiser_of(Small(), "adamw", weight_decay=0.3, betas=(0.8, 0.9))
    found = {(p.ndim, g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert found == {(2, 0.3), (1, 0.0)}
    assert all(group["betas"] == (0.8, 0.9) for group in optimiser.param_groups)


@pytest.mark.parametrize("model", ["clamr", "clip"])
def test_what_decays_is_what_the_hugging_face_trainer_lets_decay(model: str) -> None:
    """It goes by names, and misses norms and vectors of other names: ours spares those too."""
    module = tiny_model("tiny")[0] if model == "clamr" else tiny_towers(CLIP).model
    optimiser = optimiser_of(module, "adamw", weight_decay=0.3)
    decay = {id(p) for g in optimiser.param_groups if g["weight_decay"] for p in g["params"]}
    named = dict(module.named_parameters())
    ours = {name for name, parameter in named.items() if id(parameter) in decay}
    theirs = set(Trainer.get_decay_parameter_names(None, module))
    assert ours == {name for name in theirs if named[name].ndim >= 2}
    assert ours


def test_parameters_without_vectors_make_one_group() -> None:
    optimiser = make_optimiser(OptimiserRecipe(), [("a", nn.Parameter(torch.ones(2, 2)))])
    assert len(optimiser.param_groups) == 1


def test_an_optimiser_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        UsageError, match=r"paged_adamw_8bit needs bitsandbytes.*clamr-bench\[train"
    ):
        make_optimiser(OptimiserRecipe(name="paged_adamw_8bit"), Small().named_parameters())


# ------------------------------------------------------------------- schedules


def factors(total: int, **values: Any) -> list[float]:
    factor = schedule(Recipe.model_validate({"optimiser": values}), total)
    return [factor(step) for step in range(total)]


def of_transformers(make: Any, total: int, **arguments: Any) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    found = make(optimiser, **arguments)
    return [found.lr_lambdas[0](step) for step in range(total)]


@given(total=st.integers(1, 200), warmup=st.integers(1, 250), final=st.sampled_from([0.0, 0.02]))
def test_schedules_are_those_of_transformers(total: int, warmup: int, final: float) -> None:
    numbers = {"num_warmup_steps": warmup, "num_training_steps": total}
    linear = of_transformers(get_linear_schedule_with_warmup, total, **numbers)
    assert factors(total, schedule="linear", warmup=warmup) == pytest.approx(linear)
    cosine = of_transformers(get_cosine_schedule_with_warmup, total, **numbers)
    assert factors(total, schedule="cosine", warmup=warmup) == pytest.approx(cosine, abs=1e-12)
    ending = of_transformers(
        get_cosine_with_min_lr_schedule_with_warmup, total, **numbers, min_lr_rate=final
    )
    mine = factors(total, schedule="cosine", warmup=warmup, final=final)
    assert mine == pytest.approx(ending, abs=1e-12)
    flat = of_transformers(get_constant_schedule_with_warmup, total, num_warmup_steps=warmup)
    assert factors(total, schedule="constant", warmup=warmup) == pytest.approx(flat)


def test_a_share_of_warm_up_is_rounded_up_as_by_the_trainer() -> None:
    assert factors(25, warmup=0.1, schedule="constant")[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_without_warm_up_it_begins_at_the_top_and_ends_at_the_final_share() -> None:
    for name in ("linear", "cosine"):
        found = factors(100, warmup=0, schedule=name, final=0.25)
        assert found[0] == 1
        assert found == sorted(found, reverse=True)
        factor = schedule(
            Recipe.model_validate({"optimiser": {"warmup": 0, "schedule": name, "final": 0.25}}),
            100,
        )
        assert factor(100) == factor(1000) == pytest.approx(0.25)
