"""How much of a text a model reads, and where in it each token comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from harness.late_interaction.embeddings import SPAN_FIELDS

Task = Literal["query", "document"]

#: The prompts that the library looks for if none is asked for, in their order.
_PROMPT_NAMES: dict[Task, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
#: Tokenisers without a limit say a number like 10^30.
_NO_LIMIT = 10**8


@dataclass(frozen=True, slots=True)
class Read:
    """A text as the model reads it.

    Attributes
    ----------
    cut
        Whether the model does not read all of it.
    end
        The character before which the model stops.
    ids
        Token ids, prompt and marks included; empty where they cannot be told.
    places
        For each of `ids`, the half-open range of characters of the text; None for marks and prompt.
    """

    cut: bool
    end: int
    ids: Sequence[int] = ()
    places: Sequence[tuple[int, int] | None] = ()


class TextReader:
    """Tokenises as a model does.

    Parameters
    ----------
    model
        A model of the library.
    task
        Whether texts are queries or of documents.
    prompt, prompt_name
        As asked for; None for the model's own.
    """

    def __init__(self, model: Any, task: Task, prompt: str | None, prompt_name: str | None) -> None:
        self._module = _input_module(model, task)
        found = getattr(self._module, "tokenizer", None)
        self._tokenizer = found if isinstance(found, PreTrainedTokenizerBase) else None
        self._prompt = _prompt(model, task, prompt, prompt_name)
        self._limit = self._length(task)
        if self._wraps():
            # A chat template stands around each text: what it takes is measured once.
            self._limit = self._limit and max(1, self._limit - self._template(model, task))
            self._prompt = ""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The model's tokeniser, if it is one of transformers'."""
        return self._tokenizer

    def read(self, texts: Sequence[str]) -> list[Read]:
        """Return how much of each text is read."""
        if self._tokenizer is None or not self._tokenizer.is_fast:
            return [Read(self._exceeds(text), len(text)) for text in texts]
        options = {"max_length": self._limit} if self._limit else {}
        found = self._tokenizer(
            [self._prompt + text for text in texts],
            truncation=bool(options),
            return_offsets_mapping=True,
            **options,
        )
        return [
            self._told(text, found.encodings[row], found["offset_mapping"][row])
            for row, text in enumerate(texts)
        ]

    def _told(self, text: str, encoding: Any, offsets: Sequence[tuple[int, int]]) -> Read:
        skip = len(self._prompt)
        places = [
            (max(0, first - skip), last - skip) if first < last and last > skip else None
            for first, last in offsets
        ]
        if not encoding.overflowing:
            return Read(False, len(text), encoding.ids, places)
        end = max((place[1] for place in places if place), default=0)
        return Read(True, end, encoding.ids, places)

    def _exceeds(self, text: str) -> bool:
        if self._tokenizer is None or self._limit is None:
            return False
        return len(self._tokenizer(self._prompt + text, verbose=False)["input_ids"]) > self._limit

    def _length(self, task: Task) -> int | None:
        """Return the most tokens of a text, marks included."""
        if self._tokenizer is None:
            return None
        own = (getattr(self._module, "processing_kwargs", None) or {}).get("text") or {}
        length = own.get("max_length") or getattr(self._module, f"{task}_length", None)
        length = length or self._tokenizer.model_max_length
        return None if length is None or length > _NO_LIMIT else int(length)

    def _wraps(self) -> bool:
        """Return whether the model puts texts into chat messages."""
        return "message" in (getattr(self._module, "modality_config", None) or {})

    def _template(self, model: Any, task: Task) -> int:
        if self._tokenizer is None:
            return 0
        around = model.preprocess(["a"], prompt=self._prompt or None, task=task)["input_ids"]
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        return int(around.shape[-1]) - len(bare)


def no_place() -> tuple[float, ...]:
    """Return the span of what comes from no part of its source."""
    return (math.nan,) * len(SPAN_FIELDS)


def _input_module(model: Any, task: Task) -> Any:
    """Return the module that reads texts: the first one, or that of the task's route."""
    first = model[0]
    routes = getattr(first, "sub_modules", None)
    if routes is None:
        return first
    for name in (task, "text", getattr(first, "default_route", None)):
        if name in routes:
            return routes[name][0]
    return first


def _prompt(model: Any, task: Task, prompt: str | None, name: str | None) -> str:
    """Return the text that the library puts before each text."""
    if prompt is not None:
        return prompt
    prompts = model.prompts
    for candidate in (name,) if name else (*_PROMPT_NAMES[task], model.default_prompt_name):
        if candidate in prompts:
            return prompts[candidate] or ""
    return ""
