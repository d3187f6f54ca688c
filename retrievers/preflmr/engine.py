"""A model at work: questions and pieces of documents to vectors, in batches or with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import PluginError
from harness.types import Modality
from retrievers.batches import Batches
from retrievers.preflmr.model import PreFLMRModel, Texts
from retrievers.preflmr.pieces import Cutter, Passage, Picture, Piece
from retrievers.preflmr.questions import Question, Questions

Rows = tuple[Tensor, Tensor]
"""Vectors of an item, ``(rows, dim)``, and their modality numbers, ``(rows,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A query as the model takes it.

    Attributes
    ----------
    question
        Its text.
    pixels
        Its image, float32, shape ``(channels, side, side)``; None without one.
    """

    question: Question
    pixels: Tensor | None = None


class Engine:
    """A loaded model, with what cuts queries and documents for it.

    Parameters
    ----------
    model
        The model.
    questions, cutter
        They make its input.
    most
        Most inputs of a batch; None for the device's default.
    """

    def __init__(
        self, model: PreFLMRModel, questions: Questions, cutter: Cutter, most: int | None = None
    ) -> None:
        self.model, self.questions, self.cutter = model, questions, cutter
        self.batches = Batches(model.device, most)

    @cached_property
    def blank_image(self) -> Tensor:
        """A black picture, as the image tower takes it."""
        side = self.model.architecture.side
        return self.cutter.prepared([np.zeros((side, side, 3), np.uint8)])[0]

    def image_names(self) -> list[str]:
        """Return a name for each row of a query's image: ``[image 3/32]``, ``[patch 2,5]``."""
        architecture = self.model.architecture
        rows = [f"[image {n + 1}/{architecture.prefix}]" for n in range(architecture.prefix)]
        side = range(1, architecture.patches + 1 if architecture.mapping is not None else 1)
        return [*rows, *(f"[patch {row},{column}]" for row in side for column in side)]

    def encode_queries(self, batch: Sequence[Asked]) -> list[Rows]:
        """Return the rows of each query, on the CPU; see `query_rows`."""
        with_images = [0 if asked.pixels is None else 1 for asked in batch]

        def encode(part: list[Asked]) -> list[Rows]:
            with torch.inference_mode():
                return [(rows.cpu(), kinds.cpu()) for rows, kinds in self.query_rows(part)]

        return self.batches.run(encode, batch, with_images)

    def query_rows(self, batch: Sequence[Asked]) -> list[Rows]:
        """Return the rows of queries, with gradients.

        Those of the text come first, masked ones zero and of no modality; then those of the image.
        """
        device, model = self.model.device, self.model
        questions = [asked.question for asked in batch]
        texts = Texts(*(
            torch.from_numpy(np.stack([getattr(each, name) for each in questions])).to(device)
            for name in ("ids", "attended")
        ))  # fmt: skip
        shown = [(n, asked.pixels) for n, asked in enumerate(batch) if asked.pixels is not None]
        places = torch.tensor([n for n, _ in shown], dtype=torch.int64, device=device)
        pixels = self._stacked([pixels for _, pixels in shown]) if shown else None
        asked_rows, image_rows = model.queries(texts, pixels, places)
        seen = {n: rows for (n, _), rows in zip(shown, image_rows, strict=True)}
        made = []
        for n, question in enumerate(questions):
            kept = torch.from_numpy(question.kept).to(device)
            rows, kinds = asked_rows[n] * kept[:, None], torch.where(kept, int(Modality.TEXT), 0)
            if n in seen:
                rows = torch.cat([rows, seen[n]])
                kinds = torch.cat([kinds, _numbers(Modality.IMAGE, len(seen[n]), device)])
            made.append((rows, kinds))
        return made

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return the vectors of each piece that count, ``(rows, dim)``, on the CPU."""

        def run(forward: Callable[[Any], list[Tensor]], inputs: Sequence[Any]) -> list[Tensor]:
            lengths = [len(each.spans) for each in inputs]

            def encode(batch: list[Any]) -> list[Tensor]:
                with torch.inference_mode():
                    return [rows.cpu() for rows in forward(batch)]

            return self.batches.run(encode, inputs, lengths)

        return self._rows(pieces, run)

    def document_rows(self, items: Sequence[Sequence[Piece]]) -> list[Rows]:
        """Return the rows of documents, with gradients; none for one without pieces.

        Raises
        ------
        PluginError
            If no document has a piece.
        """
        pieces = [piece for item in items for piece in item]
        if not pieces:
            raise PluginError("none of these documents has anything that the model reads.")
        rest = iter(self._rows(pieces, lambda forward, inputs: forward(inputs)))
        device, dim = self.model.device, self.model.architecture.dim
        made = []
        for item in items:
            own = [next(rest) for _ in item]
            kinds = [
                _numbers(piece.modality, len(rows), device)
                for piece, rows in zip(item, own, strict=True)
            ]
            made.append((
                torch.cat([torch.zeros(0, dim, device=device), *own]),
                torch.cat([_numbers(Modality.TEXT, 0, device), *kinds]),
            ))  # fmt: skip
        return made

    def _rows(
        self,
        pieces: Sequence[Piece],
        run: Callable[[Callable[[Any], list[Tensor]], Sequence[Any]], list[Tensor]],
    ) -> list[Tensor]:
        """Return the rows of pieces: all texts go through the model together, and all pictures."""
        found: list[Tensor] = [torch.empty(0)] * len(pieces)
        kinds: tuple[tuple[type, Callable[[Any], list[Tensor]]], ...] = (
            (Passage, self._passages),
            (Picture, self._pictures),
        )
        for kind, forward in kinds:
            places = [n for n, piece in enumerate(pieces) if isinstance(piece, kind)]
            if places:
                made = run(forward, [pieces[n] for n in places])
                for n, rows in zip(places, made, strict=True):
                    found[n] = rows
        return found

    def _passages(self, batch: Sequence[Passage]) -> list[Tensor]:
        device = self.model.device
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([torch.tensor(each.ids) for each in batch], batch_first=True)
        lengths = torch.tensor([len(each.ids) for each in batch])
        attended = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        made = self.model.passages(Texts(ids.to(device), attended.to(device)))
        return [
            rows[: len(each.ids)][torch.from_numpy(each.kept).to(device)]
            for rows, each in zip(made, batch, strict=True)
        ]

    def _pictures(self, batch: Sequence[Picture]) -> list[Tensor]:
        return list(self.model.images(self._stacked([each.pixels for each in batch])))

    def _stacked(self, pixels: Sequence[Tensor]) -> Tensor:
        weight = self.model.query_text_encoder_linear.weight
        tower = next(self.model.query_vision_encoder.parameters())
        return torch.stack(list(pixels)).to(weight.device, tower.dtype)


def padded(items: Sequence[Rows]) -> Rows:
    """Return the rows of items as one batch, zero and of no modality beyond an item's own."""
    pad = torch.nn.utils.rnn.pad_sequence
    return pad([rows for rows, _ in items], True), pad([kinds for _, kinds in items], True)


def _numbers(modality: Modality, count: int, device: torch.device) -> Tensor:
    return torch.full((count,), int(modality), dtype=torch.int64, device=device)
