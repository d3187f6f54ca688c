"""Writing a model: an adapter of its base where only that was trained, else a whole checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from harness.training.lora import lora_layers
from retrievers.qwen.adapter import adapter_config, merged, save_adapter
from retrievers.qwen.backbone import LateInteraction
from retrievers.qwen.loading import Weights
from retrievers.qwen.names import PROJECTION
from retrievers.source import CONFIG, TOKENIZER, WEIGHTS, Source

#: What other programs read beside the tokeniser's file.
_TOKENIZER_CONFIG = "tokenizer_config.json"


def save(
    model: LateInteraction,
    folder: Path,
    weights: Weights | None,
    dtype: torch.dtype,
    *,
    tokenizer: Path,
    project: bool = True,
) -> None:
    """Write what loads again as the model.

    Parameters
    ----------
    model
        Perhaps with LoRA layers.
    folder
        Where; made if missing.
    weights
        The files that it was loaded from; None for a built-in model, which no adapter can name as
        its base.
    dtype
        Of a whole checkpoint's backbone.
    tokenizer
        Folder of the tokeniser.
    project
        Whether the projection is in use; one that is not is left out.
    """
    if weights is not None and only_lora(model):
        save_adapter(model, folder, adapter_config(model) | _base(weights.base), project=project)
        return
    save_checkpoint(model, folder, dtype, tokenizer=tokenizer, project=project)


def save_checkpoint(
    model: LateInteraction,
    folder: Path,
    dtype: torch.dtype,
    *,
    tokenizer: Path,
    project: bool = True,
) -> None:
    """Write a whole checkpoint, LoRA merged in and quantised weights as plain numbers.

    Its tensors have the backbone's own names, behind which the projection stands in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name.removeprefix("backbone."): tensor.to(
            torch.float32 if name.startswith(PROJECTION) else dtype
        )
        for name, tensor in merged(model).items()
        if project or not name.startswith(PROJECTION)
    }
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    for name in (TOKENIZER, _TOKENIZER_CONFIG):
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def only_lora(model: LateInteraction) -> bool:
    """Return whether LoRA layers are all that can have changed since the model was loaded."""
    return bool(lora_layers(model)) and not any(
        parameter.requires_grad
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    )


def _base(source: Source) -> dict[str, str | None]:
    """Return how an adapter names its base."""
    if source.commit:
        return {"base_model_name_or_path": source.name, "revision": source.commit}
    return {"base_model_name_or_path": str(source.folder.resolve()), "revision": None}
