"""Runs a tower over many inputs: batches of like length, halved out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from harness.errors import PluginError

#: Default batches. A GPU of 24 GB holds 256 images of the largest of these models with ease; a CPU
#: is quickest where activations stay in its caches.
_GPU_INPUTS, _CPU_INPUTS = 256, 16

log = logging.getLogger("clamr_bench.clip")

T = TypeVar("T")


class Batches:
    """Bounded batches on one device.

    Parameters
    ----------
    device
        Where the tower is.
    most
        Most inputs of a batch; None for the device's default.
    """

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self._device = device
        self.most = most or (_CPU_INPUTS if device.type == "cpu" else _GPU_INPUTS)

    def run(
        self,
        forward: Callable[[Sequence[T]], torch.Tensor],
        inputs: Sequence[T],
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """Return what `forward` gives for `inputs`, in their order, on the CPU.

        Like lengths go together, the longest first, so that what takes most memory comes first.

        Raises
        ------
        PluginError
            If one input alone does not fit into memory.
        """
        order = sorted(range(len(inputs)), key=lambda index: -lengths[index])
        parts: list[torch.Tensor] = []
        done = 0
        while done < len(order):
            batch = [inputs[index] for index in order[done : done + self.most]]
            try:
                with torch.inference_mode():
                    parts.append(forward(batch).cpu())
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(len(batch))
                continue
            done += len(batch)
        found = torch.cat(parts)
        # Where each input came in the order of lengths.
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return found[back]

    def _halve(self, size: int) -> None:
        if size == 1:
            raise PluginError(
                f"one image or text does not fit into the memory of {self._device}: take a "
                "smaller checkpoint, another dtype or another device."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.most = size // 2
        log.warning(
            "%s is out of memory with %d images or texts: encoding goes on with at most %d at "
            "once. Set batch_inputs to that to begin so.",
            self._device, size, self.most,
        )  # fmt: skip


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory was short: of a GPU, or of this machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
