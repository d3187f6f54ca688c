"""Documents, checkpoints and outputs of the reference implementation that the CLaMR tests share."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.types import Document, Media, Modality, Query
from retrievers.clamr.encoder import Clamr, ClamrPooled
from retrievers.clamr.settings import ClamrSettings

FIXTURES = Path(__file__).parent / "fixtures"
VL, OMNI, ADAPTER = (FIXTURES / f"clamr_{name}" for name in ("vl", "omni", "vl_adapter"))

#: The reference numbers modalities video, ocr, asr, description; here by our numbers.
REFERENCE_NUMBERS = np.zeros(8, np.uint8)
REFERENCE_NUMBERS[[Modality.VIDEO, Modality.OCR, Modality.ASR, Modality.DESCRIPTION]] = [1, 2, 3, 4]

# Two cores shared with other work: OpenMP's threads spin and take a hundred times as long.
torch.set_num_threads(1)


@cache
def written() -> list[dict[str, str]]:
    """The texts of the six documents, and their queries."""
    found: list[dict[str, str]] = json.loads((FIXTURES / "clamr_documents.json").read_text("utf-8"))
    return found


@cache
def frames() -> NDArray[np.uint8]:
    """uint8, shape ``(6, 4, 56, 56, 3)``."""
    with np.load(FIXTURES / "clamr_frames.npz") as found:
        return found["frames"]


def expected(name: str) -> dict[str, Any]:
    """What the reference implementation gave."""
    with np.load(FIXTURES / f"clamr_{name}.npz") as found:
        return dict(found)


def documents(folder: Path) -> list[Document]:
    """The six documents; their frames are written to `folder` as PNG files."""
    made = []
    for number, texts in enumerate(written()):
        files = []
        for place, frame in enumerate(frames()[number]):
            path = folder / f"{number}-{place}.png"
            Image.fromarray(frame).save(path)
            files.append(Media(path, path.name, path.stat().st_size))
        made.append(
            Document(
                f"doc{number}",
                {Modality.parse(name): texts[name] for name in ("ocr", "asr", "description")},
                {Modality.VIDEO: tuple(files)},
            )
        )
    return made


def queries() -> list[Query]:
    return [Query(f"q{number}", texts["query"]) for number, texts in enumerate(written())]


def clamr(weights: str | Path, **settings: Any) -> Clamr:
    """An encoder that decodes in this process."""
    return Clamr("clamr", str(weights), ClamrSettings(**{"workers": 0, **settings}))


def pooled(weights: str | Path, **settings: Any) -> ClamrPooled:
    return ClamrPooled("clamr-pooled", str(weights), ClamrSettings(**{"workers": 0, **settings}))
