"""The seam between a retriever's prompts and the engine that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrievers.qwen.form import Form
from retrievers.qwen.sequence import Content, Tokens
from retrievers.qwen.tokens import Vocabulary
from retrievers.qwen.vision import Patching

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
    patching
        How the vision tower cuts frames.
    mel
        Sound to mel features; None for a form that cannot hear.
    losses
        Where texts that are longer than the model reads are counted (``asr cut``).
    """

    def __init__(
        self,
        form: Form,
        vocabulary: Vocabulary,
        patching: Patching,
        mel: MelFeatures | None,
        losses: Counter[str],
    ) -> None:
        self.form, self.vocabulary, self.patching = form, vocabulary, patching
        self.losses = losses
        self._mel = mel
        self.pad = vocabulary.id(PAD)

    @abstractmethod
    def query(self, text: str) -> Tokens:
        """Return the sequence of a query."""

    @abstractmethod
    def document(self, content: Content) -> list[Tokens]:
        """Return the sequences of a document; none where it has nothing that the form reads."""
