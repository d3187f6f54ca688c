"""From an address to a model: base checkpoint, adapter, projection."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.errors import PluginError, UsageError
from retrievers.qwen.adapter import PREFIX, PROJECTION_FILE, load_adapter, read_projection
from retrievers.qwen.backbone import DIM, LateInteraction
from retrievers.qwen.checkpoint import load_checkpoint
from retrievers.qwen.form import Family
from retrievers.qwen.names import PROJECTION, here
from retrievers.qwen.settings import QwenSettings
from retrievers.source import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Source, find, headers

#: Seed under which CLaMR's training draws the projection's base weights.
SEED = 42

log = logging.getLogger("clamr_bench.qwen")


@dataclass(frozen=True, slots=True)
class Weights:
    """The files that a model is made of.

    Attributes
    ----------
    base
        Checkpoint of the backbone, perhaps with a projection.
    adapter
        None where the address names a whole model.
    """

    base: Source
    adapter: Source | None = None

    def identity(self) -> dict[str, Any]:
        """Return what names the files."""
        adapter = self.adapter.identity() if self.adapter else None
        return {"base": self.base.identity(), "adapter": adapter}


def find_weights(address: str, settings: QwenSettings) -> Weights:
    """Return the files behind an address.

    Raises
    ------
    UsageError, PluginError
        If something is neither a folder nor can be fetched, or an adapter names no base.
    """
    source = find(address, settings.revision)
    if not source.is_adapter:
        if settings.base:
            raise UsageError(
                f"base = {settings.base!r}, but {address!r} is a whole checkpoint and takes no "
                "base: leave the setting out."
            )
        return Weights(source)
    if settings.base:
        return Weights(find(settings.base), source)
    config = source.read_json(ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path")
    if not base:
        raise PluginError(
            f"adapter {address!r} names no base checkpoint: set base to a folder or a hub id."
        )
    return Weights(find(base, config.get("revision")), source)


def has_projection(weights: Weights, settings: QwenSettings) -> bool:
    """Return whether the projection, or an adapter's change to it, comes from a file."""
    if settings.projection:
        return True
    files = [weights.base.weight_files()]
    if weights.adapter is not None:
        if (weights.adapter.folder / PROJECTION_FILE).is_file():
            return True
        files.append([weights.adapter.folder / ADAPTER_WEIGHTS])
    names = (name.removeprefix(PREFIX) for each in files for name in headers(each))
    return any((here(name) or "").startswith(PROJECTION) for name in names)


def load(
    weights: Weights, settings: QwenSettings, family: Family, *, project: bool = True
) -> LateInteraction:
    """Load a model.

    Parameters
    ----------
    weights, settings
        The files, and how they are loaded.
    family
        What they may be.
    project
        Whether the projection is used; one that is not is left out of all notes.

    Raises
    ------
    PluginError, UsageError
        If anything does not fit (see `load_checkpoint`, `load_adapter`).
    """
    model = load_checkpoint(weights.base, settings, family)
    _project(model, weights, settings, family, told=project)
    if weights.adapter is not None:
        load_adapter(model, weights.adapter, family)
    model.eval()
    return model


def _project(
    model: LateInteraction, weights: Weights, settings: QwenSettings, family: Family, *, told: bool
) -> None:
    """Fill the projection's base weights, unless the checkpoint did."""
    beside = weights.adapter.folder / PROJECTION_FILE if weights.adapter else None
    file = Path(settings.projection).expanduser() if settings.projection else beside
    if file is not None and (settings.projection or file.is_file()):
        _set(model, read_projection(file), str(file))
        return
    if not model.custom_text_proj.weight.isnan().any():
        return
    if weights.adapter is not None and not family.draws_projection:
        raise PluginError(
            f"neither adapter {weights.adapter.name} nor its base checkpoint {weights.base.name} "
            f"has the projection ({PROJECTION}): set base to the checkpoint that the adapter's "
            f"{ADAPTER_CONFIG} names, or projection to a file."
        )
    _set(model, drawn_projection(model.custom_text_proj.in_features), "seed")
    if not told:
        return
    if weights.adapter is None or not has_projection(weights, settings):
        log.warning(
            "%s has no projection (%s): one is drawn at random from seed %d. It was never trained, "
            "so scores mean little and no table lists them. Give trained weights, or an adapter.",
            (weights.adapter or weights.base).name, PROJECTION, SEED,
        )  # fmt: skip
        return
    log.warning(
        "adapter %s does not carry the base weights of its projection (%s): they are drawn anew as "
        "%s's training draws them (seed %d, float16, standard deviation 0.02). If it "
        "was trained from another seed, scores are lower than published; with the true weights, "
        "set projection to their file.",
        weights.adapter.name, PROJECTION, family.name, SEED,
    )  # fmt: skip


def drawn_projection(hidden: int, dim: int = DIM) -> dict[str, torch.Tensor]:
    """Return the projection that CLaMR's training starts from.

    Its training sets the seed, loads the backbone in float16 (4-bit) and so draws this one layer,
    which the backbone's checkpoint lacks, first. It saves only the layer's LoRA part.
    """
    generator = torch.Generator().manual_seed(SEED)
    weight = torch.empty(dim, hidden, dtype=torch.float16).normal_(0, 0.02, generator=generator)
    return {"weight": weight, "bias": torch.zeros(dim)}


def _set(model: LateInteraction, state: dict[str, torch.Tensor], origin: str) -> None:
    linear = model.custom_text_proj
    shape, wanted = tuple(state["weight"].shape), tuple(linear.weight.shape)
    if shape != wanted or tuple(state["bias"].shape) != wanted[:1]:
        raise PluginError(
            f"projection {origin} has weight {shape} and bias {tuple(state['bias'].shape)}; the "
            f"model needs weight {wanted} and bias {wanted[:1]}."
        )
    with torch.no_grad():
        linear.weight.copy_(state["weight"])
        linear.bias.copy_(state["bias"])
