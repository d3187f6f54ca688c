"""mCLIP, the baseline of the CLaMR paper: multilingual texts in the space of CLIP's images."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.errors import PluginError, UsageError
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from retrievers.model_settings import READS
from retrievers.shipped import TINY
from retrievers.st.checks import check_installed
from retrievers.st.encoder import FrameEncoder
from retrievers.st.settings import FrameSettings

if TYPE_CHECKING:
    from retrievers.st.reader import Reader
    from retrievers.st.source import ModelSource

TEXTS = "sentence-transformers/clip-ViT-B-32-multilingual-v1"
IMAGES = "sentence-transformers/clip-ViT-B-32"

#: OpenAI's own release of the image model's weights, and the hub's conversion of it.
_SAME_IMAGES = ("openai/clip-vit-base-patch32", "refs/pr/15")

#: Dimension of the built-in model's space.
_TINY_DIM = 64


class MClipSettings(FrameSettings):
    """The two models, which must make vectors of one space."""

    texts: str = Field(
        TEXTS, description="Model that reads queries and texts: a folder or a hub id."
    )
    texts_revision: str | None = Field(None, description="Commit, tag or branch of `texts`.")
    images: str = Field(
        IMAGES, description="Model that reads frames and images: a folder or a hub id."
    )
    images_revision: str | None = Field(None, description="Commit, tag or branch of `images`.")


class MClip(FrameEncoder):
    """Texts by a multilingual model that was trained to meet CLIP's text vectors, frames by CLIP.

    Each text is one vector, and so are the frames of a video, by their mean; compared by cosine.
    A query is a text or an image, and an instruction is not read.
    An address names ``tiny`` (built in, from a seed, untrained), or no weights: the published ones.
    """

    about = About(
        title="mCLIP, multilingual CLIP",
        version="1",
        licence="Apache-2.0 (texts); MIT (images, OpenAI's CLIP)",
        citation="Reimers, Gurevych, Making Monolingual Sentence Embeddings Multilingual using "
        "Knowledge Distillation, EMNLP 2020, arXiv:2004.09813; Radford and others, Learning "
        "Transferable Visual Models From Natural Language Supervision, ICML 2021, "
        "arXiv:2103.00020.",
        url=f"https://huggingface.co/{TEXTS}",
    )
    Settings: ClassVar[type[MClipSettings]] = MClipSettings
    settings: MClipSettings
    capabilities = Capabilities(
        modalities=frozenset(READS),
        query_kinds=frozenset({QueryKind.TEXT, QueryKind.IMAGE}),
        directions=frozenset(Direction),
    )
    weights_help = "tiny; default: the published models, or the settings texts and images"

    def __init__(self, name: str, weights: str | None, settings: MClipSettings) -> None:
        super().__init__(name, weights, settings)
        if weights not in (None, TINY):
            raise UsageError(
                f"{name}/{weights}: mCLIP is two models; give them as the settings {name}.texts "
                f"and {name}.images, or {name}/{TINY} for the built-in one."
            )

    @property
    def texts(self) -> Reader:
        """The multilingual text model."""
        return self._readers[0]

    @property
    def images(self) -> Reader:
        """CLIP."""
        return self._readers[1]

    def files(self) -> dict[str, Any]:
        """Return the hashes or commits of both models' files."""
        if self._sources is None:
            return {"built_in": TINY}
        texts, images = self._sources
        return {"texts": texts.identity(), "images": images.identity()}

    @cached_property
    def _sources(self) -> tuple[ModelSource, ModelSource] | None:
        """The files; None for built-in weights."""
        if self.weights == TINY:
            return None
        from retrievers.st.source import find_model

        settings = self.settings
        code = settings.trust_remote_code
        return (
            find_model(settings.texts, settings.texts_revision, code=code),
            find_model(settings.images, settings.images_revision, code=code),
        )

    @cached_property
    def _readers(self) -> tuple[Reader, Reader]:
        check_installed(self.name)
        from retrievers.device import place_of
        from retrievers.st.loading import load
        from retrievers.st.reader import Reader
        from retrievers.st.tiny import tiny_dense, tiny_images

        settings = self.settings
        if self._sources is None:
            place = place_of(settings)
            models = [
                model.to(place.device, place.dtype)
                for model in (tiny_dense(dim=_TINY_DIM), tiny_images(_TINY_DIM))
            ]
        else:
            texts_source, images_source = self._sources
            models = [load(texts_source, "dense", settings)]
            try:
                models.append(load(images_source, "dense", settings))
            except PluginError as error:
                if settings.images != IMAGES:
                    raise
                name, revision = _SAME_IMAGES
                raise PluginError(
                    f"{error} OpenAI's own release of these weights has safetensors: --set "
                    f"{self.name}.images={name} --set {self.name}.images_revision={revision}."
                ) from error
        dims = [model.get_embedding_dimension() for model in models]
        if None not in dims and dims[0] != dims[1]:
            raise PluginError(
                f"{settings.texts} makes vectors of {dims[0]} dimensions, {settings.images} of "
                f"{dims[1]}: they are not of one space. Give models that were made for each other, "
                f"such as {TEXTS} and {IMAGES}."
            )
        texts, images = (
            Reader(name, model, "dense", settings, self.losses)
            for name, model in zip((settings.texts, settings.images), models, strict=True)
        )
        if not images.reads_images:
            raise UsageError(
                f"{self.name}.images = {settings.images!r} reads no images: give a CLIP model, "
                f"such as {IMAGES}."
            )
        return texts, images
