"""The two published forms of the model: what differs between their prompts and backbones."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types import Modality

#: Text modalities in the order in which the reference's training joins them.
TEXTS = (Modality.OCR, Modality.ASR, Modality.DESCRIPTION)

#: What stands before the text of a modality.
PREFIXES = {
    Modality.VIDEO: "Video: ",
    Modality.AUDIO: "Audio: ",
    Modality.OCR: "OCR: ",
    Modality.ASR: "ASR: ",
    Modality.DESCRIPTION: "Description: ",
}


@dataclass(frozen=True, slots=True)
class Marks:
    """Tokens around a run of placeholders, and the placeholder itself."""

    begin: str
    place: str
    end: str


@dataclass(frozen=True, slots=True)
class Form:
    """One form of CLaMR.

    Attributes
    ----------
    name
        ``vl`` or ``omni``.
    model_types
        ``model_type`` of the checkpoints' ``config.json``.
    system
        System prompt.
    video, audio
        Marks of frames and sound; `audio` is None for a form that cannot hear.
    names_media
        Whether "Video: " and "Audio: " stand before them.
    """

    name: str
    model_types: tuple[str, ...]
    system: str
    video: Marks
    audio: Marks | None
    names_media: bool

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
    audio=None,
    names_media=False,
)
OMNI = Form(
    name="omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    system=(
        "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
        "perceiving auditory and visual inputs, as well as generating text and speech."
    ),
    video=Marks("<|vision_bos|>", "<|VIDEO|>", "<|vision_eos|>"),
    audio=Marks("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
    names_media=True,
)
FORMS = (VL, OMNI)
