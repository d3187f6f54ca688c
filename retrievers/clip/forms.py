"""How each type of checkpoint is read: its classes, and what its text tower was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipImageProcessorPil,
    SiglipModel,
)


@dataclass(frozen=True, slots=True)
class Form:
    """One value of ``model_type``.

    Attributes
    ----------
    model, images
        Model class of transformers, and the image processor of its PIL backend: the usual name of
        a processor gives other pixels where torchvision is installed.
    begins
        Whether a text begins with a mark; all end with one.
    lowercase
        Whether the text tower saw lower case only. CLIP's tokenisers see to it themselves, and
        those of SigLIP; the files of SigLIP 2 do not, and transformers only for some of them.
    fills
        Whether every text is padded to the tower's length. SigLIP pools the last position, padding
        or not, and attends to all: shorter padding gives other vectors, and worse ones.
    """

    model: Any
    images: Any
    begins: bool
    lowercase: bool
    fills: bool


FORMS = {
    "clip": Form(CLIPModel, CLIPImageProcessorPil, begins=True, lowercase=False, fills=False),
    "siglip": Form(SiglipModel, SiglipImageProcessorPil, begins=False, lowercase=True, fills=True),
    "siglip2": Form(
        Siglip2Model, Siglip2ImageProcessorPil, begins=False, lowercase=True, fills=True
    ),
}
