"""How pictures are prepared: as CLIP's processors do, at the image tower's size."""

from __future__ import annotations

from typing import Any

from transformers import CLIPImageProcessorPil

from harness.errors import PluginError
from harness.quiet import quiet
from retrievers.source import Source

#: Is in no published checkpoint, which use the processor of the tower that they began with.
PROCESSOR = "preprocessor_config.json"

#: One of transformers' image processors.
ImageProcessor = Any


def image_processor(side: int, source: Source | None = None) -> ImageProcessor:
    """Return the processor of a checkpoint, or CLIP's.

    The shortest side is resized (bicubic), the middle cut out and normalised. Means and deviations
    are those of all three towers that PreFLMR began with (openai/clip-vit-base-patch32,
    openai/clip-vit-large-patch14, laion/CLIP-ViT-bigG-14-laion2B-39B-b160k).

    Parameters
    ----------
    side
        Pixels on a side of what the image tower takes.
    source
        The checkpoint.

    Raises
    ------
    PluginError
        If the checkpoint has one that cannot be used, or is of another size.
    """
    if source is None or not (source.folder / PROCESSOR).is_file():
        square = {"height": side, "width": side}
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
    try:
        with quiet():
            made: Any = CLIPImageProcessorPil.from_pretrained(source.folder)
            size = made.crop_size
            fits = (size["height"], size["width"]) == (side, side)
    # A file of wrong types raises errors of several libraries.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(f"{source.folder / PROCESSOR} cannot be used: {reason}") from error
    if not fits:
        raise PluginError(
            f"{source.folder / PROCESSOR} makes images of {dict(size)}, but the image tower takes "
            f"{side} x {side} pixels: it is of another checkpoint."
        )
    return made
