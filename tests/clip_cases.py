"""Tiny random checkpoints of CLIP, SigLIP and SigLIP 2, written as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from harness.types import Document, Media, Modality
from retrievers.clip.encoder import Clip, Siglip
from retrievers.clip.settings import ClipSettings, SiglipSettings

# Two cores shared with other work: OpenMP's threads spin and take a hundred times as long.
torch.set_num_threads(1)

TYPES = ("clip", "siglip", "siglip2")

TEXTS = (
    "A red bridge at NIGHT",
    "Пожар в порту",
    "洪水",
    "زلزال في المدينة",
    "Überschwemmung, " * 12,
    "short",
)

_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer() -> Any:
    """One token a byte; the marks come last, as in CLIP's own vocabulary."""
    letters = [*_BYTES, *(f"{byte}</w>" for byte in _BYTES), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={letter: n for n, letter in enumerate(letters)}, merges=[])


def siglip_tokenizer() -> Any:
    """One token a byte behind a normaliser that lowers; texts end with ``</s>``, which also pads.

    Like the files of SigLIP: no attention mask is asked for.
    """
    letters = ["<pad>", "</s>", "<unk>", *_BYTES]
    made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    made.normalizer = normalizers.Sequence([normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    marks = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=["input_ids"], **marks)


def siglip2_tokenizer() -> Any:
    """transformers' own class over bytes; the marks have Gemma's numbers."""
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "a", "e", "r", "t"]
    letters += [f"<0x{byte:02X}>" for byte in range(256)]
    made: Any = Siglip2Tokenizer(
        vocab={letter: n for n, letter in enumerate(letters)},
        merges=[],
        padding_side="right",
        model_input_names=["input_ids"],
    )
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return made


def write(kind: str, folder: Path, **text: Any) -> Path:
    """Write a random checkpoint of a model type; `text` changes the text tower's configuration."""
    tokenizer: Any
    if kind == "clip":
        tokenizer, side = clip_tokenizer(), {"height": 40, "width": 40}
        images: Any = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=side)
        config_class, model_class, processor_class = CLIPConfig, CLIPModel, CLIPProcessor
        vision, length = {"image_size": 40, "patch_size": 8}, 77
    elif kind == "siglip":
        tokenizer = siglip_tokenizer()
        images = SiglipImageProcessorPil(size={"height": 40, "width": 40})
        config_class, model_class, processor_class = SiglipConfig, SiglipModel, SiglipProcessor
        vision, length = {"image_size": 40, "patch_size": 8}, 64
    else:
        tokenizer = siglip2_tokenizer()
        images = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
        config_class, model_class, processor_class = Siglip2Config, Siglip2Model, Siglip2Processor
        vision, length = {"patch_size": 16, "num_patches": 16}, 64
    config: Any = config_class(
        text_config={
            **_TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": length,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **text,
        },
        vision_config={**_TOWER, **vision},
        **({"projection_dim": 24} if kind == "clip" else {}),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = model_class(config)
        # Stock values are so small that all vectors are nearly one.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    processor_class(images, tokenizer).save_pretrained(folder)
    return folder


def pictures() -> list[NDArray[np.uint8]]:
    """Six pictures, high, wide and small, of which one is three pixels high."""
    random = np.random.default_rng(3)
    sizes = [(60, 90), (90, 60), (40, 40), (31, 57), (3, 20), (200, 64)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def saved(folder: Path, frames: list[NDArray[np.uint8]], name: str = "frame") -> tuple[Media, ...]:
    """Write frames as PNG files."""
    files = []
    for number, frame in enumerate(frames):
        path = folder / f"{name}-{number}.png"
        Image.fromarray(frame).save(path)
        files.append(Media(path, path.name, path.stat().st_size))
    return tuple(files)


def documents(folder: Path) -> list[Document]:
    """Documents of several modalities; the last has none."""
    shown = pictures()
    same = [np.roll(shown[0], 7 * n, axis=1) for n in range(3)]
    return [
        Document("video", {}, {Modality.VIDEO: saved(folder, same, "video")}),
        Document(
            "all",
            {Modality.ASR: TEXTS[0], Modality.OCR: TEXTS[4], Modality.DESCRIPTION: TEXTS[1]},
            {
                Modality.VIDEO: saved(folder, same[:2], "all"),
                Modality.IMAGE: saved(folder, shown[1:3], "image"),
            },
        ),
        Document("text", {Modality.TEXT: TEXTS[3]}),
        Document("picture", {}, {Modality.IMAGE: saved(folder, shown[3:4], "picture")}),
        Document("nothing"),
    ]


def clip(weights: str | Path = "tiny", **settings: Any) -> Clip:
    """An encoder that decodes in this process."""
    return Clip("clip", str(weights), ClipSettings(**{"workers": 0, **settings}))


def siglip(weights: str | Path = "tiny", **settings: Any) -> Siglip:
    return Siglip("siglip", str(weights), SiglipSettings(**{"workers": 0, **settings}))


def encoder(kind: str, weights: str | Path, **settings: Any) -> Clip:
    """The encoder that reads checkpoints of a model type."""
    return (clip if kind == "clip" else siglip)(weights, **settings)
