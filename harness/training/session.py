"""One training from a task and a retriever to a model's folder."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from inspect import getattr_static
from pathlib import Path
from typing import cast

import yaml

from harness.encoder import EncoderRetriever, Trainable
from harness.errors import CapabilityError, PluginError, UsageError
from harness.files import atomic_write, exclusive, writable_folder
from harness.plugin import Direction
from harness.progress import Progress
from harness.retriever import Retriever
from harness.runner.folder import slug
from harness.task import Task
from harness.team import Team
from harness.training.batches import Batches
from harness.training.data import load
from harness.training.export import export, record
from harness.training.lora import add_lora
from harness.training.recipe import Recipe
from harness.training.tracking import tracker
from harness.training.trainer import Trainer
from harness.training.validation import validate
from harness.workspace import digest

MODEL_NAME = "model"


def trainable(retriever: Retriever) -> tuple[EncoderRetriever, Trainable]:
    """Return a retriever that can be trained, with its encoder.

    Raises
    ------
    CapabilityError
        If it cannot.
    """
    if not isinstance(retriever, EncoderRetriever) or not retriever.capabilities.trainable:
        raise CapabilityError(
            f"retriever {retriever.address!r} cannot be trained: that takes an encoder that says "
            "how its embeddings are made with gradients (docs/add-a-retriever.md)."
        )
    encoder, lacks = retriever.encoder, []
    for name in ("module", "lora_targets", "forward_queries", "forward_documents", "save"):
        try:
            # Static: to ask for `module` itself would load the weights.
            getattr_static(encoder, name)
        except AttributeError:
            lacks.append(name)
    if lacks:
        raise PluginError(
            f"retriever {retriever.address!r} declares `trainable`, but lacks what "
            f"harness.encoder.Trainable asks for: {', '.join(lacks)}."
        )
    return retriever, cast("Trainable", encoder)


def train(
    task: Task,
    retriever: Retriever,
    recipe: Recipe,
    output: Path,
    progress: Progress,
    *,
    name: str,
    command: str,
    data: Path | None = None,
    team: Team,
    track: str | None = None,
) -> Path:
    """Train a retriever on a task; return the folder of the trained model.

    The same task, retriever and recipe go on in the same folder, or give back what is complete.

    Parameters
    ----------
    task
        Whose splits ``train`` and ``validation`` are used.
    retriever
        What to start from.
    recipe
        How to train.
    output
        Folder of all trainings.
    progress
        Where to report.
    name
        The recipe's name, for the folder's.
    command
        The command that repeats the training, for the card.
    data
        A dataset store given by the user.
    team
        The processes of the launch, all of which train.
    track
        ``trackio`` or ``wandb``: where figures go beside the log.

    Raises
    ------
    CapabilityError
        If the retriever cannot be trained.
    TrainingError
        If the loss is not finite.
    """
    if task.direction is Direction.REVERSE:
        raise UsageError(
            f"{task.address!r} is asked in the reverse direction ({task.protocol.name}), and one "
            "trains in the forward one, whose scores it has too: leave that setting out."
        )
    ranker, encoder = trainable(retriever)
    if team.leads:
        writable_folder(output, "training folder")
    drawn = recipe.batch.negatives > 0
    splits = load(task, recipe.validation, data, progress, negatives=drawn)
    batches = Batches(splits.train, recipe)
    identity = {
        "task": {
            "address": task.address,
            "version": task.about.version,
            "settings": task.settings.model_dump(mode="json"),
        },
        "data": splits.train.fingerprint,
        "validation": None if splits.validation is None else splits.validation.fingerprint,
        "retriever": retriever.identity(),
        "recipe": recipe.model_dump(mode="json"),
        "processes": team.size,
    }
    key = digest(identity)
    folder = output / task.family / f"{slug(retriever.address)}-{slug(name)}-{key[:8]}"
    model = folder / MODEL_NAME
    if model.exists():
        progress.note(f"complete already: {model}")
        return model
    if team.leads:
        writable_folder(folder, "training folder")
        with atomic_write(folder / "recipe.yaml") as temporary:
            text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
    team.meet()
    add_lora(encoder.module, encoder.lora_targets(), recipe)
    shared = splits.train.dropped
    if shared.documents or shared.queries:
        progress.note(
            f"left out of training, because an evaluated split has them: "
            f"{len(shared.documents):,} documents, {len(shared.queries):,} queries"
        )
    held_out = splits.validation

    with closing(retriever), tracker(track if team.leads else None, folder.name, identity) as tell:
        trainer = Trainer(
            encoder,
            recipe,
            batches,
            folder,
            key,
            validate=None
            if held_out is None
            else partial(validate, ranker, task, held_out, recipe.validation),
            team=team,
            progress=progress,
            expect=ranker.encoder.expect,
            track=tell,
        )
        if team.leads:
            with exclusive(folder / ".lock"):
                trainer.run()
        else:
            trainer.run()
        if team.leads:
            done = record(
                task, retriever, recipe, splits.train, steps=batches.total, best=trainer.best
            )
            export(model, encoder, task, retriever, recipe, splits.train, done, command)
    team.meet()
    return model
