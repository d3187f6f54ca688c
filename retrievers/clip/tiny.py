"""The real classes at tiny size, from a seed: for tests, demonstrations and training on a CPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import CLIPConfig, SiglipConfig

from retrievers.clip.family import Family
from retrievers.clip.forms import FORMS
from retrievers.clip.texts import TOKENIZER_CONFIG, Marks, TextReader
from retrievers.clip.towers import Towers
from retrievers.qwen.tiny import FOLDER
from retrievers.source import TOKENIZER

#: Pixels a side. The sample's videos are no larger.
_SIDE = 64
_TOWER = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_VISION = {**_TOWER, "image_size": _SIDE, "patch_size": 16}
#: Byte-level, so it spells any language; made for other models, hence the names of its marks.
_BEGIN, _END = "<|im_start|>", "<|endoftext|>"
_SQUARE = {"height": _SIDE, "width": _SIDE}
_IMAGES = {
    "clip": {"size": {"shortest_edge": _SIDE}, "crop_size": _SQUARE},
    "siglip": {"size": _SQUARE},
}
_CONFIGS = {"clip": (CLIPConfig, 77), "siglip": (SiglipConfig, 64)}


def tiny_towers(family: Family, seed: int = 0) -> Towers:
    """Return an untrained tiny model with 0.8 million parameters.

    Parameters
    ----------
    family
        Whose class it is.
    seed
        What the values are drawn from; the process's own random state stays as it is.
    """
    form = FORMS[family.name]
    config_class, length = _CONFIGS[family.name]
    marks = Marks(_BEGIN if form.begins else None, _END, _END)
    reader = TextReader(Tokenizer.from_file(str(FOLDER / TOKENIZER)), form, length, marks)
    text: dict[str, Any] = {
        **_TOWER,
        "vocab_size": reader.size,
        "max_position_embeddings": length,
        "bos_token_id": None,
        "eos_token_id": reader.end,
        "pad_token_id": reader.end,
    }
    options = {"projection_dim": _TOWER["hidden_size"]} if family.name == "clip" else {}
    config = config_class(text_config=text, vision_config=_VISION, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = form.model(config)
    return Towers(model.eval(), form.images(**_IMAGES[family.name]), reader)


def write_texts(family: Family, folder: Path) -> None:
    """Write the tokeniser's files as checkpoints have them."""
    shutil.copyfile(FOLDER / TOKENIZER, folder / TOKENIZER)
    told = {"eos_token": _END, "pad_token": _END}
    if FORMS[family.name].begins:
        told["bos_token"] = _BEGIN
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
