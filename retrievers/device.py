"""Where a model goes, and in which precision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import torch

from harness.device import check_device
from harness.errors import UsageError


class Placed(Protocol):
    """Settings that say where a model goes."""

    @property
    def device(self) -> str:
        """``auto``, ``cpu``, ``cuda:1``, ``spread``."""

    @property
    def dtype(self) -> str:
        """``auto``, or a type of torch."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is loaded to, and in which precision."""

    device: str
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """The precision's name, as in ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    @classmethod
    def of(cls, settings: Placed) -> Place:
        """Return the place that the settings ask for.

        Raises
        ------
        UsageError
            If there is no such device.
        """
        device = settings.device
        gpus = torch.cuda.device_count()
        if device == "auto":
            # Of several processes on a machine (accelerate launch) each has a GPU of its own.
            rank = int(os.environ.get("LOCAL_RANK", "0"))
            device = f"cuda:{rank % gpus}" if gpus else "cpu"
        if device == "spread" and not gpus:
            raise UsageError("device = 'spread' needs GPUs and there are none: set device = cpu.")
        if device != "spread":
            check_device(device, f"device = {device!r}")
        if settings.dtype != "auto":
            return cls(device, getattr(torch, settings.dtype))
        return cls(device, torch.float32 if device == "cpu" else torch.bfloat16)


def place_of(settings: Placed) -> Place:
    """Return the place of a model that is not spread over several devices.

    Raises
    ------
    UsageError
        If that is asked for, or there is no such device.
    """
    if settings.device == "spread":
        raise UsageError("device = 'spread': these models fit on one device; give auto or cuda:N.")
    return Place.of(settings)
