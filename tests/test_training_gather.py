"""Embeddings of two processes give the gradients of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from harness.training.gather import gathered
from harness.training.losses import contrastive, countable
from harness.training.pairs import pair_scores

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
Padded = tuple[torch.Tensor, torch.Tensor]


def share(rank: int) -> tuple[Padded, Padded]:
    """What a process embeds: queries and documents of other counts and lengths than the other."""
    sides = []
    for side, (rows, tokens) in enumerate([((2, 4), (3, 7)), ((1, 6), (2, 5))][rank]):
        seed = torch.Generator().manual_seed(10 * rank + side)
        vectors = torch.randn((rows, tokens, 8), generator=seed, dtype=torch.float64)
        numbers = torch.randint(0, 4, (rows, tokens), generator=seed)
        sides.append((vectors * (numbers[..., None] > 0), numbers))
    return sides[0], sides[1]


def loss(
    queries: Padded, documents: Padded, first: int, gathering: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over some queries, which the documents from `first` on answer, and their number."""
    vectors, numbers = (gathered(part) if gathering else part for part in documents)
    scores = pair_scores(*queries, vectors, numbers)
    positives = torch.arange(len(queries[0])) + first
    allowed = torch.ones(scores.token_max.shape, dtype=torch.bool)
    values = contrastive(scores, positives, allowed, torch.zeros_like(positives), 0.5)
    return values.sum(), countable(scores, positives).sum()


def process(folder: Path, rank: int) -> None:
    """One of two: keep the gradients of its share, and of the documents' projection."""
    from torch import distributed

    place = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    projection = torch.eye(8, dtype=torch.float64, requires_grad=True)
    (queries, asked), (documents, numbers) = share(rank)
    sides = queries.requires_grad_(), documents.requires_grad_()
    first = 3 * rank  # the documents of process 0 come first
    total, count = loss((sides[0], asked), (sides[1] @ projection, numbers), first, True)
    distributed.all_reduce(count)
    # Two processes whose gradients are averaged: each takes twice its share of the mean.
    (2 * total / count).backward()
    distributed.all_reduce(projection.grad)
    kept = {
        "sides": [side.grad / 2 for side in sides if side.grad is not None],
        "projection": None if projection.grad is None else projection.grad / 2,
    }
    torch.save(kept, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def joined(sides: list[Padded]) -> Padded:
    longest = max(numbers.shape[1] for _, numbers in sides)
    pad = torch.nn.functional.pad
    return (
        torch.cat([pad(v, (0, 0, 0, longest - v.shape[1])) for v, _ in sides]),
        torch.cat([pad(n, (0, longest - n.shape[1])) for _, n in sides]),
    )


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_training_gather", str(tmp_path)]
    started = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, env=environment) for rank in range(2)
    ]
    try:
        assert [one.wait(timeout=120) for one in started] == [0, 0]
    finally:
        for one in started:
            one.kill()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    # The same in one process: queries of both shares, documents of both.
    projection = torch.eye(8, dtype=torch.float64, requires_grad=True)
    shares = [share(rank) for rank in range(2)]
    sides = [
        [(vectors.requires_grad_(), numbers) for vectors, numbers in each]
        for each in zip(*shares, strict=True)
    ]
    documents, numbers = joined(sides[1])
    parts = [
        loss(queries, (documents @ projection, numbers), first, False)
        for queries, first in zip(sides[0], (0, 3), strict=True)
    ]
    (sum(total for total, _ in parts) / sum(count for _, count in parts)).backward()
    for rank in range(2):
        for side, gradient in zip(sides, found[rank]["sides"], strict=True):
            torch.testing.assert_close(gradient, side[rank][0].grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0]["projection"], projection.grad, rtol=1e-12, atol=1e-12)


def test_alone_nothing_is_gathered() -> None:
    one = torch.ones((2, 3), requires_grad=True)
    assert gathered(one) is one


if __name__ == "__main__":
    process(Path(sys.argv[1]), int(sys.argv[2]))
