"""mCLIP: two models of one space, each modality alone, frames pooled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from harness.errors import PluginError, UsageError
from harness.types import Modality
from retrievers.mclip import IMAGES, MClip, MClipSettings
from retrievers.st.source import ModelSource, find_model
from retrievers.st.tiny import tiny_dense, tiny_images
from tests.test_sentence_transformers import QUERIES, TEXTS, documents, queries, save
from tests.test_sentence_transformers_frames import pictures, seen, unit


def mclip(weights: str | None = None, **values: Any) -> MClip:
    settings = {"device": "cpu", "workers": 0, **values}
    return MClip("mclip", weights, MClipSettings.model_validate(settings))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    return {
        "texts": str(save(tiny_dense(3, dim=32), tmp_path / "texts")),
        "images": str(save(tiny_images(32, 3), tmp_path / "images")),
    }


def test_texts_and_frames_come_from_their_own_models(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = mclip(**models)
    found = mine.encode_documents(seen(monkeypatch, mine))
    texts = SentenceTransformer(models["texts"], device="cpu")
    images = SentenceTransformer(models["images"], device="cpu")
    frames = unit(images.encode([pictures(2)[0]] * 2 + [pictures(5)[0]]))
    assert found[1:2].modalities.tolist() == [Modality.VIDEO, Modality.ASR]
    np.testing.assert_allclose(found[1:2].vectors[0], unit(frames.mean(axis=0)), atol=1e-5)
    np.testing.assert_allclose(found[1:2].vectors[1], unit(texts.encode(TEXTS[1])), atol=1e-5)
    asked = mine.encode_queries(queries())
    np.testing.assert_allclose(asked.vectors, unit(texts.encode(list(QUERIES))), atol=1e-5)


def test_a_model_folder_as_it_was_saved_years_ago(models: dict[str, str]) -> None:
    """The published image model has its files in a folder of a module that is a class no more."""
    folder = Path(models["images"])
    (folder / "0_CLIPModel").mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("modules.json", "README.md"):
            file.rename(folder / "0_CLIPModel" / file.name)
    (folder / "0_CLIPModel/sentence_bert_config.json").unlink()
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
    module["type"] = "sentence_transformers.models.CLIPModel"
    (folder / "modules.json").write_text(json.dumps([module]))
    mine = mclip(**models)
    expected = unit(tiny_images(32, 3).encode(pictures(2)))
    np.testing.assert_allclose(np.concatenate(mine.images.images(pictures(2))), expected, atol=1e-5)


def test_models_of_two_spaces_are_refused(models: dict[str, str], tmp_path: Path) -> None:
    other = save(tiny_dense(3, dim=16), tmp_path / "other")
    with pytest.raises(PluginError, match=r"of 16 dimensions.*of 32"):
        mclip(**{**models, "texts": str(other)}).encode_queries(queries())
    with pytest.raises(UsageError, match=r"reads no images: give a CLIP model"):
        mclip(**{**models, "images": models["texts"]}).encode_queries(queries())


def test_modalities_alone(models: dict[str, str]) -> None:
    found = mclip(**models, encode_modalities=["ocr"]).encode_documents(documents())
    assert set(found.modalities.tolist()) == {Modality.OCR}
    assert MClip.masks


def test_weights_are_settings() -> None:
    with pytest.raises(UsageError, match=r"two models.*mclip\.texts"):
        mclip("some/model")
    assert mclip("tiny").untrained
    assert mclip("tiny").encode_queries(queries()).dim == 64


def test_the_identity_is_both_models_files(models: dict[str, str]) -> None:
    before = mclip(**models).identity()
    assert set(before["files"]) == {"texts", "images"}
    assert mclip(**{**models, "images": models["texts"]}).identity() != before


def test_pickled_weights_of_the_published_model_name_the_same_ones_without(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str, revision: str | None, *, code: bool = False) -> ModelSource:
        return find_model(models["images"] if name == IMAGES else name, revision, code=code)

    weights = Path(models["images"]) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    monkeypatch.setattr("retrievers.st.source.find_model", found)
    with pytest.raises(PluginError, match=r"pickle.*mclip\.images=openai/clip-vit-base-patch32"):
        mclip(texts=models["texts"]).encode_queries(queries())


def test_without_a_network_there_is_one_clear_message() -> None:
    with pytest.raises(PluginError, match=r"clip-ViT-B-32-multilingual-v1.*cannot be fetched"):
        mclip().identity()
