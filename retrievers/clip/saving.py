"""Writing a model as a checkpoint that loads again, here and in transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from retrievers.clip.family import Family
from retrievers.clip.loading import PROCESSORS
from retrievers.clip.texts import TOKENIZER_CONFIG
from retrievers.clip.tiny import write_texts
from retrievers.clip.towers import Towers
from retrievers.device import Place
from retrievers.qwen.adapter import merged
from retrievers.source import CONFIG, TOKENIZER, WEIGHTS, Source


def save(towers: Towers, folder: Path, source: Source | None, family: Family, place: Place) -> None:
    """Write a whole checkpoint, LoRA merged in.

    Parameters
    ----------
    towers
        The model.
    folder
        Where; made if missing.
    source
        The checkpoint that it was loaded from, whose settings and tokeniser are copied; None for
        built-in weights.
    family
        Whose model it is.
    place
        In which precision it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(place.dtype) for name, tensor in merged(towers.model).items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    if source is None:
        towers.model.config.save_pretrained(folder)
        towers.images.save_pretrained(folder)
        write_texts(family, folder)
        return
    for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG, *PROCESSORS):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)
