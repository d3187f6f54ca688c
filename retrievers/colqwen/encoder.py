"""ColQwen as an encoder of the harness. torch is imported when the model is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from harness.types import TEXT_MODALITIES, Modality
from retrievers.colqwen.settings import ColQwenSettings
from retrievers.qwen.encoder import QwenEncoder
from retrievers.qwen.form import OMNI, VL, VL2, Family, Form
from retrievers.shipped import BuiltIn

if TYPE_CHECKING:
    from retrievers.colqwen.prompt import ColQwenPrompt
    from retrievers.qwen.backbone import LateInteraction
    from retrievers.qwen.tokens import Vocabulary

COLQWEN = Family(
    name="colqwen",
    version=1,
    forms=(VL2, VL, OMNI),
    bases="vidore/colqwen2-base, vidore/colqwen2.5-base, vidore/colqwen2.5omni-base",
    released="vidore/colqwen2.5-v0.2",
    built_in=("tiny", "tiny-omni", "tiny-2"),
)


class ColQwen(QwenEncoder):
    """ColQwen: a vector for every token of a page, late interaction over all pages of a document.

    ColQwen2 (Qwen2-VL), ColQwen2.5 (Qwen2.5-VL) and ColQwen-Omni (Qwen2.5-Omni, which hears). The
    frames of a video are pages. Texts are encoded as text passages, which the models can do but
    were not trained for. Each page, sound and text is encoded alone, so that to mask modalities at
    search time is the same as to leave them out.
    """

    about = About(
        title="ColQwen, late interaction over pages",
        version="1",
        licence="MIT (the adapters); the backbones have licences of their own",
        citation="Faysse, Sibille, Wu, Omrani, Viaud, Hudelot, Colombo, ColPali: Efficient "
        "Document Retrieval with Vision Language Models, arXiv:2407.01449, 2024.",
        url="https://github.com/illuin-tech/colpali",
    )
    Settings: ClassVar[type[ColQwenSettings]] = ColQwenSettings
    settings: ColQwenSettings
    family = COLQWEN
    built_in = BuiltIn(COLQWEN.name, "colqwen", COLQWEN.built_in)
    capabilities = Capabilities(
        modalities=frozenset((Modality.VIDEO, Modality.IMAGE, Modality.AUDIO, *TEXT_MODALITIES)),
        query_kinds=frozenset(QueryKind),
        directions=frozenset(Direction),
        trainable=True,
    )
    weights_help = (
        f"tiny, tiny-omni, tiny-2, a folder or a hub id (vidore/colqwen2-v1.0[-hf], "
        f"vidore/colqwen-omni-v0.1, ...); default: {COLQWEN.released}"
    )

    def readable(self, form: Form) -> tuple[Modality, ...]:
        """Return what is read with a form's weights."""
        heard = (Modality.AUDIO,) if form.audio else ()
        return (Modality.VIDEO, Modality.IMAGE, *heard, *TEXT_MODALITIES)

    def make_prompt(self, model: LateInteraction, vocabulary: Vocabulary) -> ColQwenPrompt:
        """Return the prompts of the model's form."""
        from retrievers.colqwen.prompt import ColQwenPrompt

        return ColQwenPrompt(
            model.form, vocabulary, self.settings, model.patching, model.mel(), self.losses
        )
