"""The real classes at tiny size, from a seed: for tests, demonstrations and training on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5OmniThinkerConfig, Qwen2VLConfig

from retrievers.qwen.backbone import CLASSES, LateInteraction
from retrievers.qwen.form import OMNI, VL, VL2, Form, Marks
from retrievers.qwen.tokens import Vocabulary

#: Holds the tokeniser.
FOLDER = Path(__file__).parent

#: Built-in weights and their form.
TINY = {"tiny": VL, "tiny-omni": OMNI, "tiny-2": VL2}

_HIDDEN = 128
_TEXT = {
    "hidden_size": _HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [4, 6, 6]},
}
_VISION = {
    "depth": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_heads": 4,
    "out_hidden_size": _HIDDEN,
    "fullatt_block_indexes": [1],
    "window_size": 112,
    "initializer_range": 0.05,
}
_VISION_2 = {
    "depth": 2,
    "embed_dim": 96,
    "hidden_size": _HIDDEN,
    "mlp_ratio": 2,
    "num_heads": 4,
    "initializer_range": 0.05,
}
_AUDIO = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "output_dim": _HIDDEN,
    "num_mel_bins": 128,
    "n_window": 100,
    "initializer_range": 0.05,
}
#: Standard deviation of the token embedding. With 0.3 the untrained model already matches equal
#: words; with the stock 0.02 it starts at chance.
_EMBEDDING_STD = 0.3


def tiny_config(form: Form) -> Any:
    """Return the configuration of a tiny backbone."""
    vocabulary = Vocabulary(FOLDER)
    size = vocabulary.size

    def ids(marks: Marks) -> tuple[int, int, int]:
        return vocabulary.id(marks.begin), vocabulary.id(marks.place), vocabulary.id(marks.end)

    begin, place, end = ids(form.video)
    common: dict[str, Any] = {"vision_start_token_id": begin, "vision_end_token_id": end}
    if form is VL2:
        return Qwen2VLConfig(
            **common,
            text_config={**_TEXT, "vocab_size": size},
            vision_config=_VISION_2,
            image_token_id=ids(form.image)[1],
            video_token_id=place,
        )
    if form is VL:
        return Qwen2_5_VLConfig(
            **common,
            text_config={**_TEXT, "vocab_size": size},
            vision_config={**_VISION, "tokens_per_second": 2},
            image_token_id=ids(form.image)[1],
            video_token_id=place,
        )
    sound_begin, sound, sound_end = ids(form.audio or form.video)
    # The configuration's own names are ..._index; it answers to ..._id too.
    return Qwen2_5OmniThinkerConfig(
        **common,
        text_config={**_TEXT, "vocab_size": size},
        vision_config=_VISION,
        audio_config=_AUDIO,
        image_token_index=ids(form.image)[1],
        video_token_index=place,
        audio_token_index=sound,
        audio_start_token_id=sound_begin,
        audio_end_token_id=sound_end,
        position_id_per_seconds=25,
    )


def tiny_model(weights: str, seed: int = 0) -> tuple[LateInteraction, Path]:
    """Return an untrained tiny model, and the folder of its tokeniser.

    Parameters
    ----------
    weights
        A key of `TINY`.
    seed
        What the values are drawn from; the process's own random state stays as it is.
    """
    form = TINY[weights]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LateInteraction(form, CLASSES[form.name](tiny_config(form)))
        nn.init.normal_(model.backbone.get_input_embeddings().weight, 0, _EMBEDDING_STD)
        nn.init.normal_(model.custom_text_proj.weight, 0, 0.02)
        nn.init.zeros_(model.custom_text_proj.bias)
    return model.eval(), FOLDER
