"""CLaMR as encoders of the harness. torch is imported when the model is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.errors import UsageError
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from harness.types import Modality
from retrievers.clamr.settings import ClamrSettings
from retrievers.qwen.encoder import QwenEncoder
from retrievers.qwen.form import OMNI, TEXTS, VL, Family
from retrievers.shipped import BuiltIn

if TYPE_CHECKING:
    from retrievers.clamr.prompt import ClamrPrompt
    from retrievers.qwen.backbone import LateInteraction
    from retrievers.qwen.tokens import Vocabulary

CLAMR = Family(
    name="clamr",
    version=2,
    forms=(VL, OMNI),
    bases="Qwen/Qwen2.5-VL-3B-Instruct, Qwen/Qwen2.5-Omni-3B",
    released="meetdavidwan/clamr",
    built_in=("tiny", "tiny-omni"),
    plain=VL,
    draws_projection=True,
)

_ABOUT = {
    "version": "1",
    "licence": "MIT; the backbones have licences of their own",
    "citation": "Wan, Wang, Stengel-Eskin, Cho, Bansal, CLaMR: Contextualized Late-Interaction "
    "for Multimodal Content Retrieval, arXiv:2506.06144, 2025.",
    "url": "https://github.com/meetdavidwan/clamr",
}


class Clamr(QwenEncoder):
    """CLaMR: one contextualised sequence of all modalities, late interaction over its tokens.

    Both published forms: Qwen2.5-VL, and Qwen2.5-Omni, which hears. An address names weights:
    ``tiny`` or ``tiny-omni`` (built in), a folder or a hub id of a checkpoint or of a LoRA adapter.
    """

    about = About(title="CLaMR, contextualised multimodal late interaction", **_ABOUT)
    Settings: ClassVar[type[ClamrSettings]] = ClamrSettings
    settings: ClamrSettings
    family = CLAMR
    built_in = BuiltIn(CLAMR.name, "clamr", CLAMR.built_in)
    capabilities = Capabilities(
        modalities=frozenset((Modality.VIDEO, Modality.AUDIO, *TEXTS)),
        query_kinds=frozenset(QueryKind),
        directions=frozenset(Direction),
        trainable=True,
    )
    weights_help = (
        f"tiny, tiny-omni, a folder or a hub id; default: {CLAMR.released} (an adapter of "
        "Qwen/Qwen2.5-VL-3B-Instruct)"
    )

    def make_prompt(self, model: LateInteraction, vocabulary: Vocabulary) -> ClamrPrompt:
        """Return CLaMR's prompts, or with ``compat`` the reference's own."""
        from retrievers.clamr.compat import ReferencePrompt
        from retrievers.clamr.prompt import ClamrPrompt

        kind = ReferencePrompt if self.settings.compat else ClamrPrompt
        return kind(model.form, vocabulary, self.settings, model.patching, model.mel(), self.losses)


class ClamrPooled(Clamr):
    """CLaMR's strongest baseline: the same backbone and input, one vector, the last token's.

    It stands for all modalities at once; it is stored under ``text``, and masking modalities at
    search time cannot take it apart.
    """

    about = About(title="Pooled vector of CLaMR's backbone", **_ABOUT)
    built_in = BuiltIn(CLAMR.name, "clamr-pooled", CLAMR.built_in)
    pooled: ClassVar[bool] = True
    masks: ClassVar[bool] = False

    def __init__(self, name: str, weights: str | None, settings: ClamrSettings) -> None:
        super().__init__(name, weights, settings)
        if not settings.contextualise:
            raise UsageError(
                f"{name} makes one vector of all modalities together: contextualise = false has "
                "no meaning for it; leave it out."
            )
