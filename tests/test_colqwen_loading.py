"""ColQwen's checkpoints and adapters: every tensor accounted for, in each layout and family."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig

from harness.errors import ClamrBenchError
from retrievers.clamr.encoder import CLAMR
from retrievers.colqwen.encoder import COLQWEN
from retrievers.colqwen.settings import ColQwenSettings
from retrievers.qwen.adapter import lora_targets
from retrievers.qwen.checkpoint import blank
from retrievers.qwen.form import OMNI, VL, VL2, Family, Form
from retrievers.qwen.loading import find_weights, load
from retrievers.qwen.names import form_called, here
from tests.colqwen_cases import adapter, base_checkpoint, colqwen, old_name, stock_checkpoint

Tensors = dict[str, torch.Tensor]


def loaded(weights: Path, family: Family = COLQWEN, **settings: Any) -> Any:
    chosen = ColQwenSettings(**settings)
    return load(find_weights(str(weights), chosen), chosen, family)


def refused(weights: Path, *words: str, family: Family = COLQWEN, **settings: Any) -> None:
    with pytest.raises(ClamrBenchError) as error:
        loaded(weights, family, **settings)
    for word in words:
        assert word in str(error.value), str(error.value)


def change(folder: Path, how: Callable[[Tensors], object]) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file, {"format": "pt"})


def rename(tensors: Tensors, old: str, new: str) -> None:
    for name in list(tensors):
        tensors[name.replace(old, new, 1)] = tensors.pop(name)


@pytest.mark.parametrize("form", [VL2, VL], ids=lambda form: form.name)
@pytest.mark.parametrize("names", ["now", "4.52", "old"])
def test_transformers_own_checkpoints_load_in_all_their_names(
    tmp_path: Path, form: Form, names: str
) -> None:
    stock = stock_checkpoint(form, tmp_path)
    if names == "4.52":
        change(tmp_path, lambda t: rename(t, "vlm.", "vlm.model."))
    if names == "old":
        change(tmp_path, lambda t: rename(t, "vlm.language_model.", "vlm.model."))
        change(tmp_path, lambda t: t.update({"vlm.lm_head.weight": torch.zeros(2, 2)}))
    model = loaded(tmp_path)
    # Its projection has another name there.
    assert not colqwen(tmp_path).untrained
    assert model.form is form
    mine = model.state_dict()
    theirs = {name.replace("vlm.", "backbone."): t for name, t in stock.state_dict().items()}
    for part in ("weight", "bias"):
        theirs[f"custom_text_proj.{part}"] = theirs.pop(f"embedding_proj_layer.{part}")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


UP = "vlm.language_model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda t: t.pop(UP), ["missing", "layers.0.mlp.up_proj.weight"]),
        (
            lambda t: t.update({"vlm.language_model.upward": t.pop(UP)}),
            ["missing", "not part of the model", "vlm.language_model.upward"],
        ),
        (lambda t: t.update({"extra": torch.ones(2)}), ["not part of the model: extra"]),
        (lambda t: t.update({UP: torch.ones(3, 128)}), ["of another shape", "(3, 128) for"]),
        (lambda t: t.pop("embedding_proj_layer.bias"), ["missing", "custom_text_proj.bias"]),
    ],
    ids=["removed", "renamed", "added", "shape", "projection"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, how: Callable[[Tensors], object], words: list[str]
) -> None:
    stock_checkpoint(VL2, tmp_path)
    change(tmp_path, how)
    refused(tmp_path, *words, "Nothing was loaded")


@pytest.mark.parametrize("form", [VL2, VL, OMNI], ids=lambda form: form.name)
def test_base_and_adapter_of_colpali_engine_load_whole(
    tmp_path: Path, form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    whole = base_checkpoint(form, tmp_path / "base").state_dict()
    changes = adapter(form, str(tmp_path / "base"), tmp_path / "adapter")
    with caplog.at_level(logging.WARNING, "clamr_bench"):
        base, model = loaded(tmp_path / "base"), loaded(tmp_path / "adapter")
    assert not caplog.text  # no projection is drawn
    assert base.form is model.form is form
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in whole.items())
    state = model.state_dict()
    for name, tensor in whole.items():
        module, _, part = name.rpartition(".")
        assert torch.equal(state.get(name, state.get(f"{module}.base_layer.{part}")), tensor), name
    landed = {name.replace(".default", ""): t for name, t in state.items() if ".lora_" in name}
    assert landed.keys() == changes.keys()
    assert all(torch.equal(landed[name], tensor) for name, tensor in changes.items())
    assert not colqwen(tmp_path / "adapter").untrained


ONE = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda t: t.pop(ONE), ["missing", "layers.1.self_attn.q_proj.lora_A"]),
        (
            lambda t: t.update({f"{ONE}x": t.pop(ONE)}),
            ["missing", "fit no layer", f"{ONE}x"],
        ),
        (
            lambda t: t.update({"base_model.model.extra.lora_A.weight": torch.ones(4, 4)}),
            ["fit no layer", "extra.lora_A.weight"],
        ),
        (
            lambda t: t.update({ONE: torch.ones(4, 64)}),
            ["of another shape", "(4, 64) for (4, 128)"],
        ),
    ],
    ids=["removed", "renamed", "added", "shape"],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, how: Callable[[Tensors], object], words: list[str]
) -> None:
    base_checkpoint(VL2, tmp_path / "base")
    adapter(VL2, str(tmp_path / "base"), tmp_path / "adapter")
    change(tmp_path / "adapter", how)
    refused(tmp_path / "adapter", *words, "Nothing was loaded")


def test_a_backbone_of_another_family_is_named(tmp_path: Path) -> None:
    stock_checkpoint(VL2, tmp_path)
    for config in ({"model_type": "bert"}, {"model_type": "colqwen2", "vlm_config": {}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        refused(tmp_path, "colqwen is made of qwen2_vl or qwen2_5_vl or qwen2_5_omni", "vidore/")


def test_clamr_does_not_take_a_qwen2_backbone(tmp_path: Path) -> None:
    base_checkpoint(VL2, tmp_path / "base")
    refused(tmp_path / "base", "'qwen2_vl' checkpoint", "clamr is made of", family=CLAMR)


@pytest.mark.parametrize(
    ("hub_id", "form"),
    [
        ("vidore/colqwen2-base", VL2),
        ("vidore/colqwen2.5-base", VL),
        ("Qwen/Qwen2.5-VL-3B-Instruct", VL),
        ("vidore/colqwen2.5omni-base", OMNI),
        ("me/my-base", None),
        ("./models/colqwen2-base", None),
    ],
)
def test_an_adapters_base_tells_its_form(hub_id: str, form: Form | None) -> None:
    assert form_called(hub_id) is form


def test_an_adapter_on_the_base_of_another_family_is_refused(tmp_path: Path) -> None:
    """All three have the same names, and those of 3 billion parameters the same shapes."""
    for form in (VL2, VL, OMNI):
        base_checkpoint(form, tmp_path / form.name)
    adapter(VL, "vidore/colqwen2.5-base", tmp_path / "adapter")
    assert loaded(tmp_path / "adapter", base=str(tmp_path / "vl")).form is VL
    for other in ("vl2", "omni"):
        refused(
            tmp_path / "adapter", "trained on the vl form", f"{other} form",
            base=str(tmp_path / other),
        )  # fmt: skip


def test_an_adapter_without_a_projection_to_change_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base_checkpoint(VL2, tmp_path / "base")
    change(
        tmp_path / "base", lambda t: [t.pop(f"custom_text_proj.{n}") for n in ("weight", "bias")]
    )
    adapter(VL2, str(tmp_path / "base"), tmp_path / "adapter")
    refused(tmp_path / "adapter", "has the projection", "set base")
    with caplog.at_level(logging.WARNING, "clamr_bench"):
        loaded(tmp_path / "base")
    assert "never trained" in caplog.text
    assert colqwen(tmp_path / "base").untrained


def test_the_real_architecture_has_the_published_tensors() -> None:
    text = {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936,
    }  # fmt: skip
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16}
    model = blank(VL2, Qwen2VLConfig(text_config=text, vision_config=vision), 128)
    # Qwen2-VL-2B-Instruct, its output layer tied.
    sizes = [p.numel() for name, p in model.named_parameters() if name.startswith("backbone")]
    assert sum(sizes) == 2_208_985_600
    targets = lora_targets(model)
    assert len(targets) == 28 * 7 + 1
    assert not any("visual" in name for name in targets)
    released = [f"{old_name(name)}.lora_{half}.weight" for name in targets for half in "AB"]
    assert {here(name) for name in released} == {
        f"{name}.lora_{half}.weight" for name in targets for half in "AB"
    }
