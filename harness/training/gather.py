"""Embeddings of all processes, with gradients: negatives from every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad


def gathered(tensor: Tensor) -> Tensor:
    """Return the rows of all processes, those of process 0 first.

    The gradient of the process's own rows is the sum of what all processes' losses have for them.
    So where each process takes the mean over its own queries, and gradients of parameters are then
    averaged over processes, the step is that of one process with all queries.

    All processes must call it equally often and in the same order, and so must their backward
    passes. Alone it gives back its argument.

    Parameters
    ----------
    tensor
        Shape ``(rows, ...)`` of the same type and number of dimensions everywhere. Sizes may
        differ; all but that of rows are filled up with zeros to the largest.
    """
    if not _together():
        return tensor
    sizes = _sizes(tensor)
    largest = sizes.amax(0).tolist()
    filled = _filled(tensor, largest)
    every: Tensor = _Gather.apply(filled) if tensor.requires_grad else _all(filled)
    rows = sizes[:, 0].tolist()
    return torch.cat([part[:count] for part, count in zip(every, rows, strict=True)])


class _Gather(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """Shape ``(processes, ...)`` from one part of the same shape in each."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total[distributed.get_rank()]


def _together() -> bool:
    return bool(distributed.is_initialized() and distributed.get_world_size() > 1)


def _sizes(tensor: Tensor) -> Tensor:
    """Return the shape of every process's tensor: int64, ``(processes, dimensions)``."""
    return _all(torch.tensor(tensor.shape, device=tensor.device))


def _all(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def _filled(tensor: Tensor, shape: list[int]) -> Tensor:
    """Return the tensor with zeros behind it in every dimension, up to a shape."""
    missing = [wide - size for wide, size in zip(shape, tensor.shape, strict=True)]
    return pad(tensor, [amount for each in reversed(missing) for amount in (0, each)])
