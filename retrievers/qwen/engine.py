"""Runs the model over sequences: batches by length under a token budget, halved out of memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.errors import PluginError
from harness.types import Modality
from retrievers.batches import out_of_memory
from retrievers.qwen.backbone import LateInteraction
from retrievers.qwen.prompt import Prompt
from retrievers.qwen.sequence import Tokens

#: Default budgets. A GPU of 80 GB holds 16,384 tokens of the 3B models with ease; a CPU is quickest
#: where activations stay in its caches.
_GPU_TOKENS, _CPU_TOKENS = 16384, 2048

log = logging.getLogger("clamr_bench.qwen")


class Engine:
    """A loaded model with the prompt that feeds it.

    Parameters
    ----------
    model
        The model, on its device.
    prompt
        Makes its sequences.
    batch_tokens
        The token budget; None for the device's default.
    pooled
        Give one vector a sequence, the last token's hidden state, and not one a token.
    """

    def __init__(
        self,
        model: LateInteraction,
        prompt: Prompt,
        batch_tokens: int | None = None,
        pooled: bool = False,
    ) -> None:
        self.model, self.prompt, self._pooled = model, prompt, pooled
        self.form = model.form
        usual = _CPU_TOKENS if model.device.type == "cpu" else _GPU_TOKENS
        self.budget = batch_tokens or usual

    def forward(self, sequences: Sequence[Tokens]) -> torch.Tensor:
        """Return unit vectors: float32, shape ``(sequences, length, dim)``, padded on the right.

        With `pooled` the length is 1. Gradients are kept.
        """
        batch = self.model.collate(list(sequences), self.prompt.pad).to(self.model.device)
        if not self._pooled:
            vectors: torch.Tensor = self.model(batch)
            return vectors
        states = self.model.hidden(batch)
        last = batch.mask.sum(dim=1) - 1
        chosen = states[torch.arange(len(last), device=last.device), last]
        return nn.functional.normalize(chosen.float(), dim=-1)[:, None]

    def padded(self, items: Sequence[Sequence[Tokens]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors of items made of one or more sequences each, for training.

        Like lengths go through the model together, so that a page's text is not padded to the
        length of a page.

        Returns
        -------
        vectors
            float32, shape ``(items, length, dim)``, zero beyond an item's tokens.
        modalities
            int64, shape ``(items, length)``; 0 for padding and for tokens of no modality.

        Raises
        ------
        PluginError
            If no item has a sequence.
        """
        sequences = [tokens for item in items for tokens in item]
        if not sequences:
            raise PluginError("none of these documents has anything that the model reads.")
        made: dict[int, torch.Tensor] = {}
        for group in grouped([len(tokens) for tokens in sequences], self.budget):
            made |= zip(group, self.forward([sequences[index] for index in group]), strict=True)
        rows = (made[index] for index in range(len(sequences)))
        vectors, numbers = [], []
        for item in items:
            found = [next(rows)[: self._count(tokens)] for tokens in item]
            vectors.append(torch.cat(found) if found else self._nothing())
            labels = [
                torch.full((1,), int(Modality.TEXT))
                if self._pooled
                else torch.from_numpy(tokens.modalities).long()
                for tokens in item
            ]
            numbers.append(torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64))
        pad = nn.utils.rnn.pad_sequence
        return pad(vectors, True), pad(numbers, True).to(self.model.device)

    def _count(self, tokens: Tokens) -> int:
        return 1 if self._pooled else len(tokens)

    def _nothing(self) -> torch.Tensor:
        linear = self.model.custom_text_proj
        dim = linear.in_features if self._pooled else linear.out_features
        return torch.zeros(0, dim, device=self.model.device)

    def encode(self, sequences: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """Return the vectors of each sequence, ``(tokens, dim)``, in the given order.

        Raises
        ------
        PluginError
            If one sequence alone does not fit into memory.
        """
        found: list[NDArray[np.float32] | None] = [None] * len(sequences)
        waiting = list(grouped([len(each) for each in sequences], self.budget))
        while waiting:
            group = waiting.pop(0)
            try:
                with torch.inference_mode():
                    vectors = self.forward([sequences[index] for index in group]).cpu().numpy()
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                rest = [index for each in waiting for index in each]
                waiting = self._halved([*group, *rest], group, sequences)
                continue
            for row, index in enumerate(group):
                found[index] = vectors[row, : self._count(sequences[index])].copy()
        return [each for each in found if each is not None]

    def _halved(
        self, left: Sequence[int], group: Sequence[int], sequences: Sequence[Tokens]
    ) -> list[list[int]]:
        """Return what is left in batches half as large as `group`; later ones stay so."""
        longest = max(len(sequences[index]) for index in group)
        if len(group) == 1:
            raise PluginError(
                f"one document of {longest} tokens does not fit into the memory of "
                f"{self.model.device}: give less of it (frames, max_pixels, ocr_length, "
                "asr_length), quantise = 4bit, or another device."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget = longest * len(group) // 2
        log.warning(
            "%s is out of memory with %d documents of up to %d tokens: encoding goes on with at "
            "most %d tokens at once. Set batch_tokens to that to begin so.",
            self.model.device, len(group), longest, self.budget,
        )  # fmt: skip
        lengths = [len(sequences[index]) for index in left]
        return [[left[place] for place in each] for each in grouped(lengths, self.budget)]


def grouped(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield the indices of `lengths` in groups of like length, longest first.

    A group's size times its longest length is at most `budget`, or it is a single index. So memory
    is bounded, a batch of very different lengths costs no padding, and what takes most memory
    comes first.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        size = max(1, budget // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]
