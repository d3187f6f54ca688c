"""The two families of models, and which checkpoints belong to which."""

from __future__ import annotations

from dataclasses import dataclass

#: Repositories whose main branch has weights in pickle files only, and the revision of the hub's
#: own conversion to safetensors.
CONVERTED = {"openai/clip-vit-base-patch32": "refs/pr/15"}


@dataclass(frozen=True, slots=True)
class Family:
    """What one retriever loads.

    Attributes
    ----------
    name
        The retriever's name.
    model_types
        What ``model_type`` may be in a checkpoint's ``config.json``.
    released
        Hub id of the default weights.
    """

    name: str
    model_types: tuple[str, ...]
    released: str


CLIP = Family("clip", ("clip",), "openai/clip-vit-base-patch32")
SIGLIP = Family("siglip", ("siglip", "siglip2"), "google/siglip2-base-patch16-224")
FAMILIES = (CLIP, SIGLIP)
