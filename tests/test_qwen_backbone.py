"""Patches are embedded as the stock module embeds them, and its hooks stay."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", "5.22")

from accelerate.hooks import ModelHook, add_hook_to_module  # noqa: E402

from retrievers.qwen.backbone import CLASSES, LateInteraction  # noqa: E402
from retrievers.qwen.form import OMNI, VL, VL2, Form  # noqa: E402
from retrievers.qwen.tiny import tiny_config  # noqa: E402


def stock(form: Form) -> torch.nn.Module:
    torch.manual_seed(0)
    return CLASSES[form.name](tiny_config(form)).eval()


@pytest.mark.parametrize("form", [VL, VL2, OMNI], ids=lambda form: form.name)
def test_patches_have_the_vectors_and_gradients_of_the_stock_module(form: Form) -> None:
    plain, backbone = stock(form), stock(form)
    ours = LateInteraction(form, backbone).backbone.visual.patch_embed
    theirs = plain.visual.patch_embed
    assert type(theirs.proj) is torch.nn.Conv3d
    assert type(ours.proj) is not torch.nn.Conv3d
    patches = torch.randn(20, theirs.proj.weight[0].numel())
    found, expected = ours(patches), theirs(patches)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for made in (found, expected):
        (made * weights).sum().backward()
    torch.testing.assert_close(ours.proj.weight.grad, theirs.proj.weight.grad)
    assert backbone.state_dict().keys() == plain.state_dict().keys()


def test_a_module_that_accelerate_moves_inputs_for_still_has_them_moved() -> None:
    backbone, seen = stock(VL), []

    class Notes(ModelHook):  # type: ignore[misc]
        def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
            seen.append(module)
            return args, kwargs

    module = backbone.visual.patch_embed
    add_hook_to_module(module, Notes())
    LateInteraction(VL, backbone)
    module(torch.randn(4, module.proj.weight[0].numel()))
    assert seen == [module]
