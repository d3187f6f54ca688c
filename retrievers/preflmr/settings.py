"""Settings of PreFLMR."""

from __future__ import annotations

from pydantic import Field

from retrievers.model_settings import TowerSettings


class PreFLMRSettings(TowerSettings):
    """How the checkpoint is loaded and what it is given.

    Settings of the machine alone (device, workers, ...) are left out of dumps, hence of
    fingerprints: the same vectors come out, but for rounding.
    """

    unread = "neither the text encoder nor the image tower reads {}"

    query_length: int | None = Field(
        None,
        ge=4,
        description="Tokens of a query, instruction and marks included; default: the "
        "checkpoint's, 32.",
    )
    document_length: int | None = Field(
        None,
        ge=4,
        description="Most tokens of a document's text, marks included; default: the checkpoint's, "
        "512.",
    )
    blank_images: bool = Field(
        False,
        description="Show a black picture with a query that has none, as M2KR's evaluation script "
        "does.",
    )
    document_images: bool = Field(
        True,
        description="Read frames and images of documents, 32 vectors each; the published models "
        "were trained on documents of text alone.",
    )
    batch_inputs: int | None = Field(
        None,
        ge=1,
        exclude=True,
        description="Most images, or texts, that are encoded at once; default: 64 on a GPU, 16 on "
        "a CPU.",
    )
