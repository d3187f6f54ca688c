"""The training loop: steps, checkpoints, validation; killed at any moment, it goes on.

A step depends on the weights, the optimiser and its own number alone: batches and dropout are drawn
from the seed and the number. So what resumes from a checkpoint ends with the same bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.encoder import Trainable
from harness.errors import StorageError, TrainingError
from harness.files import atomic_folder
from harness.progress import Progress
from harness.rank_measures import goodness
from harness.team import Team
from harness.training import checkpoint
from harness.training.batches import Batch, Batches
from harness.training.optimise import make_optimiser, schedule
from harness.training.recipe import Recipe
from harness.training.step import Step
from harness.types import Document

#: Documents that a message names.
_LISTED = 8
_TEMPERATURE = "log_temperature"

Validate = Callable[[], Mapping[str, float]]
Track = Callable[[Mapping[str, float], int], None]


class Trainer:
    """Trains the weights of an encoder.

    Parameters
    ----------
    encoder
        With its module as it is to be trained (adapter in place, other weights frozen).
    recipe
        How.
    batches
        What each step sees.
    folder
        Where checkpoints and the log go.
    identity
        What determines the weights: a checkpoint of anything else is refused.
    validate
        Returns measures of the weights as they are, the one that decides first; None to keep the
        last weights.
    team
        The processes of the launch; all of them train.
    progress
        Where to report.
    expect
        Told of the documents of the step after the next.
    track
        Told of every step's figures.
    """

    def __init__(
        self,
        encoder: Trainable,
        recipe: Recipe,
        batches: Batches,
        folder: Path,
        identity: str,
        *,
        validate: Validate | None,
        team: Team,
        progress: Progress,
        expect: Callable[[Sequence[Document]], None] = lambda documents: None,
        track: Track = lambda figures, step: None,
    ) -> None:
        self._encoder, self._recipe, self._batches = encoder, recipe, batches
        self._folder, self._identity, self._team = folder, identity, team
        self._validate, self._progress = validate, progress
        self._track, self._expect = track, expect
        self.trained = {n: p for n, p in encoder.module.named_parameters() if p.requires_grad}
        started = math.log(recipe.loss.temperature)
        self._log_temperature = nn.Parameter(
            torch.tensor(started), requires_grad=recipe.loss.learn_temperature
        )
        if recipe.loss.learn_temperature:
            self.trained[_TEMPERATURE] = self._log_temperature
        self._optimiser = make_optimiser(recipe.optimiser, self.trained.items())
        self._factor = schedule(recipe, batches.total)
        self._step = Step(encoder, recipe, self._log_temperature, team)
        self.best: dict[str, Any] | None = None

    def run(self) -> None:
        """Train to the end, from the last checkpoint if there is one; keep the best weights.

        Raises
        ------
        TrainingError
            If the loss is not finite; a checkpoint of the weights before that step is kept.
        StorageError
            If a checkpoint cannot be written, or is of another training.
        """
        start = self._resumed()
        total, recipe = self._batches.total, self._recipe
        every = recipe.validation.every or total
        with self._progress.stage(f"train {total:,} steps", total, start) as advance:
            for number in range(start, total):
                figures = self._one(number)
                self._note(number, figures)
                done = number + 1
                advance(
                    1,
                    f"loss {figures['loss']:.4f}, lr {figures['lr']:.2g}, "
                    f"{figures['samples_per_second']:.1f} samples/s",
                )
                due = done % every == 0 or done == total
                if due:
                    self._judge(done)
                if due or done % recipe.checkpoint_every == 0:
                    self._keep(done)
        if self.best is not None:
            best = checkpoint.read_weights(self._best_folder)
            checkpoint.put(self.trained, best, self._best_folder)
        self._encoder.module.eval()

    def _one(self, number: int) -> dict[str, float]:
        """Do one step; return its figures."""
        begun = time.perf_counter()
        parts = self._batches.batch(number)
        if number + 1 < self._batches.total:
            following = self._batches.batch(number + 1)[0]
            share, _ = following.share(self._team.rank, self._team.size)
            self._expect(following.documents[share])
        torch.manual_seed((self._recipe.seed * 1_000_003 + number) * 1_009 + self._team.rank)
        self._encoder.module.train()
        for parameter in self.trained.values():
            parameter.grad = None
        loss = self._step.gradients(parts, self.trained.values())
        clip = self._recipe.optimiser.clip
        norm = nn.utils.clip_grad_norm_(self.trained.values(), math.inf if clip is None else clip)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            self._keep(number)
            raise self._not_finite(number, loss, parts)
        rate = self._recipe.optimiser.lr * self._factor(number)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        seconds = time.perf_counter() - begun
        samples = sum(len(part.queries) for part in parts)
        return {
            "loss": loss,
            "lr": rate,
            "gradient_norm": float(norm),
            "temperature": float(self._log_temperature.detach().exp()),
            "seconds": seconds,
            "samples_per_second": samples / seconds,
        }

    def _not_finite(self, number: int, loss: float, parts: list[Batch]) -> TrainingError:
        ids = [document.id for part in parts for document in part.documents]
        listed = ", ".join(ids[:_LISTED]) + (", ..." if len(ids) > _LISTED else "")
        return TrainingError(
            f"step {number + 1}: the loss is {loss}, or its gradient is not finite. The weights "
            f"before it are kept in {self._folder}. Its documents: {listed}. A lower lr "
            "(--set recipe.optimiser.lr=...), a longer warm-up, or precision fp32 may help; if one "
            "document is at fault, remove it."
        )

    @property
    def _best_folder(self) -> Path:
        return self._folder / "best"

    def _judge(self, done: int) -> None:
        """Validate, and keep the weights if they are the best so far."""
        if self._validate is None or not self._team.leads:
            return
        self._encoder.module.eval()
        measures = dict(self._validate())
        main = next(iter(measures))
        self._log({"step": done, "validation": measures})
        self._track({f"validation/{name}": value for name, value in measures.items()}, done)
        self._progress.note(f"step {done:,}: validation {main} {measures[main]:.4f}")
        before = None if self.best is None else self.best["measures"][main]
        if before is None or goodness(main, measures[main]) > goodness(main, before):
            self.best = {"step": done, "measures": measures}
            with atomic_folder(self._best_folder) as temporary:
                checkpoint.write_weights(temporary, self.trained)

    def _keep(self, done: int) -> None:
        if self._team.leads:
            state = {"identity": self._identity, "best": self.best}
            checkpoint.save(self._folder, done, self.trained, self._optimiser, state)

    def _resumed(self) -> int:
        """Take up the last checkpoint; return the steps done."""
        found = checkpoint.newest(self._folder)
        if found is None:
            (self._folder / "log.jsonl").unlink(missing_ok=True)
            return 0
        if found.state["identity"] != self._identity:
            raise StorageError(
                f"{found.path} is of another training (recipe, data, model or seed): choose "
                "another --to, or remove that folder."
            )
        found.restore(self.trained, self._optimiser)
        self.best = found.state["best"]
        if self._team.leads:
            self._cut_log(found.step)
            self._progress.note(f"goes on after step {found.step:,} of {self._batches.total:,}")
        return found.step

    def _note(self, number: int, figures: Mapping[str, float]) -> None:
        if self._team.leads:
            self._log({"step": number + 1, **figures})
            self._track(figures, number + 1)

    def _log(self, row: Mapping[str, Any]) -> None:
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _cut_log(self, done: int) -> None:
        """Drop what was logged after the checkpoint, and a line that a kill cut short."""
        path = self._folder / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] > done:
                    break
            except ValueError:
                break
            kept.append(line + "\n")
        path.write_text("".join(kept), encoding="utf-8")
