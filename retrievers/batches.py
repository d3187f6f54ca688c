"""Runs a model over many inputs: batches of like length, halved out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from harness.errors import PluginError

#: Default batch of a CPU: it is quickest where activations stay in its caches.
_CPU_INPUTS = 16

log = logging.getLogger("clamr_bench.models")

S = TypeVar("S")
T = TypeVar("T")


class Batches:
    """Bounded batches on one device.

    Parameters
    ----------
    device
        Where the model is.
    most
        Most inputs of a batch; None for the default of the device.
    on_gpu
        That of a GPU.
    """

    def __init__(self, device: torch.device, most: int | None = None, on_gpu: int = 64) -> None:
        self._device = device
        self.most = most or (_CPU_INPUTS if device.type == "cpu" else on_gpu)

    def run(
        self,
        encode: Callable[[list[S]], Sequence[T]],
        inputs: Sequence[S],
        lengths: Sequence[int],
    ) -> list[T]:
        """Return what `encode` gives for each of `inputs`, in their order.

        Like lengths go together, the longest first, so that what takes most memory comes first.

        Raises
        ------
        PluginError
            If one input alone does not fit into memory.
        """
        order = sorted(range(len(inputs)), key=lambda index: -lengths[index])
        found: dict[int, T] = {}
        while len(found) < len(order):
            batch = order[len(found) : len(found) + self.most]
            try:
                made = encode([inputs[index] for index in batch])
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(len(batch))
                continue
            found.update(zip(batch, made, strict=True))
        return [found[index] for index in range(len(inputs))]

    def _halve(self, size: int) -> None:
        if size == 1:
            raise PluginError(
                f"one text or image does not fit into the memory of {self._device}: take a "
                "smaller model, another dtype or another device."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.most = size // 2
        log.warning(
            "%s is out of memory with %d texts or images: encoding goes on with at most %d at "
            "once. Set batch_inputs to that to begin so.",
            self._device, size, self.most,
        )  # fmt: skip


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory was short: of a GPU, or of this machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
