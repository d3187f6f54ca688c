"""A step's loss is what its recipe says, from batches to gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.progress import Progress
from harness.registry import make_retriever, make_task
from harness.team import Team
from harness.training.batches import Batches
from harness.training.data import load
from harness.training.recipe import Recipe
from harness.training.session import trainable
from harness.training.step import Step
from tests.training_cases import write


@pytest.mark.parametrize("in_batch", [True, False])
def test_raw_sums_against_drawn_negatives(tmp_path: Path, in_batch: bool) -> None:
    """The loss of FLMR: cross-entropy of sums of maxima, over all documents or a query's own."""
    address, retriever, _ = write(tmp_path)
    recipe = Recipe.model_validate({
        "loss": {
            "name": "contrastive", "aggregations": ["token_max"], "temperature": 1.0,
            "normalise": False,
        },
        "batch": {"documents": 4, "queries": 1, "negatives": 2, "in_batch": in_batch},
        "phases": [{"steps": 1}],
        "precision": "fp32",
    })  # fmt: skip
    data = load(make_task(address), recipe.validation, None, Progress(), negatives=True).train
    batches = Batches(data, recipe)
    ranker, encoder = trainable(make_retriever(retriever))
    encoder.module.eval()
    parameters = list(encoder.module.parameters())
    parts = batches.batch(0)
    found = Step(encoder, recipe, torch.tensor(0.0), Team()).gradients(parts, parameters)
    gradients = [parameter.grad for parameter in parameters]

    (batch,) = parts
    assert 4 + 2 <= len(batch.documents) <= 4 + 8, "a document drawn twice is one negative"
    queries, kinds = encoder.forward_queries(batch.queries)
    documents, of = encoder.forward_documents(batch.documents)
    products = torch.einsum("qid,pjd->qpij", queries, documents)
    products = products.masked_fill(~(of > 0)[None, :, None, :], -torch.inf)
    scores = (products.amax(-1) * (kinds > 0)[:, None, :]).sum(-1)
    scores = scores.masked_fill(~torch.from_numpy(batch.allowed), -torch.inf)
    assert in_batch == bool((scores != -torch.inf).sum(1).gt(3).all())
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(batch.positives))
    assert found == pytest.approx(loss.item(), rel=1e-5)
    for mine, other in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert ranker.encoder is encoder
