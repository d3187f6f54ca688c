"""Loading a base checkpoint, with every tensor accounted for.

transformers only warns when tensors do not fit, and a language model at random still ranks: CLaMR's
own code under a later transformers gets nDCG@10 0.22 in place of 0.58 that way. So names and shapes
of the files are held against the model's before anything is read, and afterwards each tensor's
first values are looked up in the model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, ColQwen2ForRetrieval

from harness.errors import PluginError, UsageError
from harness.quiet import quiet
from retrievers.device import Place
from retrievers.qwen.backbone import CLASSES, DIM, LateInteraction
from retrievers.qwen.form import Family, Form
from retrievers.qwen.names import PROJECTION, here
from retrievers.qwen.settings import QwenSettings
from retrievers.source import CONFIG, Source, headers, listed, opened

#: ``model_type`` of transformers' own ColQwen2, a backbone of any form with a projection.
_COLQWEN2 = "colqwen2"
#: Names of its checkpoints that transformers no longer knows.
_COLQWEN2_NAMES = {r"^vlm\.model\.(layers|embed_tokens|norm)\.": r"vlm.language_model.\1."}

#: Values of each tensor that are looked up after loading.
_PROBED = 16


def form_at(source: Source, family: Family) -> tuple[Form, Any]:
    """Return a checkpoint's form and its configuration.

    Raises
    ------
    PluginError
        If it is of another architecture, or has no readable configuration.
    """
    said = source.read_json(CONFIG)
    if said.get("model_type") == _COLQWEN2:
        said = said.get("vlm_config") or {}
    model_type = said.get("model_type")
    for form in family.forms:
        if model_type in form.model_types:
            break
    else:
        raise PluginError(
            f"{source.name} is a {model_type!r} checkpoint: {family.name} is made of "
            f"{' or '.join(form.model_types[0] for form in family.forms)} ({family.bases})."
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.folder)
    # A configuration of wrong types raises errors of several libraries.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(f"{source.folder / CONFIG} cannot be used: {reason}") from error
    return form, config


def _of_backbone(config: Any) -> Any:
    """Return the part of a configuration that is the backbone's."""
    return getattr(config, "thinker_config", getattr(config, "vlm_config", config))


def blank(form: Form, config: Any, dim: int) -> LateInteraction:
    """Return the model without storage, for its tensors' names and shapes."""
    with torch.device("meta"):
        return LateInteraction(form, CLASSES[form.name](_of_backbone(config)), dim)


def load_checkpoint(source: Source, settings: QwenSettings, family: Family) -> LateInteraction:
    """Load backbone and, if the files have it, projection; else the projection is unset (NaN).

    Raises
    ------
    PluginError
        If a tensor is missing, unknown, of another shape, or did not land in the model: each named.
    UsageError
        If the settings ask for what this machine cannot do.
    """
    form, config = form_at(source, family)
    place = Place.of(settings)
    files = headers(source.weight_files())
    own = {name: target for name in files if (target := here(name)) is not None}
    weight = next((files[n][1] for n, t in own.items() if t == f"{PROJECTION}.weight"), None)
    shapes = {name: tuple(t.shape) for name, t in _expected(form, config, weight).items()}
    _account(source, {name: (own[name], files[name][1]) for name in own}, shapes)
    backbone = _loaded(form, source, config, settings, place)
    model = LateInteraction(form, backbone, weight[0] if weight else DIM)
    model.custom_text_proj.to(model.device, torch.float32)
    for parameter in model.custom_text_proj.parameters():
        nn.init.constant_(parameter, float("nan"))
    if weight:
        values = {}
        for name, target in own.items():
            if target.startswith(PROJECTION):
                with opened(files[name][0]) as tensors:
                    values[target.removeprefix(f"{PROJECTION}.")] = tensors.get_tensor(name)
        model.custom_text_proj.load_state_dict(values)
    _look_up(source, model, {name: (own[name], files[name][0]) for name in own})
    model.eval()
    return model


def _expected(form: Form, config: Any, projection: Any) -> dict[str, torch.Tensor]:
    """Return what the files must hold; the projection only if they hold any of it."""
    dim = projection[0] if projection else DIM
    state: dict[str, torch.Tensor] = blank(form, config, dim).state_dict()
    if projection:
        return state
    return {name: tensor for name, tensor in state.items() if not name.startswith(PROJECTION)}


def _account(
    source: Source,
    found: Mapping[str, tuple[str, tuple[int, ...]]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Hold the tensors of the files against those of the model."""
    targets = {target for target, _ in found.values()}
    missing = expected.keys() - targets
    unknown = [name for name, (target, _) in found.items() if target not in expected]
    other = [
        f"{name} {shape} for {expected[target]}"
        for name, (target, shape) in found.items()
        if target in expected and shape != expected[target]
    ]
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (
            ("missing", missing),
            ("not part of the model", unknown),
            ("of another shape", other),
        )
        if names
    ]
    if problems:
        raise PluginError(
            f"{source.name} does not fit the model that its {CONFIG} describes. Tensors "
            f"{'; tensors '.join(problems)}. Nothing was loaded: fetch the checkpoint again, or "
            "give the one that the weights were trained on."
        )


def _loaded(
    form: Form, source: Source, config: Any, settings: QwenSettings, place: Place
) -> nn.Module:
    kind, options = CLASSES[form.name], {"config": _of_backbone(config)}
    if config.model_type == _COLQWEN2:
        kind, options = ColQwen2ForRetrieval, {"config": config, "key_mapping": _COLQWEN2_NAMES}
    if settings.quantise:
        options["quantization_config"] = _quantisation(settings, place)
    device_map: Any = "auto" if place.device == "spread" else {"": place.device}
    try:
        with quiet():
            loaded, told = kind.from_pretrained(
                source.folder,
                dtype=place.dtype,
                device_map=device_map,
                attn_implementation=settings.attention,
                output_loading_info=True,
                **options,
            )
    except (ImportError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(
            f"{source.name} cannot be loaded with dtype = {place.dtype}, attention = "
            f"{settings.attention}, quantise = {settings.quantise}, device = {place.device}: "
            f"{reason}"
        ) from error
    if told["missing_keys"] or told["mismatched_keys"]:
        left = {str(key) for key in {*told["missing_keys"], *told["mismatched_keys"]}}
        raise PluginError(
            f"{source.name}: transformers left {listed(left)} at random. This is a fault of its "
            "renaming of old checkpoints, not of the file: use the version in constraints.txt."
        )
    backbone: nn.Module = getattr(loaded, "vlm", loaded)
    if settings.quantise:
        _use_plain_kernels(backbone)
    return backbone


def _quantisation(settings: QwenSettings, place: Place) -> BitsAndBytesConfig:
    # It warns of CPU kernels that it did not find and does not need.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UsageError(
            f"quantise = {settings.quantise} needs bitsandbytes: pip install 'clamr-bench[train]', "
            "or leave the setting out."
        ) from None
    if settings.quantise == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=place.dtype,
    )


def _use_plain_kernels(backbone: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    Its packed kernel fails on widths that are no multiple of its blocks, such as the 3,420 of the
    vision tower, and leaves weights that cannot be trained afterwards.
    """
    for module in backbone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _look_up(source: Source, model: LateInteraction, files: Mapping[str, Any]) -> None:
    """Find the first values of every tensor of the files in the model."""
    state = model.state_dict()
    strangers = []
    for name, (target, file) in files.items():
        landed = state[target]
        if not landed.is_floating_point():
            continue  # quantised: the values are others, and the loader's own account holds
        with opened(file) as tensors:
            part = tensors.get_slice(name)
            head = part[:_PROBED] if len(part.get_shape()) == 1 else part[0:1]
        mine = landed[:_PROBED] if landed.ndim == 1 else landed[0:1]
        head, mine = head.flatten()[:_PROBED], mine.flatten()[:_PROBED].cpu()
        if not torch.equal(head.to(mine.dtype), mine):
            strangers.append(name)
    if strangers:
        raise PluginError(
            f"{source.name}: {listed(strangers)} did not land in the model. This is a fault of "
            "loading, not of the file: use the version of transformers in constraints.txt."
        )
