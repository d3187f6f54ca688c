"""Optimisers and schedules of a recipe."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from harness.errors import UsageError
from harness.training.recipe import OptimiserRecipe, Recipe


def make_optimiser(
    recipe: OptimiserRecipe, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """Return the optimiser of some parameters.

    Weight decay is for matrices. Biases, weights of norms and other tensors of fewer than two
    dimensions have none. That is the rule of the Hugging Face Trainer, which CLaMR's code uses; but
    the Trainer goes by names, and lets decay what it does not know: norms called ``norm1`` in
    Qwen's vision tower, CLIP's class token. With LoRA there is no difference.

    The state consists of tensors and numbers, one level deep, so that it can be kept without
    pickle.

    Parameters
    ----------
    recipe
        Which optimiser, and its values.
    named_parameters
        What it trains, by name; always in the same order, or a kept state fits nothing.

    Raises
    ------
    UsageError
        If it is one of bitsandbytes, which is not installed.
    """
    parameters = [parameter for _, parameter in named_parameters]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if recipe.name == "adamw" else _of_bitsandbytes(recipe.name)
    made: torch.optim.Optimizer = kind(
        [group for group in groups if group["params"]], lr=recipe.lr, betas=recipe.betas
    )
    return made


def schedule(recipe: Recipe, total: int) -> Callable[[int], float]:
    """Return the share of the learning rate at each step, counted from 0.

    A linear warm-up, then the recipe's schedule down to its `final` share. As in transformers, the
    warm-up begins at 0 and a share of the steps is rounded up.

    Parameters
    ----------
    recipe
        Which schedule.
    total
        Steps of the training.
    """
    chosen = recipe.optimiser
    share = chosen.warmup < 1
    warmup = math.ceil(chosen.warmup * total) if share else round(chosen.warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if chosen.schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        left = 1 - done if chosen.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return chosen.final + (1 - chosen.final) * left

    return factor


def _of_bitsandbytes(name: str) -> Any:
    """Return an optimiser class of bitsandbytes whose state is flat."""
    # It warns of CPU kernels that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        optim: Any = import_module("bitsandbytes").optim
    except ImportError:
        raise UsageError(
            f"optimiser {name} needs bitsandbytes: pip install 'clamr-bench[train]', or take "
            "another (--set recipe.optimiser.name=adamw)."
        ) from None
    base = {
        "adamw_8bit": optim.AdamW8bit,
        "paged_adamw_8bit": optim.PagedAdamW8bit,
        "paged_adamw_32bit": optim.PagedAdamW32bit,
    }[name]

    class Flat(base):  # type: ignore[valid-type, misc]  # bitsandbytes is not typed
        """The optimiser, with a state that can be kept as plain tensors."""

        def state_dict(self) -> dict[str, Any]:
            # Its own nests the quantised tensors one level deeper, for FSDP.
            state: dict[str, Any] = torch.optim.Optimizer.state_dict(self)
            return state

        def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any) -> None:
            super().load_state_dict(state_dict)
            # Loaded tensors are ordinary ones: what was paged must be so again.
            for parameter, state in self.state.items():
                for key in ("state1", "state2"):
                    buffer = self.get_state_buffer(parameter, dtype=state[key].dtype)
                    state[key] = buffer.copy_(state[key])

        def get_state_buffer(self, *arguments: Any, **options: Any) -> torch.Tensor:
            with warnings.catch_warnings():
                # On a CPU there is nothing to page out from, which is no news.
                warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
                buffer: torch.Tensor = super().get_state_buffer(*arguments, **options)
            return buffer

    return Flat
