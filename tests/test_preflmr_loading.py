"""Loading: every tensor accounted for, under every name; what does not fit is named."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import ClamrBenchError
from harness.types import Document, Modality, Query
from retrievers.preflmr.encoder import PreFLMR
from retrievers.preflmr.loading import RELEASED, blank
from retrievers.preflmr.published import PUBLISHED, published
from tests.clip_cases import write as clip_checkpoint
from tests.preflmr_cases import CHECKPOINT, FIXTURES, picture, preflmr, queries

Tensors = dict[str, torch.Tensor]
LAYER = "context_text_encoder.bert_model.encoder.layer.1.output.dense.weight"
MAPPED = "transformer_mapping_network.layer.0.crossattention.self.key.weight"
TOWER = "query_vision_encoder.vision_model.vision_model."


def copied(folder: Path, checkpoint: Path = CHECKPOINT) -> Path:
    return Path(shutil.copytree(checkpoint, folder))


def altered(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of the checkpoint with other tensors."""
    file = copied(folder) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    return folder


def renamed(old: str, new: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def set_config(folder: Path, name: str = "config.json", **values: Any) -> Path:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def refused(made: PreFLMR, *words: str) -> None:
    with pytest.raises(ClamrBenchError) as error:
        made.encode_queries([Query("q", "night")])
    for word in words:
        assert word in str(error.value), str(error.value)
    assert len(str(error.value).splitlines()) == 1


def vectors(made: PreFLMR, folder: Path) -> Any:
    asked = made.encode_queries(queries(folder)).vectors
    read = made.encode_documents([Document("d", {Modality.TEXT: "a river, a bird"})]).vectors
    return np.concatenate([asked, read])


# ---------------------------------------------------------------- the published models


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_of_the_published_checkpoints(name: str) -> None:
    expected = json.loads(gzip.decompress((FIXTURES / "preflmr_tensors.json.gz").read_bytes()))
    state = blank(published(name)).state_dict()
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    assert found == expected[name.rpartition("/")[2]]


@pytest.mark.parametrize(
    ("name", "parameters", "rows"),
    [("ViT-B", 326_725_504, 81), ("ViT-L", 543_170_176, 288), ("ViT-G", 2_084_569_984, 288)],
)
def test_their_size_and_the_rows_of_an_image(name: str, parameters: int, rows: int) -> None:
    model = blank(published(f"LinWeizheDragon/PreFLMR_{name}"))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.image_rows == rows


def test_without_a_network_the_released_model_says_what_to_do() -> None:
    made = PreFLMR("preflmr", None, PreFLMR.Settings())
    refused(made, RELEASED, "cannot be fetched", "hf download")


def test_the_vocabularies_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    refused(preflmr("a/b", revision="main"), "no network")
    assert "*vocab.txt" in asked[0]
    assert not any("bin" in pattern or "*.py" in pattern for pattern in asked[0])


# ---------------------------------------------------------------- names


def test_every_tensor_of_the_file_is_the_models() -> None:
    state = preflmr(CHECKPOINT, dtype="float32").module.state_dict()
    tensors = load_file(CHECKPOINT / "model.safetensors")
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("query_vision_", "context_vision_"),
        ("bert_model", "text_model"),
        ("vision_model.vision_model", "vision_model"),
    ],
)
def test_either_name_of_a_module_is_known(old: str, new: str, tmp_path: Path) -> None:
    folder = altered(tmp_path / "other", renamed(old, new))
    assert any(new in name for name in load_file(folder / "model.safetensors"))
    found, expected = vectors(preflmr(folder), tmp_path), vectors(preflmr(CHECKPOINT), tmp_path)
    np.testing.assert_array_equal(found, expected)


def test_both_names_of_a_module_are_one_if_they_agree(tmp_path: Path) -> None:
    def both(tensors: Tensors) -> None:
        for name in [name for name in tensors if "query_vision" in name or "bert_model" in name]:
            other = name.replace("query_vision", "context_vision")
            tensors[other.replace("bert_model", "text_model")] = tensors[name]

    folder = altered(tmp_path / "both", both)
    expected = vectors(preflmr(CHECKPOINT), tmp_path)
    np.testing.assert_array_equal(vectors(preflmr(folder), tmp_path), expected)

    def apart(tensors: Tensors) -> None:
        both(tensors)
        name = f"{TOWER}post_layernorm.bias"
        tensors[name.replace("query_", "context_")] = tensors[name] + 1

    folder = altered(tmp_path / "apart", apart)
    refused(preflmr(folder), "post_layernorm.bias", "are one tensor, and differ")


def test_a_shared_text_encoder_has_either_name(tmp_path: Path) -> None:
    def share(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("context_text_encoder")]:
            del tensors[name]

    folder = altered(tmp_path / "query", share)
    set_config(folder, separate_query_and_context_text_encoder=False)
    found = vectors(preflmr(folder), tmp_path)
    other = copied(tmp_path / "context", folder)
    tensors = load_file(other / "model.safetensors")
    renamed("query_text_", "context_text_")(tensors)
    save_file(tensors, other / "model.safetensors")
    np.testing.assert_array_equal(vectors(preflmr(other), tmp_path), found)
    # Documents are read by the encoder of queries.
    assert not np.allclose(found[-5:], vectors(preflmr(CHECKPOINT), tmp_path)[-5:], atol=1e-3)


def test_a_model_without_a_mapping_block_has_the_rows_of_the_class_token(tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("transformer_mapping")]:
            del tensors[name]

    folder = altered(tmp_path / "flmr", drop)
    set_config(folder, use_transformer_mapping_network=False, mask_instruction_token=None)
    made = preflmr(folder)
    asked = queries(tmp_path)[:1]
    found = made.encode_queries(asked)
    # Nothing of the instruction is masked.
    assert found.segment_offsets.tolist() == [0, 6, 6 + 32]
    names = made.query_tokens(asked[0])
    assert names[:6] == [f"[image {n}/6]" for n in range(1, 7)]
    assert names[6:11] == ["[CLS]", "[unused0]", "using", "the", "provided"]
    whole = preflmr(CHECKPOINT).encode_queries(asked)
    np.testing.assert_allclose(found.vectors[:6], whole.vectors[:6], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(LAYER), ["missing", LAYER]),
        (lambda t: t.pop(MAPPED), ["missing", MAPPED]),
        (lambda t: t.pop(f"{TOWER}embeddings.class_embedding"), ["missing", "class_embedding"]),
        (
            lambda t: t.update({"query_text_encoder.extra": torch.ones(2)}),
            ["not part of the model", "query_text_encoder.extra"],
        ),
        (
            lambda t: t.update({MAPPED: torch.ones(48, 47)}),
            ["of another shape", f"{MAPPED} (48, 47) for (48, 48)"],
        ),
        (
            lambda t: renamed("transformer_mapping_", "mapping_")(t),
            ["missing", "not part of the model", "mapping_input_linear"],
        ),
    ],
    ids=["missing", "mapping", "tower", "unknown", "shape", "renamed"],
)
def test_a_tensor_that_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[Tensors], object], words: list[str]
) -> None:
    refused(preflmr(altered(tmp_path / "copy", change)), "Nothing was loaded", *words)


def test_counts_of_positions_in_old_files_are_known(tmp_path: Path) -> None:
    old = {
        "query_text_encoder.bert_model.embeddings.position_ids": torch.arange(64)[None],
        f"{TOWER}embeddings.position_ids": torch.arange(17)[None],
    }
    folder = altered(tmp_path / "old", lambda tensors: tensors.update(old))
    expected = vectors(preflmr(CHECKPOINT), tmp_path)
    np.testing.assert_array_equal(vectors(preflmr(folder), tmp_path), expected)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    refused(preflmr(clip_checkpoint("clip", tmp_path / "clip")), "'clip'", RELEASED)
    for name, values, words in (
        ("tower", {"separate_query_and_context_vision_encoder": True}, ["vision_encoder = True"]),
        ("text", {"use_vision_encoder": False}, ["use_vision_encoder = False"]),
        ("sizes", {"text_config": {"hidden_size": "wide"}}, ["config.json cannot be used"]),
        ("images", {"vision_config": {"image_size": [3, 4]}}, ["not square"]),
        ("mapping", {"transformer_mapping_config_base": "elsewhere"}, ["elsewhere/config.json"]),
        ("outside", {"transformer_mapping_config_base": "../copy"}, ["../copy"]),
    ):
        refused(preflmr(set_config(copied(tmp_path / name), **values)), *words)
    folder = set_config(
        copied(tmp_path / "wide"), "transformer_mapping_base/config.json", hidden_size=60
    )
    refused(preflmr(folder), "60 wide", "48")
    # Another number of layers is another list of tensors.
    folder = set_config(copied(tmp_path / "deep"), transformer_mapping_num_hidden_layers=2)
    refused(preflmr(folder), "missing", "transformer_mapping_network.layer.1.")


def test_berts_own_sizes_need_no_file(tmp_path: Path) -> None:
    folder = set_config(
        copied(tmp_path / "bert"), transformer_mapping_config_base="bert-base-uncased"
    )
    refused(preflmr(folder), "768 wide")


@pytest.mark.parametrize(
    "missing",
    [
        "config.json",
        "model.safetensors",
        "query_tokenizer/vocab.txt",
        "context_tokenizer/vocab.txt",
        "context_tokenizer/tokenizer_config.json",
        "transformer_mapping_base/config.json",
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = copied(tmp_path / "part")
    (folder / missing).unlink()
    refused(preflmr(folder), missing)


def test_files_of_different_models_do_not_go_together(tmp_path: Path) -> None:
    folder = copied(tmp_path / "more")
    with (folder / "context_tokenizer/vocab.txt").open("a") as file:
        file.write("onemore\nanother\n")
    refused(preflmr(folder), "271 entries", "269", "tokeniser of another model")
    folder = copied(tmp_path / "unknown")
    file = folder / "query_tokenizer/vocab.txt"
    file.write_text(file.read_text().replace("[unused0]", "[other]"))
    refused(preflmr(folder), "'[unused0]'", "vocabulary of another model")
    folder = copied(tmp_path / "attends")
    set_config(folder, "query_tokenizer/tokenizer_config.json", attend_to_mask_tokens=True)
    refused(preflmr(folder), "attend_to_mask_tokens")
    refused(preflmr(CHECKPOINT, document_length=65), "65", "64 positions")
    folder = copied(tmp_path / "images")
    square = {"crop_size": {"height": 40, "width": 40}, "size": {"shortest_edge": 40}}
    (folder / "preprocessor_config.json").write_text(json.dumps(square))
    refused(preflmr(folder), "preprocessor_config.json", "32 x 32")


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = copied(tmp_path / "weights")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(preflmr(folder), "model.safetensors", "fetch it again")
    folder = copied(tmp_path / "tokens")
    (folder / "query_tokenizer/tokenizer_config.json").write_text("{")
    refused(preflmr(folder), "query_tokenizer/tokenizer_config.json", "fetch it again")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    folder = copied(tmp_path / "pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(preflmr(folder), "model.safetensors", "must be safetensors")


def test_tokens_behind_the_vocabulary_are_those_of_the_file(tmp_path: Path) -> None:
    """FLMR has nine."""
    folder = copied(tmp_path / "added")
    words = (folder / "query_tokenizer/vocab.txt").read_text().splitlines()
    kept = "\n".join(words[:-1]) + "\n"
    (folder / "query_tokenizer/vocab.txt").write_text(kept)
    added = {"<BOQ>": len(words) - 1, "[MASK]": 103}
    (folder / "query_tokenizer/added_tokens.json").write_text(json.dumps(added))
    names = preflmr(folder).query_tokens(Query("q", "<BOQ> the [MASK]"))
    assert names[2:8] == ["<BOQ>", "the", "[", "m", "##a", "##s"]


def test_the_fingerprint_is_of_all_that_makes_a_vector(tmp_path: Path) -> None:
    first = preflmr(CHECKPOINT).identity()
    assert first == preflmr(CHECKPOINT, device="cpu", batch_inputs=3).identity()
    assert preflmr(copied(tmp_path / "same")).identity() == first
    for name, file in (
        ("query", "query_tokenizer/vocab.txt"),
        ("length", "context_tokenizer/tokenizer_config.json"),
        ("block", "transformer_mapping_base/config.json"),
    ):
        folder = copied(tmp_path / name)
        with (folder / file).open("a") as stream:
            stream.write("\n")
        assert preflmr(folder).identity() != first, file
    assert preflmr("tiny").identity()["preparation"] is None


def test_devices_and_dtypes(tmp_path: Path) -> None:
    refused(preflmr(CHECKPOINT, device="spread"), "spread")
    refused(preflmr(CHECKPOINT, device="cuda:99"), "cuda:99")
    made = preflmr(CHECKPOINT, dtype="bfloat16")
    asked = [Query("q", "the bird", picture(tmp_path))]
    found = made.encode_queries(asked).vectors
    assert {parameter.dtype for parameter in made.module.parameters()} == {torch.bfloat16}
    assert found.dtype == "float32"
    expected = preflmr(CHECKPOINT).encode_queries(asked).vectors
    assert (found * expected).sum(axis=1).min() > 0.99
