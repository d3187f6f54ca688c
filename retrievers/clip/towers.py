"""A loaded model: images and texts to unit vectors of one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.errors import PluginError
from retrievers.clip.texts import TextReader

#: What the processor makes of one image: the arguments of the image tower, without their first
#: dimension.
Prepared = Mapping[str, torch.Tensor]


def prepare(processor: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Prepared]:
    """Return pictures as an image processor makes them (see `Towers.prepare`)."""
    # Said here, because a picture three pixels high could be taken for one in channels.
    made = processor(images=list(pictures), input_data_format="channels_last", return_tensors="pt")
    return [
        {name: values[place] for name, values in made.items()} for place in range(len(pictures))
    ]


class Towers:
    """Both towers, the image processor and the text reader of one checkpoint.

    The similarity of these models is the inner product of unit vectors times a scale, plus, for
    SigLIP, a bias. Both are the same for all pairs and the scale is positive: they change no
    ranking and are left out.

    Parameters
    ----------
    model
        A CLIPModel, SiglipModel or Siglip2Model.
    images
        Its image processor.
    texts
        Its text reader.

    Raises
    ------
    PluginError
        If the processor makes images of another size than the tower takes.
    """

    def __init__(self, model: nn.Module, images: Any, texts: TextReader) -> None:
        self.model, self.images, self.texts = model, images, texts
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def prepare(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Prepared]:
        """Return pictures as the image tower takes them: resized, cropped, normalised.

        Parameters
        ----------
        pictures
            uint8 RGB, shape ``(height, width, 3)``; at least one, sizes may differ.
        """
        return prepare(self.images, pictures)

    def forward_images(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """Return unit vectors: float32, shape ``(images, dim)``. Gradients are kept."""
        joined = {
            name: torch.stack([each[name] for each in batch]).to(self.device) for name in batch[0]
        }
        return self._unit(self.model.get_image_features(**joined))

    def forward_texts(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return unit vectors: float32, shape ``(texts, dim)``. Gradients are kept.

        No mask is given: CLIP's text tower looks back only, and SigLIP's was trained to see its
        padding.
        """
        ids = self.texts.padded(batch).to(self.device)
        return self._unit(self.model.get_text_features(input_ids=ids))

    def lora_targets(self) -> list[str]:
        """Return the names of the linear layers of both towers, and of the projections.

        Not SigLIP's attention pooling, which uses its weights without calling the layer.
        """
        return [
            name
            for name, module in self.model.named_modules()
            if type(module) is nn.Linear and ".embeddings." not in name
        ]

    @staticmethod
    def _unit(output: Any) -> torch.Tensor:
        return nn.functional.normalize(output.pooler_output.float(), dim=-1)

    def _check(self) -> None:
        config: Any = self.model.config
        vision = config.vision_config
        found = tuple(self.prepare([np.zeros((8, 8, 3), np.uint8)])[0]["pixel_values"].shape)
        if config.model_type == "siglip2":
            values = vision.num_channels * vision.patch_size**2
            fits, taken = found[-1] == values, f"patches of {values} values"
        else:
            taken_shape = (vision.num_channels, vision.image_size, vision.image_size)
            fits, taken = found == taken_shape, f"images of {taken_shape}"
        if not fits:
            raise PluginError(
                f"the image processor gives {found}, but the image tower takes {taken}: "
                "preprocessor_config.json is of another checkpoint."
            )
