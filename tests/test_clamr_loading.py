"""Loading: every tensor accounted for; what does not fit is named and nothing is loaded."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from harness.errors import ClamrBenchError, PluginError, UsageError
from retrievers.clamr.encoder import CLAMR
from retrievers.clamr.settings import ClamrSettings
from retrievers.qwen import loading
from retrievers.qwen.adapter import PROJECTION_FILE, inject, lora_targets, save_adapter
from retrievers.qwen.checkpoint import blank
from retrievers.qwen.form import OMNI as OMNI_FORM
from retrievers.qwen.form import VL as VL_FORM
from retrievers.qwen.loading import drawn_projection, find_weights, load
from retrievers.qwen.names import here
from tests.clamr_cases import ADAPTER, OMNI, VL, clamr, documents, pooled, queries

LAYER = "model.layers.0.mlp.up_proj"
Tensors = dict[str, torch.Tensor]


def loaded(weights: Path, **settings: Any) -> Any:
    chosen = ClamrSettings(**settings)
    return load(find_weights(str(weights), chosen), chosen, CLAMR)


def refused(weights: Path | str, *words: str, **settings: Any) -> None:
    with pytest.raises(ClamrBenchError) as error:
        loaded(Path(weights), **settings)
    for word in words:
        assert word in str(error.value), str(error.value)


def altered(source: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of a checkpoint or adapter with other tensors."""
    shutil.copytree(source, target)
    file = next(target.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return target


def rename(tensors: Tensors, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{LAYER}.weight"), ["missing", "layers.0.mlp.up_proj.weight"]),
        (
            lambda t: rename(t, f"{LAYER}.weight", "model.layers.0.mlp.upward.weight"),
            ["missing", "mlp.up_proj.weight", "not part of the model", "mlp.upward.weight"],
        ),
        (
            lambda t: t.update({"model.layers.7.norm.weight": torch.ones(64)}),
            ["not part of the model", "model.layers.7.norm.weight"],
        ),
        (
            lambda t: t.update({f"{LAYER}.weight": torch.ones(95, 64)}),
            ["of another shape", f"{LAYER}.weight (95, 64) for (96, 64)"],
        ),
        (lambda t: t.pop("custom_text_proj.bias"), ["missing", "custom_text_proj.bias"]),
        (
            lambda t: t.update({"custom_text_proj.bias": torch.ones(64)}),
            ["of another shape", "custom_text_proj.bias (64,) for (128,)"],
        ),
        (lambda t: t.pop("visual.merger.ln_q.weight"), ["missing", "visual.merger.ln_q.weight"]),
    ],
    ids=["removed", "renamed", "added", "shape", "no-bias", "projection-shape", "vision"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], object], words: list[str]
) -> None:
    refused(altered(VL, tmp_path / "changed", change), *words, "Nothing was loaded")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("config.json", ["no config.json"]),
        ("model.safetensors", ["model.safetensors is missing"]),
        ("tokenizer.json", ["no tokenizer.json"]),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, file: str, words: list[str]) -> None:
    shutil.copytree(VL, tmp_path / "partial")
    (tmp_path / "partial" / file).unlink()
    with pytest.raises(PluginError) as error:
        clamr(tmp_path / "partial").encode_queries(queries())
    for word in words:
        assert word in str(error.value)


def test_a_shard_of_the_index_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = altered(VL, tmp_path / "sharded", lambda t: None)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "model-00001-of-00002.safetensors is missing")


def test_files_cut_off_are_named(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        folder = tmp_path / name
        shutil.copytree(VL, folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(PluginError, match=name):
            clamr(folder).encode_queries(queries())


def test_another_architecture_is_named(tmp_path: Path) -> None:
    shutil.copytree(VL, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    refused(tmp_path / "other", "'bert' checkpoint", "qwen2_5_vl")


def test_a_checkpoint_in_new_names_loads_alike(tmp_path: Path) -> None:
    """transformers 5 writes ``language_model.layers``; what `save_file` of the model gives too."""
    model = loaded(VL)

    def change(tensors: Tensors) -> None:
        tensors.clear()
        for name, tensor in model.state_dict().items():
            tensors[name.removeprefix("backbone.")] = tensor

    again = loaded(altered(VL, tmp_path / "new", change))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_transformers_that_loads_other_values_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silent fault of later versions: names fit, the language model stays at random."""
    from retrievers.qwen import checkpoint

    real = checkpoint.CLASSES[VL_FORM.name]

    class Skips:
        def __new__(cls, config: Any) -> Any:
            return real(config)

        @staticmethod
        def from_pretrained(*_: Any, config: Any, **__: Any) -> Any:
            return real(config), {"missing_keys": set(), "mismatched_keys": set()}

    monkeypatch.setitem(checkpoint.CLASSES, VL_FORM.name, Skips)
    refused(VL, "did not land in the model")


def test_neither_a_folder_nor_a_hub_id() -> None:
    refused("no/such/folder/here", "no such folder", "owner/name")


def test_a_hub_id_without_a_network_is_one_clear_message() -> None:
    with pytest.raises(PluginError) as error:
        find_weights(CLAMR.released, ClamrSettings())
    for word in (CLAMR.released, "cannot be fetched", f"hf download {CLAMR.released}", "tiny"):
        assert word in str(error.value)


# ---------------------------------------------------------------- adapters

ONE = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{ONE}.lora_A.weight"), ["missing", "layers.1.self_attn.q_proj.lora_A"]),
        (
            lambda t: [t.pop(f"{ONE}.lora_{half}.weight") for half in "AB"],
            ["missing", "layers.1.self_attn.q_proj.lora_B"],
        ),
        (
            lambda t: [t.pop(f"base_model.model.custom_text_proj.lora_{h}.weight") for h in "AB"],
            ["missing", "custom_text_proj.lora_A"],
        ),
        (
            lambda t: rename(t, f"{ONE}.lora_A.weight", f"{ONE}.lora_C.weight"),
            ["missing", "fit no layer", f"{ONE}.lora_C.weight"],
        ),
        (
            lambda t: t.update({"base_model.model.extra.lora_A.weight": torch.ones(4, 4)}),
            ["fit no layer", "extra.lora_A.weight"],
        ),
        (
            lambda t: t.update({f"{ONE}.lora_A.weight": torch.ones(4, 2048)}),
            ["of another shape", "(4, 2048) for (4, 64)"],
        ),
        (
            lambda t: t.update(
                {"base_model.model.custom_text_proj.lora_B.weight": torch.ones(320, 4)}
            ),
            ["of another shape", "custom_text_proj.lora_B.weight (320, 4) for (128, 4)"],
        ),
    ],
    ids=["half", "pair", "projection", "renamed", "added", "hidden", "dim"],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], object], words: list[str]
) -> None:
    folder = altered(ADAPTER, tmp_path / "changed", change)
    refused(folder, *words, "Nothing was loaded", base=str(VL))


def test_an_adapter_of_another_form_is_refused(tmp_path: Path) -> None:
    refused(ADAPTER, "trained on the vl form", "omni form", base=str(OMNI))

    def for_omni(tensors: Tensors) -> None:
        for name in list(tensors):
            rename(tensors, name, name.replace("model.model.layers", "model.thinker.model.layers"))

    folder = altered(ADAPTER, tmp_path / "omni", for_omni)
    refused(folder, "trained on the omni form", "vl form", base=str(VL))
    assert loaded(folder, base=str(OMNI)).form is OMNI_FORM


def test_an_adapter_of_another_kind_or_without_a_base_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ADAPTER, tmp_path / "kind")
    config = json.loads((ADAPTER / "adapter_config.json").read_text())
    for key, value, words in (
        ("peft_type", "IA3", ["kind 'IA3'"]),
        ("base_model_name_or_path", None, ["names no base"]),
    ):
        text = json.dumps({**config, key: value})
        (tmp_path / "kind" / "adapter_config.json").write_text(text)
        refused(tmp_path / "kind", *words, **({"base": str(VL)} if key == "peft_type" else {}))


def test_an_adapter_loads_the_commit_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ADAPTER, tmp_path / "pinned")
    file = tmp_path / "pinned" / "adapter_config.json"
    named = {"base_model_name_or_path": "some/base", "revision": "1" * 40}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    asked: list[Any] = []
    real = loading.find

    def find(name: str, revision: str | None = None) -> Any:
        asked.append((name, revision))
        return real(str(VL) if name == "some/base" else name)

    monkeypatch.setattr(loading, "find", find)
    find_weights(str(tmp_path / "pinned"), ClamrSettings())
    assert asked[1:] == [("some/base", "1" * 40)]
    # A base that the user gives is what it is; the adapter's commit is of another.
    find_weights(str(tmp_path / "pinned"), ClamrSettings(base=str(OMNI)))
    assert asked[3:] == [(str(OMNI), None)]


def test_a_whole_checkpoint_takes_no_base() -> None:
    refused(VL, "takes no base", base=str(OMNI))
    with pytest.raises(UsageError, match="is whole"):
        clamr("tiny", base=str(VL))


def without_projection(folder: Path) -> Path:
    return altered(
        VL, folder, lambda t: [t.pop(f"custom_text_proj.{n}") for n in ("weight", "bias")]
    )


def test_the_unsaved_projection_is_drawn_as_the_reference_draws_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = without_projection(tmp_path / "base")
    with caplog.at_level(logging.WARNING, "clamr_bench"):
        model = loaded(ADAPTER, base=str(base))
    assert "drawn anew" in caplog.text
    assert "seed 42" in caplog.text
    # The reference: the process's seed, then this one layer, which the checkpoint lacks.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        drawn = torch.empty(128, 64, dtype=torch.float16).normal_(0, 0.02)
    layer = model.custom_text_proj.get_base_layer()
    assert torch.equal(layer.weight, drawn.float())
    assert not layer.bias.any()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "clamr_bench"):
        loaded(base)
    assert "never trained" in caplog.text


def test_a_projection_from_a_file(tmp_path: Path) -> None:
    base = without_projection(tmp_path / "base")
    file = tmp_path / "projection.safetensors"
    state = {f"custom_text_proj.{n}": t.float() for n, t in drawn_projection(64).items()}
    state["custom_text_proj.bias"] += 1
    save_file(state, file)
    layer = loaded(ADAPTER, base=str(base), projection=str(file)).custom_text_proj
    assert (layer.get_base_layer().bias == 1).all()
    save_file({"custom_text_proj.weight": torch.ones(128, 64)}, file)
    refused(ADAPTER, "projection file has", base=str(base), projection=str(file))
    save_file({f"custom_text_proj.{n}": torch.ones(128) for n in ("weight", "bias")}, file)
    refused(ADAPTER, "(128,)", "(128, 64)", base=str(base), projection=str(file))
    refused(ADAPTER, "nowhere", base=str(base), projection=str(tmp_path / "nowhere"))


def test_our_adapter_carries_its_projection_and_comes_back_whole(tmp_path: Path) -> None:
    model = loaded(without_projection(tmp_path / "base"))
    config = {"r": 4, "lora_alpha": 8, "base_model_name_or_path": str(tmp_path / "base")}
    inject(model, config, lora_targets(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        model.custom_text_proj.get_base_layer().weight.normal_()
    save_adapter(model, tmp_path / "ours", config)
    assert (tmp_path / "ours" / PROJECTION_FILE).is_file()
    again = loaded(tmp_path / "ours")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    ours, theirs = (each.custom_text_proj for each in (model, again))
    assert ours.scaling == theirs.scaling == {"default": 2.0}


# ------------------------------------------------------- the real sizes, on no device


def real_model(form: Any) -> Any:
    config = AutoConfig.for_model(
        **json.loads(
            (Path(__file__).parent / "fixtures" / f"clamr_{form.name}_3b.json").read_text()
        )
    )
    return blank(form, config, 128)


def test_the_real_architectures_have_the_published_tensors() -> None:
    vl = real_model(VL_FORM)
    parameters = sum(p.numel() for n, p in vl.named_parameters() if n.startswith("backbone"))
    # Qwen2.5-VL-3B-Instruct has 3,754,622,976 parameters in 824 tensors, its output layer tied.
    assert parameters == 3_754_622_976
    assert len(vl.state_dict()) == 824 + 2
    shapes = {name: tuple(t.shape) for name, t in vl.state_dict().items()}
    assert shapes["backbone.language_model.layers.35.mlp.down_proj.weight"] == (2048, 11008)
    assert shapes["backbone.visual.blocks.31.mlp.up_proj.weight"] == (3420, 1280)
    assert shapes["custom_text_proj.weight"] == (128, 2048)

    omni = real_model(OMNI_FORM)
    names = omni.state_dict().keys()
    assert "backbone.audio_tower.layers.31.self_attn.q_proj.weight" in names
    assert omni.state_dict()["backbone.audio_tower.proj.weight"].shape == (2048, 1280)
    assert "backbone.language_model.layers.35.mlp.down_proj.weight" in names
    # The same names in a released file, as `thinker....` with the old layout of the layers.
    old = {
        "thinker." + name.removeprefix("backbone.").replace("language_model.", "model.")
        for name in names
        if name.startswith("backbone.")
    }
    assert {here(name) for name in old} == {n for n in names if n.startswith("backbone.")}


def test_the_released_adapters_506_names_leave_none_over() -> None:
    model = real_model(VL_FORM)
    targets = lora_targets(model)
    assert len(targets) == 36 * 7 + 1
    layers = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    layers += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    modules = [f"model.layers.{depth}.{layer}" for depth in range(36) for layer in layers]
    modules.append("custom_text_proj")
    released = [f"{module}.lora_{half}.weight" for module in modules for half in "AB"]
    assert len(released) == 506
    expected = {f"{target}.lora_{half}.weight" for target in targets for half in "AB"}
    assert {here(name) for name in released} == expected
    # Bytes of the released file: rank 128, float32.
    by_name = dict(model.named_modules())
    sizes = [by_name[t].in_features + by_name[t].out_features for t in targets]
    assert sum(sizes) * 128 * 4 == pytest.approx(959_057_112, abs=100_000)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.layers.3.mlp.up_proj.x", "backbone.language_model.layers.3.mlp.up_proj.x"),
        ("model.language_model.layers.3.x", "backbone.language_model.layers.3.x"),
        ("language_model.norm.weight", "backbone.language_model.norm.weight"),
        ("model.embed_tokens.weight", "backbone.language_model.embed_tokens.weight"),
        ("thinker.model.layers.3.x", "backbone.language_model.layers.3.x"),
        ("thinker.model.language_model.layers.3.x", "backbone.language_model.layers.3.x"),
        ("model.visual.blocks.0.mlp.up_proj.x", "backbone.visual.blocks.0.mlp.up_proj.x"),
        ("thinker.visual.merger.x", "backbone.visual.merger.x"),
        ("thinker.audio_tower.proj.x", "backbone.audio_tower.proj.x"),
        ("backbone.language_model.layers.3.x", "backbone.language_model.layers.3.x"),
        ("custom_text_proj.lora_A.weight", "custom_text_proj.lora_A.weight"),
        ("lm_head.weight", None),
        ("thinker.lm_head.weight", None),
        ("talker.model.layers.3.x", None),
        ("token2wav.x", None),
    ],
)
def test_names_of_every_origin(name: str, ours: str | None) -> None:
    assert here(name) == ours


# ------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(tmp_path: Path, dtype: str) -> None:
    whole, half = clamr(VL), clamr(VL, dtype=dtype)
    collection = documents(tmp_path)
    found, near = (e.encode_documents(collection).vectors for e in (whole, half))
    assert near.dtype == "float32"
    assert 0 < abs(found - near).max() < 0.1


@pytest.mark.parametrize(("bits", "cosine"), [("4bit", 0.7), ("8bit", 0.95)])
def test_quantised_weights_load_encode_and_take_an_adapter(
    tmp_path: Path, bits: str, cosine: float
) -> None:
    pytest.importorskip("bitsandbytes")
    encoder = clamr(ADAPTER, base=str(VL), quantise=bits)
    collection = documents(tmp_path)
    found = encoder.encode_documents(collection)
    near = clamr(ADAPTER, base=str(VL)).encode_documents(collection)
    cosines = (found.vectors * near.vectors).sum(axis=1)
    # Of 64 dimensions, each matters: 4 bits of real widths lose far less.
    assert cosines.mean() > cosine
    # Evaluating must not leave weights that cannot be trained (bitsandbytes repacks them).
    vectors, _ = encoder.forward_documents(collection[:2])
    vectors.square().sum().backward()


def test_quantisation_without_bitsandbytes_is_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    refused(VL, "needs bitsandbytes", quantise="4bit")


def test_a_device_or_a_kernel_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refused(VL, "'cuda:7' cannot be used", device="cuda:7")
    refused(VL, "needs GPUs", device="spread")
    refused(VL, "attention = flash_attention_2", attention="flash_attention_2")


def test_an_identity_names_the_bytes_of_the_files(tmp_path: Path) -> None:
    first = clamr(VL).identity()
    assert first == clamr(VL).identity()
    changed = altered(VL, tmp_path / "a", lambda t: t[f"{LAYER}.weight"].add_(1))
    assert clamr(changed).identity() != first
    with_adapter = clamr(ADAPTER, base=str(VL)).identity()
    shutil.copytree(ADAPTER, tmp_path / "b")
    config = tmp_path / "b" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    assert clamr(tmp_path / "b", base=str(VL)).identity() != with_adapter
    assert clamr(VL, dtype="bfloat16").identity() != first


def test_a_pooled_vector_needs_no_projection(tmp_path: Path) -> None:
    encoder = pooled(without_projection(tmp_path / "base"))
    found = encoder.encode_documents(documents(tmp_path))
    assert found.vectors.shape == (6, 64)
    assert (found.offsets == range(7)).all()
