"""Text to token ids, with the place of each token in the text."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from harness.errors import PluginError
from retrievers.source import TOKENIZER


class Vocabulary:
    """The tokeniser of a checkpoint.

    A document may contain the very strings that the model uses as marks (``<|im_end|>``,
    ``<|video_pad|>``). `encode` reads them as the characters that they are, so that no text can
    close the prompt or claim the place of a frame.

    Parameters
    ----------
    folder
        A checkpoint folder with ``tokenizer.json``.

    Raises
    ------
    PluginError
        If the file is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / TOKENIZER
        self._plain = _load(self._file)
        self._plain.encode_special_tokens = True
        self._marked = _load(self._file)

    @property
    def size(self) -> int:
        """Number of entries, marks included."""
        size: int = self._plain.get_vocab_size()
        return size

    def id(self, token: str) -> int:
        """Return the id of one token.

        Raises
        ------
        PluginError
            If the vocabulary has no such token.
        """
        number: int | None = self._plain.token_to_id(token)
        if number is None:
            raise PluginError(
                f"{self._file} has no token {token!r}, which the prompt needs: this is not the "
                "tokeniser of a Qwen2-VL, Qwen2.5-VL or Qwen2.5-Omni checkpoint."
            )
        return number

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids and, for each, the half-open range of characters that it is made of."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_marked(self, text: str) -> list[int]:
        """Return token ids, reading ``<|...|>`` as marks: for templates, never for content."""
        ids: list[int] = self._marked.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids` without marks."""
        text: str = self._marked.decode(ids, skip_special_tokens=True)
        return text

    def spell(self, number: int) -> str:
        """Return the text of one token, marks included; part of a character is shown as ``�``."""
        text: str = self._marked.decode([number], skip_special_tokens=False)
        return text


def _load(file: Path) -> Tokenizer:
    if not file.is_file():
        raise PluginError(
            f"{file.parent} has no {file.name}: a checkpoint folder needs it beside config.json. "
            "Copy it from the checkpoint that this one was made of."
        )
    try:
        return Tokenizer.from_file(str(file))
    # The library raises a bare Exception for a broken file.
    except Exception as error:
        raise PluginError(f"{file} cannot be read ({error}): fetch it again.") from error
