"""Frames and images, where a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from harness.errors import UsageError
from harness.media import Frames, LoadedDocument
from harness.registry import make_retriever
from harness.types import Document, Modality
from retrievers.st.tiny import tiny_images
from tests.test_sentence_transformers import ADDRESS, TEXTS, documents, encoder, save


def pictures(number: int) -> list[Any]:
    draw = np.random.default_rng(number)
    return [
        draw.integers(0, 256, (70 + 10 * n, 90, 3), dtype=np.uint8) for n in range(1 + number % 3)
    ]


def seen(monkeypatch: pytest.MonkeyPatch, mine: Any) -> list[Document]:
    """Give the encoder documents with frames and images that need no file."""
    batch = [Document(str(n), texts={Modality.ASR: TEXTS[n]} if n % 2 else {}) for n in range(6)]

    def loaded(documents: Sequence[Document]) -> list[LoadedDocument]:
        return [
            LoadedDocument(
                document,
                frames=None
                if int(document.id) % 3 == 2
                else Frames(
                    np.stack([pictures(2)[0]] * 2 + [pictures(5)[0]]),
                    np.asarray([0.5, 1.5, 2.5]),
                    np.arange(3),
                ),
                images=tuple(pictures(int(document.id))) if document.id == "4" else (),
            )
            for document in documents
        ]

    monkeypatch.setattr(mine, "_loaded", loaded)
    return batch


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("how", ["mean", "max", "each"])
def test_frames_and_images_where_the_model_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = save(tiny_images(32, 3), tmp_path / "model")
    mine = encoder(folder, frames_as=how, batch_inputs=2)
    found = mine.encode_documents(seen(monkeypatch, mine))
    library = SentenceTransformer(str(folder), device="cpu")
    frames = unit(library.encode([pictures(2)[0]] * 2 + [pictures(5)[0]]))
    pooled = {"mean": unit(frames.mean(0)[None]), "max": unit(frames.max(0)[None]), "each": frames}
    assert found.spans is not None
    first = found[0:1]
    assert first.modalities.tolist() == [Modality.VIDEO]
    np.testing.assert_allclose(first.vectors, pooled[how], atol=1e-5)
    times = [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]] if how == "each" else [[0.5, 2.5]]
    assert first.spans is not None
    assert first.spans[:, :2].tolist() == times
    assert found[4:5].modalities.tolist() == [Modality.VIDEO, Modality.IMAGE]
    images = unit(library.encode(pictures(4)))
    np.testing.assert_allclose(found[4:5].vectors[-len(images) :], images, atol=1e-5)
    # A text that looks like the address of a picture is a text, and is not fetched.
    text = library.encode_document([{"text": TEXTS[5]}], normalize_embeddings=True)
    np.testing.assert_allclose(found[5:6].vectors[-1:], text, atol=1e-5)


def test_a_model_of_texts_is_not_asked_for_frames() -> None:
    with pytest.raises(UsageError, match=r"video.*reads no images"):
        encoder("tiny", encode_modalities=["video", "asr"]).encode_documents(documents())
    only = encoder("tiny", encode_modalities=["ocr"]).encode_documents(documents())
    assert set(only.modalities.tolist()) == {Modality.OCR}
    with pytest.raises(UsageError, match="no model reads audio"):
        make_retriever(f"{ADDRESS}/tiny", {"encode_modalities": ["audio"]})
