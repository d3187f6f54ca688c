"""Checkpoint, queries and documents that the PreFLMR tests share."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.types import Document, Media, Modality, Query
from retrievers.preflmr.encoder import PreFLMR
from retrievers.preflmr.settings import PreFLMRSettings
from tests.clip_cases import pictures, saved

FIXTURES = Path(__file__).parent / "fixtures"
#: Tiny and random, written by the reference implementation.
CHECKPOINT = FIXTURES / "preflmr"

INSTRUCTION = "Using the provided image, obtain documents that address the subsequent question: "

# Two cores shared with other work: OpenMP's threads spin and take a hundred times as long.
torch.set_num_threads(1)


def preflmr(weights: str | Path = "tiny", **settings: Any) -> PreFLMR:
    """An encoder that decodes in this process."""
    return PreFLMR("preflmr", str(weights), PreFLMRSettings(**{"workers": 0, **settings}))


@cache
def told() -> dict[str, Any]:
    """Texts and tokens of the parity case."""
    found: dict[str, Any] = json.loads((FIXTURES / "preflmr_reference.json").read_text("utf-8"))
    return found


@cache
def reference() -> dict[str, NDArray[Any]]:
    """What the reference implementation gave."""
    with np.load(FIXTURES / "preflmr_reference.npz") as found:
        return dict(found)


def asked(text: str, id_: str = "q", image: Media | None = None) -> Query:
    """A query of a text that holds its instruction."""
    instruction, colon, question = text.partition(":")
    if not colon:
        return Query(id_, text, image)
    return Query(id_, question, image, instruction)


def picture(folder: Path, number: int = 0) -> Media:
    """A picture, written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (found,) = saved(folder, [np.roll(pictures()[0], 7 * number, axis=1)])
    return found


def queries(folder: Path) -> list[Query]:
    """Of each kind: image and text, text, image with and without an instruction."""
    return [
        Query("both", "What is the capital of France?", picture(folder / "a"), INSTRUCTION),
        Query("text", "who built this bridge", None, "Find the passage"),
        Query("image", "", picture(folder / "b", 1), "Describe the image."),
        Query("bare", "", picture(folder / "c", 2)),
        Query("plain", "which bird is found only on this lake: a duck?"),
    ]


def documents(folder: Path) -> list[Document]:
    """Of all modalities, of one, and of none."""
    shown = tuple(picture(folder / f"frame{n}", n) for n in range(3))
    texts = {
        Modality.ASR: "the bird, an animal",
        Modality.OCR: "LIVE: a river!",
        Modality.DESCRIPTION: "a mountain",
    }
    return [
        Document("all", texts, {Modality.VIDEO: shown}),
        Document("nothing"),
        Document("text", {Modality.TEXT: "The tower (built 1889) is red; it's known!"}),
        Document("image", {Modality.TEXT: "a"}, {Modality.IMAGE: shown[:2]}),
        Document("video", {}, {Modality.VIDEO: shown[:1]}),
    ]
