"""Settings of routers: one model a kind, told apart by `kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from harness.settings import Settings

#: MultiVENT's queries are in several languages, so the default encoder reads several.
DEFAULT_ENCODER = (
    "sentence-transformers/sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
)


class OracleSettings(Settings):
    """Route by the query's gold attribute ``target``."""

    kind: Literal["oracle"] = "oracle"


class PrototypeSettings(Settings):
    """Route by similarity to example queries of each modality."""

    kind: Literal["prototypes"] = "prototypes"
    encoder: str = Field(
        DEFAULT_ENCODER, description="Address of the encoder that queries and examples go through."
    )
    encoder_settings: dict[str, Any] = Field({}, description="Settings of that encoder.")
    prototypes: Path | None = Field(
        None,
        description="YAML file {modality: [example query, ...]}; default: English examples of "
        "video, audio, asr, ocr and description.",
    )
    similarity: Literal["mean", "max"] = Field(
        "mean", description="Of a query with a modality: mean or largest cosine with its examples."
    )
    choice: Literal["hard", "soft"] = Field(
        "hard", description="The nearest modality alone, or a softmax over all."
    )
    temperature: float = Field(
        0.05, gt=0, allow_inf_nan=False, description="Of the softmax, for choice = soft."
    )


class EndpointSettings(Settings):
    """Route by what a language model says, asked through a chat completions endpoint.

    Settings of the connection alone are left out of dumps, hence of fingerprints. `key_variable`
    stays in: without it a saved configuration could not be run again.
    """

    kind: Literal["endpoint"] = "endpoint"
    # Both must be given. The client says so: pydantic's error would repeat all other values.
    url: str = Field(
        "", description="Address of an OpenAI-compatible API, as https://api.openai.com/v1."
    )
    model: str = Field("", description="Name of the model, as gpt-4.1.")
    prompt: Path | None = Field(
        None, description="File with the prompt; {query} stands for the query. Default: our own."
    )
    key_variable: str | None = Field(
        None,
        description="NAME of the environment variable that holds the key; the key itself is never "
        "a setting. Default: no key is sent.",
    )
    temperature: float | None = Field(
        0.0, ge=0, allow_inf_nan=False, description="Sent with each request; null: not sent."
    )
    timeout: float = Field(
        60.0, gt=0, allow_inf_nan=False, exclude=True, description="Seconds for one answer."
    )
    retries: int = Field(
        5, ge=0, le=20, exclude=True, description="Further attempts when a request fails."
    )
    concurrency: int = Field(4, ge=1, le=64, exclude=True, description="Requests at a time.")


def _by_kind(value: Any) -> Any:
    """Read ``oracle`` as ``{kind: oracle}``."""
    return {"kind": value} if isinstance(value, str) else value


RouterSettings = Annotated[
    OracleSettings | PrototypeSettings | EndpointSettings,
    Field(discriminator="kind"),
    BeforeValidator(_by_kind),
]
"""Settings of a router of any kind; ``oracle`` alone is short for ``{kind: oracle}``."""
