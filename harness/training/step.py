"""The gradient of one step: embeddings, scores, loss, over all processes of a launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, distributed

from harness.encoder import Trainable
from harness.errors import UsageError
from harness.team import Team
from harness.training.batches import Batch
from harness.training.cache import Embedded, grad_cache
from harness.training.gather import gathered
from harness.training.losses import LOSSES
from harness.training.pairs import pair_scores
from harness.training.recipe import Recipe


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
        self, encoder: Trainable, recipe: Recipe, log_temperature: Tensor, team: Team
    ) -> None:
        self._encoder, self._recipe, self._team = encoder, recipe, team
        self._log_temperature = log_temperature

    def gradients(self, parts: Sequence[Batch], trained: Iterable[Tensor]) -> float:
        """Set the gradients of a step; return its loss.

        Parameters
        ----------
        parts
            Its batches, whole: each process takes its share.
        trained
            The parameters, without gradients yet.

        Raises
        ------
        UsageError
            If there are more processes than documents.
        """
        total = sum(len(part.queries) for part in parts)
        loss = torch.stack([self._part(part, total) for part in parts]).sum()
        if self._team.size > 1:
            loss = _summed(loss, trained)
        return float(loss)

    def _part(self, batch: Batch, total: int) -> Tensor:
        share, own = batch.share(self._team.rank, self._team.size)
        documents = batch.documents[share]
        queries = [batch.queries[place] for place in own.tolist()]
        if batch.divisible < self._team.size:
            raise UsageError(
                f"{self._team.size} processes share a batch of {batch.divisible} documents: "
                "launch fewer, or raise recipe.batch.documents."
            )

        def loss(embedded: Sequence[Embedded]) -> Tensor:
            (asked, asked_kinds), *rest = embedded
            vectors, kinds = (_joined([one[place] for one in rest]) for place in (0, 1))
            return self._loss(
                batch, own.tolist(), asked, asked_kinds, gathered(vectors), gathered(kinds)
            ).sum() / total  # fmt: skip

        def of_documents(first: int, last: int) -> Callable[[], Embedded]:
            return lambda: self._embedded(
                lambda: self._encoder.forward_documents(documents[first:last])
            )

        size = self._recipe.batch.chunk or len(documents)
        chunks = [
            lambda: self._embedded(lambda: self._encoder.forward_queries(queries)),
            *(of_documents(n, min(n + size, len(documents)))
              for n in range(0, len(documents), size)),
        ]  # fmt: skip
        if self._recipe.batch.chunk:
            return grad_cache(chunks, loss)
        value = loss([chunk() for chunk in chunks])
        value.backward()
        return value.detach()

    def _embedded(self, forward: Callable[[], Embedded]) -> Embedded:
        kind = next(self._encoder.module.parameters()).device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
            return forward()

    def _loss(
        self,
        batch: Batch,
        own: list[int],
        queries: Tensor,
        query_modalities: Tensor,
        documents: Tensor,
        document_modalities: Tensor,
    ) -> Tensor:
        """Return the loss of each query of this process."""
        recipe = self._recipe.loss
        scores = pair_scores(
            queries,
            query_modalities,
            documents,
            document_modalities,
            normalise=recipe.normalise,
            unassigned="compete" if recipe.compat else "exclude",
            padding="zero" if recipe.compat else "exclude",
        )
        device = scores.token_max.device
        positives, allowed, targets = (
            torch.from_numpy(values[own]).to(device)
            for values in (batch.positives, batch.allowed, batch.targets)
        )
        temperature = self._log_temperature.to(device).exp()
        losses = [
            LOSSES[recipe.name](
                scores, positives, allowed, targets, temperature,
                aggregation=aggregation, compat=recipe.compat,
            )
            for aggregation in recipe.aggregations
        ]  # fmt: skip
        return torch.stack(losses).mean(0)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join rows; shorter ones are filled up with zeros."""
    longest = max(part.shape[1] for part in parts)
    filled = [
        torch.nn.functional.pad(
            part, (*((0, 0) if part.ndim == 3 else ()), 0, longest - part.shape[1])
        )
        for part in parts
    ]
    return torch.cat(filled)


def _summed(loss: Tensor, trained: Iterable[Tensor]) -> Tensor:
    """Add loss and gradients of all processes up."""
    loss = loss.clone()
    distributed.all_reduce(loss)
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
    return loss
