"""Loading a checkpoint, with every tensor accounted for.

Names and shapes in the files are held against the model's before anything is read; then the very
tensors of the files become the model's. None can stay at random, and none is left over.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.initialization import no_init_weights

from harness.errors import PluginError
from harness.quiet import quiet
from retrievers.clip.family import CONVERTED, FAMILIES, Family
from retrievers.clip.forms import FORMS
from retrievers.clip.settings import ClipSettings
from retrievers.clip.texts import TOKENIZER_CONFIG, text_reader
from retrievers.clip.towers import Towers
from retrievers.device import place_of
from retrievers.source import CONFIG, Source, find
from retrievers.tensors import fitting

#: Counts of positions that transformers up to 4.30 wrote into checkpoints. The model makes them.
_BUFFERS = {
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
}

#: Where the image processor's settings stand, in checkpoints of any version.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def find_weights(family: Family, weights: str | None, settings: ClipSettings) -> Source:
    """Return where the weights lie; a hub id is fetched.

    Raises
    ------
    UsageError, PluginError
        As `retrievers.source.find` does.
    """
    name = weights or family.released
    return find(name, settings.revision or CONVERTED.get(name))


def preparation(source: Source) -> dict[str, Any]:
    """Return the files that say how images and texts are prepared: for fingerprints."""
    names = (*PROCESSORS, TOKENIZER_CONFIG)
    return {name: source.read_json(name) for name in names if (source.folder / name).is_file()}


def check_type(source: Source, family: Family) -> str:
    """Return the ``model_type`` of a checkpoint.

    Raises
    ------
    PluginError
        If another retriever, or none of these, loads it.
    """
    found = str(source.read_json(CONFIG).get("model_type"))
    if found in family.model_types:
        return found
    said = f"{source.name} is a {found!r} checkpoint, and {family.name} needs "
    needed = " or ".join(family.model_types)
    for tower, other in (("vision", "text"), ("text", "vision")):
        if found.endswith(f"_{tower}_model"):
            raise PluginError(
                f"{said}{needed}: it has a {tower} tower and no {other} tower, and queries, speech "
                "and on-screen text need the text tower, frames the vision tower. Give the whole "
                "model that it was taken from."
            )
    for other_family in FAMILIES:
        if found in other_family.model_types:
            raise PluginError(f"{said}{needed}: use {other_family.name}/{source.name}.")
    raise PluginError(f"{said}{needed}, such as {family.released}.")


def load(source: Source, family: Family, settings: ClipSettings) -> Towers:
    """Load a checkpoint.

    Raises
    ------
    PluginError
        If it is of another architecture; if a tensor is missing, unknown or of another shape, each
        named; if tokeniser or image processor are missing or do not fit.
    UsageError
        If the settings ask for what this machine cannot do.
    """
    form = FORMS[check_type(source, family)]
    place = place_of(settings)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.folder)
            images = form.images.from_pretrained(source.folder)
    # Files of wrong types raise errors of several libraries.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(
            f"{source.name}: {CONFIG} or {PROCESSORS[0]} cannot be used: {reason}"
        ) from error
    if not getattr(config.vision_config, "vision_use_head", True):
        raise PluginError(
            f"{source.name} was saved without the vision tower's pooling head (vision_use_head = "
            "false), so an image has no vector: give the checkpoint that it was made of."
        )
    texts = text_reader(source, form, config.text_config)
    with no_init_weights():
        model = form.model(config)
    state = fitting(source, model, place.dtype, lambda name: None if name in _BUFFERS else name)
    model.load_state_dict(state, assign=True)
    return Towers(model.to(place.device).eval(), images, texts)
