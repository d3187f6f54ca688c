"""The model: a stock backbone and a projection, composed.

A subclass of a stock class counts as custom code for transformers 5, which then skips the renaming
of old checkpoints' tensors and leaves the language model at random, with a warning only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLModel, Qwen2_5OmniThinkerModel, Qwen2VLModel

from retrievers.qwen.audio import Mel
from retrievers.qwen.form import OMNI, VL, VL2, Form
from retrievers.qwen.positions import positions_of
from retrievers.qwen.sequence import Tokens
from retrievers.qwen.vision import MEAN, STD, Patching

CLASSES: dict[str, Any] = {
    VL2.name: Qwen2VLModel,
    VL.name: Qwen2_5_VLModel,
    OMNI.name: Qwen2_5OmniThinkerModel,
}

#: Dimension of the projection, in the paper and in ColBERT before it.
DIM = 128


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences padded to one length, on the right.

    Attributes
    ----------
    ids, mask
        int64, shape ``(batch, length)``.
    positions
        int64, shape ``(3, batch, length)``.
    pixels
        uint8, shape ``(patches of all videos, pixels of a patch)``; None without a video.
    grids
        int64, shape ``(videos, 3)``.
    stills, still_grids
        The same of stills.
    mel, heard
        float32, shape ``(sounds, bins, frames)``, and its int64 mask ``(sounds, frames)``.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    pixels: torch.Tensor | None = None
    grids: torch.Tensor | None = None
    stills: torch.Tensor | None = None
    still_grids: torch.Tensor | None = None
    mel: torch.Tensor | None = None
    heard: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved = {
            each.name: None if (value := getattr(self, each.name)) is None else value.to(device)
            for each in fields(self)
        }
        return Batch(**moved)


class _WholePatches(nn.Conv3d):  # type: ignore[misc]  # torch is not typed here
    """A convolution over inputs that its kernel covers, each to one vector: a matrix product.

    On a processor the convolution of torch takes two and a half times as long for the tiny models'
    patches, forward and backward.
    """

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return ``(patches, dim, 1, 1, 1)`` for ``(patches, channels, frames, height, width)``."""
        found = nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return found[..., None, None, None]


class LateInteraction(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A backbone with a projection of every token.

    Parameters
    ----------
    form
        Which form the backbone is of.
    backbone
        One of `CLASSES`.
    dim
        Dimension of the embeddings.
    """

    #: peft asks every module that contains a `PreTrainedModel` for it.
    base_model_prefix = ""

    def __init__(self, form: Form, backbone: nn.Module, dim: int = DIM) -> None:
        super().__init__()
        self.form, self.backbone = form, backbone
        hidden: int = self.config.text_config.hidden_size
        self.custom_text_proj = nn.Linear(hidden, dim)
        for module in backbone.modules():
            if isinstance(module, nn.Conv3d):
                # Not its `forward`, which accelerate replaces where a model is spread over devices.
                module.__class__ = _WholePatches

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return next(self.backbone.parameters()).device

    @property
    def patching(self) -> Patching:
        """How the vision tower cuts frames."""
        vision = self.config.vision_config
        return Patching(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)

    @property
    def step(self) -> int:
        """Positions between temporal patches, one second apart."""
        if self.form is OMNI:
            step: int = self.config.position_id_per_seconds
            return step
        # Qwen2-VL knows no seconds: its temporal patches are one position apart.
        return getattr(self.config.vision_config, "tokens_per_second", 1)

    def mel(self) -> Mel | None:
        """Return what makes the features of sound; None for a form that cannot hear."""
        return Mel(self.config.audio_config.num_mel_bins) if self.form.audio else None

    def collate(self, sequences: list[Tokens], pad: int) -> Batch:
        """Pad sequences to one batch.

        Parameters
        ----------
        sequences
            At least one.
        pad
            Id of the padding token.
        """
        merge = self.patching.merge
        length = max(map(len, sequences))
        ids = torch.full((len(sequences), length), pad)
        mask = torch.zeros_like(ids)
        positions = torch.zeros((3, *ids.shape), dtype=torch.int64)
        for row, tokens in enumerate(sequences):
            video = None
            if tokens.patches is not None and tokens.video_start >= 0:
                video = tokens.video_start, tokens.patches.grid
            end = len(tokens)
            ids[row, :end] = torch.from_numpy(tokens.ids)
            mask[row, :end] = 1
            places = positions_of(end, video, merge, self.step)
            positions[:, row, :end] = torch.from_numpy(places)
        videos = _pixels(tokens for tokens in sequences if not tokens.still)
        stills = _pixels(tokens for tokens in sequences if tokens.still)
        sounds = [torch.from_numpy(t.mel) for t in sequences if t.mel is not None]
        longest = max((sound.shape[1] for sound in sounds), default=0)
        heard = [torch.arange(longest) < sound.shape[1] for sound in sounds]
        widened = [nn.functional.pad(s, (0, longest - s.shape[1])) for s in sounds]
        return Batch(
            ids,
            mask,
            positions,
            *videos,
            *stills,
            torch.stack(widened) if sounds else None,
            torch.stack(heard).long() if sounds else None,
        )

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the backbone's last hidden states, shape ``(batch, length, hidden)``."""
        inputs: dict[str, Any] = {}
        if batch.pixels is not None:
            inputs |= {
                "pixel_values_videos": self._normalised(batch.pixels),
                "video_grid_thw": batch.grids,
            }
        if batch.stills is not None:
            inputs |= {
                "pixel_values": self._normalised(batch.stills),
                "image_grid_thw": batch.still_grids,
            }
        if batch.mel is not None:
            inputs |= {"input_features": batch.mel, "feature_attention_mask": batch.heard}
        states: torch.Tensor = self.backbone(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
            **inputs,
        ).last_hidden_state
        return states

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return unit vectors of every token: float32, shape ``(batch, length, dim)``."""
        states = self.hidden(batch)
        projected = self.custom_text_proj(states.to(self.custom_text_proj.weight.dtype))
        return nn.functional.normalize(projected.float(), dim=-1)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels as the vision tower takes them: float32, by the channels' statistics."""
        # Two operations in place, on whole rows: a third of the time of one channel after another.
        repeat = pixels.shape[1] // 3
        std = torch.tensor(STD, device=pixels.device).repeat_interleave(repeat) * 255
        mean = torch.tensor(MEAN, device=pixels.device).repeat_interleave(repeat) * 255
        return pixels.float().sub_(mean).div_(std)


def _pixels(sequences: Iterable[Tokens]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the patches of all sequences, one below the other, and their grids."""
    seen = [tokens.patches for tokens in sequences if tokens.patches]
    if not seen:
        return None, None
    pixels = torch.cat([torch.from_numpy(patches.pixels) for patches in seen])
    return pixels, torch.tensor([patches.grid for patches in seen])
