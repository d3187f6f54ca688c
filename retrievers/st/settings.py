"""Settings of retrievers made of models of the sentence-transformers library."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from harness.encoder import EncoderSettings
from harness.media import MediaSettings
from harness.settings import Settings
from retrievers.model_settings import ModelSettings

#: What the library's models are, here: one vector, a vector for each token, a sparse vector.
Kind = Literal["dense", "multi-vector", "sparse"]


class LibrarySettings(ModelSettings):
    """How any of these models is loaded, and which modalities it is given."""

    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with a model. It runs with your rights: read it "
        "first.",
    )
    batch_inputs: int | None = Field(
        None,
        ge=1,
        exclude=True,
        description="Most texts, or images, that are encoded at once; default: 64 on a GPU, 16 on "
        "a CPU. Halved out of memory.",
    )


class PromptSettings(Settings):
    """Which revision of a model, and what stands before its texts."""

    revision: str | None = Field(None, description="Commit, tag or branch of a hub id.")
    query_prompt: str | None = Field(
        None, description='What stands before a query; default: as the model says; "": nothing.'
    )
    query_prompt_name: str | None = Field(
        None, description="The model's own prompt of that name before a query."
    )
    document_prompt: str | None = Field(
        None,
        description='What stands before a text of a document; default: as the model says; "": '
        "nothing.",
    )
    document_prompt_name: str | None = Field(
        None, description="The model's own prompt of that name before a text of a document."
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        for side in ("query", "document"):
            text, name = getattr(self, f"{side}_prompt"), getattr(self, f"{side}_prompt_name")
            if text is not None and name is not None:
                raise ValueError(
                    f"{side}_prompt = {text!r} and {side}_prompt_name = {name!r}: give one of them"
                )
        return self


class FrameSettings(EncoderSettings, MediaSettings, LibrarySettings):
    """What encoders of texts and frames share."""

    batch_size: int = Field(
        64,
        ge=1,
        description="Documents taken together; batch_inputs limits what is encoded at once.",
    )
    frames_as: Literal["mean", "max", "each"] = Field(
        "mean",
        description="A video's frames: their mean or their maximum as one vector, or each kept, "
        "of which the best counts. Multi-vectors are always kept.",
    )


class SentenceSettings(PromptSettings, FrameSettings):
    """How a dense or multi-vector model is used; by default as it says itself."""

    kind: Literal["auto", "dense", "multi-vector"] = Field(
        "auto",
        description="What the model is, where its files do not say: one vector, or one a token.",
    )
    similarity: Literal["auto", "cosine", "dot"] = Field(
        "auto",
        description="Of single vectors; auto: the one that the model names, else cosine.",
    )


class SparseSettings(PromptSettings, LibrarySettings):
    """How a sparse model is used; by default as it says itself."""

    batch_size: int = Field(64, ge=1, description="Documents taken together.")
    similarity: Literal["auto", "cosine", "dot"] = Field(
        "auto", description="Of vectors; auto: the one that the model names, else dot."
    )
    max_active_dims: int | None = Field(
        None,
        ge=1,
        description="Keep only so many of a vector's largest values; default: as the model says.",
    )
