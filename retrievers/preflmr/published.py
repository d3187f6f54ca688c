"""The published architectures without their weights: what ``train --plan`` builds.

Values are those of the checkpoints' ``config.json``, as far as they determine tensors, so that a
plan needs no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.errors import UsageError
from harness.training.plan import Blueprint
from retrievers.device import place_of
from retrievers.preflmr.architecture import MODEL_TYPE, Architecture
from retrievers.preflmr.loading import RELEASED, architecture_of, blank
from retrievers.preflmr.settings import PreFLMRSettings
from retrievers.preflmr.tiny import tiny_architecture
from retrievers.source import CONFIG, Source

_COMMON: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "dim": 128,
    "mapping_network_prefix_length": 32,
    "mask_instruction_token": ":",
    "mask_punctuation": True,
    "separate_query_and_context_text_encoder": True,
    "use_transformer_mapping_network": True,
    "transformer_mapping_config_base": "bert-base-uncased",
    "transformer_mapping_num_hidden_layers": 1,
    "transformer_mapping_cross_attention_length": 32,
}
_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_G = {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "patch_size": 14,
    "hidden_act": "gelu",
}
#: By hub id. What is not said has the defaults of CLIP's and BERT's base sizes.
PUBLISHED: dict[str, dict[str, Any]] = {
    "LinWeizheDragon/PreFLMR_ViT-B": _COMMON,
    "LinWeizheDragon/PreFLMR_ViT-L": {**_COMMON, "vision_config": _L},
    "LinWeizheDragon/PreFLMR_ViT-G": {**_COMMON, "vision_config": _G},
    "LinWeizheDragon/FLMR": {
        "model_type": MODEL_TYPE,
        "dim": 128,
        "mapping_network_prefix_length": 32,
        # BERT's vocabulary and nine tokens more.
        "text_config": {"vocab_size": 30531},
    },
}


def blueprint(weights: str | None, settings: PreFLMRSettings) -> Blueprint:
    """Return the model that weights and settings would give, on the meta device.

    Parameters
    ----------
    weights
        As the encoder's: ``tiny``, a folder, a hub id, or None for the default.
    settings
        How it would be loaded.

    Raises
    ------
    UsageError
        If the architecture of a hub id is not known here.
    """
    model = blank(_architecture(weights or RELEASED))
    return Blueprint(
        module=model,
        targets=model.lora_targets(),
        element=torch.finfo(place_of(settings).dtype).bits / 8,
    )


def _architecture(address: str) -> Architecture:
    if address == "tiny":
        return tiny_architecture()
    folder = Path(address).expanduser()
    if folder.is_dir():
        return architecture_of(folder, Source(address, folder).read_json(CONFIG), address)
    if address not in PUBLISHED:
        raise UsageError(
            f"the architecture of {address!r} is in its config.json, which a plan does not fetch: "
            f"give the folder of the checkpoint, or one of {', '.join(PUBLISHED)}."
        )
    return published(address)


def published(hub_id: str) -> Architecture:
    """Return the architecture of a published checkpoint, a key of `PUBLISHED`."""
    return architecture_of(None, PUBLISHED[hub_id], hub_id)
