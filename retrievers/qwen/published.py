"""The published architectures without their weights: what ``train --plan`` builds.

Configurations are those of the checkpoints' ``config.json``, as far as they determine tensors and
tokens, so that a plan needs no network and no download of 7 GB.
"""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from harness.errors import UsageError
from harness.quiet import quiet
from harness.training.plan import Blueprint, Decoder
from harness.types import Modality
from retrievers.device import Place
from retrievers.qwen.adapter import lora_targets
from retrievers.qwen.backbone import DIM, LateInteraction
from retrievers.qwen.checkpoint import blank, form_at
from retrievers.qwen.form import OMNI, VL, Family, Form
from retrievers.qwen.settings import QwenSettings
from retrievers.qwen.tiny import TINY, tiny_config
from retrievers.source import ADAPTER_CONFIG, Source

_TEXT = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_window_layers": 70,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "use_sliding_window": False,
}
_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_SECTIONS = [16, 24, 24]
#: Qwen/Qwen2.5-VL-3B-Instruct.
VL_3B = {
    "model_type": "qwen2_5_vl",
    **_TEXT,
    "max_position_embeddings": 128000,
    "rope_scaling": {"type": "mrope", "mrope_section": _SECTIONS},
    "tie_word_embeddings": True,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_config": {"model_type": "qwen2_5_vl", **_VISION, "tokens_per_second": 2},
}
#: Qwen/Qwen2.5-Omni-3B without its voice.
OMNI_3B = {
    "model_type": "qwen2_5_omni_thinker",
    "audio_token_index": 151646,
    "audio_start_token_id": 151647,
    "audio_end_token_id": 151648,
    "image_token_index": 151655,
    "video_token_index": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "user_token_id": 872,
    "position_id_per_seconds": 25,
    "seconds_per_chunk": 2,
    "audio_config": {
        "model_type": "qwen2_5_omni_audio_encoder",
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
        "n_window": 100,
        "max_source_positions": 1500,
        "output_dim": 2048,
    },
    "text_config": {
        "model_type": "qwen2_5_omni_text",
        **_TEXT,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": _SECTIONS},
    },
    "vision_config": {"model_type": "qwen2_5_omni_vision_encoder", **_VISION},
}
#: Hub ids of these backbones and of what is trained from them.
_KNOWN: dict[str, tuple[Form, dict[str, Any]]] = {
    **dict.fromkeys(
        (
            "Qwen/Qwen2.5-VL-3B-Instruct",
            "meetdavidwan/clamr",
            "vidore/colqwen2.5-base",
            "vidore/colqwen2.5-v0.2",
        ),
        (VL, VL_3B),
    ),
    **dict.fromkeys(
        ("Qwen/Qwen2.5-Omni-3B", "vidore/colqwen2.5omni-base", "vidore/colqwen-omni-v0.1"),
        (OMNI, OMNI_3B),
    ),
}

#: Bytes of a weight in NF4 with double quantisation: half a byte, a scale of one byte for each 64
#: and one of four bytes for each 256 of these. In 8 bits: a byte, and a scale of a row.
_NF4, _INT8 = 0.5 + 1 / 64 + 4 / (64 * 256), 1.0
#: Tokens of sound in a second.
_HEARD = 25
#: Most visual tokens of a page of the published ColQwen models, without a max_pixels.
_PAGE = {VL.name: 768, OMNI.name: 1024}
#: Tokens of a prompt around the content, the system's turn included: 14 (VL) to 52 (Omni).
_PROMPT = 52


def blueprint(weights: str | None, settings: QwenSettings, family: Family) -> Blueprint:
    """Return the model that weights and settings would give, on the meta device.

    Parameters
    ----------
    weights
        As an encoder's: a built-in name, a folder, a hub id, or None for the family's own.
    settings
        How it would be loaded and what it is given.
    family
        What it may be.

    Raises
    ------
    UsageError
        If the architecture of a hub id is not known here.
    """
    form, config = _architecture(weights or family.released, settings, family)
    model = blank(form, config, DIM)
    model.requires_grad_(requires_grad=False)
    layers = model.backbone.named_modules()
    packed = (f"backbone.{name}" for name, layer in layers if isinstance(layer, nn.Linear))
    text = model.config.text_config
    return Blueprint(
        module=model,
        targets=lora_targets(model),
        element=torch.finfo(Place.of(settings).dtype).bits / 8,
        quantised=frozenset(packed if settings.quantise else ()),
        quantised_element=_NF4 if settings.quantise == "4bit" else _INT8,
        decoder=Decoder(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            document_tokens=_tokens(model, settings),
            query_tokens=settings.query_length,
        ),
    )


def _architecture(address: str, settings: QwenSettings, family: Family) -> tuple[Form, Any]:
    if address in family.built_in:
        form = TINY[address]
        return form, tiny_config(form)
    folder = Path(address).expanduser()
    if folder.is_dir():
        source = Source(address, folder)
        if not source.is_adapter:
            return form_at(source, family)
        base = settings.base or source.read_json(ADAPTER_CONFIG).get("base_model_name_or_path")
        return _architecture(str(base), settings, family)
    if address not in _KNOWN:
        raise UsageError(
            f"the architecture of {address!r} is in its config.json, which a plan does not fetch: "
            f"give the folder of the checkpoint, or one of {', '.join(_KNOWN)}."
        )
    form, values = _KNOWN[address]
    with quiet():
        # transformers fills in what it is given.
        return form, AutoConfig.for_model(**deepcopy(values))


def _tokens(model: LateInteraction, settings: QwenSettings) -> int:
    """Return the most tokens of a document that has all that is read."""
    form, patching = model.form, model.patching
    reads = settings.encode_modalities or form.modalities
    tokens = _PROMPT
    if Modality.VIDEO in reads:
        seen = _PAGE.get(form.name, 0)
        if settings.max_pixels is not None:
            seen = math.ceil(settings.max_pixels / patching.factor**2)
        pages = getattr(settings, "frames_as", "video") == "pages"
        tokens += seen * (
            settings.frames if pages else math.ceil(settings.frames / patching.temporal)
        )
    if Modality.AUDIO in reads:
        tokens += math.ceil(_HEARD * settings.audio_seconds)
    texts = (Modality.OCR, Modality.ASR, Modality.DESCRIPTION)
    return tokens + sum(settings.length_of(text) for text in texts if text in reads)
