"""Texts to what a text tower reads: windows of ids between the marks that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers

from harness.errors import PluginError
from retrievers.clip.forms import Form
from retrievers.source import TOKENIZER, Source

TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Window:
    """As much of a text as the tower reads at once.

    Attributes
    ----------
    ids
        Token ids, marks included, without padding.
    start, end
        The characters of the text that it covers.
    """

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Marks:
    """The tokens around a text.

    Attributes
    ----------
    begin, end, pad
        Their strings; `begin` is None where a text begins with none.
    left
        Whether padding stands before the text.
    """

    begin: str | None
    end: str
    pad: str
    left: bool = False


class TextReader:
    """Tokenises for one text tower.

    The marks are put here, and not by the tokeniser's file, whose own padding and truncation do not
    count. A text that contains a mark (``<|endoftext|>``) has it read as plain characters: it
    cannot move the position that the tower pools.

    Parameters
    ----------
    tokenizer
        Is changed to the form's needs.
    form
        How texts are prepared.
    limit
        Most tokens, marks included.
    marks
        See `Marks`.

    Raises
    ------
    PluginError
        If the vocabulary lacks a mark.
    """

    def __init__(self, tokenizer: Tokenizer, form: Form, limit: int, marks: Marks) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        if form.lowercase:
            # As a normaliser it keeps the places of characters, which `str.lower` does not.
            steps = [normalizers.Lowercase()]
            if tokenizer.normalizer is not None:
                steps.append(tokenizer.normalizer)
            tokenizer.normalizer = normalizers.Sequence(steps)
        self._tokenizer, self._limit, self._left = tokenizer, limit, marks.left
        self._begin = [] if marks.begin is None else [self._id(marks.begin)]
        self.end = self._id(marks.end)
        # A tower that pools at the end mark and looks back only never sees what follows it.
        self._pad = self._id(marks.pad) if form.fills else self.end
        self._fills = form.fills

    def _id(self, mark: str) -> int:
        number: int | None = self._tokenizer.token_to_id(mark)
        if number is None:
            raise PluginError(
                f"{TOKENIZER} has no token {mark!r}, which {TOKENIZER_CONFIG} names: fetch both "
                "from one checkpoint."
            )
        return number

    @property
    def size(self) -> int:
        """Number of entries of the vocabulary, marks included."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    def windows(self, text: str) -> list[Window]:
        """Return the windows of a text, in order; none if nothing of it is in the vocabulary."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        room = self._limit - len(self._begin) - 1
        made = []
        for first in range(0, len(found.ids), room):
            ids, places = found.ids[first : first + room], found.offsets[first : first + room]
            made.append(Window([*self._begin, *ids, self.end], places[0][0], places[-1][1]))
        return made

    def query_windows(self, text: str) -> list[Window]:
        """Return the same; of a text of which nothing is known, the marks alone."""
        return self.windows(text) or [Window([*self._begin, self.end], 0, 0)]

    def padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return ids as int64 of shape ``(rows, length)``."""
        length = self._limit if self._fills else max(map(len, rows))
        made = torch.full((len(rows), length), self._pad, dtype=torch.int64)
        for place, row in enumerate(rows):
            start = length - len(row) if self._left else 0
            made[place, start : start + len(row)] = torch.tensor(row)
        return made


def read_tokenizer(source: Source) -> Tokenizer:
    """Return a checkpoint's tokeniser.

    Raises
    ------
    PluginError
        If its file is missing or broken.
    """
    file = source.folder / TOKENIZER
    if not file.is_file():
        raise PluginError(
            f"{source.name} has no {TOKENIZER}: load it once by transformers' AutoTokenizer and "
            "save_pretrained it into a copy of the checkpoint's folder, which writes the file."
        )
    try:
        return Tokenizer.from_file(str(file))
    # The library raises a bare Exception for a broken file.
    except Exception as error:
        raise PluginError(f"{file} cannot be read ({error}): fetch it again.") from error


def text_reader(source: Source, form: Form, text_config: Any) -> TextReader:
    """Return the reader for a checkpoint.

    Raises
    ------
    PluginError
        If the tokeniser is missing or broken, or belongs to another model.
    """
    told = source.read_json(TOKENIZER_CONFIG)
    marks = Marks(
        _mark(source, told, "bos_token") if form.begins else None,
        _mark(source, told, "eos_token"),
        _mark(source, told, "pad_token"),
        left=told.get("padding_side") == "left",
    )
    limit = text_config.max_position_embeddings
    reader = TextReader(read_tokenizer(source), form, limit, marks)
    if reader.size > text_config.vocab_size:
        raise PluginError(
            f"{source.name}: the tokeniser has {reader.size} entries, the text tower "
            f"{text_config.vocab_size}: this is the tokeniser of another model."
        )
    if not form.fills:
        _check_pooling(source, reader, text_config.eos_token_id)
    return reader


def _mark(source: Source, told: Mapping[str, Any], key: str) -> str:
    mark = told.get(key)
    if isinstance(mark, Mapping):
        mark = mark.get("content")
    if not isinstance(mark, str):
        raise PluginError(
            f"{source.folder / TOKENIZER_CONFIG} names no {key}, which the text tower needs: fetch "
            "it again."
        )
    return mark


def _check_pooling(source: Source, reader: TextReader, pooled_at: int) -> None:
    """Check that the tower pools where texts end.

    Configurations of before transformers 4.31 say 2, which stands for the largest id of a text.
    """
    ends = reader.size - 1 if pooled_at == 2 else pooled_at
    if reader.end != ends:
        raise PluginError(
            f"{source.name}: texts end with token {reader.end}, but the text tower pools at "
            f"{ends} (eos_token_id = {pooled_at}): this is the tokeniser of another model."
        )
