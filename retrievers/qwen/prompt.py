"""The seam between a retriever's prompts and the engine that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.types import Modality
from retrievers.pictures import Picture
from retrievers.qwen.audio import token_seconds
from retrievers.qwen.form import Form, Marks
from retrievers.qwen.sequence import Content, Tokens, TokensBuilder
from retrievers.qwen.settings import QwenSettings
from retrievers.qwen.tokens import Vocabulary
from retrievers.qwen.vision import Frames, Patches, Patching, patches_of

PAD = "<|endoftext|>"

MelFeatures = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Prompt(ABC):
    """Makes sequences for one form and vocabulary.

    Parameters
    ----------
    form
        Which backbone.
    vocabulary
        The checkpoint's tokeniser.
    settings
        Lengths and pixels.
    patching
        How the vision tower cuts frames.
    mel
        Sound to mel features; None for a form that cannot hear.
    max_pixels
        Largest area at which a frame is seen.
    losses
        Where texts that are longer than the model reads are counted (``asr cut``).
    """

    def __init__(
        self,
        form: Form,
        vocabulary: Vocabulary,
        settings: QwenSettings,
        patching: Patching,
        mel: MelFeatures | None,
        max_pixels: int,
        losses: Counter[str],
    ) -> None:
        self.form, self.vocabulary, self.patching = form, vocabulary, patching
        self.settings, self.losses = settings, losses
        self._mel, self._max_pixels = mel, max_pixels
        self.pad = vocabulary.id(PAD)

    def ids(self, marks: Marks) -> tuple[int, int, int]:
        """Return the ids of marks: begin, place, end."""
        begin, place, end = (self.vocabulary.id(m) for m in (marks.begin, marks.place, marks.end))
        return begin, place, end

    def turn(self, system: str) -> list[int]:
        """Return the ids that open a chat turn of the user, behind a system prompt."""
        return [
            *self.vocabulary.encode_marked("<|im_start|>system\n"),
            *self.vocabulary.encode(system)[0],
            *self.vocabulary.encode_marked("<|im_end|>\n<|im_start|>user\n"),
        ]

    def add_query(self, built: TokensBuilder, text: str) -> None:
        """Append prefix, text and augmentation tokens; a long text gives way."""
        settings = self.settings
        prefix = self.vocabulary.encode(settings.query_prefix.rstrip(" "))[0]
        room = settings.query_length - settings.query_augmentation - len(prefix)
        space = " " if settings.query_prefix.endswith(" ") else ""
        ids, offsets = self.vocabulary.encode(space + text)
        built.add(prefix, Modality.TEXT)
        built.add_text(ids[:room], Modality.TEXT, shifted(offsets[:room], len(space), len(text)))
        built.add([self.pad] * settings.query_augmentation, Modality.TEXT)

    def add_picture(self, built: TokensBuilder, picture: Picture, *, flat: bool = False) -> None:
        """Append the picture of a query, if it has one, between the marks of a still.

        All of its tokens count as query tokens, as those of the text do, its prefix included. They
        are beside the length of a query, which bounds its text.
        """
        if picture is None:
            return
        begin, place, end = self.ids(self.form.image)
        built.add([begin], Modality.IMAGE)
        built.add_still(place, self.patches([picture]), Modality.IMAGE, number=0, flat=flat)
        built.add([end], Modality.IMAGE)

    def patches(self, frames: Frames) -> Patches:
        """Return the patches of frames at the size that the settings ask for."""
        return patches_of(frames, self.patching, self.settings.min_pixels, self._max_pixels)

    def heard(
        self, content: Content
    ) -> tuple[NDArray[np.float32], list[tuple[float, float]]] | None:
        """Return the mel features of the sound, and the seconds of each of its tokens."""
        if content.sound is None or self._mel is None:
            return None
        mel = self._mel(content.sound)
        ranges = token_seconds(mel.shape[1])
        return (mel, ranges) if ranges else None

    def spelled(self, tokens: Tokens) -> list[str]:
        """Return a text for each token; of a still its row and column, both from 1."""
        texts = [self.vocabulary.spell(number) for number in tokens.ids.tolist()]
        if tokens.patches is not None and tokens.still:
            place = self.ids(self.form.image)[1]
            columns = tokens.patches.grid[2] // tokens.patches.merge
            cells = np.flatnonzero(tokens.ids == place).tolist()
            for number, cell in enumerate(cells):
                row, column = divmod(number, columns)
                texts[cell] = f"[image {row + 1},{column + 1}]"
        return texts

    @abstractmethod
    def query(self, text: str, picture: Picture = None) -> Tokens:
        """Return the sequence of a query: its picture, then its text."""

    @abstractmethod
    def document(self, content: Content) -> list[Tokens]:
        """Return the sequences of a document; none where it has nothing that the form reads."""


def shifted(offsets: list[tuple[int, int]], by: int, length: int) -> list[tuple[int, int]]:
    """Return ranges of characters as seen without the `by` characters put before the text."""
    return [(min(max(0, a - by), length), min(max(0, b - by), length)) for a, b in offsets]
