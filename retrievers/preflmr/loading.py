"""Loading a checkpoint, with every tensor accounted for (see `retrievers.tensors`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig
from transformers.initialization import no_init_weights

from harness.errors import PluginError
from retrievers.device import Place, place_of
from retrievers.preflmr.architecture import Architecture
from retrievers.preflmr.images import PROCESSOR
from retrievers.preflmr.model import PreFLMRModel
from retrievers.preflmr.settings import PreFLMRSettings
from retrievers.preflmr.wordpieces import (
    ADDED_TOKENS,
    DOCUMENTS,
    QUERIES,
    TOKENIZER_CONFIG,
    VOCABULARY,
)
from retrievers.source import CONFIG, Source, find, sha256
from retrievers.tensors import fitting

#: Hub id of the default weights.
RELEASED = "LinWeizheDragon/PreFLMR_ViT-L"

#: What the published checkpoints call the configuration of their mapping block: BERT's, which is
#: transformers' default.
_BERT = ("bert-base-uncased", "google-bert/bert-base-uncased")

#: Counts of positions that transformers up to 4.30 wrote into checkpoints. The model makes them.
_BUFFER = re.compile(r"\.position_ids$")


def find_weights(weights: str | None, settings: PreFLMRSettings) -> Source:
    """Return where the weights lie; a hub id is fetched.

    Raises
    ------
    UsageError, PluginError
        As `retrievers.source.find` does.
    """
    return find(weights or RELEASED, settings.revision, also=[f"*{VOCABULARY}"])


def preparation(source: Source) -> dict[str, Any]:
    """Return what says how images and texts are prepared: hashes of files, for fingerprints."""
    files = [source.folder / PROCESSOR, *_mapping_file(source.folder, source.read_json(CONFIG))]
    for side in (QUERIES, DOCUMENTS):
        names = (VOCABULARY, TOKENIZER_CONFIG, ADDED_TOKENS)
        files += [source.folder / side.folder / name for name in names]
    return {
        file.relative_to(source.folder).as_posix(): sha256(file) for file in files if file.is_file()
    }


def architecture_of(folder: Path | None, values: Mapping[str, Any], name: str) -> Architecture:
    """Return the architecture of a checkpoint.

    Parameters
    ----------
    folder
        Where it lies, perhaps with the configuration of its mapping block in a folder; None for one
        that is not here.
    values
        Its ``config.json``.
    name
        What users call it.

    Raises
    ------
    PluginError
        If it is of another kind, or the configuration of the mapping block is not there.
    """
    mapping: Mapping[str, Any] | None = None
    if values.get("use_transformer_mapping_network"):
        found = [] if folder is None else _mapping_file(folder, values)
        base = values.get("transformer_mapping_config_base")
        if found:
            mapping = Source(name, found[0].parent).read_json(CONFIG)
        elif base in _BERT:
            mapping = BertConfig().to_dict()
        else:
            raise PluginError(
                f"{name}: {CONFIG} calls the configuration of its mapping block {base!r}, and "
                f"there is no {base}/{CONFIG} in its folder: put that file there."
            )
    try:
        return Architecture.of(values, mapping)
    except PluginError as error:
        raise PluginError(f"{name}: {error}.") from None
    # Values of wrong types raise errors of several libraries.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(f"{name}: {CONFIG} cannot be used: {reason}") from error


def _mapping_file(folder: Path, values: Mapping[str, Any]) -> list[Path]:
    """Return the file beside the checkpoint with the configuration of its mapping block."""
    base = Path(str(values.get("transformer_mapping_config_base") or ".."))
    # A name that leads out of the folder is none of ours.
    inside = not base.is_absolute() and ".." not in base.parts
    file = folder / base / CONFIG
    return [file] if inside and file.is_file() else []


def blank(architecture: Architecture) -> PreFLMRModel:
    """Return the model without storage, for its tensors' names and shapes."""
    with torch.device("meta"), no_init_weights():
        return PreFLMRModel(architecture)


def load(source: Source, settings: PreFLMRSettings) -> PreFLMRModel:
    """Load a checkpoint.

    Raises
    ------
    PluginError
        If it is of another architecture; if a tensor is missing, unknown or of another shape, each
        named.
    UsageError
        If the settings ask for what this machine cannot do.
    """
    architecture = architecture_of(source.folder, source.read_json(CONFIG), source.name)
    place: Place = place_of(settings)
    with no_init_weights():
        model = PreFLMRModel(architecture)
    state = fitting(
        source, model, place.dtype, lambda name: here(name, separate=architecture.separate)
    )
    model.load_state_dict(state, assign=True)
    model.to(place.device)
    model.eval()
    return model


def here(name: str, *, separate: bool) -> str | None:
    """Return the name that a tensor of a file has in the model.

    The FLMR package has had two names for modules that are one (`query_` and `context_` of the
    image tower, of its projection and of a shared text encoder; `bert_model` and `text_model`), and
    writes whichever it comes to first. transformers 5 has one level less inside CLIP's tower.

    Parameters
    ----------
    name
        As in the file.
    separate
        Whether queries and documents have text encoders of their own.

    Returns
    -------
    str or None
        None for what the model makes itself.
    """
    if _BUFFER.search(name):
        return None
    name = re.sub(r"^context_vision_", "query_vision_", name)
    if not separate:
        name = re.sub(r"^context_text_", "query_text_", name)
    name = re.sub(r"^((query|context)_text_encoder)\.text_model\.", r"\1.bert_model.", name)
    return re.sub(
        r"^query_vision_encoder\.vision_model\.(?!vision_model\.)",
        "query_vision_encoder.vision_model.vision_model.",
        name,
    )
