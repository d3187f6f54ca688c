"""The model: text encoders, image tower, and what brings both into one space.

Its tensors have the names of the published checkpoints. Facts: the FLMR package
(github.com/LinWeizheDragon/FLMR at be4b748), `modeling_flmr.py`; Lin and others, PreFLMR,
arXiv:2402.08327.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import BertModel, CLIPVisionModel

from retrievers.preflmr.architecture import Architecture
from retrievers.preflmr.mapping import Mapping, Named, Prefix

#: The image tower, which the published training leaves as it is.
VISION = "query_vision_encoder"


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """A batch of sequences for a text encoder.

    Attributes
    ----------
    ids
        int64, shape ``(batch, length)``.
    attended
        int64, the same shape: 0 where attention does not look.
    """

    ids: torch.Tensor
    attended: torch.Tensor


class PreFLMRModel(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """PreFLMR, or FLMR.

    Parameters
    ----------
    architecture
        Sizes and switches.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        text, dim = architecture.text, architecture.dim
        seen = architecture.vision.hidden_size
        self.query_text_encoder = Named(bert_model=BertModel(text))
        self.query_text_encoder_linear = nn.Linear(text.hidden_size, dim, bias=False)
        if architecture.separate:
            self.context_text_encoder = Named(bert_model=BertModel(text))
            self.context_text_encoder_linear = nn.Linear(text.hidden_size, dim, bias=False)
        tower = CLIPVisionModel(architecture.vision)
        self.query_vision_encoder = Named(vision_model=Named(vision_model=tower))
        self.query_vision_projection = Prefix(seen, architecture.prefix, dim)
        if architecture.mapping is not None:
            width = architecture.mapping.hidden_size
            self.transformer_mapping_input_linear = nn.Linear(seen, width)
            self.transformer_mapping_network = Mapping(architecture.mapping)
            self.transformer_mapping_output_linear = nn.Linear(width, dim)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.query_text_encoder_linear.weight.device

    @property
    def image_rows(self) -> int:
        """Vectors of a query's image."""
        patches = self.architecture.patches**2 if self.architecture.mapping is not None else 0
        return self.architecture.prefix + patches

    def queries(
        self, texts: Texts, images: torch.Tensor | None, with_image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit vectors of queries: of their texts, and of their images.

        Parameters
        ----------
        texts
            Of all queries, padded to one length.
        images
            Floating, shape ``(images, channels, side, side)``; None if no query has one.
        with_image
            int64, shape ``(images,)``: the query of each image.

        Returns
        -------
        texts
            float32, shape ``(queries, length, dim)``.
        images
            float32, shape ``(images, image_rows, dim)``: those of the class token, then one for
            each patch, row by row.
        """
        states = self._states(self.query_text_encoder, texts)
        asked = _unit(self.query_text_encoder_linear(states))
        if images is None:
            return asked, asked.new_zeros(0, self.image_rows, asked.shape[-1])
        tower = self.query_vision_encoder.vision_model.vision_model
        if self.architecture.mapping is None:
            return asked, self.images(images)
        seen = tower(pixel_values=images, output_hidden_states=True)
        rows = self.query_vision_projection(seen.last_hidden_state[:, 0])
        # The last layer but one, and without the class token.
        patches = self.transformer_mapping_input_linear(seen.hidden_states[-2][:, 1:])
        read = states[with_image, : self.architecture.crossed]
        mapped = self.transformer_mapping_network(patches, read)
        return asked, _unit(torch.cat([rows, self.transformer_mapping_output_linear(mapped)], 1))

    def passages(self, texts: Texts) -> torch.Tensor:
        """Return unit vectors of documents' texts: float32, shape ``(batch, length, dim)``."""
        if not self.architecture.separate:
            states = self._states(self.query_text_encoder, texts)
            return _unit(self.query_text_encoder_linear(states))
        states = self._states(self.context_text_encoder, texts)
        return _unit(self.context_text_encoder_linear(states))

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors of images by themselves, shape ``(images, prefix, dim)``.

        The image tower's last layer before its final norm, at the class token.
        """
        tower = self.query_vision_encoder.vision_model.vision_model
        seen = tower(pixel_values=images).last_hidden_state[:, 0]
        return _unit(self.query_vision_projection(seen))

    def lora_targets(self) -> list[str]:
        """Return the linear layers of all but the image tower and the unused poolers."""
        return [
            name
            for name, module in self.named_modules()
            if type(module) is nn.Linear
            and not name.startswith(f"{VISION}.")
            and ".pooler." not in name
        ]

    @staticmethod
    def _states(encoder: Named, texts: Texts) -> torch.Tensor:
        bert: nn.Module = encoder.get_submodule("bert_model")
        states: torch.Tensor = bert(
            input_ids=texts.ids, attention_mask=texts.attended
        ).last_hidden_state
        return states


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1)
