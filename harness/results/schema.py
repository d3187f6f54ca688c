"""The schema of ``result.json``; its JSON Schema is published as ``docs/result.schema.json``.

Adding an optional field keeps `SCHEMA_VERSION`; any other change raises it, and every older
version stays readable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ResultError

SCHEMA_VERSION = 1

Versioned = TypeVar("Versioned", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ProtocolRecord(_Record):
    """The rules that make the numbers comparable (see `harness.task.Protocol`)."""

    name: str
    candidates: str
    relevance: str
    ties: str
    measures: list[str]
    main: str
    unit: str = Field("queries", description="What the means are over.")


class TaskRecord(_Record):
    """Which task was evaluated."""

    address: str
    family: str = Field(description="First part of the address; tables are grouped by it.")
    version: str
    title: str
    licence: str
    citation: str
    url: str
    split: str
    settings: dict[str, Any] = Field(description="All settings of the task.")
    changed_settings: dict[str, Any] = Field(description="Those that differ from their defaults.")
    protocol: ProtocolRecord


class CoverageRecord(_Record):
    """How many documents have which modality."""

    documents: int
    modalities: dict[str, int]
    languages: dict[str, dict[str, int]]


class DataRecord(_Record):
    """Which data were used."""

    fingerprint: str = Field(description="sha256 of all rows of the split, media list included.")
    queries: int
    judgments: int
    coverage: CoverageRecord
    channels: dict[str, str] = Field(description="Versions of modality channels (ASR model, ...).")
    losses: dict[str, int] = Field(
        default_factory=dict,
        description="What of documents and queries the retriever could not use, counted by kind: "
        "'video missing', 'asr cut' (longer than the model reads), 'documents skipped', "
        "'query cut'.",
    )


class TrainingRecord(_Record):
    """How weights came about, where they were trained by ``clamr-bench train``."""

    task: str
    task_version: str
    data_fingerprint: str
    documents: int = Field(description="Documents trained on.")
    queries: int
    dropped_documents: int = Field(
        description="Left out of training because an evaluated split of the task has them."
    )
    dropped_queries: int
    started_from: str = Field(description="Address of the retriever that was trained.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of that retriever, while it was trained, that differ from their "
        "defaults.",
    )
    recipe_sha256: str
    seed: int
    steps: int
    best_step: int = Field(description="The step that the weights are of.")
    validation: dict[str, float] = Field(description="Measures on held-out queries at that step.")
    created: str
    clamr_bench: str


class OverlapRecord(_Record):
    """What the evaluated split shares with what the weights were trained on."""

    documents: int = Field(description="Relevant documents of this split that were trained on.")
    queries: int = Field(description="Queries of this split whose text was trained on.")


class RetrieverRecord(_Record):
    """Which retriever ran."""

    address: str
    name: str
    weights: str | None
    version: str
    title: str
    licence: str
    citation: str
    url: str
    settings: dict[str, Any]
    changed_settings: dict[str, Any]
    fingerprint: str = Field(description="sha256 of all that determines its output.")
    modalities: list[str] = Field(description="Document modalities that it reads.")
    oracle: bool = Field(description="It saw gold attributes of the queries; never counts as best.")
    untrained: bool = Field(description="Its weights were never trained; never listed in tables.")
    training: TrainingRecord | None = Field(
        None, description="For weights that clamr-bench trained."
    )
    overlap: OverlapRecord | None = Field(
        None, description="Of these: what they have seen of the evaluated split."
    )


class Options(_Record):
    """What the user chose for the run."""

    k: int = Field(description="Documents returned for each query.")
    seed: int
    limit: int | None = Field(description="Only the first queries were run; never listed.")
    modalities: list[str] | None = Field(description="Document modalities left in; null: all.")
    masked: bool = Field(
        False,
        description="The others were left out of the scores only: documents were encoded with all.",
    )

    @property
    def restriction(self) -> str | None:
        """What to call the choice of modalities in a table; None without."""
        if self.modalities is None:
            return None
        names = "+".join(self.modalities)
        return f"scored on {names}, encoded with all" if self.masked else f"only {names}"


class Estimate(_Record):
    """A mean over queries with its bootstrap 95% interval."""

    mean: float
    low: float
    high: float


class Group(_Record):
    """One group of a breakdown."""

    queries: int
    measures: dict[str, Estimate]


class EvaluationRecord(_Record):
    """How the measures came about."""

    queries: int = Field(
        description="Queries, or what the protocol's unit says, that the means are over; 0 if the "
        "judgments are not public."
    )
    missing: int = Field(description="Of these, queries without a ranked list; they count 0.")
    without_positives: int = Field(description="Queries dropped: no relevant document.")


class Efficiency(_Record):
    """What it cost. Seconds are wall time; stages taken from an earlier process are null."""

    index_seconds: float | None
    search_seconds: float | None
    query_p50_ms: float | None = Field(description="Median latency of single queries.")
    query_p95_ms: float | None
    index_bytes: int
    peak_memory_bytes: int = Field(description="Peak resident memory of the process in this run.")


class ShareRecord(_Record):
    """Shares of the score by modality."""

    queries: int = Field(description="Queries whose score can be divided; the mean is over them.")
    share: dict[str, float] = Field(
        description="Mean share by modality of the matched tokens; 'none': templates, padding."
    )


class VotesRecord(_Record):
    """How often the modality that a query aims at is the one that answered."""

    queries: int
    hits: int = Field(description="The modality aimed at is the single winner.")
    ties: int = Field(description="Several modalities win; never a hit.")
    none: int = Field(description="Tokens of no modality (templates, padding) win; never a hit.")
    missing: int = Field(description="No document or no token to attribute; never a hit.")


class AccuracyRecord(VotesRecord):
    """Modality accuracy: hits by queries."""

    by_target: dict[str, VotesRecord] = Field(description="By the modality aimed at.")


class AttributedRecord(_Record):
    """What the scores of one document for each query are made of."""

    queries: int = Field(description="Queries, with or without such a document.")
    missing: int = Field(description="Of these, queries without anything to attribute.")
    undivided: int = Field(
        description="Of these, queries whose score has no shares: a modality adds a negative part, "
        "or the score is not above 0."
    )
    share: ShareRecord
    grouped_by: str | None = Field(description="Query attribute of the groups.")
    groups: dict[str, ShareRecord] = Field(description="Shares by the attribute's value.")
    accuracy: dict[str, AccuracyRecord] = Field(
        description="Over the queries that aim at one modality, by how the winner is found. "
        "'majority': the modality that wins the most query tokens. 'argmax': the modality with "
        "the largest score by itself. 'reference': a majority in which tokens of no modality do "
        "not vote, ties go to the lower number, and queries without any vote are left out of "
        "`queries` (they are in `none` and `missing`)."
    )


class AttributionRecord(_Record):
    """Which modality's tokens matched: of the first document, and of the best relevant one."""

    top: AttributedRecord = Field(description="Of the first document of each query's list.")
    relevant: AttributedRecord | None = Field(
        description="Of each query's best-ranked relevant document (where none is ranked, the one "
        "of the highest grade, then of the least id); null without judgments."
    )
    seconds: float = Field(description="Wall time that attribution took.")


class Environment(_Record):
    """Where it ran."""

    clamr_bench: str
    source_sha256: str = Field(description="Of clamr-bench's own source files.")
    python: str
    platform: str
    processor: str
    cores: int
    blas: str | None = Field(None, description="numpy's BLAS, with the kernels it used.")
    packages: dict[str, str]


class Result(_Record):
    """The record of one run."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    fingerprint: str = Field(description="sha256 of task, data, retriever and options.")
    created: str = Field(description="UTC, ISO 8601.")
    task: TaskRecord
    data: DataRecord
    retriever: RetrieverRecord
    options: Options
    evaluation: EvaluationRecord
    measures: dict[str, Estimate] = Field(
        description="By the protocol's names; empty if the judgments are not public."
    )
    breakdowns: dict[str, dict[str, Group]] = Field(
        description="By attribute (document attributes as 'document <name>') and value."
    )
    references: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="Figures to read the measures against, such as those of an ideal retriever: "
        "by name and measure.",
    )
    attribution: AttributionRecord | None = Field(
        None, description="For retrievers that explain their scores."
    )
    efficiency: Efficiency
    environment: Environment
    files: dict[str, str] = Field(description="sha256 of the run's other files.")

    def dump(self) -> str:
        """Return the JSON text of the record."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read and validate a ``result.json``.

        Raises
        ------
        ResultError
            If it is not there, damaged, or of a newer schema.
        """
        return read_versioned(cls, path, SCHEMA_VERSION)


def read_versioned(model: type[Versioned], path: Path, newest: int) -> Versioned:
    """Read a JSON file with a ``schema_version`` as `model`.

    Raises
    ------
    ResultError
        Naming the file, and what is wrong with it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"there is no {path}.") from None
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read ({error}): restore or delete it.") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise ResultError(f"{path} states no schema_version: it is no file of clamr-bench's.")
    if version > newest:
        raise ResultError(
            f"{path} has schema version {version}, this clamr-bench reads up to {newest}: update "
            "clamr-bench to read it."
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{path} is damaged ({where}: {first['msg']}).") from error
