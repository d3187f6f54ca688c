"""The real classes at tiny size, from a seed: for tests, demonstrations and training on a CPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertModel

from retrievers.preflmr.architecture import MODEL_TYPE, Architecture
from retrievers.preflmr.model import PreFLMRModel
from retrievers.preflmr.wordpieces import DOCUMENTS, QUERIES, TOKENIZER_CONFIG, VOCABULARY
from retrievers.source import CONFIG

#: Holds the tokeniser, which is the same for queries and documents.
FOLDER = Path(__file__).parent

_TOWER = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_MAPPING = "transformer_mapping_base"
#: What its ``config.json`` says, but for the size of the vocabulary. As in the published models the
#: text encoders are separate and the mapping block is one layer.
_VALUES: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "architectures": ["FLMRModelForRetrieval"],
    "dim": 64,
    "mapping_network_prefix_length": 8,
    "mask_instruction_token": ":",
    "mask_punctuation": True,
    "separate_query_and_context_text_encoder": True,
    "separate_query_and_context_vision_encoder": False,
    "use_vision_encoder": True,
    "use_transformer_mapping_network": True,
    "transformer_mapping_config_base": _MAPPING,
    "transformer_mapping_num_hidden_layers": 1,
    "transformer_mapping_cross_attention_length": 32,
    "query_concat_output_from_vision_encoder": True,
    "query_concat_output_from_text_encoder": True,
    "context_concat_output_from_vision_encoder": False,
    "context_concat_output_from_text_encoder": True,
    "vision_config": {**_TOWER, "image_size": 112, "patch_size": 14},
}
#: Tokens of a document's text; the sample's are shorter.
_LENGTH = 256
#: Standard deviation of the token embedding. With 0.3 the untrained model already matches equal
#: words; with the stock 0.02 it starts at chance.
_EMBEDDING_STD = 0.3


def tiny_values() -> dict[str, Any]:
    """Return the tiny model's ``config.json``."""
    words = (FOLDER / VOCABULARY).read_text(encoding="utf-8").splitlines()
    text = {
        **_TOWER,
        "num_hidden_layers": 2,
        "vocab_size": len(words),
        "max_position_embeddings": _LENGTH,
    }
    return {**_VALUES, "text_config": text}


def tiny_architecture() -> Architecture:
    """Return the tiny model's sizes."""
    values = tiny_values()
    return Architecture.of(values, values["text_config"])


def tiny_model(seed: int = 0) -> PreFLMRModel:
    """Return an untrained tiny model with 1.5 million parameters.

    Parameters
    ----------
    seed
        What the values are drawn from; the process's own random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PreFLMRModel(tiny_architecture())
        for module in model.modules():
            if isinstance(module, BertModel):
                nn.init.normal_(module.embeddings.word_embeddings.weight, 0, _EMBEDDING_STD)
        # Both sides begin alike, as the published ones begin as one text encoder: drawn apart,
        # equal words would have nothing to do with each other.
        model.context_text_encoder.load_state_dict(model.query_text_encoder.state_dict())
        model.context_text_encoder_linear.load_state_dict(
            model.query_text_encoder_linear.state_dict()
        )
    model.eval()
    return model


def write_rest(folder: Path) -> None:
    """Write what a checkpoint has beside its weights."""
    values = tiny_values()
    _write(folder / CONFIG, values)
    _write(folder / _MAPPING / CONFIG, {"model_type": "bert", **values["text_config"]})
    for side in (QUERIES, DOCUMENTS):
        (folder / side.folder).mkdir(exist_ok=True)
        for name in (VOCABULARY, TOKENIZER_CONFIG):
            shutil.copyfile(FOLDER / name, folder / side.folder / name)


def _write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
