"""The backbones: what differs between their marks, and which of them a retriever is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.types import Modality

#: Text modalities in the order in which the reference's training joins them; a plain text, which
#: it does not know, comes last.
TEXTS = (Modality.OCR, Modality.ASR, Modality.DESCRIPTION, Modality.TEXT)


@dataclass(frozen=True, slots=True)
class Marks:
    """Tokens around a run of placeholders, and the placeholder itself."""

    begin: str
    place: str
    end: str


@dataclass(frozen=True, slots=True)
class Form:
    """One backbone.

    Attributes
    ----------
    name
        ``vl2`` (Qwen2-VL), ``vl`` (Qwen2.5-VL) or ``omni`` (Qwen2.5-Omni).
    model_types
        ``model_type`` of the checkpoints' ``config.json``.
    system
        Its own system prompt.
    video, image, audio
        Marks of a video, a still and sound; `audio` is None for a form that cannot hear.
    """

    name: str
    model_types: tuple[str, ...]
    system: str
    video: Marks
    image: Marks
    audio: Marks | None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the form reads, in the order of the sequence."""
        heard = (Modality.AUDIO,) if self.audio else ()
        return (Modality.VIDEO, *heard, *TEXTS)


VL = Form(
    name="vl",
    model_types=("qwen2_5_vl",),
    system="You are a helpful assistant.",
    video=Marks("<|vision_start|>", "<|video_pad|>", "<|vision_end|>"),
    image=Marks("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
    audio=None,
)
VL2 = replace(VL, name="vl2", model_types=("qwen2_vl",))
OMNI = Form(
    name="omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    system=(
        "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
        "perceiving auditory and visual inputs, as well as generating text and speech."
    ),
    video=Marks("<|vision_bos|>", "<|VIDEO|>", "<|vision_eos|>"),
    image=Marks("<|vision_bos|>", "<|IMAGE|>", "<|vision_eos|>"),
    audio=Marks("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
)
FORMS = (VL2, VL, OMNI)


@dataclass(frozen=True, slots=True)
class Family:
    """The published models that a retriever runs.

    Attributes
    ----------
    name
        What messages and fingerprints call it: the retriever's name.
    version
        Version of what sequences and vectors are: raise it when the same input would give others.
    forms
        Backbones that it is made of.
    bases
        Hub ids of such backbones, for messages.
    released
        Hub id of the default weights.
    built_in
        Names of weights that need no files.
    plain
        The form of adapters whose names do not begin with ``thinker.``; None where those of
        several forms do not.
    draws_projection
        Whether its adapters were saved without the base weights of their projection, which its
        training drew from a seed (see `retrievers.qwen.loading.drawn_projection`).
    """

    name: str
    version: int
    forms: tuple[Form, ...]
    bases: str
    released: str
    built_in: tuple[str, ...] = ()
    plain: Form | None = None
    draws_projection: bool = False
