"""Writing a model as a checkpoint that loads again, under the published names."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from retrievers.preflmr.loading import preparation
from retrievers.preflmr.model import PreFLMRModel
from retrievers.preflmr.tiny import write_rest
from retrievers.qwen.adapter import merged
from retrievers.source import CONFIG, WEIGHTS, Source


def save(model: PreFLMRModel, folder: Path, source: Source | None, dtype: torch.dtype) -> None:
    """Write a whole checkpoint, LoRA merged in.

    Parameters
    ----------
    model
        The model.
    folder
        Where; made if missing.
    source
        The checkpoint that it was loaded from, whose settings and tokenisers are copied; None for
        built-in weights.
    dtype
        In which precision it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(dtype) for name, tensor in merged(model).items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    if source is None:
        write_rest(folder)
        return
    for name in (CONFIG, *preparation(source)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / name, folder / name)
