"""The processes of one launch, as ``accelerate launch`` or ``torchrun`` starts them.

They run the same command. The first one does it; the others lend a hand where it asks them to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from harness.errors import UsageError

#: The others wait while the first one searches and evaluates, however long that takes.
_PATIENCE = timedelta(days=30)
#: They begin at the same time, and find one another soon or never.
_MEETING = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Team:
    """One process among those of its launch.

    Attributes
    ----------
    rank
        Its number; 0 leads.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Team:
        """Return what the launcher says in ``RANK`` and ``WORLD_SIZE``; alone without."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def leads(self) -> bool:
        """Whether this process is the first one."""
        return self.rank == 0

    def tell(self, wanted: bool) -> None:
        """Say, as the first one, whether the others are wanted for the work at hand."""
        if self.size > 1:
            self._share(wanted)

    def hear(self) -> bool:
        """Wait, as another one, for what the first one tells.

        Raises
        ------
        UsageError
            If it has ended instead.
        """
        return self._share(False)

    def _share(self, wanted: bool) -> bool:
        import torch
        from torch import distributed

        word = torch.tensor([int(wanted)])
        try:
            if not distributed.is_initialized():
                # Gloo runs everywhere and takes no memory of a GPU; training needs NCCL there.
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                store, _, _ = next(distributed.rendezvous("env://", timeout=_MEETING))
                distributed.init_process_group(
                    backend,
                    store=store,
                    rank=self.rank,
                    world_size=self.size,
                    timeout=_PATIENCE,
                )
            distributed.broadcast(word, src=0)
        except RuntimeError as error:
            if self.leads:
                raise
            raise UsageError(
                f"process {self.rank} of {self.size} lost the first one ({error}): what that one "
                "says is the cause."
            ) from error
        return bool(word.item())

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self._share(True)
            from torch import distributed

            distributed.barrier()

    def part(self) -> None:
        """End what connects the processes."""
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()


def local_processes() -> int:
    """Return how many processes of the launch share this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
