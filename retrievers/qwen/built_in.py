"""The built-in models: drawn from a seed, or filled with the weights that ship."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from retrievers.qwen.backbone import LateInteraction
from retrievers.qwen.checkpoint import load_checkpoint
from retrievers.qwen.form import Family
from retrievers.qwen.names import PROJECTION
from retrievers.qwen.saving import save_checkpoint
from retrievers.qwen.settings import QwenSettings
from retrievers.qwen.tiny import tiny_model
from retrievers.shipped import read
from retrievers.source import Source


def load_built_in(
    name: str, settings: QwenSettings, family: Family, shipped: Path | None, *, project: bool = True
) -> tuple[LateInteraction, Path]:
    """Return a built-in model, and the folder of its tokeniser.

    Parameters
    ----------
    name
        A key of `retrievers.qwen.tiny.TINY`.
    settings, family
        As for `load`.
    shipped
        The file of its trained weights; None to draw them.
    project
        Whether the projection is used, which is in the file then.

    Raises
    ------
    PluginError, UsageError
        If the file is of another version, or the settings ask for what this machine cannot do.
    """
    model, tokenizer = tiny_model(name, settings.initial_seed or 0)
    if shipped is not None:
        state = model.state_dict()
        wanted = {n: tuple(t.shape) for n, t in state.items() if project or PROJECTION not in n}
        model.load_state_dict(state | read(shipped, wanted))
    # By way of a checkpoint, so that device, precision and quantisation are those of any other.
    with TemporaryDirectory(prefix="clamr-bench-") as folder:
        save_checkpoint(model, Path(folder), torch.float32, tokenizer=tokenizer)
        return load_checkpoint(Source(name, Path(folder)), settings, family), tokenizer
