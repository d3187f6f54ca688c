"""The names that tensors of one model have gone by, and the name that they have here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.hub import HUB_ID
from retrievers.qwen.form import OMNI, VL, VL2, Family, Form

PROJECTION = "custom_text_proj"

#: Parts of a checkpoint that encoding does not need: the output layer, and Omni's voice.
_UNUSED = re.compile(r"^((thinker|vlm)\.)?lm_head\.|^talker\.|^token2wav\.")

#: Names in files -> names here, the first that fits. Qwen2.5-VL up to transformers 4.51 has
#: ``model.layers``, later ``model.language_model.layers``; Omni has the same behind ``thinker.``,
#: transformers' ColQwen2 behind ``vlm.``.
_RULES = (
    (re.compile(r"^(model|backbone)\.(language_model|visual|audio_tower)\."), r"backbone.\2."),
    (re.compile(r"^(language_model|visual|audio_tower)\."), r"backbone.\1."),
    (re.compile(r"^model\.(layers|embed_tokens|norm)\."), r"backbone.language_model.\1."),
    (re.compile(r"^embedding_proj_layer\."), f"{PROJECTION}."),
)


def here(name: str) -> str | None:
    """Return the name that a tensor of a checkpoint or an adapter has in `LateInteraction`.

    Parameters
    ----------
    name
        As in the file, without an adapter's ``base_model.model.``.

    Returns
    -------
    str or None
        The name; as it is where no rule fits; None for a part that encoding does not need.
    """
    if _UNUSED.match(name):
        return None
    name = name.removeprefix("thinker.").removeprefix("vlm.")
    for pattern, replacement in _RULES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return name


def form_of(names: Iterable[str], family: Family) -> Form | None:
    """Return the form whose files have such names; None where several forms of a family do."""
    names = list(names)
    if any(name.startswith(("thinker.", "talker.")) or "audio_tower." in name for name in names):
        return OMNI
    plain = ("model.layers.", "model.language_model.", "visual.")
    return family.plain if any(name.startswith(plain) for name in names) else None


def form_called(name: str) -> Form | None:
    """Return the form that a hub id speaks of; None for a folder, or where it speaks of none."""
    if not HUB_ID.match(name):
        return None
    said = name.rpartition("/")[2].lower().replace("_", ".")
    marks = (("omni", OMNI), ("qwen2.5", VL), ("qwen2", VL2))
    return next((form for mark, form in marks if mark in said), None)
