"""LoRA adapters: the released one under its old names, and our own with their projection."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.errors import PluginError
from harness.training.lora import lora_layers
from retrievers.qwen.backbone import LateInteraction
from retrievers.qwen.form import Family
from retrievers.qwen.names import PROJECTION, form_called, form_of, here
from retrievers.source import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Source,
    headers,
    listed,
    metadata,
    opened,
)

#: Base weights of the projection, beside an adapter of ours.
PROJECTION_FILE = "projection.safetensors"

#: Linear layers of a decoder layer, all of which the published models adapt.
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: Before every name in an adapter's file.
PREFIX = "base_model.model."
#: The name that peft gives an adapter.
_ADAPTER = "default"
#: Parameters of bitsandbytes.
_QUANTISED = ("Params4bit", "Int8Params")
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<half>[AB])\.weight$")


def _peft() -> Any:
    """Import peft, without the note of bitsandbytes that it lacks kernels nothing here needs."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import peft

    return peft


def merged(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all tensors as they would be without LoRA layers and quantisation.

    Returns
    -------
    dict
        By the names of the plain model, on the CPU, contiguous. The model stays as it is.
    """
    modules = dict(model.named_modules())
    saved = model.state_dict().keys()
    state: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        quantised = type(parameter).__name__ in _QUANTISED
        owner = modules[name.rpartition(".")[0]]
        state[name.replace(".base_layer.", ".")] = _plain_weight(owner) if quantised else parameter
    state |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    for name, layer in lora_layers(model).items():
        weight = state[f"{name}.weight"]
        delta = layer.get_delta_weight(_ADAPTER).to(weight.device)
        state[f"{name}.weight"] = weight.float() + delta.float()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _plain_weight(layer: nn.Module) -> torch.Tensor:
    _peft()
    from peft.utils.integrations import dequantize_module_weight

    weight: torch.Tensor = dequantize_module_weight(layer)
    return weight


def lora_targets(model: LateInteraction, *, project: bool = True) -> list[str]:
    """Return the modules that take LoRA: every linear layer of the language model, the projection.

    With `project` false not the projection, which then takes part in nothing.


    The reference's pattern ``.*(model).*`` means the same under the names of its time. Under later
    names it hits the vision tower too.
    """
    inside = re.compile(rf"^backbone\.language_model\..*\.({'|'.join(LAYERS)})$")
    return [
        name
        for name, _ in model.named_modules()
        if inside.match(name) or (project and name == PROJECTION)
    ]


def load_adapter(model: LateInteraction, source: Source, family: Family) -> None:
    """Put an adapter onto a base model.

    Raises
    ------
    PluginError
        If the adapter is of another kind, form or size, or lacks a tensor, or has one too many;
        the message names them.
    """
    file = source.folder / ADAPTER_WEIGHTS
    found = headers([file])
    config = source.read_json(ADAPTER_CONFIG)
    names = [name.removeprefix(PREFIX) for name in found]
    called = form_called(str(config.get("base_model_name_or_path") or ""))
    guessed = form_of(names, family) or called or model.form
    _check_form(model, source, metadata(file).get("form", guessed.name))
    if config.get("peft_type") != "LORA":
        raise PluginError(
            f"{source.name} is an adapter of kind {config.get('peft_type')!r}: only LORA is read."
        )
    named: dict[str, str] = {}
    for name in found:
        target = here(name.removeprefix(PREFIX))
        if target is not None:
            named[name] = target
    _account(model, source, config, {t: found[n][1] for n, t in named.items()}, named)
    modules = sorted({match["module"] for t in named.values() if (match := _LORA.match(t))})
    inject(model, config, modules)
    with opened(file) as tensors:
        state = {PREFIX + target: tensors.get_tensor(name) for name, target in named.items()}
    _peft().set_peft_model_state_dict(model, state)
    _look_up(model, source, state)


def inject(model: LateInteraction, config: Mapping[str, Any], modules: Iterable[str]) -> None:
    """Add LoRA layers of a configuration's rank and scale to `modules`, in place."""
    peft = _peft()
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=config["r"],
            lora_alpha=config["lora_alpha"],
            lora_dropout=config.get("lora_dropout", 0.0),
            use_rslora=config.get("use_rslora", False),
            init_lora_weights=False,
            target_modules=list(modules),
        ),
        model,
    )
    # peft makes its layers in float32 on the CPU: they follow their base layer's device.
    for name, module in model.named_modules():
        if name in set(modules):
            module.to(module.get_base_layer().weight.device)
    model.eval()


def adapter_config(model: nn.Module) -> dict[str, Any]:
    """Return the configuration that the LoRA layers of a model were made with.

    Raises
    ------
    PluginError
        If they differ in rank, scale or dropout, which one configuration cannot say.
    """
    layers = lora_layers(model)
    kinds = set()
    for layer in layers.values():
        rank, alpha = layer.r[_ADAPTER], layer.lora_alpha[_ADAPTER]
        dropout = getattr(layer.lora_dropout[_ADAPTER], "p", 0.0)
        # Where the scale is not alpha / rank it is alpha over the root of the rank.
        rooted = not math.isclose(layer.scaling[_ADAPTER], alpha / rank)
        kinds.add((rank, alpha, dropout, rooted))
    if len(kinds) != 1:
        raise PluginError(
            f"the LoRA layers differ in (rank, alpha, dropout, rslora): {sorted(kinds)}. An "
            "adapter has one of each: train all layers alike."
        )
    ((rank, alpha, dropout, rooted),) = kinds
    return {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "use_rslora": rooted,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
    }


def save_adapter(
    model: LateInteraction, folder: Path, config: Mapping[str, Any], *, project: bool = True
) -> None:
    """Write the adapter on `model`, and the projection's base weights that it belongs to.

    Parameters
    ----------
    model
        With LoRA layers.
    folder
        Where; made if missing.
    config
        The adapter's configuration: rank, scale, base checkpoint.
    project
        Whether the projection is in use; one that is not, and has no LoRA, is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        PREFIX + name: tensor.detach().cpu().contiguous()
        for name, tensor in _peft().get_peft_model_state_dict(model).items()
    }
    save_file(state, folder / ADAPTER_WEIGHTS, {"form": model.form.name})
    linear = model.custom_text_proj
    base = linear.get_base_layer() if hasattr(linear, "get_base_layer") else linear
    if project or base is not linear:
        values = {f"{PROJECTION}.{n}": t.cpu().contiguous() for n, t in base.state_dict().items()}
        save_file(values, folder / PROJECTION_FILE)
    written = {"peft_type": "LORA", "target_modules": [*LAYERS, PROJECTION], **config}
    text = json.dumps(written, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def _check_form(model: LateInteraction, source: Source, said: str) -> None:
    if said != model.form.name:
        raise PluginError(
            f"adapter {source.name} was trained on the {said} form, and the base checkpoint is of "
            f"the {model.form.name} form: set base to the checkpoint that its {ADAPTER_CONFIG} "
            "names."
        )


def _account(
    model: LateInteraction,
    source: Source,
    config: Mapping[str, Any],
    found: Mapping[str, tuple[int, ...]],
    named: Mapping[str, str],
) -> None:
    """Hold the adapter's tensors against the layers that it says it adapts."""
    layers = {
        name: module for name, module in model.named_modules() if hasattr(module, "in_features")
    }
    wanted = _wanted(config, layers, found)
    rank = config["r"]
    expected = {
        f"{name}.lora_{half}.weight": (rank, layers[name].in_features)
        if half == "A"
        else (layers[name].out_features, rank)
        for name in wanted
        for half in "AB"
    }
    origin = {target: name for name, target in named.items()}
    missing = expected.keys() - found.keys()
    unknown = [origin[target] for target in found.keys() - expected.keys()]
    other = [
        f"{origin[target]} {found[target]} for {shape}"
        for target, shape in expected.items()
        if target in found and found[target] != shape
    ]
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (
            ("missing", missing), ("fit no layer", unknown), ("of another shape", other)
        )
        if names
    ]  # fmt: skip
    if problems:
        raise PluginError(
            f"adapter {source.name} does not fit its base checkpoint. Tensors "
            f"{'; tensors '.join(problems)}. Nothing was loaded: fetch the adapter again, or set "
            f"base to the checkpoint that its {ADAPTER_CONFIG} names "
            f"({config.get('base_model_name_or_path')})."
        )


def _wanted(config: Mapping[str, Any], layers: Mapping[str, Any], found: Iterable[str]) -> set[str]:
    """Return the layers that the adapter must have tensors for.

    Those of the language model and the projection that its configuration mentions, and all layers
    of any kind of which it has one: an adapter has a layer for each depth or for none.
    """
    said = config.get("target_modules") or ""
    mentioned = said if isinstance(said, str) else " ".join(said)
    wanted = {
        name
        for name in layers
        if name.startswith("backbone.language_model.") and name.rpartition(".")[2] in mentioned
    }
    if PROJECTION in mentioned:
        wanted.add(PROJECTION)
    kinds = {_kind(match["module"]) for name in found if (match := _LORA.match(name))}
    return wanted | {name for name in layers if _kind(name) in kinds}


def _kind(module: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", module)


def _look_up(model: LateInteraction, source: Source, state: Mapping[str, torch.Tensor]) -> None:
    """Compare what is on the model with the file, whole: an adapter is small."""
    landed = _peft().get_peft_model_state_dict(model)
    strangers = [
        name
        for name, tensor in state.items()
        if (mine := landed.get(name.removeprefix(PREFIX))) is None
        or not torch.equal(tensor.to(mine.dtype), mine.cpu())
    ]
    if strangers:
        raise PluginError(
            f"adapter {source.name}: {listed(strangers)} did not land in the model. This is a "
            "fault of loading, not of the file: use the pinned version of peft (constraints.txt)."
        )


def read_projection(file: Path) -> dict[str, torch.Tensor]:
    """Return ``{weight, bias}`` of a projection file.

    Raises
    ------
    PluginError
        If the file is missing, broken, or holds something else.
    """
    headers([file])
    state = {name.removeprefix(f"{PROJECTION}."): t for name, t in load_file(file).items()}
    if state.keys() != {"weight", "bias"}:
        raise PluginError(
            f"{file} holds {listed(state)}: a projection file has {PROJECTION}.weight and "
            f"{PROJECTION}.bias."
        )
    return state
