"""Loading: every tensor accounted for; what does not fit is named and nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModel

from harness.errors import ClamrBenchError
from harness.types import Query
from retrievers.clip.family import CONVERTED
from tests.clip_cases import TYPES, clip, clip_tokenizer, encoder, siglip, write

Tensors = dict[str, torch.Tensor]
LAYER = "text_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("clip", tmp_path_factory.mktemp("clip") / "model")


def copied(checkpoint: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def altered(checkpoint: Path, folder: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of a checkpoint with other tensors."""
    file = copied(checkpoint, folder) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder


def set_config(folder: Path, name: str, values: dict[str, Any]) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refused(made: Any, *words: str) -> None:
    with pytest.raises(ClamrBenchError) as error:
        made.encode_queries([Query("q", "night")])
    for word in words:
        assert word in str(error.value), str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(LAYER), ["missing", LAYER]),
        (lambda t: t.pop("logit_scale"), ["missing", "logit_scale"]),
        (
            lambda t: t.update({"vision_model.extra": torch.ones(2)}),
            ["not part of the model", "vision_model.extra"],
        ),
        (
            lambda t: t.update({LAYER: torch.ones(47, 32)}),
            ["of another shape", f"{LAYER} (47, 32) for (48, 32)"],
        ),
        (
            lambda t: t.update({"text_model.position_ids": torch.arange(77)[None]}),
            ["not part of the model", "text_model.position_ids"],
        ),
    ],
    ids=["missing", "scale", "unknown", "shape", "other-buffer"],
)
def test_a_tensor_that_does_not_fit_is_named(
    checkpoint: Path, tmp_path: Path, change: Callable[[Tensors], object], words: list[str]
) -> None:
    refused(clip(altered(checkpoint, tmp_path / "copy", change)), "Nothing was loaded", *words)


def test_counts_of_positions_in_old_files_are_known(checkpoint: Path, tmp_path: Path) -> None:
    old = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(26)[None],
    }
    folder = altered(checkpoint, tmp_path / "old", lambda t: t.update(old))
    asked = [Query("q", "night")]
    found = clip(folder).encode_queries(asked).vectors
    assert (found == clip(checkpoint).encode_queries(asked).vectors).all()


@pytest.mark.parametrize("kind", TYPES)
def test_every_tensor_of_the_files_is_the_models(kind: str, tmp_path: Path) -> None:
    folder = write(kind, tmp_path / "model")
    state = encoder(kind, folder, dtype="float32").module.state_dict()
    tensors = load_file(folder / "model.safetensors")
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)


def test_shards_are_one_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "parts")
    (folder / "model.safetensors").unlink()
    CLIPModel.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    asked = [Query("q", "night")]
    found = clip(folder).encode_queries(asked).vectors
    assert (found == clip(checkpoint).encode_queries(asked).vectors).all()
    next(folder.glob("model-00002*")).unlink()
    refused(clip(folder), "model-00002", "missing")


def test_the_right_retriever_is_named(checkpoint: Path, tmp_path: Path) -> None:
    other = write("siglip2", tmp_path / "siglip2")
    refused(clip(other), "'siglip2' checkpoint", f"use siglip/{other}")
    refused(siglip(checkpoint), "'clip' checkpoint", f"use clip/{checkpoint}")
    folder = copied(checkpoint, tmp_path / "other")
    set_config(folder, "config.json", {"model_type": "bert"})
    refused(clip(folder), "'bert' checkpoint", "openai/clip-vit-base-patch32")


def test_a_tower_alone_is_not_enough(checkpoint: Path, tmp_path: Path) -> None:
    whole: Any = CLIPModel.from_pretrained(checkpoint)
    vision, text = tmp_path / "vision", tmp_path / "text"
    CLIPVisionModel(whole.config.vision_config).save_pretrained(vision)
    CLIPTextModelWithProjection(whole.config.text_config).save_pretrained(text)
    refused(clip(vision), "no text tower", "queries, speech and on-screen text")
    refused(clip(text), "no vision tower", "frames")
    headless = write("siglip", tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (headless / "config.json").write_text(json.dumps(config))
    refused(siglip(headless), "pooling head")


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_missing_file_is_named(checkpoint: Path, tmp_path: Path, missing: str) -> None:
    folder = copied(checkpoint, tmp_path / "part")
    (folder / missing).unlink()
    refused(clip(folder), missing)


def test_without_an_image_processor_it_says_which_file(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "part")
    for file in folder.glob("*processor_config.json"):
        file.unlink()
    refused(clip(folder), "preprocessor_config.json")


def test_files_of_different_models_do_not_go_together(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "images")
    (folder / "processor_config.json").unlink(missing_ok=True)
    told = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    refused(clip(folder), "(3, 32, 32)", "(3, 40, 40)")
    folder = copied(checkpoint, tmp_path / "end")
    set_config(folder, "tokenizer_config.json", {"eos_token": "a</w>"})
    refused(clip(folder), "pools at", "tokeniser of another model")
    folder = copied(checkpoint, tmp_path / "more")
    larger = clip_tokenizer()
    larger.add_tokens(["<|more|>"])
    larger.save_pretrained(folder)
    refused(clip(folder), "515 entries", "514", "tokeniser of another model")
    folder = copied(checkpoint, tmp_path / "unknown")
    set_config(folder, "tokenizer_config.json", {"bos_token": "<|nowhere|>"})
    refused(clip(folder), "'<|nowhere|>'")


def test_broken_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "weights")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(clip(folder), "model.safetensors", "fetch it again")
    folder = copied(checkpoint, tmp_path / "tokens")
    (folder / "tokenizer.json").write_text("{}")
    refused(clip(folder), "tokenizer.json", "fetch it again")
    folder = copied(checkpoint, tmp_path / "config")
    set_config(folder, "config.json", {"text_config": {"hidden_size": "wide"}})
    refused(clip(folder), "config.json")


def test_without_a_network_a_hub_id_says_what_to_do() -> None:
    refused(clip("owner/some-clip"), "owner/some-clip", "cannot be fetched", "hf download")
    refused(clip("no-such-folder"), "no such folder")


def test_openai_s_small_model_is_taken_from_its_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main branch has no safetensors file."""
    asked = []

    def fetch(name: str, *, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    name = "openai/clip-vit-base-patch32"
    for weights, settings in ((name, {}), (name, {"revision": "main"}), ("a/b", {})):
        refused(clip(weights, **settings), "no network")
    assert asked == [(name, CONVERTED[name]), (name, "main"), ("a/b", None)]


def test_devices_that_cannot_be_used_are_named(checkpoint: Path) -> None:
    refused(clip(checkpoint, device="spread"), "spread")
    refused(clip(checkpoint, device="cuda:99"), "cuda:99")


def test_dtype_is_taken_and_vectors_stay_float32(checkpoint: Path) -> None:
    made = clip(checkpoint, dtype="bfloat16")
    asked = [Query("q", "night")]
    found = made.encode_queries(asked).vectors
    assert {parameter.dtype for parameter in made.module.parameters()} == {torch.bfloat16}
    assert found.dtype == "float32"
    assert (found * clip(checkpoint).encode_queries(asked).vectors).sum() > 0.999
    assert made.identity()["dtype"] == "bfloat16"


def test_the_fingerprint_is_of_all_that_makes_a_vector(checkpoint: Path, tmp_path: Path) -> None:
    first = clip(checkpoint).identity()
    assert first == clip(checkpoint, device="cpu", batch_inputs=3).identity()
    folder = copied(checkpoint, tmp_path / "copy")
    assert clip(folder).identity() == first
    set_config(folder, "tokenizer_config.json", {"padding_side": "left"})
    assert clip(folder).identity() != first
