"""A batch in chunks has the gradients of the batch in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from harness.training.cache import Embedded, grad_cache
from harness.training.losses import contrastive
from harness.training.pairs import pair_scores

torch.set_num_threads(1)


class Model(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Embeds tokens, with dropout; counts what it did with a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 8)
        )
        self.log_temperature = torch.nn.Parameter(torch.tensor(-1.0))
        self.graphs: list[bool] = []

    def forward(self, tokens: torch.Tensor, numbers: torch.Tensor) -> Embedded:
        self.graphs.append(torch.is_grad_enabled())
        return torch.nn.functional.normalize(self.layers(tokens).float(), dim=-1), numbers


def setting() -> tuple[Model, list[Callable[[], Embedded]], Callable[..., torch.Tensor]]:
    torch.manual_seed(1)
    model = Model()
    inputs = [torch.randn(rows, 5, 6) for rows in (2, 2, 3, 1)]
    numbers = [torch.randint(1, 4, part.shape[:2]) for part in inputs]
    chunks = [
        lambda part=part, kinds=kinds: model(part, kinds)
        for part, kinds in zip(inputs, numbers, strict=True)
    ]

    def loss(embedded: Sequence[Embedded]) -> torch.Tensor:
        asked, found = (
            [torch.cat(parts) for parts in zip(*side, strict=True)]
            for side in (embedded[:2], embedded[2:])
        )
        positives = torch.arange(4)
        allowed = torch.ones((4, 4), dtype=torch.bool)
        scores = pair_scores(*asked, *found)
        temperature = model.log_temperature.exp()
        torch.rand(1)  # a loss may draw too: what comes next must not see the second passes
        return contrastive(scores, positives, allowed, positives, temperature).mean()

    return model, chunks, loss


def outcome(model: Model, value: torch.Tensor) -> list[torch.Tensor]:
    gradients = [p.grad for p in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [value.detach(), *gradients, torch.get_rng_state()]  # type: ignore[list-item]


@pytest.mark.parametrize("mixed", [False, True])
def test_the_gradients_are_those_of_one_pass(mixed: bool) -> None:
    found = []
    for cached in (False, True):
        model, chunks, loss = setting()
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            if cached:
                value = grad_cache(chunks, loss)
                assert model.graphs == [False] * 4 + [True] * 4
            else:
                value = loss([chunk() for chunk in chunks])
                value.backward()
        found.append(outcome(model, value))
    for right, ours in zip(*found, strict=True):
        # In bfloat16, one pass adds up the chunks' gradients of a weight before they are widened.
        close = 2e-2 if mixed else 1e-6
        assert (ours - right).float().norm() <= close * right.float().norm()
    assert torch.equal(found[0][-1], found[1][-1])


def test_a_scaled_loss_scales_every_gradient() -> None:
    found = []
    for scale in (1, 8):
        model, chunks, loss = setting()
        torch.manual_seed(2)
        value = grad_cache(chunks, loss, lambda value, by=scale: (value * by).backward())
        found.append(outcome(model, value))
    assert found[0][0] == found[1][0]
    for right, ours in zip(found[0][1:-1], found[1][1:-1], strict=True):
        torch.testing.assert_close(ours, 8 * right)


def test_a_side_that_is_not_trained_is_no_hindrance() -> None:
    model, chunks, loss = setting()
    fixed = [chunk() for chunk in chunks[2:]]
    still = [lambda one=one: (one[0].detach(), one[1]) for one in fixed]
    value = grad_cache([*chunks[:2], *still], loss)
    assert all(p.grad is not None for p in model.parameters())
    assert not value.requires_grad
