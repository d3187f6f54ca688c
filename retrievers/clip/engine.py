"""A model at work: pieces of documents and queries to vectors, in batches or with gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from harness.errors import PluginError
from retrievers.batches import Batches
from retrievers.clip.pieces import Cutter, Piece, vectors_of
from retrievers.clip.settings import ClipSettings
from retrievers.clip.towers import Towers


class Engine:
    """Loaded towers, with what cuts documents for them.

    Parameters
    ----------
    towers
        The model.
    settings
        Pooling, long texts, the size of batches.
    losses
        See `Cutter`.
    """

    def __init__(self, towers: Towers, settings: ClipSettings, losses: Counter[str]) -> None:
        self.towers = towers
        self.cutter = Cutter(towers, settings, losses)
        # A GPU of 24 GB holds 256 images of the largest of these models with ease.
        self.batches = Batches(towers.device, settings.batch_inputs, on_gpu=256)

    def encode(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """Return the vectors of each piece, on the CPU (see `vectors_of`)."""

        def run(are_images: bool, inputs: Sequence[Any]) -> torch.Tensor:
            towers = self.towers
            forward = towers.forward_images if are_images else towers.forward_texts
            lengths = [1 if are_images else len(each) for each in inputs]

            def rows(batch: list[Any]) -> list[torch.Tensor]:
                with torch.inference_mode():
                    return list(forward(batch).cpu())

            return torch.stack(self.batches.run(rows, inputs, lengths))

        return vectors_of(pieces, run)

    def padded(self, items: Sequence[Sequence[Piece]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors of items with gradients, for training.

        Returns
        -------
        vectors
            float32, shape ``(items, length, dim)``, zero beyond an item's vectors.
        modalities
            int64, shape ``(items, length)``; 0 for padding.
        """
        towers = self.towers

        def run(are_images: bool, inputs: Sequence[Any]) -> torch.Tensor:
            return towers.forward_images(inputs) if are_images else towers.forward_texts(inputs)

        pieces = [piece for item in items for piece in item]
        if not pieces:
            raise PluginError("none of these documents has anything that the model reads.")
        found = vectors_of(pieces, run)
        nothing = found[0][:0]
        rest = iter(found)
        vectors, numbers = [], []
        for item in items:
            own = [next(rest) for _ in item]
            vectors.append(torch.cat([nothing, *own]))
            numbers.append(
                torch.tensor(
                    [
                        int(piece.modality)
                        for piece, made in zip(item, own, strict=True)
                        for _ in made
                    ],
                    dtype=torch.int64,
                )
            )
        pad = torch.nn.utils.rnn.pad_sequence
        return pad(vectors, True), pad(numbers, True).to(towers.device)
