"""Names of modalities as people and language models write them."""

from __future__ import annotations

import re

from harness.types import Modality

#: Other names than the modalities' own. The paper says speech for ASR and metadata for DESCRIPTION.
_OTHERS = {
    "speech": Modality.ASR,
    "transcript": Modality.ASR,
    "metadata": Modality.DESCRIPTION,
    "visual": Modality.VIDEO,
}
_NAMES = {**{modality.label: modality for modality in Modality}, **_OTHERS}

#: Words that may stand beside names in an answer that says nothing else.
_BESIDE = {"and", "or", "both", "the", "answer", "modality", "source"}
_THOUGHT = re.compile(r"<think>.*?</think>|^.*?</think>", re.DOTALL)
_BREAKS = re.compile(r"[\n:.;!?(){}]|\s[-\u2013\u2014]+\s")


def modality_named(name: str) -> Modality:
    """Return the modality called `name`.

    Raises
    ------
    UsageError
        If there is none.
    """
    known = _OTHERS.get(name.strip().lower())
    return known if known is not None else Modality.parse(name)


def modalities_of(target: str) -> frozenset[Modality]:
    """Return the modalities of a gold attribute ``target``: ``asr``, or ``asr+ocr`` for both.

    Raises
    ------
    UsageError
        If a part of it is no modality.
    """
    return frozenset(modality_named(part) for part in target.split("+"))


def read_answer(answer: str) -> frozenset[Modality]:
    """Return the modalities that an answer in words decides for; empty if it does not decide.

    ``speech``, ``asr, ocr``, ``**OCR**``, ``{"source": "video"}`` and ``Speech. The video must have
    someone say it.`` decide. So does the end of a chain of thought. An answer that only mentions
    several modalities in a sentence does not.
    """
    text = _THOUGHT.sub(" ", answer)
    pieces = [piece for piece in map(_words, _BREAKS.split(text)) if piece]
    # Models put the decision last, after their reasons, or first, before them.
    for piece in (pieces[-1:] + pieces[:1]) if pieces else []:
        named = _named(piece)
        if named and all(word in _NAMES or word in _BESIDE for word in piece):
            return named
    mentioned = _named([word for piece in pieces for word in piece])
    return mentioned if len(mentioned) == 1 else frozenset()


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _named(words: list[str]) -> frozenset[Modality]:
    return frozenset(_NAMES[word] for word in words if word in _NAMES)
