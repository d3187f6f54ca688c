"""Which weights of a module are trained: all, or LoRA layers beside frozen ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from harness.errors import PluginError, UsageError
from harness.training.recipe import AdapterRecipe, Recipe

#: Name that peft gives an adapter unless told otherwise.
_ADAPTER = "default"
_LISTED = 3


def add_lora(module: nn.Module, targets: Sequence[str], recipe: Recipe) -> list[str]:
    """Make a module ready to be trained by a recipe, in place.

    With ``adapter.kind: lora`` the `targets` get LoRA layers and all else is frozen; the layers of
    an adapter that the module was loaded with are trained on. With ``full`` everything is trained.
    What is trained is float32: in bfloat16 an update of 1e-5 of a weight rounds to nothing.

    The base may be quantised by bitsandbytes. Activations are recomputed without reentrance, which
    needs no gradients of the inputs.

    Parameters
    ----------
    module
        The module; on the meta device too.
    targets
        Names of its linear layers that take LoRA.
    recipe
        Its `adapter`, `seed` (of LoRA's first values) and `gradient_checkpointing`.

    Returns
    -------
    list of str
        Names of the tensors that are trained.

    Raises
    ------
    UsageError
        If the recipe asks for what the module cannot do.
    PluginError
        If `targets` are not linear layers of the module.
    """
    if recipe.adapter.kind == "full":
        _refuse_quantised(module)
        _freeze(module, recipe.adapter.frozen)
    else:
        present = lora_layers(module)
        if present:
            _take_up(present, recipe.adapter)
        else:
            _inject(module, targets, recipe)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(".lora_" in name)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recipe.gradient_checkpointing:
        _recompute(module)
    return list(trainable(module))


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _freeze(module: nn.Module, frozen: tuple[str, ...]) -> None:
    """Train all but the submodules whose names begin so."""
    parameters = dict(module.named_parameters())
    for beginning in frozen:
        if not any(name.startswith(beginning) for name in parameters):
            known = sorted({name.partition(".")[0] for name in parameters})
            raise UsageError(
                f"recipe.adapter.frozen: {type(module).__name__} has no weights that begin with "
                f"{beginning!r}; there are {', '.join(known)}."
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(not name.startswith(frozen))


def _inject(module: nn.Module, targets: Sequence[str], recipe: Recipe) -> None:
    known = dict(module.named_modules())
    strange = [name for name in targets if name not in known]
    if strange or not targets:
        named = f"{', '.join(strange[:_LISTED])} of lora_targets" if strange else "lora_targets"
        raise PluginError(
            f"{named} names no layer of {type(module).__name__}: return names of linear layers "
            "as named_modules() gives them, or use a recipe with adapter.kind: full."
        )
    # bitsandbytes warns of CPU kernels that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import peft

    if not hasattr(module, "base_model_prefix"):
        # peft asks every module for it that contains a `PreTrainedModel`.
        module.base_model_prefix = ""
    adapter = recipe.adapter
    alpha: Any = adapter.alpha  # peft says int, and takes any number
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=int(alpha) if adapter.alpha.is_integer() else alpha,
        lora_dropout=adapter.dropout,
        init_lora_weights="gaussian" if adapter.init == "gaussian" else True,
        target_modules=list(targets),
    )
    abstract = any(parameter.is_meta for parameter in module.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            peft.inject_adapter_in_model(config, module, low_cpu_mem_usage=abstract)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise PluginError(
                f"{type(module).__name__} cannot take LoRA on its lora_targets: {reason}"
            ) from error
    made = lora_layers(module)
    if made.keys() != set(targets):
        other = sorted(made.keys() ^ set(targets))
        raise PluginError(
            f"LoRA would change {', '.join(other[:_LISTED])} of {type(module).__name__} too: names "
            "of lora_targets must not be the ends of other layers' names."
        )
    # On the CPU peft's new layers would stay there, beside quantised weights on a GPU.
    for layer in made.values():
        layer.to(layer.get_base_layer().weight.device)


def _take_up(layers: dict[str, Any], adapter: AdapterRecipe) -> None:
    """Go on with the LoRA layers that are there."""
    for name, layer in layers.items():
        rank, alpha = layer.r[_ADAPTER], layer.lora_alpha[_ADAPTER]
        if (rank, alpha) != (adapter.rank, adapter.alpha):
            raise UsageError(
                f"the weights to start from are an adapter of rank {rank} and alpha {alpha:g} (at "
                f"{name}), and the recipe's is of rank {adapter.rank} and alpha "
                f"{adapter.alpha:g}: set recipe.adapter.rank and recipe.adapter.alpha to the "
                "adapter's, or start from its base."
            )
        dropout = adapter.dropout
        layer.lora_dropout[_ADAPTER] = nn.Dropout(dropout) if dropout else nn.Identity()


def lora_layers(module: nn.Module) -> dict[str, Any]:
    """Return the layers with LoRA, by name."""
    return {name: m for name, m in module.named_modules() if len(getattr(m, "lora_A", ()))}


def _refuse_quantised(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point() or type(parameter).__name__ == "Int8Params":
            raise UsageError(
                f"all weights are to be trained (adapter.kind: full), but {name} is quantised, "
                "which has no gradient: leave the setting quantise out, or use adapter.kind: lora."
            )


def _recompute(module: nn.Module) -> None:
    switches = list(_switches(module))
    if not switches:
        raise UsageError(
            f"gradient_checkpointing: {type(module).__name__} cannot recompute its activations; "
            "set recipe.gradient_checkpointing to false."
        )
    for switch in switches:
        switch({"use_reentrant": False})


def _switches(module: Any) -> Iterator[Any]:
    """Yield what makes the outermost models of transformers inside a module recompute."""
    # transformers 5.23 renames it, and warns of the old name.
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(module, name):
            yield getattr(module, name)
            return
    for child in module.children():
        yield from _switches(child)
