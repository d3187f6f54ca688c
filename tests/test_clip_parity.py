"""The vectors are those of transformers' own model and processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, CLIPProcessor, Siglip2Processor, SiglipProcessor

from harness.types import Document, Modality, Query
from tests.clip_cases import TEXTS, TYPES, encoder, pictures, saved, siglip_tokenizer, write

PROCESSORS: dict[str, Any] = {
    "clip": CLIPProcessor, "siglip": SiglipProcessor, "siglip2": Siglip2Processor,
}  # fmt: skip
LENGTHS = {"clip": 77, "siglip": 64, "siglip2": 64}


def stock(
    kind: str, folder: Path, texts: tuple[str, ...], padding: str = "max_length"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of texts and of `pictures()`, by the documented calls."""
    model: Any = AutoModel.from_pretrained(folder).eval()
    inputs = PROCESSORS[kind].from_pretrained(folder)(
        text=list(texts), images=pictures(), return_tensors="pt",
        padding=padding, max_length=LENGTHS[kind], truncation=True,
        images_kwargs={"input_data_format": "channels_last"},
    )  # fmt: skip
    with torch.inference_mode():
        found = model(**inputs)
    return found.text_embeds.numpy(), found.image_embeds.numpy()


@pytest.mark.parametrize("kind", TYPES)
def test_vectors_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = write(kind, tmp_path / "model")
    texts, images = stock(kind, folder, TEXTS)
    ours = encoder(kind, folder)
    asked = ours.encode_queries([Query(str(n), text) for n, text in enumerate(TEXTS)])
    np.testing.assert_allclose(asked.vectors, texts, rtol=0, atol=1e-5)
    collection = [Document(text, {Modality.ASR: text}) for text in TEXTS]
    collection.append(Document("d", {}, {Modality.IMAGE: saved(tmp_path, pictures())}))
    found = ours.encode_documents(collection).vectors
    np.testing.assert_allclose(found[: len(TEXTS)], texts, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[len(TEXTS) :], images, rtol=0, atol=1e-5)
    # The comparison can fail: texts and pictures differ among themselves by far more.
    for vectors in (texts, images):
        others = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
        assert others[~np.eye(len(vectors), dtype=bool)].min() > 0.01


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_without_its_padding_would_be_another_model(kind: str, tmp_path: Path) -> None:
    """Why padding is no setting: the usual ``padding=True`` gives other vectors in silence."""
    folder = write(kind, tmp_path / "model")
    full, _ = stock(kind, folder, ("short",))
    bare, _ = stock(kind, folder, ("short",), padding="longest")
    assert (full * bare).sum() < 0.99


def test_a_configuration_from_before_2023_pools_at_the_largest_id(tmp_path: Path) -> None:
    folder = write("clip", tmp_path / "model", eos_token_id=2)
    texts, _ = stock("clip", folder, TEXTS)
    asked = encoder("clip", folder).encode_queries([Query(text, text) for text in TEXTS])
    np.testing.assert_allclose(asked.vectors, texts, rtol=0, atol=1e-5)


def test_the_first_form_of_processor_settings_is_read(tmp_path: Path) -> None:
    """OpenAI's checkpoints hold these: bare numbers, and a class that is gone."""
    folder = write("clip", tmp_path / "model")
    _, images = stock("clip", folder, ("a",))
    (folder / "processor_config.json").unlink(missing_ok=True)
    told = {
        "crop_size": 40, "size": 40, "do_center_crop": True, "do_normalize": True,
        "do_resize": True, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    document = Document("d", {}, {Modality.IMAGE: saved(tmp_path, pictures())})
    found = encoder("clip", folder).encode_documents([document])
    np.testing.assert_allclose(found.vectors, images, rtol=0, atol=1e-5)


def test_siglip_lowers_texts_even_where_the_file_does_not(tmp_path: Path) -> None:
    """The files of SigLIP 2's models of one image size keep capitals; its training did not."""
    folder = write("siglip", tmp_path / "model")
    cased = siglip_tokenizer()
    cased.backend_tokenizer.normalizer = None
    cased.save_pretrained(folder)
    ours = encoder("siglip", folder)
    found = ours.encode_queries([Query("1", "Über NIGHT"), Query("2", "über night")]).vectors
    np.testing.assert_array_equal(found[0], found[1])
    expected, _ = stock("siglip", folder, ("über night", "Über NIGHT"))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_padding_stands_where_the_checkpoint_says(tmp_path: Path) -> None:
    folder = write("siglip", tmp_path / "model")
    left = siglip_tokenizer()
    left.padding_side = "left"
    left.save_pretrained(folder)
    expected, _ = stock("siglip", folder, TEXTS)
    asked = encoder("siglip", folder).encode_queries([Query(text, text) for text in TEXTS])
    np.testing.assert_allclose(asked.vectors, expected, rtol=0, atol=1e-5)
