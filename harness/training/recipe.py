"""How a retriever is trained, as a validated YAML file.

A recipe says all that determines the weights beside the task, the retriever's own settings and the
seed. `harness.training.recipes.load` reads one by name or path; ``--set recipe.KEY=VALUE`` changes
any field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import UsageError
from harness.types import Modality

LossName = Literal["contrastive", "hard_positive", "hard_negative", "pairwise"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterRecipe(_Part):
    """Which weights are trained."""

    kind: Literal["full", "lora"] = Field("lora", description="All weights, or LoRA on some.")
    rank: int = Field(128, ge=1, description="LoRA's r.")
    alpha: float = Field(128, gt=0, description="LoRA's alpha; updates are scaled by alpha / r.")
    dropout: float = Field(0.1, ge=0, lt=1, description="LoRA's dropout.")
    init: Literal["gaussian", "kaiming"] = Field(
        "gaussian",
        description="How LoRA's A is drawn: normally with standard deviation 1 / r, or uniformly "
        "as peft does by default. B begins at 0.",
    )
    frozen: tuple[str, ...] = Field(
        (),
        description="Submodules, by the beginnings of their names, that keep their weights; for "
        "kind full.",
    )


class LossRecipe(_Part):
    """What is minimised."""

    name: LossName = Field("contrastive", description="See docs/training.md.")
    aggregations: tuple[Literal["token_max", "modality_max"], ...] = Field(
        ("modality_max",),
        min_length=1,
        description="How token similarities become scores; the mean of the losses of several.",
    )
    temperature: float = Field(0.02, gt=0, description="Scores are divided by it.")
    learn_temperature: bool = Field(False, description="Train the temperature too.")
    normalise: bool = Field(
        True, description="Scores are divided by the query's number of tokens, as CLaMR's are."
    )
    compat: bool = Field(False, description="As the reference's code computes it, faults included.")


class OptimiserRecipe(_Part):
    """The optimiser and its schedule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = Field(
        "adamw", description="The 8-bit and paged ones are those of bitsandbytes."
    )
    lr: float = Field(1e-5, gt=0, description="Highest learning rate.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="Of Adam."
    )
    weight_decay: float = Field(
        0.01, ge=0, description="Of matrices; biases, norms and other vectors have none."
    )
    clip: float | None = Field(1.0, gt=0, description="Largest norm of the gradient; none: any.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="What follows the warm-up."
    )
    warmup: float = Field(0.1, ge=0, description="Steps of warm-up; below 1, a share of all steps.")
    final: float = Field(0.0, ge=0, le=1, description="Share of lr at the end of the schedule.")


class BatchRecipe(_Part):
    """What a step is made of, over all processes."""

    documents: int = Field(16, ge=1, description="Documents of a step.")
    queries: int = Field(
        1, ge=1, description="Queries of each document; fewer where it has no more."
    )
    negatives: int = Field(
        0,
        ge=0,
        description="Documents drawn for each query that do not answer it: those that the task "
        "judges so first (grade 0), then any of the split's.",
    )
    in_batch: bool = Field(
        True, description="Whether what was drawn for other queries is a negative too."
    )
    accumulate: int = Field(
        1, ge=1, description="Parts of a step that are negatives for themselves only."
    )
    chunk: int | None = Field(
        None,
        ge=1,
        description="Documents that are in memory with their gradients at once; all are negatives "
        "of one another (GradCache). None: all.",
    )

    @model_validator(mode="after")
    def _negatives_somewhere(self) -> Self:
        if not self.in_batch and not self.negatives:
            raise ValueError("in_batch is false: draw negatives then, or no query has any")
        return self


class PhaseRecipe(_Part):
    """A part of the training. Lengths are steps, or passes over the documents."""

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    modality: dict[str, float] | None = Field(
        None,
        min_length=1,
        description="Each step draws one of these modalities by weight: its documents hold only "
        "that one, and its queries aim at it. None: whole documents.",
    )
    targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="The first query of each document aims at one of these; the others are drawn "
        "from all. None: all are.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        for name in self.modality or ():
            try:
                Modality.parse(name)
            except UsageError as error:
                raise ValueError(str(error)) from None
        weights = self.modality or {"": 1.0}
        if min(weights.values()) < 0 or not sum(weights.values()):
            raise ValueError("weights of modalities are at least 0, and one is above 0")
        return self


class ValidationRecipe(_Part):
    """How the best checkpoint is found: by the evaluation that ``run`` does."""

    every: int | None = Field(None, ge=1, description="Steps between two; none: at the end only.")
    share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the training documents that are held out, where the task has no "
        "split `validation`; 0: none, and the last weights are kept.",
    )
    queries: int | None = Field(None, ge=1, description="Most queries; none: all.")
    k: int = Field(100, ge=1, description="Documents ranked for each.")


class Recipe(_Part):
    """A whole recipe."""

    schema_version: Literal[1] = 1
    about: str = Field("", description="What it is for, and where its values come from.")
    adapter: AdapterRecipe = AdapterRecipe()
    loss: LossRecipe = LossRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()
    batch: BatchRecipe = BatchRecipe()
    phases: tuple[PhaseRecipe, ...] = Field((PhaseRecipe(epochs=1),), min_length=1)
    validation: ValidationRecipe = ValidationRecipe()
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="Of the computation outside quantised layers (autocast)."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: slower, less memory."
    )
    checkpoint_every: int = Field(100, ge=1, description="Steps between two checkpoints.")
    seed: int = Field(0, ge=0, description="Of batches and dropout.")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Settings of retrievers by name, unless --set says otherwise.",
    )
