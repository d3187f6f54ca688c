"""What a checkpoint's ``config.json`` says, as far as it determines tensors and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import BertConfig, CLIPVisionConfig

from harness.errors import PluginError

#: ``model_type`` of the checkpoints' ``config.json``.
MODEL_TYPE = "flmr"

#: Fields of the nested configurations that determine tensors and vectors. The rest of what old
#: versions of transformers wrote there is left alone.
_TEXT = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
)
_VISION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
)
#: Switches that all published checkpoints leave as they are here.
_FIXED = {
    "use_vision_encoder": True,
    "separate_query_and_context_vision_encoder": False,
    "query_concat_output_from_vision_encoder": True,
    "query_concat_output_from_text_encoder": True,
    "context_concat_output_from_text_encoder": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model's sizes and switches.

    Attributes
    ----------
    text, vision
        Of the text encoders, all alike, and of the image tower.
    mapping
        Of the block that maps patches with a look at the text, its number of layers included; None
        for models without one (FLMR).
    side, patches
        Pixels on a side of an image, and patches.
    dim
        Dimension of the vectors.
    prefix
        Vectors that an image's class token is mapped to.
    crossed
        First text positions that patches look at.
    separate
        Whether queries and documents have text encoders of their own.
    instruction_end
        Token up to which a query's text is masked; None to mask nothing.
    mask_punctuation
        Whether documents' punctuation is masked.
    query_skipped
        Token ids that are masked in queries, too.
    """

    text: BertConfig
    vision: CLIPVisionConfig
    mapping: BertConfig | None
    side: int
    patches: int
    dim: int
    prefix: int
    crossed: int
    separate: bool
    instruction_end: str | None
    mask_punctuation: bool
    query_skipped: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any], mapping: Mapping[str, Any] | None) -> Architecture:
        """Read a ``config.json``; what it does not say has the reference's defaults.

        Parameters
        ----------
        values
            Its object.
        mapping
            The configuration that its ``transformer_mapping_config_base`` names, if it uses one.

        Raises
        ------
        PluginError
            If it is of another kind of model, or asks for what no published checkpoint has.
        """
        if values.get("model_type") != MODEL_TYPE:
            raise PluginError(
                f"its model_type is {values.get('model_type')!r}, and preflmr runs {MODEL_TYPE!r} "
                "checkpoints, such as LinWeizheDragon/PreFLMR_ViT-L"
            )
        for name, usual in _FIXED.items():
            if values.get(name, usual) is not usual:
                raise PluginError(
                    f"{name} = {values[name]}, and only {usual} is supported, which all published "
                    "checkpoints have"
                )
        told_text: Mapping[str, Any] = values.get("text_config") or {}
        if told_text.get("position_embedding_type", "absolute") != "absolute":
            raise PluginError("its text encoder's positions are not absolute, as BERT's are")
        text = BertConfig(**_chosen(told_text, _TEXT))
        vision = CLIPVisionConfig(**_chosen(values.get("vision_config") or {}, _VISION))
        side, patch = vision.image_size, vision.patch_size
        if not isinstance(side, int) or not isinstance(patch, int):
            raise PluginError(f"its images are {side} with patches of {patch}, and not square")
        return cls(
            text=text,
            vision=vision,
            side=side,
            patches=side // patch,
            mapping=None if mapping is None else _mapping(values, mapping, text),
            dim=values.get("dim", 128),
            prefix=values.get("mapping_network_prefix_length", 32),
            crossed=values.get("transformer_mapping_cross_attention_length", 32),
            separate=values.get("separate_query_and_context_text_encoder", False),
            instruction_end=values.get("mask_instruction_token"),
            mask_punctuation=values.get("mask_punctuation", True),
            query_skipped=tuple(values.get("query_mask_input_ids_skip_list") or ()),
        )


def _mapping(values: Mapping[str, Any], base: Mapping[str, Any], text: BertConfig) -> BertConfig:
    made = BertConfig(**_chosen(base, _TEXT))
    made.num_hidden_layers = values.get("transformer_mapping_num_hidden_layers") or 1
    if made.hidden_size != text.hidden_size:
        raise PluginError(
            f"the mapping block is {made.hidden_size} wide and the text that it looks at "
            f"{text.hidden_size}: they must be alike"
        )
    return made


def _chosen(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
