"""Batches larger than memory: the gradients of one large batch, chunk by chunk.

GradCache (Gao et al. 2021, arXiv:2101.06983): embed all chunks without a graph, compute the loss
and its gradient at the embeddings, then embed each chunk again with a graph and continue its
backward pass from there. Activations of one chunk are in memory at a time, for one more forward
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: Vectors, and what belongs to them without gradients: what `harness.encoder.Trainable` returns.
Embedded = tuple[Tensor, Tensor]


def grad_cache(
    chunks: Sequence[Callable[[], Embedded]],
    loss: Callable[[Sequence[Embedded]], Tensor],
    backward: Callable[[Tensor], object] = torch.autograd.backward,
) -> Tensor:
    """Add the gradients of a batch to the parameters; return its loss, detached.

    They are those of ``backward(loss([chunk() for chunk in chunks]))``. Each chunk is called twice,
    with the same state of torch's random generators, those of the processor and of the current CUDA
    device; afterwards they are as if each had been called once. Gradients of what `loss` itself
    uses, such as a temperature, are added too.

    Parameters
    ----------
    chunks
        Each embeds a part of the queries or documents, the same every time it is called.
    loss
        Of the embeddings of all chunks, in their order.
    backward
        Computes the gradients of the loss, scaled if need be; the scale reaches all parameters.
    """
    states, leaves, embedded = [], [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_Generators())
            vectors, others = chunk()
            leaves.append(vectors.detach().requires_grad_())
            embedded.append((leaves[-1], others))
    # Autocast keeps the weights that it has cast. Before pytorch/pytorch#165068 those of a pass
    # without a graph were used again in the pass with one, and got no gradients.
    torch.clear_autocast_cache()
    with torch.enable_grad():
        value = loss(embedded)
    backward(value)
    embedded.clear()
    for chunk, state, leaf in zip(chunks, states, leaves, strict=True):
        if leaf.grad is None:
            continue
        with state.again(), torch.enable_grad():
            vectors, _ = chunk()
        if vectors.requires_grad:
            torch.autograd.backward(vectors, leaf.grad)
        leaf.grad = None
    return value.detach()


class _Generators:
    """The state of torch's random generators when it was made."""

    def __init__(self) -> None:
        self._processor = torch.get_rng_state()
        self._device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Go back to that state, and return from it."""
        now = _Generators()
        self._set()
        try:
            yield
        finally:
            now._set()

    def _set(self) -> None:
        torch.set_rng_state(self._processor)
        if self._device is not None:
            torch.cuda.set_rng_state(self._device)
