"""The gradient of one step: embeddings, scores, loss, over all processes of a launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.encoder import Trainable
from harness.team import Team
from harness.training.batches import Batch
from harness.training.recipe import Recipe

Embeddings = tuple[torch.Tensor, torch.Tensor]


class Step:
    """Computes gradients of batches.

    The loss is the mean over the queries of all parts and processes; each query is compared with
    the documents of its part on all processes.

    Parameters
    ----------
    encoder
        What is trained.
    recipe
        Loss, precision and sizes.
    log_temperature
        Scores are divided by its exponential.
    team
        The processes of the launch.
    """

    def __init__(
        self, encoder: Trainable, recipe: Recipe, log_temperature: torch.Tensor, team: Team
    ) -> None:
        self._encoder, self._recipe, self._team = encoder, recipe, team
        self._log_temperature = log_temperature

    def gradients(self, parts: Sequence[Batch]) -> float:
        """Add the gradients of a step to the parameters; return its loss."""
        total = sum(len(part.queries) for part in parts)
        loss = sum(self._part(part, total) for part in parts)
        if self._team.size > 1:
            loss = self._summed(loss)
        return loss
