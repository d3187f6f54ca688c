"""Texts to sequences of BERT's word pieces, with the marks that the model was trained with."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from harness.errors import PluginError
from retrievers.source import read_object

VOCABULARY = "vocab.txt"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"

#: A longer word is unknown, as in BERT.
_LONGEST_WORD = 100


@dataclass(frozen=True, slots=True)
class Side:
    """Queries or documents.

    Attributes
    ----------
    folder
        Subfolder of the checkpoint with the tokeniser.
    mark
        Token that stands second in each sequence; BERT was not trained on it.
    length_key
        What `TOKENIZER_CONFIG` calls the length of a sequence.
    length
        That length, where it does not say.
    """

    folder: str
    mark: str
    length_key: str
    length: int


QUERIES = Side("query_tokenizer", "[unused0]", "query_maxlen", 32)
DOCUMENTS = Side("context_tokenizer", "[unused1]", "doc_maxlen", 512)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text as the model reads it.

    Attributes
    ----------
    ids
        ``[CLS]``, the mark, the text's pieces, ``[SEP]``.
    ranges
        For each piece of the text the characters that it stands for.
    cut
        Whether the text is longer.
    """

    ids: list[int]
    ranges: list[tuple[int, int]]
    cut: bool


class WordPieces:
    """The tokeniser of one side.

    It is made of the vocabulary, and not of the checkpoint's own code. A text that contains a mark
    (``[MASK]``) has it read as plain characters.

    Parameters
    ----------
    folder
        Where it lies.
    side
        Whose it is.
    length
        Most tokens of a sequence, marks included; None for the checkpoint's own.

    Raises
    ------
    PluginError
        If a file is missing or broken, or lacks a mark.
    """

    def __init__(self, folder: Path, side: Side, length: int | None = None) -> None:
        self.folder, self.side = folder, side
        told = _told(folder / TOKENIZER_CONFIG)
        if told.get("attend_to_mask_tokens"):
            raise PluginError(
                f"{self.folder / TOKENIZER_CONFIG}: attend_to_mask_tokens = true is not supported; "
                "all published checkpoints have false."
            )
        self.length = length or int(told.get(side.length_key) or side.length)
        self._tokenizer = _tokenizer(folder, told)
        names = ("[CLS]", side.mark, "[SEP]", "[MASK]")
        self._cls, self._mark, self._sep, self.mask = (self.id(name) for name in names)

    @property
    def size(self) -> int:
        """Number of entries."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    def id(self, token: str) -> int:
        """Return the id of one token.

        Raises
        ------
        PluginError
            If the vocabulary has no such token.
        """
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise PluginError(
                f"{self.folder / VOCABULARY} has no token {token!r}, which the model needs: this "
                "is the vocabulary of another model."
            )
        return number

    def spell(self, number: int) -> str:
        """Return a token."""
        token: str | None = self._tokenizer.id_to_token(number)
        return "?" if token is None else token

    def read(self, text: str) -> Pieces:
        """Return a text's sequence, at most `length` long."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        room = self.length - 3
        ids = [self._cls, self._mark, *found.ids[:room], self._sep]
        return Pieces(ids, found.offsets[:room], len(found.ids) > room)

    def punctuation(self) -> frozenset[int]:
        """Return the first token of each ASCII punctuation mark."""
        read = (
            self._tokenizer.encode(mark, add_special_tokens=False) for mark in string.punctuation
        )
        return frozenset(found.ids[0] for found in read if found.ids)


def _told(file: Path) -> dict[str, Any]:
    missing = f"there is no {file}: fetch the whole checkpoint, its subfolders included."
    return read_object(file, missing)


def _tokenizer(folder: Path, told: Mapping[str, Any]) -> Tokenizer:
    file = folder / VOCABULARY
    if not file.is_file():
        raise PluginError(
            f"there is no {file}: fetch the whole checkpoint, its subfolders included (only BERT's "
            "word pieces are read)."
        )
    words = file.read_text(encoding="utf-8").splitlines()
    made = Tokenizer(
        models.WordPiece(
            {word: number for number, word in enumerate(words)},
            unk_token="[UNK]",  # noqa: S106
            max_input_chars_per_word=_LONGEST_WORD,
        )
    )
    made.normalizer = normalizers.BertNormalizer(
        lowercase=told.get("do_lower_case", True),
        handle_chinese_chars=told.get("tokenize_chinese_chars", True),
        strip_accents=told.get("strip_accents"),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    added = _told(folder / ADDED_TOKENS) if (folder / ADDED_TOKENS).is_file() else {}
    # Those of the vocabulary are marks, which no text may write; FLMR has others behind it.
    for token, number in sorted(added.items(), key=lambda item: int(item[1])):
        if number >= len(words):
            made.add_tokens([AddedToken(token, normalized=False)])
    return made
