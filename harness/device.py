"""Whether a device can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    import torch


def check_device(device: str, given: str) -> torch.device:
    """Return a device that can hold tensors.

    Parameters
    ----------
    device
        As torch calls it.
    given
        How the user asked for it, which the message begins with.

    Raises
    ------
    UsageError
        If it cannot be used.
    """
    import torch

    try:
        # Allocating is the only check that covers all kinds of devices.
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{given} cannot be used ({reason}): choose auto, cpu or one of the "
            f"{torch.cuda.device_count()} GPUs here."
        ) from None
