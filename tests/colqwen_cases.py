"""Tiny random checkpoints of the ColQwen family in the layouts in which they are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import ColQwen2Config, ColQwen2ForRetrieval

from retrievers.colqwen.encoder import ColQwen
from retrievers.colqwen.settings import ColQwenSettings
from retrievers.qwen.adapter import inject, lora_targets
from retrievers.qwen.backbone import LateInteraction
from retrievers.qwen.form import OMNI, VL, VL2, Form
from retrievers.qwen.tiny import FOLDER, tiny_config, tiny_model
from retrievers.source import TOKENIZER

torch.set_num_threads(1)

BUILT_IN = {VL2: "tiny-2", VL: "tiny", OMNI: "tiny-omni"}
DIM = 64
RANK = 4


def colqwen(weights: str | Path, **settings: Any) -> ColQwen:
    """An encoder that decodes in this process."""
    return ColQwen("colqwen", str(weights), ColQwenSettings(**{"workers": 0, **settings}))


def stock_checkpoint(form: Form, folder: Path) -> ColQwen2ForRetrieval:
    """Save transformers' own ColQwen2 around a backbone, as ``-hf`` checkpoints are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = ColQwen2Config(vlm_config=tiny_config(form), embedding_dim=DIM)
        model = ColQwen2ForRetrieval(config)
        for parameter in model.parameters():
            # Alone, the stock draw leaves vectors nearly parallel.
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    shutil.copy(FOLDER / TOKENIZER, folder)
    return model.eval()


def old_name(name: str) -> str:
    """The name that a tensor of ours has in files of colpali-engine (transformers up to 4.51)."""
    name = name.removeprefix("backbone.")
    return name.replace("language_model.", "model.", 1)


def base_checkpoint(form: Form, folder: Path) -> LateInteraction:
    """Save a base of colpali-engine: the backbone in old names, its projection beside it."""
    model, _ = tiny_model(BUILT_IN[form], seed=5)
    folder.mkdir()
    state = {old_name(name): tensor for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    shutil.copy(FOLDER / TOKENIZER, folder)
    return model


def adapter(form: Form, base: str, folder: Path) -> dict[str, torch.Tensor]:
    """Save an adapter of colpali-engine, and return its tensors by our names."""
    model, _ = tiny_model(BUILT_IN[form], seed=5)
    config = {"r": RANK, "lora_alpha": 8, "base_model_name_or_path": base, "peft_type": "LORA"}
    inject(model, config, lora_targets(model))
    ours = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            generator = torch.Generator().manual_seed(len(name))
            ours[name.replace(".default", "")] = parameter.detach().normal_(generator=generator)
    folder.mkdir()
    state = {f"base_model.model.{old_name(n)}": t.contiguous() for n, t in ours.items()}
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    pattern = "(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$"
    config["target_modules"] = pattern + "|.*(custom_text_proj).*$)"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return ours
